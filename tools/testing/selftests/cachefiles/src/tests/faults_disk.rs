// SPDX-License-Identifier: GPL-2.0

//! A disk that breaks at a chosen step.  Readers get the right bytes or EIO, all requests are
//! answered, and when the disk is well again a new session has every byte right: what was not
//! committed does not pass for valid.

use super::faults_scene::{
    bytes, forget_pages, in_time, mount, mounted, read, read_right, right_or_eio, serve, unmount,
    Outcome, BLOCKS, BOUND, SIZE,
};
use crate::{
    backing::{Backing, Frozen},
    claim::cache_files,
    daemon::{Daemon, Manner},
    disk::{Disk, Health},
    group,
    image::BLOCK,
    kernel::{drop_caches, run, Module},
    ktap::{in_ci, Skip},
    lab::{eventually, free_device, Lab},
    mount::Mount,
    raw::errno,
    stage::{expect_error, read_block},
    trace::traced,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Errno;
use std::{env, fs, path::Path, thread};

group!("faults_disk":
    bind,
    lookup,
    create,
    prepare,
    read_of_what_is_there,
    one_bad_block,
    write,
    write_in_odd_pieces,
    rewrite,
    commit,
    end_of_a_cache_in_use,
    cull,
    dies_under_readers,
);

/// What is cached and safe on the disk before it breaks.
const SAFE: std::ops::Range<u32> = 0..8;

/// A session on a disk that can break.  What is declared first goes first.
struct Scene<'a> {
    lab: &'a Lab,
    mount: Option<Mount>,
    daemon: Option<Daemon>,
    _module: Module,
    fs: Backing,
    disk: Disk,
    /// What was filled at first was removed.
    emptied: bool,
}

impl Scene<'_> {
    /// Some blocks are cached and committed; nothing is mounted.
    fn new(lab: &Lab) -> Result<Scene<'_>> {
        let disk = Disk::new("cachefiles-faults", 128)?;
        let fs = disk.format_and_mount(lab.base())?;
        let module = Module::load(lab.module())?;
        let mut scene = Scene {
            lab,
            mount: None,
            daemon: None,
            _module: module,
            fs,
            disk,
            emptied: false,
        };
        scene.serve(Manner::Serve)?;
        let mount = mounted(lab)?;
        for block in SAFE {
            read_right(&mount, block)?;
        }
        unmount(mount)?;
        rustix::fs::sync();
        Ok(scene)
    }

    /// The same, with the image mounted and this manner of serving.
    fn mounted(lab: &Lab, manner: Manner) -> Result<Scene<'_>> {
        let mut scene = Scene::new(lab)?;
        scene.serve(manner)?;
        scene.mount = Some(mounted(lab)?);
        Ok(scene)
    }

    fn serve(&mut self, manner: Manner) -> Result<()> {
        self.daemon = None;
        self.daemon = Some(serve(self.fs.dir(), manner)?);
        Ok(())
    }

    fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("no daemon")
    }

    fn mount(&self) -> Result<&Mount> {
        self.mount.as_ref().context("not mounted")
    }

    /// Nothing is cached any more.
    fn empty(&mut self) -> Result<()> {
        for file in cache_files(self.fs.dir()) {
            fs::remove_file(file)?;
        }
        rustix::fs::sync();
        self.emptied = true;
        Ok(())
    }

    /// The disk breaks, and nothing of it is in memory that nobody uses.
    fn breaks(&self, health: Health) -> Result<()> {
        // What the journal has yet to write to its place stays in memory; freezing writes it.
        drop(Frozen::new(self.fs.dir())?);
        drop_caches()?;
        self.disk.becomes(health)
    }

    /// Everything is taken down with the disk as it is; then all is right.
    fn recover(mut self) -> Result<()> {
        self.take_down()?;
        self.mend()
    }

    /// The disk is mended, the file system checked and mounted, and all is right, what was safe
    /// without asking the daemon.
    fn mend(mut self) -> Result<()> {
        self.disk.becomes(Health::Well)?;
        self.check_and_mount()?;
        self.serve(Manner::Serve)?;
        let mount = mounted(self.lab).context("mounting after the disk was mended")?;
        let before = self.daemon()?.reads();
        for block in SAFE {
            read_right(&mount, block)?;
        }
        let asked = self.daemon()?.reads() - before;
        println!("{asked} READs for what was safe");
        ensure!(asked == 0 || self.emptied, "what was safe is lost");
        for block in (SAFE.end..64).chain([BLOCKS - 1]) {
            read_right(&mount, block).context("after the disk was mended")?;
        }
        unmount(mount)
    }

    fn take_down(&mut self) -> Result<()> {
        if let Some(mount) = self.mount.take() {
            let mut mount = mount;
            in_time("an unmount", thread::spawn(move || mount.unmount()))??;
        }
        if let Some(daemon) = self.daemon.take() {
            let mut daemon = daemon;
            in_time("a daemon's end", thread::spawn(move || daemon.stop()))??;
        }
        eventually("the session is over", || {
            cachefiles_client::Device::open().is_ok()
        })?;
        self.fs.unmount()
    }

    fn check_and_mount(&mut self) -> Result<()> {
        self.fs = self.disk.check_and_mount(self.lab.base())?;
        Ok(())
    }
}

/// The ways of breaking that a case has; without CI, which has the time, the last one only.
fn ways(all: &'static [Health]) -> impl Iterator<Item = Health> {
    let skipped = if in_ci() { 0 } else { all.len() - 1 };
    all.iter().copied().skip(skipped)
}

/// `bind` on a disk that cannot be read fails; on one that is mended it works.
fn bind(lab: &Lab) -> Result<()> {
    for health in ways(&[Health::Unreadable, Health::Dead]) {
        let mut scene = Scene::new(lab)?;
        scene.daemon = None;
        let device = free_device(scene.fs.dir())?;
        scene.breaks(health)?;
        expect_error(device.bind_ondemand(), Errno::IO, "bind")
            .with_context(|| format!("{health:?}"))?;
        drop(device);
        scene.recover()?;
    }
    Ok(())
}

/// The walk to a cache file that is there.
fn lookup(lab: &Lab) -> Result<()> {
    for health in ways(&[Health::Unreadable, Health::Dead]) {
        let scene = Scene::new(lab)?;
        scene.breaks(health)?;
        let start = std::time::Instant::now();
        match mount(lab)? {
            Err(error) => println!("{health:?}: the mount fails with {error}"),
            Ok(_) => anyhow::bail!("{health:?}: mounted from a disk that does not work"),
        }
        ensure!(start.elapsed() < *BOUND / 2, "that took too long");
        scene.recover()?;
    }
    Ok(())
}

/// New files, whose inodes and directories must be read and written.
fn create(lab: &Lab) -> Result<()> {
    for health in ways(&[Health::Unreadable, Health::Unwritable, Health::Dead]) {
        let mut scene = Scene::new(lab)?;
        scene.empty()?;
        scene.breaks(health)?;
        match mount(lab)? {
            Err(error) => println!("{health:?}: the mount fails with {error}"),
            Ok(mount) => {
                for block in 0..4 {
                    let outcome = right_or_eio(read(&mount, block)?, block)?;
                    println!("{health:?}: block {block} {outcome:?}");
                }
                unmount(mount)?;
            }
        }
        scene.recover()?;
    }
    Ok(())
}

/// What is there cannot be told from what is not, where the file's map of blocks cannot be read.
fn prepare(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    scene.serve(Manner::Serve)?;
    // Every other block: such a file has so many extents that they do not fit into its inode.
    let image = mounted(lab)?;
    for block in (0..400).step_by(2) {
        read_right(&image, block)?;
    }
    unmount(image)?;
    rustix::fs::sync();
    scene.mount = Some(mounted(lab)?);
    scene.breaks(Health::Unreadable)?;
    for block in [0, 1, 398, 399] {
        let outcome = right_or_eio(read(scene.mount()?, block)?, block)?;
        ensure!(
            outcome == Outcome::Failed,
            "block {block} came from a disk that cannot be read"
        );
    }
    scene.disk.becomes(Health::Well)?;
    scene.recover()
}

/// Data that is there, on a disk that does not give it.
fn read_of_what_is_there(lab: &Lab) -> Result<()> {
    for health in ways(&[Health::Unreadable, Health::Dead]) {
        let scene = Scene::mounted(lab, Manner::Serve)?;
        let mount = scene.mount()?;
        scene.breaks(health)?;
        for block in SAFE {
            let outcome = right_or_eio(read(mount, block)?, block)?;
            ensure!(
                outcome == Outcome::Failed,
                "{health:?}: block {block} came from a disk that does not work"
            );
        }
        scene.disk.becomes(Health::Well)?;
        // A read error is no reason to give the cache up.
        for block in SAFE {
            read_right(mount, block).context("the disk is well again")?;
        }
        read_right(mount, SAFE.end).context("a block that is missing")?;
        scene.recover()?;
    }
    Ok(())
}

/// One block cannot be read, the others can.
fn one_bad_block(lab: &Lab) -> Result<()> {
    let scene = Scene::mounted(lab, Manner::Serve)?;
    let bad = 3;
    let places = places(scene.fs.dir())?;
    let place = places.get(bad as usize).context("no such block")?;
    drop_caches()?;
    scene.disk.spoil(&[*place])?;
    let mount = scene.mount()?;
    forget_pages(mount)?;
    for block in SAFE {
        let outcome = right_or_eio(read(mount, block)?, block)?;
        let right = block != bad;
        ensure!(
            (outcome == Outcome::Right) == right,
            "block {block}: {outcome:?}"
        );
    }
    scene.recover()
}

/// Where the safe blocks of the blob are on the disk.
fn places(dir: &Path) -> Result<Vec<u64>> {
    for file in cache_files(dir) {
        if fs::metadata(&file)?.len() != SIZE {
            continue;
        }
        let file = file.to_string_lossy().into_owned();
        let text = run("filefrag", &["-v", "-b4096", &file])?;
        // "   0:        0..       7:      34816..     34823:      8: ..."
        let mut places = vec![];
        for line in text.lines() {
            let fields: Vec<&str> = line.split([':', '.']).map(str::trim).collect();
            let numbers: Vec<u64> = fields.iter().filter_map(|word| word.parse().ok()).collect();
            if let [_, first, last, place, ..] = numbers[..] {
                places.extend((first..=last).zip(place..).map(|(_, place)| place));
            }
        }
        return Ok(places);
    }
    anyhow::bail!("no file of the blob's size")
}

/// The blob's fd in the test's hands, and the image mounted.
fn opened(lab: &Lab) -> Result<(Scene<'_>, crate::daemon::Open)> {
    let scene = Scene::mounted(lab, Manner::Manual)?;
    let open = scene.daemon()?.open()?;
    scene.daemon()?.device()?.copen(open.msg_id, Ok(SIZE))?;
    let block = SAFE.end;
    let data = bytes(block, BLOCK as usize);
    eventually("the file can be written", || {
        open.object
            .write_at(&data, u64::from(block) * BLOCK)
            .is_ok()
    })?;
    rustix::fs::sync();
    Ok((scene, open))
}

/// Reads blocks; what is missing is not sent.
fn probe(scene: &Scene<'_>, open: &crate::daemon::Open, block: u32) -> Result<Outcome> {
    let reader = read_block(&scene.mount()?.path("file"), block);
    let start = std::time::Instant::now();
    while !reader.is_finished() && start.elapsed() < *BOUND {
        let soon = std::time::Duration::from_millis(2);
        if let Ok(read) = scene.daemon()?.read_within(soon) {
            open.object.complete_read(read.msg_id)?;
        }
    }
    right_or_eio(in_time("a reader", reader)?, block)
}

/// The daemon's writes into holes, in these pieces, on a disk that does not take them.
fn writes(lab: &Lab, pieces: &[(usize, usize)]) -> Result<()> {
    for health in ways(&[Health::Unwritable, Health::Dead]) {
        let (scene, open) = opened(lab)?;
        scene.disk.becomes(health)?;
        let blocks = 20..28;
        let data = bytes(blocks.start, 8 * BLOCK as usize);
        let mut failed = 0;
        for (from, to) in pieces {
            let at = u64::from(blocks.start) * BLOCK + *from as u64;
            let piece = data.get(*from..*to).unwrap_or_default();
            if let Err(error) = open.object.write_all_at(piece, at) {
                let error = errno(&error).context("no errno")?;
                println!("{health:?}: the write fails with {error}");
                failed += 1;
            }
        }
        ensure!(
            failed > 0,
            "{health:?}: a disk that does not work took it all"
        );
        for twice in ["broken", "well", "well and read again"] {
            for block in blocks.clone() {
                // What had been stored nowhere must not be read, neither now nor later.
                let outcome = probe(&scene, &open, block)?;
                if twice == "broken" {
                    ensure!(
                        outcome == Outcome::Failed,
                        "{health:?}: block {block} came from a disk that has not taken it"
                    );
                }
            }
            scene.disk.becomes(Health::Well)?;
            drop_caches()?;
        }
        drop(open);
        scene.recover()?;
    }
    Ok(())
}

fn write(lab: &Lab) -> Result<()> {
    writes(lab, &[(0, 8 * BLOCK as usize)])
}

/// Odd pieces go through memory of the module's own.
fn write_in_odd_pieces(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        // C refuses what does not begin at a page: see anon_fd:unaligned_buffer.
        return Err(Skip("C takes no odd pieces".to_owned()).into());
    }
    writes(lab, &[(0, 100), (100, 5000), (5000, 8 * BLOCK as usize)])
}

/// What is there is written again, with the same bytes, and that fails.
fn rewrite(lab: &Lab) -> Result<()> {
    let (scene, open) = opened(lab)?;
    scene.disk.becomes(Health::Unwritable)?;
    let data = bytes(SAFE.start, 8 * BLOCK as usize);
    let got = open.object.write_all_at(&data, 0);
    ensure!(got.is_err(), "a disk that does not work took it");
    for block in SAFE {
        let outcome = probe(&scene, &open, block)?;
        ensure!(
            outcome == Outcome::Right,
            "block {block} is lost by being written again"
        );
    }
    drop(open);
    scene.recover()
}

/// The disk breaks before what was filled gets its attributes and its name, where what it takes can
/// be read in one way of breaking.
fn commit(lab: &Lab) -> Result<()> {
    for health in ways(&[Health::Unreadable, Health::Unwritable, Health::Dead]) {
        let mut scene = Scene::new(lab)?;
        scene.empty()?;
        scene.mount = Some(mounted(lab)?);
        for block in 16..32 {
            read_right(scene.mount()?, block)?;
        }
        scene.breaks(health)?;
        let trace = traced(|| scene.take_down())?;
        let errors = trace.iter().filter(|line| line.contains("_vfs_error: "));
        let errors = errors.count();
        println!("{health:?}: {errors} errors of the file system's");
        // What is only written goes to memory.
        ensure!(errors > 0 || health == Health::Unwritable, "all was stored");
        scene.mend()?;
    }
    Ok(())
}

/// The same, and the daemon goes first.
fn end_of_a_cache_in_use(lab: &Lab) -> Result<()> {
    for health in ways(&[Health::Unwritable, Health::Dead]) {
        let mut scene = Scene::mounted(lab, Manner::Serve)?;
        for block in 16..32 {
            read_right(scene.mount()?, block)?;
        }
        scene.breaks(health)?;
        let mut daemon = scene.daemon.take().context("no daemon")?;
        in_time("a daemon's end", thread::spawn(move || daemon.stop()))??;
        let got = read(scene.mount()?, 40)?;
        ensure!(got.is_err(), "{health:?}: read without a daemon");
        scene.recover()?;
    }
    Ok(())
}

/// Culling what cannot be looked up.
fn cull(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let dir = scene.fs.dir().join("cache");
    fs::create_dir(dir.join("victim"))?;
    fs::write(dir.join("victim/victim"), "victim")?;
    rustix::fs::sync();
    env::set_current_dir(dir.join("victim"))?;
    scene.breaks(Health::Unreadable)?;
    let got = scene.daemon()?.device()?.command(b"cull victim");
    env::set_current_dir("/")?;
    expect_error(got, Errno::IO, "cull")?;
    scene.recover()
}

/// Sixteen readers wait for the daemon when the disk dies; what the daemon writes fails, and all
/// of them are answered.
fn dies_under_readers(lab: &Lab) -> Result<()> {
    let (scene, open) = opened(lab)?;
    let file = scene.mount()?.path("file");
    let blocks = 30..46;
    let readers: Vec<_> = blocks
        .clone()
        .map(|block| read_block(&file, block))
        .collect();
    let mut reads = vec![];
    for _ in blocks.clone() {
        reads.push(scene.daemon()?.read()?);
    }
    scene.breaks(Health::Dead)?;
    let (mut failed, mut ended) = (0, false);
    for read in reads {
        let data = bytes((read.offset / BLOCK) as u32, read.len as usize);
        failed += u32::from(open.object.write_all_at(&data, read.offset).is_err());
        // If the disk does not even say what is to be cleaned up, the cache has ended, and all were
        // answered.
        if let Err(error) = open.object.complete_read(read.msg_id) {
            ensure!(errno(&error) == Some(Errno::INVAL), "an answer: {error}");
            ended = true;
        }
    }
    ensure!(failed == 16, "{failed} writes failed");
    let start = std::time::Instant::now();
    while readers.iter().any(|reader| !reader.is_finished()) && start.elapsed() < *BOUND {
        let soon = std::time::Duration::from_millis(2);
        if let Ok(read) = scene.daemon()?.read_within(soon) {
            open.object.complete_read(read.msg_id)?;
        }
    }
    for (reader, block) in readers.into_iter().zip(blocks) {
        let got = in_time("a reader", reader)?;
        if ended && lab.is_peer() && got.as_ref().map_err(errno) == Err(Some(Errno::NOBUFS)) {
            // It has tried again, and FS-Cache says that there is no cache.
            continue;
        }
        let outcome = right_or_eio(got, block)?;
        ensure!(
            outcome == Outcome::Failed,
            "block {block} came from a dead disk"
        );
    }
    drop(open);
    scene.recover()
}
