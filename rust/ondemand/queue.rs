// SPDX-License-Identifier: GPL-2.0

//! Lists of counted references that are linked through what they lead to, so that nothing has to be
//! allocated under `reqs_lock`, and an entry leaves in one step wherever it is.
//!
//! Never here: what is in which list.

use super::table::Requests;
use kernel::sync::Arc;

/// The neighbours of an entry.
pub(super) struct Links<T> {
    prev: Option<Arc<T>>,
    next: Option<Arc<T>>,
}

/// What can be in one [`Queue`] at a time.
pub(super) trait Linked: Sized {
    /// Its neighbours there.
    fn links<'a>(&'a self, table: &'a mut Requests) -> &'a mut Links<Self>;
}

/// A list: in at the tail, out at the head or anywhere. All its methods run under `reqs_lock`, where
/// no last reference is dropped by them: the caller has another to what it removes.
pub(super) struct Queue<T> {
    first: Option<Arc<T>>,
    last: Option<Arc<T>>,
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Links {
            prev: None,
            next: None,
        }
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue {
            first: None,
            last: None,
        }
    }
}

impl<T> Queue<T> {
    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The head.
    pub(super) fn first(&self) -> Option<&Arc<T>> {
        self.first.as_ref()
    }
}

impl<T: Linked> Queue<T> {
    /// Puts `entry`, which is in no list, at the tail.
    pub(super) fn push(&mut self, table: &mut Requests, entry: Arc<T>) {
        let prev = self.last.replace(entry.clone());
        match &prev {
            Some(prev) => prev.links(table).next = Some(entry.clone()),
            None => self.first = Some(entry.clone()),
        }
        entry.links(table).prev = prev;
    }

    /// Takes out `entry`, which is in this list.
    pub(super) fn remove(&mut self, table: &mut Requests, entry: &Arc<T>) {
        let links = core::mem::take(entry.links(table));
        match &links.next {
            Some(next) => next.links(table).prev = links.prev.clone(),
            None => self.last = links.prev.clone(),
        }
        match links.prev {
            Some(prev) => prev.links(table).next = links.next,
            None => self.first = links.next,
        }
    }

    /// Takes out the head.
    pub(super) fn pop(&mut self, table: &mut Requests) -> Option<Arc<T>> {
        let first = self.first.clone()?;
        self.remove(table, &first);
        Some(first)
    }
}

/// Does `what` with a list that is itself under `reqs_lock`, `at` some place that `of` leads to.
pub(super) fn edit<O, T: Linked>(
    table: &mut Requests,
    of: &O,
    at: impl for<'a> Fn(&'a O, &'a mut Requests) -> &'a mut Queue<T>,
    what: impl FnOnce(&mut Queue<T>, &mut Requests),
) {
    let mut queue = core::mem::take(at(of, table));
    what(&mut queue, table);
    *at(of, table) = queue;
}
