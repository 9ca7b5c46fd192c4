// SPDX-License-Identifier: GPL-2.0

//! What the cases named after C's bugs share: a daemon by hand, in whatever thread, which serves
//! the images and leaves what is about their blobs to the test.
//!
//! Lives here: the hand, and how long threads race.  Never here: a test.

use crate::{
    blob::{pattern, Aligned, Blob},
    image::{Image, BLOCK},
    ktap::in_ci,
    lab::{eventually, free_device, Cache, Lab},
    mount::{try_mount, Mount},
    patience::{patiently, within, SOON},
    protocol::spoken,
    stage::{self, BLOCKS, SIZE},
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{Device, Errno, Layout, ObjectFd, Request};
use std::{
    collections::{HashMap, VecDeque},
    io,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What is to happen at once must happen within this time.
pub static AT_ONCE: LazyLock<Duration> = LazyLock::new(|| patiently(Duration::from_secs(2)));

/// Moments that a race is tried at, one after the other; as many rounds there are at least.
pub const MOMENTS: u32 = 8;

/// Numbers for as long as a race goes on; a few also where the machine is slow.  In v5 it is the
/// same race once more.
pub fn rounds() -> impl Iterator<Item = u32> {
    let once = match spoken() {
        Layout::Mainline => Duration::from_secs(1),
        Layout::V5 => Duration::from_millis(400),
    };
    let end = Instant::now() + once * if in_ci() { 3 } else { 1 };
    (0..).take_while(move |round| *round < MOMENTS || Instant::now() < end)
}

/// Lets others run, in a thread that does something again and again.
pub fn breathe() {
    thread::sleep(Duration::from_micros(50));
}

/// How many blocks the blob has of which many READs can be pending.
pub const WIDE: u32 = 1024;

/// The images `meta`, `meta2`, ... with one file each, whose bytes are those of `blob`, `blob2`, ..., and
/// how many blocks these have.
const NAMES: [(&str, &str, u32); 4] = [
    ("meta", "blob", BLOCKS),
    ("meta2", "blob2", BLOCKS),
    ("meta3", "blob3", BLOCKS),
    ("meta-wide", "blob-wide", WIDE),
];

/// An OPEN left to the test.
pub struct Open {
    /// What to answer to.
    pub msg_id: u32,
    /// The object's number.
    pub object_id: u32,
    /// The anonymous fd; nobody else has it.
    pub object: ObjectFd,
}

/// A READ left to the test.
#[derive(Clone, Copy)]
pub struct Read {
    /// What to answer to.
    pub msg_id: u32,
    /// Of which object.
    pub object_id: u32,
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
}

/// The bytes of a range of any of the blobs, where direct I/O takes them.
pub fn bytes(offset: u64, len: u64) -> Aligned {
    let mut bytes = Aligned::new(len as usize);
    pattern(stage::SEED, offset, &mut bytes);
    bytes
}

impl Read {
    /// Writes what is asked for and says so.
    pub fn answer(self, object: &ObjectFd) -> Result<()> {
        object.write_all_at(&bytes(self.offset, self.len), self.offset)?;
        Ok(object.complete_read(self.msg_id)?)
    }
}

/// What the hand holds of an object: its fd, and its cookie's key.
type Object = (Arc<ObjectFd>, Vec<u8>);

/// A daemon by hand.
pub struct Hand {
    device: Mutex<Option<Arc<Device>>>,
    blobs: HashMap<Vec<u8>, Blob>,
    objects: Mutex<HashMap<u32, Object>>,
    serves_all: AtomicBool,
    refuses_all: AtomicBool,
    left: Mutex<VecDeque<Request>>,
}

/// A lock that a failed thread does not spoil.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hand {
    /// Binds the cache.  The session before may be just ending.
    pub fn bind(cache: &Cache) -> Result<Arc<Hand>> {
        let device = free_device(cache.dir())?;
        device.bind_ondemand()?;
        let mut blobs = HashMap::new();
        for (meta, blob, blocks) in NAMES {
            let chunks: Vec<(u16, u32)> = (0..blocks).map(|block| (1, block)).collect();
            let image = Image::new().device(blob).file("file", 0, chunks).build();
            blobs.insert(meta.into(), image);
            blobs.insert(
                blob.into(),
                Blob::Pattern {
                    seed: stage::SEED,
                    size: u64::from(blocks) * BLOCK,
                },
            );
        }
        Ok(Arc::new(Hand {
            device: Mutex::new(Some(Arc::new(device))),
            blobs,
            objects: Mutex::default(),
            serves_all: AtomicBool::new(false),
            refuses_all: AtomicBool::new(false),
            left: Mutex::default(),
        }))
    }

    /// From now on the blobs are served too.
    pub fn serve_all(&self) {
        self.serve_all_now(true);
    }

    /// Whether the blobs are served too.
    pub fn serve_all_now(&self, all: bool) {
        self.serves_all.store(all, Ordering::SeqCst);
    }

    /// Whether all OPENs are refused.
    pub fn refuse_all(&self, all: bool) {
        self.refuses_all.store(all, Ordering::SeqCst);
    }

    /// The device.
    pub fn device(&self) -> Result<Arc<Device>> {
        lock(&self.device).clone().context("the device is closed")
    }

    /// Closes the device, and then what the hand holds of objects.
    pub fn close(&self) {
        drop(lock(&self.device).take());
        lock(&self.left).clear();
        lock(&self.objects).clear();
    }

    /// Takes one request, and serves it or leaves it; false if there is none.
    pub fn turn(&self) -> Result<bool> {
        let Some(device) = lock(&self.device).clone() else {
            return Ok(false);
        };
        let request = device.next_request()?;
        if let Some(request) = request {
            self.serve(&device, request);
            return Ok(true);
        }
        Ok(false)
    }

    /// Serves what is the hand's.  Errors are what races bring about; the one who waits sees them.
    pub fn serve(&self, device: &Device, request: Request) {
        let all = self.serves_all.load(Ordering::SeqCst);
        match request {
            Request::Open { msg_id, .. } if self.refuses_all.load(Ordering::SeqCst) => {
                let _ = device.open_reply(msg_id, Err(Errno::NOENT));
            }
            Request::Open {
                msg_id,
                object_id,
                object,
                ref cookie_key,
                ..
            } if all || cookie_key.starts_with(b"meta") => {
                let size = self
                    .blobs
                    .get(cookie_key)
                    .map_or(Err(Errno::NOENT), |b| Ok(b.size()));
                let entry = (Arc::new(object), cookie_key.clone());
                lock(&self.objects).insert(object_id, entry);
                let _ = device.open_reply(msg_id, size);
            }
            Request::Read {
                msg_id,
                object_id,
                offset,
                len,
            } => {
                let known = lock(&self.objects).get(&object_id).cloned();
                let Some((fd, key)) = known else {
                    return self.leave(request);
                };
                let blob = self.blobs.get(&key);
                if let Some(Ok(data)) = blob.map(|blob| blob.read(offset, len as usize)) {
                    let _ = fd.write_all_at(&data, offset);
                }
                let _ = fd.complete_read(msg_id);
            }
            Request::Close { object_id, .. } => {
                drop(lock(&self.objects).remove(&object_id));
                self.leave(request);
            }
            Request::Open { .. } => self.leave(request),
        }
    }

    fn leave(&self, request: Request) {
        lock(&self.left).push_back(request);
    }

    /// The next request left to the test, CLOSEs aside.
    pub fn next(&self) -> Result<Request> {
        self.next_within(*SOON)
    }

    fn next_within(&self, within: Duration) -> Result<Request> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(request) = self.left_over() {
                return Ok(request);
            }
            ensure!(
                Instant::now() < deadline,
                "no request came within {within:?}"
            );
            if !self.turn()? {
                self.device()?.wait(Some(Duration::from_millis(20)))?;
            }
        }
    }

    /// Whether nothing is left to the test within this time.
    pub fn is_quiet(&self, within: Duration) -> Result<bool> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if !self.turn()? {
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(lock(&self.left)
            .iter()
            .all(|request| matches!(request, Request::Close { .. })))
    }

    fn left_over(&self) -> Option<Request> {
        let mut left = lock(&self.left);
        while let Some(request) = left.pop_front() {
            if !matches!(request, Request::Close { .. }) {
                return Some(request);
            }
        }
        None
    }

    /// The next, which must be an OPEN.
    pub fn open(&self) -> Result<Open> {
        match self.next()? {
            Request::Open {
                msg_id,
                object_id,
                object,
                ..
            } => Ok(Open {
                msg_id,
                object_id,
                object,
            }),
            other => bail!("expected an OPEN, got {other:?}"),
        }
    }

    /// The next, which must be an OPEN; none if a thread ends before there is one.
    pub fn open_unless_done<T>(&self, waiting: &JoinHandle<T>) -> Result<Option<Open>> {
        let deadline = Instant::now() + *SOON;
        while lock(&self.left)
            .iter()
            .all(|request| matches!(request, Request::Close { .. }))
        {
            if waiting.is_finished() {
                return Ok(None);
            }
            ensure!(Instant::now() < deadline, "no request came in time");
            if !self.turn()? {
                thread::sleep(Duration::from_micros(200));
            }
        }
        self.open().map(Some)
    }

    /// The next, which must be an OPEN, and is answered.
    pub fn opened(&self) -> Result<Open> {
        let open = self.open()?;
        self.device()?.open_reply(open.msg_id, Ok(SIZE))?;
        Ok(open)
    }

    /// The next, which must be a READ.
    pub fn read(&self) -> Result<Read> {
        self.read_within(*SOON)
    }

    /// The same, but it may take this long only.
    pub fn read_within(&self, within: Duration) -> Result<Read> {
        match self.next_within(within)? {
            Request::Read {
                msg_id,
                object_id,
                offset,
                len,
            } => Ok(Read {
                msg_id,
                object_id,
                offset,
                len,
            }),
            other => bail!("expected a READ, got {other:?}"),
        }
    }

    /// Serves until something has come about, which must be soon.  An object of C's goes, and its file
    /// gets its name, when its CLOSE is read.
    pub fn until(&self, what: &str, mut happened: impl FnMut() -> bool) -> Result<()> {
        eventually(what, || {
            // A failed request is what others learn of.
            let _ = self.turn();
            happened()
        })
    }

    /// Serves until the daemon is told to close the fd of this number, which must be soon.
    pub fn until_told_to_close(&self, fd: u32) -> Result<()> {
        self.until(&format!("a CLOSE of {fd}"), || {
            self.told_to_close().contains(&fd)
        })
    }

    /// The numbers of what it was told to close, in whatever thread, and as often as it was; of those
    /// behind the last request that a test has taken.
    pub fn told_to_close(&self) -> Vec<u32> {
        let number = |request: &Request| match request {
            Request::Close { object_id, .. } => Some(*object_id),
            _ => None,
        };
        lock(&self.left).iter().filter_map(number).collect()
    }

    /// Serves until a thread has ended, which must be soon.
    pub fn until_done<T>(&self, thread: JoinHandle<T>) -> Result<T> {
        let deadline = Instant::now() + *SOON;
        while !thread.is_finished() {
            ensure!(
                Instant::now() < deadline,
                "a thread still waits after {:?}",
                *SOON
            );
            // A failed request is what the thread learns of.
            if !self.turn().unwrap_or(false) {
                thread::sleep(Duration::from_micros(200));
            }
        }
        thread.join().ok().context("a thread panicked")
    }

    /// Mounts an image.
    pub fn mount(self: &Arc<Self>, lab: &Lab, fsid: &str) -> Result<Mounted> {
        self.mount_with(lab, fsid, "")
    }

    /// The same with more mount options.
    pub fn mount_with(self: &Arc<Self>, lab: &Lab, fsid: &str, more: &str) -> Result<Mounted> {
        let mount = self.until_done(mounting(lab, fsid, more))?;
        let mount = mount.with_context(|| format!("mounting {fsid}"))?;
        Ok(Mounted {
            mount: Some(mount),
            hand: Arc::clone(self),
        })
    }

    /// Takes over what was mounted in another thread.
    pub fn adopt(self: &Arc<Self>, mount: Mount) -> Mounted {
        Mounted {
            mount: Some(mount),
            hand: Arc::clone(self),
        }
    }
}

/// Mounts in another thread.
pub fn mounting(lab: &Lab, fsid: &str, more: &str) -> JoinHandle<Result<Mount, Errno>> {
    let (base, fsid, more) = (lab.base().to_owned(), fsid.to_owned(), more.to_owned());
    thread::spawn(move || try_mount(&base, fsid.as_bytes(), more.as_bytes()))
}

/// Waits for a thread that must end at once.
pub fn at_once<T>(what: &str, thread: JoinHandle<T>) -> Result<T> {
    within(*AT_ONCE, what, thread)
}

/// A mounted image, whose unmount is served: C's waits for the CLOSE to be read.
pub struct Mounted {
    mount: Option<Mount>,
    hand: Arc<Hand>,
}

impl Mounted {
    /// Its file.
    pub fn file(&self) -> std::path::PathBuf {
        self.mount
            .as_ref()
            .map(|mount| mount.path("file"))
            .unwrap_or_default()
    }

    /// Unmounts it.
    pub fn unmount(mut self) -> Result<()> {
        self.unmount_now()
    }

    /// Unmounts it and leaves its requests unread, where nobody waits for them.
    pub fn unmount_unread(mut self) -> Result<()> {
        self.mount.take().context("not mounted")?.unmount()
    }

    fn unmount_now(&mut self) -> Result<()> {
        let Some(mut mount) = self.mount.take() else {
            return Ok(());
        };
        self.hand
            .until_done(thread::spawn(move || mount.unmount()))?
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount_now() {
            crate::lab::cleanup_failed(&format!("{error:#}"));
        }
    }
}

/// A mounted `meta`, and the fd of its blob, which is open.
pub struct Scene {
    /// The mounted image.
    pub mount: Mounted,
    /// The blob.
    pub blob: Open,
    /// The daemon.
    pub hand: Arc<Hand>,
    /// The module and the backing file system.
    pub cache: Cache,
}

impl Scene {
    /// Sets it.
    pub fn new(lab: &Lab) -> Result<Scene> {
        let cache = lab.cache()?;
        let hand = Hand::bind(&cache)?;
        let mount = hand.mount(lab, "meta")?;
        let blob = hand.opened()?;
        Ok(Scene {
            mount,
            blob,
            hand,
            cache,
        })
    }

    /// A thread that reads a block.
    pub fn reader(&self, block: u32) -> JoinHandle<io::Result<Vec<u8>>> {
        stage::read_block(&self.mount.file(), block)
    }

    /// A block that nobody has read is served.
    pub fn still_serves(&self, block: u32) -> Result<()> {
        served(&self.hand, &self.blob.object, &self.mount.file(), block)
    }
}

/// Reads a block that is missing, and answers.
pub fn served(hand: &Hand, object: &ObjectFd, file: &Path, block: u32) -> Result<()> {
    let reader = stage::read_block(file, block);
    let read = hand.read()?;
    ensure!(
        read.offset == u64::from(block) * BLOCK,
        "a READ at {}",
        read.offset
    );
    read.answer(object)?;
    stage::expect_data(hand.until_done(reader)?, block)
}

/// A thread that does something again and again until it is stopped.
pub struct Again {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Again {
    /// Starts it.
    pub fn and_again(mut what: impl FnMut() + Send + 'static) -> Again {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                what();
            }
        });
        Again {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            crate::lab::cleanup_failed("a racing thread panicked");
        }
    }
}
