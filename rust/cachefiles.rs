// SPDX-License-Identifier: GPL-2.0

//! CacheFiles: a cache for network file systems on a mounted disk, and its on-demand mode.
//!
//! This is the crate root: the module's entry and exit, and the list of rooms. Data flows one way:
//! `fscache` → `io`, `cache` → `ondemand` → `protocol`; the daemon comes in through `daemon`. `sys`
//! is what they all stand on, and the only room with code that the compiler cannot check.

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
use sys::aio::IoMemory;
use sys::chardev::Registration;
use sys::log;
use sys::work::Workers;

module! {
    type: CacheFiles,
    name: "cachefiles",
    author: "The cachefiles-rs developers",
    description: "Mounted-filesystem based cache",
    license: "GPL",
}

/// The loaded module.
struct CacheFiles {
    /// Dropped first: no daemon can open the device any more, and none has it open.
    device: Option<Pin<KBox<Registration<CacheFilesDevice>>>>,
    #[cfg(CONFIG_CACHEFILES_ERROR_INJECTION)]
    _injection: Pin<KBox<sys::sysctl::Number>>,
    /// When it is dropped, what a session has started is done, to the last instruction.
    _workers: Workers,
    /// Dropped last: nobody can be in the midst of an I/O.
    _io: IoMemory,
}

impl kernel::Module for CacheFiles {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // Before the device, whose first user may come at once.
        let io = IoMemory::new()?;
        let workers = Workers::start()?;
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
            device: Some(KBox::pin_init(Registration::new(), GFP_KERNEL)?),
            _workers: workers,
            _io: io,
        };
        log::info!("Loaded");
        Ok(this)
    }
}

impl Drop for CacheFiles {
    fn drop(&mut self) {
        log::info!("Unloading");
        self.device = None;
        sys::module::wait_for_stragglers();
    }
}
