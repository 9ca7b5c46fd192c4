// SPDX-License-Identifier: GPL-2.0

//! File descriptors that the process that started us left open for us, and messages to it.
//!
//! Lives here: taking over a descriptor by its number, systemd's LISTEN_FDS and NOTIFY_SOCKET, and
//! the line that says that we are ready.  Never here: what the descriptors are used for.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::process;

use rustix::io::Errno;
use rustix::process::{getpid, pidfd_getfd, pidfd_open, PidfdFlags, PidfdGetfdFlags};
use sd_notify::NotifyState;
use tracing::{debug, warn};

/// The name under which systemd keeps the device for us.
const STORED_DEVICE: &str = "cachefiles";

/// A descriptor of our own for the file that has this number.
///
/// It is a duplicate, which the kernel makes for a process that may debug this one, as every process
/// may itself: so a wrong number is an error and never closes another file.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(Errno::BADF.into());
    }
    let me = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(me, fd, PidfdGetfdFlags::empty())?)
}

/// The device that an earlier run of this service left with systemd.
pub fn stored_device() -> io::Result<Option<OwnedFd>> {
    // What a parent was given and has passed on is none of ours; sd-notify would complain that
    // there are names and no descriptors.
    let addressee = env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok());
    if addressee != Some(process::id()) {
        return Ok(None);
    }
    let mut fds = sd_notify::listen_fds_with_names(false)?;
    match fds.find(|(_, name)| name == STORED_DEVICE) {
        Some((fd, _)) => duplicate(fd).map(Some),
        None => Ok(None),
    }
}

/// Has systemd keep the device open over a restart of ours.
pub fn store_device(device: impl AsFd) -> io::Result<()> {
    let state = [NotifyState::FdStore, NotifyState::FdName(STORED_DEVICE)];
    sd_notify::notify_with_fds(false, &state, &[device.as_fd()])
}

/// Says that mounts work from now on: to systemd if it listens, and as a line on `fd`.
pub fn announce_ready(fd: Option<RawFd>) -> io::Result<()> {
    tell(&[NotifyState::Ready]);
    match fd {
        Some(fd) => File::from(duplicate(fd)?).write_all(b"ready\n"),
        None => Ok(()),
    }
}

/// Says that we are on the way out.
pub fn announce_stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    match sd_notify::notify(false, state) {
        Ok(()) => debug!(?state, "told systemd, if it listens"),
        Err(error) => warn!(%error, "cannot write to NOTIFY_SOCKET"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn ready_is_one_line_on_the_given_descriptor() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        announce_ready(Some(writer.as_raw_fd())).unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ready\n");
    }

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        assert!(duplicate(1_000_000).is_err());
        assert!(duplicate(-1).is_err());
    }
}
