// SPDX-License-Identifier: GPL-2.0

//! Files that end within a page, whose last page netfs reads in two parts: the server's bytes, and
//! zeros behind them. They are cases of the group `netfs_more`.

use super::{
    netfs_files::{check_part, forget, moved, publish, same, settle, PAGE},
    netfs_scene::{check, content},
};
use crate::{
    cachefilesd::{drop_pages, Keeper},
    ktap::in_ci,
    lab::Lab,
    remote::{Kind, Remote},
    trace::Slowed,
};
use anyhow::{ensure, Context, Result};
use std::{fs::File, os::unix::fs::FileExt, path::Path, thread};

/// What C's module, if it is the one under test, has netfs of 6.12 do:
/// Documentation/netfs-read-collect-bug.rst.
const ON_C: &str = "with C's module netfs of 6.12 hits a BUG()";

/// All whole pages of a file are cached, and the one behind them is not, so that reading all of it
/// could be a part from the cache and part of a page from the server at once. The second time
/// it comes from the cache.
fn last_page_is_not_cached(lab: &Lab, kind: Kind) -> Result<()> {
    lab.spare_the_peer(ON_C)?;
    let cache = lab.cache()?;
    let remote = Remote::new(lab, kind)?;
    let _keeper = Keeper::plain(cache.dir())?;
    let client = remote.mount()?;
    // The number of pages changes which part is done first.
    let count = if kind == Kind::NineP { 400 } else { 50 } * if in_ci() { 3 } else { 1 };
    let files: Vec<_> = (0..count)
        .map(|number| {
            (
                number,
                (1 + number as usize % 8) * PAGE + [1, 100, PAGE - 1][number as usize % 3],
            )
        })
        .map(|(number, size)| (format!("file-{number}"), content(number as u64, size)))
        .collect();
    for (name, bytes) in &files {
        publish(&remote, name, bytes)?;
        check_part(
            &client.path(name),
            bytes,
            0,
            bytes.len() - bytes.len() % PAGE,
        )?;
    }
    settle()?;
    let read_all = || {
        let mut all = files.iter();
        all.try_for_each(|(name, bytes)| {
            forget(&client.path(name))?;
            check(&client.path(name), bytes)
        })
    };
    {
        // The part from the server is done more often while that from the cache is being collected.
        let _slowed = Slowed::collection()?;
        let first = moved(read_all)?;
        ensure!(
            first.get("DownOps.ds") == count && first.get("IO.rd") == count,
            "not one part each from the cache and from the server: {first:?}"
        );
    }
    settle()?;
    for time in 2..=3 {
        let again = moved(read_all)?;
        let reads = again.get("IO.rd");
        // What was stored apart is found apart once, unless the file was looked up again since, and is
        // one part from then on.
        let most = if time == 2 { 2 * count } else { count };
        ensure!(
            again.get("DownOps.DL") == 0 && (count..=most).contains(&reads),
            "not all came from the cache, the time {time}: {again:?}"
        );
    }
    Ok(())
}

pub(super) fn ninep_last_page_is_not_cached(lab: &Lab) -> Result<()> {
    last_page_is_not_cached(lab, Kind::NineP)
}

pub(super) fn nfs_last_page_is_not_cached(lab: &Lab) -> Result<()> {
    last_page_is_not_cached(lab, Kind::Nfs(4))
}

/// Reads so many bytes at once, as a program does that does not know the size.
fn read_at_most(path: &Path, len: usize, want: &[u8]) -> Result<()> {
    let mut got = vec![0; len];
    let count = File::open(path)?.read_at(&mut got, 0)?;
    same(
        &format!("{len} bytes of {}", path.display()),
        &got[..count],
        &want[..len.min(want.len())],
    )
}

/// Sizes of files and of reads around the limits of pages, with several readers of each file, whose pages
/// are dropped before each read in the one way or the other. In the end all of it is cached.
fn sizes_and_readers(lab: &Lab, kind: Kind) -> Result<()> {
    lab.spare_the_peer(ON_C)?;
    let cache = lab.cache()?;
    let remote = Remote::new(lab, kind)?;
    let _keeper = Keeper::plain(cache.dir())?;
    let client = remote.mount()?;
    let near = (0..=3).flat_map(|pages| [pages * PAGE, pages * PAGE + 1, (pages + 1) * PAGE - 1]);
    let near: Vec<usize> = near.filter(|size| *size > 0).collect();
    for size in &near {
        let name = format!("file-{size}");
        let bytes = content(2, *size);
        publish(&remote, &name, &bytes)?;
        let path = client.path(&name);
        for (round, len) in near.iter().enumerate() {
            // Only this much is read to begin with, so that some pages are cached and some are not.
            read_at_most(&path, *len, &bytes)?;
            if round % 4 == 0 {
                drop_pages()?;
            }
            thread::scope(|scope| {
                let readers = [(); 3].map(|()| {
                    scope.spawn(|| -> Result<()> {
                        forget(&path)?;
                        read_at_most(&path, *len, &bytes)?;
                        forget(&path)?;
                        read_at_most(&path, size + 10, &bytes)
                    })
                });
                let results = readers.map(|reader| reader.join());
                results
                    .into_iter()
                    .try_for_each(|result| result.ok().context("a thread panicked")?)
            })?;
        }
        settle()?;
        forget(&path)?;
        let last = moved(|| check(&path, &bytes))?;
        ensure!(
            last.get("DownOps.DL") == 0 && last.get("IO.rd") == 1,
            "{name} did not come from the cache: {last:?}"
        );
    }
    Ok(())
}

pub(super) fn ninep_sizes_and_readers(lab: &Lab) -> Result<()> {
    sizes_and_readers(lab, Kind::NineP)
}

pub(super) fn nfs_sizes_and_readers(lab: &Lab) -> Result<()> {
    sizes_and_readers(lab, Kind::Nfs(4))
}
