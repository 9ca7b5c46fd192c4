// SPDX-License-Identifier: GPL-2.0

//! One boot between two power cuts: looks at what the last one has left of the cache, and goes on
//! filling it until the next.
//!
//! Lives here: what the guest does; it speaks to scripts/check.d/power-cut, which cuts the power
//! and judges what is said here.  Never here: a kselftest, which would have to end.

use crate::{
    backing::Backing,
    blob::Blob,
    claim::{claims, Claim},
    daemon::{Blobs, Daemon, Manner},
    image::{Image, BLOCK},
    kernel::Module,
    lab::Lab,
    mount::Mount,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Device;
use rustix::{
    fs::{fadvise, syncfs, Advice},
    mount::MountFlags,
};
use std::{
    collections::HashMap,
    env,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};
use walkdir::WalkDir;

/// How many images there are; half of them are in one domain.
const IMAGES: u32 = 8;
/// How many fill the cache at the same time, each with images of its own.
const FILLERS: u32 = 2;
/// Chunks of 64 KiB in a blob.
const CHUNKS: u32 = 32;
const CHUNK_LOG2: u16 = 4;
const SIZE: u64 = (CHUNKS as u64 * BLOCK) << CHUNK_LOG2;

/// One image: its metadata `meta-N`, its data `blob-N`.
struct Disk(HashMap<String, Blob>);

impl Disk {
    fn new() -> Disk {
        let mut blobs = HashMap::new();
        for number in 0..IMAGES {
            let (meta, blob) = names(number);
            let chunks = (0..CHUNKS).map(|chunk| (1, chunk << CHUNK_LOG2));
            let image = Image::new().device(blob.as_str());
            let image = image.file("file", CHUNK_LOG2, Vec::from_iter(chunks));
            blobs.insert(meta, image.build());
            let seed = u64::from(number) + 1;
            blobs.insert(blob, Blob::Pattern { seed, size: SIZE });
        }
        Disk(blobs)
    }

    fn get(&self, key: &str) -> Result<&Blob> {
        self.0
            .get(key)
            .with_context(|| format!("an unknown blob {key} is cached"))
    }

    /// What a daemon serves.
    fn served(&self, manner: Manner) -> Blobs {
        let each = |blobs: Blobs, (key, blob): (&String, &Blob)| {
            blobs.with_manner(key, blob.clone(), manner)
        };
        self.0.iter().fold(Blobs::new(), each)
    }
}

fn names(number: u32) -> (String, String) {
    (format!("meta-{number}"), format!("blob-{number}"))
}

fn mount(lab: &Lab, number: u32) -> Result<Mount> {
    let options = if number % 2 == 0 {
        "domain_id=common"
    } else {
        ""
    };
    Mount::with(lab.base(), &names(number).0, options)
}

/// The whole of the boot.  Says `checked`, then `filling`, and goes on until the power is cut; with
/// the number of a boot that is `last` it ends by itself after the check.
pub fn run(disk: &str, seed: &str, boot: &str) -> Result<()> {
    let lab = Lab::new()?;
    let random = fastrand::Rng::with_seed(seed.parse()?);
    // The journal is committed each second, not every five: so a cut is seldom one before anything
    // has reached the disk.
    let fs = Backing::mount(lab.base(), disk, "ext4", MountFlags::empty(), "commit=1")?;
    let blobs = Disk::new();
    let _module = check(&lab, fs.dir(), &blobs)?;
    if boot == "last" {
        return Ok(());
    }
    fill(&lab, fs.dir(), &blobs, random)
}

/// What the cache claims to have must be right before anybody uses it, and all of it when it has
/// been used; and what it did not claim is fetched again, and nothing else.
fn check(lab: &Lab, dir: &Path, blobs: &Disk) -> Result<Module> {
    let found = claims(dir)?;
    for claim in &found {
        let blob = blobs.get(&claim.key)?;
        if claim.valid {
            claim.compare(blob)?;
        }
    }
    let claimed = |key: &str| {
        let ours = |claim: &&Claim| claim.valid && claim.key == key;
        found.iter().filter(ours).map(Claim::bytes).sum::<u64>()
    };
    let module = Module::load(lab.module())?;
    let mut daemon = Daemon::start(dir, blobs.served(Manner::Serve))?;
    let (mut missing, mut meta_missing, mut cached) = (0, 0, 0);
    let (mut whole, mut parts) = (0, 0);
    for number in 0..IMAGES {
        let (meta, blob) = names(number);
        let there = claimed(&blob);
        ensure!(there <= SIZE, "{blob} is cached twice");
        cached += there;
        missing += SIZE - there;
        meta_missing += blobs.get(&meta)?.size().saturating_sub(claimed(&meta));
        whole += u32::from(there == SIZE);
        parts += u32::from(there != 0 && there != SIZE);
        let mut mount = mount(lab, number)?;
        let file = File::open(mount.path("file"))?;
        compare(&file, blobs.get(&blob)?, 0, SIZE).with_context(|| blob.clone())?;
        drop(file);
        mount.unmount()?;
    }
    let fetched = daemon.bytes();
    daemon.stop()?;
    println!(
        "checked {cached} bytes cached, {fetched} fetched again; {whole} blobs whole, {parts} in part, \
         {} files without a valid attribute",
        found.iter().filter(|claim| !claim.valid).count()
    );
    // Of the metadata not every block is ever read.
    let expected = missing..=missing + meta_missing;
    ensure!(
        expected.contains(&fetched),
        "{fetched} bytes were fetched, but {expected:?} were missing"
    );
    Ok(module)
}

/// Compares a range of a file.
fn compare(file: &File, blob: &Blob, offset: u64, len: u64) -> Result<()> {
    let step = 1 << 18;
    for at in (offset..offset + len).step_by(step) {
        let len = usize::try_from((offset + len - at).min(step as u64))?;
        let mut got = vec![0; len];
        file.read_exact_at(&mut got, at)
            .with_context(|| format!("reading {len} bytes at {at}"))?;
        ensure!(got == *blob.read(at, len)?, "{len} bytes at {at} are wrong");
    }
    Ok(())
}

/// Fills the cache for ever.
fn fill(lab: &Lab, dir: &Path, blobs: &Disk, mut random: fastrand::Rng) -> Result<()> {
    // Ours takes half a block, and keeps it until the rest comes; C takes whole blocks only.
    let ahead = if lab.is_peer() { 20_480 } else { 21_234 };
    let daemon = Daemon::start(dir, blobs.served(Manner::ServeAhead(ahead)))?;
    let device = daemon.device()?;
    let culling = Mutex::new(());
    for number in 0..IMAGES {
        if random.bool() {
            cull(device, dir, number, &culling)?;
        }
    }
    syncfs(File::open(dir)?)?;
    println!("filling");
    thread::scope(|scope| {
        let mut fillers = Vec::new();
        for filler in 0..FILLERS {
            let mut random = random.fork();
            let culling = &culling;
            fillers.push(scope.spawn(move || -> Result<()> {
                loop {
                    let number = random.u32(..IMAGES / FILLERS) * FILLERS + filler;
                    round(lab, blobs, number, &mut random)?;
                    match random.u32(..6) {
                        0 => syncfs(File::open(dir)?)?,
                        1 | 2 => cull(device, dir, number, culling)?,
                        _ => {}
                    }
                }
            }));
        }
        for filler in fillers {
            filler.join().ok().context("a filler panicked")??;
        }
        Ok(())
    })
}

/// Mounts an image, reads some of it, and unmounts, so that a new cache file gets its name.
fn round(lab: &Lab, blobs: &Disk, number: u32, random: &mut fastrand::Rng) -> Result<()> {
    let (_, blob) = names(number);
    let mut mount = mount(lab, number)?;
    let file = File::open(mount.path("file"))?;
    fadvise(&file, 0, None, Advice::Random)?;
    for _ in 0..random.u32(1..24) {
        let offset = random.u64(..SIZE);
        let len = random.u64(1..100_000).min(SIZE - offset);
        compare(&file, blobs.get(&blob)?, offset, len).with_context(|| blob.clone())?;
    }
    drop(file);
    mount.unmount()
}

/// Culls an image's blob, if it has a name and is not in use.
fn cull(device: &Device, dir: &Path, number: u32, culling: &Mutex<()>) -> Result<()> {
    let name = format!("D{}", names(number).1);
    // The command looks into the working directory, of which there is one for all threads.
    let _alone = culling.lock().ok().context("poisoned")?;
    let found = WalkDir::new(dir.join("cache")).into_iter().flatten();
    let found: Option<PathBuf> = found
        .filter(|entry| entry.file_name() == name.as_str())
        .find_map(|entry| entry.path().parent().map(Path::to_owned));
    if let Some(parent) = found {
        env::set_current_dir(parent)?;
        // It may be in use still; then it stays.
        let _ = device.command(format!("cull {name}").as_bytes());
        env::set_current_dir("/")?;
    }
    Ok(())
}
