// SPDX-License-Identifier: GPL-2.0

//! Which of the two protocols the cases of this process speak.
//!
//! Lives here: the choice, which helpers inherit.  Never here: what a protocol says; most cases
//! need not know, because the client's interface is the same.

use cachefiles_client::{Device, Layout};
use std::{env, io};

/// The variable that says it; mainline without it.
pub const VARIABLE: &str = "CACHEFILES_PROTOCOL";

/// The protocol.
pub fn spoken() -> Layout {
    match env::var(VARIABLE) {
        Ok(name) if name == Layout::V5.name() => Layout::V5,
        _ => Layout::Mainline,
    }
}

/// Opens the device, to speak it.
pub fn open_device() -> io::Result<Device> {
    Ok(Device::open()?.with_layout(spoken()))
}
