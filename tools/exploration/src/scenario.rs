// SPDX-License-Identifier: GPL-2.0

//! What is explored: who asks, what else may happen, and how often.
//!
//! Everything at once would take days. Each scenario allows a few things together, and between them
//! they allow every two, with one object at least.

use crate::rule::Rules;
use crate::table::Table;
use crate::world::{Budget, TASKS};

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
    /// Two objects are looked up, and one of them is read twice.
    Lookup,
    /// Two open objects are read, one of them twice.
    Read,
    /// Two open objects are read, one of them again and again.
    Busy,
    /// One object is looked up and read twice.
    Alone,
}

const NONE: Budget = Budget {
    closes: 0,
    faults: 0,
    kills: 0,
    restores: 0,
    successors: 0,
    drops: 0,
    deaths: 0,
    refusals: 0,
};

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "lookup: refusals, kills, faults",
        stray: false,
        threads: 1,
        cast: Cast::Lookup,
        budget: Budget {
            refusals: 1,
            kills: 1,
            faults: 1,
            ..NONE
        },
    },
    Scenario {
        name: "lookup: a drop, a death",
        stray: false,
        threads: 1,
        cast: Cast::Lookup,
        budget: Budget {
            drops: 1,
            deaths: 1,
            ..NONE
        },
    },
    Scenario {
        name: "lookup: fds closed, restore",
        stray: false,
        threads: 1,
        cast: Cast::Lookup,
        budget: Budget {
            closes: 1,
            restores: 1,
            ..NONE
        },
    },
    Scenario {
        name: "lookup: fds closed, refusals",
        stray: false,
        threads: 1,
        cast: Cast::Lookup,
        budget: Budget {
            closes: 1,
            refusals: 1,
            ..NONE
        },
    },
    Scenario {
        name: "lookup: kills, restore, two threads",
        stray: false,
        threads: 2,
        cast: Cast::Lookup,
        budget: Budget {
            kills: 1,
            restores: 1,
            ..NONE
        },
    },
    Scenario {
        name: "lookup: a successor",
        stray: false,
        threads: 1,
        cast: Cast::Lookup,
        budget: Budget {
            successors: 1,
            ..NONE
        },
    },
    Scenario {
        name: "lookup: any answer, fds closed",
        stray: true,
        threads: 1,
        cast: Cast::Lookup,
        budget: Budget {
            closes: 1,
            refusals: 1,
            ..NONE
        },
    },
    Scenario {
        name: "read: fds closed, refusals",
        stray: false,
        threads: 1,
        cast: Cast::Read,
        budget: Budget {
            closes: 1,
            refusals: 1,
            ..NONE
        },
    },
    Scenario {
        name: "read: fds closed, faults",
        stray: false,
        threads: 1,
        cast: Cast::Read,
        budget: Budget {
            closes: 1,
            faults: 1,
            ..NONE
        },
    },
    Scenario {
        name: "read: fds closed, kills",
        stray: false,
        threads: 1,
        cast: Cast::Read,
        budget: Budget {
            closes: 1,
            kills: 1,
            ..NONE
        },
    },
    Scenario {
        name: "read: fds closed, drops",
        stray: false,
        threads: 1,
        cast: Cast::Read,
        budget: Budget {
            closes: 1,
            drops: 1,
            ..NONE
        },
    },
    Scenario {
        name: "read: fds closed, a death",
        stray: false,
        threads: 1,
        cast: Cast::Read,
        budget: Budget {
            closes: 1,
            deaths: 1,
            ..NONE
        },
    },
    Scenario {
        name: "read: fds closed, restore",
        stray: false,
        threads: 1,
        cast: Cast::Read,
        budget: Budget {
            closes: 1,
            restores: 1,
            ..NONE
        },
    },
    Scenario {
        name: "read: drops, restore, two threads",
        stray: false,
        threads: 2,
        cast: Cast::Read,
        budget: Budget {
            drops: 1,
            restores: 1,
            ..NONE
        },
    },
    Scenario {
        name: "read: any answer, fds closed",
        stray: true,
        threads: 1,
        cast: Cast::Read,
        budget: Budget {
            closes: 1,
            refusals: 1,
            ..NONE
        },
    },
    Scenario {
        name: "read: kills, late answers",
        stray: false,
        threads: 1,
        cast: Cast::Read,
        budget: Budget { kills: 2, ..NONE },
    },
    Scenario {
        name: "busy",
        stray: false,
        threads: 1,
        cast: Cast::Busy,
        budget: NONE,
    },
    Scenario {
        name: "alone: fds closed, restore, two threads",
        stray: false,
        threads: 2,
        cast: Cast::Alone,
        budget: Budget {
            closes: 2,
            restores: 1,
            ..NONE
        },
    },
    Scenario {
        name: "alone: a successor, a death, a drop",
        stray: false,
        threads: 2,
        cast: Cast::Alone,
        budget: Budget {
            successors: 1,
            deaths: 1,
            drops: 1,
            closes: 1,
            ..NONE
        },
    },
    Scenario {
        name: "alone: drops, restore, two threads",
        stray: false,
        threads: 2,
        cast: Cast::Alone,
        budget: Budget {
            drops: 2,
            restores: 1,
            closes: 1,
            ..NONE
        },
    },
    Scenario {
        name: "alone: a bit of everything",
        stray: false,
        threads: 1,
        cast: Cast::Alone,
        budget: Budget {
            closes: 1,
            faults: 1,
            kills: 1,
            restores: 1,
            drops: 1,
            deaths: 1,
            refusals: 1,
            ..NONE
        },
    },
    Scenario {
        name: "alone: a successor, restore, kills, refusals",
        stray: false,
        threads: 1,
        cast: Cast::Alone,
        budget: Budget {
            kills: 1,
            restores: 1,
            successors: 1,
            refusals: 1,
            ..NONE
        },
    },
    Scenario {
        name: "alone: two successors",
        stray: false,
        threads: 1,
        cast: Cast::Alone,
        budget: Budget {
            successors: 2,
            faults: 1,
            ..NONE
        },
    },
    Scenario {
        name: "alone: any answer, a bit of everything",
        stray: true,
        threads: 1,
        cast: Cast::Alone,
        budget: Budget {
            closes: 2,
            faults: 1,
            kills: 1,
            restores: 1,
            drops: 1,
            refusals: 1,
            ..NONE
        },
    },
];

impl Scenario {
    /// The scenario of this name.
    pub fn named(name: &str) -> Scenario {
        *ALL.iter()
            .find(|scenario| scenario.name == name)
            .expect("there is a scenario of this name")
    }

    /// What to explore, with these rules.
    pub fn table(self, rules: Rules) -> Table {
        let tasks: [(usize, bool, u8); TASKS] = match self.cast {
            Cast::Lookup => [(0, true, 1), (0, false, 1), (1, true, 0)],
            Cast::Read => [(0, false, 1), (0, false, 1), (1, false, 1)],
            Cast::Alone => [(0, true, 1), (0, false, 1), (1, false, 0)],
            Cast::Busy => [(0, false, 3), (0, false, 3), (1, false, 1)],
        };
        Table {
            rules,
            stray: self.stray,
            threads: self.threads,
            open: matches!(self.cast, Cast::Read | Cast::Busy),
            tasks,
            patience: match self.cast {
                Cast::Busy => TASKS as u8 - 1,
                _ => u8::MAX,
            },
            budget: self.budget,
        }
    }
}
