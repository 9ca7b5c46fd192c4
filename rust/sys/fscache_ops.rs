// SPDX-License-Identifier: GPL-2.0

//! The tables through which FS-Cache and the netfs library call a cache, made from one trait.
//!
//! Each function here turns raw pointers into borrowed or counted references and calls the trait;
//! no decision is taken here but what to do when there is no object.

use super::bindings;
use super::fscache::{Cookie, Invalidating, LookingUp, Resumed, VolumeCookie};
use super::iov_iter::IovIter;
use super::netfs::{OnHole, Operation, ReadFlags, Resources, Source, Termination, Want};
use super::service::{Link, Service};
use super::subrequest::{DemandRead, ReadSubrequest, WriteSubrequest};
use super::transfer::{Dest, Src, Transfer};
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::{null_mut, NonNull};
use kernel::error::{code::EIO, Result};
use kernel::str::CStr;
use kernel::sync::{Arc, ArcBorrow};

/// A back end of FS-Cache.
pub(crate) trait Backend: Sized + 'static {
    /// What FS-Cache calls the type of cache.
    const NAME: &'static CStr;
    /// What stands behind a cache cookie.
    type Cache: Send + Sync + 'static;
    /// What stands behind a volume cookie.
    type Volume: Send + Sync + 'static;
    /// What stands behind a data cookie.
    type Object: Send + Sync + 'static;
    /// What an operation reads and writes. Its last reference may be dropped in any context.
    type File: Send + Sync + 'static;

    /// Makes a volume's representation. May sleep.
    fn acquire_volume(
        cache: ArcBorrow<'_, Self::Cache>,
        cookie: &VolumeCookie<'_>,
    ) -> Result<Arc<Self::Volume>>;
    /// The cache's service ends: has FS-Cache withdraw each cookie that has an object
    /// ([`Cookie::withdraw`]).
    fn withdraw_objects(cache: ArcBorrow<'_, Self::Cache>);
    /// The cache's service ends, and no cookie of the volume has an object. May sleep.
    fn withdraw_volume(volume: ArcBorrow<'_, Self::Volume>, cookie: &VolumeCookie<'_>);
    /// Looks the cookie up, or creates it, and says whether it can be cached. May sleep.
    fn lookup_cookie(
        volume: ArcBorrow<'_, Self::Volume>,
        record: &VolumeCookie<'_>,
        cookie: LookingUp<'_, Self::Object>,
    ) -> bool;
    /// Commits and closes an object, which no operation has any more. May sleep.
    fn withdraw_cookie(object: Arc<Self::Object>);
    /// The file that I/O on the object works on, once the object has been found; `None` if there is
    /// none. There had been so many invalidations when the operation began. May sleep.
    fn backing_file(
        object: ArcBorrow<'_, Self::Object>,
        invalidations: u32,
    ) -> Option<Arc<Self::File>>;
    /// Says where a read on demand is to get its data from, all of it, and sees to it that it is
    /// there.
    fn prepare_on_demand_read(resources: &Resources<'_, Self>, read: &mut DemandRead<'_>)
        -> Source;
    /// What a read comes to for which there is no object or no file.
    fn read_refused(object: Option<ArcBorrow<'_, Self::Object>>) -> Result<usize>;
    /// Reads into `into` and finishes it once, now or later. Before that, it passes over all of it, if
    /// the netfs looks.
    fn read(operation: Operation<Self>, start: u64, into: Transfer<'_, Dest>, on_hole: OnHole);
    /// Says where a read is to get its data from, and shortens it to what can be had from there.
    fn prepare_read(
        resources: &Resources<'_, Self>,
        read: &mut ReadSubrequest<'_>,
        file_size: u64,
    ) -> Source;
    /// A read, which has not asked the server yet, is to have its data stored, by other operations.
    fn copy_begins(object: ArcBorrow<'_, Self::Object>);
    /// Such a read is over, and so are the calls of those operations.
    fn copy_over(object: ArcBorrow<'_, Self::Object>);
    /// Something that the netfs has written has not reached the server, which the cache may have.
    fn upload_failed(object: ArcBorrow<'_, Self::Object>);
    /// Where in `range` the next data is, in pieces of at least `granularity` bytes.
    fn query_occupancy(
        object: ArcBorrow<'_, Self::Object>,
        file: &Self::File,
        range: Range<u64>,
        granularity: u64,
    ) -> Result<Range<u64>>;
    /// Sees to it that `len` bytes at `at` can be written; returns how many they are in whole
    /// blocks, at most `upper`.
    fn prepare_write(
        object: ArcBorrow<'_, Self::Object>,
        file: &Self::File,
        at: u64,
        len: usize,
        upper: usize,
        is_new: bool,
    ) -> Result<usize>;
    /// Writes all of `from` at `at` and finishes it once, now or later.
    fn write(operation: Operation<Self>, at: u64, from: Transfer<'_, Src>);
    /// Writes what the cache can take of `write`, and finishes it once, now or later.
    fn issue_write(operation: Operation<Self>, write: WriteSubrequest<'_>);
    /// The netfs has changed the size of its file.
    fn resize(object: ArcBorrow<'_, Self::Object>, file: &Self::File, size: u64);
    /// Nothing that is cached is valid any more. Lets I/O go on if there is to be caching from now on.
    fn invalidate<'a>(
        object: ArcBorrow<'_, Self::Object>,
        cookie: Invalidating<'a>,
    ) -> Option<Resumed<'a>>;
    /// The netfs is about to change its file locally.
    fn prepare_to_write(object: ArcBorrow<'_, Self::Object>);
}

pub(super) struct Table<B: Backend>(PhantomData<B>);

#[expect(
    clippy::missing_safety_doc,
    reason = "the kernel calls each as it does any table of this kind"
)]
impl<B: Backend> Table<B> {
    pub(super) const CACHE_OPS: bindings::fscache_cache_ops = bindings::fscache_cache_ops {
        name: B::NAME.as_char_ptr().cast(),
        acquire_volume: Some(Self::acquire_volume),
        free_volume: Some(Self::free_volume),
        lookup_cookie: Some(Self::lookup_cookie),
        withdraw_cookie: Some(Self::withdraw_cookie),
        resize_cookie: Some(Self::resize_cookie),
        invalidate_cookie: Some(Self::invalidate_cookie),
        begin_operation: Some(Self::begin_operation),
        prepare_to_write: Some(Self::prepare_to_write),
    };

    const IO_OPS: bindings::netfs_cache_ops = bindings::netfs_cache_ops {
        end_operation: Some(Self::end_operation),
        read: Some(Self::read),
        write: Some(Self::write),
        issue_write: Some(Self::issue_write),
        prepare_read: Some(Self::prepare_read),
        prepare_write: Some(Self::prepare_write),
        prepare_write_subreq: Some(Self::prepare_write_subreq),
        prepare_ondemand_read: Some(Self::prepare_ondemand_read),
        query_occupancy: Some(Self::query_occupancy),
        // SAFETY: All other operations may be null.
        ..unsafe { core::mem::MaybeUninit::zeroed().assume_init() }
    };

    /// The operations of a read on demand that could not be prepared: it fails through its
    /// completion. An error before that would make EROFS end a bio that it has freed already
    /// (`erofs_fscache_submit_bio()` of 6.12).
    const FAILED_OPS: bindings::netfs_cache_ops = bindings::netfs_cache_ops {
        read: Some(Self::fail_read),
        ..Self::IO_OPS
    };

    /// The operations of a read that has been told to have its data stored.
    const COPY_OPS: bindings::netfs_cache_ops = bindings::netfs_cache_ops {
        end_operation: Some(Self::end_copied_read),
        ..Self::IO_OPS
    };

    /// The operations of a read whose other parts have all been begun, and whose last one finds nothing
    /// in the cache.
    const OVER_OPS: bindings::netfs_cache_ops = bindings::netfs_cache_ops {
        read: Some(Self::read_nothing),
        ..Self::IO_OPS
    };

    /// The same, of a read that has been told to have its data stored.
    const COPY_OVER_OPS: bindings::netfs_cache_ops = bindings::netfs_cache_ops {
        read: Some(Self::read_nothing),
        ..Self::COPY_OPS
    };

    /// The operations of a write of the netfs library's, which goes to the server too.
    const UPLOAD_OPS: bindings::netfs_cache_ops = bindings::netfs_cache_ops {
        end_operation: Some(Self::end_upload),
        ..Self::IO_OPS
    };

    unsafe extern "C" fn acquire_volume(raw: *mut bindings::fscache_volume) {
        let Some(ptr) = NonNull::new(raw) else {
            return;
        };
        // Without memory for the volume its cookies are not looked up.
        // SAFETY: FS-Cache holds an access to the cache, and is calling for this volume.
        let _ = unsafe { Service::<B>::of((*raw).cache).acquire(ptr) };
    }

    unsafe extern "C" fn free_volume(raw: *mut bindings::fscache_volume) {
        // SAFETY: The volume has no user left, so that the field is ours to clear.
        let private = unsafe { core::mem::replace(&mut (*raw).cache_priv, null_mut()) };
        if private.is_null() {
            return;
        }
        // SAFETY: `Service::acquire` stored it; the reference passes to us. The service waits for the
        // end of the link.
        unsafe {
            let link = Arc::<Link<B>>::from_raw(private.cast_const().cast());
            Service::<B>::of((*raw).cache).free(link);
        }
    }

    unsafe extern "C" fn lookup_cookie(raw: *mut bindings::fscache_cookie) -> bool {
        // SAFETY: FS-Cache holds accesses to cookie and volume, which keep both, and the link of the
        // volume; it looks no cookie up before its volume was acquired.
        let (link, record, cookie) = unsafe {
            let volume = (*raw).volume;
            if (*volume).cache_priv.is_null() {
                return false;
            }
            (
                &*(*volume).cache_priv.cast_const().cast::<Link<B>>(),
                VolumeCookie::from_raw(volume),
                LookingUp::from_raw(raw),
            )
        };
        let is_cached = B::lookup_cookie(link.volume.as_arc_borrow(), &record, cookie);
        if !is_cached {
            // SAFETY: The cookie is still being looked up.
            unsafe { bindings::fscache_caching_failed(raw) }
        }
        is_cached
    }

    unsafe extern "C" fn withdraw_cookie(raw: *mut bindings::fscache_cookie) {
        // SAFETY: FS-Cache's worker is the only one here, and no operation has access to the cookie.
        let private = unsafe { core::mem::replace(&mut (*raw).cache_priv, null_mut()) };
        if private.is_null() {
            return;
        }
        // SAFETY: `LookingUp::made` stored it, and counted it; the reference passes to us. The
        // cookie has its volume, and this the cache's record, also when nothing is counted any more.
        unsafe {
            B::withdraw_cookie(Arc::from_raw(private.cast_const().cast()));
            bindings::cfrs_uncount_object((*(*raw).volume).cache);
        }
    }

    unsafe extern "C" fn begin_operation(
        raw: *mut bindings::netfs_cache_resources,
        want: bindings::fscache_want_state,
    ) -> bool {
        // SAFETY: FS-Cache begins operations with access to the cookie.
        let resources = unsafe { Resources::<B>::from_raw(raw) };
        if resources.file().is_some() {
            return true;
        }
        // SAFETY: The resources are ours while the operation begins. FS-Cache clears the field before it
        // does; when the operation only asks again for a file, its end may be a special one by now.
        unsafe {
            if (*raw).ops.is_null() {
                (*raw).ops = &Self::IO_OPS;
            }
        }
        let invalidations = resources.invalidations();
        match (resources.object()).and_then(|object| B::backing_file(object, invalidations)) {
            Some(file) => {
                resources.set_file(file);
                true
            }
            // The netfs asks again, for data, when it wants some.
            None => Want::from_raw(want) == Want::Params,
        }
    }

    unsafe extern "C" fn end_operation(raw: *mut bindings::netfs_cache_resources) {
        // SAFETY: The operation has access until it ends here, once. The file in the resources is
        // `set_file`'s, and given up with the field.
        unsafe {
            let file = core::mem::replace(&mut (*raw).cache_priv2, null_mut());
            drop(NonNull::new(file.cast::<B::File>()).map(|ptr| Arc::from_raw(ptr.as_ptr())));
            bindings::cfrs_end_io_access((*raw).cache_priv.cast());
        }
    }

    unsafe extern "C" fn end_copied_read(raw: *mut bindings::netfs_cache_resources) {
        // SAFETY: The operation has access until it is ended, which comes after.
        unsafe {
            if let Some(object) = Resources::<B>::from_raw(raw).object() {
                B::copy_over(object);
            }
            Self::end_operation(raw)
        }
    }

    unsafe extern "C" fn end_upload(raw: *mut bindings::netfs_cache_resources) {
        // SAFETY: These are the resources of a write request, as `write_is_upload` says; the
        // operation has access until it is ended, which comes after.
        unsafe {
            if bindings::cfrs_upload_failed(raw) {
                if let Some(object) = Resources::<B>::from_raw(raw).object() {
                    B::upload_failed(object);
                }
            }
            Self::end_operation(raw)
        }
    }

    /// Notes that the read whose subrequest is being prepared is to have its data stored.
    ///
    /// # Safety
    ///
    /// `raw` must be the resources of a read that has begun, and the caller's for this call.
    pub(super) unsafe fn read_is_copied(raw: *mut bindings::netfs_cache_resources) {
        // SAFETY: The caller's promise.
        unsafe {
            let ends = (*(*raw).ops).end_operation.map(|end| end as usize);
            // Once for each read, whose other parts have been told before.
            if ends == Some(Self::end_copied_read as usize) {
                return;
            }
            if let Some(object) = Resources::<B>::from_raw(raw).object() {
                B::copy_begins(object);
                (*raw).ops = &Self::COPY_OPS;
            }
        }
    }

    /// Has the read get nothing more from the cache.
    ///
    /// # Safety
    ///
    /// `raw` must be the resources of a read that has begun, and the caller's for this call.
    pub(super) unsafe fn read_is_over(raw: *mut bindings::netfs_cache_resources) {
        // SAFETY: The caller's promise.
        unsafe {
            let ends = (*(*raw).ops).end_operation.map(|end| end as usize);
            (*raw).ops = match ends == Some(Self::end_copied_read as usize) {
                true => &Self::COPY_OVER_OPS,
                false => &Self::OVER_OPS,
            };
        }
    }

    /// Has the end of the write look at what has become of it on the server.
    ///
    /// # Safety
    ///
    /// `raw` must be the resources in a request of the netfs library's to write, which has begun, and
    /// the caller's for this call.
    pub(super) unsafe fn write_is_upload(raw: *mut bindings::netfs_cache_resources) {
        // SAFETY: The caller's promise.
        unsafe { (*raw).ops = &Self::UPLOAD_OPS }
    }

    unsafe extern "C" fn prepare_ondemand_read(
        raw: *mut bindings::netfs_cache_resources,
        start: bindings::loff_t,
        len: *mut usize,
        i_size: bindings::loff_t,
        flags: *mut kernel::ffi::c_ulong,
        inode: bindings::ino_t,
    ) -> bindings::netfs_io_source {
        // SAFETY: The operation has begun; `len` and `flags` are the caller's for this call.
        let (resources, len, flags) = unsafe {
            (
                Resources::<B>::from_raw(raw),
                *len,
                ReadFlags::from_raw(flags),
            )
        };
        let on_demand = flags.is_on_demand();
        let source = match (start.try_into(), i_size.try_into()) {
            (Ok(start), Ok(file_size)) => {
                let mut read = DemandRead {
                    start,
                    len,
                    flags,
                    inode: inode as u64,
                    file_size,
                };
                B::prepare_on_demand_read(&resources, &mut read)
            }
            _ => Source::Server,
        };
        if on_demand && !matches!(source, Source::Cache | Source::Zeroes) {
            // SAFETY: The resources are ours while the read is prepared.
            unsafe { (*raw).ops = &Self::FAILED_OPS };
            return Source::Cache.into_raw();
        }
        source.into_raw()
    }

    unsafe extern "C" fn fail_read(
        _raw: *mut bindings::netfs_cache_resources,
        _start: bindings::loff_t,
        iter: *mut bindings::iov_iter,
        _on_hole: bindings::netfs_read_from_hole,
        func: bindings::netfs_io_terminated_t,
        private: *mut kernel::ffi::c_void,
    ) -> i32 {
        // SAFETY: The iterator is the caller's for this call; the function is the netfs's, to be
        // called once, until when it holds the memory.
        let mut into: Transfer<'_, Dest> = unsafe {
            Transfer::new(
                IovIter::from_raw(iter),
                Termination::from_raw(func, private),
            )
        };
        into.take_all();
        into.finish(Err(EIO));
        0
    }

    unsafe extern "C" fn read_nothing(
        _raw: *mut bindings::netfs_cache_resources,
        _start: bindings::loff_t,
        _iter: *mut bindings::iov_iter,
        _on_hole: bindings::netfs_read_from_hole,
        func: bindings::netfs_io_terminated_t,
        private: *mut kernel::ffi::c_void,
    ) -> i32 {
        // SAFETY: The function is the netfs's, to be called once.
        unsafe { Termination::from_raw(func, private) }.finish(Ok(0), false);
        0
    }

    unsafe extern "C" fn read(
        raw: *mut bindings::netfs_cache_resources,
        start: bindings::loff_t,
        iter: *mut bindings::iov_iter,
        on_hole: bindings::netfs_read_from_hole,
        func: bindings::netfs_io_terminated_t,
        private: *mut kernel::ffi::c_void,
    ) -> i32 {
        // SAFETY: The operation has begun, and ends after the termination at the earliest, which is
        // called last; the iterator is the caller's for this call; the function is the netfs's, to be
        // called once, until when it holds the memory.
        let (resources, mut into) = unsafe {
            let told = Termination::from_raw(func, private);
            (
                Resources::<B>::from_raw(raw),
                Transfer::new(IovIter::from_raw(iter), told),
            )
        };
        match u64::try_from(start).map(|start| (resources.operation(Want::Read), start)) {
            Ok((Some(operation), start)) => {
                B::read(operation, start, into, OnHole::from_raw(on_hole));
            }
            _ => {
                into.take_all();
                into.finish(B::read_refused(resources.object()));
            }
        }
        // The completion has the result, or will have it. An error here as well would make a
        // caller such as EROFS end its bio a second time.
        0
    }

    unsafe extern "C" fn resize_cookie(
        raw: *mut bindings::netfs_cache_resources,
        new_size: bindings::loff_t,
    ) {
        // SAFETY: FS-Cache has begun an operation for this call, which has access to the cookie.
        let resources = unsafe { Resources::<B>::from_raw(raw) };
        if let (Some(object), Some(file), Ok(size)) = (
            resources.object(),
            resources.file(),
            u64::try_from(new_size),
        ) {
            B::resize(object, file, size);
        }
    }

    unsafe extern "C" fn invalidate_cookie(raw: *mut bindings::fscache_cookie) -> bool {
        // SAFETY: FS-Cache holds an access to the cookie for this.
        match unsafe { Cookie::from_raw(raw).object() } {
            // SAFETY: FS-Cache's worker has called for it, and waits for the result.
            Some(object) => B::invalidate(object, unsafe { Invalidating::from_raw(raw) }).is_some(),
            None => false,
        }
    }

    unsafe extern "C" fn prepare_to_write(raw: *mut bindings::fscache_cookie) {
        // SAFETY: Called by FS-Cache's worker, which is the one to withdraw the object.
        if let Some(object) = unsafe { Cookie::from_raw(raw).object() } {
            B::prepare_to_write(object);
        }
    }
}
