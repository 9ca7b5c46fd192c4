// SPDX-License-Identifier: GPL-2.0

//! One device in many hands: passed to a successor over a socket, read by several processes, and
//! waited for by edges.

use super::supervised::{
    device_in_the_fd_store, killed_200_times, killed_at_each_step, prefetch_goes_on,
};
use crate::{
    daemon::Daemon,
    group,
    helper::Helper,
    lab::{eventually, Lab},
    mount::Mounting,
    patience::SOON,
    protocol::open_device,
    stage::{self, expect_data, read_block},
    tree,
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{CacheConfig, Device, Errno, ObjectFd, Request};
use rustix::{
    event::{epoll, Timespec},
    io::dup,
    net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags},
};
use std::{
    collections::{HashMap, HashSet},
    fs,
    io::IoSlice,
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixListener},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

group!("failover":
    successors_get_the_device_over_a_socket,
    processes_share_one_device,
    every_request_is_an_edge,
    killed_200_times,
    killed_at_each_step,
    device_in_the_fd_store,
    prefetch_goes_on,
);

fn bound(dir: &Path) -> Result<Device> {
    let device = open_device()?;
    device.configure(&CacheConfig::new(dir))?;
    device.bind_ondemand()?;
    Ok(device)
}

/// Gives an fd to whoever connects.
fn pass(listener: &UnixListener, fd: impl AsFd) -> Result<()> {
    let mut connection = None;
    eventually("the successor connects", || {
        connection = listener.accept().ok();
        connection.is_some()
    })?;
    let (socket, _) = connection.context("nobody has connected")?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    ensure!(
        control.push(SendAncillaryMessage::ScmRights(&fds)),
        "no room"
    );
    sendmsg(
        &socket,
        &[IoSlice::new(b"x")],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// One process after the other gets the device over a socket and says `restore`: two are killed
/// with requests in their hands, an OPEN and READs, which their successors get again.
fn successors_get_the_device_over_a_socket(lab: &Lab) -> Result<()> {
    let images = lab.images()?;
    let kind = tree::kind("chunked")?;
    let cache = lab.cache()?;
    let kept = bound(cache.dir())?;
    let path = lab.base().join("successor");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    let successor = |manner: &str| -> Result<Helper> {
        let arguments = [
            "successor",
            &path.to_string_lossy(),
            &images.to_string_lossy(),
            kind.name,
            manner,
        ];
        let helper = Helper::start(&arguments)?;
        pass(&listener, &kept)?;
        helper.ready()
    };
    let in_hand = |helper: &mut Helper, what: &str| -> Result<()> {
        let line = helper.line()?;
        ensure!(line.starts_with(what), "not {what}: {line:?}");
        Ok(())
    };
    let (base, source) = (lab.base().to_owned(), images.clone());
    let mut first = successor("ignore-opens")?;
    let reader = thread::spawn(move || -> Result<usize> {
        let mut mount = crate::mount::Mount::with(&base, kind.name, &tree::options(kind))?;
        let files = tree::compare(mount.dir(), &source)?;
        mount.unmount()?;
        Ok(files)
    });
    in_hand(&mut first, "Open")?;
    drop(first);
    // What one has let fall is what the next picks up.
    for _ in 0..2 {
        let mut next = successor("ignore-blob")?;
        in_hand(&mut next, "Read")?;
        ensure!(!reader.is_finished(), "the reader was sent away");
        drop(next);
    }
    let last = successor("serve")?;
    let files = reader.join().ok().context("the reader panicked")??;
    ensure!(files > 50, "only {files} files");
    drop(last);
    fs::remove_file(&path)?;
    Ok(())
}

/// What the processes that share a device have told.
struct Office {
    device: Device,
    workers: Vec<Helper>,
    told: mpsc::Receiver<(usize, String)>,
    blobs: HashMap<String, crate::blob::Blob>,
    objects: HashMap<u32, (ObjectFd, String)>,
    ids: HashSet<u32>,
    closed: Vec<u32>,
    /// Requests by process.
    counts: Vec<u32>,
}

impl Office {
    /// Answers what one of the processes has read.
    fn answer(&mut self, worker: usize, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| -> Result<u64> {
            Ok(words.get(at).context("too few words")?.parse::<u64>()?)
        };
        let (id, object) = (u32::try_from(number(1)?)?, u32::try_from(number(2)?)?);
        ensure!(self.ids.insert(id), "request {id} came twice: {line}");
        self.counts[worker] += 1;
        match words[0] {
            "open" => {
                let pid = Pid::from_raw(self.workers[worker].pid()?).context("no process")?;
                let process = pidfd_open(pid, PidfdFlags::empty())?;
                let theirs = i32::try_from(number(3)?)?;
                let fd = pidfd_getfd(&process, theirs, PidfdGetfdFlags::empty())?;
                let key = words[4].to_owned();
                let blob = self.blobs.get(&key).context("an unknown blob")?;
                let size = blob.size();
                self.objects.insert(object, (fd.into(), key));
                self.device.open_reply(id, Ok(size))?;
            }
            "read" => {
                let (fd, key) = self.objects.get(&object).context("no such object")?;
                let (offset, len) = (number(3)?, usize::try_from(number(4)?)?);
                let blob = self.blobs.get(key).context("an unknown blob")?;
                fd.write_all_at(&blob.read(offset, len)?, offset)?;
                fd.complete_read(id)?;
            }
            "close" => {
                ensure!(!self.closed.contains(&object), "{object} was closed twice");
                self.closed.push(object);
                self.objects.remove(&object);
            }
            _ => bail!("a process said {line:?}"),
        }
        Ok(())
    }

    /// Answers until a thread has ended.
    fn until_done<T>(&mut self, thread: thread::JoinHandle<T>) -> Result<T> {
        let mut quiet = 0;
        while !thread.is_finished() {
            match self.told.recv_timeout(Duration::from_millis(20)) {
                Ok((worker, line)) => {
                    quiet = 0;
                    self.answer(worker, &line)?;
                }
                Err(_) => quiet += 1,
            }
            ensure!(quiet < 500, "nothing came for 10 s");
        }
        thread.join().ok().context("a thread panicked")
    }
}

/// Four processes poll and read one device, as after fork: every request goes to one of them.
fn processes_share_one_device(lab: &Lab) -> Result<()> {
    const PROCESSES: usize = 4;
    let cache = lab.cache()?;
    let device = bound(cache.dir())?;
    let (sender, told) = mpsc::channel();
    let workers = (0..PROCESSES)
        .map(|number| {
            let mut command = Command::new("/proc/self/exe");
            command.stdin(Stdio::from(dup(&device)?));
            let mut worker = Helper::start_as_is(command, &["relay"])?.ready()?;
            worker.forward(number, sender.clone());
            Ok(worker)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut office = Office {
        device,
        workers,
        told,
        blobs: stage::sources(),
        objects: HashMap::new(),
        ids: HashSet::new(),
        closed: vec![],
        counts: vec![0; PROCESSES],
    };
    let mount: Mounting = crate::mount::Mount::in_background(lab.base(), "meta");
    let mut mount = office.until_done(mount)?.context("mounting")?;
    for round in 0..3 {
        let readers: Vec<_> = (0..12)
            .map(|number| {
                let block = round * 20 + number;
                (block, read_block(&mount.path("file"), block))
            })
            .collect();
        for (block, reader) in readers {
            expect_data(office.until_done(reader)?, block)?;
        }
    }
    office.until_done(thread::spawn(move || mount.unmount()))??;
    eventually("two CLOSEs", || {
        while let Ok((worker, line)) = office.told.try_recv() {
            if let Err(error) = office.answer(worker, &line) {
                crate::lab::cleanup_failed(&format!("{error:#}"));
            }
        }
        office.closed.len() == 2
    })?;
    println!("requests by process: {:?}", office.counts);
    ensure!(
        office.counts.iter().filter(|count| **count > 0).count() > 1,
        "all requests went to one process"
    );
    Ok(())
}

/// A daemon that waits for edges, registered before `bind`, is woken by every request, whether it
/// has read all of those before or not; and by `restore`.
fn every_request_is_an_edge(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = open_device()?;
    let queue = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&queue, &device, epoll::EventData::new_u64(1), flags)?;
    let edge = |within: Duration| -> Result<bool> {
        let mut events = Vec::with_capacity(4);
        let within = Timespec::try_from(within)?;
        let buffer = rustix::buffer::spare_capacity(&mut events);
        Ok(epoll::wait(&queue, buffer, Some(&within))? > 0)
    };
    let (soon, moment) = (*SOON, Duration::from_millis(50));
    device.configure(&CacheConfig::new(cache.dir()))?;
    device.bind_ondemand()?;
    // What binding may have woken.
    while edge(moment)? {}
    let mounting = |name: &str| crate::mount::Mount::in_background(lab.base(), name);
    let mut mounts = vec![];
    for name in ["one", "two", "three"] {
        mounts.push(mounting(name));
        ensure!(
            edge(soon)?,
            "no edge for {name}, with nothing read before it"
        );
        while edge(moment)? {}
    }
    let mut held = vec![];
    for name in ["four", "five"] {
        // One of many is taken, the rest is left.
        held.push(device.next_request()?.context("no request")?);
        mounts.push(mounting(name));
        ensure!(edge(soon)?, "no edge for {name}, with some left");
    }
    held.clear();
    // Closing an fd may wake too.
    while edge(moment)? {}
    device.restore()?;
    ensure!(edge(soon)?, "no edge for restore");
    let mut ids = HashSet::new();
    while ids.len() < mounts.len() {
        while let Some(request) = device.next_request()? {
            let Request::Open { msg_id, .. } = request else {
                bail!("no OPEN: {request:?}");
            };
            ensure!(ids.insert(msg_id), "the OPEN {msg_id} came twice");
            device.open_reply(msg_id, Err(Errno::NOENT))?;
        }
    }
    for mount in mounts {
        let got = mount.join().ok().context("a thread panicked")?;
        ensure!(got.is_err(), "mounted without an image");
    }
    // With all of that over, the next request is an edge as the first was.
    while edge(moment)? {}
    let daemon_less = mounting("six");
    ensure!(edge(soon)?, "no edge after everything was read");
    let daemon = Daemon::over(device, stage::blobs(crate::daemon::Manner::Serve))?;
    let got = daemon_less.join().ok().context("a thread panicked")?;
    ensure!(got.is_err(), "mounted without an image");
    let mount = crate::mount::Mount::new(lab.base(), "meta")?;
    expect_data(stage::read_block_here(&mount.path("file"), 1), 1)?;
    ensure!(daemon.opens() > 1, "nothing was opened");
    Ok(())
}
