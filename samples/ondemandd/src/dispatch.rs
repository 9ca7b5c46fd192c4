// SPDX-License-Identifier: GPL-2.0

//! The main loop: one thread that reads what the kernel asks and hands it on.
//!
//! Lives here: waiting for requests and signals, CLOSE, and what becomes of requests that make no
//! sense.  Never here: blob or cache I/O, which would keep the next request waiting.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{bail, Context, Result};
use cachefiles_client::{Layout, Request};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tracing::{debug, error, info, warn};

use crate::cull::Culler;
use crate::stats::Stats;
use crate::traffic::Traffic;
use crate::workers::{Job, PendingOpen, PendingRead, Pool, Shared, Work};

/// How many requests are taken before signals are looked at again.
const BATCH: usize = 64;

/// How many reads of the device may fail in a row before the device counts as lost.
const PATIENCE: u32 = 100;

/// How long an OPEN for which there was no descriptor is left alone.
const RETRY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// What reading the device has met with.
#[derive(Default)]
struct Trouble {
    /// Reads that have failed in a row.
    failures: u32,
    /// It was logged that descriptors are missing, and requests still wait.
    told_of_descriptors: bool,
}

/// The signals that mean something to us, as a file descriptor.
pub struct Signals(SignalFd);

impl Signals {
    /// Takes SIGTERM, SIGINT and SIGUSR1 out of their usual ways, for this thread and all that it
    /// starts later: so this comes before the first thread.
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&set, flags)?))
    }

    /// The next one that has come, if any.
    fn take(&self) -> io::Result<Option<Signal>> {
        let Some(info) = self.0.read_signal()? else {
            return Ok(None);
        };
        let number = i32::try_from(info.ssi_signo).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Some(Signal::try_from(number)?))
    }
}

/// The dispatcher and what it needs.
pub struct Dispatcher {
    /// What it shares with the workers.
    pub shared: Arc<Shared>,
    /// The workers.
    pub pool: Pool,
    /// What culls, unless something else does.
    pub culler: Option<Culler>,
    /// Where requests are counted while they are under way.
    pub traffic: Arc<Traffic>,
    /// The signals.
    pub signals: Signals,
    /// Where the counters go.
    pub stats_file: Option<PathBuf>,
    /// Whether another process keeps the device open when we end.
    pub kept: bool,
}

impl Dispatcher {
    /// Serves until SIGTERM or SIGINT.
    pub fn run(&self) -> Result<()> {
        let mut trouble = Trouble::default();
        let mut out_of_descriptors = false;
        loop {
            // Level-triggered, so a request that came before the first wait is not missed.
            let mut fds = [
                PollFd::new(&*self.shared.device, PollFlags::IN),
                PollFd::new(&self.signals.0, PollFlags::IN),
            ];
            let polled = match out_of_descriptors {
                false => poll(&mut fds, None),
                // The device is readable all the time then, and nothing tells of a descriptor.
                true => poll(&mut fds[1..], Some(&RETRY)),
            };
            match polled {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e).context("waiting for requests"),
            }
            let [device, signals] = fds.map(|fd| !fd.revents().is_empty());
            if signals && self.handle_signals()? {
                return Ok(());
            }
            if device || out_of_descriptors {
                out_of_descriptors = self.drain(&mut trouble)?;
            }
        }
    }

    /// Acts on signals; says whether to stop.
    fn handle_signals(&self) -> Result<bool> {
        while let Some(signal) = self.signals.take().context("reading signals")? {
            if signal != Signal::SIGUSR1 {
                info!(%signal, "stopping");
                return Ok(true);
            }
            let shared = &self.shared;
            report(
                &shared.stats,
                shared.objects.len(),
                false,
                self.stats_file.as_deref(),
            );
        }
        Ok(false)
    }

    /// Takes requests until there is none, or a batch of them.  True if there are none but OPENs for
    /// which there is no descriptor.
    fn drain(&self, trouble: &mut Trouble) -> Result<bool> {
        let mut refused = false;
        for _ in 0..BATCH {
            match self.shared.device.next_request() {
                Ok(None) => {
                    trouble.told_of_descriptors = false;
                    break;
                }
                Ok(Some(request)) => {
                    (trouble.failures, refused) = (0, false);
                    self.dispatch(request);
                }
                Err(error) if is_out_of_descriptors(&error) => {
                    // C fails the OPEN; with ours it comes again, behind the other requests.
                    if refused {
                        return Ok(true);
                    }
                    if !trouble.told_of_descriptors {
                        error!(%error, "no descriptor for an OPEN: raise the limit of open files");
                    }
                    (trouble.told_of_descriptors, refused) = (true, true);
                }
                Err(error) => {
                    trouble.failures += 1;
                    error!(%error, "cannot read a request");
                    if trouble.failures >= PATIENCE {
                        bail!("reading the device fails again and again; the last time: {error}");
                    }
                    break;
                }
            }
        }
        Ok(false)
    }

    fn dispatch(&self, request: Request) {
        let work = match request {
            Request::Open {
                msg_id,
                object_id,
                object,
                volume_key,
                cookie_key,
                ..
            } => {
                debug!(msg_id, object_id, "asked to OPEN");
                Work::Open(PendingOpen {
                    msg_id,
                    object_id,
                    file: object,
                    volume_key,
                    cookie_key,
                })
            }
            Request::Read {
                msg_id,
                object_id,
                offset,
                len,
            } => {
                debug!(msg_id, object_id, offset, len, "asked to READ");
                match self.shared.objects.get(object_id) {
                    Some(object) => Work::Read(PendingRead::new(object, msg_id, offset, len)),
                    None => {
                        self.shared.stats.strays.add(1);
                        // In mainline there is no descriptor to complete it through.
                        if self.shared.device.layout() == Layout::V5 {
                            if let Err(error) = self.shared.device.cread(msg_id) {
                                debug!(msg_id, %error, "READ not completed");
                            }
                        }
                        return warn!(object_id, msg_id, offset, len, "READ of an unknown object");
                    }
                }
            }
            Request::Close { object_id, .. } => {
                return match self.shared.objects.remove(object_id) {
                    Some(object) => {
                        if let Some(culler) = &self.culler {
                            culler.released();
                        }
                        self.shared.stats.closes.add(1);
                        debug!(object_id, blob = %object.name, "CLOSE");
                    }
                    None => {
                        self.shared.stats.strays.add(1);
                        warn!(object_id, "CLOSE of an unknown object");
                    }
                };
            }
        };
        let ticket = self.traffic.enter();
        self.pool.submit(Job { work, ticket });
    }

    /// Answers what has been read, ends all threads and reports for the last time.
    pub fn finish(self) {
        let objects = self.shared.objects.len();
        if objects > 0 && self.kept {
            info!(
                objects,
                "images are still mounted: reads wait for the next daemon"
            );
        } else if objects > 0 {
            warn!(
                objects,
                "images are still mounted: what is not in memory cannot be read"
            );
        }
        if let Some(culler) = self.culler {
            culler.finish();
        }
        self.traffic.stop();
        self.pool.finish();
        let shared = Arc::into_inner(self.shared)
            .expect("the workers, which had the other references, have ended");
        shared.prefetcher.finish();
        report(&shared.stats, objects, true, self.stats_file.as_deref());
    }
}

/// Logs the counters and writes the file; a full disk is no reason to stop serving.
fn report(stats: &Stats, objects: usize, last: bool, file: Option<&Path>) {
    if let Err(error) = stats.report(objects, last, file) {
        error!(%error, ?file, "cannot write the counters");
    }
}

/// Whether an OPEN failed because we, or the whole system, have as many files open as we may.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}
