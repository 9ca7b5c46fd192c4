// SPDX-License-Identifier: GPL-2.0

//! What a daemon does, and what the module does with the decisions of its rules then.
//!
//! Lives here: what `deliver.rs` and `anon_fd.rs`, and of `table.rs` the answers, do under each hold of
//! `reqs_lock`, as one function each, and what is wrong with such a step if something is. What is
//! done for those who ask is in `table.rs`. Never here: whether it is allowed, which is for the rules.

use crate::invariant::Bug;
use crate::ondemand::rules::{fd_released, Ask, Copied, Event, OpenEnd};
use crate::ondemand::state::{ObjectId, State};
use crate::rule::Rule;
use crate::table::Table;
use crate::world::{Entry, Fd, Phase, Reading, Told, World, IDS, SIZE};

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
    /// A thread takes what comes next.
    pub(crate) fn pick(&self, world: &mut World, thread: usize) {
        if !world.awake {
            world.awake = true;
            world.edge = false;
        }
        let from = match self.has(Rule::CyclicDelivery) {
            true => world.next_delivery,
            false => 0,
        };
        let found = self
            .next_deliverable(world, from)
            .or_else(|| self.next_deliverable(world, 0));
        let Some((id, entry)) = found.and_then(|id| Some((id, world.slots[id]?))) else {
            world.awake = false;
            return;
        };
        if self.patience < u8::MAX {
            self.count_passed(world, id);
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
            Ask::Close(fd) => {
                if !world.fd_lives(fd, entry.object) {
                    world.blame(Bug::CloseOfGone);
                }
                0
            }
            Ask::Read { .. } => 0,
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

    /// Counts that `id` was delivered before the others.
    fn count_passed(&self, world: &mut World, id: usize) {
        for other in (0..IDS).filter(|other| *other != id) {
            let Some(waiting) = world.slots[other] else {
                continue;
            };
            if self.is_deliverable(world, &waiting) {
                world.slots[other] = Some(Entry {
                    passed: waiting.passed + 1,
                    ..waiting
                });
            }
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
            if !self.has(Rule::FailedGivesWay) {
                world.next_delivery = reading.id;
            }
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

    pub(crate) fn copen(&self, world: &mut World, nth: usize, answer: Answer) {
        let (id, meant) = self.target(world, nth);
        let Some(entry) = world.slots[id] else { return };
        let size = match answer {
            Answer::Accept => Some(SIZE),
            Answer::OtherSize => Some(SIZE + 1),
            Answer::Refuse => None,
        };
        let object = &mut world.objects[entry.object];
        let held = object.fd();
        let state = &mut object.state;
        let Some((end, reads_fail)) = self.rules.answer_open(&entry.ask, state, size) else {
            return;
        };
        world.slots[id] = None;
        world.budget.refusals -= u8::from(answer != Answer::Accept);
        self.check_target(world, entry, meant);
        match (entry.ask, end) {
            (Ask::Open { known_size }, OpenEnd::Opened(size)) => {
                if known_size.is_some_and(|known| known != size) {
                    world.blame(Bug::OtherSize);
                }
            }
            (Ask::Open { .. }, _) => {}
            _ => world.blame(Bug::WrongKind),
        }
        if reads_fail {
            self.happen(world, Event::NotReopened, Some(entry.object));
        }
        let object = &mut world.objects[entry.object];
        if answer == Answer::Refuse {
            object.unwanted = held;
        }
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

    /// Whether the daemon has a reason to close this fd, so that it is bound to.
    pub(crate) fn closes(&self, world: &World, fd: Fd) -> bool {
        let object = &world.objects[fd.object];
        fd.old || world.dead || object.told_to_close || object.unwanted == Some(fd.id)
    }

    pub(crate) fn close_fd(&self, world: &mut World, id: ObjectId) {
        let Some(at) = world.fds.iter().position(|fd| fd.id == id) else {
            return;
        };
        let fd = world.fds[at];
        world.budget.closes -= u8::from(!self.closes(world, fd));
        world.fds.remove(at);
        let object = &mut world.objects[fd.object];
        object.unwanted = object.unwanted.filter(|unwanted| *unwanted != id);
        let event = fd_released(&mut object.state, id);
        if self.happen(world, event, Some(fd.object)) {
            world.objects[fd.object].to_reopen += 1;
        } else {
            self.wake_after_release(world);
        }
    }
}
