// SPDX-License-Identifier: GPL-2.0

//! `struct rw_semaphore`: many tasks share it, or one has it alone. A task that waits sleeps.

use super::bindings;
use core::marker::PhantomData;
use kernel::prelude::*;
use kernel::types::Opaque;

/// A lock for what many may do at once, and sometimes one alone.
#[pin_data]
pub(crate) struct RwSem {
    #[pin]
    inner: Opaque<bindings::rw_semaphore>,
}

// SAFETY: `struct rw_semaphore` locks itself and may be used from any thread.
unsafe impl Send for RwSem {}
// SAFETY: As above.
unsafe impl Sync for RwSem {}

/// The lock, `ALONE` or shared; given back when dropped, by the task that took it.
///
/// # Invariants
///
/// The current task holds it so.
#[must_use = "the lock is given back at once when unused"]
pub(crate) struct Held<'a, const ALONE: bool> {
    lock: &'a RwSem,
    _task: PhantomData<*mut ()>,
}

impl RwSem {
    /// A lock that is free.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is memory for a semaphore that is pinned from here on.
                unsafe { bindings::cfrs_init_rwsem(slot) }
            }),
        })
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::rw_semaphore {
        self.inner.get()
    }

    /// Takes a share. Not while this task has one, or all of it.
    pub(crate) fn share(&self) -> Held<'_, false> {
        // SAFETY: `inner` was initialised by `new`, and our callers may sleep.
        unsafe { bindings::down_read(self.inner.get()) };
        // INVARIANT: The share was just taken.
        Held {
            lock: self,
            _task: PhantomData,
        }
    }

    /// Takes all of it. Not while this task has a share, or all of it.
    pub(crate) fn alone(&self) -> Held<'_, true> {
        // SAFETY: `inner` was initialised by `new`, and our callers may sleep.
        unsafe { bindings::down_write(self.inner.get()) };
        // INVARIANT: The lock was just taken.
        Held {
            lock: self,
            _task: PhantomData,
        }
    }
}

impl<const ALONE: bool> Drop for Held<'_, ALONE> {
    fn drop(&mut self) {
        let lock = self.lock.inner.get();
        // SAFETY: This task holds the lock so by the type invariant.
        unsafe {
            match ALONE {
                true => bindings::up_write(lock),
                false => bindings::up_read(lock),
            }
        }
    }
}
