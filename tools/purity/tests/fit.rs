// SPDX-License-Identifier: GPL-2.0

//! How a write fits the blocks of a cache file: single cases, and what holds for any.

use proptest::prelude::*;
use purity::io::fit::{fit, Fit};

const BLOCK: u64 = 4096;

fn parts(
    start: u64,
    len: usize,
    file_size: u64,
    extendable: usize,
) -> (usize, usize, usize, usize) {
    let Fit {
        head,
        body,
        tail,
        more,
    } = fit(start, len, file_size, extendable, BLOCK);
    (head, body, tail, more)
}

#[test]
fn whole_blocks_are_written_as_they_are() {
    assert_eq!(parts(0, 4096, 1 << 20, 0), (0, 4096, 0, 0));
    assert_eq!(parts(8192, 65536, 1 << 20, 0), (0, 65536, 0, 0));
}

#[test]
fn the_last_block_of_the_file_is_filled() {
    assert_eq!(parts(0, 5, 5, 4091), (0, 4096, 0, 4091));
    assert_eq!(parts(4096, 5000, 9096, 4000), (0, 8192, 0, 3192));
}

#[test]
fn without_memory_behind_it_the_last_block_is_left_out() {
    assert_eq!(parts(0, 5, 5, 4090), (0, 0, 5, 0));
    assert_eq!(parts(4096, 5000, 9096, 3000), (0, 4096, 904, 0));
}

#[test]
fn in_the_middle_of_a_file_nothing_is_added() {
    assert_eq!(parts(0, 5000, 9000, 8192), (0, 4096, 904, 0));
}

#[test]
fn a_start_within_a_block_is_left_out() {
    assert_eq!(parts(100, 8092, 1 << 20, 0), (3996, 4096, 0, 0));
    assert_eq!(parts(100, 3996, 1 << 20, 0), (3996, 0, 0, 0));
    assert_eq!(parts(100, 50, 1 << 20, 0), (50, 0, 0, 0));
    assert_eq!(parts(100, 50, 150, 4096), (50, 0, 0, 0));
}

#[test]
fn an_end_beyond_all_offsets_is_no_end_of_a_file() {
    assert_eq!(parts(u64::MAX - 4095, 5000, 904, 8192), (0, 4096, 904, 0));
}

proptest! {
    #[test]
    fn every_byte_is_accounted_for(
        start in 0..1_u64 << 40,
        len in 1..1_usize << 20,
        beyond in 0..3_u64,
        extendable in 0..1_usize << 14,
    ) {
        let file_size = start + len as u64 + beyond.saturating_sub(1) * 1000;
        let Fit { head, body, tail, more } = fit(start, len, file_size, extendable, BLOCK);
        prop_assert_eq!(head + body + tail, len + more);
        prop_assert!(more <= extendable && more < 4096);
        prop_assert!(head < 4096 && tail < 4096);
        if body > 0 {
            prop_assert_eq!((start + head as u64) % BLOCK, 0);
            prop_assert_eq!(body as u64 % BLOCK, 0);
        }
        // Only zeros behind the end of the file are ever added.
        prop_assert!(more == 0 || start + len as u64 == file_size);
    }
}
