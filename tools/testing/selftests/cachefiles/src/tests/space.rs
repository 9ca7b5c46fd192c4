// SPDX-License-Identifier: GPL-2.0

//! Full disks: readers of what cannot be cached get an error, and the cache stays sound.

use super::faults_scene::withdrawn;
use crate::{
    blob::{pattern, Blob},
    cachefilesd::Counters,
    claim::cache_files,
    daemon::{Blobs, Daemon, Manner},
    group,
    image::{Image, BLOCK},
    kernel::{run, Kmsg},
    lab::{Cache, Lab},
    mount::Mount,
    stage::{self, read_block_here},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{cache::limits::Levels, CacheConfig, Device, Errno};
use rustix::fs::{fallocate, statvfs, FallocateFlags};
use std::{fs::File, os::unix::fs::FileExt, path::Path};

group!("space":
    disk_full,
    below_bstop,
    no_inodes_left,
    below_fstop,
    space_comes_back,
);

const SEED: u64 = 11;
/// More than the file system has left.
const BLOCKS: u32 = 1536;

fn blobs() -> Blobs {
    let chunks: Vec<(u16, u32)> = (0..BLOCKS / 16).map(|chunk| (1, chunk * 16)).collect();
    Blobs::new()
        .with(
            "meta",
            Image::new().device("blob").file("file", 4, chunks).build(),
        )
        .with(
            "blob",
            Blob::Pattern {
                seed: SEED,
                size: u64::from(BLOCKS) * BLOCK,
            },
        )
}

/// Binds with the limits at this per cent for `bstop` and `fstop`.
fn serve(cache: &Cache, stop: u64) -> Result<Daemon> {
    let device = Device::open()?;
    let mut config = CacheConfig::new(cache.dir());
    for levels in [&mut config.blocks, &mut config.files] {
        levels.stop = stop;
        levels.cull = stop + 1;
        levels.run = stop + 2;
    }
    device.configure(&config)?;
    device.bind_ondemand()?;
    Daemon::over(device, blobs())
}

/// Takes space until this many bytes are left.
fn take_space(dir: &Path, leave: u64) -> Result<()> {
    let file = File::create(dir.join("ballast"))?;
    let stat = statvfs(dir)?;
    let take = (stat.f_bavail * stat.f_frsize).saturating_sub(leave);
    fallocate(&file, FallocateFlags::empty(), 0, take).context("taking space")?;
    rustix::fs::syncfs(&file)?;
    Ok(())
}

/// Reads chunk by chunk; how many were right and how many failed.  None is wrong.
fn read_all(file: &Path) -> Result<(u32, u32)> {
    let len = 16 * BLOCK;
    let file = File::open(file)?;
    let (mut right, mut failed) = (0, 0);
    for at in (0..u64::from(BLOCKS) * BLOCK).step_by(len as usize) {
        let (mut got, mut want) = (vec![0; len as usize], vec![0; len as usize]);
        pattern(SEED, at, &mut want);
        match file.read_exact_at(&mut got, at) {
            Ok(()) => {
                ensure!(got == want, "wrong data at {at}");
                right += 1;
            }
            Err(_) => failed += 1,
        }
    }
    Ok((right, failed))
}

fn fsck(device: &str) -> Result<()> {
    run("e2fsck", &["-f", "-n", device])
        .map(drop)
        .context("the backing file system")
}

/// Reads more than fits; then checks what is there, with a new daemon, and the file system.
fn overfill(lab: &Lab, stop: u64) -> Result<()> {
    let mut cache = lab.cache_of(64)?;
    take_space(cache.dir(), (3 << 20) + stop * (64 << 20) / 100)?;
    let mut daemon = serve(&cache, stop)?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    let (right, failed) = read_all(&mount.path("file"))?;
    println!("{right} chunks read, {failed} failed");
    ensure!(
        right > 0,
        "nothing was cached although there was room for something"
    );
    ensure!(failed > 0, "6 MiB were cached where 3 MiB were free");
    mount.unmount()?;
    daemon.stop()?;
    let mut daemon = serve(&cache, stop)?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    let (again, _) = read_all(&mount.path("file"))?;
    ensure!(
        again >= right,
        "{again} chunks after a remount, {right} before it"
    );
    mount.unmount()?;
    daemon.stop()?;
    let device = cache.fs.device().to_owned();
    cache.module.unload()?;
    cache.fs.unmount()?;
    fsck(&device)
}

/// With no limit the disk is filled to the last block: ENOSPC.
fn disk_full(lab: &Lab) -> Result<()> {
    overfill(lab, 0)
}

/// Below bstop nothing more is cached.
fn below_bstop(lab: &Lab) -> Result<()> {
    overfill(lab, 20)
}

/// Without a free inode no cache file can be made: the mount fails, the next one works.
fn no_inodes_left(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(8)?;
    let _daemon = serve(&cache, 0)?;
    let dir = cache.dir().join("inodes");
    std::fs::create_dir(&dir)?;
    let mut number = 0;
    while File::create(dir.join(number.to_string())).is_ok() {
        number += 1;
    }
    let log = Kmsg::from_now()?;
    let got = crate::mount::try_mount(lab.base(), b"meta", b"").map(drop);
    let said = log.of_module()?;
    if lab.is_peer() {
        ensure!(got.is_err(), "mounted without an inode");
    } else {
        // Neither has the volume a directory.  On C, FS-Cache says that there is no cache.
        ensure!(got == Err(Errno::IO), "mounted without an inode: {got:?}");
        let why = |line: &String| line.contains("erofs,meta") && line.contains("error -");
        ensure!(said.iter().any(why), "the log says {said:?}");
    }
    std::fs::remove_dir_all(&dir)?;
    let mount = Mount::new(lab.base(), "meta")?;
    let mut got = vec![0; BLOCK as usize];
    File::open(mount.path("file"))?.read_exact_at(&mut got, 0)?;
    Ok(())
}

/// Below fstop no new file is made, while what has a file can be read; above it, again.  A reader whose
/// blob got no file has EIO, and is right once mounted anew.
fn below_fstop(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(8)?;
    let device = Device::open()?;
    let mut config = CacheConfig::new(cache.dir());
    config.files = Levels {
        run: 52,
        cull: 51,
        stop: 50,
    };
    device.configure(&config)?;
    device.bind_ondemand()?;
    let other = stage::blobs_named("meta2", "blob2", Manner::Serve);
    let _daemon = Daemon::over(device, blobs().merged(other))?;
    let block = |mount: &Mount| -> Result<()> {
        let (mut got, mut want) = ([0; BLOCK as usize], [0; BLOCK as usize]);
        pattern(SEED, 0, &mut want);
        File::open(mount.path("file"))?.read_exact_at(&mut got, 0)?;
        ensure!(got == want, "wrong data");
        Ok(())
    };
    let domain = "domain_id=d";
    block(&Mount::with(lab.base(), "meta", domain)?)?;
    let dir = cache.dir().join("inodes");
    std::fs::create_dir(&dir)?;
    let stat = statvfs(cache.dir())?;
    for number in 0..stat.f_ffree.saturating_sub(stat.f_files * 4 / 10) {
        File::create(dir.join(number.to_string()))?;
    }
    let before = Counters::now()?;
    let got = crate::mount::try_mount(lab.base(), b"meta2", b"domain_id=d");
    ensure!(got.is_err(), "mounted below fstop");
    let moved = Counters::now()?.since(&before);
    ensure!(moved.get("NoSpace.ncr") > 0, "not counted: {moved:?}");
    block(&Mount::with(lab.base(), "meta", domain)?).context("what has a file")?;
    withdrawn()?;
    let blob = cache_files(cache.dir())
        .into_iter()
        .find(|file| file.ends_with("Dblob"))
        .context("the blob's file")?;
    std::fs::remove_file(blob)?;
    let mut lacking = Mount::with(lab.base(), "meta", domain).context("the image has a file")?;
    // On C, FS-Cache says that there is no cache for it.
    let error = lab.with_ours(Errno::IO, Errno::NOBUFS);
    for what in ["a read without a file", "the next"] {
        stage::expect_error(read_block_here(&lacking.path("file"), 0), error, what)?;
    }
    lacking.unmount()?;
    std::fs::remove_dir_all(&dir)?;
    block(&Mount::with(lab.base(), "meta", domain)?).context("the blob has a file again")?;
    Mount::with(lab.base(), "meta2", domain).context("with room again")?;
    Ok(())
}

/// Once there is room again, the same mount can read the rest.
fn space_comes_back(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(64)?;
    take_space(cache.dir(), 3 << 20)?;
    let daemon = serve(&cache, 0)?;
    let mount = Mount::new(lab.base(), "meta")?;
    let (_, failed) = read_all(&mount.path("file"))?;
    ensure!(failed > 0, "there was room for everything");
    std::fs::remove_file(cache.dir().join("ballast"))?;
    run("sync", &[])?;
    let (right, failed) = read_all(&mount.path("file"))?;
    ensure!(
        failed == 0,
        "{failed} of {} chunks fail still",
        right + failed
    );
    let before = daemon.reads();
    crate::kernel::drop_caches()?;
    read_all(&mount.path("file"))?;
    ensure!(
        daemon.reads() == before,
        "{} READs for cached data",
        daemon.reads() - before
    );
    Ok(())
}
