// SPDX-License-Identifier: GPL-2.0

//! A blob and a cache file in memory, for the unit tests.
//!
//! Lives here: what stands in for the kernel and a blob source.  Never here: a test.

use std::io;
use std::sync::{Arc, Mutex};

use crate::blobs::Blob;
use crate::transfer::{CacheFile, PAGE};

/// A blob whose bytes are a function of their offset.
pub struct FakeBlob {
    size: u64,
    /// Reads that touch this offset or a later one fail.
    pub broken_from: u64,
}

impl FakeBlob {
    /// A sound blob.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            broken_from: u64::MAX,
        }
    }

    /// The byte at an offset; zero past the end, and never zero before it.
    pub fn byte(&self, offset: u64) -> u8 {
        if offset < self.size {
            (offset % 251) as u8 + 1
        } else {
            0
        }
    }
}

impl Blob for FakeBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        // Short reads are legal, so the fake makes them.
        let len = buf
            .len()
            .min(3000)
            .min(self.size.saturating_sub(offset) as usize);
        if offset + len as u64 > self.broken_from {
            return Err(io::Error::other("the blob is broken"));
        }
        for (i, b) in buf[..len].iter_mut().enumerate() {
            *b = self.byte(offset + i as u64);
        }
        Ok(len)
    }
}

/// What has happened to a [`FakeFile`].
#[derive(Default)]
pub struct Contents {
    /// The pages that hold data.
    pub pages: std::collections::BTreeMap<u64, Vec<u8>>,
    /// Offset and length of every write, in order.
    pub writes: Vec<(u64, usize)>,
    /// The message ids completed, in order.
    pub completed: Vec<u32>,
    /// Whether writes fail.
    pub full: bool,
    /// How many times more the file is sought in vain, as the kernel's is before it is made.
    pub absent_for: u32,
}

/// A cache file in memory, in pages; clones share it.
#[derive(Clone, Default)]
pub struct FakeFile(pub Arc<Mutex<Contents>>);

impl CacheFile for FakeFile {
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        assert_eq!(offset % PAGE as u64, 0, "offset");
        assert_eq!(data.len() % PAGE, 0, "length");
        assert_eq!(data.as_ptr() as usize % PAGE, 0, "address");
        let mut contents = self.0.lock().unwrap();
        if contents.full {
            return Err(io::Error::from(rustix::io::Errno::NOBUFS));
        }
        contents.writes.push((offset, data.len()));
        for (i, page) in data.chunks(PAGE).enumerate() {
            contents
                .pages
                .insert(offset + (i * PAGE) as u64, page.to_vec());
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let contents = self.0.lock().unwrap();
        let page = offset - offset % PAGE as u64;
        Ok(contents
            .pages
            .range(page..)
            .next()
            .map(|(at, _)| offset.max(*at)))
    }

    fn next_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        let mut contents = self.0.lock().unwrap();
        if contents.absent_for > 0 {
            contents.absent_for -= 1;
            return Err(io::Error::from(rustix::io::Errno::NOBUFS));
        }
        let mut at = offset - offset % PAGE as u64;
        if contents.pages.range(at..).next().is_none() {
            return Ok(None);
        }
        while contents.pages.contains_key(&at) {
            at += PAGE as u64;
        }
        Ok(Some(at.max(offset)))
    }

    fn complete_read(&self, msg_id: u32) -> io::Result<()> {
        self.0.lock().unwrap().completed.push(msg_id);
        Ok(())
    }
}
