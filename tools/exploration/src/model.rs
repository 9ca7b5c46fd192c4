// SPDX-License-Identifier: GPL-2.0

//! The model that is explored: how the world begins, and what can happen in it at any time.
//!
//! A step is what happens under one hold of `reqs_lock`, or what user space sees happen at once. What
//! a step does is in `table.rs` and `daemon.rs`.

use crate::daemon::Answer;
use crate::invariant::{examine, properties};
use crate::ondemand::rules::{Ask, Event};
use crate::ondemand::state::{ObjectId, State};
use crate::rule::Rule;
use crate::table::Table;
use crate::world::{At, Budget, Fd, Lookup, Object, Phase, Task, World, IDS, OBJECTS, SIZE};
use stateright::{Model, Property};

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A task stores its request, or learns that it need not or must not.
    Ask(usize),
    /// A task that found the fd gone stores an OPEN.
    Reopen(usize),
    /// It has no memory for that.
    ReopenFails(usize),
    /// A task that waits is killed.
    Kill(usize),
    /// A task has waited for too long.
    TimeOut(usize),
    /// The worker of a lookup puts the object into service, or gives it up.
    Settle(usize),
    /// It has to give it up though the daemon has accepted it.
    SettleFails(usize),
    /// A daemon's thread takes a request to deliver.
    Pick(usize),
    /// The copy to the daemon fails.
    CopyFails(usize),
    /// The copy to the daemon works, and the thread looks again and tells the state.
    CopyWorks(usize),
    /// The fd becomes visible.
    Publish(usize),
    /// The daemon answers the message or, if it is a stray, the id.
    Copen(usize, Answer),
    /// The daemon answers the message, or if it is a stray the id, through an fd of the object.
    Cread(usize, usize),
    /// An fd is closed.
    CloseFd(ObjectId),
    /// Who closed it stores an OPEN for the reads that wait.
    ReleaseReopens(usize),
    /// Who closed it has no memory for that.
    ReleaseFails(usize),
    /// `restore`.
    Restore,
    /// The daemon dies, and another one takes over.
    Succeed,
    /// An object goes away.
    Drop(usize),
    /// A CLOSE is stored for it.
    StoreClose(usize),
    /// The cache dies: the device is closed, or the disk has failed.
    Die,
}

impl Model for Table {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let object = |o: usize| Object {
            state: match self.open[o] {
                true => State::Open(o as ObjectId + 1),
                false => State::Closed,
            },
            lookup: match self.open[o] {
                true => Lookup::Over,
                false => Lookup::Not,
            },
            in_service: self.open[o],
            dropped: false,
            to_reopen: 0,
            to_close: None,
            told_to_close: false,
            unwanted: None,
            reopened: 0,
        };
        let fd = |object: usize| Fd {
            id: object as ObjectId + 1,
            object,
            old: false,
        };
        vec![World {
            dead: false,
            next_delivery: IDS - 1,
            next_id: IDS - 1,
            given: 0,
            slots: [None; IDS],
            objects: [object(0), object(1)],
            tasks: self.tasks.map(|(object, opens, reads)| Task {
                object,
                at: match (opens, reads) {
                    (false, 0) => At::Ended,
                    _ => At::Begins,
                },
                opens,
                reads,
                done: 0,
                killed: false,
            }),
            fds: (0..OBJECTS).filter(|o| self.open[*o]).map(fd).collect(),
            messages: Vec::new(),
            reading: [None; 2],
            awake: false,
            edge: false,
            budget: self.budget,
            bug: None,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.bug.is_some() {
            return;
        }
        self.task_steps(world, steps);
        self.delivery_steps(world, steps);
        self.answer_steps(world, steps);
        let left = &world.budget;
        for fd in &world.fds {
            if left.closes > 0 || self.closes(world, *fd) {
                steps.push(Step::CloseFd(fd.id));
            }
        }
        for (o, object) in world.objects.iter().enumerate() {
            if object.to_reopen > 0 {
                steps.push(Step::ReleaseReopens(o));
                if left.faults > 0 {
                    steps.push(Step::ReleaseFails(o));
                }
            }
            if object.to_close.is_some() {
                steps.push(Step::StoreClose(o));
            }
            if matches!(object.lookup, Lookup::Accepted | Lookup::Failed) {
                steps.push(Step::Settle(o));
                if left.faults > 0 && object.lookup == Lookup::Accepted {
                    steps.push(Step::SettleFails(o));
                }
            }
            // A second time too: when its lookup has failed, and when its cookie goes. FS-Cache does not
            // let an object go for whose lookup somebody waits.
            let waits = |task: &Task| task.object == o && task.at == At::Looks;
            let goes = object.lookup != Lookup::Not && !world.tasks.iter().any(waits);
            if left.drops > 0 && goes {
                steps.push(Step::Drop(o));
            }
        }
        if left.restores > 0 {
            steps.push(Step::Restore);
        }
        if left.successors > 0 && !world.dead {
            steps.push(Step::Succeed);
        }
        if left.deaths > 0 {
            steps.push(Step::Die);
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut next = last.clone();
        let world = &mut next;
        match step {
            Step::Ask(t) => self.ask(world, t),
            Step::Reopen(t) => {
                let o = world.tasks[t].object;
                world.tasks[t].at = match self.reopen(world, o) {
                    true => At::Begins,
                    false => At::Ended,
                };
                // A read that is under way comes again, whatever became of the object meanwhile.
                if world.tasks[t].at == At::Begins && !world.objects[o].in_service {
                    self.ask(world, t);
                }
            }
            Step::ReopenFails(t) => {
                world.budget.faults -= 1;
                world.tasks[t].at = At::Ended;
            }
            Step::Kill(t) => {
                world.budget.kills -= 1;
                self.kill(world, t);
            }
            Step::TimeOut(t) => {
                world.budget.timeouts -= 1;
                self.time_out(world, t);
            }
            Step::Settle(o) => {
                let success = world.objects[o].lookup == Lookup::Accepted;
                self.settle(world, o, success);
            }
            Step::SettleFails(o) => {
                world.budget.faults -= 1;
                self.settle(world, o, false);
            }
            Step::Pick(thread) => self.pick(world, thread),
            Step::CopyFails(thread) => {
                world.budget.faults -= 1;
                self.copy_fails(world, thread);
            }
            Step::CopyWorks(thread) => self.copy_works(world, thread),
            Step::Publish(thread) => self.publish(world, thread),
            Step::Copen(nth, answer) => self.copen(world, nth, answer),
            Step::Cread(nth, through) => self.cread(world, nth, through),
            Step::CloseFd(id) => self.close_fd(world, id),
            Step::ReleaseReopens(o) => {
                world.objects[o].to_reopen -= 1;
                if !self.reopen(world, o) {
                    self.reopen_failed(world, o);
                }
                self.wake_after_release(world);
            }
            Step::ReleaseFails(o) => {
                world.budget.faults -= 1;
                world.objects[o].to_reopen -= 1;
                self.reopen_failed(world, o);
                self.wake_after_release(world);
            }
            Step::Restore => {
                world.budget.restores -= 1;
                self.happen(world, Event::Restored, None);
                world.wake();
            }
            Step::Succeed => {
                world.budget.successors -= 1;
                self.succeed(world);
            }
            Step::Drop(o) => {
                world.budget.drops -= 1;
                self.drop_object(world, o);
            }
            Step::StoreClose(o) => self.store_close(world, o),
            Step::Die => {
                world.budget.deaths -= 1;
                world.dead = true;
                self.happen(world, Event::Dead, None);
                world.wake();
            }
        }
        self.forget(world);
        if next == *last {
            return None;
        }
        if next.bug.is_none() {
            next.bug = examine(self, &next);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties()
    }
}

impl Table {
    fn task_steps(&self, world: &World, steps: &mut Vec<Step>) {
        let left = &world.budget;
        for (t, task) in world.tasks.iter().enumerate() {
            match task.at {
                At::Begins => {
                    let in_service = world.objects[task.object].in_service;
                    if (task.opens && task.done == 0) || in_service {
                        steps.push(Step::Ask(t));
                    }
                }
                At::Reopens => {
                    steps.push(Step::Reopen(t));
                    if left.faults > 0 {
                        steps.push(Step::ReopenFails(t));
                    }
                }
                At::Waits(_) | At::Looks => {
                    if left.kills > 0 && !task.killed {
                        steps.push(Step::Kill(t));
                    }
                    if left.timeouts > 0 {
                        steps.push(Step::TimeOut(t));
                    }
                }
                At::Ended => {}
            }
        }
    }

    fn delivery_steps(&self, world: &World, steps: &mut Vec<Step>) {
        let left = &world.budget;
        let threads = &world.reading[..self.threads];
        for (thread, reading) in threads.iter().enumerate() {
            match reading.map(|reading| reading.phase) {
                Some(Phase::Picked) => {
                    steps.push(Step::CopyWorks(thread));
                    if left.faults > 0 {
                        steps.push(Step::CopyFails(thread));
                    }
                }
                Some(Phase::Held) => steps.push(Step::Publish(thread)),
                None => {}
            }
        }
        // One that has nothing to do is like the other.
        let Some(idle) = threads.iter().position(Option::is_none) else {
            return;
        };
        if world.awake || world.edge {
            steps.push(Step::Pick(idle));
        }
    }

    fn answer_steps(&self, world: &World, steps: &mut Vec<Step>) {
        let answers = if self.stray {
            IDS
        } else {
            world.messages.len()
        };
        for nth in 0..answers {
            let (id, meant) = self.target(world, nth);
            let Some(entry) = world.slots[id] else {
                continue;
            };
            if meant.is_none_or(|told| told.open) {
                steps.push(Step::Copen(nth, Answer::Accept));
                if world.budget.refusals > 0 {
                    steps.push(Step::Copen(nth, Answer::Refuse));
                    let again = Ask::Open {
                        known_size: Some(SIZE),
                    };
                    if entry.ask == again {
                        steps.push(Step::Copen(nth, Answer::OtherSize));
                    }
                }
            }
            for fd in world.fds.iter().filter(|fd| !fd.old) {
                if meant.is_none_or(|told| !told.open && told.object == fd.object) {
                    steps.push(Step::Cread(nth, fd.object));
                }
            }
        }
    }

    /// Leaves out of the world what cannot make a difference any more, so that there are fewer.
    fn forget(&self, world: &mut World) {
        if self.has(Rule::CyclicIds) {
            // No id names two requests one after the other: what is over can be answered, in vain.
            let slots = &world.slots;
            world
                .messages
                .retain(|told| slots[told.id].is_some_and(|entry| entry.who == told.who));
        }
        if self.has(Rule::WakeAfterVoid) {
            // Whoever would find nothing has looked already: if there is something later, and no
            // wake-up, it sleeps.
            world.awake |= world.edge;
            world.awake &= self.next_deliverable(world, 0).is_some();
            world.edge = false;
        }
        if world.dead {
            // The table is empty, and nothing is stored any more.
            world.budget = Budget {
                drops: world.budget.drops,
                faults: world.budget.faults,
                ..Budget::default()
            };
        }
    }
}
