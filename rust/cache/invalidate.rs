// SPDX-License-Identifier: GPL-2.0

//! Invalidation: an empty file takes the place of one whose data is no longer valid.
//!
//! I/O that is under way keeps the old file, so that it can neither spoil the new one nor be handed
//! out: a read compares the count of invalidations when it is over, and fails with `ESTALE`.

use super::lookup::{create_unnamed, expand};
use super::object::Object;
use super::withdraw::discard;
use crate::sys::fscache::{CookieFlag, Invalidating, Resumed};
use crate::sys::log;
use crate::sys::trace::Killed;

/// Swaps the file; `None` if caching of the cookie has to end (`cachefiles_invalidate_cookie()`).
pub(crate) fn invalidate<'a>(object: &Object, by: Invalidating<'a>) -> Option<Resumed<'a>> {
    if object.cache().on_demand.is_some() {
        // Such a netfs does not invalidate; what the daemon has given cannot be asked for again.
        return None;
    }
    let cookie = &object.cookie;
    if object.backing.file().is_none() {
        return Some(by.resume());
    }
    let _acting = object.cache().disk.cred.assume();
    let new = match create_unnamed(object, cookie.invalidations())
        .and_then(|new| expand(object, &new.file).map(|()| new))
    {
        Ok(new) => new,
        Err(error) => {
            log::warn_limited!(
                "object {:x}: no file in the place of an invalid one: error {}",
                object.debug_id,
                error.to_errno()
            );
            object.backing.spoil();
            return None;
        }
    };
    let old = object.backing.replace_with_empty(new);
    cookie.set(CookieFlag::NeedsUpdate);
    let resumed = by.resume();
    if let Some(old) = old {
        if old.file.is_named() {
            discard(object, &old, Killed::Invalidated);
        }
    }
    Some(resumed)
}
