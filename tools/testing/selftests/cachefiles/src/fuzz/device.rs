// SPDX-License-Identifier: GPL-2.0

//! What is done to the device: reads, commands, polls, copies of its fd, and what it does not take.
//!
//! Lives here: the operations, and the judgement on each message that is read.  Never here: answers,
//! or how a command line is made up.

use super::{
    actor::Actor,
    line,
    session::{copy, About, Asked, Object, What},
};
use crate::raw::{self, Cliff};
use cachefiles_client::{
    protocol::{
        command::MAX_LINE,
        message::{decode, Body, Layout, Message, OPEN_WANT_CACHE_SIZE},
    },
    DEVICE_PATH, MSG_MAX,
};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{open, seek, Mode, OFlags, SeekFrom},
    io::{pread, pwrite, read, write, Errno},
};
use std::{
    env, fs, io,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex},
};

/// The longest READ of ours.
const READ_MAX: u64 = 2 << 20;

/// poll(2) that does not wait.
pub fn poll_now(fd: impl AsFd) -> Result<PollFlags, Errno> {
    let flags = PollFlags::IN | PollFlags::OUT | PollFlags::RDBAND;
    let mut fds = [PollFd::new(&fd, flags)];
    poll(&mut fds, Some(&Timespec::default()))?;
    Ok(fds[0].revents())
}

impl Actor {
    /// Reads the next request as a daemon does.
    pub(super) fn receive(&mut self) -> Option<Asked> {
        let device = self.session.device(&mut self.random)?;
        let mut buf = [0; MSG_MAX];
        let len = match read(&device, &mut buf).map_err(io::Error::from) {
            // That there is nothing is not counted: the daemon asks all the time.
            Ok(0) => return None,
            result => self.note("read", result)?,
        };
        self.take_in(buf.get(..len)?)
    }

    /// Judges a message, and takes the fd that comes with it.
    fn take_in(&mut self, bytes: &[u8]) -> Option<Asked> {
        let session = Arc::clone(&self.session);
        let message = match decode(bytes, session.layout) {
            Ok(message) => message,
            Err(error) => {
                session.fail(format!("{bytes:x?} was read: {error}"));
                return None;
            }
        };
        let what = match message.body {
            Body::Open {
                volume_key,
                cookie_key,
                fd,
                flags,
            } => self.take_open(&message, volume_key, cookie_key, fd, flags),
            Body::Close { fd } => {
                self.tally.count("CLOSE", None);
                Some(What::Close {
                    of: self.named(&message, fd),
                })
            }
            Body::Read { offset, len, fd } => {
                self.tally.count("READ", None);
                let odd = offset % 4096 != 0 || len % 4096 != 0 || len > READ_MAX;
                if len == 0 || odd && !session.is_peer {
                    session.fail(format!("a READ of {len} bytes at {offset}"));
                }
                Some(What::Read {
                    of: self.named(&message, fd),
                    offset,
                    len,
                })
            }
        }?;
        Some(Asked {
            id: message.id,
            what,
        })
    }

    fn named(&self, message: &Message<'_>, fd: u32) -> u32 {
        match self.session.layout {
            Layout::Mainline => message.object_id,
            Layout::V5 => fd,
        }
    }

    fn take_open(
        &mut self,
        message: &Message<'_>,
        volume_key: &[u8],
        cookie_key: &[u8],
        number: u32,
        flags: u32,
    ) -> Option<What> {
        let session = Arc::clone(&self.session);
        self.tally.count("OPEN", None);
        let wanted = match session.layout {
            Layout::Mainline => 0,
            Layout::V5 => OPEN_WANT_CACHE_SIZE,
        };
        if !volume_key.starts_with(b"erofs,") || flags != wanted {
            session.fail(format!(
                "an OPEN of {} with the flags {flags}",
                volume_key.escape_ascii()
            ));
        }
        let Some(fd) = raw::take_received(number) else {
            session.fail(format!("an OPEN with the fd {number}, which is none"));
            return None;
        };
        let Some(source) = session.world.source(cookie_key) else {
            session.fail(format!("an OPEN of {}", cookie_key.escape_ascii()));
            return None;
        };
        let about = Arc::new(About {
            number,
            object_id: message.object_id,
            source,
            volume: volume_key.to_vec(),
            position: Mutex::default(),
        });
        session.add_object(Object {
            fd,
            about: Arc::clone(&about),
        });
        Some(What::Open(about))
    }

    /// Reads into a buffer that is too small, or far too large.
    pub(super) fn read_into_little(&mut self) {
        let Some(device) = self.session.device(&mut self.random) else {
            return;
        };
        let len = match self.random.u32(0..4) {
            0 => 0,
            1 => self.random.usize(..64),
            2 => self.random.usize(..MSG_MAX),
            _ => 64 << 10,
        };
        let mut buf = vec![0; len];
        let result = read(&device, &mut buf).map_err(io::Error::from);
        if matches!(result, Ok(0)) {
            return;
        }
        if let Some(len) = self.note("read into another buffer", result) {
            if let Some(asked) = buf.get(..len).and_then(|bytes| self.take_in(bytes)) {
                self.session.add_asked(asked);
            }
        }
    }

    /// Reads into memory that is not there, or ends too early.
    pub(super) fn read_into_bad_memory(&mut self) {
        let Some(device) = self.session.device(&mut self.random) else {
            return;
        };
        if self.random.bool() {
            let result = raw::read_into_bad_address(&device, MSG_MAX);
            if let Some(1..) = self.note("read into no memory", result) {
                self.session
                    .fail("a message was read into nothing".to_owned());
            }
            return;
        }
        let to = Cliff::LEN - self.random.usize(..64);
        let result = self.cliff.read(&device, to, MSG_MAX);
        if let Some(len @ 1..) = self.note("read over the edge", result) {
            let bytes = self.cliff.bytes().get(to..).map(<[u8]>::to_vec);
            let message = bytes.as_ref().and_then(|bytes| bytes.get(..len));
            match message {
                Some(message) => {
                    if let Some(asked) = self.take_in(message) {
                        self.session.add_asked(asked);
                    }
                }
                None => self
                    .session
                    .fail("a message was read into nothing".to_owned()),
            }
        }
    }

    /// Writes a command, whole.
    pub(super) fn command(&mut self, line: &[u8]) -> io::Result<()> {
        let device = self.session.device(&mut self.random);
        let device = device.ok_or(io::ErrorKind::NotFound)?;
        let written = write(&device, line)?;
        if written != line.len() {
            self.session.fail(format!(
                "{written} bytes of {} were taken",
                line.escape_ascii()
            ));
        }
        Ok(())
    }

    /// A command that is not one, mostly.
    pub(super) fn command_line(&mut self) {
        let line = line::any(&mut self.random, self.session.is_peer);
        let kind = line::kind(&line);
        let result = self.command(&line);
        self.note(kind, result);
    }

    /// A command in memory that is not there, ends too early, or is too long.
    pub(super) fn command_from_bad_memory(&mut self) {
        let Some(device) = self.session.device(&mut self.random) else {
            return;
        };
        match self.random.u32(0..3) {
            0 => {
                let len = self.random.usize(1..64);
                let result = raw::write_from_bad_address(&device, len);
                self.note("command from no memory", result);
            }
            1 => {
                let len = self.random.usize(1..64);
                let at = Cliff::LEN - len;
                if let Some(bytes) = self.cliff.bytes().get_mut(at..) {
                    bytes.fill(b'r');
                }
                let result = self.cliff.write(&device, at, len + 8);
                self.note("command over the edge", result);
            }
            _ => {
                let line = vec![b'x'; MAX_LINE + self.random.usize(..10)];
                let result = write(&device, &line).map_err(io::Error::from);
                self.note("long command", result);
            }
        }
    }

    /// What a successor does.
    pub(super) fn restore(&mut self) {
        let result = self.command(b"restore");
        self.note("restore", result);
    }

    /// Has requests time out soon, for a while.
    pub(super) fn time_out(&mut self) {
        let line = format!("timeout {}", self.random.u32(5..100));
        let result = self.command(line.as_bytes());
        self.note("timeout", result);
    }

    /// poll(2), which also ends what [`Self::time_out`] began.
    pub(super) fn poll_device(&mut self) {
        if self.once_in(8) {
            let result = self.command(b"timeout 0");
            self.note("timeout 0", result);
        }
        if let Some(device) = self.session.device(&mut self.random) {
            let result = poll_now(&device).map_err(io::Error::from);
            if let Some(flags) = self.note("poll", result) {
                if flags.intersects(PollFlags::ERR | PollFlags::NVAL) {
                    self.session.fail(format!("poll says {flags:?}"));
                }
            }
        }
    }

    /// What the device does not take.
    pub(super) fn misuse_device(&mut self) {
        let Some(device) = self.session.device(&mut self.random) else {
            return;
        };
        let mut buf = [0; 16];
        let (kind, result) = match self.random.u32(0..5) {
            0 => {
                let to = SeekFrom::Start(self.random.u64(..1 << 20));
                ("lseek of the device", seek(&device, to).map(drop))
            }
            1 => (
                "short pread of the device",
                pread(&device, &mut buf, 1).map(drop),
            ),
            2 => {
                let line = b"no-such-command";
                ("pwrite of the device", pwrite(&device, line, 1).map(drop))
            }
            3 => ("empty write", write(&device, b"").map(drop)),
            _ => {
                let code = [0, 0x4004_9801, 0x5401, u32::MAX];
                let code = code[self.random.usize(..code.len())];
                let result = raw::ioctl(&device, code, 0);
                self.note("ioctl of the device", result);
                return;
            }
        };
        self.note(kind, result.map_err(io::Error::from));
    }

    /// The device has one opener.
    pub(super) fn open_again(&mut self) {
        let result = open(DEVICE_PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        if self
            .note("second open", result.map_err(io::Error::from))
            .is_some()
        {
            self.session.fail("the device was opened twice".to_owned());
        }
    }

    /// Another fd of it, in the place of one there is.
    pub(super) fn copy_device(&mut self) {
        let device = self.session.device(&mut self.random);
        if let Some(fd) = device.and_then(|device| copy(&device)) {
            self.note("dup of the device", Ok(()));
            self.session.add_device(fd, &mut self.random);
        }
    }

    /// `cull` or `inuse` of something, in some directory of the cache.
    pub(super) fn cull(&mut self) {
        let names = |dir: &PathBuf| -> Vec<PathBuf> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        };
        let mut at = self.session.dir.join("cache");
        // A volume, one of its directories, a file: most often all three.
        for _ in 0..3 {
            let below = names(&at);
            if below.is_empty() || self.once_in(12) {
                break;
            }
            at = below[self.random.usize(..below.len())].clone();
        }
        let (Some(dir), Some(name)) = (at.parent(), at.file_name()) else {
            return;
        };
        // All threads have one working directory; so this may hit a file elsewhere, which is
        // just as good.
        let _ = env::set_current_dir(dir);
        let (kind, verb): (_, &[u8]) = match self.random.bool() {
            true => ("cull", b"cull "),
            false => ("inuse", b"inuse "),
        };
        let name = match self.once_in(8) {
            true => b"no-such-file",
            false => name.as_encoded_bytes(),
        };
        let result = self.command(&[verb, name].concat());
        self.note(kind, result);
    }
}
