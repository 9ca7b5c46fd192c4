// SPDX-License-Identifier: GPL-2.0

//! The objects that the kernel has open with us.
//!
//! Lives here: the object (a cache file, and the blob that fills it) and the table from the
//! kernel's number to it.  Never here: what is done with either.
//!
//! An object lives from before its OPEN is answered until its CLOSE is read, and a little longer
//! if some thread still works on it: threads hold references, so a number that the kernel gives
//! to another object later never leads anybody to the wrong file.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::blobs::Blob;
use crate::name::BlobName;
use crate::transfer::CacheFile;

/// One cache file that the kernel has asked us to fill.
pub struct Object {
    /// The kernel's number for it.
    pub id: u32,
    /// The blob's name.
    pub name: BlobName,
    /// Where its bytes come from.
    pub blob: Arc<dyn Blob>,
    /// Where they go: the anonymous fd of the OPEN, closed with the last reference.
    pub file: Box<dyn CacheFile>,
}

/// The open objects by number.
#[derive(Default)]
pub struct Objects {
    table: RwLock<HashMap<u32, Arc<Object>>>,
}

impl Objects {
    /// Enters an object, before its OPEN is answered: a READ may follow the answer at once.
    /// Returns the object that had this number, if there was one.
    pub fn insert(&self, object: Arc<Object>) -> Option<Arc<Object>> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(object.id, object)
    }

    /// The object of this number.
    pub fn get(&self, id: u32) -> Option<Arc<Object>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&id).cloned()
    }

    /// Takes the object out; the number may be used anew from now on.
    pub fn remove(&self, id: u32) -> Option<Arc<Object>> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(&id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeBlob, FakeFile};

    fn object(id: u32, name: &str) -> Arc<Object> {
        Arc::new(Object {
            id,
            name: BlobName::new(name.as_bytes()).unwrap(),
            blob: Arc::new(FakeBlob::new(1)),
            file: Box::new(FakeFile::default()),
        })
    }

    #[test]
    fn a_number_used_again_leads_to_the_new_object_only() {
        let objects = Objects::default();
        assert!(objects.insert(object(7, "old")).is_none());
        let held = objects.get(7).unwrap();
        assert!(objects.remove(7).is_some());
        assert!(objects.get(7).is_none());
        assert!(objects.remove(7).is_none());
        assert!(objects.insert(object(7, "new")).is_none());
        assert_eq!(held.name.to_string(), "old");
        assert_eq!(objects.get(7).unwrap().name.to_string(), "new");
        assert_eq!(objects.len(), 1);
    }

    #[test]
    fn an_object_is_closed_when_the_last_user_is_done() {
        let objects = Objects::default();
        objects.insert(object(1, "a"));
        let user = Arc::downgrade(&objects.get(1).unwrap());
        let busy = user.upgrade().unwrap();
        objects.remove(1);
        assert!(user.upgrade().is_some());
        drop(busy);
        assert!(user.upgrade().is_none());
    }
}
