// SPDX-License-Identifier: GPL-2.0

//! How a range of bytes fits the blocks that direct I/O writes. Pure: numbers only.

/// What becomes of the bytes of a write, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Bytes at the start that lie in a block which begins earlier: left out.
    pub head: usize,
    /// Bytes in whole blocks: written.
    pub body: usize,
    /// Bytes at the end that do not fill a block: left out.
    pub tail: usize,
    /// Bytes by which the write has become longer, to fill the block that the netfs's file ends in.
    pub more: usize,
}

/// Fits `len` bytes at `start`, the file being `file_size` long, into blocks of `block` bytes.
/// Where the bytes end with the file, up to `extendable` bytes may be added.
pub fn fit(start: u64, len: usize, file_size: u64, extendable: usize, block: u64) -> Fit {
    // CAST: All remainders are less than a block, which is no more than a few pages.
    let head = (start.wrapping_neg() % block) as usize;
    if head >= len {
        return Fit {
            head: len,
            body: 0,
            tail: 0,
            more: 0,
        };
    }
    let mut rest = len - head;
    let mut tail = (rest as u64 % block) as usize;
    let need = block as usize - tail;
    let ends_with_file = start.checked_add(len as u64) == Some(file_size);
    let more = if tail > 0 && ends_with_file && extendable >= need {
        need
    } else {
        0
    };
    if more > 0 {
        rest += more;
        tail = 0;
    }
    Fit {
        head,
        body: rest - tail,
        tail,
        more,
    }
}
