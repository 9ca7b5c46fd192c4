// SPDX-License-Identifier: GPL-2.0

//! The file systems that caches are put on.
//!
//! Lives here: making, mounting and unmounting them.  Never here: what is in a cache.

use crate::{
    file_system::{chosen, EXT4},
    kernel::run,
    patience::SOON,
};
use anyhow::{Context, Result};
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};
use std::{
    ffi::CString,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// A mounted backing file system; dropping it unmounts it.
pub struct Backing {
    device: String,
    dir: PathBuf,
    mounted: bool,
    // Goes last.
    below: Option<Box<Backing>>,
}

impl Backing {
    /// A fresh file system for a cache, of the kind that was asked for, of this size at least on the RAM
    /// disk with this number.
    pub fn fresh(base: &Path, number: u32, mib: u64) -> Result<Backing> {
        let device = ram_disk(number)?;
        chosen().make(&device, Some(mib))?;
        Backing::of_cache(base, &device, "")
    }

    /// The file system for a cache that is on a device, of the kind that was asked for, with more
    /// options.
    pub fn of_cache(base: &Path, device: &str, more: &str) -> Result<Backing> {
        let fs = chosen();
        let both = [fs.options, more]
            .into_iter()
            .filter(|words| !words.is_empty());
        let options = both.collect::<Vec<_>>().join(",");
        let lower = Backing::mount(base, device, fs.kind(), MountFlags::empty(), &options)?;
        match fs.is_below {
            true => Backing::over(base, lower),
            false => Ok(lower),
        }
    }

    /// An overlay that writes to this file system.
    fn over(base: &Path, below: Backing) -> Result<Backing> {
        let parts = ["lower", "upper", "work"].map(|name| below.dir.join(name));
        for part in &parts {
            fs::create_dir_all(part)?;
        }
        let [lower, upper, work] = parts.map(|part| part.display().to_string());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let mut over = Backing::mount(base, "overlay", "overlay", MountFlags::empty(), &options)?;
        over.below = Some(Box::new(below));
        Ok(over)
    }

    /// A fresh ext4 of this size on the RAM disk with this number.
    pub fn ext4(base: &Path, number: u32, mib: u64) -> Result<Backing> {
        let device = ram_disk(number)?;
        EXT4.make(&device, Some(mib))?;
        Backing::mount(base, &device, "ext4", MountFlags::empty(), "")
    }

    /// A fresh ext4 on a device.
    pub fn ext4_on(base: &Path, device: &str) -> Result<Backing> {
        EXT4.make(device, None)?;
        Backing::mount(base, device, "ext4", MountFlags::empty(), "")
    }

    /// Mounts what is on a device.
    pub fn mount(
        base: &Path,
        device: &str,
        kind: &str,
        flags: MountFlags,
        options: &str,
    ) -> Result<Backing> {
        let dir = base.join(format!("backing-{}", device.replace('/', "-")));
        fs::create_dir_all(&dir)?;
        let options = CString::new(options)?;
        mount(device, &dir, kind, flags, Some(options.as_c_str()))
            .with_context(|| format!("mounting {device} ({kind})"))?;
        Ok(Backing {
            device: device.to_owned(),
            dir,
            mounted: true,
            below: None,
        })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The device it is on.
    pub fn device(&self) -> &str {
        self.below
            .as_ref()
            .map_or(&self.device, |below| below.device())
    }

    /// Unmounts it, which fails if anything of the cache still holds it.
    pub fn unmount(&mut self) -> Result<()> {
        // The last reference may be in the hands of a work item that is just ending.
        let deadline = Instant::now() + *SOON;
        loop {
            match unmount(&self.dir, UnmountFlags::empty()) {
                Ok(()) => break,
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("unmounting the backing file system {}", self.dir.display())
                    });
                }
            }
        }
        self.mounted = false;
        self.below.as_mut().map_or(Ok(()), |below| below.unmount())
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if self.mounted {
            if let Err(error) = self.unmount() {
                crate::lab::cleanup_failed(&format!("{error:#}"));
            }
        }
    }
}

/// A file system that takes no change until this is dropped; by then all of it is in its place on disk.
pub struct Frozen(String);

impl Frozen {
    /// That of this directory.
    pub fn new(dir: &Path) -> Result<Frozen> {
        let dir = dir.to_string_lossy().into_owned();
        run("fsfreeze", &["-f", &dir])?;
        Ok(Frozen(dir))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = run("fsfreeze", &["-u", &self.0]) {
            crate::lab::cleanup_failed(&format!("{error:#}"));
        }
    }
}

/// The path of a RAM disk.
pub fn ram_disk(number: u32) -> Result<String> {
    let device = format!("/dev/ram{number}");
    if !Path::new(&device).exists() {
        run("modprobe", &["brd"])?;
    }
    Ok(device)
}
