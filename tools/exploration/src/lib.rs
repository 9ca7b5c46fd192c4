// SPDX-License-Identifier: GPL-2.0

//! Every interleaving of what can happen to the request table, tried on the host.
//!
//! The module's own `state.rs` decides; [`table`] and [`daemon`] do what the module's `table.rs` and
//! `deliver.rs` do with its decisions, and [`model`] says what may happen around them; [`invariant`]
//! says what must never come of it. [`rule`] can take one rule out, to see that the exploration would
//! notice; [`alike`] tells worlds apart, and [`scenario`] has what is explored. Never here: a rule of
//! our own.

pub mod alike;
pub mod daemon;
pub mod invariant;
pub mod model;
pub mod rule;
pub mod scenario;
pub mod table;
pub mod world;

/// The module's pure file.
#[path = "../../../rust/ondemand"]
pub mod ondemand {
    pub mod state;
}
