// SPDX-License-Identifier: GPL-2.0

//! What of a range the cache has, for a netfs that fills it itself.

use crate::cache::file::{Begin, CacheFile};
use crate::cache::object::Object;
use crate::cache::BLOCK;
use crate::fscache::CacheFiles;
use crate::sys::errno::{ENOBUFS, ENODATA};
use crate::sys::fscache::CookieFlag;
use crate::sys::netfs::{Resources, Source, Want};
use crate::sys::subrequest::ReadSubrequest;
use crate::sys::trace::{self, Found, Preparing, Where};
use core::ops::Range;
use kernel::prelude::*;

/// Says where a read is to get its data from, and shortens it to the part that is there or is not
/// (`cachefiles_prepare_read()`). What is not is to be stored when it has come from the server.
pub(crate) fn prepare_read(
    resources: &Resources<'_, CacheFiles>,
    read: &mut ReadSubrequest<'_>,
    file_size: u64,
) -> Source {
    let mut file = None;
    let mut object = 0;
    let is_behind_end = read.start() >= file_size;
    let (source, found) = if is_behind_end && read.start() % BLOCK == 0 {
        file = resources.file();
        (Source::Zeroes, Found::AfterEof)
    } else if resources.cookie().is(CookieFlag::NoData) {
        // A new file, which may not even be made yet.
        file = resources.file();
        read.flags().set_copy_to_cache();
        (Source::Server, Found::NoData)
    } else if let Some((of, opened)) = resources.ready(Want::Read) {
        object = of.debug_id;
        let opened = file.insert(opened);
        match opened.validity.is_good() {
            true if is_behind_end => {
                read.flags().set_copy_to_cache();
                (Source::Zeroes, Found::AfterEof)
            }
            true => place(&of, opened, read, file_size),
            false => (Source::Server, Found::NoFile),
        }
    } else {
        (Source::Server, Found::NoFile)
    };
    let (source, found) = match is_behind_end {
        // The rest of a page whose bytes come from the server. netfs stores the page if the part that
        // is done last has the flag, which on 9P is always this one.
        true => (Source::Zeroes, Found::AfterEof),
        false => (source, found),
    };
    let preparing = Preparing {
        object,
        start: read.start(),
        len: read.len(),
        flags: read.flags().bits(),
        netfs_inode: read.inode(),
    };
    trace::prep_read(&preparing, file.map(CacheFile::file), source, found);
    if source != Source::Server {
        return source;
    }
    match part_of_a_folio(read, file_size) {
        // The netfs fills what is behind the server's bytes, as ever.
        Some(bytes) => {
            read.shorten(bytes);
            Source::ServerLast
        }
        None => Source::Server,
    }
}

/// Whether the netfs's file was made shorter and the cache has not heard of it, as of a truncate(2) of
/// a file that is not in use: what was cut off must not come back when the file grows again. `to`:
/// there is data in the cache's file up to there.
///
/// The netfs's zero point is where its file was cut, or where the data of its server ends, and rises with
/// pages that it lets go of. So what the cache has behind it was cut before this service, or was
/// written in it, which is behind what the file was found to hold.
///
/// Of a file that is distrusted the netfs calls what is behind its zero point zeros, and does not ask. C
/// serves what is cached, which hides from its users that netfs can lose track of its zero point, when
/// two pages are let go of at once.
fn was_cut_unheard(object: &Object, file: &CacheFile, read: &ReadSubrequest<'_>, to: u64) -> bool {
    let (size, zero_point) = (read.size_now(), read.zero_point());
    // The netfs's file grows before its cookie does. While it is being cut this is true for a moment
    // although we are about to hear of it, which costs what is cached, and no more.
    let is_shorter = size < object.cookie.size();
    is_shorter || (to.min(size) > zero_point && file.valid_to() > zero_point)
}

/// How many bytes the server has of a read that begins with a folio, behind another part, if they
/// end within that folio.
///
/// netfs of 6.12 hits a BUG() if such a part is done while it collects the part before
/// (Documentation/netfs-read-collect-bug.rst).
fn part_of_a_folio(read: &ReadSubrequest<'_>, file_size: u64) -> Option<usize> {
    let (start, wanted) = (read.start(), read.len() as u64);
    let bytes = read.zero_point().min(file_size).saturating_sub(start);
    // Folios are powers of two in size, and aligned to it.
    let folio = (bytes + 1).next_power_of_two().max(BLOCK);
    let is_part = !read.is_first() && bytes > 0 && folio <= wanted && start % folio == 0;
    // CAST: Less than what is wanted.
    is_part.then_some(bytes as usize)
}

/// Looks for the read's range in the file.
fn place(
    object: &Object,
    file: &CacheFile,
    read: &mut ReadSubrequest<'_>,
    file_size: u64,
) -> (Source, Found) {
    let start = read.start();
    let end = start.saturating_add(read.len() as u64);
    // Nothing behind the end of the netfs's file is wanted of the cache file.
    let limit = end.min(file_size);
    let (source, found, to) = match file.begins_with(start, limit) {
        Ok(Begin::DataTo(to)) if to < limit => (Source::Cache, Found::Data, to),
        // The block with the end in it is whole.
        Ok(Begin::DataTo(_)) => (
            Source::Cache,
            Found::Data,
            limit.checked_next_multiple_of(BLOCK).unwrap_or(end),
        ),
        Ok(Begin::HoleTo(to)) if to < limit => (
            Source::Server,
            Found::Part,
            to.checked_next_multiple_of(BLOCK).unwrap_or(end),
        ),
        Ok(Begin::HoleTo(_)) => (Source::Server, Found::Hole, end),
        Ok(Begin::Nothing) => (Source::Server, Found::Nothing, end),
        Err(error) => {
            trace::io_error(object.debug_id, file.file(), error, Where::Seek);
            return (Source::Server, Found::SeekError);
        }
    };
    if source == Source::Cache && was_cut_unheard(object, file, read, to) {
        file.validity.spoil();
        return (Source::Server, Found::NoFile);
    }
    if source == Source::Server {
        read.flags().set_copy_to_cache();
    }
    // CAST: At most the length there was.
    read.shorten((to.min(end) - start) as usize);
    (source, found)
}

/// Where the first data in `range` is, in whole pieces of `granularity`: `ENODATA` if there is
/// none (`cachefiles_query_occupancy()`).
pub(crate) fn query(
    object: &Object,
    file: &CacheFile,
    range: Range<u64>,
    granularity: u64,
) -> Result<Range<u64>> {
    if !file.validity.is_good() {
        return Err(ENOBUFS);
    }
    let piece = granularity.max(object.cache().disk.block_size.into());
    let mut at = range.start;
    while at < range.end {
        at = match file.begins_with(at, range.end).map_err(|_| ENOBUFS)? {
            Begin::Nothing => break,
            Begin::HoleTo(to) => to,
            Begin::DataTo(to) => {
                let first = at.checked_next_multiple_of(piece).ok_or(ENODATA)?;
                let last = to - to % piece;
                if first < last {
                    return Ok(first..last);
                }
                to
            }
        };
    }
    Err(ENODATA)
}
