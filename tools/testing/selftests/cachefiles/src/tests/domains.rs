// SPDX-License-Identifier: GPL-2.0

//! Domains (`domain_id=`) and several mounts: images that share blobs, one image mounted twice,
//! and everything against everything at random.

use crate::{
    blob::{pattern, Blob},
    daemon::{Blobs, Manner},
    farm::FIELDS,
    group,
    helper::Helper,
    image::{Image, BLOCK},
    kernel::run,
    ktap::in_ci,
    lab::{eventually, Lab},
    layout,
    mount::{try_mount, Mount},
    patience::SOON,
    raw::errno,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Errno;
use rustix::{
    fs::{fadvise, Advice},
    mount::{mount_bind, unmount, UnmountFlags},
};
use std::{
    env, fmt,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        Arc, RwLock,
    },
    thread,
    time::{Duration, Instant},
};
use walkdir::WalkDir;

group!("domains":
    three_images_share_a_blob,
    one_fsid_in_two_domains,
    one_image_mounted_twice,
    image_as_a_device_of_another,
    unmounted_with_a_read_pending_for_the_other,
    unmounted_while_the_other_reads,
    mounts_unmounts_culls_and_exits,
);

/// Blocks of a blob here; each is a chunk of its own.
const BLOCKS: u32 = 16;
const SIZE: u64 = BLOCKS as u64 * BLOCK;

/// An image with a file for each device, `file-1`, `file-2`, ...
fn image(devices: &[&str]) -> Blob {
    let mut image = Image::new();
    for (device, number) in devices.iter().zip(1..) {
        let chunks: Vec<_> = (0..BLOCKS).map(|block| (number, block)).collect();
        image = image
            .device(*device)
            .file(format!("file-{number}"), 0, chunks);
    }
    image.build()
}

fn source(seed: u64) -> Blob {
    Blob::Pattern { seed, size: SIZE }
}

/// Reads a block of a file, from the cache and not from memory, and compares.
fn expect(file: &Path, seed: u64, block: u32) -> Result<()> {
    let mut want = vec![0; BLOCK as usize];
    pattern(seed, u64::from(block) * BLOCK, &mut want);
    expect_bytes(file, block, &want)
}

fn expect_bytes(path: &Path, block: u32, want: &[u8]) -> Result<()> {
    let file = File::open(path)?;
    fadvise(&file, 0, None, Advice::Random)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut got = vec![0; BLOCK as usize];
    file.read_exact_at(&mut got, u64::from(block) * BLOCK)
        .with_context(|| format!("{}, block {block}", path.display()))?;
    ensure!(
        got == want,
        "{}, block {block}: wrong bytes",
        path.display()
    );
    Ok(())
}

fn expect_all(file: &Path, seed: u64) -> Result<()> {
    (0..BLOCKS).try_for_each(|block| expect(file, seed, block))
}

/// How many cache files have this name.
fn files_named(cache: &Path, name: &str) -> usize {
    WalkDir::new(cache)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_name() == name)
        .count()
}

/// The shared blob is opened once, is fetched once, has one file, and is right through each image;
/// each image's own blob is its own.
fn three_images_share_a_blob(lab: &Lab) -> Result<()> {
    let mut blobs = Blobs::new().with("shared", source(1));
    for (name, seed) in [("one", 2), ("two", 3), ("three", 4)] {
        let own = format!("own-{name}");
        blobs = blobs
            .with(name, image(&["shared", &own]))
            .with(own, source(seed));
    }
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs)?;
    let mut mounts = vec![];
    for (name, seed) in [("one", 2), ("two", 3), ("three", 4)] {
        let mount = Mount::with(lab.base(), name, "domain_id=common")?;
        expect_all(&mount.path("file-2"), seed)?;
        let before = daemon.reads();
        expect_all(&mount.path("file-1"), 1).with_context(|| format!("through {name}"))?;
        let reads = daemon.reads() - before;
        ensure!(
            reads == 0 || name == "one",
            "{reads} READs for what another image has fetched"
        );
        mounts.push(mount);
    }
    // Three images, three blobs of their own, and the one that they share.
    ensure!(daemon.opens() == 7, "{} OPENs", daemon.opens());
    for mut mount in mounts {
        ensure!(daemon.opens() == 7, "{} OPENs", daemon.opens());
        mount.unmount()?;
    }
    eventually("a CLOSE for each OPEN", || daemon.closes() == 7)?;
    let file = layout::file(cache.dir(), "erofs,common", b"shared")?;
    eventually("the shared blob's file", || file.exists())?;
    let files = files_named(cache.dir(), "Dshared");
    ensure!(files == 1, "{files} files of the shared blob");
    Ok(())
}

/// The same names in two domains, and in none, are three images with three blobs.
fn one_fsid_in_two_domains(lab: &Lab) -> Result<()> {
    let mut blobs = Blobs::new();
    let volumes = [("erofs,a", 1), ("erofs,b", 2), ("erofs,image", 3)];
    for (volume, seed) in volumes {
        blobs =
            blobs
                .with_in(volume, "image", image(&["data"]))
                .with_in(volume, "data", source(seed));
    }
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs)?;
    let options = ["domain_id=a", "domain_id=b", ""];
    let mut mounts = options
        .iter()
        .map(|options| Mount::with(lab.base(), "image", options))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..2 {
        for (mount, (volume, seed)) in mounts.iter().zip(volumes) {
            expect_all(&mount.path("file-1"), seed).context(volume)?;
        }
    }
    ensure!(daemon.opens() == 6, "{} OPENs", daemon.opens());
    // The end of one is not the end of the others.
    while let Some(mut mount) = mounts.pop() {
        mount.unmount()?;
        for (mount, (volume, seed)) in mounts.iter().zip(volumes) {
            expect_all(&mount.path("file-1"), seed).context(volume)?;
        }
    }
    for (volume, _) in volumes {
        let file = layout::file(cache.dir(), volume, b"data")?;
        eventually("the blob's file", || file.exists())?;
    }
    Ok(())
}

/// EROFS has one superblock for each mount over fscache: an image cannot be mounted a second time,
/// which disturbs nobody, but it can be bound elsewhere; and unmounted, it can be mounted at once.
fn one_image_mounted_twice(lab: &Lab) -> Result<()> {
    let blobs = Blobs::new()
        .with("image", image(&["data"]))
        .with("data", source(5));
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs)?;
    for (options, error) in [("", Errno::BUSY), ("domain_id=d", Errno::EXIST)] {
        let opens = daemon.opens() + 2;
        let mut mount = Mount::with(lab.base(), "image", options)?;
        eventually("the data's OPEN", || daemon.opens() == opens)?;
        for round in 0..4 {
            let again = try_mount(lab.base(), b"image", options.as_bytes());
            ensure!(
                again.as_ref().err() == Some(&error),
                "a second mount with {options:?} gave {again:?}, not {error}"
            );
            expect(&mount.path("file-1"), 5, round)?;
        }
        let second = lab.base().join("bound");
        fs::create_dir_all(&second)?;
        mount_bind(mount.dir(), &second)?;
        let unmounted = mount.unmount();
        let read = expect_all(&second.join("file-1"), 5).context("where it was bound");
        unmount(&second, UnmountFlags::empty())?;
        fs::remove_dir(&second)?;
        unmounted.and(read)?;
        ensure!(daemon.opens() == opens, "{} OPENs", daemon.opens());
        for _ in 0..8 {
            let mut mount = Mount::with(lab.base(), "image", options)?;
            expect(&mount.path("file-1"), 5, 3)?;
            mount.unmount()?;
        }
    }
    Ok(())
}

/// An image that is mounted can be another's device, in their domain: it is one object.  One that
/// is a device already cannot be mounted.
fn image_as_a_device_of_another(lab: &Lab) -> Result<()> {
    let first = image(&["data"]);
    let bytes = first.read(0, 2 * BLOCK as usize)?;
    let blobs = Blobs::new()
        .with("one", first)
        .with("data", source(6))
        .with("two", image(&["-", "-"]));
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs)?;
    let shared = "domain_id=d,device=one,device=data";
    let expect_two = |two: &Mount| -> Result<()> {
        for (block, want) in bytes.chunks(BLOCK as usize).enumerate() {
            expect_bytes(&two.path("file-1"), u32::try_from(block)?, want)?;
        }
        expect_all(&two.path("file-2"), 6)
    };
    let mut one = Mount::with(lab.base(), "one", "domain_id=d")?;
    let mut two = Mount::with(lab.base(), "two", shared)?;
    expect_all(&one.path("file-1"), 6)?;
    expect_two(&two)?;
    ensure!(daemon.opens() == 3, "{} OPENs", daemon.opens());
    one.unmount()?;
    expect_two(&two)?;
    let again = try_mount(lab.base(), b"one", b"domain_id=d");
    ensure!(
        again.as_ref().err() == Some(&Errno::EXIST),
        "an image that is a device was mounted: {again:?}"
    );
    expect_two(&two)?;
    two.unmount()?;
    let one = Mount::with(lab.base(), "one", "domain_id=d")?;
    expect_all(&one.path("file-1"), 6)
}

/// Two images of one domain, whose shared blob's READs come to the test.
fn pair(manner: Manner) -> Blobs {
    Blobs::new()
        .with("one", image(&["shared", "own"]))
        .with("two", image(&["shared"]))
        .with("own", source(8))
        .with_manner("shared", source(7), manner)
}

/// One image is unmounted while a reader of the other waits for the blob that they share: it goes
/// on waiting, and gets its data.
fn unmounted_with_a_read_pending_for_the_other(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(pair(Manner::ManualReads))?;
    let mut one = Mount::with(lab.base(), "one", "domain_id=d")?;
    let two = Mount::with(lab.base(), "two", "domain_id=d")?;
    expect_all(&one.path("file-2"), 8)?;
    for block in 0..3 {
        let file = two.path("file-1");
        let reader = thread::spawn(move || expect(&file, 7, block));
        let read = daemon.read()?;
        if block == 1 {
            one.unmount()?;
            eventually("two CLOSEs", || daemon.closes() == 2)?;
        } else if block == 2 {
            one = Mount::with(lab.base(), "one", "domain_id=d")?;
        }
        ensure!(!reader.is_finished(), "the reader was sent away");
        let data = source(7).read(read.offset, usize::try_from(read.len)?)?;
        read.object.write_all_at(&data, read.offset)?;
        read.object.complete_read(read.msg_id)?;
        reader.join().ok().context("the reader panicked")??;
    }
    expect(&one.path("file-1"), 7, 0)
}

/// One image comes and goes while the other is read all the time; the shared blob stays open.
fn unmounted_while_the_other_reads(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(pair(Manner::Serve))?;
    let two = Mount::with(lab.base(), "two", "domain_id=d")?;
    let file = two.path("file-1");
    expect(&file, 7, 0)?;
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let reader = thread::spawn(move || -> Result<u32> {
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            expect(&file, 7, count % BLOCKS)?;
            count += 1;
        }
        Ok(count)
    });
    let before = daemon.opens();
    let end = Instant::now() + Duration::from_secs(1);
    let mut rounds = 0;
    let mut looped = Ok(());
    while looped.is_ok() && (rounds < 3 || Instant::now() < end) {
        rounds += 1;
        looped = (|| {
            let mut one = Mount::with(lab.base(), "one", "domain_id=d")?;
            expect(&one.path("file-2"), 8, 1)?;
            one.unmount()
        })();
    }
    done.store(true, Ordering::SeqCst);
    let count = reader.join().ok().context("the reader panicked")??;
    looped?;
    println!("{rounds} mounts, {count} reads");
    let opens = daemon.opens() - before;
    ensure!(opens == 2 * rounds, "{opens} OPENs in {rounds} mounts");
    Ok(())
}

/// What the mounting threads count.
#[derive(Default)]
struct Counts {
    mounts: AtomicU32,
    no_mounts: AtomicU32,
    reads: AtomicU32,
    no_reads: AtomicU32,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |count: &AtomicU32| count.load(Ordering::SeqCst);
        write!(
            f,
            "{} mounts, {} failed, {} reads, {} failed",
            of(&self.mounts),
            of(&self.no_mounts),
            of(&self.reads),
            of(&self.no_reads)
        )
    }
}

fn count(what: &AtomicU32) {
    what.fetch_add(1, Ordering::SeqCst);
}

/// What the mounting threads share.
#[derive(Default)]
struct Farm {
    stop: AtomicBool,
    counts: Counts,
    /// Held to start a process, which has all our files open until it runs another program; and,
    /// shared, by whoever has a file open that an unmount must not find.
    starting: RwLock<()>,
}

/// Mounts, reads and unmounts its images at random until told to stop.
fn farm_hand(base: &Path, images: &[usize], seed: u64, farm: &Farm) -> Result<()> {
    let counts = &farm.counts;
    let mut random = fastrand::Rng::with_seed(seed);
    while !farm.stop.load(Ordering::SeqCst) {
        let field = &FIELDS[images[random.usize(..images.len())]];
        let mut mount = match field.mount(base) {
            Ok(mount) => mount,
            Err(error) => {
                // No daemon, one that is just going, or a file that is just being culled.
                let allowed = [Errno::IO, Errno::NOBUFS];
                ensure!(allowed.contains(&error), "a mount gave {error}");
                count(&counts.no_mounts);
                thread::sleep(Duration::from_millis(random.u64(1..10)));
                continue;
            }
        };
        count(&counts.mounts);
        for _ in 0..random.u32(..12) {
            let no_start = farm.starting.read();
            let got = field.read(&mount, &mut random)?;
            drop(no_start);
            match got {
                Ok(()) => count(&counts.reads),
                Err(error) => {
                    let got = errno(&error);
                    let allowed = [Some(Errno::IO), Some(Errno::NOBUFS)];
                    ensure!(allowed.contains(&got), "a read gave {error}");
                    count(&counts.no_reads);
                }
            }
        }
        mount.unmount()?;
    }
    Ok(())
}

/// How long the images are mounted and lost at random.
fn stress_time() -> Duration {
    Duration::from_secs(if in_ci() { 20 } else { 3 })
}

/// Three threads mount, read and unmount six images; the daemon culls what is not in use, by the
/// names that it computes, and is killed and started again.  What is read is right, errors are
/// those of a daemon that is not there or of a file that is being culled, and afterwards all is
/// as if nothing had been.
fn mounts_unmounts_culls_and_exits(lab: &Lab) -> Result<()> {
    let seed = env::var("CACHEFILES_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("CACHEFILES_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cache = lab.cache()?;
    let farm = Arc::<Farm>::default();
    let hands: Vec<_> = [[0, 4], [1, 5], [2, 3]]
        .into_iter()
        .map(|images| {
            let (base, seed) = (lab.base().to_owned(), random.u64(..));
            let farm = Arc::clone(&farm);
            thread::spawn(move || farm_hand(&base, &images, seed, &farm))
        })
        .collect();
    let (mut daemons, mut culled) = (0, 0);
    let end = Instant::now() + stress_time();
    let dir = cache.dir().to_string_lossy().into_owned();
    let result = (|| -> Result<()> {
        while daemons < 3 || Instant::now() < end {
            let seed = random.u64(..).to_string();
            let no_files = farm.starting.write();
            let daemon = Helper::start(&["farm", &dir, &seed])?;
            drop(no_files);
            let mut daemon = daemon.ready()?;
            daemons += 1;
            let before = farm.counts.reads.load(Ordering::SeqCst);
            thread::sleep(Duration::from_millis(random.u64(200..900)));
            // On a busy machine a daemon lives longer, as long as nobody has found a fault.
            let patience = Instant::now() + 6 * *SOON;
            let mut is_useful = true;
            while farm.counts.reads.load(Ordering::SeqCst) < before + 5
                && !hands.iter().any(thread::JoinHandle::is_finished)
            {
                is_useful = Instant::now() < patience;
                if !is_useful {
                    break;
                }
                thread::sleep(Duration::from_millis(2));
            }
            daemon.kill()?;
            // One that ended by itself has said why.
            for line in daemon.rest()? {
                ensure!(line == "c", "the daemon said: {line}");
                culled += 1;
            }
            ensure!(is_useful, "a daemon serves nobody: {}", farm.counts);
        }
        Ok(())
    })();
    farm.stop.store(true, Ordering::SeqCst);
    for hand in hands {
        hand.join().ok().context("a thread panicked")??;
    }
    result?;
    println!("{daemons} daemons, {culled} blobs culled, {}", farm.counts);
    ensure!(culled > 0, "nothing was culled");
    let mut daemon = crate::farm::serve(cache.dir())?;
    for field in &FIELDS {
        let mut mount = field.mount(lab.base()).context("after it all")?;
        field.read_all(&mount)?;
        mount.unmount()?;
    }
    daemon.stop()?;
    let device = cache.fs.device().to_owned();
    cache.module.unload()?;
    cache.fs.unmount()?;
    run("e2fsck", &["-f", "-n", &device])
        .map(drop)
        .context("the backing file system")
}
