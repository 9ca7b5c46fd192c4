// SPDX-License-Identifier: GPL-2.0

//! The on-demand half of an object: its keys, its state, its requests and where its data goes.

use super::queue::{edit, Linked, Links, Queue};
use super::request::Request;
use super::state::{Read, State};
use super::table::{RequestTable, Requests};
use crate::sys::completion::Completion;
use crate::sys::iov_iter::IovIter;
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

/// What waits for the end of an object's first OPEN.
pub(crate) trait Opener: Send + Sync {
    /// The OPEN is over: with the size of the object, or without. Called once, from any context that
    /// the table is used in; it does not sleep.
    fn opened(self: Arc<Self>, result: Result<u64>);
}

/// Which list an object is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// None: nothing of it can be delivered.
    Idle,
    /// The one of objects that have something to deliver.
    Ready,
    /// The one of objects whose OPEN waits for the daemon to have room for an fd.
    Parked,
}

/// What of an object is under `reqs_lock`.
pub(super) struct Demand {
    /// What the daemon knows of it.
    pub(super) state: State,
    /// READs that are to be delivered, in turn.
    pub(super) unread: Queue<Request>,
    /// READs that the daemon has.
    pub(super) taken: Queue<Request>,
    /// What waits for its first OPEN.
    pub(super) opener: Option<Arc<dyn Opener>>,
    /// Which list it is in.
    pub(super) place: Place,
    links: Links<DemandObject>,
}

/// An object as the daemon knows it.
#[pin_data]
pub(crate) struct DemandObject {
    /// The volume's key, without the NUL that the wire adds.
    pub(super) volume_key: KVec<u8>,
    /// The cookie's key.
    pub(super) cookie_key: KVec<u8>,
    /// Where data goes.
    pub(super) store: Arc<dyn Store>,
    /// The number that messages in the log name.
    pub(super) debug_id: u32,
    /// Its requests and how far they are.
    pub(super) demand: LockedBy<Demand, Requests>,
    /// Completed when it has gone, and the daemon knows or will never ask.
    #[pin]
    pub(super) gone: Completion,
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
        let demand = Demand {
            state: State::New,
            unread: Queue::default(),
            taken: Queue::default(),
            opener: None,
            place: Place::Idle,
            links: Links::default(),
        };
        Arc::pin_init(
            pin_init!(DemandObject {
                volume_key: volume,
                cookie_key: cookie,
                store,
                debug_id,
                demand: LockedBy::new(table.lock(), demand),
                gone <- Completion::new(),
            }),
            GFP_KERNEL,
        )
    }
}

impl DemandObject {
    /// The list of those READs of an object that are as far as this.
    pub(super) fn reads<'a>(
        of: &'a (&Self, Read),
        table: &'a mut Requests,
    ) -> &'a mut Queue<Request> {
        let demand = of.0.demand.access_mut(table);
        match of.1 {
            Read::Taken => &mut demand.taken,
            Read::Unread | Read::Again | Read::Over => &mut demand.unread,
        }
    }

    /// Puts the object into another list, or the same, at the tail.
    pub(super) fn set_place(self: &Arc<Self>, table: &mut Requests, to: Place) {
        let was = core::mem::replace(&mut self.demand.access_mut(table).place, to);
        if was != Place::Idle {
            edit(table, &was, Requests::objects, |objects, table| {
                objects.remove(table, self)
            });
        }
        if to != Place::Idle {
            edit(table, &to, Requests::objects, |objects, table| {
                objects.push(table, self.clone())
            });
        }
    }

    /// Puts the object into the list where it belongs now, if it is in another; true if there is more
    /// to read than before.
    pub(super) fn settle(self: &Arc<Self>, table: &mut Requests) -> bool {
        let demand = self.demand.access(table);
        let message = demand.state.next_message(!demand.unread.is_empty());
        match (message, demand.place) {
            (Some(_), Place::Idle) => {
                self.set_place(table, Place::Ready);
                true
            }
            (None, Place::Ready | Place::Parked) => {
                self.set_place(table, Place::Idle);
                false
            }
            _ => false,
        }
    }
}

impl Linked for DemandObject {
    fn links<'a>(&'a self, table: &'a mut Requests) -> &'a mut Links<Self> {
        &mut self.demand.access_mut(table).links
    }
}
