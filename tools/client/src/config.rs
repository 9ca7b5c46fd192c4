// SPDX-License-Identifier: GPL-2.0

//! What a cache is told before it is bound.
//!
//! Lives here: the settings, and the lines and their order that bring a new session to them.
//! Never here: writing these lines.

use crate::{
    cache::limits::{Levels, Limits},
    protocol::command::{Bound, Resource, Verb},
};
use std::{os::unix::ffi::OsStrExt, path::PathBuf};

/// The settings of a cache that is about to be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// The directory that holds, or will hold, `cache` and `graveyard`.
    pub dir: PathBuf,
    /// The cache's name; the kernel's own is `CacheFiles`.
    pub tag: Option<String>,
    /// Limits of free files, in per cent of all.
    pub files: Levels,
    /// Limits of free blocks, in per cent of all.
    pub blocks: Levels,
    /// The security context to make files under.
    pub secctx: Option<String>,
}

impl CacheConfig {
    /// A cache in this directory with the kernel's defaults for the rest.
    pub fn new(dir: impl Into<PathBuf>) -> CacheConfig {
        CacheConfig {
            dir: dir.into(),
            tag: None,
            files: Levels::default(),
            blocks: Levels::default(),
            secctx: None,
        }
    }

    /// The lines that make a session, as yet untouched, one with these settings.
    ///
    /// The kernel compares each limit with its neighbours when it is set.  So limits are sent in
    /// an order in which every step is allowed; there is one if the wanted limits are in order
    /// themselves.  If not, they are sent all the same and it is the kernel that refuses.
    pub fn commands(&self) -> Vec<Vec<u8>> {
        let mut lines = vec![line(Verb::Dir, self.dir.as_os_str().as_bytes())];
        lines.extend(self.tag.iter().map(|tag| line(Verb::Tag, tag.as_bytes())));
        let mut limits = Limits::default();
        for (resource, wanted) in [
            (Resource::Files, self.files),
            (Resource::Blocks, self.blocks),
        ] {
            for (bound, percent) in in_allowed_order(&mut limits, resource, wanted) {
                let verb = Verb::Limit(resource, bound);
                lines.push(line(verb, format!("{percent}%").as_bytes()));
            }
        }
        lines.extend(
            self.secctx
                .iter()
                .map(|context| line(Verb::SecCtx, context.as_bytes())),
        );
        lines
    }
}

fn line(verb: Verb, argument: &[u8]) -> Vec<u8> {
    [verb.name().as_bytes(), b" ", argument].concat()
}

/// The limits that have to change, each after those that stand in its way.
fn in_allowed_order(limits: &mut Limits, resource: Resource, wanted: Levels) -> Vec<(Bound, u64)> {
    let now = limits.of(resource);
    let mut left = vec![
        (Bound::Run, now.run, wanted.run),
        (Bound::Cull, now.cull, wanted.cull),
        (Bound::Stop, now.stop, wanted.stop),
    ];
    left.retain(|(_, from, to)| from != to);
    let mut order = Vec::new();
    while !left.is_empty() {
        let next = left
            .iter()
            .position(|(bound, _, to)| limits.set(resource, *bound, *to).is_ok())
            .unwrap_or(0);
        let (bound, _, to) = left.remove(next);
        order.push((bound, to));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::{parse, Command};

    /// Every pair of limits in order can be reached, and each step on the way is allowed.
    #[test]
    fn limits_are_sent_in_an_allowed_order() {
        for run in 2..100 {
            for cull in 1..run {
                for stop in 0..cull {
                    let mut config = CacheConfig::new("/x");
                    config.blocks = Levels { run, cull, stop };
                    let mut limits = Limits::default();
                    for line in config.commands() {
                        if let Command::Limit {
                            resource,
                            bound,
                            percent,
                        } = parse(&line).unwrap()
                        {
                            limits.set(resource, bound, percent).unwrap();
                        }
                    }
                    assert_eq!(limits.of(Resource::Blocks), config.blocks);
                    assert_eq!(limits.of(Resource::Files), Levels::default());
                }
            }
        }
    }

    #[test]
    fn limits_out_of_order_are_sent_for_the_kernel_to_refuse() {
        let mut config = CacheConfig::new("/x");
        config.files.stop = 50;
        assert_eq!(
            config.commands(),
            [b"dir /x".to_vec(), b"fstop 50%".to_vec()]
        );
    }

    #[test]
    fn all_settings_in_order() {
        let config = CacheConfig {
            dir: "/var/cache/a b ".into(),
            tag: Some("mine".into()),
            secctx: Some("u:r:t".into()),
            ..CacheConfig::new("")
        };
        assert_eq!(
            config.commands(),
            [
                b"dir /var/cache/a b ".to_vec(),
                b"tag mine".to_vec(),
                b"secctx u:r:t".to_vec()
            ]
        );
    }
}
