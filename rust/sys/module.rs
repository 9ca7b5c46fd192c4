// SPDX-License-Identifier: GPL-2.0

//! The module itself: its parameters and the end of its text.

use super::bindings;
use core::ptr::{addr_of, addr_of_mut};

/// The `debug` parameter's mask: 1 entries, 2 exits, 4 what happens in between.
pub(crate) fn debug_mask() -> u32 {
    // SAFETY: Reads one word, which anybody may write at any time.
    unsafe { addr_of!(bindings::cfrs_debug).read_volatile() }
}

/// Sets the `debug` parameter's mask.
pub(crate) fn set_debug_mask(mask: u32) {
    // SAFETY: Writes one word, which whoever reads reads as one.
    unsafe { addr_of_mut!(bindings::cfrs_debug).write_volatile(mask) }
}

/// The index of the `ondemand_protocol` parameter's value in its list: `mainline`, `v5`.
pub(crate) fn protocol_index() -> u32 {
    // SAFETY: Reads one word.
    unsafe { bindings::cfrs_ondemand_protocol() }
}

/// Waits until no task can still be in the module's code behind its last put of a reference.
///
/// To be called by module exit, when nothing can enter the module any more.
pub(crate) fn wait_for_stragglers() {
    // SAFETY: Called from module exit, which may sleep.
    unsafe { bindings::cfrs_wait_for_module_text() }
}

extern "C" {
    /// What the module loader knows us by.
    static __this_module: core::cell::UnsafeCell<u8>;
}

/// `THIS_MODULE`, for the `owner` fields of operation tables.
pub(super) const fn owner() -> *mut bindings::module {
    addr_of!(__this_module).cast_mut().cast()
}
