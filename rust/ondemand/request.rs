// SPDX-License-Identifier: GPL-2.0

//! A request to the daemon and its completion.

use super::object::DemandObject;
use super::rules::Ask;
use super::table::{RequestTable, Requests};
use crate::sys::completion::{Completion, Unmet};
use core::sync::atomic::{AtomicI64, Ordering};
use kernel::prelude::*;
use kernel::sync::{Arc, LockedBy};

/// Somebody who does not wait for an answer but is told of it.
pub(crate) trait Answered: Send + Sync {
    /// The request is over: with the size of the object, or without. Called from any context that
    /// the table is used in; it does not sleep. Only the first call counts.
    fn answered(self: Arc<Self>, result: Result<u64>);
}

/// What of a request changes under `reqs_lock`.
pub(super) struct Progress {
    /// It was taken to be delivered once, at least.
    pub(super) taken: bool,
    /// The next one in a list of [`Ended`] requests.
    next: Option<Arc<Request>>,
}

/// A request, from the moment it is stored until it is answered or fails.
#[pin_data]
pub(crate) struct Request {
    /// What it is about.
    pub(crate) object: Arc<DemandObject>,
    /// What is asked.
    pub(crate) ask: Ask,
    /// How far it is.
    pub(super) progress: LockedBy<Progress, Requests>,
    /// Who is told of the end, if it is not waited for.
    then: Option<Arc<dyn Answered>>,
    #[pin]
    done: Completion,
    /// Size or 0, or a negative errno. Written before `done` is completed, read after.
    result: AtomicI64,
}

impl Request {
    /// A request that is not stored yet, for `table`.
    pub(super) fn new(
        table: &RequestTable,
        object: &Arc<DemandObject>,
        ask: Ask,
        then: Option<Arc<dyn Answered>>,
    ) -> Result<Arc<Self>> {
        let progress = Progress {
            taken: false,
            next: None,
        };
        Arc::pin_init(
            pin_init!(Request {
                object: object.clone(),
                ask,
                progress: LockedBy::new(table.lock(), progress),
                then,
                done <- Completion::new(),
                result: AtomicI64::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// Lets the waiter go. Whoever removes the request from the table calls this, so that it happens
    /// once; but an OPEN whose object went is finished then, and once more when it leaves the table,
    /// which nobody hears.
    pub(super) fn finish(&self, result: Result<u64>) {
        if let Some(then) = &self.then {
            return then.clone().answered(result);
        }
        let value = match result {
            Ok(size) => i64::try_from(size).unwrap_or(i64::MAX),
            Err(error) => error.to_errno().into(),
        };
        self.result.store(value, Ordering::Release);
        self.done.complete();
    }

    /// Waits for the answer, but no longer than the task lives, nor than `ms` milliseconds unless
    /// that is 0.
    pub(super) fn wait_killable(&self, ms: u32) -> Result<Result<u64>, Unmet> {
        self.done.wait_killable(ms).map(|()| self.result())
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

/// Requests that were removed from the table and are still to be finished: linked through
/// themselves, because nothing can be allocated under the lock, and finished without the lock,
/// because their last reference may be dropped then.
#[must_use = "somebody waits for them"]
#[derive(Default)]
pub(super) struct Ended {
    first: Option<Arc<Request>>,
}

impl Ended {
    /// Adds one that was just removed.
    pub(super) fn push(&mut self, table: &mut Requests, request: Arc<Request>) {
        request.progress.access_mut(table).next = self.first.take();
        self.first = Some(request);
    }

    /// Takes one out.
    pub(super) fn pop(&mut self, table: &mut Requests) -> Option<Arc<Request>> {
        let request = self.first.take()?;
        self.first = request.progress.access_mut(table).next.take();
        Some(request)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}
