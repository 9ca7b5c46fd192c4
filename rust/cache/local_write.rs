// SPDX-License-Identifier: GPL-2.0

//! Local changes to the netfs's file: the mark on disk while there are any, and its size.

use super::coherency::{self, Content};
use super::known::Known;
use super::object::Object;
use super::{inject, whole_blocks, BLOCK};
use crate::sys::file::{Extent, File};
use crate::sys::fscache::CookieFlag;
use crate::sys::trace::{self, Trunc, Where};
use kernel::prelude::*;

/// Marks the file on disk as being changed, so that it is not used if we never come to say what it
/// holds in the end (`cachefiles_prepare_to_write()`).
pub(crate) fn prepare_to_write(object: &Object) {
    let _acting = object.cache().disk.cred.assume();
    // Without the mark the file is not used any more.
    let _ = mark_once(object);
}

/// Before something is written to the file: FS-Cache does not call [`prepare_to_write`] for who
/// begins to write while the file is looked up, and C does not mark it then. Acting for the cache.
///
/// Data is written directly, and would be on the disk before the mark, which is waited for therefore:
/// the power may fail, and the server not have it yet.
pub(crate) fn before_write(object: &Object) -> Result {
    if !object.cookie.is(CookieFlag::LocalWrite) || object.backing.is_mark_safe() {
        return Ok(());
    }
    mark_once(object)?;
    if let Some(file) = object.backing.named_file() {
        file.sync().inspect_err(|_| object.backing.trust.spoil())?;
    }
    object.backing.set_mark_safe();
    Ok(())
}

fn mark_once(object: &Object) -> Result {
    if object.backing.is_marked() {
        return Ok(());
    }
    // A file without a name is not found again anyhow.
    if let Some(file) = object.backing.named_file() {
        // Unmarked, it must not be written to.
        mark(object, &file).inspect_err(|_| object.backing.trust.spoil())?;
    }
    object.backing.set_marked();
    Ok(())
}

fn mark(object: &Object, file: &File) -> Result {
    let content = match object.cookie.is(CookieFlag::LocalWrite) {
        true => Content::Dirty,
        false => Content::NoData,
    };
    let dentry = file.dentry()?;
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
pub(crate) fn not_stored(object: &Object) {
    if object.cookie.is(CookieFlag::LocalWrite) {
        object.backing.trust.spoil();
    }
}

/// Something that the netfs has written, to its server and to the cache, has not reached the server.
/// The netfs tells the writer, and the pages count as clean: the next reader gets what the server has,
/// and would get from the cache what the server never had.
pub(crate) fn upload_failed(object: &Object) {
    object.backing.trust.spoil();
}

/// Follows a change of size of the netfs's file (`cachefiles_resize_cookie()`). What is behind the
/// new end must not come back when the file grows again.
///
/// This is done by the task that changes the size, with its limits. What it may not do concerns this
/// file alone; in C, the cache.
pub(crate) fn resize(object: &Object, file: &File, size: u64) {
    object.backing.cut_to(size);
    // The netfs may have stored more than the cookie's size tells: that does not follow a truncate(2) of
    // a file that is not in use, and C goes by it alone.
    if size < object.cookie.size() || size < file.size() {
        let _acting = object.cache().disk.cred.assume();
        let known = &object.backing.known;
        let shortened = known.while_changing(|| shorten(object, file, size));
        if let Err(error) = shortened {
            object.backing.trust.spoil();
            if error == EIO {
                object.io_error(format_args!("Shortening to {} bytes failed", size));
            }
            if let Ok(dentry) = file.dentry() {
                // Without it the file is of no use to anybody; an error has been reported.
                let _ = coherency::remove(&object.cache().disk, object.debug_id, &dentry);
            }
        }
    }
    // The caller's number was a file offset.
    let _ = object.cookie.set_size(size);
}

/// Cuts the file to whole blocks, with zeros behind the end (`cachefiles_shorten_object()`).
fn shorten(object: &Object, file: &File, size: u64) -> Result {
    let blocks = whole_blocks(size)?;
    let len = file.size();
    trace::trunc(object.debug_id, file, len, blocks, Trunc::Shrink);
    inject::remove()
        .and_then(|()| match blocks < len {
            true => file.truncate(blocks),
            // It has not grown with the netfs's file, and is not to grow now.
            false => Ok(()),
        })
        .inspect_err(|&error| trace::io_error(object.debug_id, file, error, Where::Trunc))?;
    if size == blocks {
        return Ok(());
    }
    let data = inject::read()
        .and_then(|()| {
            let last = blocks - BLOCK;
            Known::look(file, last, blocks, || file.next_data(last))
        })
        .inspect_err(|&error| trace::io_error(object.debug_id, file, error, Where::Seek))?;
    if !matches!(data, Extent::At(data) if data < blocks) {
        // A hole must stay one: zeroing would allocate a block, unwritten, which the file system
        // calls a hole only until somebody reads it through the page cache. Then it is zeros.
        return Ok(());
    }
    trace::trunc(object.debug_id, file, blocks, size, Trunc::Adjust);
    inject::write()
        .and_then(|()| {
            file.zero_range(size, blocks - size)
                // Not every file system can; a hole is as good.
                .or_else(|_| file.punch_hole(blocks - BLOCK, BLOCK))
        })
        .inspect_err(|&error| trace::io_error(object.debug_id, file, error, Where::Fallocate))
}
