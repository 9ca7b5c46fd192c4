// SPDX-License-Identifier: GPL-2.0

//! What is known to be data in a cache file, so that a read of what is there need not ask the file
//! system, which costs it two or three seeks.
//!
//! One range a file. Data stays data, but for what we cut off or punch ourselves, which has to be
//! done within [`Known::while_changing`]. What others do to the file behind our back shows
//! in the number of its blocks, which counts as well; a file system that does not keep that number in
//! the inode, as XFS, leaves it 0, and of its files nothing is known. Never here: holes, which
//! somebody may fill at any time.

use crate::sys::file::{File, Stamp};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::SpinLock;

/// A range of a file that holds data.
struct Range {
    /// Counts what was forgotten.
    epoch: u32,
    /// The file, as it was when the range was found.
    file: Option<Stamp>,
    start: u64,
    end: u64,
}

/// What is known of an object's file.
#[pin_data]
pub(crate) struct Known {
    #[pin]
    range: SpinLock<Range>,
    /// Counts what was begun to be taken out of the file, and maybe read.
    removals_begun: AtomicU32,
    /// Those of them that are over.
    removals_over: AtomicU32,
}

/// What had been taken out of a file at some moment; `None` if something just was.
#[derive(Clone, Copy)]
pub(crate) struct Removals(Option<u32>);

/// Somebody who does not know and is about to ask the file system, or to write.
pub(crate) struct Asking {
    epoch: u32,
    file: Stamp,
}

impl Known {
    /// Nothing.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Known {
            range <- new_spinlock!(
                Range { epoch: 0, file: None, start: 0, end: 0 },
                "Known::range"
            ),
            removals_begun: AtomicU32::new(0),
            removals_over: AtomicU32::new(0),
        })
    }

    /// Takes data out of the file that somebody may be about to read. Who does has to ask
    /// [`nothing_removed_since`](Self::nothing_removed_since), as a hole reads as zeros.
    pub(crate) fn while_removing<T>(&self, remove: impl FnOnce() -> T) -> T {
        self.removals_begun.fetch_add(1, Ordering::SeqCst);
        let removed = self.while_changing(remove);
        self.removals_over.fetch_add(1, Ordering::SeqCst);
        removed
    }

    /// What has been taken out. Data that is found in the file afterwards is data until something is.
    pub(crate) fn removals(&self) -> Removals {
        let begun = self.removals_begun.load(Ordering::SeqCst);
        let over = self.removals_over.load(Ordering::SeqCst);
        Removals((begun == over).then_some(begun))
    }

    /// Whether what was data then still is.
    pub(crate) fn nothing_removed_since(&self, then: Removals) -> bool {
        then.0 == Some(self.removals_begun.load(Ordering::SeqCst))
    }

    /// How far there is data in `file` from `at` on, if that is known.
    pub(crate) fn data_from(&self, file: &File, at: u64) -> Result<u64, Asking> {
        let now = file.stamp();
        let range = self.range.lock();
        if range.start <= at && at < range.end && range.file == Some(now) {
            Ok(range.end)
        } else {
            Err(Asking {
                epoch: range.epoch,
                file: now,
            })
        }
    }

    /// Before a write of whole blocks to `file`.
    pub(crate) fn before_write(&self, file: &File) -> Asking {
        let file = file.stamp();
        let epoch = self.range.lock().epoch;
        Asking { epoch, file }
    }

    /// The file system has taken and stored what was to be written from `start` to `end`.
    pub(crate) fn written(&self, before: Asking, file: &File, start: u64, end: u64) {
        let file = file.stamp();
        if file.is_same_file(&before.file) {
            // The write itself may have changed the number of blocks.
            self.learn(Asking { file, ..before }, start, end);
        }
    }

    /// The file system has said that there is data from `start` to `end`.
    pub(crate) fn learn(&self, asking: Asking, start: u64, end: u64) {
        let mut range = self.range.lock();
        // Otherwise it may have been true only before, or could not be seen to become false.
        if range.epoch != asking.epoch || !asking.file.has_blocks() {
            return;
        }
        if range.file == Some(asking.file) && start <= range.end && range.start <= end {
            range.start = range.start.min(start);
            range.end = range.end.max(end);
        } else {
            range.file = Some(asking.file);
            range.start = start;
            range.end = end;
        }
    }

    /// Takes data out of the file. Nothing that was asked before or meanwhile is learned.
    pub(crate) fn while_changing<T>(&self, change: impl FnOnce() -> T) -> T {
        self.forget();
        let changed = change();
        self.forget();
        changed
    }

    /// It is another file now.
    pub(crate) fn forget(&self) {
        let mut range = self.range.lock();
        range.epoch = range.epoch.wrapping_add(1);
        range.file = None;
    }
}
