// SPDX-License-Identifier: GPL-2.0

//! Requests as a daemon sees them.
//!
//! Lives here: a message that owns what it carries, its fd above all.  Never here: its encoding,
//! which is [`crate::protocol::message`]'s.

use crate::{
    object::{Answer, ObjectFd},
    protocol::message::{decode, Body, Layout},
    raw,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

/// What the kernel asks of a daemon, in either protocol.
///
/// `object_id` is the number by which requests name an object: in mainline the kernel's number for
/// its fd, and another one after every OPEN; in v5 the fd itself.  So in v5 forget an object before
/// its fd is closed, as the next OPEN may bring the same number.
#[derive(Debug)]
pub enum Request {
    /// A cache file was looked up; answer with [`Device::open_reply`](crate::Device::open_reply).
    Open {
        /// What to answer to.
        msg_id: u32,
        /// The object's number in later requests.
        object_id: u32,
        /// How to fill the cache file.
        object: ObjectFd,
        /// The volume's key, without the NUL that ends it in the message.  EROFS: `erofs,` and
        /// the domain or fsid.
        volume_key: Vec<u8>,
        /// The cookie's key: any bytes.  EROFS: the fsid, or a device's tag.
        cookie_key: Vec<u8>,
        /// In v5 [`OPEN_WANT_CACHE_SIZE`](crate::protocol::message::OPEN_WANT_CACHE_SIZE); no flag
        /// is known in mainline.
        flags: u32,
    },
    /// The object is dropped: close its fd.  There is no answer.
    Close {
        /// Nothing is answered to it.
        msg_id: u32,
        /// The object.
        object_id: u32,
    },
    /// A range is missing: write it, then answer with [`ObjectFd::complete_read`].
    Read {
        /// What to answer to.
        msg_id: u32,
        /// The object.
        object_id: u32,
        /// Where the range starts, in bytes.
        offset: u64,
        /// How many bytes it has.
        len: u64,
    },
}

impl Request {
    /// The number to answer to.
    pub fn msg_id(&self) -> u32 {
        match *self {
            Request::Open { msg_id, .. }
            | Request::Close { msg_id, .. }
            | Request::Read { msg_id, .. } => msg_id,
        }
    }

    /// The object concerned.
    pub fn object_id(&self) -> u32 {
        match *self {
            Request::Open { object_id, .. }
            | Request::Close { object_id, .. }
            | Request::Read { object_id, .. } => object_id,
        }
    }

    /// Makes a request of bytes that were just read from `device`, and of the fd in them.
    pub(crate) fn receive(
        device: &Arc<OwnedFd>,
        layout: Layout,
        bytes: &[u8],
    ) -> io::Result<Request> {
        let message = decode(bytes, layout)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let msg_id = message.id;
        let named = |fd| match layout {
            Layout::Mainline => message.object_id,
            Layout::V5 => fd,
        };
        Ok(match message.body {
            Body::Open {
                volume_key,
                cookie_key,
                fd,
                flags,
            } => {
                let answer = match layout {
                    Layout::Mainline => Answer::Ioctl,
                    Layout::V5 => Answer::Cread(Arc::downgrade(device)),
                };
                Request::Open {
                    msg_id,
                    object_id: named(fd),
                    object: ObjectFd::new(raw::adopt(device.as_fd(), fd)?, answer),
                    volume_key: volume_key.to_vec(),
                    cookie_key: cookie_key.to_vec(),
                    flags,
                }
            }
            Body::Close { fd } => Request::Close {
                msg_id,
                object_id: named(fd),
            },
            Body::Read { offset, len, fd } => Request::Read {
                msg_id,
                object_id: named(fd),
                offset,
                len,
            },
        })
    }
}
