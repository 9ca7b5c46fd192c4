// SPDX-License-Identifier: GPL-2.0

//! Which of the netfs's files may have been written to when the cache was not told.
//!
//! FS-Cache notes in a cookie that its file is about to be written to, and tells the cache, if there
//! is one; the note stays. So a cookie that is older than the cache and has the note may stand for a
//! file that is not what is cached, under coherency data that only the server changes; C serves what
//! is cached. A cookie that is younger has had the cache all its life, unless a lookup has failed, or
//! its volume could not be made, in which case we are not asked to look its cookies up.
//! Never here: writes that the cache is told of, which are in `local_write.rs`.

use crate::sys::fscache::{Age, Calendar, Cookie, CookieFlag, VolumeCookie};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use kernel::prelude::*;

/// What may have been missed.
pub(crate) struct Missed {
    /// By cookies up to this age.
    until: AtomicU32,
    /// A volume could not be made, and its cookies may have been used.
    without_volume: AtomicBool,
}

impl Missed {
    /// Nothing, where no netfs writes.
    pub(super) const fn nothing() -> Self {
        Missed {
            until: AtomicU32::new(0),
            without_volume: AtomicBool::new(false),
        }
    }

    /// Whatever has been written to any file, or will be.
    pub(super) fn everything(calendar: &Calendar) -> Result<Self> {
        Ok(Missed {
            until: AtomicU32::new(calendar.today()?.far_ahead().0),
            without_volume: AtomicBool::new(false),
        })
    }

    /// The cache is told from now on, which is while FS-Cache has it already. If it cannot be told
    /// what day it is, everything remains missed.
    pub(super) fn ends(&self, calendar: &Calendar) {
        if let Ok(today) = calendar.today() {
            self.until.store(today.0, Ordering::Relaxed);
        }
    }

    /// Whether the file of this cookie, which is about to be looked up, may have been written to.
    pub(super) fn writes_to(&self, cookie: &Cookie) -> bool {
        cookie.is(CookieFlag::LocalWrite) && cookie.age().is_as_old_as(self.until())
    }

    fn until(&self) -> Age {
        Age(self.until.load(Ordering::Relaxed))
    }

    /// The lookup of this cookie has failed: what is written to its file until the next one is missed.
    pub(super) fn not_found(&self, cookie: &Cookie) {
        self.extend(cookie.age());
    }

    /// A volume could not be made.
    pub(crate) fn no_volume(&self) {
        self.without_volume.store(true, Ordering::Relaxed);
    }

    /// This volume could be made, maybe only now. Its cookies from now on are looked up.
    pub(crate) fn volume_made(&self, volume: &VolumeCookie<'_>) {
        if self.without_volume.load(Ordering::Relaxed) {
            let newest = volume.newest_cookie();
            self.extend(newest.unwrap_or(self.until().far_ahead()));
        }
    }

    /// What was written to the files of cookies up to this age was missed, too.
    fn extend(&self, age: Age) {
        // Others do the same; the newest counts.
        let _ = self
            .until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                (!age.is_as_old_as(Age(until))).then_some(age.0)
            });
    }
}
