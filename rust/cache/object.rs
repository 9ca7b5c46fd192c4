// SPDX-License-Identifier: GPL-2.0

//! An object: one cached file in service, between a cookie and a backing file.

use super::backing::Backing;
use super::directory::Directory;
use super::file::CacheFile;
use super::key::{cook, NAME_MAX};
use super::volume::{Directories, Volume};
use super::Cache;
use crate::ondemand::{DemandObject, Store};
use crate::sys::fscache::{Cookie, VolumeCookie};
use crate::sys::trace::{self, Seen};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::ARef;

static LAST_DEBUG_ID: AtomicU32 = AtomicU32::new(0);

/// An object (`struct cachefiles_object`). Counted by the cookie, the cache's index, and reads under
/// way; freed by whichever is last, after its file has been taken away.
pub(crate) struct Object {
    /// The directories of its volume, or why there are none.
    directories: Result<Arc<Directories>>,
    /// The volume it is in.
    pub(crate) volume: Arc<Volume>,
    /// The name of its file.
    pub(crate) name: KVec<u8>,
    /// The number that messages name.
    pub(crate) debug_id: u32,
    /// Where its data is.
    pub(crate) backing: Arc<Backing>,
    /// What the daemon knows of it.
    pub(crate) demand: Arc<DemandObject>,
    /// Its number in the cache's index.
    pub(crate) index: u32,
    /// The netfs's record.
    pub(crate) cookie: ARef<Cookie>,
}

impl Object {
    /// A new object for `cookie`, in the index of its cache, without a file.
    pub(crate) fn new(
        volume: &Arc<Volume>,
        record: &VolumeCookie<'_>,
        cookie: &Cookie,
    ) -> Result<Arc<Self>> {
        let cache = &volume.cache;
        let directories = volume.directories(record);
        let mut buffer = [0; NAME_MAX];
        let cooked = cook(cookie.key(), &mut buffer).map_err(|error| {
            crate::sys::log::warn_limited!("cookie {:x}: {}", cookie.debug_id(), error);
            Error::from_errno(-error.errno())
        })?;
        let mut name = KVec::with_capacity(cooked.len(), GFP_KERNEL)?;
        name.extend_from_slice(cooked, GFP_KERNEL)?;
        let debug_id = LAST_DEBUG_ID
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1);
        let backing = Backing::new(&cache.disk)?;
        let store: Arc<dyn Store> = backing.clone();
        let demand =
            DemandObject::new(cache.requests(), &volume.key, cookie.key(), store, debug_id)?;
        let slot = cache.objects.reserve()?;
        let object = Arc::new(
            Object {
                directories,
                volume: volume.clone(),
                name,
                debug_id,
                backing,
                demand,
                index: slot.id(),
                cookie: cookie.grab(),
            },
            GFP_KERNEL,
        )?;
        object.seen(Seen::New);
        slot.fill(object.clone()).map_err(|_| ENOMEM)?;
        Ok(object)
    }

    /// Notes in a trace what becomes of it.
    pub(crate) fn seen(&self, why: Seen) {
        trace::seen(self.debug_id, self.cookie.debug_id(), why);
    }

    /// The directory that holds its file.
    pub(crate) fn fan(&self) -> Result<&Directory> {
        match &self.directories {
            Ok(directories) => directories.fan(self.cookie.hash()),
            Err(error) => Err(*error),
        }
    }

    /// The cache it is in.
    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.volume.cache
    }

    /// The file for an operation of the netfs that began after so many invalidations, once the lookup
    /// is over. `None` if there is none then, if the task is killed before, if the daemon takes longer
    /// than it may, or if there have been more invalidations: it would write into the new file what
    /// belongs to the old one.
    pub(crate) fn file_for(&self, invalidations: u32) -> Option<Arc<CacheFile>> {
        self.file_now(invalidations)
            .or_else(|| self.file_then(invalidations))
    }

    #[cold]
    fn file_then(&self, invalidations: u32) -> Option<Arc<CacheFile>> {
        // Such a file is made without an answer. FS-Cache lets an operation that wants to know no more
        // than that go on before.
        self.cache().on_demand.as_ref()?;
        self.cache()
            .requests()
            .wait_opened(&self.demand, self.backing.settled())
            .ok()?;
        self.file_now(invalidations)
    }

    #[inline]
    fn file_now(&self, invalidations: u32) -> Option<Arc<CacheFile>> {
        if self.cache().disk.refuses() {
            return None;
        }
        let now = || self.cookie.invalidations();
        self.backing.file_for(invalidations, now)
    }

    /// Reports that the disk failed it.
    pub(crate) fn io_error(&self, what: core::fmt::Arguments<'_>) {
        self.cache()
            .disk
            .io_error(format_args!("{} [o={:08x}]", what, self.debug_id));
    }
}
