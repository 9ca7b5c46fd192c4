// SPDX-License-Identifier: GPL-2.0

//! Delivery: which message comes when, what it costs, and when an object is let go.
//!
//! A stream of new READs is one of readers that are sent away and come again at once.

use super::{
    bugs_scene::{mounting, served, Hand, Open, Read, Scene, WIDE},
    eviction::{becomes, command},
};
use crate::{
    group,
    image::BLOCK,
    ktap::Skip,
    lab::Lab,
    layout,
    limit::Lowered,
    patience::SOON,
    stage::{self, expect_data, read_block, SIZE},
};
use anyhow::{bail, ensure, Result};
use cachefiles_client::{Device, Errno, ObjectFd, Request};
use rustix::{
    event::{epoll, Timespec},
    process::Resource,
};
use std::{
    fs::File,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

group!("delivery":
    read_that_lost_its_fd,
    read_that_reopens,
    many_pending_cost_nothing,
    no_edges_without_fds,
    in_use_until_its_close_is_read,
    hanging_daemon_holds_nothing_up,
    close_comes_before_the_next_open,
);

/// Readers that ask for the same blocks again and again.
struct Stream {
    stop: Arc<AtomicBool>,
    readers: Vec<JoinHandle<()>>,
}

impl Stream {
    fn of(file: &Path) -> Stream {
        let stop = Arc::new(AtomicBool::new(false));
        let reader = |block| {
            let (stop, file) = (Arc::clone(&stop), file.to_owned());
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    // It is sent away: nothing was written.
                    let _ = stage::read_block_here(&file, block);
                }
            })
        };
        Stream {
            readers: (0..8).map(reader).collect(),
            stop,
        }
    }

    fn end(self, hand: &Hand, object: &ObjectFd) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        while self.readers.iter().any(|reader| !reader.is_finished()) {
            if let Ok(read) = hand.read_within(Duration::from_millis(5)) {
                object.complete_read(read.msg_id)?;
            }
        }
        Ok(())
    }
}

/// An object's READ comes in its turn while another object has a stream of them. `loses_fd`: it was read
/// when the fd is closed; or else it comes when there is none.
fn turn_in_a_stream(lab: &Lab, loses_fd: bool) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C delivers such a READ only after `restore`".to_owned()).into());
    }
    let busy = Scene::new(lab)?;
    let hand = &busy.hand;
    let mount = hand.mount(lab, "meta2")?;
    let quiet = hand.opened()?;
    // What the image's own metadata needs is fetched before it counts.
    served(hand, &quiet.object, &mount.file(), 63)?;
    busy.still_serves(63)?;
    let patient = loses_fd.then(|| read_block(&mount.file(), 0));
    if loses_fd {
        hand.read()?;
    }
    let stream = Stream::of(&busy.mount.file());
    for _ in 0..32 {
        let read = hand.read()?;
        busy.blob.object.complete_read(read.msg_id)?;
    }
    drop(quiet);
    let patient = patient.unwrap_or_else(|| read_block(&mount.file(), 0));
    let (mut reopened, mut passed) = (None, 0);
    let (read, open) = loop {
        match hand.next()? {
            Request::Open { msg_id, object, .. } => {
                ensure!(
                    passed <= 2 || !loses_fd,
                    "the OPEN came after {passed} READs of the other object"
                );
                hand.device()?.open_reply(msg_id, Ok(SIZE))?;
                reopened = Some(object);
                passed = 0;
            }
            Request::Read {
                msg_id,
                object_id,
                offset,
                len,
            } => match &reopened {
                Some(_) if object_id != busy.blob.object_id => {
                    let read = Read {
                        msg_id,
                        object_id,
                        offset,
                        len,
                    };
                    break (read, reopened.take());
                }
                _ => {
                    passed += 1;
                    ensure!(passed < 10_000, "nothing but READs of the other object");
                    busy.blob.object.complete_read(msg_id)?;
                }
            },
            other @ Request::Close { .. } => bail!("{other:?}"),
        }
    };
    if let Some(object) = &open {
        read.answer(object)?;
    }
    let got = hand_over(hand, patient, &busy.blob.object)?;
    stream.end(hand, &busy.blob.object)?;
    expect_data(got, 0)?;
    // One that is just being delivered, and one that was at the head.
    ensure!(
        passed <= 2,
        "the READ came after {passed} READs of the other object"
    );
    Ok(())
}

/// Sends the stream away until the reader has ended.
fn hand_over<T>(hand: &Hand, reader: JoinHandle<T>, object: &ObjectFd) -> Result<T> {
    let deadline = Instant::now() + *SOON;
    while !reader.is_finished() && Instant::now() < deadline {
        if let Ok(read) = hand.read_within(Duration::from_millis(5)) {
            object.complete_read(read.msg_id)?;
        }
    }
    hand.until_done(reader)
}

/// A READ whose fd is closed: it is delivered again, after a new OPEN.
fn read_that_lost_its_fd(lab: &Lab) -> Result<()> {
    turn_in_a_stream(lab, true)
}

/// A READ that has its object opened again.
fn read_that_reopens(lab: &Lab) -> Result<()> {
    turn_in_a_stream(lab, false)
}

/// The shortest of some tries.
fn shortest(tries: u32, mut what: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..tries {
        best = best.min(what()?);
    }
    Ok(best)
}

fn timed<T>(what: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    drop(what());
    started.elapsed()
}

/// The READs of one object cost others nothing, however many they are.
fn many_pending_cost_nothing(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C looks at every request".to_owned()).into());
    }
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let device = hand.device()?;
    let reopened = || -> Result<Open> {
        let open = hand.open()?;
        device.open_reply(open.msg_id, Ok(u64::from(WIDE) * BLOCK))?;
        Ok(open)
    };
    let mount = hand.mount(lab, "meta-wide")?;
    let mut wide = reopened()?;
    let other = hand.mount(lab, "meta2")?;
    let mut quiet = hand.opened()?;
    served(&hand, &quiet.object, &other.file(), 63)?;
    served(&hand, &wide.object, &mount.file(), WIDE - 1)?;
    let file = Arc::new(File::open(mount.file())?);
    rustix::fs::fadvise(&*file, 0, None, rustix::fs::Advice::Random)?;
    let mut readers = vec![];
    let mut reads: Vec<Read> = vec![];
    let mut costs = vec![];
    let mut block = 0;
    for pending in [16, WIDE - 32] {
        for at in readers.len() as u64..u64::from(pending) {
            let file = Arc::clone(&file);
            let reader = thread::Builder::new().stack_size(1 << 16);
            readers.push(reader.spawn(move || -> std::io::Result<Vec<u8>> {
                let mut bytes = vec![0; BLOCK as usize];
                file.read_exact_at(&mut bytes, at * BLOCK)?;
                Ok(bytes)
            })?);
        }
        while reads.len() < readers.len() {
            reads.push(hand.read()?);
        }
        let close = shortest(6, || {
            let open = std::mem::replace(&mut quiet.object, super::bugs_answer::dummy()?);
            let took = timed(|| drop(open));
            let reader = read_block(&other.file(), block);
            quiet = hand.opened()?;
            hand.read()?.answer(&quiet.object)?;
            expect_data(hand.until_done(reader)?, block)?;
            block += 1;
            Ok(took)
        })?;
        // All its READs are new now, and none can be delivered.
        drop(wide);
        let open = hand.open()?;
        let poll = shortest(20, || Ok(timed(|| device.wait(Some(Duration::ZERO)))))?;
        let read = shortest(20, || Ok(timed(|| device.next_request())))?;
        device.open_reply(open.msg_id, Ok(u64::from(WIDE) * BLOCK))?;
        wide = open;
        reads.clear();
        while reads.len() < readers.len() {
            reads.push(hand.read()?);
        }
        println!("{pending} pending: close(2) {close:?}, poll(2) {poll:?}, read(2) {read:?}");
        costs.push([close, poll, read]);
    }
    for read in reads {
        read.answer(&wide.object)?;
    }
    for (block, reader) in (0..).zip(readers) {
        expect_data(hand.until_done(reader)?, block)?;
    }
    let [few, many] = costs[..] else {
        bail!("not two costs")
    };
    for (what, (few, many)) in ["close", "poll", "read"]
        .iter()
        .zip(few.into_iter().zip(many))
    {
        if few.is_zero() {
            println!("{what}(2) is shorter than a tick of this kernel's only clock");
            continue;
        }
        ensure!(
            many < few * 6,
            "{what}(2) took {many:?}, and {few:?} with few pending"
        );
    }
    Ok(())
}

/// How often a daemon is woken while there is no fd for an OPEN.
const WAKES: u32 = 12;

/// A daemon that has no fd for an OPEN is not kept busy, whether it waits for edges or levels; the others
/// are served; and the mount goes on once there are fds.
fn no_edges_without_fds(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("on C the OPEN fails with EMFILE".to_owned()).into());
    }
    let scene = Scene::new(lab)?;
    scene.still_serves(0)?;
    let file = File::open(scene.mount.file())?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
    let device = scene.hand.device()?;
    let queue = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&queue, &*device, epoll::EventData::new_u64(1), flags)?;
    let mount = mounting(lab, "meta2", "");
    ensure!(device.wait(Some(*SOON))?, "no OPEN came");
    let next = File::open("/dev/null")?.as_raw_fd();
    let none = Lowered::to(Resource::Nofile, u64::try_from(next)?)?;
    let (mut edges, mut levels) = (0, 0);
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }];
        let time = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        if epoll::wait(&queue, &mut events[..], Some(&time))? > 0 {
            edges += 1;
            // As nydusd: until there is none, or an error.
            while let Ok(Some(_)) = device.next_request() {}
        }
    }
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        if device.wait(Some(Duration::from_millis(50)))? {
            levels += 1;
            while let Ok(Some(_)) = device.next_request() {}
        }
    }
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; BLOCK as usize];
        file.read_exact_at(&mut bytes, BLOCK).map(|()| bytes)
    });
    let read = next_read(&device)?;
    read.answer(&scene.blob.object)?;
    expect_data(scene.hand.until_done(reader)?, 1)?;
    ensure!(!mount.is_finished(), "mounted without an fd");
    drop(none);
    let mounted = scene.hand.until_done(mount)??;
    drop(scene.hand.adopt(mounted));
    println!("{edges} edges, {levels} levels");
    ensure!(
        edges <= WAKES && levels <= WAKES,
        "the daemon was kept busy"
    );
    ensure!(edges > 0, "the OPEN was not tried again");
    Ok(())
}

/// The next READ, whatever else fails.
fn next_read(device: &Device) -> Result<Read> {
    let deadline = Instant::now() + *SOON;
    loop {
        ensure!(Instant::now() < deadline, "no READ came");
        if let Ok(Some(Request::Read {
            msg_id,
            object_id,
            offset,
            len,
        })) = device.next_request()
        {
            return Ok(Read {
                msg_id,
                object_id,
                offset,
                len,
            });
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// A scene whose blob has a file with a name.
fn named(lab: &Lab) -> Result<Scene> {
    let scene = Scene::new(lab)?;
    scene.still_serves(0)?;
    let Scene {
        cache,
        hand,
        blob,
        mount,
    } = scene;
    mount.unmount()?;
    let told = blob.object_id;
    hand.until_told_to_close(told)?;
    drop(blob);
    let mount = hand.mount(lab, "meta")?;
    let blob = hand.opened()?;
    served(&hand, &blob.object, &mount.file(), 1)?;
    Ok(Scene {
        mount,
        blob,
        hand,
        cache,
    })
}

/// As in C, a file stays in use after the last unmount until the daemon has read the CLOSE.
fn in_use_until_its_close_is_read(lab: &Lab) -> Result<()> {
    let Scene {
        cache,
        hand,
        blob,
        mount,
    } = named(lab)?;
    let device = hand.device()?;
    let file = layout::file(cache.dir(), "erofs,meta", b"blob")?;
    mount.unmount_unread()?;
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        let got = command(&device, "inuse", &file)?;
        ensure!(got == Err(Errno::BUSY), "in use? {got:?}");
        thread::sleep(Duration::from_millis(20));
    }
    hand.until_told_to_close(blob.object_id)?;
    becomes(&device, "inuse", &file, Ok(()))
}

/// A daemon that reads nothing does not hold up a withdrawal for ever; and once one has waited, the next
/// does not.
fn hanging_daemon_holds_nothing_up(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C waits for ever".to_owned()).into());
    }
    let scene = named(lab)?;
    let device = scene.hand.device()?;
    let other = scene.hand.mount(lab, "meta2")?;
    let second = scene.hand.opened()?;
    served(&scene.hand, &second.object, &other.file(), 0)?;
    let first_file = layout::file(scene.cache.dir(), "erofs,meta", b"blob")?;
    let second_file = layout::file(scene.cache.dir(), "erofs,meta2", b"blob2")?;
    scene.mount.unmount_unread()?;
    let got = command(&device, "inuse", &first_file)?;
    ensure!(got == Err(Errno::BUSY), "not in use at once: {got:?}");
    let started = Instant::now();
    becomes(&device, "inuse", &first_file, Ok(()))?;
    let first = started.elapsed();
    let started = Instant::now();
    other.unmount_unread()?;
    // It has no name before.
    crate::lab::eventually("the second file has its name", || second_file.exists())?;
    becomes(&device, "inuse", &second_file, Ok(()))?;
    let then = started.elapsed();
    println!("the first was let go after {first:?}, the second after {then:?}");
    ensure!(then < first / 2, "each object waits again");
    // The daemon is told all the same.
    scene.hand.until_told_to_close(scene.blob.object_id)?;
    scene.hand.until_told_to_close(second.object_id)
}

/// Unmounted and mounted again while the daemon is busy: all CLOSEs come before the first OPEN.
fn close_comes_before_the_next_open(lab: &Lab) -> Result<()> {
    let Scene {
        cache: _cache,
        hand,
        blob,
        mount,
    } = named(lab)?;
    let device = hand.device()?;
    let told = blob.object_id;
    let mut blob = Some(blob);
    mount.unmount_unread()?;
    let mounting = mounting(lab, "meta", "");
    thread::sleep(Duration::from_millis(300));
    let mut closed = vec![];
    let deadline = Instant::now() + *SOON;
    loop {
        ensure!(Instant::now() < deadline, "no OPEN came");
        match device.next_request()? {
            // On C an fd keeps the volume, and with that the mount waiting.
            Some(request @ Request::Close { .. }) => {
                closed.push(request.object_id());
                if request.object_id() == told {
                    blob = None;
                }
                hand.serve(&device, request);
            }
            Some(request @ Request::Open { .. }) => {
                ensure!(
                    closed.len() == 2 && closed.contains(&told),
                    "an OPEN after the CLOSEs of {closed:?}"
                );
                hand.serve(&device, request);
                break;
            }
            Some(other) => bail!("{other:?}"),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    drop(blob);
    let mounted = hand.adopt(hand.until_done(mounting)??);
    let blob = hand.opened()?;
    served(&hand, &blob.object, &mounted.file(), 2)
}
