// SPDX-License-Identifier: GPL-2.0

//! Local changes to the netfs's file: the mark on disk while there are any, and its size.

use super::coherency::{self, Content};
use super::file::{Begin, CacheFile, Mark};
use super::object::Object;
use super::{inject, whole_blocks, BLOCK};
use crate::sys::fscache::CookieFlag;
use crate::sys::trace::{self, Trunc, Where};
use kernel::prelude::*;

/// Marks the file on disk as being changed, so that it is not used if we never come to say what it
/// holds in the end (`cachefiles_prepare_to_write()`).
pub(crate) fn prepare_to_write(object: &Object) {
    let _acting = object.cache().disk.cred.assume();
    if let Some(file) = object.backing.file() {
        // Without the mark the file is not used any more.
        let _ = mark(object, &file);
    }
}

/// Before something is written to the file: FS-Cache does not call [`prepare_to_write`] for a task that
/// begins to write while the file is looked up, and C does not mark it then. Acting for the cache.
///
/// Data is written directly, and would be on the disk before the mark, which is waited for therefore:
/// the power may fail, and the server not have it yet.
pub(crate) fn before_write(object: &Object, file: &CacheFile) -> Result {
    if file.has_mark(Mark::Durable) || !object.cookie.is(CookieFlag::LocalWrite) {
        return Ok(());
    }
    mark(object, file)?;
    if file.is_named() {
        file.file().sync().inspect_err(|_| file.validity.spoil())?;
    }
    file.set_mark(Mark::Durable);
    Ok(())
}

/// Sets the mark. A file without a name is not found again anyhow. Unmarked, the file must not be written
/// to.
fn mark(object: &Object, file: &CacheFile) -> Result {
    if !file.has_mark(Mark::Set) && file.is_named() {
        set_mark(object, file).inspect_err(|_| file.validity.spoil())?;
    }
    file.set_mark(Mark::Set);
    Ok(())
}

fn set_mark(object: &Object, file: &CacheFile) -> Result {
    let content = match object.cookie.is(CookieFlag::LocalWrite) {
        true => Content::Dirty,
        false => Content::NoData,
    };
    let dentry = file.file().dentry()?;
    let now = object.cookie.snapshot()?;
    coherency::set_file(
        &object.cache().disk,
        object.debug_id,
        &dentry,
        content,
        &now,
    )
}

/// Something that the netfs has written is not in the cache. May be called from an interrupt.
///
/// Where the netfs only stores what it has read, a hole stays a hole. But a write of the netfs's
/// own may have been meant to go over older data, which C goes on to serve unless the netfs
/// invalidates it. 9P does not.
pub(crate) fn not_stored(object: &Object, file: &CacheFile) {
    if object.cookie.is(CookieFlag::LocalWrite) {
        file.validity.spoil();
    }
}

/// Something that the netfs has written, to its server and to the cache, has not reached the server.
/// The netfs tells the writer, and the pages count as clean: the next reader gets what the server has,
/// and would get from the cache what the server never had.
pub(crate) fn upload_failed(object: &Object) {
    object.backing.spoil();
}

/// Follows a change of size of the netfs's file (`cachefiles_resize_cookie()`). What is behind the
/// new end must not come back when the file grows again.
///
/// This is done by the task that changes the size, with its limits. What it may not do concerns this
/// file alone; in C, the cache.
pub(crate) fn resize(object: &Object, file: &CacheFile, size: u64) {
    file.cut_to(size);
    // The netfs may have stored more than the cookie's size tells: that does not follow a truncate(2) of
    // a file that is not in use, and C goes by it alone.
    if size < object.cookie.size() || size < file.file().size() {
        let _acting = object.cache().disk.cred.assume();
        if let Err(error) = shorten(object, file, size) {
            file.validity.spoil();
            if error == EIO {
                object.io_error(format_args!("Shortening to {} bytes failed", size));
            }
            if let Ok(dentry) = file.file().dentry() {
                // Without it the file is not used again; an error has been reported.
                let _ = coherency::remove(&object.cache().disk, object.debug_id, &dentry);
            }
        }
    }
    // The caller's number was a file offset.
    let _ = object.cookie.set_size(size);
}

/// Cuts the file to whole blocks, with zeros behind the end (`cachefiles_shorten_object()`).
fn shorten(object: &Object, cached: &CacheFile, size: u64) -> Result {
    let file = cached.file();
    let blocks = whole_blocks(size)?;
    let len = file.size();
    trace::trunc(object.debug_id, file, len, blocks, Trunc::Shrink);
    inject::remove()
        .and_then(|()| match blocks < len {
            true => cached.changing(|| file.truncate(blocks)),
            // It has not grown with the netfs's file, and is not to grow now.
            false => Ok(()),
        })
        .inspect_err(|&error| trace::io_error(object.debug_id, file, error, Where::Trunc))?;
    if size == blocks {
        return Ok(());
    }
    let last = blocks - BLOCK;
    let there = cached
        .begins_with(last, blocks)
        .inspect_err(|&error| trace::io_error(object.debug_id, file, error, Where::Seek))?;
    if !matches!(there, Begin::DataTo(_)) {
        // A hole must stay one: zeroing would allocate a block.
        return Ok(());
    }
    trace::trunc(object.debug_id, file, blocks, size, Trunc::Adjust);
    inject::write()
        .and_then(|()| {
            cached.changing(|| {
                file.zero_range(size, blocks - size)
                    // Not every file system can; a hole is as good.
                    .or_else(|_| file.punch_hole(last, BLOCK))
            })
        })
        .inspect_err(|&error| trace::io_error(object.debug_id, file, error, Where::Fallocate))
}
