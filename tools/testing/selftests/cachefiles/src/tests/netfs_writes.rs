// SPDX-License-Identifier: GPL-2.0

//! Local writes of network file systems: through memory, past the page cache, with changes of size in
//! between.  What was written is what the client reads, what the server has, and what the cache
//! serves later.

use super::{
    netfs_files::{check_both, check_part, publish, same, served, settle, ODD_SIZE, PAGE},
    netfs_limits::lru_falls_to,
    netfs_scene::{check, content},
};
use crate::{
    blob::{pattern, Aligned},
    cachefilesd::{drop_pages, Keeper},
    group,
    kernel::{drop_caches, run},
    lab::{Cache, Lab},
    mapping::Mapping,
    remote::{Client, Kind, NoLeases, Remote},
};
use anyhow::{Context, Result};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
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
    ninep_cut_by_its_name,
    ninep_cut_that_the_cookie_does_not_know,
);

/// A server with a file, of which the client has read everything, so that all is cached.  What is
/// declared first goes first.
struct Scene {
    client: Client,
    keeper: Keeper,
    _cache: Cache,
    remote: Remote,
    /// On a busy machine the client is slow to give a delegation back.
    _no_leases: NoLeases,
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
        let no_leases = NoLeases::begin()?;
        let cache = lab.cache()?;
        let remote = Remote::new(lab, mode.kind())?;
        let image = content(1, ODD_SIZE);
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
            _no_leases: no_leases,
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
        self.fill(mapping, byte + 3, ODD_SIZE - 50, 50)
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
    let mut mapping = Mapping::new(&scene.path(), ODD_SIZE)?;
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
    let mut mapping = Mapping::new(&scene.path(), ODD_SIZE)?;
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
    let mut mapping = Mapping::new(&scene.path(), ODD_SIZE)?;
    for (byte, shorter, longer) in [
        (40, 30 * PAGE + 5, ODD_SIZE),
        (50, 4 * PAGE, 25 * PAGE + 7),
        (60, 5000, ODD_SIZE),
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

/// truncate(2), which opens nothing; coreutils' does.
fn truncate(path: &Path, size: usize) -> Result<()> {
    let path = path.to_string_lossy();
    let cut = format!("truncate($ARGV[0], {size}) or die $!");
    run("perl", &["-e", &cut, &path]).map(|_| ())
}

/// Without its pages, the file is the image at the client and on the server.
fn nothing_comes_back(lab: &Lab, scene: &Scene, what: &str) -> Result<()> {
    settle()?;
    drop_pages()?;
    let got = check_both(&scene.client, &scene.remote, "file", &scene.image);
    if lab.is_peer() {
        // C serves what it had, and gives it to the server.
        println!("C, {what}: {got:?}");
        return Ok(());
    }
    got.with_context(|| what.to_owned())
}

/// A file that nobody has open is cut, of which FS-Cache does not tell the cache.  What was cut off does
/// not come back, to the client or to the server.
fn ninep_cut_by_its_name(lab: &Lab) -> Result<()> {
    let size = 2 * PAGE;
    for grows in [false, true] {
        let mut scene = Scene::new(lab, Mode::NineP)?;
        scene.image = content(2, size);
        scene.client.unmount()?;
        publish(&scene.remote, "file", &scene.image)?;
        scene.client = scene.mode.mount(&scene.remote)?;
        check(&scene.path(), &scene.image)?;
        settle()?;
        lru_falls_to(0)?;
        truncate(&scene.path(), 100)?;
        scene.image.truncate(100);
        if grows {
            truncate(&scene.path(), size)?;
            scene.image.resize(size, 0);
        } else {
            scene.image.resize(201, 0);
            scene.image[200] = b'x';
            let file = scene.open(0)?;
            file.write_all_at(b"x", 200)?;
            file.sync_all()?;
        }
        nothing_comes_back(lab, &scene, &format!("growing: {grows}"))?;
    }
    Ok(())
}

/// A file that nobody has open is made longer, of which FS-Cache does not tell the cache, and then it is
/// written to and cut behind the end that FS-Cache knows.  What was cut off does not come back.
fn ninep_cut_that_the_cookie_does_not_know(lab: &Lab) -> Result<()> {
    // In whole blocks, and in the midst of the one that was written.
    for cut in [3 * PAGE, 3 * PAGE + 700] {
        let mut scene = Scene::new(lab, Mode::NineP)?;
        scene.image = content(2, 10_000);
        scene.client.unmount()?;
        publish(&scene.remote, "file", &scene.image)?;
        scene.client = scene.mode.mount(&scene.remote)?;
        let size = 5 * PAGE;
        truncate(&scene.path(), size)?;
        scene.image.resize(size, 0);
        let file = scene.open(0)?;
        let written = content(3, PAGE);
        file.write_all_at(&written, 3 * PAGE as u64)?;
        scene.image[3 * PAGE..4 * PAGE].copy_from_slice(&written);
        file.sync_all()?;
        settle()?;
        file.set_len(cut as u64)?;
        scene.image.truncate(cut);
        scene.image.resize(size, 0);
        scene.image.extend_from_slice(&written);
        file.write_all_at(&written, size as u64)?;
        file.sync_all()?;
        nothing_comes_back(lab, &scene, &format!("cut to {cut}"))?;
    }
    Ok(())
}
