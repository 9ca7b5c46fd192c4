// SPDX-License-Identifier: GPL-2.0

//! `struct iov_iter`: where the bytes of one I/O come from or go to.
//!
//! The maker of the iterator holds what it points to; nothing here takes a reference.

use super::bindings;
use core::marker::PhantomData;

/// A borrowed iterator.
///
/// # Invariants
///
/// `ptr` is valid and ours alone for `'a`.
pub(crate) struct IovIter<'a> {
    ptr: *mut bindings::iov_iter,
    _owner: PhantomData<&'a mut bindings::iov_iter>,
}

impl IovIter<'_> {
    /// Wraps the iterator at `ptr`.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid, and not be used otherwise while the result lives.
    pub(super) unsafe fn from_raw(ptr: *mut bindings::iov_iter) -> Self {
        // INVARIANT: The caller promises it.
        IovIter {
            ptr,
            _owner: PhantomData,
        }
    }

    pub(super) fn as_ptr(&mut self) -> *mut bindings::iov_iter {
        self.ptr
    }

    /// Bytes left.
    pub(crate) fn count(&self) -> usize {
        // SAFETY: The iterator is valid.
        unsafe { bindings::cfrs_iov_iter_count(self.ptr) }
    }

    /// Makes a copy in `to` that ends after `len` bytes, no further than this one. It refers to the
    /// same memory, which the netfs holds until the I/O is over.
    ///
    /// # Safety
    ///
    /// `to` must be ours to write.
    pub(super) unsafe fn copy_to(&self, to: *mut bindings::iov_iter, len: usize) {
        // SAFETY: The iterator is valid, and only describes memory; `to` is the caller's promise. A
        // smaller count than it has is always allowed.
        unsafe {
            self.ptr.copy_to_nonoverlapping(to, 1);
            bindings::cfrs_iov_iter_set_count(to, len.min(self.count()));
        }
    }

    /// Skips up to `bytes`, no further than the end.
    pub(crate) fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.count());
        // SAFETY: The iterator is valid and ours, and has as many bytes left.
        unsafe { bindings::iov_iter_advance(self.ptr, bytes) }
    }

    /// Makes it longer by `bytes`.
    ///
    /// # Safety
    ///
    /// The memory it describes must go on for as many bytes.
    pub(super) unsafe fn extend(&mut self, bytes: usize) {
        // SAFETY: The iterator is valid and ours; the rest is the caller's promise.
        unsafe { bindings::cfrs_iov_iter_extend(self.ptr, bytes) }
    }

    /// Fills the next `bytes`, which must be memory to read into, with zeros.
    pub(super) fn zero(&mut self, bytes: usize) {
        // SAFETY: The iterator is valid and ours; the function stops at its end.
        unsafe { bindings::iov_iter_zero(bytes, self.ptr) };
    }

    /// Copies the next bytes out into `to`; returns how many it could.
    pub(crate) fn copy_out(&mut self, to: &mut [u8]) -> usize {
        // SAFETY: The iterator is valid and ours, `to` is writable for its length.
        unsafe { bindings::cfrs_copy_from_iter(to.as_mut_ptr().cast(), to.len(), self.ptr) }
    }

    /// Runs `body` while the iterator seems to end after `limit` bytes.
    pub(crate) fn limited<R>(&mut self, limit: usize, body: impl FnOnce(&mut Self) -> R) -> R {
        let rest = self.count().saturating_sub(limit);
        let shown = self.count() - rest;
        // SAFETY: The iterator is valid and ours; a smaller count than it has is always allowed.
        unsafe { bindings::cfrs_iov_iter_set_count(self.ptr, shown) };
        let result = body(self);
        // SAFETY: What `body` left plus what was hidden is at most what there was.
        unsafe { bindings::cfrs_iov_iter_set_count(self.ptr, self.count() + rest) };
        result
    }
}
