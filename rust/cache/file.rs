// SPDX-License-Identifier: GPL-2.0

//! A cache file: an open file of the backing file system, and whether a range of it is data. Never here:
//! which object it is of.
//!
//! The file system says where data is. Two of its answers are not the whole truth:
//!
//! * It may change. What it has said, and what we have written, is remembered until the file is changed
//!   by others, which a [`Watch`] counts just after it has happened, or cut by us. After a change by
//!   others nothing is data but what is written from then on.
//! * A block that is allocated and was never written, as a write that fails or a power cut leaves it, is a
//!   hole. But while the page cache has a page of it, as after a backup has read it, ext4 and XFS call it
//!   data. It is zeros. So a block with a page is read, once: if it is zeros, it is not data.

use super::blockmap::Scale;
use super::validity::Validity;
use super::{inject, BLOCK};
use crate::sys::block::{self, Blocks};
use crate::sys::file::{Extent, File};
use crate::sys::inode::InUse;
use crate::sys::watch::{Changes, Watch};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicU8, Ordering};
use kernel::alloc::flags::__GFP_NOWARN;
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLock};

/// What a range of a cache file begins with.
pub(crate) enum Begin {
    /// Data, up to here at least.
    DataTo(u64),
    /// A hole, up to here at most.
    HoleTo(u64),
    /// A hole, behind which there is no data.
    Nothing,
}

/// What of a file is data.
struct Known {
    /// How many changes of the file there had been when the first of it became known.
    changes: i32,
    scale: Scale,
    map: KVec<u64>,
}

/// How far the attribute that says "is being changed" has got.
pub(crate) enum Mark {
    /// It is set, or need not be: the file has no name.
    Set = 1,
    /// It is on the disk.
    Durable,
}

/// A cache file. Counted by its object and by operations under way; the last reference may be dropped in
/// any context.
#[pin_data]
pub(crate) struct CacheFile {
    file: File,
    /// Counts every change but what is written through `file`.
    changes: Changes,
    /// How many of them were our own.
    own_changes: AtomicI32,
    #[pin]
    known: SpinLock<Known>,
    /// Bytes in a block of the file system.
    block_size: u32,
    /// Whether the data may be given out and kept.
    pub(crate) validity: Validity,
    /// How long the netfs's file was when this one was found to be as that is, or whenever it was cut
    /// since, if that was shorter. 0 if this one was made since.
    valid_to: AtomicU64,
    /// A [`Mark`], or 0.
    mark: AtomicU8,
    named: AtomicBool,
}

/// A cache file in service. Dropped where sleeping is allowed.
pub(crate) struct Opened {
    /// The file.
    pub(crate) file: Arc<CacheFile>,
    /// Counts what others do to it.
    _watch: Watch,
    /// The mark against culling.
    pub(crate) in_use: InUse,
}

/// The file system is about to be asked, or written to.
#[derive(Clone, Copy)]
pub(crate) struct Asked(i32);

impl Opened {
    /// Puts together what was opened. `named`: it has a name in the cache.
    pub(crate) fn new(
        file: File,
        in_use: InUse,
        block_size: u32,
        validity: Validity,
        named: bool,
    ) -> Result<Self> {
        let (watch, changes) = Watch::new(in_use.inode())?;
        let file = Arc::pin_init(
            pin_init!(CacheFile {
                file,
                changes,
                own_changes: AtomicI32::new(0),
                known <- new_spinlock!(
                    Known { changes: 0, scale: Scale::of(0), map: KVec::new() },
                    "CacheFile::known"
                ),
                block_size,
                validity,
                valid_to: AtomicU64::new(0),
                mark: AtomicU8::new(0),
                named: AtomicBool::new(named),
            }),
            GFP_KERNEL,
        )?;
        Ok(Opened {
            file,
            _watch: watch,
            in_use,
        })
    }

    /// Closes it and returns how many 512-byte blocks it has.
    ///
    /// It is closed here and now, if no operation is under way: dropped, it would be closed by a thread
    /// of the kernel's some time later, and keep its file system mounted until then.
    pub(crate) fn close(self) -> u64 {
        let file = self.file.file.clone();
        let blocks = file.blocks();
        drop(self);
        file.close();
        blocks
    }
}

impl AsRef<File> for CacheFile {
    fn as_ref(&self) -> &File {
        &self.file
    }
}

impl CacheFile {
    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether it has a name in the cache.
    pub(crate) fn is_named(&self) -> bool {
        self.named.load(Ordering::Relaxed)
    }

    /// It was given a name.
    pub(crate) fn set_named(&self) {
        self.named.store(true, Ordering::Relaxed);
    }

    /// Whether the mark that it is being changed has got so far.
    pub(crate) fn has_mark(&self, mark: Mark) -> bool {
        self.mark.load(Ordering::Relaxed) >= mark as u8
    }

    /// The mark has got so far.
    pub(crate) fn set_mark(&self, mark: Mark) {
        self.mark.fetch_max(mark as u8, Ordering::Relaxed);
    }

    /// Up to where the file may hold what the netfs's file had before this service, in bytes. What is
    /// behind has been stored since; every cut of the netfs's file has been followed since.
    pub(crate) fn valid_to(&self) -> u64 {
        self.valid_to.load(Ordering::Relaxed)
    }

    /// The file was found, and is as the netfs's file is, which has `size` bytes.
    pub(crate) fn found_valid_to(&self, size: u64) {
        self.valid_to.store(size, Ordering::Relaxed);
    }

    /// The netfs's file is to have `size` bytes.
    pub(crate) fn cut_to(&self, size: u64) {
        self.valid_to.fetch_min(size, Ordering::Relaxed);
    }

    /// Before the file system is asked or written to, about which [`learn`](Self::learn) then tells.
    pub(crate) fn asked(&self) -> Asked {
        Asked(self.changes.count())
    }

    /// There is data from `start` to `end`, unless the file was changed since the question. Without
    /// memory this is forgotten.
    pub(crate) fn learn(&self, asked: Asked, start: u64, end: u64) {
        let size = self.file.size();
        let scale = Scale::of(size);
        let words = scale.words(size);
        let mut old = KVec::new();
        let mut known = self.known.lock();
        let changes = self.changes.count();
        if asked.0 != changes {
            return;
        }
        if known.map.len() < words || known.scale != scale {
            // For the first time, or the file has grown.
            let flags = GFP_NOWAIT | __GFP_NOWARN;
            let Ok(map) = KVec::from_elem(0, words, flags) else {
                return;
            };
            old = core::mem::replace(&mut known.map, map);
            known.scale = scale;
        } else if known.changes != changes {
            known.map.as_mut_slice().fill(0);
        }
        known.changes = changes;
        let scale = known.scale;
        scale.set(&mut known.map, start..end);
        drop(known);
        drop(old);
    }

    /// How far there is data from `at` on, if that is known, but no further than `end`.
    #[inline]
    fn known_to(&self, at: u64, end: u64) -> Option<u64> {
        let known = self.known.lock();
        if known.changes != self.changes.count() {
            return None;
        }
        let to = known.scale.noted_to(&known.map, at..end);
        (to > at).then_some(to)
    }

    /// Does what takes data out of the file. What was known before or is learned meanwhile is forgotten.
    pub(crate) fn changing<T>(&self, change: impl FnOnce() -> T) -> T {
        let done = self.changes.around(change);
        self.own_changes.fetch_add(2, Ordering::Relaxed);
        done
    }

    /// Whether anything but this module has changed the file since it was opened.
    pub(crate) fn is_changed_by_others(&self) -> bool {
        self.changes.count() != self.own_changes.load(Ordering::Relaxed)
    }

    /// Whether the file was changed since `then`.
    pub(crate) fn is_changed_since(&self, then: Asked) -> bool {
        self.changes.count() != then.0
    }

    /// What the file has from `at` on, looked at no further than `end`. If others have changed the file,
    /// that is what was written through this module since.
    pub(crate) fn begins_with(&self, at: u64, end: u64) -> Result<Begin> {
        inject::read()?;
        if let Some(to) = self.known_to(at, end) {
            return Ok(Begin::DataTo(to));
        }
        if self.is_changed_by_others() {
            return Ok(Begin::HoleTo(end));
        }
        self.look(at, end)
    }

    /// What the file system says of it.
    pub(crate) fn look(&self, at: u64, end: u64) -> Result<Begin> {
        let asked = self.asked();
        // A page may come before the question and go before it is looked for.
        let had_pages = self.file.has_pages(at, u64::MAX);
        match self.file.next_data(at)? {
            Extent::None => return Ok(Begin::Nothing),
            Extent::At(data) if data > at => return Ok(Begin::HoleTo(data.min(end))),
            Extent::At(_) => {}
        }
        inject::read()?;
        let hole = match self.file.next_hole(at)? {
            Extent::At(hole) => hole,
            // It was cut meanwhile.
            Extent::None => return Ok(Begin::Nothing),
        };
        // A block that is data only in part is one of a file system with smaller blocks.
        let whole = hole - hole % BLOCK;
        let asked_for = whole.min(end.next_multiple_of(BLOCK));
        let sure = match had_pages || self.file.has_pages(at, hole) {
            true => self.zeros_from(at, asked_for)?,
            // What the daemon vouches for is no more than this.
            false if self.is_changed_by_others() => asked_for,
            false => whole,
        };
        if sure <= at {
            return Ok(Begin::HoleTo((at - at % BLOCK + BLOCK).min(end)));
        }
        self.learn(asked, at, sure);
        Ok(Begin::DataTo(sure.min(end)))
    }

    /// Where from `at` to `end` the first block is in which the file system has a block of zeros.
    #[cold]
    fn zeros_from(&self, at: u64, end: u64) -> Result<u64> {
        // btrfs calls data what it has yet to write, and loses it if it cannot.
        self.file.write_out(at, end)?;
        let mut memory = Blocks::zeroed(1, GFP_KERNEL)?;
        let mut block = at - at % BLOCK;
        while block < end {
            self.file.read_blocks(block, &mut memory)?;
            let mut pieces = memory.chunks(self.block_size.max(1) as usize);
            if pieces.any(|piece| piece.iter().all(|&byte| byte == 0)) {
                break;
            }
            block += block::SIZE as u64;
        }
        Ok(block.min(end))
    }
}
