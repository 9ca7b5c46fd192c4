// SPDX-License-Identifier: GPL-2.0

//! A limit of this process, lowered for a while.
//!
//! Lives here: lowering it, and putting it back.  Never here: a limit of the whole system.

use anyhow::Result;
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

/// The limit is lower while this lives.
pub struct Lowered {
    resource: Resource,
    before: Rlimit,
}

impl Lowered {
    /// To this, from now on.
    pub fn to(resource: Resource, most: u64) -> Result<Lowered> {
        let before = getrlimit(resource);
        let lower = Rlimit {
            current: Some(most),
            ..before
        };
        setrlimit(resource, lower)?;
        Ok(Lowered { resource, before })
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        if let Err(error) = setrlimit(self.resource, self.before) {
            crate::lab::cleanup_failed(&format!("{:?}: {error}", self.resource));
        }
    }
}
