// SPDX-License-Identifier: GPL-2.0

//! How bytes come out of a blob and into a cache file.
//!
//! Lives here: the page-aligned buffer, the rule of the last page, and the trait that stands for
//! an object's cache file.  Never here: deciding what is copied, or when.
//!
//! The kernel writes cache files with O_DIRECT, so what we hand it begins at a multiple of the
//! page, is a multiple of the page long and lies page-aligned in memory.  A blob whose size is
//! not such a multiple gets its last page filled up with zeros; the kernel knows the true size
//! from the OPEN and shows the rest to no reader.

use std::io;
use std::ops::Range;

use cachefiles_client::ObjectFd;
use rustix::io::Errno;

use crate::blobs::Blob;

/// What offsets, lengths and addresses are multiples of.
pub const PAGE: usize = 4096;

/// The next multiple of the page at or after `offset`.  One so far up that there is none stays at
/// the last one, which no blob reaches.
pub fn round_up(offset: u64) -> u64 {
    let page = PAGE as u64;
    offset
        .checked_next_multiple_of(page)
        .unwrap_or(round_down(u64::MAX))
}

/// The last multiple of the page at or before `offset`.
pub fn round_down(offset: u64) -> u64 {
    offset - offset % PAGE as u64
}

/// An object's cache file as the daemon sees it; tests have one in memory.
pub trait CacheFile: Send + Sync {
    /// Writes all of `data` at `offset`.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Where data begins at or after `offset`; none if there is only a hole to the end.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;

    /// Where a hole begins at or after `offset`; none past the end of the file.
    fn next_hole(&self, offset: u64) -> io::Result<Option<u64>>;

    /// Tells the kernel that the READ of this message is answered.
    fn complete_read(&self, msg_id: u32) -> io::Result<()>;
}

impl CacheFile for ObjectFd {
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        ObjectFd::write_all_at(self, data, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        past_the_end_is_none(self.seek(cachefiles_client::SeekFrom::Data(offset)))
    }

    fn next_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        past_the_end_is_none(self.seek(cachefiles_client::SeekFrom::Hole(offset)))
    }

    fn complete_read(&self, msg_id: u32) -> io::Result<()> {
        ObjectFd::complete_read(self, msg_id)
    }
}

/// SEEK_DATA and SEEK_HOLE answer ENXIO when there is nothing more to find.
fn past_the_end_is_none(sought: io::Result<u64>) -> io::Result<Option<u64>> {
    match sought {
        Ok(offset) => Ok(Some(offset)),
        Err(e) if e.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The first piece of `range` that the cache file does not hold yet, if any.
pub fn first_missing(file: &dyn CacheFile, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    if range.is_empty() {
        return Ok(None);
    }
    // Past the end of the cache file there is no hole to find, but there is no data either.
    let start = match file.next_hole(range.start)? {
        Some(hole) => hole.max(range.start),
        None => range.start,
    };
    // The file system may know holes in finer grain than the page; we write whole pages.
    let start = round_down(start).max(range.start);
    if start >= range.end {
        return Ok(None);
    }
    let end = match file.next_data(start)? {
        // Data in the very page of the hole: that page is written again, with the same bytes.
        Some(data) => round_up(data.max(start + 1)).min(range.end),
        None => range.end,
    };
    Ok(Some(start..end))
}

/// Memory that begins on a page boundary, without an `unsafe` allocation: a page more than is
/// needed, of which the aligned part is used.
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// A buffer of `len` bytes, a multiple of the page.
    pub fn new(len: usize) -> Self {
        assert!(len > 0 && len % PAGE == 0, "a buffer is whole pages");
        let memory = vec![0; len + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        Self { memory, start, len }
    }

    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// Reads `range` of the blob, both ends multiples of the page and no longer than the buffer,
    /// and returns the bytes to write: less than the range if the blob ends in it, none if it
    /// ends before it.
    pub fn load(&mut self, blob: &dyn Blob, range: Range<u64>) -> io::Result<&[u8]> {
        let end = range.end.min(round_up(blob.size()));
        let Some(len) = end
            .checked_sub(range.start)
            .and_then(|l| usize::try_from(l).ok())
        else {
            return Ok(&[]);
        };
        let wanted = usize::try_from(blob.size().saturating_sub(range.start))
            .unwrap_or(usize::MAX)
            .min(len);
        let bytes = &mut self.bytes()[..len];
        let mut have = 0;
        while have < wanted {
            match blob.read_at(&mut bytes[have..wanted], range.start + have as u64) {
                Ok(0) => {
                    let text = "the blob has become shorter than it was when it was opened";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        bytes[wanted..].fill(0);
        Ok(bytes)
    }
}

/// Copies `range` of the blob, both ends multiples of the page, into the cache file, in as few
/// writes as the buffer allows.  Returns the number of bytes written.
pub fn copy(
    blob: &dyn Blob,
    file: &dyn CacheFile,
    range: Range<u64>,
    buffer: &mut AlignedBuffer,
) -> io::Result<u64> {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at.saturating_add(buffer.len() as u64));
        let bytes = buffer.load(blob, at..end)?;
        if bytes.is_empty() {
            break;
        }
        file.write_all_at(bytes, at)?;
        at += bytes.len() as u64;
    }
    Ok(at - range.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeBlob, FakeFile};

    const KB: u64 = 1024;

    fn check(file: &FakeFile, blob: &FakeBlob, range: Range<u64>) {
        let contents = file.0.lock().unwrap();
        for at in range.step_by(PAGE) {
            let page = &contents.pages[&at];
            for (i, byte) in page.iter().enumerate() {
                assert_eq!(*byte, blob.byte(at + i as u64), "at {at} + {i}");
            }
        }
    }

    #[test]
    fn a_copy_is_whole_pages_with_zeros_after_the_end() {
        let (blob, file) = (FakeBlob::new(20_000), FakeFile::default());
        let mut buffer = AlignedBuffer::new(2 * PAGE);
        let copied = copy(&blob, &file, 0..64 * KB, &mut buffer).unwrap();
        assert_eq!(copied, 20 * KB);
        check(&file, &blob, 0..20 * KB);
        let writes = file.0.lock().unwrap().writes.clone();
        assert_eq!(writes, [(0, 8192), (8192, 8192), (16384, 4096)]);
    }

    #[test]
    fn nothing_is_written_past_the_end_or_for_a_broken_blob() {
        let (mut blob, file) = (FakeBlob::new(8192), FakeFile::default());
        let mut buffer = AlignedBuffer::new(PAGE);
        assert_eq!(copy(&blob, &file, 8192..16384, &mut buffer).unwrap(), 0);
        assert_eq!(
            copy(&blob, &file, 1 << 40..1 << 41, &mut buffer).unwrap(),
            0
        );
        blob.broken_from = 5000;
        assert!(copy(&blob, &file, 4096..8192, &mut buffer).is_err());
        assert!(file.0.lock().unwrap().writes.is_empty());
    }

    #[test]
    fn a_blob_that_shrinks_is_an_error_and_not_zeros() {
        struct Shrunk;
        impl Blob for Shrunk {
            fn size(&self) -> u64 {
                8192
            }
            fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
                Ok(0)
            }
        }
        let mut buffer = AlignedBuffer::new(2 * PAGE);
        let error = buffer.load(&Shrunk, 0..8192).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn missing_ranges_are_found_between_data() {
        let (blob, file) = (FakeBlob::new(1 << 20), FakeFile::default());
        let missing = |range| first_missing(&file, range).unwrap();
        assert_eq!(missing(0..64 * KB), Some(0..64 * KB));
        assert_eq!(missing(0..0), None);
        let mut buffer = AlignedBuffer::new(16 * PAGE);
        copy(&blob, &file, 8 * KB..16 * KB, &mut buffer).unwrap();
        copy(&blob, &file, 32 * KB..36 * KB, &mut buffer).unwrap();
        assert_eq!(missing(0..64 * KB), Some(0..8 * KB));
        assert_eq!(missing(8 * KB..64 * KB), Some(16 * KB..32 * KB));
        assert_eq!(missing(8 * KB..16 * KB), None);
        assert_eq!(missing(12 * KB..20 * KB), Some(16 * KB..20 * KB));
        assert_eq!(missing(32 * KB..64 * KB), Some(36 * KB..64 * KB));
        assert_eq!(missing(36 * KB..64 * KB), Some(36 * KB..64 * KB));
    }

    #[test]
    fn rounding_stays_in_the_numbers() {
        assert_eq!(round_up(0), 0);
        assert_eq!(round_up(1), 4096);
        assert_eq!(round_up(u64::MAX), u64::MAX - 4095);
        assert_eq!(round_down(4097), 4096);
    }
}
