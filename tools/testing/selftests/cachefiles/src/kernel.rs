// SPDX-License-Identifier: GPL-2.0

//! The kernel under test: its modules, its log, its memory.
//!
//! Lives here: what is read from /proc and /dev/kmsg, and module loading.  Never here: the device.

use crate::patience::SOON;
use anyhow::{bail, Context, Result};
use rustix::{
    fs::{Mode, OFlags, SeekFrom},
    io::Errno,
    system::finit_module,
};
use std::{
    ffi::CStr,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} {}: {}: {}",
            args.join(" "),
            output.status,
            stderr.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The name of the module under test, ours and C's alike.
pub const NAME: &CStr = c"cachefiles";

/// A loaded cachefiles module; dropping it unloads it.
pub struct Module {
    path: PathBuf,
    loaded: bool,
}

impl Module {
    /// Loads the module with these parameters.
    pub fn load_with(path: &Path, parameters: &CStr) -> Result<Module> {
        if !Path::new("/sys/module/netfs").exists() || !Path::new("/sys/module/erofs").exists() {
            run("modprobe", &["-a", "netfs", "erofs"])?;
        }
        let file = fs::File::open(path).with_context(|| format!("no module {}", path.display()))?;
        finit_module(file, parameters, 0).with_context(|| format!("loading {}", path.display()))?;
        Ok(Module {
            path: path.to_owned(),
            loaded: true,
        })
    }

    /// Loads the module.
    pub fn load(path: &Path) -> Result<Module> {
        Module::load_with(path, c"")
    }

    /// Unloads the module.  A process that is just exiting may hold it for a moment.
    pub fn unload(&mut self) -> Result<()> {
        let deadline = Instant::now() + *SOON;
        loop {
            match try_unload() {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("unloading the module ({} references)", references())
                    });
                }
            }
        }
        self.loaded = false;
        Ok(())
    }

    /// Unloads the module and loads it again.
    pub fn reload(&mut self) -> Result<()> {
        self.unload()?;
        *self = Module::load(&self.path)?;
        Ok(())
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.loaded {
            if let Err(error) = self.unload() {
                crate::lab::cleanup_failed(&format!("{error:#}"));
            }
        }
    }
}

/// One try to unload the module; EWOULDBLOCK while it is in use.
pub fn try_unload() -> Result<(), Errno> {
    remove_module(NAME)
}

/// One try to unload a module.
pub fn remove_module(name: &CStr) -> Result<(), Errno> {
    rustix::system::delete_module(name, libc::O_NONBLOCK)
}

/// Whether the module is loaded.
pub fn is_loaded() -> bool {
    Path::new("/sys/module/cachefiles").exists()
}

/// How many references hold the module.
fn references() -> String {
    fs::read_to_string("/sys/module/cachefiles/refcnt")
        .map_or_else(|error| error.to_string(), |count| count.trim().to_owned())
}

/// The kernel log from a moment on.
pub struct Kmsg {
    fd: OwnedFd,
}

impl Kmsg {
    /// Starts listening.
    pub fn from_now() -> Result<Kmsg> {
        let fd = rustix::fs::open(
            "/dev/kmsg",
            OFlags::RDONLY | OFlags::NONBLOCK,
            Mode::empty(),
        )?;
        rustix::fs::seek(&fd, SeekFrom::End(0))?;
        Ok(Kmsg { fd })
    }

    /// What the module logged since, without its prefix, in small letters.
    pub fn of_module(&self) -> Result<Vec<String>> {
        let lines = self.lines()?.into_iter().map(|line| line.to_lowercase());
        Ok(lines
            .filter_map(|line| line.strip_prefix("cachefiles: ").map(str::to_owned))
            .collect())
    }

    /// What was logged since and a healthy kernel never says.  scripts/vm is the judge, at the
    /// end; this is for those who must not go on.
    pub fn splats(&self) -> Result<Vec<String>> {
        const SIGNS: [&str; 7] = [
            "WARNING:",
            "BUG:",
            "Oops",
            "KASAN",
            "refcount_t:",
            "blocked for more than",
            "rust_kernel: panicked",
        ];
        let is_splat = |line: &String| SIGNS.iter().any(|sign| line.contains(sign));
        Ok(self.lines()?.into_iter().filter(is_splat).collect())
    }

    /// What was logged since.
    fn lines(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match rustix::io::read(&self.fd, &mut record) {
                Ok(len) => {
                    let text = String::from_utf8_lossy(record.get(..len).unwrap_or(&record));
                    let text = text.lines().next().unwrap_or_default();
                    lines.push(
                        text.split_once(';')
                            .map_or(text, |(_, text)| text)
                            .to_owned(),
                    );
                }
                Err(Errno::AGAIN) => return Ok(lines),
                // Records were overwritten before we read them.
                Err(Errno::PIPE) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }
}

/// A number from /proc/meminfo, in KiB.
pub fn meminfo(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no {field} in /proc/meminfo"))
}

/// The active objects of the slab caches whose name starts so.
pub fn slab_objects(prefix: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/slabinfo")?;
    Ok(text
        .lines()
        .filter(|line| line.starts_with(prefix))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum())
}

/// From now on the kernel counts, by the line of its source that asked, what memory is asked for
/// and not given back; or no longer.  Not every kernel can.
pub fn count_allocations(on: bool) {
    // A kernel that cannot has no such file, or does not take it.
    let _ = fs::write("/proc/sys/vm/mem_profiling", if on { "1" } else { "0" });
}

/// How many pieces of memory lines of the kernel's source, in files whose path holds this, have asked
/// for and not given back.  `None` if that is not counted.
pub fn allocations(part: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/allocinfo").ok()?;
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let (_bytes, pieces, path) = (words.next()?, words.next()?, words.next()?);
        pieces.parse::<u64>().ok().filter(|_| path.contains(part))
    };
    Some(text.lines().filter_map(of_line).sum())
}

/// Where Rust code asks for memory, in each module; no other one than ours is in Rust.
pub const RUST: &str = "rust/helpers/";

/// Has the kernel give back what memory it can.
pub fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop_caches")
}

/// Has the slab allocator give back what nobody uses, so that objects can be counted.
pub fn shrink_slabs() -> Result<()> {
    for entry in fs::read_dir("/sys/kernel/slab")? {
        let _ = fs::write(entry?.path().join("shrink"), "1");
    }
    Ok(())
}
