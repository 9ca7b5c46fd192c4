// SPDX-License-Identifier: GPL-2.0

//! What the last look at the disk is still worth, so that not every write has to look.
//!
//! Pure core Rust: the module and the host's tests compile this same file.
//!
//! A `statfs` of ext4 adds up counters of all processors, three of them. What our own writes have
//! taken since is known; others are given credit for more than they can write. What they take at a
//! stroke, as fallocate(2) does, is noticed a tenth of a second later, at most. Only writes ask here,
//! and only what leaves all limits untouched is granted. Never here: the limits, or files, which are
//! not created so often.

/// Bytes that others are thought to write in a second.
const OTHERS: u64 = 8 << 30;

/// How fast a look grows old.
#[derive(Clone, Copy, Debug)]
pub struct Ageing {
    /// Ticks after which it is worth nothing.
    ticks: u64,
    /// Blocks that others are thought to write in a tick.
    blocks: u64,
}

impl Ageing {
    /// On a disk with blocks of this size, where a second has so many ticks.
    pub fn new(block_size: u32, ticks_per_second: u64) -> Self {
        let ticks = ticks_per_second.max(1);
        Ageing {
            ticks: (ticks / 10).max(1),
            blocks: OTHERS
                .div_ceil(u64::from(block_size).max(1))
                .div_ceil(ticks),
        }
    }
}

/// The last look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The tick it was in, or earlier.
    when: usize,
    /// Blocks that could be written then before a limit would be met, less what was granted since.
    blocks: u64,
    /// Blocks that were granted since the beginning; goes round.
    granted: u64,
    /// How often somebody who looked for another reason has told; goes round.
    told: u32,
}

/// A look has begun. What was granted before is in what it finds, or counted as being written; but
/// for what somebody is about to count, as in C.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    when: usize,
    granted: u64,
    told: u32,
}

impl Look {
    /// Nothing is known.
    pub const fn new(now: usize) -> Self {
        Look {
            when: now,
            blocks: 0,
            granted: 0,
            told: 0,
        }
    }

    /// Grants `blocks`, or says that somebody has to look, who begins now.
    pub fn grant(&mut self, now: usize, blocks: u64, ageing: Ageing) -> Result<(), Begun> {
        // CAST: `usize` is 64 bits wide on what we build for. Ticks go round.
        let age = now.wrapping_sub(self.when) as u64;
        // The tick that it is may be nearly over.
        let others = age.saturating_add(1).saturating_mul(ageing.blocks);
        match self.blocks.checked_sub(blocks) {
            Some(left) if age <= ageing.ticks && left >= others => {
                self.blocks = left;
                self.granted = self.granted.wrapping_add(blocks);
                Ok(())
            }
            _ => Err(self.begin(now)),
        }
    }

    /// Somebody has to look all the same.
    pub fn begin(&self, now: usize) -> Begun {
        Begun {
            when: now,
            granted: self.granted,
            told: self.told,
        }
    }

    /// A look has found that beside the `own` blocks that it was for, and that are granted now, there
    /// are `blocks` to spare.
    pub fn found(&mut self, begun: Begun, own: u64, blocks: u64) {
        let since = self.granted.wrapping_sub(begun.granted);
        let blocks = blocks.saturating_sub(since);
        self.granted = self.granted.wrapping_add(own);
        if self.told != begun.told {
            // What somebody has found meanwhile may be news.
            self.blocks = self.blocks.saturating_sub(own).min(blocks);
            return;
        }
        // Also where somebody has begun later and told sooner: this one is as true, and older.
        self.when = begun.when;
        self.blocks = blocks;
    }

    /// Somebody who looked for another reason has found no more than this.
    pub fn at_most(&mut self, blocks: u64) {
        self.told = self.told.wrapping_add(1);
        self.blocks = self.blocks.min(blocks);
    }
}
