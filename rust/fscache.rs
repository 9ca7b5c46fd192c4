// SPDX-License-Identifier: GPL-2.0

//! Where FS-Cache and netfs call in. Every call goes straight to one of the rooms.

use crate::cache::object::Object;
use crate::cache::volume::Volume;
use crate::cache::{lookup, withdraw, Cache};
use crate::io::{prepare, read};
use crate::sys::file::File;
use crate::sys::fscache::{Cookie, VolumeCookie, VolumeLink};
use crate::sys::fscache_ops::Backend;
use crate::sys::iov_iter::IovIter;
use crate::sys::netfs::{OnHole, ReadFlags, Resources, Source, Termination};
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::{Arc, ArcBorrow};

/// This back end.
pub(crate) enum CacheFiles {}

impl Backend for CacheFiles {
    const NAME: &'static CStr = kernel::c_str!("cachefiles");
    type Cache = Cache;
    type Volume = Volume;
    type Object = Object;

    fn acquire_volume(
        cache: ArcBorrow<'_, Cache>,
        cookie: &VolumeCookie<'_>,
        link: Arc<VolumeLink>,
    ) -> Result<Arc<Volume>> {
        let volume = Volume::acquire(&cache.into(), cookie, link)?;
        volume
            .cache
            .volumes
            .lock()
            .push(volume.clone(), GFP_KERNEL)?;
        Ok(volume)
    }

    fn free_volume(volume: Arc<Volume>) -> Arc<VolumeLink> {
        let link = volume.link.clone();
        volume.cache.forget_volume(&volume);
        link
    }

    fn lookup_cookie(volume: ArcBorrow<'_, Volume>, cookie: &Cookie) -> Option<Arc<Object>> {
        lookup::look_up(&volume.into(), cookie)
    }

    fn withdraw_cookie(object: Arc<Object>) {
        withdraw::withdraw_object(&object);
    }

    fn backing_file(object: ArcBorrow<'_, Object>) -> Option<File> {
        object.backing.file()
    }

    fn prepare_on_demand_read(
        object: ArcBorrow<'_, Object>,
        file: &File,
        start: u64,
        len: &mut usize,
        flags: &mut ReadFlags<'_>,
    ) -> Source {
        prepare::prepare(&object, file, start, len, flags)
    }

    fn read(
        object: ArcBorrow<'_, Object>,
        resources: &Resources<'_>,
        file: &File,
        start: u64,
        into: &mut IovIter<'_>,
        on_hole: OnHole,
        done: Termination,
    ) {
        read::read(object.into(), resources, file, start, into, on_hole, done);
    }
}
