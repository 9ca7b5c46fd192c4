// SPDX-License-Identifier: GPL-2.0

//! What the daemon has done so far, in numbers.
//!
//! Lives here: the counters, the latency histogram, and how they are reported (a log line, a JSON
//! file).  Never here: deciding when to count or to report.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tracing::info;

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        // The counters are independent of each other and of everything else: no order is needed.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one daemon.
pub struct Stats {
    /// OPENs answered with a size.
    pub opens: Counter,
    /// OPENs answered with an error.
    pub open_errors: Counter,
    /// CLOSEs.
    pub closes: Counter,
    /// READs answered with data.
    pub reads: Counter,
    /// Bytes written into cache files for READs.
    pub read_bytes: Counter,
    /// READs completed without (all of) their data, so that the reader gets EIO.
    pub read_errors: Counter,
    /// READs and CLOSEs of objects that we do not know.
    pub strays: Counter,
    /// Bytes written into cache files by prefetch.
    pub prefetch_bytes: Counter,
    /// Prefetches given up because of an error.
    pub prefetch_errors: Counter,
    /// Files culled.
    pub culled_files: Counter,
    /// Bytes that they had on the disk.
    pub culled_bytes: Counter,
    /// Empty volumes culled.
    pub culled_volumes: Counter,
    /// Directories and files deleted from the graveyard.
    pub graves: Counter,
    /// Passes of culling, or of emptying the graveyard, that failed.
    pub cull_errors: Counter,
    /// From reading a READ to completing it, in microseconds.
    latency: Mutex<Histogram<u64>>,
    reports: Counter,
    started: Instant,
}

/// The counters at one moment, as the JSON file has them.
#[derive(Debug, Serialize)]
pub struct Snapshot {
    /// How many snapshots were reported before: tells a script a new file from the old.
    pub report: u64,
    /// Whether the daemon wrote this as its last act.
    pub last: bool,
    /// Since the daemon's start.
    pub uptime_seconds: f64,
    /// Objects open now.
    pub objects: u64,
    /// See [`Stats::opens`], and so on.
    pub opens: u64,
    /// OPENs answered with an error.
    pub open_errors: u64,
    /// CLOSEs.
    pub closes: u64,
    /// READs answered with data.
    pub reads: u64,
    /// Bytes fetched for READs.
    pub read_bytes: u64,
    /// READs that failed.
    pub read_errors: u64,
    /// Requests for unknown objects.
    pub strays: u64,
    /// Bytes prefetched.
    pub prefetch_bytes: u64,
    /// Prefetches given up.
    pub prefetch_errors: u64,
    /// Files culled.
    pub culled_files: u64,
    /// Bytes culled.
    pub culled_bytes: u64,
    /// Empty volumes culled.
    pub culled_volumes: u64,
    /// Entries deleted from the graveyard.
    pub graves: u64,
    /// Failures of culling.
    pub cull_errors: u64,
    /// All errors above together.
    pub errors: u64,
    /// How long READs took.
    pub read_latency: Latency,
}

/// A distribution of READ latencies in microseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Half of the READs took at most this long.
    pub p50_us: u64,
    /// 90 in 100.
    pub p90_us: u64,
    /// 99 in 100.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
    /// How many READs fell below each bound and not below the one before; the bounds double.
    pub histogram: Vec<Bucket>,
}

/// One bar of the histogram.
#[derive(Debug, Serialize)]
pub struct Bucket {
    /// READs that took at most this long…
    pub up_to_us: u64,
    /// …are this many.
    pub count: u64,
}

impl Default for Stats {
    fn default() -> Self {
        // Two digits, from a microsecond to an hour; what takes longer counts as an hour.
        let latency = Histogram::new_with_bounds(1, 3_600_000_000, 2)
            .expect("these bounds are in order, which is all that is asked of them");
        Self {
            opens: Counter::default(),
            open_errors: Counter::default(),
            closes: Counter::default(),
            reads: Counter::default(),
            read_bytes: Counter::default(),
            read_errors: Counter::default(),
            strays: Counter::default(),
            prefetch_bytes: Counter::default(),
            prefetch_errors: Counter::default(),
            culled_files: Counter::default(),
            culled_bytes: Counter::default(),
            culled_volumes: Counter::default(),
            graves: Counter::default(),
            cull_errors: Counter::default(),
            latency: Mutex::new(latency),
            reports: Counter::default(),
            started: Instant::now(),
        }
    }
}

impl Stats {
    fn latency(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records how long one READ took.
    pub fn record_latency(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.latency().saturating_record(us.max(1));
    }

    /// The counters now.
    pub fn snapshot(&self, objects: usize, last: bool) -> Snapshot {
        let errors = [
            &self.open_errors,
            &self.read_errors,
            &self.strays,
            &self.prefetch_errors,
            &self.cull_errors,
        ];
        let latency = self.latency();
        Snapshot {
            report: self.reports.get(),
            last,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            objects: objects as u64,
            opens: self.opens.get(),
            open_errors: self.open_errors.get(),
            closes: self.closes.get(),
            reads: self.reads.get(),
            read_bytes: self.read_bytes.get(),
            read_errors: self.read_errors.get(),
            strays: self.strays.get(),
            prefetch_bytes: self.prefetch_bytes.get(),
            prefetch_errors: self.prefetch_errors.get(),
            culled_files: self.culled_files.get(),
            culled_bytes: self.culled_bytes.get(),
            culled_volumes: self.culled_volumes.get(),
            graves: self.graves.get(),
            cull_errors: self.cull_errors.get(),
            errors: errors.iter().map(|c| c.get()).sum(),
            read_latency: Latency {
                p50_us: latency.value_at_quantile(0.5),
                p90_us: latency.value_at_quantile(0.9),
                p99_us: latency.value_at_quantile(0.99),
                max_us: latency.max(),
                histogram: latency
                    .iter_log(16, 2.0)
                    .map(|step| Bucket {
                        up_to_us: step.value_iterated_to(),
                        count: step.count_since_last_iteration(),
                    })
                    .collect(),
            },
        }
    }

    /// Logs the counters, and writes them to `file` if there is one.
    pub fn report(&self, objects: usize, last: bool, file: Option<&Path>) -> io::Result<()> {
        let s = self.snapshot(objects, last);
        self.reports.add(1);
        info!(
            objects = s.objects,
            opens = s.opens,
            reads = s.reads,
            read_bytes = s.read_bytes,
            prefetch_bytes = s.prefetch_bytes,
            culled_files = s.culled_files,
            culled_bytes = s.culled_bytes,
            closes = s.closes,
            errors = s.errors,
            read_p50_us = s.read_latency.p50_us,
            read_p99_us = s.read_latency.p99_us,
            read_max_us = s.read_latency.max_us,
            uptime_seconds = s.uptime_seconds,
            "counters"
        );
        match file {
            Some(path) => replace(path, &serde_json::to_vec_pretty(&s)?),
            None => Ok(()),
        }
    }
}

/// Replaces a file in one step, so that it is never read half-written.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    fs::write(&new, contents)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_json_with_every_count() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("stats.json");
        let stats = Stats::default();
        stats.opens.add(2);
        stats.reads.add(3);
        stats.read_bytes.add(12288);
        stats.read_errors.add(1);
        stats.strays.add(1);
        stats.culled_bytes.add(4096);
        stats.cull_errors.add(1);
        for us in [0, 100, 200, 90_000] {
            stats.record_latency(Duration::from_micros(us));
        }
        stats.record_latency(Duration::MAX);
        for report in 0..2 {
            stats.report(5, report == 1, Some(&path)).unwrap();
            let text = fs::read(&path).unwrap();
            let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(json["report"], report);
            assert_eq!(json["last"], report == 1);
            assert_eq!(json["objects"], 5);
            assert_eq!(json["opens"], 2);
            assert_eq!(json["reads"], 3);
            assert_eq!(json["read_bytes"], 12288);
            assert_eq!(json["culled_bytes"], 4096);
            assert_eq!(json["errors"], 3);
            let bars = json["read_latency"]["histogram"].as_array().unwrap();
            let total: u64 = bars.iter().map(|b| b["count"].as_u64().unwrap()).sum();
            assert_eq!(total, 5);
        }
    }

    #[test]
    fn a_daemon_that_did_nothing_reports_too() {
        let snapshot = Stats::default().snapshot(0, false);
        assert_eq!(snapshot.read_latency.p99_us, 0);
        assert_eq!(snapshot.errors, 0);
    }
}
