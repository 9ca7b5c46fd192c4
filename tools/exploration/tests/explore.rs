// SPDX-License-Identifier: GPL-2.0

//! Explores all scenarios with all rules, and then one with each rule taken out.

use exploration::invariant::{Bug, BUGS};
use exploration::rule::{Rule, Rules};
use exploration::scenario::{Scenario, ALL};
use stateright::{Checker, HasDiscoveries, Model};
use std::collections::BTreeSet;
use std::fmt::Arguments;
use std::io::Write;
use std::time::Instant;

/// Tells what is worth knowing even of a test that passes: what a test prints is shown only when it
/// fails, but not what it writes here.
fn say(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn nothing_goes_wrong_with_all_rules() {
    let mut states = 0;
    let start = Instant::now();
    for scenario in ALL {
        let began = Instant::now();
        let checker = scenario
            .table(Rules::default())
            .checker()
            .spawn_bfs()
            .join();
        let visited = checker.unique_state_count();
        let seconds = began.elapsed().as_secs_f32();
        println!("{visited:9} states in {seconds:4.1} s: {}", scenario.name);
        states += visited;
        if let Some((name, path)) = checker.discoveries().into_iter().next() {
            let last = format!("{:#?}", path.last_state());
            let steps = path.into_actions();
            panic!("{}: not true that {name}: {steps:?}\n{last}", scenario.name);
        }
    }
    let seconds = start.elapsed().as_secs();
    let scenarios = ALL.len();
    say(format_args!(
        "exploration: {states} states visited in {scenarios} scenarios, {seconds} s, nothing wrong"
    ));
}

/// What happens without a rule.
struct Missing {
    rule: Rule,
    /// The row of the list of known bugs; or what the review of this module found.
    row: &'static str,
    scenario: &'static str,
    bug: Bug,
}

const MISSING: &[Missing] = &[
    Missing {
        rule: Rule::DeathEndsRequests,
        row: "CVE-2024-40935: flush all requests after setting CACHEFILES_DEAD",
        scenario: "lookup: a drop, a death",
        bug: Bug::HangWhenDead,
    },
    Missing {
        rule: Rule::DeadStoresNothing,
        row: "CVE-2024-40935: a request stored after the flush",
        scenario: "lookup: a drop, a death",
        bug: Bug::HangWhenDead,
    },
    Missing {
        rule: Rule::EndedIsRemoved,
        row: "CVE-2024-40900: remove requests from xarray during flushing requests",
        scenario: "read: fds closed, a death",
        bug: Bug::AnsweredTwice,
    },
    Missing {
        rule: Rule::CopyThenPublish,
        row: "CVE-2024-40913: defer exposing anon_fd until after copy_to_user() succeeds",
        scenario: "lookup: refusals, kills, faults",
        bug: Bug::UntoldFd,
    },
    Missing {
        rule: Rule::PresentAfterCopy,
        row: "CVE-2024-40899: an OPEN that ends while it is delivered",
        scenario: "alone: fds closed, restore, two threads",
        bug: Bug::FdForNobody,
    },
    Missing {
        rule: Rule::OneFd,
        row: "restore twice: never get a new anonymous fd if ondemand_id is valid",
        scenario: "lookup: fds closed, restore",
        bug: Bug::TwoFds,
    },
    Missing {
        rule: Rule::RefusalKeepsFd,
        row: "copen fails, then mount again; never a second fd while the first is held",
        scenario: "read: fds closed, refusals",
        bug: Bug::TwoFds,
    },
    Missing {
        rule: Rule::CloseOnce,
        row: "CVE-2024-39510: restore while the daemon lives, so that CLOSE is done twice",
        scenario: "read: drops, restore, two threads",
        bug: Bug::ClosedTwice,
    },
    Missing {
        rule: Rule::CyclicIds,
        row: "CVE-2024-41050: cyclic allocation of msg_id to avoid reuse",
        scenario: "read: kills, late answers",
        bug: Bug::AnotherAnswer,
    },
    Missing {
        rule: Rule::AnswerOfItsKind,
        row: "CVE-2024-41075: add consistency check for copen/cread",
        scenario: "read: any answer, fds closed",
        bug: Bug::WrongKind,
    },
    Missing {
        rule: Rule::AnswerOfItsObject,
        row: "CVE-2024-41075: cread through another object's fd",
        scenario: "read: any answer, fds closed",
        bug: Bug::WrongObject,
    },
    Missing {
        rule: Rule::ReadTaken,
        row: "review: cread of a READ that nobody was told of",
        scenario: "read: any answer, fds closed",
        bug: Bug::AnsweredUnread,
    },
    Missing {
        rule: Rule::OpenTaken,
        row: "CVE-2024-41074: copen for a reopen that nobody has read",
        scenario: "read: any answer, fds closed",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::FdGoneIsNotOpen,
        row: "anon fd closed during copen: add spin_lock for cachefiles_ondemand_info",
        scenario: "lookup: fds closed, refusals",
        bug: Bug::OpenWithoutFd,
    },
    Missing {
        rule: Rule::RefusalEndsReads,
        row: "CVE-2024-41074: a reopen that fails leaves its reads waiting",
        scenario: "read: fds closed, refusals",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::ReleaseAnswersNothing,
        row: "v4 of the series: closing the fd answered its READs",
        scenario: "read: fds closed, refusals",
        bug: Bug::NoAnswer,
    },
    Missing {
        rule: Rule::ReleaseRenewsReads,
        row: "a READ whose fd is gone is never delivered again",
        scenario: "read: fds closed, refusals",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::ReleaseIsNarrow,
        row: "closing one fd fails the requests of other objects: narrow the scope",
        scenario: "read: fds closed, refusals",
        bug: Bug::FailedForAnother,
    },
    Missing {
        rule: Rule::DroppedStaysDropped,
        row: "CVE-2024-41051: wait for ondemand_object_worker to finish when dropping object",
        scenario: "read: fds closed, drops",
        bug: Bug::FdOfDead,
    },
    Missing {
        rule: Rule::DropEndsRequests,
        row: "a request of a dropped object waits for ever",
        scenario: "read: fds closed, drops",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::DropAwaitsAnswer,
        row: "CI: an image unmounted before the daemon had answered an OPEN of it",
        scenario: "lookup: a drop, a death",
        bug: Bug::KeptFd,
    },
    Missing {
        rule: Rule::DropOnce,
        row: "review: a lookup that fails after the daemon has accepted the object",
        scenario: "alone: drops, restore, two threads",
        bug: Bug::KeptFd,
    },
    Missing {
        rule: Rule::Killable,
        row: "SIGKILL to a reader that waits: make on-demand read killable",
        scenario: "read: kills, late answers",
        bug: Bug::Unkillable,
    },
    Missing {
        rule: Rule::CyclicDelivery,
        row: "one busy object starves the others: make on-demand request distribution fairer",
        scenario: "busy",
        bug: Bug::Starved,
    },
    Missing {
        rule: Rule::RestoreHeldOpen,
        row: "review: restore before the dying daemon's fd is released",
        scenario: "lookup: a successor",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::SlowIsNewAgain,
        row: "exploration: an OPEN that the old and the new daemon read at once",
        scenario: "alone: a successor, a death, a drop",
        bug: Bug::Hang,
    },
    Missing {
        rule: Rule::WakeAfterVoid,
        row: "review: 0 from read(2) though there is more to read",
        scenario: "lookup: kills, restore, two threads",
        bug: Bug::LostWakeUp,
    },
    Missing {
        rule: Rule::WakeAfterRelease,
        row: "review: an OPEN restored while its fd was held",
        scenario: "lookup: a successor",
        bug: Bug::LostWakeUp,
    },
];

#[test]
fn each_rule_is_needed() {
    let mut states = 0;
    for missing in MISSING {
        let property = BUGS
            .iter()
            .find(|(bug, _)| *bug == missing.bug)
            .map(|(_, property)| *property)
            .expect("each bug has a property");
        let rules = Rules {
            without: Some(missing.rule),
        };
        let checker = Scenario::named(missing.scenario)
            .table(rules)
            .checker()
            .finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property])))
            .spawn_bfs()
            .join();
        states += checker.unique_state_count();
        let Some(path) = checker.discovery(property) else {
            let found: Vec<_> = checker.discoveries().into_keys().collect();
            panic!(
                "{:?} is not needed in order that {property} ({}); found: {found:?}",
                missing.rule, missing.row
            );
        };
        println!("without {:?}: {}", missing.rule, missing.row);
        println!("    it is not true that {property}, after");
        println!("    {:?}", path.into_actions());
    }
    say(format_args!(
        "exploration: {} rules taken out, one at a time; the bug was found each time, in {states} states",
        MISSING.len()
    ));
}
