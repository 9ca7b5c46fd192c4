// SPDX-License-Identifier: GPL-2.0

//! That there is one of something at most. Never here: what it is one of.

use core::sync::atomic::{AtomicBool, Ordering};
use kernel::prelude::*;

/// The only one, until it is dropped.
///
/// # Invariants
///
/// There is no other of the same flag, which is set while there is this one.
pub(super) struct Only(&'static AtomicBool);

impl Only {
    /// Is the one of which `taken` tells whether there is one; `EBUSY` if there is.
    pub(super) fn claim(taken: &'static AtomicBool) -> Result<Self> {
        match taken.swap(true, Ordering::Acquire) {
            true => Err(EBUSY),
            // INVARIANT: It was not set, and is.
            false => Ok(Only(taken)),
        }
    }
}

impl Drop for Only {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
