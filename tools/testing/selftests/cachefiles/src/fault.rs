// SPDX-License-Identifier: GPL-2.0

//! Making one allocation fail, exactly the n-th of those that the module asks for.
//!
//! Lives here: the kernel's fault injection (lib/fault-inject.c of the kernel), set so that only
//! what has the module under test in its call chain is counted: what it asks for itself, and what
//! the file system below asks for on its behalf, in whichever thread.  Never here: which operation
//! that is done to, or what must come of it.

use crate::ktap::{in_ci, Skip};
use anyhow::{ensure, Context, Result};
use rustix::{
    fs::{access, Access},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    sync::OnceLock,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory from the slab allocator.
    Slab,
    /// Pages.
    Page,
}

impl Kind {
    /// The directory in debugfs.
    fn dir(self) -> &'static Path {
        Path::new(match self {
            Kind::Slab => "/sys/kernel/debug/failslab",
            Kind::Page => "/sys/kernel/debug/fail_page_alloc",
        })
    }
}

/// The switches that are turned while something is counted.  They are opened beforehand: opening
/// a file allocates, writing to these does not.
struct Switches {
    dir: &'static Path,
    probability: File,
    interval: File,
    space: File,
    times: File,
    task_filter: File,
    require_start: File,
    require_end: File,
}

impl Switches {
    fn open(kind: Kind) -> Result<Switches> {
        let dir = kind.dir();
        if !dir.exists() {
            return Err(Skip(format!("the kernel has no {}", dir.display())).into());
        }
        // Nearly every allocation may sleep; and the log is to stay clean.
        fs::write(dir.join("ignore-gfp-wait"), "0")?;
        fs::write(dir.join("verbose"), "0")?;
        if kind == Kind::Page {
            fs::write(dir.join("ignore-gfp-highmem"), "0")?;
            fs::write(dir.join("min-order"), "0")?;
        }
        if kind == Kind::Slab {
            count_all_but_checkers()?;
            fs::write(dir.join("cache-filter"), "1")?;
        }
        let (from, to) = bookkeeper()?;
        fs::write(dir.join("reject-start"), from)?;
        fs::write(dir.join("reject-end"), to)?;
        let open = |name: &str| {
            let path = dir.join(name);
            let file = OpenOptions::new().write(true).open(&path);
            file.with_context(|| format!("opening {}", path.display()))
        };
        Ok(Switches {
            dir,
            probability: open("probability")?,
            interval: open("interval")?,
            space: open("space")?,
            times: open("times")?,
            task_filter: open("task-filter")?,
            require_start: open("require-start")?,
            require_end: open("require-end")?,
        })
    }

    fn off(&self) -> Result<()> {
        set(&self.probability, "0")?;
        set(&self.times, "0")
    }

    /// Of which code an allocation must be, to be counted.
    fn require(&self, start: &str, end: &str) -> Result<()> {
        set(&self.require_start, start)?;
        set(&self.require_end, end)
    }

    /// Whether the one failure that was allowed is still to come.
    fn is_waiting(&self) -> Result<bool> {
        Ok(fs::read_to_string(self.dir.join("times"))?.trim() != "0")
    }
}

/// What the debug kernel asks for to keep its books of somebody's memory is not that somebody's.
const CHECKERS: [&str; 3] = [
    "kmemleak_object",
    "kmemleak_scan_area",
    "debug_objects_cache",
];

/// Has the allocations of every slab cache counted, but for those of the kernel's checkers.
fn count_all_but_checkers() -> Result<()> {
    for cache in fs::read_dir("/sys/kernel/slab")? {
        let cache = cache?;
        let counted = !CHECKERS.iter().any(|name| cache.file_name() == *name);
        let value = if counted { "1" } else { "0" };
        fs::write(cache.path().join("failslab"), value)
            .with_context(|| format!("counting {}", cache.path().display()))?;
    }
    Ok(())
}

fn set(file: &File, value: &str) -> Result<()> {
    let mut file = file;
    Ok(file.write_all(value.as_bytes())?)
}

/// One allocation that is to fail.
pub struct Fault {
    switches: Switches,
    text: (String, String),
    kind: Kind,
    number: u32,
    armed: bool,
}

impl Fault {
    /// The allocation with this number, from 1, of those of this kind.  The module must be loaded.
    pub fn new(kind: Kind, number: u32) -> Result<Fault> {
        Fault::in_module("cachefiles", kind, number)
    }

    /// The same of another module.
    pub fn in_module(name: &str, kind: Kind, number: u32) -> Result<Fault> {
        let fault = Fault {
            switches: Switches::open(kind)?,
            text: module_text(name)?,
            kind,
            number,
            armed: false,
        };
        fault.switches.off()?;
        Ok(fault)
    }

    /// Does this, and has the allocation fail when its turn comes, if it does.
    pub fn during<T>(&mut self, what: impl FnOnce() -> T) -> Result<T> {
        self.arm()?;
        self.armed = true;
        let result = what();
        // What goes on behind the operation's back may still ask: none fails from here on.  One
        // that another thread was just told of is still to be noted.
        set(&self.switches.probability, "0")?;
        Ok(result)
    }

    /// Whether it has failed.  To be asked when what could come of that has come: the kernel decides,
    /// then notes, and then the one who asked for memory goes on without.
    pub fn hit(&self) -> Result<bool> {
        Ok(self.armed && !self.switches.is_waiting()?)
    }

    fn arm(&self) -> Result<()> {
        let switches = &self.switches;
        match self.kind {
            // Pages are counted by `space`, which pages of higher order take more of.
            Kind::Page => {
                set(&switches.interval, "1")?;
                set(&switches.space, &self.number.to_string())?;
            }
            Kind::Slab => self.count_up_to_it()?,
        }
        switches.require(&self.text.0, &self.text.1)?;
        set(&switches.task_filter, "0")?;
        set(&switches.times, "1")?;
        set(&switches.probability, "100")
    }

    /// Every `interval`-th allocation fails, by a count that only goes up and that nobody can see.
    /// So this thread brings it to where it is known, and then to as many before the next failure
    /// as are wanted.
    fn count_up_to_it(&self) -> Result<()> {
        let switches = &self.switches;
        let interval = self.number.max(2).next_power_of_two();
        set(&switches.space, "0")?;
        set(&switches.interval, &interval.to_string())?;
        switches.require("0", "0xffffffffffffffff")?;
        set(&switches.task_filter, "1")?;
        fs::write("/proc/thread-self/make-it-fail", "1")?;
        set(&switches.times, "1")?;
        set(&switches.probability, "100")?;
        let failed = (0..interval).any(|_| allocate_once() == Err(Errno::NOMEM));
        let mut right = failed && !switches.is_waiting()?;
        set(&switches.times, "1")?;
        for _ in self.number..interval {
            right &= allocate_once() == Err(Errno::NOENT);
        }
        set(&switches.probability, "0")?;
        fs::write("/proc/thread-self/make-it-fail", "0")?;
        ensure!(right, "the kernel counts otherwise than thought");
        Ok(())
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if let Err(error) = self.switches.off() {
            crate::lab::cleanup_failed(&format!("fault injection: {error:#}"));
        }
    }
}

/// One allocation from the slab, for the name, which is too short to be one.
fn allocate_once() -> Result<(), Errno> {
    access("", Access::EXISTS)
}

/// Where the kernel's code begins and ends that makes room to count a slab's memory.  It has no other
/// answer to a failure than a warning, and what it asks for is nobody's.
fn bookkeeper() -> Result<(&'static str, &'static str)> {
    static FOUND: OnceLock<(String, String)> = OnceLock::new();
    let (from, to) = match FOUND.get() {
        Some(found) => found,
        None => {
            let found = text_of("alloc_slab_obj_exts")?;
            FOUND.get_or_init(|| found.unwrap_or(("0".to_owned(), "0".to_owned())))
        }
    };
    Ok((from, to))
}

/// Where this function of the kernel begins, and the next one; `None` if there is no such function.
fn text_of(function: &str) -> Result<Option<(String, String)>> {
    restricted(|| {
        // They come in the order of their addresses, and there are many.
        let mut from = None;
        for line in BufReader::new(File::open("/proc/kallsyms")?).lines() {
            let line = line?;
            let mut words = line.split_whitespace();
            let at = address(words.next().unwrap_or_default())?;
            match from {
                Some(from) if at > from => {
                    return Ok(Some((format!("{from:#x}"), format!("{at:#x}"))));
                }
                None if words.nth(1) == Some(function) => from = Some(at),
                _ => {}
            }
        }
        Ok(None)
    })
}

/// Reads where things are in memory, which otherwise not even root sees.
fn restricted<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    const SWITCH: &str = "/proc/sys/kernel/kptr_restrict";
    let before = fs::read_to_string(SWITCH)?;
    fs::write(SWITCH, "1")?;
    let result = read();
    fs::write(SWITCH, before.trim())?;
    result
}

/// Where the module's code begins and ends.
fn module_text(name: &str) -> Result<(String, String)> {
    let start = fs::read_to_string(format!("/sys/module/{name}/sections/.text"))?;
    let start = address(start.trim())?;
    let areas = restricted(|| Ok(fs::read_to_string("/proc/vmallocinfo")?))?;
    for line in areas.lines() {
        let area = line.split_whitespace().next().unwrap_or_default();
        let Some((from, to)) = area.split_once('-') else {
            continue;
        };
        let (from, to) = (address(from)?, address(to)?);
        if (from..to).contains(&start) {
            return Ok((format!("{from:#x}"), format!("{to:#x}")));
        }
    }
    anyhow::bail!("no area of memory has the module's code, {start:#x}")
}

fn address(text: &str) -> Result<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
        .with_context(|| format!("{text:?} is no address"))
}

/// How many allocations there must have been to fail.
#[derive(Clone, Copy)]
pub struct Fewest {
    slab: u32,
    pages: u32,
}

impl From<u32> for Fewest {
    fn from(slab: u32) -> Self {
        Fewest { slab, pages: 0 }
    }
}

impl From<(u32, u32)> for Fewest {
    fn from((slab, pages): (u32, u32)) -> Self {
        Fewest { slab, pages }
    }
}

/// How many allocations are failed one by one before some are left out.
const ALL_OF: u32 = 12;

/// Does a round again and again, in which first the first allocation of the operation fails, then
/// the second, until none has failed any more; first those of slab memory, then those of pages.
/// In each round the operation, and nothing else, is done through [`Fault::during`].
///
/// Of an operation with many, which takes long, one in `stride` is failed behind the first few;
/// all where CI is set, which has the time, unless they are the same hundreds of times over.
pub fn each_allocation(
    what: &str,
    at_least: impl Into<Fewest>,
    stride: u32,
    mut round: impl FnMut(&mut Fault) -> Result<()>,
) -> Result<()> {
    let stride = if in_ci() && stride < 100 { 1 } else { stride };
    let mut failed = [0, 0];
    let mut last = [0, 0];
    for (at, kind) in [Kind::Slab, Kind::Page].into_iter().enumerate() {
        let (mut number, mut missed) = (1, 0);
        // What is asked for depends on what is in memory: one round may have asked for less.
        while missed < 2 {
            let mut fault = Fault::new(kind, number)?;
            round(&mut fault).with_context(|| format!("{what}, {kind:?} {number} failed"))?;
            if !fault.hit()? {
                missed += 1;
                continue;
            }
            missed = 0;
            failed[at] += 1;
            last[at] = number;
            number += if number < ALL_OF { 1 } else { stride };
        }
    }
    let ([slab, page], [last_slab, last_page]) = (failed, last);
    println!(
        "{what}: failed, one at a time, {slab} of the first {last_slab} allocations from the slab \
         and {page} of the first {last_page} of pages"
    );
    let at_least = at_least.into();
    ensure!(
        last_slab >= at_least.slab && last_page >= at_least.pages,
        "{what}: only {last_slab} allocations, and {last_page} of pages, could be failed"
    );
    Ok(())
}
