// SPDX-License-Identifier: GPL-2.0

//! Mounts: finding one by path, its space, its sync.

use super::bindings;
use super::dentry::{Dentry, Dir};
use super::trace;
use core::ptr::NonNull;
use kernel::error::{code::*, to_result, Result};
use kernel::str::CStr;

/// A counted reference to a `struct vfsmount`.
///
/// # Invariants
///
/// `ptr` is valid and one reference to it is ours.
pub(crate) struct Mount {
    ptr: NonNull<bindings::vfsmount>,
}

// SAFETY: A mount's count is atomic and what we read of it does not change.
unsafe impl Send for Mount {}
// SAFETY: As above.
unsafe impl Sync for Mount {}

/// Free and total space of a file system (`struct kstatfs`).
pub(crate) struct Space {
    /// Bytes a block.
    pub(crate) block_size: u32,
    /// Blocks in all.
    pub(crate) blocks: u64,
    /// Blocks that unprivileged users may still take.
    pub(crate) blocks_avail: u64,
    /// Inodes in all.
    pub(crate) files: u64,
    /// Inodes free.
    pub(crate) files_free: u64,
}

/// The directory at `path` (`kern_path()`).
pub(crate) fn find_dir(path: &CStr) -> Result<Dir> {
    let mut found = bindings::path::default();
    // SAFETY: `path` is a C string and `found` is writable.
    to_result(unsafe {
        bindings::kern_path(
            path.as_char_ptr().cast(),
            bindings::LOOKUP_DIRECTORY,
            &mut found,
        )
    })?;
    // SAFETY: On success both references are ours, and what has been found is there.
    unsafe { Dentry::from_path(found) }?.into_dir()
}

/// The current task's working directory; `ENOENT` if it has none any more, as when it exits.
pub(crate) fn current_dir() -> Result<Dir> {
    let mut path = bindings::path::default();
    // SAFETY: `path` is writable; the shim takes references for us, if to anything. A working
    // directory is positive.
    unsafe {
        bindings::cfrs_current_dir(&mut path);
        Dentry::from_path(path)
    }?
    .into_dir()
}

impl Dentry {
    /// Takes over both references of `path`; `ENOENT` if they are null.
    ///
    /// # Safety
    ///
    /// The halves must be null, or valid, the dentry positive and of the mount's file system, with a
    /// reference each that is the caller's to give.
    pub(super) unsafe fn from_path(path: bindings::path) -> Result<Self> {
        let (Some(ptr), Some(dentry)) = (NonNull::new(path.mnt), NonNull::new(path.dentry)) else {
            return Err(ENOENT);
        };
        // INVARIANT: The caller gives its reference.
        let mnt = Mount { ptr };
        // SAFETY: The caller's promise.
        Ok(unsafe { Dentry::from_raw(dentry, mnt) })
    }
}

impl Clone for Mount {
    fn clone(&self) -> Self {
        // SAFETY: The mount is valid and has our reference.
        unsafe { bindings::mntget(self.as_ptr()) };
        // INVARIANT: The reference just taken belongs to the clone.
        Mount { ptr: self.ptr }
    }
}

impl Mount {
    pub(super) fn as_ptr(&self) -> *mut bindings::vfsmount {
        self.ptr.as_ptr()
    }

    /// Whether both are mounts of one file system.
    pub(crate) fn is_same_fs(&self, other: &Mount) -> bool {
        // SAFETY: Both mounts are valid, and the superblock of a mount never changes.
        unsafe { (*self.as_ptr()).mnt_sb == (*other.as_ptr()).mnt_sb }
    }

    /// Free and total space.
    pub(crate) fn space(&self) -> Result<Space> {
        let mut stats = bindings::kstatfs::default();
        // SAFETY: The mount is valid and `stats` is writable.
        to_result(unsafe { bindings::cfrs_statfs(self.as_ptr(), &mut stats) })
            .inspect_err(|&error| trace::statfs_error(self, error))?;
        Ok(Space {
            block_size: u32::try_from(stats.f_bsize).map_err(|_| ERANGE)?,
            blocks: stats.f_blocks,
            blocks_avail: stats.f_bavail,
            files: stats.f_files,
            files_free: stats.f_ffree,
        })
    }

    /// Writes everything of the file system to its disk.
    pub(crate) fn sync(&self) -> Result {
        // SAFETY: The mount is valid; the shim takes the superblock's lock.
        to_result(unsafe { bindings::cfrs_sync_filesystem(self.as_ptr()) })
    }
}

/// The right to change the file system behind a mount: it is neither read-only nor frozen while
/// this lives. Taken before any lock of an inode.
pub(crate) struct WriteAccess<'a>(&'a Mount);

impl<'a> WriteAccess<'a> {
    /// Waits while the file system is frozen; `EROFS` if it is read-only.
    pub(crate) fn new(mnt: &'a Mount) -> Result<Self> {
        // SAFETY: The mount is valid; the guard gives the access back.
        to_result(unsafe { bindings::cfrs_want_write(mnt.as_ptr()) })?;
        Ok(WriteAccess(mnt))
    }
}

impl Drop for WriteAccess<'_> {
    fn drop(&mut self) {
        // SAFETY: Taken by `new`.
        unsafe { bindings::cfrs_drop_write(self.0.as_ptr()) }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // SAFETY: One reference is ours by the type invariant.
        unsafe { bindings::mntput(self.as_ptr()) }
    }
}
