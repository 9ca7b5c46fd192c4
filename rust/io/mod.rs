// SPDX-License-Identifier: GPL-2.0

//! Reads and writes between netfs and the cache files.
//!
//! The cache knows an iterator and a completion function, never pages: whoever asks for I/O holds
//! the pages until the completion was called, which happens exactly once, on every path.

#[allow(unreachable_pub, reason = "the host's tests use it")]
mod fit;
pub(crate) mod occupancy;
pub(crate) mod prepare;
pub(crate) mod read;
pub(crate) mod write;
