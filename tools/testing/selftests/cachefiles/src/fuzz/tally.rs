// SPDX-License-Identifier: GPL-2.0

//! What was done how often, and how it ended.
//!
//! Lives here: the counters of one thread, which are added up when it ends.  Never here: whether an
//! errno is a good one.

use rustix::io::Errno;
use std::collections::BTreeMap;

/// Counters by kind of operation and errno, 0 for success.
#[derive(Clone, Default)]
pub struct Tally {
    counts: BTreeMap<&'static str, BTreeMap<i32, u64>>,
}

impl Tally {
    /// One more.
    pub fn count(&mut self, kind: &'static str, error: Option<Errno>) {
        let errno = error.map_or(0, Errno::raw_os_error);
        *self
            .counts
            .entry(kind)
            .or_default()
            .entry(errno)
            .or_default() += 1;
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Tally) {
        for (kind, errnos) in &other.counts {
            for (errno, count) in errnos {
                *self
                    .counts
                    .entry(kind)
                    .or_default()
                    .entry(*errno)
                    .or_default() += count;
            }
        }
    }

    /// How many of this kind succeeded.
    pub fn succeeded(&self, kind: &str) -> u64 {
        let errnos = self.counts.get(kind);
        errnos
            .and_then(|errnos| errnos.get(&0))
            .copied()
            .unwrap_or(0)
    }

    /// How many of this kind there were, whatever came of them.
    pub fn tried(&self, kind: &str) -> u64 {
        let errnos = self.counts.get(kind);
        errnos.map_or(0, |errnos| errnos.values().sum())
    }

    /// A line for each kind.
    pub fn lines(&self) -> Vec<String> {
        let line = |(kind, errnos): (&&str, &BTreeMap<i32, u64>)| {
            let parts: Vec<String> = errnos
                .iter()
                .map(|(errno, count)| match errno {
                    0 => format!("{count} ok"),
                    errno => format!("{count} {}", name(*errno)),
                })
                .collect();
            format!("{kind:<26} {}", parts.join(", "))
        };
        self.counts.iter().map(line).collect()
    }
}

/// The errno's name, where there is a usual one here.
fn name(errno: i32) -> String {
    let known = [
        (Errno::PERM, "EPERM"),
        (Errno::NOENT, "ENOENT"),
        (Errno::INTR, "EINTR"),
        (Errno::IO, "EIO"),
        (Errno::NXIO, "ENXIO"),
        (Errno::BADF, "EBADF"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::FAULT, "EFAULT"),
        (Errno::BUSY, "EBUSY"),
        (Errno::EXIST, "EEXIST"),
        (Errno::XDEV, "EXDEV"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::INVAL, "EINVAL"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::FBIG, "EFBIG"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::SPIPE, "ESPIPE"),
        (Errno::RANGE, "ERANGE"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::BADFD, "EBADFD"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::MSGSIZE, "EMSGSIZE"),
        (Errno::NOBUFS, "ENOBUFS"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::STALE, "ESTALE"),
    ];
    known
        .iter()
        .find(|(known, _)| known.raw_os_error() == errno)
        .map_or_else(|| format!("errno {errno}"), |(_, name)| (*name).to_owned())
}
