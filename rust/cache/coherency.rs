// SPDX-License-Identifier: GPL-2.0

//! The attribute `user.CacheFiles.cache` that says whether cached data still belongs to what the
//! netfs has. Its layout is C's (`struct cachefiles_xattr`, `struct cachefiles_vol_xattr`).

use super::disk::Disk;
use super::inject;
use crate::sys::dentry::Dentry;
use crate::sys::errno::{EDQUOT, ENODATA, ESTALE};
use crate::sys::fscache::Snapshot;
use crate::sys::trace::{self, Verdict, Where};
use crate::sys::xattr;
use kernel::prelude::*;
use kernel::str::CStr;

pub(super) const NAME: &CStr = kernel::c_str!("user.CacheFiles.cache");
/// The only type of object there is.
const TYPE_DATA: u8 = 1;
/// Bytes before a file's coherency data: size, zero point, type, content.
const FILE_HEADER: usize = 18;

/// How the data of a file is present (`enum cachefiles_content`). Numbers are stored on disk.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Content {
    /// Nothing is known to be: it is where the file has no holes.
    NoData = 0,
    /// It was being changed, so that nothing can be said.
    Dirty = 4,
}

/// The bytes of a file's attribute.
fn file_attribute(content: Content, netfs: &Snapshot) -> Result<KVec<u8>> {
    let mut bytes = KVec::with_capacity(FILE_HEADER + netfs.coherency.len(), GFP_KERNEL)?;
    bytes.extend_from_slice(&netfs.size.to_be_bytes(), GFP_KERNEL)?;
    bytes.extend_from_slice(&0u64.to_be_bytes(), GFP_KERNEL)?;
    // CAST: A `repr(u8)` enum.
    bytes.extend_from_slice(&[TYPE_DATA, content as u8], GFP_KERNEL)?;
    bytes.extend_from_slice(&netfs.coherency, GFP_KERNEL)?;
    Ok(bytes)
}

/// Compares the attribute of an object's file with what the netfs has: `ESTALE` if the file is of
/// no use, another error if that cannot be told (`cachefiles_check_auxdata()`).
///
/// A missing or longer attribute means `ESTALE`. C returns the error of the lookup then, so that
/// the file can neither be used nor replaced.
pub(crate) fn check_file(disk: &Disk, object: u32, dentry: &Dentry, netfs: &Snapshot) -> Result {
    let want = file_attribute(Content::NoData, netfs)?;
    let mut have = KVec::from_elem(0, want.len(), GFP_KERNEL)?;
    if let Err(error) = read(disk, object, dentry, &mut have) {
        trace::coherency(object, dentry, 0, Verdict::BadXattr);
        return Err(error);
    }
    // The zero point is not used, and any content but dirty will do.
    let same = |range: core::ops::Range<usize>| have.get(range.clone()) == want.get(range);
    let content = have.get(FILE_HEADER - 1).copied().unwrap_or(0);
    let verdict = if !same(16..17) {
        Verdict::BadType
    } else if !same(FILE_HEADER..want.len()) {
        Verdict::BadAux
    } else if !same(0..8) {
        Verdict::BadSize
    } else if content == Content::Dirty as u8 {
        Verdict::Dirty
    } else {
        Verdict::Good
    };
    trace::coherency(object, dentry, content, verdict);
    match verdict {
        Verdict::Good => Ok(()),
        _ => Err(ESTALE),
    }
}

/// Stores the attribute of an object's file (`cachefiles_set_object_xattr()`).
pub(crate) fn set_file(
    disk: &Disk,
    object: u32,
    dentry: &Dentry,
    content: Content,
    netfs: &Snapshot,
) -> Result {
    let bytes = file_attribute(content, netfs)?;
    let stored = set(disk, object, dentry, &bytes);
    let verdict = match stored {
        Ok(()) => Verdict::Set,
        Err(_) => Verdict::SetFailed,
    };
    trace::coherency(object, dentry, content as u8, verdict);
    stored
}

/// Compares a volume's attribute with `data`: `ESTALE` if it is another volume's
/// (`cachefiles_check_volume_xattr()`).
pub(crate) fn check_volume(disk: &Disk, volume: u32, dentry: &Dentry, data: &[u8]) -> Result {
    let want = volume_attribute(data)?;
    let mut have = KVec::from_elem(0, want.len(), GFP_KERNEL)?;
    if let Err(error) = read(disk, 0, dentry, &mut have) {
        trace::volume_coherency(volume, dentry, Verdict::VolumeBadXattr);
        return Err(error);
    }
    if have.as_slice() == want.as_slice() {
        trace::volume_coherency(volume, dentry, Verdict::VolumeGood);
        Ok(())
    } else {
        trace::volume_coherency(volume, dentry, Verdict::VolumeBad);
        Err(ESTALE)
    }
}

/// Stores a volume's attribute.
pub(crate) fn set_volume(disk: &Disk, volume: u32, dentry: &Dentry, data: &[u8]) -> Result {
    let stored = set(disk, 0, dentry, &volume_attribute(data)?);
    let verdict = match stored {
        Ok(()) => Verdict::VolumeSet,
        Err(_) => Verdict::VolumeSetFailed,
    };
    trace::volume_coherency(volume, dentry, verdict);
    stored
}

/// Stores an attribute's bytes. A failure of the disk is reported as such; a lack of space or
/// memory is not one.
fn set(disk: &Disk, object: u32, dentry: &Dentry, bytes: &[u8]) -> Result {
    inject::write()
        .and_then(|()| xattr::set(dentry, NAME, bytes))
        .inspect_err(|&error| {
            trace::vfs_error(object, dentry.inode(), error, Where::SetXattr);
            if error != ENOMEM && error != ENOSPC && error != EDQUOT {
                disk.io_error(format_args!(
                    "Failed to set xattr with error {}",
                    error.to_errno()
                ));
            }
        })
}

/// Removes a file's attribute, so that the file is stale.
pub(crate) fn remove(disk: &Disk, object: u32, dentry: &Dentry) -> Result {
    match inject::remove().and_then(|()| xattr::remove(dentry, NAME)) {
        Err(ENODATA | ENOENT) => Ok(()),
        removed => removed.inspect_err(|&error| {
            trace::vfs_error(object, dentry.inode(), error, Where::RemoveXattr);
            if error != ENOMEM {
                disk.io_error(format_args!(
                    "Can't remove xattr: error {}",
                    error.to_errno()
                ));
            }
        }),
    }
}

fn volume_attribute(data: &[u8]) -> Result<KVec<u8>> {
    let mut bytes = KVec::with_capacity(4 + data.len(), GFP_KERNEL)?;
    bytes.extend_from_slice(&0u32.to_be_bytes(), GFP_KERNEL)?;
    bytes.extend_from_slice(data, GFP_KERNEL)?;
    Ok(bytes)
}

/// Fills `bytes` with the attribute, which must be just as long.
fn read(disk: &Disk, object: u32, dentry: &Dentry, bytes: &mut [u8]) -> Result {
    match inject::read().and_then(|()| xattr::get(dentry, NAME, bytes)) {
        Ok(len) if len == bytes.len() => Ok(()),
        Ok(_) | Err(ERANGE | ENODATA) => Err(ESTALE),
        Err(error) => {
            trace::vfs_error(object, dentry.inode(), error, Where::GetXattr);
            if error == EIO {
                disk.io_error(format_args!("Failed to read xattr with error -5"));
            }
            Err(error)
        }
    }
}
