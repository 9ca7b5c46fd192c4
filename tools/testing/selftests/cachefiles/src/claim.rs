// SPDX-License-Identifier: GPL-2.0

//! What a cache on disk says it has, read without the module.
//!
//! Lives here: the cache's layout as an administrator finds it, whose files are whole blocks of
//! their blobs wherever they have no hole.  Never here: how the files came to be so.

use crate::blob::Blob;
use anyhow::{ensure, Context, Result};
use rustix::{
    fs::{seek, SeekFrom},
    io::Errno,
};
use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use walkdir::WalkDir;

/// The attribute that makes a file of the cache valid.
const ATTRIBUTE: &str = "user.CacheFiles.cache";
/// Size, zero point, type, content.
const HEADER: usize = 18;
/// The content of a file that was being changed.
const DIRTY: u8 = 4;
/// How much is compared at a time.
const PIECE: u64 = 1 << 20;

/// A file of the cache.
pub struct Claim {
    /// The cookie's key.
    pub key: String,
    /// Whether its attribute is one of EROFS's, which has no coherency data of its own.
    pub valid: bool,
    /// The size that the attribute tells.
    pub size: u64,
    /// Where it has data.
    pub ranges: Vec<Range<u64>>,
    file: File,
}

/// Everything that the cache in this directory claims to have.
pub fn claims(dir: &Path) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    let cache = dir.join("cache");
    if !cache.exists() {
        return Ok(claims);
    }
    for entry in WalkDir::new(&cache).sort_by_file_name() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if let (true, Some(key)) = (entry.file_type().is_file(), name.strip_prefix('D')) {
            let claim = claim(entry.path(), key);
            claims.push(claim.with_context(|| entry.path().display().to_string())?);
        }
    }
    Ok(claims)
}

/// The attribute of a file of the cache; nothing if it has none.
fn attribute(file: &File) -> Result<Vec<u8>> {
    let mut bytes = [0; 256];
    match rustix::fs::fgetxattr(file, ATTRIBUTE, &mut bytes) {
        Ok(len) => Ok(bytes.get(..len).unwrap_or_default().to_vec()),
        Err(Errno::NODATA) => Ok(vec![]),
        Err(error) => Err(error.into()),
    }
}

fn is_marked(attribute: &[u8]) -> bool {
    attribute.get(HEADER - 1) == Some(&DIRTY)
}

/// Whether the one file that the cache in this directory has, whatever its key, is marked as being
/// changed.
pub fn only_file_is_marked(dir: &Path) -> Result<bool> {
    match &cache_files(dir)[..] {
        [path] => Ok(is_marked(&attribute(&File::open(path)?)?)),
        paths => anyhow::bail!("{} files in the cache", paths.len()),
    }
}

/// The files under a cache's directory.
pub fn cache_files(dir: &Path) -> Vec<PathBuf> {
    WalkDir::new(dir.join("cache"))
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.into_path())
        .collect()
}

fn claim(path: &Path, key: &str) -> Result<Claim> {
    let file = File::open(path)?;
    let attribute = attribute(&file)?;
    let size = attribute
        .first_chunk()
        .map_or(0, |size| u64::from_be_bytes(*size));
    let valid = attribute.len() == HEADER && !is_marked(&attribute);
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = seek(&file, SeekFrom::Hole(start))?;
        ranges.push(start..at);
    }
    let key = key.to_owned();
    Ok(Claim {
        key,
        valid,
        size,
        ranges,
        file,
    })
}

impl Claim {
    /// How many bytes it claims.
    pub fn bytes(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// Every byte that it claims must be the blob's.
    pub fn compare(&self, blob: &Blob) -> Result<()> {
        let Claim { key, size, .. } = self;
        ensure!(
            *size == blob.size(),
            "{key} is cached with a size of {size}"
        );
        for range in &self.ranges {
            for from in range.clone().step_by(PIECE as usize) {
                // Of the last block the part behind the blob's end is nobody's.
                let to = range.end.min(from + PIECE).min(blob.size());
                let len = usize::try_from(to.saturating_sub(from))?;
                let mut got = vec![0; len];
                self.file.read_exact_at(&mut got, from)?;
                let want = blob.read(from, len)?;
                let wrong = got.iter().zip(&*want).position(|(got, want)| got != want);
                if let Some(at) = wrong {
                    let at = from + at as u64;
                    anyhow::bail!("{key} is cached wrongly at {at}, in the data {range:?}");
                }
            }
        }
        Ok(())
    }
}
