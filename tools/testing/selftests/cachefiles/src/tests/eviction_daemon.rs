// SPDX-License-Identifier: GPL-2.0

//! The real daemon culls by itself.  These are cases of the group `eviction`.

use super::eviction::{command, entries};
use crate::{
    blob::{pattern, Blob},
    image::{Image, BLOCK},
    kernel::drop_caches,
    lab::{eventually, Cache, Lab},
    layout,
    mount::Mount,
    supervisor::{Event, Hand, Supervisor},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Device;
use rustix::fs::{fallocate, statvfs, FallocateFlags};
use std::{
    collections::BTreeMap,
    fs::{self, File, FileTimes},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

/// The disk's size.
const DISK_MIB: u64 = 64;
/// Chunks of a megabyte, of which each blob has so many.
const CHUNK_LOG2: u16 = 8;
const CHUNK: u64 = BLOCK << CHUNK_LOG2;
const CHUNKS: u32 = 4;
/// The limits, in per cent.
const RUN: u64 = 60;
const CULL: u64 = 50;

/// A daemon over a small disk, and images of a file each, which share a volume.
struct Scene {
    supervisor: Supervisor,
    cache: Cache,
    blobs: PathBuf,
    stats: PathBuf,
    base: PathBuf,
}

impl Scene {
    /// With so many images.
    fn new(lab: &Lab, images: u64) -> Result<Scene> {
        let pid = std::process::id();
        let blobs = lab.base().join(format!("blobs-{pid}"));
        let stats = lab.base().join(format!("stats-{pid}"));
        fs::create_dir_all(&blobs)?;
        for seed in 0..images {
            let places: Vec<(u16, u32)> = (0..CHUNKS).map(|n| (1, n << CHUNK_LOG2)).collect();
            let image = Image::new().device(format!("blob-{seed}"));
            let image = image.file("file", CHUNK_LOG2, places).build();
            image.save(&blobs.join(format!("meta-{seed}")))?;
            let size = u64::from(CHUNKS) * CHUNK;
            Blob::Pattern { seed, size }.save(&blobs.join(format!("blob-{seed}")))?;
        }
        let cache = lab.cache_of(DISK_MIB)?;
        let (run, cull) = (RUN.to_string(), CULL.to_string());
        let stats_file = stats.display().to_string();
        let limits = ["--brun", &run, "--bcull", &cull, "--bstop", "2"];
        let options = [&limits[..], &["--stats", &stats_file]].concat();
        let mut supervisor = Supervisor::new(lab, cache.dir(), &blobs, &options)?;
        supervisor.start(Hand::Store)?;
        supervisor.until(|event| *event == Event::Ready)?;
        Ok(Scene {
            supervisor,
            cache,
            blobs,
            stats,
            base: lab.base().to_owned(),
        })
    }

    fn mount(&self, image: u64) -> Result<Mount> {
        Mount::with(&self.base, &format!("meta-{image}"), "domain_id=d")
    }

    /// A file of this image in the cache.
    fn file(&self, kind: &str, image: u64) -> Result<PathBuf> {
        let key = format!("{kind}-{image}");
        layout::file(self.cache.dir(), "erofs,d", key.as_bytes())
    }

    /// Every byte of an image's file must be right.
    fn expect_right(&mut self, mount: &Mount, image: u64) -> Result<()> {
        let file = mount.path("file");
        self.supervisor.attend(thread::spawn(move || {
            let file = File::open(file)?;
            let (mut got, mut want) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
            for at in (0..u64::from(CHUNKS)).map(|chunk| chunk * CHUNK) {
                let read = file.read_exact_at(&mut got, at);
                read.with_context(|| format!("reading image {image} at {at}"))?;
                pattern(image, at, &mut want);
                ensure!(got == want, "wrong data in image {image} at {at}");
            }
            Ok(())
        }))
    }

    /// Mounts an image, reads all of it, and unmounts it.
    fn use_once(&mut self, image: u64) -> Result<()> {
        let mut mount = self.mount(image)?;
        self.expect_right(&mount, image)?;
        mount.unmount()
    }

    /// Waits while the daemon works.
    fn until(
        &mut self,
        what: &'static str,
        happened: impl FnMut() -> bool + Send + 'static,
    ) -> Result<()> {
        let done = thread::spawn(move || eventually(what, happened));
        let done = self.supervisor.attend(done);
        done.with_context(|| {
            let free = free(self.cache.dir()).unwrap_or(0);
            let last = self.supervisor.last();
            format!("{free} per cent are free; at last the daemon said:\n{last}")
        })
    }

    /// Waits until the daemon has made room.
    fn until_there_is_room(&mut self) -> Result<()> {
        let dir = self.cache.dir().to_owned();
        self.until("the daemon has made room", move || {
            // The kernel reckons in whole per cents of blocks.
            statvfs(&dir).is_ok_and(|stat| stat.f_bavail >= stat.f_blocks / 100 * RUN)
        })
    }

    /// Ends the daemon, which has nothing to complain of; its counters.
    fn finish(&mut self) -> Result<BTreeMap<String, u64>> {
        self.supervisor.stop()?;
        let complaints = &self.supervisor.tally.complaints;
        ensure!(complaints.is_empty(), "it said:\n{}", complaints.join("\n"));
        let text = fs::read_to_string(&self.stats)?;
        let lines = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let value = value.trim().trim_end_matches(',').parse().ok()?;
            Some((name.trim().trim_matches('"').to_owned(), value))
        });
        Ok(lines.collect())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.blobs);
        let _ = fs::remove_file(&self.stats);
    }
}

/// How much is free, in per cent.
fn free(dir: &Path) -> Result<u64> {
    let stat = statvfs(dir)?;
    Ok(stat.f_bavail * 100 / stat.f_blocks)
}

/// Takes space until so many per cent are free.
fn take_space(dir: &Path, leave: u64) -> Result<()> {
    let stat = statvfs(dir)?;
    let take = stat.f_bavail.checked_sub(stat.f_blocks * leave / 100);
    let take = take.context("too little is free")? * stat.f_frsize;
    let file = File::create(dir.join("ballast"))?;
    fallocate(&file, FallocateFlags::empty(), 0, take)?;
    rustix::fs::syncfs(&file)?;
    // For a tenth of a second the module need not look again what there is to spare.
    thread::sleep(Duration::from_millis(200));
    Ok(())
}

/// Images of more bytes in all than the disk has are used one after another; one stays mounted.  Each
/// is read right, and the one that is in use stays in the cache.
pub(super) fn daemon_makes_room(lab: &Lab) -> Result<()> {
    const IMAGES: u64 = 20;
    let mut scene = Scene::new(lab, IMAGES)?;
    ensure!(IMAGES * u64::from(CHUNKS) * CHUNK > DISK_MIB << 20);
    let mut busy = scene.mount(0)?;
    scene.expect_right(&busy, 0)?;
    for image in 1..IMAGES {
        scene.use_once(image)?;
        // The kernel looks at each write, but not at what the file system adds behind it.
        if free(scene.cache.dir())? + 2 < CULL {
            scene.until_there_is_room()?;
        }
    }
    let first = scene.file("blob", 1)?;
    ensure!(
        !first.exists(),
        "the first of {IMAGES} images is still there"
    );
    scene.use_once(1)?;
    drop_caches()?;
    let reads = scene.supervisor.tally.reads;
    scene.expect_right(&busy, 0)?;
    let more = scene.supervisor.tally.reads - reads;
    ensure!(more == 0, "{more} READs of the image in use");
    busy.unmount()?;
    let counters = scene.finish()?;
    println!("{counters:?}");
    let count = |name: &str| counters.get(name).copied().unwrap_or(0);
    let over = IMAGES * u64::from(CHUNKS) * CHUNK - (DISK_MIB << 20);
    ensure!(count("culled_bytes") >= over, "too little was culled");
    ensure!(count("culled_files") > 0 && count("errors") == 0);
    Ok(())
}

/// What was used last by its time of access stays, whatever was filled first; and a file in use stays,
/// however old it is.
pub(super) fn daemon_culls_the_oldest(lab: &Lab) -> Result<()> {
    const IMAGES: u64 = 5;
    let mut scene = Scene::new(lab, IMAGES + 1)?;
    let busy = scene.mount(IMAGES)?;
    for image in 0..IMAGES {
        scene.use_once(image)?;
    }
    ensure!(free(scene.cache.dir())? >= CULL, "the disk is too small");
    let age = |image: u64| Duration::from_secs(1_000_000 + image * 3 % IMAGES);
    for image in 0..IMAGES {
        for kind in ["meta", "blob"] {
            let path = scene.file(kind, image)?;
            scene.until("the file has its name", {
                let path = path.clone();
                move || path.exists()
            })?;
            let times = FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH + age(image));
            File::options().write(true).open(&path)?.set_times(times)?;
        }
    }
    take_space(scene.cache.dir(), CULL - 5)?;
    // The kernel looks when something is written.
    let (mut got, mut want) = ([0; BLOCK as usize], [0; BLOCK as usize]);
    File::open(busy.path("file"))?.read_exact_at(&mut got, 0)?;
    pattern(IMAGES, 0, &mut want);
    ensure!(got == want, "wrong data in the image in use");
    scene.until_there_is_room()?;
    let there = |image: u64| -> Result<bool> { Ok(scene.file("blob", image)?.exists()) };
    let mut by_age: Vec<u64> = (0..IMAGES).collect();
    by_age.sort_by_key(|image| age(*image));
    let left = by_age
        .iter()
        .map(|image| there(*image))
        .collect::<Result<Vec<_>>>()?;
    println!("left, the oldest first: {left:?}");
    ensure!(left.is_sorted(), "younger files went first: {left:?}");
    ensure!(left.contains(&true) && left.contains(&false), "{left:?}");
    scene.expect_right(&busy, IMAGES)?;
    drop_caches()?;
    let reads = scene.supervisor.tally.reads;
    scene.expect_right(&busy, IMAGES)?;
    ensure!(scene.supervisor.tally.reads == reads, "the busy one went");
    drop(busy);
    scene.finish().map(drop)
}

/// When all is in use the daemon waits, without work; when something is not any more, it goes.
pub(super) fn daemon_waits_when_all_is_in_use(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, 2)?;
    scene.use_once(0)?;
    let path = scene.file("blob", 0)?;
    scene.until("the file has its name", {
        let path = path.clone();
        move || path.exists()
    })?;
    let (mut first, second) = (scene.mount(0)?, scene.mount(1)?);
    scene.expect_right(&first, 0)?;
    take_space(scene.cache.dir(), CULL - 5)?;
    scene.expect_right(&second, 1)?;
    scene.until("the daemon has looked", || daemon_rounds().is_ok())?;
    // A second of doing nothing is what it is about.
    let before = daemon_rounds()?;
    thread::sleep(Duration::from_secs(1));
    let rounds = daemon_rounds()? - before;
    println!("{rounds} rounds in a second");
    ensure!(rounds < 20, "{rounds} rounds in a second");
    drop_caches()?;
    scene.expect_right(&second, 1)?;
    ensure!(path.exists(), "a file in use was culled");
    first.unmount()?;
    scene.until("the file is culled", move || !path.exists())?;
    drop(second);
    let complaints = std::mem::take(&mut scene.supervisor.tally.complaints).join("\n");
    ensure!(
        complaints.contains("all files are in use"),
        "it said: {complaints}"
    );
    ensure!(complaints.lines().count() == 1, "it said: {complaints}");
    scene.finish().map(drop)
}

/// How often the daemon's thread has gone to sleep.
fn daemon_rounds() -> Result<u64> {
    let is_it =
        |dir: &Path| fs::read_to_string(dir.join("comm")).is_ok_and(|name| name == "cull\n");
    for process in entries(Path::new("/proc"))? {
        let Ok(tasks) = entries(&process.join("task")) else {
            continue;
        };
        let Some(task) = tasks.iter().find(|task| is_it(task)) else {
            continue;
        };
        let status = fs::read_to_string(task.join("status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        return Ok(line.context("no count")?.trim().parse()?);
    }
    anyhow::bail!("no thread is called cull")
}

/// What lies in the graveyard is deleted: before the daemon, and while it does nothing else.
pub(super) fn daemon_empties_the_graveyard(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, 1)?;
    let mut mount = Mount::new(&scene.base, "meta-0")?;
    scene.expect_right(&mount, 0)?;
    mount.unmount()?;
    let graveyard = scene.cache.dir().join("graveyard");
    let volume = layout::volume(scene.cache.dir(), "erofs,meta-0")?;
    let blob = layout::file(scene.cache.dir(), "erofs,meta-0", b"blob-0")?;
    scene.until("the blob's file", move || blob.exists())?;
    // As another daemon that shares the device would.
    let device = scene.supervisor.stored().context("no device")?;
    let device = Device::from(rustix::io::dup(device)?);
    scene.until("the volume goes", {
        let volume = volume.clone();
        move || matches!(command(&device, "cull", &volume), Ok(Ok(())))
    })?;
    ensure!(!volume.exists(), "the volume is still there");
    let graves = graveyard.clone();
    scene.until("the graveyard is empty", move || {
        entries(&graves).is_ok_and(|graves| graves.is_empty())
    })?;
    scene.supervisor.stop()?;
    fs::create_dir_all(graveyard.join("old/@00"))?;
    fs::write(graveyard.join("old/@00/Dfile"), "x")?;
    scene.supervisor.start(Hand::Store)?;
    scene.until("the graveyard is empty", move || {
        entries(&graveyard).is_ok_and(|graves| graves.is_empty())
    })?;
    let counters = scene.finish()?;
    ensure!(counters.get("graves") == Some(&1), "{counters:?}");
    Ok(())
}
