// SPDX-License-Identifier: GPL-2.0

//! No memory for a request, its answer, a read or a write: each allocation fails once, one at a time.
//! Whoever asked gets an error, and the next try works, with every byte right.

use super::faults_scene::{
    blobs, bytes, each_read, forget_pages, in_time, meta, mounted, read, read_right,
    right_in_the_end, right_or_eio, serve, told, unmount, Outcome, BOUND, SIZE,
};
use crate::{
    daemon::{Daemon, Event, Manner},
    fault::{each_allocation, Fault},
    group,
    image::BLOCK,
    ktap::Skip,
    lab::{eventually, free_device, Cache, Lab},
    mount::Mount,
    protocol::spoken,
    stage::{expect_data, read_block},
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{Device, Errno, Layout, ObjectFd, Request};
use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

group!("faults_requests":
    delivery_of_an_open,
    copen,
    close_of_an_orphan,
    read_of_what_is_missing,
    read_of_what_is_there,
    write,
    write_in_odd_pieces,
    closing_the_fd,
    restore,
    reopening,
);

/// A mount in the background whose OPEN is left to the test.
struct Opening {
    mount: thread::JoinHandle<Result<Mount, Errno>>,
    device: Device,
}

impl Opening {
    fn new(lab: &Lab, cache: &Cache) -> Result<Opening> {
        let device = free_device(cache.dir())?;
        device.bind_ondemand()?;
        let mount = Mount::in_background(lab.base(), "meta");
        ensure!(device.wait(Some(*BOUND))?, "no OPEN");
        Ok(Opening { mount, device })
    }

    /// Serves it to its end, which must be a good one, at the second try if the fault has hit the
    /// first.
    fn serve(self, lab: &Lab, fault: &Fault) -> Result<()> {
        let _daemon = Daemon::patient(self.device, blobs(Manner::Serve))?;
        let got = in_time("a mount", self.mount)?;
        right_in_the_end(lab, fault, got, 5).map(drop)
    }
}

/// read(2) of the device fails, and the request is as new as before.
fn delivery_of_an_open(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let peer = lab.is_peer();
    each_allocation("delivery of an OPEN", 3, 1, |fault| {
        let opening = Opening::new(lab, &cache)?;
        let got = fault.during(|| opening.device.next_request())?;
        match told(fault, got)? {
            None if peer => {
                // On C the request fails with the read(2).
                let got = in_time("a mount", opening.mount)?;
                ensure!(got.is_err(), "mounted without an answer");
                Ok(())
            }
            None => opening.serve(lab, fault),
            Some(request) => {
                ensure!(request.is_some(), "no request");
                drop(request);
                if peer {
                    drop(opening.device);
                    let _ = in_time("a mount", opening.mount)?;
                    return Ok(());
                }
                // Its fd is closed without an answer.
                opening.device.restore()?;
                opening.serve(lab, fault)
            }
        }
    })
}

/// Answers the OPEN of a mount, and again if that was not taken; what has become of the mount.
fn answered(
    lab: &Lab,
    cache: &Cache,
    fault: &mut Fault,
    reply: Result<u64, Errno>,
) -> Result<Opening> {
    let opening = Opening::new(lab, cache)?;
    let request = opening.device.next_request()?;
    let Some(Request::Open { msg_id, .. }) = &request else {
        bail!("not an OPEN: {request:?}");
    };
    let answer = || opening.device.open_reply(*msg_id, reply);
    let got = fault.during(answer)?;
    if told(fault, got)?.is_none() {
        answer().context("the next try")?;
    }
    Ok(opening)
}

/// An answer that was not taken can be given again, whatever it says.
fn copen(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    each_allocation("answer to an OPEN", 1, 1, |fault| {
        // The fd is closed by now, and opened again when something is missing.
        answered(lab, &cache, fault, Ok(meta().size()))?.serve(lab, fault)
    })?;
    if spoken() == Layout::V5 {
        // It has no words for an error.
        return Ok(());
    }
    each_allocation("copen with an error", 1, 1, |fault| {
        let opening = answered(lab, &cache, fault, Err(Errno::NOENT))?;
        let got = in_time("a mount", opening.mount)?;
        ensure!(got.is_err(), "mounted what the daemon has refused");
        Ok(())
    })
}

/// An object that went before its OPEN was answered: the daemon is told to close the fd, whatever memory
/// there is when it answers.
fn close_of_an_orphan(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C's object does not go before the answer".to_owned()).into());
    }
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs(Manner::Manual))?;
    each_allocation("answer to the OPEN of an object that went", 1, 1, |fault| {
        let mut mount = mounted(lab)?;
        let open = daemon.open()?;
        mount.unmount()?;
        let device = daemon.device()?;
        let answer = || device.open_reply(open.msg_id, Ok(SIZE));
        let got = fault.during(answer)?;
        if told(fault, got)?.is_none() {
            answer().context("the next try")?;
        }
        match daemon.event()? {
            Event::Close { object_id } if object_id == open.object_id => Ok(()),
            other => bail!("not the CLOSE of {}: {other:?}", open.object_id),
        }
    })
}

/// A mounted image, and the daemon that serves it; to be dropped from the last to the first.
fn scene(lab: &Lab, manner: Manner) -> Result<(Cache, Daemon, Mount)> {
    let cache = lab.cache()?;
    let daemon = serve(cache.dir(), manner)?;
    let mount = mounted(lab)?;
    Ok((cache, daemon, mount))
}

fn read_of_what_is_missing(lab: &Lab) -> Result<()> {
    let (_cache, daemon, mount) = scene(lab, Manner::Serve)?;
    let block = each_read("read of a missing block", 10, &mount, || Ok(()))?;
    forget_pages(&mount)?;
    let reads = daemon.reads();
    for block in 1..=block {
        read_right(&mount, block)?;
    }
    ensure!(daemon.reads() == reads, "what was read is not cached");
    unmount(mount)
}

fn read_of_what_is_there(lab: &Lab) -> Result<()> {
    let (_cache, daemon, mount) = scene(lab, Manner::Serve)?;
    read_right(&mount, 1)?;
    let reads = daemon.reads();
    let mut failed = 0;
    each_allocation("read of a cached block", 3, 1, |fault| {
        forget_pages(&mount)?;
        let got = fault.during(|| read(&mount, 1))??;
        if right_or_eio(got, 1)? == Outcome::Failed {
            ensure!(fault.hit()?, "EIO although there was memory");
            failed += 1;
        }
        read_right(&mount, 1).context("the next try")
    })?;
    println!("{failed} times the reader got EIO");
    ensure!(
        daemon.reads() == reads,
        "the daemon was asked for what it has sent"
    );
    unmount(mount)
}

/// Writes, and what the writes left is data or a hole.  Then they work.
fn writes(lab: &Lab, what: &str, pieces: &[(usize, usize)]) -> Result<()> {
    let (_cache, daemon, mount) = scene(lab, Manner::Manual)?;
    let open = daemon.open()?;
    daemon.device()?.open_reply(open.msg_id, Ok(SIZE))?;
    // The lookup ends, and the file is there.
    eventually("the file can be written", || {
        open.object.write_at(&bytes(0, BLOCK as usize), 0).is_ok()
    })?;
    let len = 2 * BLOCK as usize;
    let (mut block, mut failed) = (1, 0);
    each_allocation(what, 3, 1, |fault| {
        let data = bytes(block, len);
        let at = u64::from(block) * BLOCK;
        let write = || -> io::Result<()> {
            for (from, to) in pieces {
                let piece = data.get(*from..*to).unwrap_or_default();
                open.object.write_all_at(piece, at + *from as u64)?;
            }
            Ok(())
        };
        let got = fault.during(write)?;
        if told(fault, got)?.is_none() {
            failed += 1;
            for block in [block, block + 1] {
                let reader = read_block(&mount.path("file"), block);
                while !reader.is_finished() {
                    // What is missing is not sent now.
                    if let Ok(read) = daemon.read_within(Duration::from_millis(2)) {
                        open.object.complete_read(read.msg_id)?;
                    }
                }
                right_or_eio(in_time("a reader", reader)?, block)?;
            }
            write().context("the next try")?;
        }
        for block in [block, block + 1] {
            read_right(&mount, block)?;
        }
        block += 2;
        Ok(())
    })?;
    println!("{failed} times the write failed");
    drop(open);
    unmount(mount)
}

fn write(lab: &Lab) -> Result<()> {
    writes(lab, "write of two blocks", &[(0, 2 * BLOCK as usize)])
}

fn write_in_odd_pieces(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        // C refuses what does not begin at a page: see anon_fd:unaligned_buffer.
        return Err(Skip("C takes no odd pieces".to_owned()).into());
    }
    let pieces = [(0, 100), (100, 5000), (5000, 8192)];
    writes(lab, "write in odd pieces", &pieces)
}

/// The blob's fd, which the test has opened and alone holds.
type Held = Option<Arc<ObjectFd>>;

/// Answers what is left to the test until the reader has ended.
fn serve_until_done(
    daemon: &Daemon,
    held: &mut Held,
    reader: thread::JoinHandle<io::Result<Vec<u8>>>,
) -> Result<io::Result<Vec<u8>>> {
    let start = Instant::now();
    while !reader.is_finished() && start.elapsed() < *BOUND {
        match daemon.event_within(SHORT) {
            Ok(Event::Open {
                msg_id,
                object_id,
                object,
                ..
            }) => {
                daemon.forget(object_id)?;
                *held = Some(object);
                daemon.device()?.open_reply(msg_id, Ok(SIZE))?;
            }
            Ok(Event::Read {
                msg_id,
                offset,
                len,
                ..
            }) => {
                let object = held.as_ref().context("a READ without an fd")?;
                let data = bytes((offset / BLOCK) as u32, len as usize);
                object.write_all_at(&data, offset)?;
                object.complete_read(msg_id)?;
            }
            Ok(Event::Close { .. }) | Err(_) => {}
        }
    }
    in_time("a reader", reader)
}

const SHORT: Duration = Duration::from_millis(2);

/// The scene with the blob's fd in the test's hands alone.
fn held_scene(lab: &Lab) -> Result<(Cache, Daemon, Mount, Held)> {
    let (cache, daemon, mount) = scene(lab, Manner::Manual)?;
    let open = daemon.open()?;
    daemon.device()?.open_reply(open.msg_id, Ok(SIZE))?;
    daemon.forget(open.object_id)?;
    Ok((cache, daemon, mount, Some(open.object)))
}

/// close(2) of an anonymous fd with a READ pending that was delivered through it: the READ is
/// new again behind a new OPEN, or its reader gets EIO.
fn closing_the_fd(lab: &Lab) -> Result<()> {
    let (_cache, daemon, mount, mut held) = held_scene(lab)?;
    let (mut block, mut failed) = (0, 0);
    // Closing allocates nothing: what reopens the object was made with the fd. On C the READ waits for
    // `restore`.
    each_allocation("close(2) of an anonymous fd", 0, 1, |fault| {
        block += 1;
        let reader = read_block(&mount.path("file"), block);
        match daemon.event()? {
            Event::Read { object: None, .. } => {}
            other => bail!("not a READ: {other:?}"),
        }
        let object = held.take().context("no fd")?;
        ensure!(
            Arc::strong_count(&object) == 1,
            "the fd is not the test's alone"
        );
        fault.during(|| drop(object))?;
        if lab.is_peer() {
            daemon.device()?.restore()?;
        }
        let got = serve_until_done(&daemon, &mut held, reader)?;
        if right_or_eio(got, block)? == Outcome::Failed {
            ensure!(fault.hit()?, "EIO although there was memory");
            failed += 1;
        }
        let reader = read_block(&mount.path("file"), block);
        let got = serve_until_done(&daemon, &mut held, reader)?;
        expect_data(got, block).context("the next try")
    })?;
    println!("{failed} times the reader got EIO");
    drop(held);
    unmount(mount)
}

/// `restore` that fails changes nothing; then it makes the READ new.
fn restore(lab: &Lab) -> Result<()> {
    let (_cache, daemon, mount, mut held) = held_scene(lab)?;
    let mut block = 0;
    each_allocation("restore", 1, 1, |fault| {
        block += 1;
        let reader = read_block(&mount.path("file"), block);
        drop(daemon.event()?);
        let device = daemon.device()?;
        let got = fault.during(|| device.restore())?;
        if told(fault, got)?.is_none() {
            device.restore().context("the next try")?;
        }
        let got = serve_until_done(&daemon, &mut held, reader)?;
        expect_data(got, block)
    })?;
    drop(held);
    unmount(mount)
}

/// A read of what is missing, of an object whose fd the daemon has closed.
fn reopening(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C leaves the reader waiting for ever".to_owned()).into());
    }
    let (_cache, daemon, mount) = scene(lab, Manner::Serve)?;
    read_right(&mount, 0)?;
    each_read("read that reopens", 15, &mount, || daemon.forget_all())?;
    unmount(mount)
}
