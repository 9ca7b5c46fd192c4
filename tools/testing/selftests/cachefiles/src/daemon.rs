// SPDX-License-Identifier: GPL-2.0

//! A daemon in a thread of the test, whose behaviour the test chooses blob by blob.
//!
//! Lives here: the loop that answers requests, its counters, and the hand-over of requests that a
//! test answers itself.  Never here: an expectation.

use crate::{blob::Blob, patience::SOON, protocol};
use anyhow::{bail, Context, Result};
use cachefiles_client::{CacheConfig, Device, Errno, ObjectFd, Request};
use rustix::{
    event::{eventfd, poll, EventfdFlags, PollFd, PollFlags},
    io::write,
};
use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
        Arc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// What the daemon does with the requests for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Answers them well.
    Serve,
    /// Answers them well, and writes a piece behind each READ that nobody asked for.
    ServeAhead(u16),
    /// Leaves OPENs, READs and CLOSEs to the test.
    Manual,
    /// Answers OPENs, leaves READs to the test.
    ManualReads,
    /// Answers OPENs with this size instead of the right one.
    Size(u64),
    /// Answers OPENs with an error.
    RefuseOpen(Errno),
    /// Completes READs without writing anything.
    CompleteOnly,
}

/// The blobs of a daemon by cookie key.
#[derive(Clone, Default)]
pub struct Blobs(HashMap<Vec<u8>, (Blob, Manner)>);

impl Blobs {
    /// No blob.
    pub fn new() -> Blobs {
        Blobs::default()
    }

    /// These and others.
    pub fn merged(mut self, others: Blobs) -> Blobs {
        self.0.extend(others.0);
        self
    }

    /// One more, served well.
    pub fn with(self, key: impl AsRef<[u8]>, blob: Blob) -> Blobs {
        self.with_manner(key, blob, Manner::Serve)
    }

    /// One more, for a cookie of this volume only.
    pub fn with_in(mut self, volume: &str, key: &str, blob: Blob) -> Blobs {
        let name = in_volume(volume.as_bytes(), key.as_bytes());
        self.0.insert(name, (blob, Manner::Serve));
        self
    }

    /// Under which name a cookie's blob is.
    fn name(&self, volume: &[u8], key: &[u8]) -> Vec<u8> {
        let own = in_volume(volume, key);
        match self.0.contains_key(&own) {
            true => own,
            false => key.to_vec(),
        }
    }

    /// One more, served in this manner.
    pub fn with_manner(mut self, key: impl AsRef<[u8]>, blob: Blob, manner: Manner) -> Blobs {
        self.0.insert(key.as_ref().to_vec(), (blob, manner));
        self
    }
}

/// The name of what is of one volume only; no cookie's key has a NUL.
fn in_volume(volume: &[u8], key: &[u8]) -> Vec<u8> {
    [volume, b"\0", key].concat()
}

/// What the daemon counts.
#[derive(Default)]
pub struct Stats {
    /// OPENs.
    pub opens: AtomicU64,
    /// READs.
    pub reads: AtomicU64,
    /// Bytes asked for in READs.
    pub bytes: AtomicU64,
    /// CLOSEs.
    pub closes: AtomicU64,
}

/// A request that is left to the test.
#[derive(Debug)]
pub enum Event {
    /// An OPEN.
    Open {
        msg_id: u32,
        object_id: u32,
        object: Arc<ObjectFd>,
        key: Vec<u8>,
        volume: Vec<u8>,
    },
    /// A READ, with the object's fd, if it is still open.
    Read {
        msg_id: u32,
        object: Option<Arc<ObjectFd>>,
        offset: u64,
        len: u64,
    },
    /// A CLOSE.
    Close { object_id: u32 },
}

/// An OPEN left to the test.
pub struct Open {
    /// What to answer to.
    pub msg_id: u32,
    /// The object's number.
    pub object_id: u32,
    /// The anonymous fd, which the daemon holds too until [`Daemon::forget`].
    pub object: Arc<ObjectFd>,
    /// The cookie's key.
    pub key: Vec<u8>,
    /// The volume's key.
    pub volume: Vec<u8>,
}

/// A READ left to the test.
pub struct Read {
    /// What to answer to.
    pub msg_id: u32,
    /// The anonymous fd.
    pub object: Arc<ObjectFd>,
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
}

/// A running daemon; dropping it ends it.
pub struct Daemon {
    device: Option<Arc<Device>>,
    stats: Arc<Stats>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<io::Result<()>>>,
    forget: Sender<(Option<u32>, Sender<()>)>,
    events: Receiver<Event>,
}

impl Daemon {
    /// Opens the device, binds a cache in this directory, and serves, in the protocol of the case.
    pub fn start(dir: &Path, blobs: Blobs) -> Result<Daemon> {
        let device = protocol::open_device().context("opening the device")?;
        device
            .configure(&CacheConfig::new(dir))
            .context("configuring the cache")?;
        device.bind_ondemand().context("binding the cache")?;
        Daemon::over(device, blobs)
    }

    /// Serves over a device that is bound already.
    pub fn over(device: Device, blobs: Blobs) -> Result<Daemon> {
        Daemon::run(device, blobs, false)
    }

    /// The same, by a daemon that goes on when the kernel has no memory or cannot use its disk,
    /// and says again what was not taken.
    pub fn patient(device: Device, blobs: Blobs) -> Result<Daemon> {
        Daemon::run(device, blobs, true)
    }

    fn run(device: Device, blobs: Blobs, patient: bool) -> Result<Daemon> {
        let device = Arc::new(device);
        let stats = Arc::new(Stats::default());
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (event_sender, events) = mpsc::channel();
        let (forget, forgotten) = mpsc::channel();
        let mut server = Server {
            device: Arc::clone(&device),
            stats: Arc::clone(&stats),
            stop: Arc::clone(&stop),
            patient,
            blobs,
            objects: HashMap::new(),
            events: event_sender,
            forgotten,
        };
        let thread = Some(thread::spawn(move || server.run()));
        Ok(Daemon {
            device: Some(device),
            stats,
            stop,
            thread,
            forget,
            events,
        })
    }

    /// The device.
    pub fn device(&self) -> Result<&Device> {
        self.device.as_deref().context("the daemon has ended")
    }

    /// Whether it goes on; if not, [`stop`](Self::stop) says why.
    pub fn is_serving(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// READs so far.
    pub fn reads(&self) -> u64 {
        self.stats.reads.load(Ordering::SeqCst)
    }

    /// OPENs so far.
    pub fn opens(&self) -> u64 {
        self.stats.opens.load(Ordering::SeqCst)
    }

    /// CLOSEs so far.
    pub fn closes(&self) -> u64 {
        self.stats.closes.load(Ordering::SeqCst)
    }

    /// Bytes asked for so far.
    pub fn bytes(&self) -> u64 {
        self.stats.bytes.load(Ordering::SeqCst)
    }

    /// The next request left to the test.
    pub fn event(&self) -> Result<Event> {
        self.event_within(*SOON)
    }

    /// The same, but it may take this long only.
    pub fn event_within(&self, within: Duration) -> Result<Event> {
        match self.events.recv_timeout(within) {
            Ok(event) => Ok(event),
            Err(RecvTimeoutError::Timeout) => bail!("no request came within {within:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the daemon has ended"),
        }
    }

    /// Whether no request left to the test comes within this time.
    pub fn is_quiet(&self, within: Duration) -> bool {
        self.events.recv_timeout(within).is_err()
    }

    /// The next request, which must be an OPEN.
    pub fn open(&self) -> Result<Open> {
        match self.event()? {
            Event::Open {
                msg_id,
                object_id,
                object,
                key,
                volume,
            } => Ok(Open {
                msg_id,
                object_id,
                object,
                key,
                volume,
            }),
            other => bail!("expected an OPEN, got {other:?}"),
        }
    }

    /// The next request, which must be a READ of an object whose fd is open.
    pub fn read(&self) -> Result<Read> {
        self.read_within(*SOON)
    }

    /// The same, but it may take this long only.
    pub fn read_within(&self, within: Duration) -> Result<Read> {
        match self.event_within(within)? {
            Event::Read {
                msg_id,
                object: Some(object),
                offset,
                len,
            } => Ok(Read {
                msg_id,
                object,
                offset,
                len,
            }),
            other => bail!("expected a READ, got {other:?}"),
        }
    }

    /// Lets the daemon's own hold of an object's fd go, and returns when it has.
    pub fn forget(&self, object_id: u32) -> Result<()> {
        self.forget_these(Some(object_id))
    }

    /// The same of all objects.
    pub fn forget_all(&self) -> Result<()> {
        self.forget_these(None)
    }

    fn forget_these(&self, which: Option<u32>) -> Result<()> {
        let (done, forgotten) = mpsc::channel();
        self.forget
            .send((which, done))
            .context("the daemon has ended")?;
        self.wake()?;
        forgotten
            .recv_timeout(*SOON)
            .context("the daemon does not listen")
    }

    fn wake(&self) -> Result<()> {
        write(&self.stop, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    /// Ends it: closes all objects and then the device.
    pub fn stop(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.device = None;
        // More than the loop's ordinary wake-ups can ever add up to.
        write(&self.stop, &STOP.to_ne_bytes())?;
        match thread.join() {
            Ok(result) => result.context("the daemon's loop failed"),
            Err(_) => bail!("the daemon's thread panicked"),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            crate::lab::cleanup_failed(&format!("{error:#}"));
        }
    }
}

const STOP: u64 = 1 << 32;

struct Object {
    fd: Arc<ObjectFd>,
    key: Vec<u8>,
}

struct Server {
    device: Arc<Device>,
    stats: Arc<Stats>,
    stop: Arc<OwnedFd>,
    patient: bool,
    blobs: Blobs,
    objects: HashMap<u32, Object>,
    events: Sender<Event>,
    forgotten: Receiver<(Option<u32>, Sender<()>)>,
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        loop {
            let mut fds = [
                PollFd::new(&*self.device, PollFlags::IN),
                PollFd::new(&*self.stop, PollFlags::IN),
            ];
            poll(&mut fds, None)?;
            if fds[1].revents().contains(PollFlags::IN) {
                let mut count = [0; 8];
                rustix::io::read(&*self.stop, &mut count)?;
                if u64::from_ne_bytes(count) >= STOP {
                    return Ok(());
                }
                while let Ok((which, done)) = self.forgotten.try_recv() {
                    match which {
                        Some(object_id) => drop(self.objects.remove(&object_id)),
                        None => self.objects.clear(),
                    }
                    // Nobody may wait for it any more.
                    let _ = done.send(());
                }
            }
            loop {
                match self.device.next_request() {
                    Ok(Some(request)) => self.answer(request)?,
                    Ok(None) => break,
                    // What there is still, poll(2) says again.
                    Err(_) if self.patient => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn answer(&mut self, request: Request) -> io::Result<()> {
        match request {
            Request::Open {
                msg_id,
                object_id,
                object,
                volume_key,
                cookie_key,
                ..
            } => {
                self.stats.opens.fetch_add(1, Ordering::SeqCst);
                let key = self.blobs.name(&volume_key, &cookie_key);
                let known = self.blobs.0.get(&key);
                let reply = match known {
                    None => Some(Err(Errno::NOENT)),
                    Some((_, Manner::Manual)) => None,
                    Some((_, Manner::Size(size))) => Some(Ok(*size)),
                    Some((_, Manner::RefuseOpen(error))) => Some(Err(*error)),
                    Some((blob, _)) => Some(Ok(blob.size())),
                };
                let fd = Arc::new(object);
                match reply {
                    None => {
                        self.objects.insert(
                            object_id,
                            Object {
                                fd: Arc::clone(&fd),
                                key,
                            },
                        );
                        let volume = volume_key;
                        self.tell(Event::Open {
                            msg_id,
                            object_id,
                            object: fd,
                            key: cookie_key,
                            volume,
                        });
                    }
                    Some(Ok(size)) => {
                        self.objects.insert(object_id, Object { fd, key });
                        self.open_reply(msg_id, Ok(size))?;
                    }
                    Some(Err(error)) => self.open_reply(msg_id, Err(error))?,
                }
            }
            Request::Read {
                msg_id,
                object_id,
                offset,
                len,
            } => {
                self.stats.reads.fetch_add(1, Ordering::SeqCst);
                self.stats.bytes.fetch_add(len, Ordering::SeqCst);
                let object = self.objects.get(&object_id);
                let known = object.and_then(|object| self.blobs.0.get(&object.key));
                match (object, known) {
                    (Some(object), Some((blob, Manner::Serve | Manner::Size(_)))) => {
                        let data = blob.read(offset, usize::try_from(len).unwrap_or(0))?;
                        // As nydusd does: complete whatever became of the write.
                        let _ = object.fd.write_all_at(&data, offset);
                        let complete = || object.fd.complete_read(msg_id);
                        match complete() {
                            // What was not taken is said again.
                            Err(error)
                                if self.patient
                                    && Errno::from_io_error(&error) == Some(Errno::NOMEM) =>
                            {
                                let _ = complete();
                            }
                            Err(error) if !self.patient => return Err(error),
                            _ => {}
                        }
                    }
                    (Some(object), Some((blob, Manner::ServeAhead(ahead)))) => {
                        let more = blob
                            .size()
                            .saturating_sub(offset + len)
                            .min((*ahead).into());
                        let data = blob.read(offset, usize::try_from(len + more).unwrap_or(0))?;
                        let _ = object.fd.write_all_at(&data, offset);
                        object.fd.complete_read(msg_id)?;
                    }
                    (Some(object), Some((_, Manner::CompleteOnly))) => {
                        object.fd.complete_read(msg_id)?;
                    }
                    (object, _) => {
                        let object = object.map(|object| Arc::clone(&object.fd));
                        self.tell(Event::Read {
                            msg_id,
                            object,
                            offset,
                            len,
                        });
                    }
                }
            }
            Request::Close { object_id, .. } => {
                self.stats.closes.fetch_add(1, Ordering::SeqCst);
                let object = self.objects.remove(&object_id);
                let manner = object.and_then(|object| self.blobs.0.get(&object.key).map(|b| b.1));
                if manner == Some(Manner::Manual) {
                    self.tell(Event::Close { object_id });
                }
            }
        }
        Ok(())
    }

    fn open_reply(&self, msg_id: u32, reply: Result<u64, Errno>) -> io::Result<()> {
        let answer = self.device.open_reply(msg_id, reply);
        match answer.as_ref().err().and_then(Errno::from_io_error) {
            Some(Errno::NOMEM) if self.patient => self.device.open_reply(msg_id, reply),
            // Whoever asked was failed meanwhile.
            Some(_) if self.patient => Ok(()),
            _ => answer,
        }
    }

    fn tell(&self, event: Event) {
        // The test may have ended already; then nobody wants to know.
        let _ = self.events.send(event);
    }
}
