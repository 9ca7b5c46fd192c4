// SPDX-License-Identifier: GPL-2.0

//! The world around the rules: the table, objects, tasks that wait, and what a daemon has.
//!
//! Lives here: what there is. What is done to it is in `table.rs`, what can happen in `model.rs`.

use crate::invariant::Bug;
use crate::ondemand::state::{Fd, Message, MsgId, ObjectId, Open, Read, State};

/// Objects.
pub const OBJECTS: usize = 2;
/// Tasks that look up or read.
pub const TASKS: usize = 3;
/// So many reads are a stream that never ends.
pub const ENDLESS: u8 = u8::MAX;
/// The size of every object.
pub(crate) const SIZE: u64 = 4096;

/// How far the lookup of an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It has not begun.
    Not,
    /// It waits for the answer to its OPEN.
    Asked,
    /// The daemon has accepted the object, and a worker is about to put it into service.
    Accepted,
    /// There is no answer, or a refusal, and a worker is about to give the object up.
    Failed,
    /// It is over.
    Over,
}

/// Which list an object is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// None.
    Idle,
    /// The one of objects that have something to deliver.
    Ready,
    /// The one of objects whose OPEN waits for an fd.
    Parked,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The state that the module keeps.
    pub state: State,
    /// Tasks whose READs are to be delivered, in turn.
    pub unread: Vec<usize>,
    /// Tasks whose READs the daemon has.
    pub taken: Vec<usize>,
    pub(crate) place: Place,
    /// How many deliveries there were while it could have had one.
    pub passed: u8,
    /// There was no fd for its OPEN, and nothing has changed since.
    pub(crate) no_fd: bool,
    /// Which OPEN it has, where the module has no need to know.
    pub(crate) serial: u32,
    /// Where it is between the cache and the daemon.
    pub lookup: Lookup,
    /// A lookup has succeeded, and the object has not gone away since.
    pub(crate) in_service: bool,
    /// It has gone away.
    pub(crate) dropped: bool,
    /// Its withdrawal is over.
    pub(crate) let_go: bool,
    /// That did not wait any longer for its CLOSE to be read.
    pub(crate) given_up: bool,
    /// The daemon has read a CLOSE.
    pub(crate) told_to_close: bool,
    /// The daemon has refused the object when it had this fd, which it then closes by itself.
    pub(crate) unwanted: Option<ObjectId>,
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// About to ask.
    Begins,
    /// Waiting for the lookup of its object.
    Looks,
    /// Waiting for its READ.
    Waits,
    /// It has nothing more to ask.
    Ended,
}

/// A task that looks up an object, reads it, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// What it is about.
    pub object: usize,
    /// What it is doing.
    pub at: At,
    /// Whether a lookup comes first.
    pub(crate) opens: bool,
    /// How many reads.
    pub(crate) reads: u8,
    /// How many requests are behind it.
    pub done: u8,
    /// It was killed.
    pub killed: bool,
    /// Its READ.
    pub read: Read,
    pub(crate) id: MsgId,
    /// Which READ that is; without the rule of ids, many can have the same id.
    pub(crate) serial: u32,
    /// How many other READs of the object were delivered since it is in turn.
    pub passed: u8,
}

/// An fd that a daemon can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub(crate) id: ObjectId,
    /// What it is about.
    pub object: usize,
    /// Its daemon is gone, so that it will be closed.
    pub old: bool,
}

/// A message that a daemon has read and not forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub(crate) id: MsgId,
    pub(crate) serial: u32,
    pub(crate) object: usize,
    pub(crate) open: bool,
}

/// A read of the device that has found a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub(crate) message: Message,
    pub(crate) id: MsgId,
    pub(crate) serial: u32,
    pub(crate) object: usize,
    /// The task whose READ it is, and how far that was.
    pub(crate) read: Option<(usize, Read)>,
    /// That of an OPEN.
    pub(crate) fd: Fd,
    /// The state has the fd, the daemon not yet.
    pub(crate) held: bool,
    /// Its daemon is gone.
    pub(crate) old: bool,
}

/// What is left of what may happen only so often, to keep the exploration finite and short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// An fd is closed by a daemon that lives.
    pub closes: u8,
    /// A copy fails, or a worker.
    pub faults: u8,
    /// There is no fd for an OPEN.
    pub no_fds: u8,
    /// A task that waits is killed.
    pub kills: u8,
    /// A task has waited for too long.
    pub timeouts: u8,
    /// `restore`.
    pub restores: u8,
    /// Another daemon takes over from one that died.
    pub successors: u8,
    /// An object goes away.
    pub drops: u8,
    /// The cache dies.
    pub deaths: u8,
    /// A daemon refuses to open, or tells another size than before.
    pub refusals: u8,
}

/// All there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The cache is dead.
    pub dead: bool,
    pub(crate) last_id: u32,
    pub(crate) last_fd: ObjectId,
    pub(crate) last_serial: u32,
    /// Objects that have something to deliver.
    pub ready: Vec<usize>,
    /// Objects whose OPEN waits for an fd.
    pub parked: Vec<usize>,
    /// A worker is going to try those again.
    pub(crate) retrying: bool,
    /// The objects.
    pub objects: [Object; OBJECTS],
    /// The tasks.
    pub tasks: [Task; TASKS],
    /// Fds that a daemon can use.
    pub fds: Vec<Held>,
    /// What the daemon has read.
    pub messages: Vec<Told>,
    /// Reads of the device under way.
    pub reading: [Option<Reading>; 2],
    /// The daemon has not come to an end of what there is to read.
    pub awake: bool,
    pub(crate) budget: Budget,
    /// What went wrong. Nothing happens afterwards.
    pub bug: Option<Bug>,
}

impl World {
    /// Whether this object's fd is visible or about to be.
    pub fn fd_lives(&self, id: ObjectId, object: usize) -> bool {
        let visible = |fd: &Held| fd.id == id && fd.object == object;
        let held =
            |reading: &Reading| reading.held && reading.fd.id == id && reading.object == object;
        self.fds.iter().any(visible) || self.reading.iter().flatten().any(held)
    }

    /// The serial number of the READ or OPEN in the table that has this id, and its object.
    pub(crate) fn find(&self, id: MsgId) -> Option<(u32, usize)> {
        let read = self
            .tasks
            .iter()
            .find(|task| task.read != Read::Over && task.id == id);
        let open = self
            .objects
            .iter()
            .position(|object| object.open() == Some(id));
        match read {
            Some(task) => Some((task.serial, task.object)),
            None => open.map(|o| (self.objects[o].serial, o)),
        }
    }

    pub(crate) fn blame(&mut self, bug: Bug) {
        self.bug.get_or_insert(bug);
    }
}

impl Object {
    /// The id of its OPEN, if that is in the table.
    pub(crate) fn open(&self) -> Option<MsgId> {
        match self.state {
            State::Opening { id, .. } | State::Orphaned { id, .. } => Some(id),
            _ => None,
        }
    }

    /// The fd that the module's state names.
    pub(crate) fn fd(&self) -> Option<ObjectId> {
        match self.state {
            State::Open(fd)
            | State::Opening {
                open: Open::Held { fd, .. },
                ..
            }
            | State::Refused(fd)
            | State::Late(fd)
            | State::Orphaned { fd, .. }
            | State::Closing { fd, .. } => Some(fd.id),
            _ => None,
        }
    }
}

impl Task {
    /// One request is over.
    pub(crate) fn next(&mut self, success: bool) {
        if self.reads != ENDLESS {
            self.done += 1;
        }
        let all = self.reads.saturating_add(u8::from(self.opens));
        self.at = if success && self.done < all {
            At::Begins
        } else {
            At::Ended
        };
    }
}
