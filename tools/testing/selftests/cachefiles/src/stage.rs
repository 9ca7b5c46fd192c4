// SPDX-License-Identifier: GPL-2.0

//! The common scene of most cases: one mounted image, `meta`, with one file, `file`, whose bytes
//! are those of one blob, `blob`.
//!
//! Lives here: setting the scene, readers in threads and what they must get.  Never here: a test.

use crate::{
    blob::{pattern, Blob},
    daemon::{Blobs, Daemon, Manner},
    image::{Image, BLOCK},
    lab::{Cache, Lab},
    mount::Mount,
    raw::errno,
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::Errno;
use rustix::fs::{fadvise, Advice};
use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

/// The seed of the blob's pattern.
pub const SEED: u64 = 1;
/// How many blocks the blob has; each is a chunk of its own.
pub const BLOCKS: u32 = 64;
/// The blob's size.
pub const SIZE: u64 = BLOCKS as u64 * BLOCK;

/// The image and its blob, the latter served in this manner.
pub fn blobs(manner: Manner) -> Blobs {
    blobs_named("meta", "blob", manner)
}

/// The same two blobs, for a daemon by hand.
pub fn sources() -> HashMap<String, Blob> {
    let blob = Blob::Pattern {
        seed: SEED,
        size: SIZE,
    };
    let named = |name: &str, blob| (name.to_owned(), blob);
    HashMap::from([named("meta", image("blob")), named("blob", blob)])
}

/// The image whose file's bytes are those of this blob.
fn image(blob: &str) -> Blob {
    let chunks: Vec<(u16, u32)> = (0..BLOCKS).map(|block| (1, block)).collect();
    Image::new().device(blob).file("file", 0, chunks).build()
}

/// The same with other names.
pub fn blobs_named(meta: &str, blob: &str, manner: Manner) -> Blobs {
    let image = image(blob);
    let source = Blob::Pattern {
        seed: SEED,
        size: SIZE,
    };
    Blobs::new()
        .with(meta, image)
        .with_manner(blob, source, manner)
}

/// The scene.  What is declared first goes first.
pub struct Stage {
    /// The mounted image.
    pub mount: Mount,
    /// The daemon.
    pub daemon: Daemon,
    /// The module and the backing file system.
    pub cache: Cache,
}

impl Stage {
    /// Loads, binds, serves and mounts.
    pub fn new(lab: &Lab, manner: Manner) -> Result<Stage> {
        let cache = lab.cache()?;
        let daemon = cache.serve(blobs(manner))?;
        let mount = Mount::new(lab.base(), "meta")?;
        Ok(Stage {
            mount,
            daemon,
            cache,
        })
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.mount.path("file")
    }
}

/// A thread that reads one block, without readahead: so one READ at most for each try.
pub fn read_block(file: &Path, block: u32) -> JoinHandle<io::Result<Vec<u8>>> {
    let file = file.to_owned();
    thread::spawn(move || read_block_here(&file, block))
}

/// The same in this thread.
pub fn read_block_here(file: &Path, block: u32) -> io::Result<Vec<u8>> {
    let file = File::open(file)?;
    fadvise(&file, 0, None, Advice::Random)?;
    let mut bytes = vec![0; BLOCK as usize];
    file.read_exact_at(&mut bytes, u64::from(block) * BLOCK)?;
    Ok(bytes)
}

/// What a block of the blob has.
pub fn want(block: u32) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK as usize];
    pattern(SEED, u64::from(block) * BLOCK, &mut bytes);
    bytes
}

/// The result of a reader.
pub fn join(reader: JoinHandle<io::Result<Vec<u8>>>) -> Result<io::Result<Vec<u8>>> {
    reader.join().ok().context("a reader panicked")
}

/// The reader must have got the right bytes.
pub fn expect_data(got: io::Result<Vec<u8>>, block: u32) -> Result<()> {
    let got = got.with_context(|| format!("reading block {block}"))?;
    ensure!(got != vec![0; got.len()], "block {block} read as zeros");
    ensure!(got == want(block), "block {block} has wrong bytes");
    Ok(())
}

/// The reader must have got this error, and certainly no data.
pub fn expect_error<T>(got: io::Result<T>, error: Errno, what: &str) -> Result<()> {
    match got {
        Ok(_) => bail!("{what}: succeeded instead of failing with {error}"),
        Err(got) => ensure!(errno(&got) == Some(error), "{what}: {got}, not {error}"),
    }
    Ok(())
}

/// The whole file must be right.
pub fn expect_file(file: &Path) -> Result<()> {
    for block in 0..BLOCKS {
        expect_data(read_block_here(file, block), block)?;
    }
    Ok(())
}
