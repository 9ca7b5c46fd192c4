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

/// The tick that it is.
pub(crate) fn tick() -> Tick {
    // SAFETY: A word that the clock's interrupt changes, read as one.
    Tick(unsafe { core::ptr::addr_of!(bindings::jiffies).read_volatile() })
}
