// SPDX-License-Identifier: GPL-2.0

//! The model that is explored: how the world begins, and what can happen in it at any time.
//!
//! A step is what happens under one hold of `reqs_lock`, or what user space sees happen at once. What
//! a step does is in `table.rs` and `daemon.rs`.

use crate::daemon::Answer;
use crate::invariant::{examine, properties};
use crate::ondemand::state::{Fd, Message, MsgId, ObjectId, Read, State};
use crate::rule::Rule;
use crate::table::Table;
use crate::world::{At, Budget, Held, Lookup, Object, Place, Task, Told, World, ENDLESS, OBJECTS};
use stateright::{Model, Property};

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A task stores its request, or learns that it must not.
    Ask(usize),
    /// A task that waits is killed.
    Kill(usize),
    /// A task has waited for too long.
    TimeOut(usize),
    /// The worker of a lookup puts the object into service, or gives it up.
    Settle(usize),
    /// It has to give it up though the daemon has accepted it.
    SettleFails(usize),
    /// A daemon's thread takes a message to deliver.
    Pick(usize),
    /// The copy to the daemon fails.
    CopyFails(usize),
    /// There is no fd for an OPEN.
    NoFd(usize),
    /// The copy to the daemon works, and the thread looks again and tells the state.
    CopyWorks(usize),
    /// The fd becomes visible.
    Publish(usize),
    /// A worker has what is parked tried again.
    Retry,
    /// The daemon answers this id as an OPEN.
    Copen(MsgId, Option<Told>, Answer),
    /// The daemon answers this id as a READ, through an fd of the object.
    Cread(MsgId, Option<Told>, usize),
    /// An fd is closed.
    CloseFd(Held),
    /// `restore`.
    Restore,
    /// The daemon dies, and another one takes over.
    Succeed,
    /// An object goes away.
    Drop(usize),
    /// Its withdrawal is over.
    LetGo(usize),
    /// It waits no longer for its CLOSE to be read.
    GiveUp(usize),
    /// The cache dies: the device is closed, or the disk has failed.
    Die,
}

impl Model for Table {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let object = |o: usize| Object {
            state: match self.open[o] {
                true => State::Open(Fd {
                    id: o as ObjectId + 1,
                    number: 0,
                    next: o as MsgId + 1,
                }),
                false => State::New,
            },
            unread: Vec::new(),
            taken: Vec::new(),
            place: Place::Idle,
            passed: 0,
            no_fd: false,
            serial: 0,
            lookup: match self.open[o] {
                true => Lookup::Over,
                false => Lookup::Not,
            },
            in_service: self.open[o],
            dropped: false,
            let_go: false,
            given_up: false,
            told_to_close: false,
            unwanted: None,
        };
        let fd = |object: usize| Held {
            id: object as ObjectId + 1,
            object,
            old: false,
        };
        vec![World {
            dead: false,
            last_id: OBJECTS as MsgId,
            last_fd: OBJECTS as ObjectId,
            last_serial: 0,
            ready: Vec::new(),
            parked: Vec::new(),
            retrying: false,
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
                read: Read::Over,
                id: 0,
                serial: 0,
                passed: 0,
            }),
            fds: (0..OBJECTS).filter(|o| self.open[*o]).map(fd).collect(),
            messages: Vec::new(),
            reading: [None; 2],
            awake: false,
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
                steps.push(Step::CloseFd(*fd));
            }
        }
        for (o, object) in world.objects.iter().enumerate() {
            if matches!(object.lookup, Lookup::Accepted | Lookup::Failed) {
                steps.push(Step::Settle(o));
                if left.faults > 0 && object.lookup == Lookup::Accepted {
                    steps.push(Step::SettleFails(o));
                }
            }
            // A second time too: when its lookup has failed, and when its cookie goes. FS-Cache does not
            // let an object go for whose lookup a task waits.
            let waits = |task: &Task| task.object == o && task.at == At::Looks;
            let goes = object.lookup != Lookup::Not && !world.tasks.iter().any(waits);
            if left.drops > 0 && goes {
                steps.push(Step::Drop(o));
            }
            if self.remount && object.dropped && !object.let_go {
                if object.state == State::Gone || !self.has(Rule::CloseBeforeLetGo) {
                    steps.push(Step::LetGo(o));
                } else {
                    steps.push(Step::GiveUp(o));
                }
            }
        }
        if world.retrying {
            steps.push(Step::Retry);
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
                self.settle_lookup(world, o, success);
            }
            Step::SettleFails(o) => {
                world.budget.faults -= 1;
                self.settle_lookup(world, o, false);
            }
            Step::Pick(thread) => self.pick(world, thread),
            Step::CopyFails(thread) => {
                spend(&mut world.budget.faults);
                self.copy_fails(world, thread, false);
            }
            Step::NoFd(thread) => {
                spend(&mut world.budget.no_fds);
                self.copy_fails(world, thread, true);
            }
            Step::CopyWorks(thread) => self.copy_works(world, thread),
            Step::Publish(thread) => self.publish(world, thread),
            Step::Retry => self.retry(world),
            Step::Copen(id, meant, answer) => self.copen(world, id, meant, answer),
            Step::Cread(id, meant, through) => self.cread(world, id, meant, through),
            Step::CloseFd(fd) => self.close_fd(world, fd),
            Step::Restore => {
                world.budget.restores -= 1;
                self.restore(world);
            }
            Step::Succeed => {
                world.budget.successors -= 1;
                self.succeed(world);
            }
            Step::Drop(o) => {
                world.budget.drops -= 1;
                self.drop_object(world, o);
            }
            Step::LetGo(o) => world.objects[o].let_go = true,
            Step::GiveUp(o) => {
                world.objects[o].let_go = true;
                world.objects[o].given_up = true;
            }
            Step::Die => {
                world.budget.deaths -= 1;
                self.die(world);
            }
        }
        self.forget(world);
        if world.dead {
            // The table is empty, and nothing is stored any more.
            world.budget = Budget {
                drops: world.budget.drops,
                faults: world.budget.faults,
                ..Budget::default()
            };
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

fn spend(budget: &mut u8) {
    if *budget != ENDLESS {
        *budget -= 1;
    }
}

impl Table {
    fn task_steps(&self, world: &World, steps: &mut Vec<Step>) {
        let left = &world.budget;
        for (t, task) in world.tasks.iter().enumerate() {
            match task.at {
                At::Begins => {
                    let first = task.opens && task.done == 0;
                    let free = !self.remount || world.objects[0].let_go;
                    let object = &world.objects[task.object];
                    // A read that has begun goes on whatever becomes of the object.
                    if (first && free) || (!first && (object.in_service || object.dropped)) {
                        steps.push(Step::Ask(t));
                    }
                }
                At::Waits | At::Looks => {
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
            match reading {
                Some(reading) if reading.held => steps.push(Step::Publish(thread)),
                Some(reading) => {
                    steps.push(Step::CopyWorks(thread));
                    if left.faults > 0 {
                        steps.push(Step::CopyFails(thread));
                    }
                    if left.no_fds > 0 && matches!(reading.message, Message::Open(_)) {
                        steps.push(Step::NoFd(thread));
                    }
                }
                None => {}
            }
        }
        // One that has nothing to do is like the other.
        if let (Some(idle), true) = (threads.iter().position(Option::is_none), world.awake) {
            steps.push(Step::Pick(idle));
        }
    }

    fn answer_steps(&self, world: &World, steps: &mut Vec<Step>) {
        for (id, meant) in self.targets(world) {
            let Some((_, o)) = world.find(id) else {
                continue;
            };
            if meant.is_none_or(|told| told.open) {
                steps.push(Step::Copen(id, meant, Answer::Accept));
                if world.budget.refusals > 0 {
                    steps.push(Step::Copen(id, meant, Answer::Refuse));
                    if matches!(world.objects[o].state, State::Opening { again: true, .. }) {
                        steps.push(Step::Copen(id, meant, Answer::OtherSize));
                    }
                }
            }
            for fd in world.fds.iter().filter(|fd| !fd.old) {
                if meant.is_none_or(|told| !told.open && told.object == fd.object) {
                    steps.push(Step::Cread(id, meant, fd.object));
                }
            }
        }
    }
}
