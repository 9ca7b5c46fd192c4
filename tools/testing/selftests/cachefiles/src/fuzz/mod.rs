// SPDX-License-Identifier: GPL-2.0

//! A daemon that does whatever comes into its head, in several threads, while images over its
//! cache are mounted, read, and unmounted.
//!
//! Lives here: what it does, who reads meanwhile, what must hold all the same, and the counters.
//! Never here: how often and how long, which the group `fuzz` decides.
//!
//! **What must hold.**  Whatever a reader gets is what the daemon's blob has at that place.  So all
//! that the daemon writes is true, at the right place, however incomplete, late, or unasked for;
//! and it tells true sizes.  What it has not written must be an error: EIO, or ENOBUFS once nobody
//! serves the object any more.  One blob is an exception:
//! about that it lies, about its size too, and a reader of it may get truth, lie, or zero, byte by
//! byte, but no other blob's bytes.  No request is answered twice, or by an answer of the wrong
//! kind or through another object's fd.  Nobody waits for a daemon that is gone.
//!
//! **Seeds.**  Each thread draws from a generator of its own, made of the run's seed.  What it does
//! then depends also on what the kernel lets it see first; so a seed brings back the same kind of
//! run and not the same run.

mod actor;
mod answer;
mod device;
mod line;
mod object;
mod round;
mod session;
mod tally;
mod user;
mod world;

pub use round::{run_round, Plan};
pub use tally::Tally;
pub use world::World;
