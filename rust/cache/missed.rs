// SPDX-License-Identifier: GPL-2.0

//! Which of the netfs's files may have been written to when the cache was not told.
//!
//! FS-Cache notes in a cookie that its file is about to be written to, and tells the cache, if there
//! is one; the note stays. So a cookie that is older than the cache and has the note may stand for a
//! file that is not what is cached, under coherency data that only the server changes; C serves what
//! is cached. A cookie that is younger has had the cache all its life, unless a lookup has failed.
//! Never here: writes that the cache is told of, which are in `local_write.rs`.

use crate::sys::fscache::{Age, Cookie, CookieClock, CookieFlag};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use kernel::prelude::*;

/// What may have been missed.
pub(crate) struct Missed {
    /// By cookies up to this age.
    until: AtomicU32,
    /// By cookies of any age.
    anything: AtomicBool,
}

impl Missed {
    /// Nothing, where no netfs writes.
    pub(super) const fn nothing() -> Self {
        Missed {
            until: AtomicU32::new(0),
            anything: AtomicBool::new(false),
        }
    }

    /// Whatever has been written to any file, or will be.
    pub(super) fn everything(clock: &CookieClock) -> Result<Self> {
        Ok(Missed {
            until: AtomicU32::new(clock.now()?.far_ahead().0),
            anything: AtomicBool::new(false),
        })
    }

    /// The cache is told from now on, which is while FS-Cache has it already. If the
    /// clock fails, everything remains missed.
    pub(super) fn ends(&self, clock: &CookieClock) {
        if let Ok(now) = clock.now() {
            self.until.store(now.0, Ordering::Relaxed);
        }
    }

    /// Whether the file of this cookie, which is about to be looked up, may have been written to.
    pub(super) fn writes_to(&self, cookie: &Cookie) -> bool {
        let until = Age(self.until.load(Ordering::Relaxed));
        cookie.is(CookieFlag::LocalWrite)
            && (self.anything.load(Ordering::Relaxed) || cookie.age().is_as_old_as(until))
    }

    /// The lookup of this cookie fails: what is written to its file until the next one is missed. To be
    /// called before FS-Cache is told, which does not note who begins to write until it has withdrawn
    /// the cookie.
    pub(super) fn not_found(&self, cookie: &Cookie) {
        cookie.set(CookieFlag::LocalWrite);
        let age = cookie.age();
        // Others do the same; the newest counts.
        let _ = self
            .until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                (!age.is_as_old_as(Age(until))).then_some(age.0)
            });
    }

    /// There was no memory for a volume, so that its cookies are used and not looked up. Which these are
    /// is not known; from now on nothing that was written to is used.
    pub(crate) fn no_volume(&self) {
        self.anything.store(true, Ordering::Relaxed);
    }
}
