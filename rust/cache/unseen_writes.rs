// SPDX-License-Identifier: GPL-2.0

//! Which of the netfs's files may have been written to when the cache was not told.
//!
//! FS-Cache notes in a cookie that its file is about to be written to, and tells the cache, if there
//! is one; the note stays. So a cookie that is older than the cache and has the note may stand for a
//! file that is not what is cached, under coherency data that only the server changes; C serves what
//! is cached. A cookie that is younger has had the cache all its life, unless a lookup has failed.
//! Never here: writes that the cache is told of, which are in `local_write.rs`.

use crate::sys::fscache::{Age, Cookie, CookieClock, CookieFlag};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::prelude::*;

/// Writes that the cache may not have been told of: those to the files of cookies up to this [`Age`].
pub(crate) struct UnseenWrites(AtomicU32);

impl UnseenWrites {
    /// None, where no netfs writes.
    pub(super) const fn none() -> Self {
        UnseenWrites(AtomicU32::new(0))
    }

    /// To any file, before or from now on.
    pub(super) fn to_all(clock: &CookieClock) -> Result<Self> {
        Ok(UnseenWrites(AtomicU32::new(clock.now()?.far_ahead().0)))
    }

    /// The cache is told from now on, which is while FS-Cache has it already. If the clock fails, every
    /// write counts as unseen.
    pub(super) fn end(&self, clock: &CookieClock) {
        if let Ok(now) = clock.now() {
            self.0.store(now.0, Ordering::Relaxed);
        }
    }

    /// Whether the file of this cookie, which is about to be looked up, may have been written to.
    pub(super) fn may_be_to(&self, cookie: &Cookie) -> bool {
        let until = Age(self.0.load(Ordering::Relaxed));
        cookie.is(CookieFlag::LocalWrite) && cookie.age().is_as_old_as(until)
    }

    /// The lookup of this cookie fails: what is written to its file until the next one is not seen. To be
    /// called before FS-Cache is told, which does not note a task that begins to write until it has withdrawn
    /// the cookie.
    pub(super) fn not_found(&self, cookie: &Cookie) {
        cookie.set(CookieFlag::LocalWrite);
        let age = cookie.age();
        // Other lookups do the same; the newest counts.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                (!age.is_as_old_as(Age(until))).then_some(age.0)
            });
    }
}
