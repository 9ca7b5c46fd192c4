// SPDX-License-Identifier: GPL-2.0

//! `cache::key` against a model that was written from the description in C's comments with
//! strings and lists, and against names made by the C code.

use proptest::prelude::*;
use purity::cache::key::{cook, fanout_dir, volume_dir, KeyError, KEY_MAX, NAME_MAX};
use std::collections::HashSet;

fn cooked(key: &[u8]) -> Result<String, KeyError> {
    let mut out = [0xee; NAME_MAX];
    cook(key, &mut out).map(|name| String::from_utf8(name.to_vec()).unwrap())
}

const DIGITS: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-";

/// The name as it would be if names had no end.
fn model(key: &[u8]) -> String {
    if key.iter().all(|b| (33..=127).contains(b) && *b != b'/') {
        return format!("D{}", String::from_utf8(key.to_vec()).unwrap());
    }
    let mut padded = key.to_vec();
    padded.resize(key.len().div_ceil(4) * 4, 0);
    let text = |numbers: Vec<u32>| -> String {
        let words: Vec<String> = numbers
            .into_iter()
            .map(|n| match n {
                0 => String::new(),
                n => format!("{n:x}"),
            })
            .collect();
        words.join(",")
    };
    let word = |chunk: &[u8]| -> [u8; 4] { chunk.try_into().unwrap() };
    let big = text(
        padded
            .chunks(4)
            .map(|c| u32::from_be_bytes(word(c)))
            .collect(),
    );
    let little = text(
        padded
            .chunks(4)
            .map(|c| u32::from_le_bytes(word(c)))
            .collect(),
    );
    let base64 = base64(key);
    if big.len().min(little.len()) + 1 >= base64.len() {
        base64
    } else if big.len() <= little.len() {
        format!("S{big}")
    } else {
        format!("T{little}")
    }
}

fn base64(key: &[u8]) -> String {
    let mut bits: Vec<bool> = key
        .iter()
        .flat_map(|byte| (0..8).map(move |i| (byte >> i) & 1 == 1))
        .collect();
    let groups = key.len().div_ceil(3);
    bits.resize(groups * 24, false);
    let digits: String = bits
        .chunks(6)
        .map(|six| {
            let index = six.iter().rev().fold(0, |n, bit| n * 2 + usize::from(*bit));
            DIGITS.chars().nth(index).unwrap()
        })
        .collect();
    format!("E{}{digits}", groups * 3 - key.len())
}

fn check(key: &[u8]) {
    let name = model(key);
    let expected = if key.len() > KEY_MAX {
        Err(KeyError::KeyTooLong(key.len()))
    } else if name.len() > NAME_MAX {
        Err(KeyError::NameTooLong(name.len()))
    } else {
        Ok(name)
    };
    assert_eq!(cooked(key), expected, "{key:?}");
}

/// What the C function, compiled for the host, made of these keys.
#[test]
fn names_made_by_c() {
    for (key, name) in VECTORS {
        assert_eq!(cooked(key).as_deref(), Ok(*name), "{key:?}");
    }
}

/// Every encoding, and the places where one gives way to another.
const VECTORS: &[(&[u8], &str)] = &[
    (b"", "D"),
    (b"blob-1.meta", "Dblob-1.meta"),
    (b"sha256:0123456789abcdef", "Dsha256:0123456789abcdef"),
    (b"tilde~", "Dtilde~"),
    (b"\x7fdel", "D\x7fdel"),
    (b"a/b", "E0xZyo"),
    (b"a b", "E0x1yo"),
    (b"\x00", "S"),
    (b"\x00\x00\x00\x00\x00\x00\x00\x00", "S,"),
    (b"\x01\x00\x00\x00", "T1"),
    (b"\x00\x00\x00\x01", "S1"),
    (b"\x12\x34\x56\x78", "S12345678"),
    (b"\x00\x00\x00\x10\x10\x00\x00\x00", "S10,10000000"),
    (b"\x80\x00\x00\x00\x00\x00\x00", "T80,"),
    (
        b"\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00",
        "T1,2,3,",
    ),
    (
        b"\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03",
        "S1,2,3",
    ),
    // Hexadecimal would be as long as base 64, and has to be shorter.
    (b"ab\x0c", "E0x963"),
    (b"\xff\xff\xff", "E0----"),
    (b"\xff\xff\xff\xff\xff\xff", "E0--------"),
    (b"\xc3\xa9t\xc3\xa9", "E13Dat3Da0"),
    (b"dir/file.img", "E0ABCsLomqIlCbFRSp"),
    (b"registry/repo@sha", "E1OlSpFd7tOBTbOl6sL1QsE560"),
    (
        b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
          \x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f",
        "E104w03gg16s029EM2cQw3f0h4ic15loN5oAx6rMh7uY10",
    ),
];

#[test]
fn every_byte_alone() {
    for byte in 0..=u8::MAX {
        check(&[byte]);
        assert_eq!(
            cooked(&[byte]).unwrap().starts_with('D'),
            matches!(byte, 33..=46 | 48..=127),
            "{byte}"
        );
    }
}

#[test]
fn every_length() {
    for fill in [b'x', b' ', 0, 0xff] {
        for len in 0..=300 {
            check(&vec![fill; len]);
        }
    }
    assert_eq!(cooked(&[b'x'; 252]).unwrap().len(), 253);
    assert_eq!(cooked(&[b'x'; 253]), Err(KeyError::KeyTooLong(253)));
    assert_eq!(cooked(&[0xff; 190]), Err(KeyError::NameTooLong(258)));
    assert_eq!(cooked(&[0xff; 189]).unwrap().len(), 254);
    assert_eq!(KeyError::KeyTooLong(253).errno(), 36);
}

/// No two keys of one length share a name.  Keys of different lengths can: see below.
#[test]
fn short_keys_have_names_of_their_own() {
    let mut seen = HashSet::new();
    for key in 0..=u16::MAX {
        assert!(seen.insert(cooked(&key.to_ne_bytes()).unwrap()));
    }
}

/// C's flaw and part of the format: zeros at the end of a key get lost in its padding.  EROFS's
/// keys are text, so none of them is concerned.
#[test]
fn zeros_at_the_end_can_collide() {
    assert_eq!(cooked(&[1, 0, 0]), cooked(&[1, 0, 0, 0]));
}

#[test]
fn volumes_and_fan_out() {
    let mut out = [0; NAME_MAX];
    assert_eq!(volume_dir(b"erofs,x", &mut out), Ok(&b"Ierofs,x"[..]));
    assert_eq!(volume_dir(b"", &mut out), Ok(&b"I"[..]));
    assert_eq!(volume_dir(&[b'v'; 254], &mut out).unwrap().len(), 255);
    assert_eq!(
        volume_dir(&[b'v'; 255], &mut out),
        Err(KeyError::NameTooLong(256))
    );
    for hash in 0..=u8::MAX {
        assert_eq!(fanout_dir(hash), *format!("@{hash:02x}").as_bytes());
    }
}

/// Keys of all the kinds that the encodings are made for.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    let byte = |range| prop::collection::vec(range, 0..=260usize);
    prop_oneof![
        byte(0..=255u8),
        byte(32..=127),
        byte(0..=3),
        prop::collection::vec(any::<u8>(), 0..=16),
        prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..=260),
        // One odd byte in a printable key.
        (byte(33..=46), any::<prop::sample::Index>(), any::<u8>()).prop_map(
            |(mut key, at, odd)| {
                if !key.is_empty() {
                    let at = at.index(key.len());
                    key[at] = odd;
                }
                key
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn as_the_model(key in keys()) {
        check(&key);
    }

    #[test]
    fn a_name_can_be_a_directory_entry(key in keys()) {
        if let Ok(name) = cooked(&key) {
            prop_assert!((1..=NAME_MAX).contains(&name.len()));
            prop_assert!(!name.contains(['/', '\0']));
            prop_assert!(!matches!(name.as_str(), "." | ".."));
        }
    }

    /// Keys a bit apart: any two that the encodings could confuse are found this way.
    #[test]
    fn names_are_unique_among_keys_of_one_length(
        key in prop::collection::vec(prop_oneof![Just(0u8), Just(b'a'), any::<u8>()], 1..=24),
        at: prop::sample::Index,
        bit in 0..8u32,
    ) {
        let mut other = key.clone();
        other[at.index(key.len())] ^= 1 << bit;
        prop_assert_ne!(cooked(&key), cooked(&other));
    }
}
