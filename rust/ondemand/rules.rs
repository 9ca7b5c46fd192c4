// SPDX-License-Identifier: GPL-2.0

//! The rules of the request table: what may be stored, delivered and answered, and what each event
//! does to which requests.
//!
//! Pure core Rust: the module and the host's exploration compile this same file. Here it is decided,
//! in `table.rs` and `deliver.rs` it is done, each decision and its consequences under one hold of
//! `reqs_lock`. How an object's fd lives is in `state.rs`; never here: a request's memory, its id,
//! or who waits for it.

use super::state::{Answered, ObjectId, Released, Reply, State, WantOpen, WantRead};

/// What the daemon is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// To take an fd and tell the size.
    Open {
        /// The size that the object has, where it was open before. Then nobody waits.
        known_size: Option<u64>,
    },
    /// To close the fd of this number. Nobody answers, and nobody waits.
    Close(ObjectId),
    /// To store this range.
    Read {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// What somebody who wants an OPEN for a lost fd finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantReopen {
    /// Store the request.
    Store,
    /// Somebody else has stored it, or the object is not without an fd any more.
    Needless,
    /// Nobody would answer it.
    Never,
}

/// What follows once the daemon has, or has not, got the copy of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It stays in the table until it is answered.
    Stays,
    /// It is over: nobody answers it.
    Over,
    /// It stays, and its fd becomes visible.
    Publish,
    /// It ended while it was copied: no fd becomes visible, and the daemon has read nothing. There
    /// may be more to read.
    Void,
    /// As before, but another delivery was faster. It is new again, for the case that the other
    /// one's daemon is gone: it is delivered once that one's fd is released.
    Again,
}

/// How an OPEN ends for the one who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenEnd {
    /// The daemon serves the object, which has this size.
    Opened(u64),
    /// The daemon tells another size than before.
    OtherSize,
    /// The daemon has closed the fd already.
    FdGone,
    /// The daemon does not serve it.
    Refused,
    /// The object has gone away since the daemon was asked. Nobody is to be told any more, but the
    /// daemon, that it is to close this fd.
    ObjectGone(ObjectId),
}

/// What happens to several requests at once. "The object" is the one that the event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A daemon takes over what another one has read and not answered.
    Restored,
    /// The fd of this number is gone. `lost`: the object was open through it.
    FdReleased {
        /// The number.
        fd: ObjectId,
        /// Whether the object is without an fd now.
        lost: bool,
        /// Whether the object was only waiting to be gone until its OPEN was answered.
        orphaned: bool,
    },
    /// The object is not opened again.
    NotReopened,
    /// The object goes away.
    Dropped {
        /// Whether the daemon is about to answer its OPEN.
        orphaned: bool,
    },
    /// The cache is dead.
    Dead,
}

/// What an event does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Stays,
    /// It is new again, to be delivered as soon as the object's state allows it.
    Again,
    /// It leaves the table; whoever waits for it learns that it failed.
    Ends,
    /// Whoever waits for it learns that it failed. It stays in the table for the daemon's answer.
    Disowned,
}

/// A lookup wants the object open. Changes the state if a request has to be stored.
pub fn want_open(dead: bool, object: &mut State) -> WantOpen {
    if dead {
        return WantOpen::Never;
    }
    object.want_open()
}

/// A read has met a hole.
pub fn want_read(dead: bool, object: &State) -> WantRead {
    if dead {
        return WantRead::Never;
    }
    object.want_read()
}

/// An OPEN for a lost fd is about to be stored. Changes the state if it has to be.
pub fn want_reopen(dead: bool, object: &mut State) -> WantReopen {
    if dead {
        return WantReopen::Never;
    }
    match object.reopen() {
        true => WantReopen::Store,
        false => WantReopen::Needless,
    }
}

/// Whether a CLOSE of `fd` has to be stored: the daemon may have closed it by itself meanwhile.
pub fn wants_close(dead: bool, object: &State, fd: ObjectId) -> bool {
    !dead && object.to_close() == Some(fd)
}

/// A request that was to be stored could not be, or it ends without an answer.
pub fn abandon(ask: &Ask, object: &mut State) {
    if let Ask::Open { .. } = ask {
        object.answer_open(Reply::Refused);
    }
}

/// The time for a request is over, or the one who waits for it is killed. False if it stays in the
/// table all the same: the daemon is to answer it, and whoever waits is about to be told.
#[must_use]
pub fn expire(ask: &Ask, object: &mut State) -> bool {
    if let Ask::Open { .. } = ask {
        if matches!(object, State::Orphaned(_)) {
            return false;
        }
        object.expire_open();
    }
    true
}

/// Whether a new request may go to the daemon now, and the number that its message names. That of
/// an OPEN is made later.
pub fn may_deliver(ask: &Ask, object: &State) -> Option<ObjectId> {
    match *ask {
        Ask::Open { .. } => object.may_deliver_open().then_some(0),
        Ask::Close(fd) => Some(fd),
        Ask::Read { .. } => object.may_deliver_read(),
    }
}

/// A message was copied to the daemon. `present`: its request is still the one in the table. `fd` is
/// that of an OPEN.
#[must_use]
pub fn copied(ask: &Ask, present: bool, object: &mut State, fd: ObjectId) -> Copied {
    match ask {
        Ask::Open { .. } if present && object.deliver_open(fd) => Copied::Publish,
        Ask::Open { .. } if present => Copied::Again,
        Ask::Open { .. } => Copied::Void,
        Ask::Close(_) if present => Copied::Over,
        Ask::Close(_) | Ask::Read { .. } => Copied::Stays,
    }
}

/// The daemon answers a request with the size of the object, or with none for a refusal. `None` if
/// that is not an answer to it; otherwise the request leaves the table, and if the second value is
/// true, [`Event::NotReopened`] happens to the object with it.
pub fn answer_open(ask: &Ask, object: &mut State, size: Option<u64>) -> Option<(OpenEnd, bool)> {
    let Ask::Open { known_size } = *ask else {
        return None;
    };
    if !object.may_answer_open() {
        return None;
    }
    let (end, reply) = match (size, known_size) {
        (Some(size), Some(known)) if size != known => (OpenEnd::OtherSize, Reply::OtherSize),
        (Some(size), _) => (OpenEnd::Opened(size), Reply::Accepted),
        (None, _) => (OpenEnd::Refused, Reply::Refused),
    };
    match object.answer_open(reply) {
        Answered::Open => Some((end, false)),
        Answered::Gone(fd) => Some((OpenEnd::ObjectGone(fd), false)),
        Answered::Failed { again, fd_gone } => {
            let end = if fd_gone { OpenEnd::FdGone } else { end };
            Some((end, again))
        }
    }
}

/// Whether a request may be answered as a READ. `own`: it is about the object whose fd the answer
/// came through, if it came through one. `taken`: it was delivered once, at least; before that, an
/// answer can only be meant for a predecessor of the same id.
pub fn may_answer_read(ask: &Ask, own: bool, taken: bool) -> bool {
    matches!(ask, Ask::Read { .. }) && own && taken
}

/// The last reference to the fd of this number is gone. The event happens under the same hold.
pub fn fd_released(object: &mut State, fd: ObjectId) -> Event {
    let released = object.fd_released(fd);
    Event::FdReleased {
        fd,
        lost: released == Released::Closed,
        orphaned: released == Released::Orphaned,
    }
}

/// The object goes away: the fd whose holder has to be told now, and the event, which happens under
/// the same hold. `None` if it has gone already: one whose lookup fails goes then, and once more with
/// its cookie, and its CLOSE is not to end for that.
#[must_use]
pub fn drop_object(object: &mut State) -> Option<(Option<ObjectId>, Event)> {
    if matches!(object, State::Orphaned(_) | State::Dropped(_)) {
        return None;
    }
    let to_close = object.drop_object();
    let orphaned = matches!(object, State::Orphaned(_));
    Some((to_close, Event::Dropped { orphaned }))
}

/// No OPEN could be stored for a lost fd. An event follows unless somebody else could.
pub fn reopen_failed(object: &State) -> Option<Event> {
    (*object == State::Closed).then_some(Event::NotReopened)
}

/// What `event` does to a request. `own`: the request is about the object of the event.
pub fn fate(event: Event, ask: &Ask, own: bool) -> Fate {
    match (event, ask) {
        // A CLOSE that is not new is being copied at this moment, and then over. Twice in the hands
        // of a daemon that closes by number, it would close somebody else's file.
        (Event::Restored, Ask::Close(_)) => Fate::Stays,
        // Also an OPEN whose fd is still held: it is delivered once the old daemon's is released.
        (Event::Restored, Ask::Open { .. } | Ask::Read { .. }) => Fate::Again,
        // Through this fd nobody can answer any more.
        (Event::FdReleased { lost: true, .. }, Ask::Read { .. }) if own => Fate::Again,
        // There is nothing to close any more.
        (Event::FdReleased { fd, .. }, Ask::Close(of)) if fd == *of => Fate::Ends,
        // Nobody answers it any more.
        (Event::FdReleased { orphaned: true, .. }, Ask::Open { .. }) if own => Fate::Ends,
        (Event::NotReopened, Ask::Read { .. }) if own => Fate::Ends,
        // A daemon that has read the OPEN, and has the fd, is not told that there was none.
        (Event::Dropped { orphaned: true }, Ask::Open { .. }) if own => Fate::Disowned,
        (Event::Dropped { .. }, _) if own => Fate::Ends,
        (Event::Dead, _) => Fate::Ends,
        _ => Fate::Stays,
    }
}
