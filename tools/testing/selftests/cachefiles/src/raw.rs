// SPDX-License-Identifier: GPL-2.0

//! System calls with an address that is no memory.
//!
//! Lives here: this crate's only `unsafe`, for what no safe interface can be made to do.
#![expect(
    unsafe_code,
    reason = "a bad address cannot be passed through a reference"
)]

use rustix::io::Errno;
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr,
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

fn result(ret: isize) -> io::Result<usize> {
    usize::try_from(ret).map_err(|_| io::Error::last_os_error())
}

/// The error as the number that the kernel gave, for comparing.
pub fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}
