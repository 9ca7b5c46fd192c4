// SPDX-License-Identifier: GPL-2.0

//! The ordinary mode's cache in the care of Debian's cachefilesd with its stock configuration.

use super::{
    eviction::entries,
    netfs_scene::{self, check, content, from_cache, publish, read_all, SIZES},
};
use crate::{
    cachefilesd::{drop_pages, settle, Counters, Keeper, Known},
    group,
    ktap::Skip,
    lab::{eventually, Lab},
    remote::{Client, Kind, Remote},
};
use anyhow::{bail, ensure, Context, Result};
use rustix::fs::{statvfs, utimensat, AtFlags, Timespec, Timestamps, CWD, UTIME_OMIT};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};
use walkdir::WalkDir;

group!("netfs_cachefilesd":
    binds_and_ends,
    killed_under_a_mount,
    empties_the_graveyard,
    culls_when_the_disk_fills,
);

fn start(dir: &Path) -> Result<Keeper> {
    if !crate::cachefilesd::has_dnotify() {
        return Err(Skip("the kernel lacks CONFIG_DNOTIFY".to_owned()).into());
    }
    Keeper::cachefilesd(dir)
}

/// The only cache that FS-Cache uses.
fn active() -> Result<Known> {
    let mut caches = Known::all()?.into_iter().filter(Known::is_active);
    let cache = caches.next().context("no cache is active")?;
    ensure!(caches.next().is_none(), "there are two caches");
    Ok(cache)
}

/// Waits until all files of the cache are out of use; then they have their names.
fn nothing_in_use() -> Result<()> {
    eventually("the objects are gone", || {
        active().is_ok_and(|known| known.objects == 0)
    })
}

/// It binds under the tag of its configuration, FS-Cache counts what is in the cache, and SIGTERM
/// ends it and the cache, as often as one likes.
fn binds_and_ends(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::Nfs(4))?;
    publish(&remote, 1)?;
    for round in 0..3 {
        let mut daemon = start(cache.dir())?;
        // Ours has a volume of its own until bind is over, which cachefilesd may be waiting for.
        let mut known = active()?;
        let empty = eventually("the cache is empty", || {
            active().is_ok_and(|now| {
                known = now;
                known.volumes == 0 && known.objects == 0
            })
        });
        empty.with_context(|| format!("bound as {known:?}"))?;
        ensure!(known.name == "mycache", "bound as {known:?}");
        let mut client = remote.mount()?;
        let reading = read_all(&client, 1)?;
        if round == 0 {
            reading.is_stored()?;
        } else {
            reading.is_from_cache()?;
        }
        let held: Vec<File> = SIZES
            .iter()
            .map(|size| Ok(File::open(client.path(&netfs_scene::name(*size)))?))
            .collect::<Result<_>>()?;
        // Each lookup goes on in the background.
        eventually("there is an object for each file in use", || {
            active().is_ok_and(|known| known.volumes == 1 && known.objects as usize == SIZES.len())
        })?;
        drop(held);
        client.unmount()?;
        nothing_in_use()?;
        daemon.stop()?;
        ensure!(active().is_err(), "the cache is there without its daemon");
    }
    Ok(())
}

/// Killed, it takes the cache out of service, not the files: they are read from the server.
/// Started again, the cache serves what it has to the same mount.
fn killed_under_a_mount(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::Nfs(4))?;
    publish(&remote, 1)?;
    let mut daemon = start(cache.dir())?;
    let mut client = remote.mount()?;
    read_all(&client, 1)?.is_stored()?;
    for _ in 0..2 {
        daemon.kill()?;
        drop_pages()?;
        let without = read_all(&client, 1)?;
        ensure!(
            without.sum("IO.rd") == 0 && without.sum("IO.wr") == 0,
            "a cache without a daemon was used"
        );
        daemon = start(cache.dir())?;
        drop_pages()?;
        read_all(&client, 1)?.is_from_cache()?;
    }
    client.unmount()?;
    daemon.stop()
}

/// The files of the cache.
fn cached(cache: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(cache.join("cache")) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => files.push(entry.into_path()),
            Ok(_) => {}
            // cachefilesd removes directories that are empty.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(files)
}

fn is_gone(error: &walkdir::Error) -> bool {
    let error = error.io_error();
    error.is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// What lies in the graveyard is deleted: what it finds when it starts, and what is buried later.
fn empties_the_graveyard(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::Nfs(4))?;
    let bytes = content(1, 8192);
    fs::write(remote.path("file"), &bytes)?;
    let graveyard = cache.dir().join("graveyard");
    let is_empty = || entries(&graveyard).is_ok_and(|graves| graves.is_empty());
    let mut daemon = start(cache.dir())?;
    let mut client = remote.mount()?;
    check(&client.path("file"), &bytes)?;
    settle()?;
    client.unmount()?;
    daemon.stop()?;
    fs::create_dir_all(graveyard.join("grave/inside"))?;
    fs::write(graveyard.join("grave/inside/file"), "x")?;
    // A directory where a file of the cache should be.
    let files = cached(cache.dir())?;
    let [file] = files.as_slice() else {
        bail!("in the cache: {files:?}");
    };
    fs::remove_file(file)?;
    fs::create_dir(file)?;
    fs::write(file.join("inside"), "x")?;
    daemon = start(cache.dir())?;
    eventually("the old grave is gone", is_empty)?;
    client = remote.mount()?;
    check(&client.path("file"), &bytes)?;
    settle()?;
    eventually("the new grave is gone", is_empty)?;
    client.unmount()?;
    eventually("the file is stored", || file.is_file())?;
    client = remote.mount()?;
    let before = Counters::now()?;
    check(&client.path("file"), &bytes)?;
    from_cache(&Counters::now()?.since(&before), bytes.len())?;
    client.unmount()?;
    daemon.stop()
}

/// A disk that cachefilesd has to keep some room on.
const DISK: u64 = 32;
/// Files that are cached first, and long not used.
const OLD: u64 = 12;
/// As many as the disk never takes.
const MOST: u64 = 100;
const SIZE: usize = 512 << 10;

fn name(number: u64) -> String {
    format!("n{number:03}")
}

/// What is in it; a pattern has the same bytes for an even seed and the next one.
fn of(number: u64) -> Vec<u8> {
    content(2 * number, SIZE)
}

/// The cache's files, by the number of what they hold.
fn numbered(cache: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let mut files = BTreeMap::new();
    for path in cached(cache)? {
        let mut start = vec![0; 64];
        File::open(&path)?.read_exact_at(&mut start, 0)?;
        let number = (0..MOST).find(|number| of(*number)[..64] == start);
        let number = number.with_context(|| format!("{} holds no file", path.display()))?;
        files.insert(number, path);
    }
    Ok(files)
}

/// The free space that cachefilesd goes by, in blocks of a thousandth of the disk.
fn free(dir: &Path) -> Result<u64> {
    let stat = statvfs(dir)?;
    Ok(stat.f_bavail * 1000 / stat.f_blocks)
}

/// Whether reading the file asks the server.
fn asks(client: &Client, number: u64) -> Result<bool> {
    drop_pages()?;
    let before = Counters::now()?;
    check(&client.path(&name(number)), &of(number))
        .with_context(|| format!("the file {number}"))?;
    settle()?;
    Ok(Counters::now()?.since(&before).get("DownOps.DL") > 0)
}

/// Says that the files were last used long ago, the first ones longest.
fn age(files: &BTreeMap<u64, PathBuf>) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for (number, file) in files {
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: i64::try_from(now - 10_000 + 100 * number)?,
                tv_nsec: 0,
            },
            last_modification: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
        };
        utimensat(CWD, file, &times, AtFlags::empty())?;
    }
    Ok(())
}

/// When little is free, what was not used for longest is culled, until enough is free; what is in
/// use stays, and so does what was used meanwhile.  What was culled is fetched and cached again.
fn culls_when_the_disk_fills(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(DISK)?;
    let remote = Remote::new(lab, Kind::Nfs(4))?;
    for number in 0..MOST {
        fs::write(remote.path(&name(number)), of(number))?;
    }
    let mut daemon = Keeper::plain(cache.dir())?;
    let mut client = remote.mount()?;
    for number in 0..OLD {
        check(&client.path(&name(number)), &of(number))?;
    }
    settle()?;
    client.unmount()?;
    nothing_in_use()?;
    daemon.stop()?;
    let old = numbered(cache.dir())?;
    ensure!(
        old.len() as u64 == OLD,
        "{:?} are cached, 0.{:03} of the disk are free; {:?}",
        old.keys(),
        free(cache.dir())?,
        Counters::now()?
    );
    age(&old)?;

    daemon = start(cache.dir())?;
    // The second oldest was used a moment ago.
    client = remote.mount()?;
    ensure!(
        !asks(&client, 1)?,
        "the server was asked for what is cached"
    );
    client.unmount()?;
    client = remote.mount()?;
    // The oldest one is in use.
    let held = File::open(client.path(&name(0)))?;
    let mut start = [0; 4096];
    held.read_exact_at(&mut start, 0)?;
    let before = Counters::now()?;
    let stat = statvfs(cache.dir())?;
    let file = 1000 * SIZE as u64 / (stat.f_blocks * stat.f_frsize) + 1;
    let mut next = OLD;
    let mut lowest = 1000;
    let culled = loop {
        ensure!(
            next < MOST,
            "nothing is culled, {} free",
            free(cache.dir())?
        );
        check(&client.path(&name(next)), &of(next))?;
        settle()?;
        next += 1;
        let now = free(cache.dir())?;
        lowest = lowest.min(now);
        let culled = || Counters::now().map(|now| now.since(&before).get("NoSpace.cull"));
        if now < 70 {
            // The cache has told the daemon, whose turn it is.
            eventually("something is culled", || culled().is_ok_and(|n| n > 0))?;
        }
        if culled()? > 0 {
            break culled()?;
        }
    };
    println!("{next} files were read when {culled} were culled, 0.{lowest:03} free");
    let is_tenth_free = eventually("a tenth is free", || {
        free(cache.dir()).is_ok_and(|free| {
            lowest = lowest.min(free);
            free >= 100
        })
    });
    // Room is made for a file before it is written, and the file takes its own of the tenth that
    // is free then.
    let rest = free(cache.dir())?;
    ensure!(
        is_tenth_free.is_ok() || rest + file >= 100,
        "culling ended with 0.{rest:03} free"
    );
    ensure!(lowest >= 70 - 2 * file, "only 0.{lowest:03} were free");
    drop(held);
    client.unmount()?;
    nothing_in_use()?;
    let left = numbered(cache.dir())?;
    let culled = Counters::now()?.since(&before).get("NoSpace.cull");
    let gone: Vec<u64> = (0..next).filter(|n| !left.contains_key(n)).collect();
    println!("culled: {gone:?}, 0.{:03} are free", free(cache.dir())?);
    let expected: Vec<u64> = (2..2 + culled.unsigned_abs()).collect();
    ensure!(
        gone == expected,
        "{culled} culled, of which are gone: {gone:?}"
    );
    // The disk has the room of what was deleted a little later.
    let free = free(cache.dir())?;
    ensure!(free < 100 + 4 * file, "culled until 0.{free:03} were free");
    for (number, path) in &left {
        let now = fs::metadata(path)?;
        ensure!(
            now.ino() != 0 && now.size() == SIZE as u64,
            "the file {number} is cut"
        );
    }
    client = remote.mount()?;
    for number in [0, 1, OLD - 1, next - 1] {
        ensure!(!asks(&client, number)?, "the file {number} is not cached");
    }
    ensure!(asks(&client, 2)?, "a culled file came from nowhere");
    ensure!(!asks(&client, 2)?, "a culled file was not cached again");
    check_all_of(&client, next)?;
    client.unmount()?;
    daemon.stop()
}

fn check_all_of(client: &Client, count: u64) -> Result<()> {
    drop_pages()?;
    for number in 0..count {
        check(&client.path(&name(number)), &of(number))?;
    }
    settle()
}
