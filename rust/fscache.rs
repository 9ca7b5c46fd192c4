// SPDX-License-Identifier: GPL-2.0

//! Where FS-Cache and netfs call in. Every call goes straight to one of the directories.

use crate::cache::file::CacheFile;
use crate::cache::object::Object;
use crate::cache::volume::Volume;
use crate::cache::{invalidate, local_write, lookup, withdraw, Cache};
use crate::io::{occupancy, prepare, read, write};
use crate::sys::fscache::{Invalidating, LookingUp, Resumed, VolumeCookie};
use crate::sys::fscache_ops::Backend;
use crate::sys::log::Call;
use crate::sys::netfs::{OnHole, Operation, Resources, Source};
use crate::sys::subrequest::{DemandRead, ReadSubrequest, WriteSubrequest};
use crate::sys::transfer::{Dest, Src, Transfer};
use core::ops::Range;
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
    type File = CacheFile;

    fn acquire_volume(
        cache: ArcBorrow<'_, Cache>,
        cookie: &VolumeCookie<'_>,
    ) -> Result<Arc<Volume>> {
        let volume = Volume::new(&cache.into(), cookie)?;
        // The lookups try again, and each tells its own netfs.
        let _ = volume.directories(cookie);
        Ok(volume)
    }

    fn withdraw_objects(cache: ArcBorrow<'_, Cache>) {
        cache.withdraw_objects();
    }

    fn withdraw_volume(volume: ArcBorrow<'_, Volume>, cookie: &VolumeCookie<'_>) {
        let _acting = volume.cache.disk.cred.assume();
        // Errors have been reported; the volume is rebuilt if need be.
        let _ = volume.commit(cookie);
    }

    fn lookup_cookie(
        volume: ArcBorrow<'_, Volume>,
        record: &VolumeCookie<'_>,
        cookie: LookingUp<'_, Object>,
    ) -> bool {
        let _call = Call::enter("lookup_cookie", cookie.debug_id());
        lookup::look_up(&volume.into(), record, cookie)
    }

    fn withdraw_cookie(object: Arc<Object>) {
        let _call = Call::enter("withdraw_cookie", object.cookie.debug_id());
        withdraw::withdraw_object(&object);
    }

    fn backing_file(object: ArcBorrow<'_, Object>, invalidations: u32) -> Option<Arc<CacheFile>> {
        object.file_for(invalidations)
    }

    fn prepare_on_demand_read(
        resources: &Resources<'_, Self>,
        read: &mut DemandRead<'_>,
    ) -> Source {
        let _call = Call::enter("prepare_on_demand_read", resources.cookie().debug_id());
        prepare::prepare(resources, read)
    }

    fn read_refused(object: Option<ArcBorrow<'_, Object>>) -> Result<usize> {
        read::refused(object.as_deref())
    }

    fn read(operation: Operation<Self>, start: u64, into: Transfer<'_, Dest>, on_hole: OnHole) {
        let _call = Call::enter("read", operation.object.cookie.debug_id());
        read::read(operation, start, into, on_hole);
    }

    fn prepare_read(
        resources: &Resources<'_, Self>,
        read: &mut ReadSubrequest<'_>,
        file_size: u64,
    ) -> Source {
        let _call = Call::enter("prepare_read", resources.cookie().debug_id());
        occupancy::prepare_read(resources, read, file_size)
    }

    fn copy_begins(object: ArcBorrow<'_, Object>) {
        object.backing.copies.begin();
    }

    fn copy_over(object: ArcBorrow<'_, Object>) {
        object.backing.copies.end();
    }

    fn upload_failed(object: ArcBorrow<'_, Object>) {
        local_write::upload_failed(&object);
    }

    fn query_occupancy(
        object: ArcBorrow<'_, Object>,
        file: &CacheFile,
        range: Range<u64>,
        granularity: u64,
    ) -> Result<Range<u64>> {
        let _call = Call::enter("query_occupancy", object.cookie.debug_id());
        occupancy::query(&object, file, range, granularity)
    }

    fn prepare_write(
        object: ArcBorrow<'_, Object>,
        file: &CacheFile,
        at: u64,
        len: usize,
        upper: usize,
        is_new: bool,
    ) -> Result<usize> {
        let _call = Call::enter("prepare_write", object.cookie.debug_id());
        write::prepare(&object, file, at, len, upper, is_new)
    }

    fn write(operation: Operation<Self>, at: u64, from: Transfer<'_, Src>) {
        let _call = Call::enter("write", operation.object.cookie.debug_id());
        write::write(operation, at, from);
    }

    fn issue_write(operation: Operation<Self>, write: WriteSubrequest<'_>) {
        let _call = Call::enter("issue_write", operation.object.cookie.debug_id());
        write::issue(operation, write);
    }

    fn resize(object: ArcBorrow<'_, Object>, file: &CacheFile, size: u64) {
        let _call = Call::enter("resize", object.cookie.debug_id());
        local_write::resize(&object, file, size);
    }

    fn invalidate<'a>(
        object: ArcBorrow<'_, Object>,
        cookie: Invalidating<'a>,
    ) -> Option<Resumed<'a>> {
        let _call = Call::enter("invalidate", object.cookie.debug_id());
        invalidate::invalidate(&object, cookie)
    }

    fn prepare_to_write(object: ArcBorrow<'_, Object>) {
        let _call = Call::enter("prepare_to_write", object.cookie.debug_id());
        local_write::prepare_to_write(&object);
    }
}
