// SPDX-License-Identifier: GPL-2.0

//! The names of files and directories in a cache: `cachefiles_cook_key()` and what the C code
//! does in passing for volumes and their fan-out directories.
//!
//! Lives here: key in, name out.  Never here: looking a name up, or the hash of a key, which is
//! fscache's.
//!
//! The layout on disk is part of the interface: daemons compute these names to cull files, and a
//! cache filled by the C module is read by this one.  So every byte is as in C.
//!
//! ```text
//! cache/I<volume key>/@<two hex digits of the cookie's hash>/<cooked cookie key>
//! ```
//!
//! A cooked key begins with a letter that tells how the rest is encoded: `D` as it is, `S` or `T`
//! as hexadecimal words of 32 bits (big- or little-endian), `E` in base 64.

use super::super::protocol::errno;
use core::fmt;

/// The longest name a directory entry can have, in bytes and without a NUL.
pub const NAME_MAX: usize = 255;

/// The longest cookie key in bytes; C stops the machine at a longer one.
pub const KEY_MAX: usize = NAME_MAX - 3;

/// Why a key has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The key has this many bytes, more than [`KEY_MAX`].  C: `BUG_ON`.
    KeyTooLong(usize),
    /// The name would have this many bytes, more than [`NAME_MAX`].  C makes the name, and then
    /// the backing file system's lookup refuses it.
    NameTooLong(usize),
}

impl KeyError {
    /// The positive error number for it, that of a lookup.
    pub const fn errno(self) -> i32 {
        errno::ENAMETOOLONG
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::KeyTooLong(len) => {
                write!(f, "a key of {len} bytes; at most {KEY_MAX} can be named")
            }
            KeyError::NameTooLong(len) => {
                write!(
                    f,
                    "a key whose name has {len} bytes; at most {NAME_MAX} are allowed"
                )
            }
        }
    }
}

/// Writes the name of the file of a cookie with this key into `out` and returns it.
///
/// # Errors
///
/// [`KeyError`] if key or name are too long; what is in `out` then means nothing.
pub fn cook<'o>(key: &[u8], out: &'o mut [u8; NAME_MAX]) -> Result<&'o [u8], KeyError> {
    if key.len() > KEY_MAX {
        return Err(KeyError::KeyTooLong(key.len()));
    }
    let mut name = Name { out, len: 0 };
    if key.iter().all(|byte| is_plain(*byte)) {
        name.push(b'D');
        name.extend(key);
        return name.finish();
    }
    let big = hex_len(key, u32::from_be_bytes);
    let little = hex_len(key, u32::from_le_bytes);
    let base64 = base64_len(key);
    if big < base64 || little < base64 {
        if big <= little {
            write_hex(key, b'S', u32::from_be_bytes, &mut name);
        } else {
            write_hex(key, b'T', u32::from_le_bytes, &mut name);
        }
    } else {
        write_base64(key, &mut name);
    }
    name.finish()
}

/// Writes the name of the directory of a volume with this key into `out` and returns it.  The key
/// is without its length byte and NUL.
///
/// # Errors
///
/// [`KeyError::NameTooLong`] for a key of [`NAME_MAX`] bytes and more.
pub fn volume_dir<'o>(key: &[u8], out: &'o mut [u8; NAME_MAX]) -> Result<&'o [u8], KeyError> {
    let mut name = Name { out, len: 0 };
    name.push(b'I');
    name.extend(key);
    name.finish()
}

/// The name of the directory, one of a volume's 256, for cookies whose hash ends with this byte:
/// C's `"@%02x"`.
pub const fn fanout_dir(hash: u8) -> [u8; 3] {
    [b'@', hex_digit(hash >> 4), hex_digit(hash & 0xf)]
}

/// Whether a byte may stand in a name as it is: no space, control character or `/`, nothing beyond
/// ASCII.  C's table takes 127 for `~` and so lets DEL pass.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, 33..=46 | 48..=127)
}

/// The key's words of 32 bits, the last one padded with zeros as fscache stores it.
fn words(key: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    key.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word.iter_mut()
            .zip(chunk)
            .for_each(|(to, from)| *to = *from);
        word
    })
}

/// Digits of a number in hexadecimal; a zero has none.
const fn hex_digits(number: u32) -> u32 {
    (u32::BITS - number.leading_zeros()).div_ceil(4)
}

/// Bytes of the hexadecimal form: each word has a letter or comma before it.
fn hex_len(key: &[u8], read: fn([u8; 4]) -> u32) -> u32 {
    words(key).map(|word| 1 + hex_digits(read(word))).sum()
}

/// Bytes of the base 64 form: a letter, a digit that counts the padding, four for every three.
fn base64_len(key: &[u8]) -> u32 {
    key.chunks(3).map(|_| 4).sum::<u32>() + 2
}

fn write_hex(key: &[u8], letter: u8, read: fn([u8; 4]) -> u32, name: &mut Name<'_>) {
    let mut separator = letter;
    for word in words(key) {
        let number = read(word);
        name.push(separator);
        for digit in (0..hex_digits(number)).rev() {
            let [nibble, ..] = (number >> (4 * digit)).to_le_bytes();
            name.push(hex_digit(nibble & 0xf));
        }
        separator = b',';
    }
}

fn write_base64(key: &[u8], name: &mut Name<'_>) {
    name.push(b'E');
    name.push(match key.len() % 3 {
        0 => b'0',
        1 => b'2',
        _ => b'1',
    });
    for chunk in key.chunks(3) {
        // The first byte is the lowest and the lowest six bits come first.
        let group = chunk
            .iter()
            .rev()
            .fold(0u32, |group, byte| (group << 8) | u32::from(*byte));
        for sixth in 0..4 {
            let [bits, ..] = (group >> (6 * sixth)).to_le_bytes();
            name.push(base64_digit(bits & 0x3f));
        }
    }
}

const fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + (nibble & 0xf) - 10,
    }
}

const fn base64_digit(bits: u8) -> u8 {
    match bits {
        0..=9 => b'0' + bits,
        10..=35 => b'a' + (bits - 10),
        36..=61 => b'A' + (bits - 36),
        62 => b'_',
        _ => b'-',
    }
}

/// A name in the making.  It counts on past the end of its buffer, so that the error can say how
/// long the name would have been.
struct Name<'o> {
    out: &'o mut [u8; NAME_MAX],
    len: usize,
}

impl<'o> Name<'o> {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.out.get_mut(self.len) {
            *place = byte;
        }
        self.len = self.len.saturating_add(1);
    }

    fn extend(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.push(*byte));
    }

    fn finish(self) -> Result<&'o [u8], KeyError> {
        self.out
            .get(..self.len)
            .ok_or(KeyError::NameTooLong(self.len))
    }
}
