// SPDX-License-Identifier: GPL-2.0

//! The end of an object and of a cache: what was filled gets its name and attributes.

use super::coherency::{self, Content};
use super::directory::unlink;
use super::disk::Service;
use super::file::Opened;
use super::object::Object;
use super::{inject, Cache};
use crate::fscache::CacheFiles;
use crate::sys::dentry::{Entry, LockedDir};
use crate::sys::errno::ESTALE;
use crate::sys::fscache::CookieFlag;
use crate::sys::log;
use crate::sys::service::Active;
use crate::sys::trace::{self, Killed, Seen, Where};
use kernel::prelude::*;

/// Takes an object out of service (`cachefiles_withdraw_cookie()`).
pub(crate) fn withdraw_object(object: &Object) {
    let uses = object.cookie.uses();
    object.seen(Seen::WithdrawCookie);
    let file = take_down(object);
    object.seen(Seen::PutDetach);
    // No netfs writes to what is served on demand.
    if object.cache().disk.service() == Service::On || object.cache().on_demand.is_some() {
        return;
    }
    // While a cookie is withdrawn FS-Cache does not note writers that open its file; and when the
    // cache has ended, no other notes it. So that the next one knows, we do. A writer that comes and goes
    // beside a user that stays leaves no trace: it is thought possible where the disk has kept us, and
    // not in the instant that closing a file takes.
    let now = object.cookie.uses();
    if file.is_some_and(|was_changed| now != uses || was_changed && now.any()) {
        object.cookie.set(CookieFlag::LocalWrite);
    }
}

/// Closes the object's file, if it has one. Of a file that stays, says whether it got a name or attributes.
fn take_down(object: &Object) -> Option<bool> {
    object.retire();
    // No lookup waits for the daemon any more, so that only a worker can still be at it.
    object.backing.settled().wait();
    // FS-Cache looks up a new cookie of these keys after this: the CLOSE comes before its OPEN.
    object.cache().requests().wait_gone(&object.demand);
    let open = object.backing.take()?;
    let _acting = object.cache().disk.cred.assume();
    let is_good = !missed_writes(object)
        && open
            .file
            .validity
            .is_good_for(object.cookie.invalidations())
        && !is_changed_by_others(object, &open);
    let file = if object.cookie.is(CookieFlag::Retired) || !is_good {
        if !open.file.is_named() {
            object.seen(Seen::DropUnnamed);
            discard_stale(object);
        } else {
            object.seen(Seen::Delete);
            discard(object, &open, Killed::Retired);
        }
        if object.cache().disk.service() == Service::On {
            // The next file has to be marked anew. But the task that has written to this one may go on, and
            // no cache will know.
            object.cookie.clear(CookieFlag::LocalWrite);
        }
        None
    } else {
        Some(keep(object, &open))
    };
    let_go(object, open);
    file
}

/// Whether others have changed the file: it may hold anything.
fn is_changed_by_others(object: &Object, open: &Opened) -> bool {
    let is_changed = open.file.is_changed_by_others();
    if is_changed {
        log::warn_limited!(
            "object {:x}: its file was changed by others while it was in use, and is not kept",
            object.debug_id
        );
    }
    is_changed
}

/// Stores attributes and name, and says whether there were any to store.
fn keep(object: &Object, open: &Opened) -> bool {
    commit(object, open).unwrap_or_else(|error| {
        log::warn_limited!(
            "object {:x}: what was cached is lost: error {}",
            object.debug_id,
            error.to_errno()
        );
        if !open.file.is_named() {
            discard_stale(object);
        }
        true
    })
}

/// Closes a file that is not served, or no longer. The daemon may remove it now.
pub(super) fn let_go(object: &Object, open: Opened) {
    let is_named = open.file.is_named();
    let blocks = open.close();
    if is_named {
        object.cache().disk.released(blocks);
    }
}

/// Whether the netfs may have changed its file, and not the cache's: FS-Cache tells a cache that has
/// ended of no write. C commits such a file under what the netfs says of the new data.
fn missed_writes(object: &Object) -> bool {
    object.cookie.is(CookieFlag::LocalWrite)
        && match object.cache().disk.service() {
            Service::On => false,
            Service::Over => object.cookie.uses().any(),
            // That may be long ago.
            Service::Failed => true,
        }
}

/// Has no lookup find the object's file again.
pub(super) fn discard(object: &Object, open: &Opened, why: Killed) {
    if delete(object, open, why).is_ok() {
        return;
    }
    if let Ok(dentry) = open.file.file().dentry() {
        // An error has been reported, and there is nothing left to do.
        let _ = coherency::remove(&object.cache().disk, object.debug_id, &dentry);
    }
}

/// Has no lookup find the stale file, if there is one, whose place the object's new one does not take: it may
/// look right later. Another size is another size only until the netfs's file has the old one again.
fn discard_stale(object: &Object) {
    // An error has been reported.
    let _ = delete_stale(object);
}

fn delete_stale(object: &Object) -> Result {
    let disk = &object.cache().disk;
    let locked = object.fan()?.dir().lock()?;
    let Entry::Occupied(entry) = find_to_replace(object, &locked)? else {
        return Ok(());
    };
    let stale = entry.dentry().clone();
    let deleted = unlink(disk, object.debug_id, &locked, entry, Killed::Stale);
    drop(locked);
    deleted.or_else(|_| coherency::remove(disk, object.debug_id, &stale))
}

/// What has the object's name, if anything.
fn find_to_replace<'a>(object: &Object, locked: &'a LockedDir<'_>) -> Result<Entry<'a>> {
    inject::read()
        .and_then(|()| locked.find(&object.name))
        .inspect_err(|&error| {
            trace::vfs_error(object.debug_id, locked.inode(), error, Where::Lookup);
        })
}

/// Deletes the object's file (`cachefiles_delete_object()`).
pub(super) fn delete(object: &Object, open: &Opened, why: Killed) -> Result {
    let disk = &object.cache().disk;
    let dentry = open.file.file().dentry()?;
    let locked = object.fan()?.dir().lock()?;
    // Another process may have removed it, and given its name to another file.
    let entry = locked.entry(&dentry)?;
    unlink(disk, object.debug_id, &locked, entry, why)
}

/// Stores attributes and name (`cachefiles_commit_object()`).
fn commit(object: &Object, open: &Opened) -> Result<bool> {
    object.seen(Seen::Commit);
    let written = object.cookie.take(CookieFlag::LocalWrite);
    let updated = object.cookie.take(CookieFlag::NeedsUpdate);
    if written || updated {
        let dentry = open.file.file().dentry()?;
        let now = object.cookie.snapshot()?;
        if !open.file.validity.is_good_for(now.invalidations) {
            // Its attribute is that of another version, or says that it is dirty.
            return Err(ESTALE);
        }
        // A file without attributes is never given a name.
        coherency::set_file(
            &object.cache().disk,
            object.debug_id,
            &dentry,
            Content::NoData,
            &now,
        )?;
    }
    let is_new = !open.file.is_named();
    if is_new {
        name(object, open)?;
        open.file.set_named();
    }
    Ok(is_new || written || updated)
}

/// Gives the new file its name, in the place of a stale one (`cachefiles_commit_tmpfile()`).
fn name(object: &Object, open: &Opened) -> Result {
    let disk = &object.cache().disk;
    let locked = object.fan()?.dir().lock()?;
    let failed = |error, at| {
        trace::vfs_error(object.debug_id, locked.inode(), error, at);
    };
    let find = || find_to_replace(object, &locked);
    let vacant = match find()? {
        Entry::Vacant(vacant) => vacant,
        Entry::Occupied(entry) if entry.dentry().inode().is(open.in_use.inode()) => return Ok(()),
        Entry::Occupied(entry) => {
            unlink(disk, object.debug_id, &locked, entry, Killed::Stale)?;
            match find()? {
                Entry::Vacant(vacant) => vacant,
                Entry::Occupied(_) => return Err(EEXIST),
            }
        }
    };
    inject::read()
        .and_then(|()| vacant.link(open.file.file()))
        .inspect_err(|&error| failed(error, Where::Link))?;
    trace::link(object.debug_id, open.in_use.inode());
    Ok(())
}

impl Cache {
    /// Takes the whole cache out of service and waits until nothing of it is in use any more
    /// (`cachefiles_withdraw_cache()`).
    pub(crate) fn withdraw(active: Active<CacheFiles>) {
        let cache = active.cache().clone();
        log::info!(
            "File cache on {} unregistering",
            cache.disk.cookie.name().to_str().unwrap_or("(not UTF-8)")
        );
        cache.disk.end_service();
        cache.distrust_what_is_written();
        drop(active);
        cache.sync();
    }

    /// Asks FS-Cache to withdraw each object in the index, when no operation has it any more. One that
    /// is withdrawn already must not be asked for: FS-Cache would withdraw the cookie's next object.
    pub(crate) fn withdraw_objects(&self) {
        self.each_object(|object| object.cookie.withdraw());
    }

    /// Distrusts each file that a netfs is writing to: it may go on, and close its file before that is
    /// withdrawn. Not found out is one that also opens its file only after this.
    fn distrust_what_is_written(&self) {
        self.each_object(|object| {
            if object.cookie.is(CookieFlag::LocalWrite) && object.cookie.uses().any() {
                object.backing.spoil();
            }
        });
    }

    /// Visits all objects in the index, under its lock.
    fn each_object(&self, visit: impl Fn(&Object)) {
        let mut from = Some(0);
        while let Some(at) = from {
            from = self
                .objects
                .visit_next(at, &visit)
                .and_then(|index| index.checked_add(1));
        }
    }

    fn sync(&self) {
        let _acting = self.disk.cred.assume();
        if self.disk.mnt.sync() == Err(EIO) {
            self.disk.io_error(format_args!(
                "Attempt to sync backing fs superblock returned error -5"
            ));
        }
    }
}
