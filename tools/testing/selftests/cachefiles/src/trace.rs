// SPDX-License-Identifier: GPL-2.0

//! The kernel's trace of CacheFiles' events.
//!
//! Lives here: switching it on for the time of some work.  Never here: what must be in it.

use anyhow::{ensure, Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const TRACING: &str = "/sys/kernel/debug/tracing";

/// Some events are on until this is dropped or ended.
pub struct Trace(&'static str);

impl Trace {
    /// Switches all of CacheFiles' on.
    pub fn begin() -> Result<Trace> {
        Trace::of("events/cachefiles/enable")
    }

    /// Turns this switch on.
    pub fn of(switch: &'static str) -> Result<Trace> {
        let path = Path::new(TRACING).join(switch);
        ensure!(path.exists(), "there are no such trace events: {switch}");
        fs::write(Path::new(TRACING).join("trace"), "")?;
        fs::write(path, "1")?;
        Ok(Trace(switch))
    }

    /// Switches them off, and returns their lines.
    pub fn end(self) -> Result<Vec<String>> {
        drop(self);
        let lines = fs::read_to_string(Path::new(TRACING).join("trace"))?;
        Ok(lines.lines().map(str::to_owned).collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(Path::new(TRACING).join(self.0), "0");
    }
}

/// netfs takes longer for some of its steps while this lives: the kernel records a stack at each, many
/// times.
pub struct Slowed(Vec<PathBuf>);

impl Slowed {
    /// How often a stack is recorded, each in an instance of its own.
    const TIMES: usize = 24;

    /// Where a collected page is unlocked, and where part of a read is done.
    pub fn collection() -> Result<Slowed> {
        let mut slowed = Slowed(Vec::new());
        for instance in 0..Self::TIMES {
            let dir = Path::new(TRACING).join(format!("instances/cachefiles-{instance}"));
            fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
            slowed.0.push(dir.clone());
            fs::write(dir.join("buffer_size_kb"), "8")?;
            Self::slow(&dir.join("events/netfs/netfs_folio"), "why", "read-unlock")?;
            Self::slow(&dir.join("events/netfs/netfs_sreq"), "what", "TERM ")?;
        }
        Ok(slowed)
    }

    /// The event, where a field has the value of this symbol.
    fn slow(event: &Path, field: &str, symbol: &str) -> Result<()> {
        let format = fs::read_to_string(event.join("format"))?;
        let before = format.split(&format!(", \"{symbol}\"")).next();
        let number = before.and_then(|text| text.rsplit(['{', ' ']).next());
        let number: u32 = number.context("no such symbol")?.parse()?;
        let trigger = format!("stacktrace if {field} == {number}");
        fs::write(event.join("trigger"), trigger).with_context(|| event.display().to_string())
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        for dir in &self.0 {
            if let Err(error) = fs::remove_dir(dir) {
                crate::lab::cleanup_failed(&format!("{}: {error}", dir.display()));
            }
        }
    }
}

/// Does the work with all events on, and returns their lines.
pub fn traced(work: impl FnOnce() -> Result<()>) -> Result<Vec<String>> {
    let trace = Trace::begin()?;
    work()?;
    trace.end()
}

/// What was told of each object, one after the other, and each thing that was told of none, in an
/// order that is the same for the same stories.  Numbers that are given by chance, as those of objects
/// and inodes, become their places in the story.  Left out is `ref`, whose counts are a module's own.
pub fn stories(lines: &[String]) -> Vec<String> {
    let mut of: BTreeMap<&str, Story> = BTreeMap::new();
    let mut stories = Vec::new();
    let events = lines.iter().filter(|line| !line.starts_with('#'));
    let events = events.filter_map(|line| line.split_once(": cachefiles_"));
    for (_, event) in events.filter(|(_, event)| !event.starts_with("ref: ")) {
        let object = event.split_whitespace().find(|word| word.starts_with("o="));
        match object.filter(|object| *object != "o=00000000") {
            Some(object) => of.entry(object).or_default().tell(event),
            None => {
                let mut story = Story::default();
                // Whether there is a file yet is by chance as well.
                let words = event.split_whitespace();
                let event = words.filter(|word| !word.starts_with("B="));
                story.tell(&event.collect::<Vec<_>>().join(" "));
                stories.push(story.told);
            }
        }
    }
    stories.extend(of.into_values().map(|story| story.told));
    stories.sort();
    stories
}

/// C's stories and ours are the same.
pub fn compare(theirs: &[String], ours: &[String]) -> Result<()> {
    ensure!(!theirs.is_empty(), "C tells nothing");
    let count = |stories: &[String], story| stories.iter().filter(|told| *told == story).count();
    let all: BTreeSet<&String> = theirs.iter().chain(ours).collect();
    for story in all {
        let (theirs, ours) = (count(theirs, story), count(ours, story));
        if theirs != ours {
            println!("C tells this {theirs} times, ours {ours} times:\n{story}");
        }
    }
    ensure!(theirs == ours, "the traces differ");
    Ok(())
}

#[derive(Default)]
struct Story {
    told: String,
    /// What stands for a number, in the order in which they came up.
    numbers: Vec<String>,
}

impl Story {
    fn tell(&mut self, event: &str) {
        for word in event.split_whitespace() {
            let told = match word.split_once('=') {
                Some(("o" | "V", _)) => continue,
                Some((key @ ("B" | "dB" | "sB" | "ni"), number)) if number != "0" => {
                    // The server's inodes are not the cache's.
                    let inode = if key == "ni" { word } else { number };
                    format!("{key}={}", self.place(inode))
                }
                _ => word.to_owned(),
            };
            self.told += &told;
            self.told.push(' ');
        }
        self.told.push('\n');
    }

    fn place(&mut self, number: &str) -> usize {
        let known = self.numbers.iter().position(|known| known == number);
        known.unwrap_or_else(|| {
            self.numbers.push(number.to_owned());
            self.numbers.len() - 1
        })
    }
}

/// The events that the module has declared, and how: fields and format, without the number.
pub fn declared() -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(Path::new(TRACING).join("events/cachefiles"))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let format = fs::read_to_string(entry.path().join("format"))?;
            let lines = format.lines().filter(|line| !line.starts_with("ID:"));
            let name = entry.file_name().to_string_lossy().into_owned();
            all.insert(name, lines.collect::<Vec<_>>().join("\n"));
        }
    }
    Ok(all)
}
