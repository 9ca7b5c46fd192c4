// SPDX-License-Identifier: GPL-2.0

//! The groups of cases; each is one kselftest.

use crate::ktap::{Group, InV5};

mod abandoned;
mod anon_fd;
mod backing_file_system;
mod bugs_answer;
mod bugs_cache;
mod bugs_lifetime;
mod bugs_scene;
mod changed_behind;
mod command;
mod cycle;
mod daemon_habits;
mod delivery;
mod device;
mod differences;
mod domains;
mod eviction;
mod eviction_daemon;
mod failover;
mod failure;
mod faults_disk;
mod faults_injection;
mod faults_memory;
mod faults_netfs;
mod faults_requests;
mod faults_scene;
mod fuzz;
mod image;
mod interop;
mod netfs;
mod netfs_cachefilesd;
mod netfs_caller;
mod netfs_caller_scene;
mod netfs_compare;
mod netfs_ends;
mod netfs_faults;
mod netfs_files;
mod netfs_invalidation;
mod netfs_limits;
mod netfs_pinned;
mod netfs_reboot;
mod netfs_scene;
mod netfs_stress;
mod netfs_tree;
mod netfs_writes;
mod on_file_systems;
mod open_request;
mod persistence;
mod read_request;
mod secctx;
mod space;
mod supervised;
mod trace;
mod v5;
mod v5_answers;

pub use on_file_systems::ON_EACH;

/// All groups, in the order in which they are run.
pub const GROUPS: &[&Group] = &[
    &persistence::FILL,
    &persistence::READ,
    &device::GROUP,
    &command::GROUP,
    &image::GROUP,
    &open_request::GROUP,
    &read_request::GROUP,
    &anon_fd::GROUP,
    &persistence::GROUP,
    &failure::GROUP,
    &abandoned::GROUP,
    &daemon_habits::GROUP,
    &delivery::GROUP,
    &bugs_answer::GROUP,
    &bugs_lifetime::GROUP,
    &bugs_cache::GROUP,
    &interop::GROUP,
    &space::GROUP,
    &domains::GROUP,
    &eviction::GROUP,
    &differences::GROUP,
    &trace::GROUP,
    &failover::GROUP,
    &netfs::GROUP,
    &netfs::MORE,
    &netfs_cachefilesd::GROUP,
    &netfs_caller::GROUP,
    &netfs_invalidation::GROUP,
    &netfs_limits::GROUP,
    &netfs_compare::GROUP,
    &netfs_faults::GROUP,
    &netfs_writes::GROUP,
    &netfs_pinned::GROUP,
    &netfs_stress::GROUP,
    &secctx::GROUP,
    &faults_memory::GROUP,
    &faults_requests::GROUP,
    &faults_netfs::GROUP,
    &faults_disk::GROUP,
    &faults_injection::GROUP,
    &cycle::GROUP,
    &fuzz::GROUP,
    &v5::GROUP,
    &v5_answers::GROUP,
];

/// The groups that are left to CI, which has the time, and to whoever asks for them by name.
pub const LONG: &[&str] = &[
    "faults_disk",
    "faults_netfs",
    "netfs_cachefilesd",
    "netfs_compare",
    "netfs_faults",
    "netfs_limits",
    "netfs_more",
    "netfs_pinned",
    "netfs_stress",
    "netfs_writes",
    "secctx",
];

/// The groups that run in v5 too.  The others are about what no message tells of (the device and its
/// commands, space, what the disk does, the ordinary mode), have both protocols in them (`fuzz`), or
/// are v5's own.
pub const IN_V5: &[InV5] = &[
    InV5 {
        group: &open_request::GROUP,
        without: &[
            // The words are other ones: `v5_answers:malformed_answers`.
            "malformed_answers",
        ],
        long: false,
    },
    InV5 {
        group: &read_request::GROUP,
        without: &[
            // In v5 an answer comes through no fd: `v5_answers:cread_of_any_object`.
            "completed_through_another_object",
        ],
        long: false,
    },
    InV5 {
        group: &anon_fd::GROUP,
        without: &[],
        long: false,
    },
    InV5 {
        group: &persistence::GROUP,
        // What is on disk knows no protocol: a part that is there and a part that is not will do.
        without: &["after_remount", "after_reload", "in_a_shared_domain"],
        long: false,
    },
    InV5 {
        group: &failure::GROUP,
        // Nobody speaks.
        without: &["mount_without_daemon"],
        long: true,
    },
    InV5 {
        group: &daemon_habits::GROUP,
        without: &[],
        long: true,
    },
    InV5 {
        group: &failover::GROUP,
        without: &[
            // The fds that v5's messages name are those of one process.
            "processes_share_one_device",
        ],
        long: true,
    },
    InV5 {
        group: &delivery::GROUP,
        without: &[],
        long: true,
    },
    InV5 {
        group: &bugs_answer::GROUP,
        without: &[],
        long: true,
    },
    InV5 {
        group: &bugs_lifetime::GROUP,
        without: &[
            // It knows a CLOSE that comes twice by the object's number, which v5 gives out again.
            "cve_2024_39510",
        ],
        long: true,
    },
    InV5 {
        group: &bugs_cache::GROUP,
        without: &[],
        long: true,
    },
    InV5 {
        group: &domains::GROUP,
        without: &[],
        long: true,
    },
    InV5 {
        group: &eviction::GROUP,
        // These say by themselves how they bind.
        without: &[
            "few_blocks_wake_who_polls",
            "few_inodes_wake_who_polls",
            "state_line_tells_of_culling",
            "state_line_counts_what_is_released",
        ],
        long: true,
    },
    InV5 {
        group: &differences::GROUP,
        without: &[],
        long: true,
    },
    InV5 {
        group: &trace::GROUP,
        // C speaks mainline only, and no message is told of.
        without: &[
            "events_are_declared_as_c_declares_them",
            "errors_and_removals",
            "stories_are_those_of_c",
        ],
        long: true,
    },
    InV5 {
        group: &image::GROUP,
        // How an image is made is EROFS's affair, and so is how many there are.
        without: &["plain", "tail_packed", "lz4", "thousand_cookies"],
        long: true,
    },
    InV5 {
        group: &faults_memory::GROUP,
        // These have nothing to do with the protocol, or take long.
        without: &[
            "opening_the_device",
            "settings",
            "bind",
            "bind_into_an_empty_directory",
            "first_open_of_a_volume",
            "cull",
        ],
        long: true,
    },
    InV5 {
        group: &faults_requests::GROUP,
        without: &[],
        long: true,
    },
    InV5 {
        group: &faults_injection::GROUP,
        without: &[],
        long: true,
    },
];
