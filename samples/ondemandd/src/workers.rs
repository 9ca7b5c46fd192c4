// SPDX-License-Identifier: GPL-2.0

//! The threads that answer requests.
//!
//! Lives here: answering an OPEN and a READ, and the pool that does it.  Never here: reading
//! requests from the device, or prefetch.
//!
//! A READ is answered exactly once, on every path: [`PendingRead`] completes it when it is
//! dropped.  Completed without its data, the reader gets EIO, never zeros: the kernel looks for
//! itself whether the data are there.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use cachefiles_client::{Device, Layout, ObjectFd};
use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;
use tracing::{debug, error, info, warn};

use crate::blobs::{Blob, BlobSource};
use crate::name::{BlobName, Printable};
use crate::objects::{Object, Objects};
use crate::prefetch::Prefetcher;
use crate::stats::Stats;
use crate::traffic::Ticket;
use crate::transfer::{self, AlignedBuffer, PAGE};

/// The most that one write into a cache file carries.
const BUFFER: usize = 2 << 20;

/// What the threads share.
pub struct Shared {
    /// Where OPENs are answered.
    pub device: Arc<Device>,
    /// Where blobs come from.
    pub source: Box<dyn BlobSource>,
    /// The open objects.
    pub objects: Objects,
    /// What to fetch without being asked.
    pub prefetcher: Prefetcher,
    /// The counters.
    pub stats: Arc<Stats>,
}

/// An OPEN to answer.
pub struct PendingOpen {
    /// What to answer to.
    pub msg_id: u32,
    /// The object's number.
    pub object_id: u32,
    /// Its cache file.
    pub file: ObjectFd,
    /// The volume's key.
    pub volume_key: Vec<u8>,
    /// The cookie's key, which is to be a blob's name.
    pub cookie_key: Vec<u8>,
}

/// A READ to answer.
pub struct PendingRead {
    object: Arc<Object>,
    msg_id: u32,
    range: Range<u64>,
    received: Instant,
}

/// What the dispatcher hands to a worker, with the ticket that counts it as unanswered.
pub struct Job {
    /// The request.
    pub work: Work,
    /// Dropped when it has been answered.
    pub ticket: Ticket,
}

/// One request.
pub enum Work {
    /// An object is to be opened.
    Open(PendingOpen),
    /// A range is missing.
    Read(PendingRead),
}

impl PendingRead {
    /// A READ that has just been received.
    pub fn new(object: Arc<Object>, msg_id: u32, offset: u64, len: u64) -> Self {
        let end = transfer::round_up(offset.saturating_add(len));
        Self {
            object,
            msg_id,
            range: transfer::round_down(offset)..end,
            received: Instant::now(),
        }
    }

    /// Copies the range, then completes the READ whether that has worked or not.
    fn answer(self, buffer: &mut AlignedBuffer, stats: &Stats) {
        let Self { object, range, .. } = &self;
        match transfer::copy(&*object.blob, &*object.file, range.clone(), buffer) {
            Ok(0) => {
                stats.read_errors.add(1);
                error!(blob = %object.name, offset = range.start, size = object.blob.size(),
                    "READ past the end of the blob: the image wants more than the blob has");
            }
            Ok(bytes) => {
                stats.reads.add(1);
                stats.read_bytes.add(bytes);
                debug!(msg_id = self.msg_id, blob = %object.name, offset = range.start, bytes, "READ");
            }
            Err(error) => {
                stats.read_errors.add(1);
                error!(blob = %object.name, offset = range.start, end = range.end, %error,
                    "READ failed: its reader gets EIO");
            }
        }
        let received = self.received;
        drop(self);
        stats.record_latency(received.elapsed());
    }
}

impl Drop for PendingRead {
    fn drop(&mut self) {
        if let Err(error) = self.object.file.complete_read(self.msg_id) {
            // The reader was killed, or the object or the cache withdrawn: no task waits.
            debug!(blob = %self.object.name, msg_id = self.msg_id, %error, "READ not completed");
        }
    }
}

impl PendingOpen {
    fn answer(self, shared: &Shared) {
        let Self {
            msg_id, object_id, ..
        } = self;
        let found = find(&*shared.source, &self.cookie_key)
            .and_then(|found| tellable(found, shared.device.layout()));
        match found {
            Ok((name, blob)) => self.accept(name, blob, shared),
            Err((errno, why)) => {
                shared.stats.open_errors.add(1);
                warn!(object_id, volume = %Printable(&self.volume_key),
                    blob = %Printable(&self.cookie_key), "OPEN refused: {why}");
                // The fd is closed first: the kernel may send nothing more for this object.
                drop(self.file);
                if let Err(error) = shared.device.open_reply(msg_id, Err(errno)) {
                    debug!(msg_id, %error, "OPEN not answered");
                }
            }
        }
    }

    fn accept(self, name: BlobName, blob: Arc<dyn Blob>, shared: &Shared) {
        let object = Arc::new(Object {
            id: self.object_id,
            name,
            blob,
            file: Box::new(self.file),
        });
        let size = object.blob.size();
        if shared.objects.insert(Arc::clone(&object)).is_some() {
            warn!(
                object_id = object.id,
                "the kernel opened this number twice without a CLOSE"
            );
        }
        if let Err(error) = shared.device.open_reply(self.msg_id, Ok(size)) {
            // The mount was killed meanwhile; no CLOSE will come for this object.
            warn!(blob = %object.name, %error, "OPEN not answered");
            shared.stats.open_errors.add(1);
            shared.objects.remove(object.id);
            return;
        }
        shared.stats.opens.add(1);
        info!(object_id = object.id, volume = %Printable(&self.volume_key),
            blob = %object.name, size, "OPEN");
        shared.prefetcher.offer(&object);
    }
}

/// Finds the blob of a cookie key, or the errno for the mount and the reason for the log.
fn find(source: &dyn BlobSource, key: &[u8]) -> Result<(BlobName, Arc<dyn Blob>), (Errno, String)> {
    let name = BlobName::new(key).map_err(|why| (Errno::INVAL, why.to_string()))?;
    match source.open(&name) {
        // The kernel's sizes are signed.
        Ok(blob) if i64::try_from(blob.size()).is_err() => {
            Err((Errno::FBIG, format!("its size is {}", blob.size())))
        }
        Ok(blob) => Ok((name, blob)),
        Err(error) => {
            let errno = Errno::from_io_error(&error).unwrap_or(match error.kind() {
                io::ErrorKind::NotFound => Errno::NOENT,
                _ => Errno::IO,
            });
            Err((errno, error.to_string()))
        }
    }
}

/// In v5 a size of 0 is the word for a refusal.
fn tellable<T>(
    found: (T, Arc<dyn Blob>),
    layout: Layout,
) -> Result<(T, Arc<dyn Blob>), (Errno, String)> {
    match (found.1.size(), layout) {
        (0, Layout::V5) => Err((Errno::INVAL, "it is empty, which v5 cannot say".into())),
        _ => Ok(found),
    }
}

/// The worker threads and their queue.
pub struct Pool {
    queue: Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts so many workers.
    pub fn start(threads: usize, shared: &Arc<Shared>) -> io::Result<Self> {
        // Without a bound: the kernel has as many requests open as there are readers that wait.
        let (queue, jobs) = crossbeam_channel::unbounded();
        let threads = (0..threads)
            .map(|i| {
                let (shared, jobs) = (Arc::clone(shared), Receiver::clone(&jobs));
                thread::Builder::new()
                    .name(format!("worker-{i}"))
                    .spawn(move || work(&shared, &jobs))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { queue, threads })
    }

    /// Queues a request.
    pub fn submit(&self, job: Job) {
        if self.queue.send(job).is_err() {
            unreachable!("workers end only after the queue has");
        }
    }

    /// Answers what is queued, then ends the workers.
    pub fn finish(self) {
        drop(self.queue);
        for thread in self.threads {
            if thread.join().is_err() {
                error!("a worker had panicked");
            }
        }
    }
}

fn work(shared: &Shared, jobs: &Receiver<Job>) {
    let mut buffer = AlignedBuffer::new(BUFFER.next_multiple_of(PAGE));
    for Job { work, ticket } in jobs {
        match work {
            Work::Open(open) => open.answer(shared),
            Work::Read(read) => read.answer(&mut buffer, &shared.stats),
        }
        drop(ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::Directory;
    use crate::fake::{FakeBlob, FakeFile};

    fn read(blob: FakeBlob, offset: u64, len: u64) -> (FakeFile, Stats) {
        let (file, stats) = (FakeFile::default(), Stats::default());
        let object = Arc::new(Object {
            id: 1,
            name: BlobName::new(b"blob").unwrap(),
            blob: Arc::new(blob),
            file: Box::new(file.clone()),
        });
        let mut buffer = AlignedBuffer::new(BUFFER);
        PendingRead::new(object, 42, offset, len).answer(&mut buffer, &stats);
        (file, stats)
    }

    #[test]
    fn a_read_is_written_and_completed_once() {
        let (file, stats) = read(FakeBlob::new(10 << 20), 4 << 20, 5 << 20);
        let contents = file.0.lock().unwrap();
        assert_eq!(contents.completed, [42]);
        assert_eq!(contents.writes.len(), 3);
        assert_eq!(contents.pages.len(), (5 << 20) / PAGE);
        assert_eq!((stats.reads.get(), stats.read_bytes.get()), (1, 5 << 20));
        assert_eq!(stats.snapshot(0, false).errors, 0);
    }

    #[test]
    fn a_read_that_cannot_be_served_is_completed_without_data() {
        let mut broken = FakeBlob::new(1 << 20);
        broken.broken_from = 0;
        for (blob, offset) in [
            (broken, 0),
            (FakeBlob::new(4096), 4096),
            (FakeBlob::new(0), 0),
            (FakeBlob::new(4096), u64::MAX - 8191),
        ] {
            let (file, stats) = read(blob, offset, 4096);
            let contents = file.0.lock().unwrap();
            assert_eq!(contents.completed, [42]);
            assert!(contents.writes.is_empty());
            assert_eq!(stats.read_errors.get(), 1);
            assert_eq!(stats.reads.get(), 0);
        }
    }

    #[test]
    fn an_unaligned_read_is_widened_to_pages() {
        let (file, _) = read(FakeBlob::new(1 << 20), 5000, 10);
        assert_eq!(file.0.lock().unwrap().writes, [(4096, 4096)]);
    }

    #[test]
    fn a_blob_that_is_not_there_has_its_errno() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("here"), b"x").unwrap();
        let source = Directory::open(tmp.path()).unwrap();
        let errno = |key: &[u8]| find(&source, key).err().map(|(errno, _)| errno);
        assert_eq!(errno(b"here"), None);
        assert_eq!(errno(b"there"), Some(Errno::NOENT));
        assert_eq!(errno(b"../here"), Some(Errno::INVAL));
        assert_eq!(errno(b".."), Some(Errno::INVAL));
    }

    #[test]
    fn an_empty_blob_is_not_for_v5() {
        let errno = |size, layout| {
            let blob: Arc<dyn Blob> = Arc::new(FakeBlob::new(size));
            tellable(((), blob), layout).err().map(|(errno, _)| errno)
        };
        assert_eq!(errno(0, Layout::Mainline), None);
        assert_eq!(errno(0, Layout::V5), Some(Errno::INVAL));
        assert_eq!(errno(1, Layout::V5), None);
    }
}
