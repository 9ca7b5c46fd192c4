// SPDX-License-Identifier: GPL-2.0

//! A bit for each piece of a file. Pure core Rust: the host's tests compile this same file. Never here:
//! what a bit says, or for how long that is true.

use core::ops::Range;

/// Bytes in a block, the smallest piece.
const BLOCK_SHIFT: u32 = 12;

/// Words in a map at most.
pub const MAX_WORDS: usize = 4096;

/// How the bits of a map stand for the bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Bytes in a piece, as a power of 2.
    shift: u32,
}

impl Scale {
    /// For a file of `size` bytes: blocks up to 1 GiB, and larger pieces for a larger file.
    pub fn of(size: u64) -> Self {
        let mut shift = BLOCK_SHIFT;
        while size >> shift > MAX_WORDS as u64 * 64 {
            shift += 1;
        }
        Scale { shift }
    }

    /// Words in the map of a file of `size` bytes.
    pub fn words(self, size: u64) -> usize {
        // CAST: At most `MAX_WORDS`, if this is the scale of the size.
        (size >> self.shift).div_ceil(64) as usize
    }

    /// Notes all pieces that are wholly in `bytes`.
    pub fn set(self, map: &mut [u64], bytes: Range<u64>) {
        let whole = (1u64 << self.shift) - 1;
        let first = bytes.start.saturating_add(whole) >> self.shift;
        let last = (bytes.end >> self.shift).min(map.len() as u64 * 64);
        let mut bit = first;
        while bit < last {
            let (index, from) = ((bit / 64) as usize, bit % 64);
            let count = (64 - from).min(last - bit);
            if let Some(word) = map.get_mut(index) {
                *word |= (u64::MAX >> (64 - count)) << from;
            }
            bit += count;
        }
    }

    /// How far, from its start on, `bytes` are in pieces that were noted.
    pub fn noted_to(self, map: &[u64], bytes: Range<u64>) -> u64 {
        let mut bit = bytes.start >> self.shift;
        while bit << self.shift < bytes.end {
            // CAST: An index that is too large for the map has no word.
            let word = map.get((bit / 64) as usize).copied().unwrap_or(0);
            let left = u64::from((!(word >> (bit % 64))).trailing_zeros());
            if left == 0 {
                break;
            }
            bit += left.min(64 - bit % 64);
        }
        (bit << self.shift).clamp(bytes.start, bytes.end)
    }
}
