// SPDX-License-Identifier: GPL-2.0

//! The module's own switch for errors, the sysctl `cachefiles.error_injection`.
//!
//! Lives here: turning it on, and back off on every path.  Never here: what must come of it, or
//! the kernel's fault injection, which is in `fault`.

use anyhow::{Context, Result};
use std::fs;

/// The file; it is there with the module, if the kernel has CONFIG_CACHEFILES_ERROR_INJECTION.
pub const SWITCH: &str = "/proc/sys/cachefiles/error_injection";

/// Bit 0: what takes space fails with ENOSPC.
pub const NO_SPACE: u32 = 1;
/// Bit 1, which wins over the other: everything fails with EIO.
pub const IO_ERROR: u32 = 2;

/// The switch in somebody's hand; dropping it turns it off.
pub struct Injection(());

impl Injection {
    /// Turns it to this.
    pub fn of(value: u32) -> Result<Injection> {
        let injection = Injection(());
        injection.turn(value)?;
        Ok(injection)
    }

    /// Turns it to something else.
    pub fn turn(&self, value: u32) -> Result<()> {
        fs::write(SWITCH, value.to_string()).with_context(|| format!("writing {value} to {SWITCH}"))
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // It may have gone with the module.
        let _ = self.turn(0);
    }
}

/// Does this with the switch on.
pub fn with<T>(value: u32, what: impl FnOnce() -> T) -> Result<T> {
    let injection = Injection::of(value)?;
    let result = what();
    injection.turn(0)?;
    Ok(result)
}
