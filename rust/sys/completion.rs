// SPDX-License-Identifier: GPL-2.0

//! `struct completion`: something happens once, and those who wait for it go on.

use super::bindings;
use kernel::prelude::*;
use kernel::types::Opaque;

/// Why a wait ended without what was waited for.
pub(crate) enum Unmet {
    /// The task is being killed.
    Killed,
    /// The time is over.
    TimedOut,
}

/// A one-shot completion: once [`complete`](Self::complete) was called, every wait returns.
#[pin_data]
pub(crate) struct Completion {
    #[pin]
    inner: Opaque<bindings::completion>,
}

// SAFETY: `struct completion` locks itself and may be used from any thread.
unsafe impl Send for Completion {}
// SAFETY: As above.
unsafe impl Sync for Completion {}

impl Completion {
    /// Not yet completed.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is memory for a completion that is pinned from here on.
                unsafe { bindings::cfrs_init_completion(slot) }
            }),
        })
    }

    /// Lets every present and future waiter go. Callable from any context.
    pub(crate) fn complete(&self) {
        // SAFETY: `inner` was initialised by `new`; `complete_all` takes its lock itself.
        unsafe { bindings::complete_all(self.inner.get()) }
    }

    /// Waits, but no longer than the task lives, nor than `ms` milliseconds unless that is 0.
    pub(crate) fn wait_killable(&self, ms: u32) -> Result<(), Unmet> {
        if ms == 0 {
            // SAFETY: `inner` was initialised by `new`, and `self` is borrowed for the whole wait.
            return match unsafe { bindings::wait_for_completion_killable(self.inner.get()) } {
                0 => Ok(()),
                _ => Err(Unmet::Killed),
            };
        }
        // SAFETY: As above.
        match unsafe { bindings::cfrs_wait_killable_ms(self.inner.get(), ms) } {
            0 => Err(Unmet::TimedOut),
            left if left > 0 => Ok(()),
            _ => Err(Unmet::Killed),
        }
    }

    /// Waits, whatever happens to the task. Only for what is known to come at once.
    pub(crate) fn wait(&self) {
        // SAFETY: As for `wait_killable`.
        unsafe { bindings::wait_for_completion(self.inner.get()) }
    }
}

/// Whether the current task is being killed, so that a killable wait would end at once.
pub(crate) fn is_dying() -> bool {
    // SAFETY: Looks at the current task only.
    unsafe { bindings::cfrs_is_dying() }
}
