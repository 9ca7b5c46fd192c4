// SPDX-License-Identifier: GPL-2.0

//! Over and over: loading, binding, mounting, reading, unmounting and unloading leave the kernel
//! as it was.

use crate::{
    backing::Backing,
    daemon::{Daemon, Manner},
    group,
    kernel::{Module, drop_caches, meminfo, shrink_slabs, slab_objects},
    lab::Lab,
    mount::Mount,
    stage::{self, expect_data, expect_error, read_block_here},
};
use anyhow::{Result, ensure};
use cachefiles_client::{CacheConfig, Device, Errno};

group!("cycle":
    hundred_rounds,
    bind_and_close,
    failed_binds,
    mounts_under_one_daemon,
);

/// Slab caches that a round uses, and how many objects of each may come and go by themselves.
const SLABS: [&str; 8] =
    ["cachefiles", "fscache", "netfs", "erofs", "kmalloc", "cred_jar", "filp", "ext4_inode"];
const SLACK_OBJECTS: u64 = 30;
/// Page tables, per-CPU lists and the like.
const SLACK_KIB: u64 = 6 << 10;

fn objects() -> Result<Vec<u64>> {
    drop_caches()?;
    shrink_slabs()?;
    SLABS.iter().map(|name| slab_objects(name)).collect()
}

/// Compares memory before and after, each after a few rounds of warming up.
fn leaves_memory_alone(rounds: u32, mut round: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..5 {
        round()?;
    }
    let (slabs, memory) = (objects()?, meminfo("MemAvailable")?);
    for _ in 0..rounds {
        round()?;
    }
    let (slabs_now, memory_now) = (objects()?, meminfo("MemAvailable")?);
    println!("MemAvailable: {memory} KiB, then {memory_now} KiB; {SLABS:?}: {slabs:?}, {slabs_now:?}");
    for ((name, before), now) in SLABS.iter().zip(&slabs).zip(&slabs_now) {
        ensure!(*now <= before + SLACK_OBJECTS, "{name}: {before} objects, then {now}");
    }
    ensure!(memory_now + SLACK_KIB >= memory, "{} KiB are gone", memory - memory_now);
    Ok(())
}

fn hundred_rounds(lab: &Lab) -> Result<()> {
    // Not on a RAM disk, which takes memory for whatever is written.
    let fs = Backing::ext4_on(lab.base(), &lab.disk()?)?;
    let mut number = 0;
    leaves_memory_alone(95, || {
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
