// SPDX-License-Identifier: GPL-2.0

//! A thread of the daemon: draws an operation, does it, counts it.
//!
//! Lives here: the menu.  Never here: the operations, which are in `device.rs`, `answer.rs` and
//! `object.rs`.

use super::{session::Session, tally::Tally};
use crate::raw::{errno, Cliff};
use anyhow::Result;
use fastrand::Rng;
use rustix::io::Errno;
use std::{io, sync::Arc};

/// The thread.
pub struct Actor {
    pub(super) session: Arc<Session>,
    pub(super) random: Rng,
    pub(super) tally: Tally,
    pub(super) cliff: Cliff,
}

type Operation = fn(&mut Actor);

/// What is done, and how often in so many.
const MENU: [(u32, Operation); 24] = [
    (260, Actor::serve),
    (200, Actor::answer_some),
    (30, Actor::answer_wrongly),
    (20, Actor::answer_past),
    (30, Actor::answer_out_of_thin_air),
    (8, Actor::restore),
    (40, Actor::command_line),
    (10, Actor::command_from_bad_memory),
    (20, Actor::read_into_little),
    (10, Actor::read_into_bad_memory),
    (40, Actor::poll_device),
    (20, Actor::misuse_device),
    (5, Actor::open_again),
    (10, Actor::copy_device),
    (15, Actor::cull),
    (2, Actor::time_out),
    (60, Actor::write_unasked),
    (30, Actor::write_in_place),
    (15, Actor::write_from_bad_memory),
    (60, Actor::seek),
    (30, Actor::misuse_object),
    (10, Actor::copy_object),
    (6, Actor::close_object),
    (12, Actor::mail_object),
];

impl Actor {
    /// A thread with this seed.
    pub fn new(session: &Arc<Session>, seed: u64) -> Result<Actor> {
        Ok(Actor {
            session: Arc::clone(session),
            random: Rng::with_seed(seed),
            tally: Tally::default(),
            cliff: Cliff::new()?,
        })
    }

    /// Goes on until the session is to end.
    pub fn run(mut self) -> Tally {
        let all: u32 = MENU.iter().map(|(weight, _)| *weight).sum();
        while !self.session.is_stopped() {
            let mut draw = self.random.u32(..all);
            for (weight, operation) in MENU {
                if draw < weight {
                    operation(&mut self);
                    break;
                }
                draw -= weight;
            }
        }
        self.tally
    }

    /// True once in so many times.
    pub(super) fn once_in(&mut self, many: u32) -> bool {
        self.random.u32(..many) == 0
    }

    /// Counts an operation and how it ended.
    pub(super) fn note<T>(&mut self, kind: &'static str, result: io::Result<T>) -> Option<T> {
        self.session.count();
        match result {
            Ok(value) => {
                self.tally.count(kind, None);
                Some(value)
            }
            Err(error) => {
                let error = errno(&error).unwrap_or(Errno::NOSYS);
                self.tally.count(kind, Some(error));
                None
            }
        }
    }
}
