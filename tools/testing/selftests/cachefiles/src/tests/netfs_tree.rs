// SPDX-License-Identifier: GPL-2.0

//! What the ordinary mode has left on disk, so that two caches can be compared.
//!
//! Lives here: modes, sizes, attributes and data of a cache's files, hole by hole, under names that
//! do not depend on which inodes a server has given.  Never here: how they came to be so.

use anyhow::{ensure, Context, Result};
use rustix::{
    fs::{getxattr, listxattr, seek, SeekFrom},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use walkdir::WalkDir;

const BLOCK: u64 = 4096;
const ATTRIBUTE: &str = "user.CacheFiles.cache";
/// Size, zero point, type, content; then comes what the netfs knows its files' versions by.
const HEADER: usize = 18;

/// An entry of a cache.
#[derive(PartialEq)]
struct Entry {
    mode: u32,
    size: u64,
    attributes: Vec<(String, Vec<u8>)>,
    data: Vec<u8>,
    /// Where the data is no hole.
    extents: Vec<Range<u64>>,
}

/// A cache.
pub(super) struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    /// Everything in the cache in this directory, each entry under the name that `label` gives it.
    pub(super) fn read(cache: &Path, label: impl Fn(&Path) -> PathBuf) -> Result<Tree> {
        let root = cache.join("cache");
        let mut entries = BTreeMap::new();
        for entry in WalkDir::new(&root) {
            let entry = entry?;
            let name = label(entry.path().strip_prefix(&root)?);
            let read = Entry::read(entry.path())
                .with_context(|| format!("reading {}", entry.path().display()))?;
            let other = entries.insert(name.clone(), read);
            ensure!(other.is_none(), "{} is there twice", name.display());
        }
        Ok(Tree(entries))
    }

    /// How many files there are.
    pub(super) fn files(&self) -> usize {
        self.0.values().filter(|entry| entry.is_file()).count()
    }

    /// Forgets what the netfs knows the versions of files by.
    pub(super) fn without_versions(mut self) -> Tree {
        for entry in self.0.values_mut().filter(|entry| entry.is_file()) {
            for (_, value) in &mut entry.attributes {
                if let Some(version) = value.get_mut(HEADER..) {
                    version.fill(0);
                }
            }
        }
        self
    }

    /// Fails if the caches that C's module and ours have made differ.
    pub(super) fn compare(theirs: &Tree, ours: &Tree) -> Result<()> {
        let mut names: Vec<&PathBuf> = theirs.0.keys().chain(ours.0.keys()).collect();
        names.sort();
        names.dedup();
        let mut wrong = Vec::new();
        for name in names {
            let difference = match (theirs.0.get(name), ours.0.get(name)) {
                (Some(theirs), Some(ours)) => theirs.differs_from(ours),
                (Some(_), None) => Some("C alone has it".to_owned()),
                (None, _) => Some("we alone have it".to_owned()),
            };
            if let Some(difference) = difference {
                wrong.push(format!("{}: {difference}", name.display()));
            }
        }
        let count = wrong.len();
        // The first few tell enough.
        wrong.truncate(8);
        ensure!(
            wrong.is_empty(),
            "{count} entries differ, such as:\n{}",
            wrong.join("\n")
        );
        Ok(())
    }
}

impl Entry {
    fn read(path: &Path) -> Result<Entry> {
        let meta = fs::symlink_metadata(path)?;
        let mut names = vec![0; 1024];
        let len = listxattr(path, &mut names[..])?;
        let mut attributes = Vec::new();
        for name in names[..len].split(|byte| *byte == 0) {
            if !name.is_empty() {
                let mut value = vec![0; 1024];
                let len = getxattr(path, name, &mut value[..])?;
                value.truncate(len);
                attributes.push((String::from_utf8_lossy(name).into_owned(), value));
            }
        }
        attributes.sort();
        let (data, extents) = if meta.is_file() {
            (fs::read(path)?, extents(&File::open(path)?)?)
        } else {
            (Vec::new(), Vec::new())
        };
        Ok(Entry {
            mode: meta.mode(),
            size: if meta.is_file() { meta.size() } else { 0 },
            attributes,
            data,
            extents,
        })
    }

    fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    fn has(&self, block: u64) -> bool {
        self.extents
            .iter()
            .any(|extent| extent.contains(&(block * BLOCK)))
    }

    /// The size that the attribute tells.
    fn object_size(&self) -> Option<u64> {
        let value = self.attributes.iter().find(|(name, _)| name == ATTRIBUTE);
        Some(u64::from_be_bytes(*value?.1.first_chunk()?))
    }

    fn differs_from(&self, ours: &Entry) -> Option<String> {
        if (self.mode, self.size) != (ours.mode, ours.size) {
            let (mode, size) = (self.mode, self.size);
            return Some(format!(
                "C's has {size} bytes and mode {mode:o}, ours {} and {:o}",
                ours.size, ours.mode
            ));
        }
        if self.attributes != ours.attributes {
            return Some(format!(
                "C's has {:x?}, ours {:x?}",
                self.attributes, ours.attributes
            ));
        }
        // netfs stores the page that a file ends in if it has zeroed the rest of it before the
        // server's answer came.
        let end = self.object_size().filter(|size| size % BLOCK != 0);
        for block in 0..self.size.div_ceil(BLOCK) {
            let (theirs, own) = (self.has(block), ours.has(block));
            if theirs != own && end.map(|end| end / BLOCK) != Some(block) {
                let who = if theirs { "C" } else { "ours" };
                return Some(format!("only {who} has the block {block}"));
            }
            let range = (block * BLOCK) as usize..((block + 1) * BLOCK).min(self.size) as usize;
            if theirs && own && self.data.get(range.clone()) != ours.data.get(range) {
                return Some(format!("the block {block} is not the same"));
            }
        }
        None
    }
}

fn extents(file: &File) -> Result<Vec<Range<u64>>> {
    let mut extents = Vec::new();
    let mut at = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(extents),
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?;
        extents.push(start..at);
    }
}
