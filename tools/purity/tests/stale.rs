// SPDX-License-Identifier: GPL-2.0

//! What was valid before an invalidation does not pass for what is valid after it: the rules of
//! `validity.rs` and `copies.rs`, in every order in which netfs and FS-Cache can do things.

use proptest::prelude::*;
use purity::cache::{
    copies::Copies,
    validity::{Use, Validity},
};

/// What can happen to a cookie whose file is made and used.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// What is valid changes, and the netfs says so.
    Invalidate,
    /// The worker puts an empty file in the place of the old one, if it is to.
    Exchange,
    /// FS-Cache lets all operations begin.
    BecomeActive,
    /// A read begins, and is told to have its data stored.
    BeginRead,
    /// The server answers the oldest read that it has not answered.
    Answer,
    /// What the oldest read has got is stored, by another operation.
    Copy,
    /// The oldest read that was answered is over.
    EndRead,
    /// Somebody reads what the cache has.
    Read,
}

fn event() -> impl Strategy<Value = Event> {
    use Event::*;
    prop_oneof![
        Just(Invalidate),
        Just(Exchange),
        Just(BecomeActive),
        Just(BeginRead),
        Just(Answer),
        Just(Copy),
        Just(EndRead),
        Just(Read),
    ]
}

/// A cookie, whose data's version is the count of its invalidations.
struct Model {
    file: Validity,
    copies: Copies,
    count: u32,
    is_active: bool,
    /// An invalidation that the worker has yet to follow: no operation begins meanwhile.
    is_invalid: bool,
    /// The version of what the file has.
    stored: Option<u32>,
    /// The versions of what reads under way have got.
    reads: Vec<Option<u32>>,
}

impl Model {
    fn new() -> Model {
        Model {
            file: Validity::of_new(0),
            copies: Copies::new(),
            count: 0,
            is_active: false,
            is_invalid: false,
            stored: None,
            reads: vec![],
        }
    }

    /// As `Backing::file_for()`: whether an operation that begins now gets the file.
    fn has_file(&self) -> bool {
        match self.file.used(self.count) {
            Use::Good => true,
            Use::Late => {
                self.copies.outdate();
                true
            }
            Use::None => false,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Invalidate => {
                self.count += 1;
                // While the file is being made, FS-Cache counts only.
                self.is_invalid |= self.is_active;
            }
            Event::Exchange if self.is_invalid => {
                self.file = Validity::of_new(self.count);
                self.copies.outdate();
                self.stored = None;
                self.is_invalid = false;
            }
            Event::BecomeActive => self.is_active = true,
            Event::BeginRead if !self.is_invalid => {
                self.copies.begin();
                self.reads.push(None);
            }
            Event::Answer => {
                if let Some(read) = self.reads.iter_mut().find(|read| read.is_none()) {
                    *read = Some(self.count);
                }
            }
            Event::Copy if !self.is_invalid => {
                if let Some(Some(version)) = self.reads.first().copied() {
                    if self.has_file() && !self.copies.are_outdated() {
                        self.stored = Some(version);
                    }
                }
            }
            Event::EndRead if matches!(self.reads.first(), Some(Some(_))) => {
                self.reads.remove(0);
                self.copies.end();
            }
            Event::Read if !self.is_invalid && self.has_file() => {
                if let Some(version) = self.stored {
                    assert_eq!(version, self.count, "what is not valid any more is read");
                }
            }
            _ => {}
        }
        // At the end it would be committed under what the netfs says now.
        if self.stored.is_some_and(|version| version != self.count) {
            assert!(
                !self.file.is_good_for(self.count),
                "what is not valid any more is kept"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_is_outdated_is_neither_read_nor_kept(events in prop::collection::vec(event(), 0..24)) {
        let mut model = Model::new();
        for event in events {
            model.happen(event);
        }
    }
}

#[test]
fn a_file_serves_those_who_began_after_the_same_invalidation() {
    let new = Validity::of_new(3);
    assert_eq!(new.used(3), Use::Good);
    assert_eq!(new.used(3), Use::Good);
    assert_eq!(new.used(4), Use::None);
    let late = Validity::of_new(4);
    assert_eq!(late.used(5), Use::Late);
    assert_eq!(late.used(5), Use::Good);
    assert!(late.is_good_for(5) && !late.is_good_for(6));
    let found = Validity::of_new(0);
    found.found(7);
    assert_eq!(found.used(6), Use::None);
    assert_eq!(found.used(7), Use::Good);
}

#[test]
fn copies_are_outdated_until_those_under_way_are_over() {
    let copies = Copies::new();
    copies.outdate();
    assert!(!copies.are_outdated(), "there is none");
    copies.begin();
    copies.begin();
    copies.outdate();
    copies.begin();
    copies.end();
    copies.end();
    assert!(copies.are_outdated(), "nobody knows which is left");
    copies.end();
    assert!(!copies.are_outdated());
    copies.begin();
    assert!(!copies.are_outdated());
}
