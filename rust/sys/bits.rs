// SPDX-License-Identifier: GPL-2.0

//! Atomic bit operations on a flags word that C code shares.
//!
//! Which bits there are and what they mean is the business of the word's owner.

use super::bindings;
use core::marker::PhantomData;

/// A borrowed `unsigned long` whose bits C code reads and writes with `set_bit()` and friends.
///
/// # Invariants
///
/// `word` is valid for atomic access for `'a`.
pub(crate) struct Flags<'a> {
    word: *mut usize,
    _owner: PhantomData<&'a usize>,
}

impl Flags<'_> {
    /// Wraps the word at `word`.
    ///
    /// # Safety
    ///
    /// `word` must be valid for as long as the result lives, and be accessed atomically only.
    pub(super) unsafe fn from_raw(word: *mut kernel::ffi::c_ulong) -> Self {
        // INVARIANT: The caller promises validity.
        Flags {
            word: word.cast(),
            _owner: PhantomData,
        }
    }

    /// `test_bit()`.
    pub(crate) fn test(&self, bit: u32) -> bool {
        // As C's: one read, which orders nothing.
        // SAFETY: The word is valid by the type invariant.
        unsafe { self.word.read_volatile() & (1 << bit) != 0 }
    }

    /// `set_bit()`.
    pub(crate) fn set(&self, bit: u32) {
        // SAFETY: The word is valid by the type invariant and only accessed atomically.
        unsafe { bindings::cfrs_set_bit(bit, self.word.cast()) }
    }

    /// `clear_bit()`.
    pub(crate) fn clear(&self, bit: u32) {
        // SAFETY: The word is valid by the type invariant and only accessed atomically.
        unsafe { bindings::cfrs_clear_bit(bit, self.word.cast()) }
    }

    /// `test_and_clear_bit()`: clears the bit and tells whether it was set.
    pub(crate) fn take(&self, bit: u32) -> bool {
        // SAFETY: The word is valid by the type invariant and only accessed atomically.
        unsafe { bindings::cfrs_test_and_clear_bit(bit, self.word.cast()) }
    }
}
