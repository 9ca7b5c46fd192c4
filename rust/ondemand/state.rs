// SPDX-License-Identifier: GPL-2.0

//! What the daemon knows of an object, and what each event makes of it: [`State::on`].
//!
//! Pure core Rust: the module and the host's exploration compile this same file. Here it is decided,
//! in `table.rs` and `deliver.rs` it is done, each decision and its consequences under one hold of
//! `reqs_lock`. Never here: memory, tasks that wait, or in which order objects are served.

/// The number of an anonymous fd's life, never 0. It is new for each fd, also of the same object.
pub type ObjectId = u32;

/// The id of a message.
pub type MsgId = u32;

/// An anonymous fd that the daemon has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fd {
    /// Its number in messages.
    pub id: ObjectId,
    /// Its number in the daemon's file table.
    pub number: u32,
    /// The id of the next message about the object that is no READ: its CLOSE, or the OPEN after
    /// the fd was lost. It is reserved with the fd, so that neither can fail for want of memory.
    pub next: MsgId,
}

/// What the daemon knows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It was not asked.
    New,
    /// It has no fd, and is not asked to take one.
    Closed {
        /// The id of the OPEN that will ask it.
        next: MsgId,
    },
    /// An OPEN is in the table.
    Opening {
        /// The id of the OPEN.
        id: MsgId,
        /// Whether the object was open before: its READs wait for this OPEN.
        again: bool,
        /// How far the OPEN is.
        open: Open,
    },
    /// It has the fd and serves the object.
    Open(Fd),
    /// It has refused the object and still holds the fd: no second one is made meanwhile.
    Refused(Fd),
    /// It has answered the OPEN too late or with another size than before, and holds the fd. It
    /// does not know that the object is not served.
    Late(Fd),
    /// The object goes away, but the daemon has this fd and has yet to answer the OPEN. The answer
    /// is taken, and a CLOSE follows.
    Orphaned {
        /// The id of the OPEN.
        id: MsgId,
        /// The fd.
        fd: Fd,
    },
    /// The object goes away, and the daemon has to be told to close this fd.
    Closing {
        /// The fd.
        fd: Fd,
        /// The CLOSE is just being copied.
        copying: bool,
    },
    /// The object goes away, or the cache is dead. Nothing leads out of here.
    Gone,
}

/// How far an OPEN is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Open {
    /// It is to be delivered.
    Unread {
        /// It was read before, and the fd lost with which this id was reserved.
        lost: Option<MsgId>,
    },
    /// It is just being copied.
    Copying {
        /// As before.
        lost: Option<MsgId>,
        /// It is to be delivered again if the fd of this delivery is lost.
        restored: bool,
    },
    /// The daemon has read it and holds the fd.
    Held {
        /// The fd.
        fd: Fd,
        /// It is to be delivered again if the fd is lost.
        restored: bool,
    },
    /// The daemon has read it, and has closed the fd.
    Lost {
        /// The id that was reserved with the fd.
        next: MsgId,
    },
}

/// What can happen to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lookup wants the daemon to take an fd, by an OPEN of this id.
    Lookup(MsgId),
    /// A read has met a hole.
    Miss,
    /// A delivery takes the object's [next message](State::next_message).
    Taken,
    /// The OPEN of this id was copied to the daemon, with this fd, which becomes visible now.
    OpenCopied(MsgId, Fd),
    /// The CLOSE of this fd was copied to the daemon.
    CloseCopied(ObjectId),
    /// The OPEN or CLOSE of this id could not be copied.
    NotCopied(MsgId),
    /// The daemon answers the OPEN of this id.
    Answered {
        /// The id that it names.
        id: MsgId,
        /// The size that it tells; `None` if it refuses the object.
        size: Option<u64>,
        /// The size that an object has that was open before.
        known: u64,
    },
    /// A lookup has waited for too long.
    Expired,
    /// The last reference to the fd of this number is gone.
    Released {
        /// The number.
        fd: ObjectId,
        /// Whether READs of the object are in the table.
        reads: bool,
    },
    /// The object goes away.
    Dropped,
    /// A daemon takes over what another one has read and not answered.
    Restored,
    /// The cache is dead.
    Died,
}

/// What an event means for the READs of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Nothing.
    Stay,
    /// Those that were delivered are to be delivered again.
    Again,
    /// They fail.
    Fail,
}

/// What is to be delivered of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The OPEN of this id.
    Open(MsgId),
    /// The CLOSE of this fd, whose id is that of the fd's next message.
    Close(Fd),
    /// A READ of the object that has this fd.
    Read(Fd),
}

/// How far a READ is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Read {
    /// It was never delivered.
    Unread,
    /// It was delivered, and is to be once more.
    Again,
    /// It is being delivered, or was.
    Taken,
    /// It is not in the table.
    Over,
}

const UNREAD: Open = Open::Unread { lost: None };

impl State {
    /// What `event` makes of the object. `None` if it means nothing in this state: then the caller is
    /// refused, and nothing has changed.
    #[must_use]
    pub fn on(self, event: Event) -> Option<(State, Reads)> {
        use Event as E;
        use State as S;
        let again = |id| S::Opening {
            id,
            again: true,
            open: UNREAD,
        };
        let closing = |fd| S::Closing { fd, copying: false };
        Some(match (self, event) {
            (S::New, E::Lookup(id)) => {
                let open = UNREAD;
                (
                    S::Opening {
                        id,
                        again: false,
                        open,
                    },
                    Reads::Stay,
                )
            }
            (_, E::Died) => (S::Gone, Reads::Fail),

            (S::Opening { again: true, .. }, E::Miss) => (self, Reads::Stay),
            (S::Opening { id, again, open }, _) => return open.on(event, id, again),

            (S::Closed { next }, E::Miss) => (again(next), Reads::Stay),
            (S::New | S::Closed { .. } | S::Refused(_), E::Dropped) => (S::Gone, Reads::Fail),

            (S::Open(_), E::Miss | E::Taken) => (self, Reads::Stay),
            (S::Open(_), E::Restored) => (self, Reads::Again),
            (
                S::Open(fd),
                E::Released {
                    fd: of,
                    reads: true,
                },
            ) if fd.id == of => (again(fd.next), Reads::Again),
            (S::Open(fd) | S::Refused(fd) | S::Late(fd), E::Released { fd: of, .. })
                if fd.id == of =>
            {
                (S::Closed { next: fd.next }, Reads::Stay)
            }
            (S::Open(fd) | S::Late(fd), E::Dropped) => (closing(fd), Reads::Fail),

            (S::Orphaned { id, fd }, E::Answered { id: of, size, .. }) if id == of => match size {
                Some(_) => (closing(fd), Reads::Stay),
                None => (S::Gone, Reads::Stay),
            },
            // The daemon can neither answer any more nor has it to be told.
            (S::Orphaned { fd, .. } | S::Closing { fd, .. }, E::Released { fd: of, .. })
                if fd.id == of =>
            {
                (S::Gone, Reads::Stay)
            }

            // `restore` does not repeat a CLOSE that is being copied: the number may be another file's.
            (S::Closing { fd, copying: false }, E::Taken) => {
                (S::Closing { fd, copying: true }, Reads::Stay)
            }
            (S::Closing { fd, .. }, E::CloseCopied(of)) if fd.id == of => (S::Gone, Reads::Stay),
            (S::Closing { fd, .. }, E::NotCopied(of)) if fd.next == of => {
                (closing(fd), Reads::Stay)
            }
            _ => return None,
        })
    }

    /// What can be delivered now; `reads`: whether the object has READs that are to be delivered.
    pub const fn next_message(self, reads: bool) -> Option<Message> {
        match self {
            State::Opening {
                id,
                open: Open::Unread { .. },
                ..
            } => Some(Message::Open(id)),
            State::Closing { fd, copying: false } => Some(Message::Close(fd)),
            State::Open(fd) if reads => Some(Message::Read(fd)),
            _ => None,
        }
    }

    /// The ids that are taken for OPENs and the CLOSE of the object. One that the state does not
    /// name any more is free.
    pub const fn ids(self) -> [Option<MsgId>; 2] {
        match self {
            State::New | State::Gone => [None, None],
            State::Closed { next } => [Some(next), None],
            State::Opening { id, open, .. } => match open {
                Open::Unread { lost } | Open::Copying { lost, .. } => [Some(id), lost],
                Open::Held { fd, .. } => [Some(id), Some(fd.next)],
                Open::Lost { next } => [Some(id), Some(next)],
            },
            State::Open(fd) | State::Refused(fd) | State::Late(fd) | State::Closing { fd, .. } => {
                [Some(fd.next), None]
            }
            State::Orphaned { id, fd } => [Some(id), Some(fd.next)],
        }
    }

    /// Whether a lookup waits for the answer to the object's first OPEN.
    pub const fn is_looked_up(self) -> bool {
        matches!(self, State::Opening { again: false, .. })
    }
}

impl Open {
    /// The same for an object whose OPEN, of this `id`, is in the table.
    fn on(self, event: Event, id: MsgId, again: bool) -> Option<(State, Reads)> {
        use Event as E;
        use Open as O;
        let to = |open| (State::Opening { id, again, open }, Reads::Stay);
        let closed = |next| State::Closed { next };
        Some(match (self, event) {
            (O::Unread { lost }, E::Taken) => to(O::Copying {
                lost,
                restored: false,
            }),
            (O::Copying { restored, .. }, E::OpenCopied(of, fd)) if id == of => {
                to(O::Held { fd, restored })
            }
            (O::Copying { lost, .. }, E::NotCopied(of)) if id == of => to(O::Unread { lost }),

            (
                O::Held { fd, .. },
                E::Answered {
                    id: of,
                    size,
                    known,
                },
            ) if id == of => match size {
                Some(size) if again && size != known => (State::Late(fd), Reads::Fail),
                Some(_) => (State::Open(fd), Reads::Stay),
                // A daemon that refuses an object closes the fd by itself.
                None => (State::Refused(fd), Reads::Fail),
            },
            // What was never read, and so has lost nothing, cannot be meant.
            (
                O::Lost { next }
                | O::Unread { lost: Some(next) }
                | O::Copying {
                    lost: Some(next), ..
                },
                E::Answered { id: of, .. },
            ) if id == of => (closed(next), Reads::Fail),

            // The id of what was read is not used again: the answer may be under way.
            (O::Unread { lost } | O::Copying { lost, .. }, E::Expired) if !again => {
                (closed(lost.unwrap_or(id)), Reads::Stay)
            }
            (O::Held { fd, .. }, E::Expired) if !again => (State::Late(fd), Reads::Stay),
            (O::Lost { next }, E::Expired) if !again => (closed(next), Reads::Stay),

            (O::Held { fd, restored }, E::Released { fd: of, .. }) if fd.id == of => {
                match (restored, fd.next) {
                    (true, next) => to(O::Unread { lost: Some(next) }),
                    (false, next) => to(O::Lost { next }),
                }
            }

            (O::Held { fd, .. }, E::Dropped) => (State::Orphaned { id, fd }, Reads::Fail),
            (_, E::Dropped) => (State::Gone, Reads::Fail),

            // There is never a second fd: it is delivered again once the first is released.
            (O::Held { fd, .. }, E::Restored) => to(O::Held { fd, restored: true }),
            (O::Copying { lost, .. }, E::Restored) => to(O::Copying {
                lost,
                restored: true,
            }),
            (O::Lost { next }, E::Restored) => to(O::Unread { lost: Some(next) }),
            _ => return None,
        })
    }
}

impl Read {
    /// Whether an answer can be meant for this READ. `own`: it is about the object whose fd the
    /// answer came through, if it came through one.
    pub const fn may_be_answered(self, own: bool) -> bool {
        own && matches!(self, Read::Taken | Read::Again)
    }
}
