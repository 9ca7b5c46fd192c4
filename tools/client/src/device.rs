// SPDX-License-Identifier: GPL-2.0

//! The device: one open file is one session of a daemon and one cache.
//!
//! Lives here: opening it, writing commands, reading requests, waiting.  Never here: an answer
//! that nobody asked for, or a second try of a command.

use crate::{
    protocol::{command::Verb, message::MSG_MAX},
    CacheConfig, Request,
};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// Where the device is.
pub const DEVICE_PATH: &str = "/dev/cachefiles";

/// An open `/dev/cachefiles`.
///
/// All methods take `&self`, and several threads may use one device at once; a request goes to
/// exactly one of those that read.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
}

impl Device {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// Those of open(2): EBUSY if it is open already, EPERM without CAP_SYS_ADMIN, ENOENT if the
    /// module is not loaded.
    pub fn open() -> io::Result<Device> {
        Device::open_path(Path::new(DEVICE_PATH))
    }

    /// Opens the device under another name.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_path(path: &Path) -> io::Result<Device> {
        // Reads never block in the driver, so O_NONBLOCK would change nothing.
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Device { fd })
    }

    /// Writes one command: exactly these bytes, in one write(2).
    ///
    /// # Errors
    ///
    /// What the command failed with.
    pub fn command(&self, line: &[u8]) -> io::Result<()> {
        match rustix::io::write(&self.fd, line)? {
            written if written == line.len() => Ok(()),
            written => Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("{written} of the {} bytes of a command taken", line.len()),
            )),
        }
    }

    /// Sends all settings: directory, tag, limits, security context.
    ///
    /// # Errors
    ///
    /// That of the first setting refused.
    pub fn configure(&self, config: &CacheConfig) -> io::Result<()> {
        config
            .commands()
            .iter()
            .try_for_each(|line| self.command(line))
    }

    /// Puts the cache in service, in on-demand mode.
    ///
    /// # Errors
    ///
    /// Those of `bind`: the kernel's log says in words what is wrong.
    pub fn bind_ondemand(&self) -> io::Result<()> {
        self.command(b"bind ondemand")
    }

    /// Answers an OPEN, with the object's size in bytes or an error for whoever mounts.
    ///
    /// # Errors
    ///
    /// EINVAL if no OPEN with this id is waiting.
    pub fn copen(&self, msg_id: u32, reply: Result<u64, Errno>) -> io::Result<()> {
        let verb = Verb::Copen;
        let line = match reply {
            Ok(size) => format!("{verb} {msg_id},{size}"),
            Err(error) => format!("{verb} {msg_id},-{}", error.raw_os_error()),
        };
        self.command(line.as_bytes())
    }

    /// Has all requests that were read but not answered given out again, after a daemon died and
    /// another took over its device.
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP if not in on-demand mode.
    pub fn restore(&self) -> io::Result<()> {
        self.command(b"restore")
    }

    /// One read(2).
    ///
    /// # Errors
    ///
    /// EMSGSIZE if the next request does not fit; it stays the next.
    pub fn read_bytes(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buf)?)
    }

    /// Takes the next request, if there is one.  This never waits.
    ///
    /// # Errors
    ///
    /// Those of read(2), and `InvalidData` for what is no message.
    pub fn next_request(&self) -> io::Result<Option<Request>> {
        let mut buf = [0; MSG_MAX];
        loop {
            return match rustix::io::read(&self.fd, &mut buf) {
                Ok(0) => Ok(None),
                Ok(len) => Request::receive(self.as_fd(), buf.get(..len).unwrap_or(&buf)).map(Some),
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Waits until there is something to read, for ever without a time-out; says whether there
    /// is.  A signal does not end the wait.
    ///
    /// # Errors
    ///
    /// Those of poll(2).
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        // A time beyond what the clock can hold is for ever.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()))
                .and_then(|left| Timespec::try_from(left).ok());
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                // Errors are readable too: it is the read that tells them.
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Device {
    fn from(fd: OwnedFd) -> Device {
        Device { fd }
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> OwnedFd {
        device.fd
    }
}
