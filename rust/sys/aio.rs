// SPDX-License-Identifier: GPL-2.0

//! Asynchronous direct reads and writes of a backing file.
//!
//! The netfs holds what the iterator points to until it is told that the I/O is over; this file
//! takes references to the file only.

use super::bindings;
use super::file::File;
use super::iov_iter::IovIter;
use super::netfs::Termination;
use super::to_count;
use super::transfer::{Dest, Src, Transfer};
use core::cell::UnsafeCell;
use core::mem::{align_of, size_of, ManuallyDrop};
use core::ops::Deref;
use core::ptr::{addr_of_mut, NonNull};
use core::sync::atomic::{fence, AtomicU32, Ordering};
use kernel::error::{code::*, Result};
use kernel::sync::Arc;

/// What happens when an I/O is over, before the netfs is told. Called exactly once, maybe from an
/// interrupt.
pub(crate) trait Done: Send + 'static {
    /// What holds the file. Dropped in any context, after `done()` was called.
    type Holder: AsRef<File> + Send + Sync + 'static;

    /// Makes of `result`, the number of bytes transferred, what the netfs is told.
    fn done(self, file: &Self::Holder, result: Result<usize>) -> Result<usize>;
}

/// An I/O under way.
#[repr(C)]
struct Request<D: Done> {
    iocb: UnsafeCell<bindings::kiocb>,
    // The file system's to use up; the caller's own is not touched once the I/O has begun.
    iter: UnsafeCell<bindings::iov_iter>,
    // Taken when the I/O is completed, once, before the completion's reference is dropped.
    end: UnsafeCell<ManuallyDrop<End<D>>>,
    file: Arc<D::Holder>,
    references: AtomicU32,
}

/// What the end of an I/O needs.
struct End<D: Done> {
    done: D,
    told: Termination,
}

impl<D: Done> End<D> {
    fn reach(self, file: &D::Holder, result: Result<usize>, was_async: bool) {
        let result = self.done.done(file, result);
        self.told.finish(result, was_async);
    }
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

    /// A new request about the first `len` bytes of `iter`, with a reference for the submitter; the
    /// other one is the completion's. Without memory, gives what it got back.
    fn new(
        file: Arc<D::Holder>,
        pos: i64,
        iter: &IovIter<'_>,
        len: usize,
        is_write: bool,
        end: End<D>,
    ) -> Result<Self, (Arc<D::Holder>, End<D>)> {
        let () = Self::FITS;
        // SAFETY: What the memory is taken from exists as long as the module's code may run
        // (`sys/module.rs`). Here we may sleep. The file lives as long as the request, which is about
        // to have the reference to it.
        let memory = unsafe {
            bindings::cfrs_alloc_io(
                (*file).as_ref().as_ptr(),
                pos,
                is_write,
                Some(completed::<D>),
            )
        };
        let Some(ptr) = NonNull::new(memory.cast::<Request<D>>()) else {
            return Err((file, end));
        };
        let raw = ptr.as_ptr();
        // Each field in its place: together they are too large to be moved for nothing.
        // SAFETY: The memory is large enough and aligned, as `FITS` says, and ours alone; all
        // fields are written, the first one by the shim.
        unsafe {
            iter.copy_to(addr_of_mut!((*raw).iter).cast(), len);
            addr_of_mut!((*raw).end).write(UnsafeCell::new(ManuallyDrop::new(end)));
            addr_of_mut!((*raw).file).write(file);
            addr_of_mut!((*raw).references).write(AtomicU32::new(2));
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

/// Reads at `at` into `into`, directly, and has it told when `done` has been called.
///
/// If `takes`, all of `into` is taken, else it is left as it is: before the read begins, since the
/// iterator may be gone when this returns.
pub(crate) fn read<D: Done>(
    file: Arc<D::Holder>,
    at: u64,
    into: Transfer<'_, Dest>,
    takes: bool,
    done: D,
) {
    let len = into.len();
    submit(file, at, into, len, takes, false, done);
}

/// Writes the first `len` bytes of `from` at `at`, directly, and has it told when `done` has been
/// called. The iterator is left as it is.
///
/// Neither waits for memory that the netfs would have to write out: it may be what asks.
pub(crate) fn write<D: Done>(
    file: Arc<D::Holder>,
    at: u64,
    from: Transfer<'_, Src>,
    len: usize,
    done: D,
) {
    submit(file, at, from, len, false, true, done);
}

fn submit<D: Done, W>(
    file: Arc<D::Holder>,
    at: u64,
    transfer: Transfer<'_, W>,
    len: usize,
    takes: bool,
    is_write: bool,
    done: D,
) {
    let (mut iter, told) = transfer.into_parts();
    let end = End { done, told };
    let ours = match i64::try_from(at) {
        Ok(pos) => Reference::new(file, pos, &iter, len, is_write, end)
            .map_err(|(file, end)| (file, end, ENOMEM)),
        Err(_) => Err((file, end, EFBIG)),
    };
    if takes {
        iter.advance(usize::MAX);
    }
    let ours = match ours {
        Ok(ours) => ours,
        Err((file, end, error)) => return end.reach(&file, Err(error), false),
    };
    let iocb: *mut bindings::kiocb = ours.ptr.as_ptr().cast();
    // SAFETY: The file is open for both; kiocb and iterator are initialised and live until both
    // references are dropped, of which ours is one. What the iterator describes stays until the
    // termination is finished, which is part of the request, and finished when the I/O is over.
    let ret = unsafe { bindings::cfrs_submit_io(iocb, ours.iter.get()) };
    if ret == -(bindings::EIOCBQUEUED as isize) {
        return;
    }
    // SAFETY: Not queued: the file system will not call the completion, so that we are to.
    let second = unsafe { Reference::<D>::of_completion(iocb) };
    finish(second, ret, false);
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
    // SAFETY: The VFS leaves the end of a queued write to the completion; the file is still ours.
    unsafe { bindings::cfrs_io_queued_over(iocb) }
    finish(request, ret, true);
}

/// `request` is the completion's reference.
fn finish<D: Done>(request: Reference<D>, ret: isize, was_async: bool) {
    // SAFETY: An I/O is finished once, as there is one such reference: by `completed` if it was
    // queued, else by the submitter.
    let end = unsafe { ManuallyDrop::take(&mut *request.end.get()) };
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
    end.reach(&request.file, result, was_async);
}
