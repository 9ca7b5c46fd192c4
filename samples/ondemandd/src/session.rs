// SPDX-License-Identifier: GPL-2.0

//! Getting hold of `/dev/cachefiles` and putting a cache in service with it.
//!
//! Lives here: opening or taking over the device, the settings, bind or restore, and what each
//! way of failing means to a person.  Never here: requests.

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use cachefiles_client::{CacheConfig, Device, Layout};
use rustix::io::Errno;
use thiserror::Error;
use tracing::info;

use crate::inherit;

/// Where the device comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is opened by its path.
    Path(PathBuf),
    /// It was left open for us under this number.
    Inherited(RawFd),
    /// An earlier run left it with systemd; if it did not, it is opened by its path.
    Stored(PathBuf),
}

/// How the device gets into service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Its settings are made and its cache is bound.
    Bind,
    /// Another daemon has done so and is gone: what it left unanswered is asked again.
    Restore,
}

/// What did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Opening the device.
    Open,
    /// Taking over the descriptor.
    Inherit,
    /// A setting.
    Configure,
    /// `bind ondemand`.
    Bind,
    /// `restore`.
    Restore,
}

/// A failure, with what to do about it.
#[derive(Debug, Error)]
pub struct SetupError {
    step: Step,
    device: String,
    dir: PathBuf,
    #[source]
    error: io::Error,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, dir) = (&self.device, self.dir.display());
        match self.step {
            Step::Open => write!(f, "cannot open {device}")?,
            Step::Inherit => write!(f, "cannot take over {device}")?,
            Step::Configure => write!(f, "the kernel refused a setting of the cache in {dir}")?,
            Step::Bind => write!(f, "cannot put the cache in {dir} in service")?,
            Step::Restore => write!(f, "cannot take over the cache behind {device}")?,
        }
        match hint(self.step, Errno::from_io_error(&self.error)) {
            "" => write!(f, " (`dmesg` may say more)"),
            hint => write!(f, ": {hint}"),
        }
    }
}

/// What an errno means at a step, and what to do.
fn hint(step: Step, errno: Option<Errno>) -> &'static str {
    use Step::{Bind, Configure, Inherit, Open, Restore};
    let Some(errno) = errno else { return "" };
    match (step, errno) {
        (Open, Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            "the module is not loaded; try `modprobe cachefiles`"
        }
        (Open, Errno::PERM | Errno::ACCESS) => {
            "this needs CAP_SYS_ADMIN and the device's permission; run it as root, \
             in the initial user namespace"
        }
        (Open, Errno::BUSY) => {
            "another daemon has it open, or one died and mounts still hold its cache; \
             `fuser -v /dev/cachefiles` shows the one, `grep erofs /proc/mounts` the other"
        }
        (Inherit, Errno::BADF) => "no such descriptor was left open for this process",
        (Configure, Errno::INVAL) => {
            "limits must keep 0 <= stop < cull < run < 100, and a security context must exist"
        }
        (Configure, Errno::EXIST) => {
            "this device has its settings already; to take over a bound cache say --restore"
        }
        (Configure | Bind | Restore, Errno::IO) => "the cache behind this device is dead",
        (Bind, Errno::NOENT) => "the directory does not exist",
        (Bind, Errno::NOTDIR) => "it is not a directory",
        (Bind, Errno::ROFS) => "its file system is mounted read-only",
        (Bind, Errno::OPNOTSUPP) => {
            "its file system cannot hold a cache: it wants extended attributes, O_TMPFILE, \
             and blocks no larger than a page; ext4, xfs and btrfs will do"
        }
        (Bind, Errno::BUSY) => {
            "a cache with this tag is in service, or this device is bound already; \
             choose another --tag"
        }
        (Bind, Errno::INVAL) => {
            "the kernel was built without CONFIG_CACHEFILES_ONDEMAND, or does not speak this \
             --protocol, or the directory is on an id-mapped mount"
        }
        (Bind, Errno::RANGE) => "limits must keep 0 <= stop < cull < run < 100",
        (Bind, Errno::PERM | Errno::ACCESS) => {
            "a security module forbids it; see --secctx and the audit log"
        }
        (Restore, Errno::OPNOTSUPP | Errno::INVAL) => {
            "it is not bound in on-demand mode; without --restore it would be set up anew"
        }
        _ => "",
    }
}

/// Gets the device; says also how it must be started.  What a device that is taken over was left
/// with is delivered again from now on.
pub fn obtain(
    origin: &Origin,
    config: &CacheConfig,
    start: Start,
    layout: Layout,
) -> Result<(Device, Start), SetupError> {
    let failed = |step, device: String| {
        move |error| SetupError {
            step,
            device,
            dir: config.dir.clone(),
            error,
        }
    };
    let open = |path: &Path| {
        Device::open_path(path).map_err(failed(Step::Open, path.display().to_string()))
    };
    let (device, name, start) = match origin {
        Origin::Path(path) => (open(path)?, path.display().to_string(), start),
        Origin::Inherited(fd) => {
            let name = format!("descriptor {fd}");
            let fd = inherit::duplicate(*fd).map_err(failed(Step::Inherit, name.clone()))?;
            (Device::from(fd), name, start)
        }
        Origin::Stored(path) => {
            let name = "the device kept by systemd".to_owned();
            match inherit::stored_device().map_err(failed(Step::Inherit, name.clone()))? {
                Some(fd) => (Device::from(fd), name, Start::Restore),
                None => (open(path)?, name, Start::Bind),
            }
        }
    };
    let device = device.with_layout(layout);
    match start {
        Start::Bind => Ok((device, start)),
        Start::Restore => match take_over(device) {
            Ok(device) => Ok((device, start)),
            Err(error) => Err(failed(Step::Restore, name)(error)),
        },
    }
}

/// Takes over what another daemon has bound, in the protocol that it has bound it with.
fn take_over(device: Device) -> io::Result<Device> {
    match device.restore() {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {}
        result => return result.map(|()| device),
    }
    let wanted = device.layout();
    let device = device.with_layout(match wanted {
        Layout::Mainline => Layout::V5,
        Layout::V5 => Layout::Mainline,
    });
    device.restore()?;
    info!(bound = %device.layout(), %wanted, "the cache speaks what it was bound with");
    Ok(device)
}

/// Puts the cache in service: from now on requests may come, or those of a cache taken over.
pub fn start(device: &Device, config: &CacheConfig, start: Start) -> Result<(), SetupError> {
    let failed = |step| {
        move |error| SetupError {
            step,
            device: "the device".to_owned(),
            dir: config.dir.clone(),
            error,
        }
    };
    match start {
        Start::Bind => {
            device.configure(config).map_err(failed(Step::Configure))?;
            device.bind_ondemand().map_err(failed(Step::Bind))?;
            let protocol = device.layout();
            info!(dir = %config.dir.display(), tag = config.tag, %protocol, "cache bound");
        }
        Start::Restore => {
            info!(protocol = %device.layout(), "cache taken over");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_says_what_to_do() {
        let config = CacheConfig::new("/var/cache/fscache");
        let origin = Origin::Path("/nonexistent/cachefiles".into());
        let error = obtain(&origin, &config, Start::Bind, Layout::Mainline).unwrap_err();
        assert!(error.to_string().contains("modprobe cachefiles"), "{error}");
    }

    #[test]
    fn a_missing_descriptor_is_named() {
        let config = CacheConfig::new("/");
        let error = obtain(
            &Origin::Inherited(987_654),
            &config,
            Start::Restore,
            Layout::V5,
        )
        .unwrap_err();
        assert!(error.to_string().contains("descriptor 987654"), "{error}");
        assert!(error.to_string().contains("left open"), "{error}");
    }

    /// A device that takes every command, as C's and a device of ours that speaks `layout` do.
    #[test]
    fn a_takeover_says_restore_with_its_protocol() {
        use std::os::fd::AsRawFd;
        use std::os::unix::net::UnixDatagram;
        let (ours, kernel) = UnixDatagram::pair().unwrap();
        let config = CacheConfig::new("/");
        for (layout, line) in [
            (Layout::Mainline, "restore mainline"),
            (Layout::V5, "restore v5"),
        ] {
            let origin = Origin::Inherited(ours.as_raw_fd());
            let (device, start) = obtain(&origin, &config, Start::Restore, layout).unwrap();
            assert_eq!((device.layout(), start), (layout, Start::Restore));
            let mut buf = [0; 64];
            let len = kernel.recv(&mut buf).unwrap();
            assert_eq!(&buf[..len], line.as_bytes());
        }
    }
}
