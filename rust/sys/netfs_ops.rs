// SPDX-License-Identifier: GPL-2.0

//! The operations of the netfs library that the ordinary mode alone has: what a netfs calls that
//! fills the cache itself. Made from the same trait as `fscache_ops.rs`, whose rules hold here.

use super::bindings;
use super::errno::ENOBUFS;
use super::fscache_ops::{Backend, Table};
use super::iov_iter::IovIter;
use super::netfs::{Resources, Source, Termination, Want};
use super::subrequest::{ReadSubrequest, WriteSubrequest};
use super::transfer::{Src, Transfer};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use kernel::error::Result;

#[expect(
    clippy::missing_safety_doc,
    reason = "the netfs library calls each as it does any table of this kind"
)]
impl<B: Backend> Table<B> {
    pub(super) unsafe extern "C" fn prepare_read(
        subreq: *mut bindings::netfs_io_subrequest,
        i_size: u64,
    ) -> bindings::netfs_io_source {
        let Some(subreq) = NonNull::new(subreq) else {
            return Source::Server.into_raw();
        };
        // SAFETY: The library prepares a subrequest of an operation that has begun, alone.
        let mut read = unsafe { ReadSubrequest::from_raw(subreq) };
        // SAFETY: The subrequest is the library's, which does not end the operation meanwhile.
        let resources = unsafe { Resources::<B>::from_raw(read.resources()) };
        let source = B::prepare_read(&resources, &mut read, i_size);
        let asks_server = matches!(source, Source::Server | Source::ServerLast);
        if asks_server && read.flags().is_copied_to_cache() {
            // SAFETY: A read, which is prepared by our caller alone.
            unsafe { Table::<B>::read_is_copied(resources.as_ptr()) }
        }
        if source == Source::ServerLast {
            // SAFETY: The same.
            unsafe { Table::<B>::read_is_over(resources.as_ptr()) }
        }
        source.into_raw()
    }

    pub(super) unsafe extern "C" fn query_occupancy(
        raw: *mut bindings::netfs_cache_resources,
        start: bindings::loff_t,
        len: usize,
        granularity: usize,
        data_start: *mut bindings::loff_t,
        data_len: *mut usize,
    ) -> i32 {
        let found = || -> Result<(i64, usize)> {
            // SAFETY: The operation has begun and does not end during this call.
            let resources = unsafe { Resources::<B>::from_raw(raw) };
            let (object, file) = resources.ready(Want::Read).ok_or(ENOBUFS)?;
            let start = u64::try_from(start)?;
            let range = start..start.saturating_add(len as u64);
            let data = B::query_occupancy(object, file, range, granularity as u64)?;
            Ok((data.start.try_into()?, (data.end - data.start).try_into()?))
        };
        let (ret, at, len) = match found() {
            Ok((at, len)) => (0, at, len),
            Err(error) => (error.to_errno(), -1, 0),
        };
        // SAFETY: Both are the caller's to be written.
        unsafe {
            *data_start = at;
            *data_len = len;
        }
        ret
    }

    pub(super) unsafe extern "C" fn prepare_write(
        raw: *mut bindings::netfs_cache_resources,
        start: *mut bindings::loff_t,
        len: *mut usize,
        upper_len: usize,
        _i_size: bindings::loff_t,
        no_space_allocated_yet: bool,
    ) -> i32 {
        // SAFETY: The operation has begun and does not end during this call; the numbers are the
        // caller's.
        let (resources, start, len) = unsafe { (Resources::<B>::from_raw(raw), *start, &mut *len) };
        let (Some((object, file)), Ok(at)) = (resources.ready(Want::Write), u64::try_from(start))
        else {
            return ENOBUFS.to_errno();
        };
        match B::prepare_write(object, file, at, *len, upper_len, no_space_allocated_yet) {
            Ok(whole) => {
                *len = whole;
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    pub(super) unsafe extern "C" fn write(
        raw: *mut bindings::netfs_cache_resources,
        start: bindings::loff_t,
        iter: *mut bindings::iov_iter,
        func: bindings::netfs_io_terminated_t,
        private: *mut kernel::ffi::c_void,
    ) -> i32 {
        // SAFETY: The operation has begun; it ends after the termination at the earliest, which is
        // called last. The iterator is the caller's for this call; the function is the netfs's, to
        // be called once, until when it holds the memory.
        let (resources, from) = unsafe {
            let told = Termination::from_raw(func, private);
            (
                Resources::<B>::from_raw(raw),
                Transfer::<Src>::new(IovIter::from_raw(iter), told),
            )
        };
        match u64::try_from(start).map(|at| (resources.operation(Want::Write), at)) {
            Ok((Some(operation), at)) => {
                B::write(operation, at, from);
                // The completion has the result, or will have it.
                0
            }
            _ => {
                from.finish(Err(ENOBUFS));
                ENOBUFS.to_errno()
            }
        }
    }

    pub(super) unsafe extern "C" fn prepare_write_subreq(
        subreq: *mut bindings::netfs_io_subrequest,
    ) {
        // SAFETY: The subrequest is being prepared by our caller, alone, and its operation, which is
        // the library's, has begun.
        unsafe {
            let resources = Resources::<B>::from_raw(bindings::cfrs_begin_write(subreq));
            Table::<B>::write_is_upload(resources.as_ptr());
            if resources.file().is_none() && !resources.wait_for(Want::Write) {
                bindings::cfrs_refuse_prepare_write(subreq);
            }
        }
    }

    pub(super) unsafe extern "C" fn issue_write(subreq: *mut bindings::netfs_io_subrequest) {
        let Some(subreq) = NonNull::new(subreq) else {
            return;
        };
        let mut parts = MaybeUninit::uninit();
        // SAFETY: The subrequest is ours to finish, and its operation goes on until then.
        let write = unsafe { WriteSubrequest::from_raw(subreq, &mut parts) };
        // SAFETY: As above; the resources are not used any more when the subrequest is finished.
        let resources = unsafe { Resources::<B>::from_raw(write.resources()) };
        match resources.operation(Want::Write) {
            Some(operation) => B::issue_write(operation, write),
            None => write.finish(Err(ENOBUFS)),
        }
    }
}
