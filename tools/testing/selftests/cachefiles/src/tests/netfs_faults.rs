// SPDX-License-Identifier: GPL-2.0

//! Network file systems over a cache that fails: its disk breaks, is full, or the module's own switch
//! says so.  Whoever reads gets the right bytes, from the server if need be; what was not stored
//! never passes for data; and netfs gets each of its requests back.

use super::{
    netfs_files::{check_both, check_part, forget, in_time, moved, publish, settle, PAGE},
    netfs_scene::{check, content},
};
use crate::{
    backing::{Backing, Frozen},
    cachefilesd::{is_bound, nothing_in_use, Keeper},
    claim::cache_files,
    disk::{Disk, Health},
    error_injection::{Injection, IO_ERROR},
    fault::{self, Kind as Memory},
    group,
    kernel::{drop_caches, Module},
    ktap::{in_ci, Skip},
    lab::{eventually, free_device, Cache, Lab},
    patience::{numbered, sleeps},
    remote::{Client, Kind, Remote},
};
use anyhow::{ensure, Context, Result};
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    thread,
};

group!("netfs_faults":
    nfs_fill_that_failed_is_no_data,
    ninep_file_that_ends_in_a_hole,
    ninep_stored_by_who_may_not_write_much,
    nfs_on_a_disk_that_breaks,
    ninep_on_a_disk_that_breaks,
    nfs_with_each_injection,
    ninep_with_each_injection,
    nfs_on_a_full_disk,
    ninep_on_a_full_disk,
    ninep_volume_that_could_not_be_made,
    nfs_invalidated_without_a_volume,
    ninep_write_that_the_server_does_not_get,
);

/// The size of every file: whole pages, so that no end of a file is fetched on its own.
const SIZE: usize = 64 * PAGE;

/// A server, and a cache on a disk that can break.  What is declared first goes first.
struct Scene<'a> {
    lab: &'a Lab,
    client: Option<Client>,
    keeper: Option<Keeper>,
    _module: Module,
    fs: Backing,
    disk: Disk,
    remote: Remote,
}

impl Scene<'_> {
    /// The cache is bound and empty, the client is mounted.
    fn new(lab: &Lab, kind: Kind) -> Result<Scene<'_>> {
        let remote = Remote::new(lab, kind)?;
        let disk = Disk::new("cachefiles-netfs", 128)?;
        let fs = disk.format_and_mount(lab.base())?;
        let module = Module::load(lab.module())?;
        let mut scene = Scene {
            lab,
            client: None,
            keeper: None,
            _module: module,
            fs,
            disk,
            remote,
        };
        scene.keeper = Some(Keeper::plain(scene.fs.dir())?);
        scene.mount()?;
        Ok(scene)
    }

    fn mount(&mut self) -> Result<()> {
        self.client = Some(self.remote.mount()?);
        Ok(())
    }

    fn client(&self) -> Result<&Client> {
        self.client.as_ref().context("not mounted")
    }

    /// Unmounts the client, which commits what was cached, and mounts it again.
    fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn unmount(&mut self) -> Result<()> {
        if let Some(mut client) = self.client.take() {
            in_time("an unmount", move || client.unmount())?;
        }
        Ok(())
    }

    /// Reads the one cache file through the page cache, and has the netfs's forget this file.
    fn read_behind(&self, path: &Path) -> Result<()> {
        let files = cache_files(self.fs.dir());
        ensure!(files.len() == 1, "{files:?} are cached");
        fs::read(&files[0])?;
        forget(path)
    }

    /// Another mount, another session, and the file system checked and mounted anew.
    fn start_anew(&mut self) -> Result<()> {
        self.unmount()?;
        if let Some(mut keeper) = self.keeper.take() {
            in_time("a session's end", move || keeper.stop())?;
        }
        self.fs.unmount()?;
        self.fs = self.disk.check_and_mount(self.lab.base())?;
        self.keeper = Some(Keeper::plain(self.fs.dir())?);
        self.mount()
    }
}

/// What could not be stored is no data, even when the disk is well again and somebody has read the
/// cache file, which makes the blocks that a failed write has left look like data.  In C it is.
fn nfs_fill_that_failed_is_no_data(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, Kind::Nfs(4))?;
    let bytes = content(1, SIZE);
    publish(&scene.remote, "file", &bytes)?;
    // The cache file gets its name when the client is unmounted.
    check_part(&scene.client()?.path("file"), &bytes, 0, PAGE)?;
    settle()?;
    scene.remount()?;
    let path = scene.client()?.path("file");
    let held = File::open(&path)?;
    check_part(&path, &bytes, 0, PAGE)?;
    scene.disk.becomes(Health::Unwritable)?;
    let moved = moved(|| check_part(&path, &bytes, 8 * PAGE, 8 * PAGE))?;
    ensure!(moved.get("CaWrOps.wf") > 0, "no write failed: {moved:?}");
    scene.disk.becomes(Health::Well)?;
    scene.read_behind(&path)?;
    let again = check_part(&path, &bytes, 8 * PAGE, 8 * PAGE);
    if lab.is_peer() {
        // C leaves the blocks where they are.
        println!("C: {again:?}");
        return Ok(());
    }
    again.context("the disk is well again")?;
    drop(held);
    scene.remount()?;
    check(&scene.client()?.path("file"), &bytes).context("after another mount")
}

/// A file that is cut in a block which is not cached has no data there, also when somebody has read
/// the cache file.  C zeroes the rest of the block, which makes a block of zeros.
fn ninep_file_that_ends_in_a_hole(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, Kind::NineP)?;
    let bytes = content(1, SIZE);
    publish(&scene.remote, "file", &bytes)?;
    check_part(&scene.client()?.path("file"), &bytes, 0, PAGE)?;
    settle()?;
    scene.remount()?;
    let path = scene.client()?.path("file");
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    check_part(&path, &bytes, 0, PAGE)?;
    file.set_len(5000)?;
    settle()?;
    scene.read_behind(&path)?;
    let again = check(&path, &bytes[..5000]);
    if lab.is_peer() {
        // C asks the file system for zeros, whatever is there.
        println!("C: {again:?}");
        return Ok(());
    }
    again?;
    drop(file);
    scene.remount()?;
    check_both(scene.client()?, &scene.remote, "file", &bytes[..5000])
}

/// What was read is stored by a task that may make files of 5120 bytes (RLIMIT_FSIZE): the half of a
/// block that it can write passes for none.
fn ninep_stored_by_who_may_not_write_much(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        let why = "C hands the short write on, and netfs of 6.12 oopses when it tries the rest";
        return Err(Skip(why.to_owned()).into());
    }
    let mut scene = Scene::new(lab, Kind::NineP)?;
    let bytes = content(1, SIZE);
    publish(&scene.remote, "file", &bytes)?;
    let path = scene.client()?.path("file");
    let path = path.display();
    let script = format!("ulimit -f 5; cat {path} >/dev/null && sync {path}");
    let moved = moved(|| {
        // The limit may kill it in the end.
        Command::new("bash").args(["-c", &script]).status()?;
        settle()
    })?;
    ensure!(moved.get("IO.wr") > 0, "nothing was stored: {moved:?}");
    for _ in 0..2 {
        scene.remount()?;
        check_both(scene.client()?, &scene.remote, "file", &bytes)?;
    }
    Ok(())
}

/// What goes wrong with the cache.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Its disk.
    Disk(Health),
    /// The module's own switch has this value.
    Switch(u32),
}

impl Fault {
    /// It begins.  A switch is turned off when it is dropped.
    fn begin(self, disk: &Disk) -> Result<Option<Injection>> {
        match self {
            Fault::Disk(health) => disk.becomes(health).map(|()| None),
            Fault::Switch(value) => Injection::of(value).map(Some),
        }
    }

    fn end(disk: &Disk, switch: Option<Injection>) -> Result<()> {
        match switch {
            None => disk.becomes(Health::Well),
            Some(switch) => switch.turn(0),
        }
    }
}

/// Before, while and after something is wrong with the cache, readers get the right bytes, and what is
/// written reaches the server.
fn goes_on(lab: &Lab, kind: Kind, fault: Fault) -> Result<()> {
    let mut scene = Scene::new(lab, kind)?;
    let (old, new) = (content(1, SIZE), content(2, SIZE));
    let mut mine = content(3, SIZE);
    for (name, bytes) in [("old", &old), ("new", &new), ("mine", &mine)] {
        publish(&scene.remote, name, bytes)?;
    }
    let half = SIZE / 2;
    check_part(&scene.client()?.path("old"), &old, 0, half)?;
    check(&scene.client()?.path("mine"), &mine)?;
    settle()?;
    scene.remount()?;
    let path = scene.client()?.path("old");
    let held = File::open(&path)?;
    let writer = OpenOptions::new()
        .read(true)
        .write(true)
        .open(scene.client()?.path("mine"))?;
    check_part(&path, &old, 0, PAGE)?;
    settle()?;
    drop_caches()?;

    let switch = fault.begin(&scene.disk)?;
    check_part(&path, &old, PAGE, half - PAGE).context("what is cached")?;
    check(&path, &old).context("what is not cached")?;
    check(&scene.client()?.path("new"), &new).context("what was never cached")?;
    let bytes = content(4, 3 * PAGE);
    for at in [0, 10_000, SIZE - PAGE] {
        writer.write_all_at(&bytes, at as u64)?;
        mine.resize(mine.len().max(at + bytes.len()), 0);
        mine[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    writer.sync_all()?;
    settle()?;
    check_both(scene.client()?, &scene.remote, "mine", &mine)?;
    settle()?;
    Fault::end(&scene.disk, switch)?;

    for when in ["the fault is over", "again"] {
        drop_caches()?;
        check(&scene.client()?.path("mine"), &mine).context(when)?;
        check(&path, &old).context(when)?;
        check(&scene.client()?.path("new"), &new).context(when)?;
        settle()?;
    }
    drop((held, writer));
    scene.start_anew()?;
    for when in ["in another session", "again"] {
        drop_caches()?;
        for (name, bytes) in [("old", &old), ("new", &new), ("mine", &mine)] {
            check_both(scene.client()?, &scene.remote, name, bytes).context(when)?;
        }
        settle()?;
    }
    Ok(())
}

/// The ways of breaking that a case has; without CI, which has the time, the last one only.
fn each(lab: &Lab, kind: Kind, faults: &[Fault]) -> Result<()> {
    let skipped = if in_ci() { 0 } else { faults.len() - 1 };
    for fault in &faults[skipped..] {
        let went = goes_on(lab, kind, *fault);
        if lab.is_peer() {
            // What C cannot read from the cache fails, as the netfs library tries no part again that
            // has an error; and what it could not write there leaves the old data.
            println!("C, {fault:?}: {went:?}");
        } else {
            went.with_context(|| format!("{fault:?}"))?;
        }
    }
    Ok(())
}

const DISKS: [Fault; 3] = [
    Fault::Disk(Health::Unreadable),
    Fault::Disk(Health::Unwritable),
    Fault::Disk(Health::Dead),
];

fn nfs_on_a_disk_that_breaks(lab: &Lab) -> Result<()> {
    each(lab, Kind::Nfs(4), &DISKS)
}

fn ninep_on_a_disk_that_breaks(lab: &Lab) -> Result<()> {
    each(lab, Kind::NineP, &DISKS)
}

/// No space, an I/O error, both, and a bit that means nothing.
const SWITCHES: [Fault; 4] = [
    Fault::Switch(4),
    Fault::Switch(3),
    Fault::Switch(2),
    Fault::Switch(1),
];

fn nfs_with_each_injection(lab: &Lab) -> Result<()> {
    each(lab, Kind::Nfs(4), &SWITCHES)
}

fn ninep_with_each_injection(lab: &Lab) -> Result<()> {
    each(lab, Kind::NineP, &SWITCHES)
}

/// The file is larger than the disk of the cache, whose limits leave nothing free, so that it is the
/// file system that says so.
fn on_a_full_disk(lab: &Lab, kind: Kind) -> Result<()> {
    let cache = lab.cache_of(8)?;
    let remote = Remote::new(lab, kind)?;
    let mut bytes = content(1, 4 << 20);
    publish(&remote, "large", &bytes)?;
    let device = free_device(cache.dir())?;
    for command in ["bstop 0%", "bcull 1%", "brun 2%", "bind"] {
        device.command(command.as_bytes())?;
    }
    let mut client = remote.mount()?;
    let path = client.path("large");
    let first = moved(|| {
        check(&path, &bytes)?;
        settle()
    })?;
    ensure!(
        first.get("CaWrOps.wf") > 0 && first.get("IO.wr") > 0,
        "the disk was not filled: {first:?}"
    );
    drop_caches()?;
    check(&path, &bytes).context("read again")?;
    let part = content(2, 1 << 20);
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    for at in [0, 3 << 20] {
        file.write_all_at(&part, at as u64)?;
        bytes[at..at + part.len()].copy_from_slice(&part);
    }
    file.sync_all()?;
    drop(file);
    settle()?;
    drop_caches()?;
    check_both(&client, &remote, "large", &bytes).context("written")?;
    settle()?;
    client.unmount()?;
    client = remote.mount()?;
    check(&client.path("large"), &bytes).context("after another mount")?;
    settle()?;
    client.unmount()?;
    drop(device);
    Ok(())
}

fn nfs_on_a_full_disk(lab: &Lab) -> Result<()> {
    on_a_full_disk(lab, Kind::Nfs(4))
}

fn ninep_on_a_full_disk(lab: &Lab) -> Result<()> {
    on_a_full_disk(lab, Kind::NineP)
}

/// What is written to a file while its volume has no directories was not told to the cache, which must
/// not serve what it had before when the volume has them.
fn ninep_volume_that_could_not_be_made(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, Kind::NineP)?;
    let mut image = content(1, SIZE);
    publish(&scene.remote, "file", &image)?;
    scene.remount()?;
    check(&scene.client()?.path("file"), &image)?;
    settle()?;
    scene.unmount()?;
    nothing_in_use()?;
    let files = cache_files(scene.fs.dir());
    ensure!(files.len() == 1, "{files:?} are cached");
    let new = content(2, 3 * PAGE);
    let injection = Injection::of(IO_ERROR)?;
    scene.mount()?;
    let path = scene.client()?.path("file");
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    file.write_all_at(&new, PAGE as u64)?;
    image[PAGE..4 * PAGE].copy_from_slice(&new);
    file.sync_all()?;
    drop(file);
    settle()?;
    injection.turn(0)?;
    ensure!(is_bound(), "the cache has died");
    // The inode is the same one; its cookie is looked up now.
    for _ in 0..2 {
        forget(&path)?;
        let got = check_both(scene.client()?, &scene.remote, "file", &image);
        if lab.is_peer() {
            // C serves what it had.
            println!("C: {got:?}");
            return Ok(());
        }
        got?;
        settle()?;
    }
    scene.unmount()
}

/// NFS invalidates what is opened to be written to, at once, while it is looked up.  If there is no
/// volume to look it up in, the cookie must be given up all the same.
fn nfs_invalidated_without_a_volume(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("FS-Cache has no volume of C's, and frees a cookie in use".into()).into());
    }
    let mut scene = Scene::new(lab, Kind::Nfs(4))?;
    let mut image = content(1, SIZE);
    publish(&scene.remote, "file", &image)?;
    scene.unmount()?;
    nothing_in_use()?;
    let new = content(2, 3 * PAGE);
    let injection = Injection::of(IO_ERROR)?;
    scene.mount()?;
    let path = scene.client()?.path("file");
    for _ in 0..3 {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.write_all_at(&new, PAGE as u64)?;
        file.sync_all()?;
        drop(file);
        settle()?;
        // The inode goes, and with it its cookie.
        drop_caches()?;
    }
    image[PAGE..4 * PAGE].copy_from_slice(&new);
    injection.turn(0)?;
    ensure!(is_bound(), "the cache has died");
    for _ in 0..2 {
        check_both(scene.client()?, &scene.remote, "file", &image)?;
        settle()?;
        drop_caches()?;
    }
    scene.unmount()?;
    nothing_in_use()
}

/// What was written, and the server has not got, is not what the cache gives to who reads next.  The
/// writer was told, and the pages count as clean.
fn ninep_write_that_the_server_does_not_get(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::NineP)?;
    let image = content(1, SIZE);
    publish(&remote, "file", &image)?;
    let _keeper = Keeper::plain(cache.dir())?;
    let mut client = remote.mount()?;
    check(&client.path("file"), &image)?;
    settle()?;
    let file = OpenOptions::new().write(true).open(client.path("file"))?;
    settle()?;
    file.write_all_at(&[88; 2 * PAGE], 4 * PAGE as u64)?;
    // The message that would take it there needs memory.
    let mut fault = fault::Fault::in_module("9pnet", Memory::Slab, 1)?;
    let synced = fault.during(|| file.sync_all())?;
    ensure!(
        fault.hit()? && synced.is_err(),
        "the server has got it: {synced:?}"
    );
    drop(file);
    settle()?;
    check(&remote.path("file"), &image).context("on the server")?;
    forget(&client.path("file"))?;
    let got = fs::read(client.path("file"))?;
    if lab.is_peer() {
        println!(
            "C gave the {} data",
            if got == image { "old" } else { "new" }
        );
        return Ok(());
    }
    ensure!(got == image, "the cache gave what the server never had");
    settle()?;
    client.unmount()?;
    client = remote.mount()?;
    check(&client.path("file"), &image).context("after another mount")?;
    settle()?;
    drop_caches()?;
    check(&client.path("file"), &image).context("from the cache")?;
    client.unmount()?;
    refused_while_the_file_is_made(&cache, &remote)
}

/// The same of a file whose cache file is only being made when it is written to.
fn refused_while_the_file_is_made(cache: &Cache, remote: &Remote) -> Result<()> {
    let image = content(2, SIZE);
    publish(remote, "other", &image)?;
    let client = remote.mount()?;
    let path = client.path("other");
    let frozen = Frozen::new(cache.dir())?;
    let file = OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&[99; 2 * PAGE], 4 * PAGE as u64)?;
    let mut fault = fault::Fault::in_module("9pnet", Memory::Slab, 1)?;
    let synced = thread::scope(|scope| {
        fault.during(|| {
            let (writer, number) = numbered(scope, move || file.sync_all());
            let waits = eventually("the writer waits for the cache file", || sleeps(number));
            drop(frozen);
            let synced = writer.join().ok().context("the thread panicked");
            waits.and(synced)
        })?
    })?;
    ensure!(
        fault.hit()? && synced.is_err(),
        "the server has got it: {synced:?}"
    );
    settle()?;
    check(&remote.path("other"), &image).context("on the server")?;
    forget(&path)?;
    check(&path, &image).context("what the server never had")
}
