// SPDX-License-Identifier: GPL-2.0

//! Handing requests to the daemon: what a read of the device does.

use super::anon_fd::AnonFd;
use super::request::Request;
use super::rules::{self, Ask, Copied};
use super::state::ObjectId;
use super::table::RequestTable;
use crate::protocol::message::{Body, Layout, Message, MSG_MAX, NO_FD, OPEN_WANT_CACHE_SIZE};
use crate::sys::anon_file::Prepared;
use crate::sys::errno::EMSGSIZE;
use crate::sys::trace;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::uaccess::UserSliceWriter;

/// A request that was taken to be delivered: it is in the table, no longer new.
struct Picked {
    id: u32,
    request: Arc<Request>,
    /// The number that the message's header names.
    object_id: u32,
    /// The number of the object's fd in the daemon's table, if it has one.
    fd: u32,
    /// Whether it had been taken before.
    again: bool,
}

impl RequestTable {
    /// Gives the daemon the next request, in turn, and returns the message's length; 0 if there is
    /// none (`cachefiles_ondemand_daemon_read()`).
    ///
    /// `EMSGSIZE` if the message does not fit, `EFAULT` if it cannot be copied, `EMFILE`, `ENFILE` or
    /// `ENOMEM` if no fd can be made: the request is new again, in its next turn, and no fd was made.
    /// `keep` is held by a new anonymous fd.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        layout: Layout,
        keep: impl FnOnce() -> Arc<dyn Send + Sync>,
        out: UserSliceWriter,
    ) -> Result<usize> {
        let Some(picked) = self.pick(layout, out.len())? else {
            return Ok(0);
        };
        let delivered = match picked.request.ask {
            Ask::Open { .. } => self.deliver_open(&picked, layout, keep, out),
            _ => self.deliver_plain(&picked, layout, out),
        };
        if delivered.is_err() {
            self.put_back(&picked);
        }
        delivered
    }

    /// Takes the next request whose message fits into `room` bytes.
    fn pick(&self, layout: Layout, room: usize) -> Result<Option<Picked>> {
        // Whoever stores one now wakes the pollers afterwards.
        if !self.reqs.has_marked() {
            return Ok(None);
        }
        let mut table = self.lock().lock();
        let from = table.next_delivery;
        let found = match self.next_deliverable(&mut table, from) {
            None if from > 0 => self.next_deliverable(&mut table, 0),
            found => found,
        };
        let Some((id, request, object_id)) = found else {
            return Ok(None);
        };
        let picked = Picked {
            id,
            object_id,
            // Under the lock that says that it is this one: another OPEN may make another one.
            fd: request.object.fd.load(Ordering::Relaxed),
            again: request.progress.access(&table).taken,
            request,
        };
        let need = picked.message(0, 0).encoded_len(layout);
        if !need.is_some_and(|need| need <= room && need <= MSG_MAX) {
            // The table's own reference keeps the request; ours goes after the lock.
            drop(table);
            return Err(EMSGSIZE);
        }
        self.reqs.unmark(id);
        table.next_delivery = id.wrapping_add(1);
        picked.request.progress.access_mut(&mut table).taken = true;
        Ok(Some(picked))
    }

    /// Makes a picked request new again, unless it is over. Its turn has been: one for which there
    /// is no fd, again and again, does not hold up those that could be delivered.
    fn put_back(&self, picked: &Picked) {
        let mut table = self.lock().lock();
        if self.holds(&table, picked.id, &picked.request) {
            self.reqs.mark(picked.id);
            picked.request.progress.access_mut(&mut table).taken = picked.again;
        }
        drop(table);
        self.pollers.wake();
    }

    fn deliver_plain(
        &self,
        picked: &Picked,
        layout: Layout,
        mut out: UserSliceWriter,
    ) -> Result<usize> {
        let len = copy(&picked.message(picked.fd, 0), layout, &mut out)?;
        self.copied(picked, 0, NO_FD);
        Ok(len)
    }

    /// The message has been copied. `object_id` and `fd` are the numbers of an OPEN's file.
    fn copied(&self, picked: &Picked, object_id: ObjectId, fd: u32) -> Copied {
        let request = &picked.request;
        let mut table = self.lock().lock();
        let present = self.holds(&table, picked.id, request);
        let state = request.object.state.access_mut(&mut table);
        let copied = rules::copied(&request.ask, present, state, object_id);
        let removed = match copied {
            Copied::Over => self.reqs.remove(picked.id),
            Copied::Publish => {
                request.object.fd.store(fd, Ordering::Relaxed);
                None
            }
            Copied::Again => {
                self.reqs.mark(picked.id);
                None
            }
            Copied::Stays | Copied::Void => None,
        };
        drop(table);
        drop(removed);
        copied
    }

    fn deliver_open(
        self: &Arc<Self>,
        picked: &Picked,
        layout: Layout,
        keep: impl FnOnce() -> Arc<dyn Send + Sync>,
        mut out: UserSliceWriter,
    ) -> Result<usize> {
        let object = &picked.request.object;
        // Everything that can fail comes before the copy, and the copy before the fd is visible.
        let file = Prepared::<AnonFd>::new()?;
        let fd = file.fd();
        let data = AnonFd::new(self, object, layout, keep())?;
        let flags = open_flags(layout);
        let message = Message {
            object_id: data.id(),
            ..picked.message(fd, flags)
        };
        trace::ondemand_open(object.debug_id, picked.id, data.id(), fd, flags);
        let len = copy(&message, layout, &mut out)?;
        if self.copied(picked, data.id(), fd) != Copied::Publish {
            // A daemon that waits for an edge takes the 0 for the end, but there may be more.
            self.pollers.wake();
            return Ok(0);
        }
        file.publish(data);
        Ok(len)
    }
}

impl Picked {
    /// The message about the fd `fd`; `flags` are those of an OPEN.
    fn message(&self, fd: u32, flags: u32) -> Message<'_> {
        let object = &self.request.object;
        Message {
            id: self.id,
            object_id: self.object_id,
            body: match self.request.ask {
                Ask::Open { .. } => Body::Open {
                    volume_key: &object.volume_key,
                    cookie_key: &object.cookie_key,
                    fd,
                    flags,
                },
                Ask::Close(_) => Body::Close { fd },
                Ask::Read { offset, len } => Body::Read { offset, len, fd },
            },
        }
    }
}

/// Mainline says nothing in the flags; there every OPEN wants the size.
fn open_flags(layout: Layout) -> u32 {
    match layout {
        Layout::Mainline => 0,
        Layout::V5 => OPEN_WANT_CACHE_SIZE,
    }
}

fn copy(message: &Message<'_>, layout: Layout, out: &mut UserSliceWriter) -> Result<usize> {
    let mut buffer = [0; MSG_MAX];
    let bytes = message.encode(layout, &mut buffer).map_err(|_| EMSGSIZE)?;
    out.write_slice(bytes)?;
    Ok(bytes.len())
}
