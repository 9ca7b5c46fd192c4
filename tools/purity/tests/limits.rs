// SPDX-License-Identifier: GPL-2.0

//! `cache::limits` against C's rules written out one by one.

use proptest::prelude::*;
use purity::{
    cache::limits::{
        CullChange, Levels, Limits, RangeError, Space, StateLine, Thresholds, Verdict,
    },
    protocol::command::{Bound, Resource},
};

const RESOURCES: [Resource; 2] = [Resource::Files, Resource::Blocks];

/// The comparison with which each command of daemon.c refuses a limit.
fn refused(levels: Levels, bound: Bound, percent: u64) -> bool {
    let Levels { run, cull, stop } = levels;
    match bound {
        Bound::Run => percent <= cull || percent >= 100,
        Bound::Cull => percent <= stop || percent >= run,
        Bound::Stop => percent >= cull,
    }
}

fn set(levels: Levels, bound: Bound, percent: u64) -> Levels {
    match bound {
        Bound::Run => Levels {
            run: percent,
            ..levels
        },
        Bound::Cull => Levels {
            cull: percent,
            ..levels
        },
        Bound::Stop => Levels {
            stop: percent,
            ..levels
        },
    }
}

/// `cachefiles_has_space()` with its gotos unfolded; gives ENOBUFS or not, and the flag after it.
fn has_space(t: &Thresholds, s: Space, fnr: u64, bnr: u64, mut culling: bool) -> (bool, bool) {
    let less = |number: u64, by: u64| number.max(by) - by;
    let b_avail = less(less(s.blocks_avail, s.blocks_writing), bnr);
    let f_ffree = less(s.files_free, fnr);
    if f_ffree < t.files.stop || b_avail < t.blocks.stop {
        return (false, true);
    }
    if f_ffree < t.files.cull || b_avail < t.blocks.cull {
        return (true, true);
    }
    if culling && f_ffree >= t.files.run && b_avail >= t.blocks.run {
        culling = false;
    }
    (true, culling)
}

fn after(verdict: Verdict, culling: bool) -> bool {
    match verdict.culling {
        CullChange::Begin => true,
        CullChange::Cease => false,
        CullChange::Unchanged => culling,
    }
}

#[test]
fn defaults_are_cs() {
    for resource in RESOURCES {
        assert_eq!(
            Limits::default().of(resource),
            Levels {
                run: 7,
                cull: 5,
                stop: 1
            }
        );
    }
}

#[test]
fn thresholds_are_whole_per_cents() {
    let t = Thresholds::new(&Limits::default(), 1099, 100);
    assert_eq!((t.files.run, t.files.cull, t.files.stop), (70, 50, 10));
    assert_eq!((t.blocks.run, t.blocks.cull, t.blocks.stop), (7, 5, 1));
    let t = Thresholds::new(&Limits::default(), 99, u64::MAX);
    assert_eq!((t.files.run, t.files.cull, t.files.stop), (0, 0, 0));
    assert_eq!(t.blocks.run, u64::MAX / 100 * 7);
}

#[test]
fn a_range_error_says_it_all() {
    let mut limits = Limits::default();
    let error = limits.set(Resource::Blocks, Bound::Cull, 7).unwrap_err();
    assert_eq!(
        error.to_string(),
        "free space limits must be in range 0% <= stop < cull < run < 100%, \
         not bstop 1%, bcull 7%, brun 7%"
    );
    let error = limits.set(Resource::Files, Bound::Stop, 5).unwrap_err();
    assert!(error.to_string().contains("fstop 5%, fcull 5%"));
}

/// Begin below cull, go on until run is reached by both, and fail below stop.
#[test]
fn culling_has_hysteresis() {
    let t = Thresholds::new(&Limits::default(), 10_000, 10_000);
    let mut culling = false;
    for (files, blocks, enough, change) in [
        (1000, 1000, true, CullChange::Unchanged),
        (1000, 500, true, CullChange::Unchanged),
        (1000, 499, true, CullChange::Begin),
        (1000, 400, true, CullChange::Unchanged),
        (1000, 699, true, CullChange::Unchanged),
        (699, 700, true, CullChange::Unchanged),
        (700, 700, true, CullChange::Cease),
        (700, 500, true, CullChange::Unchanged),
        (99, 1000, false, CullChange::Begin),
        (100, 1000, true, CullChange::Unchanged),
        (1000, 99, false, CullChange::Unchanged),
    ] {
        let space = Space {
            files_free: files,
            blocks_avail: blocks,
            blocks_writing: 0,
        };
        let verdict = t.judge(space, 0, 0, culling);
        assert_eq!(
            verdict,
            Verdict {
                enough,
                culling: change
            },
            "{space:?}"
        );
        culling = after(verdict, culling);
    }
}

#[test]
fn the_state_line_is_cs() {
    let thresholds = Thresholds {
        files: Levels {
            run: 0x1a2b,
            cull: 15,
            stop: 0,
        },
        blocks: Levels {
            run: u64::MAX,
            cull: 0x10,
            stop: 1,
        },
    };
    let mut line = StateLine {
        culling: true,
        thresholds: &thresholds,
        files_released: u32::MAX,
        blocks_released: 0xabc,
    };
    assert_eq!(
        line.to_string(),
        "cull=1 frun=1a2b fcull=f fstop=0 brun=ffffffffffffffff bcull=10 bstop=1 \
         freleased=ffffffff breleased=abc"
    );
    line.culling = false;
    assert!(line.to_string().starts_with("cull=0 "));
}

#[test]
fn the_longest_state_line_fits_cs_buffer() {
    let levels = Levels {
        run: u64::MAX,
        cull: u64::MAX,
        stop: u64::MAX,
    };
    let line = StateLine {
        culling: true,
        thresholds: &Thresholds {
            files: levels,
            blocks: levels,
        },
        files_released: u32::MAX,
        blocks_released: u64::MAX,
    };
    assert!(line.to_string().len() < 256);
}

fn commands() -> impl Strategy<Value = (Resource, Bound, u64)> {
    (
        prop::sample::select(RESOURCES.to_vec()),
        prop::sample::select(vec![Bound::Run, Bound::Cull, Bound::Stop]),
        prop_oneof![9 => 0..=101u64, 1 => any::<u64>()],
    )
}

/// Limits that some commands have made.
fn limits() -> impl Strategy<Value = Limits> {
    prop::collection::vec(commands(), 0..24).prop_map(|commands| {
        let mut limits = Limits::default();
        for (resource, bound, percent) in commands {
            let _ = limits.set(resource, bound, percent);
        }
        limits
    })
}

fn near(number: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => number.saturating_sub(3)..=number.saturating_add(3),
        1 => any::<u64>(),
        1 => Just(0),
    ]
}

/// Thresholds, and space and needs close to where the judgement turns.
fn judged() -> impl Strategy<Value = (Thresholds, Space, u64, u64)> {
    (limits(), 0..5000u64, 0..5000u64).prop_flat_map(|(limits, files, blocks)| {
        let t = Thresholds::new(&limits, files, blocks);
        let level = |l: Levels| prop::sample::select(vec![l.run, l.cull, l.stop]);
        (
            level(t.files).prop_flat_map(near),
            level(t.blocks).prop_flat_map(near),
            near(0),
            near(0),
            near(0),
        )
            .prop_map(
                move |(files_free, blocks_avail, blocks_writing, fnr, bnr)| {
                    let space = Space {
                        // Put back most of what is taken away again, to stay near the turning point.
                        files_free: files_free.saturating_add(fnr.min(3)),
                        blocks_avail: blocks_avail.saturating_add(blocks_writing.min(3)),
                        blocks_writing,
                    };
                    (t, space, fnr, bnr)
                },
            )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn each_command_follows_cs_rule(limits in limits(), (resource, bound, percent) in commands()) {
        let mut limits = limits;
        let before = limits;
        let wanted = set(before.of(resource), bound, percent);
        let result = limits.set(resource, bound, percent);
        if refused(before.of(resource), bound, percent) {
            prop_assert_eq!(result, Err(RangeError { resource, levels: wanted }));
            prop_assert_eq!(limits, before);
        } else {
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(limits.of(resource), wanted);
        }
        for other in RESOURCES.into_iter().filter(|other| *other != resource) {
            prop_assert_eq!(limits.of(other), before.of(other));
        }
    }

    /// So `bind` has nothing left to check.
    #[test]
    fn limits_stay_in_order(limits in limits()) {
        for resource in RESOURCES {
            let Levels { run, cull, stop } = limits.of(resource);
            prop_assert!(stop < cull && cull < run && run < 100);
        }
    }

    #[test]
    fn thresholds_grow_with_limits_and_totals(limits in limits(), files: u64, more: u64, blocks: u64) {
        let t = Thresholds::new(&limits, files, blocks);
        for levels in [t.files, t.blocks] {
            prop_assert!(levels.stop <= levels.cull && levels.cull <= levels.run);
        }
        let larger = Thresholds::new(&limits, files.saturating_add(more), blocks);
        prop_assert!(t.files.run <= larger.files.run);
        prop_assert!(t.files.cull <= larger.files.cull);
        prop_assert!(t.files.stop <= larger.files.stop);
        prop_assert!(t.files.run <= files && t.blocks.run <= blocks);
        prop_assert_eq!(t.files.stop, files / 100 * limits.of(Resource::Files).stop);
    }

    #[test]
    fn judged_as_c_does((t, space, fnr, bnr) in judged(), culling: bool) {
        let verdict = t.judge(space, fnr, bnr, culling);
        prop_assert_eq!(
            (verdict.enough, after(verdict, culling)),
            has_space(&t, space, fnr, bnr, culling)
        );
        // A change is reported only where there is one.
        prop_assert_eq!(
            verdict.culling != CullChange::Unchanged,
            after(verdict, culling) != culling
        );
    }

    /// Writes that are granted without a look at the disk would have been, and changed nothing.
    #[test]
    fn what_is_to_spare_meets_no_limit(
        (t, space, _, bnr) in judged(),
        culling: bool,
        part in 0.0..=1.0,
    ) {
        let spare = t.spare_blocks(space, bnr, culling);
        let taken = (spare as f64 * part) as u64;
        let verdict = t.judge(space, 0, bnr.saturating_add(taken.min(spare)), culling);
        prop_assert!(spare == 0 || verdict.enough);
        prop_assert!(spare == 0 || verdict.culling == CullChange::Unchanged);
    }

    #[test]
    fn more_space_is_never_worse((t, space, fnr, bnr) in judged(), more: u8, culling: bool) {
        let before = t.judge(space, fnr, bnr, culling);
        let space = Space {
            files_free: space.files_free.saturating_add(u64::from(more)),
            blocks_avail: space.blocks_avail.saturating_add(u64::from(more)),
            ..space
        };
        let now = t.judge(space, fnr, bnr, culling);
        prop_assert!(now.enough >= before.enough);
        prop_assert!(after(now, culling) <= after(before, culling));
    }
}
