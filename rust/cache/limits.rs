// SPDX-License-Identifier: GPL-2.0

//! How much of the backing file system a cache leaves free, and what it does when less is.
//!
//! Lives here: the limits in per cent and their rules, the thresholds made of them at `bind`, the
//! judgement on the space there is (`cachefiles_has_space()` without its side effects), and the
//! line that tells the ordinary mode's daemon about it.  Never here: asking a file system for its
//! space, or waking pollers.
//!
//! For files and for blocks there are three limits with `0 <= stop < cull < run < 100`: below
//! *stop* nothing is allocated, below *cull* culling begins, and it ceases when both resources
//! have reached *run* again.

use super::super::protocol::command::{Bound, Resource};
use core::fmt;

/// Three limits of one resource: in per cent in [`Limits`], in files or blocks in [`Thresholds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Culling ceases at this much free.
    pub run: u64,
    /// Culling begins below this much free.
    pub cull: u64,
    /// Allocation stops below this much free.
    pub stop: u64,
}

impl Levels {
    /// Whether the order of the limits is kept: `stop < cull < run < 100`.
    pub const fn are_ordered(&self) -> bool {
        self.stop < self.cull && self.cull < self.run && self.run < 100
    }
}

impl Default for Levels {
    /// C's: 7 %, 5 % and 1 %.
    fn default() -> Levels {
        Levels {
            run: 7,
            cull: 5,
            stop: 1,
        }
    }
}

/// The limits of a cache in per cent of the backing file system's total.
///
/// # Invariants
///
/// Both are [ordered](Levels::are_ordered).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    files: Levels,
    blocks: Levels,
}

/// A limit would break the order `0 <= stop < cull < run < 100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeError {
    /// The resource whose limits they are.
    pub resource: Resource,
    /// The limits as they would be, in per cent.
    pub levels: Levels,
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = letter(self.resource);
        let Levels { run, cull, stop } = self.levels;
        write!(
            f,
            "free space limits must be in range 0% <= stop < cull < run < 100%, not {letter}stop \
             {stop}%, {letter}cull {cull}%, {letter}run {run}%"
        )
    }
}

impl Limits {
    /// The limits of one resource in per cent.
    pub const fn of(&self, resource: Resource) -> Levels {
        match resource {
            Resource::Files => self.files,
            Resource::Blocks => self.blocks,
        }
    }

    /// Sets one limit, as the commands `frun`, `fcull`, `fstop`, `brun`, `bcull`, `bstop` do.
    ///
    /// The rules of these commands (each compares the new limit with its neighbours) amount to
    /// the order of all three, because the other two are in order already.
    ///
    /// # Errors
    ///
    /// [`RangeError`], and nothing is changed; the command fails with EINVAL.
    pub fn set(
        &mut self,
        resource: Resource,
        bound: Bound,
        percent: u64,
    ) -> Result<(), RangeError> {
        let mut levels = self.of(resource);
        match bound {
            Bound::Run => levels.run = percent,
            Bound::Cull => levels.cull = percent,
            Bound::Stop => levels.stop = percent,
        }
        if !levels.are_ordered() {
            return Err(RangeError { resource, levels });
        }
        match resource {
            Resource::Files => self.files = levels,
            Resource::Blocks => self.blocks = levels,
        }
        Ok(())
    }
}

/// The limits in files and blocks of one backing file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// In files (inodes).
    pub files: Levels,
    /// In blocks of the file system.
    pub blocks: Levels,
}

impl Thresholds {
    /// What the limits are on a file system with this many files and blocks in all: `f_files` and
    /// `f_blocks` of its statfs.  Rounded down to whole per cents first, as in C.
    pub const fn new(limits: &Limits, total_files: u64, total_blocks: u64) -> Thresholds {
        Thresholds {
            files: scale(limits.files, total_files),
            blocks: scale(limits.blocks, total_blocks),
        }
    }

    /// Decides whether files and blocks may be allocated, and what becomes of culling: what
    /// `cachefiles_has_space()` does with the result of statfs.
    ///
    /// `culling` is the present state; the answer is a change of it, for the caller to make.
    pub const fn judge(
        &self,
        space: Space,
        need_files: u64,
        need_blocks: u64,
        culling: bool,
    ) -> Verdict {
        let files = space.files_free.saturating_sub(need_files);
        let blocks = space
            .blocks_avail
            .saturating_sub(space.blocks_writing)
            .saturating_sub(need_blocks);
        let enough = files >= self.files.stop && blocks >= self.blocks.stop;
        let low = files < self.files.cull || blocks < self.blocks.cull;
        let plenty = files >= self.files.run && blocks >= self.blocks.run;
        Verdict {
            enough,
            culling: match (culling, !enough || low, plenty) {
                (false, true, _) => CullChange::Begin,
                (true, false, true) => CullChange::Cease,
                _ => CullChange::Unchanged,
            },
        }
    }

    /// How many blocks can be written without meeting a limit, after `need_blocks` more: as long as
    /// all writes together are no more than that, [`judge`](Self::judge) says that there is enough
    /// and that nothing changes.
    pub const fn spare_blocks(&self, space: Space, need_blocks: u64, culling: bool) -> u64 {
        if culling || space.files_free < self.files.cull {
            return 0;
        }
        space
            .blocks_avail
            .saturating_sub(space.blocks_writing)
            .saturating_sub(need_blocks)
            .saturating_sub(self.blocks.cull)
    }
}

/// The space there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free files: `f_ffree`.
    pub files_free: u64,
    /// Blocks for the unprivileged: `f_bavail`.
    pub blocks_avail: u64,
    /// Blocks of writes under way, which statfs may still count as available: C's `b_writing`.
    pub blocks_writing: u64,
}

/// The judgement on the space there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    /// Whether to allocate; if not, the error is ENOBUFS.
    pub enough: bool,
    /// What becomes of culling.  Pollers are told of any change.
    pub culling: CullChange,
}

/// A change of the culling state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CullChange {
    /// Set the flag.
    Begin,
    /// Clear the flag.
    Cease,
    /// Leave it.
    Unchanged,
}

/// What reading `/dev/cachefiles` gives in the ordinary mode: one line without a newline, at most
/// 256 bytes.
#[derive(Clone, Copy, Debug)]
pub struct StateLine<'a> {
    /// Whether the daemon is to cull.
    pub culling: bool,
    /// The limits in files and blocks.
    pub thresholds: &'a Thresholds,
    /// Files released since the last time this was read.
    pub files_released: u32,
    /// Blocks released since the last time this was read.
    pub blocks_released: u64,
}

impl fmt::Display for StateLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Thresholds { files, blocks } = self.thresholds;
        write!(
            f,
            "cull={} frun={:x} fcull={:x} fstop={:x} brun={:x} bcull={:x} bstop={:x} \
             freleased={:x} breleased={:x}",
            if self.culling { '1' } else { '0' },
            files.run,
            files.cull,
            files.stop,
            blocks.run,
            blocks.cull,
            blocks.stop,
            self.files_released,
            self.blocks_released,
        )
    }
}

const fn scale(percent: Levels, total: u64) -> Levels {
    let unit = total / 100;
    // Nothing saturates: the percentages are below 100.
    Levels {
        run: unit.saturating_mul(percent.run),
        cull: unit.saturating_mul(percent.cull),
        stop: unit.saturating_mul(percent.stop),
    }
}

const fn letter(resource: Resource) -> char {
    match resource {
        Resource::Files => 'f',
        Resource::Blocks => 'b',
    }
}
