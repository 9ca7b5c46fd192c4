// SPDX-License-Identifier: GPL-2.0

//! Work that is prepared where it may fail and done later, by a worker, where it may not.
//!
//! Never here: who wants it done.

use super::bindings;
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLock};
use kernel::workqueue::Queue;
use kernel::workqueue::{impl_has_work, Work, WorkItem};
use kernel::{new_spinlock, new_work};

/// Waits for all jobs that were started before.
pub(crate) fn wait_for_started() {
    // SAFETY: The queue exists as long as the module's code may run (`sys/module.rs`).
    unsafe { bindings::cfrs_flush_workers() }
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
/// Not started, the job is dropped undone. Its owner waits until it is done; module exit, until the
/// worker has left the module's text.
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
        // SAFETY: The queue exists as long as the module's code may run (`sys/module.rs`).
        let queue = unsafe { Queue::from_raw(bindings::cfrs_workers) };
        // It is not on the queue yet: one call alone comes through above.
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
