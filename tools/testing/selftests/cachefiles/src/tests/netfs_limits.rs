// SPDX-License-Identifier: GPL-2.0

//! How many files the ordinary mode's cache holds open, and what protects the others.
//!
//! A file of the cache is open while its cookie is in use, and for ten seconds after, which is
//! FS-Cache's LRU.  Culling keeps off what is in use by a mark, not by an open file.
//!
//! Linux 6.12 holds the kernel's own users of files to no limit (`alloc_empty_file_noaccount()`), so that
//! a cache that held all its files open would see no ENFILE.  It would be seen by the memory for open
//! files, which is what is counted here.

use super::{
    eviction::{becomes, bound, command},
    netfs_scene::{check, content},
};
use crate::{
    cachefilesd::{settle, Counters, Keeper, Known},
    group,
    kernel::slab_objects,
    ktap::in_ci,
    lab::{eventually, Lab},
    limit::Lowered,
    patience::{is_debug_kernel, patiently},
    remote::{Client, Kind, NoLeases, Remote},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Errno;
use rustix::{
    process::Resource,
    thread::{capabilities, set_capabilities, CapabilitySet},
};
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use walkdir::WalkDir;

group!("netfs_limits":
    many_under_a_low_limit,
    in_use_is_a_mark,
);

/// Files that are read, in directories of as many as is usual.
fn how_many() -> usize {
    if in_ci() {
        10_000
    } else {
        1500
    }
}

/// How many of them may be open at a time: in ten seconds, FS-Cache's LRU lets go of as many.
fn how_many_open() -> i64 {
    if in_ci() {
        4000
    } else {
        1000
    }
}

/// Files that are open besides, most of which the server keeps for two seconds.
fn others() -> i64 {
    how_many_open() / 2 + 100
}

fn path_of(number: usize) -> String {
    format!("d{}/{number}", number / 250)
}

fn size_of(number: usize) -> usize {
    number * 7 % 5000 + 1
}

fn publish(remote: &Remote, count: usize) -> Result<()> {
    for number in 0..count {
        let path = remote.path(&path_of(number));
        if number % 250 == 0 {
            fs::create_dir(path.parent().context("no directory")?)?;
        }
        fs::write(path, content(2 * number as u64, size_of(number)))?;
    }
    rustix::fs::sync();
    Ok(())
}

/// Files that are open in the whole system, by the memory for them: those too that no limit knows.
fn all_open_files() -> Result<i64> {
    // What is no longer used, and not given back, would be counted.
    fs::write("/sys/kernel/slab/filp/shrink", "1")?;
    Ok(i64::try_from(slab_objects("filp")?)?)
}

/// Files that are open in the whole system and count for its limit.
fn open_files() -> Result<i64> {
    let text = fs::read_to_string("/proc/sys/fs/file-nr")?;
    let first = text.split_whitespace().next();
    Ok(first.context("an empty file-nr")?.parse()?)
}

/// The system's limit of open files; dropping it puts the old one back.
struct Limit(String);

impl Limit {
    const SWITCH: &str = "/proc/sys/fs/file-max";

    fn set(most: i64) -> Result<Limit> {
        let before = fs::read_to_string(Self::SWITCH)?;
        fs::write(Self::SWITCH, most.to_string())?;
        Ok(Limit(before))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = fs::write(Self::SWITCH, self.0.trim());
    }
}

/// Whoever has this capability is not held to the limit.
fn become_ordinary() -> Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective.remove(CapabilitySet::SYS_ADMIN);
    set_capabilities(None, sets)?;
    Ok(())
}

/// Waits until FS-Cache's LRU has let go of the files that nobody uses, but for so many.
pub(super) fn lru_falls_to(most: i64) -> Result<()> {
    // It looks after them ten seconds after their last use; naming thousands of new ones takes time.
    let deadline = Instant::now() + Duration::from_secs(12) + patiently(Duration::from_secs(60));
    loop {
        let objects = i64::from(Known::objects()?);
        if objects <= most {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{objects} files stay open");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Reads and compares a file with an fd.
fn compare(client: &Client, number: usize) -> Result<()> {
    let want = content(2 * number as u64, size_of(number));
    let mut got = Vec::with_capacity(want.len() + 1);
    let path = client.path(&path_of(number));
    let file = File::open(&path);
    file.and_then(|mut file| file.read_to_end(&mut got))
        .with_context(|| format!("the file {number}"))?;
    ensure!(got == want, "the file {number} is wrong");
    Ok(())
}

/// How many files were open in the whole system when it was most, and how many objects there were then.
type Most = (i64, i64);

/// Reads each second file from `first` on; whenever many files of the cache are open, waits for the
/// LRU.
fn read_half(client: &Client, first: usize, count: usize) -> Result<Most> {
    become_ordinary()?;
    let mut most = (0, 0);
    for number in (first..count).step_by(2) {
        compare(client, number)?;
        if number % 50 == first {
            let objects = i64::from(Known::objects()?);
            most = most.max((all_open_files()?, objects));
            if objects > how_many_open() - 100 {
                lru_falls_to(how_many_open() / 2)?;
            }
        }
    }
    Ok(most)
}

/// Both halves at once.
fn read_all(client: &Client, count: usize) -> Result<Most> {
    thread::scope(|scope| {
        let halves = [0, 1].map(|first| scope.spawn(move || read_half(client, first, count)));
        let mut most = (0, 0);
        for half in halves {
            most = most.max(half.join().ok().context("a reader panicked")??);
        }
        Ok(most)
    })
}

/// Many files are read by those who are held to low limits, their own and the system's.  The
/// files of the cache are closed by and by, and all bytes are right.
fn many_under_a_low_limit(lab: &Lab) -> Result<()> {
    let count = how_many();
    // The server keeps open what it has delegated.
    let _no_leases = NoLeases::begin()?;
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::Nfs(4))?;
    let begin = Instant::now();
    publish(&remote, count)?;
    let published = begin.elapsed();
    let mut daemon = Keeper::start(cache.dir())?;
    let mut client = remote.mount()?;
    let (base, counted) = (all_open_files()?, open_files()?);
    let _own = Lowered::to(Resource::Nofile, 32)?;
    let limit = Limit::set(counted + how_many_open() + others())?;
    let (most, objects) = read_all(&client, count)?;
    drop(limit);
    settle()?;
    let before = Counters::now()?;
    println!(
        "{count} files made in {published:.0?}, read by {:.0?}; at most {most} open for {objects} objects, {base} before",
        begin.elapsed()
    );
    // The cache's are among those that are counted, and never all of them at once. How many it comes
    // to depends on how many are read in the LRU's ten seconds.
    let of_cache = most - base;
    let some = if is_debug_kernel() { 20 } else { 100 };
    ensure!(
        objects > some && of_cache > objects / 2 && of_cache < how_many_open() + others(),
        "{of_cache} files were open at once, for {objects} objects"
    );
    client.unmount()?;
    lru_falls_to(0)?;
    eventually("no file of the cache is open", || {
        Known::objects().is_ok_and(|objects| objects == 0)
            && all_open_files().is_ok_and(|open| open < base + 100)
    })?;
    // What was stored comes from the cache, however few of it were open at a time.
    client = remote.mount()?;
    let whole = (0..count).filter(|number| size_of(*number) % 4096 == 0 || size_of(*number) > 4096);
    let sample: Vec<usize> = whole.step_by(7).collect();
    for number in &sample {
        compare(&client, *number)?;
    }
    settle()?;
    let moved = Counters::now()?.since(&before);
    ensure!(
        moved.get("IO.rd") >= sample.len() as i64,
        "{} files were cached: {moved:?}",
        sample.len()
    );
    client.unmount()?;
    daemon.stop()
}

/// The files of the cache.
fn cached(cache: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = WalkDir::new(cache.join("cache")).into_iter();
    let files = entries.filter(|entry| entry.as_ref().map_or(true, |e| e.file_type().is_file()));
    files.map(|entry| Ok(entry?.into_path())).collect()
}

/// A file of the cache is in use from the first lookup until FS-Cache's LRU lets go of it, also
/// while nobody has the netfs's file open.  Then its mark is gone, and its file is closed.
fn in_use_is_a_mark(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::Nfs(4))?;
    let bytes = content(3, 16_384);
    fs::write(remote.path("file"), &bytes)?;
    let device = bound(&cache, |_| (), "bind")?;
    let mut client = remote.mount()?;
    check(&client.path("file"), &bytes)?;
    settle()?;
    client.unmount()?;
    eventually("the file has a name", || {
        cached(cache.dir()).is_ok_and(|files| files.len() == 1)
    })?;
    let files = cached(cache.dir())?;
    let file = files.first().context("no file")?;
    becomes(&device, "inuse", file, Ok(()))?;

    client = remote.mount()?;
    let held = File::open(client.path("file"))?;
    // The lookup goes on in the background.
    check(&client.path("file"), &bytes)?;
    for verb in ["inuse", "cull"] {
        let got = command(&device, verb, file)?;
        ensure!(got == Err(Errno::BUSY), "{verb} of a file in use: {got:?}");
    }
    // Nobody but the kernel has it open, and an open file would not keep it.
    drop(held);
    let closed = Instant::now();
    let got = command(&device, "cull", file)?;
    ensure!(got == Err(Errno::BUSY), "just after its last use: {got:?}");
    lru_falls_to(0)?;
    ensure!(
        closed.elapsed() > Duration::from_secs(8),
        "the LRU waits for ten seconds, not {:?}",
        closed.elapsed()
    );
    becomes(&device, "inuse", file, Ok(()))?;
    // The netfs's inode is there still, and its pages; opened again, the file is found again.
    let before = Counters::now()?;
    let held = File::open(client.path("file"))?;
    // A `cull` before the lookup has come so far would cull.
    becomes(&device, "inuse", file, Err(Errno::BUSY))?;
    let got = command(&device, "cull", file)?;
    ensure!(
        got == Err(Errno::BUSY),
        "cull of a file found again: {got:?}"
    );
    drop(held);
    client.unmount()?;
    becomes(&device, "cull", file, Ok(()))?;
    ensure!(!file.exists(), "a culled file is there");
    client = remote.mount()?;
    check(&client.path("file"), &bytes)?;
    let moved = Counters::now()?.since(&before);
    ensure!(
        moved.get("NoSpace.cull") == 1 && moved.get("DownOps.DL") == 1,
        "one was culled, and then fetched: {moved:?}"
    );
    client.unmount()
}
