// SPDX-License-Identifier: GPL-2.0

//! Blocks that the daemon has written in part, kept until they are whole.
//!
//! A file system tells data from holes by the block, so that a block written in part would look
//! like data and read as zeros. It stays in memory until the daemon has written all of it; until
//! then the cache does not have it. A block that never becomes whole is forgotten and asked for again.
//! The memory is charged to the daemon.

use crate::sys::block::{Blocks, SIZE};
use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;

/// Blocks kept for one object at most; the oldest is forgotten for a newer one.
const MAX_BLOCKS: usize = 64;

struct Part {
    /// Number of the block in the file; `u64::MAX`, which no block has, for an empty place.
    block: u64,
    /// Which bytes are known, a bit each.
    known: [u64; SIZE / 64],
    /// `None` in an empty place.
    data: Option<Blocks>,
}

impl Part {
    /// Whether the first `needed` bytes are known.
    fn has(&self, needed: usize) -> bool {
        let is_known = |at: usize| {
            let word = self.known.get(at / 64);
            word.is_some_and(|word| (word >> (at % 64)) & 1 == 1)
        };
        (0..needed).all(is_known)
    }
}

/// The incomplete blocks of one object.
pub(crate) struct PartialBlocks {
    parts: KVec<Part>,
    /// Where the next part goes once all places are taken.
    next: usize,
}

impl PartialBlocks {
    /// Without any.
    pub(crate) const fn new() -> Self {
        PartialBlocks {
            parts: KVec::new(),
            next: 0,
        }
    }

    /// Adds `bytes`, at `at` within `block`. If the block's first `needed` bytes are known now, it
    /// is forgotten here and returned, zeros behind what is known.
    pub(crate) fn add(
        &mut self,
        block: u64,
        at: usize,
        bytes: &[u8],
        needed: usize,
    ) -> Result<Option<Blocks>> {
        let end = at.saturating_add(bytes.len());
        if bytes.is_empty() || end > SIZE {
            return Err(EINVAL);
        }
        let index = self.place(block)?;
        let Some(part) = self.parts.as_mut_slice().get_mut(index) else {
            return Err(EINVAL);
        };
        part.block = block;
        for (offset, byte) in (at..).zip(bytes) {
            if let (Some(place), Some(word)) = (
                part.data.as_mut().and_then(|data| data.get_mut(offset)),
                part.known.get_mut(offset / 64),
            ) {
                *place = *byte;
                *word |= 1 << (offset % 64);
            }
        }
        if !part.has(needed) {
            return Ok(None);
        }
        part.block = u64::MAX;
        Ok(part.data.take())
    }

    /// The index of the block's place, or of one that it can have.
    fn place(&mut self, block: u64) -> Result<usize> {
        if let Some(index) = self.parts.iter().position(|part| part.block == block) {
            return Ok(index);
        }
        let data = Some(Blocks::zeroed(1, GFP_KERNEL_ACCOUNT)?);
        let fresh = Part {
            block: u64::MAX,
            known: [0; SIZE / 64],
            data,
        };
        let index = match self.parts.iter().position(|part| part.block == u64::MAX) {
            Some(free) => free,
            None if self.parts.len() < MAX_BLOCKS => {
                self.parts.push(fresh, GFP_KERNEL)?;
                return Ok(self.parts.len() - 1);
            }
            None => {
                self.next = (self.next + 1) % MAX_BLOCKS;
                self.next
            }
        };
        if let Some(place) = self.parts.as_mut_slice().get_mut(index) {
            *place = fresh;
        }
        Ok(index)
    }
}
