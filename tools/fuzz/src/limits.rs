// SPDX-License-Identifier: GPL-2.0

//! `rust/cache/limits.rs`: the input is some settings, a file system, and the space in it.
//!
//! Lives here: that limits stay in order and change only if they may, that thresholds are shares of
//! what there is, and what the judgement on the space has to be, with numbers that cannot overflow.

use crate::{assert_is_a_line, take::Take};
use purity::{
    cache::limits::{CullChange, Levels, Limits, Space, StateLine, Thresholds},
    protocol::command::{Bound, Resource},
};

/// Checks one input.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(data: &[u8]) {
    let mut take = Take(data);
    let mut limits = Limits::default();
    for _ in 0..take.u8() % 16 {
        set(&mut limits, &mut take);
    }
    let (files, blocks) = (take.u64(), take.u64());
    let thresholds = Thresholds::new(&limits, files, blocks);
    shares(limits.of(Resource::Files), thresholds.files, files);
    shares(limits.of(Resource::Blocks), thresholds.blocks, blocks);
    while !take.is_empty() {
        judge(&thresholds, &mut take);
    }
}

fn set(limits: &mut Limits, take: &mut Take<'_>) {
    let what = take.u8();
    let resource = [Resource::Files, Resource::Blocks][usize::from(what & 1)];
    let other = [Resource::Blocks, Resource::Files][usize::from(what & 1)];
    let bound = [Bound::Run, Bound::Cull, Bound::Stop][usize::from(what >> 1) % 3];
    let percent = match what >> 7 {
        0 => u64::from(take.u8()),
        _ => take.u64(),
    };
    let (before, untouched) = (limits.of(resource), limits.of(other));
    let mut wanted = before;
    match bound {
        Bound::Run => wanted.run = percent,
        Bound::Cull => wanted.cull = percent,
        Bound::Stop => wanted.stop = percent,
    }
    // As a person reads it in the manual.
    let good = wanted.stop < wanted.cull && wanted.cull < wanted.run && wanted.run < 100;
    match limits.set(resource, bound, percent) {
        Ok(()) => {
            assert!(good);
            assert_eq!(limits.of(resource), wanted);
        }
        Err(error) => {
            assert!(!good);
            assert_eq!((error.resource, error.levels), (resource, wanted));
            assert_eq!(limits.of(resource), before);
            assert_is_a_line(&error.to_string(), 300);
        }
    }
    assert_eq!(limits.of(other), untouched);
    assert!(limits.of(resource).are_ordered());
}

fn shares(percent: Levels, of: Levels, total: u64) {
    for (percent, share) in [
        (percent.run, of.run),
        (percent.cull, of.cull),
        (percent.stop, of.stop),
    ] {
        let exact = u128::from(total) * u128::from(percent) / 100;
        // Whole per cents first: what that loses is less than a per cent for each.
        assert!(u128::from(share) <= exact && exact - u128::from(share) < 100);
    }
}

fn judge(thresholds: &Thresholds, take: &mut Take<'_>) {
    let culling = take.u8() & 1 == 1;
    let space = Space {
        files_free: take.u64(),
        blocks_avail: take.u64(),
        blocks_writing: take.u64(),
    };
    let (need_files, need_blocks) = (take.u64(), take.u64());
    let verdict = thresholds.judge(space, need_files, need_blocks, culling);
    let files = i128::from(space.files_free) - i128::from(need_files);
    let blocks =
        i128::from(space.blocks_avail) - i128::from(space.blocks_writing) - i128::from(need_blocks);
    // Less than nothing is nothing.
    let (files, blocks) = (files.max(0), blocks.max(0));
    let reach = |level: fn(&Levels) -> u64| {
        files >= i128::from(level(&thresholds.files))
            && blocks >= i128::from(level(&thresholds.blocks))
    };
    assert_eq!(verdict.enough, reach(|levels| levels.stop));
    let change = match culling {
        false if !reach(|levels| levels.cull) => CullChange::Begin,
        true if reach(|levels| levels.run) => CullChange::Cease,
        _ => CullChange::Unchanged,
    };
    assert_eq!(verdict.culling, change);
    let line = StateLine {
        culling,
        thresholds,
        files_released: take.u32(),
        blocks_released: take.u64(),
    };
    assert_is_a_line(&line.to_string(), 256);
}
