// SPDX-License-Identifier: GPL-2.0

//! Filling cache files before anybody asks.
//!
//! Lives here: what is prefetched of which object, the one thread that does it, and its manners.
//! Never here: answering requests.
//!
//! A reader must not notice prefetch.  So the thread reads a blob in chunks and writes a chunk in
//! slices, and before each of them waits until no request is under way ([`Traffic`]): a request
//! that comes in the middle of a slice runs beside it, on a worker of its own, and meets at worst
//! one short write in the file system.  It asks the cache file itself what is there already, so a
//! warm cache costs no traffic, and two mounts of one blob do not fetch it twice.

use std::io;
use std::iter;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;
use tracing::{debug, info, warn};

use crate::objects::Object;
use crate::ranges::RangeList;
use crate::stats::Stats;
use crate::traffic::{Stopping, Traffic};
use crate::transfer::{first_missing, round_up, AlignedBuffer};

/// How much is read from a blob at a time: large, because a source may be far away.
const CHUNK: usize = 1 << 20;

/// How much is written into a cache file at a time: small, because the file system locks the file
/// for as long as a write into a hole takes.
const SLICE: usize = 128 << 10;

/// A little less CPU time than the workers get, if there is too little for all.  Not the least:
/// a thread that starves while it holds a file's lock makes the readers of that file wait.
const NICE: i32 = 5;

/// What to prefetch.
#[derive(Clone, Debug, Default)]
pub enum Policy {
    /// Nothing.
    #[default]
    Off,
    /// All of every blob, from its beginning, in the order in which they were opened.
    All,
    /// These ranges.
    Ranges(RangeList),
}

impl Policy {
    /// What it says about an object.
    fn ranges_of(&self, object: &Object) -> Vec<Range<u64>> {
        match self {
            Policy::Off => Vec::new(),
            Policy::All => iter::once(0..round_up(object.blob.size())).collect(),
            Policy::Ranges(list) => list.of(&object.name, object.blob.size()),
        }
    }
}

/// One object's ranges.  The reference is weak: prefetch keeps no closed object open.
struct Job {
    object: Weak<Object>,
    ranges: Vec<Range<u64>>,
}

/// The prefetcher: a queue, and a thread at its end.
pub struct Prefetcher {
    policy: Policy,
    queue: Sender<Job>,
    thread: JoinHandle<()>,
    traffic: Arc<Traffic>,
}

impl Prefetcher {
    /// Starts the thread.  `rate` is in bytes a second.
    pub fn start(
        policy: Policy,
        rate: Option<ByteSize>,
        traffic: Arc<Traffic>,
        stats: Arc<Stats>,
    ) -> io::Result<Self> {
        let (queue, jobs) = crossbeam_channel::unbounded();
        let mut fetcher = Fetcher {
            pace: Pace::new(rate),
            traffic: Arc::clone(&traffic),
            stats,
            buffer: AlignedBuffer::new(CHUNK),
        };
        let thread = thread::Builder::new()
            .name("prefetch".into())
            .spawn(move || fetcher.run(&jobs))?;
        Ok(Self {
            policy,
            queue,
            thread,
            traffic,
        })
    }

    /// Queues what the policy says about an object that has just been opened.
    pub fn offer(&self, object: &Arc<Object>) {
        let ranges = self.policy.ranges_of(object);
        if !ranges.is_empty() {
            let object = Arc::downgrade(object);
            // The receiver is gone only when the daemon stops.
            let _ = self.queue.send(Job { object, ranges });
        }
    }

    /// Stops after the slice under way.
    pub fn finish(self) {
        self.traffic.stop();
        drop(self.queue);
        if self.thread.join().is_err() {
            warn!("the prefetch thread had panicked");
        }
    }
}

/// Why a prefetch ended early.
enum End {
    /// The daemon stops.
    Stopping,
    /// The object was closed.
    Closed,
    /// The blob or the cache file failed.
    Failed(io::Error),
}

impl From<Stopping> for End {
    fn from(_: Stopping) -> Self {
        End::Stopping
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        End::Failed(error)
    }
}

/// The thread's own state.
struct Fetcher {
    pace: Pace,
    traffic: Arc<Traffic>,
    stats: Arc<Stats>,
    buffer: AlignedBuffer,
}

impl Fetcher {
    fn run(&mut self, jobs: &Receiver<Job>) {
        let me = rustix::thread::gettid();
        if let Err(error) = rustix::process::setpriority_process(Some(me), NICE) {
            debug!(%error, "prefetch keeps the priority of the rest");
        }
        for Job { object, ranges } in jobs {
            let started = Instant::now();
            match self.fetch_all(&object, &ranges) {
                Ok(0) => {}
                Ok(bytes) => {
                    let name = object.upgrade().map(|o| o.name.to_string());
                    let seconds = started.elapsed().as_secs_f64();
                    info!(blob = name, bytes, seconds, "prefetched");
                }
                Err(End::Stopping) => return,
                Err(End::Closed) => debug!("an object was closed before it was prefetched"),
                Err(End::Failed(error)) => match object.upgrade() {
                    Some(object) => {
                        self.stats.prefetch_errors.add(1);
                        warn!(blob = %object.name, %error, "prefetch given up");
                    }
                    // The kernel closes an object before it tells us so: then writing fails.
                    None => debug!(%error, "an object was closed while it was prefetched"),
                },
            }
        }
    }

    /// Waits until the cache file can be used.
    ///
    /// The kernel makes the file only after it has our answer to the OPEN, and until then nothing
    /// can be sought or written in it (ENOBUFS).  It says nothing when the file is there, so this
    /// asks again after ever longer waits.
    fn wait_for_file(&self, object: &Weak<Object>) -> Result<(), End> {
        let mut pause = Duration::from_millis(5);
        loop {
            match object.upgrade().ok_or(End::Closed)?.file.next_hole(0) {
                Ok(_) => return Ok(()),
                Err(e) if Errno::from_io_error(&e) != Some(Errno::NOBUFS) => return Err(e.into()),
                Err(e) if pause > Duration::from_secs(5) => return Err(e.into()),
                Err(_) => self.traffic.wait_until(Instant::now() + pause)?,
            }
            pause *= 2;
        }
    }

    fn fetch_all(&mut self, object: &Weak<Object>, ranges: &[Range<u64>]) -> Result<u64, End> {
        self.wait_for_file(object)?;
        let mut bytes = 0;
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                self.traffic.wait_quiet()?;
                // The reference is held for one chunk only, so that a CLOSE is a close.
                let object = object.upgrade().ok_or(End::Closed)?;
                let Some(missing) = first_missing(&*object.file, at..range.end)? else {
                    break;
                };
                let end = missing.end.min(missing.start + CHUNK as u64);
                let fetched = self.fetch(&object, missing.start..end)?;
                debug!(blob = %object.name, offset = missing.start, bytes = fetched, "PREFETCH");
                bytes += fetched;
                at = end;
            }
        }
        Ok(bytes)
    }

    /// Fetches one chunk.
    fn fetch(&mut self, object: &Object, chunk: Range<u64>) -> Result<u64, End> {
        let bytes = self.buffer.load(&*object.blob, chunk.clone())?;
        let mut written = 0;
        for (slice, at) in bytes.chunks(SLICE).zip((chunk.start..).step_by(SLICE)) {
            if let Some(deadline) = self.pace.next(slice.len()) {
                self.traffic.wait_until(deadline)?;
            }
            self.traffic.wait_quiet()?;
            // A request may have brought the slice while we waited.
            if first_missing(&*object.file, at..at + slice.len() as u64)?.is_some() {
                object.file.write_all_at(slice, at)?;
                written += slice.len() as u64;
                self.stats.prefetch_bytes.add(slice.len() as u64);
            }
        }
        Ok(written)
    }
}

/// A rate in bytes a second, kept by saying when the next bytes may go.
struct Pace {
    rate: Option<u64>,
    free_at: Instant,
}

impl Pace {
    fn new(rate: Option<ByteSize>) -> Self {
        Self {
            rate: rate.map(|r| r.as_u64().max(1)),
            free_at: Instant::now(),
        }
    }

    /// When `len` bytes may go; now, if there is no rate.  Time not used is not saved up.
    fn next(&mut self, len: usize) -> Option<Instant> {
        let rate = self.rate?;
        let at = self.free_at.max(Instant::now());
        self.free_at = at + Duration::from_secs_f64(len as f64 / rate as f64);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeBlob, FakeFile};
    use crate::name::BlobName;
    use crate::transfer::{copy, PAGE};

    const MB: u64 = 1 << 20;

    struct Bench {
        traffic: Arc<Traffic>,
        stats: Arc<Stats>,
        file: FakeFile,
        object: Arc<Object>,
    }

    impl Bench {
        fn new(blob: FakeBlob) -> Self {
            let file = FakeFile::default();
            Self {
                traffic: Arc::default(),
                stats: Arc::default(),
                object: Arc::new(Object {
                    id: 1,
                    name: BlobName::new(b"blob").unwrap(),
                    blob: Arc::new(blob),
                    file: Box::new(file.clone()),
                }),
                file,
            }
        }

        fn start(&self, policy: Policy, rate: Option<ByteSize>) -> Prefetcher {
            let (traffic, stats) = (Arc::clone(&self.traffic), Arc::clone(&self.stats));
            Prefetcher::start(policy, rate, traffic, stats).unwrap()
        }

        /// Waits for what a test expects to happen soon.
        fn until(&self, what: impl Fn(&Stats) -> bool) {
            let deadline = Instant::now() + Duration::from_secs(20);
            while !what(&self.stats) {
                assert!(Instant::now() < deadline, "it never happened");
                thread::sleep(Duration::from_millis(1));
            }
        }

        fn writes(&self) -> usize {
            self.file.0.lock().unwrap().writes.len()
        }
    }

    #[test]
    fn all_of_a_blob_less_what_is_there() {
        let bench = Bench::new(FakeBlob::new(3 * MB + 5));
        let mut page = AlignedBuffer::new(PAGE);
        copy(
            &*bench.object.blob,
            &bench.file,
            MB..MB + PAGE as u64,
            &mut page,
        )
        .unwrap();
        let prefetcher = bench.start(Policy::All, None);
        prefetcher.offer(&bench.object);
        // Three megabytes and the page of the last five bytes, less the page that was there.
        bench.until(|s| s.prefetch_bytes.get() == 3 * MB);
        prefetcher.finish();
        let contents = bench.file.0.lock().unwrap();
        assert_eq!(contents.pages.len() as u64, 3 * MB / PAGE as u64 + 1);
        assert!(contents.writes.iter().all(|(_, len)| *len <= SLICE));
    }

    #[test]
    fn listed_ranges_in_the_order_of_the_list() {
        let bench = Bench::new(FakeBlob::new(MB));
        let list = RangeList::parse("blob 64KiB 4096\nblob 0 4096\nother 0 4096").unwrap();
        let prefetcher = bench.start(Policy::Ranges(list), None);
        prefetcher.offer(&bench.object);
        bench.until(|s| s.prefetch_bytes.get() == 8192);
        prefetcher.finish();
        assert_eq!(
            bench.file.0.lock().unwrap().writes,
            [(65536, 4096), (0, 4096)]
        );
    }

    #[test]
    fn a_cache_file_that_is_not_made_yet_is_waited_for() {
        let bench = Bench::new(FakeBlob::new(MB));
        bench.file.0.lock().unwrap().absent_for = 3;
        let prefetcher = bench.start(Policy::All, None);
        prefetcher.offer(&bench.object);
        bench.until(|s| s.prefetch_bytes.get() == MB);
        prefetcher.finish();
        assert_eq!(bench.stats.prefetch_errors.get(), 0);
    }

    #[test]
    fn nothing_moves_while_a_request_is_under_way() {
        let bench = Bench::new(FakeBlob::new(MB));
        let ticket = bench.traffic.enter();
        let prefetcher = bench.start(Policy::All, None);
        prefetcher.offer(&bench.object);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(bench.writes(), 0);
        drop(ticket);
        bench.until(|s| s.prefetch_bytes.get() == MB);
        prefetcher.finish();
    }

    #[test]
    fn stopping_does_not_wait_for_the_rest() {
        let bench = Bench::new(FakeBlob::new(64 * MB));
        let prefetcher = bench.start(Policy::All, Some(ByteSize::kib(1)));
        prefetcher.offer(&bench.object);
        bench.until(|s| s.prefetch_bytes.get() > 0);
        prefetcher.finish();
        assert!(bench.stats.prefetch_bytes.get() < 64 * MB);
    }

    #[test]
    fn a_closed_object_is_let_go() {
        let bench = Bench::new(FakeBlob::new(MB));
        let ticket = bench.traffic.enter();
        let prefetcher = bench.start(Policy::All, None);
        prefetcher.offer(&bench.object);
        let Bench {
            traffic,
            stats,
            object,
            file,
        } = bench;
        drop(object);
        drop(ticket);
        traffic.wait_quiet().unwrap();
        prefetcher.finish();
        assert_eq!(stats.prefetch_bytes.get() + stats.prefetch_errors.get(), 0);
        assert!(file.0.lock().unwrap().writes.is_empty());
    }

    #[test]
    fn a_failure_ends_this_object_only() {
        let mut blob = FakeBlob::new(4 * MB);
        blob.broken_from = MB;
        let bench = Bench::new(blob);
        let prefetcher = bench.start(Policy::All, None);
        prefetcher.offer(&bench.object);
        bench.until(|s| s.prefetch_errors.get() == 1);
        assert_eq!(bench.stats.prefetch_bytes.get(), MB);
        bench.file.0.lock().unwrap().full = true;
        prefetcher.offer(&bench.object);
        bench.until(|s| s.prefetch_errors.get() == 2);
        prefetcher.finish();
    }

    #[test]
    fn a_pace_spreads_bytes_over_time() {
        let mut pace = Pace::new(Some(ByteSize::b(1000)));
        let first = pace.next(500).unwrap();
        let next = pace.free_at;
        assert_eq!(next - first, Duration::from_millis(500));
        // Later if another thread has the processor in between.
        assert!(pace.next(500).unwrap() >= next);
        assert!(Pace::new(None).next(usize::MAX).is_none());
    }
}
