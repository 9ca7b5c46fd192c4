// SPDX-License-Identifier: GPL-2.0

//! The backing file system of a cache: its mount, the credentials to use it with, its free space,
//! and what happens when it fails.

use super::bind::Plan;
use super::limits::{CullChange, Space, StateLine, Thresholds};
use crate::ondemand::RequestTable;
use crate::sys::completion::Completion;
use crate::sys::creds::Cred;
use crate::sys::errno::ENOBUFS;
use crate::sys::fscache::{CacheCookie, Count};
use crate::sys::log;
use crate::sys::mount::{self, Mount};
use crate::sys::periodic::Recurring;
use crate::sys::time::{tick, Tick};
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8, Ordering};
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLock};

/// The disk under a cache.
#[pin_data]
pub(crate) struct Disk {
    /// Credentials of everything done to the cache.
    pub(crate) cred: Cred,
    /// Bytes in a block of the file system, at most a page.
    pub(crate) block_size: u32,
    /// The requests to the daemon, which fail when the disk does.
    pub(crate) requests: Arc<RequestTable>,
    /// FS-Cache's record.
    pub(crate) cookie: Arc<CacheCookie>,
    /// Whether misses are for the daemon to fill.
    is_on_demand: bool,
    thresholds: Thresholds,
    /// What the last look at the disk has left.
    #[pin]
    spare: SpinLock<Spare>,
    /// A `Service`.
    service: AtomicU8,
    culling: AtomicBool,
    changed: AtomicBool,
    files_released: AtomicU32,
    blocks_released: AtomicU64,
    blocks_writing: AtomicU64,
    /// Makes names in the graveyard unique within a second.
    pub(crate) graves: AtomicU32,
    /// The mount. Nearly last, so that it goes after all that lies on it.
    pub(crate) mnt: Mount,
    /// Last of all.
    end: AtEnd,
}

/// Tells when a disk, and with it all of its cache, is gone: a task that waits for
/// that can be sure that the mount is put, and that no other task is putting it.
#[derive(Clone)]
pub(crate) struct End(Arc<Completion>);

impl End {
    /// Not reached yet.
    pub(super) fn new() -> Result<Self> {
        Ok(End(Arc::pin_init(Completion::new(), GFP_KERNEL)?))
    }

    /// Waits until the last reference to the disk is dropped.
    pub(crate) fn wait(&self) {
        self.0.wait();
    }
}

/// Completes the end when it is dropped, which is when every other field of the disk is gone.
struct AtEnd(End);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0 .0.complete();
    }
}

/// What may be written within a tick without another look at the disk, whose limits are no more than
/// a policy.
struct Spare {
    tick: Tick,
    /// Blocks above all limits, less those that were granted since.
    blocks: u64,
}

/// Whether the cache is in service. It only goes up.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Service {
    /// It is.
    On,
    /// Its session is over.
    Over,
    /// The disk has failed.
    Failed,
}

/// What space is wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing; the state is to be brought up to date.
    Check,
    /// A file or directory.
    Create,
    /// Data.
    Write,
}

/// Blocks that a write under way will take; they count as taken while this lives.
pub(crate) struct Writing<D: Deref<Target = Disk>> {
    of: D,
    blocks: u64,
}

impl<D: Deref<Target = Disk>> Writing<D> {
    /// Counts `bytes` as being written to the disk that this leads to.
    pub(crate) fn new(of: D, bytes: u64) -> Self {
        let blocks = bytes.div_ceil(of.block_size.into());
        of.blocks_writing.fetch_add(blocks, Ordering::Relaxed);
        Writing { of, blocks }
    }

    /// What leads to the disk.
    pub(crate) fn of(&self) -> &D {
        &self.of
    }
}

impl Disk {
    /// The disk behind `mnt`, with limits at those of `plan` of its `space`.
    pub(super) fn new(
        mnt: Mount,
        cred: Cred,
        plan: &Plan<'_>,
        space: &mount::Space,
        cookie: Arc<CacheCookie>,
        end: End,
    ) -> impl PinInit<Self> {
        let thresholds = Thresholds::new(plan.limits, space.files, space.blocks);
        let requests = plan.requests.clone();
        let is_on_demand = plan.on_demand.is_some();
        let block_size = space.block_size;
        pin_init!(Disk {
            cred,
            block_size,
            requests,
            cookie,
            is_on_demand,
            thresholds,
            spare <- new_spinlock!(Spare { tick: tick(), blocks: 0 }, "Disk::spare"),
            service: AtomicU8::new(Service::On as u8),
            culling: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            files_released: AtomicU32::new(0),
            blocks_released: AtomicU64::new(0),
            blocks_writing: AtomicU64::new(0),
            graves: AtomicU32::new(0),
            mnt,
            end: AtEnd(end),
        })
    }

    /// The end of this disk, for a task to wait for that holds no reference to it.
    pub(crate) fn end(&self) -> End {
        self.end.0.clone()
    }

    /// The disk cannot be trusted any more: nothing is served from it or stored on it.
    pub(crate) fn io_error(&self, what: core::fmt::Arguments<'_>) {
        log::error!("I/O Error: {}", what);
        self.leave_service(Service::Failed);
        // FS-Cache would answer for it from now on, with ENOBUFS.
        if !self.is_on_demand {
            self.cookie.io_error();
        }
    }

    /// The cache is about to be out of service. All requests fail.
    pub(crate) fn end_service(&self) {
        self.leave_service(Service::Over);
    }

    fn leave_service(&self, to: Service) {
        self.service.fetch_max(to as u8, Ordering::Relaxed);
        self.requests.kill();
    }

    /// Whether it is in service.
    pub(crate) fn service(&self) -> Service {
        match self.service.load(Ordering::Relaxed) {
            0 => Service::On,
            1 => Service::Over,
            _ => Service::Failed,
        }
    }

    /// Whether every operation is to fail with `EIO`.
    pub(crate) fn refuses(&self) -> bool {
        self.service() != Service::On && self.is_on_demand
    }

    /// Whether there is room for `files` more files and `blocks` more blocks; `ENOBUFS` if not.
    /// Starts and stops culling as the limits say (`cachefiles_has_space()`).
    pub(crate) fn has_room(&self, files: u64, blocks: u64, need: Need) -> Result {
        // First: what is written meanwhile is in both numbers rather than in none.
        let blocks_writing = self.blocks_writing.load(Ordering::Relaxed);
        let tick = tick();
        let space = match self.mnt.space() {
            Ok(space) => space,
            Err(error) => {
                if error == EIO {
                    self.io_error(format_args!("statfs failed"));
                }
                return Err(error);
            }
        };
        let now = Space {
            files_free: space.files_free,
            blocks_avail: space.blocks_avail,
            blocks_writing,
        };
        let verdict =
            self.thresholds
                .judge(now, files, blocks, self.culling.load(Ordering::Relaxed));
        match verdict.culling {
            CullChange::Begin => self.set_culling(true),
            CullChange::Cease => self.set_culling(false),
            CullChange::Unchanged => {}
        }
        let blocks = match verdict.enough {
            true => self.thresholds.spare_blocks(now, blocks, self.is_culling()),
            false => 0,
        };
        *self.spare.lock() = Spare { tick, blocks };
        if verdict.enough {
            return Ok(());
        }
        match need {
            Need::Check => {}
            Need::Create => Count::NoSpaceToCreate.bump(),
            Need::Write => Count::NoSpaceToWrite.bump(),
        }
        Err(ENOBUFS)
    }

    fn set_culling(&self, on: bool) {
        if self.culling.swap(on, Ordering::Relaxed) != on {
            self.state_changed();
        }
    }

    fn state_changed(&self) {
        self.changed.store(true, Ordering::Release);
        self.requests.pollers.wake();
    }

    /// Whether space is so short that the daemon should cull.
    pub(crate) fn is_culling(&self) -> bool {
        self.culling.load(Ordering::Relaxed)
    }

    /// Whether the state line has changed since it was read last.
    pub(crate) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// A file of `blocks` 512-byte blocks is no longer in use: it can be culled.
    pub(crate) fn released(&self, blocks: u64) {
        self.blocks_released.fetch_add(blocks, Ordering::Relaxed);
        self.files_released.fetch_add(1, Ordering::Relaxed);
        self.state_changed();
    }

    /// Lets `show` see the state line and, if it succeeds, starts counting anew.
    pub(crate) fn report<R>(&self, show: impl FnOnce(StateLine<'_>) -> Result<R>) -> Result<R> {
        // Out of date is better than nothing if the disk does not tell.
        let _ = self.has_room(0, 0, Need::Check);
        // First of all: what changes from here on is to be read once more.
        self.changed.swap(false, Ordering::AcqRel);
        let files_released = self.files_released.swap(0, Ordering::Relaxed);
        let blocks_released = self.blocks_released.swap(0, Ordering::Relaxed);
        show(StateLine {
            culling: self.is_culling(),
            thresholds: &self.thresholds,
            files_released,
            blocks_released,
        })
        .inspect_err(|_| {
            self.files_released
                .fetch_add(files_released, Ordering::Relaxed);
            self.blocks_released
                .fetch_add(blocks_released, Ordering::Relaxed);
            self.state_changed();
        })
    }

    /// Whether there is room for `bytes` more; `ENOBUFS` if not.
    pub(crate) fn has_room_for(&self, bytes: u64, need: Need) -> Result {
        let blocks = bytes.div_ceil(self.block_size.into());
        if need == Need::Write {
            let mut spare = self.spare.lock();
            if spare.blocks >= blocks && spare.tick == tick() {
                spare.blocks -= blocks;
                return Ok(());
            }
        }
        self.has_room(0, blocks, need)
    }

    /// Checks that `bytes` more can be written, and counts them until the result is dropped.
    pub(crate) fn begin_write(&self, bytes: u64) -> Result<Writing<&Self>> {
        self.has_room_for(bytes, Need::Write)?;
        Ok(Writing::new(self, bytes))
    }
}

/// Others fill the disk, too, while nothing is written to the cache; and no event tells that the daemon
/// has room for fds again.
impl Recurring for Disk {
    fn recur(&self) {
        if self.service() == Service::On {
            self.requests.retry();
            let _acting = self.cred.assume();
            // Who sleeps in poll(2) is woken if the state changes; an error is the next user's.
            let _ = self.has_room(0, 0, Need::Check);
        }
    }
}

impl<D: Deref<Target = Disk>> Drop for Writing<D> {
    fn drop(&mut self) {
        self.of
            .blocks_writing
            .fetch_sub(self.blocks, Ordering::Relaxed);
    }
}
