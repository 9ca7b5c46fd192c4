// SPDX-License-Identifier: GPL-2.0

//! The ordinary mode's daemon, which is Debian's, and what FS-Cache counts.
//!
//! Lives here: starting it on a cache, stopping it, and /proc/fs/fscache.  Never here: a client.

use crate::{kernel::run, lab::eventually};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{CacheConfig, Device};
use rustix::process::{kill_process, Pid, Signal};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Whether the kernel has what cachefilesd watches its directories with.
pub fn has_dnotify() -> bool {
    Path::new("/proc/sys/fs/dir-notify-enable").exists()
}

/// The ordinary mode's daemon over a cache; dropping it ends it.
pub struct Keeper(Option<Kept>);

enum Kept {
    /// Debian's, with its stock configuration.
    Cachefilesd(Child, PathBuf),
    /// The device, bound, with nobody to cull.
    Device(Device),
}

impl Keeper {
    /// Starts Debian's cachefilesd over the cache in `dir`, and waits until the cache is bound.
    /// Where the kernel lacks what it needs, the cache is bound without anybody to cull.
    pub fn start(dir: &Path) -> Result<Keeper> {
        if has_dnotify() {
            Keeper::cachefilesd(dir)
        } else {
            Keeper::plain(dir)
        }
    }

    /// Binds the cache, and does nothing else.
    pub fn plain(dir: &Path) -> Result<Keeper> {
        let device = Device::open()?;
        device.configure(&CacheConfig::new(dir))?;
        device.command(b"bind")?;
        Ok(Keeper(Some(Kept::Device(device))))
    }

    /// Starts Debian's cachefilesd, whose heap has to be where it is without randomisation: version
    /// 0.10.10 takes every sixteenth random address for one that it has freed, and aborts.
    pub fn cachefilesd(dir: &Path) -> Result<Keeper> {
        let stock = fs::read_to_string("/etc/cachefilesd.conf")?;
        let lines = stock.lines().map(|line| match line.strip_prefix("dir ") {
            Some(_) => format!("dir {}\n", dir.display()),
            None => format!("{line}\n"),
        });
        let config = PathBuf::from(format!("/run/cachefilesd-{}.conf", std::process::id()));
        fs::write(&config, lines.collect::<String>())?;
        let child = Command::new("setarch")
            .args(["--addr-no-randomize", "cachefilesd", "-n", "-s", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cachefilesd")?;
        let keeper = Keeper(Some(Kept::Cachefilesd(child, config)));
        eventually("cachefilesd has bound the cache", is_bound)?;
        Ok(keeper)
    }

    /// Ends it, and waits until the cache is gone.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Kills it, and waits until the cache is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        match self.0.take() {
            None => return Ok(()),
            Some(Kept::Device(device)) => drop(device),
            Some(Kept::Cachefilesd(mut child, config)) => {
                fs::remove_file(&config)?;
                if let Some(status) = child.try_wait()? {
                    bail!("cachefilesd has ended by itself: {status}");
                }
                kill_process(Pid::from_child(&child), signal)?;
                let status = child.wait()?;
                ensure!(
                    status.code() == Some(0) || status.signal() == Some(signal.as_raw()),
                    "cachefilesd, sent {signal:?}: {status}"
                );
            }
        }
        eventually("the cache is withdrawn", || !is_bound())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            crate::lab::cleanup_failed(&format!("{error:#}"));
        }
    }
}

/// Whether there is a cache that FS-Cache uses.
pub fn is_bound() -> bool {
    Known::all().is_ok_and(|caches| caches.iter().any(Known::is_active))
}

/// A cache that FS-Cache knows: a line of /proc/fs/fscache/caches.
#[derive(Debug)]
pub struct Known {
    /// Volumes in it.
    pub volumes: u32,
    /// Objects that the cache has in memory.
    pub objects: u32,
    /// What is done with it: a letter.
    state: String,
    /// Its tag.
    pub name: String,
}

impl Known {
    /// Each of them.
    pub fn all() -> Result<Vec<Known>> {
        let text = fs::read_to_string("/proc/fs/fscache/caches")?;
        let lines = text.lines().skip(2);
        let caches = lines.map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, _, volumes, objects, _, state, name] = words.as_slice() else {
                return None;
            };
            Some(Known {
                volumes: volumes.parse().ok()?,
                objects: objects.parse().ok()?,
                state: state.to_string(),
                name: name.to_string(),
            })
        });
        caches
            .collect::<Option<_>>()
            .with_context(|| format!("not understood: {text}"))
    }

    /// The objects of all caches.
    pub fn objects() -> Result<u32> {
        Ok(Known::all()?.iter().map(|cache| cache.objects).sum())
    }

    /// Whether it serves.
    pub fn is_active(&self) -> bool {
        self.state == "A"
    }
}

/// A cookie: a line of /proc/fs/fscache/cookies.
#[derive(Clone, Copy, Debug)]
pub struct CookieLine {
    /// Who uses it.
    pub users: u32,
    /// What is done with it: a letter.
    pub state: char,
}

impl CookieLine {
    /// Each of them.
    pub fn all() -> Result<Vec<CookieLine>> {
        let text = fs::read_to_string("/proc/fs/fscache/cookies")?;
        let cookies = text.lines().skip(2).map(|line| {
            let mut words = line.split_whitespace().skip(3);
            Some(CookieLine {
                users: words.next()?.parse().ok()?,
                state: words.nth(1)?.parse().ok()?,
            })
        });
        cookies
            .collect::<Option<_>>()
            .with_context(|| format!("not understood: {text}"))
    }

    /// Whether nothing is being done with it: it is quiescent, active or has failed.
    pub fn rests(&self) -> bool {
        "-AF".contains(self.state)
    }
}

/// The counters of /proc/fs/fscache/stats.
#[derive(Clone, Debug)]
pub struct Counters(BTreeMap<String, i64>);

impl Counters {
    /// What they are now.
    pub fn now() -> Result<Counters> {
        let text = fs::read_to_string("/proc/fs/fscache/stats")?;
        let mut counters = BTreeMap::new();
        for (line, values) in text.lines().filter_map(|line| line.split_once(':')) {
            for (name, value) in values.split_whitespace().filter_map(|v| v.split_once('=')) {
                if let Ok(value) = value.parse() {
                    counters.insert(format!("{}.{name}", line.trim()), value);
                }
            }
        }
        Ok(Counters(counters))
    }

    /// One of them, as `IO.rd`.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// By how much each has grown since; those that have not are left out.
    pub fn since(&self, before: &Counters) -> Counters {
        let grown = self
            .0
            .iter()
            .map(|(name, value)| (name.clone(), value - before.get(name)))
            .filter(|(_, growth)| *growth != 0);
        Counters(grown.collect())
    }

    /// Those that are not the same in both, with both values, less those whose names begin so.
    pub fn differences(&self, other: &Counters, without: &[&str]) -> Vec<(String, i64, i64)> {
        let mut names: Vec<&String> = self.0.keys().chain(other.0.keys()).collect();
        names.sort();
        names.dedup();
        let pairs = names
            .into_iter()
            .filter(|name| !without.iter().any(|start| name.starts_with(start)))
            .map(|name| (name.clone(), self.get(name), other.get(name)));
        pairs.filter(|(_, here, there)| here != there).collect()
    }
}

/// Waits until what has been read or written is in the cache.  Some netfs store what they have read
/// when dirty pages are written back.
pub fn settle() -> Result<()> {
    rustix::fs::sync();
    eventually("netfs has no request any more", || {
        Counters::now().is_ok_and(|now| now.get("Objs.rr") == 0)
    })
}

/// Waits until FS-Cache is done with what has become of its cookies: lookup, invalidation and so on.
/// A worker does these, and with the size that the file has by then.
pub fn at_rest() -> Result<()> {
    eventually("no cookie is being worked on", || {
        CookieLine::all().is_ok_and(|cookies| cookies.iter().all(CookieLine::rests))
    })
}

/// Waits until no cache has an object, so that its files have their names: FS-Cache's threads look up and
/// commit.
pub fn nothing_in_use() -> Result<()> {
    at_rest()?;
    eventually("no file of a cache is in use", || {
        Known::objects().is_ok_and(|objects| objects == 0)
    })
}

/// Waits until no cache has a volume, which lets go of its directories after its last cookie is gone.
pub fn no_volumes() -> Result<()> {
    eventually("no cache has a volume", || {
        Known::all().is_ok_and(|caches| caches.iter().all(|cache| cache.volumes == 0))
    })
}

/// Takes the pages of files out of memory, but leaves the inodes.
pub fn drop_pages() -> Result<()> {
    rustix::fs::sync();
    run("sysctl", &["-q", "vm.drop_caches=1"]).map(|_| ())
}
