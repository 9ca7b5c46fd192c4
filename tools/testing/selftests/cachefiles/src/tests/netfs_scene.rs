// SPDX-License-Identifier: GPL-2.0

//! What the tests of the ordinary mode share.
//!
//! Lives here: files of all sizes on a server, reading them, and judging by the counters where the
//! bytes came from. Never here: a test.

use crate::{
    blob::pattern,
    cachefilesd::{settle, Counters},
    remote::{Client, Remote},
};
use anyhow::{ensure, Context, Result};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

/// Sizes beside the limits of blocks, pages and requests.
pub(super) const SIZES: [usize; 7] = [0, 1, 4095, 4096, 5000, 70_000, 1_048_581];

pub(super) fn name(size: usize) -> String {
    format!("file-{size}")
}

pub(super) fn content(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    pattern(seed, 0, &mut bytes);
    bytes
}

/// Gives the server a file of each size.
pub(super) fn publish(remote: &Remote, seed: u64) -> Result<()> {
    for size in SIZES {
        let file = File::create(remote.path(&name(size)))?;
        file.write_all_at(&content(seed, size), 0)?;
        // A 9P server may tell versions apart by whole seconds only.
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000 + 10 * seed))?;
    }
    rustix::fs::sync();
    Ok(())
}

/// Reads the file and compares it.
pub(super) fn check(path: &Path, want: &[u8]) -> Result<()> {
    let got = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let same = got.iter().zip(want).take_while(|(got, want)| got == want);
    ensure!(
        got == want,
        "{} has {} bytes for {}, and differs at {}",
        path.display(),
        got.len(),
        want.len(),
        same.count()
    );
    Ok(())
}

pub(super) fn check_all(client: &Client, seed: u64) -> Result<()> {
    for size in SIZES {
        check(&client.path(&name(size)), &content(seed, size))?;
    }
    settle()
}

/// What reading each of the files moved the counters by.
pub(super) struct Reading(Vec<(usize, Counters)>);

/// Reads and compares all files, one by one.
pub(super) fn read_all(client: &Client, seed: u64) -> Result<Reading> {
    let mut reading = Vec::new();
    for size in SIZES {
        let before = Counters::now()?;
        check(&client.path(&name(size)), &content(seed, size))?;
        settle()?;
        reading.push((size, Counters::now()?.since(&before)));
    }
    Ok(Reading(reading))
}

impl Reading {
    /// The sum of one counter.
    pub(super) fn sum(&self, name: &str) -> i64 {
        self.0.iter().map(|(_, moved)| moved.get(name)).sum()
    }

    /// All came from the cache; see [`from_cache`].
    pub(super) fn is_from_cache(&self) -> Result<()> {
        for (size, moved) in &self.0 {
            from_cache(moved, *size).with_context(|| name(*size))?;
        }
        Ok(())
    }

    /// All whole pages were stored.
    pub(super) fn is_stored(&self) -> Result<()> {
        for (size, moved) in &self.0 {
            let stored = *size < PAGE || moved.get("DownOps.DL") > 0 && moved.get("IO.wr") > 0;
            ensure!(stored, "not stored: {}, {moved:?}", name(*size));
        }
        Ok(())
    }
}

const PAGE: usize = 4096;

/// Fails unless a file of this size came from the cache, but for the page that it ends in.
///
/// Such a page is two parts of a read, the server's bytes and netfs's zeros behind them.  Whichever
/// is done last takes the page, and with C's module only the server's part has the mark to store it: if
/// the server was first, as it is now and then with NFS and always with 9P, the page is not stored.
pub(super) fn from_cache(moved: &Counters, size: usize) -> Result<()> {
    let ends = i64::from(size % PAGE != 0);
    ensure!(
        moved.get("DownOps.DL") <= ends && (size < PAGE || moved.get("IO.rd") > 0),
        "not all came from the cache: {moved:?}"
    );
    Ok(())
}
