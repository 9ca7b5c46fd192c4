// SPDX-License-Identifier: GPL-2.0

//! What is done with files through memory: xfs_io and python map them for us, so that no code here has
//! to be unsafe.
//!
//! Lives here: the processes and their commands.  Never here: what must come of them.

use crate::kernel::run;
use anyhow::{ensure, Context, Result};
use cachefiles_client::ObjectFd;
use std::{
    io::{BufRead, BufReader, Write},
    ops::Range,
    os::fd::AsFd,
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

/// Writes what it maps of a file, from where, so much, to the same place on its standard output, with
/// no file being longer than that.
const MAP_AND_WRITE: &str = "
import mmap, os, resource, sys
at, size, limit = map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
with open(sys.argv[1], 'rb') as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
mapped.madvise(mmap.MADV_RANDOM)
sys.exit(os.pwrite(1, memoryview(mapped)[at:at + size], at) != size)
";

/// Has a process do that with a file of an image and the fd of a blob.
pub fn map_and_write(file: &Path, fd: &ObjectFd, range: Range<u64>, limit: u64) -> Result<Child> {
    Command::new("python3")
        .args(["-I", "-c", MAP_AND_WRITE])
        .arg(file)
        .args([range.start, range.end - range.start, limit].map(|number| number.to_string()))
        .stdout(Stdio::from(fd.as_fd().try_clone_to_owned()?))
        .spawn()
        .context("python3")
}

/// Maps a page of a file, from where, and has it evicted from the page cache.
const EVICT: &str = "
import mmap, sys
at, page = int(sys.argv[2]), 4096
with open(sys.argv[1], 'rb') as file:
    mapped = mmap.mmap(file.fileno(), page, prot=mmap.PROT_READ, offset=at)
mapped[0]
MADV_PAGEOUT = 21
mapped.madvise(MADV_PAGEOUT)
";

/// Has the kernel evict the page of a file that is at this place.
pub fn evict(path: &Path, at: u64) -> Result<()> {
    let (path, at) = (path.to_string_lossy(), at.to_string());
    run("python3", &["-I", "-c", EVICT, &path, &at]).map(drop)
}
