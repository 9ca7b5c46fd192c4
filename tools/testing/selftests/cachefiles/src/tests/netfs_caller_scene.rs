// SPDX-License-Identifier: GPL-2.0

//! What the cases share whose netfs is a module of ours: a cache on a disk that can be held.

use crate::{
    backing::Backing,
    cachefilesd::{CookieLine, Counters, Keeper},
    caller::Caller,
    claim::cache_files,
    disk::Disk,
    kernel::Module,
    lab::{eventually, Lab},
    stage::expect_error,
    trace::traced,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Errno;
use std::{io, path::Path, thread};

/// A kilobyte.
pub const K: u64 = 1 << 10;

/// There must be nothing in the first 64 KiB.
pub fn has_nothing(caller: &Caller) -> Result<()> {
    let got = caller.occupancy(&(0..64 * K), 4 * K);
    expect_error(got, Errno::NODATA, "what there is")
}

/// What a cache on a disk that can be held has for the caller.
pub struct Scene<'a> {
    /// The netfs.
    pub caller: Option<Caller>,
    /// The cache.
    pub keeper: Keeper,
    _module: Module,
    /// The file system that it is on.
    pub fs: Backing,
    /// The disk below.
    pub disk: Disk,
    /// The surroundings.
    pub lab: &'a Lab,
}

impl Scene<'_> {
    /// Sets it.
    pub fn new(lab: &Lab) -> Result<Scene<'_>> {
        let disk = Disk::new("cachefiles-held", 64)?;
        let fs = disk.format_and_mount(lab.base())?;
        let module = Module::load(lab.module())?;
        let keeper = Keeper::plain(fs.dir())?;
        Ok(Scene {
            caller: Some(Caller::load(lab)?),
            keeper,
            _module: module,
            fs,
            disk,
            lab,
        })
    }

    /// The netfs.
    pub fn caller(&self) -> Result<&Caller> {
        self.caller.as_ref().context("no caller")
    }

    /// The netfs goes and comes back, by which the file gets its name.
    pub fn named(&mut self) -> Result<()> {
        self.caller = None;
        let named = |dir: &Path| cache_files(dir).len() == 1;
        eventually("the file has a name", || named(self.fs.dir()))?;
        self.caller = Some(Caller::load(self.lab)?);
        Ok(())
    }

    /// Invalidates the file while `work` is at the disk, which moves this counter; what `work` says.
    pub fn invalidated_under(
        &self,
        counter: &str,
        work: impl FnOnce(&Caller) -> io::Result<()> + Send,
    ) -> Result<io::Result<()>> {
        let caller = self.caller()?;
        let before = Counters::now()?;
        let held = self.disk.hold()?;
        thread::scope(|scope| {
            let worker = scope.spawn(|| work(caller));
            let begun = eventually("the disk is asked", || {
                Counters::now().is_ok_and(|now| now.since(&before).get(counter) > 0)
            });
            let said = begun.and_then(|()| Ok(caller.invalidate()?));
            drop(held);
            let got = worker.join().ok().context("the thread panicked");
            said.and(got)
        })
    }

    /// The old file is gone, and what is stored from now on is in another one.
    pub fn begins_anew(&self) -> Result<()> {
        let caller = self.caller()?;
        has_nothing(caller)?;
        eventually("the old file is gone", || {
            cache_files(self.fs.dir()).is_empty()
        })?;
        caller.write(0..8 * K)?;
        caller.read(0..8 * K)?;
        let got = caller.occupancy(&(0..64 * K), 4 * K)?;
        ensure!(got == (0..8 * K), "{got:?} of a new file with two blocks");
        Ok(())
    }

    /// Does this to a file that has no name yet, and to one that has.
    pub fn with_both(&mut self, case: impl Fn(&Self) -> Result<()>) -> Result<()> {
        for named in [false, true] {
            self.caller()?.rewrite(0..64 * K)?;
            if named {
                self.named()?;
            }
            self.caller()?.read(0..64 * K)?;
            let trace = traced(|| case(self))?.join("\n");
            for (event, wanted) in [("tmpfile", true), ("unlink", named)] {
                let seen = trace.contains(&format!("cachefiles_{event}: "));
                ensure!(
                    seen == wanted,
                    "named: {named}; {event} in the trace: {seen}:\n{trace}"
                );
            }
        }
        Ok(())
    }
}

/// Waits until the only cookie is in this state.
pub fn cookie_becomes(state: char) -> Result<()> {
    let mut seen = Ok(vec![]);
    eventually("the state", || {
        seen = CookieLine::all();
        seen.as_ref()
            .is_ok_and(|cookies| cookies.iter().any(|cookie| cookie.state == state))
    })
    .with_context(|| format!("the cookie shall be in state {state}: {seen:?}"))
}
