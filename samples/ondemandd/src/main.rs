// SPDX-License-Identifier: GPL-2.0

//! `ondemandd`: serves EROFS images on demand through CacheFiles.
//!
//! Lives here: the order in which the daemon starts and stops.  Never here: the work itself.
//!
//! ```text
//! /dev/cachefiles ── dispatch ──> workers ──> blobs (read) ──> cache file (write) ──> complete
//!                       │            └─ OPEN ─> prefetch ─ only while no request waits (traffic)
//!         │             └─ CLOSE ─> objects
//!         └─ POLLOUT ─> cull
//! ```

mod blobs;
mod cli;
mod cull;
mod dispatch;
#[cfg(test)]
mod fake;
mod inherit;
mod name;
mod objects;
mod prefetch;
mod ranges;
mod session;
mod stats;
mod traffic;
mod transfer;
mod victims;
mod workers;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use tracing::{error, info, warn};

use crate::blobs::Directory;
use crate::cli::{Cli, LogFormat};
use crate::cull::Culler;
use crate::dispatch::{Dispatcher, Signals};
use crate::objects::Objects;
use crate::prefetch::Prefetcher;
use crate::session::Start;
use crate::stats::Stats;
use crate::traffic::Traffic;
use crate::workers::{Pool, Shared};

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli);
    match serve(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(cli: &Cli) {
    let log = tracing_subscriber::fmt()
        .with_max_level(cli.report.log)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match cli.report.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn serve(cli: Cli) -> Result<()> {
    // Before the first thread, which would otherwise be killed by them.
    let signals = Signals::block().context("cannot take over the signals")?;
    raise_open_files();

    let source = Directory::open(&cli.blobs)
        .with_context(|| format!("cannot open the blob directory {}", cli.blobs.display()))?;
    let config = cli.cache_config();
    let (device, start) = session::obtain(&cli.origin(), &config, cli.start(), cli.layout())?;
    let device = Arc::new(device);

    let traffic = Arc::<Traffic>::default();
    let stats = Arc::<Stats>::default();
    let prefetcher = Prefetcher::start(
        cli.prefetch.policy,
        cli.prefetch.rate,
        Arc::clone(&traffic),
        Arc::clone(&stats),
    )
    .context("cannot start the prefetch thread")?;
    let shared = Arc::new(Shared {
        device: Arc::clone(&device),
        source: Box::new(source),
        objects: Objects::default(),
        prefetcher,
        stats,
    });
    let pool = Pool::start(cli.threads.into(), &shared).context("cannot start the workers")?;
    let mut dispatcher = Dispatcher {
        shared,
        pool,
        culler: None,
        traffic,
        signals,
        stats_file: cli.report.stats_file,
        kept: cli.device.keep_device || start == Start::Restore,
    };

    // The threads that answer requests run: now requests may come.
    session::start(&device, &config, start)?;
    if !cli.cache.no_cull {
        // The kernel has made the directories.
        let stats = Arc::clone(&dispatcher.shared.stats);
        match Culler::start(Arc::clone(&device), &config, stats) {
            Ok(culler) => dispatcher.culler = Some(culler),
            // Images can be served all the same.
            Err(error) => error!("no culling: {error:#}"),
        }
    }
    if cli.device.keep_device && start == Start::Bind {
        inherit::store_device(&*device).context("cannot leave the device with systemd")?;
    }
    inherit::announce_ready(cli.report.ready_fd).context("cannot write to --ready-fd")?;
    info!(blobs = %cli.blobs.display(), threads = cli.threads, "ready");

    let served = dispatcher.run();
    inherit::announce_stopping();
    dispatcher.finish();
    served
}

/// Every object is an open file for us twice over, the blob and the cache file, and images have
/// hundreds of them.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "cannot raise the limit of open files");
    }
}
