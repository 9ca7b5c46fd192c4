// SPDX-License-Identifier: GPL-2.0

//! The time of day, and the tick of the clock.

use super::bindings;

/// Seconds since 1970, in the 32 bits that the names of graves have room for.
pub(crate) fn seconds() -> u32 {
    // SAFETY: Reads the clock; callable from any context.
    // CAST: The names wrap around, as they always have.
    unsafe { bindings::ktime_get_real_seconds() as u32 }
}

/// A tick of the kernel's clock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick(pub(crate) usize);

impl Tick {
    /// Whether it was so many milliseconds ago, at least.
    pub(crate) fn is_older_than(self, milliseconds: u64) -> bool {
        // CAST: `usize` is 64 bits wide on what we build for. Ticks go round.
        let age = tick().0.wrapping_sub(self.0) as u64;
        age.saturating_mul(1000) >= milliseconds.saturating_mul(TICKS_PER_SECOND)
    }
}

/// How many there are in a second.
pub(crate) const TICKS_PER_SECOND: u64 = bindings::HZ as u64;

/// The tick that it is.
pub(crate) fn tick() -> Tick {
    // SAFETY: A word that the clock's interrupt changes, read as one.
    Tick(unsafe { core::ptr::addr_of!(bindings::jiffies).read_volatile() })
}
