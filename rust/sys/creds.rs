// SPDX-License-Identifier: GPL-2.0

//! Credentials: those a task acts under for a while, and questions of privilege.

use super::bindings;
use super::inode::Inode;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::error::{code::*, to_result, Result};
use kernel::str::CStr;

/// A counted reference to a `struct cred` that is not changed any more.
///
/// # Invariants
///
/// `ptr` is valid and one reference to it is ours.
pub(crate) struct Cred {
    ptr: NonNull<bindings::cred>,
}

// SAFETY: `struct cred` is immutable once shared and its count is atomic.
unsafe impl Send for Cred {}
// SAFETY: As above.
unsafe impl Sync for Cred {}

impl Cred {
    /// Kernel credentials made from the current task's, with `secid` as the acting security
    /// label where one was nominated (`prepare_kernel_cred()`, `set_security_override()`).
    pub(crate) fn for_kernel_service(secid: Option<u32>) -> Result<Self> {
        // SAFETY: The current task is a valid model for new credentials.
        let new = unsafe { bindings::cfrs_prepare_kernel_cred() };
        // INVARIANT: A fresh set of credentials has one reference, which is ours.
        let cred = Cred {
            ptr: NonNull::new(new).ok_or(ENOMEM)?,
        };
        if let Some(secid) = secid {
            // SAFETY: The new credentials are ours alone yet, so that they may be changed.
            to_result(unsafe { bindings::set_security_override(cred.ptr.as_ptr(), secid) })?;
        }
        Ok(cred)
    }

    /// A copy under which new files get the security label that belongs beside `dir`
    /// (`set_create_files_as()`).
    pub(crate) fn creating_like(&self, dir: &Inode) -> Result<Self> {
        let new = {
            let _acting = self.assume();
            // SAFETY: Copies the credentials in force, which are `self`.
            NonNull::new(unsafe { bindings::prepare_creds() }).ok_or(ENOMEM)?
        };
        // INVARIANT: `prepare_creds` returned a reference of ours.
        let cred = Cred { ptr: new };
        // SAFETY: The copy is not shared yet; `dir` is a valid inode.
        to_result(unsafe { bindings::set_create_files_as(new.as_ptr(), dir.as_ptr()) })?;
        Ok(cred)
    }

    /// Makes the current task act under these credentials until the guard is dropped.
    pub(crate) fn assume(&self) -> Assumed<'_> {
        // SAFETY: The task gets a reference to them of its own, and the guard its reference to the old.
        let old = unsafe { bindings::cfrs_override_creds(self.ptr.as_ptr()) };
        Assumed {
            old,
            _cred: PhantomData,
        }
    }

    pub(super) fn as_ptr(&self) -> *const bindings::cred {
        self.ptr.as_ptr()
    }
}

impl Drop for Cred {
    fn drop(&mut self) {
        // SAFETY: One reference is ours by the type invariant.
        unsafe { bindings::cfrs_put_cred(self.ptr.as_ptr()) }
    }
}

/// The current task acts under other credentials while this lives.
#[must_use = "the credentials are in force only while the guard lives"]
pub(crate) struct Assumed<'a> {
    old: *const bindings::cred,
    // Not `Send`: the guard belongs to the task that made it.
    _cred: PhantomData<(&'a Cred, *const ())>,
}

impl Drop for Assumed<'_> {
    fn drop(&mut self) {
        // SAFETY: The guard's reference becomes the task's again; the one that the task has is put. So
        // the counts are right even if guards are not dropped in turn.
        unsafe { bindings::cfrs_revert_creds(self.old) }
    }
}

/// Whether the current task has `CAP_SYS_ADMIN`.
pub(crate) fn is_sys_admin() -> bool {
    // SAFETY: Looks at the current task only.
    unsafe { bindings::cfrs_capable_sys_admin() }
}

/// The security module's number for the context `ctx` (`security_secctx_to_secid()`).
pub(crate) fn security_id(ctx: &CStr) -> Result<u32> {
    let len = u32::try_from(ctx.len())?;
    let mut secid = 0;
    // SAFETY: `ctx` is readable for `len` bytes and a NUL, which some modules look for instead of
    // the length; `secid` is writable.
    to_result(unsafe {
        bindings::cfrs_secctx_to_secid(ctx.as_char_ptr().cast(), len, &mut secid)
    })?;
    Ok(secid)
}
