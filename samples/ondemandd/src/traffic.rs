// SPDX-License-Identifier: GPL-2.0

//! Whether the kernel is waiting for us right now.
//!
//! Lives here: the count of requests that are not answered yet, and waiting for it to be zero.
//! Never here: what a request is, or what is done while there is none.
//!
//! Prefetch runs only while the count is zero.  A request counts from the moment the dispatcher
//! has read it, so before any worker has taken it up, until its [`Ticket`] is dropped.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The requests under way, shared by the dispatcher, the workers and the prefetcher.
#[derive(Default)]
pub struct Traffic {
    state: Mutex<State>,
    changed: Condvar,
}

/// What the lock protects.
#[derive(Default)]
struct State {
    requests: usize,
    stopping: bool,
}

/// One request under way; it ends when this is dropped.
pub struct Ticket(Arc<Traffic>);

/// The daemon stops: waiting threads must give up.
#[derive(Debug, PartialEq, Eq)]
pub struct Stopping;

impl Traffic {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request.
    pub fn enter(self: &Arc<Self>) -> Ticket {
        self.lock().requests += 1;
        Ticket(Arc::clone(self))
    }

    /// Waits until no request is under way.
    pub fn wait_quiet(&self) -> Result<(), Stopping> {
        let busy = |s: &mut State| s.requests > 0 && !s.stopping;
        let state = self
            .changed
            .wait_while(self.lock(), busy)
            .unwrap_or_else(PoisonError::into_inner);
        if state.stopping {
            Err(Stopping)
        } else {
            Ok(())
        }
    }

    /// Waits until `deadline`, whatever the requests do.
    pub fn wait_until(&self, deadline: Instant) -> Result<(), Stopping> {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |s| !s.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        if state.stopping {
            Err(Stopping)
        } else {
            Ok(())
        }
    }

    /// Ends every wait, now and later.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.requests -= 1;
        if state.requests == 0 {
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    #[test]
    fn quiet_comes_with_the_last_answer() {
        let traffic = Arc::new(Traffic::default());
        assert_eq!(traffic.wait_quiet(), Ok(()));
        let (first, second) = (traffic.enter(), traffic.enter());
        let answered = AtomicBool::new(false);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                assert_eq!(traffic.wait_quiet(), Ok(()));
                assert!(answered.load(Ordering::SeqCst));
            });
            drop(first);
            thread::sleep(Duration::from_millis(20));
            answered.store(true, Ordering::SeqCst);
            drop(second);
            waiter.join().unwrap();
        });
    }

    #[test]
    fn stopping_ends_both_waits() {
        let traffic = Arc::new(Traffic::default());
        let _ticket = traffic.enter();
        let far = Instant::now() + Duration::from_secs(3600);
        thread::scope(|scope| {
            let quiet = scope.spawn(|| traffic.wait_quiet());
            let rate = scope.spawn(|| traffic.wait_until(far));
            traffic.stop();
            assert_eq!(quiet.join().unwrap(), Err(Stopping));
            assert_eq!(rate.join().unwrap(), Err(Stopping));
        });
    }
}
