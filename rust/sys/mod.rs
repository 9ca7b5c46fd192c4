// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers for the kernel facilities that the `kernel` crate lacks, one file a facility.
//!
//! `unsafe` is here only, and no safe caller can make it undefined. This knows Linux, and of
//! CacheFiles its trace events, parameters and log prefix: no cache layout, no protocol, no policy.
//! What differs between kernel versions lives in the C shims.

#![allow(unsafe_code)]

pub(crate) mod aio;
pub(crate) mod anon_file;
pub(crate) mod block;
pub(crate) mod chardev;
pub(crate) mod completion;
pub(crate) mod creds;
pub(crate) mod dentry;
pub(crate) mod errno;
pub(crate) mod file;
pub(crate) mod fscache;
pub(crate) mod fscache_ops;
pub(crate) mod inode;
pub(crate) mod iov_iter;
pub(crate) mod log;
pub(crate) mod module;
pub(crate) mod mount;
pub(crate) mod netfs;
mod netfs_ops;
pub(crate) mod periodic;
pub(crate) mod poll;
pub(crate) mod service;
pub(crate) mod subrequest;
pub(crate) mod sysctl;
pub(crate) mod time;
pub(crate) mod trace;
pub(crate) mod transfer;
pub(crate) mod vec;
pub(crate) mod watch;
pub(crate) mod work;
pub(crate) mod xarray;
pub(crate) mod xattr;

/// What bindgen made of `bindings_helper.h`, over the kernel crate's own bindings.
#[allow(
    clippy::all,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
pub(crate) mod bindings {
    pub(crate) use kernel::bindings::*;
    use kernel::ffi;

    include!("bindings_generated.rs");
}

use kernel::error::{Error, Result};

/// Turns a count or a negative errno, as many C functions return it, into a [`Result`].
fn to_count(ret: isize) -> Result<usize> {
    match usize::try_from(ret) {
        Ok(count) => Ok(count),
        // CAST: A negative return of these functions is an errno, which fits an `i32`.
        Err(_) => Err(Error::from_errno(ret as i32)),
    }
}
