// SPDX-License-Identifier: GPL-2.0

//! What a cache needs of its file system, tried on an unnamed file before anything is made there.
//!
//! A file system that offers an operation need not be able to do it: a server may refuse it, and where
//! holes are not told from data, what is missing would be read as zeros.

use super::coherency::NAME;
use super::BLOCK;
use crate::sys::block::Blocks;
use crate::sys::creds::Cred;
use crate::sys::dentry::{Dir, Entry};
use crate::sys::errno::{EDQUOT, EOPNOTSUPP};
use crate::sys::file::{Extent, File};
use crate::sys::log;
use crate::sys::xattr;
use kernel::prelude::*;

/// What the directory has for a moment, locked, unless there is something of that name.
const LINKED: &[u8] = b"cachefiles.probe";
/// The same name where upper and lower case are one.
const FOLDED: &[u8] = b"CACHEFILES.PROBE";

/// Tries what a cache does to its files, in the directory `root`, which `shown` names in the log. What
/// cannot be tried for want of space passes: a full disk can be bound, for the daemon to cull it.
pub(super) fn probe(root: &Dir, cred: &Cred, shown: &str) -> Result {
    let (what, error) = match try_all(root, cred) {
        Ok(()) | Err((_, ENOSPC | EDQUOT)) => return Ok(()),
        Err(failed) => failed,
    };
    log::error!(
        "{} cannot hold a cache: its file system cannot {}: error {}",
        shown,
        what,
        error.to_errno()
    );
    match error {
        EIO | ENOMEM => Err(error),
        _ => Err(EOPNOTSUPP),
    }
}

fn try_all(root: &Dir, cred: &Cred) -> Result<(), (&'static str, Error)> {
    let during = |what| move |error| (what, error);
    let file =
        File::create_unnamed(root, cred).map_err(during("make unnamed files for direct I/O"))?;
    let tried = try_attributes(&file)
        .map_err(during("keep user attributes"))
        .and_then(|()| try_data(&file).map_err(during("do direct I/O of 4096 bytes")))
        .and_then(|()| try_holes(&file).map_err(during("tell holes from data")))
        .and_then(|()| {
            try_link(root, &file).map_err(during(
                "name unnamed files, or tells no upper from lower case",
            ))
        });
    file.close();
    tried
}

fn try_attributes(file: &File) -> Result {
    let dentry = file.dentry()?;
    let (set, mut got) = (*b"cachefiles", [0; 10]);
    xattr::set(&dentry, NAME, &set)?;
    if xattr::get(&dentry, NAME, &mut got)? != got.len() || got != set {
        return Err(EOPNOTSUPP);
    }
    xattr::remove(&dentry, NAME)
}

/// Writes the second block of four, which are holes.
fn try_data(file: &File) -> Result {
    let mut written = Blocks::zeroed(1, GFP_KERNEL)?;
    let mut read = Blocks::zeroed(1, GFP_KERNEL)?;
    written.fill(0xa5);
    file.truncate(4 * BLOCK)?;
    if file.write_blocks(BLOCK, &written, written.len())? < written.len() {
        return Err(ENOSPC);
    }
    file.read_blocks(BLOCK, &mut read)?;
    match read[..] == written[..] {
        true => Ok(()),
        false => Err(EOPNOTSUPP),
    }
}

fn try_holes(file: &File) -> Result {
    let data = (file.next_data(0)?, file.next_data(2 * BLOCK)?);
    match (data, file.next_hole(BLOCK)?) {
        ((Extent::At(BLOCK), Extent::None), Extent::At(end)) if end == 2 * BLOCK => Ok(()),
        _ => Err(EOPNOTSUPP),
    }
}

fn try_link(root: &Dir, file: &File) -> Result {
    let locked = root.lock()?;
    let Entry::Vacant(name) = locked.find(LINKED)? else {
        return Ok(());
    };
    name.link(file)?;
    let Entry::Occupied(linked) = locked.find(LINKED)? else {
        return Err(EOPNOTSUPP);
    };
    let folds = matches!(locked.find(FOLDED), Ok(Entry::Occupied(_)));
    linked.unlink()?;
    match folds {
        // Keys that differ in case would be one file.
        true => Err(EOPNOTSUPP),
        false => Ok(()),
    }
}
