// SPDX-License-Identifier: GPL-2.0

//! `/dev/cachefiles`: one session a daemon, and the commands it gives.
//!
//! What a command means for the cache is done in `cache/`, what an answer means in `ondemand/`.

pub(crate) mod commands;
pub(crate) mod device;
pub(crate) mod session;
