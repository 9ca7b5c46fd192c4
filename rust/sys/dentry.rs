// SPDX-License-Identifier: GPL-2.0

//! Dentries with their mounts, and what can be done to the entries of a directory.
//!
//! What a dentry must be is its type: [`Dentry`] is positive, [`Dir`] a directory. What needs the
//! directory's lock is a method of the guard [`LockedDir`], or of what the guard gives: the
//! [`Entry`] of a name in it.

use super::bindings;
use super::errno::ESTALE;
use super::file::File;
use super::inode::Inode;
use super::mount::{Mount, WriteAccess};
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::{null, NonNull};
use kernel::error::{code::*, from_err_ptr, to_result, Error, Result};
use kernel::ffi::c_char;
use kernel::str::CStr;

/// A counted reference to a positive dentry and to a mount of its file system (`struct path`): the
/// file system is not unmounted before the dentry is put.
///
/// # Invariants
///
/// `ptr` is valid and one reference to it is ours. Its file system is that of `mnt`. It is positive
/// and stays so: the VFS makes a dentry negative only with its last reference in its hands.
pub(crate) struct Dentry {
    ptr: NonNull<bindings::dentry>,
    // Put after the dentry, by our own drop.
    mnt: Mount,
}

// SAFETY: A dentry's count and flags are atomic or read under RCU rules.
unsafe impl Send for Dentry {}
// SAFETY: As above.
unsafe impl Sync for Dentry {}

/// A directory that can be looked into.
///
/// # Invariants
///
/// `d_can_lookup()` is true, which it stays while the dentry is positive.
#[repr(transparent)]
pub(crate) struct Dir(Dentry);

/// An error that says what was being done: an errno alone does not tell the admin which of a dozen
/// things a file system lacks.
pub(crate) struct Refusal {
    /// What the kernel said.
    pub(crate) error: Error,
    /// What was being done or is missing, as a clause; may be empty.
    pub(crate) why: &'static CStr,
}

impl Dentry {
    /// Takes over the caller's reference to `ptr`.
    ///
    /// # Safety
    ///
    /// `ptr` must be a positive dentry of the file system of `mnt`, and one reference to it must be
    /// the caller's to give.
    pub(super) unsafe fn from_raw(ptr: NonNull<bindings::dentry>, mnt: Mount) -> Self {
        // INVARIANT: The caller promises it.
        Dentry { ptr, mnt }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::dentry {
        self.ptr.as_ptr()
    }

    /// A mount of its file system.
    pub(crate) fn mount(&self) -> &Mount {
        &self.mnt
    }

    /// Whether it is a regular file.
    pub(crate) fn is_file(&self) -> bool {
        // SAFETY: The dentry is valid; looks at its flags.
        unsafe { bindings::cfrs_d_is_reg(self.as_ptr()) }
    }

    /// Whether the dentry has fallen out of the tree.
    pub(crate) fn is_unhashed(&self) -> bool {
        // SAFETY: The dentry is valid; reads a word that may change at any time.
        unsafe { bindings::cfrs_d_unhashed(self.as_ptr()) }
    }

    /// The inode behind the name.
    pub(crate) fn inode(&self) -> &Inode {
        // SAFETY: A positive dentry has its inode for as long as our reference keeps it so.
        unsafe { Inode::from_raw(bindings::cfrs_d_inode(self.as_ptr())) }
    }

    /// As a directory, if it is one that can be looked into.
    pub(crate) fn as_dir(&self) -> Option<&Dir> {
        // SAFETY: The dentry is valid; looks at its flags.
        let is_dir = unsafe { bindings::cfrs_d_is_dir(self.as_ptr()) };
        // INVARIANT: It is a directory.
        // SAFETY: `Dir` is transparent.
        is_dir.then(|| unsafe { &*core::ptr::from_ref(self).cast() })
    }

    /// As a directory; `ENOTDIR` if it is none.
    pub(crate) fn into_dir(self) -> Result<Dir> {
        match self.as_dir() {
            // INVARIANT: It is a directory.
            Some(_) => Ok(Dir(self)),
            None => Err(ENOTDIR),
        }
    }
}

impl Deref for Dir {
    type Target = Dentry;

    fn deref(&self) -> &Dentry {
        &self.0
    }
}

/// Calls a shim that leaves a clause that says why it fails.
fn explained(shim: impl FnOnce(*mut *const c_char) -> i32) -> Result<(), Refusal> {
    let mut why = null();
    to_result(shim(&mut why)).map_err(|error| Refusal {
        error,
        why: match why.is_null() {
            true => kernel::c_str!(""),
            // SAFETY: What our callers' shims leave is a string literal: it ends in NUL and stays.
            false => unsafe { CStr::from_char_ptr(why.cast()) },
        },
    })
}

impl Dir {
    /// Whether the directory's file system has all that a cache directory needs.
    pub(crate) fn is_usable(&self) -> bool {
        // SAFETY: The dentry is positive, so that there is an inode, whose tables the shim looks at.
        unsafe { bindings::cfrs_dir_usable(self.as_ptr()) }
    }

    /// Looks `name` up without the directory's lock; `ENOENT` if nothing has this name.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Dentry> {
        let len = i32::try_from(name.len())?;
        // SAFETY: `self` is a directory by the type invariant, and `name` is readable for `len` bytes.
        let found = from_err_ptr(unsafe {
            bindings::cfrs_lookup_positive(self.as_ptr(), name.as_ptr().cast(), len)
        })?;
        // INVARIANT: What the VFS has found in a directory without crossing a mount point is of the
        // same file system, positive by this function's name, and its reference ours.
        Ok(Dentry {
            ptr: NonNull::new(found).ok_or(ENOENT)?,
            mnt: self.mount().clone(),
        })
    }

    /// Locks the directory for changes of its entries.
    pub(crate) fn lock(&self) -> Result<LockedDir<'_>> {
        let access = WriteAccess::new(self.mount())?;
        // SAFETY: The inode is valid; the guard unlocks it.
        unsafe { bindings::cfrs_inode_lock_parent(self.inode().as_ptr()) };
        // INVARIANT: Just locked.
        Ok(LockedDir {
            dir: self,
            _access: access,
            _task: PhantomData,
        })
    }

    /// Moves the directory `victim` from here to the name `name` in `to`, unless it has left this
    /// directory already. Neither may be locked by this task.
    pub(crate) fn move_away(&self, victim: &Dentry, to: &Dir, name: &[u8]) -> Result<(), Refusal> {
        // CAST: Cut to what fits, which is more than any file system takes.
        let len = name.len().min(i32::MAX as usize) as i32;
        // SAFETY: Both are directories and `victim` is positive by their types; `name` is readable for
        // `len` bytes; the shim takes the locks it needs, and refuses another file system.
        explained(|why| unsafe {
            bindings::cfrs_rename_to(
                self.mount().as_ptr(),
                self.as_ptr(),
                victim.as_ptr(),
                to.as_ptr(),
                name.as_ptr().cast(),
                len,
                why,
            )
        })
    }

    /// May the credentials in force make directories and files in here? What they may not do, if
    /// so.
    pub(crate) fn check_create(&self) -> Result<(), Refusal> {
        // SAFETY: A directory, with an inode, by the type invariant.
        explained(|why| unsafe { bindings::cfrs_check_create(self.as_ptr(), why) })
    }

    /// Whether the file system under this directory can hold a cache; if not, why.
    pub(crate) fn check_backing(&self) -> Result<(), Refusal> {
        let path = bindings::path {
            mnt: self.mount().as_ptr(),
            dentry: self.as_ptr(),
        };
        // SAFETY: Both halves of the path are counted, and the dentry is positive.
        explained(|why| unsafe { bindings::cfrs_backing_fs_error(&path, why) })
    }
}

impl Clone for Dentry {
    fn clone(&self) -> Self {
        // SAFETY: The dentry is valid and has our reference.
        unsafe { bindings::cfrs_dget(self.as_ptr()) };
        // INVARIANT: The reference just taken belongs to the clone.
        Dentry {
            ptr: self.ptr,
            mnt: self.mount().clone(),
        }
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        // SAFETY: One reference is ours by the type invariant, and the file system still mounted.
        unsafe { bindings::dput(self.as_ptr()) }
    }
}

/// A directory whose inode lock this task holds.
///
/// # Invariants
///
/// The inode's lock is held, by this task, and the guard is what unlocks it.
pub(crate) struct LockedDir<'a> {
    dir: &'a Dir,
    // Given back after the unlock, which is our own drop.
    _access: WriteAccess<'a>,
    // Not `Send`: a lock is dropped by the task that took it.
    _task: PhantomData<*const ()>,
}

/// What a name in a locked directory stands for.
pub(crate) enum Entry<'a> {
    /// Nothing yet.
    Vacant(Vacant<'a>),
    /// Something.
    Occupied(Occupied<'a>),
}

/// A name that nothing has.
///
/// # Invariants
///
/// `ptr` was looked up in `dir` under this lock, and a reference to it is ours.
pub(crate) struct Vacant<'a> {
    dir: &'a LockedDir<'a>,
    ptr: NonNull<bindings::dentry>,
}

/// A name that something has.
///
/// # Invariants
///
/// `dentry` lies in `dir`, from where it cannot be moved as long as `dir` is locked.
pub(crate) struct Occupied<'a> {
    dir: &'a LockedDir<'a>,
    dentry: Dentry,
}

impl LockedDir<'_> {
    /// The directory's inode.
    pub(crate) fn inode(&self) -> &Inode {
        self.dir.inode()
    }

    /// Looks `name` up.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Entry<'_>> {
        let len = i32::try_from(name.len())?;
        // SAFETY: The directory is locked, as the lookup wants it, and `name` is readable.
        let found = from_err_ptr(unsafe {
            bindings::cfrs_lookup(self.dir.as_ptr(), name.as_ptr().cast(), len)
        })?;
        // INVARIANT: Just looked up, and the reference is ours.
        let entry = Vacant {
            dir: self,
            ptr: NonNull::new(found).ok_or(ENOENT)?,
        };
        Ok(match entry.filled() {
            Some(dentry) => Entry::Occupied(Occupied { dir: self, dentry }),
            None => Entry::Vacant(entry),
        })
    }

    /// `child`, if it is an entry of this directory; `ESTALE` if it was moved or removed.
    pub(crate) fn entry(&self, child: &Dentry) -> Result<Occupied<'_>> {
        // SAFETY: Both are valid; the parent is a word, which may change if it is another.
        let parent = unsafe { core::ptr::addr_of!((*child.as_ptr()).d_parent).read_volatile() };
        if parent != self.dir.as_ptr() || child.is_unhashed() {
            return Err(ESTALE);
        }
        // INVARIANT: It lies here.
        Ok(Occupied {
            dir: self,
            dentry: child.clone(),
        })
    }
}

impl Entry<'_> {
    /// What has the name.
    pub(crate) fn dentry(&self) -> Option<&Dentry> {
        match self {
            Entry::Vacant(_) => None,
            Entry::Occupied(entry) => Some(&entry.dentry),
        }
    }
}

impl Vacant<'_> {
    /// What has the name by now.
    fn filled(&self) -> Option<Dentry> {
        // SAFETY: The dentry is valid, and its directory locked, so that its state does not change.
        unsafe {
            if bindings::cfrs_d_is_negative(self.ptr.as_ptr()) {
                return None;
            }
            bindings::cfrs_dget(self.ptr.as_ptr());
        }
        // INVARIANT: It is positive, the reference was just taken, and a lookup crosses no mount.
        Some(Dentry {
            ptr: self.ptr,
            mnt: self.dir.dir.mount().clone(),
        })
    }

    /// Makes a directory of this name. `None`: the file system has made it behind another dentry,
    /// which is to be looked up.
    pub(crate) fn mkdir(self, mode: u16) -> Result<Option<Dentry>> {
        let dir = self.dir.dir;
        // SAFETY: The directory is locked and the dentry was looked up in it under this lock. If the
        // name was filled since, the VFS refuses.
        to_result(unsafe {
            bindings::cfrs_mkdir(dir.mount().as_ptr(), dir.as_ptr(), self.ptr.as_ptr(), mode)
        })?;
        Ok(self.filled().filter(|made| !made.is_unhashed()))
    }

    /// Gives `file` this name as a further one.
    pub(crate) fn link(self, file: &File) -> Result {
        // SAFETY: As for `mkdir`; the file keeps its own dentry. The VFS refuses another file system.
        to_result(unsafe {
            bindings::cfrs_link(
                bindings::cfrs_file_dentry(file.as_ptr()),
                self.dir.dir.as_ptr(),
                self.ptr.as_ptr(),
            )
        })
    }
}

impl Drop for Vacant<'_> {
    fn drop(&mut self) {
        // SAFETY: One reference is ours by the type invariant.
        unsafe { bindings::dput(self.ptr.as_ptr()) }
    }
}

impl Occupied<'_> {
    /// What has the name.
    pub(crate) fn dentry(&self) -> &Dentry {
        &self.dentry
    }

    /// Removes the file from the directory; `ESTALE` if that was done under this lock already.
    pub(crate) fn unlink(self) -> Result {
        if self.dentry.is_unhashed() {
            return Err(ESTALE);
        }
        let dir = self.dir.dir;
        // An extra reference keeps the dentry from being made negative by what drops the last one.
        let victim = self.dentry.clone();
        // SAFETY: The directory is locked and `victim` lies in it by the type invariant. The VFS
        // refuses a directory.
        to_result(unsafe {
            bindings::cfrs_unlink(dir.mount().as_ptr(), dir.as_ptr(), victim.as_ptr())
        })
    }
}

impl Drop for LockedDir<'_> {
    fn drop(&mut self) {
        // SAFETY: This task holds the lock by the type invariant.
        unsafe { bindings::cfrs_inode_unlock(self.inode().as_ptr()) }
    }
}
