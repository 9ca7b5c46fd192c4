// SPDX-License-Identifier: GPL-2.0

//! Before a read: is the data there, and if not, who has it?

use crate::cache::known::Known;
use crate::cache::object::Object;
use crate::cache::{inject, BLOCK};
use crate::sys::file::{Extent, File};
use crate::sys::log;
use crate::sys::netfs::{ReadFlags, Source};
use crate::sys::trace::{self, Where};
use kernel::prelude::*;

/// The longest range that the daemon is asked for at once; daemons have buffers of this size.
const MAX_REQUEST: u64 = 2 << 20;

/// What a range of a cache file begins with.
pub(super) enum Begin {
    /// Data, up to here at least.
    DataTo(u64),
    /// A hole, up to here at most.
    HoleTo(u64),
}

/// Sees to it that the whole range can be read from the cache, asking the daemon for each hole in
/// it (`cachefiles_do_prepare_read()`).
///
/// Where C gives back the part before the first hole, we give back all or nothing: EROFS ends a bio
/// that was served in two parts twice.
pub(crate) fn prepare(
    object: &Object,
    file: &File,
    start: u64,
    len: &mut usize,
    flags: &mut ReadFlags<'_>,
) -> Source {
    let Some(end) = start.checked_add(*len as u64).filter(|_| *len > 0) else {
        return Source::Invalid;
    };
    let mut at = start;
    // How far the daemon has said that the data is there: a hole before it is a lie.
    let mut promised = start;
    while at < end {
        match begins_with(&object.backing.known, file, at, end) {
            Ok(Begin::DataTo(to)) => at = to,
            Ok(Begin::HoleTo(to)) => {
                flags.set_copy_to_cache();
                if !flags.is_on_demand() {
                    return Source::Server;
                }
                if at < promised {
                    log::warn_limited!(
                        "object {:x}: the daemon completed a read of {} bytes at {} without data",
                        object.debug_id,
                        to - at,
                        at
                    );
                    return Source::Invalid;
                }
                match ask(object, at, to) {
                    Ok(asked_to) => promised = asked_to,
                    Err(_) => return Source::Invalid,
                }
            }
            Err(error) => {
                trace::io_error(object.debug_id, file, error, Where::Seek);
                return Source::Server;
            }
        }
    }
    flags.clear_on_demand();
    Source::Cache
}

/// Asks the daemon for the hole from `at` to `to`, or its first part; returns how far.
fn ask(object: &Object, at: u64, to: u64) -> Result<u64> {
    // A daemon maps its buffers at these offsets: whole pages, whatever the block size of EROFS.
    let from = at - at % BLOCK;
    let to = to.min(from + MAX_REQUEST).next_multiple_of(BLOCK);
    object
        .cache()
        .requests()
        .read(&object.demand, from, to - from)?;
    Ok(to)
}

/// Looks at the file from `at` on, no further than `end`.
pub(super) fn begins_with(known: &Known, file: &File, at: u64, end: u64) -> Result<Begin> {
    inject::read()?;
    let asking = match known.data_from(file, at) {
        Ok(to) => return Ok(Begin::DataTo(to.min(end))),
        Err(asking) => asking,
    };
    let data = match file.next_data(at)? {
        Extent::At(data) => data,
        Extent::None => return Ok(Begin::HoleTo(end)),
    };
    if data > at {
        return Ok(Begin::HoleTo(data.min(end)));
    }
    inject::read()?;
    let Extent::At(hole) = file.next_hole(at)? else {
        return Ok(Begin::DataTo(end));
    };
    // A block that is data only in part would be one of a file system with smaller blocks.
    let whole = hole - hole % BLOCK;
    if whole > at {
        known.learn(asking, at, whole);
    }
    Ok(match whole {
        _ if hole >= end => Begin::DataTo(end),
        whole if whole > at => Begin::DataTo(whole),
        whole => Begin::HoleTo((whole + BLOCK).min(end)),
    })
}
