// SPDX-License-Identifier: GPL-2.0

//! Directories of the cache: made on the way, marked in use while we hold them, buried when stale.

use super::disk::{Disk, Need};
use super::inject;
use crate::sys::dentry::{Dentry, Dir, Entry, LockedDir, Occupied, Refusal};
use crate::sys::inode::InUse;
use crate::sys::log;
use crate::sys::trace::{self, Killed, Where};
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::str::CString;

/// A directory in use: `rmdir` and culling keep off.
pub(crate) struct Directory {
    // Dropped first: the mark goes before the reference.
    _in_use: InUse,
    dir: Dir,
}

impl Directory {
    /// The directory.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The directory `name` in `parent`, made with mode 0700 if need be; tells whether it is new
    /// (`cachefiles_get_directory()`). `EBUSY` if another cache uses it.
    pub(crate) fn open(disk: &Disk, parent: &Dir, name: &[u8]) -> Result<(Self, bool)> {
        let shown = core::str::from_utf8(name).unwrap_or("(not UTF-8)");
        let locked = parent.lock()?;
        let mut is_new = false;
        let dentry = loop {
            let found = inject::read().and_then(|()| locked.find(name));
            trace::lookup(0, parent, found.as_ref().map(Entry::dentry).map_err(|e| *e));
            let found = found.inspect_err(|error| {
                trace::vfs_error(0, parent.inode(), *error, Where::Lookup);
                if *error != ENOMEM {
                    log::error!("Lookup {} failed with error {}", shown, error.to_errno());
                }
            })?;
            let vacant = match found {
                Entry::Occupied(found) => break found.dentry().clone(),
                Entry::Vacant(vacant) => vacant,
            };
            let made = disk
                .has_room(1, 0, Need::Create)
                .and_then(|()| inject::write())
                .and_then(|()| {
                    vacant.mkdir(0o700).inspect_err(|&error| {
                        trace::vfs_error(0, parent.inode(), error, Where::Mkdir);
                    })
                })
                .inspect_err(|error| {
                    log::warn_limited!("mkdir {} failed with error {}", shown, error.to_errno())
                })?;
            is_new = true;
            if let Some(made) = made {
                trace::mkdir(parent, &made);
                break made;
            }
        };
        // Marked before the parent is unlocked, so that it cannot be removed in between.
        let in_use = InUse::mark(dentry.clone(), Some(0)).inspect_err(|_| {
            let inode = dentry.inode().number();
            log::notice!("Inode already in use: {} (B={:x})", shown, inode);
        })?;
        drop(locked);
        let Ok(dir) = dentry.into_dir() else {
            log::error!("{} is not a directory", shown);
            return Err(EIO);
        };
        if !dir.is_usable() {
            return Err(EPERM);
        }
        Ok((
            Directory {
                _in_use: in_use,
                dir,
            },
            is_new,
        ))
    }
}

/// Takes `victim` out of `dir`: a file is deleted, a directory moved to the graveyard for user
/// space to delete (`cachefiles_bury_object()`). Any error but a lack of memory or of the victim
/// is the disk's.
pub(crate) fn bury(
    disk: &Disk,
    graveyard: &Directory,
    dir: &Dir,
    victim: &Dentry,
    why: Killed,
) -> Result {
    {
        let locked = dir.lock()?;
        // It may have been removed, and its name given to another, since it was looked up.
        let entry = locked.entry(victim)?;
        if victim.as_dir().is_none() {
            return unlink(disk, 0, &locked, entry, why);
        }
    }
    trace::rename(0, victim, why);
    loop {
        let name = grave_name(disk)?;
        let moved = match inject::read() {
            Ok(()) => dir.move_away(victim, graveyard.dir(), name.as_bytes()),
            Err(error) => Err(Refusal {
                error,
                why: kernel::c_str!("an error was injected"),
            }),
        };
        match moved {
            Ok(()) => return Ok(()),
            Err(failed) if failed.error == EEXIST => continue,
            Err(failed) if failed.error == ENOMEM => return Err(ENOMEM),
            Err(failed) => {
                trace::vfs_error(0, dir.inode(), failed.error, Where::Rename);
                disk.io_error(format_args!(
                    "Burying failed with error {}: {}",
                    failed.error.to_errno(),
                    failed.why.to_str().unwrap_or("")
                ));
                return Err(EIO);
            }
        }
    }
}

/// Deletes the file `victim` of `object`, or of none, in `dir` (`cachefiles_unlink()`).
pub(super) fn unlink(
    disk: &Disk,
    object: u32,
    dir: &LockedDir<'_>,
    victim: Occupied<'_>,
    why: Killed,
) -> Result {
    trace::unlink(object, victim.dentry(), why);
    inject::remove()
        .and_then(|()| victim.unlink())
        .inspect_err(|&error| {
            trace::vfs_error(object, dir.inode(), error, Where::Unlink);
            if error == EIO {
                disk.io_error(format_args!("Unlink failed"));
            }
        })
}

/// A name that nothing in the graveyard should have yet: the time and a count, in hexadecimal.
fn grave_name(disk: &Disk) -> Result<CString> {
    let count = disk.graves.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    CString::try_from_fmt(kernel::fmt!(
        "{:08x}{:08x}",
        crate::sys::time::seconds(),
        count
    ))
}
