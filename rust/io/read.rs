// SPDX-License-Identifier: GPL-2.0

//! Reading from a cache file into whatever netfs points to, directly and asynchronously.

use crate::cache::file::{Asked, Begin, CacheFile};
use crate::cache::inject;
use crate::cache::object::Object;
use crate::fscache::CacheFiles;
use crate::sys::aio::{self, Done};
use crate::sys::errno::{ENODATA, ESTALE};
use crate::sys::fscache::Count;
use crate::sys::netfs::{OnHole, Operation};
use crate::sys::trace::{self, Seen, Where};
use crate::sys::transfer::{Dest, Transfer};
use kernel::prelude::*;
use kernel::sync::Arc;

/// A read under way.
struct Read {
    object: Arc<Object>,
    /// Bytes that were filled before the file was read.
    skipped: usize,
    /// Bytes that the file has to give.
    want: usize,
    /// Invalidations of the cookie when the operation began.
    invalidations: u32,
    /// When its data was found.
    asked: Asked,
}

/// Reads at `start` (`cachefiles_read()`).
pub(crate) fn read(
    operation: Operation<CacheFiles>,
    start: u64,
    mut into: Transfer<'_, Dest>,
    on_hole: OnHole,
) {
    let Operation {
        object,
        file,
        invalidations,
    } = operation;
    Count::Read.bump();
    let len = into.len();
    let is_on_demand = object.cache().on_demand.is_some();
    let asked = file.asked();
    let skipped = match leading_hole(&object, &file, start, len, on_hole) {
        Ok(skipped) => skipped,
        Err(error) => {
            into.take_all();
            return into.finish(failed(is_on_demand, error));
        }
    };
    into.zero(skipped);
    if skipped == len {
        return into.finish(Ok(len));
    }
    if let Err(error) = inject::read() {
        into.take_all();
        return into.finish(failed(is_on_demand, error));
    }
    let job = Read {
        object,
        skipped,
        want: len - skipped,
        invalidations,
        asked,
    };
    job.object.seen(Seen::GetRequest);
    trace::read(
        job.object.debug_id,
        file.file(),
        start + skipped as u64,
        job.want,
    );
    // EROFS makes sure that all of the iterator was taken. The netfs library sets its own anew, by
    // what was read: to pass over every page of it would be for nothing.
    aio::read(file, start + skipped as u64, into, is_on_demand, job);
}

/// What is told of a read that could not be done.
///
/// The netfs library of 6.12 asks the server for what came short, but hands an error on to the reader,
/// as C's module does with it. EROFS has no server to ask, and takes a short read for a whole one.
fn failed(is_on_demand: bool, error: Error) -> Result<usize> {
    if is_on_demand {
        Err(error)
    } else {
        Ok(0)
    }
}

/// What a read comes to that cannot begin, because the cache or the file is out of service.
pub(crate) fn refused(object: Option<&Object>) -> Result<usize> {
    // A netfs that fills the cache itself asks the server for what came short. An error it would take
    // for no answer at all, and store, on the server too, a page that was never filled.
    match object {
        Some(object) if object.cache().on_demand.is_some() => Err(EIO),
        _ => Ok(0),
    }
}

/// How many bytes from `start` on are to be zeros because the file has none there. On-demand mode wants
/// all of them to be there.
fn leading_hole(
    object: &Object,
    file: &CacheFile,
    start: u64,
    len: usize,
    on_hole: OnHole,
) -> Result<usize> {
    let is_changed = file.is_changed_by_others();
    if on_hole == OnHole::Ignore && !is_changed {
        return Ok(0);
    }
    let end = start.saturating_add(len as u64);
    let is_on_demand = object.cache().on_demand.is_some();
    let there = match is_on_demand && is_changed {
        // What is not known the daemon has just vouched for.
        true => file.look(start, end)?,
        false => file.begins_with(start, end)?,
    };
    match there {
        Begin::DataTo(to) if to < end && (is_on_demand || on_hole == OnHole::Ignore) => {
            Err(ENODATA)
        }
        Begin::DataTo(_) => Ok(0),
        _ if on_hole != OnHole::Clear => Err(ENODATA),
        // CAST: At most `len`.
        Begin::HoleTo(to) => Ok((to - start) as usize),
        Begin::Nothing => Ok(len),
    }
}

impl Done for Read {
    type Holder = CacheFile;

    fn done(self, file: &CacheFile, result: Result<usize>) -> Result<usize> {
        if let Err(error) = result {
            trace::io_error(self.object.debug_id, file.file(), error, Where::Read);
        }
        let result = match result {
            // What the file does not have must not pass for zeros.
            Ok(count) if count < self.want => Err(EIO),
            // Nor what is no longer there.
            Ok(_) if file.is_changed_since(self.asked) => Err(EIO),
            Ok(_) if self.object.cookie.invalidations() != self.invalidations => Err(ESTALE),
            Ok(count) => Ok(self.skipped + count),
            Err(error) => Err(error),
        };
        // The netfs may let the cookie go as soon as it knows. Until then the cookie holds the
        // object, so that ours is not the last reference, which could not be dropped here.
        let is_on_demand = self.object.cache().on_demand.is_some();
        self.object.seen(Seen::PutRequest);
        drop(self.object);
        result.or_else(|error| failed(is_on_demand, error))
    }
}
