// SPDX-License-Identifier: GPL-2.0

//! A request to the daemon and its completion.

use super::object::DemandObject;
use super::state::ObjectId;
use crate::sys::completion::{Completion, Killed};
use core::sync::atomic::{AtomicI64, Ordering};
use kernel::prelude::*;
use kernel::sync::Arc;

/// What the daemon is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// To take an fd and tell the size. `again`: the size is known, and nobody waits.
    Open {
        /// The size that the object has, where it was open before.
        known_size: Option<u64>,
    },
    /// To close the fd of this number.
    Close(ObjectId),
    /// To store this range.
    Read {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// A request, from the moment it is stored until it is answered or fails.
#[pin_data]
pub(crate) struct Request {
    /// What it is about.
    pub(crate) object: Arc<DemandObject>,
    /// What is asked.
    pub(crate) ask: Ask,
    #[pin]
    done: Completion,
    /// Size or 0, or a negative errno. Written before `done` is completed, read after.
    result: AtomicI64,
}

impl Request {
    /// A request that is not stored yet.
    pub(crate) fn new(object: &Arc<DemandObject>, ask: Ask) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Request {
                object: object.clone(),
                ask,
                done <- Completion::new(),
                result: AtomicI64::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether this is a READ of `object`.
    pub(crate) fn is_read_of(&self, object: &Arc<DemandObject>) -> bool {
        matches!(self.ask, Ask::Read { .. }) && Arc::ptr_eq(&self.object, object)
    }

    /// Lets the waiter go. Only whoever removed the request from the table calls this, so that it
    /// happens once.
    pub(super) fn finish(&self, result: Result<u64>) {
        let value = match result {
            Ok(size) => i64::try_from(size).unwrap_or(i64::MAX),
            Err(error) => error.to_errno().into(),
        };
        self.result.store(value, Ordering::Release);
        self.done.complete();
    }

    /// Waits for the answer, but no longer than the task lives.
    pub(super) fn wait_killable(&self) -> Result<Result<u64>, Killed> {
        self.done.wait_killable().map(|()| self.result())
    }

    /// Waits for the answer when it is known to be under way.
    pub(super) fn wait(&self) -> Result<u64> {
        self.done.wait();
        self.result()
    }

    fn result(&self) -> Result<u64> {
        let value = self.result.load(Ordering::Acquire);
        // CAST: A negative result is an errno, which fits an `i32`.
        u64::try_from(value).map_err(|_| Error::from_errno(value as i32))
    }
}
