// SPDX-License-Identifier: GPL-2.0

//! Asynchronous direct reads of a backing file.
//!
//! What the iterator points to is held by whoever asked for the read, until the completion has been
//! called; this file takes references to the file only.

use super::bindings;
use super::file::File;
use super::iov_iter::IovIter;
use super::to_count;
use core::cell::UnsafeCell;
use kernel::alloc::flags::GFP_KERNEL;
use kernel::error::{code::*, Result};
use kernel::sync::Arc;

/// What happens when a read is over. Called exactly once, maybe from an interrupt.
pub(crate) trait ReadDone: Send + 'static {
    /// `result` is the number of bytes read; `was_async` whether the submitter has gone on.
    fn done(self, result: Result<usize>, was_async: bool);
}

/// A read under way. Two references: the submitter's and the completion's. The file system may
/// look at the kiocb after it was completed, so that neither alone may free it.
#[repr(C)]
struct ReadRequest<D: ReadDone> {
    iocb: UnsafeCell<bindings::kiocb>,
    // The file system's to use up; the caller's own is used up before the read begins.
    into: UnsafeCell<bindings::iov_iter>,
    // Taken by whoever completes the read, which happens once.
    done: UnsafeCell<Option<D>>,
    _file: File,
}

// SAFETY: `iocb` and `into` are the file system's between submission and completion, and `done` belongs to the
// one completion; neither is accessed twice at a time.
unsafe impl<D: ReadDone> Send for ReadRequest<D> {}
// SAFETY: As above.
unsafe impl<D: ReadDone> Sync for ReadRequest<D> {}

/// Reads at `at` into `into`, directly, and calls `done` when it is over.
///
/// Takes all of `into` before it begins, and does not touch it later: `done` may have been called
/// when this returns, and `into` be gone with it.
pub(crate) fn read<D: ReadDone>(file: &File, at: u64, into: &mut IovIter<'_>, done: D) {
    // SAFETY: The iterator is valid. A copy refers to the same memory, which whoever asked for the
    // read holds until `done`.
    let copy = unsafe { into.as_ptr().read() };
    into.advance(usize::MAX);
    let Ok(pos) = i64::try_from(at) else {
        return done.done(Err(EFBIG), false);
    };
    let request = ReadRequest {
        iocb: UnsafeCell::new(bindings::kiocb::default()),
        into: UnsafeCell::new(copy),
        done: UnsafeCell::new(None),
        _file: file.clone(),
    };
    let request = match Arc::new(request, GFP_KERNEL) {
        Ok(request) => request,
        Err(_) => return done.done(Err(ENOMEM), false),
    };
    // The completion's reference. `iocb` is the first field, so that the pointers are the same.
    let second = Arc::into_raw(request.clone());
    let iocb: *mut bindings::kiocb = second.cast_mut().cast();
    // SAFETY: The request is not submitted yet, so that we are the only one to access it.
    unsafe {
        *request.done.get() = Some(done);
        bindings::cfrs_init_read_kiocb(iocb, file.as_ptr(), pos, Some(completed::<D>));
    }
    // SAFETY: The file is open for reading; kiocb and iterator are initialised and live until both
    // references are dropped.
    let ret = unsafe {
        let flags = bindings::cfrs_nofs_save();
        let ret = bindings::vfs_iocb_iter_read(file.as_ptr(), iocb, request.into.get());
        bindings::cfrs_nofs_restore(flags);
        ret
    };
    if ret == -(bindings::EIOCBQUEUED as isize) {
        return;
    }
    // SAFETY: Not queued: the file system will not call the completion, and its reference is ours.
    let second = unsafe { Arc::from_raw(second) };
    finish(&second, ret, false);
}

/// The kiocb's completion.
///
/// # Safety
///
/// Called once by the file system, with the kiocb of a read that [`read`] submitted and that was
/// queued.
unsafe extern "C" fn completed<D: ReadDone>(iocb: *mut bindings::kiocb, ret: kernel::ffi::c_long) {
    // SAFETY: `iocb` is the first field of a `ReadRequest<D>` whose second reference the submitter
    // left for this call, which the file system makes once.
    let request = unsafe { Arc::from_raw(iocb.cast_const().cast::<ReadRequest<D>>()) };
    finish(&request, ret, true);
}

fn finish<D: ReadDone>(request: &ReadRequest<D>, ret: isize, was_async: bool) {
    // SAFETY: A read is finished once: by `completed` if it was queued, else by the submitter.
    let Some(done) = (unsafe { (*request.done.get()).take() }) else {
        return;
    };
    // A read cannot be restarted once others run beside it.
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
    done.done(result, was_async);
}
