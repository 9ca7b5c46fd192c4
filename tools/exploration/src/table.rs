// SPDX-License-Identifier: GPL-2.0

//! What the module does with the decisions of its rules.
//!
//! Lives here: what `table.rs` does under each hold of `reqs_lock` for those who ask, as one function
//! each, and what is wrong with such a step if something is. What it does for a daemon is in
//! `daemon.rs`. Never here: whether it is allowed, which is for the rules.

use crate::invariant::Bug;
use crate::ondemand::state::{Event, MsgId, Read, Reads, State};
use crate::rule::{Rule, Rules};
use crate::world::{At, Budget, Lookup, Place, World, OBJECTS, TASKS};

/// What is explored: where it begins, and what is allowed.
#[derive(Clone, Debug)]
pub struct Table {
    /// The rules.
    pub rules: Rules,
    /// The daemon answers any id at any time, rather than what it was told, also late.
    pub stray: bool,
    /// Threads that read the device.
    pub threads: usize,
    /// Which objects the daemon has open at the beginning.
    pub open: [bool; OBJECTS],
    /// The second object has the keys of the first, and is looked up when that was let go.
    pub remount: bool,
    /// For each task: its object, whether it looks it up, and how often it reads.
    pub tasks: [(usize, bool, u8); TASKS],
    /// What is allowed how often.
    pub budget: Budget,
    /// The only bug that counts, if it is one.
    pub looks_for: Option<Bug>,
}

impl Table {
    pub(crate) fn has(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }

    /// The next free id.
    pub(crate) fn new_id(&self, world: &mut World) -> MsgId {
        if self.has(Rule::CyclicIds) {
            world.last_id += 1;
            return world.last_id;
        }
        let taken = |id| {
            let reserved = |fd: Option<MsgId>| fd == Some(id);
            world
                .objects
                .iter()
                .any(|o| o.state.ids().into_iter().any(reserved))
                || world
                    .tasks
                    .iter()
                    .any(|t| t.read != Read::Over && t.id == id)
                || world.reading.iter().flatten().any(|r| r.fd.next == id)
        };
        (1..).find(|id| !taken(*id)).unwrap_or(MsgId::MAX)
    }

    /// Does to the object what the event means, and returns its new state.
    pub(crate) fn happen(
        &self,
        world: &mut World,
        o: usize,
        event: Event,
        success: bool,
    ) -> Option<State> {
        let before = world.objects[o].state;
        let opened = world.objects[o].open();
        let (after, reads) = self.rules.on(before, event)?;
        world.objects[o].state = after;
        if opened.is_none() && world.objects[o].open().is_some() {
            world.objects[o].serial = self.new_serial(world);
        }
        if before.is_looked_up() && !after.is_looked_up() {
            let lookup = &mut world.objects[o].lookup;
            match (*lookup, success) {
                (Lookup::Asked, true) => *lookup = Lookup::Accepted,
                (Lookup::Asked, false) => *lookup = Lookup::Failed,
                _ => world.blame(Bug::AnsweredTwice),
            }
        }
        match reads {
            Reads::Stay => {}
            Reads::Again => {
                while let Some(t) = world.objects[o].taken.first().copied() {
                    self.set(world, t, Read::Again);
                }
            }
            Reads::Fail => {
                for t in self.reads(world, o) {
                    if let Event::Released { .. } = event {
                        world.blame(Bug::NoAnswer);
                    }
                    self.end_read(world, t, false);
                }
            }
        }
        self.settle(world, o);
        Some(after)
    }

    fn new_serial(&self, world: &mut World) -> u32 {
        world.last_serial += 1;
        world.last_serial
    }

    pub(crate) fn reads(&self, world: &World, o: usize) -> Vec<usize> {
        let object = &world.objects[o];
        object.taken.iter().chain(&object.unread).copied().collect()
    }

    /// Changes how far a READ is, and with that the list of its object that it is in.
    pub(crate) fn set(&self, world: &mut World, t: usize, to: Read) -> Read {
        let task = &mut world.tasks[t];
        let object = &mut world.objects[task.object];
        object.unread.retain(|other| *other != t);
        object.taken.retain(|other| *other != t);
        match to {
            Read::Unread | Read::Again => object.unread.push(t),
            Read::Taken => object.taken.push(t),
            Read::Over => {}
        }
        task.passed = 0;
        core::mem::replace(&mut task.read, to)
    }

    /// A READ is over, and its reader goes on.
    pub(crate) fn end_read(&self, world: &mut World, t: usize, success: bool) {
        if world.tasks[t].at != At::Waits {
            return world.blame(Bug::AnsweredTwice);
        }
        if self.has(Rule::EndedIsRemoved) {
            self.set(world, t, Read::Over);
        }
        world.tasks[t].next(success);
        self.settle(world, world.tasks[t].object);
    }

    /// Puts the object into another list, or the same, at the tail.
    pub(crate) fn set_place(&self, world: &mut World, o: usize, to: Place) {
        world.ready.retain(|other| *other != o);
        world.parked.retain(|other| *other != o);
        match to {
            Place::Ready => world.ready.push(o),
            Place::Parked => world.parked.push(o),
            Place::Idle => {}
        }
        world.objects[o].place = to;
        world.objects[o].passed = 0;
    }

    /// Puts the object into the list where it belongs now, if it is in another; true if there is more
    /// to read than before, which is told.
    pub(crate) fn settle(&self, world: &mut World, o: usize) -> bool {
        let object = &world.objects[o];
        let message = self
            .rules
            .next_message(object.state, !object.unread.is_empty());
        match (message, object.place) {
            (Some(_), Place::Idle) => self.set_place(world, o, Place::Ready),
            (None, Place::Ready | Place::Parked) => {
                self.set_place(world, o, Place::Idle);
                world.objects[o].no_fd = false;
                return false;
            }
            _ => return false,
        }
        true
    }

    /// An event of one object that may give the daemon more to read.
    pub(crate) fn happens(
        &self,
        world: &mut World,
        o: usize,
        event: Event,
        success: bool,
    ) -> Option<State> {
        let before = world.ready.clone();
        let state = self.happen(world, o, event, success);
        world.awake |= world.ready.iter().any(|o| !before.contains(o));
        state
    }

    /// The object that was parked first can be delivered again.
    pub(crate) fn unpark_one(&self, world: &mut World) -> bool {
        let Some(o) = world.parked.first().copied() else {
            return false;
        };
        world.objects[o].no_fd = false;
        self.set_place(world, o, Place::Ready);
        true
    }

    /// A worker tries again what is parked.
    pub(crate) fn retry(&self, world: &mut World) {
        world.retrying = false;
        while self.unpark_one(world) {}
        world.awake |= self.has(Rule::WakeAfterRetry);
    }

    pub(crate) fn ask(&self, world: &mut World, t: usize) {
        let task = world.tasks[t];
        let o = task.object;
        if task.opens && task.done == 0 {
            let id = self.new_id(world);
            let dead = world.dead && self.has(Rule::DeadStoresNothing);
            world.objects[o].lookup = Lookup::Asked;
            let stored = !dead && self.happens(world, o, Event::Lookup(id), false).is_some();
            world.tasks[t].at = At::Looks;
            if !stored {
                world.objects[o].lookup = Lookup::Failed;
            }
            return;
        }
        if self.happens(world, o, Event::Miss, false).is_none() {
            world.tasks[t].at = At::Ended;
            return;
        }
        let id = self.new_id(world);
        let serial = self.new_serial(world);
        let task = &mut world.tasks[t];
        task.at = At::Waits;
        task.id = id;
        task.serial = serial;
        self.set(world, t, Read::Unread);
        self.settle(world, o);
        world.awake = true;
    }

    /// The worker of a lookup does its part, and those who wait for it go on. Its file may fail it, even
    /// if the daemon has not.
    pub(crate) fn settle_lookup(&self, world: &mut World, o: usize, success: bool) {
        if !success {
            self.drop_object(world, o);
        }
        let object = &mut world.objects[o];
        object.lookup = Lookup::Over;
        object.in_service = success && !object.dropped;
        for task in &mut world.tasks {
            if task.object == o && task.at == At::Looks {
                task.next(success);
            }
        }
    }

    /// A task that waits is killed. The READ goes with it; the OPEN of a lookup has a worker to be told
    /// of its answer, and stays.
    pub(crate) fn kill(&self, world: &mut World, t: usize) {
        world.tasks[t].killed = true;
        if !self.has(Rule::Killable) {
            return;
        }
        match world.tasks[t].at {
            At::Waits => self.end_read(world, t, false),
            _ => world.tasks[t].at = At::Ended,
        }
    }

    /// A task has waited for as long as the daemon may take, and what it waits for ends.
    pub(crate) fn time_out(&self, world: &mut World, t: usize) {
        match world.tasks[t].at {
            At::Waits => self.end_read(world, t, false),
            At::Looks => {
                // If it is over, the worker comes, for which no time is too long.
                self.happens(world, world.tasks[t].object, Event::Expired, false);
            }
            _ => {}
        }
    }

    pub(crate) fn drop_object(&self, world: &mut World, o: usize) {
        self.happens(world, o, Event::Dropped, false);
        world.objects[o].dropped = true;
        world.objects[o].in_service = false;
    }

    /// A daemon takes over what another one has read.
    pub(crate) fn restore(&self, world: &mut World) {
        for o in 0..OBJECTS {
            self.happen(world, o, Event::Restored, false);
        }
        while self.unpark_one(world) {}
        world.awake = true;
    }

    pub(crate) fn succeed(&self, world: &mut World) {
        world.messages.clear();
        for fd in &mut world.fds {
            fd.old = true;
        }
        for reading in world.reading.iter_mut().flatten() {
            reading.old = true;
        }
        self.restore(world);
    }

    pub(crate) fn die(&self, world: &mut World) {
        world.dead = true;
        // One that was not looked up is not in the table.
        for o in 0..OBJECTS {
            if world.objects[o].state == State::New {
                continue;
            }
            self.happen(world, o, Event::Died, false);
        }
        world.awake = true;
    }
}
