// SPDX-License-Identifier: GPL-2.0

//! Inodes, and the mark that says that a kernel service uses one.

use super::bindings;
use super::dentry::Dentry;
use super::trace;
use kernel::error::{code::EBUSY, Result};
use kernel::types::Opaque;

/// A `struct inode`, borrowed from the dentry or file that keeps it and its file system.
#[repr(transparent)]
pub(crate) struct Inode(Opaque<bindings::inode>);

impl Inode {
    /// # Safety
    ///
    /// `ptr` must be a valid inode for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::inode) -> &'a Self {
        // SAFETY: The types have one layout, and the caller promises validity.
        unsafe { &*ptr.cast() }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::inode {
        self.0.get()
    }

    /// The inode's number.
    pub(crate) fn number(&self) -> u64 {
        // SAFETY: The inode is valid; its number never changes.
        unsafe { (*self.as_ptr()).i_ino as u64 }
    }

    /// Whether some kernel service has marked the inode as its own.
    pub(crate) fn is_in_use(&self) -> bool {
        // SAFETY: The inode is valid; reads a word that may change at any time.
        unsafe { bindings::cfrs_is_kernel_file(self.as_ptr()) }
    }

    /// Whether both are the same inode.
    pub(crate) fn is(&self, other: &Inode) -> bool {
        core::ptr::eq(self, other)
    }
}

/// `S_KERNEL_FILE` on an inode: while this lives, [`InUse::mark`] of the same inode fails, as does
/// `rmdir` of it, and a cull of it is refused.
///
/// # Invariants
///
/// The inode's flag was clear when this was made, and this has set it.
pub(crate) struct InUse {
    dentry: Dentry,
    /// The number of the object that it is for; `None` if it is not traced.
    owner: Option<u32>,
}

impl InUse {
    /// Sets the mark for the object `owner`, with 0 for a directory, with `None` for what no trace
    /// tells; `EBUSY` if it is set. Takes the inode's lock.
    pub(crate) fn mark(dentry: Dentry, owner: Option<u32>) -> Result<Self> {
        // SAFETY: The inode is valid; the shim takes and drops its lock.
        let is_ours = unsafe { bindings::cfrs_mark_kernel_file(dentry.inode().as_ptr()) };
        if let Some(owner) = owner {
            trace::mark(owner, dentry.inode(), Some(is_ours));
        }
        // INVARIANT: If so, the flag was clear and is set now.
        match is_ours {
            true => Ok(InUse { dentry, owner }),
            false => Err(EBUSY),
        }
    }

    /// The marked inode.
    pub(crate) fn inode(&self) -> &Inode {
        self.dentry.inode()
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // SAFETY: The inode is valid, and by the type invariant the flag is ours to clear.
        unsafe { bindings::cfrs_unmark_kernel_file(self.inode().as_ptr()) }
        if let Some(owner) = self.owner {
            trace::mark(owner, self.inode(), None);
        }
    }
}
