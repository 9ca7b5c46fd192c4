// SPDX-License-Identifier: GPL-2.0

//! Writing to files through memory: what xfs_io maps, it writes for us, so that no code here has to
//! be unsafe.
//!
//! Lives here: the process and its commands.  Never here: what must come of them.

use anyhow::{ensure, Context, Result};
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStderr, ChildStdin, Command, Stdio},
};

/// A process with a file mapped, shared and writable; dropping it kills it.
pub struct Mapping {
    child: Child,
    // Nothing once the process has been told to end.
    commands: Option<ChildStdin>,
    errors: BufReader<ChildStderr>,
}

impl Mapping {
    /// Maps the first `len` bytes of a file.
    pub fn new(path: &Path, len: usize) -> Result<Mapping> {
        let mut child = Command::new("xfs_io")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("xfs_io")?;
        let commands = child.stdin.take();
        let errors = child.stderr.take().context("xfs_io has no stderr")?;
        let mut mapping = Mapping {
            child,
            commands,
            errors: BufReader::new(errors),
        };
        mapping.say(&format!("mmap -rw 0 {len}"))?;
        Ok(mapping)
    }

    /// Fills a part of it with a byte.
    pub fn fill(&mut self, byte: u8, at: usize, len: usize) -> Result<()> {
        self.say(&format!("mwrite -S {byte} {at} {len}"))
    }

    /// msync(2), which waits.
    pub fn sync(&mut self) -> Result<()> {
        self.say("msync -s")
    }

    /// Has it end, unmapping and closing the file on its way out.
    pub fn close(&mut self) -> Result<()> {
        drop(self.commands.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "xfs_io: {status}");
        Ok(())
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Gives it a command and waits until it has done it: what it says on stderr, at once, is an error
    /// or that it does not know the word that follows.
    fn say(&mut self, command: &str) -> Result<()> {
        const WORD: &str = "did-it";
        let commands = self.commands.as_mut().context("xfs_io has ended")?;
        commands.write_all(format!("{command}\n{WORD}\n").as_bytes())?;
        commands.flush()?;
        let mut line = String::new();
        self.errors.read_line(&mut line)?;
        ensure!(line.contains(WORD), "xfs_io: {command}: {line}");
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
