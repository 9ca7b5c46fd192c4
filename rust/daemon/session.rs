// SPDX-License-Identifier: GPL-2.0

//! A session: from a daemon's open of the device to the last close of any of its fds.

use crate::cache::limits::Limits;
use crate::cache::{abandoned, Cache};
use crate::fscache::CacheFiles;
use crate::ondemand::RequestTable;
use crate::sys::service::Active;
use core::sync::atomic::{AtomicBool, Ordering};
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::{Arc, Mutex, SpinLock};
use kernel::{new_mutex, new_spinlock};

static OPEN: AtomicBool = AtomicBool::new(false);

/// The one place for a session. There is one at a time.
struct Place(());

impl Place {
    fn take() -> Result<Self> {
        match OPEN.swap(true, Ordering::Acquire) {
            false => Ok(Place(())),
            true => Err(EBUSY),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.store(false, Ordering::Release);
    }
}

/// What commands set before `bind`.
pub(super) struct Setup {
    pub(super) dir: Option<CString>,
    pub(super) tag: Option<CString>,
    pub(super) secid: Option<u32>,
    pub(super) limits: Limits,
}

/// A session (`struct cachefiles_cache`, the half of it that starts with open).
///
/// Counted by the open device and by every anonymous fd: a daemon that closes the device first can
/// still close its fds, and the cache is unbound when nothing of it is left to user space.
#[pin_data(PinnedDrop)]
pub(crate) struct Session {
    /// The requests to the daemon, and who polls for them.
    pub(crate) requests: Arc<RequestTable>,
    /// Commands run one at a time, under this lock. Taken before any other lock.
    #[pin]
    pub(super) setup: Mutex<Setup>,
    /// The cache, once it is bound.
    #[pin]
    bound: SpinLock<Option<Active<CacheFiles>>>,
    /// Dropped last: the next daemon can open the device when all is undone.
    _place: Place,
}

impl Session {
    fn new() -> Result<Arc<Self>> {
        let place = Place::take()?;
        let requests = Arc::pin_init(RequestTable::new(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Session {
                requests,
                setup <- new_mutex!(
                    Setup {
                        dir: None,
                        tag: None,
                        secid: None,
                        limits: Limits::default(),
                    },
                    "Session::setup"
                ),
                bound <- new_spinlock!(None, "Session::bound"),
                _place: place,
            }),
            GFP_KERNEL,
        )
    }

    /// The bound cache.
    pub(crate) fn cache(&self) -> Option<Arc<Cache>> {
        self.bound
            .lock()
            .as_ref()
            .map(|active| active.cache().clone())
    }

    /// Puts a cache into service; there is none yet.
    pub(super) fn set_bound(&self, active: Active<CacheFiles>) {
        let old = self.bound.lock().replace(active);
        drop(old);
    }
}

#[pinned_drop]
impl PinnedDrop for Session {
    fn drop(self: Pin<&mut Self>) {
        let bound = self.bound.lock().take();
        if let Some(active) = bound {
            abandoned::end_session(active);
        }
    }
}

/// The open device.
pub(crate) struct DeviceFile {
    pub(super) session: Arc<Session>,
}

impl DeviceFile {
    /// Opens the device; `EBUSY` if it is open, or its last session not over yet.
    pub(super) fn open() -> Result<Arc<Self>> {
        let session = Session::new()?;
        Ok(Arc::new(DeviceFile { session }, GFP_KERNEL)?)
    }
}

impl Drop for DeviceFile {
    fn drop(&mut self) {
        // The daemon is gone: no request will be answered any more.
        self.session.requests.kill();
    }
}
