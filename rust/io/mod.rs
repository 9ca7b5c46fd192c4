// SPDX-License-Identifier: GPL-2.0

//! Reads between netfs and the cache files.
//!
//! The cache knows an iterator and a completion function, never pages: whoever asks for I/O holds
//! the pages until the completion was called, which happens exactly once, on every path.

pub(crate) mod prepare;
pub(crate) mod read;
