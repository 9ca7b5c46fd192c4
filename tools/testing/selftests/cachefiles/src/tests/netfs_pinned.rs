// SPDX-License-Identifier: GPL-2.0

//! What a file that is closed, or open for writing, leaves behind: cookies that dirty pages pin, and
//! the mark on the disk.  With 9P, which stores by writeback what it has read.

use super::{
    netfs_files::{moved, publish, served, settle, ODD_SIZE, PAGE},
    netfs_scene::{check, content},
};
use crate::{
    backing::{ram_disk, Backing},
    cachefilesd::{at_rest, drop_pages, CookieLine, Counters, Keeper},
    claim::only_file_is_marked,
    group,
    kernel::run,
    ktap::{in_ci, Skip},
    lab::{eventually, Cache, Lab},
    mapping::Mapping,
    remote::{Client, Kind, Remote},
    trace::traced,
};
use anyhow::{bail, ensure, Context, Result};
use rustix::mount::MountFlags;
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

group!("netfs_pinned":
    after_the_last_close,
    at_exit,
    under_pressure,
    removed,
    longer_than_the_lru,
    unmounted,
    power_fails_while_open,
    power_fails_in_a_write,
);

/// The one cookie there is.
fn cookie() -> Result<CookieLine> {
    let cookies = CookieLine::all()?;
    match &cookies[..] {
        [cookie] => Ok(*cookie),
        _ => bail!("not one cookie: {cookies:?}"),
    }
}

/// The cookie is in use.
fn in_use() -> Result<()> {
    let CookieLine { users, state } = cookie()?;
    ensure!(
        (users, state) == (1, 'A'),
        "the cookie has {users} users, and is in the state {state}"
    );
    Ok(())
}

/// Nobody has the file open, and nothing has been written to the cache, but the cookie is in use.
fn expect_pinned(before: &Counters) -> Result<()> {
    in_use()?;
    let written = Counters::now()?.since(before).get("IO.wr");
    ensure!(written == 0, "{written} writes to the cache already");
    Ok(())
}

/// Writes the dirty pages, after which nobody uses the cookie.
fn unpin() -> Result<()> {
    settle()?;
    eventually("the cookie is unpinned", || {
        cookie().is_ok_and(|cookie| cookie.users == 0)
    })
}

/// The kernel writes nothing by itself for a quarter of an hour while this lives.
struct NoWriteback(Vec<(PathBuf, String)>);

impl NoWriteback {
    fn begin() -> Result<NoWriteback> {
        let mut before = NoWriteback(vec![]);
        // Without an interval everything is written at once.
        for name in ["dirty_expire_centisecs", "dirty_writeback_centisecs"] {
            let path = Path::new("/proc/sys/vm").join(name);
            let value = fs::read_to_string(&path)?;
            fs::write(&path, "90000")?;
            before.0.push((path, value));
        }
        Ok(before)
    }
}

impl Drop for NoWriteback {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            if let Err(error) = fs::write(path, value) {
                crate::lab::cleanup_failed(&format!("{}: {error}", path.display()));
            }
        }
    }
}

/// A 9P server with a file, nothing of which is cached.
struct Pinned {
    _no_writeback: NoWriteback,
    client: Client,
    remote: Remote,
    keeper: Keeper,
    cache: Cache,
    image: Vec<u8>,
    before: Counters,
}

impl Pinned {
    /// What is read is to be stored by writeback, which does not happen by itself.  The file is closed
    /// again.
    fn new(lab: &Lab) -> Result<Pinned> {
        let no_writeback = NoWriteback::begin()?;
        let cache = lab.cache_of(64)?;
        let remote = Remote::new(lab, Kind::NineP)?;
        let image = content(1, ODD_SIZE);
        publish(&remote, "file", &image)?;
        rustix::fs::sync();
        let keeper = Keeper::plain(cache.dir())?;
        let client = remote.mount()?;
        let before = Counters::now()?;
        check(&client.path("file"), &image)?;
        // The lookup goes on in the background.
        at_rest()?;
        Ok(Pinned {
            _no_writeback: no_writeback,
            client,
            remote,
            keeper,
            cache,
            image,
            before,
        })
    }

    /// What was written at last is in the cache, and the right thing comes after another mount.
    fn expect_cached(mut self) -> Result<()> {
        drop_pages()?;
        let path = self.client.path("file");
        served(self.image.len(), || check(&path, &self.image))?;
        settle()?;
        check(&self.remote.path("file"), &self.image).context("on the server")?;
        self.client.unmount()?;
        self.client = self.remote.mount()?;
        check(&self.client.path("file"), &self.image).context("after another mount")
    }
}

/// Pages that are to be stored keep the cookie in use when the file is closed.
fn after_the_last_close(lab: &Lab) -> Result<()> {
    let scene = Pinned::new(lab)?;
    expect_pinned(&scene.before)?;
    unpin()?;
    scene.expect_cached()
}

/// A process is killed that has written through memory: its pages are written as it goes, when it has
/// no files any more, and the cookie waits for them.
fn at_exit(lab: &Lab) -> Result<()> {
    let mut scene = Pinned::new(lab)?;
    unpin()?;
    let path = scene.client.path("file");
    let mut mapping = Mapping::new(&path, ODD_SIZE)?;
    mapping.fill(77, 3 * PAGE + 5, 20 * PAGE)?;
    scene.image[3 * PAGE + 5..23 * PAGE + 5].fill(77);
    mapping.kill()?;
    in_use()?;
    unpin()?;
    check(&scene.remote.path("file"), &scene.image).context("on the server")?;
    scene.expect_cached()
}

/// The kernel gives back what memory it can: the inode stays for as long as pages of it are dirty, and
/// the cookie with it.
fn under_pressure(lab: &Lab) -> Result<()> {
    let scene = Pinned::new(lab)?;
    for what in ["2", "1", "3"] {
        run("sysctl", &["-q", &format!("vm.drop_caches={what}")])?;
    }
    expect_pinned(&scene.before)?;
    unpin()?;
    scene.expect_cached()
}

/// The file goes, and with it the inode, with dirty pages that nobody wants any more.
fn removed(lab: &Lab) -> Result<()> {
    let mut scene = Pinned::new(lab)?;
    expect_pinned(&scene.before)?;
    fs::remove_file(scene.client.path("file"))?;
    settle()?;
    eventually("the cookie is gone", || {
        Counters::now().is_ok_and(|now| now.get("Cookies.n") == 0)
    })?;
    // The name can be used again, and what is behind it is cached.
    scene.image = content(2, ODD_SIZE);
    publish(&scene.remote, "file", &scene.image)?;
    scene.client.unmount()?;
    scene.client = scene.remote.mount()?;
    check(&scene.client.path("file"), &scene.image)?;
    settle()?;
    scene.expect_cached()
}

/// FS-Cache takes cookies out of service that nobody has used for ten seconds, but not this one; and it
/// takes this one too, once it is unpinned.
fn longer_than_the_lru(lab: &Lab) -> Result<()> {
    if !in_ci() {
        return Err(Skip("it takes half a minute; CI=true".to_owned()).into());
    }
    let scene = Pinned::new(lab)?;
    thread::sleep(Duration::from_secs(12));
    expect_pinned(&scene.before)?;
    unpin()?;
    thread::sleep(Duration::from_secs(10));
    eventually("the cookie is out of service", || {
        cookie().is_ok_and(|cookie| cookie.state == '-')
    })?;
    scene.expect_cached()
}

/// A mount goes with pages that are still to be stored: it stores them first.
fn unmounted(lab: &Lab) -> Result<()> {
    let mut scene = Pinned::new(lab)?;
    expect_pinned(&scene.before)?;
    scene.client.unmount()?;
    let written = Counters::now()?.since(&scene.before).get("IO.wr");
    ensure!(written > 0, "nothing was written to the cache");
    scene.client = scene.remote.mount()?;
    scene.expect_cached()
}

/// Copies the disk of a cache as it is.
fn snapshot(from: &Backing) -> Result<String> {
    let to = ram_disk(2)?;
    let (input, output) = (format!("if={}", from.device()), format!("of={to}"));
    let options = [
        "bs=1M",
        "count=64",
        "iflag=direct",
        "oflag=direct",
        "status=none",
    ];
    run(
        "dd",
        &[&[input.as_str(), output.as_str()], &options[..]].concat(),
    )?;
    Ok(to)
}

/// What is written to the cache is not on the disk before the mark is: the power may fail, and the
/// server not have it.
fn power_fails_in_a_write(lab: &Lab) -> Result<()> {
    let mut scene = Pinned::new(lab)?;
    settle()?;
    scene.client.unmount()?;
    let path = scene.remote.path("file");
    let before = path.metadata()?.modified()?;
    // All that is there until now is on the disk.
    rustix::fs::sync();
    scene.client = scene.remote.mount()?;
    let file = OpenOptions::new()
        .write(true)
        .open(scene.client.path("file"))?;
    at_rest()?;
    file.write_all_at(&[88; 3 * PAGE], 5 * PAGE as u64)?;
    let moved = moved(|| Ok(file.sync_all()?))?;
    ensure!(
        moved.get("IO.wr") > 0,
        "not written to the cache: {moved:?}"
    );
    let disk = snapshot(&scene.cache.fs)?;
    drop(file);
    settle()?;
    scene.client.unmount()?;
    scene.keeper.stop()?;
    // The server has lost what came last.
    fs::write(&path, &scene.image)?;
    File::options()
        .write(true)
        .open(&path)?
        .set_modified(before)?;
    let after = Backing::mount(lab.base(), &disk, "ext4", MountFlags::empty(), "")?;
    let mut keeper = Keeper::plain(after.dir())?;
    scene.client = scene.remote.mount()?;
    let got = fs::read(scene.client.path("file"))?;
    settle()?;
    scene.client.unmount()?;
    keeper.stop()?;
    if lab.is_peer() {
        let which = if got == scene.image { "old" } else { "new" };
        println!("C gave the {which} data");
        return Ok(());
    }
    ensure!(
        got == scene.image,
        "the cache gave what the server never had"
    );
    Ok(())
}

/// A file that is open for writing is marked on the disk.  If the power fails then, what the cache has
/// of it is not used; if not, the mark goes with the last user.
fn power_fails_while_open(lab: &Lab) -> Result<()> {
    let mut scene = Pinned::new(lab)?;
    scene.client.unmount()?;
    let cache = scene.cache.dir().to_owned();
    let marked = |wanted| {
        eventually("the file's mark", || {
            only_file_is_marked(&cache).is_ok_and(|marked| marked == wanted)
        })
        .with_context(|| format!("shall be: {wanted}"))
    };
    marked(false)?;
    scene.client = scene.remote.mount()?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(scene.client.path("file"))?;
    marked(true)?;
    let before = scene.remote.path("file").metadata()?.modified()?;
    file.write_all_at(&[88; 3 * PAGE], 5 * PAGE as u64)?;
    scene.image[5 * PAGE..8 * PAGE].fill(88);
    file.sync_all()?;
    settle()?;
    let disk = snapshot(&scene.cache.fs)?;
    drop(file);
    check(&scene.remote.path("file"), &scene.image).context("on the server")?;
    scene.client.unmount()?;
    marked(false).context("after the last user")?;
    scene.keeper.stop()?;
    // The disk when the power failed.  All but the mark says that it has what the server has.
    let after = Backing::mount(lab.base(), &disk, "ext4", MountFlags::empty(), "")?;
    ensure!(
        only_file_is_marked(after.dir())?,
        "the mark was not on the disk"
    );
    let file = File::options()
        .write(true)
        .open(scene.remote.path("file"))?;
    file.set_modified(before)?;
    drop(file);
    let mut keeper = Keeper::plain(after.dir())?;
    scene.client = scene.remote.mount()?;
    let trace = traced(|| {
        let moved = moved(|| check(&scene.client.path("file"), &scene.image))?;
        ensure!(moved.get("IO.rd") == 0, "the cache was used: {moved:?}");
        settle()
    })?;
    let refused =
        |line: &String| line.contains("cachefiles_coherency: ") && line.contains("BAD dirt");
    ensure!(trace.iter().any(refused), "not refused: {trace:?}");
    scene.client.unmount()?;
    keeper.stop()
}
