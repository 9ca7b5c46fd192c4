// SPDX-License-Identifier: GPL-2.0

//! Letting readers that the daemon has left behind come back once for their `EIO`.
//!
//! The page cache swallows the error of a read-ahead and tries again, page by page. If the cache is
//! withdrawn in between, FS-Cache answers that second try, with `ENOBUFS`. So the one who withdraws
//! waits here, for a moment at most, until as many reads have come as were failed.

use crate::sys::completion::Completion;
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::prelude::*;

/// How long the last close of a session may be held up, in milliseconds.
const MOMENT: u32 = 1000;

/// The readers that are expected back.
#[pin_data]
pub(super) struct Farewell {
    expected: AtomicU32,
    #[pin]
    all_back: Completion,
}

impl Farewell {
    /// Nobody is expected.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            expected: AtomicU32::new(0),
            all_back <- Completion::new(),
        })
    }

    /// One more read is about to be failed.
    pub(super) fn expect_one(&self) {
        self.expected.fetch_add(1, Ordering::Relaxed);
    }

    /// A read has come to a dead table.
    pub(super) fn came_back(&self) {
        let left = self
            .expected
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if left == Ok(1) {
            self.all_back.complete();
        }
    }

    /// Waits for all that are expected, for a moment at most. A reader that was killed, or that
    /// had not read ahead, does not come back.
    pub(super) fn wait(&self) {
        if self.expected.load(Ordering::Relaxed) > 0 {
            self.all_back.wait_at_most(MOMENT);
        }
    }
}
