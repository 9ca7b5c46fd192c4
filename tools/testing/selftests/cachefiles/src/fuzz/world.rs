// SPDX-License-Identifier: GPL-2.0

//! What is true: the blobs, the images over them, and what each byte of a file has to be.
//!
//! Lives here: contents, and the judgement on what somebody has read.  Never here: who writes or
//! reads them.

use crate::{
    blob::{Aligned, Blob},
    image::{self, BLOCK},
};
use anyhow::{ensure, Context, Result};
use rustix::{
    fs::{fadvise, seek, Advice, SeekFrom},
    io::Errno,
};
use std::{fs::File, os::unix::fs::FileExt, path::Path};
use walkdir::WalkDir;

/// Blocks of a chunk, as a power of two: reads of up to 32 KiB are in one piece.
const CHUNK: u16 = 3;
const CHUNK_BLOCKS: u64 = 1 << CHUNK;
/// Chunks of an honest blob, and of the other one.
const CHUNKS: u64 = 48;
const FEW_CHUNKS: u64 = 4;

/// The bit by which a lie differs.
const LIE: u8 = 2;

/// A blob, or the metadata of an image, which is one as well.
pub struct Source {
    /// The key of its cookie.
    pub key: String,
    /// What it has.
    pub bytes: Aligned,
    /// Whether the daemon tells nothing but the truth about it.
    pub honest: bool,
}

/// A file of an image, which has the chunks of a blob in another order.
pub struct BlobFile {
    /// Its name.
    pub name: String,
    /// The blob, as an index of [`World::sources`].
    pub source: usize,
    /// How many blocks it has.
    pub blocks: u64,
}

/// An image.
pub struct BlobImage {
    /// Its fsid, the key of its metadata.
    pub fsid: String,
    /// More mount options.
    pub more: &'static str,
    /// Its files.
    pub files: Vec<BlobFile>,
}

/// Everything.
pub struct World {
    /// All that the daemon is asked for.
    pub sources: Vec<Source>,
    /// All that can be mounted.
    pub images: Vec<BlobImage>,
}

impl Source {
    fn blob(number: u64, chunks: u64, honest: bool) -> Source {
        let mut bytes = Aligned::new((chunks * CHUNK_BLOCKS * BLOCK) as usize);
        for (word, at) in bytes.chunks_exact_mut(8).zip(0..) {
            word.copy_from_slice(&truth(number, at).to_le_bytes());
        }
        let key = if honest {
            format!("blob{number}")
        } else {
            "liar".to_owned()
        };
        Source { key, bytes, honest }
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// A range of it, cut at its end.
    pub fn range(&self, offset: u64, len: u64) -> &[u8] {
        let at = |offset: u64| offset.min(self.size()) as usize;
        let range = at(offset)..at(offset.saturating_add(len));
        self.bytes.get(range).unwrap_or_default()
    }
}

/// A word of a blob; no byte of it is zero, and no two words are equal but by chance.
fn truth(number: u64, at: u64) -> u64 {
    let mut word = ((number << 40) | at).wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)) | 0x0101_0101_0101_0101
}

/// Makes lies of the truth.
pub fn lie(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte ^= LIE);
}

/// Which chunk of its blob a file's chunk is: not the same, so that a read at the wrong place shows.
fn shuffled(chunk: u64, chunks: u64) -> u64 {
    (chunk * 5 + 3) % chunks
}

impl World {
    /// Makes it.
    pub fn new() -> World {
        let mut sources = vec![
            Source::blob(0, CHUNKS, true),
            Source::blob(1, CHUNKS, true),
            Source::blob(2, FEW_CHUNKS, false),
        ];
        let mut images = vec![];
        // Two with volumes of their own, two that share one.
        for (fsid, more, blobs) in [
            ("image0", "", &[0, 2]),
            ("image1", "", &[1, 2]),
            ("image2", "domain_id=together", &[0, 1]),
            ("image3", "domain_id=together", &[1, 2]),
        ] {
            let mut image = image::Image::new();
            let mut files = vec![];
            for source in blobs {
                image = image.device(&sources[*source].key);
            }
            for (source, device) in blobs.iter().zip(1..) {
                let blocks = sources[*source].size() / BLOCK;
                let chunks = blocks / CHUNK_BLOCKS;
                let first = |chunk| (shuffled(chunk, chunks) * CHUNK_BLOCKS) as u32;
                let list: Vec<(u16, u32)> = (0..chunks).map(|c| (device, first(c))).collect();
                let name = format!("file{device}");
                image = image.file(&name, CHUNK, list);
                files.push(BlobFile {
                    name,
                    source: *source,
                    blocks,
                });
            }
            images.push(BlobImage {
                fsid: fsid.to_owned(),
                more,
                files,
            });
            let meta = image.build();
            if let Ok(bytes) = meta.read(0, meta.size() as usize) {
                sources.push(Source {
                    key: fsid.to_owned(),
                    bytes,
                    honest: true,
                });
            }
        }
        World { sources, images }
    }

    /// The source with this key.
    pub fn source(&self, key: &[u8]) -> Option<usize> {
        self.sources
            .iter()
            .position(|source| source.key.as_bytes() == key)
    }

    /// Judges what a reader got of a file from a block on.
    pub fn judge(&self, file: &BlobFile, block: u64, got: &[u8]) -> Result<()> {
        let source = self.sources.get(file.source).context("no such source")?;
        let chunks = file.blocks / CHUNK_BLOCKS;
        for (got, block) in got.chunks(BLOCK as usize).zip(block..) {
            let chunk = shuffled(block / CHUNK_BLOCKS, chunks);
            let offset = (chunk * CHUNK_BLOCKS + block % CHUNK_BLOCKS) * BLOCK;
            self.judge_bytes(source, offset, got)
                .with_context(|| format!("block {block} of {}", file.name))?;
        }
        Ok(())
    }

    /// Judges what somebody got of a source.
    fn judge_bytes(&self, source: &Source, offset: u64, got: &[u8]) -> Result<()> {
        let want = source.range(offset, got.len() as u64);
        if got == want {
            return Ok(());
        }
        let is_wrong = |(got, want): (&u8, &u8)| {
            // Behind an end that is a lie there are zeros.
            let lie = *got == *want ^ LIE || *got == 0;
            !(got == want || lie && !source.honest)
        };
        let at = got.iter().zip(want).position(is_wrong);
        let Some(at) = at else {
            ensure!(got.len() == want.len(), "{}: data past its end", source.key);
            return Ok(());
        };
        let show = |bytes: &[u8]| bytes.iter().skip(at).take(8).copied().collect::<Vec<u8>>();
        let wrong = got.iter().zip(want).filter(|pair| is_wrong(*pair)).count();
        anyhow::bail!(
            "WRONG DATA: {} from byte {} on is {:x?} and not {:x?}; {wrong} of {} bytes are wrong",
            source.key,
            offset + at as u64,
            show(got),
            show(want),
            got.len(),
        )
    }

    /// Judges what lies in a cache that is not in service: each extent of data has to be true.
    pub fn judge_cache(&self, dir: &Path) -> Result<u64> {
        let mut bytes = 0;
        for entry in WalkDir::new(dir.join("cache")) {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name().as_encoded_bytes();
            let source = name.strip_prefix(b"D").and_then(|key| self.source(key));
            let Some(source) = source.and_then(|source| self.sources.get(source)) else {
                continue;
            };
            if entry.file_type().is_file() {
                bytes += self
                    .judge_file(source, &File::open(entry.path())?)
                    .with_context(|| format!("in the cache file {}", entry.path().display()))?;
            }
        }
        Ok(bytes)
    }

    fn judge_file(&self, source: &Source, file: &File) -> Result<u64> {
        // A page that was read ahead counts as data where the disk has a block that was allocated
        // and never written.
        fadvise(file, 0, None, Advice::Random)?;
        let (mut at, mut bytes) = (0, 0);
        // What lies past the end nobody reads.
        while at < source.size() {
            let data = match seek(file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            let hole = seek(file, SeekFrom::Hole(data))?.min(source.size());
            let mut got = vec![0; hole.saturating_sub(data) as usize];
            file.read_exact_at(&mut got, data)?;
            self.judge_bytes(source, data, &got)?;
            bytes += got.len() as u64;
            at = hole.max(data + 1);
        }
        Ok(bytes)
    }

    /// The blobs as a daemon of good manners serves them.
    pub fn blobs(&self) -> crate::daemon::Blobs {
        self.sources
            .iter()
            .fold(crate::daemon::Blobs::new(), |blobs, source| {
                let bytes: &[u8] = &source.bytes;
                blobs.with(&source.key, Blob::Bytes(bytes.into()))
            })
    }
}
