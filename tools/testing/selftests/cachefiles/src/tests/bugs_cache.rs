// SPDX-License-Identifier: GPL-2.0

//! What broke in C in the cache itself: volumes, culling, binding, and what the daemon writes.
//! Each case is named after the CVE, or the title, of Documentation/known-bugs.rst.

use super::bugs_scene::{breathe, bytes, mounting, rounds, served, Again, Hand, Scene, MOMENTS};
use crate::{
    error_injection::{Injection, IO_ERROR, NO_SPACE},
    group,
    image::BLOCK,
    kernel::{shrink_slabs, slab_objects},
    lab::{eventually, Lab},
    mount::try_mount,
    patience::{within, SOON},
    raw::errno,
    stage::{self, expect_data, expect_error, read_block, read_block_here},
    trace::Trace,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{CacheConfig, Device, Errno, SeekFrom};
use rustix::fs::{fallocate, removexattr, statvfs, FallocateFlags};
use std::{
    env, fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};
use walkdir::WalkDir;

group!("bugs_cache":
    cve_2024_56755,
    cve_2024_49870,
    cve_2024_26840,
    cve_2026_43106,
    eio_from_xattr_at_mount,
    unaligned_pwrite_returns_its_length,
    writes_in_a_row_move_the_position,
    short_write_is_not_reported_as_whole,
    plain_bind_with_a_netfs,
);

/// Several mounts make one volume at once.
fn cve_2024_56755(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    hand.serve_all();
    let mut last = 0;
    for round in rounds() {
        last = round;
        let threads = ["meta", "meta2", "meta3"].map(|fsid| mounting(lab, fsid, "domain_id=d"));
        let mut mounts = vec![];
        for thread in threads {
            let mount = hand.until_done(thread)?.context("one of three mounts")?;
            mounts.push(hand.adopt(mount));
        }
        let block = round % stage::BLOCKS;
        for mount in mounts {
            expect_data(hand.until_done(read_block(&mount.file(), block))?, block)?;
            mount.unmount()?;
        }
    }
    println!("{last} rounds");
    Ok(())
}

/// The one file of the cache with this name.
fn cache_file(dir: &Path, name: &str) -> Option<PathBuf> {
    WalkDir::new(dir.join("cache"))
        .into_iter()
        .flatten()
        .find(|entry| entry.file_name() == name)
        .map(walkdir::DirEntry::into_path)
}

/// A `meta` that is cached and not mounted, and the directory of its blob as the current one.
fn filled(lab: &Lab) -> Result<(Arc<Hand>, crate::lab::Cache, PathBuf)> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    hand.serve_all();
    fill(lab, &hand, "meta")?;
    let mut file = None;
    hand.until("the cache file has its name", || {
        file = cache_file(cache.dir(), "Dblob");
        file.is_some()
    })?;
    let file = file.context("no file")?;
    env::set_current_dir(file.parent().context("no directory")?)?;
    Ok((hand, cache, file))
}

/// Has the blob in the cache.
fn fill(lab: &Lab, hand: &Arc<Hand>, fsid: &str) -> Result<()> {
    let mount = hand.mount(lab, fsid)?;
    expect_data(hand.until_done(read_block(&mount.file(), 0))?, 0)?;
    mount.unmount()
}

/// Ends all and unmounts the file system, which fails if a dentry or an inode is still held.
fn nothing_is_held(hand: &Arc<Hand>, mut cache: crate::lab::Cache) -> Result<()> {
    env::set_current_dir("/")?;
    hand.close();
    cache.module.unload()?;
    cache.fs.unmount()
}

/// Lookups against culls of what they look for.
fn cve_2024_49870(lab: &Lab) -> Result<()> {
    let (hand, cache, _) = filled(lab)?;
    let device = hand.device()?;
    let counts = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
    // Microseconds that a round takes.
    let whole = Arc::new(AtomicU32::new(0));
    let (counted, whole_seen) = (Arc::clone(&counts), Arc::clone(&whole));
    let culler = Again::and_again(move || {
        match device.command(b"cull Dblob") {
            Ok(()) => {
                let culled = counted.0.fetch_add(1, Ordering::SeqCst);
                // So that a lookup finds what is named next: before, while or after it is culled.
                let whole = Duration::from_micros(whole_seen.load(Ordering::SeqCst).into());
                thread::sleep(whole * (culled % MOMENTS) / (MOMENTS / 2));
            }
            Err(error) if errno(&error) == Some(Errno::BUSY) => {
                counted.1.fetch_add(1, Ordering::SeqCst);
            }
            // It has gone.
            Err(_) => (),
        }
        breathe();
    });
    let is_some = |count: &AtomicU32| count.load(Ordering::SeqCst) > 0;
    let (mut failed, mut last) = (0, 0);
    let mut rounds = rounds();
    // More of them where few moments are tried.
    while rounds.next().is_some() || (last < 40 && !(is_some(&counts.0) && is_some(&counts.1))) {
        last += 1;
        let begin = Instant::now();
        let mount = hand
            .until_done(mounting(lab, "meta", ""))?
            .context("a mount under culling")?;
        let mount = hand.adopt(mount);
        // A lookup may find what is just being culled; then there is no cache for it this time.
        match hand.until_done(read_block(&mount.file(), 0))? {
            Ok(got) => expect_data(Ok(got), 0)?,
            Err(_) => failed += 1,
        }
        mount.unmount()?;
        let took = u32::try_from(begin.elapsed().as_micros())?;
        whole.store(took, Ordering::SeqCst);
    }
    drop(culler);
    let (culled, busy) = (&counts.0, &counts.1);
    println!("{failed} of {last} reads failed; culled: {culled:?}, busy: {busy:?}");
    ensure!(
        is_some(culled) && is_some(busy) && failed <= last / 2,
        "there was no race of a lookup and a cull"
    );
    fill(lab, &hand, "meta").context("after the race")?;
    nothing_is_held(&hand, cache)
}

/// bind and close in a loop leave no credentials, nor anything else.
fn cve_2024_26840(lab: &Lab) -> Result<()> {
    const ROUNDS: u64 = 60;
    const SLABS: [&str; 4] = ["cred", "kmalloc", "fscache", "cachefiles"];
    let cache = lab.cache()?;
    let round = || -> Result<()> {
        eventually("bind", || {
            Device::open().is_ok_and(|device| {
                let config = CacheConfig::new(cache.dir());
                device
                    .configure(&config)
                    .and_then(|()| device.bind_ondemand())
                    .is_ok()
            })
        })
    };
    let objects = || -> Result<Vec<u64>> {
        crate::kernel::drop_caches()?;
        shrink_slabs()?;
        SLABS.iter().map(|name| slab_objects(name)).collect()
    };
    for _ in 0..5 {
        round()?;
    }
    let before = objects()?;
    for _ in 0..ROUNDS {
        round()?;
    }
    let mut after = vec![];
    // Credentials are freed after a grace period.
    let settled = eventually("the objects are freed", || {
        thread::sleep(Duration::from_millis(20));
        after = objects().unwrap_or_default();
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| *after < before + ROUNDS / 2)
    });
    println!("{SLABS:?}: {before:?}, {after:?} after {ROUNDS} rounds");
    settled
}

/// A cull gives back each reference that it takes, whether it succeeds or not.
fn cve_2026_43106(lab: &Lab) -> Result<()> {
    let (hand, cache, file) = filled(lab)?;
    let device = hand.device()?;
    for _ in 0..4 {
        let mount = hand.mount(lab, "meta")?;
        expect_data(hand.until_done(read_block(&mount.file(), 0))?, 0)?;
        for line in ["cull Dblob", "inuse Dblob"] {
            expect_error(device.command(line.as_bytes()), Errno::BUSY, line)?;
        }
        mount.unmount()?;
        hand.until("cull", || device.command(b"cull Dblob").is_ok())?;
        ensure!(!file.exists(), "{} is still there", file.display());
        for line in ["cull Dblob", "inuse Dblob", "cull Dnothing"] {
            let got = device
                .command(line.as_bytes())
                .err()
                .and_then(|error| errno(&error));
            let gone = got == Some(Errno::STALE) || got == Some(Errno::NOENT);
            ensure!(gone, "{line} of what is not there gave {got:?}");
        }
        fill(lab, &hand, "meta")?;
        hand.until("the cache file has its name", || file.exists())?;
    }
    drop(device);
    nothing_is_held(&hand, cache)
}

/// An attribute of a volume that cannot be read: the mount ends, one way or the other.
fn eio_from_xattr_at_mount(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    hand.serve_all();
    fill(lab, &hand, "meta")?;
    fill(lab, &hand, "meta2")?;
    let volume = cache.dir().join("cache/Ierofs,meta");
    removexattr(&volume, "user.CacheFiles.cache").context("the volume's attribute")?;
    let mount = hand.until_done(mounting(lab, "meta", ""))?;
    // Ours makes the volume anew; C gives it up.
    ensure!(
        lab.is_peer() || mount.is_ok(),
        "a volume without its attribute: {mount:?}"
    );
    drop(mount.map(|mount| hand.adopt(mount)));
    hand.close();
    // EIO comes and goes, so that it also meets the attribute behind a directory that was found.
    let (mut failed, mut mounted, mut attributes) = (0, 0, 0);
    let mut rounds = rounds();
    // More of them where few moments are tried.
    while rounds.next().is_some() || (attributes == 0 && failed + mounted < 80) {
        let hand = Hand::bind(&cache)?;
        hand.serve_all();
        let trace = Trace::begin()?;
        let injection = Injection::of(0)?;
        let mut value = 0;
        let toggler = Again::and_again(move || {
            value ^= IO_ERROR;
            let _ = injection.turn(value);
        });
        let mount = hand
            .until_done(mounting(lab, "meta", ""))
            .context("a mount under EIO")?;
        // With it goes the switch, and what it was set to.
        drop(toggler);
        let trace = trace.end()?;
        let errors = trace.iter().filter(|line| line.contains("_vfs_error: "));
        attributes += errors.filter(|line| line.contains("getxattr")).count();
        match mount {
            Ok(mount) => {
                mounted += 1;
                drop(hand.adopt(mount));
            }
            Err(_) => failed += 1,
        }
        hand.close();
    }
    println!("{mounted} mounts, {failed} failed; {attributes} attributes could not be read");
    ensure!(failed > 0, "no mount met an error");
    ensure!(attributes > 0, "no attribute met an error");
    let hand = Hand::bind(&cache)?;
    hand.serve_all();
    drop(hand.mount(lab, "meta3").context("after the errors")?);
    Ok(())
}

/// What a write returns is what it was given, not that rounded up to blocks.
fn unaligned_pwrite_returns_its_length(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    if lab.is_peer() {
        // C has no file for a write before the lookup behind the answer is through.
        scene.still_serves(56)?;
    }
    // None in the way of the last READ.
    for (number, len) in (0..).zip([
        1,
        100,
        512,
        2048,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        3 * BLOCK - 7,
    ]) {
        let wrote = scene
            .blob
            .object
            .write_at(&bytes(0, len), number * 4 * BLOCK);
        if lab.is_peer() && wrote.is_err() {
            // C hands the length to direct I/O, which may not take it.
            expect_error(wrote, Errno::INVAL, &format!("C with {len} bytes"))?;
            continue;
        }
        let wrote = wrote?;
        ensure!(wrote as u64 == len, "{wrote} of {len} bytes written");
    }
    scene.still_serves(60)
}

/// Writes without an offset go one behind the other.
fn writes_in_a_row_move_the_position(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    for block in 0..8 {
        let data = bytes(block * BLOCK, BLOCK);
        let mut wrote = scene.blob.object.write(&data);
        if lab.is_peer() {
            // C was seen to refuse one for the moment, on a busy machine.
            eventually("C takes the write", || {
                let refused = wrote.as_ref().err().and_then(errno) == Some(Errno::NOBUFS);
                if refused {
                    println!("C gave ENOBUFS for block {block}");
                    wrote = scene.blob.object.write(&data);
                }
                !refused
            })?;
        }
        let wrote = wrote.context("a write at the position")?;
        ensure!(wrote as u64 == BLOCK, "{wrote} bytes written");
    }
    for block in 0..8 {
        let got = scene
            .hand
            .until_done(read_block(&scene.mount.file(), block))?;
        expect_data(got, block)?;
    }
    ensure!(
        scene.hand.is_quiet(Duration::from_millis(20))?,
        "a READ for what was written"
    );
    Ok(())
}

/// A write that the disk cannot take whole does not say that it did.
fn short_write_is_not_reported_as_whole(lab: &Lab) -> Result<()> {
    const WHOLE: u64 = 4 << 20;
    let cache = lab.cache_of(64)?;
    let hand = Hand::bind(&cache)?;
    let mount = hand.mount(lab, "meta")?;
    let blob = hand.opened()?;
    // Until the lookup behind the answer is through, there is no file.
    served(&hand, &blob.object, &mount.file(), 63)?;
    let injection = Injection::of(NO_SPACE)?;
    let got = blob.object.write_at(&bytes(0, BLOCK), 0);
    drop(injection);
    expect_error(got, Errno::NOSPC, "a write when the disk says ENOSPC")?;
    // Somebody else takes the space away while a long write is under way.
    let dir = cache.dir().to_owned();
    let (ballast, more) = (dir.join("ballast"), dir.join("more"));
    let mut results = vec![];
    for round in 1..7_u64 {
        let file = fs::File::create(&ballast)?;
        let stat = statvfs(&dir)?;
        // bstop is 1 %.
        let leave = WHOLE + (64 << 20) / 100 + (1 << 20);
        let take = (stat.f_bavail * stat.f_frsize).saturating_sub(leave);
        fallocate(&file, FallocateFlags::empty(), 0, take.max(1))?;
        let at = round * WHOLE;
        let data = bytes(at, WHOLE);
        let stolen = fs::File::create(&more)?;
        let thief = thread::spawn(move || -> Result<()> {
            thread::sleep(Duration::from_micros((round % 3) * 50));
            for at in 0..64 {
                fallocate(&stolen, FallocateFlags::empty(), at << 18, 1 << 18)?;
            }
            Ok(())
        });
        let wrote = blob.object.write_at(&data, at);
        // It ends when the disk is full.
        let _ = thief.join();
        // Behind the end of the file there is nothing, not even a hole.
        let there = blob
            .object
            .seek(SeekFrom::Hole(at))
            .map_or(0, |end| end - at);
        if let Ok(wrote) = wrote {
            ensure!(wrote > 0, "nothing written, and no error");
            ensure!(
                there >= wrote as u64,
                "{wrote} bytes reported, {there} are there"
            );
        }
        results.push(wrote.map_err(|error| error.raw_os_error()));
        drop(file);
        fs::remove_file(&ballast)?;
        let _ = fs::remove_file(&more);
    }
    println!("writes of {WHOLE} bytes: {results:?}");
    // Space may last; a limit on the size of files does cut a write, at the end of a block here.
    let at = 50 * BLOCK;
    let data = lab.base().join("three-blocks");
    fs::write(&data, &bytes(at, 3 * BLOCK)[..])?;
    // Python does not die of the signal.
    let output = Command::new("python3")
        .args(["-I", "-c", CUT_WRITE])
        .arg(&data)
        .args([at, at + BLOCK].map(|number| number.to_string()))
        .stdout(Stdio::from(blob.object.as_fd().try_clone_to_owned()?))
        .stderr(Stdio::piped())
        .output()?;
    let wrote = String::from_utf8_lossy(&output.stderr);
    ensure!(
        wrote == BLOCK.to_string(),
        "{wrote:?} of three blocks of which one can be written"
    );
    let end = blob.object.seek(SeekFrom::Hole(at))?;
    ensure!(end == at + BLOCK, "the hole behind {at} is at {end}");
    served(&hand, &blob.object, &mount.file(), 40)
}

/// Writes a file to where on its standard output, and no further than that; says how much it was.
const CUT_WRITE: &str = "
import mmap, os, resource, sys
at, limit = map(int, sys.argv[2:])
with open(sys.argv[1], 'rb') as file:
    data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
sys.stderr.write(str(os.pwrite(1, data, at)))
";

/// A cache in the ordinary mode, and EROFS wants to mount from it.
fn plain_bind_with_a_netfs(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = Device::open()?;
    device.configure(&CacheConfig::new(cache.dir()))?;
    device.command(b"bind")?;
    for _ in 0..3 {
        // The first one makes the volume's 256 directories.
        let mount = within(*SOON, "a mount", mounting(lab, "meta", ""))?;
        ensure!(mount.is_err(), "mounted from an ordinary cache");
        ensure!(
            try_mount(lab.base(), b"meta", b"domain_id=d").is_err(),
            "mounted in a domain"
        );
    }
    drop(device);
    let hand = Hand::bind(&cache)?;
    hand.serve_all();
    let mount = hand.mount(lab, "meta")?;
    hand.until_done(read_block(&mount.file(), 0))?
        .context("after all")?;
    expect_data(read_block_here(&mount.file(), 0), 0)?;
    mount.unmount()
}
