// SPDX-License-Identifier: GPL-2.0

//! The time of day.

use super::bindings;

/// Seconds since 1970, in the 32 bits that the names of graves have room for.
pub(crate) fn seconds() -> u32 {
    // SAFETY: Reads the clock; callable from any context.
    // CAST: The names wrap around, as they always have.
    unsafe { bindings::ktime_get_real_seconds() as u32 }
}
