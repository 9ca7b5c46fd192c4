// SPDX-License-Identifier: GPL-2.0

//! The error-injection switch: `/proc/sys/cachefiles/error_injection`, where the kernel has it
//! configured. Bit 0 makes writes fail with `ENOSPC`, bit 1 makes everything fail with `EIO`.

use core::sync::atomic::{AtomicU32, Ordering};
use kernel::prelude::*;

/// What the switch is set to.
pub(crate) static STATE: AtomicU32 = AtomicU32::new(0);

const NO_SPACE: u32 = 1;
const IO_ERROR: u32 = 2;

/// Before a read of the backing file system.
pub(crate) fn read() -> Result {
    match STATE.load(Ordering::Relaxed) & IO_ERROR {
        0 => Ok(()),
        _ => Err(EIO),
    }
}

/// Before anything that takes space.
pub(crate) fn write() -> Result {
    read()?;
    match STATE.load(Ordering::Relaxed) & NO_SPACE {
        0 => Ok(()),
        _ => Err(ENOSPC),
    }
}

/// Before anything that frees space.
pub(crate) fn remove() -> Result {
    read()
}
