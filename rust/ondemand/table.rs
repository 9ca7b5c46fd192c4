// SPDX-License-Identifier: GPL-2.0

//! The request table: what the daemon was asked and has not answered, and what is to be delivered.
//!
//! Every event goes through [`RequestTable::happen`], which asks `state.rs` what it means and does it.
//! Delivery is in `deliver.rs`.

use super::object::{DemandObject, Opener, Place};
use super::queue::Queue;
use super::request::Request;
use super::state::{Event, MsgId, ObjectId, Read, Reads, State};
use crate::protocol::command::CopenReply;
use crate::sys::completion::{is_dying, Completion, Unmet};
use crate::sys::errno::{EBADFD, ETIMEDOUT};
use crate::sys::log;
use crate::sys::poll::PollQueue;
use crate::sys::trace;
use crate::sys::xarray::XArray;
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLock};

/// How long an object that goes away waits for a daemon that reads nothing, in milliseconds.
const PATIENCE: u32 = 5000;

/// What `reqs_lock` protects besides the contents of the XArray and each object's `Demand`.
pub(crate) struct Requests {
    /// No request is stored any more.
    dead: bool,
    /// Objects that have something to deliver. One that is served goes to the tail.
    pub(super) ready: Queue<DemandObject>,
    /// Objects whose OPEN could not be delivered for want of an fd.
    pub(super) parked: Queue<DemandObject>,
    /// How many messages the daemon has read; goes round.
    read: u32,
    /// An object has waited in vain for it to read one, and it has read none since.
    hangs: bool,
}

impl Requests {
    /// The daemon has read a message.
    pub(super) fn was_read(&mut self) {
        self.read = self.read.wrapping_add(1);
        self.hangs = false;
    }

    /// The list of objects whose place is `place`.
    pub(super) fn objects<'a>(
        place: &Place,
        table: &'a mut Requests,
    ) -> &'a mut Queue<DemandObject> {
        match place {
            Place::Parked => &mut table.parked,
            Place::Idle | Place::Ready => &mut table.ready,
        }
    }
}

/// What is left to do once `reqs_lock` is released.
#[derive(Default)]
#[must_use = "tasks wait for it"]
pub(super) struct Ended {
    /// Requests that were removed from the table. The readers of those that are READs are told.
    requests: Queue<Request>,
    /// Who waited for the first OPEN.
    opener: Option<Arc<dyn Opener>>,
    /// An object that has gone.
    gone: Option<Arc<DemandObject>>,
    /// There are READs among them.
    fails_reads: bool,
    /// There is more to read than before.
    pub(super) wakes: bool,
}

/// The table of one session.
#[pin_data]
pub(crate) struct RequestTable {
    #[pin]
    reqs_lock: SpinLock<Requests>,
    /// Requests by message id. Changed only under `reqs_lock`, reservations aside. Ids go round, so
    /// that a late answer does not meet a successor.
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
        let requests = Requests {
            dead: false,
            ready: Queue::default(),
            parked: Queue::default(),
            read: 0,
            hangs: false,
        };
        pin_init!(Self {
            reqs_lock <- new_spinlock!(requests, "RequestTable::reqs_lock"),
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

    /// A request that is waited for from now on fails after `ms` milliseconds; 0: never.
    pub(crate) fn set_timeout(&self, ms: u32) {
        self.timeout.store(ms, Ordering::Relaxed);
    }

    /// Whether the cache is dead: nothing can be asked any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.reqs_lock.lock().dead
    }

    /// Does to `object` what `event` means in its state, and returns its new one; `None` if the event
    /// means nothing. Costs what the object has pending.
    pub(super) fn happen(
        &self,
        table: &mut Requests,
        object: &Arc<DemandObject>,
        event: Event,
        ended: &mut Ended,
    ) -> Option<State> {
        let demand = object.demand.access_mut(table);
        let before = demand.state;
        let (after, reads) = before.on(event)?;
        demand.state = after;
        if before.is_looked_up() && !after.is_looked_up() {
            ended.opener = demand.opener.take();
        }
        let freed = before
            .ids()
            .into_iter()
            .filter(|id| !after.ids().contains(id));
        for removed in freed.flatten().filter_map(|id| self.reqs.remove(id)) {
            ended.requests.push(table, removed);
        }
        match reads {
            Reads::Stay => {}
            Reads::Again => {
                while let Some(read) = object.demand.access(table).taken.first().cloned() {
                    read.set(table, Read::Again);
                }
            }
            Reads::Fail => {
                while let Some(read) = first_read(table, object) {
                    self.end_read(table, &read);
                    ended.requests.push(table, read);
                    ended.fails_reads = true;
                }
            }
        }
        if let State::Closing { fd, copying: false } = after {
            if !matches!(before, State::Closing { .. }) {
                trace::ondemand_close(object.debug_id, fd.next, fd.id);
            }
        }
        if after == State::Gone && before != State::Gone {
            ended.gone = Some(object.clone());
        }
        ended.wakes |= object.settle(table);
        Some(after)
    }

    /// Does something under `reqs_lock`, and then what is left to do; `told` is what the waiter for a
    /// first OPEN learns.
    pub(super) fn change<R>(
        &self,
        told: Result<u64>,
        what: impl FnOnce(&mut Requests, &mut Ended) -> R,
    ) -> R {
        let mut ended = Ended::default();
        let result = what(&mut self.reqs_lock.lock(), &mut ended);
        self.finish(ended, told);
        result
    }

    /// Does what is left to do; `told` is what the waiter for a first OPEN learns.
    pub(super) fn finish(&self, mut ended: Ended, told: Result<u64>) {
        if let Some(opener) = ended.opener {
            opener.opened(told);
        }
        while !ended.requests.is_empty() {
            let request = ended.requests.pop(&mut self.reqs_lock.lock());
            if let Some(request) = request {
                request.finish(Err(EIO));
            }
        }
        if let Some(object) = ended.gone {
            object.gone.complete();
        }
        if ended.wakes {
            self.pollers.wake();
        }
    }

    /// Has the daemon take an fd for `object`, which is new; `opener` is told the object's size, or
    /// why there is none (`cachefiles_ondemand_init_object()`). After an error it is not.
    pub(crate) fn open(&self, object: &Arc<DemandObject>, opener: Arc<dyn Opener>) -> Result {
        let request = Request::new(self, object, None)?;
        let slot = self.reqs.reserve()?;
        let mut ended = Ended::default();
        {
            let mut table = self.reqs_lock.lock();
            if table.dead || object.demand.access(&table).state != State::New {
                return Err(EIO);
            }
            let id = match slot.fill(request) {
                Ok(id) => id,
                Err(given_back) => {
                    drop(table);
                    drop(given_back);
                    return Err(ENOMEM);
                }
            };
            object.demand.access_mut(&mut table).opener = Some(opener);
            self.happen(&mut table, object, Event::Lookup(id), &mut ended);
        }
        self.finish(ended, Err(EIO));
        Ok(())
    }

    /// Waits until `opened`, which the [`Opener`] completes, but no longer than the task lives, nor
    /// than the daemon may take.
    pub(crate) fn wait_opened(&self, object: &Arc<DemandObject>, opened: &Completion) -> Result {
        match opened.wait_killable(self.timeout.load(Ordering::Relaxed)) {
            Ok(()) => return Ok(()),
            Err(Unmet::Killed) => return Err(EINTR),
            Err(Unmet::TimedOut) => {}
        }
        let expired = self.change(Err(ETIMEDOUT), |table, ended| {
            let [id, _] = object.demand.access(table).state.ids();
            self.happen(table, object, Event::Expired, ended).and(id)
        });
        if let Some(id) = expired {
            timed_out(object, id);
        }
        // It was answered now at the latest.
        opened.wait_killable(0).map_err(|_| EINTR)
    }

    /// Asks the daemon to store a range and waits until it says that it has
    /// (`cachefiles_ondemand_read()`). Success does not prove that the data is there.
    pub(crate) fn read(&self, object: &Arc<DemandObject>, offset: u64, len: u64) -> Result {
        if is_dying() {
            // The task would not wait for the answer.
            return Err(EINTR);
        }
        let request = Request::new(self, object, Some((offset, len)))?;
        let slot = self.reqs.reserve()?;
        self.change(Err(EIO), |table, ended| -> Result {
            let state = self.happen(table, object, Event::Miss, ended).ok_or(EIO)?;
            // What is given back can be dropped here: the task has another reference.
            let id = slot.fill(request.clone()).map_err(|_| ENOMEM)?;
            // Before it can be answered, which a trace shows after it.
            let fd = match state {
                State::Open(fd) => fd.id,
                _ => 0,
            };
            trace::ondemand_read(object.debug_id, id, fd, offset, len);
            request.progress.access_mut(table).id = id;
            request.set(table, Read::Unread);
            object.settle(table);
            ended.wakes = true;
            Ok(())
        })?;
        self.wait(&request)
    }

    fn wait(&self, request: &Arc<Request>) -> Result {
        let error = match request.wait_killable(self.timeout.load(Ordering::Relaxed)) {
            Ok(result) => return result,
            Err(Unmet::Killed) => EINTR,
            Err(Unmet::TimedOut) => ETIMEDOUT,
        };
        let (id, ended) = {
            let mut table = self.reqs_lock.lock();
            let id = request.progress.access(&table).id;
            (id, self.end_read(&mut table, request))
        };
        if !ended {
            // Another task is about to finish it.
            return request.wait();
        }
        if error == ETIMEDOUT {
            timed_out(&request.object, id);
        }
        Err(error)
    }

    /// Takes a READ out of the table; false if it is not there any more. This is what entitles to
    /// finish it.
    fn end_read(&self, table: &mut Requests, request: &Arc<Request>) -> bool {
        if request.set(table, Read::Over) == Read::Over {
            return false;
        }
        let id = request.progress.access(table).id;
        drop(self.reqs.remove(id));
        request.object.settle(table);
        true
    }

    /// The daemon's answer to an OPEN request (`cachefiles_ondemand_copen()`). An error is what the
    /// writer of the answer is told; the task that waits learns more.
    pub(crate) fn answer_open(&self, id: u64, reply: Result<CopenReply, Error>) -> Result {
        let id = MsgId::try_from(id).map_err(|_| EINVAL)?;
        let (size, refusal) = match reply {
            Ok(CopenReply::Size(size)) => (Some(size), EINVAL),
            Ok(CopenReply::Error(errno)) => (None, Error::from_errno(-errno)),
            Ok(CopenReply::BadError(_)) => (None, EINVAL),
            Err(error) => (None, error),
        };
        let mut ended = Ended::default();
        let request = self.reqs.get(id).ok_or(EINVAL)?;
        let object = &request.object;
        let known = object.store.size();
        let state = {
            let mut table = self.reqs_lock.lock();
            let answered = Event::Answered { id, size, known };
            let state = self.happen(&mut table, object, answered, &mut ended);
            if state.is_some() {
                // CAST: The trace has the bits of what was written.
                let told = size.map_or(refusal.to_errno().into(), |size| size as i64);
                trace::ondemand_copen(object.debug_id, id, told);
            }
            state.ok_or(EINVAL)?
        };
        let told = match (state, size) {
            (State::Open(_), Some(size)) => {
                object.store.accepted();
                Ok(size)
            }
            (State::Late(_), Some(size)) => {
                log::warn_limited!(
                    "object {:x}: the daemon opens it again with {} bytes, not {}; its reads fail",
                    object.debug_id,
                    size,
                    known
                );
                Err(EIO)
            }
            // The daemon has closed the fd already.
            (_, Some(_)) => Err(EBADFD),
            (_, None) => Err(refusal),
        };
        if told.is_err() && !matches!(state, State::Late(_)) && ended.fails_reads {
            log::warn_limited!(
                "object {:x}: the daemon did not reopen it; its reads fail",
                object.debug_id
            );
        }
        self.finish(ended, told);
        match reply {
            Err(error) => Err(error),
            Ok(CopenReply::BadError(_)) => Err(EINVAL),
            Ok(_) => Ok(()),
        }
    }

    /// The daemon says that the READ request `id` is done. It must be of `object`, where the
    /// answer came through the fd of one.
    pub(crate) fn answer_read(&self, object: Option<&Arc<DemandObject>>, id: u64) -> Result {
        let id = MsgId::try_from(id).map_err(|_| EINVAL)?;
        let request = self.reqs.get(id).ok_or(EINVAL)?;
        let own = object.map_or(true, |object| Arc::ptr_eq(&request.object, object));
        {
            let mut table = self.reqs_lock.lock();
            let read = request.progress.access(&table).read;
            if !read.may_be_answered(own) || !self.end_read(&mut table, &request) {
                return Err(EINVAL);
            }
        }
        trace::ondemand_cread(request.object.debug_id, id);
        request.finish(Ok(()));
        Ok(())
    }

    /// Makes requests that a daemon took and did not answer new again, for its successor
    /// (`cachefiles_ondemand_restore()`). An OPEN whose fd is still held is delivered again once it
    /// is released. Costs what is pending in all.
    pub(crate) fn restore(&self) {
        self.change(Err(EIO), |table, ended| {
            let mut from = Some(0);
            while let Some((id, object)) = from.and_then(|from| self.next_object(from)) {
                self.happen(table, &object, Event::Restored, ended);
                from = id.checked_add(1);
            }
            // The successor may have more room for fds.
            while unpark_one(table) {}
            ended.wakes = true;
        });
    }

    /// The OPENs for which the daemon had no fd can be delivered again: it may have some now.
    pub(crate) fn retry(&self) {
        self.change(Err(EIO), |table, ended| {
            while unpark_one(table) {
                ended.wakes = true;
            }
        });
    }

    /// The cache is dead: nothing is stored any more, and every request fails with `EIO`
    /// (`cachefiles_flush_reqs()`). Costs what is pending in all.
    pub(crate) fn kill(&self) {
        self.reqs_lock.lock().dead = true;
        let mut from = Some(0);
        while let Some((id, object)) = from.and_then(|from| self.next_object(from)) {
            self.change(Err(EIO), |table, ended| {
                self.happen(table, &object, Event::Died, ended);
            });
            from = id.checked_add(1);
        }
        self.pollers.wake();
    }

    /// The first object that has the id of an OPEN or a CLOSE at `from` or later, as every one has that
    /// has anything in the table.
    fn next_object(&self, from: MsgId) -> Option<(MsgId, Arc<DemandObject>)> {
        let mut from = Some(from);
        while let Some((id, request)) = from.and_then(|from| self.reqs.next(from)) {
            if request.range.is_none() {
                return Some((id, request.object.clone()));
            }
            from = id.checked_add(1);
        }
        None
    }

    /// The anonymous fd `fd` of `object` is gone (`cachefiles_ondemand_fd_release()`). READs that were
    /// delivered through it are delivered again, after a new OPEN.
    pub(super) fn fd_released(&self, object: &Arc<DemandObject>, fd: ObjectId) {
        self.change(Err(EIO), |table, ended| {
            let reads = first_read(table, object).is_some();
            self.happen(table, object, Event::Released { fd, reads }, ended);
            // There is room for one more.
            ended.wakes |= unpark_one(table);
        });
    }

    /// The object goes away: what waits for it fails, and the daemon is told to close its fd
    /// (`cachefiles_ondemand_clean_object()`). The second time, nothing happens.
    pub(crate) fn drop_object(&self, object: &Arc<DemandObject>) {
        self.change(Err(EIO), |table, ended| {
            self.happen(table, object, Event::Dropped, ended);
        });
    }

    /// Waits until an object that was dropped has gone: the daemon has read its CLOSE, or has closed its
    /// fd, or the table is dead. So an OPEN of the same keys comes after that. But not for longer than
    /// the daemon reads nothing, nor than it may take to answer an OPEN that it has read.
    pub(crate) fn wait_gone(&self, object: &Arc<DemandObject>) {
        let mut read = {
            let table = self.reqs_lock.lock();
            if table.hangs {
                return;
            }
            table.read
        };
        while let Err(Unmet::TimedOut) = object.gone.wait_killable(PATIENCE) {
            let mut table = self.reqs_lock.lock();
            let state = object.demand.access(&table).state;
            // Its turn comes if the daemon reads; but a copy may be stuck.
            if matches!(state, State::Closing { copying: false, .. }) && table.read != read {
                read = table.read;
                continue;
            }
            let closing = matches!(state, State::Closing { .. });
            table.hangs |= closing;
            drop(table);
            log::warn_limited!(
                "object {:x}: its file is closed before the daemon was told: in {} ms it {}",
                object.debug_id,
                PATIENCE,
                match closing {
                    true => "has not read the CLOSE",
                    false => "has not answered the OPEN",
                }
            );
            return;
        }
    }
}

/// A READ of the object.
fn first_read(table: &Requests, object: &Arc<DemandObject>) -> Option<Arc<Request>> {
    let demand = object.demand.access(table);
    demand.taken.first().or(demand.unread.first()).cloned()
}

/// The object that was parked first can be delivered again; false if none was.
pub(super) fn unpark_one(table: &mut Requests) -> bool {
    let Some(object) = table.parked.first().cloned() else {
        return false;
    };
    object.set_place(table, Place::Ready);
    true
}

fn timed_out(object: &DemandObject, id: MsgId) {
    log::warn_limited!(
        "object {:x}: the daemon has not answered request {} in time: it fails with ETIMEDOUT",
        object.debug_id,
        id
    );
}
