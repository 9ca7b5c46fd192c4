// SPDX-License-Identifier: GPL-2.0

//! What is known to be data in a cache file, so that a read of what is there need not ask the file
//! system, which costs it two or three seeks.
//!
//! One range a file. Data stays data, but for what we cut off or punch ourselves, which has to be
//! done within [`Known::while_changing`]. What others do to the file behind our back shows
//! in the number of its blocks, which counts as well; a file system that does not keep that number in
//! the inode, as XFS, leaves it 0, and of its files nothing is known. Never here: holes, which
//! somebody may fill at any time.
//!
//! A daemon's write may be under way for longer than its object is there, and what has to be removed
//! behind it may be in a file that is another object's by then. So what is removed is counted by
//! files, and not by objects.

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
    /// What had been taken out of it by then.
    removals: Removals,
    start: u64,
    end: u64,
}

/// What is known of an object's file.
#[pin_data]
pub(crate) struct Known {
    #[pin]
    range: SpinLock<Range>,
}

/// Counts what was taken out of files, and may have been read.
struct Counts {
    begun: AtomicU32,
    over: AtomicU32,
}

/// Each of them is of many files. A read of another one that is under way can fail therefore, once in
/// so many times, when a daemon's write has ended in the midst of a block.
static COUNTS: [Counts; 256] = [const {
    Counts {
        begun: AtomicU32::new(0),
        over: AtomicU32::new(0),
    }
}; 256];

fn counts(file: &Stamp) -> &'static Counts {
    &COUNTS[file.hash() % COUNTS.len()]
}

/// What had been taken out of a file at some moment; `None` if something just was.
#[derive(Clone, Copy)]
pub(crate) struct Removals(Option<u32>);

impl Removals {
    /// Those there have been.
    fn of(file: &Stamp) -> Self {
        let counts = counts(file);
        let begun = counts.begun.load(Ordering::SeqCst);
        let over = counts.over.load(Ordering::SeqCst);
        Removals((begun == over).then_some(begun))
    }

    /// Whether there have been no more.
    fn are_all(self, file: &Stamp) -> bool {
        self.0 == Some(counts(file).begun.load(Ordering::SeqCst))
    }
}

/// Somebody who does not know and is about to ask the file system, or to write.
pub(crate) struct Asking {
    epoch: u32,
    file: Stamp,
    removals: Removals,
}

impl Known {
    /// Nothing.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Known {
            range <- new_spinlock!(
                Range { epoch: 0, file: None, removals: Removals(None), start: 0, end: 0 },
                "Known::range"
            ),
        })
    }

    /// Takes data out of the file that somebody may be about to read. Who does has to ask
    /// [`nothing_removed_since`](Self::nothing_removed_since), as a hole reads as zeros.
    pub(crate) fn while_removing<T>(&self, file: &File, remove: impl FnOnce() -> T) -> T {
        let counts = counts(&file.stamp());
        counts.begun.fetch_add(1, Ordering::SeqCst);
        let removed = self.while_changing(remove);
        counts.over.fetch_add(1, Ordering::SeqCst);
        removed
    }

    /// What has been taken out. Data that is found in the file afterwards is data until something is.
    pub(crate) fn removals(file: &File) -> Removals {
        Removals::of(&file.stamp())
    }

    /// Whether what was data then still is.
    pub(crate) fn nothing_removed_since(file: &File, then: Removals) -> bool {
        then.are_all(&file.stamp())
    }

    /// How far there is data in `file` from `at` on, if that is known.
    pub(crate) fn data_from(&self, file: &File, at: u64) -> Result<u64, Asking> {
        let now = file.stamp();
        let range = self.range.lock();
        let known = range.start <= at && at < range.end && range.file == Some(now);
        if known && range.removals.are_all(&now) {
            return Ok(range.end);
        }
        Err(Asking {
            epoch: range.epoch,
            file: now,
            removals: Removals::of(&now),
        })
    }

    /// Before a write of whole blocks to `file`.
    pub(crate) fn before_write(&self, file: &File) -> Asking {
        let file = file.stamp();
        let epoch = self.range.lock().epoch;
        Asking {
            epoch,
            file,
            removals: Removals::of(&file),
        }
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
        if range.epoch != asking.epoch
            || !asking.file.has_blocks()
            || !asking.removals.are_all(&asking.file)
        {
            return;
        }
        let more = range.file == Some(asking.file) && range.removals.are_all(&asking.file);
        if more && start <= range.end && range.start <= end {
            range.start = range.start.min(start);
            range.end = range.end.max(end);
        } else {
            range.file = Some(asking.file);
            range.removals = asking.removals;
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
