// SPDX-License-Identifier: GPL-2.0

//! The attribute `user.CacheFiles.cache` that says whether cached data still belongs to what the
//! netfs has. Its layout is C's (`struct cachefiles_xattr`, `struct cachefiles_vol_xattr`).

use super::disk::Disk;
use super::inject;
use crate::sys::dentry::Dentry;
use crate::sys::errno::{EDQUOT, ENODATA, ESTALE};
use crate::sys::xattr;
use kernel::prelude::*;
use kernel::str::CStr;

const NAME: &CStr = kernel::c_str!("user.CacheFiles.cache");
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
pub(crate) fn file_attribute(size: u64, content: Content, data: &[u8]) -> Result<KVec<u8>> {
    let mut bytes = KVec::with_capacity(FILE_HEADER + data.len(), GFP_KERNEL)?;
    bytes.extend_from_slice(&size.to_be_bytes(), GFP_KERNEL)?;
    bytes.extend_from_slice(&0u64.to_be_bytes(), GFP_KERNEL)?;
    // CAST: A `repr(u8)` enum.
    bytes.extend_from_slice(&[TYPE_DATA, content as u8], GFP_KERNEL)?;
    bytes.extend_from_slice(data, GFP_KERNEL)?;
    Ok(bytes)
}

/// Compares a file's attribute with what the netfs has: `ESTALE` if the file is of no use, another
/// error if that cannot be told (`cachefiles_check_auxdata()`).
///
/// A missing or longer attribute means `ESTALE`. C returns the error of the lookup then, so that
/// the file can neither be used nor replaced.
pub(crate) fn check_file(disk: &Disk, dentry: &Dentry, size: u64, data: &[u8]) -> Result {
    let want = file_attribute(size, Content::NoData, data)?;
    let mut have = KVec::from_elem(0, want.len(), GFP_KERNEL)?;
    read(disk, dentry, &mut have)?;
    // The zero point is not used, and any content but dirty will do.
    let same = |range: core::ops::Range<usize>| have.get(range.clone()) == want.get(range);
    let content = have.get(FILE_HEADER - 1).copied();
    if same(0..8)
        && same(16..17)
        && same(FILE_HEADER..want.len())
        && content != Some(Content::Dirty as u8)
    {
        Ok(())
    } else {
        Err(ESTALE)
    }
}

/// Compares a volume's attribute with `data`: `ESTALE` if it is another volume's
/// (`cachefiles_check_volume_xattr()`).
pub(crate) fn check_volume(disk: &Disk, dentry: &Dentry, data: &[u8]) -> Result {
    let want = volume_attribute(data)?;
    let mut have = KVec::from_elem(0, want.len(), GFP_KERNEL)?;
    read(disk, dentry, &mut have)?;
    if have.as_slice() == want.as_slice() {
        Ok(())
    } else {
        Err(ESTALE)
    }
}

/// Stores a volume's attribute.
pub(crate) fn set_volume(disk: &Disk, dentry: &Dentry, data: &[u8]) -> Result {
    set(disk, dentry, &volume_attribute(data)?)
}

/// Stores an attribute's bytes. A failure of the disk is reported as such; a lack of space or
/// memory is not one.
pub(crate) fn set(disk: &Disk, dentry: &Dentry, bytes: &[u8]) -> Result {
    inject::write()
        .and_then(|()| xattr::set(&disk.mnt, dentry, NAME, bytes))
        .inspect_err(|&error| {
            if error != ENOMEM && error != ENOSPC && error != EDQUOT {
                disk.io_error(format_args!(
                    "Failed to set xattr with error {}",
                    error.to_errno()
                ));
            }
        })
}

fn volume_attribute(data: &[u8]) -> Result<KVec<u8>> {
    let mut bytes = KVec::with_capacity(4 + data.len(), GFP_KERNEL)?;
    bytes.extend_from_slice(&0u32.to_be_bytes(), GFP_KERNEL)?;
    bytes.extend_from_slice(data, GFP_KERNEL)?;
    Ok(bytes)
}

/// Fills `bytes` with the attribute, which must be just as long.
fn read(disk: &Disk, dentry: &Dentry, bytes: &mut [u8]) -> Result {
    match inject::read().and_then(|()| xattr::get(dentry, NAME, bytes)) {
        Ok(len) if len == bytes.len() => Ok(()),
        Ok(_) | Err(ERANGE | ENODATA) => Err(ESTALE),
        Err(error) => {
            if error == EIO {
                disk.io_error(format_args!("Failed to read xattr with error -5"));
            }
            Err(error)
        }
    }
}
