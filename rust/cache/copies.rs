// SPDX-License-Identifier: GPL-2.0

//! Reads whose data is to be stored when it has come from the server, and whether it still may be.
//!
//! The netfs library reads in one operation and stores what was read in another, which begins when the
//! first one is nearly over. An invalidation between the two is not seen by either: C stores in the new
//! file what was read before it, under what the netfs says of the new data.

use core::sync::atomic::{AtomicU32, Ordering};

/// Reads under way of an object, twice their number, and a bit that says whether one is outdated.
pub struct Copies(AtomicU32);

/// One of them began before the file that is in service now.
const OUTDATED: u32 = 1;
const ONE: u32 = 2;

impl Copies {
    /// None.
    pub const fn new() -> Self {
        Copies(AtomicU32::new(0))
    }

    /// A read is told to have its data stored. Before it asks the server.
    pub fn begin(&self) {
        self.0.fetch_add(ONE, Ordering::SeqCst);
    }

    /// Such a read is over, and all that is to be stored of it has been handed to us.
    pub fn end(&self) {
        // Never fails: the function always has a value.
        let _ = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                let left = state.wrapping_sub(ONE);
                // With the last of them nothing outdated is left.
                Some(if left < ONE { 0 } else { left })
            });
    }

    /// What was asked of the server until now is not to be stored any more.
    pub fn outdate(&self) {
        let _ = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                (state >= ONE).then_some(state | OUTDATED)
            });
    }

    /// Whether what is to be stored may be outdated. No operation tells of which read it comes, so
    /// that this holds for all until there is a moment without any.
    pub fn are_outdated(&self) -> bool {
        self.0.load(Ordering::SeqCst) & OUTDATED != 0
    }
}
