// SPDX-License-Identifier: GPL-2.0

//! Open files of a backing file system, as the kernel uses them.

use super::bindings;
use super::block::Blocks;
use super::creds::Cred;
use super::dentry::{Dentry, Dir};
use super::inode::Inode;
use super::iov_iter::IovIter;
use super::to_count;
use core::ptr::NonNull;
use kernel::error::{code::*, from_err_ptr, to_result, Error, Result};

/// A counted reference to a `struct file`.
///
/// # Invariants
///
/// `ptr` is valid and one reference to it is ours.
#[repr(transparent)]
pub(crate) struct File {
    ptr: NonNull<bindings::file>,
}

// SAFETY: A file's count is atomic, and the operations we use may run in any task.
unsafe impl Send for File {}
// SAFETY: As above.
unsafe impl Sync for File {}

/// What lies from an offset on.
pub(crate) enum Extent {
    /// The next one of what was asked for starts here.
    At(u64),
    /// There is none before the end of the file.
    None,
}

/// The first and the last byte of a range; `None` if it is empty.
fn offsets(at: u64, end: u64) -> Option<(i64, i64)> {
    // CAST: To the largest offset, which then bounds both.
    let last = end.min(i64::MAX as u64).checked_sub(1)?;
    (at <= last).then_some((at as i64, last as i64))
}

impl File {
    /// Takes over the reference that an open function returned, or its error.
    ///
    /// # Safety
    ///
    /// `ptr` must be an error pointer or a reference that is the caller's to give.
    unsafe fn from_open(ptr: *mut bindings::file) -> Result<Self> {
        // INVARIANT: The caller gives its reference.
        let ptr = NonNull::new(from_err_ptr(ptr)?).ok_or(EBADF)?;
        Ok(File { ptr })
    }

    /// Lets go of the file and, if ours is the last reference, closes it here and now, where a
    /// kernel thread would otherwise leave that to another: its file system can be unmounted then.
    /// May sleep.
    pub(crate) fn close(self) {
        // SAFETY: The reference is ours, and given up.
        unsafe { bindings::__fput_sync(core::mem::ManuallyDrop::new(self).as_ptr()) }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::file {
        self.ptr.as_ptr()
    }

    /// Makes an unnamed file in `dir`, for direct reading and writing, mode 0600.
    pub(crate) fn create_unnamed(dir: &Dir, cred: &Cred) -> Result<Self> {
        // SAFETY: The directory is on its mount; the result is an error or a new reference.
        unsafe {
            File::from_open(bindings::cfrs_open_tmpfile(
                dir.mount().as_ptr(),
                dir.as_ptr(),
                cred.as_ptr(),
            ))
        }
    }

    /// Opens the existing file `dentry` for direct reading and writing.
    pub(crate) fn open(dentry: &Dentry, cred: &Cred) -> Result<Self> {
        // SAFETY: The dentry is positive and on its mount; the result is an error or a new reference.
        unsafe {
            File::from_open(bindings::cfrs_open_file(
                dentry.mount().as_ptr(),
                dentry.as_ptr(),
                cred.as_ptr(),
            ))
        }
    }

    /// Whether the file system reads and writes through iterators, as asynchronous I/O needs.
    pub(crate) fn has_iter(&self) -> bool {
        // SAFETY: The file is valid.
        unsafe { bindings::cfrs_file_has_iter(self.as_ptr()) }
    }

    /// The file's inode.
    pub(crate) fn inode(&self) -> &Inode {
        // SAFETY: An open file keeps its inode.
        unsafe { Inode::from_raw(bindings::cfrs_file_inode(self.as_ptr())) }
    }

    /// The dentry the file was opened by.
    pub(crate) fn dentry(&self) -> Result<Dentry> {
        // SAFETY: An open file keeps its path, which is positive; the shim takes references for us.
        unsafe { Dentry::from_path(bindings::cfrs_file_path(self.as_ptr())) }
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: The file is valid.
        u64::try_from(unsafe { bindings::cfrs_file_size(self.as_ptr()) }).unwrap_or(0)
    }

    /// 512-byte blocks allocated, as stat(2) tells. May sleep.
    pub(crate) fn blocks(&self) -> u64 {
        // SAFETY: The file is valid.
        unsafe { bindings::cfrs_file_blocks(self.as_ptr()) }
    }

    /// The largest offset that the current task may write up to.
    pub(crate) fn size_limit(&self) -> u64 {
        // SAFETY: The file is valid.
        u64::try_from(unsafe { bindings::cfrs_file_size_limit(self.as_ptr()) }).unwrap_or(0)
    }

    /// Whether the page cache has pages of the file from `at` to `end`, or entries of evicted ones.
    pub(crate) fn has_pages(&self, at: u64, end: u64) -> bool {
        offsets(at, end).is_some_and(|(at, last)| {
            // SAFETY: The file is valid, and keeps its mapping.
            unsafe { bindings::cfrs_has_pages(self.as_ptr(), at, last) }
        })
    }

    /// Has the pages from `at` to `end` that are dirty written to the disk, and waits for that.
    pub(crate) fn write_out(&self, at: u64, end: u64) -> Result {
        let Some((at, last)) = offsets(at, end) else {
            return Ok(());
        };
        // SAFETY: The file is valid, and keeps its mapping.
        to_result(unsafe { bindings::cfrs_write_out(self.as_ptr(), at, last) })
    }

    /// Where the next data from `from` on is (`SEEK_DATA`).
    pub(crate) fn next_data(&self, from: u64) -> Result<Extent> {
        self.seek_extent(from, bindings::SEEK_DATA)
    }

    /// Where the next hole from `from` on is (`SEEK_HOLE`); the end of the file counts as one.
    pub(crate) fn next_hole(&self, from: u64) -> Result<Extent> {
        self.seek_extent(from, bindings::SEEK_HOLE)
    }

    fn seek_extent(&self, from: u64, whence: u32) -> Result<Extent> {
        let from = i64::try_from(from).map_err(|_| EFBIG)?;
        match self.seek(from, whence as i32) {
            Ok(at) => Ok(Extent::At(at)),
            Err(ENXIO) => Ok(Extent::None),
            Err(error) => Err(error),
        }
    }

    /// `vfs_llseek()`: moves the file's position and returns it.
    pub(crate) fn seek(&self, offset: i64, whence: i32) -> Result<u64> {
        // SAFETY: The file is valid.
        let ret = unsafe { bindings::vfs_llseek(self.as_ptr(), offset, whence) };
        // CAST: A negative position is an errno, which fits an `i32`.
        u64::try_from(ret).map_err(|_| Error::from_errno(ret as i32))
    }

    /// Sets the size through the permission checks of truncate(2).
    pub(crate) fn truncate(&self, size: u64) -> Result {
        let size = i64::try_from(size).map_err(|_| EFBIG)?;
        // SAFETY: The file is valid.
        to_result(unsafe { bindings::cfrs_truncate(self.as_ptr(), size) })
    }

    /// Sets the size by changing the inode's attribute alone (`notify_change()`).
    pub(crate) fn set_size(&self, size: u64) -> Result {
        let size = i64::try_from(size).map_err(|_| EFBIG)?;
        // SAFETY: The file is valid; the shim takes the inode's lock.
        to_result(unsafe { bindings::cfrs_set_size(self.as_ptr(), size) })
    }

    /// Makes a range a hole without changing the size.
    pub(crate) fn punch_hole(&self, at: u64, len: u64) -> Result {
        self.fallocate(
            bindings::FALLOC_FL_PUNCH_HOLE | bindings::FALLOC_FL_KEEP_SIZE,
            at,
            len,
        )
    }

    /// Makes a range zeros, as far as it was data.
    pub(crate) fn zero_range(&self, at: u64, len: u64) -> Result {
        self.fallocate(bindings::FALLOC_FL_ZERO_RANGE, at, len)
    }

    fn fallocate(&self, mode: u32, at: u64, len: u64) -> Result {
        let (at, len) = (
            i64::try_from(at).map_err(|_| EFBIG)?,
            i64::try_from(len).map_err(|_| EFBIG)?,
        );
        // SAFETY: The file is valid and open for writing; the VFS checks the range.
        to_result(unsafe { bindings::vfs_fallocate(self.as_ptr(), mode as i32, at, len) })
    }

    /// Waits until data and attributes are on the disk (`vfs_fsync()`).
    pub(crate) fn sync(&self) -> Result {
        // SAFETY: The file is valid.
        to_result(unsafe { bindings::vfs_fsync(self.as_ptr(), 0) })
    }

    /// Notes an access now, as culling by age wants it.
    pub(crate) fn touch(&self) {
        // SAFETY: The file is valid.
        unsafe { bindings::cfrs_touch_atime(self.as_ptr()) }
    }

    /// Writes the first `len` bytes of `blocks` at `at` directly, waits for it, and returns how many
    /// were written.
    pub(crate) fn write_blocks(&self, at: u64, blocks: &Blocks, len: usize) -> Result<usize> {
        let at = i64::try_from(at).map_err(|_| EFBIG)?;
        let len = len.min(blocks.len());
        // SAFETY: The file is valid and was opened for writing; `Blocks` is memory of kmalloc's, which
        // is borrowed for the whole call.
        to_count(unsafe { bindings::cfrs_write_blocks(self.as_ptr(), blocks.as_ptr(), len, at) })
    }

    /// Reads `blocks` at `at` directly: all of it, or an error.
    pub(crate) fn read_blocks(&self, at: u64, blocks: &mut Blocks) -> Result {
        let at = i64::try_from(at).map_err(|_| EFBIG)?;
        // SAFETY: The file is valid and was opened for reading; `Blocks` is memory of kmalloc's, which
        // is ours for the whole call.
        let ret = unsafe {
            bindings::cfrs_read_blocks(self.as_ptr(), blocks.as_mut_ptr(), blocks.len(), at)
        };
        match to_count(ret)? {
            read if read == blocks.len() => Ok(()),
            _ => Err(EIO),
        }
    }

    /// Whether its device can take from this memory. A file system asks when it has allocated the blocks.
    pub(crate) fn takes_directly(&self, from: &mut IovIter<'_>) -> bool {
        // SAFETY: The file is valid, and keeps its file system's device; the iterator is only looked at.
        unsafe { bindings::cfrs_takes_directly(self.as_ptr(), from.as_ptr()) }
    }

    /// Writes directly what `from` holds, and waits for it. May write less. `EINVAL`, and nothing is
    /// taken, if the memory is not aligned as the device wants it, or not a page of it lies in one
    /// piece.
    pub(crate) fn write_iter(&self, at: u64, from: &mut IovIter<'_>) -> Result<usize> {
        let at = i64::try_from(at).map_err(|_| EFBIG)?;
        // SAFETY: The file is valid and was opened for writing; the iterator is borrowed for the
        // whole call, and the call is synchronous since the shim's kiocb has no completion.
        to_count(unsafe { bindings::cfrs_write_iter(self.as_ptr(), at, from.as_ptr()) })
    }
}

impl Clone for File {
    fn clone(&self) -> Self {
        // SAFETY: The file is valid and has our reference.
        unsafe { bindings::cfrs_get_file(self.as_ptr()) };
        // INVARIANT: The reference just taken belongs to the clone.
        File { ptr: self.ptr }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: One reference is ours by the type invariant. `fput` defers the real work where
        // this context may not sleep.
        unsafe { bindings::fput(self.as_ptr()) }
    }
}
