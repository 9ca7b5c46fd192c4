// SPDX-License-Identifier: GPL-2.0

//! What must never happen, and what has to be possible.
//!
//! Lives here: what is wrong with a state of the world as a whole. What is wrong with a step is
//! noticed by the step, in `table.rs` and `daemon.rs`, and kept in the state.

use crate::ondemand::rules::Ask;
use crate::ondemand::state::State;
use crate::table::Table;
use crate::world::{At, Fd, Lookup, Who, World, OBJECTS};
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
    /// Somebody waits for what cannot come.
    Hang: "nobody waits for what cannot come",
    /// A request is in the table for ever, though nobody waits for it.
    Stuck: "no request stays that nobody can end",
    /// Somebody waits though the cache is dead.
    HangWhenDead: "nobody waits once the daemon is gone",
    /// Somebody waits though it is killed.
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
    /// A request failed because of what happened to another object.
    FailedForAnother: "no request fails for another object's sake",
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
    /// An object is open, and an OPEN about it is in the table.
    OpenAndOpening: "no object is both open and reopening",
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
    /// A request that could be delivered was passed over too often.
    Starved: "no request is passed over again and again",
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
    for object in 0..OBJECTS {
        let state = world.objects[object].state;
        let opens = world
            .entries()
            .filter(|(_, entry)| entry.object == object && matches!(entry.ask, Ask::Open { .. }))
            .count();
        if let State::Open(fd) = state {
            if opens > 0 {
                return Some(Bug::OpenAndOpening);
            }
            if !world.fd_lives(fd, object) {
                return Some(Bug::OpenWithoutFd);
            }
        }
        if opens > 1 {
            return Some(Bug::OpenAndOpening);
        }
        if world.fds.iter().filter(|fd| fd.object == object).count() > 1 {
            return Some(Bug::TwoFds);
        }
    }
    if !world.dead && world.fds.iter().any(|fd| is_kept(table, world, *fd)) {
        return Some(Bug::KeptFd);
    }
    for (t, task) in world.tasks.iter().enumerate() {
        let who = match task.at {
            At::Waits(_) => Who::Task(t, task.done),
            At::Looks => Who::Lookup(task.object),
            _ => continue,
        };
        if task.killed {
            return Some(Bug::Unkillable);
        }
        let lookup = world.objects[task.object].lookup;
        if task.at == At::Looks && lookup != Lookup::Asked {
            continue;
        }
        if world.dead {
            return Some(Bug::HangWhenDead);
        }
        let own = world.entries().find(|(_, entry)| entry.who == who);
        if own.is_none_or(|(id, _)| !can_go_on(table, world, id)) {
            return Some(Bug::Hang);
        }
    }
    if world.entries().any(|(id, _)| !can_go_on(table, world, id)) {
        return Some(Bug::Stuck);
    }
    let idle = world.reading.iter().all(Option::is_none)
        && world.objects.iter().all(|object| object.to_reopen == 0);
    if idle && !world.awake && !world.edge && table.next_deliverable(world, 0).is_some() {
        return Some(Bug::LostWakeUp);
    }
    if world
        .entries()
        .any(|(_, entry)| entry.passed > table.patience)
    {
        return Some(Bug::Starved);
    }
    None
}

/// Whether a daemon that lives has this fd of an object that is gone, no reason to close it, and is not
/// going to be told one.
fn is_kept(table: &Table, world: &World, fd: Fd) -> bool {
    let object = &world.objects[fd.object];
    if !object.dropped || table.closes(world, fd) {
        return false;
    }
    let comes = world.entries().any(|(id, entry)| {
        let tells = !matches!(entry.ask, Ask::Read { .. });
        entry.object == fd.object && tells && can_go_on(table, world, id)
    });
    object.to_close.is_none() && !comes
}

/// Whether something that is bound to happen, or that a willing daemon can do, leads on from the
/// request `id`.
fn can_go_on(table: &Table, world: &World, id: usize) -> bool {
    let Some(entry) = world.slots[id] else {
        return false;
    };
    let state = world.objects[entry.object].state;
    let being_read = world
        .reading
        .iter()
        .flatten()
        .any(|reading| reading.who == entry.who);
    if being_read || (entry.new && table.rules.may_deliver(&entry.ask, &state).is_some()) {
        return true;
    }
    let told = table.stray || world.messages.iter().any(|told| told.who == entry.who);
    // The fds of a daemon that is gone are bound to be closed.
    let fd_goes = world
        .fds
        .iter()
        .any(|fd| fd.object == entry.object && fd.old);
    match entry.ask {
        Ask::Open { .. } => (told && state.may_answer_open()) || (entry.new && fd_goes),
        Ask::Read { .. } => match state {
            State::Open(_) => (told && entry.taken) || fd_goes,
            State::Opening { again: true, .. } => world.entries().any(|(open, other)| {
                other.object == entry.object
                    && matches!(other.ask, Ask::Open { .. })
                    && can_go_on(table, world, open)
            }),
            State::Closed => {
                world.objects[entry.object].to_reopen > 0
                    || world
                        .tasks
                        .iter()
                        .any(|task| task.object == entry.object && task.at == At::Reopens)
            }
            _ => false,
        },
        Ask::Close(_) => false,
    }
}
