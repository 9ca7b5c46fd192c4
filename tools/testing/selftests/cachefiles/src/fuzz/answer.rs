// SPDX-License-Identifier: GPL-2.0

//! Answers: good, incomplete, late, in any order, to something else, or none.
//!
//! Lives here: how a request is answered.  Never here: how it was read.

use super::{
    actor::Actor,
    session::{About, Asked, Object, What},
};
use cachefiles_client::protocol::message::{Layout, READ_COMPLETE};
use rustix::io::Errno;
use std::{io, sync::Arc};

/// The pages of a write that C takes at any time.
pub const PAGE: u64 = 4096;

impl Actor {
    /// Reads a request, and mostly answers it at once.
    pub(super) fn serve(&mut self) {
        match self.receive() {
            Some(asked) if !self.once_in(6) => self.answer(asked),
            Some(asked) => self.session.add_asked(asked),
            None => {}
        }
    }

    /// Answers one of those that were left, whichever.
    pub(super) fn answer_some(&mut self) {
        if let Some(asked) = self.session.take_asked(&mut self.random) {
            self.answer(asked);
        }
    }

    fn answer(&mut self, asked: Asked) {
        match asked.what.clone() {
            What::Open(about) => self.answer_open(asked.id, &about),
            What::Read { of, offset, len } => self.answer_read(&asked, of, offset, len),
            What::Close { of } => {
                if let Some(object) = self.session.object(of) {
                    if !self.once_in(10) {
                        self.session.forget_object(&object.about);
                    }
                }
            }
        }
        self.session.add_past(asked);
    }

    fn answer_open(&mut self, id: u32, about: &Arc<About>) {
        let Some(source) = self.session.source_of(about) else {
            return;
        };
        let (size, honest) = (source.size(), source.honest);
        match self.random.u32(0..100) {
            // Refused, with the fd closed before or after, or held.
            0..=3 => self.say_open(id, Err(self.some_refusal()), true),
            4 => {
                self.session.forget_object(about);
                self.say_open(id, Err(Errno::NOENT), true);
            }
            5 => {
                self.say_open(id, Err(Errno::NODEV), true);
                self.session.forget_object(about);
            }
            // Accepted, but the fd is gone.
            6 => {
                self.session.forget_object(about);
                self.say_open(id, Ok(size), true);
            }
            // Nonsense instead of a size.
            7 => self.say_nonsense(id),
            // Nothing is said.
            8..=10 => {}
            // Data comes before the answer.
            11..=20 => {
                self.write_somewhere(about);
                self.say_open(id, Ok(size), true);
            }
            _ if !honest => {
                let size = self.some_size(size);
                self.say_open(id, Ok(size), true);
            }
            _ => self.say_open(id, Ok(size), true),
        }
    }

    fn some_refusal(&self) -> Errno {
        let errors = [Errno::NOENT, Errno::EXIST, Errno::IO, Errno::ACCESS];
        errors[self.session.operations() as usize % errors.len()]
    }

    /// What is told of the blob that is lied about.
    fn some_size(&mut self, size: u64) -> u64 {
        match self.random.u32(0..12) {
            0 => 0,
            1 => self.random.u64(..size),
            2 => size + self.random.u64(..1 << 20),
            _ => size,
        }
    }

    fn answer_read(&mut self, asked: &Asked, of: u32, offset: u64, len: u64) {
        let object = self.session.object(of);
        let Some(object) = object else {
            // What nydusd does when it does not know the object: nothing; or, in v5, an answer.
            if self.session.layout == Layout::V5 && self.random.bool() {
                self.say_read(None, asked.id, true);
            }
            return;
        };
        match self.random.u32(0..100) {
            // Completed with nothing, or part of it, written.
            0..=2 => self.say_read(Some(&object), asked.id, true),
            3..=8 => {
                let part = self.random.u64(..len.max(1));
                self.write_true(&object, offset, part);
                self.say_read(Some(&object), asked.id, true);
            }
            // The second half first, or one after the other by two threads.
            9..=14 => {
                let middle = len / 2 / PAGE * PAGE;
                self.write_true(&object, offset + middle, len - middle);
                self.write_true(&object, offset, middle);
                self.say_read(Some(&object), asked.id, true);
            }
            15 => {
                self.write_true(&object, offset, len / 2 / PAGE * PAGE);
                self.session.add_asked(asked.clone());
            }
            // All is written, and nothing said.
            16 => self.write_true(&object, offset, len),
            17 => {}
            // The fd is closed instead.
            18 => self.session.forget_object(&object.about),
            // Odd pieces.
            19..=24 => {
                let (mut at, end) = (offset, offset + len);
                while at < end {
                    let piece = (1 + self.random.u64(..3 * PAGE)).min(end - at);
                    self.write_true(&object, at, piece);
                    at += piece;
                }
                self.say_read(Some(&object), asked.id, true);
            }
            _ => {
                self.write_true(&object, offset, len);
                self.say_read(Some(&object), asked.id, true);
            }
        }
    }

    /// Writes some of what the object has, without anybody having asked.
    fn write_somewhere(&mut self, about: &Arc<About>) {
        let object = self.session.object(self.session.name_of(about));
        if let Some(object) = object {
            self.write_any(&object);
        }
    }

    /// A request that waits, and an answer of another kind, or through another object's fd.
    pub(super) fn answer_wrongly(&mut self) {
        let Some(asked) = self.session.peek_asked(&mut self.random) else {
            return;
        };
        match asked.what {
            What::Open(_) | What::Close { .. } => {
                let other = self.session.some_object(&mut self.random);
                self.say_read(other.as_deref(), asked.id, false);
            }
            What::Read { .. } if self.random.bool() => {
                self.say_open(asked.id, Ok(PAGE), false);
            }
            What::Read { of, .. } if self.session.layout == Layout::Mainline => {
                let right = self.session.object(of);
                let other = self.session.some_object(&mut self.random);
                let (Some(right), Some(other)) = (right, other) else {
                    return;
                };
                // The same key can be that of the same object, with a later fd.
                let same = right.about.source == other.about.source
                    && right.about.volume == other.about.volume;
                if !same {
                    self.say_read(Some(&other), asked.id, false);
                }
            }
            What::Read { .. } => {}
        }
    }

    /// One more answer to what was answered.
    pub(super) fn answer_past(&mut self) {
        let Some(asked) = self.session.some_past(&mut self.random) else {
            return;
        };
        match asked.what {
            What::Open(about) => {
                if let Some(source) = self.session.source_of(&about) {
                    let size = source.size();
                    self.say_open(asked.id, Ok(size), true);
                }
            }
            What::Read { of, .. } => {
                let object = self.session.object(of);
                self.say_read(object.as_deref(), asked.id, true);
            }
            What::Close { .. } => self.say_read(None, asked.id, false),
        }
    }

    /// An answer to what nobody has asked.
    pub(super) fn answer_out_of_thin_air(&mut self) {
        let id = match self.random.u32(0..6) {
            0 => 0,
            1 => u32::MAX,
            2 => i32::MAX as u32,
            3 => self.random.u32(..),
            _ => self.random.u32(..4096),
        };
        if self.random.bool() {
            let object = self.session.some_object(&mut self.random);
            self.say_read(object.as_deref(), id, true);
        } else {
            // Without a size, as it might meet an OPEN.
            self.say_open(id, Err(Errno::NOENT), true);
        }
    }

    /// Answers an OPEN.  `fits`: this can be an answer to the request.
    fn say_open(&mut self, id: u32, reply: Result<u64, Errno>, fits: bool) {
        let (kind, line) = match (self.session.layout, reply) {
            (Layout::Mainline, Ok(size)) => ("copen", format!("copen {id},{size}")),
            (Layout::Mainline, Err(error)) => {
                ("copen", format!("copen {id},-{}", error.raw_os_error()))
            }
            (Layout::V5, Ok(size)) => ("cinit", format!("cinit {id},{size}")),
            (Layout::V5, Err(_)) => ("cinit", format!("cinit {id}")),
        };
        let result = self.command(line.as_bytes());
        self.judge_answer(kind, id, result, fits);
    }

    fn say_nonsense(&mut self, id: u32) {
        let rest = [",", ",x", ",-", ",-99999", ",99999999999999999999", ", 1"];
        let rest = rest[self.random.usize(..rest.len())];
        let verb = match self.session.layout {
            Layout::Mainline => "copen",
            Layout::V5 => "cinit",
        };
        let result = self.command(format!("{verb} {id}{rest}").as_bytes());
        self.note("answer with nonsense", result);
    }

    /// Answers a READ.
    fn say_read(&mut self, object: Option<&Object>, id: u32, fits: bool) {
        let (kind, result) = match (self.session.layout, object) {
            (Layout::Mainline, None) => return,
            (Layout::Mainline, Some(object)) => {
                let result = crate::raw::ioctl(&object.fd, READ_COMPLETE, id);
                ("READ_COMPLETE", result)
            }
            (Layout::V5, _) => ("cread", self.command(format!("cread {id}").as_bytes())),
        };
        self.judge_answer(kind, id, result, fits);
    }

    fn judge_answer(&mut self, kind: &'static str, id: u32, result: io::Result<()>, fits: bool) {
        let kind = if fits {
            kind
        } else {
            "answer of the wrong kind"
        };
        if self.note(kind, result).is_some() {
            if fits {
                self.session.was_answered(id, kind);
            } else {
                let what = format!("request {id} took an answer of the wrong kind");
                self.session.fail(what);
            }
        }
    }
}
