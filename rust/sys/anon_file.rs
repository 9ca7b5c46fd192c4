// SPDX-License-Identifier: GPL-2.0

//! File descriptors for anonymous files whose operations are ours, made in two phases.
//!
//! A [`Prepared`] file has a number that cannot be used yet. Only [`Prepared::publish`] makes it
//! visible, last of all, when nothing can fail any more; dropped, it leaves no trace.

use super::bindings;
use super::iov_iter::IovIter;
use super::module;
use core::marker::PhantomData;
use core::ptr::{null_mut, NonNull};
use kernel::error::{from_err_ptr, Error, Result};
use kernel::str::CStr;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::ForeignOwnable;

/// What an anonymous file does. The file owns an `Arc<Self>`, dropped at its last close where
/// sleeping is allowed.
pub(crate) trait AnonFile: Send + Sync + Sized + 'static {
    /// The name that /proc shows.
    const NAME: &'static CStr;

    /// write(2) and pwrite(2) at `at`: returns the bytes taken.
    fn write(this: ArcBorrow<'_, Self>, at: u64, from: &mut IovIter<'_>) -> Result<usize>;
    /// lseek(2), except that what is relative to the position comes as an absolute offset.
    fn seek(this: ArcBorrow<'_, Self>, offset: i64, whence: i32) -> Result<u64>;
    /// ioctl(2).
    fn ioctl(this: ArcBorrow<'_, Self>, command: u32, arg: usize) -> Result;
    /// The last close, before the `Arc` is dropped.
    fn release(this: ArcBorrow<'_, Self>);
}

/// A file and a descriptor number that belong together but are not visible yet.
///
/// # Invariants
///
/// `fd` is reserved in the current task's file table. `file` is ours, has no private data, and is
/// not installed.
#[must_use = "the file is visible only once it is published"]
pub(crate) struct Prepared<F: AnonFile> {
    fd: u32,
    file: NonNull<bindings::file>,
    // Not `Send`: the number belongs to the current task's file table.
    _file: PhantomData<(F, *const ())>,
}

impl<F: AnonFile> Prepared<F> {
    /// Reserves the lowest free descriptor and makes a write-only file that can be seeked.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: The shim looks whether the task has a file table, which an exiting one has not.
        let fd = unsafe { bindings::cfrs_get_unused_fd(bindings::O_WRONLY) };
        let fd = u32::try_from(fd).map_err(|_| Error::from_errno(fd))?;
        // SAFETY: The table is static. Of a file that is not published only `release` is called, if
        // anything, which copes with null private data.
        let file = unsafe {
            bindings::anon_inode_getfile_fmode(
                F::NAME.as_char_ptr().cast(),
                &Table::<F>::FOPS,
                null_mut(),
                bindings::O_WRONLY as i32,
                // FMODE_LSEEK and FMODE_PWRITE.
                0x4 | 0x10,
            )
        };
        match from_err_ptr(file).map(NonNull::new) {
            // INVARIANT: Just made by us.
            Ok(Some(file)) => Ok(Prepared {
                fd,
                file,
                _file: PhantomData,
            }),
            other => {
                // SAFETY: Reserved above and not installed.
                unsafe { bindings::put_unused_fd(fd) };
                Err(other.err().unwrap_or(kernel::error::code::ENFILE))
            }
        }
    }

    /// The number, for a message that is written before the file is published.
    pub(crate) fn fd(&self) -> u32 {
        self.fd
    }

    /// Gives the file its owner's data and makes it visible. From here on user space has it.
    pub(crate) fn publish(self, data: Arc<F>) {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: The file is ours and not visible, so that the field is not read meanwhile.
        unsafe { (*this.file.as_ptr()).private_data = data.into_foreign().cast_mut() };
        // SAFETY: Number and file are reserved and ours by the type invariant; both are given up.
        unsafe { bindings::fd_install(this.fd, this.file.as_ptr()) }
    }
}

impl<F: AnonFile> Drop for Prepared<F> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant neither is installed, and both are ours.
        unsafe {
            bindings::fput(self.file.as_ptr());
            bindings::put_unused_fd(self.fd);
        }
    }
}

struct Table<F: AnonFile>(PhantomData<F>);

#[expect(
    clippy::missing_safety_doc,
    reason = "the kernel calls each as it does any table of this kind"
)]
impl<F: AnonFile> Table<F> {
    const FOPS: bindings::file_operations = bindings::file_operations {
        owner: module::owner(),
        release: Some(Self::release),
        write_iter: Some(Self::write_iter),
        llseek: Some(Self::llseek),
        unlocked_ioctl: Some(Self::ioctl),
        // SAFETY: All other operations may be null.
        ..unsafe { core::mem::MaybeUninit::zeroed().assume_init() }
    };

    /// # Safety
    ///
    /// `file` must be a published file of this kind.
    unsafe fn data<'a>(file: *mut bindings::file) -> ArcBorrow<'a, F> {
        // SAFETY: `publish` stored an `Arc` there before the file could be used, and `release`
        // alone takes it back, after every other operation.
        unsafe { <Arc<F> as ForeignOwnable>::borrow((*file).private_data) }
    }

    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> i32 {
        // SAFETY: The file is valid, and this is its last operation.
        let raw = unsafe { core::mem::replace(&mut (*file).private_data, null_mut()) };
        // A file that was never published has no data.
        if !raw.is_null() {
            // SAFETY: `publish` stored it; it is not used after this.
            let data = unsafe { <Arc<F> as ForeignOwnable>::from_foreign(raw) };
            F::release(data.as_arc_borrow());
        }
        0
    }

    unsafe extern "C" fn write_iter(
        iocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: The VFS hands us a kiocb of a published file and an iterator for this call.
        let (data, mut from) = unsafe { (Self::data((*iocb).ki_filp), IovIter::from_raw(iter)) };
        // SAFETY: As above.
        let at = match u64::try_from(unsafe { (*iocb).ki_pos }) {
            Ok(at) => at,
            Err(_) => return kernel::error::code::EINVAL.to_errno() as isize,
        };
        match F::write(data, at, &mut from) {
            Ok(count) => {
                // SAFETY: As above; a count is less than what fits the position, which the VFS
                // has checked against the iterator's length.
                unsafe { (*iocb).ki_pos += count as i64 };
                count as isize
            }
            Err(error) => error.to_errno() as isize,
        }
    }

    unsafe extern "C" fn llseek(
        file: *mut bindings::file,
        offset: bindings::loff_t,
        whence: i32,
    ) -> bindings::loff_t {
        // SAFETY: The VFS hands us a published file, whose position is a word.
        let (data, position) = unsafe {
            let position = core::ptr::addr_of!((*file).f_pos).read_volatile();
            (Self::data(file), position)
        };
        // What is relative to the position is relative to this file's own.
        let sought = if whence == bindings::SEEK_CUR as i32 {
            position
                .checked_add(offset)
                .ok_or(kernel::error::code::EINVAL)
                .and_then(|at| F::seek(data, at, bindings::SEEK_SET as i32))
        } else {
            F::seek(data, offset, whence)
        };
        match sought {
            Ok(at) => {
                // SAFETY: The file is valid, and its position a word. The VFS has no lock for that of such a
                // file, as two tasks that move it at once have to know.
                unsafe { core::ptr::addr_of_mut!((*file).f_pos).write_volatile(at as i64) };
                at as i64
            }
            Err(error) => error.to_errno().into(),
        }
    }

    unsafe extern "C" fn ioctl(
        file: *mut bindings::file,
        command: kernel::ffi::c_uint,
        arg: kernel::ffi::c_ulong,
    ) -> kernel::ffi::c_long {
        // SAFETY: The VFS hands us a published file.
        let data = unsafe { Self::data(file) };
        match F::ioctl(data, command, arg) {
            Ok(()) => 0,
            Err(error) => error.to_errno() as kernel::ffi::c_long,
        }
    }
}
