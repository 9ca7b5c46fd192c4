// SPDX-License-Identifier: GPL-2.0

//! A typed client of `/dev/cachefiles` in on-demand mode.
//!
//! Both protocols have one interface: a [`Device`] is told which one to speak, and what is done with
//! its requests is the same.
//!
//! Lives here: system calls with types around them, for daemons, tests and benchmarks alike: the
//! [`Device`], the [`Request`]s read from it, and the [`ObjectFd`] that comes with an OPEN.
//! [`protocol`] is the very source that the kernel module is built from.  Never here: where data
//! come from, threads, or a policy for errors: every one is handed on as the kernel gave it.
//!
//! ```no_run
//! use cachefiles_client::{CacheConfig, Device, Request};
//!
//! # fn main() -> std::io::Result<()> {
//! let device = Device::open()?;
//! device.configure(&CacheConfig::new("/var/cache/fscache"))?;
//! device.bind_ondemand()?;
//! let mut objects = std::collections::HashMap::new();
//! loop {
//!     device.wait(None)?;
//!     while let Some(request) = device.next_request()? {
//!         match request {
//!             Request::Open { msg_id, object_id, object, .. } => {
//!                 objects.insert(object_id, object);
//!                 device.open_reply(msg_id, Ok(1 << 20))?;
//!             }
//!             Request::Read { msg_id, object_id, offset, len } => {
//!                 if let Some(object) = objects.get(&object_id) {
//!                     object.write_all_at(&vec![0; len as usize], offset)?;
//!                     object.complete_read(msg_id)?;
//!                 }
//!             }
//!             Request::Close { object_id, .. } => drop(objects.remove(&object_id)),
//!         }
//!     }
//! }
//! # }
//! ```

// The pure files keep to the style of the kernel's edition, 2021.
#[path = "../../../rust/protocol/mod.rs"]
pub mod protocol;

/// What the kernel module knows of caches and a client can use.
#[path = "../../../rust/cache"]
pub mod cache {
    pub mod key;
    pub mod limits;
}

mod config;
mod device;
mod object;
mod raw;
mod request;

pub use config::CacheConfig;
pub use device::{Device, DEVICE_PATH};
pub use object::{ObjectFd, SeekFrom};
pub use protocol::message::{Layout, MSG_MAX};
pub use request::Request;
pub use rustix::io::Errno;
