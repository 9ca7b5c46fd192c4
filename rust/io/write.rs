// SPDX-License-Identifier: GPL-2.0

//! Writing to a cache file what netfs points to: what it has read from the server, and what it
//! writes there.
//!
//! Only whole blocks are written. A write that fails, or is refused for want of space, is no error
//! to the task that reads or writes the netfs's file. See [`not_stored`] for what a refusal means to the
//! cache; after a failure the file is not trusted any more.

use super::fit::fit;
use crate::cache::disk::{Disk, Need, Writing};
use crate::cache::file::{Begin, CacheFile};
use crate::cache::local_write::{before_write, not_stored};
use crate::cache::object::Object;
use crate::cache::{inject, BLOCK};
use crate::fscache::CacheFiles;
use crate::sys::aio::{self, Done};
use crate::sys::errno::ENOBUFS;
use crate::sys::fscache::{CookieFlag, Count};
use crate::sys::netfs::Operation;
use crate::sys::subrequest::WriteSubrequest;
use crate::sys::trace::{self, Seen, Where};
use crate::sys::transfer::{Src, Transfer};
use core::ops::Deref;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A write under way.
struct Write {
    /// The object, and the blocks, which statfs may not know of yet.
    writing: Writing<OfObject>,
    /// Bytes that have to be written.
    want: usize,
    /// Bytes behind them that are left out, which the netfs shall not try again.
    left_out: usize,
}

/// An object, for its disk.
struct OfObject(Arc<Object>);

impl Deref for OfObject {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.0.cache().disk
    }
}

impl Write {
    fn object(&self) -> &Object {
        &self.writing.of().0
    }
}

/// Sees to it that there is room for `len` bytes at `at`, which may have some already unless
/// `is_new`; returns how many they are in whole blocks (`__cachefiles_prepare_write()`). `ENOBUFS`
/// if they cannot be written: not aligned, more than `upper` in whole blocks, maybe read before an
/// invalidation, or no room.
pub(crate) fn prepare(
    object: &Object,
    file: &CacheFile,
    at: u64,
    len: usize,
    upper: usize,
    is_new: bool,
) -> Result<usize> {
    try_prepare(object, file, at, len, upper, is_new).inspect_err(|_| not_stored(object, file))
}

fn try_prepare(
    object: &Object,
    file: &CacheFile,
    at: u64,
    len: usize,
    upper: usize,
    is_new: bool,
) -> Result<usize> {
    if !file.validity.is_good() || object.backing.copies.are_outdated() {
        return Err(ENOBUFS);
    }
    if at % BLOCK != 0 || len > upper {
        Count::Misfit.bump();
        return Err(ENOBUFS);
    }
    let whole = len
        .checked_next_multiple_of(BLOCK as usize)
        .ok_or(ENOBUFS)?;
    let disk = &object.cache().disk;
    let _acting = disk.cred.assume();
    before_write(object, file)?;
    let end = at.checked_add(whole as u64).ok_or(EFBIG)?;
    if !is_new {
        let there = file.begins_with(at, end).inspect_err(|&error| {
            trace::io_error(object.debug_id, file.file(), error, Where::Seek);
        })?;
        // It takes no room.
        if matches!(there, Begin::DataTo(to) if to >= end) {
            return Ok(whole);
        }
    }
    // If a part of it is there, statfs does not tell how much that saves. Where there is no room for all
    // of it, C makes a hole of that part, and goes on to write all the same, below the limit.
    disk.has_room_for(whole as u64, Need::Write).map(|()| whole)
}

/// Writes all of `from` at `at`, for which there is room (`cachefiles_write()`).
pub(crate) fn write(operation: Operation<CacheFiles>, at: u64, from: Transfer<'_, Src>) {
    let len = from.len();
    submit(operation, at, from, len, 0);
}

/// Writes the whole blocks of a subrequest (`cachefiles_issue_write()`).
pub(crate) fn issue(operation: Operation<CacheFiles>, mut write: WriteSubrequest<'_>) {
    let (object, file) = (&*operation.object, &*operation.file);
    let is_copy = write.is_copy();
    if is_copy && object.backing.copies.are_outdated() {
        // It is not missed: what was there has gone, and what is there now has nothing of it.
        let len = write.len();
        return write.finish(Ok(len));
    }
    let fit = fit(
        write.start(),
        write.len(),
        write.file_size(),
        write.extendable(),
        BLOCK,
    );
    // Of what is only copied nothing was there before.
    let missed = |object: &Object| {
        if !is_copy {
            not_stored(object, file);
        }
    };
    if fit.head > 0 || fit.tail > 0 {
        missed(object);
    }
    if fit.body == 0 {
        Count::Misfit.bump();
        let len = write.len();
        return write.finish(Ok(len));
    }
    write.skip(fit.head);
    write.extend(fit.more);
    let at = write.start();
    if let Err(error) = try_prepare(object, file, at, fit.body, fit.body, true) {
        missed(object);
        return write.finish(Err(error));
    }
    submit(operation, at, write.into_transfer(), fit.body, fit.tail);
}

fn submit(
    operation: Operation<CacheFiles>,
    at: u64,
    from: Transfer<'_, Src>,
    len: usize,
    left_out: usize,
) {
    let Operation { object, file, .. } = operation;
    Count::Write.bump();
    let job = Write {
        writing: Writing::new(OfObject(object), len as u64),
        want: len,
        left_out,
    };
    job.object().seen(Seen::GetRequest);
    trace::write(job.object().debug_id, file.file(), at, len);
    match inject::write() {
        Ok(()) => aio::write(file, at, from, len, job),
        Err(error) => {
            let told = job.done(&file, Err(error));
            from.finish(told);
        }
    }
}

impl Done for Write {
    type Holder = CacheFile;

    fn done(self, file: &CacheFile, result: Result<usize>) -> Result<usize> {
        let object = self.object();
        if let Err(error) = result {
            trace::io_error(object.debug_id, file.file(), error, Where::Write);
        }
        // The next read has to look at the file.
        object.cookie.set(CookieFlag::HaveData);
        let result = match result {
            Ok(count) if count == self.want => Ok(count + self.left_out),
            // An odd end, as at the limit for files of the task that writes back (RLIMIT_FSIZE), is
            // in a block that is data to its end, of zeros.
            Ok(_) => Err(EIO),
            Err(error) => Err(error),
        };
        if result.is_err() {
            // Some of what was there may be older than what the netfs has.
            file.validity.spoil();
        }
        // The netfs may let the cookie go as soon as it knows. Until then the cookie holds the
        // object, so that ours is not the last reference, which could not be dropped here.
        object.seen(Seen::PutRequest);
        drop(self.writing);
        result
    }
}
