// SPDX-License-Identifier: GPL-2.0

//! The on-demand half of an object: its keys, its state and where its data goes.

use super::state::State;
use super::table::{RequestTable, Requests};
use crate::protocol::message::NO_FD;
use crate::sys::iov_iter::IovIter;
use core::sync::atomic::AtomicU32;
use kernel::prelude::*;
use kernel::sync::{Arc, LockedBy};

/// Where the daemon's data goes: the object's cache file, behind the rules of the cache.
pub(crate) trait Store: Send + Sync {
    /// Stores what `from` holds at `at` and returns how much it took. `ENOBUFS` if there is no file
    /// (not yet, or no longer) or no space.
    ///
    /// `object` is the number that a trace names.
    fn write(&self, object: u32, at: u64, from: &mut IovIter<'_>) -> Result<usize>;
    /// The daemon has accepted the object: from now on it may write, and the file is there or under
    /// way.
    fn accepted(&self);
    /// Size of the netfs's file in bytes, as the daemon told it first.
    fn size(&self) -> u64;
    /// lseek(2) on the cache file.
    fn seek(&self, offset: i64, whence: i32) -> Result<u64>;
}

/// An object as the daemon knows it.
pub(crate) struct DemandObject {
    /// The volume's key, without the NUL that the wire adds.
    pub(crate) volume_key: KVec<u8>,
    /// The cookie's key.
    pub(crate) cookie_key: KVec<u8>,
    /// Where data goes.
    pub(crate) store: Arc<dyn Store>,
    /// The number that messages in the log name.
    pub(crate) debug_id: u32,
    /// The number that its fd has, or had last, in the daemon's table: v5's messages repeat it.
    /// Written under `reqs_lock`.
    pub(super) fd: AtomicU32,
    /// The life of its fd; under `reqs_lock`.
    pub(super) state: LockedBy<State, Requests>,
}

impl DemandObject {
    /// A new object that the daemon does not know yet.
    pub(crate) fn new(
        table: &RequestTable,
        volume_key: &[u8],
        cookie_key: &[u8],
        store: Arc<dyn Store>,
        debug_id: u32,
    ) -> Result<Arc<Self>> {
        let mut volume = KVec::with_capacity(volume_key.len(), GFP_KERNEL)?;
        volume.extend_from_slice(volume_key, GFP_KERNEL)?;
        let mut cookie = KVec::with_capacity(cookie_key.len(), GFP_KERNEL)?;
        cookie.extend_from_slice(cookie_key, GFP_KERNEL)?;
        Ok(Arc::new(
            DemandObject {
                volume_key: volume,
                cookie_key: cookie,
                store,
                debug_id,
                fd: AtomicU32::new(NO_FD),
                state: LockedBy::new(table.lock(), State::Closed),
            },
            GFP_KERNEL,
        )?)
    }
}
