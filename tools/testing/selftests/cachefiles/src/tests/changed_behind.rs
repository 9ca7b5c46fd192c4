// SPDX-License-Identifier: GPL-2.0

//! Another process changes a cache file that is in service, in each way that a file system has.
//! Readers get the right data or EIO; never zeros, never what was moved there.

use super::{
    netfs_files::{self, check_part, publish, settle, PAGE},
    netfs_scene::content,
};
use crate::{
    backing::Frozen,
    cachefilesd::Keeper,
    claim::cache_files,
    daemon::{Daemon, Manner},
    file_system::chosen,
    group,
    image::BLOCK,
    kernel::run,
    lab::{eventually, Cache, Lab},
    layout,
    mount::Mount,
    raw::errno,
    remote::{Client, Kind, Remote},
    stage::{blobs, expect_data, read_block, read_block_here, want, BLOCKS, SIZE},
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::Errno;
use rustix::fs::{fadvise, fallocate, ioctl_ficlone, Advice, FallocateFlags};
use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::{symlink, FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

group!("changed_behind":
    punched_and_as_much_filled_elsewhere,
    punched_and_as_much_filled_by_nfs,
    punched_in_one_block,
    punched_within_a_block,
    punched_under_readers,
    collapsed,
    inserted,
    cut_and_grown,
    zeroed,
    unwritten_and_read_by_a_backup,
    cloned_over,
    shared_and_rewritten,
    blocks_moved_under_readers,
    frozen_under_readers,
);

/// An image in use, some blocks of whose blob are cached.  What is declared first goes first.
struct Scene<'a> {
    lab: &'a Lab,
    mount: Mount,
    daemon: Daemon,
    /// The blob's cache file.
    path: PathBuf,
    cache: Cache,
}

impl Scene<'_> {
    /// These blocks are cached, and were read since the image was mounted.
    fn new(lab: &Lab, cached: Range<u32>) -> Result<Scene<'_>> {
        let cache = lab.cache()?;
        let daemon = cache.serve(blobs(Manner::Serve))?;
        let mut mount = Mount::new(lab.base(), "meta")?;
        for block in cached.clone() {
            expect_data(read_block_here(&mount.path("file"), block), block)?;
        }
        // The file gets its name at the first unmount.
        mount.unmount()?;
        let path = layout::file(cache.dir(), "erofs,meta", b"blob")?;
        eventually("the cache file", || path.exists())?;
        rustix::fs::sync();
        let mount = Mount::new(lab.base(), "meta")?;
        let before = daemon.reads();
        for block in cached {
            expect_data(read_block_here(&mount.path("file"), block), block)?;
        }
        let asked = daemon.reads() - before;
        ensure!(asked == 0, "{asked} READs for what is cached");
        Ok(Scene {
            lab,
            mount,
            daemon,
            path,
            cache,
        })
    }

    /// The cache file, as another process opens it.
    fn file(&self) -> Result<File> {
        Ok(File::options().read(true).write(true).open(&self.path)?)
    }

    /// Has fallocate(2) do this to blocks of the cache file.
    fn fallocate(&self, mode: FallocateFlags, blocks: Range<u32>) -> Result<()> {
        let (at, end) = (u64::from(blocks.start), u64::from(blocks.end));
        let changed = fallocate(self.file()?, mode, at * BLOCK, (end - at) * BLOCK);
        changed.with_context(|| format!("{mode:?} of the blocks {blocks:?}"))
    }

    /// Nothing of the image's file is in the page cache.
    fn forget(&self) -> Result<()> {
        forget(&self.mount.path("file"))
    }

    /// Readers get the right data or EIO; then, with another mount, the same again, and of these blocks,
    /// which nothing has moved, the data.
    fn expect_right(mut self, untouched: Range<u32>) -> Result<()> {
        let first = self.read_all(0..0);
        self.mount.unmount()?;
        self.mount = Mount::new(self.lab.base(), "meta")?;
        let second = self.read_all(untouched).context("after another mount");
        let both = first.and(second);
        if self.lab.is_peer() {
            println!("C: {both:?}");
            return Ok(());
        }
        both
    }

    fn read_all(&self, sure: Range<u32>) -> Result<()> {
        self.forget()?;
        let before = self.daemon.reads();
        let (mut failed, mut wrong) = (0, Vec::new());
        for block in 0..BLOCKS {
            match right_or_eio(&read_block_here(&self.mount.path("file"), block), block) {
                Ok(true) => {}
                Ok(false) if !sure.contains(&block) => failed += 1,
                Ok(false) => wrong.push(format!("block {block} is EIO")),
                Err(error) => wrong.push(error.to_string()),
            }
        }
        let asked = self.daemon.reads() - before;
        println!("{asked} READs, {failed} blocks of {BLOCKS} were EIO");
        let some = wrong.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        ensure!(wrong.is_empty(), "{} blocks: {some}", wrong.len());
        Ok(())
    }
}

/// Nothing of a file is in the page cache.
fn forget(file: &Path) -> Result<()> {
    Ok(fadvise(File::open(file)?, 0, None, Advice::DontNeed)?)
}

/// Reads these blocks of a file again and again, until it is over; how many times.
fn read_until(over: &AtomicBool, file: &Path, blocks: Range<u32>) -> Result<u32> {
    let mut rounds = 0;
    while !over.load(Ordering::SeqCst) || rounds == 0 {
        forget(file)?;
        for block in blocks.clone() {
            right_or_eio(&read_block_here(file, block), block)?;
        }
        rounds += 1;
    }
    Ok(rounds)
}

/// Does something while others read these blocks of a file; how many times they did.
fn under_readers(
    file: &Path,
    blocks: Range<u32>,
    work: impl FnOnce() -> Result<()>,
) -> Result<u32> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| read_until(&over, file, blocks));
        let done = work();
        over.store(true, Ordering::SeqCst);
        let read = reader.join().ok().context("the reader panicked")?;
        done.and(read)
    })
}

/// Whether a reader got the right data; false if it got EIO.
fn right_or_eio(got: &io::Result<Vec<u8>>, block: u32) -> Result<bool> {
    match got {
        Ok(bytes) if *bytes == want(block) => Ok(true),
        Ok(bytes) if bytes.iter().all(|byte| *byte == 0) => bail!("block {block} is zeros"),
        Ok(bytes) if bytes.contains(&0) => bail!("block {block} has zeros"),
        Ok(_) => bail!("block {block} has other data"),
        Err(error) if errno(error) == Some(Errno::IO) => Ok(false),
        Err(error) => bail!("block {block}: {error}"),
    }
}

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// A hole, and as many blocks filled elsewhere: the file has as many blocks as before.
fn punched_and_as_much_filled_elsewhere(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..32)?;
    scene.fallocate(PUNCH, 0..16)?;
    for block in 32..48 {
        expect_data(read_block_here(&scene.mount.path("file"), block), block)?;
    }
    scene.expect_right(16..48)
}

/// The same in the ordinary mode, where netfs fills.
fn punched_and_as_much_filled_by_nfs(lab: &Lab) -> Result<()> {
    const FILE: &str = "file";
    let page = |number: usize| number * PAGE;
    let want = content(3, page(192));
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::Nfs(4))?;
    publish(&remote, FILE, &want)?;
    let mut keeper = Keeper::plain(cache.dir())?;
    let mut client = remote.mount()?;
    let read = |client: &Client, pages: Range<usize>| -> Result<()> {
        for number in pages {
            check_part(&client.path(FILE), &want, page(number), PAGE)?;
        }
        settle()
    };
    read(&client, 0..64)?;
    client.unmount()?;
    client = remote.mount()?;
    read(&client, 0..64)?;
    let files = cache_files(cache.dir());
    let [path] = files.as_slice() else {
        bail!("{} files in the cache", files.len());
    };
    let blocks = || -> Result<u64> { Ok(fs::metadata(path)?.blocks()) };
    let before = blocks()?;
    let file = File::options().write(true).open(path)?;
    fallocate(&file, PUNCH, 0, page(64) as u64)?;
    drop(file);
    for number in 96..192 {
        if blocks()? >= before {
            break;
        }
        read(&client, number..number + 1)?;
    }
    netfs_files::forget(&client.path(FILE))?;
    let right = read(&client, 0..64);
    client.unmount()?;
    keeper.stop()?;
    if lab.is_peer() {
        println!("C: {right:?}");
        return Ok(());
    }
    right
}

/// A hole of one block, which need not change the number of blocks where they are clusters.
fn punched_in_one_block(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..BLOCKS)?;
    scene.fallocate(PUNCH, 5..6)?;
    scene.expect_right(6..BLOCKS)
}

/// A hole of 1 KiB, which is one where blocks are as small, and zeros elsewhere.
fn punched_within_a_block(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..BLOCKS)?;
    fallocate(scene.file()?, PUNCH, 5 * BLOCK + 1024, 1024)?;
    scene.expect_right(6..BLOCKS)
}

/// Holes are punched while the blocks are read.
fn punched_under_readers(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..BLOCKS)?;
    let file = scene.file()?;
    let done = under_readers(&scene.mount.path("file"), 0..BLOCKS, || {
        let end = Instant::now() + Duration::from_secs(2);
        let mut block = 0;
        while Instant::now() < end {
            fallocate(&file, PUNCH, u64::from(block) * BLOCK, 4 * BLOCK)?;
            block = (block + 20) % (BLOCKS - 4);
        }
        Ok(())
    });
    if lab.is_peer() {
        println!("C: {done:?}");
    } else {
        println!("{} rounds", done?);
    }
    drop(file);
    scene.expect_right(0..0)
}

/// A part is taken out, and what was behind it moves there.
fn collapsed(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..BLOCKS)?;
    scene.fallocate(FallocateFlags::COLLAPSE_RANGE, 16..32)?;
    // Another mount finds a file of another size, which is stale.
    scene.expect_right(0..0)
}

/// A hole is put in, and what was there moves behind it; then the end is cut off.
fn inserted(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..BLOCKS)?;
    scene.fallocate(FallocateFlags::INSERT_RANGE, 16..32)?;
    scene.file()?.set_len(SIZE)?;
    scene.in_service_only()
}

/// The file is cut short, and is as long again.
fn cut_and_grown(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..BLOCKS)?;
    let file = scene.file()?;
    file.set_len(20 * BLOCK)?;
    file.set_len(SIZE)?;
    drop(file);
    scene.expect_right(0..20)
}

/// A part is zeroed without being written.
fn zeroed(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..BLOCKS)?;
    scene.fallocate(FallocateFlags::ZERO_RANGE, 16..32)?;
    scene.expect_right(0..16)
}

/// Blocks are allocated that nobody has written, and a backup reads them: they are asked for.
fn unwritten_and_read_by_a_backup(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..16)?;
    for blocks in [20..21, 24..40, 60..BLOCKS] {
        scene.fallocate(FallocateFlags::KEEP_SIZE, blocks)?;
    }
    let copy = fs::read(&scene.path)?;
    ensure!(copy.len() as u64 == SIZE, "{} bytes", copy.len());
    scene.expect_right(0..16)
}

/// The file's blocks become those of another file, which has none of its data.
fn cloned_over(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..BLOCKS)?;
    let other = scene.cache.dir().join("other");
    fs::write(&other, vec![7; SIZE as usize])?;
    rustix::fs::sync();
    ioctl_ficlone(scene.file()?, File::open(&other)?).context("FICLONE")?;
    scene.in_service_only()
}

/// A clone of the file, as a backup makes it, shares its blocks.  Then one is written again, for which
/// XFS reserves more than it needs, and the backup reads all: what lies beside it is no data.
fn shared_and_rewritten(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, 8..9)?;
    scene.mount.unmount()?;
    // A daemon by hand, whose fd is open.
    scene.daemon.stop()?;
    scene.daemon = scene.cache.serve(blobs(Manner::ManualReads))?;
    scene.mount = Mount::new(lab.base(), "meta")?;
    let reader = read_block(&scene.mount.path("file"), 60);
    let read = scene.daemon.read()?;
    let write = |block: u32| -> Result<()> {
        let mut bytes = crate::blob::Aligned::new(BLOCK as usize);
        bytes.copy_from_slice(&want(block));
        read.object.write_all_at(&bytes, u64::from(block) * BLOCK)?;
        Ok(())
    };
    write(60)?;
    read.object.complete_read(read.msg_id)?;
    expect_data(crate::stage::join(reader)?, 60)?;
    let clone = scene.cache.dir().join("clone");
    ioctl_ficlone(File::create(&clone)?, File::open(&scene.path)?).context("FICLONE")?;
    write(8)?;
    drop(fs::read(&scene.path)?);
    drop(read);
    for block in [9, 10, 7, 12] {
        let file = scene.mount.path("file");
        let reader = read_block(&file, block);
        while !reader.is_finished() {
            if let Ok(read) = scene.daemon.read_within(Duration::from_millis(2)) {
                let mut bytes = crate::blob::Aligned::new(usize::try_from(read.len)?);
                crate::blob::pattern(crate::stage::SEED, read.offset, &mut bytes);
                read.object.write_all_at(&bytes, read.offset)?;
                read.object.complete_read(read.msg_id)?;
            }
        }
        let got = crate::stage::join(reader)?;
        let right = right_or_eio(&got, block);
        if lab.is_peer() {
            println!("C: {right:?}");
            continue;
        }
        ensure!(right?, "block {block} is EIO");
    }
    scene.mount.unmount()
}

impl Scene<'_> {
    /// Readers get the right data or EIO while the file is in service.  What another process has put into
    /// it is not told from data by who finds it later.
    fn in_service_only(mut self) -> Result<()> {
        let done = self.read_all(0..0);
        self.mount.unmount()?;
        if self.lab.is_peer() {
            println!("C: {done:?}");
            return Ok(());
        }
        done
    }
}

/// The file system's own program moves the file's blocks while they are read.
fn blocks_moved_under_readers(lab: &Lab) -> Result<()> {
    // Every other block, and then the others: as scattered as can be.
    let scene = Scene::new(lab, 0..1)?;
    for block in (1..BLOCKS).step_by(2).chain((2..BLOCKS - 8).step_by(2)) {
        expect_data(read_block_here(&scene.mount.path("file"), block), block)?;
    }
    let path = scene.path.to_string_lossy().into_owned();
    // e4defrag looks there for what is mounted.
    let mtab = Path::new("/etc/mtab");
    if !mtab.exists() {
        symlink("/proc/self/mounts", mtab)?;
    }
    let moved = under_readers(&scene.mount.path("file"), 0..BLOCKS - 8, || {
        (0..4).try_for_each(|_| match chosen().kind() {
            "xfs" => run("xfs_fsr", &["-v", &path]).map(drop),
            "btrfs" => run("btrfs", &["filesystem", "defragment", "-f", &path]).map(drop),
            _ => run("e4defrag", &["-v", &path]).map(drop),
        })
    });
    println!("{moved:?} rounds");
    moved?;
    scene.expect_right(0..BLOCKS - 8)
}

/// While the file system takes no change, what is cached is read; what is not waits.
fn frozen_under_readers(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab, 0..16)?;
    let frozen = Frozen::new(scene.cache.dir())?;
    scene.forget()?;
    for block in 0..16 {
        expect_data(read_block_here(&scene.mount.path("file"), block), block)?;
    }
    let reader = read_block(&scene.mount.path("file"), 20);
    thread::sleep(Duration::from_millis(50));
    let waits = !reader.is_finished();
    drop(frozen);
    expect_data(crate::stage::join(reader)?, 20)?;
    ensure!(waits, "a frozen file system was written to");
    let mut copy = vec![0; BLOCK as usize];
    scene.file()?.read_exact_at(&mut copy, 20 * BLOCK)?;
    ensure!(copy == want(20), "the block is not what was written");
    scene.expect_right(0..21)
}
