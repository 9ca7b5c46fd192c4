// SPDX-License-Identifier: GPL-2.0

//! Parts of blocks that the daemon has written, kept until their block is whole.
//!
//! A file system tells data from holes by the block, so that a block written in part would look
//! like data and read as zeros. It stays here until the daemon has written all of it; until then
//! the cache does not have it. What is never completed is forgotten and asked for again.

use super::BLOCK;
use kernel::prelude::*;

/// Blocks kept for one object at most; the oldest is forgotten for a newer one.
const MAX_BLOCKS: usize = 64;

/// Bytes in a block.
const SIZE: usize = BLOCK as usize;

struct Part {
    /// Number of the block in the file.
    block: u64,
    /// The bytes `from..to` are known.
    from: usize,
    to: usize,
    data: KVec<u8>,
}

/// The incomplete blocks of one object.
pub(crate) struct Staging {
    parts: KVec<Part>,
    /// Where the next part goes once all places are taken.
    next: usize,
}

impl Staging {
    /// Without any.
    pub(crate) const fn new() -> Self {
        Staging {
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
    ) -> Result<Option<KVec<u8>>> {
        let end = at.saturating_add(bytes.len());
        if bytes.is_empty() || end > SIZE {
            return Err(EINVAL);
        }
        let index = self.place(block)?;
        let Some(part) = self.parts.as_mut_slice().get_mut(index) else {
            return Err(EINVAL);
        };
        if part.block != block || at > part.to || end < part.from {
            // Another block's place, or bytes that do not touch what there is.
            *part = Part {
                block,
                from: at,
                to: end,
                data: core::mem::replace(&mut part.data, KVec::new()),
            };
            part.data.as_mut_slice().fill(0);
        } else {
            part.from = part.from.min(at);
            part.to = part.to.max(end);
        }
        if let Some(room) = part.data.as_mut_slice().get_mut(at..end) {
            room.copy_from_slice(bytes);
        }
        if part.from > 0 || part.to < needed {
            return Ok(None);
        }
        // A place without a block: no file has one of this number.
        part.block = u64::MAX;
        Ok(Some(core::mem::replace(&mut part.data, KVec::new())))
    }

    /// The index of the block's place, or of one that it can have.
    fn place(&mut self, block: u64) -> Result<usize> {
        if let Some(index) = self.parts.iter().position(|part| part.block == block) {
            return Ok(index);
        }
        let data = KVec::from_elem(0, SIZE, GFP_KERNEL)?;
        let fresh = Part {
            block: u64::MAX,
            from: 0,
            to: 0,
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
