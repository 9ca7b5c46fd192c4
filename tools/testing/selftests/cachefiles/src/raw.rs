// SPDX-License-Identifier: GPL-2.0

//! System calls with an address that is no memory, or is memory only in part.
//!
//! Lives here: this crate's only `unsafe`, for what no safe interface can be made to do.
#![expect(
    unsafe_code,
    reason = "a bad address cannot be passed through a reference"
)]

use rustix::io::Errno;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
};

/// read(2) into memory that is not there.
pub fn read_into_bad_address(fd: impl AsFd, len: usize) -> io::Result<usize> {
    let buf = ptr::null_mut();
    // SAFETY: Nothing is ever mapped at address 0, so that the kernel fails with EFAULT and no
    // memory of ours can be overwritten.
    result(unsafe { libc::read(fd.as_fd().as_raw_fd(), buf, len) })
}

/// write(2) from memory that is not there.
pub fn write_from_bad_address(fd: impl AsFd, len: usize) -> io::Result<usize> {
    let buf = ptr::null();
    // SAFETY: Nothing is ever mapped at address 0, and a write(2) changes no memory anyway.
    result(unsafe { libc::write(fd.as_fd().as_raw_fd(), buf, len) })
}

/// pwrite(2) from memory that is not there.
pub fn pwrite_from_bad_address(fd: impl AsFd, len: usize, offset: i64) -> io::Result<usize> {
    let buf = ptr::null();
    // SAFETY: As above.
    result(unsafe { libc::pwrite(fd.as_fd().as_raw_fd(), buf, len, offset) })
}

/// An ioctl with a plain number as its argument, on any fd.
pub fn ioctl(fd: impl AsFd, request: u32, argument: u32) -> io::Result<()> {
    // SAFETY: The callers pass codes that the driver takes a number with or does not know; it
    // reads and writes no memory through the argument.
    let ret = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request.into(), u64::from(argument)) };
    result(ret as isize).map(drop)
}

/// Closes the fd whose number stood in a message that was read without the client crate.
pub fn close_received(fd: u32) {
    // SAFETY: The driver has just installed this fd in our table, and nobody else knows its number.
    let _ = unsafe { libc::close(fd as i32) };
}

/// Takes the fd whose number stood in a message that was read without the client crate; `None` if
/// it is no open fd.
pub fn take_received(fd: u32) -> Option<OwnedFd> {
    let fd = i32::try_from(fd).ok()?;
    // SAFETY: F_GETFD takes no argument and touches no memory.
    let open = unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    // SAFETY: It is open, and as above the driver has just installed it, for us alone.
    open.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two pages of memory, and behind them none.
pub struct Cliff {
    pages: NonNull<u8>,
}

// SAFETY: The mapping belongs to the value, wherever that is.
unsafe impl Send for Cliff {}

impl Cliff {
    /// How many bytes there are before the edge.
    pub const LEN: usize = 2 * Self::PAGE;
    const PAGE: usize = 4096;

    /// Fresh memory.
    pub fn new() -> io::Result<Cliff> {
        let (all, access) = (Self::LEN + Self::PAGE, libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: A new mapping, at an address of the kernel's choice, is over no other memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), all, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pages = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let cliff = Cliff { pages };
        // SAFETY: The last of the three pages just mapped, to which nothing refers.
        let edge = unsafe { libc::mprotect(cliff.at(Self::LEN), Self::PAGE, libc::PROT_NONE) };
        result(edge as isize).map(|_| cliff)
    }

    fn at(&self, offset: usize) -> *mut libc::c_void {
        self.pages.as_ptr().wrapping_add(offset).cast()
    }

    /// The memory before the edge.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: The two pages are mapped, readable, writable and initialised (with zeros) as
        // long as the value lives, and only it refers to them.
        unsafe { slice::from_raw_parts_mut(self.pages.as_ptr(), Self::LEN) }
    }

    /// read(2) of as many bytes to an offset before the edge; they may reach over it.
    pub fn read(&mut self, fd: impl AsFd, to: usize, len: usize) -> io::Result<usize> {
        let (to, len) = Self::inside(to, len);
        // SAFETY: What the range has of the two pages is ours to write; what is behind them cannot
        // be written, and the range ends there at the latest.
        result(unsafe { libc::read(fd.as_fd().as_raw_fd(), self.at(to), len) })
    }

    /// write(2) of as many bytes from an offset before the edge; they may reach over it.
    pub fn write(&self, fd: impl AsFd, from: usize, len: usize) -> io::Result<usize> {
        let (from, len) = Self::inside(from, len);
        // SAFETY: A write(2) changes no memory, and fails by itself where there is none.
        result(unsafe { libc::write(fd.as_fd().as_raw_fd(), self.at(from), len) })
    }

    /// The same with pwrite(2).
    pub fn pwrite(&self, fd: impl AsFd, from: usize, len: usize, to: i64) -> io::Result<usize> {
        let (from, len) = Self::inside(from, len);
        // SAFETY: As above.
        result(unsafe { libc::pwrite(fd.as_fd().as_raw_fd(), self.at(from), len, to) })
    }

    /// The range, cut so that it begins in the two pages and ends with the third.
    fn inside(at: usize, len: usize) -> (usize, usize) {
        let at = at.min(Self::LEN);
        (at, len.min(Self::LEN + Self::PAGE - at))
    }
}

impl Drop for Cliff {
    fn drop(&mut self) {
        // SAFETY: The mapping is the value's own, and nothing refers to it any more.
        unsafe { libc::munmap(self.at(0), Self::LEN + Self::PAGE) };
    }
}

fn result(ret: isize) -> io::Result<usize> {
    usize::try_from(ret).map_err(|_| io::Error::last_os_error())
}

/// The error as the number that the kernel gave, for comparing.
pub fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}
