// SPDX-License-Identifier: GPL-2.0

//! A netfs that does with its one file what it is told: the module of `netfs_caller/`.
//!
//! Lives here: loading it, and its commands.  Never here: what must come of them.

use crate::{kernel::remove_module, lab::Lab};
use anyhow::{Context, Result};
use rustix::system::finit_module;
use std::{ffi::CStr, fs, io, ops::Range};

const CONTROL: &str = "/sys/kernel/debug/netfs_caller";

/// How long its file is.
pub const SIZE: u64 = 1 << 20;

/// The module, which has one cookie, for a file of [`SIZE`]; dropping it gives the cookie back.
pub struct Caller;

/// What the module answers.
fn answer() -> io::Result<[u64; 3]> {
    let answer = fs::read_to_string(CONTROL)?;
    let words = answer.split_whitespace().flat_map(str::parse);
    let words: Vec<u64> = words.collect();
    <[u64; 3]>::try_from(words).map_err(|_| io::Error::other(answer))
}

impl Caller {
    /// Loads it; it uses its file, to write.
    pub fn load(lab: &Lab) -> Result<Caller> {
        Caller::load_with(lab, c"")
    }

    /// Loads it; it does not use its file yet.
    pub fn load_idle(lab: &Lab) -> Result<Caller> {
        Caller::load_with(lab, c"idle=1")
    }

    /// Loads it; it uses its file, to read: what is not stored then is missing, and no more.
    pub fn load_reader(lab: &Lab) -> Result<Caller> {
        let caller = Caller::load_idle(lab)?;
        caller.command("use")?;
        Ok(caller)
    }

    fn load_with(lab: &Lab, parameters: &CStr) -> Result<Caller> {
        let path = lab.caller()?;
        let file = fs::File::open(&path)?;
        finit_module(file, parameters, 0).with_context(|| format!("loading {}", path.display()))?;
        Ok(Caller)
    }

    /// Gives it a command of one word.
    pub fn command(&self, word: &str) -> io::Result<()> {
        fs::write(CONTROL, word)
    }

    fn say(&self, verb: &str, range: Range<u64>) -> io::Result<()> {
        let len = range.end - range.start;
        fs::write(CONTROL, format!("{verb} {} {len}", range.start))
    }

    /// Stores where there is nothing.
    pub fn write(&self, range: Range<u64>) -> io::Result<()> {
        self.say("write", range)
    }

    /// Stores where there may be something.
    pub fn rewrite(&self, range: Range<u64>) -> io::Result<()> {
        self.say("rewrite", range)
    }

    /// Reads what was stored.
    pub fn read(&self, range: Range<u64>) -> io::Result<()> {
        self.say("read", range)
    }

    /// Says that nothing that is stored is right any more.
    pub fn invalidate(&self) -> io::Result<()> {
        self.command("invalidate")
    }

    /// Reads in the operation that was begun; how much that was.
    pub fn read_on(&self, range: Range<u64>) -> io::Result<u64> {
        self.say("read-on", range)?;
        answer().map(|[_, len, _]| len)
    }

    /// Asks where the operation that was begun is to read from; whether from the server, and the cache
    /// is to store it.
    pub fn is_to_be_stored(&self, range: Range<u64>) -> io::Result<bool> {
        self.say("ask", range)?;
        answer().map(|[_, copy, _]| copy == 1)
    }

    /// Asks something about a range, which a range answers.
    fn ask(&self, verb: &str, range: &Range<u64>, more: u64) -> io::Result<Range<u64>> {
        let len = range.end - range.start;
        fs::write(CONTROL, format!("{verb} {} {len} {more}", range.start))?;
        let [start, len, _] = answer()?;
        Ok(start..start + len)
    }

    /// Nanoseconds that the cache took for the last write or read.
    pub fn spent(&self) -> io::Result<u64> {
        answer().map(|[_, _, spent]| spent)
    }

    /// Where the first data is.
    pub fn occupancy(&self, range: &Range<u64>, granularity: u64) -> io::Result<Range<u64>> {
        self.ask("occupancy", range, granularity)
    }

    /// What would be written, at most `upper` bytes, of what is to be rewritten.
    pub fn prepare(&self, range: &Range<u64>, upper: u64) -> io::Result<Range<u64>> {
        self.ask("prepare", range, upper)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Err(error) = remove_module(c"netfs_caller") {
            crate::lab::cleanup_failed(&format!("unloading netfs_caller: {error}"));
        }
    }
}
