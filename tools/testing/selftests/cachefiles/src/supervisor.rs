// SPDX-License-Identifier: GPL-2.0

//! The real daemon, `ondemandd`, under a supervisor that keeps the device for it as systemd does.
//!
//! Lives here: starting and killing it, systemd's protocol (`NOTIFY_SOCKET` with `FDSTORE=1`, then
//! `LISTEN_FDS`), and what the daemon's log says, as events.  Never here: an expectation.

use crate::{lab::Lab, patience::patiently, protocol::spoken};
use anyhow::{bail, ensure, Context, Result};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::{dup, Errno},
    net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
    process::{kill_process, Pid, Signal},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    env, fs, io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixDatagram, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a daemon that has something to do may be silent.
const SILENCE: Duration = Duration::from_secs(20);

/// How the kept device is handed to the next daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// As systemd does, for `--keep-device`.
    Store,
    /// By its number, with `--device-fd 3 --restore`.
    Number,
    /// As systemd does, but under this name, which is not the device's.
    Misnamed,
    /// As systemd does, but for another process.
    Misdirected,
}

/// What a daemon does, as its log and its notifications tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has told the supervisor that it is ready.
    Ready,
    /// It has bound a cache.
    Bound,
    /// It has taken a bound cache over.
    TakenOver,
    /// It has read an OPEN with this id.
    AskedOpen(u32),
    /// It has read a READ with this id.
    AskedRead(u32),
    /// It has answered an OPEN.
    Opened,
    /// It has written the data of a READ, and is about to answer it.
    Served,
    /// It has written so many bytes that nobody asked for.
    Prefetched(u64),
    /// It has prefetched all that it will of `blob`.
    PrefetchEnded,
    /// It has said something else.
    Said,
    /// It has ended.
    Ended,
}

/// What all daemons of a supervisor have done together.
#[derive(Default)]
pub struct Tally {
    /// How often a daemon was killed.
    pub kills: u32,
    /// OPENs read from the device.
    pub opens: u64,
    /// OPENs answered.
    pub opened: u64,
    /// READs read from the device.
    pub reads: u64,
    /// READs whose data were written.
    pub served: u64,
    /// Requests that more than one daemon has read.
    pub again: u64,
    /// READs that a daemon had read but whose data it had not written when it was killed.
    pub cut_short: u64,
    /// Bytes prefetched.
    pub prefetched: u64,
    /// Lines that say that something is wrong.
    pub complaints: Vec<String>,
    /// Every request read so far.
    known: BTreeSet<u32>,
}

/// A daemon's life.
struct Life {
    child: Child,
    log: OwnedFd,
    /// Of the log what is no whole line yet.
    rest: Vec<u8>,
    events: VecDeque<Event>,
    ended: bool,
    /// READs that it has read and not served yet.
    under_way: u64,
}

/// A supervisor; dropping it kills the daemon and gives up the device.
pub struct Supervisor {
    program: PathBuf,
    options: Vec<String>,
    socket: UnixDatagram,
    path: PathBuf,
    stored: Option<OwnedFd>,
    life: Option<Life>,
    last_lines: VecDeque<String>,
    /// What has happened so far.
    pub tally: Tally,
}

/// The device comes as stdin and is to be number 3; which process it is for, only that process
/// knows.
const RUN: &str = r#"exec 3<&0 </dev/null; export LISTEN_PID="${LISTEN_PID:-$$}"; exec "$@""#;

impl Supervisor {
    /// A supervisor of nothing yet; its daemons get these options.
    pub fn new(lab: &Lab, cache: &Path, blobs: &Path, options: &[&str]) -> Result<Supervisor> {
        let program = env::var_os("CACHEFILES_DAEMON").context("CACHEFILES_DAEMON is not set")?;
        let path = lab.base().join(format!("notify-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).context("making the notification socket")?;
        socket.set_nonblocking(true)?;
        let (cache, blobs) = (cache.display().to_string(), blobs.display().to_string());
        let protocol = spoken().name();
        let mut all = vec!["--dir", &cache, "--blobs", &blobs, "--log", "debug"];
        all.extend(["--protocol", protocol]);
        all.extend(options);
        Ok(Supervisor {
            program: program.into(),
            options: all.into_iter().map(String::from).collect(),
            socket,
            path,
            stored: None,
            life: None,
            last_lines: VecDeque::new(),
            tally: Tally::default(),
        })
    }

    /// Starts a daemon, and hands it the device if there is one.
    pub fn start(&mut self, hand: Hand) -> Result<()> {
        self.start_under(&[], hand)
    }

    /// The same under another program that starts it, as strace.
    pub fn start_under(&mut self, wrapper: &[&str], hand: Hand) -> Result<()> {
        ensure!(self.life.is_none(), "the daemon runs already");
        let mut words = wrapper.to_vec();
        words.extend(["sh", "-c", RUN, "sh"]);
        let (first, words) = words.split_first().context("no program")?;
        let mut command = Command::new(first);
        command.args(words).arg(&self.program).args(&self.options);
        command.env("NOTIFY_SOCKET", &self.path);
        for name in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        if hand == Hand::Number {
            command.args(["--device-fd", "3", "--restore"]);
        } else {
            command.arg("--keep-device");
        }
        if let Some(device) = &self.stored {
            command.stdin(Stdio::from(dup(device)?));
            if hand != Hand::Number {
                command.env("LISTEN_FDS", "1");
                let misnamed = hand == Hand::Misnamed;
                let name = if misnamed { "socket" } else { "cachefiles" };
                command.env("LISTEN_FDNAMES", name);
            }
            if hand == Hand::Misdirected {
                command.env("LISTEN_PID", std::process::id().to_string());
            }
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting the daemon")?;
        let log = child.stderr.take().context("the daemon has no log")?;
        self.life = Some(Life {
            child,
            log: log.into(),
            rest: Vec::new(),
            events: VecDeque::new(),
            ended: false,
            under_way: 0,
        });
        Ok(())
    }

    /// The device, if a daemon has left it here.
    pub fn stored(&self) -> Option<&OwnedFd> {
        self.stored.as_ref()
    }

    /// The next thing that the daemon does.
    pub fn event(&mut self) -> Result<Event> {
        let deadline = Instant::now() + patiently(SILENCE);
        loop {
            let life = self.life.as_mut().context("no daemon runs")?;
            if let Some(event) = life.events.pop_front() {
                return Ok(event);
            }
            if life.ended {
                return Ok(Event::Ended);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left)?;
            let mut fds = [
                PollFd::new(&life.log, PollFlags::IN),
                PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => bail!("the daemon says nothing; at last it said:\n{}", self.last()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [log, news] = fds.map(|fd| !fd.revents().is_empty());
            if news {
                self.take_news()?;
            }
            if log {
                self.take_log()?;
            }
        }
    }

    /// Takes what the daemon says while `job` is at work: a daemon whose log nobody reads stands still
    /// before long.
    pub fn attend<T>(&mut self, job: JoinHandle<Result<T>>) -> Result<T> {
        while !job.is_finished() {
            let Some(life) = self.life.as_mut().filter(|life| !life.ended) else {
                break;
            };
            life.events.clear();
            let soon = Timespec::try_from(Duration::from_millis(20))?;
            let mut fds = [PollFd::new(&life.log, PollFlags::IN)];
            match poll(&mut fds, Some(&soon)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => self.take_log()?,
                Err(error) => return Err(error.into()),
            }
        }
        job.join().ok().context("a thread panicked")?
    }

    /// Waits until it does this.
    pub fn until(&mut self, mut wanted: impl FnMut(&Event) -> bool) -> Result<Event> {
        loop {
            match self.event()? {
                event if wanted(&event) => return Ok(event),
                Event::Ended => bail!("the daemon has ended; at last it said:\n{}", self.last()),
                _ => {}
            }
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.life
            .as_mut()
            .context("no daemon runs")?
            .child
            .kill()
            .context("killing the daemon")?;
        let status = self.wait()?;
        ensure!(
            self.was_killed(status),
            "the daemon had ended by itself, with {status}; at last it said:\n{}",
            self.last()
        );
        Ok(())
    }

    /// SIGTERM, and its end must be a good one.
    pub fn stop(&mut self) -> Result<()> {
        let life = self.life.as_ref().context("no daemon runs")?;
        let pid = i32::try_from(life.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no pid")?, Signal::TERM)?;
        let status = self.wait()?;
        ensure!(
            status.success(),
            "the daemon ended with {status}; at last it said:\n{}",
            self.last()
        );
        Ok(())
    }

    /// Waits for the daemon's end, and takes what it said until then.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            let life = self.life.as_mut().context("no daemon runs")?;
            life.events.clear();
            if life.ended {
                break;
            }
            self.event()?;
        }
        let mut life = self.life.take().context("no daemon runs")?;
        let status = life.child.wait()?;
        if self.was_killed(status) {
            self.tally.kills += 1;
            self.tally.cut_short += life.under_way;
        }
        // What it told before it died is old news for the next.
        self.take_news()?;
        Ok(status)
    }

    /// Whether this is the end that SIGKILL makes.
    pub fn was_killed(&self, status: ExitStatus) -> bool {
        status.signal() == Some(Signal::KILL.as_raw())
    }

    /// The end of the log.
    pub fn last(&self) -> String {
        Vec::from_iter(self.last_lines.iter().map(String::as_str)).join("\n")
    }

    /// Takes notifications, with what they bring.
    fn take_news(&mut self) -> Result<()> {
        let mut text = [0; 4096];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let into = &mut [io::IoSliceMut::new(&mut text)];
            let len = match recvmsg(&self.socket, into, &mut control, flags) {
                Ok(message) => message.bytes,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error).context("reading a notification"),
            };
            let mut fds: Vec<OwnedFd> = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    fds.extend(received);
                }
            }
            let text = String::from_utf8_lossy(text.get(..len).unwrap_or(&text)).into_owned();
            let words: BTreeMap<&str, &str> = text
                .lines()
                .filter_map(|line| line.split_once('='))
                .collect();
            if words.get("FDSTORE") == Some(&"1") {
                let name = words.get("FDNAME");
                ensure!(name == Some(&"cachefiles"), "an fd was stored as {name:?}");
                ensure!(fds.len() == 1, "{} fds were stored at once", fds.len());
                ensure!(self.stored.is_none(), "a second fd was stored");
                self.stored = fds.pop();
            }
            ensure!(fds.is_empty(), "fds came with {text:?}");
            if words.get("READY") == Some(&"1") {
                if let Some(life) = &mut self.life {
                    life.events.push_back(Event::Ready);
                }
            }
        }
    }

    /// Takes what the log has for us.
    fn take_log(&mut self) -> Result<()> {
        let life = self.life.as_mut().context("no daemon runs")?;
        let mut bytes = [0; 8192];
        match rustix::io::read(&life.log, &mut bytes) {
            Ok(0) => life.ended = true,
            Ok(len) => life.rest.extend(bytes.iter().take(len)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("reading the daemon's log"),
        }
        while let Some(end) = life.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = life.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let event = event_of(&line);
            match event {
                Event::AskedOpen(_) => self.tally.opens += 1,
                Event::Opened => self.tally.opened += 1,
                Event::AskedRead(_) => {
                    self.tally.reads += 1;
                    life.under_way += 1;
                }
                Event::Served => {
                    self.tally.served += 1;
                    life.under_way = life.under_way.saturating_sub(1);
                }
                Event::Prefetched(more) => self.tally.prefetched += more,
                _ => {}
            }
            if let Event::AskedOpen(id) | Event::AskedRead(id) = event {
                self.tally.again += u64::from(!self.tally.known.insert(id));
            }
            if [" WARN ", "ERROR "]
                .iter()
                .any(|level| line.contains(level))
            {
                self.tally.complaints.push(line.clone());
            }
            life.events.push_back(event);
            self.last_lines.push_back(line);
            if self.last_lines.len() > 12 {
                self.last_lines.pop_front();
            }
        }
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(life) = &mut self.life {
            let _ = life.child.kill();
            let _ = life.child.wait();
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// What a line of the log tells.
fn event_of(line: &str) -> Event {
    let number = |name: &str| {
        let after = line.split_once(&format!(" {name}="))?.1;
        after.split(' ').next()?.parse::<u64>().ok()
    };
    let id = || {
        number("msg_id")
            .and_then(|id| u32::try_from(id).ok())
            .unwrap_or(0)
    };
    // The text comes behind the time and the level.
    let mut words = line.split_whitespace().skip(2);
    match (words.next(), words.next(), words.next()) {
        (Some("asked"), Some("to"), Some("OPEN")) => Event::AskedOpen(id()),
        (Some("asked"), Some("to"), Some("READ")) => Event::AskedRead(id()),
        (Some("OPEN"), Some(next), _) if next.contains('=') => Event::Opened,
        (Some("READ"), Some(next), _) if next.contains('=') => Event::Served,
        (Some("prefetched"), Some(r#"blob="blob""#), _) => Event::PrefetchEnded,
        (Some("PREFETCH"), ..) => Event::Prefetched(number("bytes").unwrap_or(0)),
        (Some("cache"), Some("bound"), _) => Event::Bound,
        (Some("cache"), Some("taken"), Some("over")) => Event::TakenOver,
        _ => Event::Said,
    }
}
