// SPDX-License-Identifier: GPL-2.0

//! The model that is explored: how the world begins, and what can happen in it at any time.
//!
//! A step is what happens under one hold of `reqs_lock`, or what user space sees happen at once.

use crate::invariant::{examine, properties};
use crate::ondemand::rules::Event;
use crate::ondemand::state::{ObjectId, State};
use crate::table::Table;
use crate::world::{At, Fd, Object, Phase, Task, World, IDS, OBJECTS};
use stateright::{Model, Property};

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A task stores its request, or learns that it need not or must not.
    Ask(usize),
    /// A task that found the fd gone stores an OPEN.
    Reopen(usize),
    /// It has no memory for that.
    ReopenFails(usize),
    /// A task that waits is killed.
    Kill(usize),
    /// A daemon's thread takes a request to deliver.
    Pick(usize),
    /// The copy to the daemon fails.
    CopyFails(usize),
    /// The copy to the daemon works, and the thread looks again and tells the state.
    CopyWorks(usize),
    /// The fd becomes visible.
    Publish(usize),
    /// The daemon answers the message or, if it is a stray, the id: accepting, refusing.
    Copen(usize, bool),
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
            state: match self.open {
                true => State::Open(o as ObjectId + 1),
                false => State::Closed,
            },
            in_service: self.open,
            dropped: false,
            to_reopen: false,
            to_close: None,
            told_to_close: false,
            unwanted: false,
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
            slots: [None; IDS],
            objects: [object(0), object(1)],
            tasks: self.tasks.map(|(object, opens, reads)| Task {
                object,
                at: At::Begins,
                opens,
                reads,
                done: 0,
                killed: false,
            }),
            fds: (0..OBJECTS).filter(|_| self.open).map(fd).collect(),
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
        let left = &world.budget;
        for (t, task) in world.tasks.iter().enumerate() {
            let object = &world.objects[task.object];
            match task.at {
                At::Begins if (task.opens && task.done == 0) || object.in_service => {
                    steps.push(Step::Ask(t));
                }
                At::Reopens => {
                    steps.push(Step::Reopen(t));
                    if left.faults > 0 {
                        steps.push(Step::ReopenFails(t));
                    }
                }
                At::Waits(_) if left.kills > 0 && !task.killed => steps.push(Step::Kill(t)),
                _ => {}
            }
        }
        for thread in 0..self.threads {
            match world.reading[thread] {
                None if world.awake || world.edge => steps.push(Step::Pick(thread)),
                None => {}
                Some(reading) => match reading.phase {
                    Phase::Picked => {
                        steps.push(Step::CopyWorks(thread));
                        if left.faults > 0 {
                            steps.push(Step::CopyFails(thread));
                        }
                    }
                    Phase::Held => steps.push(Step::Publish(thread)),
                },
            }
        }
        let answers = if self.stray {
            IDS
        } else {
            world.messages.len()
        };
        for nth in 0..answers {
            let (id, meant) = self.target(world, nth);
            if world.slots[id].is_none() {
                continue;
            }
            if meant.is_none_or(|told| told.open) {
                steps.push(Step::Copen(nth, true));
                if left.refusals > 0 {
                    steps.push(Step::Copen(nth, false));
                }
            }
            for fd in world.fds.iter().filter(|fd| !fd.old) {
                if meant.is_none_or(|told| !told.open && told.object == fd.object) {
                    steps.push(Step::Cread(nth, fd.object));
                }
            }
        }
        for fd in &world.fds {
            let object = &world.objects[fd.object];
            if fd.old || world.dead || object.told_to_close || left.closes > 0 {
                steps.push(Step::CloseFd(fd.id));
            }
        }
        for (o, object) in world.objects.iter().enumerate() {
            if object.to_reopen {
                steps.push(Step::ReleaseReopens(o));
                if left.faults > 0 {
                    steps.push(Step::ReleaseFails(o));
                }
            }
            if object.to_close.is_some() {
                steps.push(Step::StoreClose(o));
            }
            // A second time too: when its lookup has failed, and when its cookie goes.
            if left.drops > 0 {
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
            Step::Pick(thread) => self.pick(world, thread),
            Step::CopyFails(thread) => {
                world.budget.faults -= 1;
                self.copy_fails(world, thread);
            }
            Step::CopyWorks(thread) => self.copy_works(world, thread),
            Step::Publish(thread) => self.publish(world, thread),
            Step::Copen(nth, accept) => self.copen(world, nth, accept),
            Step::Cread(nth, through) => self.cread(world, nth, through),
            Step::CloseFd(id) => self.close_fd(world, id),
            Step::ReleaseReopens(o) => {
                world.objects[o].to_reopen = false;
                if !self.reopen(world, o) {
                    self.reopen_failed(world, o);
                }
                self.wake_after_release(world);
            }
            Step::ReleaseFails(o) => {
                world.budget.faults -= 1;
                world.objects[o].to_reopen = false;
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
