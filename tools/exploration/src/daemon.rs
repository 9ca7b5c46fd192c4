// SPDX-License-Identifier: GPL-2.0

//! What a daemon does, and what the module does with the decisions of its rules then.
//!
//! Lives here: what `deliver.rs` and `anon_fd.rs`, and of `table.rs` the answers, do under each hold of
//! `reqs_lock`, as one function each, and what is wrong with such a step if something is. What is
//! done for those who ask is in `table.rs`. Never here: whether it is allowed, which is for the rules.

use crate::invariant::Bug;
use crate::ondemand::state::{Event, Fd, Message, MsgId, Read, State};
use crate::rule::Rule;
use crate::table::Table;
use crate::world::{At, Held, Place, Reading, Told, World, ENDLESS, OBJECTS, SIZE, TASKS};

/// How a daemon answers an OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With the object's size.
    Accept,
    /// With another size than before.
    OtherSize,
    /// With an error.
    Refuse,
}

impl Table {
    /// A thread takes the next message of the object whose turn it is.
    pub(crate) fn pick(&self, world: &mut World, thread: usize) {
        let Some(o) = world.ready.first().copied() else {
            world.awake = false;
            return;
        };
        for other in world.ready.clone() {
            let passed = &mut world.objects[other].passed;
            *passed = passed.saturating_add(u8::from(other != o));
        }
        if world.objects[o].no_fd {
            world.blame(Bug::Spins);
        }
        let object = &world.objects[o];
        let unread = &object.unread;
        let Some(message) = self.rules.next_message(object.state, !unread.is_empty()) else {
            return;
        };
        let next = match self.has(Rule::ReadsInTurn) {
            true => unread.first(),
            false => unread.last(),
        };
        let mut reading = Reading {
            message,
            id: 0,
            serial: object.serial,
            object: o,
            read: None,
            fd: Fd::default(),
            held: false,
            old: false,
        };
        match message {
            Message::Open(id) => {
                world.last_fd += 1;
                reading.id = id;
                reading.fd.id = world.last_fd;
                reading.fd.next = self.new_id(world);
            }
            Message::Close(fd) => {
                reading.id = fd.next;
                reading.serial = 0;
                if !world.fd_lives(fd.id, o) {
                    world.blame(Bug::CloseOfGone);
                }
            }
            Message::Read(_) => {
                let Some(t) = next.copied() else { return };
                if !matches!(object.state, State::Open(_)) {
                    world.blame(Bug::ReadOfClosed);
                }
                for other in world.objects[o].unread.clone() {
                    world.tasks[other].passed += u8::from(other != t);
                }
                reading.id = world.tasks[t].id;
                reading.serial = world.tasks[t].serial;
                reading.read = Some((t, self.set(world, t, Read::Taken)));
            }
        }
        world.reading[thread] = Some(reading);
        self.set_place(world, o, Place::Idle);
        self.happen(world, o, Event::Taken, false);
        self.settle(world, o);
        if !self.has(Rule::ObjectsInTurn) {
            to_head(world, o);
        }
        if matches!(message, Message::Open(_)) && !self.has(Rule::CopyThenPublish) {
            self.install(world, thread);
        }
    }

    /// Makes the fd of a reading visible.
    fn install(&self, world: &mut World, thread: usize) {
        if let Some(reading) = world.reading[thread] {
            world.fds.push(Held {
                id: reading.fd.id,
                object: reading.object,
                old: reading.old,
            });
            world.fds.sort_by_key(|fd| fd.id);
        }
    }

    /// The copy fails, or, if there is `no_fd`, does not begin.
    pub(crate) fn copy_fails(&self, world: &mut World, thread: usize, no_fd: bool) {
        let Some(reading) = world.reading[thread].take() else {
            return;
        };
        let o = reading.object;
        if world.fds.iter().any(|fd| fd.id == reading.fd.id) {
            world.blame(Bug::UntoldFd);
        }
        let before = world.ready.contains(&o);
        match reading.read {
            None => {
                self.happen(world, o, Event::NotCopied(reading.id), false);
            }
            Some((t, was)) => {
                let task = &world.tasks[t];
                if task.read == Read::Taken && task.serial == reading.serial {
                    self.set(world, t, was);
                    self.settle(world, o);
                }
            }
        }
        let again = !before && world.ready.contains(&o);
        if again && no_fd {
            world.objects[o].no_fd = true;
            if self.has(Rule::NoFdParks) {
                self.set_place(world, o, Place::Parked);
                world.retrying |= self.has(Rule::ParkedComesBack);
                return;
            }
        }
        if again && !self.has(Rule::FailedGivesWay) {
            to_head(world, o);
        }
        world.awake |= !reading.old || again;
    }

    pub(crate) fn copy_works(&self, world: &mut World, thread: usize) {
        let Some(reading) = world.reading[thread] else {
            return;
        };
        let o = reading.object;
        match reading.message {
            Message::Read(_) => {}
            Message::Close(fd) => {
                self.happens(world, o, Event::CloseCopied(fd.id), false);
            }
            Message::Open(id) => {
                let copied = Event::OpenCopied(id, reading.fd);
                let published = self.happens(world, o, copied, false).is_some();
                if published || !self.has(Rule::PresentAfterCopy) {
                    if !published {
                        world.blame(Bug::FdForNobody);
                    }
                    if world.objects[o].dropped {
                        world.blame(Bug::FdOfDead);
                    }
                    world.reading[thread] = Some(Reading {
                        held: true,
                        ..reading
                    });
                    return;
                }
                world.fds.retain(|fd| fd.id != reading.fd.id);
                world.awake &= reading.old;
                world.awake |= self.has(Rule::WakeAfterVoid);
                world.reading[thread] = None;
                return;
            }
        }
        self.told(world, reading);
        world.reading[thread] = None;
    }

    /// The daemon has a message now, if it lives.
    fn told(&self, world: &mut World, reading: Reading) {
        if reading.old {
            return;
        }
        world.awake = true;
        let open = match reading.message {
            Message::Open(_) => true,
            Message::Read(_) => false,
            Message::Close(_) => {
                let object = &mut world.objects[reading.object];
                if core::mem::replace(&mut object.told_to_close, true) {
                    world.blame(Bug::ClosedTwice);
                }
                return;
            }
        };
        let before = &world.objects[0];
        if self.remount && open && reading.object == 1 && !before.given_up {
            if let State::Closing { .. } | State::Orphaned { .. } = before.state {
                world.blame(Bug::OpenBeforeClose);
            }
        }
        let told = Told {
            id: reading.id,
            serial: reading.serial,
            object: reading.object,
            open,
        };
        if !self.stray && !world.messages.contains(&told) {
            world.messages.push(told);
            world.messages.sort_by_key(|told| told.serial);
        }
    }

    pub(crate) fn publish(&self, world: &mut World, thread: usize) {
        if self.has(Rule::CopyThenPublish) {
            self.install(world, thread);
        }
        if let Some(reading) = world.reading[thread].take() {
            self.told(world, reading);
        }
    }

    /// The messages that an answer can name: their ids, and for which it is meant, if for one.
    pub(crate) fn targets(&self, world: &World) -> Vec<(MsgId, Option<Told>)> {
        if !self.stray {
            return world
                .messages
                .iter()
                .map(|told| (told.id, Some(*told)))
                .collect();
        }
        let opens = (0..OBJECTS).filter_map(|o| world.objects[o].open());
        let reads = world.tasks.iter().filter(|task| task.read != Read::Over);
        opens
            .chain(reads.map(|task| task.id))
            .map(|id| (id, None))
            .collect()
    }

    /// The daemon answers `id` as an OPEN.
    pub(crate) fn copen(&self, world: &mut World, id: MsgId, meant: Option<Told>, answer: Answer) {
        let Some((serial, o)) = world.find(id) else {
            return;
        };
        let is_open = world.objects[o].open() == Some(id);
        if !is_open && !self.has(Rule::AnswerOfItsKind) {
            return world.blame(Bug::WrongKind);
        }
        let size = match answer {
            Answer::Accept => Some(SIZE),
            Answer::OtherSize => Some(SIZE + 1),
            Answer::Refuse => None,
        };
        let object = &world.objects[o];
        let held = object.fd();
        let was = object.state;
        let event = Event::Answered {
            id,
            size,
            known: SIZE,
        };
        // The waiter for a first OPEN learns what has become of it.
        let accepted = |state| matches!(state, Some((State::Open(_), _)));
        let success = accepted(self.rules.on(was, event));
        let Some(state) = self.happens(world, o, event, success) else {
            return;
        };
        world.budget.refusals -= u8::from(answer != Answer::Accept);
        if meant.is_some_and(|told| told.serial != serial) {
            world.blame(Bug::AnotherAnswer);
        }
        if let State::Opening { open, .. } = was {
            use crate::ondemand::state::Open;
            if let Open::Unread { lost: None } | Open::Copying { lost: None, .. } = open {
                world.blame(Bug::AnsweredUnread);
            }
        }
        let again = matches!(was, State::Opening { again: true, .. });
        if again && answer == Answer::OtherSize && matches!(state, State::Open(_)) {
            world.blame(Bug::OtherSize);
        }
        if answer == Answer::Refuse {
            world.objects[o].unwanted = held;
        }
    }

    /// The daemon answers `id` as a READ, through an fd of an object.
    pub(crate) fn cread(&self, world: &mut World, id: MsgId, meant: Option<Told>, through: usize) {
        let stored = |task: &crate::world::Task| task.read != Read::Over && task.id == id;
        let Some(t) = world.tasks.iter().position(stored) else {
            if world.find(id).is_some() && !self.has(Rule::AnswerOfItsKind) {
                world.blame(Bug::WrongKind);
            }
            return;
        };
        let task = world.tasks[t];
        let own = task.object == through;
        if !self.rules.may_be_answered(task.read, own) {
            return;
        }
        if meant.is_some_and(|told| told.serial != task.serial) {
            world.blame(Bug::AnotherAnswer);
        }
        if task.read == Read::Unread {
            world.blame(Bug::AnsweredUnread);
        }
        if !own {
            world.blame(Bug::WrongObject);
        }
        self.end_read(world, t, true);
    }

    /// Whether the daemon has a reason to close this fd, so that it is bound to.
    pub(crate) fn closes(&self, world: &World, fd: Held) -> bool {
        let object = &world.objects[fd.object];
        fd.old || world.dead || object.told_to_close || object.unwanted == Some(fd.id)
    }

    pub(crate) fn close_fd(&self, world: &mut World, fd: Held) {
        world.budget.closes -= u8::from(!self.closes(world, fd));
        world.fds.retain(|other| other.id != fd.id);
        let o = fd.object;
        let object = &mut world.objects[o];
        object.unwanted = object.unwanted.filter(|unwanted| *unwanted != fd.id);
        let reads = !self.reads(world, o).is_empty();
        let released = Event::Released { fd: fd.id, reads };
        let awake = world.awake;
        self.happens(world, o, released, false);
        world.awake |= self.unpark_one(world);
        if !self.has(Rule::WakeAfterRelease) {
            world.awake = awake;
        }
    }

    /// How often a READ may be passed over by others of its object: those that were there before.
    pub(crate) const PATIENCE: u8 = TASKS as u8 - 1;

    /// Leaves out of the world what cannot make a difference any more, so that there are fewer.
    pub(crate) fn forget(&self, world: &mut World) {
        if self.has(Rule::CyclicIds) {
            // No id names two requests one after the other: what is over can be answered, in vain.
            let live = |told: &Told| {
                world
                    .find(told.id)
                    .is_some_and(|(serial, _)| serial == told.serial)
            };
            let messages = world.messages.iter().copied().filter(live).collect();
            world.messages = messages;
        }
        if self.has(Rule::WakeAfterVoid) {
            // It looks, and sleeps again.
            world.awake &= !world.ready.is_empty();
        }
        for task in &mut world.tasks {
            if task.reads == ENDLESS && world.dead {
                task.at = match task.at {
                    At::Begins => At::Ended,
                    at => at,
                };
            }
        }
    }
}

fn to_head(world: &mut World, o: usize) {
    if let Some(at) = world.ready.iter().position(|other| *other == o) {
        world.ready.remove(at);
        world.ready.insert(0, o);
    }
}
