// SPDX-License-Identifier: GPL-2.0

//! The life of an object's anonymous fd, as one pure state machine.
//!
//! Pure core Rust: the module and the host's tests compile this same file. Every function takes an
//! event and says what has to be done; nothing here does it.

/// The number of an anonymous fd's life, never 0. It is new for each fd, also of the same object.
pub type ObjectId = u32;

/// What the daemon knows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The daemon has no fd and was not asked to take one.
    Closed,
    /// An OPEN request is in the table.
    Opening {
        /// Whether the object was open before: its reads wait for this OPEN.
        again: bool,
        /// How far the fd of this OPEN is.
        fd: OpeningFd,
    },
    /// The daemon has the fd and has answered the OPEN.
    Open(ObjectId),
    /// The daemon has refused the object but still holds the fd: no second one is made meanwhile.
    Refused(ObjectId),
    /// The daemon has not answered the OPEN in the time that it had, or has told another size than
    /// before, and still holds the fd. It does not know that the object is not served.
    Late(ObjectId),
    /// The object goes away while the daemon, which has this fd, is about to answer the OPEN. The
    /// answer is still taken, and then it is told to close the fd.
    Orphaned(ObjectId),
    /// The object goes away. Nothing leads out of here. The fd is that of a daemon that has to be
    /// told, until it has closed it.
    Dropped(Option<ObjectId>),
}

/// The fd of an OPEN request that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpeningFd {
    /// The request was not delivered.
    None,
    /// The daemon has the fd.
    Held(ObjectId),
    /// The daemon had the fd and has closed it.
    Closed,
}

/// What an attempt to make the first fd finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantOpen {
    /// Store an OPEN request.
    Send,
    /// The daemon has the fd already.
    Already,
    /// There will be none.
    Never,
}

/// What a read that misses finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantRead {
    /// Store the READ request; it is delivered when the object is open.
    Store,
    /// The fd is gone: store an OPEN request first, then come again.
    Reopen,
    /// The daemon will not serve it.
    Never,
}

/// What the daemon says when it is asked to open an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It serves the object.
    Accepted,
    /// It serves something of another size than before, which it takes for the object.
    OtherSize,
    /// It does not serve the object; or nothing, and nobody waits for it any more.
    Refused,
}

/// What an answer to an OPEN request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The object is open now.
    Open,
    /// The object is gone: the daemon has to be told to close this fd.
    Gone(ObjectId),
    /// The object stays without a daemon. Reads that wait for it must fail if `again`.
    Failed {
        /// Whether the object had been open before.
        again: bool,
        /// The daemon meant to open it, but has closed the fd already.
        fd_gone: bool,
    },
}

/// Nobody waits for the answer.
const UNHEARD: Answered = Answered::Failed {
    again: false,
    fd_gone: false,
};

/// What the end of an anonymous fd means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// The object is without an fd: unanswered reads are to be delivered again, after a new OPEN.
    Closed,
    /// The object is gone, and with the fd whoever would have answered its OPEN.
    Orphaned,
    /// Nothing depends on this fd.
    Nothing,
}

impl State {
    /// The cache looks the object up and wants the daemon to have an fd.
    pub fn want_open(&mut self) -> WantOpen {
        match *self {
            State::Closed => {
                *self = State::Opening {
                    again: false,
                    fd: OpeningFd::None,
                };
                WantOpen::Send
            }
            State::Open(_) => WantOpen::Already,
            State::Opening { .. }
            | State::Refused(_)
            | State::Late(_)
            | State::Orphaned(_)
            | State::Dropped(_) => WantOpen::Never,
        }
    }

    /// A read has met a hole.
    pub fn want_read(&self) -> WantRead {
        match self {
            State::Open(_) | State::Opening { again: true, .. } => WantRead::Store,
            State::Closed => WantRead::Reopen,
            State::Opening { again: false, .. }
            | State::Refused(_)
            | State::Late(_)
            | State::Orphaned(_)
            | State::Dropped(_) => WantRead::Never,
        }
    }

    /// An OPEN request for a lost fd is about to be stored: true if it still has to be.
    pub fn reopen(&mut self) -> bool {
        if *self != State::Closed {
            return false;
        }
        *self = State::Opening {
            again: true,
            fd: OpeningFd::None,
        };
        true
    }

    /// Whether an OPEN request of this object may be given to the daemon: never a second fd.
    pub const fn may_deliver_open(&self) -> bool {
        matches!(
            self,
            State::Opening {
                fd: OpeningFd::None | OpeningFd::Closed,
                ..
            }
        )
    }

    /// The fd `id` goes to the daemon now, with its OPEN request. False if it may not.
    #[must_use]
    pub fn deliver_open(&mut self, id: ObjectId) -> bool {
        if !self.may_deliver_open() {
            return false;
        }
        if let State::Opening { fd, .. } = self {
            *fd = OpeningFd::Held(id);
        }
        true
    }

    /// The fd that a READ request of this object would be about; `None` if it has to wait.
    pub const fn may_deliver_read(&self) -> Option<ObjectId> {
        match *self {
            State::Open(id) => Some(id),
            _ => None,
        }
    }

    /// Whether the OPEN request has been delivered, so that it can be answered.
    pub const fn may_answer_open(&self) -> bool {
        matches!(
            self,
            State::Orphaned(_)
                | State::Opening {
                    fd: OpeningFd::Held(_) | OpeningFd::Closed,
                    ..
                }
        )
    }

    /// The OPEN request is over.
    pub fn answer_open(&mut self, reply: Reply) -> Answered {
        // Whoever refuses an object closes its fd by itself; all others have to be told.
        let refused = reply == Reply::Refused;
        let (again, fd) = match *self {
            State::Opening { again, fd } => (again, fd),
            State::Orphaned(_) if refused => {
                *self = State::Dropped(None);
                return UNHEARD;
            }
            State::Orphaned(fd) => {
                *self = State::Dropped(Some(fd));
                return Answered::Gone(fd);
            }
            State::Closed
            | State::Open(_)
            | State::Refused(_)
            | State::Late(_)
            | State::Dropped(_) => {
                return UNHEARD;
            }
        };
        let OpeningFd::Held(id) = fd else {
            *self = State::Closed;
            return Answered::Failed {
                again,
                fd_gone: !refused,
            };
        };
        *self = match reply {
            Reply::Accepted => State::Open(id),
            Reply::OtherSize => State::Late(id),
            Reply::Refused => State::Refused(id),
        };
        match reply {
            Reply::Accepted => Answered::Open,
            Reply::OtherSize | Reply::Refused => Answered::Failed {
                again,
                fd_gone: false,
            },
        }
    }

    /// The time for an answer to the OPEN request is over.
    pub fn expire_open(&mut self) {
        if let State::Opening { fd, .. } = *self {
            *self = match fd {
                OpeningFd::Held(id) => State::Late(id),
                OpeningFd::None | OpeningFd::Closed => State::Closed,
            };
        }
    }

    /// The last reference to the anonymous fd `id` is gone.
    pub fn fd_released(&mut self, id: ObjectId) -> Released {
        match *self {
            State::Open(held) if held == id => {
                *self = State::Closed;
                Released::Closed
            }
            State::Refused(held) | State::Late(held) if held == id => {
                *self = State::Closed;
                Released::Nothing
            }
            State::Opening {
                again,
                fd: OpeningFd::Held(held),
            } if held == id => {
                *self = State::Opening {
                    again,
                    fd: OpeningFd::Closed,
                };
                Released::Nothing
            }
            State::Orphaned(held) if held == id => {
                *self = State::Dropped(None);
                Released::Orphaned
            }
            State::Dropped(Some(held)) if held == id => {
                *self = State::Dropped(None);
                Released::Nothing
            }
            _ => Released::Nothing,
        }
    }

    /// The object goes away. The fd whose holder has to be told now, once.
    #[must_use]
    pub fn drop_object(&mut self) -> Option<ObjectId> {
        let (next, told) = match *self {
            // Who is late was not told that the object is not wanted, and may keep the fd for ever.
            State::Open(id) | State::Late(id) => (State::Dropped(Some(id)), Some(id)),
            State::Opening {
                fd: OpeningFd::Held(id),
                ..
            } => (State::Orphaned(id), None),
            State::Closed | State::Opening { .. } | State::Refused(_) => {
                (State::Dropped(None), None)
            }
            gone @ (State::Orphaned(_) | State::Dropped(_)) => (gone, None),
        };
        *self = next;
        told
    }

    /// The fd whose holder has to be told, with a CLOSE request, that the object is gone.
    pub const fn to_close(self) -> Option<ObjectId> {
        match self {
            State::Dropped(fd) => fd,
            _ => None,
        }
    }
}
