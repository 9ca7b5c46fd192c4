// SPDX-License-Identifier: GPL-2.0

//! What the ordinary mode has cached is there after a reboot: the cases of the groups `reboot_fill`
//! and `reboot_read` that have NFS and 9P.  NFS's files are on the disk that stays, too, and 9P's
//! are not in the VM.

use super::netfs_scene::{publish, read_all};
use crate::{
    backing::Backing,
    cachefilesd::Keeper,
    kernel::Module,
    lab::Lab,
    remote::{Kind, Remote},
};
use anyhow::{Context, Result};
use rustix::mount::MountFlags;
use std::{fs, path::Path};

/// Those that have a cache of their own.
const KINDS: [Kind; 3] = [Kind::Nfs(4), Kind::Nfs(3), Kind::NineP];

fn disk(lab: &Lab) -> Result<Backing> {
    Backing::mount(lab.base(), &lab.disk()?, "ext4", MountFlags::empty(), "")
}

/// Where the cache of this kind is.
fn place(disk: &Path, kind: Kind) -> std::path::PathBuf {
    disk.join(format!("ordinary-{kind:?}"))
}

fn reads(lab: &Lab, disk: &Path, kind: Kind, fills: bool) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let remote = match kind {
        Kind::Nfs(version) => Remote::over(lab, version, &disk.join("server"))?,
        // What was published stays.
        Kind::NineP if !fills => Remote::of_before(lab)?,
        Kind::NineP => Remote::new(lab, kind)?,
    };
    // NFS's files are the same ones, whichever the version.
    if fills && kind != Kind::Nfs(3) {
        publish(&remote, 1)?;
    }
    let mut daemon = Keeper::start(&place(disk, kind))?;
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
    fs::create_dir(disk.dir().join("server"))?;
    for kind in KINDS {
        fs::create_dir(place(disk.dir(), kind))?;
        reads(lab, disk.dir(), kind, true).with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

/// The server is asked for nothing.
pub(super) fn after_reboot(lab: &Lab) -> Result<()> {
    let disk = disk(lab)?;
    for kind in KINDS {
        reads(lab, disk.dir(), kind, false).with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}
