// SPDX-License-Identifier: GPL-2.0

//! Which worlds are alike, so that one of them is enough.
//!
//! Lives here: what a world is known by, which is all that its future depends on. It does not tell which
//! of two tasks that want the same, or of two threads, is which, nor what numbers fds and requests
//! have. `tests/explore/alike.rs` looks whether that is so. Never here: what is left out of the world
//! itself, which is in `model.rs`.

use crate::ondemand::rules::Ask;
use crate::ondemand::state::{ObjectId, OpeningFd, State};
use crate::world::{At, Entry, Phase, Reading, Who, World, IDS, OBJECTS, TASKS};
use std::hash::{Hash, Hasher};

/// What a world is known by at most, in bytes.
const ROOM: usize = 256;
/// The number of no fd.
const NONE: u8 = 0;

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut print = Print::of(self);
        print.take();
        hasher.write(&print.bytes[..print.len]);
    }
}

/// The bytes that a world is known by.
struct Print<'a> {
    world: &'a World,
    /// The fds in the order in which they were met, which is what they are called.
    names: [ObjectId; 16],
    named: usize,
    bytes: [u8; ROOM],
    len: usize,
}

impl<'a> Print<'a> {
    fn of(world: &'a World) -> Self {
        Print {
            world,
            names: [0; 16],
            named: 0,
            bytes: [0; ROOM],
            len: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn name(&mut self, fd: Option<ObjectId>) -> u8 {
        let Some(fd) = fd else { return NONE };
        let known = self.names[..self.named].iter().position(|name| *name == fd);
        let at = known.unwrap_or_else(|| {
            self.names[self.named] = fd;
            self.named += 1;
            self.named - 1
        });
        at as u8 + 1
    }

    fn take(&mut self) {
        let world = self.world;
        let left = world.budget;
        self.put(&[
            bits([world.dead, world.awake, world.edge]),
            world.bug.map_or(NONE, |bug| bug as u8 + 1),
            left.closes,
            left.faults,
            left.kills,
            left.timeouts,
            left.restores,
            left.successors,
            left.drops,
            left.deaths,
            left.refusals,
        ]);
        for o in 0..OBJECTS {
            self.object(o);
        }
        self.tasks();
        self.requests();
        self.late_readings();
        self.late_messages();
    }

    fn object(&mut self, o: usize) {
        let object = self.world.objects[o];
        let state = match object.state {
            State::Closed => 0,
            State::Opening { again, fd } => {
                let fd = match fd {
                    OpeningFd::None => 2,
                    OpeningFd::Held(_) => 4,
                    OpeningFd::Closed => 6,
                };
                fd + u8::from(again)
            }
            State::Open(_) => 8,
            State::Refused(_) => 9,
            State::Late(_) => 10,
            State::Orphaned(_) => 11,
            State::Dropped(_) => 12,
        };
        let fd = self.name(object.fd());
        let unwanted = self.name(object.unwanted);
        let to_close = self.name(object.to_close);
        let flags = bits([object.in_service, object.dropped, object.told_to_close]);
        let lookup = object.lookup as u8;
        self.put(&[state, fd, flags, lookup]);
        self.put(&[object.to_reopen, to_close, unwanted]);
        for fd in &self.world.fds {
            if fd.object == o {
                let name = self.name(Some(fd.id));
                self.put(&[name, u8::from(fd.old)]);
            }
        }
        self.put(&[NONE]);
    }

    /// What a task does, with its READ; in any order.
    fn tasks(&mut self) {
        let world = self.world;
        let mut tasks = [[u8::MAX; 13]; TASKS];
        for (t, task) in world.tasks.iter().enumerate() {
            let object = &world.objects[task.object];
            let (at, request) = match task.at {
                // It cannot go on any more.
                At::Ended => continue,
                At::Begins if object.dropped && (task.done > 0 || !task.opens) => continue,
                At::Begins => (0, None),
                At::Looks => (1, None),
                At::Reopens => (2, None),
                At::Waits(id) => (3, Some(id)),
            };
            tasks[t][..6].copy_from_slice(&[
                task.object as u8,
                u8::from(task.opens),
                task.reads,
                task.done,
                at,
                u8::from(task.killed),
            ]);
            let own = Who::Task(t, task.done);
            if let Some(id) = request.filter(|id| world.holds(*id, own)) {
                let request = self.request(id);
                tasks[t][6..].copy_from_slice(&request);
            }
        }
        tasks.sort_unstable();
        self.put(tasks.as_flattened());
    }

    /// The requests that no task waits for.
    fn requests(&mut self) {
        let world = self.world;
        let mut requests = [[u8::MAX; 10]; IDS];
        let mut len = 0;
        for (id, entry) in world.entries() {
            let kind = match entry.who {
                Who::Task(t, n) => {
                    let task = &world.tasks[t];
                    if task.at == At::Waits(id) && task.done == n {
                        continue;
                    }
                    0
                }
                Who::Lookup(_) => 1,
                Who::Reopen(..) => 2,
                Who::Close(_) => 3,
            };
            let fd = self.asked(entry.ask);
            let request = self.request(id);
            requests[len][..3].copy_from_slice(&[kind, entry.object as u8, fd]);
            requests[len][3..].copy_from_slice(&request);
            len += 1;
        }
        let requests = &mut requests[..len];
        requests.sort_unstable();
        self.put(requests.as_flattened());
        self.put(&[u8::MAX, self.rank(world.next_delivery)]);
    }

    /// How far a request is, and who reads it.
    fn request(&mut self, id: usize) -> [u8; 7] {
        let world = self.world;
        let Some(entry) = world.slots[id] else {
            return [u8::MAX; 7];
        };
        let told = world.messages.iter().any(|told| told.who == entry.who);
        let flags = bits([entry.new, entry.taken, entry.disowned, told]);
        let mut readers = [[u8::MAX; 2]; 2];
        for (thread, reading) in world.reading.iter().enumerate() {
            if let Some(reading) = reading.filter(|reading| reading.who == entry.who) {
                readers[thread] = self.reading(reading);
            }
        }
        readers.sort_unstable();
        let [[a, b], [c, d]] = readers;
        [flags, self.rank(id), entry.passed, a, b, c, d]
    }

    /// How many requests are older than what has this id.
    fn rank(&self, id: usize) -> u8 {
        let place = |id| (id + 1) % IDS;
        let older = |(other, _): &(usize, &Entry)| place(*other) < place(id);
        self.world.entries().filter(older).count() as u8
    }

    fn asked(&mut self, ask: Ask) -> u8 {
        match ask {
            Ask::Close(fd) => self.name(Some(fd)),
            _ => NONE,
        }
    }

    fn reading(&mut self, reading: Reading) -> [u8; 2] {
        match reading.phase {
            // The number of an fd that nobody knows yet does not matter.
            Phase::Picked => [u8::from(reading.old), NONE],
            Phase::Held => [u8::from(reading.old) | 2, self.name(Some(reading.fd))],
        }
    }

    /// The reads of the device whose request is over, in any order.
    fn late_readings(&mut self) {
        let world = self.world;
        let mut late = world.reading;
        for reading in &mut late {
            *reading = reading.filter(|reading| !world.holds(reading.id, reading.who));
        }
        late.sort_unstable_by_key(|reading| reading.map(|reading| self.known(reading)));
        for reading in late {
            let reading = reading.map_or([NONE; 4], |reading| {
                let [asked, object, ..] = self.known(reading);
                let [phase, fd] = self.reading(reading);
                [asked, object, phase, fd]
            });
            self.put(&reading);
        }
    }

    /// What such a read is known by before its fd has a name.
    fn known(&self, reading: Reading) -> [u8; 5] {
        let asked = match reading.ask {
            Ask::Open { .. } => 1,
            Ask::Close(_) => 2,
            Ask::Read { .. } => 3,
        };
        let named = self.names[..self.named]
            .iter()
            .position(|name| *name == reading.fd);
        [
            asked,
            reading.object as u8,
            reading.phase as u8,
            u8::from(reading.old),
            named.map_or(NONE, |at| at as u8 + 1),
        ]
    }

    /// What the daemon remembers of requests that are over.
    fn late_messages(&mut self) {
        let world = self.world;
        for told in &world.messages {
            if !world.holds(told.id, told.who) {
                self.put(&[
                    told.id as u8,
                    told.object as u8,
                    u8::from(told.open),
                    world.slots[told.id].map_or(NONE, |entry| entry.object as u8 + 1),
                ]);
            }
        }
    }
}

fn bits<const N: usize>(flags: [bool; N]) -> u8 {
    let bit = |bits: u8, flag: &bool| (bits << 1) | u8::from(*flag);
    flags.iter().fold(0, bit)
}
