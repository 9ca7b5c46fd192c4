// SPDX-License-Identifier: GPL-2.0

//! What real daemons do: nydusd, styx, demand-read-cachefilesd, and those of several threads or
//! processes.  Each case is a habit that somebody relies on.

use crate::{
    blob::{pattern, Aligned, Blob},
    daemon::{Daemon, Manner},
    group,
    helper::Helper,
    lab::{eventually, Lab},
    mount::Mount,
    patience::{patiently, SOON},
    protocol::open_device,
    raw::{close_received, errno},
    stage::{self, expect_data, expect_error, read_block_here, Stage},
    tree,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{CacheConfig, Device, Errno, ObjectFd, Request};
use rustix::{
    event::{epoll, Timespec},
    io::dup,
};
use std::{
    collections::HashMap,
    env,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex,
    },
    thread,
    time::{Duration, Instant},
};
use walkdir::WalkDir;

group!("daemon_habits":
    edge_triggered_epoll_before_bind,
    message_length_is_read_length,
    empty_read_is_zero_bytes,
    many_threads_read_one_device,
    another_process_takes_over,
    unknown_object_gets_no_reply,
    in_use_and_cull,
    backing_file_by_its_path,
    fd_passed_to_a_thread_that_closes_it,
);

/// An object's fd and its cookie's key.
type Opened = (Arc<ObjectFd>, Vec<u8>);

/// A daemon by hand: answers all that comes, from any thread.
struct Hand {
    device: Device,
    blobs: HashMap<Vec<u8>, Blob>,
    objects: Mutex<HashMap<u32, Opened>>,
    ids: Mutex<Vec<u32>>,
}

impl Hand {
    fn new(device: Device, blobs: HashMap<Vec<u8>, Blob>) -> Hand {
        Hand {
            device,
            blobs,
            objects: Mutex::default(),
            ids: Mutex::default(),
        }
    }

    /// Answers the requests that are there; how many.
    fn drain(&self) -> Result<u32> {
        let mut count = 0;
        while let Some(request) = self.device.next_request()? {
            count += 1;
            self.note(request.msg_id())?;
            match request {
                Request::Open {
                    msg_id,
                    object_id,
                    object,
                    cookie_key,
                    ..
                } => {
                    let blob = self.blobs.get(&cookie_key).context("an unknown blob")?;
                    let object = (Arc::new(object), cookie_key);
                    self.objects
                        .lock()
                        .ok()
                        .context("poisoned")?
                        .insert(object_id, object);
                    self.device.open_reply(msg_id, Ok(blob.size()))?;
                }
                Request::Read {
                    msg_id,
                    object_id,
                    offset,
                    len,
                } => {
                    let objects = self.objects.lock().ok().context("poisoned")?;
                    let (fd, key) = objects.get(&object_id).cloned().context("no such object")?;
                    drop(objects);
                    let blob = self.blobs.get(&key).context("an unknown blob")?;
                    fd.write_all_at(&blob.read(offset, usize::try_from(len)?)?, offset)?;
                    fd.complete_read(msg_id)?;
                }
                Request::Close { object_id, .. } => {
                    self.objects
                        .lock()
                        .ok()
                        .context("poisoned")?
                        .remove(&object_id);
                }
            }
        }
        Ok(count)
    }

    /// Remembers a message: no id is given out twice.
    fn note(&self, id: u32) -> Result<()> {
        let mut ids = self.ids.lock().ok().context("poisoned")?;
        ensure!(!ids.contains(&id), "the id {id} was given out twice");
        ids.push(id);
        Ok(())
    }
}

fn bound(dir: &Path) -> Result<Device> {
    let device = open_device()?;
    device.configure(&CacheConfig::new(dir))?;
    device.bind_ondemand()?;
    Ok(device)
}

/// The blobs of an image of the tree.
fn sources(lab: &Lab, name: &str) -> Result<HashMap<Vec<u8>, Blob>> {
    let images = lab.images()?;
    let kind = tree::kind(name)?;
    let mut names = vec![kind.name.to_owned()];
    if kind.has_blob {
        names.push(format!("{}.blob", kind.name));
    }
    let blob = |name: String| Ok((name.clone().into_bytes(), Blob::file(&images.join(name))?));
    names.into_iter().map(blob).collect()
}

/// Mounts and compares an image in another thread.
fn compare_in_background(lab: &Lab, name: &str) -> Result<thread::JoinHandle<Result<()>>> {
    let kind = tree::kind(name)?;
    let (base, images) = (lab.base().to_owned(), lab.images()?);
    Ok(thread::spawn(move || {
        let mut mount = Mount::with(&base, kind.name, &tree::options(kind))?;
        tree::compare(mount.dir(), &images)?;
        mount.unmount()
    }))
}

/// nydusd registers edge-triggered before it binds, and reads until there is nothing left.
fn edge_triggered_epoll_before_bind(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = open_device()?;
    let queue = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&queue, &device, epoll::EventData::new_u64(1), flags)?;
    device.configure(&CacheConfig::new(cache.dir()))?;
    device.bind_ondemand()?;
    let hand = Hand::new(device, sources(lab, "chunked")?);
    let reader = compare_in_background(lab, "chunked")?;
    let mut events = Vec::with_capacity(4);
    let second = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let mut last = Instant::now();
    while !reader.is_finished() {
        events.clear();
        epoll::wait(
            &queue,
            rustix::buffer::spare_capacity(&mut events),
            Some(&second),
        )?;
        if !events.is_empty() {
            last = Instant::now();
        }
        ensure!(
            last.elapsed() < *SOON,
            "no event for {:?} although somebody reads",
            *SOON
        );
        hand.drain()?;
    }
    reader.join().ok().context("the reader panicked")??;
    hand.drain()?;
    Ok(())
}

/// Reads of 1024 bytes give one message each, whose length is its own `len`.
fn message_length_is_read_length(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = bound(cache.dir())?;
    let mount = Mount::in_background(lab.base(), "meta");
    ensure!(device.wait(Some(*SOON))?, "no OPEN came");
    let mut buf = [0; 1024];
    let len = device.read_bytes(&mut buf)?;
    let word = |at: usize| {
        buf.get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
    };
    ensure!(word(4) == Some(0), "the first message is no OPEN");
    ensure!(
        word(8) == u32::try_from(len).ok(),
        "{len} bytes read, {:?} in the message",
        word(8)
    );
    // Header 16 or 12, OPEN 16, "erofs,meta" with its NUL, "meta".
    let open = device.layout().header_len();
    ensure!(len == open + 16 + 11 + 4, "the OPEN has {len} bytes");
    ensure!(
        word(open) == Some(11) && word(open + 4) == Some(4),
        "key sizes {:?} {:?}",
        word(open),
        word(open + 4)
    );
    ensure!(
        buf.get(open + 16..len) == Some(&b"erofs,meta\0meta"[..]),
        "the keys are not in their places"
    );
    let msg_id = word(0).context("no id")?;
    close_received(word(open + 8).context("no fd")?);
    device.open_reply(msg_id, Err(Errno::NOENT))?;
    let _ = mount.join();
    Ok(())
}

/// With nothing to ask for, a read gives 0 bytes and does not wait, however the device was opened.
fn empty_read_is_zero_bytes(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = bound(cache.dir())?;
    for len in [0, 16, 1024, 1 << 20] {
        let read = device.read_bytes(&mut vec![0; len])?;
        ensure!(read == 0, "{read} bytes of nothing");
    }
    Ok(())
}

/// Eight threads read the one device; every request goes to one of them.
fn many_threads_read_one_device(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Arc::new(Hand::new(bound(cache.dir())?, sources(lab, "chunked")?));
    let reader = compare_in_background(lab, "chunked")?;
    let done = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (hand, done) = (Arc::clone(&hand), Arc::clone(&done));
            thread::spawn(move || -> Result<u32> {
                let mut count = 0;
                while !done.load(Ordering::SeqCst) {
                    hand.device.wait(Some(Duration::from_millis(50)))?;
                    count += hand.drain()?;
                }
                Ok(count)
            })
        })
        .collect();
    let result = reader.join().ok().context("the reader panicked");
    done.store(true, Ordering::SeqCst);
    let mut counts = vec![];
    for thread in threads {
        counts.push(thread.join().ok().context("a daemon's thread panicked")??);
    }
    result??;
    println!("requests by thread: {counts:?}");
    Ok(())
}

/// A second process gets the device and says `restore`: what the first has left open is opened
/// anew, what waits is answered.
fn another_process_takes_over(lab: &Lab) -> Result<()> {
    let images = lab.images()?;
    let kind = tree::kind("chunked")?;
    let cache = lab.cache()?;
    let device = bound(cache.dir())?;
    let kept: OwnedFd = dup(&device)?;
    let mut first = Daemon::over(device, tree::blobs(&images, kind)?)?;
    let mut mount = Mount::with(lab.base(), kind.name, &tree::options(kind))?;
    let one = mount.path("a/random-65537");
    tree::checksum(&one)?;
    first.stop()?;
    // Nobody serves now, but the session goes on: a reader waits.
    let big = mount.path("a/b/c/big");
    let waiting = thread::spawn(move || tree::checksum(&big));
    thread::sleep(Duration::from_millis(100));
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::from(kept));
    let arguments = ["take-over", &images.to_string_lossy(), kind.name];
    let second = Helper::start_as_is(command, &arguments)?.ready()?;
    let sum = waiting.join().ok().context("the reader panicked")??;
    ensure!(
        sum == tree::checksum(&images.join("source/a/b/c/big"))?,
        "wrong data"
    );
    tree::compare(mount.dir(), &images)?;
    mount.unmount()?;
    drop(second);
    Ok(())
}

/// A READ of an object that a daemon does not know gets no reply: its reader waits, and nothing
/// else is disturbed.
fn unknown_object_gets_no_reply(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let file = stage.file();
    let mut waiting = Helper::start(&["read", &file.to_string_lossy(), "0", "4096"])?.ready()?;
    let unanswered = stage.daemon.read()?;
    for block in [20, 40] {
        let reader = stage::read_block(&file, block);
        let read = stage.daemon.read()?;
        let mut bytes = Aligned::new(usize::try_from(read.len)?);
        pattern(stage::SEED, read.offset, &mut bytes);
        read.object.write_all_at(&bytes, read.offset)?;
        read.object.complete_read(read.msg_id)?;
        expect_data(stage::join(reader)?, block)?;
    }
    waiting.kill()?;
    waiting.finish(patiently(Duration::from_secs(1)))?;
    drop(unanswered);
    Ok(())
}

/// The one file of the cache that holds a cookie.
fn cache_file(dir: &Path, volume: &str, name: &str) -> Result<PathBuf> {
    let volume = dir.join("cache").join(volume);
    for entry in WalkDir::new(&volume) {
        let entry = entry?;
        if entry.file_name().as_bytes() == name.as_bytes() {
            return Ok(entry.into_path());
        }
    }
    anyhow::bail!("no {name} in {}", volume.display())
}

/// nydusd goes into a directory of the cache, asks `inuse`, and culls what is not.
fn in_use_and_cull(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::Serve)?;
    stage::expect_file(&stage.file())?;
    // A cache file gets its name when it is committed, at the first unmount.
    stage.mount.unmount()?;
    let dir = stage.cache.dir().to_owned();
    let name = "Dblob";
    eventually("the cache file has its name", || {
        cache_file(&dir, "Ierofs,meta", name).is_ok()
    })?;
    let file = cache_file(&dir, "Ierofs,meta", name)?;
    let fan = file
        .parent()
        .and_then(Path::file_name)
        .context("no directory")?;
    let is_fan = fan.len() == 3 && fan.as_bytes().starts_with(b"@");
    ensure!(is_fan, "{name} is in {fan:?}, not in @xx");
    stage.mount = Mount::new(lab.base(), "meta")?;
    expect_data(read_block_here(&stage.file(), 0), 0)?;
    env::set_current_dir(file.parent().context("no directory")?)?;
    let result = cull_here(&mut stage, &file, name);
    env::set_current_dir("/")?;
    result?;
    // The blob is fetched anew.
    stage.mount = Mount::new(lab.base(), "meta")?;
    let before = stage.daemon.reads();
    stage::expect_file(&stage.file())?;
    ensure!(
        stage.daemon.reads() > before,
        "a culled blob was read from somewhere"
    );
    Ok(())
}

fn cull_here(stage: &mut Stage, file: &Path, name: &str) -> Result<()> {
    let device = stage.daemon.device()?;
    let (inuse, cull) = (format!("inuse {name}"), format!("cull {name}"));
    expect_error(
        device.command(inuse.as_bytes()),
        Errno::BUSY,
        "inuse of a mounted blob",
    )?;
    expect_error(
        device.command(cull.as_bytes()),
        Errno::BUSY,
        "cull of a mounted blob",
    )?;
    expect_data(read_block_here(&stage.file(), 63), 63)?;
    stage.mount.unmount()?;
    eventually("the blob is not in use", || {
        device.command(inuse.as_bytes()).is_ok()
    })?;
    device.command(cull.as_bytes()).context("cull")?;
    ensure!(!file.exists(), "{} is still there", file.display());
    for line in [&inuse, &cull] {
        let got = device
            .command(line.as_bytes())
            .err()
            .and_then(|error| errno(&error));
        ensure!(
            got == Some(Errno::NOENT),
            "{line} of what is gone gave {got:?}"
        );
    }
    Ok(())
}

/// styx opens the cache file by its path and looks at what is there.
fn backing_file_by_its_path(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::Serve)?;
    stage::expect_file(&stage.file())?;
    stage.mount.unmount()?;
    let dir = stage.cache.dir().to_owned();
    eventually("the cache file", || {
        cache_file(&dir, "Ierofs,meta", "Dblob").is_ok()
    })?;
    let bytes = std::fs::read(cache_file(&dir, "Ierofs,meta", "Dblob")?)?;
    let mut want = vec![0; usize::try_from(stage::SIZE)?];
    pattern(stage::SEED, 0, &mut want);
    ensure!(
        bytes == want,
        "the cache file is not the blob, byte for byte"
    );
    Ok(())
}

/// A daemon hands an object's fd to a worker that closes it while the mount goes.
fn fd_passed_to_a_thread_that_closes_it(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(stage::blobs(Manner::Manual))?;
    for _ in 0..5 {
        let mut mount = Mount::new(lab.base(), "meta")?;
        let open = daemon.open()?;
        daemon.device()?.open_reply(open.msg_id, Ok(stage::SIZE))?;
        let (object_id, object) = (open.object_id, open.object);
        daemon.forget(object_id)?;
        let worker = thread::spawn(move || drop(object));
        mount.unmount()?;
        ensure!(worker.join().is_ok(), "the worker panicked");
    }
    Ok(())
}
