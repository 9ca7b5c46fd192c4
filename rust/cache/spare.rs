// SPDX-License-Identifier: GPL-2.0

//! What was to spare at the last look at the disk, so that not every write has to look.
//!
//! A `statfs` of ext4 adds up counters of all processors, twice. Within one tick of the clock, 1 to
//! 10 ms, what our own writes take is known, and what others take is not news that would not be as
//! old a tick later. Only writes ask here, and only what leaves all limits untouched is granted.
//! Never here: the limits, or files, which are not created so often.

use crate::sys::time::{self, Tick};
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::SpinLock;

/// The last look.
struct Look {
    when: Tick,
    /// Blocks that can be written before a limit may be met.
    blocks: u64,
}

/// What the last look leaves to spare.
#[pin_data]
pub(super) struct Spare {
    #[pin]
    look: SpinLock<Look>,
}

impl Spare {
    /// Nothing.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Spare {
            look <- new_spinlock!(Look { when: time::tick(), blocks: 0 }, "Spare::look"),
        })
    }

    /// Takes `blocks` of it. False if it is not known that there are so many.
    pub(super) fn take(&self, blocks: u64) -> bool {
        let mut look = self.look.lock();
        match look.blocks.checked_sub(blocks) {
            Some(left) if look.when == time::tick() => {
                look.blocks = left;
                true
            }
            _ => false,
        }
    }

    /// So many are left, by a look that began at `when`.
    pub(super) fn found(&self, when: Tick, blocks: u64) {
        let mut look = self.look.lock();
        // Of two looks at once, neither may know what the other was for.
        let blocks = match look.when == when {
            true => blocks.min(look.blocks),
            false => blocks,
        };
        *look = Look { when, blocks };
    }
}
