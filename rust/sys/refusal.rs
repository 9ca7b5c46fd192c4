// SPDX-License-Identifier: GPL-2.0

//! An error that says what was being done: an errno alone does not tell the admin which of a dozen
//! things a file system lacks.

use kernel::error::Error;
use kernel::str::CStr;

/// Why something was refused.
pub(crate) struct Refusal {
    /// What the kernel said.
    pub(crate) error: Error,
    /// What was being done or is missing, as a clause; may be empty.
    pub(crate) why: &'static CStr,
}

impl Refusal {
    /// An error, with the clause that a shim left at `why`.
    ///
    /// # Safety
    ///
    /// `why` must be null or point to a string literal of the module.
    pub(super) unsafe fn from_shim(error: Error, why: *const kernel::ffi::c_char) -> Self {
        let why = if why.is_null() {
            kernel::c_str!("")
        } else {
            // SAFETY: A string literal, as the caller promises: it ends in NUL and stays.
            unsafe { CStr::from_char_ptr(why.cast()) }
        };
        Refusal { error, why }
    }
}
