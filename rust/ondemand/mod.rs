// SPDX-License-Identifier: GPL-2.0

//! On-demand mode: how a miss becomes a request to the daemon and comes back.
//!
//! Nothing here knows where an object's data lies or what FS-Cache is: an object is its keys, its
//! state and a [`Store`] to write to.
//!
//! # Locks
//!
//! There is one lock, `reqs_lock` ([`RequestTable`]), a spinlock. It protects together: whether the
//! table is dead, the cursor of the next delivery, which requests are in the XArray and which are
//! new, and the state of every object. So a rule like "store the request only if the cache lives
//! and the object is not being dropped" is checked and acted upon under one hold of it.
//!
//! Order: `reqs_lock`, then the XArray's own lock, then a completion's or wait queue's. Nothing that
//! sleeps happens under `reqs_lock`: memory and numbers are reserved before it is taken, and what is
//! removed from the table is dropped after it is released.
//!
//! # Lifetimes
//!
//! A request is counted by the table, by the one who waits for it and by a delivery under way. An
//! object is counted by its requests, by the cache and by the anonymous file. None of them holds
//! another's owner, with one exception: the first OPEN holds whoever is told of its answer, and that
//! is the cache's object. Whoever removes the OPEN from the table ends this cycle: the answer, the
//! time limit, the end of the object, or that of the session.

pub(crate) mod anon_fd;
pub(crate) mod deliver;
pub(crate) mod object;
pub(crate) mod request;
#[allow(unreachable_pub, reason = "the host's exploration compiles it too")]
pub(crate) mod rules;
#[allow(unreachable_pub, reason = "the host's tests compile it too")]
pub(crate) mod state;
pub(crate) mod table;

pub(crate) use object::{DemandObject, Store};
pub(crate) use request::Answered;
pub(crate) use table::RequestTable;
