// SPDX-License-Identifier: GPL-2.0

//! What the ordinary mode has cached is there after a reboot: the cases of the groups `reboot_fill`
//! and `reboot_read` that have NFS.  The server's files are on the disk that stays, too.

use super::netfs_scene::{publish, read_all};
use crate::{backing::Backing, cachefilesd::Keeper, kernel::Module, lab::Lab, remote::Remote};
use anyhow::Result;
use rustix::mount::MountFlags;
use std::{fs, path::Path};

fn disk(lab: &Lab) -> Result<Backing> {
    Backing::mount(lab.base(), &lab.disk()?, "ext4", MountFlags::empty(), "")
}

fn reads(lab: &Lab, disk: &Path, fills: bool) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let cache = disk.join("ordinary");
    let remote = Remote::over(lab, 4, &disk.join("server"))?;
    if fills {
        publish(&remote, 1)?;
    }
    let mut daemon = Keeper::start(&cache)?;
    let mut client = remote.mount()?;
    let reading = read_all(&client, 1)?;
    match fills {
        true => reading.is_stored()?,
        false => reading.is_from_cache()?,
    }
    client.unmount()?;
    daemon.stop()
}

/// On the disk that `fill` has made.
pub(super) fn fill(lab: &Lab) -> Result<()> {
    let disk = disk(lab)?;
    for dir in ["server", "ordinary"] {
        fs::create_dir(disk.dir().join(dir))?;
    }
    reads(lab, disk.dir(), true)
}

/// The server is asked for nothing.
pub(super) fn after_reboot(lab: &Lab) -> Result<()> {
    let disk = disk(lab)?;
    reads(lab, disk.dir(), false)
}
