// SPDX-License-Identifier: GPL-2.0

//! Mounts: finding one by path, its space, its sync.

use super::bindings;
use super::dentry::Dentry;
use super::refusal::Refusal;
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

/// The directory at `path`: its mount and its dentry (`kern_path()`).
pub(crate) fn find_dir(path: &CStr) -> Result<(Mount, Dentry)> {
    let mut found = bindings::path::default();
    // SAFETY: `path` is a C string and `found` is writable.
    to_result(unsafe {
        bindings::kern_path(
            path.as_char_ptr().cast(),
            bindings::LOOKUP_DIRECTORY,
            &mut found,
        )
    })?;
    // SAFETY: On success both references are ours.
    unsafe { take_path(found.mnt, found.dentry) }.ok_or(ENOENT)
}

/// The current task's working directory.
pub(crate) fn current_dir() -> Option<(Mount, Dentry)> {
    let mut mnt = core::ptr::null_mut();
    // SAFETY: Called from a system call, so the task has a file system context; the shim takes
    // references for us.
    let dentry = unsafe { bindings::cfrs_current_dir(&mut mnt) };
    // SAFETY: Both references are ours.
    unsafe { take_path(mnt, dentry) }
}

/// # Safety
///
/// Both pointers must be valid with a reference each that is the caller's to give.
unsafe fn take_path(
    mnt: *mut bindings::vfsmount,
    dentry: *mut bindings::dentry,
) -> Option<(Mount, Dentry)> {
    // INVARIANT: The caller gives its reference.
    let mnt = Mount {
        ptr: NonNull::new(mnt)?,
    };
    // SAFETY: The caller gives its reference.
    Some((mnt, unsafe { Dentry::from_raw(NonNull::new(dentry)?) }))
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

    /// Whether the file system under `root` can hold a cache; if not, why.
    pub(crate) fn check_backing(&self, root: &Dentry) -> Result<(), Refusal> {
        let path = bindings::path {
            mnt: self.as_ptr(),
            dentry: root.as_ptr(),
        };
        let mut why: *const kernel::ffi::c_char = core::ptr::null();
        // SAFETY: Both halves of the path are valid and counted.
        let ret =
            unsafe { bindings::cfrs_backing_fs_error(&path, core::ptr::from_mut(&mut why).cast()) };
        // SAFETY: The shim stores a pointer to a string literal, or leaves null.
        to_result(ret).map_err(|error| unsafe { Refusal::from_shim(error, why) })
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

    /// The mount.
    pub(super) fn mount(&self) -> &Mount {
        self.0
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
