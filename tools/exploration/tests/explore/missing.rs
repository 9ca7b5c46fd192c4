// SPDX-License-Identifier: GPL-2.0

//! What happens without a rule: each one with the bug that it prevents.

use exploration::invariant::Bug;
use exploration::rule::Rule;

/// What happens without a rule.
pub struct Missing {
    pub rule: Rule,
    /// The row of the list of known bugs; or what the review of this module found.
    pub row: &'static str,
    pub scenario: &'static str,
    pub bug: Bug,
}

/// All of them.
pub const MISSING: &[Missing] = &[
    Missing {
        rule: Rule::DeathEndsRequests,
        row: "CVE-2024-40935: flush all requests after setting CACHEFILES_DEAD",
        scenario: "lookup: everything once",
        bug: Bug::HangWhenDead,
    },
    Missing {
        rule: Rule::DeadStoresNothing,
        row: "CVE-2024-40935: a request stored after the flush",
        scenario: "lookup: everything once",
        bug: Bug::HangWhenDead,
    },
    Missing {
        rule: Rule::EndedIsRemoved,
        row: "CVE-2024-40900: remove requests from xarray during flushing requests",
        scenario: "read: everything once",
        bug: Bug::AnsweredTwice,
    },
    Missing {
        rule: Rule::CopyThenPublish,
        row: "CVE-2024-40913: defer exposing anon_fd until after copy_to_user() succeeds",
        scenario: "lookup: everything once",
        bug: Bug::UntoldFd,
    },
    Missing {
        rule: Rule::PresentAfterCopy,
        row: "CVE-2024-40899: an OPEN that ends while it is delivered",
        scenario: "lookup: everything once",
        bug: Bug::FdForNobody,
    },
    Missing {
        rule: Rule::OneFd,
        row: "restore twice: never get a new anonymous fd if ondemand_id is valid",
        scenario: "lookup: everything once",
        bug: Bug::TwoFds,
    },
    Missing {
        rule: Rule::RefusalKeepsFd,
        row: "copen fails, then mount again; never a second fd while the first is held",
        scenario: "read: everything once",
        bug: Bug::TwoFds,
    },
    Missing {
        rule: Rule::CloseOnce,
        row: "CVE-2024-39510: restore while the daemon lives, so that CLOSE is done twice",
        scenario: "read: everything once",
        bug: Bug::ClosedTwice,
    },
    Missing {
        rule: Rule::CyclicIds,
        row: "CVE-2024-41050: cyclic allocation of msg_id to avoid reuse",
        scenario: "read: everything once",
        bug: Bug::AnotherAnswer,
    },
    Missing {
        rule: Rule::AnswerOfItsKind,
        row: "CVE-2024-41075: add consistency check for copen/cread",
        scenario: "read: everything once, any answer",
        bug: Bug::WrongKind,
    },
    Missing {
        rule: Rule::AnswerOfItsObject,
        row: "CVE-2024-41075: cread through another object's fd",
        scenario: "read: everything once, any answer",
        bug: Bug::WrongObject,
    },
    Missing {
        rule: Rule::ReadTaken,
        row: "review: cread of a READ that nobody was told of",
        scenario: "read: everything once, any answer",
        bug: Bug::AnsweredUnread,
    },
    Missing {
        rule: Rule::OpenTaken,
        row: "CVE-2024-41074: copen for a reopen that was not read",
        scenario: "read: everything once, any answer",
        bug: Bug::AnsweredUnread,
    },
    Missing {
        rule: Rule::FdGoneIsNotOpen,
        row: "anon fd closed during copen: add spin_lock for cachefiles_ondemand_info",
        scenario: "lookup: everything once",
        bug: Bug::OpenWithoutFd,
    },
    Missing {
        rule: Rule::RefusalEndsReads,
        row: "CVE-2024-41074: a reopen that fails leaves its reads waiting",
        scenario: "read: everything once",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::ReleaseAnswersNothing,
        row: "v4 of the series: closing the fd answered its READs",
        scenario: "read: everything once",
        bug: Bug::NoAnswer,
    },
    Missing {
        rule: Rule::ReleaseRenewsReads,
        row: "a READ whose fd is gone is never delivered again",
        scenario: "read: everything once",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::DroppedStaysDropped,
        row: "CVE-2024-41051: wait for ondemand_object_worker to finish when dropping object",
        scenario: "read: everything once",
        bug: Bug::FdOfDead,
    },
    Missing {
        rule: Rule::DropEndsRequests,
        row: "a request of a dropped object waits for ever",
        scenario: "read: everything once",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::DropAwaitsAnswer,
        row: "CI: an image unmounted before the daemon had answered an OPEN of it",
        scenario: "lookup: everything once",
        bug: Bug::KeptFd,
    },
    Missing {
        rule: Rule::DropOnce,
        row: "review: a lookup that fails after the daemon has accepted the object",
        scenario: "lookup: everything once",
        bug: Bug::KeptFd,
    },
    Missing {
        rule: Rule::Killable,
        row: "SIGKILL to a reader that waits: make on-demand read killable",
        scenario: "read: everything once",
        bug: Bug::Unkillable,
    },
    Missing {
        rule: Rule::RestoreHeldOpen,
        row: "review: restore before the dying daemon's fd is released",
        scenario: "lookup: everything once, a successor",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::WakeAfterVoid,
        row: "review: 0 from read(2) though there is more to read",
        scenario: "lookup: everything once",
        bug: Bug::LostWakeUp,
    },
    Missing {
        rule: Rule::WakeAfterRelease,
        row: "review: an OPEN restored while its fd was held",
        scenario: "lookup: everything once, a successor",
        bug: Bug::LostWakeUp,
    },
    Missing {
        rule: Rule::LateIsTold,
        row: "review: the fd of an OPEN that was not answered in time is never closed",
        scenario: "lookup: everything once",
        bug: Bug::KeptFd,
    },
    Missing {
        rule: Rule::OtherSizeIsTold,
        row: "the fd of a daemon that has told another size than before is never closed",
        scenario: "read: everything once",
        bug: Bug::KeptFd,
    },
    Missing {
        rule: Rule::ReadAwaitsOpen,
        row: "review: a READ that is delivered before its object is open again",
        scenario: "read: everything once",
        bug: Bug::ReadOfClosed,
    },
    Missing {
        rule: Rule::SameSize,
        row: "review: an object that is opened again with another size",
        scenario: "read: everything once",
        bug: Bug::OtherSize,
    },
    Missing {
        rule: Rule::CloseEndsWithFd,
        row: "review: a CLOSE whose fd is gone, and its number another's",
        scenario: "read: everything once",
        bug: Bug::CloseOfGone,
    },
    Missing {
        rule: Rule::OrphanEndsWithFd,
        row: "review: the OPEN of an object that has gone stays when its fd goes",
        scenario: "lookup: everything once, a successor",
        bug: Bug::Stuck,
    },
    Missing {
        rule: Rule::ObjectsInTurn,
        row: "one busy object starves the others: make on-demand request distribution fairer",
        scenario: "stream: everything once",
        bug: Bug::Starved,
    },
    Missing {
        rule: Rule::ReadsInTurn,
        row: "issue 12: a READ whose id is below those of a stream of others",
        scenario: "crowd: much of it once",
        bug: Bug::Starved,
    },
    Missing {
        rule: Rule::FailedGivesWay,
        row: "review: an OPEN that cannot be copied holds up all READs",
        scenario: "late: deliveries fail again and again",
        bug: Bug::Starved,
    },
    Missing {
        rule: Rule::NoFdParks,
        row: "issue 12: a daemon without fds is woken 152,351 times a second",
        scenario: "late: deliveries fail again and again",
        bug: Bug::Spins,
    },
    Missing {
        rule: Rule::ParkedComesBack,
        row: "an OPEN for which there was no fd once is never delivered",
        scenario: "late: deliveries fail again and again",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::WakeAfterRetry,
        row: "the daemon is not told that an OPEN is tried again",
        scenario: "late: deliveries fail again and again",
        bug: Bug::LostWakeUp,
    },
    Missing {
        rule: Rule::RestoreCopiedOpen,
        row: "restore while the OPEN is being copied to the old daemon",
        scenario: "lookup: everything once, a successor",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::CloseBeforeLetGo,
        row: "issue 12: unmount and mount again, and the CLOSE is read after the OPEN",
        scenario: "remount: everything once",
        bug: Bug::OpenBeforeClose,
    },
];
