// SPDX-License-Identifier: GPL-2.0

//! A volume: a directory of the cache with its 256 fan-out directories.

use super::coherency;
use super::directory::{bury, Directory};
use super::key::{fanout_dir, volume_dir, NAME_MAX};
use super::Cache;
use crate::sys::errno::ESTALE;
use crate::sys::fscache::VolumeCookie;
use crate::sys::trace::Killed;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};

/// Fan-out directories in a volume.
const FANOUT: u32 = 256;

/// A volume in service (`struct cachefiles_volume`).
#[pin_data]
pub(crate) struct Volume {
    /// The netfs's key for it.
    pub(crate) key: KVec<u8>,
    /// Taken before the lock of any directory.
    #[pin]
    directories: Mutex<Option<Arc<Directories>>>,
    /// The cache it is in. Last, so that its disk outlives the directories.
    pub(crate) cache: Arc<Cache>,
}

/// Where the files of a volume are. Each owner has the volume as well, and drops it later.
pub(crate) struct Directories {
    fanout: KVec<Directory>,
    directory: Directory,
}

impl Volume {
    /// A volume whose directories are not opened yet (`cachefiles_acquire_volume()`).
    pub(crate) fn new(cache: &Arc<Cache>, cookie: &VolumeCookie<'_>) -> Result<Arc<Self>> {
        let mut key = KVec::with_capacity(cookie.key().len(), GFP_KERNEL)?;
        key.extend_from_slice(cookie.key(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Volume {
                key,
                directories <- new_mutex!(None, "Volume::directories"),
                cache: cache.clone(),
            }),
            GFP_KERNEL,
        )
    }

    /// Its directories, which are opened or made the first time. After an error, as for want of
    /// space, the next call tries again. `EIO` if the cache has lost its daemon or its disk.
    ///
    /// C has FS-Cache try again, which has no volume until then. But FS-Cache of 6.12 frees a cookie that
    /// is still in its hash if the cookie has no volume, and is invalidated while it is looked up: the
    /// access that the invalidation has begun never ends (`fscache_perform_lookup()`).
    pub(crate) fn directories(&self, cookie: &VolumeCookie<'_>) -> Result<Arc<Directories>> {
        if self.cache.disk.refuses() {
            return Err(EIO);
        }
        let mut known = self.directories.lock();
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let opened = Directories::open(&self.cache, &self.key, cookie)?;
        Ok(known.insert(Arc::new(opened, GFP_KERNEL)?).clone())
    }

    /// Stores the coherency data that the netfs has now, if there is a directory to store it with.
    pub(crate) fn commit(&self, cookie: &VolumeCookie<'_>) -> Result {
        let known = self.directories.lock().clone();
        let Some(known) = known else { return Ok(()) };
        let mut data = KVec::new();
        cookie.copy_coherency(&mut data)?;
        coherency::set_volume(
            &self.cache.disk,
            cookie.debug_id(),
            known.directory.dir(),
            &data,
        )
    }
}

impl Directories {
    /// Opens the directories of the volume of this key, or makes them.
    fn open(cache: &Cache, key: &[u8], cookie: &VolumeCookie<'_>) -> Result<Self> {
        let mut coherency = KVec::new();
        cookie.copy_coherency(&mut coherency)?;
        let disk = &cache.disk;
        let _acting = disk.cred.assume();
        let mut buffer = [0; NAME_MAX];
        let name = volume_dir(key, &mut buffer).map_err(|e| Error::from_errno(-e.errno()))?;
        let directory = loop {
            let (directory, is_new) = Directory::open(disk, cache.store.dir(), name)?;
            if is_new {
                coherency::set_volume(disk, cookie.debug_id(), directory.dir(), &coherency)?;
                break directory;
            }
            match coherency::check_volume(disk, cookie.debug_id(), directory.dir(), &coherency) {
                Ok(()) => break directory,
                // It was made for another version of what the netfs has.
                Err(ESTALE) => bury(
                    disk,
                    &cache.graveyard,
                    cache.store.dir(),
                    directory.dir(),
                    Killed::VolumeWeird,
                )?,
                Err(error) => return Err(error),
            }
        };
        let mut fanout = KVec::with_capacity(FANOUT as usize, GFP_KERNEL)?;
        for hash in 0..=u8::MAX {
            let (fan, _) = Directory::open(disk, directory.dir(), &fanout_dir(hash))?;
            fanout.push(fan, GFP_KERNEL)?;
        }
        Ok(Directories { fanout, directory })
    }

    /// The directory that holds files of this hash.
    pub(crate) fn fan(&self, hash: u32) -> Result<&Directory> {
        self.fanout.get((hash % FANOUT) as usize).ok_or(EINVAL)
    }
}
