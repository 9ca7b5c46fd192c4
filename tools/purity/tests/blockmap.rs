// SPDX-License-Identifier: GPL-2.0

//! `blockmap.rs` against a set of blocks.

use proptest::prelude::*;
use purity::cache::blockmap::{Scale, MAX_WORDS};
use std::collections::BTreeSet;

const BLOCK: u64 = 4096;

fn range() -> impl Strategy<Value = std::ops::Range<u64>> {
    (0..300 * BLOCK, 0..200 * BLOCK).prop_map(|(start, len)| start..start + len)
}

proptest! {
    #[test]
    fn notes_whole_blocks(ranges in prop::collection::vec(range(), 0..12), asked in range()) {
        let size = 400 * BLOCK;
        let scale = Scale::of(size);
        let mut map = vec![0; scale.words(size)];
        let mut blocks = BTreeSet::new();
        for bytes in ranges {
            scale.set(&mut map, bytes.clone());
            let room = map.len() as u64 * 64;
            blocks.extend(bytes.start.div_ceil(BLOCK)..(bytes.end / BLOCK).min(room));
        }
        let missing = (asked.start / BLOCK..).find(|block| !blocks.contains(block)).unwrap();
        let expected = (missing * BLOCK).clamp(asked.start, asked.end);
        prop_assert_eq!(scale.noted_to(&map, asked), expected);
    }

    #[test]
    fn a_map_is_bounded(size in any::<u64>()) {
        let scale = Scale::of(size);
        let words = scale.words(size);
        prop_assert!(words <= MAX_WORDS);
        let mut map = vec![0; words];
        scale.set(&mut map, 0..size);
        // All but the last piece, if it is not whole.
        let noted = scale.noted_to(&map, 0..size);
        prop_assert!(size - noted < (size / 131_072).max(4096));
        prop_assert_eq!(scale.noted_to(&map, size..u64::MAX), size);
    }
}
