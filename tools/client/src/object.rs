// SPDX-License-Identifier: GPL-2.0

//! The anonymous fd of an object, through which a daemon fills its cache file.
//!
//! Lives here: the calls that this fd takes.  Never here: what is written.

use crate::{device, raw};
use rustix::io::Errno;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Weak,
};

/// Where to [`ObjectFd::seek`]; it has `Data` and `Hole`.
pub use rustix::fs::SeekFrom;

/// The anonymous fd that came with an OPEN.
///
/// Dropping it closes it, and tells the kernel that the object is not served by us any more: a
/// later miss then begins with another OPEN.
#[derive(Debug)]
pub struct ObjectFd {
    fd: OwnedFd,
    answer: Answer,
}

/// How a READ of the object is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Through the fd, in mainline.
    Ioctl,
    /// Through the device, in v5, for as long as that is open.
    Cread(Weak<OwnedFd>),
}

impl ObjectFd {
    /// An fd that has come with an OPEN.
    pub(crate) fn new(fd: OwnedFd, answer: Answer) -> ObjectFd {
        ObjectFd { fd, answer }
    }

    /// Writes at an offset, and no more than the kernel takes in one go.
    ///
    /// # Errors
    ///
    /// Those of pwrite(2); ENOBUFS if the object is gone, ENOSPC if the cache is full.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwrite(&self.fd, data, offset)?)
    }

    /// Writes all of the data at an offset.
    ///
    /// # Errors
    ///
    /// As [`write_at`](Self::write_at); some of the data may have been written then.
    pub fn write_all_at(&self, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            let written = match rustix::io::pwrite(&self.fd, data, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            data = data.get(written..).unwrap_or(&[]);
            offset += written as u64;
        }
        Ok(())
    }

    /// Writes at the fd's position and moves it.
    ///
    /// # Errors
    ///
    /// As [`write_at`](Self::write_at).
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.fd, data)?)
    }

    /// Asks where data or holes are, or moves the position.
    ///
    /// # Errors
    ///
    /// Those of lseek(2): ENXIO if there is no data behind the offset.
    pub fn seek(&self, to: SeekFrom) -> io::Result<u64> {
        Ok(rustix::fs::seek(&self.fd, to)?)
    }

    /// Answers the READ with this id: the data are written, or never will be.  The reader looks
    /// again, and gets an error where they are still missing.  In v5 this is a command to the
    /// device, which does not say through whose fd; in mainline it is an ioctl of this one.
    ///
    /// # Errors
    ///
    /// EINVAL if no READ (in mainline: of this object) with this id is waiting; in v5 EBADF if the
    /// [`Device`](crate::Device) is closed.
    pub fn complete_read(&self, msg_id: u32) -> io::Result<()> {
        match &self.answer {
            Answer::Ioctl => raw::read_complete(&self.fd, msg_id),
            Answer::Cread(device) => match device.upgrade() {
                Some(device) => device::cread(&*device, msg_id),
                None => Err(Errno::BADF.into()),
            },
        }
    }
}

impl AsFd for ObjectFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An fd that has come by another way; its READs are answered as in mainline.
impl From<OwnedFd> for ObjectFd {
    fn from(fd: OwnedFd) -> ObjectFd {
        ObjectFd::new(fd, Answer::Ioctl)
    }
}

impl From<ObjectFd> for OwnedFd {
    fn from(object: ObjectFd) -> OwnedFd {
        object.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixDatagram, sync::Arc};

    /// v5: the answer is a line to the device, and there is none once that is closed.
    #[test]
    fn a_read_of_v5_is_answered_through_its_device() {
        let (device, kernel) = UnixDatagram::pair().unwrap();
        let device = Arc::new(OwnedFd::from(device));
        let fd = tempfile::tempfile().unwrap().into();
        let object = ObjectFd::new(fd, Answer::Cread(Arc::downgrade(&device)));
        object.complete_read(17).unwrap();
        let mut buf = [0; 64];
        let len = kernel.recv(&mut buf).unwrap();
        assert_eq!(&buf[..len], b"cread 17");
        drop(device);
        let error = object.complete_read(18).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::BADF.raw_os_error()));
    }
}
