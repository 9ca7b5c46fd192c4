// SPDX-License-Identifier: GPL-2.0

//! A bound cache: its disk, its space, its volumes and its objects, as they lie on disk.
//!
//! ```text
//! <dir>/cache/I<volume key>/@<fan-out>/<D|S|T|E><cookie key>      a cached file
//! <dir>/graveyard/<time><count>                                   what user space may delete
//! ```
//! `key.rs` knows the names and `coherency.rs` the attributes; both are C's to the byte.
//! What the daemon is asked is the business of `ondemand/`, how netfs reads and writes that of `io/`.

pub(crate) mod abandoned;
pub(crate) mod backing;
pub(crate) mod bind;
#[allow(unreachable_pub, reason = "the host's tests use it too")]
pub(crate) mod blockmap;
pub(crate) mod coherency;
#[allow(unreachable_pub, reason = "the host's tests use it too")]
pub(crate) mod copies;
pub(crate) mod cull;
pub(crate) mod directory;
pub(crate) mod disk;
pub(crate) mod file;
pub(crate) mod inject;
pub(crate) mod invalidate;
#[allow(dead_code, unreachable_pub, reason = "the host's tests use all of it")]
pub(crate) mod key;
#[allow(dead_code, unreachable_pub, reason = "the host's tests use all of it")]
pub(crate) mod limits;
pub(crate) mod local_write;
pub(crate) mod lookup;
pub(crate) mod object;
pub(crate) mod partial;
mod probe;
pub(crate) mod unseen_writes;
#[allow(unreachable_pub, reason = "the host's tests use it too")]
pub(crate) mod validity;
pub(crate) mod volume;
pub(crate) mod withdraw;

use crate::ondemand::RequestTable;
use crate::protocol::message::Layout;
use crate::sys::periodic::Periodic;
use crate::sys::work::Deferred;
use crate::sys::xarray::XArray;
use abandoned::LastObjectGone;
use directory::Directory;
use disk::Disk;
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLock};
use object::Object;
use unseen_writes::UnseenWrites;

/// Data is read and written in blocks of this many bytes, which is also how far the daemon's data
/// counts as present.
pub(crate) const BLOCK: u64 = 4096;

/// `size` in whole blocks; `EFBIG` if that is no file offset any more.
pub(crate) fn whole_blocks(size: u64) -> Result<u64> {
    size.checked_next_multiple_of(BLOCK)
        .filter(|&size| i64::try_from(size).is_ok())
        .ok_or(EFBIG)
}

/// A cache in service (`struct cachefiles_cache`, the half of it that starts with `bind`).
#[pin_data]
pub(crate) struct Cache {
    /// Where live objects are.
    pub(crate) store: Directory,
    /// Where directories wait for user space to delete them.
    pub(crate) graveyard: Directory,
    /// How the daemon is spoken to about misses; `None` in the ordinary mode.
    pub(crate) on_demand: Option<Layout>,
    /// Which cookies may have been written to when the cache was not told.
    pub(crate) unseen: UnseenWrites,
    /// Objects in service, by a number of no meaning.
    #[pin]
    pub(crate) objects: XArray<Object>,
    /// Started when the last object goes, once the cache is abandoned.
    #[pin]
    when_empty: SpinLock<Option<Arc<Deferred<LastObjectGone>>>>,
    /// Looks now and then how much space others have left.
    _look: Periodic<Disk>,
    /// The file system that holds it all. Last, so that its mount outlives the directories.
    pub(crate) disk: Arc<Disk>,
}

impl Cache {
    /// The requests to the daemon.
    pub(crate) fn requests(&self) -> &Arc<RequestTable> {
        &self.disk.requests
    }
}
