// SPDX-License-Identifier: GPL-2.0

//! Network file systems under load: the File System eXerciser, and several writers at once that also
//! rename, link, remove and replace their files, as fsstress does, and whose files are compared with
//! what they have written; also on a cache that is too small, which a daemon culls meanwhile.
//!
//! What is done is drawn from a seed, which is printed: `CACHEFILES_SEED` gives it again.
//! `STRESS_TIMES` is how many times as much is done as by default.

use super::{
    netfs_files::{check_both, forget, publish, same, settle, PAGE},
    netfs_scene::{check, content, from_cache},
};
use crate::{
    blob::{pattern, Aligned},
    cachefilesd::{drop_pages, Counters, Keeper},
    group,
    kernel::drop_caches,
    ktap::in_ci,
    lab::Lab,
    remote::{Client, Kind, NoLeases, Remote},
};
use anyhow::{ensure, Context, Result};
use std::{
    env,
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

group!("netfs_stress":
    nfs4_fsx,
    nfs3_fsx,
    ninep_fsx,
    nfs4_writers,
    nfs3_writers,
    ninep_writers,
    nfs4_culled_under_writers,
    ninep_culled_under_writers,
    nfs4_daemon_killed_under_writers,
    ninep_daemon_killed_under_writers,
);

/// How many times as much is done where there is time.
fn times() -> Result<usize> {
    match env::var("STRESS_TIMES") {
        Ok(times) if !times.is_empty() => times.parse().context("STRESS_TIMES"),
        _ if in_ci() => Ok(20),
        _ => Ok(1),
    }
}

/// What a case draws from.
fn seed() -> Result<u64> {
    let seed = match env::var("CACHEFILES_SEED") {
        Ok(seed) if !seed.is_empty() => seed.parse()?,
        _ => fastrand::u64(..1 << 32),
    };
    println!("CACHEFILES_SEED={seed}");
    Ok(seed)
}

/// What fsx does, and how often beside the rest: pages are dropped often, so that the cache is read.
/// Allocating and punching is what neither of these file systems can.
const FSX: &str = "
flen = 262144
[opsize]
max = 40000
[weights]
close_open = 2
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 10
truncate = 4
fsync = 2
fdatasync = 1
sendfile = 2
posix_fadvise = 20
copy_file_range = 2
";

/// Where it finds that.
const CONFIG: &str = "fsx.toml";

/// fsx knows after each operation what its file must be.  In the end the server and the cache have it
/// as well.  NFS lets the cache be while a file is open for writing; 9P reads and writes it meanwhile.
fn fsx(lab: &Lab, kind: Kind) -> Result<()> {
    let cache = lab.cache_of(64)?;
    let remote = Remote::new(lab, kind)?;
    let _keeper = Keeper::plain(cache.dir())?;
    let seed = seed()?;
    let times = times()?;
    let (files, operations) = match kind {
        // One in thirty or so is never read from the cache.
        Kind::NineP => (times.max(4), 300),
        Kind::Nfs(_) => (times.div_ceil(10), 300 * times / times.div_ceil(10)),
    };
    fs::write(lab.base().join(CONFIG), FSX)?;
    let (mut reads, mut writes) = (0, 0);
    for part in 0..files {
        let moved = fsx_on(
            lab,
            &remote,
            &format!("file-{part}"),
            seed + part as u64,
            operations,
        )?;
        reads += moved.get("IO.rd");
        writes += moved.get("IO.wr");
    }
    println!("{files} files; the cache: {reads} reads, {writes} writes");
    ensure!(
        kind != Kind::NineP || (writes > 0 && reads > 0),
        "the cache was not used"
    );
    Ok(())
}

/// fsx on a new file.
fn fsx_on(
    lab: &Lab,
    remote: &Remote,
    name: &str,
    seed: u64,
    operations: usize,
) -> Result<Counters> {
    let mut client = remote.mount()?;
    let program = env::current_exe()?.with_file_name("fsx");
    let before = Counters::now()?;
    let output = Command::new(&program)
        .arg("-f")
        .arg(lab.base().join(CONFIG))
        .args(["-S", &seed.to_string(), "-N", &operations.to_string()])
        .arg("-P")
        .arg(lab.base())
        .arg(client.path(name))
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.display().to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().collect();
        let last = lines.len().saturating_sub(60);
        println!("{}", lines[last..].join("\n"));
    }
    ensure!(
        output.status.success(),
        "fsx, seed {seed}: {}",
        output.status
    );
    settle()?;
    let moved = Counters::now()?.since(&before);
    let bytes = fs::read(remote.path(name))?;
    for when in ["at the end", "again"] {
        check(&client.path(name), &bytes).context(when)?;
        drop_pages()?;
    }
    client.unmount()?;
    client = remote.mount()?;
    check(&client.path(name), &bytes).context("after another mount")?;
    settle()?;
    drop_caches()?;
    let before = Counters::now()?;
    check(&client.path(name), &bytes).context("at last")?;
    from_cache(&Counters::now()?.since(&before), bytes.len()).context("at last")?;
    client.unmount()?;
    Ok(moved)
}

fn nfs4_fsx(lab: &Lab) -> Result<()> {
    fsx(lab, Kind::Nfs(4))
}

fn nfs3_fsx(lab: &Lab) -> Result<()> {
    fsx(lab, Kind::Nfs(3))
}

fn ninep_fsx(lab: &Lab) -> Result<()> {
    fsx(lab, Kind::NineP)
}

/// How long a file may become.
const MOST: usize = 100 * PAGE;

/// A file, and what it must be.
struct Model {
    name: String,
    image: Vec<u8>,
}

/// One writer, with files of its own.
struct Writer {
    random: fastrand::Rng,
    /// A directory of its own.
    dir: String,
    models: Vec<Model>,
    written: u64,
    /// Names given.
    names: u64,
    /// Whether a file can be reached by a second name.  9P's client may use any name that it has been
    /// opened by, also one that is gone.
    links: bool,
}

impl Writer {
    fn new(remote: &Remote, number: usize, files: usize, seed: u64) -> Result<Writer> {
        let mut random = fastrand::Rng::with_seed(seed + number as u64);
        let mut models = vec![];
        let dir = format!("dir-{number}");
        fs::create_dir(remote.path(&dir))?;
        for file in 0..files {
            let name = format!("file-{number}-{file}");
            let image = content(random.u64(..), random.usize(MOST / 2..MOST));
            publish(remote, &name, &image)?;
            models.push(Model { name, image });
        }
        Ok(Writer {
            random,
            dir,
            models,
            written: 0,
            names: 0,
            links: remote.kind() != Kind::NineP,
        })
    }

    /// Does so many operations on one of the files.
    fn work(&mut self, client: &Path, operations: usize) -> Result<()> {
        let model = self.random.usize(..self.models.len());
        let mut file = open(&client.join(&self.models[model].name), 0)?;
        for _ in 0..operations {
            let drawn = self.random.u32(..100);
            let path = client.join(&self.models[model].name);
            match drawn {
                0..92 => self.one(&mut file, &path, model, drawn),
                _ => self.one_of_names(&mut file, client, model, drawn),
            }
            .with_context(|| format!("{}, drawn {drawn}", path.display()))?;
        }
        Ok(())
    }

    /// A name that no file has had.
    fn name(&mut self) -> String {
        self.names += 1;
        match self.random.bool() {
            true => format!("{}/{}", self.dir, self.names),
            false => format!("{}-{}", self.dir, self.names),
        }
    }

    /// Something that changes under which name the file is, or which file is under its name.
    fn one_of_names(
        &mut self,
        file: &mut File,
        client: &Path,
        model: usize,
        drawn: u32,
    ) -> Result<()> {
        let new = self.name();
        let (old_path, new_path) = (client.join(&self.models[model].name), client.join(&new));
        let fresh = content(self.random.u64(..), self.random.usize(..MOST));
        match drawn {
            92..94 if self.links => {
                fs::hard_link(&old_path, &new_path)?;
                fs::remove_file(&old_path)?;
                self.models[model].name = new;
            }
            92..96 => {
                fs::rename(&old_path, &new_path)?;
                self.models[model].name = new;
            }
            96..98 => {
                // The inode stays while it is open, and goes with what it has in the cache.
                fs::remove_file(&old_path)?;
                fs::write(&old_path, &fresh)?;
                *file = open(&old_path, 0)?;
                self.models[model].image = fresh;
            }
            _ => {
                fs::write(&new_path, &fresh)?;
                fs::rename(&new_path, &old_path)?;
                *file = open(&old_path, 0)?;
                self.models[model].image = fresh;
            }
        }
        Ok(())
    }

    fn one(&mut self, file: &mut File, path: &Path, model: usize, drawn: u32) -> Result<()> {
        let random = &mut self.random;
        let image = &mut self.models[model].image;
        let size = image.len();
        match drawn {
            0..40 => {
                let at = random.usize(..=size);
                let len = random.usize(..=(size - at).min(50_000));
                let mut got = vec![0; len];
                file.read_exact_at(&mut got, at as u64)?;
                same(&format!("read at {at}"), &got, &image[at..at + len])?;
            }
            40..65 => {
                let at = random.usize(..=(size + 2 * PAGE).min(MOST));
                let len = random.usize(..=(MOST - at).min(50_000));
                self.written += 1;
                let mut bytes = vec![0; len];
                pattern(random.u64(..), 0, &mut bytes);
                file.write_all_at(&bytes, at as u64)?;
                write(image, at, &bytes);
            }
            65..71 => {
                let size = random.usize(..MOST);
                file.set_len(size as u64)?;
                image.resize(size, 0);
            }
            71..76 => file.sync_all()?,
            76..82 => *file = open(path, 0)?,
            82..86 => {
                let at = random.usize(..=size / PAGE) * PAGE;
                let mut got = Aligned::new(random.usize(1..8) * PAGE);
                let direct = open(path, libc::O_DIRECT)?;
                let len = direct.read_at(&mut got, at as u64)?;
                let want = &image[at..size.min(at + got.len())];
                same(&format!("read directly at {at}"), &got[..len], want)?;
            }
            86..89 => {
                let at = random.usize(..90) * PAGE;
                let mut bytes = Aligned::new(random.usize(1..8) * PAGE);
                pattern(random.u64(..), 0, &mut bytes);
                open(path, libc::O_DIRECT)?.write_all_at(&bytes, at as u64)?;
                write(image, at, &bytes);
            }
            _ => forget(path)?,
        }
        Ok(())
    }

    /// All files are what they must be.
    fn compare(&self, client: &Client, remote: &Remote) -> Result<()> {
        for model in &self.models {
            check_both(client, remote, &model.name, &model.image)?;
        }
        Ok(())
    }
}

fn open(path: &Path, flags: i32) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags);
    options
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

/// Writes into an image, with zeros between its end and what is new.
fn write(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    image.resize(image.len().max(at + bytes.len()), 0);
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A cache whose daemon is killed again and again.
struct Killed<'a> {
    keeper: &'a mut Keeper,
    dir: &'a Path,
    random: fastrand::Rng,
    kills: u32,
}

impl Killed<'_> {
    /// For a while there is no cache, and for a while there is one.
    fn once(&mut self) -> Result<()> {
        self.keeper.kill()?;
        thread::sleep(Duration::from_millis(self.random.u64(..200)));
        *self.keeper = Keeper::start(self.dir)?;
        self.kills += 1;
        thread::sleep(Duration::from_millis(self.random.u64(..400)));
        Ok(())
    }
}

/// All writers at once, while the pages are taken out of memory again and again, and read again of
/// files that nobody writes to; maybe also while the daemon is killed.
fn all_at_once(
    client: &Path,
    writers: &mut [Writer],
    operations: usize,
    unwritten: &[Model],
    killed: Option<&mut Killed<'_>>,
) -> Result<()> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let dropper = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::SeqCst) {
                drop_pages()?;
                for model in unwritten {
                    check(&client.join(&model.name), &model.image)?;
                }
                thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        });
        let killer = scope.spawn(|| -> Result<()> {
            let Some(killed) = killed else { return Ok(()) };
            while !over.load(Ordering::SeqCst) {
                killed.once()?;
            }
            Ok(())
        });
        let at_work: Vec<_> = writers
            .iter_mut()
            .map(|writer| scope.spawn(|| writer.work(client, operations)))
            .collect();
        let results: Vec<_> = at_work.into_iter().map(|thread| thread.join()).collect();
        over.store(true, Ordering::SeqCst);
        for result in results.into_iter().chain([dropper.join(), killer.join()]) {
            result.ok().context("a thread panicked")??;
        }
        Ok(())
    })
}

/// What becomes of the daemon while there are writers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Daemon {
    Stays,
    IsKilled,
}

/// Writers whose cache is so large, in several mounts.
fn writers(
    lab: &Lab,
    kind: Kind,
    (mib, daemon): (u64, Daemon),
    files: usize,
    rounds: usize,
) -> Result<()> {
    let _no_leases = NoLeases::begin()?;
    let cache = lab.cache_of(mib)?;
    let remote = Remote::new(lab, kind)?;
    let mut keeper = Keeper::start(cache.dir())?;
    let seed = seed()?;
    let before = Counters::now()?;
    let mut writers = (0..4)
        .map(|number| Writer::new(&remote, number, files, seed))
        .collect::<Result<Vec<_>>>()?;
    let unwritten = ["unwritten-1", "unwritten-2"].map(|name| Model {
        name: name.to_owned(),
        image: content(seed, MOST / 2 + name.len()),
    });
    for Model { name, image } in &unwritten {
        publish(&remote, name, image)?;
    }
    let mut killed = Killed {
        keeper: &mut keeper,
        dir: cache.dir(),
        random: fastrand::Rng::with_seed(seed),
        kills: 0,
    };
    for round in 0..rounds {
        let mut client = remote.mount()?;
        let dir: PathBuf = client.dir().to_owned();
        let operations = 30 * times()?;
        let killed = (daemon == Daemon::IsKilled).then_some(&mut killed);
        all_at_once(&dir, &mut writers, operations, &unwritten, killed)?;
        settle()?;
        for when in ["at the end", "with the pages dropped", "again"] {
            for writer in &writers {
                let same = writer.compare(&client, &remote);
                same.with_context(|| format!("{when} of round {round}"))?;
            }
            settle()?;
            drop_caches()?;
        }
        client.unmount()?;
    }
    let kills = killed.kills;
    let moved = Counters::now()?.since(&before);
    let written: u64 = writers.iter().map(|writer| writer.written).sum();
    println!(
        "{written} cached writes; the cache: {} reads, {} writes, {} without space, {} files culled; \
         the daemon was killed {kills} times",
        moved.get("IO.rd"),
        moved.get("IO.wr"),
        moved.get("NoSpace.nwr"),
        moved.get("NoSpace.cull"),
    );
    ensure!(
        moved.get("IO.rd") > 0 && moved.get("IO.wr") > 0,
        "the cache was not used: {moved:?}"
    );
    ensure!(
        daemon == Daemon::Stays || kills > if in_ci() { 3 } else { 0 },
        "the daemon was killed {kills} times only"
    );
    // As short as a run by hand is, it may not come so far.
    let is_small = mib < 64 && in_ci();
    ensure!(
        !is_small || (moved.get("NoSpace.cull") > 0 && moved.get("NoSpace.nwr") > 0),
        "the cache was large enough: {moved:?}"
    );
    keeper.stop()
}

fn nfs4_writers(lab: &Lab) -> Result<()> {
    writers(lab, Kind::Nfs(4), (64, Daemon::Stays), 2, 1)
}

fn nfs3_writers(lab: &Lab) -> Result<()> {
    writers(lab, Kind::Nfs(3), (64, Daemon::Stays), 2, 1)
}

fn ninep_writers(lab: &Lab) -> Result<()> {
    writers(lab, Kind::NineP, (64, Daemon::Stays), 2, 1)
}

/// The files are larger than the cache, whose daemon culls what no mount uses.
fn nfs4_culled_under_writers(lab: &Lab) -> Result<()> {
    writers(lab, Kind::Nfs(4), (8, Daemon::Stays), 4, 2)
}

fn ninep_culled_under_writers(lab: &Lab) -> Result<()> {
    writers(lab, Kind::NineP, (8, Daemon::Stays), 4, 2)
}

fn nfs4_daemon_killed_under_writers(lab: &Lab) -> Result<()> {
    writers(lab, Kind::Nfs(4), (64, Daemon::IsKilled), 2, 1)
}

fn ninep_daemon_killed_under_writers(lab: &Lab) -> Result<()> {
    writers(lab, Kind::NineP, (64, Daemon::IsKilled), 2, 1)
}
