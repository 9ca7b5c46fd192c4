// SPDX-License-Identifier: GPL-2.0

//! On-demand mode: how a miss becomes a request to the daemon and comes back.
//!
//! Nothing here knows where an object's data lies or what FS-Cache is: an object is its keys, its
//! state, its requests and a [`Store`] to write to.
//!
//! # Locks
//!
//! There is one lock, `reqs_lock` ([`RequestTable`]), a spinlock. It protects together: whether the
//! table is dead, the state and the READs of every object, which objects have something to deliver,
//! and which requests are in the XArray. So a rule like "store the request only if the object is not
//! being dropped" is checked and acted upon under one hold of it. An event costs what its own object has
//! pending; only `restore` and the end of the cache go through all.
//!
//! Order: `reqs_lock`, then the XArray's own lock, then a completion's or wait queue's. Nothing that
//! sleeps happens under `reqs_lock`: memory and numbers are reserved before it is taken, lists are
//! linked through what is in them, and what is removed is dropped, and its waiter woken, after it is
//! released (`Ended`).
//!
//! # Lifetimes
//!
//! A request is counted by the table, by the task that waits for it and by a delivery under way. An
//! object is counted by its requests, by the cache and by the anonymous file. None of them holds
//! another's owner, with one exception: until its first OPEN is over, an object holds its [`Opener`],
//! and that is the cache's object. What ends the OPEN ends this cycle: the answer, the time limit, the
//! end of the object, or that of the session.
//!
//! With each fd the daemon gets, the table stores a request that is used when the fd's end is near: as
//! the object's CLOSE, or as its next OPEN. So neither can fail for want of memory.

pub(crate) mod anon_fd;
pub(crate) mod deliver;
pub(crate) mod object;
mod queue;
mod request;
#[allow(unreachable_pub, reason = "the host's exploration compiles it too")]
pub(crate) mod state;
pub(crate) mod table;

pub(crate) use object::{DemandObject, Opener, Store};
pub(crate) use table::RequestTable;
