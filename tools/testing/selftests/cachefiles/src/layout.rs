// SPDX-License-Identifier: GPL-2.0

//! Where a cookie's file is in a cache, as a daemon computes it that culls: nydusd goes into
//! `cache/I<volume>/@xx` and names `D<key>`.
//!
//! Lives here: fscache's hash of keys, and the paths that follow from it.  Never here: whether
//! there is such a file.

use anyhow::{ensure, Context, Result};
use cachefiles_client::cache::key::{cook, fanout_dir, volume_dir, NAME_MAX};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The directory of a volume with this key.
pub fn volume(cache: &Path, volume: &str) -> Result<PathBuf> {
    let mut buffer = [0; NAME_MAX];
    let name = volume_dir(volume.as_bytes(), &mut buffer)
        .ok()
        .context("a volume's key is too long")?;
    Ok(cache.join("cache").join(OsStr::from_bytes(name)))
}

/// The file of a cookie.
pub fn file(cache: &Path, volume_key: &str, key: &[u8]) -> Result<PathBuf> {
    let mut buffer = [0; NAME_MAX];
    let name = cook(key, &mut buffer).ok().context("a key is too long")?;
    let [last, ..] = cookie_hash(volume_key, key)?.to_le_bytes();
    let fan = fanout_dir(last);
    let dir = volume(cache, volume_key)?.join(OsStr::from_bytes(&fan));
    Ok(dir.join(OsStr::from_bytes(name)))
}

/// The name of a path's last part, as commands take it.
pub fn name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

/// `fscache_hash()` of a volume's key, which begins with its length, and then of a cookie's.
fn cookie_hash(volume: &str, key: &[u8]) -> Result<u32> {
    let len = u8::try_from(volume.len())?;
    ensure!(len > 0 && !key.is_empty(), "an empty key");
    // The volume's key ends with a NUL, which counts.
    let stored = [&[len][..], volume.as_bytes(), &[0]].concat();
    Ok(hash(hash(0, &stored), key))
}

/// The hash of bytes that are padded with zeros to words.
fn hash(salt: u32, data: &[u8]) -> u32 {
    let (mut x, mut y) = (0_u32, salt);
    for chunk in data.chunks(4) {
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        x ^= u32::from_le_bytes(word);
        y ^= x;
        x = x.rotate_left(7).wrapping_add(y);
        y = y.rotate_left(20).wrapping_mul(9);
    }
    fold(y ^ fold(x))
}

/// `__hash_32()`.
const fn fold(value: u32) -> u32 {
    value.wrapping_mul(0x61C8_8647)
}
