// SPDX-License-Identifier: GPL-2.0

//! What must never happen, and what has to be possible.
//!
//! Lives here: what is wrong with a state of the world as a whole. What is wrong with a step is
//! noticed by the step, in `world.rs`, and kept in the state.

use crate::ondemand::rules::Ask;
use crate::ondemand::state::State;
use crate::table::Table;
use crate::world::{At, Fd, Who, World, OBJECTS};
use stateright::Property;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Somebody waits for what cannot come.
    Hang,
    /// Somebody waits though the cache is dead.
    HangWhenDead,
    /// Somebody waits though it is killed.
    Unkillable,
    /// A request that is over was finished once more.
    AnsweredTwice,
    /// A request was finished by an answer that was meant for another.
    AnotherAnswer,
    /// A request succeeded without an answer.
    NoAnswer,
    /// copen finished a READ, or cread something else.
    WrongKind,
    /// An answer through one object's fd finished a request about another.
    WrongObject,
    /// A request was answered that nobody had been told of.
    AnsweredUnread,
    /// A request failed because of what happened to another object.
    FailedForAnother,
    /// An object has two fds.
    TwoFds,
    /// There is an fd that no message has told.
    UntoldFd,
    /// An fd was made for a request that was over.
    FdForNobody,
    /// An fd was made for an object that is gone.
    FdOfDead,
    /// An object counts as open, but its fd is gone.
    OpenWithoutFd,
    /// An object is open, and an OPEN about it is in the table.
    OpenAndOpening,
    /// A READ was delivered about an object that is not open.
    ReadOfClosed,
    /// The daemon was told twice to close one fd.
    ClosedTwice,
    /// A daemon keeps the fd of an object that is gone, and nobody will tell it.
    KeptFd,
    /// A request that could be delivered was passed over too often.
    Starved,
    /// There is something to read, and the daemon sleeps.
    LostWakeUp,
}

/// Each kind of bug with the property that there is none.
pub const BUGS: [(Bug, &str); 21] = [
    (Bug::Hang, "nobody waits for what cannot come"),
    (Bug::HangWhenDead, "nobody waits once the daemon is gone"),
    (Bug::Unkillable, "who is killed does not wait"),
    (Bug::AnsweredTwice, "no request is answered twice"),
    (
        Bug::AnotherAnswer,
        "no request is answered by another's answer",
    ),
    (Bug::NoAnswer, "no request succeeds without an answer"),
    (Bug::WrongKind, "no request is answered as another kind"),
    (
        Bug::WrongObject,
        "no request is answered through another object's fd",
    ),
    (
        Bug::AnsweredUnread,
        "no request is answered that was not delivered",
    ),
    (
        Bug::FailedForAnother,
        "no request fails for another object's sake",
    ),
    (Bug::TwoFds, "no object has two fds"),
    (Bug::UntoldFd, "no fd is visible that was not told"),
    (Bug::FdForNobody, "no fd is made for a request that is over"),
    (Bug::FdOfDead, "no fd is made for a dead object"),
    (Bug::OpenWithoutFd, "no object is open without an fd"),
    (Bug::OpenAndOpening, "no object is both open and reopening"),
    (
        Bug::ReadOfClosed,
        "no READ is delivered unless its object is open",
    ),
    (Bug::ClosedTwice, "no CLOSE is delivered twice"),
    (
        Bug::KeptFd,
        "no daemon is left with the fd of a dead object",
    ),
    (Bug::Starved, "no request is passed over again and again"),
    (Bug::LostWakeUp, "no wake-up is lost"),
];

/// The properties of every exploration.
pub fn properties() -> Vec<Property<Table>> {
    let mut all = Vec::new();
    macro_rules! each {
        ($($n:literal)*) => {
            $(all.push(Property::<Table>::always(BUGS[$n].1, |_, world| {
                world.bug != Some(BUGS[$n].0)
            }));)*
        };
    }
    each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20);
    all
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
            if !world.fd_lives(fd) {
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
        let At::Waits(id) = task.at else { continue };
        if task.killed {
            return Some(Bug::Unkillable);
        }
        if world.dead {
            return Some(Bug::HangWhenDead);
        }
        let own = world.slots[id].filter(|entry| entry.who == Who::Task(t, task.done));
        if own.is_none() || !can_go_on(table, world, id) {
            return Some(Bug::Hang);
        }
    }
    let idle = world.reading.iter().all(Option::is_none)
        && world.objects.iter().all(|object| !object.to_reopen);
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

/// Whether a daemon that lives has this fd of an object that is gone, and is not going to be told.
fn is_kept(table: &Table, world: &World, fd: Fd) -> bool {
    let object = &world.objects[fd.object];
    if fd.old || !object.dropped || object.told_to_close || object.unwanted {
        return false;
    }
    let comes = world.entries().any(|(id, entry)| {
        entry.object == fd.object
            && match entry.ask {
                Ask::Open { .. } => can_go_on(table, world, id),
                Ask::Close(_) => true,
                Ask::Read { .. } => false,
            }
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
                world.objects[entry.object].to_reopen
                    || world
                        .tasks
                        .iter()
                        .any(|task| task.object == entry.object && task.at == At::Reopens)
            }
            _ => false,
        },
        Ask::Close(_) => true,
    }
}
