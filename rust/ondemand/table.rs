// SPDX-License-Identifier: GPL-2.0

//! The request table: what the daemon was asked and has not answered.
//!
//! A request is in the table from the moment it is stored until it is answered, fails, or nobody
//! wants it any more; removing it is what entitles to finish it. Which of these is allowed when is
//! decided in `rules.rs`. Delivery is in `deliver.rs`.

use super::object::DemandObject;
use super::request::{Answered, Ended, Request};
use super::rules::{self, Ask, Event, Fate, OpenEnd, WantReopen};
use super::state::{ObjectId, WantOpen, WantRead};
use crate::protocol::command::CopenReply;
use crate::sys::completion::{is_dying, Completion, Unmet};
use crate::sys::errno::{EBADFD, ESTALE, ETIMEDOUT};
use crate::sys::log;
use crate::sys::poll::PollQueue;
use crate::sys::trace;
use crate::sys::xarray::XArray;
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLock};

/// What `reqs_lock` protects besides the contents of the XArray and the objects' states.
pub(crate) struct Requests {
    /// No request is stored any more; set before the table is emptied for good.
    pub(super) dead: bool,
    /// Where the search for the next delivery starts, so that none starves.
    pub(super) next_delivery: u32,
}

/// What an event did.
#[derive(Default)]
struct Happened {
    /// Some requests are new again.
    again: bool,
    /// To be failed once the lock is released.
    ended: Ended,
    /// Still in the table, but whoever waits for it is to be told that it failed.
    disowned: Option<Arc<Request>>,
}

/// The table of one session.
#[pin_data]
pub(crate) struct RequestTable {
    #[pin]
    reqs_lock: SpinLock<Requests>,
    /// Requests by message id; marked while new, that is, not delivered. Changed only under
    /// `reqs_lock`, reservations aside. Ids go round, so that a late answer does not meet a
    /// successor.
    #[pin]
    pub(super) reqs: XArray<Request>,
    /// The numbers of anonymous fds; reservations only.
    #[pin]
    ids: XArray<Request>,
    /// How long a request may go unanswered, in milliseconds; 0: for ever.
    timeout: AtomicU32,
    /// Those who poll the device.
    #[pin]
    pub(crate) pollers: PollQueue,
}

impl RequestTable {
    /// An empty table.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            reqs_lock <- new_spinlock!(
                Requests { dead: false, next_delivery: 0 },
                "RequestTable::reqs_lock"
            ),
            reqs <- XArray::new(0, u32::MAX),
            ids <- XArray::new(1, i32::MAX as u32),
            timeout: AtomicU32::new(0),
            pollers <- PollQueue::new(),
        })
    }

    /// The lock, for states that it protects.
    pub(super) fn lock(&self) -> &SpinLock<Requests> {
        &self.reqs_lock
    }

    /// A number for a new anonymous fd.
    pub(super) fn new_object_id(&self) -> Result<ObjectId> {
        Ok(self.ids.reserve()?.keep())
    }

    /// The anonymous fd of this number is gone.
    pub(super) fn free_object_id(&self, id: ObjectId) {
        self.ids.remove(id);
    }

    /// Whoever waits from now on lets a request fail after `ms` milliseconds; 0: never.
    pub(crate) fn set_timeout(&self, ms: u32) {
        self.timeout.store(ms, Ordering::Relaxed);
    }

    /// Whether the cache is dead: nothing can be asked any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.reqs_lock.lock().dead
    }

    /// Has the daemon take an fd for `object`, which is new; `then` is told the object's size, or why
    /// there is none (`cachefiles_ondemand_init_object()`). After an error it is not.
    pub(crate) fn open(&self, object: &Arc<DemandObject>, then: Arc<dyn Answered>) -> Result {
        let request = Request::new(self, object, Ask::Open { known_size: None }, Some(then))?;
        let slot = self.reqs.reserve()?;
        {
            let mut table = self.reqs_lock.lock();
            let dead = table.dead;
            if rules::want_open(dead, object.state.access_mut(&mut table)) != WantOpen::Send {
                return Err(EIO);
            }
            if let Err(given_back) = slot.fill(request, true) {
                rules::abandon(&given_back.ask, object.state.access_mut(&mut table));
                drop(table);
                drop(given_back);
                return Err(ENOMEM);
            }
        }
        self.pollers.wake();
        Ok(())
    }

    /// Waits until `opened`, which whoever [`open`](Self::open) tells completes, but no longer than
    /// the task lives, nor than the daemon may take.
    pub(crate) fn wait_opened(&self, object: &Arc<DemandObject>, opened: &Completion) -> Result {
        match opened.wait_killable(self.timeout.load(Ordering::Relaxed)) {
            Ok(()) => return Ok(()),
            Err(Unmet::Killed) => return Err(EINTR),
            Err(Unmet::TimedOut) => {}
        }
        if let Some((id, request)) = self.find_open(object) {
            if self.take(id, &request).is_some() {
                timed_out(object, id);
                request.finish(Err(ETIMEDOUT));
            }
        }
        // It was answered now at the latest.
        opened.wait_killable(0).map_err(|_| EINTR)
    }

    /// The first OPEN request for `object`, which somebody may be about to remove.
    fn find_open(&self, object: &Arc<DemandObject>) -> Option<(u32, Arc<Request>)> {
        let mut from = Some(0);
        while let Some((id, request)) = from.and_then(|from| self.reqs.next(from)) {
            if Arc::ptr_eq(&request.object, object)
                && request.ask == (Ask::Open { known_size: None })
            {
                return Some((id, request));
            }
            from = id.checked_add(1);
        }
        None
    }

    /// Asks the daemon to store a range and waits until it says that it has
    /// (`cachefiles_ondemand_read()`). Success does not prove that the data is there.
    pub(crate) fn read(&self, object: &Arc<DemandObject>, offset: u64, len: u64) -> Result {
        if self.is_dead() {
            return Err(EIO);
        }
        if is_dying() {
            // Nobody would wait for the answer.
            return Err(EINTR);
        }
        let request = Request::new(self, object, Ask::Read { offset, len }, None)?;
        let slot = self.reqs.reserve()?;
        let id = loop {
            {
                let mut table = self.reqs_lock.lock();
                let dead = table.dead;
                let state = object.state.access_mut(&mut table);
                match rules::want_read(dead, state) {
                    WantRead::Never => return Err(EIO),
                    WantRead::Reopen => {}
                    WantRead::Store => match slot.fill(request.clone(), true) {
                        Ok(id) => {
                            // Before it can be answered, which a trace shows after it.
                            let fd = state.may_deliver_read().unwrap_or(0);
                            trace::ondemand_read(object.debug_id, id, fd, offset, len);
                            break id;
                        }
                        Err(given_back) => {
                            drop(table);
                            drop(given_back);
                            return Err(ENOMEM);
                        }
                    },
                }
            }
            self.reopen(object)?;
        };
        self.pollers.wake();
        self.wait(id, &request).map(|_| ())
    }

    /// Stores an OPEN request for an object whose fd is gone. Nobody waits for it: reads wait for
    /// the object to be open.
    fn reopen(&self, object: &Arc<DemandObject>) -> Result {
        let known_size = Some(object.store.size());
        let request = Request::new(self, object, Ask::Open { known_size }, None)?;
        let slot = self.reqs.reserve()?;
        {
            let mut table = self.reqs_lock.lock();
            let dead = table.dead;
            match rules::want_reopen(dead, object.state.access_mut(&mut table)) {
                WantReopen::Never => return Err(EIO),
                WantReopen::Needless => return Ok(()),
                WantReopen::Store => {}
            }
            if let Err(given_back) = slot.fill(request, true) {
                rules::abandon(&given_back.ask, object.state.access_mut(&mut table));
                drop(table);
                drop(given_back);
                return Err(ENOMEM);
            }
        }
        self.pollers.wake();
        Ok(())
    }

    fn wait(&self, id: u32, request: &Arc<Request>) -> Result<u64> {
        let error = match request.wait_killable(self.timeout.load(Ordering::Relaxed)) {
            Ok(result) => return result,
            Err(Unmet::Killed) => EINTR,
            Err(Unmet::TimedOut) => ETIMEDOUT,
        };
        if self.take(id, request).is_none() {
            // Somebody else is about to finish it.
            return request.wait();
        }
        if error == ETIMEDOUT {
            timed_out(&request.object, id);
        }
        Err(error)
    }

    /// Removes `request`, for which nobody waits any longer, from under `id` if it is still the one
    /// there and nobody is about to finish it.
    fn take(&self, id: u32, request: &Arc<Request>) -> Option<Arc<Request>> {
        let mut table = self.reqs_lock.lock();
        if !self.holds(&table, id, request) {
            return None;
        }
        let state = request.object.state.access_mut(&mut table);
        if !rules::expire(&request.ask, state) {
            return None;
        }
        self.reqs.remove(id)
    }

    /// Whether `request` is the one under `id`.
    pub(super) fn holds(&self, _table: &Requests, id: u32, request: &Arc<Request>) -> bool {
        self.reqs
            .get(id)
            .is_some_and(|found| Arc::ptr_eq(&found, request))
    }

    /// The daemon's answer to an OPEN request (`cachefiles_ondemand_copen()`). An error is what the
    /// writer of the answer is told; the one who waits learns more.
    pub(crate) fn answer_open(&self, id: u64, reply: Result<CopenReply, Error>) -> Result {
        let id = u32::try_from(id).map_err(|_| EINVAL)?;
        let (size, refusal) = match reply {
            Ok(CopenReply::Size(size)) => (Some(size), EINVAL),
            Ok(CopenReply::Error(errno)) => (None, Error::from_errno(-errno)),
            Ok(CopenReply::BadError(_)) => (None, EINVAL),
            Err(error) => (None, error),
        };
        let (request, end, reads_end) = {
            let mut table = self.reqs_lock.lock();
            let request = self.reqs.get(id).ok_or(EINVAL)?;
            let state = request.object.state.access_mut(&mut table);
            let Some((end, reads_fail)) = rules::answer_open(&request.ask, state, size) else {
                drop(table);
                return Err(EINVAL);
            };
            drop(self.reqs.remove(id));
            // CAST: The trace has the bits of what was written.
            let told = size.map_or(refusal.to_errno().into(), |size| size as i64);
            trace::ondemand_copen(request.object.debug_id, id, told);
            let reads_end = if reads_fail {
                self.happen(&mut table, Event::NotReopened, Some(&request.object))
                    .ended
            } else {
                Ended::default()
            };
            (request, end, reads_end)
        };
        if end == OpenEnd::OtherSize {
            log::warn_limited!(
                "object {:x}: the daemon opens it again with {} bytes, not {}; its reads fail",
                request.object.debug_id,
                size.unwrap_or(0),
                request.object.store.size()
            );
        } else if !reads_end.is_empty() {
            log::warn_limited!(
                "object {:x}: the daemon did not reopen it; its reads fail",
                request.object.debug_id
            );
        }
        self.fail(reads_end);
        if let OpenEnd::Opened(_) = end {
            request.object.store.accepted();
        }
        request.finish(match end {
            OpenEnd::Opened(size) => Ok(size),
            OpenEnd::OtherSize => Err(ESTALE),
            OpenEnd::FdGone => Err(EBADFD),
            OpenEnd::Refused => Err(refusal),
            // It was told when the object went.
            OpenEnd::ObjectGone(_) => Err(EIO),
        });
        if let OpenEnd::ObjectGone(id) = end {
            self.close(&request.object, id);
        }
        self.pollers.wake();
        match reply {
            Err(error) => Err(error),
            Ok(CopenReply::BadError(_)) => Err(EINVAL),
            Ok(_) => Ok(()),
        }
    }

    /// The daemon says that the READ request `id` is done. It must be of `object`, where the
    /// answer came through the fd of one.
    pub(crate) fn answer_read(&self, object: Option<&Arc<DemandObject>>, id: u64) -> Result {
        let id = u32::try_from(id).map_err(|_| EINVAL)?;
        let request = {
            let mut table = self.reqs_lock.lock();
            let request = self.reqs.get(id).ok_or(EINVAL)?;
            let own = object.map_or(true, |object| Arc::ptr_eq(&request.object, object));
            let taken = request.progress.access_mut(&mut table).taken;
            if !rules::may_answer_read(&request.ask, own, taken) {
                drop(table);
                return Err(EINVAL);
            }
            drop(self.reqs.remove(id));
            request
        };
        trace::ondemand_cread(request.object.debug_id, id);
        request.finish(Ok(0));
        Ok(())
    }

    /// Makes requests that a daemon took and did not answer new again, for its successor
    /// (`cachefiles_ondemand_restore()`). An OPEN whose fd somebody still holds is delivered again
    /// once it is released.
    pub(crate) fn restore(&self) {
        let happened = {
            let mut table = self.reqs_lock.lock();
            self.happen(&mut table, Event::Restored, None)
        };
        self.fail(happened.ended);
        self.pollers.wake();
    }

    /// The anonymous fd `id` of `object` is gone (`cachefiles_ondemand_fd_release()`).
    pub(super) fn fd_released(&self, object: &Arc<DemandObject>, id: ObjectId) {
        let happened = {
            let mut table = self.reqs_lock.lock();
            let event = rules::fd_released(object.state.access_mut(&mut table), id);
            self.happen(&mut table, event, Some(object))
        };
        self.fail(happened.ended);
        // Only reads become new again.
        if happened.again && self.reopen(object).is_err() {
            let happened = {
                let mut table = self.reqs_lock.lock();
                let event = rules::reopen_failed(object.state.access_mut(&mut table));
                event.map(|event| self.happen(&mut table, event, Some(object)))
            };
            self.fail(happened.unwrap_or_default().ended);
        }
        // An OPEN that was restored while this fd was held can be delivered now.
        self.pollers.wake();
    }

    /// The object goes away: whoever waits for it fails, and the daemon is told to close its fd
    /// (`cachefiles_ondemand_clean_object()`). Does not wait for the daemon. The second time, nothing
    /// happens.
    pub(crate) fn drop_object(&self, object: &Arc<DemandObject>) {
        let (to_close, happened) = {
            let mut table = self.reqs_lock.lock();
            let dropped = rules::drop_object(object.state.access_mut(&mut table));
            let Some((to_close, event)) = dropped else {
                return;
            };
            (to_close, self.happen(&mut table, event, Some(object)))
        };
        self.fail(happened.ended);
        if let Some(request) = happened.disowned {
            request.finish(Err(EIO));
        }
        if let Some(id) = to_close {
            self.close(object, id);
        }
    }

    /// Tells the daemon to close the fd `id` of an object that is gone.
    fn close(&self, object: &Arc<DemandObject>, id: ObjectId) {
        if self.store_close(object, id).is_err() {
            log::warn_limited!(
                "object {:x}: no memory to tell the daemon to close its fd",
                object.debug_id
            );
        }
    }

    fn store_close(&self, object: &Arc<DemandObject>, id: ObjectId) -> Result {
        let request = Request::new(self, object, Ask::Close(id), None)?;
        let slot = self.reqs.reserve()?;
        {
            let mut table = self.reqs_lock.lock();
            let dead = table.dead;
            if !rules::wants_close(dead, object.state.access_mut(&mut table), id) {
                return Ok(());
            }
            match slot.fill(request, true) {
                Ok(msg_id) => trace::ondemand_close(object.debug_id, msg_id, id),
                Err(given_back) => {
                    drop(table);
                    drop(given_back);
                    return Err(ENOMEM);
                }
            }
        }
        self.pollers.wake();
        Ok(())
    }

    /// The cache is dead: nothing is stored any more, and every request fails with `EIO`
    /// (`cachefiles_flush_reqs()`).
    pub(crate) fn kill(&self) {
        let happened = {
            let mut table = self.reqs_lock.lock();
            table.dead = true;
            self.happen(&mut table, Event::Dead, None)
        };
        self.fail(happened.ended);
        self.pollers.wake();
    }

    /// Does to every request what `event`, which is about `object`, means for it.
    fn happen(
        &self,
        table: &mut Requests,
        event: Event,
        object: Option<&Arc<DemandObject>>,
    ) -> Happened {
        let mut happened = Happened::default();
        let mut from = Some(0);
        // The references that the walk takes and drops are not the last: the table, or then the
        // list, keeps its own while `reqs_lock` is held.
        while let Some((id, request)) = from.and_then(|from| self.reqs.next(from)) {
            let own = object.is_some_and(|object| Arc::ptr_eq(&request.object, object));
            match rules::fate(event, &request.ask, own) {
                Fate::Stays => {}
                Fate::Again => {
                    self.reqs.mark(id);
                    happened.again = true;
                }
                // An object has one OPEN at most.
                Fate::Disowned => happened.disowned = Some(request.clone()),
                Fate::Ends => {
                    rules::abandon(&request.ask, request.object.state.access_mut(table));
                    if let Some(removed) = self.reqs.remove(id) {
                        happened.ended.push(table, removed);
                    }
                }
            }
            from = id.checked_add(1);
        }
        happened
    }

    /// Finishes requests with `EIO` that were removed from the table.
    fn fail(&self, mut ended: Ended) {
        while !ended.is_empty() {
            let request = ended.pop(&mut self.reqs_lock.lock());
            if let Some(request) = request {
                request.finish(Err(EIO));
            }
        }
    }

    /// Whether a read of the device would return a message.
    pub(crate) fn has_deliverable(&self) -> bool {
        if !self.reqs.has_marked() {
            return false;
        }
        let mut table = self.reqs_lock.lock();
        self.next_deliverable(&mut table, 0).is_some()
    }

    /// The first new request at `from` or later that may go to the daemon now, and the number that
    /// its message names.
    pub(super) fn next_deliverable(
        &self,
        table: &mut Requests,
        from: u32,
    ) -> Option<(u32, Arc<Request>, ObjectId)> {
        let mut from = Some(from);
        while let Some((id, request)) = from.and_then(|from| self.reqs.next_marked(from)) {
            let state = request.object.state.access_mut(table);
            if let Some(object_id) = rules::may_deliver(&request.ask, state) {
                return Some((id, request, object_id));
            }
            from = id.checked_add(1);
        }
        None
    }
}

fn timed_out(object: &DemandObject, id: u32) {
    log::warn_limited!(
        "object {:x}: the daemon has not answered request {} in time: it fails with ETIMEDOUT",
        object.debug_id,
        id
    );
}
