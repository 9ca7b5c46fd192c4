// SPDX-License-Identifier: GPL-2.0

//! The kernel module's pure files, on the host, to be tested: see `tests/`.
//!
//! Lives here: the same source files in the same places relative to one another.  Never here:
//! code of our own; what the tests compare with is theirs.

#[path = "../../../rust/protocol/mod.rs"]
pub mod protocol;

/// The pure half of `rust/cache/`.
#[path = "../../../rust/cache"]
pub mod cache {
    pub mod blockmap;
    #[allow(clippy::new_without_default, reason = "the module has no use for one")]
    pub mod copies;
    pub mod key;
    pub mod limits;
    pub mod validity;
}

/// The pure half of `rust/io/`.
#[path = "../../../rust/io"]
pub mod io {
    pub mod fit;
}
