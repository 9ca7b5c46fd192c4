// SPDX-License-Identifier: GPL-2.0

//! Where a blob's bytes come from.
//!
//! Lives here: files, and a pattern that is known at every offset so that a blob can be as large
//! as a file system allows.  Never here: who asks for them.

use std::{
    fs::File,
    io,
    ops::{Deref, DerefMut},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

/// How much is saved at a time.
const PIECE: usize = 1 << 20;

/// A blob.
#[derive(Clone)]
pub enum Blob {
    /// The bytes of a file.
    File(Arc<File>, u64),
    /// The bytes of [`pattern`].
    Pattern {
        /// Makes blobs differ.
        seed: u64,
        /// How many bytes it has.
        size: u64,
    },
    /// These bytes.
    Bytes(Arc<[u8]>),
}

impl Blob {
    /// The blob that a file holds.
    pub fn file(path: &Path) -> io::Result<Blob> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Blob::File(Arc::new(file), size))
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        match self {
            Blob::File(_, size) | Blob::Pattern { size, .. } => *size,
            Blob::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Writes it into a file, for a daemon that serves files.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        for offset in (0..self.size()).step_by(PIECE) {
            let len = (self.size() - offset).min(PIECE as u64) as usize;
            file.write_all_at(&self.read(offset, len)?, offset)?;
        }
        Ok(())
    }

    /// The bytes of a range; what lies beyond the end is zero.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Aligned> {
        let mut buf = Aligned::new(len);
        match self {
            Blob::File(file, _) => {
                let mut done = 0;
                while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
                    match file.read_at(rest, offset + done as u64)? {
                        0 => break,
                        read => done += read,
                    }
                }
            }
            Blob::Pattern { seed, size } => {
                let inside = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
                let inside = len.min(inside);
                pattern(*seed, offset, buf.get_mut(..inside).unwrap_or_default());
            }
            Blob::Bytes(bytes) => {
                let from = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
                let source = bytes.get(from..).unwrap_or_default();
                for (to, from) in buf.iter_mut().zip(source) {
                    *to = *from;
                }
            }
        }
        Ok(buf)
    }
}

/// Fills `buf` with what a pattern has at `offset`; no 8 bytes of it are zero.
pub fn pattern(seed: u64, offset: u64, buf: &mut [u8]) {
    let word = |at: u64| {
        let word = (at / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed | 0x0101_0101_0101_0101;
        word.to_le_bytes()
    };
    let before = usize::try_from(offset.wrapping_neg() % 8).map_or(0, |len| len.min(buf.len()));
    let (head, rest) = buf.split_at_mut(before);
    for (byte, at) in head.iter_mut().zip(offset..) {
        *byte = word(at)[(at % 8) as usize];
    }
    let mut at = offset + before as u64;
    let mut words = rest.chunks_exact_mut(8);
    for bytes in &mut words {
        bytes.copy_from_slice(&word(at));
        at += 8;
    }
    for (to, from) in words.into_remainder().iter_mut().zip(word(at)) {
        *to = from;
    }
}

/// Bytes at an address that direct I/O takes.
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    const ALIGNMENT: usize = 4096;

    /// Zeros.
    pub fn new(len: usize) -> Aligned {
        let bytes = vec![0; len + Self::ALIGNMENT];
        let start = bytes.as_ptr().align_offset(Self::ALIGNMENT);
        Aligned { bytes, start, len }
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
            .get(self.start..self.start + self.len)
            .unwrap_or_default()
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes
            .get_mut(self.start..self.start + self.len)
            .unwrap_or_default()
    }
}
