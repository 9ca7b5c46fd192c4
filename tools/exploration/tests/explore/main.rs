// SPDX-License-Identifier: GPL-2.0

//! Explores all scenarios with all rules, and then one with each rule taken out.

mod alike;
mod missing;

use exploration::invariant::Bug;
use exploration::rule::{Rule, Rules};
use exploration::scenario::{Scenario, ALL, LONG};
use missing::MISSING;
use stateright::{Checker, HasDiscoveries, Model};
use std::fmt::Arguments;
use std::io::Write;
use std::time::Instant;

/// Tells what is worth knowing even of a test that passes: what a test prints is shown only when it
/// fails, but not what it writes here.
fn say(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Explores all of these, depth first, which needs less memory.
fn explore(scenarios: &[Scenario]) {
    let mut states = 0;
    let start = Instant::now();
    for scenario in scenarios {
        let began = Instant::now();
        let checker = scenario
            .table(Rules::default(), None)
            .checker()
            .threads(2)
            .finish_when(HasDiscoveries::Any)
            .spawn_dfs()
            .join();
        let visited = checker.unique_state_count();
        let seconds = began.elapsed().as_secs_f32();
        println!("{visited:9} states in {seconds:4.1} s: {}", scenario.name);
        states += visited;
        if let Some((_, path)) = checker.discoveries().into_iter().next() {
            let bug = path.last_state().bug.expect("a bug was found");
            let (_, shortest) = shortest(*scenario, Rules::default(), bug);
            let (world, steps) = shortest.expect("it is found once more");
            panic!(
                "{}: not true that {}, after {steps}\n{world}",
                scenario.name,
                bug.property()
            );
        }
    }
    let seconds = start.elapsed().as_secs();
    let scenarios = scenarios.len();
    say(format_args!(
        "exploration: {states} states visited in {scenarios} scenarios, {seconds} s, nothing wrong"
    ));
}

/// How many states it takes to find the bug breadth first, the world that has it then, and the steps
/// to it.
fn shortest(scenario: Scenario, rules: Rules, bug: Bug) -> (usize, Option<(String, String)>) {
    let checker = scenario
        .table(rules, Some(bug))
        .checker()
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    let found = checker.discoveries().into_values().next().map(|path| {
        let world = format!("{:#?}", path.last_state());
        (world, format!("{:?}", path.into_actions()))
    });
    (checker.unique_state_count(), found)
}

#[test]
fn nothing_goes_wrong_with_all_rules() {
    explore(ALL);
}

/// Two threads and a second daemon together: 52.9 million states, 555 s of processor time.
#[test]
#[ignore = "takes minutes"]
fn nothing_goes_wrong_in_the_long_run() {
    explore(LONG);
}

#[test]
fn each_rule_is_needed() {
    let mut states = 0;
    for missing in MISSING {
        let rules = Rules {
            without: Some(missing.rule),
        };
        let (visited, found) = shortest(Scenario::named(missing.scenario), rules, missing.bug);
        states += visited;
        let property = missing.bug.property();
        let Some((_, steps)) = found else {
            panic!(
                "{:?} is not needed in order that {property} ({})",
                missing.rule, missing.row
            );
        };
        println!("without {:?}: {}", missing.rule, missing.row);
        println!("    it is not true that {property}, after");
        println!("    {steps}");
    }
    say(format_args!(
        "exploration: {} rules taken out, one at a time; the bug was found each time, in {states} states",
        MISSING.len()
    ));
}

#[test]
fn every_rule_is_taken_out_and_every_property_can_fail() {
    for rule in Rule::ALL {
        let missing = MISSING.iter().any(|missing| missing.rule == *rule);
        assert!(missing, "{rule:?} is never taken out");
    }
    for bug in Bug::ALL {
        let missing = MISSING.iter().any(|missing| missing.bug == *bug);
        assert!(missing, "nothing shows that {bug:?} would be found");
    }
}
