// SPDX-License-Identifier: GPL-2.0

//! The end of an object and of a cache: what was filled gets its name and attributes.

use super::backing::CacheFile;
use super::coherency::{self, Content};
use super::object::Object;
use super::volume::Volume;
use super::{inject, Cache};
use crate::sys::fscache::CookieFlag;
use crate::sys::log;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Takes an object out of service (`cachefiles_withdraw_cookie()`).
pub(crate) fn withdraw_object(object: &Object) {
    object.retire();
    let Some(mut open) = object.backing.take() else {
        return;
    };
    let _acting = object.cache().disk.cred.assume();
    if object.cookie.is(CookieFlag::Retired) {
        if !open.unnamed {
            let _ = delete(object, &open);
        }
    } else if let Err(error) = commit(object, &mut open) {
        log::warn_limited!(
            "object {:x}: what was cached is lost: error {}",
            object.debug_id,
            error.to_errno()
        );
    }
    let blocks = open.file.blocks();
    drop(open.in_use);
    if !open.unnamed {
        object.cache().disk.released(blocks);
    }
}

/// Deletes the object's file (`cachefiles_delete_object()`).
fn delete(object: &Object, open: &CacheFile) -> Result {
    let disk = &object.cache().disk;
    let dentry = open.file.dentry().ok_or(ENOENT)?;
    let fan = object.volume.fan(object.cookie.hash())?.dentry();
    let locked = fan.lock(&disk.mnt)?;
    inject::remove()
        .and_then(|()| locked.unlink(&dentry))
        .inspect_err(|&error| {
            if error == EIO {
                disk.io_error(format_args!("Unlink failed"));
            }
        })
}

/// Stores attributes and name (`cachefiles_commit_object()`).
fn commit(object: &Object, open: &mut CacheFile) -> Result {
    let written = object.cookie.take(CookieFlag::LocalWrite);
    let updated = object.cookie.take(CookieFlag::NeedsUpdate);
    if written || updated {
        let dentry = open.file.dentry().ok_or(ENOENT)?;
        let mut data = KVec::new();
        object.cookie.copy_coherency(&mut data)?;
        let bytes = coherency::file_attribute(object.cookie.size(), Content::NoData, &data)?;
        // A file without attributes is never given a name.
        coherency::set(&object.cache().disk, &dentry, &bytes)?;
    }
    if open.unnamed {
        name(object, open)?;
        open.unnamed = false;
    }
    Ok(())
}

/// Gives the new file its name, in the place of a stale one (`cachefiles_commit_tmpfile()`).
fn name(object: &Object, open: &CacheFile) -> Result {
    let disk = &object.cache().disk;
    let fan = object.volume.fan(object.cookie.hash())?.dentry();
    let locked = fan.lock(&disk.mnt)?;
    let find = || inject::read().and_then(|()| locked.find(&object.name));
    let mut dentry = find()?;
    if let Some(inode) = dentry.inode() {
        if inode.is(open.in_use.inode()) {
            return Ok(());
        }
        inject::remove()
            .and_then(|()| locked.unlink(&dentry))
            .inspect_err(|&error| {
                if error == EIO {
                    disk.io_error(format_args!("Unlink failed"));
                }
            })?;
        dentry = find()?;
    }
    inject::read().and_then(|()| locked.link(&open.file, &dentry))
}

impl Cache {
    /// Takes the whole cache out of service and waits until nothing of it is in use any more
    /// (`cachefiles_withdraw_cache()`).
    pub(crate) fn withdraw(&self) {
        log::info!(
            "File cache on {} unregistering",
            self.cookie().name().to_str().unwrap_or("(not UTF-8)")
        );
        self.requests().kill();
        self.requests().wait_for_failed_readers();
        self.cookie().withdraw();
        while let Some(volume) = self.next_in_service() {
            if let Some(cookie) = volume.link.try_get() {
                cookie.withdraw();
            }
        }
        // FS-Cache's own worker withdraws each object, when nobody accesses it any more.
        let mut from = Some(0);
        while let Some((index, object)) = from.and_then(|from| self.objects.next(from)) {
            object.cookie.withdraw();
            from = index.checked_add(1);
        }
        self.cookie().wait_for_objects();
        self.withdraw_volumes();
        self.sync();
    }

    /// A volume whose service is to be ended now. The list may change between two calls.
    fn next_in_service(&self) -> Option<Arc<Volume>> {
        let volumes = self.volumes.lock();
        volumes
            .iter()
            .find(|volume| !volume.withdrawn.swap(true, Ordering::Relaxed))
            .cloned()
    }

    fn withdraw_volumes(&self) {
        let _acting = self.disk.cred.assume();
        loop {
            let Some(volume) = self.volumes.lock().as_slice().last().cloned() else {
                return;
            };
            match volume.link.try_get() {
                Some(cookie) => {
                    // Errors have been reported; the volume is rebuilt if need be.
                    let _ = volume.commit(&cookie.cookie());
                    drop(volume.link.detach::<Volume>(&cookie));
                    self.forget_volume(&volume);
                }
                // FS-Cache is freeing it, and calls `forget_volume` on its way.
                None => {
                    let link = volume.link.clone();
                    drop(volume);
                    link.wait_freed();
                }
            }
        }
    }

    /// Takes the volume off the list, if it is on it.
    pub(crate) fn forget_volume(&self, volume: &Arc<Volume>) {
        let mut volumes = self.volumes.lock();
        let found = volumes
            .iter()
            .position(|listed| Arc::ptr_eq(listed, volume));
        let mut removed = None;
        if let Some(index) = found {
            let last = volumes.len() - 1;
            volumes.as_mut_slice().swap(index, last);
            removed = crate::sys::vec::pop(&mut volumes);
        }
        drop(volumes);
        drop(removed);
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
