// SPDX-License-Identifier: GPL-2.0

//! Asynchronous direct reads and writes of a backing file.
//!
//! What the iterator points to is held by whoever asked for the I/O, until the completion has been
//! called; this file takes references to the file only.

use super::bindings;
use super::file::File;
use super::iov_iter::IovIter;
use super::to_count;
use core::cell::UnsafeCell;
use kernel::alloc::flags::GFP_KERNEL;
use kernel::error::{code::*, Result};
use kernel::init;
use kernel::init::InPlaceInit;
use kernel::sync::Arc;

/// What happens when an I/O is over. Called exactly once, maybe from an interrupt.
pub(crate) trait Done: Send + 'static {
    /// `result` is the number of bytes transferred; `was_async` whether the submitter has gone on.
    fn done(self, file: &File, result: Result<usize>, was_async: bool);
}

/// An I/O under way. Two references: the submitter's and the completion's. The file system may
/// look at the kiocb after it was completed, so that neither alone may free it.
#[repr(C)]
struct Request<D: Done> {
    iocb: UnsafeCell<bindings::kiocb>,
    // The file system's to use up; the caller's own is not touched once the I/O has begun.
    iter: UnsafeCell<bindings::iov_iter>,
    // Taken by whoever completes the I/O, which happens once.
    done: UnsafeCell<Option<D>>,
    is_write: bool,
    file: File,
}

// SAFETY: `iocb` and `iter` are the file system's between submission and completion, and `done`
// belongs to the one completion; neither is accessed twice at a time.
unsafe impl<D: Done> Send for Request<D> {}
// SAFETY: As above.
unsafe impl<D: Done> Sync for Request<D> {}

/// Reads at `at` into `into`, directly, and calls `done` when it is over.
///
/// Takes all of `into` before it begins, and does not touch it later: `done` may have been called
/// when this returns, and `into` be gone with it.
pub(crate) fn read<D: Done>(file: &File, at: u64, into: &mut IovIter<'_>, done: D) {
    let copy = into.copy(into.count());
    into.advance(usize::MAX);
    submit(file, at, copy, false, done);
}

/// Writes the first `len` bytes of `from` at `at`, directly, and calls `done` when it is over.
/// `from` is left as it is.
///
/// Neither waits for memory that the netfs would have to write out: it may be what asks.
pub(crate) fn write<D: Done>(file: &File, at: u64, from: &IovIter<'_>, len: usize, done: D) {
    submit(file, at, from.copy(len), true, done);
}

fn submit<D: Done>(file: &File, at: u64, iter: bindings::iov_iter, is_write: bool, done: D) {
    let Ok(pos) = i64::try_from(at) else {
        return done.done(file, Err(EFBIG), false);
    };
    let _nofs = NoFs::begin();
    // Made in its place: it is too large to be moved for nothing.
    let request = Arc::init(
        init!(Request {
            iocb: UnsafeCell::new(bindings::kiocb::default()),
            iter: UnsafeCell::new(iter),
            done: UnsafeCell::new(None),
            is_write,
            file: file.clone(),
        }),
        GFP_KERNEL,
    );
    let request = match request {
        Ok(request) => request,
        Err(_) => return done.done(file, Err(ENOMEM), false),
    };
    // The completion's reference. `iocb` is the first field, so that the pointers are the same.
    let second = Arc::into_raw(request.clone());
    let iocb: *mut bindings::kiocb = second.cast_mut().cast();
    // SAFETY: The request is not submitted yet, so that we are the only one to access it.
    unsafe {
        *request.done.get() = Some(done);
        bindings::cfrs_init_kiocb(iocb, file.as_ptr(), pos, is_write, Some(completed::<D>));
    }
    // SAFETY: The file is open for both; kiocb and iterator are initialised and live until both
    // references are dropped.
    let ret = unsafe {
        match is_write {
            false => bindings::vfs_iocb_iter_read(file.as_ptr(), iocb, request.iter.get()),
            true => bindings::vfs_iocb_iter_write(file.as_ptr(), iocb, request.iter.get()),
        }
    };
    if ret == -(bindings::EIOCBQUEUED as isize) {
        return;
    }
    // SAFETY: Not queued: the file system will not call the completion, and its reference is ours.
    let second = unsafe { Arc::from_raw(second) };
    finish(&second, ret, false);
}

/// While this lives, memory that this task allocates is not made free by a file system.
struct NoFs(core::ffi::c_uint);

impl NoFs {
    fn begin() -> Self {
        // SAFETY: Changes a flag of this task; the guard puts it back.
        NoFs(unsafe { bindings::cfrs_nofs_save() })
    }
}

impl Drop for NoFs {
    fn drop(&mut self) {
        // SAFETY: The value came from `cfrs_nofs_save` in this task, and guards nest.
        unsafe { bindings::cfrs_nofs_restore(self.0) }
    }
}

/// The kiocb's completion.
///
/// # Safety
///
/// Called once by the file system, with the kiocb of an I/O that [`submit`] submitted and that was
/// queued.
unsafe extern "C" fn completed<D: Done>(iocb: *mut bindings::kiocb, ret: kernel::ffi::c_long) {
    // SAFETY: `iocb` is the first field of a `Request<D>` whose second reference the submitter
    // left for this call, which the file system makes once.
    let request = unsafe { Arc::from_raw(iocb.cast_const().cast::<Request<D>>()) };
    if request.is_write {
        // SAFETY: The VFS began a write of this kiocb and leaves its end to a queued one's
        // completion; the file is still ours.
        unsafe { bindings::cfrs_end_write(iocb) }
    }
    finish(&request, ret, true);
}

fn finish<D: Done>(request: &Request<D>, ret: isize, was_async: bool) {
    // SAFETY: An I/O is finished once: by `completed` if it was queued, else by the submitter.
    let Some(done) = (unsafe { (*request.done.get()).take() }) else {
        return;
    };
    // It cannot be restarted once others run beside it.
    let result = match to_count(ret) {
        Err(error)
            if [
                ERESTARTSYS,
                ERESTARTNOINTR,
                ERESTARTNOHAND,
                ERESTART_RESTARTBLOCK,
            ]
            .contains(&error) =>
        {
            Err(EINTR)
        }
        result => result,
    };
    done.done(&request.file, result, was_async);
}
