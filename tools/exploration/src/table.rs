// SPDX-License-Identifier: GPL-2.0

//! What the module does with the decisions of its rules.
//!
//! Lives here: what `table.rs` does under each hold of `reqs_lock` for those who ask, as one function
//! each, and what is wrong with such a step if something is. What it does for a daemon is in
//! `daemon.rs`. Never here: whether it is allowed, which is for the rules.

use crate::invariant::Bug;
use crate::ondemand::rules::{abandon, reopen_failed, Ask, Event, Fate, WantReopen};
use crate::ondemand::state::{WantOpen, WantRead};
use crate::rule::{Rule, Rules};
use crate::world::{At, Budget, Entry, Lookup, Who, World, IDS, OBJECTS, SIZE, TASKS};

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
    /// For each task: its object, whether it looks it up, and how often it reads.
    pub tasks: [(usize, bool, u8); TASKS],
    /// How often others may go first.
    pub patience: u8,
    /// What is allowed how often.
    pub budget: Budget,
    /// The only bug that counts, if it is one.
    pub looks_for: Option<Bug>,
}

impl Table {
    /// Whether a new request may be delivered.
    pub(crate) fn is_deliverable(&self, world: &World, entry: &Entry) -> bool {
        let state = &world.objects[entry.object].state;
        entry.new && self.rules.may_deliver(&entry.ask, state).is_some()
    }

    /// The first new request at `from` or later that may be delivered.
    pub fn next_deliverable(&self, world: &World, from: usize) -> Option<usize> {
        let mut entries = world.entries();
        let found = entries.find(|(id, entry)| *id >= from && self.is_deliverable(world, entry));
        found.map(|(id, _)| id)
    }

    pub(crate) fn has(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }

    /// Stores a request under the next free id.
    fn store(&self, world: &mut World, who: Who, ask: Ask, object: usize) -> usize {
        let from = if self.has(Rule::CyclicIds) {
            assert!(world.given < IDS, "there are too few ids");
            world.given += 1;
            world.next_id
        } else {
            0
        };
        let id = (0..IDS)
            .map(|n| (from + n) % IDS)
            .find(|&id| world.slots[id].is_none())
            .expect("there are more ids than can be in use");
        world.next_id = (id + 1) % IDS;
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
        let o = task.object;
        let dead = world.dead;
        let object = &mut world.objects[o];
        world.tasks[t].at = if task.opens && task.done == 0 {
            match self.rules.want_open(dead, &mut object.state) {
                WantOpen::Send => {
                    object.lookup = Lookup::Asked;
                    self.store(world, Who::Lookup(o), Ask::Open { known_size: None }, o);
                    At::Looks
                }
                WantOpen::Already | WantOpen::Never => {
                    object.lookup = Lookup::Failed;
                    At::Ended
                }
            }
        } else {
            match self.rules.want_read(dead, &object.state) {
                WantRead::Store => {
                    let ask = Ask::Read { offset: 0, len: 1 };
                    At::Waits(self.store(world, Who::Task(t, task.done), ask, o))
                }
                WantRead::Reopen => At::Reopens,
                WantRead::Never => At::Ended,
            }
        };
    }

    /// The worker of a lookup does its part, and those who wait for it go on. Its file may fail it, even
    /// if the daemon has not.
    pub(crate) fn settle(&self, world: &mut World, o: usize, success: bool) {
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

    /// A task that waits is killed. The READ goes with it; the OPEN of a lookup has a worker to be told
    /// of its answer, and stays.
    pub(crate) fn kill(&self, world: &mut World, t: usize) {
        let task = &mut world.tasks[t];
        task.killed = true;
        if !self.has(Rule::Killable) {
            return;
        }
        let waited_for = match task.at {
            At::Waits(id) => Some((id, Who::Task(t, task.done))),
            _ => None,
        };
        task.at = At::Ended;
        if let Some((id, who)) = waited_for {
            self.take(world, id, who);
        }
    }

    /// A task has waited for as long as the daemon may take, and whatever it waits for ends.
    pub(crate) fn time_out(&self, world: &mut World, t: usize) {
        let task = &mut world.tasks[t];
        match task.at {
            At::Waits(id) => {
                let who = Who::Task(t, task.done);
                task.at = At::Ended;
                self.take(world, id, who);
            }
            At::Looks => {
                let who = Who::Lookup(task.object);
                // If it is over, the worker comes, for which no time is too long.
                let found = world.entries().find(|(_, entry)| entry.who == who);
                if let Some((id, _)) = found {
                    self.take(world, id, who);
                    world.finish(who, false);
                }
            }
            _ => {}
        }
    }

    /// Removes a request for which nobody waits any longer.
    fn take(&self, world: &mut World, id: usize, who: Who) {
        if !world.holds(id, who) {
            return;
        }
        let Some(entry) = world.slots[id] else { return };
        let state = &mut world.objects[entry.object].state;
        if self.rules.expire(&entry.ask, state) {
            world.slots[id] = None;
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
        if self.rules.wants_close(dead, &object.state, fd) {
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
