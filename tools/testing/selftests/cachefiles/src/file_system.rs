// SPDX-License-Identifier: GPL-2.0

//! The backing file systems that groups run on again.
//!
//! Lives here: the one list of them, how each is made, mounted and checked, and what it lacks that a
//! case may need.  Never here: which groups run on them (`tests/on_file_systems.rs`), or a test.

use crate::kernel::run;
use anyhow::Result;
use std::env;

/// The variable that names the file system of this process's caches; ext4 without it.
pub const VARIABLE: &str = "CACHEFILES_FILE_SYSTEM";

/// What a case may need of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// It can be as small as a case wants it, and says to the block how much of it is free.
    SmallAndExact,
    /// It has a fixed number of inodes.
    CountedInodes,
    /// It goes on when its disk fails, and is well when the disk is.
    SurvivesErrors,
    /// fallocate(2) can take out a part of a file, and put one in.
    CollapsesRanges,
    /// fallocate(2) can free one block alone.
    FreesSingleBlocks,
    /// fallocate(2) can allocate blocks that nobody has written.
    Preallocates,
    /// Files can share blocks.
    SharesBlocks,
    /// There is a program that moves the blocks of a file that is in use.
    MovesBlocks,
    /// It is on a disk of its own, which can be copied and checked.
    OwnDisk,
    /// What is written directly waits for the disk.
    WritesDirectly,
    /// A direct read and a hole that is punched exclude each other.
    ReadsExcludePunches,
    /// What cannot reach a dead disk fails at once.
    FailsAtOnce,
    /// A part of a block can be written directly.
    WritesParts,
    /// Its blocks are pages.
    BlocksArePages,
    /// The kernel traces that somebody seeks data.
    TracesSeeks,
    /// Names that differ in case can be one name.
    FoldsCase,
}

/// A file system, and the options that change where data is.
pub struct FileSystem {
    /// How the names of its kselftests begin.
    pub name: &'static str,
    /// What mount(2) calls it; of an overlay, what its upper layer is.
    kind: &'static str,
    /// mkfs's options.
    make: &'static [&'static str],
    /// mount(2)'s options.
    pub options: &'static str,
    /// What cases on it must do without.
    pub lacks: &'static [Property],
    /// Whether an overlay is mounted over it, and the cache is there.
    pub is_below: bool,
}

/// ext4 as the other tests have it.
pub const EXT4: FileSystem = FileSystem {
    name: "ext4",
    kind: "ext4",
    make: &["-b", "4096"],
    options: "",
    lacks: &[Property::SharesBlocks, Property::FoldsCase],
    is_below: false,
};

const XFS: FileSystem = FileSystem {
    name: "xfs",
    kind: "xfs",
    make: &[],
    options: "",
    lacks: &[
        Property::SmallAndExact,
        Property::CountedInodes,
        Property::SurvivesErrors,
        Property::FoldsCase,
    ],
    is_below: false,
};

const BTRFS: FileSystem = FileSystem {
    name: "btrfs",
    kind: "btrfs",
    make: &[],
    options: "",
    lacks: &[
        Property::SmallAndExact,
        Property::CountedInodes,
        Property::SurvivesErrors,
        Property::CollapsesRanges,
        Property::TracesSeeks,
        Property::WritesParts,
        // Its direct writes go through the page cache, so that checksums are right.
        Property::WritesDirectly,
        Property::ReadsExcludePunches,
        Property::FailsAtOnce,
        Property::FoldsCase,
    ],
    is_below: false,
};

/// All on which groups run again.
pub const ALL: &[FileSystem] = &[
    EXT4,
    FileSystem {
        name: "ext4_1k",
        make: &["-b", "1024"],
        lacks: &[
            Property::SharesBlocks,
            Property::BlocksArePages,
            Property::FoldsCase,
        ],
        ..EXT4
    },
    FileSystem {
        name: "ext4_inline_data",
        make: &["-b", "4096", "-O", "inline_data"],
        ..EXT4
    },
    FileSystem {
        name: "ext4_journal",
        options: "data=journal",
        lacks: &[
            Property::SharesBlocks,
            // Nor does the journal let go of blocks that it has data for.
            Property::WritesDirectly,
            Property::ReadsExcludePunches,
            Property::CollapsesRanges,
            Property::MovesBlocks,
            Property::FoldsCase,
        ],
        ..EXT4
    },
    FileSystem {
        name: "ext4_casefold",
        make: &["-b", "4096", "-O", "casefold"],
        lacks: &[Property::SharesBlocks],
        ..EXT4
    },
    FileSystem {
        name: "ext4_quota",
        make: &["-b", "4096", "-O", "quota"],
        ..EXT4
    },
    FileSystem {
        name: "ext4_bigalloc",
        make: &["-b", "4096", "-O", "bigalloc", "-C", "65536"],
        lacks: &[
            Property::SharesBlocks,
            // All in clusters, of which a small one has few.
            Property::SmallAndExact,
            Property::CountedInodes,
            Property::FreesSingleBlocks,
            Property::CollapsesRanges,
            Property::MovesBlocks,
            Property::FoldsCase,
        ],
        ..EXT4
    },
    FileSystem {
        name: "ext4_no_extents",
        make: &["-b", "4096", "-O", "^extent,^64bit"],
        lacks: &[
            Property::SharesBlocks,
            Property::WritesDirectly,
            Property::ReadsExcludePunches,
            Property::Preallocates,
            Property::CollapsesRanges,
            Property::MovesBlocks,
            Property::FoldsCase,
        ],
        ..EXT4
    },
    XFS,
    FileSystem {
        name: "xfs_1k",
        make: &["-b", "size=1024"],
        lacks: &[
            Property::SmallAndExact,
            Property::CountedInodes,
            Property::SurvivesErrors,
            Property::BlocksArePages,
            Property::FoldsCase,
        ],
        ..XFS
    },
    FileSystem {
        name: "xfs_no_reflink",
        make: &["-m", "reflink=0"],
        lacks: &[
            Property::SmallAndExact,
            Property::CountedInodes,
            Property::SurvivesErrors,
            Property::SharesBlocks,
            Property::FoldsCase,
        ],
        ..XFS
    },
    BTRFS,
    FileSystem {
        name: "btrfs_zstd",
        options: "compress-force=zstd",
        ..BTRFS
    },
    FileSystem {
        name: "btrfs_lzo",
        options: "compress-force=lzo",
        ..BTRFS
    },
    FileSystem {
        name: "btrfs_nodatacow",
        options: "nodatacow",
        lacks: &[
            Property::SmallAndExact,
            Property::CountedInodes,
            Property::SurvivesErrors,
            Property::CollapsesRanges,
            Property::WritesParts,
            Property::ReadsExcludePunches,
            Property::FailsAtOnce,
            Property::TracesSeeks,
            Property::FoldsCase,
        ],
        ..BTRFS
    },
    FileSystem {
        name: "overlay",
        lacks: &[
            Property::SharesBlocks,
            Property::MovesBlocks,
            Property::OwnDisk,
            Property::SurvivesErrors,
            Property::FoldsCase,
        ],
        is_below: true,
        ..EXT4
    },
];

/// The file system that the caches of this process are to be on.
pub fn chosen() -> &'static FileSystem {
    let name = env::var(VARIABLE).unwrap_or_default();
    ALL.iter().find(|fs| fs.name == name).unwrap_or(&EXT4)
}

impl FileSystem {
    /// What mount(2) calls it.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Makes it on a device, as large as the device or of so many MiB.
    pub fn make(&self, device: &str, mib: Option<u64>) -> Result<()> {
        let size = |prefix: &str| mib.map(|mib| format!("{prefix}{}", mib.max(self.least()) << 20));
        let words = |fixed: &[&'static str]| -> Vec<String> {
            let all = fixed.iter().chain(self.make);
            all.map(|word| (*word).to_owned()).collect()
        };
        let (program, words) = match self.kind {
            "xfs" => {
                // A log as small as can be, which mkfs writes.
                let mut words = words(&["-q", "-f", "-K", "--unsupported", "-l", "size=20m"]);
                words.extend(size("-dsize="));
                words.push(device.to_owned());
                ("mkfs.xfs", words)
            }
            "btrfs" => {
                let mut words = words(&["-q", "-f", "-K"]);
                words.extend(size("-b"));
                words.push(device.to_owned());
                ("mkfs.btrfs", words)
            }
            _ => {
                let mut words = words(&["-q", "-F", "-E", "lazy_itable_init=1"]);
                words.push(device.to_owned());
                words.extend(mib.map(|mib| format!("{mib}M")));
                ("mkfs.ext4", words)
            }
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        run(program, &words).map(drop)
    }

    /// Of how many MiB its mkfs makes one at least.
    pub fn least(&self) -> u64 {
        match self.kind {
            "xfs" => 128,
            "btrfs" => 128,
            _ => 1,
        }
    }

    /// What it has not put in order when it was mounted last must be sound on this device.
    pub fn check(&self, device: &str) -> Result<()> {
        match self.kind {
            "xfs" => run("xfs_repair", &["-n", device]),
            "btrfs" => run("btrfs", &["check", "--readonly", device]),
            _ => run("e2fsck", &["-f", "-n", device]),
        }
        .map(drop)
    }
}
