// SPDX-License-Identifier: GPL-2.0

//! Finding an object's file in the cache, or making a new one.

use super::coherency;
use super::directory::bury;
use super::disk::Need;
use super::file::{CacheFile, Opened};
use super::object::Object;
use super::validity::Validity;
use super::volume::Volume;
use super::withdraw::{delete, let_go};
use super::{inject, whole_blocks, Cache, BLOCK};
use crate::ondemand::Opener;
use crate::protocol::command_error::Quoted;
use crate::sys::dentry::Dentry;
use crate::sys::errno::ESTALE;
use crate::sys::file::File;
use crate::sys::fscache::{Cookie, CookieFlag, LookingUp, Made, VolumeCookie};
use crate::sys::inode::InUse;
use crate::sys::log;
use crate::sys::trace::{self, Killed, Seen, Trunc, Where};
use crate::sys::work::{Deferred, Job};
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Brings the cookie into service (`cachefiles_lookup_cookie()`), and says whether it can be cached.
/// The object is made before any operation can begin. One without a file stands for the cookie until
/// FS-Cache withdraws it. On demand, where no server has the data, it stays, and its readers get `EIO`.
pub(crate) fn look_up(
    volume: &Arc<Volume>,
    record: &VolumeCookie<'_>,
    cookie: LookingUp<'_, Object>,
) -> bool {
    let cache = &volume.cache;
    if cache.on_demand.is_some() != cookie.wants_size() {
        log::warn_limited!(
            "cookie {:x}: not cached: {}",
            cookie.debug_id(),
            if cache.on_demand.is_some() {
                "on-demand mode serves only netfs that take the size from the cache"
            } else {
                "the cache is not bound for on-demand mode"
            }
        );
        return false;
    }
    let object = match Object::new(volume, record, &cookie) {
        Ok(object) => object,
        Err(_) => {
            not_found(cache, &cookie);
            return false;
        }
    };
    let cookie = cookie.made(object.clone());
    let _acting = cache.disk.cred.assume();
    // Before FS-Cache tells of a task that begins to write.
    let missed = cache.unseen.may_be_to(&cookie);
    let ready = find(&object, &cookie).and_then(|found| match cache.on_demand {
        Some(_) => ask_size(&object, found),
        None => forget_if(missed, &object, found, &cookie)
            .and_then(|found| make_ready(&object, found, Some(&cookie)))
            .map(|open| object.backing.install(open)),
    });
    match ready {
        Ok(()) => {
            object.seen(Seen::LookupCookie);
            true
        }
        Err(error) if cache.on_demand.is_some() => {
            log::warn_limited!(
                "volume {}: object {:x} is not served: {}: error {}",
                Quoted(&volume.key),
                object.debug_id,
                match cache.disk.refuses() {
                    true => "its cache is dead",
                    false => "its file cannot be opened or made",
                },
                error.to_errno()
            );
            left_without_file(&object, error);
            true
        }
        Err(error) => {
            failed(&object, error);
            not_found(cache, &cookie);
            object.backing.settle();
            false
        }
    }
}

/// The cookie is not going to be cached.
fn not_found(cache: &Cache, cookie: &Cookie) {
    // What is served on demand is not written to by a netfs.
    if cache.on_demand.is_none() {
        cache.unseen.not_found(cookie);
    }
}

fn failed(object: &Object, error: Error) {
    object.seen(Seen::LookupFailed);
    log::debug!(
        "object {:x}: lookup failed with error {}",
        object.debug_id,
        error.to_errno()
    );
}

/// What is served on demand stays in service without a file, until the netfs lets go of the cookie:
/// readers get `EIO`. If the cookie were withdrawn, it would be FS-Cache's `ENOBUFS`.
fn left_without_file(object: &Object, error: Error) {
    failed(object, error);
    object.cache().requests().drop_object(&object.demand);
    object.backing.settle();
}

/// A lookup that has its file and not yet the size, which only the daemon knows.
///
/// No task waits for the daemon here: FS-Cache's workers serve all caches, and a cookie that is
/// being looked up makes its users wait unkillably. So the cookie counts as active, and an
/// operation on it waits in [`Object::file_for`].
struct Pending {
    object: Arc<Object>,
    /// `None` once it is taken.
    found: Option<Opened>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(found) = self.found.take() {
            let_go(&self.object, found);
        }
    }
}

/// Asks the daemon for the object's size; a worker does the rest when it has answered.
fn ask_size(object: &Arc<Object>, found: Opened) -> Result {
    let pending = Deferred::new(Pending {
        object: object.clone(),
        found: Some(found),
    })?;
    object.cache().requests().open(&object.demand, pending)
}

impl Opener for Deferred<Pending> {
    fn opened(self: Arc<Self>, result: Result<u64>) {
        self.start(result);
    }
}

impl Job for Pending {
    type Input = Result<u64>;

    fn run(mut self, size: Result<u64>) {
        let object = self.object.clone();
        let _acting = object.cache().disk.cred.assume();
        let sized = size.and_then(|size| object.take_over_size(size));
        let found = sized.and_then(|()| self.found.take().ok_or(ENOENT));
        match found.and_then(|found| make_ready(&object, found, None)) {
            Ok(open) => object.backing.install(open),
            Err(error) => {
                // What was found and is not served must be closed before a task waits for that.
                drop(self);
                left_without_file(&object, error);
            }
        }
    }
}

impl Object {
    /// Takes the object out of the index and from the daemon.
    pub(crate) fn retire(&self) {
        drop(self.cache().objects.remove(self.index));
        self.cache().object_gone();
        self.cache().requests().drop_object(&self.demand);
    }

    /// Takes over the size that the daemon has told (`cachefiles_ondemand_copen()`).
    fn take_over_size(&self, size: u64) -> Result {
        whole_blocks(size).inspect_err(|_| {
            log::warn_limited!(
                "object {:x}: {} bytes are more than a file can have",
                self.debug_id,
                size
            )
        })?;
        // EROFS makes its cookies without a size: this one has been served before, by another daemon.
        let before = self.cookie.size();
        if before > 0 && before != size {
            log::warn_limited!(
                "object {:x}: the daemon opens it with {} bytes; mounted, it had {}",
                self.debug_id,
                size,
                before
            );
            return Err(ESTALE);
        }
        self.cookie.set_size(size)?;
        self.backing.size.store(size, Ordering::Relaxed);
        if size > 0 {
            self.cookie.clear(CookieFlag::NoData);
        } else {
            self.cookie.set(CookieFlag::NoData);
        }
        Ok(())
    }
}

/// Walks to the file by name, or makes one (`cachefiles_look_up_object()`).
fn find(object: &Object, cookie: &Made<'_>) -> Result<Opened> {
    let fan = object.fan()?.dir();
    let found = inject::read().and_then(|()| fan.find(&object.name));
    trace::lookup(
        object.debug_id,
        fan,
        found.as_ref().map(Some).map_err(|e| *e),
    );
    let dentry = match found {
        Ok(dentry) => dentry,
        Err(ENOENT) => return create(object, Some(cookie)),
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
        bury(&cache.disk, &cache.graveyard, fan, &dentry, Killed::Weird)?;
        return create(object, Some(cookie));
    }
    match open(object, &dentry) {
        Err(ESTALE) => create(object, Some(cookie)),
        opened => opened,
    }
}

/// Opens an existing file; `ESTALE` if it was culled meanwhile (`cachefiles_open_file()`).
fn open(object: &Object, dentry: &Dentry) -> Result<Opened> {
    let disk = &object.cache().disk;
    let in_use = InUse::mark(dentry.clone(), Some(object.debug_id)).inspect_err(|_| {
        log::notice!(
            "Inode already in use: object {:x} (B={:x})",
            object.debug_id,
            dentry.inode().number()
        );
    })?;
    if dentry.is_unhashed() {
        // What is written to it would be lost.
        return Err(ESTALE);
    }
    let file = File::open(dentry, &disk.cred).inspect_err(|&error| {
        trace::vfs_error(object.debug_id, dentry.inode(), error, Where::Open);
    })?;
    check_iter(&file)?;
    // What its data is valid for is told by `make_ready`.
    Opened::new(file, in_use, disk.block_size, Validity::of_new(0), true)
}

/// Makes a new file, which gets its name and attributes when the object is withdrawn
/// (`cachefiles_create_file()`, `cachefiles_create_tmpfile()`). `cookie`: as long as FS-Cache waits for
/// the lookup.
fn create(object: &Object, cookie: Option<&Made<'_>>) -> Result<Opened> {
    let made_after = object.cookie.invalidations();
    // A task that waits for the lookup of a netfs's own file need not wait for the new one.
    match (cookie, object.cache().on_demand) {
        (Some(cookie), None) => cookie.lookup_negative(),
        _ => object.cookie.set(CookieFlag::NoData),
    }
    object.cache().disk.has_room(1, 0, Need::Create)?;
    create_unnamed(object, made_after)
}

/// Makes a file in the cache's file system that has no name, after so many invalidations.
pub(super) fn create_unnamed(object: &Object, made_after: u32) -> Result<Opened> {
    let disk = &object.cache().disk;
    let fan = object.fan()?.dir();
    let file = inject::write()
        .and_then(|()| File::create_unnamed(fan, &disk.cred))
        .inspect_err(|&error| {
            trace::vfs_error(object.debug_id, fan.inode(), error, Where::Tmpfile);
            if error == EIO {
                object.io_error(format_args!("Failed to create tmpfile"));
            }
        })?;
    check_iter(&file)?;
    trace::tmpfile(object.debug_id, file.inode());
    // Nothing else knows a new inode.
    let in_use = InUse::mark(file.dentry()?, Some(object.debug_id))?;
    let validity = Validity::of_new(made_after);
    Opened::new(file, in_use, disk.block_size, validity, false)
}

/// Takes a new file instead of one that was found and may be older than what the netfs has written
/// when the cache was not told.
fn forget_if(missed: bool, object: &Object, found: Opened, cookie: &Made<'_>) -> Result<Opened> {
    if !missed || !found.file.is_named() {
        return Ok(found);
    }
    // Its attribute may be that of what the netfs has, so that it must not stay.
    delete(object, &found, Killed::Stale)?;
    let_go(object, found);
    create(object, Some(cookie))
}

/// Makes the file that was found fit for use, now that the object's size is known: a stale one is
/// left, for a new one to take its place in the end.
fn make_ready(object: &Object, found: Opened, cookie: Option<&Made<'_>>) -> Result<Opened> {
    let open = if !found.file.is_named() {
        found
    } else {
        match check_coherency(object, found.file.file()) {
            Ok(size) => {
                found.file.found_valid_to(size);
                object.cookie.clear(CookieFlag::NoData);
                // Culling goes by age of access, which neither lookup nor open changes.
                found.file.file().touch();
                found
            }
            Err(error) => {
                let_go(object, found);
                match error {
                    ESTALE => create(object, cookie)?,
                    error => return Err(error),
                }
            }
        }
    };
    if !open.file.is_named() {
        if let Err(error) = expand(object, &open.file) {
            let_go(object, open);
            return Err(error);
        }
        object.cookie.set(CookieFlag::NeedsUpdate);
    }
    adjust_size(object, &open.file);
    if open.file.is_named() {
        // An invalidation that has come since the lookup began will be carried out yet.
        open.file.validity.found(object.cookie.invalidations());
    }
    Ok(open)
}

/// Makes a new file as long as the object, in whole blocks.
pub(super) fn expand(object: &Object, new: &CacheFile) -> Result {
    match whole_blocks(object.cookie.size())? {
        0 => Ok(()),
        size => {
            let file = new.file();
            trace::trunc(object.debug_id, file, 0, size, Trunc::Expand);
            inject::write()
                .and_then(|()| new.changing(|| file.truncate(size)))
                .inspect_err(|&error| {
                    trace::vfs_error(object.debug_id, file.inode(), error, Where::Trunc);
                })
        }
    }
}

/// How long the netfs's file is, if the file still holds what that has; `ESTALE` if not.
fn check_coherency(object: &Object, file: &File) -> Result<u64> {
    let dentry = file.dentry()?;
    let now = object.cookie.snapshot()?;
    coherency::check_file(&object.cache().disk, object.debug_id, &dentry, &now)?;
    Ok(now.size)
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
    let file = open.file();
    let Ok(new) = whole_blocks(object.cookie.size()) else {
        return;
    };
    let old = file.size();
    if old == new {
        return;
    }
    // A block that held an odd end must not be taken for data when the file grows over it.
    let shrunk = if old % BLOCK != 0 && new > old {
        inject::remove().and_then(|()| open.changing(|| file.set_size(old - old % BLOCK)))
    } else {
        Ok(())
    };
    let sized = shrunk
        .and_then(|()| inject::write())
        .and_then(|()| open.changing(|| file.set_size(new)));
    if let Err(error) = sized {
        trace::io_error(0, file, error, Where::NotifyChange);
    }
    if sized == Err(EIO) {
        object.io_error(format_args!("Size set failed"));
    }
}
