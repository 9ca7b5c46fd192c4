// SPDX-License-Identifier: GPL-2.0

//! What a netfs wants read or written: where its bytes are, and whom to tell.
//!
//! The two belong together: the netfs holds the memory until it is told, and no longer. So what has not
//! begun still has its termination, and what has begun has left its iterator behind.

use super::iov_iter::IovIter;
use super::netfs::Termination;
use kernel::error::Result;

/// Bytes of a netfs's, and its function to be called once. Dropping it reports `EIO`.
///
/// # Invariants
///
/// The memory that `iter` describes stays until `told` is finished.
pub(crate) struct Transfer<'a> {
    iter: IovIter<'a>,
    told: Termination,
}

impl<'a> Transfer<'a> {
    /// # Safety
    ///
    /// The memory that `iter` describes must stay until `told` is finished.
    pub(super) unsafe fn new(iter: IovIter<'a>, told: Termination) -> Self {
        // INVARIANT: The caller promises it.
        Transfer { iter, told }
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.iter.count()
    }

    /// Fills the next `bytes` with zeros.
    pub(crate) fn zero(&mut self, bytes: usize) {
        self.iter.zero(bytes)
    }

    /// Passes over all that is left.
    pub(crate) fn take_all(&mut self) {
        self.iter.advance(usize::MAX)
    }

    /// Says that it is over.
    pub(crate) fn finish(self, result: Result<usize>) {
        self.told.finish(result, false)
    }

    /// What somebody needs who begins it.
    pub(super) fn into_parts(self) -> (IovIter<'a>, Termination) {
        (self.iter, self.told)
    }
}
