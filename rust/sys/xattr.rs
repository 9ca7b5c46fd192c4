// SPDX-License-Identifier: GPL-2.0

//! Extended attributes of a dentry. What is in them is the caller's business.

use super::bindings;
use super::dentry::Dentry;
use super::to_count;
use kernel::error::{to_result, Result};
use kernel::str::CStr;

/// Sets the attribute `name` to `value`.
pub(crate) fn set(dentry: &Dentry, name: &CStr, value: &[u8]) -> Result {
    // SAFETY: The dentry is positive and on its mount; `value` is readable for its length.
    to_result(unsafe {
        bindings::cfrs_set_xattr(
            dentry.mount().as_ptr(),
            dentry.as_ptr(),
            name.as_char_ptr().cast(),
            value.as_ptr().cast(),
            value.len(),
        )
    })
}

/// Removes the attribute `name`.
pub(crate) fn remove(dentry: &Dentry, name: &CStr) -> Result {
    // SAFETY: The dentry is positive and on its mount.
    to_result(unsafe {
        bindings::cfrs_remove_xattr(
            dentry.mount().as_ptr(),
            dentry.as_ptr(),
            name.as_char_ptr().cast(),
        )
    })
}

/// Reads the attribute `name` into `value` and returns its length; `ERANGE` if it is longer.
pub(crate) fn get(dentry: &Dentry, name: &CStr, value: &mut [u8]) -> Result<usize> {
    // SAFETY: The dentry is positive; `value` is writable for its length.
    to_count(unsafe {
        bindings::cfrs_get_xattr(
            dentry.as_ptr(),
            name.as_char_ptr().cast(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    })
}
