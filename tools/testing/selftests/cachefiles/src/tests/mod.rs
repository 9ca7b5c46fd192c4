// SPDX-License-Identifier: GPL-2.0

//! The groups of cases; each is one kselftest.

use crate::ktap::Group;

mod device;
mod image;

/// All groups, in the order in which they are run.
pub const GROUPS: &[&Group] = &[&device::GROUP, &image::GROUP];
