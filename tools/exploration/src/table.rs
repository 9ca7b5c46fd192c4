// SPDX-License-Identifier: GPL-2.0

//! What the module does with the decisions of its rules.
//!
//! Lives here: what `table.rs`, `deliver.rs` and `anon_fd.rs` do under each hold of `reqs_lock`, as
//! one function each, and what is wrong with a step if something is. Never here: whether it is
//! allowed, which is for the rules.

use crate::invariant::Bug;
use crate::ondemand::rules::{abandon, reopen_failed, wants_close};
use crate::ondemand::rules::{fd_released, Ask, Copied, Event, Fate, OpenEnd, WantReopen};
use crate::ondemand::state::{ObjectId, State, WantOpen, WantRead};
use crate::rule::{Rule, Rules};
use crate::world::World;
use crate::world::{At, Budget, Entry, Fd, Phase, Reading, Told, Who, HORIZON, IDS, SIZE, TASKS};

/// What is explored: where it begins, and what is allowed.
#[derive(Clone, Debug)]
pub struct Table {
    /// The rules.
    pub rules: Rules,
    /// The daemon answers any id at any time, rather than what it was told, also late.
    pub stray: bool,
    /// Threads that read the device.
    pub threads: usize,
    /// Objects that the daemon has open at the beginning.
    pub open: bool,
    /// For each task: its object, whether it looks it up, and how often it reads.
    pub tasks: [(usize, bool, u8); TASKS],
    /// How often others may go first.
    pub patience: u8,
    /// What is allowed how often.
    pub budget: Budget,
}

impl Table {
    /// The first new request at `from` or later that may be delivered.
    pub fn next_deliverable(&self, world: &World, from: usize) -> Option<(usize, Entry)> {
        world.entries().find_map(|(id, entry)| {
            let state = &world.objects[entry.object].state;
            let found = id >= from && entry.new;
            (found && self.rules.may_deliver(&entry.ask, state).is_some()).then_some((id, *entry))
        })
    }

    fn has(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }

    /// Stores a request under the next free id.
    fn store(&self, world: &mut World, who: Who, ask: Ask, object: usize) -> usize {
        let from = if self.has(Rule::CyclicIds) {
            world.next_id
        } else {
            0
        };
        let id = (0..IDS)
            .map(|n| (from + n) % IDS)
            .find(|&id| world.slots[id].is_none())
            .expect("there are more ids than can be in use");
        world.next_id = (id + 1) % IDS;
        let (slots, messages) = (&world.slots, &mut world.messages);
        messages.retain_mut(|told| {
            let live = slots[told.id].is_some_and(|entry| entry.who == told.who);
            told.age += u8::from(!live);
            told.age <= HORIZON
        });
        world.slots[id] = Some(Entry {
            who,
            ask,
            object,
            new: true,
            taken: false,
            disowned: false,
            passed: 0,
        });
        world.wake();
        id
    }

    /// What the event does to every request.
    pub(crate) fn happen(&self, world: &mut World, event: Event, about: Option<usize>) -> bool {
        let mut again = false;
        for id in 0..IDS {
            let Some(entry) = world.slots[id] else {
                continue;
            };
            let own = about == Some(entry.object);
            let state = world.objects[entry.object].state;
            match self.rules.fate(event, &entry.ask, own, &state) {
                Fate::Stays => {}
                Fate::Again => {
                    again = true;
                    if let Some(entry) = &mut world.slots[id] {
                        entry.new = true;
                    }
                }
                Fate::Disowned => {
                    world.finish(entry.who, false);
                    if let Some(entry) = &mut world.slots[id] {
                        entry.disowned = true;
                    }
                }
                Fate::Ends => {
                    abandon(&entry.ask, &mut world.objects[entry.object].state);
                    if self.has(Rule::EndedIsRemoved) {
                        world.slots[id] = None;
                    }
                    if about.is_some() && !own {
                        world.blame(Bug::FailedForAnother);
                    } else if matches!(
                        (event, entry.ask),
                        (Event::FdReleased { .. }, Ask::Read { .. })
                    ) {
                        world.blame(Bug::NoAnswer);
                    }
                    if !entry.disowned {
                        world.finish(entry.who, false);
                    }
                }
            }
        }
        again
    }

    pub(crate) fn ask(&self, world: &mut World, t: usize) {
        let task = world.tasks[t];
        let who = Who::Task(t, task.done);
        let dead = world.dead;
        let object = &mut world.objects[task.object];
        let at = if task.opens && task.done == 0 {
            match self.rules.want_open(dead, &mut object.state) {
                WantOpen::Send => {
                    At::Waits(self.store(world, who, Ask::Open { known_size: None }, task.object))
                }
                WantOpen::Already => {
                    object.in_service = true;
                    world.tasks[t].next(true);
                    return;
                }
                WantOpen::Never => At::Ended,
            }
        } else {
            match self.rules.want_read(dead, &object.state) {
                WantRead::Store => {
                    let ask = Ask::Read { offset: 0, len: 1 };
                    At::Waits(self.store(world, who, ask, task.object))
                }
                WantRead::Reopen => At::Reopens,
                WantRead::Never => At::Ended,
            }
        };
        world.tasks[t].at = at;
    }

    /// Stores an OPEN for a lost fd; false if nobody would answer it.
    pub(crate) fn reopen(&self, world: &mut World, o: usize) -> bool {
        let dead = world.dead;
        let object = &mut world.objects[o];
        match self.rules.want_reopen(dead, &mut object.state) {
            WantReopen::Never => return false,
            WantReopen::Needless => {}
            WantReopen::Store => {
                object.reopened += 1;
                let who = Who::Reopen(o, object.reopened);
                let known_size = Some(SIZE);
                self.store(world, who, Ask::Open { known_size }, o);
            }
        }
        true
    }

    /// The fd of a lost object could not be asked for again.
    pub(crate) fn reopen_failed(&self, world: &mut World, o: usize) {
        if let Some(event) = reopen_failed(&world.objects[o].state) {
            self.happen(world, event, Some(o));
        }
    }

    pub(crate) fn kill(&self, world: &mut World, t: usize) {
        let task = &mut world.tasks[t];
        task.killed = true;
        let At::Waits(id) = task.at else { return };
        if !self.has(Rule::Killable) {
            return;
        }
        let who = Who::Task(t, task.done);
        task.at = At::Ended;
        if world.holds(id, who) {
            if let Some(entry) = world.slots[id].take() {
                world.objects[entry.object].unwanted |= matches!(entry.ask, Ask::Open { .. });
                abandon(&entry.ask, &mut world.objects[entry.object].state);
            }
        }
    }

    pub(crate) fn pick(&self, world: &mut World, thread: usize) {
        if !world.awake {
            world.awake = true;
            world.edge = false;
        }
        let from = match self.has(Rule::CyclicDelivery) {
            true => world.next_delivery,
            false => 0,
        };
        let found = self.next_deliverable(world, from);
        let Some((id, entry)) = found.or_else(|| self.next_deliverable(world, 0)) else {
            world.awake = false;
            return;
        };
        for other in 0..IDS {
            if let Some(waiting) = world.slots[other].filter(|_| other != id) {
                let state = &world.objects[waiting.object].state;
                if waiting.new && self.rules.may_deliver(&waiting.ask, state).is_some() {
                    world.slots[other] = Some(Entry {
                        passed: waiting.passed + u8::from(self.patience < u8::MAX),
                        ..waiting
                    });
                }
            }
        }
        world.slots[id] = Some(Entry {
            new: false,
            taken: true,
            passed: 0,
            ..entry
        });
        world.next_delivery = id + 1;
        let state = world.objects[entry.object].state;
        if matches!(entry.ask, Ask::Read { .. }) && !matches!(state, State::Open(_)) {
            world.blame(Bug::ReadOfClosed);
        }
        let fd = match entry.ask {
            Ask::Open { .. } => world.free_fd(),
            _ => 0,
        };
        world.reading[thread] = Some(Reading {
            id,
            who: entry.who,
            ask: entry.ask,
            object: entry.object,
            fd,
            phase: Phase::Picked,
            old: false,
        });
        if matches!(entry.ask, Ask::Open { .. }) && !self.has(Rule::CopyThenPublish) {
            self.install(world, thread);
        }
    }

    /// Makes the fd of a reading visible.
    fn install(&self, world: &mut World, thread: usize) {
        if let Some(reading) = world.reading[thread] {
            world.fds.push(Fd {
                id: reading.fd,
                object: reading.object,
                old: reading.old,
            });
            world.fds.sort_by_key(|fd| fd.id);
        }
    }

    pub(crate) fn copy_fails(&self, world: &mut World, thread: usize) {
        let Some(reading) = world.reading[thread].take() else {
            return;
        };
        if world.fds.iter().any(|fd| fd.id == reading.fd) {
            world.blame(Bug::UntoldFd);
        }
        if world.holds(reading.id, reading.who) {
            if let Some(entry) = &mut world.slots[reading.id] {
                entry.new = true;
            }
        }
        world.awake |= !reading.old;
        world.wake();
    }

    pub(crate) fn copy_works(&self, world: &mut World, thread: usize) {
        let Some(reading) = world.reading[thread] else {
            return;
        };
        let present = world.holds(reading.id, reading.who);
        let state = &mut world.objects[reading.object].state;
        let dead_object = matches!(state, State::Dropped(_) | State::Orphaned(_));
        match self.rules.copied(&reading.ask, present, state, reading.fd) {
            Copied::Publish => {
                if !present {
                    world.blame(Bug::FdForNobody);
                }
                if dead_object || world.objects[reading.object].dropped {
                    world.blame(Bug::FdOfDead);
                }
                world.reading[thread] = Some(Reading {
                    phase: Phase::Held,
                    ..reading
                });
                return;
            }
            end @ (Copied::Void | Copied::Again) => {
                if let (Copied::Again, Some(entry)) = (end, &mut world.slots[reading.id]) {
                    entry.new |= self.has(Rule::SlowIsNewAgain);
                }
                world.fds.retain(|fd| fd.id != reading.fd);
                world.awake &= reading.old;
                if self.has(Rule::WakeAfterVoid) {
                    world.wake();
                }
            }
            Copied::Over => {
                world.slots[reading.id] = None;
                self.told(world, reading);
            }
            Copied::Stays => self.told(world, reading),
        }
        world.reading[thread] = None;
    }

    /// The daemon has a message now, if it lives.
    fn told(&self, world: &mut World, reading: Reading) {
        if reading.old {
            return;
        }
        world.awake = true;
        let open = match reading.ask {
            Ask::Open { .. } => true,
            Ask::Read { .. } => false,
            Ask::Close(_) => {
                let object = &mut world.objects[reading.object];
                if core::mem::replace(&mut object.told_to_close, true) {
                    world.blame(Bug::ClosedTwice);
                }
                return;
            }
        };
        if self.stray || world.messages.iter().any(|told| told.who == reading.who) {
            return;
        }
        world.messages.push(Told {
            id: reading.id,
            who: reading.who,
            object: reading.object,
            open,
            age: 0,
        });
        world.messages.sort_by_key(|told| told.who);
    }

    pub(crate) fn publish(&self, world: &mut World, thread: usize) {
        if self.has(Rule::CopyThenPublish) {
            self.install(world, thread);
        }
        if let Some(reading) = world.reading[thread].take() {
            self.told(world, reading);
        }
    }

    /// The id that an answer names, and the request that it is meant for, if it is meant for one.
    pub(crate) fn target(&self, world: &World, nth: usize) -> (usize, Option<Told>) {
        match self.stray {
            true => (nth, None),
            false => (world.messages[nth].id, Some(world.messages[nth])),
        }
    }

    fn check_target(&self, world: &mut World, entry: Entry, meant: Option<Told>) {
        if meant.is_some_and(|told| told.who != entry.who) {
            world.blame(Bug::AnotherAnswer);
        }
        if !entry.taken {
            world.blame(Bug::AnsweredUnread);
        }
    }

    pub(crate) fn copen(&self, world: &mut World, nth: usize, accept: bool) {
        let (id, meant) = self.target(world, nth);
        let Some(entry) = world.slots[id] else { return };
        let size = accept.then_some(SIZE);
        let state = &mut world.objects[entry.object].state;
        let Some((end, reads_fail)) = self.rules.answer_open(&entry.ask, state, size) else {
            return;
        };
        world.slots[id] = None;
        world.budget.refusals -= u8::from(!accept);
        self.check_target(world, entry, meant);
        if !matches!(entry.ask, Ask::Open { .. }) {
            world.blame(Bug::WrongKind);
        }
        if reads_fail {
            self.happen(world, Event::NotReopened, Some(entry.object));
        }
        let object = &mut world.objects[entry.object];
        object.unwanted |= !accept;
        if let OpenEnd::ObjectGone(fd) = end {
            object.to_close = Some(fd);
        } else if !entry.disowned {
            world.finish(entry.who, matches!(end, OpenEnd::Opened(_)));
        }
        world.wake();
    }

    pub(crate) fn cread(&self, world: &mut World, nth: usize, through: usize) {
        let (id, meant) = self.target(world, nth);
        let Some(entry) = world.slots[id] else { return };
        let own = entry.object == through;
        if !self.rules.may_answer_read(&entry.ask, own, entry.taken) {
            return;
        }
        world.slots[id] = None;
        self.check_target(world, entry, meant);
        if !own {
            world.blame(Bug::WrongObject);
        }
        if !matches!(entry.ask, Ask::Read { .. }) {
            world.blame(Bug::WrongKind);
        }
        world.finish(entry.who, true);
    }

    pub(crate) fn close_fd(&self, world: &mut World, id: ObjectId) {
        let Some(at) = world.fds.iter().position(|fd| fd.id == id) else {
            return;
        };
        let fd = world.fds.remove(at);
        let object = &mut world.objects[fd.object];
        if !fd.old && !object.told_to_close {
            world.budget.closes = world.budget.closes.saturating_sub(1);
        }
        let event = fd_released(&mut object.state, id);
        if self.happen(world, event, Some(fd.object)) {
            world.objects[fd.object].to_reopen = true;
        } else {
            self.wake_after_release(world);
        }
    }

    pub(crate) fn wake_after_release(&self, world: &mut World) {
        if self.has(Rule::WakeAfterRelease) {
            world.wake();
        }
    }

    pub(crate) fn drop_object(&self, world: &mut World, o: usize) {
        let object = &mut world.objects[o];
        let Some((to_close, event)) = self.rules.drop_object(&mut object.state) else {
            return;
        };
        object.to_close = to_close.or(object.to_close);
        object.dropped = true;
        object.in_service = false;
        self.happen(world, event, Some(o));
    }

    pub(crate) fn store_close(&self, world: &mut World, o: usize) {
        let dead = world.dead;
        let object = &mut world.objects[o];
        let Some(fd) = object.to_close.take() else {
            return;
        };
        if wants_close(dead, &object.state, fd) {
            self.store(world, Who::Close(o), Ask::Close(fd), o);
        }
    }

    pub(crate) fn succeed(&self, world: &mut World) {
        world.messages.clear();
        for fd in &mut world.fds {
            fd.old = true;
        }
        for reading in world.reading.iter_mut().flatten() {
            reading.old = true;
        }
        world.awake = true;
        self.happen(world, Event::Restored, None);
        world.wake();
    }
}
