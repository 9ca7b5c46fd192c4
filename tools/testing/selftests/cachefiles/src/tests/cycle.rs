// SPDX-License-Identifier: GPL-2.0

//! Over and over: loading, binding, mounting, reading, unmounting and unloading leave the kernel
//! as it was.  The cache is on a disk whose interrupts complete what is read.

use super::bugs_scene::rounds;
use crate::{
    backing::Backing,
    daemon::{Daemon, Manner},
    group,
    image::BLOCK,
    kernel::{allocations, drop_caches, meminfo, Module, RUST},
    ktap::in_ci,
    lab::{eventually, Lab},
    mount::Mount,
    stage::{self, expect_data, expect_error, expect_file, read_block_here},
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{CacheConfig, Device, Errno};
use rustix::fs::{fadvise, Advice};
use std::{
    fs::File,
    num::NonZeroU64,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

group!("cycle":
    load_and_unload,
    bind_and_close,
    failed_binds,
    mounts_under_one_daemon,
    reads_in_flight_when_all_ends,
);

/// Where a round asks for memory: our module or C's, what uses them, and the kernel on their behalf.
const SOURCES: [&str; 8] = [
    RUST,
    "rust/sys/",
    "fs/cachefiles/",
    "fs/netfs/",
    "fs/erofs/",
    "fs/ext4/super.c",
    "fs/file_table.c",
    "kernel/cred.c",
];
/// Page tables, per-CPU lists and the like.
const SLACK_KIB: u64 = 6 << 10;

/// The longest that kfree_rcu() keeps what it has collected.
const BATCHES: Duration = Duration::from_secs(6);

/// What is in use: available memory in KiB, and pieces of memory by who asked for them.
struct Usage {
    memory: u64,
    /// `None` on the debug kernel, where kmemleak looks for what is lost.
    pieces: Option<[u64; SOURCES.len()]>,
}

impl Usage {
    fn now() -> Result<Usage> {
        drop_caches()?;
        let mut pieces = [0; SOURCES.len()];
        let mut are_counted = true;
        for (source, count) in SOURCES.iter().zip(&mut pieces) {
            match allocations(source) {
                Some(pieces) => *count = pieces,
                None => are_counted = false,
            }
        }
        Ok(Usage {
            memory: meminfo("MemAvailable")?,
            pieces: are_counted.then_some(pieces),
        })
    }
}

/// What is gone between two moments: a sentence for whatever is more than half a piece a round.
fn gone(from: &Usage, to: &Usage, rounds: u64) -> Vec<String> {
    let mut gone = Vec::new();
    if let (Some(from), Some(to)) = (from.pieces, to.pieces) {
        for ((source, from), to) in SOURCES.iter().zip(from).zip(to) {
            let more = to.saturating_sub(from);
            if more > rounds / 2 {
                gone.push(format!(
                    "{source}: {more} more pieces of memory after {rounds} rounds"
                ));
            }
        }
    }
    let less = from.memory.saturating_sub(to.memory);
    if less > SLACK_KIB {
        gone.push(format!("{less} KiB less after {rounds} rounds"));
    }
    gone
}

/// Compares memory before and after these rounds.
fn leaves_memory_alone(rounds: u64, mut round: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..5 {
        round()?;
    }
    let mut before = Usage::now()?;
    let mut suspected = Vec::new();
    // What the kernel frees in batches may not be freed yet, before or after.  So a suspicion is
    // looked into, with as many rounds again and time for the batches.
    for rounds in [rounds, rounds / 2, rounds / 2] {
        for _ in 0..rounds {
            round()?;
        }
        if !suspected.is_empty() {
            thread::sleep(BATCHES);
        }
        let after = Usage::now()?;
        println!(
            "MemAvailable {} then {} KiB; {SOURCES:?}: {:?} then {:?}",
            before.memory, after.memory, before.pieces, after.pieces
        );
        suspected = gone(&before, &after, rounds);
        if suspected.is_empty() {
            return Ok(());
        }
        thread::sleep(BATCHES);
        before = Usage::now()?;
    }
    bail!("{}", suspected.join("; "))
}

/// A round takes half a second.
fn load_and_unload(lab: &Lab) -> Result<()> {
    // Not on a RAM disk, which takes memory for whatever is written.
    let fs = Backing::ext4_on(lab.base(), &lab.disk()?)?;
    let mut number = 0;
    leaves_memory_alone(if in_ci() { 100 } else { 24 }, || {
        number += 1;
        let mut module = Module::load(lab.module())?;
        let mut daemon = Daemon::start(fs.dir(), stage::blobs(Manner::Serve))?;
        let mut mount = Mount::new(lab.base(), "meta")?;
        let block = number % stage::BLOCKS;
        expect_data(read_block_here(&mount.path("file"), block), block)?;
        mount.unmount()?;
        daemon.stop()?;
        module.unload()
    })
}

/// CVE-2024-26840: bind and close in a loop.
fn bind_and_close(lab: &Lab) -> Result<()> {
    let fs = Backing::ext4_on(lab.base(), &lab.disk()?)?;
    let _module = Module::load(lab.module())?;
    leaves_memory_alone(150, || {
        let device = Device::open()?;
        device.configure(&CacheConfig::new(fs.dir()))?;
        Ok(device.bind_ondemand()?)
    })
}

fn failed_binds(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    leaves_memory_alone(150, || {
        let device = Device::open()?;
        device.configure(&CacheConfig::new("/proc/sys"))?;
        expect_error(device.bind_ondemand(), Errno::OPNOTSUPP, "a cache on proc")
    })
}

fn mounts_under_one_daemon(lab: &Lab) -> Result<()> {
    let fs = Backing::ext4_on(lab.base(), &lab.disk()?)?;
    let _module = Module::load(lab.module())?;
    let _daemon = Daemon::start(fs.dir(), stage::blobs(Manner::Serve))?;
    let mut number = 0;
    leaves_memory_alone(60, || {
        number += 1;
        let mut mount = Mount::new(lab.base(), "meta")?;
        let block = number % stage::BLOCKS;
        expect_data(read_block_here(&mount.path("file"), block), block)?;
        mount.unmount()
    })
}

/// Readers who have the disk asked for one block after the other, and what they have got.
#[derive(Default)]
struct Readers {
    over: AtomicBool,
    right: AtomicU32,
    failed: AtomicU32,
}

impl Readers {
    /// Reads until it is over; whatever is read must be right.
    fn read(&self, file: &File, first: u32) -> Result<()> {
        fadvise(file, 0, None, Advice::Random)?;
        let mut block = first;
        while !self.over.load(Ordering::SeqCst) {
            block = (block + 1) % stage::BLOCKS;
            let at = u64::from(block) * BLOCK;
            fadvise(file, at, NonZeroU64::new(BLOCK), Advice::DontNeed)?;
            let mut bytes = vec![0; BLOCK as usize];
            match file.read_exact_at(&mut bytes, at) {
                Ok(()) => {
                    expect_data(Ok(bytes), block)?;
                    self.right.fetch_add(1, Ordering::SeqCst);
                }
                Err(_) => drop(self.failed.fetch_add(1, Ordering::SeqCst)),
            }
        }
        Ok(())
    }
}

/// The image is unmounted and the daemon goes, in either order, while the disk is reading for others.
fn reads_in_flight_when_all_ends(lab: &Lab) -> Result<()> {
    let mut fs = Backing::ext4_on(lab.base(), &lab.disk()?)?;
    let mut module = Module::load(lab.module())?;
    let (mut right, mut failed) = (0, 0);
    for round in rounds() {
        let mut daemon = Daemon::start(fs.dir(), stage::blobs(Manner::Serve))?;
        let mount = Mount::new(lab.base(), "meta")?;
        let path = mount.path("file");
        if round == 0 {
            // From here on all is stored.
            expect_file(&path)?;
        }
        let files = [0, 1, 2, 3].map(|_| File::open(&path));
        let files = files.into_iter().collect::<Result<Vec<_>, _>>()?;
        let readers = Readers::default();
        let reads = daemon.reads();
        thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> = (0..)
                .step_by(16)
                .zip(&files)
                .map(|(first, file)| (first, file, &readers))
                .map(|(first, file, readers)| scope.spawn(move || readers.read(file, first)))
                .collect();
            let begun = eventually("blocks are read", || {
                readers.right.load(Ordering::SeqCst) >= 16
            });
            let ended = begun.and_then(|()| {
                ensure!(daemon.reads() == reads, "a block was not stored");
                if round % 2 == 0 {
                    mount.detach()?;
                    return daemon.stop();
                }
                daemon.stop()?;
                Ok(mount.detach()?)
            });
            readers.over.store(true, Ordering::SeqCst);
            for thread in threads {
                thread.join().ok().context("a reader panicked")??;
            }
            ended
        })?;
        right += readers.right.into_inner();
        failed += readers.failed.into_inner();
    }
    println!("{right} blocks were read, {failed} were not");
    module.unload()?;
    fs.unmount()
}
