// SPDX-License-Identifier: GPL-2.0

//! What a read and a fill cost, on both modules in one boot.
//!
//! In a VM whose clock counts instructions (`scripts/vm --icount`), so that a figure is
//! instructions and nothing else that the machine does counts; and with a priority that keeps the
//! scheduler from preempting the reader now and then for a worker that it has just woken, which
//! costs more than all that is measured here.  Lives here: what is measured, and the table.  Never
//! here: a judgement.

use crate::{
    backing::Backing,
    blob::{pattern, Blob},
    cachefilesd::{settle, Counters, Keeper},
    caller::{self, Caller},
    daemon::{Blobs, Daemon},
    kernel::{run, Module},
    lab::Lab,
    mount::Mount,
    remote::{Client, Kind, Remote},
};
use anyhow::{ensure, Context, Result};
use rustix::{
    fs::{fadvise, Advice},
    time::{clock_gettime, ClockId},
};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Bytes of the file that is read.
const SIZE: usize = 16 << 20;
/// MiB of the disk of a cache that the netfs fills: what a RAM disk can have. What is to spare on a
/// smaller one others could have taken within two or three ticks of the clock, by our module's
/// reckoning.
const DISK: u64 = 500;
/// A small read, and a large one.
const SMALL: usize = 4 << 10;
const LARGE: usize = 128 << 10;
/// How many small reads are measured; scattered over the file.
const SCATTERED: usize = 1000;
/// How often everything is measured, and how often what is cached is read then, of which the least
/// counts.
const ROUNDS: usize = 5;
const PASSES: usize = 3;
/// How many files fill the cache in a round, and how many reads are added up to one figure. The
/// median counts: what the network stack does is not the same twice.
const FILLS: u64 = 6;
const TOGETHER: usize = 8;

/// How many files are written.
const WRITTEN: u64 = 3;

/// Which of the rounds counts.
enum Of {
    /// The one with the least: the others have met a timer, or memory that was not as easily found.
    Least,
    /// The one in the middle: whether an answer is there before anybody has to sleep for it depends
    /// on what else the server's machine does, and one round can be lucky.
    Median,
}

/// What is measured, in this order.
const ROWS: [(&str, Of); 12] = [
    ("on demand, 4 KiB scattered, missed", Of::Least),
    ("on demand, 4 KiB scattered, cached", Of::Least),
    ("on demand, 128 KiB in a row, missed", Of::Least),
    ("on demand, 128 KiB in a row, cached", Of::Least),
    ("NFS, 128 KiB in a row, filling the cache", Of::Median),
    ("NFS, 128 KiB in a row, cached", Of::Least),
    ("NFS, 4 KiB scattered, cached", Of::Least),
    ("9P, 128 KiB written through to both", Of::Median),
    ("the cache alone, 128 KiB stored", Of::Least),
    ("the cache alone, 128 KiB rewritten", Of::Least),
    ("the cache alone, 128 KiB read", Of::Least),
    ("the cache alone, 4 KiB rewritten", Of::Least),
];

type Figures = [u64; ROWS.len()];

/// Measures, and prints the table.
pub fn bench() -> Result<()> {
    let lab = Lab::new()?;
    let image = make_image(lab.base())?;
    let mut measured: [Vec<Figures>; 2] = Default::default();
    for round in 0..ROUNDS {
        let modules = [lab.our_module()?, lab.peer_module()?];
        // Each is the first as often as the other: who comes later finds the server warm, and the
        // memory used.
        for which in [round % 2, 1 - round % 2] {
            measured[which].push(measure(&lab, &modules[which], &image)?);
        }
    }
    println!(
        "{:42} {:>9} {:>9} {:>6}",
        "instructions a read", "ours", "C", "ratio"
    );
    for (at, (row, of)) in ROWS.iter().enumerate() {
        let figure = |rounds: &[Figures]| {
            let figures = rounds.iter().map(|figures| figures[at]);
            match of {
                Of::Least => figures.min().context("no round"),
                Of::Median => median(figures),
            }
        };
        let (ours, peers) = (figure(&measured[0])?, figure(&measured[1])?);
        let ratio = ours as f64 / peers as f64;
        println!("{row:42} {ours:9} {peers:9} {ratio:6.3}");
    }
    lab.close()
}

fn make_image(base: &Path) -> Result<Blob> {
    let (dir, image) = (base.join("bench"), base.join("bench.erofs"));
    fs::create_dir_all(&dir)?;
    let mut bytes = vec![0; SIZE];
    pattern(1, 0, &mut bytes);
    fs::write(dir.join("file"), &bytes)?;
    let (image_name, dir_name) = (image.to_string_lossy(), dir.to_string_lossy());
    run(
        "mkfs.erofs",
        &["--quiet", "-Enoinline_data", &image_name, &dir_name],
    )?;
    fs::remove_dir_all(&dir)?;
    Ok(Blob::file(&image)?)
}

fn measure(lab: &Lab, module: &Path, image: &Blob) -> Result<Figures> {
    let _module = Module::load(module)?;
    let mut figures = [0; ROWS.len()];
    let demand = |scattered| -> Result<[u64; 2]> {
        let fs = Backing::ext4(lab.base(), 0, 128)?;
        let daemon = Daemon::start(fs.dir(), Blobs::new().with("image", image.clone()))?;
        let mount = Mount::new(lab.base(), "image")?;
        let missed = read(&mount.path("file"), scattered)?;
        let reads = daemon.reads();
        ensure!(reads > 0, "nothing was missed");
        let cached = least(&mount.path("file"), scattered)?;
        ensure!(daemon.reads() == reads, "what is cached was missed");
        Ok([missed, cached])
    };
    [figures[0], figures[1]] = demand(true)?;
    [figures[2], figures[3]] = demand(false)?;
    [figures[4], figures[5], figures[6]] = nfs(lab)?;
    figures[7] = ninep(lab)?;
    figures[8..].copy_from_slice(&alone(lab)?);
    Ok(figures)
}

/// What the cache itself takes for what a netfs asks of it, with nothing else on the way: the
/// median for each.
fn alone(lab: &Lab) -> Result<[u64; 4]> {
    let fs = Backing::ext4(lab.base(), 0, DISK)?;
    let mut keeper = Keeper::plain(fs.dir())?;
    let caller = Caller::load(lab)?;
    let large = || ranges(LARGE as u64);
    let mut spent: [Vec<u64>; 4] = Default::default();
    for _ in 0..TOGETHER {
        // An empty file takes the place of the one that is there.
        caller.invalidate()?;
        for range in large() {
            caller.write(range)?;
            spent[0].push(caller.spent()?);
        }
        for range in large() {
            caller.rewrite(range)?;
            spent[1].push(caller.spent()?);
        }
        for range in large() {
            caller.read(range)?;
            spent[2].push(caller.spent()?);
        }
        for range in ranges(SMALL as u64) {
            caller.rewrite(range)?;
            spent[3].push(caller.spent()?);
        }
    }
    drop(caller);
    keeper.stop()?;
    let mut figures = [0; 4];
    for (figure, spent) in figures.iter_mut().zip(spent) {
        *figure = median(spent.into_iter())?;
    }
    Ok(figures)
}

/// The file of the netfs that is told what to do, in pieces.
fn ranges(len: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..caller::SIZE / len).map(move |n| n * len..(n + 1) * len)
}

fn nfs(lab: &Lab) -> Result<[u64; 3]> {
    let fs = Backing::ext4(lab.base(), 0, DISK)?;
    let mut keeper = Keeper::plain(fs.dir())?;
    let remote = Remote::new(lab, Kind::Nfs(3))?;
    let mut bytes = vec![0; SIZE];
    pattern(1, 0, &mut bytes);
    for n in 0..FILLS {
        fs::write(remote.path(&n.to_string()), &bytes)?;
    }
    let mut client: Client = remote.mount()?;
    let file = |n: u64| client.path(&n.to_string());
    let mut fills = Vec::new();
    for n in 0..FILLS {
        fills.extend(time(&file(n), false)?);
    }
    let fill = median(fills.chunks(TOGETHER).map(|some| some.iter().sum()))?;
    let fill = fill / TOGETHER as u64;
    let file = file(0);
    let before = Counters::now()?;
    let cached = [least(&file, false)?, least(&file, true)?];
    let moved = Counters::now()?.since(&before);
    ensure!(
        moved.get("DownOps.DL") == 0 && moved.get("IO.rd") > 0,
        "not all came from the cache: {moved:?}"
    );
    client.unmount()?;
    drop(remote);
    keeper.stop()?;
    Ok([fill, cached[0], cached[1]])
}

/// What a process takes to write and to sync, which has it issue the writes to the server and to the
/// cache: the median. The server is another machine, and while it works the clock of ours jumps; so
/// this is the time of the thread alone.
fn ninep(lab: &Lab) -> Result<u64> {
    let fs = Backing::ext4(lab.base(), 0, DISK)?;
    let mut keeper = Keeper::plain(fs.dir())?;
    let remote = Remote::new(lab, Kind::NineP)?;
    let mut client = remote.mount()?;
    let mut bytes = vec![0; SIZE];
    pattern(1, 0, &mut bytes);
    let mut spent = Vec::new();
    for n in 0..WRITTEN {
        let file = File::create(client.path(&n.to_string()))?;
        let before = Counters::now()?;
        for (at, part) in (0..).step_by(LARGE).zip(bytes.chunks(LARGE)) {
            let start = clock_gettime(ClockId::ThreadCPUTime);
            file.write_all_at(part, at)?;
            file.sync_data()?;
            spent.push(u64::try_from(
                Duration::try_from(clock_gettime(ClockId::ThreadCPUTime) - start)?.as_nanos(),
            )?);
        }
        settle()?;
        let moved = Counters::now()?.since(&before);
        ensure!(
            moved.get("IO.wr") >= (SIZE / LARGE) as i64,
            "not all was written to the cache: {moved:?}"
        );
        let server = fs::read(remote.path(&n.to_string()))?;
        ensure!(server == bytes, "the server has other bytes");
    }
    client.unmount()?;
    drop(remote);
    keeper.stop()?;
    median(spent.into_iter())
}

/// Instructions a read of the file, from the cache: the median of scattered reads, which are alike
/// but for a timer now and then, else the mean, because readahead makes one read do the work of the
/// next.
fn read(path: &Path, scattered: bool) -> Result<u64> {
    let spent = time(path, scattered)?;
    if scattered {
        return median(spent.into_iter());
    }
    Ok(spent.iter().sum::<u64>() / spent.len() as u64)
}

/// The least that reading the file takes in several passes: pages, and what else the kernel needs by
/// the way, are not as easily found each time.
fn least(path: &Path, scattered: bool) -> Result<u64> {
    let passes = (0..PASSES).map(|_| read(path, scattered));
    let passes = passes.collect::<Result<Vec<_>>>()?;
    passes.into_iter().min().context("no pass")
}

fn median(figures: impl Iterator<Item = u64>) -> Result<u64> {
    let mut figures: Vec<u64> = figures.collect();
    figures.sort_unstable();
    figures.get(figures.len() / 2).copied().context("no figure")
}

/// Reads the file, from the cache or the server and not from memory; the instructions of each read.
fn time(path: &Path, scattered: bool) -> Result<Vec<u64>> {
    let file = File::open(path)?;
    let (len, count) = match scattered {
        true => (SMALL, SCATTERED),
        false => (LARGE, SIZE / LARGE),
    };
    let advice = if scattered {
        Advice::Random
    } else {
        Advice::Sequential
    };
    fadvise(&file, 0, None, Advice::DontNeed)?;
    fadvise(&file, 0, None, advice)?;
    let mut got = vec![0; len];
    let mut want = vec![0; len];
    // Odd, so that it meets every block once.
    let place = |n: usize| match scattered {
        true => n * 1237 % (SIZE / SMALL) * SMALL,
        false => n * LARGE,
    };
    let mut spent = Vec::new();
    for n in 0..count {
        let at = place(n) as u64;
        let start = Instant::now();
        file.read_exact_at(&mut got, at)?;
        spent.push(u64::try_from(start.elapsed().as_nanos())?);
        pattern(1, at, &mut want);
        ensure!(got == want, "wrong bytes at {at}");
    }
    // What is still on its way into the cache belongs to the last of them.
    let start = Instant::now();
    while Counters::now()?.get("Objs.rr") > 0 {
        thread::sleep(Duration::from_micros(20));
    }
    if let Some(last) = spent.last_mut() {
        *last += u64::try_from(start.elapsed().as_nanos())?;
    }
    Ok(spent)
}
