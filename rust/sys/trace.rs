// SPDX-License-Identifier: GPL-2.0

//! CacheFiles' trace events, as the kernel declares them: scripts know their names and fields.
//!
//! An object is its number here, 0 where there is none. Off, an event costs a call that returns.

use super::bindings;
use super::dentry::{Dentry, Dir};
use super::file::File;
use super::inode::Inode;
use super::mount::Mount;
use super::netfs::Source;
use kernel::error::{Error, Result};

macro_rules! choices {
    ($(#[$doc:meta])* $name:ident: $($choice:ident = $raw:ident,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[allow(missing_docs, reason = "the kernel's names")]
        pub(crate) enum $name { $($choice,)+ }

        impl $name {
            fn into_raw(self) -> core::ffi::c_uint {
                match self { $($name::$choice => bindings::$raw,)+ }
            }
        }
    };
}

choices! {
    /// What becomes of an object.
    Seen:
    New = cachefiles_obj_ref_trace_cachefiles_obj_new,
    GetRequest = cachefiles_obj_ref_trace_cachefiles_obj_get_ioreq,
    PutRequest = cachefiles_obj_ref_trace_cachefiles_obj_put_ioreq,
    PutDetach = cachefiles_obj_ref_trace_cachefiles_obj_put_detach,
    Commit = cachefiles_obj_ref_trace_cachefiles_obj_see_clean_commit,
    Delete = cachefiles_obj_ref_trace_cachefiles_obj_see_clean_delete,
    DropUnnamed = cachefiles_obj_ref_trace_cachefiles_obj_see_clean_drop_tmp,
    LookupCookie = cachefiles_obj_ref_trace_cachefiles_obj_see_lookup_cookie,
    LookupFailed = cachefiles_obj_ref_trace_cachefiles_obj_see_lookup_failed,
    WithdrawCookie = cachefiles_obj_ref_trace_cachefiles_obj_see_withdraw_cookie,
}

choices! {
    /// Why a file or directory is removed.
    Killed:
    Stale = fscache_why_object_killed_FSCACHE_OBJECT_IS_STALE,
    Weird = fscache_why_object_killed_FSCACHE_OBJECT_IS_WEIRD,
    Invalidated = fscache_why_object_killed_FSCACHE_OBJECT_INVALIDATED,
    Retired = fscache_why_object_killed_FSCACHE_OBJECT_WAS_RETIRED,
    Culled = fscache_why_object_killed_FSCACHE_OBJECT_WAS_CULLED,
    VolumeWeird = fscache_why_object_killed_FSCACHE_VOLUME_IS_WEIRD,
}

choices! {
    /// What an attribute says, or what became of setting it.
    Verdict:
    BadAux = cachefiles_coherency_trace_cachefiles_coherency_check_aux,
    Dirty = cachefiles_coherency_trace_cachefiles_coherency_check_dirty,
    BadSize = cachefiles_coherency_trace_cachefiles_coherency_check_objsize,
    Good = cachefiles_coherency_trace_cachefiles_coherency_check_ok,
    BadType = cachefiles_coherency_trace_cachefiles_coherency_check_type,
    BadXattr = cachefiles_coherency_trace_cachefiles_coherency_check_xattr,
    SetFailed = cachefiles_coherency_trace_cachefiles_coherency_set_fail,
    Set = cachefiles_coherency_trace_cachefiles_coherency_set_ok,
    VolumeBad = cachefiles_coherency_trace_cachefiles_coherency_vol_check_cmp,
    VolumeGood = cachefiles_coherency_trace_cachefiles_coherency_vol_check_ok,
    VolumeBadXattr = cachefiles_coherency_trace_cachefiles_coherency_vol_check_xattr,
    VolumeSetFailed = cachefiles_coherency_trace_cachefiles_coherency_vol_set_fail,
    VolumeSet = cachefiles_coherency_trace_cachefiles_coherency_vol_set_ok,
}

choices! {
    /// Why a file's size is changed.
    Trunc:
    Adjust = cachefiles_trunc_trace_cachefiles_trunc_dio_adjust,
    Expand = cachefiles_trunc_trace_cachefiles_trunc_expand_tmpfile,
    Shrink = cachefiles_trunc_trace_cachefiles_trunc_shrink,
}

choices! {
    /// What a range that is to be read was found to be.
    Found:
    AfterEof = cachefiles_prepare_read_trace_cachefiles_trace_read_after_eof,
    Hole = cachefiles_prepare_read_trace_cachefiles_trace_read_found_hole,
    Part = cachefiles_prepare_read_trace_cachefiles_trace_read_found_part,
    Data = cachefiles_prepare_read_trace_cachefiles_trace_read_have_data,
    NoData = cachefiles_prepare_read_trace_cachefiles_trace_read_no_data,
    NoFile = cachefiles_prepare_read_trace_cachefiles_trace_read_no_file,
    Nothing = cachefiles_prepare_read_trace_cachefiles_trace_read_seek_nxio,
    SeekError = cachefiles_prepare_read_trace_cachefiles_trace_read_seek_error,
}

choices! {
    /// What failed.
    Where:
    Fallocate = cachefiles_error_trace_cachefiles_trace_fallocate_error,
    GetXattr = cachefiles_error_trace_cachefiles_trace_getxattr_error,
    Link = cachefiles_error_trace_cachefiles_trace_link_error,
    Lookup = cachefiles_error_trace_cachefiles_trace_lookup_error,
    Mkdir = cachefiles_error_trace_cachefiles_trace_mkdir_error,
    NotifyChange = cachefiles_error_trace_cachefiles_trace_notify_change_error,
    Open = cachefiles_error_trace_cachefiles_trace_open_error,
    Read = cachefiles_error_trace_cachefiles_trace_read_error,
    RemoveXattr = cachefiles_error_trace_cachefiles_trace_remxattr_error,
    Rename = cachefiles_error_trace_cachefiles_trace_rename_error,
    Seek = cachefiles_error_trace_cachefiles_trace_seek_error,
    SetXattr = cachefiles_error_trace_cachefiles_trace_setxattr_error,
    Statfs = cachefiles_error_trace_cachefiles_trace_statfs_error,
    Tmpfile = cachefiles_error_trace_cachefiles_trace_tmpfile_error,
    Trunc = cachefiles_error_trace_cachefiles_trace_trunc_error,
    Unlink = cachefiles_error_trace_cachefiles_trace_unlink_error,
    Write = cachefiles_error_trace_cachefiles_trace_write_error,
}

/// `cachefiles_ref`. How many references there are is not known; at least one.
pub(crate) fn seen(object: u32, cookie: u32, why: Seen) {
    // SAFETY: Numbers only.
    unsafe { bindings::cfrs_trace_ref(object, cookie, 1, why.into_raw()) }
}

/// `cachefiles_lookup`, with what was found: an error, nothing, or something.
pub(crate) fn lookup(object: u32, dir: &Dir, found: Result<Option<&Dentry>>) {
    let found = match found {
        Ok(dentry) => dentry.map_or(core::ptr::null_mut(), Dentry::as_ptr),
        Err(error) => error.to_ptr(),
    };
    // SAFETY: The shim takes a valid dentry, null or an error.
    unsafe { bindings::cfrs_trace_lookup(object, dir.as_ptr(), found) }
}

/// `cachefiles_mkdir`.
pub(crate) fn mkdir(dir: &Dir, child: &Dentry) {
    // SAFETY: Both are positive.
    unsafe { bindings::cfrs_trace_mkdir(dir.as_ptr(), child.as_ptr()) }
}

/// `cachefiles_tmpfile`.
pub(crate) fn tmpfile(object: u32, backer: &Inode) {
    // SAFETY: The inode is valid; an object has a number.
    unsafe { bindings::cfrs_trace_tmpfile(object.max(1), backer.as_ptr()) }
}

/// `cachefiles_link`.
pub(crate) fn link(object: u32, backer: &Inode) {
    // SAFETY: The inode is valid; an object has a number.
    unsafe { bindings::cfrs_trace_link(object.max(1), backer.as_ptr()) }
}

/// `cachefiles_unlink`.
pub(crate) fn unlink(object: u32, victim: &Dentry, why: Killed) {
    // SAFETY: The dentry is positive.
    unsafe { bindings::cfrs_trace_unlink(object, victim.as_ptr(), why.into_raw()) }
}

/// `cachefiles_rename`.
pub(crate) fn rename(object: u32, victim: &Dentry, why: Killed) {
    // SAFETY: The dentry is positive.
    unsafe { bindings::cfrs_trace_rename(object, victim.as_ptr(), why.into_raw()) }
}

/// `cachefiles_coherency`.
pub(crate) fn coherency(object: u32, dentry: &Dentry, content: u8, verdict: Verdict) {
    let object = object.max(1);
    // SAFETY: The dentry is positive; an object has a number.
    unsafe { bindings::cfrs_trace_coherency(object, dentry.as_ptr(), content, verdict.into_raw()) }
}

/// `cachefiles_vol_coherency`.
pub(crate) fn volume_coherency(volume: u32, dentry: &Dentry, verdict: Verdict) {
    // SAFETY: The dentry is positive.
    unsafe { bindings::cfrs_trace_vol_coherency(volume, dentry.as_ptr(), verdict.into_raw()) }
}

/// A read that is being prepared, for `cachefiles_prep_read`.
pub(crate) struct Preparing {
    /// The object's number.
    pub(crate) object: u32,
    /// Where the read starts.
    pub(crate) start: u64,
    /// How long it has become.
    pub(crate) len: usize,
    /// Its flags.
    pub(crate) flags: usize,
    /// The number of the netfs's inode.
    pub(crate) netfs_inode: u64,
}

/// `cachefiles_prep_read`.
pub(crate) fn prep_read(read: &Preparing, file: Option<&File>, source: Source, found: Found) {
    let file = file.map_or(core::ptr::null_mut(), File::as_ptr);
    // SAFETY: The file is null or valid. CAST: Offsets and inode numbers keep their bits.
    unsafe {
        bindings::cfrs_trace_prep_read(
            read.object,
            file,
            read.start as i64,
            read.len,
            read.flags,
            source.into_raw(),
            found.into_raw(),
            read.netfs_inode as bindings::ino_t,
        )
    }
}

/// `cachefiles_read`.
pub(crate) fn read(object: u32, file: &File, start: u64, len: usize) {
    // SAFETY: The file is valid; an object has a number. CAST: The offset keeps its bits.
    unsafe { bindings::cfrs_trace_read(object.max(1), file.as_ptr(), start as i64, len) }
}

/// `cachefiles_write`.
pub(crate) fn write(object: u32, file: &File, start: u64, len: usize) {
    // SAFETY: As for `read`.
    unsafe { bindings::cfrs_trace_write(object.max(1), file.as_ptr(), start as i64, len) }
}

/// `cachefiles_trunc`.
pub(crate) fn trunc(object: u32, file: &File, from: u64, to: u64, why: Trunc) {
    // SAFETY: As for `read`.
    unsafe {
        bindings::cfrs_trace_trunc(
            object.max(1),
            file.as_ptr(),
            from as i64,
            to as i64,
            why.into_raw(),
        )
    }
}

/// `cachefiles_mark_active` and its sisters: `Some` tells whether the mark could be set, `None`
/// that it is gone.
pub(super) fn mark(object: u32, inode: &Inode, is_ours: Option<bool>) {
    // SAFETY: The inode is valid.
    unsafe { bindings::cfrs_trace_mark(object, inode.as_ptr(), is_ours.map_or(-1, i32::from)) }
}

/// `cachefiles_vfs_error`.
pub(crate) fn vfs_error(object: u32, backer: &Inode, error: Error, at: Where) {
    // SAFETY: The inode is valid.
    unsafe {
        bindings::cfrs_trace_vfs_error(object, backer.as_ptr(), error.to_errno(), at.into_raw())
    }
}

/// `cachefiles_vfs_error` of a file system that does not say how much is free.
pub(super) fn statfs_error(mnt: &Mount, error: Error) {
    // SAFETY: A mount's root stays as long as the mount, and so does the root's inode.
    unsafe {
        bindings::cfrs_trace_vfs_error(
            0,
            (*(*mnt.as_ptr()).mnt_root).d_inode,
            error.to_errno(),
            Where::Statfs.into_raw(),
        )
    }
}

/// `cachefiles_io_error`. May be called from an interrupt.
pub(crate) fn io_error(object: u32, file: &File, error: Error, at: Where) {
    // SAFETY: The file is valid, and with it its inode.
    unsafe {
        bindings::cfrs_trace_io_error(
            object,
            bindings::cfrs_file_inode(file.as_ptr()),
            error.to_errno(),
            at.into_raw(),
        )
    }
}

/// `cachefiles_ondemand_open`: an OPEN is being delivered, with this fd.
pub(crate) fn ondemand_open(object: u32, msg_id: u32, object_id: u32, fd: u32, flags: u32) {
    // SAFETY: Numbers only.
    unsafe { bindings::cfrs_trace_ondemand_open(object, msg_id, object_id, fd, flags) }
}

/// `cachefiles_ondemand_copen`: the daemon has answered an OPEN, with a size or a negative errno.
pub(crate) fn ondemand_copen(object: u32, msg_id: u32, len: i64) {
    // SAFETY: Numbers only.
    unsafe { bindings::cfrs_trace_ondemand_copen(object, msg_id, len) }
}

/// `cachefiles_ondemand_close`: a CLOSE was stored.
pub(crate) fn ondemand_close(object: u32, msg_id: u32, object_id: u32) {
    // SAFETY: Numbers only.
    unsafe { bindings::cfrs_trace_ondemand_close(object, msg_id, object_id) }
}

/// `cachefiles_ondemand_read`: a READ was stored. `object_id` is 0 while there is no fd.
pub(crate) fn ondemand_read(object: u32, msg_id: u32, object_id: u32, offset: u64, len: u64) {
    // SAFETY: Numbers only.
    unsafe { bindings::cfrs_trace_ondemand_read(object, msg_id, object_id, offset, len) }
}

/// `cachefiles_ondemand_cread`: the daemon has answered a READ.
pub(crate) fn ondemand_cread(object: u32, msg_id: u32) {
    // SAFETY: Numbers only.
    unsafe { bindings::cfrs_trace_ondemand_cread(object, msg_id) }
}

/// `cachefiles_ondemand_fd_write`: the daemon writes.
pub(crate) fn ondemand_fd_write(object: u32, file: &File, start: u64, len: usize) {
    // SAFETY: As for `read`.
    unsafe {
        bindings::cfrs_trace_ondemand_fd_write(object, file.as_ptr(), start as i64, len);
    }
}

/// `cachefiles_ondemand_fd_release`: the last reference to an fd is gone.
pub(crate) fn ondemand_fd_release(object: u32, object_id: u32) {
    // SAFETY: Numbers only. CAST: The kernel's event has it signed; ids are below `i32::MAX`.
    unsafe { bindings::cfrs_trace_ondemand_fd_release(object, object_id as i32) }
}
