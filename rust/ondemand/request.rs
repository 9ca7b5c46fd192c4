// SPDX-License-Identifier: GPL-2.0

//! A request to the daemon, and the completion of a READ.

use super::object::DemandObject;
use super::queue::{edit, Linked, Links};
use super::state::{MsgId, Read};
use super::table::{RequestTable, Requests};
use crate::sys::completion::{Completion, Unmet};
use core::sync::atomic::{AtomicI32, Ordering};
use kernel::prelude::*;
use kernel::sync::{Arc, LockedBy};

/// What of a request changes under `reqs_lock`.
pub(super) struct Progress {
    /// The id of a READ in the table.
    pub(super) id: MsgId,
    /// How far a READ is, which says in which of its object's lists it is.
    pub(super) read: Read,
    links: Links<Request>,
}

/// What the table has under an id.
#[pin_data]
pub(super) struct Request {
    /// What it is about.
    pub(super) object: Arc<DemandObject>,
    /// First byte and number of bytes of what a READ asks for. None is the OPEN or the CLOSE of the
    /// object, as its state says.
    pub(super) range: Option<(u64, u64)>,
    /// How far it is.
    pub(super) progress: LockedBy<Progress, Requests>,
    #[pin]
    done: Completion,
    /// 0 or a negative errno. Written before `done` is completed, read after.
    result: AtomicI32,
}

impl Request {
    /// A request that is not stored yet, for `table`.
    pub(super) fn new(
        table: &RequestTable,
        object: &Arc<DemandObject>,
        range: Option<(u64, u64)>,
    ) -> Result<Arc<Self>> {
        let progress = Progress {
            id: 0,
            read: Read::Over,
            links: Links::default(),
        };
        Arc::pin_init(
            pin_init!(Request {
                object: object.clone(),
                range,
                progress: LockedBy::new(table.lock(), progress),
                done <- Completion::new(),
                result: AtomicI32::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// Changes how far a READ is, and with that the list of its object that it is in; returns how far
    /// it was.
    pub(super) fn set(self: &Arc<Self>, table: &mut Requests, to: Read) -> Read {
        let was = core::mem::replace(&mut self.progress.access_mut(table).read, to);
        if was != Read::Over {
            edit(
                table,
                &(&*self.object, was),
                DemandObject::reads,
                |reads, table| reads.remove(table, self),
            );
        }
        if to != Read::Over {
            edit(
                table,
                &(&*self.object, to),
                DemandObject::reads,
                |reads, table| reads.push(table, self.clone()),
            );
        }
        was
    }

    /// Lets the reader go that waits for this READ, which was just taken out of the table.
    pub(super) fn finish(&self, result: Result) {
        let errno = result.map_or_else(|error| error.to_errno(), |()| 0);
        self.result.store(errno, Ordering::Release);
        self.done.complete();
    }

    /// Waits for the answer, but no longer than the task lives, nor than `ms` milliseconds unless
    /// that is 0.
    pub(super) fn wait_killable(&self, ms: u32) -> Result<Result, Unmet> {
        self.done.wait_killable(ms).map(|()| self.result())
    }

    /// Waits for the answer when it is known to be under way.
    pub(super) fn wait(&self) -> Result {
        self.done.wait();
        self.result()
    }

    fn result(&self) -> Result {
        kernel::error::to_result(self.result.load(Ordering::Acquire))
    }
}

impl Linked for Request {
    fn links<'a>(&'a self, table: &'a mut Requests) -> &'a mut Links<Self> {
        &mut self.progress.access_mut(table).links
    }
}
