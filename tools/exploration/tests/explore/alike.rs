// SPDX-License-Identifier: GPL-2.0

//! Worlds that are taken for alike can do the same, though they are not equal.

use exploration::rule::Rules;
use exploration::scenario::{Scenario, ALL};
use exploration::table::Table;
use exploration::world::World;
use stateright::Model;
use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How many worlds of each scenario are looked at.
const WORLDS: usize = 20_000;

fn kind(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

fn nexts(table: &Table, world: &World) -> Vec<World> {
    let mut steps = Vec::new();
    table.actions(world, &mut steps);
    let next = |step| table.next_state(world, step);
    steps.into_iter().filter_map(next).collect()
}

/// Takes the steps of worlds that are chosen at random among those that can be reached, and returns how
/// many were alike to one before.
fn compare(scenario: Scenario) -> usize {
    let table = scenario.table(Rules::default(), None);
    let mut known: HashMap<u64, Vec<World>> = HashMap::new();
    let mut futures: HashMap<u64, BTreeSet<u64>> = HashMap::new();
    let mut pending = table.init_states();
    let mut alike = 0;
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..WORLDS {
        if pending.is_empty() {
            break;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let world = pending.swap_remove(random as usize % pending.len());
        let nexts = nexts(&table, &world);
        // From one to another of its own kind, nothing has happened.
        let own = kind(&world);
        let future = nexts.iter().map(kind).filter(|next| *next != own).collect();
        match futures.get(&own) {
            Some(before) => {
                alike += 1;
                assert_eq!(
                    *before, future,
                    "{}: others are taken for alike to {world:#?}",
                    scenario.name
                );
            }
            None => drop(futures.insert(own, future)),
        }
        for next in nexts {
            let like = known.entry(kind(&next)).or_default();
            if !like.contains(&next) {
                like.push(next.clone());
                pending.push(next);
            }
        }
    }
    alike
}

#[test]
fn alike_worlds_have_alike_futures() {
    for scenario in ALL {
        let alike = compare(*scenario);
        println!(
            "{alike:6} of {WORLDS} were alike to another: {}",
            scenario.name
        );
        assert!(alike > 0, "{}: none were alike", scenario.name);
    }
}
