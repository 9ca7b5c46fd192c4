// SPDX-License-Identifier: GPL-2.0

//! What the cases of failing memory and failing disks share: an image of many blocks, readers
//! that must get the right bytes or an error, and waiting for a withdrawal to end.

use crate::{
    blob::{Aligned, Blob},
    cachefilesd::Known,
    daemon::{Blobs, Daemon, Manner},
    fault::{each_allocation, Fault},
    image::{Image, BLOCK},
    lab::{eventually, free_device, Lab},
    mount::{try_mount, Mount},
    patience::{patiently, within},
    raw::errno,
    stage::{self, expect_data, read_block},
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::Errno;
use rustix::fs::{fadvise, Advice};
use std::{
    fs::File,
    io,
    path::Path,
    sync::LazyLock,
    thread::{self, JoinHandle},
    time::Duration,
};

/// How many blocks the blob has.
pub const BLOCKS: u32 = 2048;
/// The blob's size.
pub const SIZE: u64 = BLOCKS as u64 * BLOCK;

/// How long anything may take that a fault must not make last for ever.
pub static BOUND: LazyLock<Duration> = LazyLock::new(|| patiently(Duration::from_secs(20)));

/// An image with one file whose bytes are those of a blob.
pub fn meta() -> Blob {
    let chunks: Vec<(u16, u32)> = (0..BLOCKS).map(|block| (1, block)).collect();
    Image::new().device("blob").file("file", 0, chunks).build()
}

/// The image, and its blob, which is served in this manner.
pub fn blobs(manner: Manner) -> Blobs {
    let source = Blob::Pattern {
        seed: stage::SEED,
        size: SIZE,
    };
    Blobs::new()
        .with("meta", meta())
        .with_manner("blob", source, manner)
}

/// Reads block after block, each for the first time and after `before`, with each allocation of that
/// failed once; how many blocks they were.
pub fn each_read(
    what: &str,
    at_least: u32,
    mount: &Mount,
    before: impl Fn() -> Result<()>,
) -> Result<u32> {
    let (mut block, mut failed) = (0, 0);
    each_allocation(what, at_least, 1, |fault| {
        block += 1;
        before()?;
        let got = fault.during(|| read(mount, block))??;
        if right_or_eio(got, block)? == Outcome::Failed {
            ensure!(fault.hit()?, "EIO although there was memory");
            failed += 1;
        }
        read_right(mount, block).context("the next try")
    })?;
    println!("{failed} times the reader got EIO");
    Ok(block)
}

/// A daemon that bears faults.
pub fn serve(dir: &Path, manner: Manner) -> Result<Daemon> {
    let device = free_device(dir)?;
    device.bind_ondemand()?;
    Daemon::patient(device, blobs(manner))
}

/// The result of a thread that no fault may keep for ever.
pub fn in_time<T>(what: &str, thread: JoinHandle<T>) -> Result<T> {
    within(*BOUND, what, thread)
}

/// Tries to mount, and for no longer than is decent.
pub fn mount(lab: &Lab) -> Result<Result<Mount, Errno>> {
    let base = lab.base().to_owned();
    in_time(
        "a mount",
        thread::spawn(move || try_mount(&base, b"meta", b"")),
    )
}

/// Mounts, which must work.
pub fn mounted(lab: &Lab) -> Result<Mount> {
    mount(lab)?.context("mounting")
}

/// An image that was mounted under the fault, or could not be, has this block right, at the latest
/// when it is mounted once more; whether it had to be.
pub fn right_in_the_end(
    lab: &Lab,
    fault: &Fault,
    mount: Result<Mount, Errno>,
    block: u32,
) -> Result<bool> {
    match mount {
        Ok(mount) => {
            // The blob is opened behind the mount's back.
            let right = match read(&mount, block)? {
                // There was no memory for the object itself, and FS-Cache says that it has no cache.
                Err(error) if errno(&error) == Some(Errno::NOBUFS) => false,
                got => right_or_eio(got, block)? == Outcome::Right,
            };
            unmount(mount)?;
            if right {
                return Ok(false);
            }
            ensure!(fault.hit()?, "the blob failed although there was memory");
        }
        Err(error) => {
            ensure!(fault.hit()?, "{error} although there was memory");
            withdrawn()?;
        }
    }
    let mount = mounted(lab).context("the next try")?;
    read_right(&mount, block)?;
    unmount(mount)?;
    Ok(true)
}

/// Unmounts, and waits until the cache has no object any more: withdrawing them is the work of
/// FS-Cache's own threads.
pub fn unmount(mut mount: Mount) -> Result<()> {
    in_time("an unmount", thread::spawn(move || mount.unmount()))??;
    withdrawn()
}

/// Waits until the cache has no object.
pub fn withdrawn() -> Result<()> {
    eventually("the objects are withdrawn", || {
        Known::objects().is_ok_and(|objects| objects == 0)
    })
}

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The right bytes.
    Right,
    /// EIO.
    Failed,
}

/// A reader must have got the right bytes or EIO: never zeros, never others.
pub fn right_or_eio(got: io::Result<Vec<u8>>, block: u32) -> Result<Outcome> {
    match got {
        Ok(bytes) => expect_data(Ok(bytes), block).map(|()| Outcome::Right),
        Err(error) if errno(&error) == Some(Errno::IO) => Ok(Outcome::Failed),
        Err(error) => bail!("block {block}: a reader got {error}"),
    }
}

/// Reads a block in another thread, for no longer than is decent.
pub fn read(mount: &Mount, block: u32) -> Result<io::Result<Vec<u8>>> {
    in_time("a reader", read_block(&mount.path("file"), block))
}

/// Reads a block, which must work.
pub fn read_right(mount: &Mount, block: u32) -> Result<()> {
    expect_data(read(mount, block)?, block)
}

/// Has the page cache forget the file, so that the cache is asked again.
pub fn forget_pages(mount: &Mount) -> Result<()> {
    Ok(fadvise(
        File::open(mount.path("file"))?,
        0,
        None,
        Advice::DontNeed,
    )?)
}

/// The blob's bytes from a block on, where direct I/O takes them.
pub fn bytes(block: u32, len: usize) -> Aligned {
    let mut bytes = Aligned::new(len);
    crate::blob::pattern(stage::SEED, u64::from(block) * BLOCK, &mut bytes);
    bytes
}

/// An operation that failed must have said so with an errno that a lack of memory can have; one
/// that nothing failed in must have worked.
pub fn told<T>(fault: &Fault, got: io::Result<T>) -> Result<Option<T>> {
    match got {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            ensure!(fault.hit()?, "failed although there was memory: {error}");
            // The file system says EIO where it cannot read for want of memory.
            let good = matches!(errno(&error), Some(Errno::NOMEM | Errno::IO));
            ensure!(good, "the error was {error}");
            Ok(None)
        }
    }
}
