// SPDX-License-Identifier: GPL-2.0

//! All that reads and writes the data of cache files: for a netfs, and for the daemon.
//!
//! The cache knows an iterator and a completion function, never pages: the netfs holds the pages
//! until the completion was called, which happens exactly once, on every path.

mod fill;
#[allow(unreachable_pub, reason = "the host's tests use it")]
mod fit;
pub(crate) mod occupancy;
pub(crate) mod prepare;
pub(crate) mod read;
pub(crate) mod write;
