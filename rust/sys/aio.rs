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
use core::mem::{align_of, size_of};
use core::ops::Deref;
use core::ptr::{addr_of_mut, NonNull};
use core::sync::atomic::{fence, AtomicU32, Ordering};
use kernel::error::{code::*, Result};

/// What happens when an I/O is over. Called exactly once, maybe from an interrupt.
pub(crate) trait Done: Send + 'static {
    /// `result` is the number of bytes transferred; `was_async` whether the submitter has gone on.
    fn done(self, file: &File, result: Result<usize>, was_async: bool);
}

/// An I/O under way.
#[repr(C)]
struct Request<D: Done> {
    iocb: UnsafeCell<bindings::kiocb>,
    // The file system's to use up; the caller's own is not touched once the I/O has begun.
    iter: UnsafeCell<bindings::iov_iter>,
    // Taken by whoever completes the I/O, which happens once.
    done: UnsafeCell<Option<D>>,
    is_write: bool,
    file: File,
    references: AtomicU32,
}

/// One of two references to an I/O under way: the submitter's and the completion's. The file system
/// may look at the kiocb after it was completed, so that neither alone may free it.
///
/// Not an `Arc`, whose memory goes through `krealloc()` in both directions, which shows in what a
/// read of a block costs.
///
/// # Invariants
///
/// `ptr` is a request in memory of `cfrs_alloc_io()`, and one of its references is ours.
struct Reference<D: Done> {
    ptr: NonNull<Request<D>>,
}

impl<D: Done> Reference<D> {
    /// What the shim allocates is enough.
    const FITS: () = assert!(
        size_of::<Request<D>>() <= bindings::CFRS_IO_SIZE as usize && align_of::<Request<D>>() <= 8
    );

    /// A new request, with a reference for the submitter; the other one is for whoever is handed the
    /// kiocb. Without memory, gives `done` back.
    fn new(
        file: &File,
        pos: i64,
        iter: bindings::iov_iter,
        is_write: bool,
        done: D,
    ) -> Result<Self, D> {
        let () = Self::FITS;
        // SAFETY: Memory is ours to ask for, here as anywhere that may sleep.
        let memory = unsafe { bindings::cfrs_alloc_io() };
        let Some(ptr) = NonNull::new(memory.cast::<Request<D>>()) else {
            return Err(done);
        };
        let raw = ptr.as_ptr();
        // Each field in its place: together they are too large to be moved for nothing.
        // SAFETY: The memory is large enough and aligned, as `FITS` says, and nobody else's; all
        // fields are written, the first one by the shim. The file lives as long as the request,
        // which has a reference to it.
        unsafe {
            addr_of_mut!((*raw).iter).write(UnsafeCell::new(iter));
            addr_of_mut!((*raw).done).write(UnsafeCell::new(Some(done)));
            addr_of_mut!((*raw).is_write).write(is_write);
            addr_of_mut!((*raw).file).write(file.clone());
            addr_of_mut!((*raw).references).write(AtomicU32::new(2));
            bindings::cfrs_init_kiocb(
                raw.cast(),
                file.as_ptr(),
                pos,
                is_write,
                Some(completed::<D>),
            );
        }
        // INVARIANT: Of the two references, this is the submitter's.
        Ok(Reference { ptr })
    }

    /// Takes over the completion's reference.
    ///
    /// # Safety
    ///
    /// Called once for each request, with its kiocb: by the completion if the I/O was queued, else by
    /// the submitter.
    unsafe fn of_completion(iocb: *mut bindings::kiocb) -> Self {
        // SAFETY: `iocb` is the first field of a request, whose reference keeps it.
        let ptr = unsafe { NonNull::new_unchecked(iocb.cast()) };
        // INVARIANT: The second reference, which the caller takes over once.
        Reference { ptr }
    }
}

impl<D: Done> Deref for Reference<D> {
    type Target = Request<D>;

    fn deref(&self) -> &Request<D> {
        // SAFETY: Valid by the type invariant. What changes is in cells.
        unsafe { self.ptr.as_ref() }
    }
}

impl<D: Done> Drop for Reference<D> {
    fn drop(&mut self) {
        if self.references.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // What others did with the request comes before its end.
        fence(Ordering::Acquire);
        // SAFETY: This was the last reference, and the memory is the shim's. The file may be put from
        // any context.
        unsafe {
            self.ptr.as_ptr().drop_in_place();
            bindings::cfrs_free_io(self.ptr.as_ptr().cast());
        }
    }
}

/// Reads at `at` into `into`, directly, and calls `done` when it is over.
///
/// If `takes`, all of `into` is taken, else it is left as it is; before the read begins, since `done`
/// may have been called when this returns, and `into` be gone with it.
pub(crate) fn read<D: Done>(file: &File, at: u64, into: &mut IovIter<'_>, takes: bool, done: D) {
    let copy = into.copy(into.count());
    if takes {
        into.advance(usize::MAX);
    }
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
    let ours = match Reference::new(file, pos, iter, is_write, done) {
        Ok(ours) => ours,
        Err(done) => return done.done(file, Err(ENOMEM), false),
    };
    let iocb: *mut bindings::kiocb = ours.ptr.as_ptr().cast();
    // SAFETY: The file is open for both; kiocb and iterator are initialised and live until both
    // references are dropped, of which ours is one.
    let ret = unsafe {
        match is_write {
            false => bindings::vfs_iocb_iter_read(ours.file.as_ptr(), iocb, ours.iter.get()),
            true => bindings::vfs_iocb_iter_write(ours.file.as_ptr(), iocb, ours.iter.get()),
        }
    };
    if ret == -(bindings::EIOCBQUEUED as isize) {
        return;
    }
    // SAFETY: Not queued: the file system will not call the completion, so that we are to.
    let second = unsafe { Reference::<D>::of_completion(iocb) };
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
    // SAFETY: The caller's promise: this is the completion of a queued I/O.
    let request = unsafe { Reference::<D>::of_completion(iocb) };
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
