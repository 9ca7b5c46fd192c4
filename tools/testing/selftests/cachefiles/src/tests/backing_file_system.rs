// SPDX-License-Identifier: GPL-2.0

//! What a backing file system must be good for, whichever it is: data that compress, a disk that is
//! full, the disk as a power cut leaves it, seeks.

use super::faults_scene::{
    blobs, forget_pages, meta, mounted, read, read_right, right_or_eio, serve, unmount, Outcome,
    SIZE,
};
use crate::{
    backing::{ram_disk, Backing},
    blob::Blob,
    claim::claims,
    daemon::{Blobs, Daemon, Manner},
    disk::Disk,
    file_system::chosen,
    group,
    image::{Image, BLOCK},
    kernel::{drop_caches, run, Module},
    lab::{eventually, free_device, Cache, Lab},
    mount::Mount,
    raw::errno,
    stage,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Errno;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

group!("backing_file_system":
    data_that_compress,
    full_disk,
    disk_as_the_power_leaves_it,
    seeks_no_more_than_ext4,
    directory_that_folds_case,
);

/// Text, whole extents of zeros, and what does not compress, by turns.
fn compressible(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    let mut random = fastrand::Rng::with_seed(1);
    while bytes.len() < len {
        match bytes.len() / (256 << 10) % 3 {
            0 => bytes.extend(format!("{} lines of text\n", bytes.len()).bytes()),
            1 => bytes.resize(bytes.len() + 4096, 0),
            _ => bytes.push(random.u8(..)),
        }
    }
    bytes.truncate(len);
    bytes
}

/// A blob that compresses, with blocks of zeros, is read as it is: cold, warm, with the page cache
/// dropped, after another mount.  What is there is asked for once.
fn data_that_compress(lab: &Lab) -> Result<()> {
    const LEN: usize = 3 << 20;
    let want = compressible(LEN);
    let chunks: Vec<(u16, u32)> = (0..LEN as u32 / BLOCK as u32)
        .map(|block| (1, block))
        .collect();
    let image = Image::new().device("blob").file("file", 0, chunks).build();
    let cache = lab.cache()?;
    let blob = Blob::Bytes(want.clone().into());
    let both = Blobs::new().with("meta", image).with("blob", blob.clone());
    let daemon = cache.serve(both)?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    for round in 0..4 {
        let before = daemon.reads();
        let got = fs::read(mount.path("file"))?;
        let wrong = got.iter().zip(&want).position(|(got, want)| got != want);
        ensure!(got.len() == want.len(), "{} bytes", got.len());
        ensure!(wrong.is_none(), "round {round}: wrong at {wrong:?}");
        let asked = daemon.reads() - before;
        ensure!(
            (asked == 0) == (round > 0),
            "{asked} READs in round {round}"
        );
        drop_caches()?;
        if round == 1 {
            mount.unmount()?;
            mount = Mount::new(lab.base(), "meta")?;
        }
    }
    mount.unmount()?;
    let found = claims(cache.dir())?;
    let claim = found.iter().find(|claim| claim.key == "blob");
    claim.context("no cache file")?.compare(&blob)
}

/// Fills a file system with a file, and gives so many bytes back; those that are kept for root are
/// not among what is said to be free.
fn fill_disk(dir: &Path, leave: u64) -> Result<PathBuf> {
    let path = dir.join("ballast");
    let mut file = File::create(&path)?;
    let mut random = fastrand::Rng::with_seed(2);
    let mut bytes = vec![0; 256 << 10];
    loop {
        random.fill(&mut bytes);
        match file.write_all(&bytes).and_then(|()| file.sync_data()) {
            Err(error) if errno(&error) == Some(Errno::NOSPC) => break,
            done => done?,
        }
    }
    file.set_len(file.metadata()?.len().saturating_sub(leave))?;
    rustix::fs::syncfs(&file)?;
    Ok(path)
}

/// A disk on which there is no room for the rest: readers get the right data or EIO.  When there is
/// room again, they get all.
fn full_disk(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(64)?;
    let device = free_device(cache.dir())?;
    // It is for the file system to say that it is full.
    for line in [
        "bstop 0%", "bcull 1%", "brun 2%", "fstop 0%", "fcull 1%", "frun 2%",
    ] {
        device.command(line.as_bytes())?;
    }
    device.bind_ondemand()?;
    let daemon = Daemon::patient(device, blobs(Manner::Serve))?;
    let mount = mounted(lab)?;
    read_right(&mount, 0)?;
    let ballast = fill_disk(cache.dir(), 1 << 20)?;
    let blocks = (SIZE / BLOCK) as u32;
    let mut failed = 0;
    for block in (0..blocks).step_by(2) {
        if right_or_eio(read(&mount, block)?, block)? == Outcome::Failed {
            failed += 1;
        }
        if failed == 8 {
            break;
        }
    }
    println!("{failed} blocks were EIO");
    forget_pages(&mount)?;
    for block in (0..blocks).step_by(64) {
        right_or_eio(read(&mount, block)?, block).context("what was cached before")?;
    }
    fs::remove_file(ballast)?;
    rustix::fs::syncfs(File::open(cache.dir())?)?;
    // For a tenth of a second the module need not look again what there is to spare.
    thread::sleep(Duration::from_millis(200));
    eventually("there is room", || {
        read(&mount, blocks - 1).is_ok_and(|got| got.is_ok())
    })?;
    forget_pages(&mount)?;
    for block in (0..blocks).step_by(7) {
        read_right(&mount, block).context("when there is room again")?;
    }
    unmount(mount)?;
    let mount = mounted(lab)?;
    for block in (0..blocks).step_by(5) {
        read_right(&mount, block).context("after another mount")?;
    }
    unmount(mount)?;
    ensure!(failed > 0, "the disk was never full");
    drop(daemon);
    Ok(())
}

/// Copies a disk as it is at this moment.
fn copy(from: &str, to: &str, mib: u64) -> Result<()> {
    let words = [
        format!("if={from}"),
        format!("of={to}"),
        "bs=1M".to_owned(),
        format!("count={mib}"),
        "iflag=direct".to_owned(),
        "oflag=direct".to_owned(),
        "status=none".to_owned(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run("dd", &words).map(drop)
}

/// While a cache is filled its disk is held and copied, and the copy is what a power cut would have
/// left: what it claims to have is right, and a session on it has every byte right.
fn disk_as_the_power_leaves_it(lab: &Lab) -> Result<()> {
    const MIB: u64 = 128;
    let disk = Disk::new("cachefiles-cut", MIB)?;
    let mut fs = disk.format_and_mount(lab.base())?;
    let mut module = Module::load(lab.module())?;
    let mut daemon = serve(fs.dir(), Manner::Serve)?;
    let below = ram_disk(0)?;
    let copies = [ram_disk(2)?, ram_disk(3)?];
    // The file has its name before most of it is there.
    let mount = mounted(lab)?;
    read_right(&mount, 0)?;
    unmount(mount)?;
    rustix::fs::sync();
    let mount = mounted(lab)?;
    let mut blocks = (0..(SIZE / BLOCK) as u32).step_by(2);
    let mut filled = |count: usize, from: &str| -> Result<()> {
        for block in blocks.by_ref().take(count) {
            read_right(&mount, block).context(from.to_owned())?;
        }
        Ok(())
    };
    for to in &copies {
        filled(100, "before")?;
        // Some of it is on the disk for certain.
        rustix::fs::syncfs(File::open(fs.dir())?)?;
        filled(100, "behind")?;
        let held = disk.hold()?;
        copy(&below, to, MIB)?;
        drop(held);
    }
    unmount(mount)?;
    daemon.stop()?;
    module.unload()?;
    // A file system has one number, and is mounted once.
    fs.unmount()?;
    for disk in &copies {
        is_right_after_a_cut(lab, disk)?;
    }
    Ok(())
}

/// A disk with a cache as the power left it.
fn is_right_after_a_cut(lab: &Lab, disk: &str) -> Result<()> {
    let blob = Blob::Pattern {
        seed: stage::SEED,
        size: SIZE,
    };
    let mut fs = Backing::of_cache(lab.base(), disk, "")?;
    let mut claimed = 0;
    for claim in claims(fs.dir())?.iter().filter(|claim| claim.valid) {
        claimed += claim.bytes();
        match claim.key.as_str() {
            "blob" => claim.compare(&blob)?,
            _ => claim.compare(&meta())?,
        }
    }
    println!("{claimed} bytes are claimed");
    ensure!(claimed >= 100 * BLOCK, "what was synced is lost");
    let mut module = Module::load(lab.module())?;
    let mut daemon = serve(fs.dir(), Manner::Serve)?;
    let mount = mounted(lab)?;
    for block in 0..600 {
        read_right(&mount, block)?;
    }
    unmount(mount)?;
    daemon.stop()?;
    module.unload()?;
    fs.unmount()?;
    chosen().check(disk)
}

const TRACING: &str = "/sys/kernel/debug/tracing";

/// How many steps the seeks take that something makes: two each in the midst of an extent.
fn seeks(work: impl FnOnce() -> Result<()>) -> Result<usize> {
    let path = |name| Path::new(TRACING).join(name);
    let switch = path("events/iomap/iomap_iter/enable");
    fs::write(path("trace"), "")?;
    fs::write(path("buffer_size_kb"), "8192")?;
    fs::write(&switch, "1")?;
    let done = work();
    fs::write(&switch, "0")?;
    done?;
    let trace = fs::read_to_string(path("trace"))?;
    fs::write(path("buffer_size_kb"), "1408")?;
    let seeks = |line: &&str| line.contains("caller iomap_seek_");
    Ok(trace.lines().filter(seeks).count())
}

/// The seeks of reads of what was just filled, and of the same after another mount.
fn seeks_of_reads(lab: &Lab, cache: &Cache) -> Result<[usize; 2]> {
    let daemon = cache.serve(stage::blobs(Manner::Serve))?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    stage::expect_file(&mount.path("file"))?;
    rustix::fs::sync();
    let mut found = [0; 2];
    for seeks_of in &mut found {
        drop_caches()?;
        let before = daemon.reads();
        // The first has to look.
        read_scattered(&mount)?;
        drop_caches()?;
        *seeks_of = seeks(|| read_scattered(&mount))?;
        ensure!(daemon.reads() == before, "READs for what is cached");
        mount.unmount()?;
        mount = Mount::new(lab.base(), "meta")?;
    }
    mount.unmount()?;
    Ok(found)
}

fn read_scattered(mount: &Mount) -> Result<()> {
    for at in 0..stage::BLOCKS {
        let block = at * 13 % stage::BLOCKS;
        let file = mount.path("file");
        stage::expect_data(stage::read_block_here(&file, block), block)?;
    }
    Ok(())
}

/// A read of what is cached asks this file system no more often where data is than it asks ext4.
fn seeks_no_more_than_ext4(lab: &Lab) -> Result<()> {
    let here = seeks_of_reads(lab, &lab.cache()?)?;
    let fs = Backing::ext4(lab.base(), 1, 64)?;
    let module = Module::load(lab.module())?;
    let there = seeks_of_reads(lab, &Cache { module, fs })?;
    println!(
        "{} reads of what was filled, and after another mount: {here:?} seeks, on ext4 {there:?}",
        stage::BLOCKS
    );
    let more = here.iter().zip(there).any(|(here, there)| *here > there);
    ensure!(!more, "{here:?} seeks, on ext4 {there:?}");
    Ok(())
}

/// A cache cannot be where names that differ in case are one: two blobs would have one file.
fn directory_that_folds_case(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let dir = cache.dir().join("folding");
    fs::create_dir(&dir)?;
    run("chattr", &["+F", &dir.to_string_lossy()])?;
    let device = free_device(&dir)?;
    let bound = device.bind_ondemand();
    if lab.is_peer() {
        println!("C: {bound:?}");
        return Ok(());
    }
    stage::expect_error(bound, Errno::OPNOTSUPP, "bind")
}
