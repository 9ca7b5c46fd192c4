// SPDX-License-Identifier: GPL-2.0

//! Watching an inode for changes by others: writes, truncates, holes, clones (fsnotify).
//!
//! Files that [`File`](super::file::File) opens notify of nothing, so what they write is not counted.
//! Never here: what a change means.

use super::bindings;
use super::inode::Inode;
use core::ptr::{addr_of, null_mut, NonNull};
use kernel::error::from_err_ptr;
use kernel::prelude::*;

/// A watch on an inode, until it is dropped, which may sleep.
///
/// # Invariants
///
/// `ptr` was made by `cfrs_watch_inode()`, and is ours.
pub(crate) struct Watch {
    ptr: NonNull<bindings::cfrs_watch>,
}

// SAFETY: A mark locks itself and may be removed by any task.
unsafe impl Send for Watch {}
// SAFETY: As above.
unsafe impl Sync for Watch {}

impl Watch {
    /// Watches `inode`, and counts the changes from now on.
    pub(crate) fn new(inode: &Inode) -> Result<(Self, Changes)> {
        let mut changes = null_mut();
        // SAFETY: The inode is valid, and the module's group exists, as `Facilities` says.
        let watch = unsafe { bindings::cfrs_watch_inode(inode.as_ptr(), &mut changes) };
        let watch = from_err_ptr(watch)?;
        let (Some(watch), Some(changes)) = (NonNull::new(watch), NonNull::new(changes)) else {
            return Err(ENOMEM);
        };
        // INVARIANT: Both were just made for us.
        Ok((Watch { ptr: watch }, Changes { ptr: changes }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: The mark is ours by the type invariant, and given up.
        unsafe { bindings::cfrs_unwatch(self.ptr.as_ptr()) }
    }
}

/// The count of changes that a [`Watch`] leads. It may outlive the watch.
///
/// # Invariants
///
/// `ptr` is valid, and one of its references is ours.
pub(crate) struct Changes {
    ptr: NonNull<bindings::cfrs_changes>,
}

// SAFETY: Both fields are atomic.
unsafe impl Send for Changes {}
// SAFETY: As above.
unsafe impl Sync for Changes {}

impl Changes {
    /// How many there have been; wraps around. A change is counted when it has been made.
    #[inline]
    pub(crate) fn count(&self) -> i32 {
        // SAFETY: Valid by the type invariant; a word that changes at any time, read as one.
        unsafe { addr_of!((*self.ptr.as_ptr()).count.counter).read_volatile() }
    }

    /// Makes a change of our own, which is counted before and after, and not as it is made. One at a time.
    pub(crate) fn around<T>(&self, change: impl FnOnce() -> T) -> T {
        // SAFETY: Valid by the type invariant.
        unsafe { bindings::cfrs_own_change(self.ptr.as_ptr(), true) };
        let done = change();
        // SAFETY: As above.
        unsafe { bindings::cfrs_own_change(self.ptr.as_ptr(), false) };
        done
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant. Callable from any context.
        unsafe { bindings::cfrs_put_changes(self.ptr.as_ptr()) }
    }
}
