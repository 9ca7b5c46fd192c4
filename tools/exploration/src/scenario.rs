// SPDX-License-Identifier: GPL-2.0

//! What is explored: who asks, what else may happen, and how often.
//!
//! Two objects, three requests, and everything that can happen to them, each thing once, is in [`ALL`]:
//! with two threads that read the device, or with a second daemon that takes over. Both together is in
//! [`LONG`], for who has minutes. What can happen twice, can in [`ALL`] happen to one object.

use crate::invariant::Bug;
use crate::rule::Rules;
use crate::table::Table;
use crate::world::{Budget, ENDLESS, TASKS};

/// A scenario and its name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// Whether the daemon answers whatever id it likes.
    stray: bool,
    /// Threads of the daemon that read the device.
    threads: usize,
    /// Who asks what.
    cast: Cast,
    /// What else may happen.
    budget: Budget,
}

/// Who asks what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cast {
    /// Two open objects are read, one of them twice.
    Read,
    /// One object is looked up and read, and another, open one is read.
    Mixed,
    /// Two objects are looked up, and one of them is read.
    Lookup,
    /// Two objects are looked up, and one of them is read twice.
    Four,
    /// One object is looked up and read twice.
    Alone,
    /// Two open objects are read, one of them by two streams of new READs that never end.
    Stream,
    /// One open object is read by two such streams, and once.
    Crowd,
    /// An open object is read without end, and another one looked up and read.
    Late,
    /// An open object goes away, and one of the same keys is looked up and read.
    Remount,
}

const NONE: Budget = Budget {
    closes: 0,
    faults: 0,
    no_fds: 0,
    kills: 0,
    timeouts: 0,
    restores: 0,
    successors: 0,
    drops: 0,
    deaths: 0,
    refusals: 0,
};

/// Everything that can happen while one daemon lives, but that there is no fd.
const ONCE: Budget = Budget {
    closes: 1,
    faults: 1,
    kills: 1,
    timeouts: 1,
    restores: 1,
    drops: 1,
    deaths: 1,
    refusals: 1,
    ..NONE
};

/// Some of it.
const SHORT: Budget = Budget {
    closes: 1,
    faults: 1,
    kills: 1,
    restores: 1,
    ..NONE
};

/// Everything, and another daemon takes over.
const SUCCEEDED: Budget = Budget {
    successors: 1,
    ..ONCE
};

/// As before, and nothing fails.
const SMOOTHLY: Budget = Budget {
    faults: 0,
    ..SUCCEEDED
};

const fn scenario(name: &'static str, cast: Cast, threads: usize, budget: Budget) -> Scenario {
    Scenario {
        name,
        stray: false,
        threads,
        cast,
        budget,
    }
}

impl Scenario {
    const fn any_answer(self) -> Scenario {
        Scenario {
            stray: true,
            ..self
        }
    }
}

/// All that are explored each time.
pub const ALL: &[Scenario] = &[
    scenario("read: everything once", Cast::Read, 2, ONCE),
    scenario("mixed: everything once", Cast::Mixed, 2, ONCE),
    scenario("lookup: everything once", Cast::Lookup, 2, ONCE),
    scenario("four: everything once", Cast::Four, 1, ONCE),
    scenario("read: everything once, any answer", Cast::Read, 2, ONCE).any_answer(),
    scenario("mixed: everything once, any answer", Cast::Mixed, 2, ONCE).any_answer(),
    scenario("lookup: everything once, any answer", Cast::Lookup, 2, ONCE).any_answer(),
    scenario(
        "read: everything once, a successor",
        Cast::Read,
        1,
        SMOOTHLY,
    ),
    scenario(
        "mixed: everything once, a successor",
        Cast::Mixed,
        1,
        SUCCEEDED,
    ),
    scenario(
        "lookup: everything once, a successor",
        Cast::Lookup,
        1,
        SUCCEEDED,
    ),
    scenario(
        "alone: much of it twice",
        Cast::Alone,
        2,
        Budget {
            closes: 2,
            drops: 2,
            ..SUCCEEDED
        },
    ),
    scenario(
        "alone: two successors",
        Cast::Alone,
        2,
        Budget {
            closes: 2,
            restores: 2,
            drops: 2,
            successors: 2,
            faults: 1,
            ..NONE
        },
    ),
    scenario(
        "alone: much of it twice, any answer",
        Cast::Alone,
        2,
        Budget {
            closes: 2,
            restores: 2,
            drops: 2,
            ..ONCE
        },
    )
    .any_answer(),
    scenario(
        "stream: everything once",
        Cast::Stream,
        2,
        Budget { no_fds: 1, ..ONCE },
    ),
    scenario("crowd: much of it once", Cast::Crowd, 2, SHORT),
    scenario(
        "late: deliveries fail again and again",
        Cast::Late,
        1,
        Budget {
            faults: ENDLESS,
            no_fds: ENDLESS,
            closes: 1,
            restores: 1,
            ..NONE
        },
    ),
    scenario("remount: everything once", Cast::Remount, 2, ONCE),
];

/// Those that take minutes.
pub const LONG: &[Scenario] = &[
    scenario(
        "read: everything once, a successor, two threads",
        Cast::Read,
        2,
        SUCCEEDED,
    ),
    scenario(
        "mixed: everything once, a successor, two threads",
        Cast::Mixed,
        2,
        SUCCEEDED,
    ),
    scenario(
        "lookup: everything once, a successor, two threads",
        Cast::Lookup,
        2,
        SUCCEEDED,
    ),
    scenario("four: everything once, two threads", Cast::Four, 2, ONCE),
    scenario(
        "mixed: everything once, a successor, two threads, any answer",
        Cast::Mixed,
        2,
        SUCCEEDED,
    )
    .any_answer(),
];

impl Scenario {
    /// The scenario of this name.
    pub fn named(name: &str) -> Scenario {
        *ALL.iter()
            .find(|scenario| scenario.name == name)
            .expect("there is a scenario of this name")
    }

    /// What to explore, with these rules, for this bug only or for any.
    pub fn table(self, rules: Rules, looks_for: Option<Bug>) -> Table {
        // Its object, whether it looks it up, and how often it reads it.
        let tasks: [(usize, bool, u8); TASKS] = match self.cast {
            Cast::Read => [(0, false, 1), (0, false, 1), (1, false, 1)],
            Cast::Mixed => [(0, true, 1), (1, false, 1), (1, false, 0)],
            Cast::Lookup => [(0, true, 1), (1, true, 0), (1, false, 0)],
            Cast::Four => [(0, true, 1), (0, false, 1), (1, true, 0)],
            Cast::Alone => [(0, true, 1), (0, false, 1), (1, false, 0)],
            Cast::Stream => [(0, false, ENDLESS), (0, false, ENDLESS), (1, false, 1)],
            Cast::Crowd => [(0, false, ENDLESS), (0, false, ENDLESS), (0, false, 1)],
            Cast::Late => [(0, false, ENDLESS), (1, true, 1), (1, false, 0)],
            Cast::Remount => [(0, false, 1), (1, true, 1), (1, false, 0)],
        };
        Table {
            rules,
            stray: self.stray,
            threads: self.threads,
            open: match self.cast {
                Cast::Read | Cast::Stream | Cast::Crowd => [true, true],
                Cast::Late | Cast::Remount => [true, false],
                Cast::Mixed => [false, true],
                Cast::Lookup | Cast::Four | Cast::Alone => [false, false],
            },
            tasks,
            remount: self.cast == Cast::Remount,
            budget: self.budget,
            looks_for,
        }
    }
}
