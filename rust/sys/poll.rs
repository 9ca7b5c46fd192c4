// SPDX-License-Identifier: GPL-2.0

//! Wait queues that poll(2) and epoll sleep on.

use super::bindings;
use core::marker::PhantomData;
use kernel::prelude::*;
use kernel::types::Opaque;

/// There is something to read (`EPOLLIN`).
pub(crate) const READABLE: u32 = 0x1;
/// There is room to write (`EPOLLOUT`); CacheFiles uses it for "please cull".
pub(crate) const WRITABLE: u32 = 0x4;

/// A queue of pollers.
///
/// The pollers of a file must be gone before the queue is: it has to live as long as the file.
#[pin_data]
pub(crate) struct PollQueue {
    #[pin]
    inner: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A wait queue has its own lock.
unsafe impl Send for PollQueue {}
// SAFETY: As above.
unsafe impl Sync for PollQueue {}

impl PollQueue {
    /// Without pollers.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is memory for a wait queue that is pinned from here on.
                unsafe { bindings::cfrs_init_waitqueue(slot) }
            }),
        })
    }

    /// Makes every poller look again. Callable from any context.
    pub(crate) fn wake(&self) {
        // SAFETY: `inner` was initialised by `new`.
        unsafe { bindings::cfrs_wake_up_all(self.inner.get()) }
    }
}

/// One call of a file's `poll`, during which queues can be registered.
///
/// # Invariants
///
/// `file` and `table` are the valid arguments of a running `poll` operation.
pub(crate) struct Poll<'a> {
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
    _call: PhantomData<&'a ()>,
}

impl Poll<'_> {
    /// Wraps the arguments of a `poll` operation.
    ///
    /// # Safety
    ///
    /// Both must be valid for as long as the result lives.
    pub(super) unsafe fn from_raw(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> Self {
        // INVARIANT: The caller promises it.
        Poll {
            file,
            table,
            _call: PhantomData,
        }
    }

    /// Wakes this poller when `queue` is woken.
    ///
    /// `queue` belongs to what the file owns, so that it lives as long as the file.
    pub(crate) fn register(&self, queue: &PollQueue) {
        // SAFETY: File and table are valid by the type invariant; the queue is initialised and
        // outlives the file, as this function's contract says.
        unsafe { bindings::cfrs_poll_wait(self.file, queue.inner.get(), self.table) }
    }
}
