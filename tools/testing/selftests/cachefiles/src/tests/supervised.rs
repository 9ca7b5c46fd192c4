// SPDX-License-Identifier: GPL-2.0

//! The real daemon dies at every moment, under a supervisor that keeps the device: readers wait,
//! and get every byte right.  These are cases of the group `failover`.

use crate::{
    blob::{pattern, Blob},
    claim::claims,
    helper::Helper,
    image::{Image, BLOCK},
    ktap::in_ci,
    lab::{Cache, Lab},
    mount::Mount,
    patience::patiently,
    protocol::spoken,
    stage::expect_error,
    supervisor::{Event, Hand, Supervisor},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{Device, Errno, Layout};
use rustix::fs::{fadvise, fstat, stat, Advice};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const SEED: u64 = 5;
/// Chunks of a megabyte.
const CHUNK_LOG2: u16 = 8;
const CHUNK: u64 = BLOCK << CHUNK_LOG2;

/// A directory of blobs, for a daemon that serves files; it goes when dropped.
struct Blobs {
    dir: PathBuf,
    blob: Blob,
}

impl Blobs {
    /// The image `meta`, whose one file, `file`, has so many chunks in the blob `blob`.
    fn new(lab: &Lab, chunks: u32) -> Result<Blobs> {
        let dir = lab.base().join(format!("blobs-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let blob = Blob::Pattern {
            seed: SEED,
            size: u64::from(chunks) * CHUNK,
        };
        let places: Vec<(u16, u32)> = (0..chunks).map(|chunk| (1, chunk << CHUNK_LOG2)).collect();
        let image = Image::new().device("blob").file("file", CHUNK_LOG2, places);
        image.build().save(&dir.join("meta"))?;
        blob.save(&dir.join("blob"))?;
        Ok(Blobs { dir, blob })
    }
}

impl Drop for Blobs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The scene.  What is declared first goes first.
struct Scene {
    mount: Mount,
    supervisor: Supervisor,
    cache: Cache,
    blobs: Blobs,
}

impl Scene {
    /// A daemon with these options that keeps its device, and the image mounted.
    fn new(lab: &Lab, chunks: u32, options: &[&str]) -> Result<Scene> {
        let blobs = Blobs::new(lab, chunks)?;
        let cache = lab.cache()?;
        let mut supervisor = Supervisor::new(lab, cache.dir(), &blobs.dir, options)?;
        supervisor.start(Hand::Store)?;
        supervisor.until(|event| *event == Event::Ready)?;
        ensure!(supervisor.stored().is_some(), "ready, but no device stored");
        let mount = Mount::new(lab.base(), "meta")?;
        Ok(Scene {
            mount,
            supervisor,
            cache,
            blobs,
        })
    }

    fn file(&self) -> PathBuf {
        self.mount.path("file")
    }

    /// The whole file must be right.
    fn expect_all(&mut self) -> Result<()> {
        let file = self.file();
        self.supervisor
            .attend(thread::spawn(move || expect_pattern(&file)))
    }

    /// What the cache claims to have of the blob must be right; how much that is.
    fn expect_claims(&self) -> Result<u64> {
        let mut bytes = 0;
        for claim in claims(self.cache.dir())? {
            if claim.key == "blob" {
                ensure!(claim.valid, "the cache file is not valid");
                claim.compare(&self.blobs.blob)?;
                bytes += claim.bytes();
            }
        }
        Ok(bytes)
    }

    /// Unmounts, and ends the daemon well; nothing may have gone wrong in any of its lives.
    fn finish(mut self) -> Result<()> {
        self.mount.unmount()?;
        self.supervisor.stop()?;
        let complaints = &self.supervisor.tally.complaints;
        ensure!(
            complaints.is_empty(),
            "the daemon said:\n{}",
            complaints.join("\n")
        );
        Ok(())
    }
}

/// A process that reads at random until it is told to end.
fn reader(file: &Path, number: u64) -> Result<Helper> {
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::piped());
    let (file, pattern, seed) = (file.to_string_lossy(), SEED.to_string(), number.to_string());
    Helper::start_as_is(command, &["read-pattern", &file, &pattern, &seed])
}

/// Compares a whole file with the pattern.
fn expect_pattern(file: &Path) -> Result<()> {
    let file = File::open(file)?;
    let size = file.metadata()?.len();
    let (mut got, mut want) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
    for at in (0..size).step_by(CHUNK as usize) {
        file.read_exact_at(&mut got, at)?;
        pattern(SEED, at, &mut want);
        ensure!(got == want, "wrong data in the chunk at {at}");
    }
    Ok(())
}

/// When a daemon is to be killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// As soon as it has taken over.
    TakenOver,
    /// It has said that it is ready.
    Ready,
    /// It has read an OPEN.
    AskedOpen,
    /// It has answered an OPEN, and written nothing yet.
    Opened,
    /// It has read so many READs.
    Asked(u32),
    /// It has written the data of so many READs, and not answered the last.
    Served(u32),
}

impl Moment {
    fn at_random(random: &mut fastrand::Rng) -> Moment {
        match random.u32(..16) {
            0 => Moment::TakenOver,
            1 => Moment::Ready,
            2 => Moment::AskedOpen,
            3..5 => Moment::Opened,
            5..10 => Moment::Asked(random.u32(1..24)),
            _ => Moment::Served(random.u32(1..24)),
        }
    }

    /// Waits for it.
    fn wait(self, supervisor: &mut Supervisor) -> Result<()> {
        let (mut asked, mut served) = (0, 0);
        supervisor.until(|event| match (self, event) {
            (Moment::TakenOver, Event::TakenOver)
            | (Moment::Ready, Event::Ready)
            | (Moment::AskedOpen, Event::AskedOpen(_))
            | (Moment::Opened, Event::Opened) => true,
            (Moment::Asked(count), Event::AskedRead(_)) => {
                asked += 1;
                asked >= count
            }
            (Moment::Served(count), Event::Served) => {
                served += 1;
                served >= count
            }
            _ => false,
        })?;
        Ok(())
    }
}

/// The daemon is killed 200 times while 16 processes read from an image that is never whole: each
/// of them waits, none gets an error, every byte is right; and afterwards every byte that the
/// cache claims to have is right too.
pub fn killed_200_times(lab: &Lab) -> Result<()> {
    // In v5, which is the same but for the words, a quarter of them unless there is time.
    let kills = match spoken() {
        Layout::V5 if !in_ci() => 50,
        _ => 200,
    };
    let start = Instant::now();
    let mut scene = Scene::new(lab, 64, &[])?;
    println!("the scene is set after {} s", start.elapsed().as_secs());
    let readers = (0..16)
        .map(|number| reader(&scene.file(), number)?.ready())
        .collect::<Result<Vec<_>>>()?;
    let mut random = fastrand::Rng::with_seed(1);
    let supervisor = &mut scene.supervisor;
    Moment::Served(20).wait(supervisor)?;
    supervisor.kill()?;
    while supervisor.tally.kills < kills {
        let hand = if random.bool() {
            Hand::Store
        } else {
            Hand::Number
        };
        supervisor.start(hand)?;
        let moment = Moment::at_random(&mut random);
        moment
            .wait(supervisor)
            .with_context(|| format!("life {}, {moment:?}", supervisor.tally.kills))?;
        supervisor.kill()?;
        if supervisor.tally.kills % 50 == 0 {
            let (kills, seconds) = (supervisor.tally.kills, start.elapsed().as_secs());
            println!("{kills} kills in {seconds} s");
        }
    }
    supervisor.start(Hand::Store)?;
    Moment::Served(20).wait(supervisor)?;
    let reads = supervisor.attend(thread::spawn(move || {
        let mut reads = 0;
        for mut reader in readers {
            reader.hang_up();
            let said = reader.finish(patiently(Duration::from_secs(20)))?;
            let count = said
                .strip_prefix("ok ")
                .and_then(|count| count.parse::<u64>().ok());
            reads += count.with_context(|| format!("a reader said: {said}"))?;
        }
        Ok(reads)
    }))?;
    let tally = &scene.supervisor.tally;
    println!(
        "{} kills; {} OPENs and {} READs taken, {} of them again after a kill; {} READs served, \
         {} cut short; 16 readers compared {reads} ranges",
        tally.kills, tally.opens, tally.reads, tally.again, tally.served, tally.cut_short
    );
    // Half of what the first runs had: less would prove little.
    let least = 4 * u64::from(kills);
    ensure!(reads >= least, "the readers compared {reads} ranges only");
    ensure!(
        tally.again >= least,
        "{} requests were cut short",
        tally.again
    );
    scene.mount.unmount()?;
    scene.expect_claims()?;
    scene.mount = Mount::new(lab.base(), "meta")?;
    scene.expect_all()?;
    scene.finish()
}

/// A thread that reads one block, the first of a chunk.
fn read_chunk_start(file: &Path, chunk: u64) -> JoinHandle<Result<()>> {
    let file = file.to_owned();
    thread::spawn(move || {
        let file = File::open(file)?;
        fadvise(&file, 0, None, Advice::Random)?;
        let (mut got, mut want) = (vec![0; BLOCK as usize], vec![0; BLOCK as usize]);
        file.read_exact_at(&mut got, chunk * CHUNK)?;
        pattern(SEED, chunk * CHUNK, &mut want);
        ensure!(got == want, "wrong data at the start of chunk {chunk}");
        Ok(())
    })
}

fn join(reader: JoinHandle<Result<()>>) -> Result<()> {
    reader.join().ok().context("a reader panicked")?
}

/// A step of the daemon's at which strace kills it, before the step is done; and how many OPENs it
/// has then read and answered, READs read, and READs whose data it has written.
struct Step {
    what: &'static str,
    inject: &'static str,
    path: &'static str,
    done: (u64, u64, u64, u64),
}

/// The steps, in their order.
fn steps() -> [Step; 4] {
    let (answer, through) = match spoken() {
        Layout::Mainline => ("inject=ioctl:signal=KILL:when=1", ANON),
        // Of the thread that has answered the OPEN; strace counts by threads.
        Layout::V5 => ("inject=write:signal=KILL:when=2", "/dev/cachefiles"),
    };
    [
        Step {
            what: "takes over",
            inject: "inject=write:signal=KILL:when=1",
            path: "/dev/cachefiles",
            done: (0, 0, 0, 0),
        },
        Step {
            what: "opens the blob of an OPEN",
            inject: "inject=openat:signal=KILL:when=1",
            path: "blob",
            done: (1, 0, 0, 0),
        },
        Step {
            what: "writes the first data after an OPEN",
            inject: "inject=pwrite64:signal=KILL:when=1",
            path: ANON,
            done: (1, 1, 1, 0),
        },
        Step {
            what: "answers a READ whose data are written",
            inject: answer,
            path: through,
            done: (1, 1, 1, 1),
        },
    ]
}

/// What /proc calls an anonymous fd of an object.
const ANON: &str = "anon_inode:[cachefiles]";

/// The daemon is killed in the middle of each step of its work; the reader waits for the next
/// daemon, which is asked again for what the dead one left undone.
pub fn killed_at_each_step(lab: &Lab) -> Result<()> {
    let steps = steps();
    let mut scene = Scene::new(lab, steps.len() as u32 + 1, &["--threads", "1"])?;
    let file = scene.file();
    let supervisor = &mut scene.supervisor;
    // Nothing that a mount does later is among the steps.
    join(read_chunk_start(&file, steps.len() as u64))?;
    supervisor.kill()?;
    for (chunk, step) in (0..).zip(&steps) {
        let reader = read_chunk_start(&file, chunk);
        let count = |s: &Supervisor| (s.tally.opens, s.tally.opened, s.tally.reads, s.tally.served);
        let before = count(supervisor);
        let strace = ["strace", "-f", "-qq", "--kill-on-exit", "-o", "/dev/null"];
        let strace = [&strace[..], &["-P", step.path, "-e", step.inject]].concat();
        supervisor.start_under(&strace, Hand::Store)?;
        let status = supervisor.wait()?;
        let after = count(supervisor);
        let done = (
            after.0 - before.0,
            after.1 - before.1,
            after.2 - before.2,
            after.3 - before.3,
        );
        ensure!(
            supervisor.was_killed(status) && done == step.done,
            "{}: {status}, having done {done:?}; at last it said:\n{}",
            step.what,
            supervisor.last()
        );
        ensure!(
            !reader.is_finished(),
            "{}: the reader did not wait",
            step.what
        );
        supervisor.start(Hand::Store)?;
        join(reader).context(step.what)?;
        supervisor.kill()?;
    }
    supervisor.start(Hand::Store)?;
    scene.expect_all()?;
    scene.finish()
}

/// The device outlives its daemon in a store like systemd's; only a daemon that it is meant for
/// takes it from there, and the image stays mounted.
pub fn device_in_the_fd_store(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, 3, &[])?;
    let file = scene.file();
    let supervisor = &mut scene.supervisor;
    let stored = supervisor.stored().context("no device was stored")?;
    let (stored, device) = (fstat(stored)?, stat("/dev/cachefiles")?);
    ensure!(
        stored.st_rdev == device.st_rdev,
        "what was stored is not the device"
    );
    supervisor.kill()?;
    expect_error(Device::open(), Errno::BUSY, "opening a device that is kept")?;
    for hand in [Hand::Misnamed, Hand::Misdirected] {
        supervisor.start(hand)?;
        let status = supervisor.wait()?;
        ensure!(
            status.code() == Some(1),
            "{hand:?}: the daemon ended with {status}"
        );
        let complaints = std::mem::take(&mut supervisor.tally.complaints).join("\n");
        let told = complaints.contains("another daemon has it open");
        ensure!(told, "{hand:?}: the daemon said: {complaints}");
    }
    for (chunk, hand) in [Hand::Store, Hand::Number].into_iter().enumerate() {
        let reader = read_chunk_start(&file, chunk as u64);
        supervisor.start(hand)?;
        // What is bound is not bound again.  The log and the notification come by two ways.
        let (mut taken_over, mut ready) = (false, false);
        supervisor.until(|event| {
            taken_over |= *event == Event::TakenOver;
            ready |= *event == Event::Ready;
            taken_over && ready
        })?;
        join(reader)?;
        // `systemctl restart` is no crash, and nobody notices it either.
        supervisor.stop()?;
    }
    supervisor.start(Hand::Store)?;
    scene.expect_all()?;
    scene.finish()
}

/// A daemon that dies in the middle of prefetching a blob leaves what it has; the next one goes on
/// when the blob is opened again, and fetches only what is missing.
pub fn prefetch_goes_on(lab: &Lab) -> Result<()> {
    const CHUNKS: u32 = 12;
    let mut scene = Scene::new(
        lab,
        CHUNKS,
        &["--prefetch", "all", "--prefetch-rate", "20MiB"],
    )?;
    let file = scene.file();
    let supervisor = &mut scene.supervisor;
    while supervisor.tally.prefetched < 3 * CHUNK {
        supervisor.event()?;
    }
    supervisor.kill()?;
    // All that it has told of.
    let first = supervisor.tally.prefetched;
    let reader = read_chunk_start(&file, u64::from(CHUNKS) - 1);
    supervisor.start(Hand::Store)?;
    supervisor.until(|event| *event == Event::PrefetchEnded)?;
    let bytes = supervisor.tally.prefetched;
    join(reader)?;
    println!(
        "{first} bytes prefetched before the kill, {} after it",
        bytes - first
    );
    let size = scene.blobs.blob.size();
    // The chunk under way at the kill is not in the log; the block that was read was not prefetched;
    // and the image's metadata are prefetched too.
    ensure!(
        (size - CHUNK - BLOCK..=size + CHUNK).contains(&bytes),
        "{bytes} bytes were prefetched of {size}"
    );
    let reads = supervisor.tally.reads;
    scene.expect_all()?;
    let more = scene.supervisor.tally.reads - reads;
    ensure!(more == 0, "{more} READs of what was prefetched");
    scene.finish()
}
