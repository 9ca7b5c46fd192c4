// SPDX-License-Identifier: GPL-2.0

//! What the netfs library hands over for an I/O operation: resources and a completion. What of them
//! outlasts a call is an [`Operation`].

use super::bindings;
use super::fscache::Cookie;
use super::fscache_ops::Backend;
use core::marker::PhantomData;
use kernel::error::{code::*, Result};
use kernel::sync::{Arc, ArcBorrow};

/// Where a netfs is to take the data of a read from (`enum netfs_io_source`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The range lies behind the end of the file.
    Zeroes,
    /// The cache does not have it.
    Server,
    /// The cache does not have it, and the server is asked when all other parts of the read are done.
    ServerLast,
    /// The cache has it.
    Cache,
    /// It cannot be had.
    Invalid,
}

impl Source {
    pub(super) fn into_raw(self) -> bindings::netfs_io_source {
        match self {
            Source::Zeroes => bindings::netfs_io_source_NETFS_FILL_WITH_ZEROES,
            Source::Server => bindings::netfs_io_source_NETFS_DOWNLOAD_FROM_SERVER,
            // The library asks the server for what the cache has read nothing of, after the rest.
            Source::Cache | Source::ServerLast => bindings::netfs_io_source_NETFS_READ_FROM_CACHE,
            Source::Invalid => bindings::netfs_io_source_NETFS_INVALID_READ,
        }
    }
}

/// What a read that meets a hole in the cache file is to do (`enum netfs_read_from_hole`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnHole {
    /// Read whatever the file system gives.
    Ignore,
    /// Fill the buffer with zeros.
    Clear,
    /// Fail with `ENODATA`.
    Fail,
}

impl OnHole {
    pub(super) fn from_raw(raw: bindings::netfs_read_from_hole) -> Self {
        match raw {
            bindings::netfs_read_from_hole_NETFS_READ_HOLE_IGNORE => OnHole::Ignore,
            bindings::netfs_read_from_hole_NETFS_READ_HOLE_CLEAR => OnHole::Clear,
            _ => OnHole::Fail,
        }
    }
}

/// The state that an operation must find the cookie in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Its parameters are enough.
    Params,
    /// Its data is to be written.
    Write,
    /// Its data is to be read.
    Read,
}

impl Want {
    pub(super) fn from_raw(raw: bindings::fscache_want_state) -> Self {
        match raw {
            bindings::fscache_want_state_FSCACHE_WANT_PARAMS => Want::Params,
            bindings::fscache_want_state_FSCACHE_WANT_WRITE => Want::Write,
            _ => Want::Read,
        }
    }

    fn into_raw(self) -> bindings::fscache_want_state {
        match self {
            Want::Params => bindings::fscache_want_state_FSCACHE_WANT_PARAMS,
            Want::Write => bindings::fscache_want_state_FSCACHE_WANT_WRITE,
            Want::Read => bindings::fscache_want_state_FSCACHE_WANT_READ,
        }
    }
}

/// The flags word of a read that is being prepared.
///
/// # Invariants
///
/// `word` is valid and only ours for `'a`.
pub(crate) struct ReadFlags<'a> {
    word: *mut kernel::ffi::c_ulong,
    _call: PhantomData<&'a mut usize>,
}

impl ReadFlags<'_> {
    /// # Safety
    ///
    /// `word` must be valid and the caller's alone while the result lives.
    pub(super) unsafe fn from_raw(word: *mut kernel::ffi::c_ulong) -> Self {
        // INVARIANT: The caller promises it.
        ReadFlags {
            word,
            _call: PhantomData,
        }
    }

    /// All of them, for traces.
    pub(crate) fn bits(&self) -> usize {
        // SAFETY: Valid by the type invariant.
        unsafe { *self.word }
    }

    /// Whether a miss is to be turned into a request to the daemon.
    pub(crate) fn is_on_demand(&self) -> bool {
        // SAFETY: Valid by the type invariant.
        unsafe { *self.word & (1 << bindings::NETFS_SREQ_ONDEMAND) != 0 }
    }

    /// Notes that the daemon was asked.
    pub(crate) fn clear_on_demand(&mut self) {
        // SAFETY: Valid and ours by the type invariant.
        unsafe { *self.word &= !(1 << bindings::NETFS_SREQ_ONDEMAND) }
    }

    /// Whether the netfs is to store what it downloads.
    pub(super) fn is_copied_to_cache(&self) -> bool {
        // SAFETY: Valid by the type invariant.
        unsafe { *self.word & (1 << bindings::NETFS_SREQ_COPY_TO_CACHE) != 0 }
    }

    /// Asks the netfs to store what it downloads.
    pub(crate) fn set_copy_to_cache(&mut self) {
        // SAFETY: Valid and ours by the type invariant.
        unsafe { *self.word |= 1 << bindings::NETFS_SREQ_COPY_TO_CACHE }
    }
}

/// The resources of an operation of the netfs's, for the time of one call.
///
/// # Invariants
///
/// `raw` is valid, for `'a`. The operation has access to the cookie, so that its object, is not
/// withdrawn. Its file, once it has one, stays: `cache_priv2` is null or from [`Arc::into_raw`].
pub(crate) struct Resources<'a, B: Backend> {
    raw: *mut bindings::netfs_cache_resources,
    _call: PhantomData<&'a B>,
}

/// What an I/O is done on, which may outlast the netfs's operation.
pub(crate) struct Operation<B: Backend> {
    /// The object.
    pub(crate) object: Arc<B::Object>,
    /// Its file.
    pub(crate) file: Arc<B::File>,
    /// How many invalidations of the cookie there had been when the operation began.
    pub(crate) invalidations: u32,
}

impl<B: Backend> Resources<'_, B> {
    /// # Safety
    ///
    /// `raw` must be the resources of an operation that has begun on a cookie of this back end,
    /// and does not end while the result lives.
    pub(super) unsafe fn from_raw(raw: *mut bindings::netfs_cache_resources) -> Self {
        // INVARIANT: The caller promises it.
        Resources {
            raw,
            _call: PhantomData,
        }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::netfs_cache_resources {
        self.raw
    }

    /// The cookie.
    pub(crate) fn cookie(&self) -> &Cookie {
        // SAFETY: The operation's access keeps the cookie.
        unsafe { Cookie::from_raw((*self.raw).cache_priv.cast()) }
    }

    /// The cookie's object, once there is one.
    pub(super) fn object(&self) -> Option<ArcBorrow<'_, B::Object>> {
        // SAFETY: The operation's access keeps the object.
        unsafe { self.cookie().object() }
    }

    /// The file that the operation works on, once there is one.
    pub(crate) fn file(&self) -> Option<&B::File> {
        // SAFETY: By the type invariant the field is null or points to what the operation counts.
        unsafe {
            (*self.raw)
                .cache_priv2
                .cast_const()
                .cast::<B::File>()
                .as_ref()
        }
    }

    /// Gives the operation, which has begun and is this task's, the file it works on.
    pub(super) fn set_file(&self, file: Arc<B::File>) {
        debug_assert!(self.file().is_none());
        // SAFETY: Valid by the type invariant; the field is null.
        // INVARIANT: The reference passes to the operation.
        unsafe { (*self.raw).cache_priv2 = Arc::into_raw(file).cast_mut().cast() }
    }

    /// How many invalidations of the cookie there had been when the operation began.
    pub(super) fn invalidations(&self) -> u32 {
        // SAFETY: Valid by the type invariant.
        unsafe { (*self.raw).inval_counter }
    }

    /// Waits until the cookie is in that state, with a file; false if it never will be.
    pub(super) fn wait_for(&self, want: Want) -> bool {
        // SAFETY: Valid by the type invariant, and the operation may sleep here.
        unsafe { bindings::fscache_wait_for_operation(self.raw, want.into_raw()) }
    }

    /// Waits for object and file, unless they are there; `None` if they never will be.
    #[inline]
    pub(crate) fn ready(&self, want: Want) -> Option<(ArcBorrow<'_, B::Object>, &B::File)> {
        if self.file().is_none() && !self.wait_for(want) {
            return None;
        }
        Some((self.object()?, self.file()?))
    }

    /// What an I/O is to be done on now; `None` if the cookie is out of service.
    #[inline]
    pub(super) fn operation(&self, want: Want) -> Option<Operation<B>> {
        if !self.wait_for(want) {
            return None;
        }
        let (object, file) = (self.object()?, self.file()?);
        Some(Operation {
            object: object.into(),
            // SAFETY: From `Arc::into_raw` by the type invariant, and counted by the operation.
            file: unsafe { ArcBorrow::from_raw(file) }.into(),
            invalidations: self.invalidations(),
        })
    }
}

/// The function that the netfs wants called, once, when its I/O is over.
///
/// Dropping it unused reports `EIO`: no path can forget the netfs.
pub(crate) struct Termination {
    func: bindings::netfs_io_terminated_t,
    private: *mut kernel::ffi::c_void,
}

// SAFETY: The netfs allows its function to be called from any context, with its own pointer.
unsafe impl Send for Termination {}

impl Termination {
    /// # Safety
    ///
    /// `func`, where there is one, must be callable once with `private`, from any context.
    pub(super) unsafe fn from_raw(
        func: bindings::netfs_io_terminated_t,
        private: *mut kernel::ffi::c_void,
    ) -> Self {
        Termination { func, private }
    }

    /// Reports how many bytes were transferred, or the error.
    pub(crate) fn finish(mut self, result: Result<usize>, was_async: bool) {
        self.call(result, was_async);
    }

    fn call(&mut self, result: Result<usize>, was_async: bool) {
        let func = self.func.take();
        if func.is_none() {
            return;
        }
        let value = match result {
            Ok(count) => isize::try_from(count).unwrap_or(isize::MAX),
            Err(error) => error.to_errno() as isize,
        };
        // SAFETY: By the contract of `from_raw`; `take` makes sure that it happens once.
        unsafe { bindings::cfrs_call_terminated(func, self.private, value, was_async) }
    }
}

impl Drop for Termination {
    fn drop(&mut self) {
        self.call(Err(EIO), false);
    }
}
