// SPDX-License-Identifier: GPL-2.0

//! Whether what a cache file holds may be given out, and kept.
//!
//! C commits a file under whatever coherency data the cookie has by then. But the netfs may have
//! changed it by an invalidation that came too late or failed, or a write over data may not have
//! reached the file: then the old data would pass for the new.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is known about a file's data.
pub(crate) struct Trust {
    /// Something that should have been stored was not.
    spoiled: AtomicBool,
    /// Invalidations of the cookie when the data of the file was valid for sure, or [`EMPTY`].
    invalidations: AtomicU64,
}

/// There cannot be any data yet: nobody has got the file.
const EMPTY: u64 = u64::MAX;

impl Trust {
    /// Nothing is wrong yet, and the file empty.
    pub(crate) const fn new() -> Self {
        Trust {
            spoiled: AtomicBool::new(false),
            invalidations: AtomicU64::new(EMPTY),
        }
    }

    /// The file is a new one. FS-Cache counts invalidations that come before it is used, and does
    /// nothing about them.
    pub(crate) fn begin_empty(&self) {
        self.invalidations.store(EMPTY, Ordering::Relaxed);
        self.spoiled.store(false, Ordering::Release);
    }

    /// The file has data that is valid after so many invalidations.
    pub(crate) fn begin(&self, invalidations: u32) {
        self.invalidations
            .store(invalidations.into(), Ordering::Relaxed);
        self.spoiled.store(false, Ordering::Release);
    }

    /// An operation that began after so many invalidations gets the file.
    pub(crate) fn used(&self, invalidations: u32) {
        // Only the first one changes anything, so that a failure is none.
        let _ = self.invalidations.compare_exchange(
            EMPTY,
            invalidations.into(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// The file does not hold what it should. May be called from an interrupt.
    pub(crate) fn spoil(&self) {
        self.spoiled.store(true, Ordering::Release);
    }

    /// Whether data of the file may be given out.
    pub(crate) fn is_good(&self) -> bool {
        !self.spoiled.load(Ordering::Acquire)
    }

    /// Whether the file can be kept under what the cookie says after so many invalidations.
    pub(crate) fn is_good_for(&self, invalidations: u32) -> bool {
        let valid_for = self.invalidations.load(Ordering::Relaxed);
        self.is_good() && (valid_for == EMPTY || valid_for == invalidations.into())
    }
}
