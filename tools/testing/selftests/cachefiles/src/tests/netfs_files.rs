// SPDX-License-Identifier: GPL-2.0

//! What the cases of network file systems under writes, faults and load share: reading parts of files,
//! comparing both sides, waiting for netfs.
//!
//! Lives here: their verbs.  Never here: a test.

use super::netfs_scene::{check, from_cache};
use crate::{
    cachefilesd::Counters,
    lab::eventually,
    patience::{patiently, within},
    remote::{Client, Remote},
};
use anyhow::{ensure, Context, Result};
use rustix::fs::{fadvise, Advice};
use std::{fs::File, os::unix::fs::FileExt, path::Path, thread, time::Duration};

/// A page, and a block of the cache.
pub const PAGE: usize = 4096;
/// The size of a file that ends within a page.
pub const ODD_SIZE: usize = 40 * PAGE + 1234;

/// Gives the server a file.
pub fn publish(remote: &Remote, name: &str, bytes: &[u8]) -> Result<()> {
    let path = remote.path(name);
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    file.write_all_at(bytes, 0)?;
    Ok(file.sync_all()?)
}

/// What was read must be this.
pub fn same(what: &str, got: &[u8], want: &[u8]) -> Result<()> {
    let until = got.iter().zip(want).take_while(|(got, want)| got == want);
    let at = until.count();
    let zeros = got[at.min(got.len())..]
        .iter()
        .take_while(|byte| **byte == 0);
    ensure!(
        got == want,
        "{what}: {} bytes for {}, which differ at {at}, with {} zeros there",
        got.len(),
        want.len(),
        zeros.count()
    );
    Ok(())
}

/// A file is this at the client and on the server.
pub fn check_both(client: &Client, remote: &Remote, name: &str, want: &[u8]) -> Result<()> {
    check(&client.path(name), want).context("at the client")?;
    check(&remote.path(name), want).context("on the server")
}

/// Reads a part of a file, and nothing beside it.
pub fn read_part(path: &Path, at: usize, len: usize) -> Result<Vec<u8>> {
    let file = File::open(path)?;
    fadvise(&file, 0, None, Advice::Random)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at as u64)
        .with_context(|| format!("{len} bytes at {at} of {}", path.display()))?;
    Ok(bytes)
}

/// Reads a part of a file and compares it with that part of `want`.
pub fn check_part(path: &Path, want: &[u8], at: usize, len: usize) -> Result<()> {
    let got = read_part(path, at, len)?;
    same(
        &format!("{len} bytes at {at} of {}", path.display()),
        &got,
        &want[at..at + len],
    )
}

/// Has the page cache forget a file's pages.
pub fn forget(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

/// Waits until all is written, and netfs is idle.
pub fn settle() -> Result<()> {
    rustix::fs::sync();
    idle()
}

/// Waits until netfs holds no request and no part of one: each was completed, and none twice, which
/// netfs would have complained about.
pub fn idle() -> Result<()> {
    eventually("netfs has no request any more", || {
        Counters::now().is_ok_and(|now| now.get("Objs.rr") == 0 && now.get("Objs.sr") == 0)
    })
}

/// What something moved the counters by, until netfs is idle.
pub fn moved(work: impl FnOnce() -> Result<()>) -> Result<Counters> {
    let before = Counters::now()?;
    work()?;
    idle()?;
    Ok(Counters::now()?.since(&before))
}

/// A file of this size must come from the cache; see [`from_cache`].
pub fn served(size: usize, work: impl FnOnce() -> Result<()>) -> Result<()> {
    from_cache(&moved(work)?, size)
}

/// Does something in a thread, for no longer than is decent.
pub fn in_time<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    within(
        patiently(Duration::from_secs(40)),
        what,
        thread::spawn(work),
    )?
}
