// SPDX-License-Identifier: GPL-2.0

//! What is done to anonymous fds: writes, seeks, and what they do not take.
//!
//! Lives here: the operations, and that each byte written is true, or a lie where lies are allowed.
//! Never here: answers.

use super::{
    actor::Actor,
    answer::PAGE,
    session::{copy, lock, Object},
    world::lie,
};
use crate::{
    blob::Aligned,
    raw::{self, Cliff},
};
use rustix::{
    fs::{fallocate, fsync, ftruncate, seek, FallocateFlags, SeekFrom},
    io::{pread, pwrite, read, write, IoSlice, IoSliceMut},
    net::{
        recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    },
};
use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

impl Actor {
    /// Writes what is true in a range, or lies if that is what the blob is for.
    ///
    /// C counts half a block as a block, and gives zeros for the rest; so it gets whole pages.
    pub(super) fn write_true(&mut self, object: &Object, offset: u64, len: u64) {
        let session = Arc::clone(&self.session);
        let Some(source) = session.source_of(&object.about) else {
            return;
        };
        let whole = session.is_peer && source.honest;
        let (offset, len) = match whole {
            true => (offset / PAGE * PAGE, len / PAGE * PAGE),
            false => (offset, len),
        };
        let bytes = source.range(offset, len);
        if bytes.is_empty() {
            return;
        }
        let result = if !source.honest && self.random.bool() {
            let mut lies = Aligned::new(bytes.len());
            lies.copy_from_slice(bytes);
            lie(&mut lies);
            pwrite(&object.fd, &lies, offset)
        } else {
            pwrite(&object.fd, bytes, offset)
        };
        self.note("pwrite", result.map_err(io::Error::from));
    }

    /// A range, anywhere, of any object.
    pub(super) fn write_unasked(&mut self) {
        if let Some(object) = self.session.some_object(&mut self.random) {
            self.write_any(&object);
        }
    }

    pub(super) fn write_any(&mut self, object: &Object) {
        let size = self.session.source_of(&object.about).map(|s| s.size());
        let Some(size) = size else { return };
        let offset = self.random.u64(..size);
        match self.random.u32(0..8) {
            // Pages.
            0..=3 => {
                let pages = self.random.u64(1..8);
                self.write_true(object, offset / PAGE * PAGE, pages * PAGE);
            }
            // Bytes.
            4..=5 => {
                let len = self.random.u64(1..PAGE);
                self.write_true(object, offset, len);
            }
            // Behind the end, where nobody reads; far behind it.
            6 => {
                let page = Aligned::new(PAGE as usize);
                let behind = size.next_multiple_of(PAGE) + (offset / PAGE * PAGE);
                let result = pwrite(&object.fd, &page, behind);
                self.note("pwrite behind the end", result.map_err(io::Error::from));
            }
            _ => {
                let far = [1 << 50, i64::MAX as u64, i64::MAX as u64 - PAGE, u64::MAX];
                let far = far[self.random.usize(..far.len())];
                let result = pwrite(&object.fd, b"far", far);
                self.note("pwrite far away", result.map_err(io::Error::from));
            }
        }
    }

    /// write(2) at the fd's position, which nobody else moves meanwhile.
    ///
    /// C writes elsewhere than lseek(2) says, which no judge knows.
    pub(super) fn write_in_place(&mut self) {
        let Some(object) = self.session.some_object(&mut self.random) else {
            return;
        };
        if self.session.is_peer {
            return;
        }
        let session = Arc::clone(&self.session);
        let Some(source) = session.source_of(&object.about) else {
            return;
        };
        let position = lock(&object.about.position);
        let at = self.random.u64(..source.size()) / PAGE * PAGE;
        let moved = seek(&object.fd, SeekFrom::Start(at)).map_err(io::Error::from);
        let Some(at) = self.note("lseek to write", moved) else {
            return;
        };
        let first = source.range(at, PAGE);
        let result = write(&object.fd, first).map_err(io::Error::from);
        let Some(written) = self.note("write", result) else {
            return;
        };
        // The next goes where the first has ended.
        let second = source.range(at + written as u64, PAGE);
        let result = write(&object.fd, second).map_err(io::Error::from);
        self.note("write", result);
        drop(position);
    }

    /// Writes from memory that ends too early.
    pub(super) fn write_from_bad_memory(&mut self) {
        let Some(object) = self.session.some_object(&mut self.random) else {
            return;
        };
        if self.once_in(4) {
            let result = raw::pwrite_from_bad_address(&object.fd, PAGE as usize, 0);
            self.note("pwrite from no memory", result);
            return;
        }
        let session = Arc::clone(&self.session);
        let Some(source) = session.source_of(&object.about) else {
            return;
        };
        let page = PAGE as usize;
        let at = self.random.u64(..source.size()) / PAGE * PAGE;
        let good = source.range(at, Cliff::LEN as u64);
        let mut from = Cliff::LEN - good.len();
        if !session.is_peer && self.random.bool() {
            from += self.random.usize(..page);
        }
        let good = good.get(..Cliff::LEN - from).unwrap_or_default();
        if let Some(to) = self.cliff.bytes().get_mut(from..) {
            to.copy_from_slice(good);
        }
        let beyond = self.random.usize(1..page);
        let len = match session.is_peer {
            true => good.len() + page,
            false => good.len() + beyond,
        };
        let result = self.cliff.pwrite(&object.fd, from, len, at as i64);
        self.note("pwrite over the edge", result);
    }

    /// Every way to seek.
    pub(super) fn seek(&mut self) {
        let Some(object) = self.session.some_object(&mut self.random) else {
            return;
        };
        let size = self
            .session
            .source_of(&object.about)
            .map_or(0, |s| s.size());
        let offset = self.random.u64(..2 * size.max(1));
        let to = match self.random.u32(0..8) {
            0..=2 => SeekFrom::Data(offset),
            3..=5 => SeekFrom::Hole(offset),
            6 => SeekFrom::Start(match self.random.bool() {
                true => offset,
                false => i64::MAX as u64,
            }),
            _ => match self.random.u32(0..3) {
                0 => SeekFrom::Current(-1),
                1 => SeekFrom::End(-(offset as i64)),
                _ => SeekFrom::Data(u64::MAX),
            },
        };
        let position = lock(&object.about.position);
        let result = seek(&object.fd, to).map_err(io::Error::from);
        drop(position);
        self.note("lseek", result);
    }

    /// What such an fd does not take, or takes no notice of.
    pub(super) fn misuse_object(&mut self) {
        let Some(object) = self.session.some_object(&mut self.random) else {
            return;
        };
        let fd = &object.fd;
        let mut buf = [0; 64];
        let (kind, result) = match self.random.u32(0..8) {
            0 => ("read of an object", read(fd, &mut buf).map(drop)),
            1 => ("pread of an object", pread(fd, &mut buf, 0).map(drop)),
            2 => ("fsync of an object", fsync(fd)),
            3 => ("ftruncate of an object", ftruncate(fd, 0)),
            4 => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                ("fallocate of an object", fallocate(fd, flags, 0, 1 << 20))
            }
            5 => ("write of nothing", pwrite(fd, &[], 0).map(drop)),
            6 => ("poll of an object", super::device::poll_now(fd).map(drop)),
            _ => {
                let code = [0, 0x4004_9802, 0x4004_9700, 0xc004_9801, u32::MAX];
                let code = code[self.random.usize(..code.len())];
                let argument = self.random.u32(..);
                let result = raw::ioctl(fd, code, argument);
                self.note("other ioctl of an object", result);
                return;
            }
        };
        self.note(kind, result.map_err(io::Error::from));
    }

    /// A second fd of the same file.
    pub(super) fn copy_object(&mut self) {
        if let Some(object) = self.session.some_object(&mut self.random) {
            if let Some(fd) = copy(&object.fd) {
                self.note("dup of an object", Ok(()));
                let about = Arc::clone(&object.about);
                self.session.add_object(Object { fd, about });
            }
        }
    }

    /// Lets one go, and its copies.
    pub(super) fn close_object(&mut self) {
        if let Some(object) = self.session.some_object(&mut self.random) {
            self.note("close of an object", Ok(()));
            self.session.forget_object(&object.about);
        }
    }

    /// Sends an fd through a socket, or takes one out.
    pub(super) fn mail_object(&mut self) {
        let session = Arc::clone(&self.session);
        if self.random.bool() {
            let Some(object) = session.some_object(&mut self.random) else {
                return;
            };
            let token = self.random.u64(..);
            lock(&session.mailed).insert(token, Arc::clone(&object.about));
            let result = post(&session.mail.0, &object.fd, token);
            if self.note("fd posted", result).is_none() {
                lock(&session.mailed).remove(&token);
            } else if self.once_in(4) {
                // For as long as it is on its way, the socket alone holds it.
                session.forget_object(&object.about);
            }
            return;
        }
        let received = fetch(&session.mail.1);
        if let Some(Some((token, fd))) = self.note("fd received", received) {
            if let Some(about) = lock(&session.mailed).remove(&token) {
                session.add_object(Object { fd, about });
            }
        }
    }
}

fn post(socket: impl AsFd, fd: &OwnedFd, token: u64) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let bytes = token.to_ne_bytes();
    sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut control,
        SendFlags::DONTWAIT,
    )?;
    Ok(())
}

fn fetch(socket: impl AsFd) -> io::Result<Option<(u64, OwnedFd)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        flags,
    )?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.next().and_then(|mut fds| fds.next());
    Ok(fd.map(|fd| (u64::from_ne_bytes(bytes), fd)))
}
