// SPDX-License-Identifier: GPL-2.0

//! The module's rules, whole or with one taken out.
//!
//! Lives here: one function for each decision, which asks the module's function of the same name,
//! and what remains of it when a rule is missing. Never here: what follows from a decision.

use crate::ondemand::rules::{self, Ask, Copied, Event, Fate, OpenEnd, WantReopen};
use crate::ondemand::state::{ObjectId, OpeningFd, State, WantOpen, WantRead};

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
    /// What has ended is not in the table any more.
    EndedIsRemoved,
    /// An fd becomes visible after the copy, last of all.
    CopyThenPublish,
    /// A delivery looks after the copy whether its request is still the one in the table.
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
    /// A READ that nobody was told of is not answered.
    ReadTaken,
    /// An OPEN that nobody has read is not answered.
    OpenTaken,
    /// An object whose fd is gone is not opened by a late answer.
    FdGoneIsNotOpen,
    /// The reads of an object fail if it is not opened again.
    RefusalEndsReads,
    /// An fd that goes does not answer its READs.
    ReleaseAnswersNothing,
    /// Reads whose fd is gone are delivered again, after a new OPEN.
    ReleaseRenewsReads,
    /// An fd that goes concerns its own object only.
    ReleaseIsNarrow,
    /// An object that goes away is not opened again.
    DroppedStaysDropped,
    /// An object that goes away takes its requests with it.
    DropEndsRequests,
    /// An OPEN that the daemon has read is still answered when the object goes away, and the fd is
    /// then closed.
    DropAwaitsAnswer,
    /// An object goes away once, and its CLOSE is delivered.
    DropOnce,
    /// Who is killed waits no longer.
    Killable,
    /// The search goes on behind the last delivery.
    CyclicDelivery,
    /// A delivery that has failed is not tried again before the others.
    FailedGivesWay,
    /// An OPEN whose fd the old daemon still holds is restored, too.
    RestoreHeldOpen,
    /// An OPEN that another thread has delivered faster is new again.
    SlowIsNewAgain,
    /// After a delivery that came to nothing, the daemon looks again.
    WakeAfterVoid,
    /// After an fd is gone, the daemon looks again.
    WakeAfterRelease,
    /// Who has not answered an OPEN in time is told to close the fd when the object goes.
    LateIsTold,
    /// Who has told another size than before is told to close the fd when the object goes.
    OtherSizeIsTold,
    /// A READ is not delivered before its object is open.
    ReadAwaitsOpen,
    /// An OPEN for a lost fd is stored once.
    ReopenOnlyClosed,
    /// An object is not opened again with another size.
    SameSize,
    /// A CLOSE ends with its fd.
    CloseEndsWithFd,
    /// A CLOSE is not stored for an fd that is gone.
    CloseIsWanted,
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

    fn dead(self, dead: bool) -> bool {
        dead && self.has(Rule::DeadStoresNothing)
    }

    /// See [`rules::want_open`].
    pub fn want_open(self, dead: bool, object: &mut State) -> WantOpen {
        rules::want_open(self.dead(dead), object)
    }

    /// See [`rules::want_read`].
    pub fn want_read(self, dead: bool, object: &State) -> WantRead {
        rules::want_read(self.dead(dead), object)
    }

    /// See [`rules::want_reopen`].
    pub fn want_reopen(self, dead: bool, object: &mut State) -> WantReopen {
        if let (false, State::Opening { again: true, .. }) =
            (self.has(Rule::ReopenOnlyClosed), &object)
        {
            return WantReopen::Store;
        }
        if !self.has(Rule::DroppedStaysDropped) && matches!(object, State::Dropped(_)) {
            *object = State::Closed;
        }
        rules::want_reopen(self.dead(dead), object)
    }

    /// See [`rules::wants_close`].
    pub fn wants_close(self, dead: bool, object: &State, fd: ObjectId) -> bool {
        !self.has(Rule::CloseIsWanted) || rules::wants_close(dead, object, fd)
    }

    /// See [`rules::expire`].
    pub fn expire(self, ask: &Ask, object: &mut State) -> bool {
        if !self.has(Rule::LateIsTold) {
            rules::abandon(ask, object);
            return true;
        }
        rules::expire(ask, object)
    }

    /// See [`rules::may_deliver`].
    pub fn may_deliver(self, ask: &Ask, object: &State) -> Option<ObjectId> {
        if !self.has(Rule::ReadAwaitsOpen) && matches!(ask, Ask::Read { .. }) {
            return Some(0);
        }
        let opening = matches!(object, State::Opening { .. });
        if !self.has(Rule::OneFd) && opening && matches!(ask, Ask::Open { .. }) {
            return Some(0);
        }
        rules::may_deliver(ask, object)
    }

    /// See [`rules::copied`].
    pub fn copied(self, ask: &Ask, present: bool, object: &mut State, fd: ObjectId) -> Copied {
        let present = present || !self.has(Rule::PresentAfterCopy);
        if let (false, Ask::Open { .. }, State::Opening { fd, .. }) =
            (self.has(Rule::OneFd), ask, &mut *object)
        {
            *fd = OpeningFd::None;
        }
        rules::copied(ask, present, object, fd)
    }

    /// See [`rules::answer_open`].
    pub fn answer_open(
        self,
        ask: &Ask,
        object: &mut State,
        size: Option<u64>,
    ) -> Option<(OpenEnd, bool)> {
        let before = *object;
        let end = size.map_or(OpenEnd::Refused, OpenEnd::Opened);
        if !matches!(ask, Ask::Open { .. }) && !self.has(Rule::AnswerOfItsKind) {
            return Some((end, false));
        }
        let unread = matches!(
            before,
            State::Opening {
                fd: OpeningFd::None,
                ..
            }
        );
        if matches!(ask, Ask::Open { .. }) && unread && !self.has(Rule::OpenTaken) {
            return Some((end, false));
        }
        let told = match *ask {
            Ask::Open { known_size } if !self.has(Rule::SameSize) => size.and(known_size).or(size),
            _ => size,
        };
        let mut answered = rules::answer_open(ask, object, told)?;
        if let OpenEnd::Opened(_) = answered.0 {
            answered.0 = end;
        }
        let closed = matches!(
            before,
            State::Opening {
                fd: OpeningFd::Closed,
                ..
            }
        );
        if closed && size.is_some() && !self.has(Rule::FdGoneIsNotOpen) {
            // What C stored: the number that the fd had.
            *object = State::Open(ObjectId::MAX);
            return Some((end, false));
        }
        if matches!(object, State::Refused(_)) && !self.has(Rule::RefusalKeepsFd) {
            *object = State::Closed;
        }
        if let (State::Late(fd), false) = (*object, self.has(Rule::OtherSizeIsTold)) {
            *object = State::Refused(fd);
        }
        answered.1 &= self.has(Rule::RefusalEndsReads);
        Some(answered)
    }

    /// See [`rules::may_answer_read`].
    pub fn may_answer_read(self, ask: &Ask, own: bool, taken: bool) -> bool {
        let read = Ask::Read { offset: 0, len: 0 };
        let ask = match self.has(Rule::AnswerOfItsKind) {
            true => ask,
            false => &read,
        };
        rules::may_answer_read(
            ask,
            own || !self.has(Rule::AnswerOfItsObject),
            taken || !self.has(Rule::ReadTaken),
        )
    }

    /// See [`rules::drop_object`].
    pub fn drop_object(self, object: &mut State) -> Option<(Option<ObjectId>, Event)> {
        if let (false, State::Dropped(_)) = (self.has(Rule::DropOnce), &object) {
            return Some((None, Event::Dropped { orphaned: false }));
        }
        if let (false, State::Opening { .. }) = (self.has(Rule::DropAwaitsAnswer), &object) {
            *object = State::Dropped(None);
            return Some((None, Event::Dropped { orphaned: false }));
        }
        rules::drop_object(object)
    }

    /// See [`rules::fate`].
    pub fn fate(self, event: Event, ask: &Ask, own: bool, object: &State) -> Fate {
        let open = matches!(ask, Ask::Open { .. });
        let read = matches!(ask, Ask::Read { .. });
        let dropped = matches!(event, Event::Dropped { .. });
        let lost = matches!(event, Event::FdReleased { lost: true, .. });
        let released = matches!(event, Event::FdReleased { .. });
        let close = matches!(ask, Ask::Close(_));
        let held = matches!(
            object,
            State::Opening {
                fd: OpeningFd::Held(_),
                ..
            }
        );
        match self.without {
            Some(Rule::DeathEndsRequests) if event == Event::Dead => Fate::Stays,
            Some(Rule::DropEndsRequests) if dropped => Fate::Stays,
            Some(Rule::CloseOnce) if event == Event::Restored => Fate::Again,
            Some(Rule::RestoreHeldOpen) if event == Event::Restored && open && held => Fate::Stays,
            Some(Rule::ReleaseRenewsReads) if lost && read => Fate::Stays,
            Some(Rule::ReleaseAnswersNothing) if lost && read && own => Fate::Ends,
            Some(Rule::CloseEndsWithFd) if released && close => Fate::Stays,
            Some(Rule::OrphanEndsWithFd) if released && open => Fate::Stays,
            Some(Rule::ReleaseIsNarrow) if lost && read && !own => Fate::Ends,
            _ => rules::fate(event, ask, own),
        }
    }
}
