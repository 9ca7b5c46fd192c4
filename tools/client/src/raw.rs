// SPDX-License-Identifier: GPL-2.0

//! The two things that the compiler cannot check: that a number is an open fd, and what an ioctl
//! does with its argument.
//!
//! Lives here: all of this crate's `unsafe`.  Never here: anything else.
#![expect(
    unsafe_code,
    reason = "fds that arrive as numbers, and an ioctl that rustix does not know"
)]

use crate::protocol::message::READ_COMPLETE;
use rustix::fs::{fstat, FileType};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Takes ownership of the fd whose number stood in an OPEN just read from `device`.
///
/// # Errors
///
/// `InvalidData` if `device` is no character device, or the number no fd: then the message was
/// not the driver's and there is nothing to own.
pub(crate) fn adopt(device: BorrowedFd<'_>, number: u32) -> io::Result<OwnedFd> {
    let is_device = FileType::from_raw_mode(fstat(device)?.st_mode) == FileType::CharacterDevice;
    match i32::try_from(number) {
        // SAFETY: The driver installed this fd in our table in the read(2) that returned the
        // message, and told nobody else its number; so it is open and nobody owns it.  That it
        // was the driver, and not a file made up to look like it, is what the check is for.
        Ok(fd) if is_device && fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("an OPEN with the fd {number}, which the driver cannot have sent"),
        )),
    }
}

/// `ioctl(object, CACHEFILES_IOC_READ_COMPLETE, msg_id)`.
pub(crate) fn read_complete(object: impl AsFd, msg_id: u32) -> io::Result<()> {
    // SAFETY: The argument of this ioctl is a plain number, though its code is made with _IOW:
    // the driver reads no memory through it, and no other driver knows the code.
    unsafe {
        let request = rustix::ioctl::IntegerSetter::<READ_COMPLETE>::new_usize(msg_id as usize);
        rustix::ioctl::ioctl(object, request)?;
    }
    Ok(())
}
