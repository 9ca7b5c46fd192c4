// SPDX-License-Identifier: GPL-2.0

//! A volume: a directory of the cache with its 256 fan-out directories.

use super::coherency;
use super::directory::{bury, Directory};
use super::key::{fanout_dir, volume_dir, NAME_MAX};
use super::Cache;
use crate::sys::errno::ESTALE;
use crate::sys::fscache::{VolumeCookie, VolumeLink};
use crate::sys::trace::Killed;
use core::sync::atomic::AtomicBool;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Fan-out directories in a volume.
const FANOUT: u32 = 256;

/// A volume in service (`struct cachefiles_volume`).
pub(crate) struct Volume {
    /// The netfs's key for it.
    pub(crate) key: KVec<u8>,
    /// Whether its service has been ended, which happens once.
    pub(super) withdrawn: AtomicBool,
    /// The way to FS-Cache's record.
    pub(crate) link: Arc<VolumeLink>,
    fanout: KVec<Directory>,
    directory: Directory,
    /// The cache it is in. Last, so that its disk outlives the directories.
    pub(crate) cache: Arc<Cache>,
}

impl Volume {
    /// Opens the volume's directories, or makes them (`cachefiles_acquire_volume()`).
    pub(crate) fn acquire(
        cache: &Arc<Cache>,
        cookie: &VolumeCookie<'_>,
        link: Arc<VolumeLink>,
    ) -> Result<Arc<Self>> {
        let mut key = KVec::with_capacity(cookie.key().len(), GFP_KERNEL)?;
        key.extend_from_slice(cookie.key(), GFP_KERNEL)?;
        let mut coherency = KVec::new();
        cookie.copy_coherency(&mut coherency)?;

        let disk = &cache.disk;
        let _acting = disk.cred.assume();
        let mut buffer = [0; NAME_MAX];
        let name = volume_dir(&key, &mut buffer).map_err(|e| Error::from_errno(-e.errno()))?;
        let directory = loop {
            let (directory, is_new) = Directory::open(disk, cache.store.dentry(), name)?;
            if is_new {
                coherency::set_volume(disk, cookie.debug_id(), directory.dentry(), &coherency)?;
                break directory;
            }
            match coherency::check_volume(disk, cookie.debug_id(), directory.dentry(), &coherency) {
                Ok(()) => break directory,
                // It was made for another version of what the netfs has.
                Err(ESTALE) => bury(
                    disk,
                    &cache.graveyard,
                    cache.store.dentry(),
                    directory.dentry(),
                    Killed::VolumeWeird,
                )?,
                Err(error) => return Err(error),
            }
        };
        let mut fanout = KVec::with_capacity(FANOUT as usize, GFP_KERNEL)?;
        for hash in 0..=u8::MAX {
            let (fan, _) = Directory::open(disk, directory.dentry(), &fanout_dir(hash))?;
            fanout.push(fan, GFP_KERNEL)?;
        }
        let volume = Volume {
            key,
            withdrawn: AtomicBool::new(false),
            link,
            fanout,
            directory,
            cache: cache.clone(),
        };
        Ok(Arc::new(volume, GFP_KERNEL)?)
    }

    /// The directory that holds files of this hash.
    pub(crate) fn fan(&self, hash: u32) -> Result<&Directory> {
        self.fanout.get((hash % FANOUT) as usize).ok_or(EINVAL)
    }

    /// Stores the coherency data that the netfs has now.
    pub(crate) fn commit(&self, cookie: &VolumeCookie<'_>) -> Result {
        let mut data = KVec::new();
        cookie.copy_coherency(&mut data)?;
        coherency::set_volume(
            &self.cache.disk,
            cookie.debug_id(),
            self.directory.dentry(),
            &data,
        )
    }
}
