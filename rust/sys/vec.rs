// SPDX-License-Identifier: GPL-2.0

//! What [`KVec`] of 6.12 lacks.

use kernel::alloc::KVec;

/// Removes the last element.
pub(crate) fn pop<T>(vec: &mut KVec<T>) -> Option<T> {
    let len = vec.len().checked_sub(1)?;
    // SAFETY: The last element is initialised. The length shrinks before the element is moved out,
    // so that the vector does not own it any more.
    unsafe {
        vec.set_len(len);
        Some(vec.as_ptr().add(len).read())
    }
}
