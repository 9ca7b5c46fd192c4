// SPDX-License-Identifier: GPL-2.0

//! The processes that a test needs beside itself: readers that may be killed, daemons that die,
//! a user without privileges.
//!
//! Lives here: their few verbs, and how a test starts one.  Never here: an expectation.

use crate::{
    blob::Blob,
    daemon::{Blobs, Daemon, Manner},
    raw::errno,
    tree,
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{Device, Errno};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};
use walkdir::WalkDir;

/// A helper process; dropping it kills it.
pub struct Helper {
    child: Child,
    output: BufReader<Box<dyn Read + Send>>,
}

impl Helper {
    /// Starts a helper with its verb and operands.
    pub fn start(args: &[&str]) -> Result<Helper> {
        Helper::start_with(Command::new("/proc/self/exe"), args)
    }

    /// Starts a helper through another program that runs it, like setpriv.
    pub fn start_with(mut command: Command, args: &[&str]) -> Result<Helper> {
        command.stdin(Stdio::null());
        Helper::start_as_is(command, args)
    }

    /// Starts a helper with what the caller has given it as its stdin.
    pub fn start_as_is(mut command: Command, args: &[&str]) -> Result<Helper> {
        let mut child = command
            .arg("helper")
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a helper")?;
        let stdout = child.stdout.take().context("the helper has no output")?;
        Ok(Helper {
            child,
            output: BufReader::new(Box::new(stdout)),
        })
    }

    /// Its next line.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Waits for it to say that it is ready.
    pub fn ready(mut self) -> Result<Helper> {
        let line = self.line()?;
        ensure!(line == "ready", "the helper said {line:?} instead of ready");
        Ok(self)
    }

    /// SIGKILL, and not waited for.
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// Waits for its end; its last line.
    pub fn finish(mut self, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("a helper did not end within {within:?}");
            }
            thread::sleep(Duration::from_millis(2));
        }
        let mut last = String::new();
        for line in self.output.by_ref().lines() {
            last = line?;
        }
        Ok(last)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does what a helper is started for.
pub fn run(verb: &str, operands: &[&str]) -> ExitCode {
    let result = match (verb, operands) {
        ("images", [dir]) => tree::make(Path::new(dir)),
        ("read", [file, offset, len]) => read(file, offset, len),
        ("read-random", [dir, images, seed, count]) => read_random(dir, images, seed, count),
        ("open-device", []) => open_device(),
        ("take-over", [images, kind]) => take_over(images, kind),
        ("daemon", [cache, images, kind, manner]) => daemon(cache, images, kind, manner),
        _ => Err(anyhow::anyhow!("no helper {verb} {operands:?}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How an error is told to the test.
fn name(error: Option<Errno>) -> String {
    error.map_or_else(|| "no errno".to_owned(), errno_name)
}

/// How a helper says this error.
pub fn errno_name(error: Errno) -> String {
    format!("errno {}", error.raw_os_error())
}

/// Reads one range; says `ok` or the error's name.
fn read(file: &str, offset: &str, len: &str) -> Result<()> {
    let file = File::open(file)?;
    let mut buf = vec![0; len.parse()?];
    println!("ready");
    match file.read_exact_at(&mut buf, offset.parse()?) {
        Ok(()) => println!("ok"),
        Err(error) => println!("{}", name(errno(&error))),
    }
    Ok(())
}

/// Reads ranges at random of all files in a mounted image and compares them.
fn read_random(dir: &str, images: &str, seed: &str, count: &str) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed.parse()?);
    let source = Path::new(images).join("source");
    let mut files = Vec::new();
    for entry in WalkDir::new(&source).sort_by_file_name() {
        let entry = entry?;
        let size = entry.metadata()?.len();
        if entry.file_type().is_file() && size != 0 {
            files.push((entry.path().strip_prefix(&source)?.to_owned(), size));
        }
    }
    for _ in 0..count.parse()? {
        let (file, size) = &files[random.usize(..files.len())];
        let offset = random.u64(..*size);
        let len = usize::try_from((size - offset).min(random.u64(1..40_000)))?;
        let (mut want, mut got) = (vec![0; len], vec![0; len]);
        File::open(source.join(file))?.read_exact_at(&mut want, offset)?;
        File::open(Path::new(dir).join(file))?
            .read_exact_at(&mut got, offset)
            .with_context(|| format!("{} at {offset}, {len} bytes", file.display()))?;
        ensure!(
            want == got,
            "{} at {offset}, {len} bytes: wrong data",
            file.display()
        );
    }
    println!("ok");
    Ok(())
}

/// Opens the device; says `ok` or the error's name.
fn open_device() -> Result<()> {
    match Device::open() {
        Ok(_) => println!("ok"),
        Err(error) => println!("{}", name(errno(&error))),
    }
    Ok(())
}

/// Serves an image until it is killed.  With the manner `ignore-blob` it never answers a READ of
/// the image's second blob.
fn daemon(cache: &str, images: &str, kind: &str, manner: &str) -> Result<()> {
    let images = Path::new(images);
    let kind = tree::kind(kind)?;
    let mut blobs: Blobs = tree::blobs(images, kind)?;
    if manner == "ignore-blob" {
        let name = format!("{}.blob", kind.name);
        let blob = Blob::file(&images.join(&name))?;
        blobs = blobs.with_manner(&name, blob, Manner::ManualReads);
    }
    let daemon = Daemon::start(Path::new(cache), blobs)?;
    println!("ready");
    loop {
        // Only SIGKILL ends this.
        let event = daemon.event();
        if let Ok(event) = event {
            println!("{event:?}");
        }
    }
}

/// Serves an image over the device on stdin, which another process has bound, until killed.
fn take_over(images: &str, kind: &str) -> Result<()> {
    let device = Device::from(rustix::io::dup(io::stdin())?);
    device.restore()?;
    let daemon = Daemon::over(device, tree::blobs(Path::new(images), tree::kind(kind)?)?)?;
    println!("ready");
    loop {
        // Only SIGKILL ends this.
        let _ = daemon.event();
    }
}
