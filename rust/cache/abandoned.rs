// SPDX-License-Identifier: GPL-2.0

//! The end of a cache's session, and the cache that outlives it because images are mounted from it.
//!
//! For a cache that is withdrawn FS-Cache answers, with `ENOBUFS`. So an on-demand cache with objects
//! in service stays active when its daemon is gone, and every operation on it fails with `EIO`. It is
//! withdrawn when its last object goes, by the next `bind`, or at module exit. There is one at most,
//! since each `bind` ends the one before.

use super::Cache;
use crate::fscache::CacheFiles;
use crate::sys::fscache::Cookie;
use crate::sys::log;
use crate::sys::service::{Active, Slot};
use crate::sys::work::{self, Deferred, Job};
use kernel::prelude::*;
use kernel::types::ARef;

static ABANDONED: Slot<CacheFiles> = Slot::empty();

/// Ends the service of a cache whose session is over. Unless it is abandoned, nothing of it is left
/// when this returns.
pub(crate) fn end_session(active: Active<CacheFiles>) {
    let cache = active.cache().clone();
    cache.disk.end_service();
    let worker = cache
        .on_demand
        .and_then(|_| Deferred::new(LastObjectGone).ok());
    if worker.is_none() {
        drop(cache);
        return withdraw(active);
    }
    drop(ABANDONED.put(active));
    *cache.when_empty.lock() = worker;
    if cache.objects.is_empty() {
        drop(cache);
        return end();
    }
    log::notice!(
        "File cache on {} has lost its daemon: what is mounted from it fails with EIO",
        cache.disk.cookie.name().to_str().unwrap_or("(not UTF-8)")
    );
}

/// Withdraws the abandoned cache, if there is one.
pub(crate) fn end() {
    if let Some(active) = ABANDONED.take() {
        withdraw(active);
    }
}

/// Withdraws the abandoned cache, if there is one, for the next one to take its place. Returns the
/// cookies that it served, as far as there is memory for the list.
pub(super) fn end_before_bind() -> KVec<ARef<Cookie>> {
    let mut cookies = KVec::new();
    if let Some(active) = ABANDONED.take() {
        let mut from = Some(0);
        while let Some((at, object)) = from.and_then(|from| active.cache().objects.next(from)) {
            if cookies.push(object.cookie.grab(), GFP_KERNEL).is_err() {
                break;
            }
            from = at.checked_add(1);
        }
        withdraw(active);
    }
    // A worker may have taken it, and not be done.
    work::wait_for_started();
    cookies
}

/// Withdraws a cache and waits until its mount is put.
fn withdraw(active: Active<CacheFiles>) {
    let end = active.cache().disk.end();
    Cache::withdraw(active);
    // Another task may be about to let go of the cache, one that unmounts an image for example.
    end.wait();
}

/// FS-Cache's worker cannot withdraw the cache whose last object it has taken down: the withdrawal
/// waits for it.
pub(super) struct LastObjectGone;

impl Job for LastObjectGone {
    type Input = ();

    fn run(self, (): ()) {
        end();
    }
}

impl Cache {
    /// An object has left the index.
    pub(super) fn object_gone(&self) {
        if self.objects.is_empty() {
            let worker = self.when_empty.lock().clone();
            if let Some(worker) = worker {
                worker.start(());
            }
        }
    }
}
