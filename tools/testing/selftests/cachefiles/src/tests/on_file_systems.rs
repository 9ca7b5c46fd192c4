// SPDX-License-Identifier: GPL-2.0

//! The groups that run again on each backing file system, as `xfs_read_request`, `btrfs_persistence`
//! and so on: those that depend on where data is.
//!
//! Lives here: which groups, what their cases need of a file system, and where CI runs them.  Never
//! here: the file systems, which are in `file_system.rs`.

use super::{
    anon_fd, backing_file_system, changed_behind, differences, eviction, faults_disk, netfs,
    persistence, read_request,
};
use crate::{file_system::Property::*, ktap::OnEach};

/// Each of them on each file system.
///
/// CI has four minutes for them.  It runs what other processes change where each finds something of its
/// own: where the number of blocks shows little (bigalloc), where pages cannot be dropped (journal),
/// where the inode counts no blocks (XFS, overlay), where data compress; the writes where blocks are
/// small and where direct ones are buffered (btrfs); and the cuts, full disks and seeks on the two that
/// are not ext4.  On the other file systems what decides is ext4's code, or that of one of these.
pub const ON_EACH: &[OnEach] = &[
    OnEach {
        group: &backing_file_system::GROUP,
        needs: &[
            ("disk_as_the_power_leaves_it", &[OwnDisk]),
            ("directory_that_folds_case", &[FoldsCase]),
            ("seeks_no_more_than_ext4", &[TracesSeeks]),
        ],
        in_ci: &["xfs", "btrfs_zstd"],
    },
    OnEach {
        group: &changed_behind::GROUP,
        needs: &[
            // Else what a hole has taken is read before fsnotify tells of it.
            ("punched_under_readers", &[ReadsExcludePunches]),
            ("collapsed", &[CollapsesRanges]),
            ("inserted", &[CollapsesRanges]),
            ("zeroed", &[Preallocates]),
            ("unwritten_and_read_by_a_backup", &[Preallocates]),
            ("cloned_over", &[SharesBlocks]),
            ("shared_and_rewritten", &[SharesBlocks]),
            ("blocks_moved_under_readers", &[MovesBlocks]),
            ("frozen_under_readers", &[OwnDisk]),
        ],
        in_ci: &[
            "ext4",
            "ext4_journal",
            "ext4_bigalloc",
            "xfs",
            "btrfs_zstd",
            "overlay",
        ],
    },
    OnEach {
        group: &read_request::GROUP,
        needs: &[],
        in_ci: &["btrfs"],
    },
    OnEach {
        group: &anon_fd::GROUP,
        needs: &[
            // Held at the disk by a direct write.
            (
                "unaligned_write_shows_nothing_early",
                &[WritesDirectly, OwnDisk],
            ),
            ("unaligned_memory_costs_no_write_a_block", &[WritesDirectly]),
        ],
        in_ci: &["ext4_1k", "xfs", "btrfs"],
    },
    OnEach {
        group: &persistence::GROUP,
        needs: &[],
        in_ci: &["btrfs_zstd"],
    },
    OnEach {
        group: &eviction::GROUP,
        needs: &[
            ("few_blocks_wake_who_polls", &[SmallAndExact]),
            ("few_inodes_wake_who_polls", &[CountedInodes]),
            ("state_line_tells_of_culling", &[CountedInodes]),
            ("daemon_makes_room", &[SmallAndExact]),
            ("daemon_culls_the_oldest", &[SmallAndExact]),
            ("daemon_waits_when_all_is_in_use", &[SmallAndExact]),
        ],
        in_ci: &[],
    },
    OnEach {
        group: &differences::GROUP,
        needs: &[
            ("state_line_that_was_not_told", &[SmallAndExact]),
            (
                "blocks_that_were_never_written",
                &[FreesSingleBlocks, Preallocates],
            ),
            (
                "block_never_written_that_a_backup_has_read",
                &[Preallocates],
            ),
        ],
        in_ci: &["xfs", "overlay"],
    },
    OnEach {
        group: &faults_disk::GROUP,
        needs: &[
            ("one_bad_block", &[BlocksArePages]),
            ("bind", &[FailsAtOnce]),
            ("commit", &[FailsAtOnce]),
            ("cull", &[FailsAtOnce]),
            ("dies_under_readers", &[FailsAtOnce]),
        ],
        in_ci: &[],
    },
    OnEach {
        group: &netfs::GROUP,
        needs: &[],
        in_ci: &["xfs"],
    },
];
