// SPDX-License-Identifier: GPL-2.0

//! Which worlds are alike, so that one of them is enough.
//!
//! Lives here: what a world is known by, which is all that its future depends on. It does not tell which
//! of two tasks that want the same, or of two threads, is which, nor what numbers fds and requests
//! have. `tests/explore/alike.rs` looks whether that is so. Never here: what is left out of the world
//! itself, which is in `daemon.rs`.

use crate::ondemand::state::{Message, MsgId, ObjectId, Open, Read, State};
use crate::world::{At, Reading, World};
use std::hash::{Hash, Hasher};

/// The number of no fd and no request.
const NONE: u8 = 0;

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut print = Print {
            world: self,
            fds: Vec::with_capacity(8),
            ids: Vec::with_capacity(8),
            bytes: Vec::with_capacity(256),
        };
        print.take();
        hasher.write(&print.bytes);
    }
}

/// The bytes that a world is known by.
struct Print<'a> {
    world: &'a World,
    /// The fds and ids in the order in which they were met, which is what they are called.
    fds: Vec<ObjectId>,
    ids: Vec<MsgId>,
    bytes: Vec<u8>,
}

fn name(names: &mut Vec<u32>, number: u32) -> u8 {
    let known = names.iter().position(|name| *name == number);
    let at = known.unwrap_or_else(|| {
        names.push(number);
        names.len() - 1
    });
    at as u8 + 1
}

impl Print<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.push(u8::MAX);
    }

    fn fd(&mut self, fd: Option<ObjectId>) -> u8 {
        fd.map_or(NONE, |fd| name(&mut self.fds, fd))
    }

    fn id(&mut self, id: Option<MsgId>) -> u8 {
        id.map_or(NONE, |id| name(&mut self.ids, id))
    }

    fn take(&mut self) {
        let world = self.world;
        let left = world.budget;
        self.put(&[
            bits([world.dead, world.awake, world.retrying]),
            world.bug.map_or(NONE, |bug| bug as u8 + 1),
            left.closes,
            left.faults,
            left.no_fds,
            left.kills,
            left.timeouts,
            left.restores,
            left.successors,
            left.drops,
            left.deaths,
            left.refusals,
        ]);
        for o in 0..world.objects.len() {
            self.object(o);
        }
        for list in [&world.ready, &world.parked] {
            let list: Vec<u8> = list.iter().map(|o| *o as u8).collect();
            self.put(&list);
        }
        let mut idle: Vec<_> = (0..world.tasks.len())
            .filter(|t| world.tasks[*t].read == Read::Over)
            .filter_map(|t| self.task(t))
            .collect();
        idle.sort_unstable();
        self.put(idle.as_flattened());
        let mut readings: Vec<_> = world
            .reading
            .iter()
            .flatten()
            .map(|r| self.reading(r))
            .collect();
        readings.sort_unstable();
        self.put(readings.as_flattened());
        let mut messages: Vec<_> = world
            .messages
            .iter()
            .map(|told| {
                let live = world.find(told.id).map(|(serial, _)| serial == told.serial);
                let live = live.map_or(2, u8::from);
                [
                    self.id(Some(told.id)),
                    told.object as u8,
                    u8::from(told.open),
                    live,
                ]
            })
            .collect();
        messages.sort_unstable();
        self.put(messages.as_flattened());
    }

    fn object(&mut self, o: usize) {
        let object = &self.world.objects[o];
        let state = match object.state {
            State::New => 0,
            State::Closed { .. } => 1,
            State::Opening { again, open, .. } => {
                let open = match open {
                    Open::Unread { lost } => 2 + 2 * u8::from(lost.is_some()),
                    Open::Copying { lost, restored } => {
                        6 + 2 * u8::from(lost.is_some()) + 4 * u8::from(restored)
                    }
                    Open::Held { restored, .. } => 14 + 2 * u8::from(restored),
                    Open::Lost { .. } => 18,
                };
                open + u8::from(again)
            }
            State::Open(_) => 20,
            State::Refused(_) => 21,
            State::Late(_) => 22,
            State::Orphaned { .. } => 23,
            State::Closing { copying, .. } => 24 + u8::from(copying),
            State::Gone => 26,
        };
        let [first, second] = object.state.ids();
        let flags = bits([
            object.in_service,
            object.dropped,
            object.told_to_close,
            object.no_fd,
            object.let_go,
            object.given_up,
        ]);
        let bytes = [
            state,
            self.fd(object.fd()),
            self.id(first),
            self.id(second),
            flags,
            object.lookup as u8,
            self.fd(object.unwanted),
            object.passed,
        ];
        self.put(&bytes);
        for fd in self.world.fds.iter().filter(|fd| fd.object == o) {
            let name = self.fd(Some(fd.id));
            self.put(&[name, u8::from(fd.old)]);
        }
        for list in [&object.unread, &object.taken] {
            let tasks: Vec<_> = list.iter().filter_map(|t| self.task(*t)).collect();
            self.put(tasks.as_flattened());
        }
    }

    /// What a task does; nothing if it cannot go on any more.
    fn task(&mut self, t: usize) -> Option<[u8; 9]> {
        let task = &self.world.tasks[t];
        let at = match task.at {
            At::Ended => return None,
            At::Begins => 0,
            At::Looks => 1,
            At::Waits => 2,
        };
        let id = (task.read != Read::Over).then_some(task.id);
        Some([
            task.object as u8,
            u8::from(task.opens),
            task.reads,
            task.done,
            at,
            u8::from(task.killed),
            task.read as u8,
            self.id(id),
            task.passed,
        ])
    }

    fn reading(&mut self, reading: &Reading) -> [u8; 6] {
        let world = self.world;
        let live = world
            .find(reading.id)
            .is_some_and(|(serial, _)| serial == reading.serial);
        let (kind, was) = match (reading.message, reading.read) {
            (Message::Open(_), _) => (1, 0),
            (Message::Close(_), _) => (2, 0),
            (Message::Read(_), read) => (3, read.map_or(0, |(_, was)| was as u8)),
        };
        // The number of an fd that nothing else names does not matter.
        let fd = Some(reading.fd.id).filter(|fd| reading.held && self.fds.contains(fd));
        [
            kind,
            reading.object as u8,
            was,
            bits([reading.held, reading.old, live]),
            self.fd(fd),
            // What is named nowhere else does not matter either.
            match self.ids.contains(&reading.id) {
                true => self.id(Some(reading.id)),
                false => NONE,
            },
        ]
    }
}

fn bits<const N: usize>(flags: [bool; N]) -> u8 {
    let bit = |bits: u8, flag: &bool| (bits << 1) | u8::from(*flag);
    flags.iter().fold(0, bit)
}
