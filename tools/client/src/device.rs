// SPDX-License-Identifier: GPL-2.0

//! The device: one open file is one session of a daemon and one cache.
//!
//! Lives here: opening it, writing commands, reading requests, waiting.  Never here: an answer
//! that nobody asked for, or a second try of a command.

use crate::{
    protocol::{
        command::Verb,
        message::{Layout, MSG_MAX},
    },
    CacheConfig, Request,
};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Where the device is.
pub const DEVICE_PATH: &str = "/dev/cachefiles";

/// What a plain `bind ondemand` means to a module that speaks both protocols.  C's has no such
/// parameter.
const PROTOCOL_PARAMETER: &str = "/sys/module/cachefiles/parameters/ondemand_protocol";

/// An open `/dev/cachefiles`, and the protocol that is spoken through it: mainline, unless
/// [`with_layout`](Device::with_layout) says otherwise.
///
/// All methods take `&self`, and several threads may use one device at once; a request goes to
/// exactly one of those that read.
#[derive(Debug)]
pub struct Device {
    /// Objects of v5 are answered through it too, as long as it is open.
    fd: Arc<OwnedFd>,
    layout: Layout,
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
        Ok(fd.into())
    }

    /// The same device, spoken to in this protocol: before it is bound, or where another daemon has
    /// bound it with this one.
    #[must_use]
    pub fn with_layout(self, layout: Layout) -> Device {
        Device { layout, ..self }
    }

    /// The protocol that is spoken.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Writes one command: exactly these bytes, in one write(2).
    ///
    /// # Errors
    ///
    /// What the command failed with.
    pub fn command(&self, line: &[u8]) -> io::Result<()> {
        write_line(&self.fd, line)
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

    /// Puts the cache in service, in on-demand mode and with our protocol.
    ///
    /// # Errors
    ///
    /// Those of `bind`: the kernel's log says in words what is wrong.  EINVAL also if the module
    /// does not know the protocol.
    pub fn bind_ondemand(&self) -> io::Result<()> {
        let parameter = fs::read_to_string(PROTOCOL_PARAMETER).ok();
        self.command(bind_line(self.layout, parameter.as_deref()))
    }

    /// Answers an OPEN in whichever protocol, with the object's size in bytes or an error for
    /// whoever mounts.  v5 has no words for an error, nor for a size of 0: both refuse the object,
    /// with EINVAL.
    ///
    /// # Errors
    ///
    /// EINVAL if no OPEN with this id is waiting.
    pub fn open_reply(&self, msg_id: u32, reply: Result<u64, Errno>) -> io::Result<()> {
        match self.layout {
            Layout::Mainline => self.copen(msg_id, reply),
            Layout::V5 => self.cinit(msg_id, reply.ok()),
        }
    }

    /// Mainline's answer to an OPEN.
    ///
    /// # Errors
    ///
    /// EINVAL if no OPEN with this id is waiting, EOPNOTSUPP if the cache is bound with v5.
    pub fn copen(&self, msg_id: u32, reply: Result<u64, Errno>) -> io::Result<()> {
        let verb = Verb::Copen;
        let line = match reply {
            Ok(size) => format!("{verb} {msg_id},{size}"),
            Err(error) => format!("{verb} {msg_id},-{}", error.raw_os_error()),
        };
        self.command(line.as_bytes())
    }

    /// v5's answer to an OPEN; one without a size refuses the object.
    ///
    /// # Errors
    ///
    /// EINVAL if no OPEN with this id is waiting, EOPNOTSUPP if the cache is bound with mainline.
    pub fn cinit(&self, msg_id: u32, size: Option<u64>) -> io::Result<()> {
        let verb = Verb::Cinit;
        let line = match size {
            Some(size) => format!("{verb} {msg_id},{size}"),
            None => format!("{verb} {msg_id}"),
        };
        self.command(line.as_bytes())
    }

    /// v5's answer to a READ, also of an object whose fd we do not have; where we do, it is
    /// [`ObjectFd::complete_read`](crate::ObjectFd::complete_read) that serves both protocols.
    ///
    /// # Errors
    ///
    /// EINVAL if no READ with this id is waiting, EOPNOTSUPP if the cache is bound with mainline.
    pub fn cread(&self, msg_id: u32) -> io::Result<()> {
        self.command(&cread_line(msg_id))
    }

    /// Has all requests that were read but not answered given out again, after a daemon died and
    /// another took over its device.
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP if not in on-demand mode, or bound with the other protocol: nothing has happened
    /// then, and [`with_layout`](Self::with_layout) helps.  C's module has no other.
    pub fn restore(&self) -> io::Result<()> {
        self.command(format!("{} {}", Verb::Restore, self.layout).as_bytes())
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
                Ok(len) => {
                    let bytes = buf.get(..len).unwrap_or(&buf);
                    Request::receive(&self.fd, self.layout, bytes).map(Some)
                }
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
        Device {
            fd: Arc::new(fd),
            layout: Layout::Mainline,
        }
    }
}

/// Writes one command to a device.
fn write_line(device: impl AsFd, line: &[u8]) -> io::Result<()> {
    match rustix::io::write(device, line)? {
        written if written == line.len() => Ok(()),
        written => Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("{written} of the {} bytes of a command taken", line.len()),
        )),
    }
}

/// v5's answer to a READ, through the device that it came from.
pub(crate) fn cread(device: impl AsFd, msg_id: u32) -> io::Result<()> {
    write_line(device, &cread_line(msg_id))
}

fn cread_line(msg_id: u32) -> Vec<u8> {
    format!("{} {msg_id}", Verb::Cread).into()
}

/// What binds a cache with this protocol.  A plain `bind ondemand` is what every module understands
/// as mainline, except one that was told to take it for v5.
fn bind_line(layout: Layout, parameter: Option<&str>) -> &'static [u8] {
    match (layout, parameter.map(str::trim_end)) {
        (Layout::Mainline, None | Some("mainline")) => b"bind ondemand",
        (Layout::Mainline, Some(_)) => b"bind ondemand mainline",
        (Layout::V5, _) => b"bind ondemand v5",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mainline_is_named_only_where_a_plain_bind_means_another() {
        for (parameter, line) in [
            (None, &b"bind ondemand"[..]),
            (Some("mainline\n"), b"bind ondemand"),
            (Some("v5\n"), b"bind ondemand mainline"),
        ] {
            assert_eq!(bind_line(Layout::Mainline, parameter), line);
            assert_eq!(bind_line(Layout::V5, parameter), b"bind ondemand v5");
        }
    }
}
