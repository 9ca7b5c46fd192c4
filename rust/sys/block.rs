// SPDX-License-Identifier: GPL-2.0

//! Memory that a file system reads into and writes from directly.

use core::ops::{Deref, DerefMut};
use core::slice;
use kernel::alloc::{flags::__GFP_ZERO, Flags, KVec};
use kernel::error::Result;

/// Bytes in a block: a page, which every device can take.
pub(crate) const SIZE: usize = 4096;

#[repr(C, align(4096))]
struct Bytes([u8; SIZE]);

/// Some blocks in a row. They come from kmalloc(): they are aligned to a block, and their memory has a
/// `struct page`.
pub(crate) struct Blocks(KVec<Bytes>);

impl Blocks {
    /// So many blocks of zeros.
    pub(crate) fn zeroed(count: usize, flags: Flags) -> Result<Self> {
        let mut blocks = KVec::with_capacity(count, flags | __GFP_ZERO)?;
        // SAFETY: There is room for as many, and bytes may be zeros, which the memory was filled with.
        unsafe { blocks.set_len(count) };
        Ok(Blocks(blocks))
    }

    pub(super) fn as_ptr(&self) -> *const kernel::ffi::c_void {
        self.0.as_ptr().cast()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut kernel::ffi::c_void {
        self.0.as_mut_ptr().cast()
    }
}

impl Deref for Blocks {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: Each element is an array of `SIZE` bytes and nothing else.
        unsafe { slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * SIZE) }
    }
}

impl DerefMut for Blocks {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: As above; the borrow is ours alone.
        unsafe { slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * SIZE) }
    }
}

// What the shims take for granted.
const _: () = assert!(SIZE == kernel::page::PAGE_SIZE);
