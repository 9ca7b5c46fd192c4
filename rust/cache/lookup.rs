// SPDX-License-Identifier: GPL-2.0

//! Finding an object's file in the cache, or making a new one.

use super::backing::CacheFile;
use super::coherency;
use super::directory::bury;
use super::disk::Need;
use super::object::Object;
use super::volume::Volume;
use super::{inject, whole_blocks, BLOCK};
use crate::sys::dentry::Dentry;
use crate::sys::errno::ESTALE;
use crate::sys::file::File;
use crate::sys::fscache::{Cookie, CookieFlag};
use crate::sys::inode::InUse;
use crate::sys::log;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Brings the cookie into service; `None` if it cannot be (`cachefiles_lookup_cookie()`).
pub(crate) fn look_up(volume: &Arc<Volume>, cookie: &Cookie) -> Option<Arc<Object>> {
    let cache = &volume.cache;
    if cache.on_demand.is_none() || !cookie.wants_size() {
        log::warn_limited!(
            "cookie {:x}: not cached: {}",
            cookie.debug_id(),
            if cache.on_demand.is_some() {
                "on-demand mode serves only netfs that take the size from the cache"
            } else {
                "the cache is not bound for on-demand mode"
            }
        );
        return None;
    }
    let object = match Object::new(volume, cookie) {
        Ok(object) => object,
        Err(_) => return None,
    };
    let _acting = cache.disk.cred.assume();
    match find(&object) {
        Ok(open) => {
            adjust_size(&object, &open);
            object.backing.install(open);
            Some(object)
        }
        Err(error) => {
            log::debug!(
                "object {:x}: lookup failed with error {}",
                object.debug_id,
                error.to_errno()
            );
            cookie.caching_failed();
            object.retire();
            object.backing.settle();
            None
        }
    }
}

impl Object {
    /// Takes the object out of the index and from the daemon.
    pub(crate) fn retire(&self) {
        drop(self.cache().objects.remove(self.index));
        self.cache().requests().drop_object(&self.demand);
    }

    /// Has the daemon open the object, if it has not yet, and takes over the size it tells
    /// (`cachefiles_ondemand_init_object()`, `cachefiles_ondemand_copen()`).
    fn open_on_demand(&self) -> Result {
        if let Some(size) = self.cache().requests().open(&self.demand)? {
            whole_blocks(size).inspect_err(|_| {
                log::warn_limited!(
                    "object {:x}: {} bytes are more than a file can have",
                    self.debug_id,
                    size
                )
            })?;
            self.cookie.set_size(size)?;
            self.backing.set_size(size);
            if size > 0 {
                self.cookie.clear(CookieFlag::NoData);
            } else {
                self.cookie.set(CookieFlag::NoData);
            }
        }
        Ok(())
    }
}

/// Walks to the file by name (`cachefiles_look_up_object()`).
fn find(object: &Object) -> Result<CacheFile> {
    let fan = object.volume.fan(object.cookie.hash())?.dentry();
    let dentry = match inject::read().and_then(|()| fan.find(&object.name)) {
        Ok(dentry) => dentry,
        Err(ENOENT) => {
            object.cookie.lookup_negative();
            return create(object);
        }
        Err(error) => {
            if error == EIO {
                object.io_error(format_args!("Lookup failed"));
            }
            return Err(error);
        }
    };
    if !dentry.is_file() {
        log::error!(
            "object {:x}: its name is not that of a file",
            object.debug_id
        );
        let cache = object.cache();
        bury(&cache.disk, &cache.graveyard, fan, &dentry)?;
        object.cookie.lookup_negative();
        return create(object);
    }
    match open(object, &dentry) {
        Err(ESTALE) => create(object),
        opened => opened,
    }
}

/// Opens an existing file if it still holds what the netfs has; `ESTALE` if not
/// (`cachefiles_open_file()`).
fn open(object: &Object, dentry: &Dentry) -> Result<CacheFile> {
    let disk = &object.cache().disk;
    let in_use = InUse::mark(dentry.inode().ok_or(ENOENT)?).map_err(|inode| {
        log::notice!(
            "Inode already in use: object {:x} (B={:x})",
            object.debug_id,
            inode.number()
        );
        EBUSY
    })?;
    if dentry.is_unhashed() {
        // It was culled after it was looked up: what is written to it would be lost.
        object.cookie.lookup_negative();
        return Err(ESTALE);
    }
    let file = File::open(&disk.mnt, dentry, &disk.cred)?;
    check_iter(&file)?;
    object.open_on_demand()?;

    let mut data = KVec::new();
    object.cookie.copy_coherency(&mut data)?;
    if let Err(error) = coherency::check_file(disk, dentry, object.cookie.size(), &data) {
        object.cookie.lookup_negative();
        drop(in_use);
        disk.released(file.blocks());
        return Err(error);
    }
    object.cookie.clear(CookieFlag::NoData);
    // Culling goes by age of access, which neither lookup nor open changes.
    file.touch();
    Ok(CacheFile {
        in_use,
        file,
        unnamed: false,
    })
}

/// Makes a new file, which gets its name and attributes when the object is withdrawn
/// (`cachefiles_create_file()`, `cachefiles_create_tmpfile()`).
fn create(object: &Object) -> Result<CacheFile> {
    let disk = &object.cache().disk;
    disk.has_room(1, 0, Need::Create)?;
    let fan = object.volume.fan(object.cookie.hash())?.dentry();
    let file = inject::write()
        .and_then(|()| File::create_unnamed(&disk.mnt, fan, &disk.cred))
        .inspect_err(|&error| {
            if error == EIO {
                object.io_error(format_args!("Failed to create tmpfile"));
            }
        })?;
    // Nobody else knows a new inode.
    let in_use = InUse::mark(file.inode().ok_or(EBADF)?).map_err(|_| EBUSY)?;
    object.open_on_demand()?;
    let size = whole_blocks(object.cookie.size())?;
    if size > 0 {
        inject::write().and_then(|()| file.truncate(size))?;
    }
    check_iter(&file)?;
    object.cookie.set(CookieFlag::NeedsUpdate);
    Ok(CacheFile {
        in_use,
        file,
        unnamed: true,
    })
}

fn check_iter(file: &File) -> Result {
    if file.has_iter() {
        return Ok(());
    }
    log::notice!("Cache does not support read_iter and write_iter");
    Err(EINVAL)
}

/// Makes the file as long as the object in whole blocks, so that direct I/O never meets an end in
/// the middle of one (`cachefiles_adjust_size()`).
fn adjust_size(object: &Object, open: &CacheFile) {
    let Ok(new) = whole_blocks(object.cookie.size()) else {
        return;
    };
    let old = open.file.size();
    if old == new {
        return;
    }
    // A block that held an odd end must not be taken for data when the file grows over it.
    let shrunk = if old % BLOCK != 0 && new > old {
        inject::remove().and_then(|()| open.file.set_size(old - old % BLOCK))
    } else {
        Ok(())
    };
    let sized = shrunk
        .and_then(|()| inject::write())
        .and_then(|()| open.file.set_size(new));
    if sized == Err(EIO) {
        object.io_error(format_args!("Size set failed"));
    }
}
