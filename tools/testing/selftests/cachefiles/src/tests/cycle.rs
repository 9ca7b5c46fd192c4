// SPDX-License-Identifier: GPL-2.0

//! Over and over: loading, binding, mounting, reading, unmounting and unloading leave the kernel
//! as it was.

use crate::{
    backing::Backing,
    daemon::{Daemon, Manner},
    group,
    kernel::{drop_caches, meminfo, shrink_slabs, slab_objects, Module},
    lab::Lab,
    mount::Mount,
    stage::{self, expect_data, expect_error, read_block_here},
};
use anyhow::{bail, ensure, Result};
use cachefiles_client::{CacheConfig, Device, Errno};

group!("cycle":
    hundred_rounds,
    bind_and_close,
    failed_binds,
    mounts_under_one_daemon,
);

/// Slab caches that a round uses.
const SLABS: [&str; 8] = [
    "cachefiles",
    "fscache",
    "netfs",
    "erofs",
    "kmalloc",
    "cred_jar",
    "filp",
    "ext4_inode",
];
/// Page tables, per-CPU lists and the like.
const SLACK_KIB: u64 = 6 << 10;

/// What is in use: available memory in KiB, and objects of each slab cache.
struct Usage {
    memory: u64,
    objects: Vec<u64>,
}

impl Usage {
    fn now() -> Result<Usage> {
        drop_caches()?;
        shrink_slabs()?;
        let objects = SLABS
            .iter()
            .map(|name| slab_objects(name))
            .collect::<Result<_>>()?;
        Ok(Usage {
            memory: meminfo("MemAvailable")?,
            objects,
        })
    }
}

/// Compares memory at the start, after half of the rounds and at the end.  What a round leaks is
/// missing after each half; what else the kernel does goes up and down.
fn leaves_memory_alone(rounds: u64, mut round: impl FnMut() -> Result<()>) -> Result<()> {
    let half = rounds / 2;
    let mut usage = Vec::new();
    for rounds in [5, half, half] {
        for _ in 0..rounds {
            round()?;
        }
        usage.push(Usage::now()?);
    }
    let [start, middle, end] = usage.as_slice() else {
        bail!("three measurements")
    };
    println!(
        "MemAvailable {} {} {} KiB",
        start.memory, middle.memory, end.memory
    );
    println!(
        "{SLABS:?}: {:?} {:?} {:?}",
        start.objects, middle.objects, end.objects
    );
    for (number, name) in SLABS.iter().enumerate() {
        let [first, second] = [(start, middle), (middle, end)]
            .map(|(from, to)| to.objects[number].saturating_sub(from.objects[number]));
        let leaked = first.min(second);
        ensure!(
            leaked < half / 2,
            "{name}: {leaked} objects more in each {half} rounds"
        );
    }
    let [first, second] =
        [(start, middle), (middle, end)].map(|(from, to)| from.memory.saturating_sub(to.memory));
    let leaked = first.min(second);
    ensure!(
        leaked < SLACK_KIB,
        "{leaked} KiB are gone in each {half} rounds"
    );
    Ok(())
}

fn hundred_rounds(lab: &Lab) -> Result<()> {
    // Not on a RAM disk, which takes memory for whatever is written.
    let fs = Backing::ext4_on(lab.base(), &lab.disk()?)?;
    let mut number = 0;
    leaves_memory_alone(96, || {
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
