// SPDX-License-Identifier: GPL-2.0

//! Culling: making room in the cache when the kernel says that space is short.
//!
//! Lives here: the thread that waits for it, how much one pass removes, and the graveyard.  Never
//! here: which files are the oldest, or requests, which this thread must not keep waiting.
//!
//! The kernel reports POLLOUT when less than `bcull` or `fcull` is free, until it looks again and
//! finds more than `brun` and `frun`.  It looks when something is written to the cache; so POLLOUT
//! can outlast the shortage, and how much is free is asked of the file system too.  What is removed
//! is unlinked by the kernel (`cull`), which refuses what is in use.  `cull` and `inuse` take a name
//! in the working directory: the thread has a working directory of its own.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cachefiles_client::protocol::command::Verb;
use cachefiles_client::{CacheConfig, Device};
use nix::sched::{unshare, CloneFlags};
use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{inotify, StatVfs};
use rustix::io::Errno;
use tracing::{debug, error, info, warn};

use crate::name::Printable;
use crate::stats::Stats;
use crate::victims::{Kernel, Survey};

/// How many files one pass remembers.
const MOST: usize = 1024;

/// How long no pass follows another at first.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The pause doubles up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The thread that culls.
pub struct Culler {
    control: Arc<Control>,
    thread: JoinHandle<()>,
}

/// What others tell it.
struct Control {
    /// Readable when there is something to look at.
    wake: OwnedFd,
    stop: AtomicBool,
}

impl Control {
    fn wake(&self) {
        // It can only fail when it has been written to 2^64 times and is readable anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Culler {
    /// Starts it over a cache that is bound.
    pub fn start(device: Arc<Device>, config: &CacheConfig, stats: Arc<Stats>) -> Result<Self> {
        let control = Arc::new(Control {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stop: AtomicBool::new(false),
        });
        let graveyard = config.dir.join("graveyard");
        let graves = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&graves, &graveyard, inotify::WatchFlags::MOVED_TO)
            .with_context(|| format!("cannot watch {}", graveyard.display()))?;
        let work = Work {
            kernel: Commands(device),
            cache: config.dir.join("cache"),
            graveyard,
            run: Run {
                files: config.files.run,
                blocks: config.blocks.run,
            },
            stats,
            control: Arc::clone(&control),
        };
        let thread =
            thread::Builder::new()
                .name("cull".to_owned())
                .spawn(move || match unshare(CloneFlags::CLONE_FS) {
                    Ok(()) => work.run(&graves),
                    Err(error) => error!(%error, "no culling: no working directory for a thread"),
                })?;
        Ok(Self { control, thread })
    }

    /// An object is closed: its file may soon be culled.
    pub fn released(&self) {
        self.control.wake();
    }

    /// Ends it.
    pub fn finish(self) {
        self.control.stop.store(true, Ordering::Relaxed);
        self.control.wake();
        if self.thread.join().is_err() {
            error!("the thread that culls had panicked");
        }
    }
}

/// The kernel's commands, for a thread with a working directory of its own.
struct Commands(Arc<Device>);

impl Commands {
    fn command(&self, verb: Verb, dir: &Path, name: &OsStr) -> io::Result<bool> {
        match std::env::set_current_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        }
        let line = [verb.to_string().as_bytes(), b" ", name.as_bytes()].concat();
        match self.0.command(&line) {
            Ok(()) => Ok(true),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::BUSY | Errno::NOENT | Errno::STALE) => Ok(false),
                _ => Err(error),
            },
        }
    }
}

impl Kernel for Commands {
    fn may_cull(&self, dir: &Path, name: &OsStr) -> io::Result<bool> {
        self.command(Verb::InUse, dir, name)
    }

    fn cull(&self, dir: &Path, name: &OsStr) -> io::Result<bool> {
        self.command(Verb::Cull, dir, name)
    }
}

/// What is to be freed, or was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    bytes: u64,
    files: u64,
}

/// The limits at which culling ceases, in per cent.
#[derive(Clone, Copy, Debug)]
struct Run {
    blocks: u64,
    files: u64,
}

impl Run {
    /// What is missing up to the limits, which the kernel rounds like this.
    fn missing(self, space: &StatVfs) -> Amount {
        let blocks = (space.f_blocks / 100).saturating_mul(self.blocks);
        let files = (space.f_files / 100).saturating_mul(self.files);
        Amount {
            bytes: blocks.saturating_sub(space.f_bavail) * space.f_frsize,
            files: files.saturating_sub(space.f_ffree),
        }
    }
}

impl Amount {
    /// Whether this makes up for what is missing.
    fn covers(&self, missing: &Self) -> bool {
        self.bytes >= missing.bytes && self.files >= missing.files
    }
}

/// What one pass has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    files: u64,
    bytes: u64,
    volumes: u64,
    graves: u64,
}

impl Done {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The thread's own.
struct Work<K> {
    kernel: K,
    cache: PathBuf,
    graveyard: PathBuf,
    run: Run,
    stats: Arc<Stats>,
    control: Arc<Control>,
}

impl Work<Commands> {
    /// Culls whenever the kernel asks for it, until it is told to stop.
    fn run(&self, graves: &OwnedFd) {
        let (mut pause, mut told) = (None::<Pause>, false);
        loop {
            self.empty_graveyard();
            // What was culled last is not kept by being our working directory.
            let _ = std::env::set_current_dir("/");
            let released = match self.wait(graves, pause) {
                Ok(released) => released,
                Err(error) => return error!(%error, "no more culling: cannot wait for the kernel"),
            };
            if self.control.is_stopping() {
                return;
            }
            if let Some(pause) = &mut pause {
                if released {
                    pause.shorten();
                }
                if !pause.left().is_zero() {
                    continue;
                }
            }
            if !self.is_asked().unwrap_or(false) {
                (pause, told) = (None, false);
                continue;
            }
            pause = match self.make_room() {
                Ok(Outcome::Progress) => {
                    told = false;
                    Some(Pause::after(None))
                }
                Ok(Outcome::Enough) => Some(Pause::after(pause)),
                Ok(Outcome::AllInUse) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!("space is short, and nothing can be culled: all files are in use");
                    }
                    Some(Pause::after(pause))
                }
                Err(error) => {
                    self.stats.cull_errors.add(1);
                    if !std::mem::replace(&mut told, true) {
                        error!(%error, "cannot cull");
                    }
                    Some(Pause::after(pause))
                }
            };
        }
    }

    /// One pass, if anything is missing.
    fn make_room(&self) -> io::Result<Outcome> {
        let missing = self.run.missing(&rustix::fs::statvfs(&self.cache)?);
        if Amount::default().covers(&missing) {
            return Ok(Outcome::Enough);
        }
        if self.pass(&missing)?.is_nothing() {
            return Ok(Outcome::AllInUse);
        }
        self.settle();
        Ok(Outcome::Progress)
    }

    /// Waits for something to do; says whether an object was closed.  Within a pause the device is
    /// not waited for.
    fn wait(&self, graves: &OwnedFd, pause: Option<Pause>) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(&self.control.wake, PollFlags::IN),
            PollFd::new(graves, PollFlags::IN),
            PollFd::new(&*self.kernel.0, PollFlags::OUT),
        ];
        let left = pause.and_then(|pause| Timespec::try_from(pause.left()).ok());
        let polled = match left {
            Some(left) => poll(&mut fds[..2], Some(&left)),
            None => poll(&mut fds, None),
        };
        match polled {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ignored = [0; 4096];
        while rustix::io::read(graves, &mut ignored).is_ok_and(|len| len > 0) {}
        Ok(rustix::io::read(&self.control.wake, &mut [0; 8]).is_ok())
    }

    /// Whether the kernel asks for culling.
    fn is_asked(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&*self.kernel.0, PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec::default()))?;
        Ok(fds[0].revents().contains(PollFlags::OUT))
    }

    /// Waits until what was removed is free: some file systems free it later.
    fn settle(&self) {
        let synced = rustix::fs::open(
            &self.cache,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .and_then(|cache| rustix::fs::syncfs(cache.as_fd()));
        if let Err(error) = synced {
            debug!(%error, "the cache's file system cannot be synced");
        }
    }
}

impl<K: Kernel> Work<K> {
    /// Removes volumes that have no file, and then the oldest files, until that makes up for what is
    /// missing.
    fn pass(&self, missing: &Amount) -> io::Result<Done> {
        let stop = || self.control.is_stopping();
        let survey = Survey::of(&self.cache, &self.kernel, MOST, &stop)?;
        let mut done = Done::default();
        for volume in survey.empty_volumes {
            if stop() {
                return Ok(done);
            }
            done.volumes += u64::from(self.kernel.cull(&self.cache, &volume)?);
        }
        if done.volumes > 0 {
            done.graves = self.empty_graveyard();
        }
        let mut freed = Amount::default();
        for victim in survey.oldest.into_sorted() {
            if freed.covers(missing) || stop() {
                break;
            }
            if self.kernel.cull(&victim.dir, &victim.name)? {
                debug!(dir = %victim.dir.display(), name = %Printable(victim.name.as_bytes()), "CULL");
                freed.files += 1;
                freed.bytes += victim.bytes;
            }
        }
        (done.files, done.bytes) = (freed.files, freed.bytes);
        self.stats.culled_files.add(done.files);
        self.stats.culled_bytes.add(done.bytes);
        self.stats.culled_volumes.add(done.volumes);
        if !done.is_nothing() {
            let Done {
                files,
                bytes,
                volumes,
                ..
            } = done;
            info!(files, bytes, volumes, "culled");
        }
        Ok(done)
    }

    /// Deletes what the kernel has moved to the graveyard; says how many directories there were.
    fn empty_graveyard(&self) -> u64 {
        let mut graves = 0;
        let emptied = fs::read_dir(&self.graveyard).and_then(|entries| {
            for entry in entries {
                if self.control.is_stopping() {
                    break;
                }
                self.remove(&entry?)?;
                graves += 1;
            }
            Ok(())
        });
        if let Err(error) = emptied {
            self.stats.cull_errors.add(1);
            warn!(dir = %self.graveyard.display(), %error, "cannot empty the graveyard");
        }
        if graves > 0 {
            self.stats.graves.add(graves);
            debug!(graves, "graveyard emptied");
        }
        graves
    }

    /// Deletes a file, or a directory with all that is in it; stops on the way if it has to.
    fn remove(&self, entry: &fs::DirEntry) -> io::Result<()> {
        if !entry.file_type()?.is_dir() {
            return fs::remove_file(entry.path());
        }
        for below in fs::read_dir(entry.path())? {
            if self.control.is_stopping() {
                return Ok(());
            }
            self.remove(&below?)?;
        }
        fs::remove_dir(entry.path())
    }
}

/// What came of being asked for room.
enum Outcome {
    /// Something was removed.
    Progress,
    /// There is enough; the kernel has not looked again.
    Enough,
    /// There is nothing to remove.
    AllInUse,
}

/// A time without looking at the device, which reports POLLOUT all the while.
#[derive(Clone, Copy, Debug)]
struct Pause {
    length: Duration,
    until: Instant,
}

impl Pause {
    /// The one that follows this one.
    fn after(last: Option<Pause>) -> Pause {
        let length = last.map_or(FIRST_PAUSE, |last| (2 * last.length).min(LONGEST_PAUSE));
        let until = Instant::now() + length;
        Pause { length, until }
    }

    /// Something may be different soon.
    fn shorten(&mut self) {
        self.length = FIRST_PAUSE;
        self.until = self.until.min(Instant::now() + FIRST_PAUSE);
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::victims::tests::{file, FakeKernel};

    fn work(dir: &Path, kernel: FakeKernel) -> Work<FakeKernel> {
        fs::create_dir_all(dir.join("graveyard")).unwrap();
        Work {
            kernel,
            cache: dir.join("cache"),
            graveyard: dir.join("graveyard"),
            run: Run {
                blocks: 7,
                files: 7,
            },
            stats: Arc::default(),
            control: Arc::new(Control {
                wake: eventfd(0, EventfdFlags::NONBLOCK).unwrap(),
                stop: AtomicBool::new(false),
            }),
        }
    }

    /// Bytes missing, and files.
    fn missing(bytes: u64, files: u64) -> Amount {
        Amount { bytes, files }
    }

    #[test]
    fn a_pass_frees_what_is_missing_and_no_more() {
        let tmp = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..6)
            .map(|age| file(tmp.path(), "Ia", &format!("D{age}"), 100_000, age))
            .collect();
        let work = work(tmp.path(), FakeKernel::default());
        let done = work.pass(&missing(150_000, 0)).unwrap();
        assert_eq!(done.files, 2);
        assert!(done.bytes >= 150_000);
        let left: Vec<_> = paths.iter().map(|path| path.exists()).collect();
        assert_eq!(left, [false, false, true, true, true, true]);
        assert_eq!(work.pass(&missing(0, 3)).unwrap().files, 3);
        assert_eq!(work.stats.culled_files.get(), 5);
    }

    #[test]
    fn what_is_in_use_stays_and_then_there_is_nothing_to_do() {
        let tmp = tempfile::tempdir().unwrap();
        let busy = file(tmp.path(), "Ia", "Dbusy", 100_000, 1);
        let idle = file(tmp.path(), "Ia", "Didle", 100_000, 2);
        let kernel = FakeKernel {
            in_use: ["Dbusy".into(), "Ia".into()].into(),
            ..FakeKernel::default()
        };
        let work = work(tmp.path(), kernel);
        assert_eq!(work.pass(&missing(1 << 30, 9)).unwrap().files, 1);
        assert!(busy.exists() && !idle.exists());
        assert!(work.pass(&missing(1 << 30, 9)).unwrap().is_nothing());
    }

    #[test]
    fn an_empty_volume_goes_and_so_does_its_grave() {
        let tmp = tempfile::tempdir().unwrap();
        let path = file(tmp.path(), "Ia", "D", 1, 1);
        let other = file(tmp.path(), "Ib", "D", 1, 1);
        fs::remove_file(path).unwrap();
        let work = work(tmp.path(), FakeKernel::default());
        let done = work.pass(&missing(0, 0)).unwrap();
        assert_eq!((done.volumes, done.graves, done.files), (1, 1, 0));
        assert!(other.exists() && !tmp.path().join("cache/Ia").exists());
        assert_eq!(fs::read_dir(&work.graveyard).unwrap().count(), 0);
        assert_eq!(work.stats.graves.get(), 1);
    }

    #[test]
    fn the_graveyard_is_emptied_to_the_last_file() {
        let tmp = tempfile::tempdir().unwrap();
        let work = work(tmp.path(), FakeKernel::default());
        fs::create_dir_all(work.graveyard.join("1/@00/deep")).unwrap();
        fs::write(work.graveyard.join("1/@00/deep/D"), "x").unwrap();
        fs::write(work.graveyard.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(tmp.path(), work.graveyard.join("link")).unwrap();
        assert_eq!(work.empty_graveyard(), 3);
        assert_eq!(fs::read_dir(&work.graveyard).unwrap().count(), 0);
        assert_eq!(work.stats.cull_errors.get(), 0);
        fs::remove_dir(&work.graveyard).unwrap();
        work.empty_graveyard();
        assert_eq!(work.stats.cull_errors.get(), 1);
    }

    #[test]
    fn what_is_missing_is_reckoned_as_the_kernel_does() {
        let mut space = rustix::fs::statvfs("/").unwrap();
        (space.f_frsize, space.f_blocks, space.f_files) = (4096, 1099, 250);
        (space.f_bavail, space.f_ffree) = (60, 30);
        let run = Run {
            blocks: 7,
            files: 7,
        };
        // 7 per cent of 10 blocks each, of 2 files each.
        assert_eq!(run.missing(&space), missing(10 * 4096, 0));
        (space.f_bavail, space.f_ffree) = (70, 13);
        assert_eq!(run.missing(&space), missing(0, 1));
        assert!(missing(0, 1).covers(&missing(0, 1)));
        assert!(!missing(1 << 40, 0).covers(&missing(0, 1)));
    }

    #[test]
    fn pauses_grow_and_an_object_closed_cuts_them_short() {
        let mut pause = Pause::after(None);
        for _ in 0..9 {
            pause = Pause::after(Some(pause));
        }
        assert_eq!(pause.length, LONGEST_PAUSE);
        pause.shorten();
        assert!(pause.left() <= FIRST_PAUSE);
    }
}
