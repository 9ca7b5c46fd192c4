// SPDX-License-Identifier: GPL-2.0

//! One daemon's life, as its threads share it.
//!
//! Lives here: the fds, what was asked and is not answered, what was answered, and what went wrong.
//! Never here: a system call but those that make and close fds.

use super::world::{Source, World};
use anyhow::{Context, Result};
use cachefiles_client::{protocol::message::Layout, DEVICE_PATH};
use fastrand::Rng;
use rustix::fs::{open, Mode, OFlags};
use std::{
    collections::{HashMap, HashSet},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, Mutex, MutexGuard, PoisonError,
    },
};

/// How many requests are remembered, and how many objects are held.
const MEMORY: usize = 128;

/// What stays the same in all copies of an anonymous fd.
pub struct About {
    /// The fd's number in the message.
    pub number: u32,
    /// The object's number; v5 tells none.
    pub object_id: u32,
    /// What it is a file of, as an index of [`World::sources`].
    pub source: usize,
    /// The key of its volume.
    pub volume: Vec<u8>,
    /// Held by whoever uses the fd's position, which all copies share.
    pub position: Mutex<()>,
}

/// An anonymous fd.
pub struct Object {
    /// It.
    pub fd: OwnedFd,
    /// What it is.
    pub about: Arc<About>,
}

/// What the kernel wants.
#[derive(Clone)]
pub enum What {
    /// An answer to an OPEN.
    Open(Arc<About>),
    /// A range, of the object with this number, or in v5 of the fd with this number.
    Read { of: u32, offset: u64, len: u64 },
    /// An end to the object with this number, or in v5 to the fd.
    Close { of: u32 },
}

/// A request that was delivered.
#[derive(Clone)]
pub struct Asked {
    /// What to answer to.
    pub id: u32,
    /// What it wants.
    pub what: What,
}

/// The session.
pub struct Session {
    /// The protocol.
    pub layout: Layout,
    /// Whether the module is C's.
    pub is_peer: bool,
    /// What is true.
    pub world: Arc<World>,
    /// Where the cache is.
    pub dir: PathBuf,
    /// A pair of sockets, through which fds go to oneself.
    pub mail: (UnixDatagram, UnixDatagram),
    /// What is in there, by a number in the message.
    pub mailed: Mutex<HashMap<u64, Arc<About>>>,
    devices: Mutex<Vec<Arc<OwnedFd>>>,
    objects: Mutex<Vec<Arc<Object>>>,
    asked: Mutex<Vec<Asked>>,
    past: Mutex<Vec<Asked>>,
    answered: Mutex<HashSet<u32>>,
    wrong: Mutex<Vec<String>>,
    stopped: AtomicBool,
    operations: AtomicU64,
}

/// A lock that a failed thread does not spoil.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A second fd of the same file.
pub fn copy(fd: &OwnedFd) -> Option<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).ok()
}

impl Session {
    /// Opens the device.
    pub fn open(
        world: &Arc<World>,
        dir: &Path,
        layout: Layout,
        is_peer: bool,
    ) -> Result<Arc<Session>> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = open(DEVICE_PATH, flags, Mode::empty()).context("opening the device")?;
        let mail = UnixDatagram::pair()?;
        mail.0.set_nonblocking(true)?;
        mail.1.set_nonblocking(true)?;
        Ok(Arc::new(Session {
            layout,
            is_peer,
            world: Arc::clone(world),
            dir: dir.to_owned(),
            mail,
            mailed: Mutex::default(),
            devices: Mutex::new(vec![Arc::new(device)]),
            objects: Mutex::default(),
            asked: Mutex::default(),
            past: Mutex::default(),
            answered: Mutex::default(),
            wrong: Mutex::default(),
            stopped: AtomicBool::new(false),
            operations: AtomicU64::new(0),
        }))
    }

    /// Says that something is as it must not be, which ends the run.
    pub fn fail(&self, what: String) {
        let mut wrong = lock(&self.wrong);
        if wrong.len() < 5 {
            wrong.push(what);
        }
        self.stop();
    }

    /// All that was as it must not be.
    pub fn wrongs(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }

    /// Ends the session's threads.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Whether they are to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// One more operation.
    pub fn count(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// The device, by one of its fds.
    pub fn device(&self, random: &mut Rng) -> Option<Arc<OwnedFd>> {
        let devices = lock(&self.devices);
        let at = random.usize(..devices.len().max(1));
        devices.get(at).cloned()
    }

    /// One more fd of the device; one of the others goes if there are many.
    pub fn add_device(&self, fd: OwnedFd, random: &mut Rng) {
        let mut devices = lock(&self.devices);
        devices.push(Arc::new(fd));
        let gone = (devices.len() > 4).then(|| devices.swap_remove(random.usize(..4)));
        drop(devices);
        drop(gone);
    }

    /// What a cookie with this key is a file of.
    pub fn source_of(&self, about: &About) -> Option<&Source> {
        self.world.sources.get(about.source)
    }

    /// Keeps an anonymous fd; the oldest goes if there are many.
    pub fn add_object(&self, object: Object) {
        let mut objects = lock(&self.objects);
        objects.push(Arc::new(object));
        let gone = (objects.len() > MEMORY).then(|| objects.remove(0));
        drop(objects);
        drop(gone);
    }

    /// Some anonymous fd.
    pub fn some_object(&self, random: &mut Rng) -> Option<Arc<Object>> {
        let objects = lock(&self.objects);
        // The later ones are those whose object still lives.
        let last = objects.len().checked_sub(1)?;
        let back = random.usize(..=last).min(random.usize(..=last));
        objects.get(last - back).cloned()
    }

    /// The anonymous fd that a request names.
    pub fn object(&self, of: u32) -> Option<Arc<Object>> {
        let objects = lock(&self.objects);
        let is_it = |object: &&Arc<Object>| of == self.name_of(&object.about);
        objects.iter().rev().find(is_it).cloned()
    }

    /// The number by which requests name it.
    pub fn name_of(&self, about: &About) -> u32 {
        match self.layout {
            Layout::Mainline => about.object_id,
            Layout::V5 => about.number,
        }
    }

    /// Lets one go, with all its copies that are not in use at this moment.
    pub fn forget_object(&self, about: &Arc<About>) {
        let mut gone = vec![];
        let mut objects = lock(&self.objects);
        for at in (0..objects.len()).rev() {
            if Arc::ptr_eq(&objects[at].about, about) {
                gone.push(objects.swap_remove(at));
            }
        }
        drop(objects);
        drop(gone);
    }

    /// Remembers a request.
    pub fn add_asked(&self, asked: Asked) {
        let mut all = lock(&self.asked);
        all.push(asked);
        let old = (all.len() > MEMORY).then(|| all.remove(0));
        drop(all);
        if let Some(old) = old {
            self.add_past(old);
        }
    }

    /// Takes one out that is to be answered.
    pub fn take_asked(&self, random: &mut Rng) -> Option<Asked> {
        let mut all = lock(&self.asked);
        let at = random.usize(..all.len().max(1));
        (at < all.len()).then(|| all.swap_remove(at))
    }

    /// One that is still to be answered, perhaps.
    pub fn peek_asked(&self, random: &mut Rng) -> Option<Asked> {
        let all = lock(&self.asked);
        all.get(random.usize(..all.len().max(1))).cloned()
    }

    /// Remembers one that was answered, or never will be.
    pub fn add_past(&self, asked: Asked) {
        let mut past = lock(&self.past);
        if past.len() < MEMORY {
            past.push(asked);
        } else if let Some(place) = past.get_mut(asked.id as usize % MEMORY) {
            *place = asked;
        }
    }

    /// One of those.
    pub fn some_past(&self, random: &mut Rng) -> Option<Asked> {
        let past = lock(&self.past);
        past.get(random.usize(..past.len().max(1))).cloned()
    }

    /// The kernel has taken an answer.
    pub fn was_answered(&self, id: u32, how: &str) {
        if !lock(&self.answered).insert(id) {
            self.fail(format!("request {id} was answered twice, now by {how}"));
        }
    }

    /// Closes all there is, in any order.
    pub fn close(&self, random: &mut Rng) {
        enum Gone {
            Device(Arc<OwnedFd>),
            Object(Arc<Object>),
        }
        let mut all: Vec<Gone> = vec![];
        all.extend(lock(&self.devices).drain(..).map(Gone::Device));
        all.extend(lock(&self.objects).drain(..).map(Gone::Object));
        if random.bool() {
            random.shuffle(&mut all);
        }
        for gone in all {
            match gone {
                Gone::Device(device) => drop(device),
                Gone::Object(object) => drop(object),
            }
        }
    }
}
