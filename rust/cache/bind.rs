// SPDX-License-Identifier: GPL-2.0

//! Bringing a cache into service: everything that is checked and made before FS-Cache may use it.

use super::abandoned;
use super::directory::Directory;
use super::disk::{Disk, End, Need};
use super::limits::Limits;
use super::probe::probe;
use super::unseen_writes::UnseenWrites;
use super::{Cache, BLOCK};
use crate::fscache::CacheFiles;
use crate::ondemand::RequestTable;
use crate::protocol::message::Layout;
use crate::sys::creds::Cred;
use crate::sys::dentry::Dir;
use crate::sys::errno::EOPNOTSUPP;
use crate::sys::fscache::{CacheCookie, CookieClock};
use crate::sys::log;
use crate::sys::mount;
use crate::sys::periodic::Periodic;
use crate::sys::service::Active;
use crate::sys::xarray::XArray;
use core::convert::Infallible;
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::{Arc, UniqueArc};

/// Milliseconds between two looks at the space that others have left, and the daemon's room for fds.
const LOOK_MS: u32 = 1000;

/// What a `bind` binds.
pub(crate) struct Plan<'a> {
    /// The directory.
    pub(crate) dir: &'a CStr,
    /// The name of the cache.
    pub(crate) tag: &'a CStr,
    /// The security label to act under.
    pub(crate) secid: Option<u32>,
    /// Limits of space.
    pub(crate) limits: &'a Limits,
    /// How the daemon is spoken to about misses; `None` in the ordinary mode.
    pub(crate) on_demand: Option<Layout>,
    /// The session's requests.
    pub(crate) requests: &'a Arc<RequestTable>,
}

impl Plan<'_> {
    /// Binds; an error leaves nothing behind (`cachefiles_add_cache()`).
    pub(crate) fn bind(&self) -> Result<Active<CacheFiles>> {
        self.try_bind()
            .inspect(|active| {
                log::info!(
                    "File cache on {} registered",
                    self.tag.to_str().unwrap_or("(not UTF-8)")
                );
                let disk = &active.cache().disk;
                let _acting = disk.cred.assume();
                // The state is up to date from the start; its errors come back when they matter.
                let _ = disk.has_room(0, 0, Need::Check);
            })
            .inspect_err(|error| {
                log::error!("Failed to register: {}", error.to_errno());
            })
    }

    fn try_bind(&self) -> Result<Active<CacheFiles>> {
        let service = Cred::for_kernel_service(self.secid).inspect_err(|error| {
            if self.secid.is_some() {
                log::error!(
                    "Security denies permission to nominate security context: error {}",
                    error.to_errno()
                );
            }
        })?;
        let memory = UniqueArc::new_uninit(GFP_KERNEL)?;
        let end = End::new()?;
        let root = {
            let _acting = service.assume();
            let root = mount::find_dir(self.dir)?;
            self.check_backing(&root)?;
            root
        };
        let mnt = root.mount().clone();
        // What we create gets the security label that belongs beside the cache. It is the daemon
        // who must be allowed to ask for that.
        let cred = service.creating_like(root.inode())?;
        let space = {
            let _acting = cred.assume();
            check_security(&root)?;
            let space = mnt.space()?;
            check_blocks(space.block_size)?;
            probe(&root, &cred, self.shown_dir())?;
            space
        };
        // As late as can be: what was mounted from it has nothing to read from until the end.
        let in_use = abandoned::end_before_bind();
        let record = CacheCookie::acquire(self.tag)?;
        let disk = Disk::new(mnt, cred, self, &space, record.cookie().clone(), end);
        let disk: Arc<Disk> = match memory.pin_init_with::<Infallible>(disk) {
            Ok(disk) => disk.into(),
            Err(never) => match never {},
        };
        let (store, graveyard) = {
            let _acting = disk.cred.assume();
            (
                Directory::open(&disk, &root, b"cache")?.0,
                Directory::open(&disk, &root, b"graveyard")?.0,
            )
        };
        drop(root);
        let clock = match self.on_demand {
            None => Some(CookieClock::new()?),
            Some(_) => None,
        };
        let unseen = match &clock {
            Some(clock) => UnseenWrites::to_all(clock)?,
            None => UnseenWrites::none(),
        };
        let look = Periodic::start(disk.clone(), LOOK_MS)?;
        let cache = Arc::pin_init(
            pin_init!(Cache {
                store,
                graveyard,
                on_demand: self.on_demand,
                unseen,
                objects <- XArray::new(1, u32::MAX),
                when_empty <- new_spinlock!(None, "Cache::when_empty"),
                _look: look,
                disk,
            }),
            GFP_KERNEL,
        )?;
        let active: Active<CacheFiles> = Active::add(record, cache)?;
        if let Some(clock) = clock {
            active.cache().unseen.end(&clock);
        }
        if self.on_demand.is_some() {
            in_use.iter().for_each(|cookie| cookie.look_up_again());
        }
        Ok(active)
    }

    fn shown_dir(&self) -> &str {
        self.dir.to_str().unwrap_or("(not UTF-8)")
    }

    fn check_backing(&self, root: &Dir) -> Result {
        root.check_backing().map_err(|failed| {
            log::error!(
                "{} cannot hold a cache: {}",
                self.shown_dir(),
                failed.why.to_str().unwrap_or("")
            );
            failed.error
        })
    }
}

/// A block of the file system must not be larger than one of ours: what is part of it counts as
/// there.
fn check_blocks(bytes: u32) -> Result {
    match u64::from(bytes) {
        0 => Err(ERANGE),
        1..=BLOCK => Ok(()),
        bytes => {
            log::error!("blocks of {} bytes are larger than {}", bytes, BLOCK);
            Err(EOPNOTSUPP)
        }
    }
}

/// Whether the security policy lets us make what a cache is made of.
fn check_security(root: &Dir) -> Result {
    match root.check_create() {
        Ok(()) => Ok(()),
        Err(failed) if failed.error == EOPNOTSUPP => Ok(()),
        Err(failed) => {
            log::error!(
                "Security denies permission to {}: error {}",
                failed.why.to_str().unwrap_or(""),
                failed.error.to_errno()
            );
            Err(failed.error)
        }
    }
}
