// SPDX-License-Identifier: GPL-2.0

//! What must never happen, and what has to be possible.
//!
//! Lives here: what is wrong with a state of the world as a whole. What is wrong with a step is
//! noticed by the step, in `table.rs` and `daemon.rs`, and kept in the state.

use crate::ondemand::state::{Open, Read, State};
use crate::table::Table;
use crate::world::{At, Held, Lookup, Place, World, OBJECTS};
use stateright::Property;

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident: $property:literal,)*) => {
        /// What went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug,)*];

            /// What is true if there is no such bug.
            pub const fn property(self) -> &'static str {
                match self {
                    $(Bug::$bug => $property,)*
                }
            }
        }
    };
}

bugs! {
    /// A task waits for what cannot come.
    Hang: "nobody waits for what cannot come",
    /// A request is in the table for ever, though no task waits for it.
    Stuck: "no request stays that nobody can end",
    /// A task waits though the cache is dead.
    HangWhenDead: "nobody waits once the daemon is gone",
    /// A task waits though it is killed.
    Unkillable: "who is killed does not wait",
    /// A request that is over was finished once more.
    AnsweredTwice: "no request is answered twice",
    /// A request was finished by an answer that was meant for another.
    AnotherAnswer: "no request is answered by another's answer",
    /// A request succeeded without an answer.
    NoAnswer: "no request succeeds without an answer",
    /// copen finished a READ, or cread something else.
    WrongKind: "no request is answered as another kind",
    /// An answer through one object's fd finished a request about another.
    WrongObject: "no request is answered through another object's fd",
    /// A request was answered that nobody had been told of.
    AnsweredUnread: "no request is answered that was not delivered",
    /// An object has two fds.
    TwoFds: "no object has two fds",
    /// There is an fd that no message has told.
    UntoldFd: "no fd is visible that was not told",
    /// An fd was made for a request that was over.
    FdForNobody: "no fd is made for a request that is over",
    /// An fd was made for an object that is gone.
    FdOfDead: "no fd is made for a dead object",
    /// An object counts as open, but its fd is gone.
    OpenWithoutFd: "no object is open without an fd",
    /// A READ was delivered about an object that is not open.
    ReadOfClosed: "no READ is delivered unless its object is open",
    /// An object is opened again with another size.
    OtherSize: "no object changes its size",
    /// The daemon was told twice to close one fd.
    ClosedTwice: "no CLOSE is delivered twice",
    /// A CLOSE was delivered about an fd that is gone, whose number another may have.
    CloseOfGone: "no CLOSE is delivered about an fd that is gone",
    /// A daemon keeps the fd of an object that is gone, and nobody will tell it.
    KeptFd: "no daemon is left with the fd of a dead object",
    /// What could be delivered was passed over too often.
    Starved: "what could be delivered is, after at most as many deliveries as there are objects",
    /// An OPEN for which there was no fd is tried again at once.
    Spins: "a daemon without fds is not kept busy",
    /// The OPEN of new keys was delivered before the CLOSE of the same.
    OpenBeforeClose: "the CLOSE of an object comes before the next OPEN of its keys",
    /// There is something to read, and the daemon sleeps.
    LostWakeUp: "no wake-up is lost",
}

/// The property of every exploration: a single one, because it is looked at in each state.
pub fn properties() -> Vec<Property<Table>> {
    let holds = |table: &Table, world: &World| match table.looks_for {
        Some(bug) => world.bug != Some(bug),
        None => world.bug.is_none(),
    };
    vec![Property::<Table>::always("nothing goes wrong", holds)]
}

/// What is wrong with the world as it is.
pub fn examine(table: &Table, world: &World) -> Option<Bug> {
    for (o, object) in world.objects.iter().enumerate() {
        if let State::Open(fd) = object.state {
            if !world.fd_lives(fd.id, o) {
                return Some(Bug::OpenWithoutFd);
            }
        }
        if world.fds.iter().filter(|fd| fd.object == o).count() > 1 {
            return Some(Bug::TwoFds);
        }
        if usize::from(object.passed) >= OBJECTS {
            return Some(Bug::Starved);
        }
    }
    if !world.dead && world.fds.iter().any(|fd| is_kept(table, world, *fd)) {
        return Some(Bug::KeptFd);
    }
    for task in &world.tasks {
        let goes_on = match task.at {
            At::Waits => read_goes_on(table, world, task.object, task.serial, task.read),
            At::Looks if world.objects[task.object].lookup == Lookup::Asked => {
                goes_on(table, world, task.object)
            }
            _ => true,
        };
        if task.killed && matches!(task.at, At::Waits | At::Looks) {
            return Some(Bug::Unkillable);
        }
        let waits = match task.at {
            At::Waits => true,
            At::Looks => world.objects[task.object].lookup == Lookup::Asked,
            _ => false,
        };
        if world.dead && waits {
            return Some(Bug::HangWhenDead);
        }
        if !goes_on {
            return Some(Bug::Hang);
        }
        if task.passed > Table::PATIENCE {
            return Some(Bug::Starved);
        }
    }
    if (0..OBJECTS).any(|o| !goes_on(table, world, o)) {
        return Some(Bug::Stuck);
    }
    let idle = world.reading.iter().all(Option::is_none);
    if idle && !world.awake && !world.ready.is_empty() {
        return Some(Bug::LostWakeUp);
    }
    None
}

/// Whether a daemon that lives has this fd of an object that is gone, no reason to close it, and is not
/// going to be told one.
fn is_kept(table: &Table, world: &World, fd: Held) -> bool {
    let object = &world.objects[fd.object];
    let comes = matches!(object.state, State::Closing { .. } | State::Orphaned { .. });
    object.dropped && !table.closes(world, fd) && !(comes && goes_on(table, world, fd.object))
}

/// Whether a thread reads, or the daemon has read and can answer, the request of this number.
fn is_known(table: &Table, world: &World, serial: u32) -> bool {
    let reads = world
        .reading
        .iter()
        .flatten()
        .any(|reading| reading.serial == serial);
    reads || table.stray || world.messages.iter().any(|told| told.serial == serial)
}

/// Whether something that is bound to happen, or that a willing daemon can do, leads on from the OPEN or
/// the CLOSE of an object, if it has one.
fn goes_on(table: &Table, world: &World, o: usize) -> bool {
    let object = &world.objects[o];
    // The fds of a daemon that is gone are bound to be closed.
    let fd_goes = world.fds.iter().any(|fd| fd.object == o && fd.old);
    let being_read = || {
        let mut reading = world.reading.iter().flatten();
        reading.any(|reading| reading.object == o && reading.read.is_none())
    };
    let in_turn = match object.place {
        Place::Ready => world.ready.contains(&o),
        Place::Parked => world.parked.contains(&o) && world.retrying,
        Place::Idle => false,
    };
    match object.state {
        State::Opening { open, .. } => match open {
            Open::Unread { .. } => in_turn,
            Open::Copying { .. } => being_read(),
            Open::Held { restored, .. } => {
                is_known(table, world, object.serial) || (restored && fd_goes)
            }
            Open::Lost { .. } => is_known(table, world, object.serial),
        },
        State::Orphaned { .. } => is_known(table, world, object.serial) || fd_goes,
        State::Closing { copying, .. } => in_turn || (copying && being_read()) || fd_goes,
        _ => true,
    }
}

/// The same from a READ.
fn read_goes_on(table: &Table, world: &World, o: usize, serial: u32, read: Read) -> bool {
    match world.objects[o].state {
        State::Open(_) => match read {
            Read::Unread | Read::Again => world.ready.contains(&o),
            Read::Taken => {
                is_known(table, world, serial)
                    || world.fds.iter().any(|fd| fd.object == o && fd.old)
            }
            Read::Over => false,
        },
        State::Opening { again: true, .. } => read != Read::Taken && goes_on(table, world, o),
        _ => false,
    }
}
