// SPDX-License-Identifier: GPL-2.0

//! Work that is prepared where it may fail and done later, by a worker, where it may not.
//!
//! Never here: who wants it done.

use super::bindings;
use super::only::Only;
use core::sync::atomic::AtomicBool;
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLock};
use kernel::workqueue::Queue;
use kernel::workqueue::{impl_has_work, Work, WorkItem};
use kernel::{new_spinlock, new_work};

/// The module's workers: there from module entry to module exit. Dropping this waits for them.
///
/// # Invariants
///
/// There is one at most, and the queue exists while it does.
pub(crate) struct Workers {
    _only: Only,
}

/// Whether there are [`Workers`].
static ARE_STARTED: AtomicBool = AtomicBool::new(false);

impl Workers {
    /// Starts them; `EBUSY` if there are some.
    pub(crate) fn start() -> Result<Self> {
        let only = Only::claim(&ARE_STARTED)?;
        // SAFETY: There is no queue yet.
        if !unsafe { bindings::cfrs_start_workers() } {
            return Err(ENOMEM);
        }
        // INVARIANT: Just made, as the only ones.
        Ok(Workers { _only: only })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // SAFETY: The queue exists by the type invariant, and module exit, or its failed entry,
        // drops this when nobody can queue anything any more.
        unsafe { bindings::cfrs_stop_workers() }
    }
}

/// What a worker does, once, with what it was waiting for. May sleep.
pub(crate) trait Job: Send + 'static {
    /// What it was waiting for.
    type Input: Send + 'static;

    /// Does it.
    fn run(self, input: Self::Input);
}

/// A job that can be handed to a worker from any context and without memory.
///
/// The job is dropped undone if nobody starts it. That it has been done is for its owner to wait for;
/// that the worker has left the module's text is for [`Workers`].
#[pin_data]
pub(crate) struct Deferred<J: Job> {
    #[pin]
    work: Work<Deferred<J>>,
    #[pin]
    job: SpinLock<Stage<J>>,
}

enum Stage<J: Job> {
    Prepared(J),
    Started(J, J::Input),
    Taken,
}

impl_has_work! {
    impl{J: Job} HasWork<Self> for Deferred<J> { self.work }
}

impl<J: Job> Deferred<J> {
    /// Prepares a job.
    pub(crate) fn new(job: J) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Deferred {
                work <- new_work!("Deferred::work"),
                job <- new_spinlock!(Stage::Prepared(job), "Deferred::job"),
            }),
            GFP_KERNEL,
        )
    }

    /// Has a worker do it. Only the first call counts.
    pub(crate) fn start(self: Arc<Self>, input: J::Input) {
        {
            let mut stage = self.job.lock();
            match core::mem::replace(&mut *stage, Stage::Taken) {
                Stage::Prepared(job) => *stage = Stage::Started(job, input),
                other => {
                    *stage = other;
                    return;
                }
            }
        }
        // SAFETY: Jobs are started by sessions, of which there are none before the module's entry has
        // started the workers or after its exit has removed the device.
        let queue = unsafe { Queue::from_raw(bindings::cfrs_workers()) };
        // It is not on the queue yet: nobody else came through above.
        let _ = queue.enqueue(self);
    }
}

impl<J: Job> WorkItem for Deferred<J> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let stage = core::mem::replace(&mut *this.job.lock(), Stage::Taken);
        drop(this);
        if let Stage::Started(job, input) = stage {
            job.run(input);
        }
    }
}
