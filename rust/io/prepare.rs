// SPDX-License-Identifier: GPL-2.0

//! Before a read: is the data there, and if not, the daemon is asked for it.

use crate::cache::file::{Begin, CacheFile};
use crate::cache::object::Object;
use crate::cache::BLOCK;
use crate::fscache::CacheFiles;
use crate::sys::log;
use crate::sys::netfs::{Resources, Source, Want};
use crate::sys::subrequest::DemandRead;
use crate::sys::trace::{self, Found, Preparing, Where};
use kernel::prelude::*;

/// The longest range that the daemon is asked for at once; daemons have buffers of this size.
const MAX_REQUEST: u64 = 2 << 20;

/// Sees to it that all that is wanted can be read from the cache, asking the daemon for each hole in
/// it (`cachefiles_do_prepare_read()`).
///
/// Where C gives back the part before the first hole, we give back all or nothing: EROFS ends a bio
/// that was served in two parts twice.
pub(crate) fn prepare(resources: &Resources<'_, CacheFiles>, read: &mut DemandRead<'_>) -> Source {
    let (mut object, mut file) = (0, None);
    let (source, found) = if read.start >= read.file_size {
        file = resources.file();
        (Source::Zeroes, Found::AfterEof)
    } else if let Some((of, opened)) = resources.ready(Want::Read) {
        object = of.debug_id;
        fetch(&of, file.insert(opened), read)
    } else {
        (Source::Server, Found::NoFile)
    };
    let preparing = Preparing {
        object,
        start: read.start,
        len: read.len,
        flags: read.flags.bits(),
        netfs_inode: read.inode,
    };
    trace::prep_read(&preparing, file.map(CacheFile::file), source, found);
    source
}

/// Looks for the read's range in the file, and has the daemon fill what is not there.
fn fetch(object: &Object, file: &CacheFile, read: &mut DemandRead<'_>) -> (Source, Found) {
    let start = read.start;
    let Some(end) = start.checked_add(read.len as u64).filter(|_| read.len > 0) else {
        return (Source::Invalid, Found::Hole);
    };
    let mut at = start;
    // How far the daemon has said that the data is there: a hole before it is a lie.
    let mut promised = start;
    while at < end {
        let mut there = file.begins_with(at, end);
        if at < promised && !matches!(there, Ok(Begin::DataTo(_))) && file.is_changed_by_others() {
            // The daemon may have written it by the file's name, and vouches for it.
            there = file.look(at, end.min(promised));
        }
        let (to, found) = match there {
            Ok(Begin::DataTo(to)) => {
                at = to;
                continue;
            }
            Ok(Begin::HoleTo(to)) => (to, if to < end { Found::Part } else { Found::Hole }),
            Ok(Begin::Nothing) => (end, Found::Nothing),
            Err(error) => {
                trace::io_error(object.debug_id, file.file(), error, Where::Seek);
                return (Source::Server, Found::SeekError);
            }
        };
        read.flags.set_copy_to_cache();
        if !read.flags.is_on_demand() {
            return (Source::Server, found);
        }
        if at < promised {
            log::warn_limited!(
                "object {:x}: the daemon completed a read of {} bytes at {} without data",
                object.debug_id,
                to - at,
                at
            );
            return (Source::Invalid, found);
        }
        match ask(object, at, to) {
            Ok(asked_to) => promised = asked_to,
            Err(_) => return (Source::Invalid, found),
        }
    }
    if promised > start {
        read.flags.clear_on_demand();
    }
    (Source::Cache, Found::Data)
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
