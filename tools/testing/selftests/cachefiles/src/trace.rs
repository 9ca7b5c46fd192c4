// SPDX-License-Identifier: GPL-2.0

//! The kernel's trace of CacheFiles' events.
//!
//! Lives here: switching it on for the time of some work.  Never here: what must be in it.

use anyhow::{ensure, Result};
use std::{collections::BTreeMap, fs, path::Path};

const TRACING: &str = "/sys/kernel/debug/tracing";

/// Does the work with all events on, and returns their lines.
pub fn traced(work: impl FnOnce() -> Result<()>) -> Result<Vec<String>> {
    let events = Path::new(TRACING).join("events/cachefiles");
    ensure!(events.exists(), "the module has no trace events");
    let trace = Path::new(TRACING).join("trace");
    fs::write(&trace, "")?;
    fs::write(events.join("enable"), "1")?;
    let worked = work();
    fs::write(events.join("enable"), "0")?;
    worked?;
    let lines = fs::read_to_string(&trace)?;
    Ok(lines.lines().map(str::to_owned).collect())
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
