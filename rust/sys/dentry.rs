// SPDX-License-Identifier: GPL-2.0

//! Dentries, and what can be done to the entries of a directory.
//!
//! What needs the directory's lock is a method of the guard [`LockedDir`].

use super::bindings;
use super::file::File;
use super::inode::Inode;
use super::mount::{Mount, WriteAccess};
use super::refusal::Refusal;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::error::{code::ENOTDIR, from_err_ptr, to_result, Error, Result};

/// A counted reference to a `struct dentry`, positive or negative.
///
/// # Invariants
///
/// `ptr` is valid and one reference to it is ours.
pub(crate) struct Dentry {
    ptr: NonNull<bindings::dentry>,
}

// SAFETY: A dentry's count and flags are atomic or read under RCU rules.
unsafe impl Send for Dentry {}
// SAFETY: As above.
unsafe impl Sync for Dentry {}

/// What became of a directory that was to be moved away.
pub(crate) enum Moved {
    /// It has the new name now.
    Done,
    /// It was no longer where it had been looked up.
    Gone,
}

impl Dentry {
    /// Takes over the caller's reference to `ptr`.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid, and one reference to it must be the caller's to give.
    pub(super) unsafe fn from_raw(ptr: NonNull<bindings::dentry>) -> Self {
        // INVARIANT: The caller gives its reference.
        Dentry { ptr }
    }

    /// Wraps what a lookup returned: a reference or an error pointer.
    ///
    /// # Safety
    ///
    /// `ptr` must be an error pointer or a reference that is the caller's to give.
    unsafe fn from_lookup(ptr: *mut bindings::dentry) -> Result<Self> {
        let ptr = from_err_ptr(ptr)?;
        // INVARIANT: The caller gives its reference; a lookup does not return null.
        NonNull::new(ptr)
            .map(|ptr| Dentry { ptr })
            .ok_or(kernel::error::code::ENOENT)
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::dentry {
        self.ptr.as_ptr()
    }

    /// Whether nothing has this name.
    pub(crate) fn is_negative(&self) -> bool {
        // SAFETY: The dentry is valid.
        unsafe { bindings::cfrs_d_is_negative(self.as_ptr()) }
    }

    /// Whether it is a regular file.
    pub(crate) fn is_file(&self) -> bool {
        // SAFETY: The dentry is valid.
        unsafe { bindings::cfrs_d_is_reg(self.as_ptr()) }
    }

    /// Whether it is a directory that can be looked into.
    pub(crate) fn is_dir(&self) -> bool {
        // SAFETY: The dentry is valid.
        unsafe { bindings::cfrs_d_is_dir(self.as_ptr()) }
    }

    /// Whether the dentry has fallen out of the tree.
    pub(crate) fn is_unhashed(&self) -> bool {
        // SAFETY: The dentry is valid.
        unsafe { bindings::cfrs_d_unhashed(self.as_ptr()) }
    }

    /// Whether the directory's file system has all that a cache directory needs.
    pub(crate) fn is_usable_dir(&self) -> bool {
        // SAFETY: The dentry is valid and, as our callers checked `is_dir`, positive: the shim
        // only looks at the tables of its inode.
        self.is_dir() && unsafe { bindings::cfrs_dir_usable(self.as_ptr()) }
    }

    /// The inode behind the name; `None` if the name is negative.
    pub(crate) fn inode(&self) -> Option<Inode> {
        // SAFETY: Our reference to a positive dentry keeps its inode alive while we take one.
        unsafe { Inode::grab(bindings::cfrs_d_inode(self.as_ptr())) }
    }

    /// Looks `name` up without the directory's lock; `ENOENT` if nothing has this name.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Dentry> {
        let len = i32::try_from(name.len())?;
        // SAFETY: `self` is a directory by the callers' construction (the VFS checks it too), and
        // `name` is readable for `len` bytes.
        unsafe {
            Dentry::from_lookup(bindings::cfrs_lookup_positive(
                self.as_ptr(),
                name.as_ptr().cast(),
                len,
            ))
        }
    }

    /// Locks the directory for changes of its entries, through the mount `mnt`. `ENOTDIR` if it is
    /// none.
    pub(crate) fn lock<'a>(&'a self, mnt: &'a Mount) -> Result<LockedDir<'a>> {
        let inode = self.inode().filter(|_| self.is_dir()).ok_or(ENOTDIR)?;
        let access = WriteAccess::new(mnt)?;
        // SAFETY: The inode is valid; the guard unlocks it.
        unsafe { bindings::cfrs_inode_lock_parent(inode.as_ptr()) };
        Ok(LockedDir {
            dir: self,
            inode,
            access,
            _task: PhantomData,
        })
    }

    /// Moves the directory `victim` from here to the name `name` in `to`. Neither may be locked.
    pub(crate) fn move_away(
        &self,
        mnt: &Mount,
        victim: &Dentry,
        to: &Dentry,
        name: &[u8],
    ) -> Result<Moved, Refusal> {
        let mut why: *const kernel::ffi::c_char = core::ptr::null();
        // CAST: Our callers' names are shorter than NAME_MAX.
        let len = name.len() as i32;
        // SAFETY: All dentries and the mount are valid and counted; `name` is readable for `len`
        // bytes; the shim takes the locks it needs.
        let ret = unsafe {
            bindings::cfrs_rename_to(
                mnt.as_ptr(),
                self.as_ptr(),
                victim.as_ptr(),
                to.as_ptr(),
                name.as_ptr().cast(),
                len,
                core::ptr::from_mut(&mut why).cast(),
            )
        };
        match ret {
            0 => Ok(Moved::Done),
            ret if ret > 0 => Ok(Moved::Gone),
            // SAFETY: The shim stores a pointer to a string literal, or leaves null.
            ret => Err(unsafe { Refusal::from_shim(Error::from_errno(ret), why) }),
        }
    }

    /// May the credentials in force make directories and files in here? What they may not do, if
    /// so.
    pub(crate) fn check_create(&self) -> Result<(), Refusal> {
        let mut why: *const kernel::ffi::c_char = core::ptr::null();
        // SAFETY: The dentry is a valid, positive directory: our caller has looked it up as one.
        let ret = unsafe {
            bindings::cfrs_check_create(self.as_ptr(), core::ptr::from_mut(&mut why).cast())
        };
        // SAFETY: The shim stores a pointer to a string literal, or leaves null.
        to_result(ret).map_err(|error| unsafe { Refusal::from_shim(error, why) })
    }
}

impl Clone for Dentry {
    fn clone(&self) -> Self {
        // SAFETY: The dentry is valid and has our reference.
        unsafe { bindings::cfrs_dget(self.as_ptr()) };
        // INVARIANT: The reference just taken belongs to the clone.
        Dentry { ptr: self.ptr }
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        // SAFETY: One reference is ours by the type invariant.
        unsafe { bindings::dput(self.as_ptr()) }
    }
}

/// A directory whose inode lock this task holds.
///
/// # Invariants
///
/// The inode's lock is held, by this task, and the guard is what unlocks it.
pub(crate) struct LockedDir<'a> {
    dir: &'a Dentry,
    inode: Inode,
    // Given back after the unlock, which is our own drop.
    access: WriteAccess<'a>,
    // Not `Send`: a lock is dropped by the task that took it.
    _task: PhantomData<*const ()>,
}

impl LockedDir<'_> {
    /// The directory's inode.
    pub(crate) fn inode(&self) -> &Inode {
        &self.inode
    }

    /// Looks `name` up. The result may be negative.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Dentry> {
        let len = i32::try_from(name.len())?;
        // SAFETY: The directory is locked, as the lookup wants it, and `name` is readable.
        unsafe {
            Dentry::from_lookup(bindings::cfrs_lookup(
                self.dir.as_ptr(),
                name.as_ptr().cast(),
                len,
            ))
        }
    }

    /// Makes the negative `child` a directory.
    pub(crate) fn mkdir(&self, child: &Dentry, mode: u16) -> Result {
        // SAFETY: The directory is locked and `child` was looked up in it under this lock.
        to_result(unsafe {
            bindings::cfrs_mkdir(
                self.access.mount().as_ptr(),
                self.dir.as_ptr(),
                child.as_ptr(),
                mode,
            )
        })
    }

    /// Whether `child` is an entry of this directory. If so, it stays one while this is locked; if not, it
    /// may be somebody else's to move.
    pub(crate) fn holds(&self, child: &Dentry) -> bool {
        // SAFETY: Both are valid; the parent is a word, which may change while it is another's.
        let parent = unsafe { core::ptr::addr_of!((*child.as_ptr()).d_parent).read_volatile() };
        parent == self.dir.as_ptr()
    }

    /// Removes the file `victim`.
    pub(crate) fn unlink(&self, victim: &Dentry) -> Result {
        // An extra reference keeps the dentry from being made negative under an open file.
        let victim = victim.clone();
        // SAFETY: The directory is locked; the VFS checks that `victim` lies in it.
        to_result(unsafe {
            bindings::cfrs_unlink(
                self.access.mount().as_ptr(),
                self.dir.as_ptr(),
                victim.as_ptr(),
            )
        })
    }

    /// Gives the file the further name `entry`, which is negative and was looked up here.
    pub(crate) fn link(&self, file: &File, entry: &Dentry) -> Result {
        // SAFETY: The directory is locked and `entry` was looked up in it under this lock; the
        // file keeps its own dentry alive.
        to_result(unsafe {
            bindings::cfrs_link(
                bindings::cfrs_file_dentry(file.as_ptr()),
                self.dir.as_ptr(),
                entry.as_ptr(),
            )
        })
    }
}

impl Drop for LockedDir<'_> {
    fn drop(&mut self) {
        // SAFETY: This task holds the lock by the type invariant.
        unsafe { bindings::cfrs_inode_unlock(self.inode.as_ptr()) }
    }
}
