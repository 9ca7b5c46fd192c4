// SPDX-License-Identifier: GPL-2.0

//! The module's rules, whole or with one taken out.
//!
//! Lives here: what the module's functions say, and what remains of it when a rule is missing. Never
//! here: what follows from a decision.

use crate::ondemand::state::{Event, Fd, Message, ObjectId, Open, Read, Reads, State};

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident,)*) => {
        /// A rule that can be taken out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];
        }
    };
}

rules! {
    /// A cache that dies takes its requests with it.
    DeathEndsRequests,
    /// Nothing is stored once the cache is dead.
    DeadStoresNothing,
    /// A READ that has ended is not in the table any more.
    EndedIsRemoved,
    /// An fd becomes visible after the copy, last of all.
    CopyThenPublish,
    /// A delivery looks after the copy whether its OPEN is still being copied.
    PresentAfterCopy,
    /// An OPEN is not delivered while its object has an fd.
    OneFd,
    /// A daemon that refuses an object keeps the only fd until it closes it.
    RefusalKeepsFd,
    /// A CLOSE is delivered once, whatever is restored.
    CloseOnce,
    /// Ids go round.
    CyclicIds,
    /// copen answers an OPEN, cread a READ.
    AnswerOfItsKind,
    /// An answer through an fd is about the fd's object.
    AnswerOfItsObject,
    /// A READ that the daemon was not told of is not answered.
    ReadTaken,
    /// An OPEN that the daemon has not read is not answered.
    OpenTaken,
    /// An object whose fd is gone is not opened by a late answer.
    FdGoneIsNotOpen,
    /// The reads of an object fail if it is not opened again.
    RefusalEndsReads,
    /// An fd that goes does not answer its READs.
    ReleaseAnswersNothing,
    /// Reads whose fd is gone are delivered again, after a new OPEN.
    ReleaseRenewsReads,
    /// An object that goes away is not opened again.
    DroppedStaysDropped,
    /// An object that goes away takes its requests with it.
    DropEndsRequests,
    /// An OPEN that the daemon has read is still answered when the object goes away, and the fd is
    /// then closed.
    DropAwaitsAnswer,
    /// An object goes away once, and its CLOSE is delivered.
    DropOnce,
    /// An object that goes away is let go when its CLOSE has been read.
    CloseBeforeLetGo,
    /// A killed task waits no longer.
    Killable,
    /// An object that was served goes behind the others.
    ObjectsInTurn,
    /// The READs of an object are delivered in turn.
    ReadsInTurn,
    /// An object whose delivery has failed goes behind the others.
    FailedGivesWay,
    /// An OPEN for which there is no fd is not tried again at once.
    NoFdParks,
    /// It is tried again some time later.
    ParkedComesBack,
    /// An OPEN whose fd the old daemon still holds is restored, too.
    RestoreHeldOpen,
    /// An OPEN that is just being copied to the old daemon is restored, too.
    RestoreCopiedOpen,
    /// After a delivery that came to nothing, the daemon looks again.
    WakeAfterVoid,
    /// After an fd is gone, the daemon looks again.
    WakeAfterRelease,
    /// When an OPEN is tried again, the daemon looks again.
    WakeAfterRetry,
    /// A daemon that has not answered an OPEN in time is told to close the fd when the object goes.
    LateIsTold,
    /// A daemon that has told another size than before is told to close the fd when the object goes.
    OtherSizeIsTold,
    /// A READ is not delivered before its object is open.
    ReadAwaitsOpen,
    /// An object is not opened again with another size.
    SameSize,
    /// A CLOSE ends with its fd.
    CloseEndsWithFd,
    /// The OPEN of an object that has gone ends with its fd.
    OrphanEndsWithFd,
}

/// The rules, but for one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// The one that is taken out.
    pub without: Option<Rule>,
}

impl Rules {
    /// Whether `rule` is in force.
    pub fn has(self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// See [`State::on`].
    pub fn on(self, state: State, event: Event) -> Option<(State, Reads)> {
        use Event as E;
        use State as S;
        let unread = |id, again, lost| {
            let open = Open::Unread { lost };
            Some((S::Opening { id, again, open }, Reads::Stay))
        };
        let right = state.on(event);
        let Some(without) = self.without else {
            return right;
        };
        match (without, state, event) {
            (Rule::DeathEndsRequests, _, E::Died) => None,
            (
                Rule::OneFd,
                S::Opening {
                    id,
                    again,
                    open: Open::Held { fd, .. },
                },
                E::Restored,
            ) => unread(id, again, Some(fd.next)),
            (
                Rule::RestoreHeldOpen,
                S::Opening {
                    open: Open::Held { .. },
                    ..
                },
                E::Restored,
            )
            | (
                Rule::RestoreCopiedOpen,
                S::Opening {
                    open: Open::Copying { .. },
                    ..
                },
                E::Restored,
            ) => None,
            (Rule::CloseOnce, S::Closing { fd, .. }, E::Restored) => {
                Some((S::Closing { fd, copying: false }, Reads::Stay))
            }
            (
                Rule::OpenTaken,
                S::Opening {
                    id,
                    open: Open::Unread { .. } | Open::Copying { .. },
                    ..
                },
                E::Answered { id: of, .. },
            ) if id == of => Some((S::Closed { next: id }, Reads::Fail)),
            (
                Rule::FdGoneIsNotOpen,
                S::Opening {
                    id,
                    open: Open::Lost { next },
                    ..
                },
                E::Answered {
                    id: of,
                    size: Some(_),
                    ..
                },
            ) if id == of => {
                // What C stored: the number that the fd had.
                let fd = Fd {
                    id: ObjectId::MAX,
                    number: 0,
                    next,
                };
                Some((S::Open(fd), Reads::Stay))
            }
            (Rule::SameSize, _, E::Answered { id, size, known }) => {
                let size = size.map(|_| known);
                state.on(E::Answered { id, size, known })
            }
            (Rule::ReleaseRenewsReads, S::Open(_), E::Released { .. }) => {
                right.map(|(state, _)| (state, Reads::Stay))
            }
            (Rule::ReleaseAnswersNothing, S::Open(_), E::Released { .. }) => {
                right.map(|(state, _)| (state, Reads::Fail))
            }
            (Rule::CloseEndsWithFd, S::Closing { .. }, E::Released { .. })
            | (Rule::OrphanEndsWithFd, S::Orphaned { .. }, E::Released { .. }) => None,
            (Rule::DroppedStaysDropped, S::Closed { .. }, E::Dropped) => None,
            (Rule::DropEndsRequests, _, E::Dropped) => right.map(|(state, _)| (state, Reads::Stay)),
            (Rule::DropAwaitsAnswer, S::Opening { .. }, E::Dropped)
            | (Rule::DropOnce, S::Closing { .. }, E::Dropped) => Some((S::Gone, Reads::Fail)),
            (_, _, E::Answered { .. }) => right.map(|(state, reads)| match (without, state) {
                (Rule::RefusalEndsReads, _) => (state, Reads::Stay),
                (Rule::RefusalKeepsFd, S::Refused(fd)) => (S::Closed { next: fd.next }, reads),
                (Rule::OtherSizeIsTold, S::Late(fd)) => (S::Refused(fd), reads),
                _ => (state, reads),
            }),
            (Rule::LateIsTold, _, E::Expired) => right.map(|(state, reads)| match state {
                S::Late(fd) => (S::Refused(fd), reads),
                _ => (state, reads),
            }),
            _ => right,
        }
    }

    /// See [`State::next_message`].
    pub fn next_message(self, state: State, reads: bool) -> Option<Message> {
        match state {
            State::Opening { again: true, .. } if reads && !self.has(Rule::ReadAwaitsOpen) => {
                Some(Message::Read(Fd::default()))
            }
            _ => state.next_message(reads),
        }
    }

    /// See [`Read::may_be_answered`].
    pub fn may_be_answered(self, read: Read, own: bool) -> bool {
        let read = match read {
            Read::Unread if !self.has(Rule::ReadTaken) => Read::Taken,
            read => read,
        };
        read.may_be_answered(own || !self.has(Rule::AnswerOfItsObject))
    }
}
