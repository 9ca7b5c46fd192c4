// SPDX-License-Identifier: GPL-2.0

//! Where our module is meant to behave otherwise than C's: rows of Documentation/differences.rst
//! that no other case shows.  On C's module a case shows what C does.

use super::{
    bugs_scene::{bytes, mounting, served, Hand, Mounted, Scene},
    eviction::{bound, give_back, polled, state_line, take_space, LEVELS, NOW},
};
use crate::{
    daemon::Manner,
    error_injection::{Injection, NO_SPACE},
    group,
    image::BLOCK,
    kernel::{drop_caches, Kmsg},
    ktap::Skip,
    lab::{eventually, Cache, Lab},
    layout,
    limit::Lowered,
    mapping::evict,
    mount::Mount,
    patience::SOON,
    raw,
    stage::{expect_data, expect_error, read_block, SIZE},
    tree,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{protocol::message::MSG_MAX, Errno, Request};
use rustix::{
    event::PollFlags,
    fs::{fallocate, getxattr, removexattr, setxattr, FallocateFlags, XattrFlags},
    process::Resource,
};
use std::{
    env,
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

group!("differences":
    refused_reopen,
    reopen_with_another_size,
    read_answered_before_it_was_delivered,
    copen_after_restore,
    cull_on_another_file_system,
    state_line_that_was_not_told,
    file_without_its_attribute,
    attribute_that_cannot_be_set,
    cache_file_cut_short,
    blocks_that_were_never_written,
    block_never_written_that_a_backup_has_read,
    range_that_is_there_in_part,
    open_without_a_descriptor,
);

/// A moment in which something would happen if it were to.
const MOMENT: Duration = Duration::from_millis(50);

/// Who waits for a READ.
type Reader = thread::JoinHandle<std::io::Result<Vec<u8>>>;

/// A reader whose READ was delivered before the fd was closed; it waits for another fd.  What has to
/// go first comes last.
fn lost(lab: &Lab, block: u32) -> Result<(Cache, Arc<Hand>, Mounted, Reader)> {
    let Scene {
        mount,
        blob,
        hand,
        cache,
    } = Scene::new(lab)?;
    let reader = read_block(&mount.file(), block);
    hand.read()?;
    drop(blob);
    if lab.is_peer() {
        // C delivers the READ again, and asks for a new OPEN, only after this.
        hand.device()?.restore()?;
    }
    Ok((cache, hand, mount, reader))
}

/// Serves a block to a reader of a lost fd: another OPEN, another READ.
fn recovers(hand: &Hand, reader: Reader, block: u32) -> Result<()> {
    let blob = hand.opened()?;
    hand.read()?.answer(&blob.object)?;
    expect_data(hand.until_done(reader)?, block)
}

/// Answers OPENs until the reader ends, four times at most; how many there were.
fn answer_all(hand: &Hand, reader: &Reader, answer: Result<u64, Errno>) -> Result<u32> {
    let device = hand.device()?;
    let mut count = 0;
    while count < 4 {
        let Some(open) = hand.open_unless_done(reader)? else {
            break;
        };
        device.open_reply(open.msg_id, answer)?;
        count += 1;
    }
    Ok(count)
}

/// The daemon does not open again what it has lost: the reader gets EIO, and the next reader can
/// have it opened.  C asks for ever.
fn refused_reopen(lab: &Lab) -> Result<()> {
    let (_cache, hand, mount, reader) = lost(lab, 3)?;
    let count = answer_all(&hand, &reader, Err(Errno::NOENT))?;
    if lab.is_peer() {
        ensure!(
            count == 4 && !reader.is_finished(),
            "C gave up after {count}"
        );
        return recovers(&hand, reader, 3);
    }
    println!("refused {count} times");
    expect_error(hand.until_done(reader)?, Errno::IO, "a reader")?;
    recovers(&hand, read_block(&mount.file(), 3), 3)
}

/// The daemon tells another size than before: then it is another blob, and is refused.  The daemon
/// takes it for open, and is told to close it in the end.  C takes the size over.
fn reopen_with_another_size(lab: &Lab) -> Result<()> {
    let (_cache, hand, mount, reader) = lost(lab, 3)?;
    if lab.is_peer() {
        let blob = hand.open()?;
        hand.device()?.open_reply(blob.msg_id, Ok(2 * SIZE))?;
        hand.read()?.answer(&blob.object)?;
        return expect_data(hand.until_done(reader)?, 3);
    }
    let count = answer_all(&hand, &reader, Ok(2 * SIZE))?;
    println!("told {count} times");
    expect_error(hand.until_done(reader)?, Errno::IO, "a reader")?;
    recovers(&hand, read_block(&mount.file(), 3), 3)?;
    let reader = read_block(&mount.file(), 9);
    let blob = hand.open()?;
    let log = Kmsg::from_now()?;
    hand.device()?.open_reply(blob.msg_id, Ok(2 * SIZE))?;
    expect_error(hand.until_done(reader)?, Errno::IO, "a reader")?;
    let said = log.of_module()?;
    let sizes = format!("with {} bytes, not {SIZE}", 2 * SIZE);
    ensure!(said.iter().any(|line| line.contains(&sizes)), "{said:?}");
    mount.unmount()?;
    hand.until_told_to_close(blob.object_id)
}

/// An answer with the id of a READ that nobody has read is no answer.  C takes it.
fn read_answered_before_it_was_delivered(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let reader = scene.reader(3);
    let read = scene.hand.read()?;
    read.answer(&scene.blob.object)?;
    expect_data(scene.hand.until_done(reader)?, 3)?;
    let reader = scene.reader(9);
    let device = scene.hand.device()?;
    ensure!(device.wait(Some(*SOON))?, "no READ came");
    if !lab.is_peer() {
        // Nor is it delivered by a read(2) that fails; on C it is over then.
        let got = raw::read_into_bad_address(&*device, MSG_MAX);
        expect_error(got, Errno::FAULT, "a bad address")?;
    }
    let (mut taken, ids) = (0, 1..6);
    for more in ids.clone() {
        let got = scene
            .blob
            .object
            .complete_read(read.msg_id.wrapping_add(more));
        taken += u32::from(got.is_ok());
    }
    if lab.is_peer() {
        println!("C took {taken} answers");
        while !reader.is_finished() {
            if let Ok(read) = scene.hand.read_within(MOMENT) {
                read.answer(&scene.blob.object)?;
            }
        }
        // It may have been told that there is no data; if it got some, it is right.
        return match crate::stage::join(reader)? {
            Ok(got) => expect_data(Ok(got), 9),
            Err(_) => Ok(()),
        };
    }
    ensure!(taken == 0, "{taken} answers were taken");
    let late = scene.hand.read()?;
    let ahead = late.msg_id.wrapping_sub(read.msg_id);
    ensure!(
        ids.contains(&ahead),
        "the READ is {ahead} behind the one before: none of the answers was for it"
    );
    late.answer(&scene.blob.object)?;
    expect_data(scene.hand.until_done(reader)?, 9)
}

/// An OPEN that `restore` has made new can still be answered by whoever has its fd.
fn copen_after_restore(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let mount = hand.mount(lab, "meta")?;
    let open = hand.open()?;
    let device = hand.device()?;
    device.restore()?;
    device.open_reply(open.msg_id, Ok(SIZE))?;
    served(&hand, &open.object, &mount.file(), 3)
}

/// `inuse` and `cull` of a file that is on another file system than the cache.  C deletes it.
fn cull_on_another_file_system(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let dir = lab.base().join("elsewhere");
    fs::create_dir_all(&dir)?;
    let file = dir.join("file");
    fs::write(&file, "x")?;
    env::set_current_dir(&dir)?;
    let device = hand.device()?;
    let (inuse, cull) = (device.command(b"inuse file"), device.command(b"cull file"));
    env::set_current_dir("/")?;
    let is_there = file.exists();
    fs::remove_dir_all(&dir)?;
    if lab.is_peer() {
        println!("C: {inuse:?}, {cull:?}, the file is there: {is_there}");
        return Ok(());
    }
    expect_error(inuse, Errno::XDEV, "inuse")?;
    expect_error(cull, Errno::XDEV, "cull")?;
    ensure!(is_there, "the file is gone");
    Ok(())
}

/// A read of the state line that fails leaves it to be read: POLLIN goes on.  C forgets.
fn state_line_that_was_not_told(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(64)?;
    let device = bound(&cache, |config| config.blocks = LEVELS, "bind")?;
    let news = || -> Result<bool> { Ok(polled(&device, NOW)?.contains(PollFlags::IN)) };
    let forgotten = |news: bool, what: &str| {
        ensure!(news != lab.is_peer(), "{what}: POLLIN is {news}");
        Ok(())
    };
    let ballast = take_space(cache.dir())?;
    let short = device.read_bytes(&mut [0; 8]);
    expect_error(short, Errno::MSGSIZE, "a short buffer")?;
    forgotten(news()?, "after a short read")?;
    ensure!(
        state_line(&device)?.starts_with("cull=1 "),
        "the state is otherwise"
    );
    ensure!(!news()?, "what was told is news still");
    give_back(&ballast)?;
    let bad = raw::read_into_bad_address(&device, 1024);
    expect_error(bad, Errno::FAULT, "a bad address")?;
    forgotten(news()?, "after a read into nothing")
}

const ATTRIBUTE: &str = "user.CacheFiles.cache";

/// A cached `meta` that is not mounted, and the file of its blob.
fn filled(lab: &Lab) -> Result<(Cache, Arc<Hand>, PathBuf)> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    hand.serve_all();
    let mount = hand.mount(lab, "meta")?;
    expect_data(hand.until_done(read_block(&mount.file(), 0))?, 0)?;
    mount.unmount()?;
    let file = layout::file(cache.dir(), "erofs,meta", b"blob")?;
    hand.until("the cache file has its name", || file.exists())?;
    Ok((cache, hand, file))
}

/// Waits until a file has an attribute of the right length.
fn has_attribute(file: &PathBuf) -> Result<()> {
    eventually("the file has its attribute", || {
        getxattr(file, ATTRIBUTE, &mut [0; 256][..]) == Ok(18)
    })
}

/// A file without its attribute, or with a longer one, is replaced.  On C the blob cannot be read
/// as long as there is the file.
fn file_without_its_attribute(lab: &Lab) -> Result<()> {
    let (_cache, hand, file) = filled(lab)?;
    for longer in [false, true] {
        has_attribute(&file)?;
        if longer {
            setxattr(&file, ATTRIBUTE, &[0; 64], XattrFlags::empty())?;
        } else {
            removexattr(&file, ATTRIBUTE)?;
        }
        for _ in 0..2 {
            let mount = hand.mount(lab, "meta")?;
            let got = hand.until_done(read_block(&mount.file(), 0))?;
            mount.unmount()?;
            if lab.is_peer() {
                ensure!(got.is_err(), "C reads a blob whose file it cannot use");
            } else {
                expect_data(got, 0)?;
            }
        }
        if lab.is_peer() {
            fs::remove_file(&file)?;
            let mount = hand.mount(lab, "meta")?;
            expect_data(hand.until_done(read_block(&mount.file(), 0))?, 0)?;
            mount.unmount()?;
            hand.until("the cache file has its name", || file.exists())?;
        }
    }
    Ok(())
}

/// A file whose attribute could not be set for want of space gets no name, and the cache lives.
/// C's dies, and names the file.
fn attribute_that_cannot_be_set(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    hand.serve_all();
    let mount = hand.mount(lab, "meta")?;
    expect_data(hand.until_done(read_block(&mount.file(), 0))?, 0)?;
    let file = layout::file(cache.dir(), "erofs,meta", b"blob")?;
    let log = Kmsg::from_now()?;
    let injection = Injection::of(NO_SPACE)?;
    mount.unmount()?;
    let mut failures = 0;
    // The image's file and the blob's; C does not come to the second one's name for certain.
    let some = if lab.is_peer() { 1 } else { 2 };
    hand.until("the attributes could not be set", || {
        let said = log.of_module().unwrap_or_default();
        failures += said.iter().filter(|line| line.contains("-28")).count();
        failures >= some
    })?;
    drop(injection);
    if lab.is_peer() {
        expect_error(hand.device()?.restore(), Errno::IO, "C's cache is dead")?;
        return hand.until("C names the file", || file.exists());
    }
    ensure!(!file.exists(), "a file without its attribute has a name");
    let mount = hand.mount(lab, "meta").context("after ENOSPC")?;
    expect_data(hand.until_done(read_block(&mount.file(), 0))?, 0)?;
    mount.unmount()?;
    hand.until("the cache file has its name", || file.exists())
}

/// Somebody cuts a cache file short while it is mounted: what is missing is asked for, never read
/// as zeros.  In the middle of a block C's answer is an empty range, and the kernel complains.
fn cache_file_cut_short(lab: &Lab) -> Result<()> {
    let (_cache, hand, file) = filled(lab)?;
    let mount = hand.mount(lab, "meta")?;
    for block in 0..8 {
        expect_data(hand.until_done(read_block(&mount.file(), block))?, block)?;
    }
    let ends: &[u64] = match lab.is_peer() {
        true => &[4 * BLOCK, 2 * BLOCK],
        false => &[4 * BLOCK + 1904, 4 * BLOCK, 2 * BLOCK - 1, 100, 0],
    };
    for end in ends {
        File::options().write(true).open(&file)?.set_len(*end)?;
        drop_caches()?;
        for block in 0..8 {
            let got = hand.until_done(read_block(&mount.file(), block))?;
            expect_data(got, block).with_context(|| format!("cut at {end}"))?;
        }
    }
    mount.unmount()
}

/// A cache file has blocks that were never written, as a power cut leaves them, and a backup has read
/// it: they are asked for, and what was written is there.  C reads zeros.
fn blocks_that_were_never_written(lab: &Lab) -> Result<()> {
    let (_cache, hand, path) = filled(lab)?;
    let file = File::options().read(true).write(true).open(&path)?;
    for block in [5, 6, 20] {
        fallocate(&file, FallocateFlags::KEEP_SIZE, block * BLOCK, BLOCK)?;
    }
    drop(fs::read(&path)?);
    drop(file);
    let mount = hand.mount(lab, "meta")?;
    if lab.is_peer() {
        let got = hand.until_done(read_block(&mount.file(), 5))?;
        println!("C: {:?}", expect_data(got, 5));
        return mount.unmount();
    }
    for block in 0..24 {
        let reader = read_block(&mount.file(), block);
        expect_data(hand.until_done(reader)?, block)?;
    }
    mount.unmount()
}

/// The same while the file is in service, as after a write that failed, or during one on a file system
/// that lets others read meanwhile.
fn block_never_written_that_a_backup_has_read(lab: &Lab) -> Result<()> {
    let (_cache, hand, path) = filled(lab)?;
    let mount = hand.mount(lab, "meta")?;
    expect_data(hand.until_done(read_block(&mount.file(), 0))?, 0)?;
    let file = File::options().read(true).write(true).open(&path)?;
    for block in [5, 6, 20] {
        fallocate(&file, FallocateFlags::KEEP_SIZE, block * BLOCK, BLOCK)?;
    }
    drop(fs::read(&path)?);
    // Memory is short, and the page of this one goes; what it leaves behind stands for data as well.
    evict(&path, 20 * BLOCK)?;
    for block in [5, 20, 6] {
        let got = hand.until_done(read_block(&mount.file(), block))?;
        if lab.is_peer() {
            println!("C: {:?}", expect_data(got, block));
            continue;
        }
        expect_data(got, block)?;
    }
    mount.unmount()?;
    if lab.is_peer() {
        return Ok(());
    }
    // What was stored instead of them is there.
    let mount = hand.mount(lab, "meta")?;
    for block in 0..24 {
        expect_data(hand.until_done(read_block(&mount.file(), block))?, block)?;
    }
    mount.unmount()
}

/// Every other group of blocks is there when a compressed image is read: EROFS gets a whole range
/// or an error.  C gives it the first part, and EROFS ends a bio for each part, which is a use
/// after free.
fn range_that_is_there_in_part(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("on C EROFS ends such a bio twice".to_owned()).into());
    }
    let images = lab.images()?;
    let kind = tree::kind("lz4")?;
    let blob = crate::blob::Blob::file(&images.join(kind.name))?;
    let blobs = crate::daemon::Blobs::new().with_manner(kind.name, blob.clone(), Manner::Manual);
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs)?;
    let (base, source) = (lab.base().to_owned(), images.clone());
    let reader = thread::spawn(move || -> Result<()> {
        let mut mount = Mount::with(&base, kind.name, &tree::options(kind))?;
        for name in ["a/random-300000", "a/b/text-600000", "a/b/text-131074"] {
            let want = tree::checksum(&source.join("source").join(name))?;
            let got = tree::checksum(&mount.path(name))?;
            ensure!(got == want, "{name} has wrong bytes");
        }
        mount.unmount()
    });
    let open = daemon.open()?;
    daemon.device()?.open_reply(open.msg_id, Ok(blob.size()))?;
    let is_there = |at: u64| (at / BLOCK) % 4 == 1;
    for at in (0..blob.size())
        .step_by(BLOCK as usize)
        .filter(|at| is_there(*at))
    {
        let bytes = blob.read(at, BLOCK as usize)?;
        open.object.write_all_at(&bytes, at)?;
    }
    let mut reads = 0;
    while !reader.is_finished() {
        let Ok(read) = daemon.read_within(Duration::from_millis(20)) else {
            continue;
        };
        let blocks = (read.offset..read.offset + read.len).step_by(BLOCK as usize);
        let twice = blocks.filter(|at| is_there(*at)).count();
        ensure!(twice == 0, "{twice} blocks are asked for that are there");
        let bytes = blob.read(read.offset, usize::try_from(read.len)?)?;
        read.object.write_all_at(&bytes, read.offset)?;
        read.object.complete_read(read.msg_id)?;
        reads += 1;
    }
    println!("{reads} READs");
    reader.join().ok().context("the reader panicked")?
}

/// An OPEN for which the daemon has no descriptor stays, and does not hold up what else there is: a
/// READ behind it is delivered.  C fails the OPEN.
fn open_without_a_descriptor(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let (hand, blob) = (&scene.hand, &scene.blob);
    scene.still_serves(0)?;
    let device = hand.device()?;
    let file = File::open(scene.mount.file())?;
    let mount = mounting(lab, "meta2", "");
    ensure!(device.wait(Some(*SOON))?, "no OPEN came");
    // All descriptors below the next one are taken.
    let next = File::open("/dev/null")?.as_raw_fd();
    let none = Lowered::to(Resource::Nofile, u64::try_from(next)?)?;
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; BLOCK as usize];
        let got = file.read_exact_at(&mut bytes, 5 * BLOCK).map(|()| bytes);
        // The file stays open: closed, it would leave a descriptor.
        (file, got)
    });
    let deadline = Instant::now() + *SOON;
    let mut refused = 0;
    while !reader.is_finished() {
        ensure!(
            Instant::now() < deadline,
            "the OPEN was refused {refused} times, and the READ never came"
        );
        match device.next_request() {
            Ok(Some(Request::Read {
                msg_id,
                offset,
                len,
                ..
            })) => {
                blob.object.write_all_at(&bytes(offset, len), offset)?;
                blob.object.complete_read(msg_id)?;
            }
            Ok(None) => thread::sleep(Duration::from_millis(1)),
            Ok(other) => anyhow::bail!("not the READ: {other:?}"),
            Err(error) => {
                ensure!(raw::errno(&error) == Some(Errno::MFILE), "{error}");
                refused += 1;
            }
        }
    }
    let (_file, got) = reader.join().ok().context("the reader panicked")?;
    expect_data(got, 5)?;
    ensure!(refused > 0, "there was a descriptor");
    drop(none);
    let got = hand.until_done(mount)?;
    if lab.is_peer() {
        ensure!(got.is_err(), "C mounts");
        return Ok(());
    }
    hand.adopt(got.context("the mount that waited")?).unmount()
}
