// SPDX-License-Identifier: GPL-2.0

//! What every case starts with: where things are, which module is tested, a cache to work in.
//!
//! Lives here: the fixture, and the check that a case left nothing behind.  Never here: a test.

use crate::{
    backing::Backing,
    daemon::{Blobs, Daemon},
    kernel,
    kernel::Module,
    ktap::Skip,
    patience::SOON,
    protocol::open_device,
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{CacheConfig, Device};
use rustix::{
    mount::{unmount, UnmountFlags},
    process::{kill_process, Pid, Signal},
};
use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

static CLEANUP_FAILURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remembers that a clean-up failed, which makes the case fail.
pub fn cleanup_failed(what: &str) {
    if let Ok(mut failures) = CLEANUP_FAILURES.lock() {
        failures.push(what.to_owned());
    }
}

/// Where all mounts of the tests are.
const BASE: &str = "/run/cachefiles-selftests";

/// What a case knows about its surroundings.
pub struct Lab {
    base: PathBuf,
    module: PathBuf,
    is_peer: bool,
}

impl Lab {
    /// Reads the surroundings from the environment.
    pub fn new() -> Result<Lab> {
        let base = PathBuf::from(BASE);
        fs::create_dir_all(&base)?;
        let module = env::var_os("CACHEFILES_MODULE").filter(|path| !path.is_empty());
        Ok(Lab {
            base,
            module: module
                .context("CACHEFILES_MODULE does not say which module to test")?
                .into(),
            is_peer: env::var_os("CACHEFILES_PEER").is_some_and(|peer| !peer.is_empty()),
        })
    }

    /// Says whether anything went wrong in cleaning up.
    pub fn close(self) -> Result<()> {
        let failures = CLEANUP_FAILURES.lock().map(|failures| failures.join("; "));
        match failures {
            Ok(failures) if failures.is_empty() => Ok(()),
            Ok(failures) => bail!("left behind: {failures}"),
            Err(_) => bail!("a thread panicked while cleaning up"),
        }
    }

    /// A directory for the tests' mounts and files.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The module under test.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// Leaves the case out on C's module, which would bring the kernel down.
    pub fn spare_the_peer(&self, why: &str) -> Result<()> {
        match self.is_peer() {
            true => Err(Skip(why.to_owned()).into()),
            false => Ok(()),
        }
    }

    /// Whether the module under test is C's.  A case that asks says in a comment what C does
    /// otherwise, and why.
    pub fn is_peer(&self) -> bool {
        self.is_peer
    }

    /// C's module of the same kernel.
    pub fn peer_module(&self) -> Result<PathBuf> {
        self.other_module("CACHEFILES_PEER_MODULE")
    }

    /// Our module, also when C's is under test.
    pub fn our_module(&self) -> Result<PathBuf> {
        self.other_module("CACHEFILES_OUR_MODULE")
    }

    /// What is so with our module, or with C's.
    pub fn with_ours<T>(&self, ours: T, peers: T) -> T {
        match self.is_peer {
            false => ours,
            true => peers,
        }
    }

    /// The module that calls a cache's operations as a netfs does.
    pub fn caller(&self) -> Result<PathBuf> {
        self.other_module("CACHEFILES_CALLER")
    }

    fn other_module(&self, variable: &str) -> Result<PathBuf> {
        match env::var_os(variable).map(PathBuf::from) {
            Some(path) if path.exists() => Ok(path),
            _ => Err(Skip(format!("there is no module at {variable}")).into()),
        }
    }

    /// The directory of the images that scripts/check has built.
    pub fn images(&self) -> Result<PathBuf> {
        let dir = env::var_os("CACHEFILES_IMAGES").context("CACHEFILES_IMAGES is not set")?;
        Ok(dir.into())
    }

    /// The disk that outlives a boot, and takes no memory of the guest's.
    pub fn disk(&self) -> Result<String> {
        match env::var("CACHEFILES_DISK") {
            Ok(disk) if !disk.is_empty() => Ok(disk),
            _ => Err(Skip("CACHEFILES_DISK names no disk".to_owned()).into()),
        }
    }

    /// The module loaded and a cache directory on a fresh file system, ext4 if none was named.
    pub fn cache(&self) -> Result<Cache> {
        self.cache_of(256)
    }

    /// The same with one of this size, or of the least that it can have.
    pub fn cache_of(&self, mib: u64) -> Result<Cache> {
        let fs = Backing::fresh(&self.base, 0, mib)?;
        let module = Module::load(&self.module)?;
        Ok(Cache { module, fs })
    }
}

/// Waits for what happens soon but not at once.
pub fn eventually(what: &str, mut happened: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + *SOON;
    while !happened() {
        ensure!(Instant::now() < deadline, "not after {:?}: {what}", *SOON);
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The device, as soon as the session before has ended, with a cache in this directory set up.
pub fn free_device(dir: &Path) -> Result<Device> {
    let mut device = None;
    eventually("the device is free", || {
        device = open_device().ok();
        device.is_some()
    })?;
    let device = device.context("no device")?;
    device.configure(&CacheConfig::new(dir))?;
    Ok(device)
}

/// The module loaded, and a file system to have a cache on.
pub struct Cache {
    /// The module; it goes first, as nothing may hold the file system afterwards.
    pub module: Module,
    /// The file system.
    pub fs: Backing,
}

impl Cache {
    /// The cache's directory.
    pub fn dir(&self) -> &Path {
        self.fs.dir()
    }

    /// Binds the cache, and serves these blobs.
    pub fn serve(&self, blobs: Blobs) -> Result<Daemon> {
        Daemon::start(self.dir(), blobs)
    }
}

/// What a case may have left behind.
#[derive(Default)]
pub struct Leftovers {
    module: bool,
    mounts: BTreeSet<PathBuf>,
    loops: BTreeSet<String>,
    processes: BTreeSet<i32>,
    /// Pieces that the module has asked for and not given back.
    memory: u64,
}

impl Leftovers {
    /// What there is now.
    pub fn now() -> Leftovers {
        Leftovers {
            module: kernel::is_loaded(),
            mounts: mounts(),
            loops: loops(),
            processes: processes(),
            memory: kernel::allocations(kernel::RUST).unwrap_or_default(),
        }
    }

    /// Removes what was not there before, and says what it was.
    pub fn clean_up(&self, before: &Leftovers) -> Vec<String> {
        let mut found = Vec::new();
        for pid in self.processes.difference(&before.processes) {
            found.push(format!("left the process {pid} behind"));
            if let Some(pid) = Pid::from_raw(*pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        for dir in self
            .mounts
            .difference(&before.mounts)
            .collect::<Vec<_>>()
            .iter()
            .rev()
        {
            found.push(format!("left {} mounted", dir.display()));
            let _ = unmount(dir.as_path(), UnmountFlags::DETACH);
        }
        for name in self.loops.difference(&before.loops) {
            found.push(format!("left {name} attached"));
            let _ = kernel::run("losetup", &["-d", &format!("/dev/{name}")]);
        }
        if self.module && !before.module {
            found.push("left the module loaded".to_owned());
            if let Err(error) = kernel::try_unload() {
                found.push(format!("and it cannot be unloaded: {error}"));
            }
        }
        let more = self.memory.saturating_sub(before.memory);
        if more > 0 && !self.module {
            found.push(format!("left {more} pieces of memory allocated"));
        }
        found
    }
}

fn mounts() -> BTreeSet<PathBuf> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|dir| dir.starts_with(BASE))
        .map(PathBuf::from)
        .collect()
}

fn loops() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().join("loop/backing_file").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The processes that run this program or the daemon, but for this one, and those that a case has
/// started, which become this one's children when the case has ended.
fn processes() -> BTreeSet<i32> {
    let Ok(own) = fs::read_link("/proc/self/exe") else {
        return BTreeSet::new();
    };
    let daemon = env::var_os("CACHEFILES_DAEMON").map(PathBuf::from);
    let is_ours = |exe: PathBuf| exe == own || Some(exe) == daemon;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        // What has ended, and not been waited for, has no program.
        .filter_map(|(pid, dir)| Some((pid, fs::read_link(dir.join("exe")).ok()?, dir)))
        .filter(|(pid, _, _)| u32::try_from(*pid) != Ok(process::id()))
        .filter_map(|(pid, exe, dir)| (is_ours(exe) || is_child(&dir)).then_some(pid))
        .collect()
}

/// Whether the process of this directory of /proc is a child of this one.
fn is_child(dir: &Path) -> bool {
    let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
    // The program's name, in parentheses, may have anything in it.
    let parent = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
    parent == Some(process::id())
}
