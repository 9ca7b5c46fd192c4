// SPDX-License-Identifier: GPL-2.0

//! The world around the rules: the table, objects, tasks that wait, and what a daemon has.
//!
//! Lives here: what there is. What is done to it is in `table.rs`, what can happen in `model.rs`.

use crate::invariant::Bug;
use crate::ondemand::rules::Ask;
use crate::ondemand::state::{ObjectId, OpeningFd, State};

/// Objects.
pub const OBJECTS: usize = 2;
/// Tasks that look up or read.
pub const TASKS: usize = 3;
/// Message ids; the first that is given is the last of them, so that they wrap around. None is given
/// twice: in the module this takes four billion requests.
pub const IDS: usize = 12;
/// The size of every object.
pub(crate) const SIZE: u64 = 4096;

/// Who a request is: its identity, where the module compares addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A READ of this task, after so many others of it.
    Task(usize, u8),
    /// The first OPEN of an object.
    Lookup(usize),
    /// The reopening of an object, the how many-th.
    Reopen(usize, u8),
    /// The CLOSE of an object.
    Close(usize),
}

/// A request in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which one it is.
    pub who: Who,
    /// What is asked.
    pub ask: Ask,
    /// What it is about.
    pub object: usize,
    /// Marked to be delivered.
    pub new: bool,
    /// Taken to be delivered before.
    pub taken: bool,
    /// Whoever waited for it has been told that it failed.
    pub disowned: bool,
    /// How many others were delivered while it could have been.
    pub passed: u8,
}

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

/// An object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// The state that the module keeps.
    pub state: State,
    /// Where it is between the cache and the daemon.
    pub lookup: Lookup,
    /// A lookup has succeeded, and the object has not gone away since.
    pub(crate) in_service: bool,
    /// It has gone away.
    pub(crate) dropped: bool,
    /// So many are about to store an OPEN for an fd that was lost.
    pub to_reopen: u8,
    /// Somebody is about to store a CLOSE for this fd.
    pub(crate) to_close: Option<ObjectId>,
    /// The daemon has read a CLOSE.
    pub(crate) told_to_close: bool,
    /// The daemon has refused the object when it had this fd, which it then closes by itself.
    pub(crate) unwanted: Option<ObjectId>,
    pub(crate) reopened: u8,
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// About to ask.
    Begins,
    /// Waiting for the lookup of its object.
    Looks,
    /// About to store an OPEN, in order to come again then.
    Reopens,
    /// Waiting for the READ of this id.
    Waits(usize),
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
}

/// A daemon's fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fd {
    pub(crate) id: ObjectId,
    /// What it is about.
    pub object: usize,
    /// Its daemon is gone, so that it will be closed.
    pub old: bool,
}

/// A message that a daemon has read and not forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub(crate) id: usize,
    /// The request.
    pub who: Who,
    pub(crate) object: usize,
    pub(crate) open: bool,
}

/// How far a read of the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its message is being copied.
    Picked,
    /// The state has the fd, the daemon not yet.
    Held,
}

/// A read of the device that has found a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub(crate) id: usize,
    /// The request.
    pub who: Who,
    pub(crate) ask: Ask,
    pub(crate) object: usize,
    pub(crate) fd: ObjectId,
    pub(crate) phase: Phase,
    /// Its daemon is gone.
    pub(crate) old: bool,
}

/// What is left of what may happen only so often, to keep the exploration finite and short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// An fd is closed by a daemon that lives.
    pub closes: u8,
    /// A copy or an allocation fails.
    pub faults: u8,
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
    pub(crate) next_delivery: usize,
    pub(crate) next_id: usize,
    /// How many ids were given.
    pub(crate) given: usize,
    /// The table.
    pub slots: [Option<Entry>; IDS],
    /// The objects.
    pub objects: [Object; OBJECTS],
    /// The tasks.
    pub tasks: [Task; TASKS],
    /// Fds that a daemon can use.
    pub fds: Vec<Fd>,
    /// What the daemon has read.
    pub messages: Vec<Told>,
    /// Reads of the device under way.
    pub reading: [Option<Reading>; 2],
    /// The daemon has not come to an end of what there is to read.
    pub awake: bool,
    /// An edge that the daemon has not seen yet.
    pub edge: bool,
    pub(crate) budget: Budget,
    /// What went wrong. Nothing happens afterwards.
    pub bug: Option<Bug>,
}

impl World {
    /// The requests in the table, by their ids.
    pub fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(id, slot)| slot.as_ref().map(|entry| (id, entry)))
    }

    /// Whether this object's fd is visible or about to be.
    pub fn fd_lives(&self, id: ObjectId, object: usize) -> bool {
        let visible = |fd: &Fd| fd.id == id && fd.object == object;
        let held = |reading: &Reading| {
            reading.fd == id && reading.object == object && reading.phase == Phase::Held
        };
        self.fds.iter().any(visible) || self.reading.iter().flatten().any(held)
    }

    pub(crate) fn holds(&self, id: usize, who: Who) -> bool {
        self.slots[id].is_some_and(|entry| entry.who == who)
    }

    pub(crate) fn wake(&mut self) {
        self.edge = true;
    }

    pub(crate) fn blame(&mut self, bug: Bug) {
        self.bug.get_or_insert(bug);
    }

    /// Lets the ones who wait go on.
    pub(crate) fn finish(&mut self, who: Who, success: bool) {
        match who {
            Who::Task(t, n) => {
                let task = &mut self.tasks[t];
                if task.done != n || !matches!(task.at, At::Waits(_)) {
                    return self.blame(Bug::AnsweredTwice);
                }
                task.next(success);
            }
            Who::Lookup(o) => {
                let object = &mut self.objects[o];
                if object.lookup != Lookup::Asked {
                    return self.blame(Bug::AnsweredTwice);
                }
                object.lookup = match success {
                    true => Lookup::Accepted,
                    false => Lookup::Failed,
                };
            }
            Who::Reopen(..) | Who::Close(_) => {}
        }
    }

    /// The lowest number that nobody knows. (The module's go round.)
    pub(crate) fn free_fd(&self) -> ObjectId {
        let named = |ask: Ask, id| ask == Ask::Close(id);
        let known = |id| {
            self.fds.iter().any(|fd| fd.id == id)
                || self.objects.iter().any(|object| object.knows(id))
                || self.entries().any(|(_, entry)| named(entry.ask, id))
                || self
                    .reading
                    .iter()
                    .flatten()
                    .any(|reading| reading.fd == id || named(reading.ask, id))
        };
        (1..).find(|&id| !known(id)).unwrap_or(ObjectId::MAX)
    }
}

impl Object {
    /// The fd that the module's state names.
    pub(crate) fn fd(&self) -> Option<ObjectId> {
        match self.state {
            State::Open(fd)
            | State::Opening {
                fd: OpeningFd::Held(fd),
                ..
            }
            | State::Refused(fd)
            | State::Late(fd)
            | State::Orphaned(fd) => Some(fd),
            State::Dropped(fd) => fd,
            State::Closed | State::Opening { .. } => None,
        }
    }

    fn knows(&self, fd: ObjectId) -> bool {
        [self.fd(), self.to_close, self.unwanted].contains(&Some(fd))
    }
}

impl Task {
    /// One request is over.
    pub(crate) fn next(&mut self, success: bool) {
        self.done += 1;
        let all = self.reads + u8::from(self.opens);
        self.at = if success && self.done < all {
            At::Begins
        } else {
            At::Ended
        };
    }
}
