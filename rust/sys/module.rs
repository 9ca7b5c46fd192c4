// SPDX-License-Identifier: GPL-2.0

//! The module itself: its parameters, what it has for as long as its code may run, and its end.

use super::bindings;
use core::ptr::{addr_of, addr_of_mut};
use kernel::error::{to_result, Result};
use kernel::ThisModule;

/// What a module does besides what all of `sys` needs.
pub(crate) trait Root: Sized + Send + Sync + 'static {
    /// Module entry. Module exit drops the result, and with it everything that can call in.
    fn init() -> Result<Self>;
}

/// A loaded module: what `sys` needs, around a [`Root`].
pub(crate) struct Loaded<T: Root> {
    // Dropped first.
    _root: T,
    _facilities: Facilities,
}

/// The workqueue of `work.rs`, the memory of `aio.rs` and the group of `watch.rs`, which these take to
/// exist: no code of the module runs before its entry has made them, nor after its exit has dropped them.
///
/// # Invariants
///
/// They exist, and this is the only one.
struct Facilities(());

impl<T: Root> kernel::Module for Loaded<T> {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: Module entry may sleep. A second call while they exist is refused.
        to_result(unsafe { bindings::cfrs_init() })?;
        // INVARIANT: Just made.
        let facilities = Facilities(());
        Ok(Loaded {
            _root: T::init()?,
            _facilities: facilities,
        })
    }
}

impl Drop for Facilities {
    fn drop(&mut self) {
        // SAFETY: They exist by the type invariant, and nothing can enter the module any more: the
        // root is gone. For tasks and interrupts that are between their last put of a reference and
        // their return, the shim waits; the queue's end waits for the jobs. By then each I/O has
        // given its memory back.
        unsafe { bindings::cfrs_exit() }
    }
}

/// The `debug` parameter's mask: 1 entries, 2 exits, 4 what happens in between.
pub(crate) fn debug_mask() -> u32 {
    // SAFETY: Reads one word, which may be written at any time.
    unsafe { addr_of!(bindings::cfrs_debug).read_volatile() }
}

/// Sets the `debug` parameter's mask.
pub(crate) fn set_debug_mask(mask: u32) {
    // SAFETY: Writes one word, which every reader reads as one.
    unsafe { addr_of_mut!(bindings::cfrs_debug).write_volatile(mask) }
}

/// The index of the `ondemand_protocol` parameter's value in its list: `mainline`, `v5`.
pub(crate) fn protocol_index() -> u32 {
    // SAFETY: Reads one word.
    unsafe { bindings::cfrs_ondemand_protocol() }
}

extern "C" {
    /// What the module loader knows us by.
    static __this_module: core::cell::UnsafeCell<u8>;
}

/// `THIS_MODULE`, for the `owner` fields of operation tables.
pub(super) const fn owner() -> *mut bindings::module {
    addr_of!(__this_module).cast_mut().cast()
}
