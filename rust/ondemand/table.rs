// SPDX-License-Identifier: GPL-2.0

//! The request table: what the daemon was asked and has not answered.
//!
//! A request is in the table from the moment it is stored until it is answered, fails, or nobody
//! wants it any more; removing it is what entitles to finish it. Delivery is in `deliver.rs`.

use super::farewell::Farewell;
use super::object::DemandObject;
use super::request::{Ask, Request};
use super::state::{Answered, ObjectId, Released, State, WantOpen, WantRead};
use crate::protocol::command::CopenReply;
use crate::sys::completion::{is_dying, Killed};
use crate::sys::errno::{EBADFD, ESTALE};
use crate::sys::log;
use crate::sys::poll::PollQueue;
use crate::sys::xarray::XArray;
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
    /// Readers that were failed because the daemon went.
    #[pin]
    farewell: Farewell,
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
            farewell <- Farewell::new(),
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

    /// Whether the cache is dead: nothing can be asked any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.reqs_lock.lock().dead
    }

    /// Has the daemon take an fd for `object` and waits for its answer, the object's size; `None`
    /// if it has one already (`cachefiles_ondemand_init_object()`).
    pub(crate) fn open(&self, object: &Arc<DemandObject>) -> Result<Option<u64>> {
        let request = Request::new(object, Ask::Open { known_size: None })?;
        let slot = self.reqs.reserve()?;
        let id = {
            let mut table = self.reqs_lock.lock();
            if table.dead {
                return Err(EIO);
            }
            match object.state.access_mut(&mut table).want_open() {
                WantOpen::Already => return Ok(None),
                WantOpen::Never => return Err(EIO),
                WantOpen::Send => {}
            }
            match slot.fill(request.clone(), true) {
                Ok(id) => id,
                Err(given_back) => {
                    object.state.access_mut(&mut table).answer_open(false);
                    drop(table);
                    drop(given_back);
                    return Err(ENOMEM);
                }
            }
        };
        self.pollers.wake();
        self.wait(id, &request).map(Some)
    }

    /// Asks the daemon to store a range and waits until it says that it has
    /// (`cachefiles_ondemand_read()`). Success does not prove that the data is there.
    pub(crate) fn read(&self, object: &Arc<DemandObject>, offset: u64, len: u64) -> Result {
        if self.is_dead() {
            self.farewell.came_back();
            return Err(EIO);
        }
        if is_dying() {
            // Nobody would wait for the answer.
            return Err(EINTR);
        }
        let request = Request::new(object, Ask::Read { offset, len })?;
        let slot = self.reqs.reserve()?;
        let id = loop {
            {
                let mut table = self.reqs_lock.lock();
                if table.dead {
                    return Err(EIO);
                }
                match object.state.access_mut(&mut table).want_read() {
                    WantRead::Never => return Err(EIO),
                    WantRead::Reopen => {}
                    WantRead::Store => match slot.fill(request.clone(), true) {
                        Ok(id) => break id,
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
        let known_size = object.store.size();
        let request = Request::new(
            object,
            Ask::Open {
                known_size: Some(known_size),
            },
        )?;
        let slot = self.reqs.reserve()?;
        {
            let mut table = self.reqs_lock.lock();
            if table.dead {
                return Err(EIO);
            }
            if !object.state.access_mut(&mut table).reopen() {
                return Ok(());
            }
            if let Err(given_back) = slot.fill(request, true) {
                object.state.access_mut(&mut table).answer_open(false);
                drop(table);
                drop(given_back);
                return Err(ENOMEM);
            }
        }
        self.pollers.wake();
        Ok(())
    }

    fn wait(&self, id: u32, request: &Arc<Request>) -> Result<u64> {
        match request.wait_killable() {
            Ok(result) => result,
            Err(Killed) => {
                if let Some(removed) = self.take(id, request) {
                    drop(removed);
                    return Err(EINTR);
                }
                // Somebody else has removed it and is about to finish it.
                request.wait()
            }
        }
    }

    /// Removes `request` from under `id` if it is still the one there.
    fn take(&self, id: u32, request: &Arc<Request>) -> Option<Arc<Request>> {
        let mut table = self.reqs_lock.lock();
        if !self.holds(&table, id, request) {
            return None;
        }
        if matches!(request.ask, Ask::Open { .. }) {
            request
                .object
                .state
                .access_mut(&mut table)
                .answer_open(false);
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
        let (request, answered, result) = {
            let mut table = self.reqs_lock.lock();
            let request = self.reqs.get(id).ok_or(EINVAL)?;
            let state = request.object.state.access_mut(&mut table);
            let Ask::Open { known_size } = request.ask else {
                drop(table);
                return Err(EINVAL);
            };
            if !state.may_answer_open() {
                drop(table);
                return Err(EINVAL);
            }
            let result = match reply {
                Ok(CopenReply::Size(size)) => match known_size {
                    Some(known) if known != size => Err(ESTALE),
                    _ => Ok(size),
                },
                Ok(CopenReply::Error(errno)) => Err(Error::from_errno(-errno)),
                Ok(CopenReply::BadError(_)) => Err(EINVAL),
                Err(error) => Err(error),
            };
            let answered = state.answer_open(result.is_ok());
            drop(self.reqs.remove(id));
            (request, answered, result)
        };
        match answered {
            Answered::Open => request.finish(result),
            Answered::Failed { again, fd_gone } => {
                if again {
                    log::warn_limited!(
                        "object {:x}: the daemon did not reopen it; its reads fail",
                        request.object.debug_id
                    );
                    self.fail_reads(&request.object);
                }
                request.finish(if fd_gone { Err(EBADFD) } else { result });
            }
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
            let _table = self.reqs_lock.lock();
            let found = self
                .reqs
                .get(id)
                .filter(|request| request.is_read_of(object.unwrap_or(&request.object)));
            if found.is_some() {
                drop(self.reqs.remove(id));
            }
            found.ok_or(EINVAL)?
        };
        request.finish(Ok(0));
        Ok(())
    }

    /// Makes requests that a daemon took and did not answer new again, for its successor
    /// (`cachefiles_ondemand_restore()`). An OPEN whose fd somebody still holds is not lost.
    pub(crate) fn restore(&self) {
        let mut table = self.reqs_lock.lock();
        self.renew(&mut table, |request, state| match request.ask {
            Ask::Open { .. } => state.may_deliver_open(),
            _ => true,
        });
        drop(table);
        self.pollers.wake();
    }

    /// Marks as new all requests that `lost` accepts; tells whether there were any.
    fn renew(&self, table: &mut Requests, lost: impl Fn(&Request, &State) -> bool) -> bool {
        let mut any = false;
        let mut from = Some(0);
        // The references that the walk takes and drops are not the last: the table keeps its own
        // while `reqs_lock` is held.
        while let Some((id, request)) = from.and_then(|from| self.reqs.next(from)) {
            if lost(&request, request.object.state.access_mut(table)) {
                self.reqs.mark(id);
                any = true;
            }
            from = id.checked_add(1);
        }
        any
    }

    /// The anonymous fd `id` of `object` is gone (`cachefiles_ondemand_fd_release()`).
    pub(super) fn fd_released(&self, object: &Arc<DemandObject>, id: ObjectId) {
        let reads_wait = {
            let mut table = self.reqs_lock.lock();
            match object.state.access_mut(&mut table).fd_released(id) {
                Released::Nothing => false,
                // Reads that were delivered can no longer be answered through the fd: they are new
                // again, and wait for the object to be reopened.
                Released::Closed => self.renew(&mut table, |request, _| request.is_read_of(object)),
            }
        };
        // A CLOSE that nobody has read is pointless now; no further one can be stored.
        self.fail_matching(Ok(0), |request| request.ask == Ask::Close(id));
        if reads_wait && self.reopen(object).is_err() {
            self.fail_reads(object);
        }
    }

    /// The object goes away: whoever waits for it fails, and the daemon is told to close its fd
    /// (`cachefiles_ondemand_clean_object()`). Does not wait for the daemon.
    pub(crate) fn drop_object(&self, object: &Arc<DemandObject>) {
        let to_close = {
            let mut table = self.reqs_lock.lock();
            let state = object.state.access_mut(&mut table);
            state.drop_object();
            state.to_close()
        };
        self.fail_matching(Err(EIO), |request| Arc::ptr_eq(&request.object, object));
        let Some(id) = to_close else {
            return;
        };
        if self.store_close(object, id).is_err() {
            log::warn_limited!(
                "object {:x}: no memory to tell the daemon to close its fd",
                object.debug_id
            );
        }
    }

    fn store_close(&self, object: &Arc<DemandObject>, id: ObjectId) -> Result {
        let request = Request::new(object, Ask::Close(id))?;
        let slot = self.reqs.reserve()?;
        {
            let mut table = self.reqs_lock.lock();
            // The daemon may have closed it by itself meanwhile.
            if table.dead || object.state.access_mut(&mut table).to_close() != Some(id) {
                return Ok(());
            }
            if let Err(given_back) = slot.fill(request, true) {
                drop(table);
                drop(given_back);
                return Err(ENOMEM);
            }
        }
        self.pollers.wake();
        Ok(())
    }

    /// The cache is dead: nothing is stored any more, and every request fails with `EIO`
    /// (`cachefiles_flush_reqs()`).
    pub(crate) fn kill(&self) {
        self.reqs_lock.lock().dead = true;
        self.fail_matching(Err(EIO), |request| {
            if matches!(request.ask, Ask::Read { .. }) {
                self.farewell.expect_one();
            }
            true
        });
        self.pollers.wake();
    }

    /// Waits until the readers that `kill` has failed have seen it.
    pub(crate) fn wait_for_failed_readers(&self) {
        self.farewell.wait();
    }

    fn fail_reads(&self, object: &Arc<DemandObject>) {
        self.fail_matching(Err(EIO), |request| request.is_read_of(object));
    }

    /// Removes and finishes all requests that match. The caller has made sure, by a state or by
    /// `dead`, that no further one can be stored.
    fn fail_matching(&self, result: Result<u64>, matches: impl Fn(&Request) -> bool) {
        let mut from = Some(0);
        while let Some((id, request)) = from.and_then(|from| self.reqs.next(from)) {
            if matches(&request) {
                let removed = {
                    let mut table = self.reqs_lock.lock();
                    if self.holds(&table, id, &request) {
                        if matches!(request.ask, Ask::Open { .. }) {
                            request
                                .object
                                .state
                                .access_mut(&mut table)
                                .answer_open(false);
                        }
                        self.reqs.remove(id)
                    } else {
                        None
                    }
                };
                if let Some(removed) = removed {
                    removed.finish(result);
                }
            }
            from = id.checked_add(1);
        }
    }

    /// Whether a read of the device would return a message.
    pub(crate) fn has_deliverable(&self) -> bool {
        let mut table = self.reqs_lock.lock();
        self.next_deliverable(&mut table, 0).is_some()
    }

    /// The first new request at `from` or later that may go to the daemon now.
    pub(super) fn next_deliverable(
        &self,
        table: &mut Requests,
        from: u32,
    ) -> Option<(u32, Arc<Request>)> {
        let mut from = Some(from);
        while let Some((id, request)) = from.and_then(|from| self.reqs.next_marked(from)) {
            if may_deliver(&request, table) {
                return Some((id, request));
            }
            from = id.checked_add(1);
        }
        None
    }
}

/// Whether the state of its object lets `request` go to the daemon now.
fn may_deliver(request: &Request, table: &mut Requests) -> bool {
    let state: &State = request.object.state.access_mut(table);
    match request.ask {
        Ask::Open { .. } => state.may_deliver_open(),
        Ask::Close(_) => true,
        Ask::Read { .. } => state.may_deliver_read().is_some(),
    }
}
