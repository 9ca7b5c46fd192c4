// SPDX-License-Identifier: GPL-2.0

//! Handing requests to the daemon: what a read of the device does.

use super::anon_fd::AnonFd;
use super::object::{DemandObject, Place};
use super::request::Request;
use super::state::{Event, Fd, Message as Next, MsgId, Read};
use super::table::{Ended, RequestTable, Requests};
use crate::protocol::message::{Body, Layout, Message, MSG_MAX, OPEN_WANT_CACHE_SIZE};
use crate::sys::anon_file::Prepared;
use crate::sys::errno::EMSGSIZE;
use crate::sys::trace;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::uaccess::UserSliceWriter;

/// A message that was taken to be delivered.
enum Picked {
    Open(MsgId),
    Close(Fd),
    Read {
        fd: Fd,
        id: MsgId,
        request: Arc<Request>,
        /// How far it was before.
        was: Read,
    },
}

impl RequestTable {
    /// Gives the daemon a message of the object whose turn it is, and returns its length; 0 if there is
    /// none (`cachefiles_ondemand_daemon_read()`).
    ///
    /// `EMSGSIZE` if the message does not fit, or `EFAULT` if it cannot be copied: the object has its
    /// turn again after all others. `EMFILE`, `ENFILE` or `ENOMEM` if no fd can be made: it has its turn
    /// once a fd of the session is closed, or in a moment. In neither case is an fd left.
    /// `keep` is held by a new anonymous fd.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        layout: Layout,
        keep: impl FnOnce() -> Arc<dyn Send + Sync>,
        out: UserSliceWriter,
    ) -> Result<usize> {
        let Some((object, picked)) = self.pick(layout, out.len())? else {
            return Ok(0);
        };
        let delivered = match picked {
            Picked::Open(_) => self.deliver_open(&object, &picked, layout, keep(), out),
            _ => self.deliver_plain(&object, &picked, layout, out),
        };
        delivered.inspect_err(|&error| {
            let no_fd = matches!(picked, Picked::Open(_)) && error != EFAULT && error != EMSGSIZE;
            self.put_back(&object, &picked, no_fd);
        })
    }

    /// Whether a read of the device would return a message.
    pub(crate) fn has_deliverable(&self) -> bool {
        !self.lock().lock().ready.is_empty()
    }

    /// Takes the next message of the first object, if it fits into `room` bytes.
    fn pick(&self, layout: Layout, room: usize) -> Result<Option<(Arc<DemandObject>, Picked)>> {
        let mut table = self.lock().lock();
        let Some((object, picked)) = next(&table) else {
            return Ok(None);
        };
        let need = picked
            .message(&object, Fd::default(), 0)
            .encoded_len(layout);
        if !need.is_some_and(|need| need <= room && need <= MSG_MAX) {
            // No edge for this: a daemon would try again and again.
            object.set_place(&mut table, Place::Ready);
            return Err(EMSGSIZE);
        }
        object.set_place(&mut table, Place::Idle);
        if let Picked::Read { request, .. } = &picked {
            request.set(&mut table, Read::Taken);
        }
        // This ends nothing.
        let _ = self.happen(&mut table, &object, Event::Taken, &mut Ended::default());
        Ok(Some((object, picked)))
    }

    /// Makes a message new again that the daemon has not got, unless it is over.
    fn put_back(&self, object: &Arc<DemandObject>, picked: &Picked, no_fd: bool) {
        self.change(Err(EIO), |table, ended| {
            match picked {
                Picked::Open(id) | Picked::Close(Fd { next: id, .. }) => {
                    self.happen(table, object, Event::NotCopied(*id), ended);
                }
                Picked::Read { request, was, .. } => {
                    if request.progress.access(table).read == Read::Taken {
                        request.set(table, *was);
                        ended.wakes = object.settle(table);
                    }
                }
            }
            if no_fd && core::mem::take(&mut ended.wakes) {
                object.set_place(table, Place::Parked);
                // A daemon that waits for an edge stops at the error, and there may be more to read.
                ended.wakes = !table.ready.is_empty();
            }
        });
    }

    fn deliver_plain(
        &self,
        object: &Arc<DemandObject>,
        picked: &Picked,
        layout: Layout,
        mut out: UserSliceWriter,
    ) -> Result<usize> {
        let message = picked.message(object, Fd::default(), 0);
        let len = copy(&message, layout, &mut out)?;
        self.change(Err(EIO), |table, ended| {
            table.was_read();
            if let Picked::Close(fd) = picked {
                self.happen(table, object, Event::CloseCopied(fd.id), ended);
            }
        });
        Ok(len)
    }

    fn deliver_open(
        self: &Arc<Self>,
        object: &Arc<DemandObject>,
        picked: &Picked,
        layout: Layout,
        keep: Arc<dyn Send + Sync>,
        mut out: UserSliceWriter,
    ) -> Result<usize> {
        // Everything that can fail comes before the copy, and the copy before the fd is visible.
        let file = Prepared::<AnonFd>::new()?;
        let data = AnonFd::new(self, object, layout, keep)?;
        let request = Request::new(self, object, None)?;
        let slot = self.reqs.reserve()?;
        let fd = Fd {
            id: data.id(),
            number: file.fd(),
            next: slot.id(),
        };
        let flags = open_flags(layout);
        let message = picked.message(object, fd, flags);
        trace::ondemand_open(object.debug_id, message.id, fd.id, fd.number, flags);
        let len = copy(&message, layout, &mut out)?;
        let mut unused = None;
        let published = self.change(Err(EIO), |table, ended| {
            if let Err(given_back) = slot.fill(request) {
                unused = Some(given_back);
                return false;
            }
            let copied = Event::OpenCopied(message.id, fd);
            let published = self.happen(table, object, copied, ended).is_some();
            match published {
                true => table.was_read(),
                false => unused = self.reqs.remove(fd.next),
            }
            published
        });
        drop(unused);
        if !published {
            // It was over before. A daemon that waits for an edge takes the 0 for the end, but there
            // may be more.
            self.pollers.wake();
            return Ok(0);
        }
        file.publish(data);
        Ok(len)
    }
}

/// The next message of the object whose turn it is.
fn next(table: &Requests) -> Option<(Arc<DemandObject>, Picked)> {
    let object = table.ready.first()?.clone();
    let demand = object.demand.access(table);
    let read = demand.unread.first();
    let picked = match demand.state.next_message(read.is_some())? {
        Next::Open(id) => Picked::Open(id),
        Next::Close(fd) => Picked::Close(fd),
        Next::Read(fd) => {
            let request = read?.clone();
            let progress = request.progress.access(table);
            Picked::Read {
                fd,
                id: progress.id,
                was: progress.read,
                request,
            }
        }
    };
    Some((object, picked))
}

impl Picked {
    /// The message; `new` and `flags` are for an OPEN.
    fn message<'a>(&self, object: &'a DemandObject, new: Fd, flags: u32) -> Message<'a> {
        let (id, fd, body) = match *self {
            Picked::Open(id) => {
                let body = Body::Open {
                    volume_key: &object.volume_key,
                    cookie_key: &object.cookie_key,
                    fd: new.number,
                    flags,
                };
                (id, new, body)
            }
            Picked::Close(fd) => (fd.next, fd, Body::Close { fd: fd.number }),
            Picked::Read {
                fd,
                id,
                ref request,
                ..
            } => {
                let (offset, len) = request.range.unwrap_or_default();
                let fd_number = fd.number;
                let body = Body::Read {
                    offset,
                    len,
                    fd: fd_number,
                };
                (id, fd, body)
            }
        };
        Message {
            id,
            object_id: fd.id,
            body,
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
