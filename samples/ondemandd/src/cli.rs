// SPDX-License-Identifier: GPL-2.0

//! The command line.
//!
//! Lives here: options, their texts and their checks.  Never here: acting on them.

use std::os::fd::RawFd;
use std::path::PathBuf;

use bytesize::ByteSize;
use cachefiles_client::cache::limits::Levels;
use cachefiles_client::{CacheConfig, Layout, DEVICE_PATH};
use clap::{Args, Parser, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::prefetch::Policy;
use crate::ranges::RangeList;
use crate::session::{Origin, Start};

const ABOUT: &str = "Serve EROFS images on demand through CacheFiles";

const LONG_ABOUT: &str = "\
Serve EROFS images on demand through CacheFiles.

The kernel mounts an image that is not on this machine yet. Whenever a program reads a part of it \
for the first time, the kernel asks this daemon, which copies the part from its blob into the \
cache. What is in the cache is read from there, without asking, even after a reboot.

A blob is a file in the blob directory, and its name is the cookie key: the image's fsid, or the \
name given to mount with device=. A blob must not change under its name: what is cached already \
is not fetched again.

When the cache's file system has little free space (--bcull, --fcull) the files of the cache that \
were not used for longest are removed, except those in use, until there is enough (--brun, --frun). \
A removed file is fetched anew when its image is mounted again. Below --bstop nothing is cached, \
and reading what is not cached fails.";

const EXAMPLES: &str = "\
Examples:

  Make an image, its metadata and its data in two blobs:
    : > /srv/blobs/app.data
    mkfs.erofs --chunksize=1048576 --blobdev=/srv/blobs/app.data /srv/blobs/app.meta rootfs/

  Serve it, with a cache on a file system that has extended attributes (ext4, xfs, btrfs):
    modprobe cachefiles
    mkdir -p /var/cache/ondemand
    ondemandd --dir /var/cache/ondemand --blobs /srv/blobs

  Mount it (in /etc/fstab the type is erofs and the source \"none\"):
    mount -t erofs -o fsid=app.meta,device=app.data none /mnt

  Fetch the rest in the background, at most 10 MB a second, whenever no program waits:
    ondemandd --dir /var/cache/ondemand --blobs /srv/blobs --prefetch all --prefetch-rate 10MB

  Fetch first what a program is known to need; the list has lines of \"key offset length\":
    printf 'app.data 0 4MiB\\napp.data 96MiB 512KiB\\n' > app.ranges
    ondemandd --dir /var/cache/ondemand --blobs /srv/blobs --prefetch ranges=app.ranges

Signals:
  SIGTERM, SIGINT   answer what has been asked, log the counters, exit 0
  SIGUSR1           log the counters, write the --stats file

Unmount the images before you stop the daemon: without it, what is not in memory cannot be read.";

/// What the command line says.
#[derive(Debug, Parser)]
#[command(version, about = ABOUT, long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub struct Cli {
    /// The cache's directory; the kernel makes `cache` and `graveyard` in it
    #[arg(long, value_name = "DIR", value_parser = directory, help_heading = "Cache")]
    pub dir: PathBuf,

    /// The directory that holds the blobs, each under its cookie key
    #[arg(long, value_name = "DIR")]
    pub blobs: PathBuf,

    /// How many requests are answered at the same time
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Settings of the cache.
    #[command(flatten)]
    pub cache: CacheArgs,

    /// Prefetch.
    #[command(flatten)]
    pub prefetch: PrefetchArgs,

    /// Where the device comes from.
    #[command(flatten)]
    pub device: DeviceArgs,

    /// Reports.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Settings of the cache.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// The cache's name in the kernel's messages and in /proc/fs/fscache/caches
    #[arg(long, value_name = "NAME", value_parser = line)]
    tag: Option<String>,

    /// What to speak with the kernel
    ///
    /// v5 is that of the fifth version of the series that brought on-demand mode; it takes the
    /// cachefiles module that is written in Rust. A device that is taken over (--restore, or kept by
    /// systemd) goes on with the protocol that it was bound with.
    #[arg(long, value_name = "PROTOCOL", default_value = "mainline")]
    protocol: Protocol,

    /// The security context to make cache files under
    #[arg(long, value_name = "CONTEXT", value_parser = line)]
    secctx: Option<String>,

    /// Do not cull, and leave the graveyard alone: something else does both
    #[arg(long)]
    pub no_cull: bool,

    /// Culling ceases at this much free space, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 7)]
    brun: u8,

    /// Culling begins below this much free space
    #[arg(long, value_name = "PERCENT", default_value_t = 5)]
    bcull: u8,

    /// Nothing is cached below this much free space
    #[arg(long, value_name = "PERCENT", default_value_t = 1)]
    bstop: u8,

    /// As --brun, for free inodes
    #[arg(long, value_name = "PERCENT", default_value_t = 7)]
    frun: u8,

    /// As --bcull, for free inodes
    #[arg(long, value_name = "PERCENT", default_value_t = 5)]
    fcull: u8,

    /// As --bstop, for free inodes
    #[arg(long, value_name = "PERCENT", default_value_t = 1)]
    fstop: u8,
}

/// Prefetch.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prefetch")]
pub struct PrefetchArgs {
    /// What to fetch before it is asked for: off, all, or ranges=FILE
    ///
    /// FILE has one range a line, "key offset length" (4096, 64KiB, 1MiB; # begins a comment), or
    /// is JSON: [{"key": …, "offset": …, "length": …}, …]. Prefetch stands back whenever a program
    /// waits, and skips what is cached.
    #[arg(long = "prefetch", value_name = "WHAT", default_value = "off", value_parser = policy)]
    pub policy: Policy,

    /// Prefetch at most so much a second, e.g. 10MB
    #[arg(long = "prefetch-rate", value_name = "BYTES", value_parser = rate)]
    pub rate: Option<ByteSize>,
}

/// Where the device comes from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// The device
    #[arg(long, value_name = "PATH", default_value = DEVICE_PATH)]
    device: PathBuf,

    /// Use this open descriptor of the device instead of opening it
    #[arg(long, value_name = "N", conflicts_with = "device")]
    device_fd: Option<RawFd>,

    /// The descriptor's cache is bound already, by a daemon that is gone: take it over
    #[arg(long, requires = "device_fd")]
    restore: bool,

    /// Let systemd keep the device open, so that mounts survive a restart of this service
    ///
    /// The unit wants Type=notify, NotifyAccess=main, Restart=on-failure and
    /// FileDescriptorStoreMax=1; ondemandd.service beside the source is one. Requests wait until
    /// the service is back. What is cached is not fetched again; the prefetch of a blob goes on
    /// when a program misses something of it.
    #[arg(long, conflicts_with = "device_fd")]
    pub keep_device: bool,
}

/// Reports.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reports")]
pub struct ReportArgs {
    /// Write the line "ready" to this descriptor when mounts work
    ///
    /// systemd is told in its own way (Type=notify) without this.
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<RawFd>,

    /// Write the counters to this file, as JSON, on SIGUSR1 and at the end
    #[arg(long = "stats", value_name = "FILE")]
    pub stats_file: Option<PathBuf>,

    /// The least important messages to log: error, warn, info, debug (every request), trace, off
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: LevelFilter,

    /// The form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log_format: LogFormat,
}

/// The two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// That of Linux 5.19 to 7.2.
    Mainline,
    /// That of the posted series.
    V5,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Cli {
    /// The cache's settings.
    pub fn cache_config(&self) -> CacheConfig {
        let levels = |run: u8, cull: u8, stop: u8| Levels {
            run: run.into(),
            cull: cull.into(),
            stop: stop.into(),
        };
        let c = &self.cache;
        CacheConfig {
            dir: self.dir.clone(),
            tag: c.tag.clone(),
            files: levels(c.frun, c.fcull, c.fstop),
            blocks: levels(c.brun, c.bcull, c.bstop),
            secctx: c.secctx.clone(),
        }
    }

    /// The protocol to bind with.
    pub fn layout(&self) -> Layout {
        match self.cache.protocol {
            Protocol::Mainline => Layout::Mainline,
            Protocol::V5 => Layout::V5,
        }
    }

    /// Where the device comes from.
    pub fn origin(&self) -> Origin {
        match (self.device.device_fd, self.device.keep_device) {
            (Some(fd), _) => Origin::Inherited(fd),
            (None, true) => Origin::Stored(self.device.device.clone()),
            (None, false) => Origin::Path(self.device.device.clone()),
        }
    }

    /// How it gets into service, unless systemd kept it.
    pub fn start(&self) -> Start {
        if self.device.restore {
            Start::Restore
        } else {
            Start::Bind
        }
    }
}

/// The kernel takes the directory as the rest of a line, and looks it up from the daemon's own
/// root and working directory: an absolute path means the same in every process.
fn directory(text: &str) -> Result<PathBuf, String> {
    let text = line(text)?;
    std::path::absolute(text).map_err(|e| e.to_string())
}

/// An argument that fits on a command line of the kernel's.
fn line(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty".into()),
        t if t.contains('\n') => Err("a line break cannot be told to the kernel".into()),
        t if t.starts_with(|c: char| c.is_ascii_whitespace()) => {
            Err("the kernel would skip the space at its beginning".into())
        }
        t => Ok(t.into()),
    }
}

fn policy(text: &str) -> Result<Policy, String> {
    match text.split_once('=') {
        None if text == "off" => Ok(Policy::Off),
        None if text == "all" => Ok(Policy::All),
        Some(("ranges", file)) => match RangeList::read(file.as_ref()) {
            Ok(list) => Ok(Policy::Ranges(list)),
            Err(error) => {
                use std::error::Error;
                let cause = error.source().map(|s| format!(": {s}")).unwrap_or_default();
                Err(format!("{file}: {error}{cause}"))
            }
        },
        _ => Err("it is none of off, all, ranges=FILE".into()),
    }
}

fn rate(text: &str) -> Result<ByteSize, String> {
    match text.parse::<ByteSize>()? {
        ByteSize(0) => Err("to prefetch nothing say --prefetch off".into()),
        rate => Ok(rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(more: &[&str]) -> Result<Cli, clap::Error> {
        let args = ["ondemandd", "--dir", "/cache", "--blobs", "/blobs"];
        Cli::try_parse_from(args.iter().chain(more))
    }

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_kernels() {
        let cli = parse(&[]).unwrap();
        assert_eq!(cli.cache_config(), CacheConfig::new("/cache"));
        assert_eq!(cli.origin(), Origin::Path(DEVICE_PATH.into()));
        assert_eq!(cli.start(), Start::Bind);
        assert!(matches!(cli.prefetch.policy, Policy::Off));
        assert_eq!(cli.layout(), Layout::Mainline);
        assert!(!cli.cache.no_cull && parse(&["--no-cull"]).unwrap().cache.no_cull);
    }

    #[test]
    fn there_are_two_protocols() {
        let layout = |name| parse(&["--protocol", name]).map(|cli| cli.layout());
        assert_eq!(layout("mainline").ok(), Some(Layout::Mainline));
        assert_eq!(layout("v5").ok(), Some(Layout::V5));
        assert!(layout("v6").is_err());
    }

    #[test]
    fn a_cache_directory_becomes_absolute() {
        let cli = Cli::try_parse_from(["ondemandd", "--dir", "c", "--blobs", "b"]).unwrap();
        assert!(cli.dir.is_absolute());
        assert!(parse(&["--tag", "a\nbind ondemand"]).is_err());
        assert!(parse(&["--tag", ""]).is_err());
        assert!(parse(&["--secctx", " x"]).is_err());
    }

    #[test]
    fn prefetch_takes_its_three_forms() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("list");
        std::fs::write(&file, "a 0 4096\n").unwrap();
        let ranges = format!("ranges={}", file.display());
        let policy = |what: &str| parse(&["--prefetch", what]).map(|c| c.prefetch.policy);
        assert!(matches!(policy("all"), Ok(Policy::All)));
        assert!(matches!(policy("off"), Ok(Policy::Off)));
        assert!(matches!(policy(&ranges), Ok(Policy::Ranges(_))));
        for wrong in ["some", "ranges", "ranges=/nonexistent", "all=1"] {
            assert!(policy(wrong).is_err(), "{wrong}");
        }
        std::fs::write(&file, "a 0\n").unwrap();
        assert!(policy(&ranges).unwrap_err().to_string().contains("line 1"));
        assert!(parse(&["--prefetch-rate", "0"]).is_err());
        assert!(parse(&["--prefetch-rate", "10MB"]).is_ok());
    }

    #[test]
    fn a_takeover_needs_a_descriptor() {
        assert!(parse(&["--restore"]).is_err());
        let cli = parse(&["--device-fd", "5", "--restore"]).unwrap();
        assert_eq!(
            (cli.origin(), cli.start()),
            (Origin::Inherited(5), Start::Restore)
        );
        assert!(parse(&["--device-fd", "5", "--keep-device"]).is_err());
    }
}
