// SPDX-License-Identifier: GPL-2.0

//! What a netfs wants read or written: where its bytes are, and whom to tell.
//!
//! The two belong together: the netfs holds the memory until it is told, and no longer. So what has
//! not begun still has its termination, and what has begun has left its iterator behind.

use super::iov_iter::IovIter;
use super::netfs::Termination;
use core::marker::PhantomData;
use kernel::error::Result;

/// Memory that is written to (`ITER_DEST`).
pub(crate) enum Dest {}
/// Memory that is read from (`ITER_SOURCE`).
pub(crate) enum Src {}

/// Bytes of a netfs's, and its function to be called once. Dropping it reports `EIO`.
///
/// # Invariants
///
/// The memory that `iter` describes stays until `told` is finished, and is as `D` says.
pub(crate) struct Transfer<'a, D> {
    iter: IovIter<'a>,
    told: Termination,
    _direction: PhantomData<D>,
}

impl<'a, D> Transfer<'a, D> {
    /// # Safety
    ///
    /// The memory that `iter` describes must stay until `told` is finished, and be as `D` says.
    pub(super) unsafe fn new(iter: IovIter<'a>, told: Termination) -> Self {
        // INVARIANT: The caller promises it.
        Transfer {
            iter,
            told,
            _direction: PhantomData,
        }
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.iter.count()
    }

    /// Says that it is over.
    pub(crate) fn finish(self, result: Result<usize>) {
        self.told.finish(result, false)
    }

    /// For the one that begins it.
    pub(super) fn into_parts(self) -> (IovIter<'a>, Termination) {
        (self.iter, self.told)
    }
}

impl Transfer<'_, Dest> {
    /// Fills the next `bytes` with zeros.
    pub(crate) fn zero(&mut self, bytes: usize) {
        self.iter.zero(bytes)
    }

    /// Passes over all that is left.
    pub(crate) fn take_all(&mut self) {
        self.iter.advance(usize::MAX)
    }
}
