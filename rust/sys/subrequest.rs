// SPDX-License-Identifier: GPL-2.0

//! Subrequests of the netfs library: one part of an I/O that concerns the cache.

use super::bindings;
use super::iov_iter::IovIter;
use super::netfs::{ReadFlags, Termination};
use super::transfer::{Src, Transfer};
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use kernel::error::Result;

/// A read that is being prepared.
///
/// # Invariants
///
/// The pointers of `parts` are valid, and only ours, for `'a`; its operation has begun.
pub(crate) struct ReadSubrequest<'a> {
    parts: bindings::cfrs_read,
    _call: PhantomData<&'a mut usize>,
}

impl ReadSubrequest<'_> {
    /// # Safety
    ///
    /// `raw` must be a subrequest whose operation has begun, and the caller's alone while the
    /// result lives.
    pub(super) unsafe fn from_raw(raw: NonNull<bindings::netfs_io_subrequest>) -> Self {
        let mut parts = bindings::cfrs_read::default();
        // SAFETY: The subrequest is valid, as is what it points to.
        unsafe { bindings::cfrs_open_read(raw.as_ptr(), &mut parts) };
        // INVARIANT: The caller promises it.
        ReadSubrequest {
            parts,
            _call: PhantomData,
        }
    }

    pub(super) fn resources(&self) -> *mut bindings::netfs_cache_resources {
        self.parts.resources
    }

    /// Where it starts.
    pub(crate) fn start(&self) -> u64 {
        self.parts.start
    }

    /// Bytes that are wanted.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: Valid by the type invariant.
        unsafe { *self.parts.len }
    }

    /// Makes it shorter, if that is shorter.
    pub(crate) fn shorten(&mut self, len: usize) {
        let len = len.min(self.len());
        // SAFETY: Valid and ours by the type invariant. The memory goes on for as long as before.
        unsafe { *self.parts.len = len }
    }

    /// Its flags.
    pub(crate) fn flags(&mut self) -> ReadFlags<'_> {
        // SAFETY: Valid and ours by the type invariant.
        unsafe { ReadFlags::from_raw(self.parts.flags) }
    }

    /// The number of the netfs's inode.
    pub(crate) fn inode(&self) -> u64 {
        self.parts.inode as u64
    }

    /// Whether it is the first part of what the netfs reads.
    pub(crate) fn is_first(&self) -> bool {
        self.parts.is_first
    }

    /// How long the netfs's file was when this was taken up, in bytes.
    pub(crate) fn size_now(&self) -> u64 {
        self.parts.size_now
    }

    /// Where, by what the netfs knows, the server's file has no data any more.
    pub(crate) fn zero_point(&self) -> u64 {
        self.parts.zero_point
    }
}

/// A read on demand that is being prepared: what of a netfs's file, which is asked for by place and
/// length alone.
pub(crate) struct DemandRead<'a> {
    /// Where it starts.
    pub(crate) start: u64,
    /// Bytes that are wanted; all or nothing is served.
    pub(crate) len: usize,
    /// Its flags.
    pub(crate) flags: ReadFlags<'a>,
    /// The number of the netfs's inode.
    pub(crate) inode: u64,
    /// The size of the netfs's file.
    pub(crate) file_size: u64,
}

/// A write to the cache that has been handed to us: to be finished, once, on every path. Dropping
/// it reports `EIO`.
///
/// # Invariants
///
/// The pointers of `parts` are valid and only ours until `done` is finished.
pub(crate) struct WriteSubrequest<'a> {
    // Elsewhere: it is large to be moved with every call.
    parts: &'a mut bindings::cfrs_write,
    done: Termination,
}

impl<'a> WriteSubrequest<'a> {
    /// `parts` is room for what the result knows of it.
    ///
    /// # Safety
    ///
    /// `raw` must be a subrequest of an operation that has begun, and the caller's to finish.
    pub(super) unsafe fn from_raw(
        raw: NonNull<bindings::netfs_io_subrequest>,
        parts: &'a mut MaybeUninit<bindings::cfrs_write>,
    ) -> Self {
        // SAFETY: The subrequest is valid, as is what it points to. The shim writes all of `parts`.
        let parts = unsafe {
            bindings::cfrs_open_write(raw.as_ptr(), parts.as_mut_ptr());
            parts.assume_init_mut()
        };
        // SAFETY: The library's function takes the subrequest, once, from any context.
        let done = unsafe {
            Termination::from_raw(
                Some(bindings::netfs_write_subrequest_terminated),
                raw.as_ptr().cast(),
            )
        };
        // INVARIANT: The caller promises it.
        WriteSubrequest { parts, done }
    }

    pub(super) fn resources(&self) -> *mut bindings::netfs_cache_resources {
        self.parts.resources
    }

    fn transferred(&self) -> usize {
        // SAFETY: Valid by the type invariant.
        unsafe { *self.parts.transferred }
    }

    /// Where the bytes that are left go.
    pub(crate) fn start(&self) -> u64 {
        self.parts.start + self.transferred() as u64
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: Valid by the type invariant.
        unsafe { *self.parts.len - self.transferred() }
    }

    /// The size of the netfs's file.
    pub(crate) fn file_size(&self) -> u64 {
        self.parts.file_size
    }

    /// Whether the server has it already: netfs only stores what it has read.
    pub(crate) fn is_copy(&self) -> bool {
        self.parts.is_copy
    }

    /// How many bytes behind the end there are in memory to go with it.
    pub(crate) fn extendable(&self) -> usize {
        self.parts.extendable
    }

    /// Passes over the next `bytes`, at most all that are left, as if they were written.
    pub(crate) fn skip(&mut self, bytes: usize) {
        let bytes = bytes.min(self.len());
        if bytes == 0 {
            return;
        }
        self.iter().advance(bytes);
        // SAFETY: Valid and ours by the type invariant.
        unsafe { *self.parts.transferred += bytes };
    }

    /// Makes it longer by `bytes`, at most as many as it is extendable by.
    pub(crate) fn extend(&mut self, bytes: usize) {
        let bytes = bytes.min(self.parts.extendable);
        if bytes == 0 {
            return;
        }
        self.parts.extendable -= bytes;
        // SAFETY: Valid and ours by the type invariant. The library promises that the memory of the
        // last folio goes on for as long as the subrequest was extendable.
        unsafe {
            *self.parts.len += bytes;
            self.iter().extend(bytes);
        }
    }

    fn iter(&mut self) -> IovIter<'_> {
        // SAFETY: Valid and ours by the type invariant.
        unsafe { IovIter::from_raw(self.parts.iter) }
    }

    /// What is to be written, and whom to tell.
    pub(crate) fn into_transfer(self) -> Transfer<'a, Src> {
        // SAFETY: Valid and ours by the type invariant, until the termination is finished, as is what the
        // iterator describes.
        unsafe { Transfer::new(IovIter::from_raw(self.parts.iter), self.done) }
    }

    /// Finishes it.
    pub(crate) fn finish(self, result: Result<usize>) {
        self.done.finish(result, false);
    }
}
