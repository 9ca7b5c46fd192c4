// SPDX-License-Identifier: GPL-2.0

//! The processes that a test needs beside itself: readers that may be killed, daemons that die,
//! a user without privileges.
//!
//! Lives here: their few verbs, and how a test starts one.  Never here: an expectation.

use crate::{
    blob::{self, Blob},
    daemon::{Blobs, Daemon, Manner},
    farm, power_cut,
    protocol::spoken,
    raw::errno,
    tree::{self, Kind},
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{
    protocol::message::{decode, Body, Layout},
    Device, Errno, MSG_MAX,
};
use rustix::{
    fs::{fadvise, Advice},
    net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, IoSliceMut, Read},
    mem::{self, MaybeUninit},
    os::unix::{fs::FileExt, net::UnixStream},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
        Arc,
    },
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

    /// Ends its stdin, for a helper that goes on until then.
    pub fn hang_up(&mut self) {
        self.child.stdin = None;
    }

    /// SIGKILL, and not waited for.
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// Its number, for as long as it lives.
    pub fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.child.id())?)
    }

    /// Hands on each line that it says from now on, with a number that tells it from others.
    pub fn forward(&mut self, number: usize, to: Sender<(usize, String)>) {
        let nothing: Box<dyn Read + Send> = Box::new(io::empty());
        let output = mem::replace(&mut self.output, BufReader::new(nothing));
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if to.send((number, line)).is_err() {
                    break;
                }
            }
        });
    }

    /// All that it says until its end.
    pub fn rest(mut self) -> Result<Vec<String>> {
        Ok(self.output.by_ref().lines().collect::<Result<_, _>>()?)
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
        ("read-pattern", [file, pattern, seed]) => read_pattern(file, pattern, seed),
        ("power-cut", [disk, seed, boot]) => power_cut::run(disk, seed, boot),
        ("open-device", []) => open_device(),
        ("take-over", [images, kind]) => take_over(images, kind),
        ("successor", [socket, images, kind, manner]) => successor(socket, images, kind, manner),
        ("relay", []) => relay(),
        ("farm", [cache, seed]) => farm::run(cache, seed),
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

/// Reads ranges at random of a file that is a pattern and compares them, until its stdin ends;
/// says how many.
fn read_pattern(file: &str, pattern: &str, seed: &str) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed.parse()?);
    let pattern = pattern.parse()?;
    let file = File::open(file)?;
    let size = file.metadata()?.len();
    // Nothing is read that was not asked for: so most reads are misses for long.
    fadvise(&file, 0, None, Advice::Random)?;
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::SeqCst);
    });
    println!("ready");
    let mut count = 0;
    while !over.load(Ordering::SeqCst) {
        let offset = random.u64(..size);
        let len = usize::try_from((size - offset).min(random.u64(1..8_000)))?;
        let (mut want, mut got) = (vec![0; len], vec![0; len]);
        blob::pattern(pattern, offset, &mut want);
        file.read_exact_at(&mut got, offset)
            .with_context(|| format!("{len} bytes at {offset}"))?;
        ensure!(want == got, "{len} bytes at {offset}: wrong data");
        count += 1;
    }
    println!("ok {count}");
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
    let blobs = some_blobs(Path::new(images), tree::kind(kind)?, manner)?;
    tell_all(&Daemon::start(Path::new(cache), blobs)?)
}

/// The blobs of an image, of which those that the manner names are left unanswered.
fn some_blobs(images: &Path, kind: &Kind, manner: &str) -> Result<Blobs> {
    let blobs = tree::blobs(images, kind)?;
    let (name, manner) = match manner {
        "ignore-blob" => (format!("{}.blob", kind.name), Manner::ManualReads),
        "ignore-opens" => (kind.name.to_owned(), Manner::Manual),
        _ => return Ok(blobs),
    };
    let blob = Blob::file(&images.join(&name))?;
    Ok(blobs.with_manner(&name, blob, manner))
}

/// Gets a device over a socket, takes over, and serves until it is killed.  Says what it leaves
/// unanswered.
fn successor(socket: &str, images: &str, kind: &str, manner: &str) -> Result<()> {
    let socket = UnixStream::connect(socket)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    recvmsg(&socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let device = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .context("no fd came over the socket")?;
    let device = Device::from(device).with_layout(spoken());
    device.restore()?;
    let blobs = some_blobs(Path::new(images), tree::kind(kind)?, manner)?;
    tell_all(&Daemon::over(device, blobs)?)
}

/// Says what a daemon leaves unanswered, until killed.
fn tell_all(daemon: &Daemon) -> Result<()> {
    println!("ready");
    loop {
        // Only SIGKILL ends this.
        if let Ok(event) = daemon.event() {
            println!("{event:?}");
        }
    }
}

/// Reads requests from the device on stdin and says what they are, for somebody else to answer.
/// The fds that come with them stay open.
fn relay() -> Result<()> {
    let device = Device::from(rustix::io::dup(io::stdin())?);
    println!("ready");
    let mut buf = [0; MSG_MAX];
    loop {
        device.wait(None)?;
        // Another process may have been faster.
        let len = device.read_bytes(&mut buf)?;
        let Some(bytes) = buf.get(..len).filter(|bytes| !bytes.is_empty()) else {
            continue;
        };
        let message = decode(bytes, Layout::Mainline).ok().context("no message")?;
        let (id, object) = (message.id, message.object_id);
        match message.body {
            Body::Open { cookie_key, fd, .. } => {
                let key = String::from_utf8_lossy(cookie_key);
                println!("open {id} {object} {fd} {key}");
            }
            Body::Read { offset, len, .. } => println!("read {id} {object} {offset} {len}"),
            Body::Close { .. } => println!("close {id} {object}"),
        }
    }
}

/// Serves an image over the device on stdin, which another process has bound, until killed.
fn take_over(images: &str, kind: &str) -> Result<()> {
    let device = Device::from(rustix::io::dup(io::stdin())?).with_layout(spoken());
    device.restore()?;
    let daemon = Daemon::over(device, tree::blobs(Path::new(images), tree::kind(kind)?)?)?;
    println!("ready");
    loop {
        // Only SIGKILL ends this.
        let _ = daemon.event();
    }
}
