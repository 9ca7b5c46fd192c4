// SPDX-License-Identifier: GPL-2.0

//! What a look at the disk is worth: under any order of looks and writes no limit is met unseen.

use proptest::prelude::*;
use purity::cache::look::{Ageing, Begun, Look};

/// So many looks may be under way at once.
const LOOKERS: usize = 3;
const BLOCK: u32 = 4096;
const HZ: u64 = 250;
/// What others are thought to write in a tick, 8 GiB a second.
const OTHERS: u64 = (8 << 30) / BLOCK as u64 / HZ + 1;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Somebody wants to write, and begins to look if that is not granted.
    Want { who: usize, blocks: u64 },
    /// Who looks asks the file system.
    Ask { who: usize },
    /// Who looks tells what was found, and writes if there was enough.
    Tell { who: usize },
    /// Time passes, and others write.
    Pass { quarters: usize, part: f64 },
    /// Something is taken out of the cache, or others remove something.
    Free { blocks: u64 },
    /// Somebody looks who does not write, maybe because others have taken much at a stroke.
    Check { stroke: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..LOOKERS;
    prop_oneof![
        6 => (who.clone(), 0_u64..40_000).prop_map(|(who, blocks)| Step::Want { who, blocks }),
        4 => who.clone().prop_map(|who| Step::Ask { who }),
        4 => who.prop_map(|who| Step::Tell { who }),
        3 => (0_usize..160, 0.0..=1.0).prop_map(|(quarters, part)| Step::Pass { quarters, part }),
        1 => (0_u64..100_000).prop_map(|blocks| Step::Free { blocks }),
        1 => (0_u64..1_000_000).prop_map(|stroke| Step::Check { stroke }),
    ]
}

/// Somebody who looks.
struct Looker {
    begun: Begun,
    own: u64,
    /// What there was to spare, beside the own blocks.
    found: Option<Option<u64>>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whoever is granted blocks could have had them from a look at that moment.
    #[test]
    fn grants_no_more_than_there_is(
        start: usize,
        spare in 0_u64..2_000_000,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let ageing = Ageing::new(BLOCK, HZ);
        // In quarters of a tick.
        let mut clock = 0;
        let mut look = Look::new(start);
        // Above all limits; what is granted is taken at once, as writes under way count as taken.
        let mut spare = spare as i64;
        let mut lookers: [Option<Looker>; LOOKERS] = Default::default();
        for step in steps {
            let now = start.wrapping_add(clock / 4);
            match step {
                Step::Want { who, blocks } => match look.grant(now, blocks, ageing) {
                    Ok(()) => {
                        prop_assert!(blocks == 0 || spare >= blocks as i64, "{blocks} of {spare}");
                        spare -= blocks as i64;
                    }
                    Err(begun) => {
                        lookers[who].get_or_insert(Looker { begun, own: blocks, found: None });
                    }
                },
                Step::Ask { who } => {
                    if let Some(looker) = &mut lookers[who] {
                        if looker.found.is_none() {
                            looker.found = Some(u64::try_from(spare - looker.own as i64).ok());
                        }
                    }
                }
                Step::Tell { who } => {
                    let told = lookers[who].take();
                    if let Some(Looker { begun, own, found: Some(Some(blocks)) }) = told {
                        look.found(begun, own, blocks);
                        // As in C, who has looked writes, whatever others did meanwhile.
                        spare -= own as i64;
                    }
                }
                Step::Pass { quarters, part } => {
                    clock += quarters;
                    spare -= (quarters as f64 * OTHERS as f64 / 4.0 * part) as i64;
                }
                Step::Free { blocks } => spare += blocks as i64,
                Step::Check { stroke } => {
                    spare -= stroke as i64;
                    // Others may tell later of what they have found before.
                    look.at_most(u64::try_from(spare).unwrap_or(0));
                }
            }
        }
    }
}

/// A look is worth something for a tenth of a second.
#[test]
fn grows_old() {
    let ageing = Ageing::new(BLOCK, HZ);
    let mut look = Look::new(7);
    let begun = look.grant(7, 1, ageing).expect_err("nothing is known yet");
    look.found(begun, 1, u64::MAX);
    assert!(look.grant(7 + 25, 1, ageing).is_ok());
    assert!(look.grant(7 + 26, 1, ageing).is_err());
    // Where the clock goes backwards, nothing is.
    assert!(look.grant(6, 1, ageing).is_err());
}

/// What others can have written is left to them.
#[test]
fn leaves_room_for_others() {
    let ageing = Ageing::new(BLOCK, HZ);
    let mut look = Look::new(0);
    let begun = look.grant(0, 1, ageing).expect_err("nothing is known yet");
    look.found(begun, 1, 4 * OTHERS);
    assert!(look.grant(2, OTHERS, ageing).is_ok());
    assert!(look.grant(2, 1, ageing).is_err());
    assert!(look.grant(1, 1, ageing).is_ok());
}
