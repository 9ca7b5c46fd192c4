// SPDX-License-Identifier: GPL-2.0

//! CacheFiles: a cache for network file systems on a mounted disk, and its on-demand mode.
//!
//! This is the crate root: the module's entry and exit, and the list of directories. Data flows one way:
//! `fscache` → `io`, `cache` → `ondemand` → `protocol`; the daemon comes in through `daemon`. `sys`
//! is what they all stand on, and the only one with code that the compiler cannot check.

#![deny(unsafe_code)]
#![deny(missing_docs)]
// Lints that the kernel's flags turn on from 7.2 on only.
#![warn(
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr
)]

mod cache;
mod daemon;
mod fscache;
mod io;
mod ondemand;
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the host's crates use all of it"
)]
mod protocol;
mod sys;

use daemon::device::CacheFilesDevice;
use kernel::prelude::*;
use sys::chardev::Registration;
use sys::log;
use sys::module::{Loaded, Root};

type Module = Loaded<CacheFiles>;

module! {
    type: Module,
    name: "cachefiles",
    author: "The cachefiles-rs developers",
    description: "Mounted-filesystem based cache",
    license: "GPL",
}

/// The loaded module.
struct CacheFiles {
    /// Dropped first: no daemon can open the device any more, and none has it open.
    _device: Pin<KBox<Registration<CacheFilesDevice>>>,
    #[cfg(CONFIG_CACHEFILES_ERROR_INJECTION)]
    _injection: Pin<KBox<sys::sysctl::Number>>,
}

impl Root for CacheFiles {
    fn init() -> Result<Self> {
        let this = CacheFiles {
            #[cfg(CONFIG_CACHEFILES_ERROR_INJECTION)]
            _injection: KBox::pin_init(
                sys::sysctl::Number::new(
                    kernel::c_str!("cachefiles"),
                    kernel::c_str!("error_injection"),
                    &cache::inject::STATE,
                ),
                GFP_KERNEL,
            )?,
            // Last: its first user may come at once.
            _device: KBox::pin_init(Registration::new(), GFP_KERNEL)?,
        };
        log::info!("Loaded");
        Ok(this)
    }
}

impl Drop for CacheFiles {
    fn drop(&mut self) {
        log::info!("Unloading");
        // The device cannot be opened any more.
        cache::abandoned::end();
    }
}
