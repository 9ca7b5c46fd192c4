// SPDX-License-Identifier: GPL-2.0

//! `rust/cache/key.rs`: the input is a key.
//!
//! Lives here: that a name is one that a directory can have, and that the key can be had back from
//! it, so that no two keys have one name; which of the encodings is chosen; and which keys have
//! none.

use crate::assert_is_a_line;
use purity::cache::key::{cook, fanout_dir, volume_dir, KeyError, KEY_MAX, NAME_MAX};

const ENAMETOOLONG: i32 = 36;
const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-";

/// Checks one key, as a cookie's and as a volume's.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(key: &[u8]) {
    cookie(key);
    volume(key);
    if let Some(hash) = key.first() {
        assert_eq!(fanout_dir(*hash), format!("@{hash:02x}").as_bytes());
    }
}

fn cookie(key: &[u8]) {
    let mut out = [0xa5; NAME_MAX];
    match cook(key, &mut out) {
        Ok(name) => {
            assert!(key.len() <= KEY_MAX);
            assert!((1..=NAME_MAX).contains(&name.len()));
            assert!(!name.iter().any(|byte| matches!(byte, 0 | b'/')));
            let back = uncook(name);
            // Words of 32 bits do not tell how many zeros were the key's own.
            let whole = matches!(name[0], b'D' | b'E');
            let len = if whole { back.len() } else { key.len() };
            assert!(back.len() - len < 4 && back[len..].iter().all(|byte| *byte == 0));
            assert_eq!(back[..len], *key);
        }
        Err(error) => refused(error, key.len() > KEY_MAX, shortest(key)),
    }
}

fn refused(error: KeyError, too_long: bool, name_len: usize) {
    assert_is_a_line(&error.to_string(), 200);
    assert_eq!(error.errno(), ENAMETOOLONG);
    match error {
        KeyError::KeyTooLong(_) => assert!(too_long),
        KeyError::NameTooLong(len) => {
            assert!(!too_long && len > NAME_MAX);
            assert_eq!(len, name_len);
        }
    }
}

/// Bytes of the name, by what each encoding would take.
fn shortest(key: &[u8]) -> usize {
    let plain = |byte: &u8| (0x21..=0x7f).contains(byte) && *byte != b'/';
    if key.iter().all(plain) {
        return 1 + key.len();
    }
    let hex = |read: fn([u8; 4]) -> u32| -> usize {
        let word = |chunk: &[u8]| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            match read(word) {
                0 => 1,
                number => 1 + format!("{number:x}").len(),
            }
        };
        key.chunks(4).map(word).sum()
    };
    let base64 = 2 + key.len().div_ceil(3) * 4;
    base64
        .min(hex(u32::from_be_bytes))
        .min(hex(u32::from_le_bytes))
}

/// The key of a name.
fn uncook(name: &[u8]) -> Vec<u8> {
    match name {
        [b'D', key @ ..] => {
            assert!(key.iter().all(|byte| (0x21..=0x7f).contains(byte)));
            key.to_vec()
        }
        [b'S', words @ ..] => hex(words, u32::to_be_bytes),
        [b'T', words @ ..] => hex(words, u32::to_le_bytes),
        [b'E', padding @ b'0'..=b'2', digits @ ..] => base64(digits, padding - b'0'),
        _ => panic!("{} is no cooked key", name.escape_ascii()),
    }
}

fn hex(words: &[u8], write: fn(u32) -> [u8; 4]) -> Vec<u8> {
    let number = |word: &[u8]| match word {
        b"" => 0,
        [b'0', ..] => panic!("a zero in front"),
        word => u32::from_str_radix(std::str::from_utf8(word).expect("digits"), 16).expect("hex"),
    };
    words
        .split(|byte| *byte == b',')
        .flat_map(|word| write(number(word)))
        .collect()
}

fn base64(digits: &[u8], padding: u8) -> Vec<u8> {
    assert_eq!(digits.len() % 4, 0);
    let value = |digit: &u8| {
        DIGITS
            .iter()
            .position(|known| known == digit)
            .expect("a digit") as u32
    };
    let mut key: Vec<u8> = digits
        .chunks(4)
        .flat_map(|four| {
            let group = four
                .iter()
                .rev()
                .fold(0, |group, digit| (group << 6) | value(digit));
            group.to_le_bytes().into_iter().take(3)
        })
        .collect();
    for _ in 0..padding {
        assert_eq!(key.pop(), Some(0));
    }
    key
}

fn volume(key: &[u8]) {
    let mut out = [0xa5; NAME_MAX];
    match volume_dir(key, &mut out) {
        Ok(name) => assert_eq!(name, [b"I", key].concat()),
        Err(error) => refused(error, false, 1 + key.len()),
    }
}
