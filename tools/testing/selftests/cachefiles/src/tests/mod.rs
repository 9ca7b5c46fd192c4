// SPDX-License-Identifier: GPL-2.0

//! The groups of cases; each is one kselftest.

use crate::ktap::Group;

mod anon_fd;
mod bugs_answer;
mod bugs_cache;
mod bugs_lifetime;
mod bugs_scene;
mod command;
mod cycle;
mod daemon_habits;
mod device;
mod failure;
mod image;
mod interop;
mod open_request;
mod persistence;
mod read_request;
mod space;

/// All groups, in the order in which they are run.
pub const GROUPS: &[&Group] = &[
    &persistence::FILL,
    &persistence::READ,
    &device::GROUP,
    &command::GROUP,
    &image::GROUP,
    &open_request::GROUP,
    &read_request::GROUP,
    &anon_fd::GROUP,
    &persistence::GROUP,
    &failure::GROUP,
    &daemon_habits::GROUP,
    &bugs_answer::GROUP,
    &bugs_lifetime::GROUP,
    &bugs_cache::GROUP,
    &interop::GROUP,
    &space::GROUP,
    &cycle::GROUP,
];
