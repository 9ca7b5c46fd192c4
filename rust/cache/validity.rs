// SPDX-License-Identifier: GPL-2.0

//! Whether what a cache file holds may be given out, and kept.
//!
//! Pure core Rust: the module and the host's tests compile this same file. Never here: the file.
//!
//! C commits a file under whatever coherency data the cookie has by then. But the netfs may have
//! changed it by an invalidation that came too late or failed, or a write over data may not have
//! reached the file: then the old data would pass for the new.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is known about the data of one file.
pub struct Validity {
    /// Something that should have been stored was not.
    spoiled: AtomicBool,
    /// Invalidations of the cookie that its data came after, or `EMPTY`.
    invalidations: AtomicU64,
    /// Invalidations of the cookie before the file was made, if it was.
    made_after: u32,
}

/// What an operation may do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Use it.
    Good,
    /// Use it. It is the first one, and there have been invalidations since the file was made that did
    /// not put another one in its place: what was read before them is outdated.
    Late,
    /// Nothing: the file holds what was valid before an invalidation that did not put another one in
    /// its place.
    None,
}

/// There is no data: no operation has got the file yet.
const EMPTY: u64 = u64::MAX;

impl Validity {
    /// A new, empty file was made after so many invalidations. FS-Cache counts those that come before
    /// it is used, and does nothing about them.
    pub const fn of_new(made_after: u32) -> Self {
        Validity {
            spoiled: AtomicBool::new(false),
            invalidations: AtomicU64::new(EMPTY),
            made_after,
        }
    }

    /// The file was found, and has data that is valid after so many invalidations.
    pub fn found(&self, invalidations: u32) {
        self.invalidations
            .store(invalidations.into(), Ordering::Relaxed);
    }

    /// An operation that began after so many invalidations is about to get the file.
    pub fn used(&self, invalidations: u32) -> Use {
        match self.invalidations.compare_exchange(
            EMPTY,
            invalidations.into(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            Ok(_) if self.made_after == invalidations => Use::Good,
            Ok(_) => Use::Late,
            Err(valid_for) if valid_for == invalidations.into() => Use::Good,
            Err(_) => Use::None,
        }
    }

    /// The file does not hold what it should. May be called from an interrupt.
    pub fn spoil(&self) {
        self.spoiled.store(true, Ordering::Release);
    }

    /// Whether data of the file may be given out.
    pub fn is_good(&self) -> bool {
        !self.spoiled.load(Ordering::Acquire)
    }

    /// Whether the file can be kept under what the cookie says after so many invalidations.
    pub fn is_good_for(&self, invalidations: u32) -> bool {
        let valid_for = self.invalidations.load(Ordering::Relaxed);
        self.is_good() && (valid_for == EMPTY || valid_for == invalidations.into())
    }
}
