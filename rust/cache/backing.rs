// SPDX-License-Identifier: GPL-2.0

//! Where an object's data is: the file in service, from lookup to withdrawal. Reads and writes of it are in
//! `io/`.

use super::copies::Copies;
use super::disk::Disk;
use super::file::{CacheFile, Opened};
use super::partial::PartialBlocks;
use super::validity::Use;
use crate::sys::completion::Completion;
use crate::sys::errno::ENOBUFS;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex, SpinLock};
use kernel::{new_mutex, new_spinlock};

/// Where an object's data is.
#[pin_data]
pub(crate) struct Backing {
    /// The disk that it is on.
    pub(crate) disk: Arc<Disk>,
    /// Size of the netfs's file in bytes.
    pub(crate) size: AtomicU64,
    #[pin]
    in_service: SpinLock<Option<Opened>>,
    /// Reads under way whose data is to be stored.
    pub(crate) copies: Copies,
    /// Whether the daemon has accepted the object: the lookup ends without the daemon from then on.
    pub(crate) accepted: AtomicBool,
    /// The lookup is over, with a file or without.
    #[pin]
    settled: Completion,
    /// Blocks that the daemon has written in part. Taken before the file is written.
    #[pin]
    pub(crate) partial: Mutex<PartialBlocks>,
}

impl Backing {
    /// Without a file.
    pub(crate) fn new(disk: &Arc<Disk>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Backing {
                disk: disk.clone(),
                size: AtomicU64::new(0),
                in_service <- new_spinlock!(None, "Backing::in_service"),
                copies: Copies::new(),
                accepted: AtomicBool::new(false),
                settled <- Completion::new(),
                partial <- new_mutex!(PartialBlocks::new(), "Backing::partial"),
            }),
            GFP_KERNEL,
        )
    }

    /// Puts the file in service that the lookup has found or made.
    pub(crate) fn install(&self, file: Opened) {
        let none = self.in_service.lock().replace(file);
        drop(none);
        self.settle();
    }

    /// Puts a file without data in service; returns the one there was.
    pub(crate) fn replace_with_empty(&self, file: Opened) -> Option<Opened> {
        let mut in_service = self.in_service.lock();
        // What was read before is not stored in the new file.
        self.copies.outdate();
        in_service.replace(file)
    }

    /// The lookup is over. Without a file from `install`, there will be none.
    pub(crate) fn settle(&self) {
        self.settled.complete();
    }

    /// Completed when the lookup is over.
    pub(crate) fn settled(&self) -> &Completion {
        &self.settled
    }

    /// The file, for the daemon. It may have heard of its success before the lookup that opens the
    /// file is over, and waits for that. Before, it would wait for itself.
    pub(crate) fn file_for_daemon(&self) -> Result<Arc<CacheFile>> {
        if self.accepted.load(Ordering::Acquire) && self.settled.wait_killable(0).is_err() {
            return Err(EINTR);
        }
        self.file().ok_or(ENOBUFS)
    }

    /// Takes the file out of service, and forgets the blocks that are not whole.
    pub(crate) fn take(&self) -> Option<Opened> {
        let taken = self.in_service.lock().take();
        *self.partial.lock() = PartialBlocks::new();
        taken
    }

    /// The file, if it is in service.
    pub(crate) fn file(&self) -> Option<Arc<CacheFile>> {
        self.in_service
            .lock()
            .as_ref()
            .map(|open| open.file.clone())
    }

    /// The file in service does not hold what it should.
    pub(crate) fn spoil(&self) {
        if let Some(open) = &*self.in_service.lock() {
            open.file.validity.spoil();
        }
    }

    /// The file, for an operation that began after so many invalidations, if `now` says that there have
    /// been no more, and if the file has nothing of what was before.
    #[inline]
    pub(crate) fn file_for(
        &self,
        invalidations: u32,
        now: impl FnOnce() -> u32,
    ) -> Option<Arc<CacheFile>> {
        let in_service = self.in_service.lock();
        let file = &in_service.as_ref()?.file;
        // The count changes before the file does.
        if now() != invalidations {
            return None;
        }
        match file.validity.used(invalidations) {
            Use::Good => {}
            Use::Late => self.copies.outdate(),
            Use::None => return None,
        }
        Some(file.clone())
    }
}
