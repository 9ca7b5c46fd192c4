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
//!
//! What the file system says is not the whole truth. A block that is allocated and was never written, as a
//! write that fails or a power cut leaves them, it calls a hole, unless somebody has read it through the
//! page cache, as a backup does: then it is data, all zeros. So nothing is learned where there are
//! pages: [`Known::look`] drops them and looks again. What stays possible is that somebody else reads
//! such a block and drops it from the page cache within one look.

use crate::sys::file::{File, Stamp};
use crate::sys::time::pause;
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

/// Counts what is done to files while others look at them or read them.
struct Counts {
    begun: AtomicU32,
    over: AtomicU32,
}

impl Counts {
    const fn new() -> Self {
        Counts {
            begun: AtomicU32::new(0),
            over: AtomicU32::new(0),
        }
    }

    /// Those there have been.
    fn now(&self) -> Removals {
        let begun = self.begun.load(Ordering::SeqCst);
        let over = self.over.load(Ordering::SeqCst);
        Removals((begun == over).then_some(begun))
    }

    /// Does one more.
    fn count<T>(&self, what: impl FnOnce() -> T) -> T {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let done = what();
        self.over.fetch_add(1, Ordering::SeqCst);
        done
    }
}

/// Each of them is of many files. A read of another one that is under way can fail therefore, once in
/// so many times, when a daemon's write has ended in the midst of a block.
static COUNTS: [Counts; 256] = [const { Counts::new() }; 256];

fn counts(file: &Stamp) -> &'static Counts {
    &COUNTS[file.hash() % COUNTS.len()]
}

/// Counts in the same way what was dropped from the page cache, which costs others another look.
static DROPS: [Counts; 256] = [const { Counts::new() }; 256];

fn drops(file: &Stamp) -> &'static Counts {
    &DROPS[file.hash() % DROPS.len()]
}

/// How often a range is looked at in which somebody else's pages are in the way.
const LOOKS: u32 = 20;

/// How often without a pause.
const LOOKS_AT_ONCE: u32 = 4;

/// What had been taken out of a file at some moment, or dropped; `None` if something just was.
#[derive(Clone, Copy)]
pub(crate) struct Removals(Option<u32>);

impl Removals {
    /// Those there have been.
    fn of(file: &Stamp) -> Self {
        counts(file).now()
    }

    /// Whether there have been no more.
    fn are_all(self, file: &Stamp) -> bool {
        self.are_all_in(counts(file))
    }

    /// Whether nothing just was.
    pub(super) fn are_over(self) -> bool {
        self.0.is_some()
    }

    fn are_all_in(self, counts: &Counts) -> bool {
        self.0 == Some(counts.begun.load(Ordering::SeqCst))
    }
}

/// Somebody who does not know and is about to ask the file system, or to write.
pub(crate) struct Asking {
    epoch: u32,
    file: Stamp,
    removals: Removals,
    drops: Removals,
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
        counts(&file.stamp()).count(|| self.while_changing(remove))
    }

    /// What `look` finds in the file from `at` to `end`, with nobody's pages in the way. Somebody who
    /// keeps them there against all tries, as one that writes to them does, is believed. May sleep.
    pub(crate) fn look<T>(
        file: &File,
        at: u64,
        end: u64,
        mut look: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let drops = drops(&file.stamp());
        for tried in 0..LOOKS {
            if tried >= LOOKS_AT_ONCE {
                pause();
            }
            let before = drops.now();
            let found = match file.has_pages(at, end) {
                false => Some(look()?),
                true => None,
            };
            match found {
                // One that was there while we looked is there still,
                _ if file.has_pages(at, end) => Self::drop_pages(file, at, end),
                // or was dropped by somebody who counts it.
                Some(found) if before.are_all_in(drops) => return Ok(found),
                _ => {}
            }
        }
        look()
    }

    /// Forgets what somebody has read through the page cache.
    #[cold]
    pub(crate) fn drop_pages(file: &File, at: u64, end: u64) {
        drops(&file.stamp()).count(|| file.drop_pages(at, end));
    }

    /// What has been taken out. Data that is found in the file afterwards is data until something is.
    pub(super) fn removals(file: &File) -> Removals {
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
            drops: drops(&now).now(),
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
            drops: drops(&file).now(),
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
            || !asking.drops.are_all_in(drops(&asking.file))
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
