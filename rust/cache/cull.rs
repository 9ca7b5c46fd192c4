// SPDX-License-Identifier: GPL-2.0

//! Culling: what the `cull` and `inuse` commands do to a name in the caller's directory.

use super::directory::bury;
use super::Cache;
use crate::sys::dentry::{Dentry, Dir};
use crate::sys::errno::ESTALE;
use crate::sys::fscache::Count;
use crate::sys::inode::InUse;
use crate::sys::log;
use crate::sys::mount;
use crate::sys::trace::Killed;
use kernel::prelude::*;

impl Cache {
    /// Removes `name` from the current directory unless it is in use (`cachefiles_cull()`).
    pub(crate) fn cull(&self, name: &[u8]) -> Result {
        let dir = current_dir(self)?;
        let _acting = self.disk.cred.assume();
        let victim = self.find_victim(&dir, name)?;
        // From here on no lookup takes the file into use; one that comes when the mark is gone sees
        // that the name is gone too.
        let in_use = InUse::mark(victim.clone(), None)?;
        bury(&self.disk, &self.graveyard, &dir, &victim, Killed::Culled).map_err(|error| {
            match error {
                ENOENT => ESTALE,
                ENOMEM | ESTALE | EROFS => error,
                error => {
                    log::error!("Internal error: {}", error.to_errno());
                    EIO
                }
            }
        })?;
        drop(in_use);
        Count::Culled.bump();
        Ok(())
    }

    /// Whether `name` in the current directory may be culled: `EBUSY` if it is in use
    /// (`cachefiles_check_in_use()`).
    pub(crate) fn check_in_use(&self, name: &[u8]) -> Result {
        let dir = current_dir(self)?;
        let _acting = self.disk.cred.assume();
        self.find_victim(&dir, name).map(|_| ())
    }

    fn find_victim(&self, dir: &Dir, name: &[u8]) -> Result<Dentry> {
        // Without the directory's lock, which a read-only file system does not give.
        let victim = dir.find(name).map_err(|error| match error {
            ENOENT if dir.is_unhashed() => ESTALE,
            ENOENT => ENOENT,
            EIO => {
                self.disk.io_error(format_args!("Lookup failed"));
                EIO
            }
            ENOMEM => ENOMEM,
            error => {
                log::error!("Internal error: {}", error.to_errno());
                EIO
            }
        })?;
        if victim.inode().is_in_use() {
            return Err(EBUSY);
        }
        Ok(victim)
    }
}

/// The caller's directory, which must be on the cache's file system.
fn current_dir(cache: &Cache) -> Result<Dir> {
    let dir = mount::current_dir()?;
    if !dir.mount().is_same_fs(&cache.disk.mnt) {
        log::warn_limited!("cull and inuse work in the cache's own file system only");
        return Err(EXDEV);
    }
    Ok(dir)
}
