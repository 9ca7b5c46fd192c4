// SPDX-License-Identifier: GPL-2.0

//! Work that a worker does again and again. Never here: what it is.

use super::bindings;
use core::ptr::NonNull;
use kernel::error::{code::ENOMEM, Result};
use kernel::sync::Arc;

/// What is done at each interval, in a task that may sleep.
pub(crate) trait Recurring: Send + Sync + 'static {
    /// Does it.
    fn recur(&self);
}

/// Does it from its making to its drop, which waits for the last time. Not while the machine is suspended.
///
/// # Invariants
///
/// `ptr` came from `cfrs_start_periodic()`, with a pointer to what `of` counts.
pub(crate) struct Periodic<T: Recurring> {
    ptr: NonNull<bindings::cfrs_periodic>,
    _of: Arc<T>,
}

// SAFETY: The delayed work locks itself, and `of` may be sent and shared.
unsafe impl<T: Recurring> Send for Periodic<T> {}
// SAFETY: Nothing is done through a shared reference.
unsafe impl<T: Recurring> Sync for Periodic<T> {}

impl<T: Recurring> Periodic<T> {
    /// Begins; the first time is one interval from now.
    pub(crate) fn start(of: Arc<T>, milliseconds: u32) -> Result<Self> {
        let arg: *const T = &*of;
        // SAFETY: `call` gets what it takes, which lives until the drop has stopped the calls.
        let ptr = unsafe {
            bindings::cfrs_start_periodic(milliseconds, Some(call::<T>), arg.cast_mut().cast())
        };
        // INVARIANT: As just made.
        Ok(Periodic {
            ptr: NonNull::new(ptr).ok_or(ENOMEM)?,
            _of: of,
        })
    }
}

impl<T: Recurring> Drop for Periodic<T> {
    fn drop(&mut self) {
        // SAFETY: From `cfrs_start_periodic()` by the type invariant, and not used again. It may sleep,
        // as the task that drops the owner of this may.
        unsafe { bindings::cfrs_stop_periodic(self.ptr.as_ptr()) }
    }
}

/// # Safety
///
/// `of` must point to a `T` for the whole call.
unsafe extern "C" fn call<T: Recurring>(of: *mut kernel::ffi::c_void) {
    // SAFETY: The caller's promise.
    unsafe { (*of.cast_const().cast::<T>()).recur() }
}
