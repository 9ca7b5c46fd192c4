// SPDX-License-Identifier: GPL-2.0

//! Inodes, and the mark that says that a kernel service uses one.

use super::bindings;
use super::trace;
use core::ptr::NonNull;

/// A counted reference to a `struct inode`.
///
/// # Invariants
///
/// `ptr` is valid and one reference to it is ours.
pub(crate) struct Inode {
    ptr: NonNull<bindings::inode>,
}

// SAFETY: The inode's count is atomic and its fields are read under its own rules.
unsafe impl Send for Inode {}
// SAFETY: As above.
unsafe impl Sync for Inode {}

impl Inode {
    /// Takes a new reference to the inode at `ptr`; `None` if there is none.
    ///
    /// # Safety
    ///
    /// `ptr` must be null or a valid inode with at least one reference.
    pub(super) unsafe fn grab(ptr: *mut bindings::inode) -> Option<Self> {
        let ptr = NonNull::new(ptr)?;
        // SAFETY: The caller promises that the inode has a reference already.
        unsafe { bindings::ihold(ptr.as_ptr()) };
        // INVARIANT: The reference just taken is ours.
        Some(Inode { ptr })
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::inode {
        self.ptr.as_ptr()
    }

    /// The inode's number.
    pub(crate) fn number(&self) -> u64 {
        // SAFETY: The inode is valid; its number never changes.
        unsafe { (*self.ptr.as_ptr()).i_ino as u64 }
    }

    /// Whether some kernel service has marked the inode as its own.
    pub(crate) fn is_in_use(&self) -> bool {
        // SAFETY: The inode is valid.
        unsafe { bindings::cfrs_is_kernel_file(self.ptr.as_ptr()) }
    }

    /// Whether both are the same inode.
    pub(crate) fn is(&self, other: &Inode) -> bool {
        self.ptr == other.ptr
    }
}

impl Clone for Inode {
    fn clone(&self) -> Self {
        // SAFETY: The inode is valid and has our reference.
        unsafe { bindings::ihold(self.ptr.as_ptr()) };
        // INVARIANT: The reference just taken belongs to the clone.
        Inode { ptr: self.ptr }
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        // SAFETY: One reference is ours by the type invariant.
        unsafe { bindings::iput(self.ptr.as_ptr()) }
    }
}

/// `S_KERNEL_FILE` on an inode: while this lives, nobody else's [`InUse::mark`] of the same inode
/// succeeds, `rmdir` of it fails, and a cull of it is refused.
///
/// # Invariants
///
/// The inode's flag was clear when this was made, and this has set it.
pub(crate) struct InUse {
    inode: Inode,
    /// The number of whose it is; `None` if it is not traced.
    owner: Option<u32>,
}

impl InUse {
    /// Sets the mark for the object `owner`, with 0 for a directory, with `None` for what no trace tells;
    /// gives the inode back if somebody has it already. Takes the inode's lock.
    pub(crate) fn mark(inode: Inode, owner: Option<u32>) -> Result<Self, Inode> {
        // SAFETY: The inode is valid; the shim takes and drops its lock.
        let is_ours = unsafe { bindings::cfrs_mark_kernel_file(inode.as_ptr()) };
        if let Some(owner) = owner {
            trace::mark(owner, &inode, Some(is_ours));
        }
        if is_ours {
            // INVARIANT: The flag was clear and is set now.
            Ok(InUse { inode, owner })
        } else {
            Err(inode)
        }
    }

    /// The marked inode.
    pub(crate) fn inode(&self) -> &Inode {
        &self.inode
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // SAFETY: The inode is valid, and by the type invariant the flag is ours to clear.
        unsafe { bindings::cfrs_unmark_kernel_file(self.inode.as_ptr()) }
        if let Some(owner) = self.owner {
            trace::mark(owner, &self.inode, None);
        }
    }
}
