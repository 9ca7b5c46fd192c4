// SPDX-License-Identifier: GPL-2.0

//! Memory that a file system reads into and writes from directly.

use core::ops::{Deref, DerefMut};
use kernel::alloc::{flags::GFP_KERNEL, KBox};
use kernel::error::Result;
use kernel::init::{zeroed, InPlaceInit, Zeroable};

/// Bytes in a block: a page, which every device can take.
pub(crate) const SIZE: usize = 4096;

#[repr(C, align(4096))]
struct Bytes([u8; SIZE]);

// SAFETY: An array of bytes may be all zeros.
unsafe impl Zeroable for Bytes {}

/// One block, aligned to its size, in memory that has a `struct page`.
pub(crate) struct Block(KBox<Bytes>);

impl Block {
    /// A block of zeros. May sleep.
    pub(crate) fn zeroed() -> Result<Self> {
        Ok(Block(KBox::init(zeroed(), GFP_KERNEL)?))
    }

    pub(super) fn as_ptr(&self) -> *const kernel::ffi::c_void {
        core::ptr::from_ref(&*self.0).cast()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut kernel::ffi::c_void {
        core::ptr::from_mut(&mut *self.0).cast()
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0 .0
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0 .0
    }
}

// What the shims take for granted.
const _: () = assert!(SIZE == kernel::page::PAGE_SIZE);
