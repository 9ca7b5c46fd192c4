// SPDX-License-Identifier: GPL-2.0

//! Local writes of network file systems: through memory, past the page cache, with changes of size in
//! between.  What was written is what the client reads, what the server has, and what the cache
//! serves later.  And cookies that dirty pages pin.

use super::{
    netfs_files::{check_both, check_part, moved, publish, same, served, settle, PAGE},
    netfs_scene::{check, content},
};
use crate::{
    backing::{ram_disk, Backing},
    blob::{pattern, Aligned},
    cachefilesd::{drop_pages, Counters, Keeper},
    claim::only_file_is_marked,
    group,
    kernel::{drop_caches, run},
    ktap::{in_ci, Skip},
    lab::{eventually, Cache, Lab},
    mapping::Mapping,
    remote::{Client, Kind, Remote},
    trace::traced,
};
use anyhow::{ensure, Context, Result};
use rustix::mount::MountFlags;
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

group!("netfs_writes":
    ninep_mapped_and_synced,
    ninep_mmap_mode_mapped_and_synced,
    nfs_mapped_and_synced,
    ninep_mapped_and_closed,
    ninep_mmap_mode_mapped_and_closed,
    nfs_mapped_and_closed,
    ninep_mapped_and_killed,
    nfs_mapped_and_killed,
    ninep_mapped_and_cut,
    nfs_mapped_and_cut,
    ninep_direct_and_cached,
    nfs_direct_and_cached,
    ninep_pinned_after_the_last_close,
    ninep_pinned_at_exit,
    ninep_pinned_under_pressure,
    ninep_pinned_and_removed,
    ninep_pinned_for_longer_than_the_lru,
    ninep_pinned_when_unmounted,
    ninep_power_fails_while_open,
);

/// Ends within a page.
const SIZE: usize = 40 * PAGE + 1234;

/// A server with a file, of which the client has read everything, so that all is cached.  What is
/// declared first goes first.
struct Scene {
    client: Client,
    keeper: Keeper,
    _cache: Cache,
    remote: Remote,
    mode: Mode,
    /// What the file must be.
    image: Vec<u8>,
}

/// A kind of mount.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nfs,
    /// `cache=fscache`.
    NineP,
    /// What `cache=mmap` has, and fscache: no metadata is kept, and nothing is trusted for long.
    NinePMmap,
}

impl Mode {
    fn kind(self) -> Kind {
        match self {
            Mode::Nfs => Kind::Nfs(4),
            Mode::NineP | Mode::NinePMmap => Kind::NineP,
        }
    }

    fn mount(self, remote: &Remote) -> Result<Client> {
        match self {
            Mode::Nfs | Mode::NineP => remote.mount(),
            Mode::NinePMmap => remote.mount_9p_with("cache=0x85"),
        }
    }
}

impl Scene {
    fn new(lab: &Lab, mode: Mode) -> Result<Scene> {
        let cache = lab.cache()?;
        let remote = Remote::new(lab, mode.kind())?;
        let image = content(1, SIZE);
        publish(&remote, "file", &image)?;
        let keeper = Keeper::plain(cache.dir())?;
        let client = mode.mount(&remote)?;
        check(&client.path("file"), &image)?;
        settle()?;
        Ok(Scene {
            client,
            keeper,
            _cache: cache,
            remote,
            mode,
            image,
        })
    }

    fn path(&self) -> PathBuf {
        self.client.path("file")
    }

    fn open(&self, flags: i32) -> Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags);
        Ok(options.open(self.path())?)
    }

    /// Writes through a mapping, and into the image.
    fn fill(&mut self, mapping: &mut Mapping, byte: u8, at: usize, len: usize) -> Result<()> {
        mapping.fill(byte, at, len)?;
        self.image[at..at + len].fill(byte);
        Ok(())
    }

    /// Writes at the beginning, across pages, a whole page, and up to the end.
    fn scribble(&mut self, mapping: &mut Mapping, byte: u8) -> Result<()> {
        self.fill(mapping, byte, 100, 200)?;
        self.fill(mapping, byte + 1, 3 * PAGE + 10, 9000)?;
        self.fill(mapping, byte + 2, 20 * PAGE, PAGE)?;
        self.fill(mapping, byte + 3, SIZE - 50, 50)
    }

    /// The image is what the client reads, from memory and without; what the server has; and what the
    /// cache serves, also after another mount.
    fn expect_everywhere(mut self) -> Result<()> {
        settle()?;
        check_both(&self.client, &self.remote, "file", &self.image)?;
        for mounted in ["once", "again"] {
            drop_caches()?;
            self.read_and_store().context("with the pages dropped")?;
            drop_caches()?;
            let path = self.path();
            served(self.image.len(), || check(&path, &self.image))
                .with_context(|| format!("mounted {mounted}"))?;
            settle()?;
            self.client.unmount()?;
            self.client = self.mode.mount(&self.remote)?;
        }
        self.client.unmount()?;
        self.keeper.stop()
    }

    /// Of a file that was written to the cache may be of no use once the inode is gone: NFS keeps it
    /// out, and 9P has told the cache a version that the server has changed meanwhile.  Where 9P keeps
    /// no metadata it forgets the pages of a file that nobody has open, stored or not.
    fn read_and_store(&self) -> Result<()> {
        let path = self.path();
        let _held = File::open(&path)?;
        check(&path, &self.image)?;
        settle()
    }

    /// What was written has gone to the cache as well, where the netfs does that: the inode is there, and
    /// the cache is asked for its data.
    fn expect_stored(&self) -> Result<()> {
        if self.mode != Mode::NineP {
            return Ok(());
        }
        settle()?;
        drop_pages()?;
        let path = self.path();
        served(self.image.len(), || check(&path, &self.image)).context("what was written")
    }
}

fn mapped_and_synced(lab: &Lab, mode: Mode) -> Result<()> {
    let mut scene = Scene::new(lab, mode)?;
    let mut mapping = Mapping::new(&scene.path(), SIZE)?;
    for byte in [10, 20] {
        scene.scribble(&mut mapping, byte)?;
        mapping.sync()?;
        // Nobody has closed anything.
        check(&scene.remote.path("file"), &scene.image).context("on the server, after msync")?;
        check(&scene.path(), &scene.image)?;
    }
    mapping.close()?;
    scene.expect_stored()?;
    scene.expect_everywhere()
}

fn ninep_mapped_and_synced(lab: &Lab) -> Result<()> {
    mapped_and_synced(lab, Mode::NineP)
}

fn ninep_mmap_mode_mapped_and_synced(lab: &Lab) -> Result<()> {
    mapped_and_synced(lab, Mode::NinePMmap)
}

fn nfs_mapped_and_synced(lab: &Lab) -> Result<()> {
    mapped_and_synced(lab, Mode::Nfs)
}

/// No msync, but an end of the process, by itself or not.
fn mapped_and_ended(
    lab: &Lab,
    mode: Mode,
    end: impl FnOnce(&mut Mapping) -> Result<()>,
) -> Result<()> {
    let mut scene = Scene::new(lab, mode)?;
    let mut mapping = Mapping::new(&scene.path(), SIZE)?;
    scene.scribble(&mut mapping, 30)?;
    end(&mut mapping)?;
    check(&scene.path(), &scene.image)?;
    scene.expect_stored()?;
    scene.expect_everywhere()
}

fn ninep_mapped_and_closed(lab: &Lab) -> Result<()> {
    mapped_and_ended(lab, Mode::NineP, Mapping::close)
}

fn ninep_mmap_mode_mapped_and_closed(lab: &Lab) -> Result<()> {
    mapped_and_ended(lab, Mode::NinePMmap, Mapping::close)
}

fn nfs_mapped_and_closed(lab: &Lab) -> Result<()> {
    mapped_and_ended(lab, Mode::Nfs, Mapping::close)
}

fn ninep_mapped_and_killed(lab: &Lab) -> Result<()> {
    mapped_and_ended(lab, Mode::NineP, Mapping::kill)
}

fn nfs_mapped_and_killed(lab: &Lab) -> Result<()> {
    mapped_and_ended(lab, Mode::Nfs, Mapping::kill)
}

/// The file is cut and grows while somebody writes through memory: what was cut off does not come
/// back, and what is written afterwards is there.
fn mapped_and_cut(lab: &Lab, mode: Mode) -> Result<()> {
    let mut scene = Scene::new(lab, mode)?;
    let mut mapping = Mapping::new(&scene.path(), SIZE)?;
    for (byte, shorter, longer) in [
        (40, 30 * PAGE + 5, SIZE),
        (50, 4 * PAGE, 25 * PAGE + 7),
        (60, 5000, SIZE),
    ] {
        scene.fill(&mut mapping, byte, 0, 4 * PAGE + 3)?;
        scene.fill(&mut mapping, byte + 1, 20 * PAGE + 1, 4 * PAGE)?;
        let file = scene.open(0)?;
        for size in [shorter, longer] {
            file.set_len(size as u64)?;
            scene.image.resize(size, 0);
        }
        drop(file);
        check(&scene.path(), &scene.image)
            .with_context(|| format!("cut to {shorter}, then {longer} long"))?;
        scene.fill(&mut mapping, byte + 2, 2 * PAGE + 100, 3 * PAGE)?;
        check(&scene.path(), &scene.image)?;
    }
    mapping.sync()?;
    mapping.close()?;
    scene.expect_everywhere()
}

fn ninep_mapped_and_cut(lab: &Lab) -> Result<()> {
    mapped_and_cut(lab, Mode::NineP)
}

fn nfs_mapped_and_cut(lab: &Lab) -> Result<()> {
    mapped_and_cut(lab, Mode::Nfs)
}

/// Reads and writes past the page cache, among others.
fn direct_and_cached(lab: &Lab, mode: Mode) -> Result<()> {
    let mut scene = Scene::new(lab, mode)?;
    let cached = scene.open(0)?;
    let direct = scene.open(libc::O_DIRECT)?;
    let mut bytes = Aligned::new(3 * PAGE);
    let directly = |at: usize, image: &[u8]| -> Result<()> {
        let mut got = Aligned::new(4 * PAGE);
        direct.read_exact_at(&mut got, at as u64)?;
        same("directly", &got, &image[at..at + 4 * PAGE])
    };
    for round in 0..3 {
        // Written into memory, read from the server.
        let at = (5 + round) * PAGE;
        pattern(100 + round as u64, 0, &mut bytes);
        cached.write_all_at(&bytes[..5000], at as u64 + 10)?;
        scene.image[at + 10..at + 5010].copy_from_slice(&bytes[..5000]);
        directly(at, &scene.image).context("behind a cached write")?;
        // Written to the server, read through memory.
        let at = (6 + round) * PAGE;
        pattern(200 + round as u64, 0, &mut bytes);
        direct.write_all_at(&bytes, at as u64)?;
        scene.image[at..at + bytes.len()].copy_from_slice(&bytes);
        check_part(&scene.path(), &scene.image, 4 * PAGE, 8 * PAGE)
            .context("behind a direct write")?;
        directly(at, &scene.image).context("behind a direct write")?;
        check(&scene.remote.path("file"), &scene.image).context("on the server")?;
    }
    // Behind the end.
    let at = 50 * PAGE;
    direct.write_all_at(&bytes, at as u64)?;
    scene.image.resize(at, 0);
    scene.image.extend_from_slice(&bytes);
    check_both(&scene.client, &scene.remote, "file", &scene.image).context("made longer")?;
    drop((cached, direct));
    scene.expect_everywhere()
}

fn ninep_direct_and_cached(lab: &Lab) -> Result<()> {
    direct_and_cached(lab, Mode::NineP)
}

fn nfs_direct_and_cached(lab: &Lab) -> Result<()> {
    direct_and_cached(lab, Mode::Nfs)
}

/// The one cookie there is: its users and its state, of /proc/fs/fscache/cookies.
fn cookie() -> Result<(u32, char)> {
    let text = fs::read_to_string("/proc/fs/fscache/cookies")?;
    let mut lines = text.lines().skip(2);
    let fields: Vec<&str> = lines
        .next()
        .context("no cookie")?
        .split_whitespace()
        .collect();
    ensure!(lines.next().is_none(), "more than one cookie:\n{text}");
    let [_, _, _, users, _, state, ..] = fields[..] else {
        anyhow::bail!("{text}");
    };
    Ok((
        users.parse()?,
        state.chars().next().context("a cookie without a state")?,
    ))
}

/// Nobody has the file open, and nothing has been written to the cache, but the cookie is in use.
fn expect_pinned(before: &Counters) -> Result<()> {
    let (users, state) = cookie()?;
    ensure!(
        (users, state) == (1, 'A'),
        "the cookie has {users} users, and is in the state {state}"
    );
    let written = Counters::now()?.since(before).get("IO.wr");
    ensure!(written == 0, "{written} writes to the cache already");
    Ok(())
}

/// Writes the dirty pages, after which nobody uses the cookie.
fn unpin() -> Result<()> {
    settle()?;
    eventually("the cookie is unpinned", || {
        cookie().is_ok_and(|(users, _)| users == 0)
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
        let image = content(1, SIZE);
        publish(&remote, "file", &image)?;
        rustix::fs::sync();
        let keeper = Keeper::plain(cache.dir())?;
        let client = remote.mount()?;
        let before = Counters::now()?;
        check(&client.path("file"), &image)?;
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
fn ninep_pinned_after_the_last_close(lab: &Lab) -> Result<()> {
    let scene = Pinned::new(lab)?;
    expect_pinned(&scene.before)?;
    unpin()?;
    scene.expect_cached()
}

/// A process is killed that has written through memory: its pages are written as it goes, when it has
/// no files any more, and the cookie waits for them.
fn ninep_pinned_at_exit(lab: &Lab) -> Result<()> {
    let mut scene = Pinned::new(lab)?;
    unpin()?;
    let path = scene.client.path("file");
    let mut mapping = Mapping::new(&path, SIZE)?;
    mapping.fill(77, 3 * PAGE + 5, 20 * PAGE)?;
    scene.image[3 * PAGE + 5..23 * PAGE + 5].fill(77);
    mapping.kill()?;
    let (users, state) = cookie()?;
    ensure!(
        (users, state) == (1, 'A'),
        "the cookie has {users} users, and is in the state {state}"
    );
    unpin()?;
    check(&scene.remote.path("file"), &scene.image).context("on the server")?;
    scene.expect_cached()
}

/// The kernel gives back what memory it can: the inode stays for as long as pages of it are dirty, and
/// the cookie with it.
fn ninep_pinned_under_pressure(lab: &Lab) -> Result<()> {
    let scene = Pinned::new(lab)?;
    for what in ["2", "1", "3"] {
        run("sysctl", &["-q", &format!("vm.drop_caches={what}")])?;
    }
    expect_pinned(&scene.before)?;
    unpin()?;
    scene.expect_cached()
}

/// The file goes, and with it the inode, with dirty pages that nobody wants any more.
fn ninep_pinned_and_removed(lab: &Lab) -> Result<()> {
    let mut scene = Pinned::new(lab)?;
    expect_pinned(&scene.before)?;
    fs::remove_file(scene.client.path("file"))?;
    settle()?;
    eventually("the cookie is gone", || {
        Counters::now().is_ok_and(|now| now.get("Cookies.n") == 0)
    })?;
    // The name can be used again, and what is behind it is cached.
    scene.image = content(2, SIZE);
    publish(&scene.remote, "file", &scene.image)?;
    scene.client.unmount()?;
    scene.client = scene.remote.mount()?;
    check(&scene.client.path("file"), &scene.image)?;
    settle()?;
    scene.expect_cached()
}

/// FS-Cache takes cookies out of service that nobody has used for ten seconds, but not this one; and it
/// takes this one too, once it is unpinned.
fn ninep_pinned_for_longer_than_the_lru(lab: &Lab) -> Result<()> {
    if !in_ci() {
        return Err(Skip("it takes half a minute; CI=true".to_owned()).into());
    }
    let scene = Pinned::new(lab)?;
    thread::sleep(Duration::from_secs(12));
    expect_pinned(&scene.before)?;
    unpin()?;
    thread::sleep(Duration::from_secs(10));
    eventually("the cookie is out of service", || {
        cookie().is_ok_and(|(_, state)| state == '-')
    })?;
    scene.expect_cached()
}

/// A mount goes with pages that are still to be stored: it stores them first.
fn ninep_pinned_when_unmounted(lab: &Lab) -> Result<()> {
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

/// A file that is open for writing is marked on the disk.  If the power fails then, what the cache has
/// of it is not used; if not, the mark goes with the last user.
fn ninep_power_fails_while_open(lab: &Lab) -> Result<()> {
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
