// SPDX-License-Identifier: GPL-2.0

//! EROFS mounts over fscache.
//!
//! Lives here: mounting by fsid and unmounting.  Never here: what is in an image.

use anyhow::{Context, Result};
use cachefiles_client::Errno;
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};
use std::{
    ffi::CString,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A mounted image; dropping it unmounts it.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    mounted: bool,
}

/// A thread that mounts.
pub type Mounting = JoinHandle<Result<Mount, Errno>>;

/// `mount -t erofs -o fsid=FSID[,MORE]` and nothing said about an error.
pub fn try_mount(base: &Path, fsid: &[u8], more: &[u8]) -> Result<Mount, Errno> {
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    let dir = base.join(format!("mnt-{}-{number}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|_| Errno::IO)?;
    let separator: &[u8] = if more.is_empty() { b"" } else { b"," };
    let options = [b"fsid=", fsid, separator, more].concat();
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    match mount(
        "none",
        &dir,
        "erofs",
        MountFlags::RDONLY,
        Some(options.as_c_str()),
    ) {
        Ok(()) => Ok(Mount { dir, mounted: true }),
        Err(error) => {
            let _ = fs::remove_dir(&dir);
            Err(error)
        }
    }
}

impl Mount {
    /// Mounts the image with this fsid.
    pub fn new(base: &Path, fsid: &str) -> Result<Mount> {
        Mount::with(base, fsid, "")
    }

    /// The same with more mount options.
    pub fn with(base: &Path, fsid: &str, more: &str) -> Result<Mount> {
        try_mount(base, fsid.as_bytes(), more.as_bytes())
            .with_context(|| format!("mounting fsid={fsid},{more}"))
    }

    /// Mounts in another thread, for a test that answers the requests itself.
    pub fn in_background(base: &Path, fsid: &str) -> Mounting {
        let (base, fsid) = (base.to_owned(), fsid.as_bytes().to_owned());
        thread::spawn(move || try_mount(&base, &fsid, b""))
    }

    /// The root of the image.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of the image.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Unmounts it.
    pub fn unmount(&mut self) -> Result<()> {
        unmount(&self.dir, UnmountFlags::empty())
            .with_context(|| format!("unmounting {}", self.dir.display()))?;
        self.mounted = false;
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }

    /// Takes it out of sight; it is unmounted when its last file is closed.
    pub fn detach(mut self) -> Result<(), Errno> {
        unmount(&self.dir, UnmountFlags::DETACH)?;
        self.mounted = false;
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            if let Err(error) = self.unmount() {
                crate::lab::cleanup_failed(&format!("{error:#}"));
            }
        }
    }
}
