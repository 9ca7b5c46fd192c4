// SPDX-License-Identifier: GPL-2.0

//! Wait queues that poll(2) and epoll sleep on.

use super::bindings;
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

    /// Has the poller of `file` woken when this queue is.
    ///
    /// # Safety
    ///
    /// Both must be the arguments of a running `poll` operation, and the queue must live as long as
    /// the file.
    pub(super) unsafe fn register(
        &self,
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) {
        // SAFETY: By this function's contract; the queue was initialised by `new`.
        unsafe { bindings::cfrs_poll_wait(file, self.inner.get(), table) }
    }

    /// Makes every poller look again. Callable from any context.
    pub(crate) fn wake(&self) {
        // SAFETY: `inner` was initialised by `new`.
        unsafe { bindings::cfrs_wake_up_all(self.inner.get()) }
    }
}
