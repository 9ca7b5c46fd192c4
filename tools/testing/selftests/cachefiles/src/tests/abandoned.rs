// SPDX-License-Identifier: GPL-2.0

//! Images whose daemon is gone: every way in is EIO, nothing waits, and the next daemon serves them.

use crate::{
    blob::Blob,
    cachefilesd::{is_bound, Known},
    daemon::{Blobs, Daemon, Manner},
    error_injection::{self, IO_ERROR},
    group,
    helper::{errno_name, Helper},
    kernel::{drop_caches, Kmsg},
    ktap::Skip,
    lab::{eventually, Lab},
    mount::{try_mount, Mount},
    patience::patiently,
    protocol::open_device,
    raw::errno,
    stage::{self, expect_data, expect_error, expect_file, read_block_here, Stage},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{CacheConfig, Errno};
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};
use std::{
    ffi::CString,
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

group!("abandoned":
    every_way_in_is_eio,
    mount_is_eio,
    disk_that_fails_is_eio,
    close_waits_for_no_reader,
    next_daemon_serves_what_is_mounted,
    next_daemon_serves_a_shared_blob,
    next_daemon_tells_another_size,
    next_cache_is_another,
    last_unmount_ends_it,
    module_is_unloaded_under_it,
    daemons_come_and_go,
);

/// On C the cache is withdrawn at once, after which FS-Cache answers, with ENOBUFS.
fn ours_only(lab: &Lab) -> Result<()> {
    match lab.is_peer() {
        true => Err(Skip("C withdraws the cache, so that readers get ENOBUFS".to_owned()).into()),
        false => Ok(()),
    }
}

/// What happens at once happens within this time.
fn at_once(start: Instant, what: &str) -> Result<()> {
    let took = start.elapsed();
    let bound = patiently(Duration::from_millis(500));
    ensure!(took < bound, "{what} took {took:?}");
    Ok(())
}

/// Reads of what is cached on the disk, and of what is not.
fn expect_reads_fail(file: &Path) -> Result<()> {
    for block in [0, 40] {
        for what in ["the first read", "the second"] {
            let start = Instant::now();
            expect_error(read_block_here(file, block), Errno::IO, what)?;
            at_once(start, what)?;
        }
    }
    Ok(())
}

/// An overlay whose lower directory is this one.
struct Overlay(std::path::PathBuf);

impl Overlay {
    fn on(lower: &Path, base: &Path) -> Result<Overlay> {
        let dirs = ["upper", "work", "merged"].map(|name| base.join(format!("overlay-{name}")));
        for dir in &dirs {
            fs::create_dir_all(dir)?;
        }
        let [upper, work, merged] = dirs;
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let options = CString::new(options)?;
        let flags = MountFlags::empty();
        mount("none", &merged, "overlay", flags, Some(options.as_c_str())).context("an overlay")?;
        Ok(Overlay(merged))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::empty()) {
            crate::lab::cleanup_failed(&format!("unmounting an overlay: {error}"));
        }
    }
}

/// After the daemon's death read(2), with and without readahead, a mapping, exec, readdir, stat and an
/// overlay on top fail with EIO; what is in the page cache can be read.
fn every_way_in_is_eio(lab: &Lab) -> Result<()> {
    ours_only(lab)?;
    let mut stage = Stage::new(lab, Manner::Serve)?;
    let file = stage.file();
    expect_data(read_block_here(&file, 0), 0)?;
    let open = File::open(&file)?;
    let overlay = match Overlay::on(stage.mount.dir(), lab.base()) {
        Ok(overlay) => Some(overlay),
        Err(error) => {
            println!("no overlay: {error:#}");
            None
        }
    };
    stage.daemon.stop()?;
    expect_data(read_block_here(&file, 0), 0).context("from the page cache")?;
    // The inode stays in memory as long as the file is open, its pages do not.
    drop_caches()?;
    expect_reads_fail(&file)?;
    let start = Instant::now();
    expect_error(fs::read(&file).map(drop), Errno::IO, "with readahead")?;
    let mapped = Command::new("xfs_io")
        .args(["-r", "-c", "mmap -r 0 8192", "-c", "mread 4096 4096"])
        .arg(&file)
        .stdout(Stdio::null())
        .status()
        .context("xfs_io")?;
    ensure!(mapped.signal() == Some(libc::SIGBUS), "mapped: {mapped}");
    expect_error(Command::new(&file).status(), Errno::IO, "exec")?;
    if let Some(overlay) = &overlay {
        expect_error(fs::read(overlay.0.join("file")), Errno::IO, "the overlay")?;
    }
    at_once(start, "failing")?;
    drop((open, overlay));
    drop_caches()?;
    let start = Instant::now();
    let listed = fs::read_dir(stage.mount.dir())
        .and_then(|mut entries| entries.try_for_each(|entry| entry?.metadata().map(drop)));
    expect_error(listed, Errno::IO, "readdir and stat")?;
    at_once(start, "listing")?;
    stage.mount.unmount()
}

/// While an image has lost its daemon, a mount of another is EIO, at once; of a blob that is cached, too.
fn mount_is_eio(lab: &Lab) -> Result<()> {
    ours_only(lab)?;
    let cache = lab.cache()?;
    let other = stage::blobs_named("other", "blob2", Manner::Serve);
    let mut daemon = cache.serve(stage::blobs(Manner::Serve).merged(other))?;
    expect_file(&Mount::new(lab.base(), "other")?.path("file"))?;
    let mut lost = Mount::new(lab.base(), "meta")?;
    daemon.stop()?;
    let kmsg = Kmsg::from_now()?;
    for fsid in ["other", "unheard-of"] {
        let start = Instant::now();
        let got = try_mount(lab.base(), fsid.as_bytes(), b"").map(drop);
        ensure!(got == Err(Errno::IO), "mounting {fsid}: {got:?}");
        at_once(start, fsid)?;
        let said = kmsg.of_module()?;
        let names_it = |line: &String| line.contains(fsid) && line.contains("dead");
        ensure!(said.iter().any(names_it), "the log says {said:?}");
    }
    lost.unmount()
}

/// A disk that fails under the daemon's eyes: EIO as well, and not ENOBUFS.
fn disk_that_fails_is_eio(lab: &Lab) -> Result<()> {
    ours_only(lab)?;
    let cache = lab.cache()?;
    let other = stage::blobs_named("other", "blob2", Manner::Serve);
    let mut daemon = cache.serve(stage::blobs(Manner::Serve).merged(other))?;
    let mut mount = Mount::with(lab.base(), "meta", "domain_id=d")?;
    let file = mount.path("file");
    expect_data(read_block_here(&file, 0), 0)?;
    // A lookup that fails with EIO ends the cache.
    let mounting = || try_mount(lab.base(), b"other", b"domain_id=d").map(drop);
    let got = error_injection::with(IO_ERROR, mounting)?;
    ensure!(got == Err(Errno::IO), "mounting: {got:?}");
    ensure!(
        daemon.device()?.command(b"inuse x").is_err(),
        "the cache is alive"
    );
    drop_caches()?;
    expect_reads_fail(&file)?;
    daemon.stop()?;
    expect_reads_fail(&file)?;
    mount.unmount()
}

/// The last close of the device returns while a READ is pending, and the reader has EIO.
fn close_waits_for_no_reader(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::ManualReads)?;
    let file = stage.file();
    let reader = Helper::start(&["read", &file.to_string_lossy(), "0", "4096"])?.ready()?;
    drop(stage.daemon.read()?);
    let start = Instant::now();
    stage.daemon.stop()?;
    at_once(start, "closing the device")?;
    let said = reader.finish(patiently(Duration::from_secs(1)))?;
    // On C it tries again when there is no cache any more.
    let error = errno_name(lab.with_ours(Errno::IO, Errno::NOBUFS));
    ensure!(
        said == errno_name(Errno::IO) || said == error,
        "a reader got {said}"
    );
    stage.mount.unmount()
}

/// An image that has lost its daemon is served by the next one, as it is mounted: what was cached
/// without a READ, the rest with.
fn next_daemon_serves_what_is_mounted(lab: &Lab) -> Result<()> {
    ours_only(lab)?;
    let mut stage = Stage::new(lab, Manner::Serve)?;
    let file = stage.file();
    for block in [0, 9] {
        expect_data(read_block_here(&file, block), block)?;
    }
    for round in 0..3 {
        stage.daemon.stop()?;
        drop_caches()?;
        expect_reads_fail(&file)?;
        stage.daemon = stage.cache.serve(stage::blobs(Manner::Serve))?;
        let before = stage.daemon.bytes();
        expect_data(read_block_here(&file, 9), 9)?;
        let sent = stage.daemon.bytes() - before;
        ensure!(sent == 0, "{sent} bytes for what is cached");
        expect_data(read_block_here(&file, 20 + round), 20 + round)?;
    }
    expect_file(&file)?;
    let opens = stage.daemon.opens();
    ensure!(opens == 2, "{opens} OPENs for two objects");
    stage.mount.unmount()?;
    eventually("both CLOSEs", || stage.daemon.closes() == 2)
}

/// In a domain a second image reads a blob through the object of the first, which has lost its daemon.
fn next_daemon_serves_a_shared_blob(lab: &Lab) -> Result<()> {
    ours_only(lab)?;
    let cache = lab.cache()?;
    let other = stage::blobs_named("other", "blob", Manner::Serve);
    let both = stage::blobs(Manner::Serve).merged(other);
    let mut daemon = cache.serve(both)?;
    let mut lost = Mount::with(lab.base(), "meta", "domain_id=d")?;
    expect_data(read_block_here(&lost.path("file"), 0), 0)?;
    daemon.stop()?;
    let both = stage::blobs(Manner::Serve);
    let other = stage::blobs_named("other", "blob", Manner::Serve);
    let _daemon = cache.serve(both.merged(other))?;
    let mut other = Mount::with(lab.base(), "other", "domain_id=d")?;
    expect_file(&other.path("file"))?;
    drop_caches()?;
    expect_file(&lost.path("file"))?;
    lost.unmount()?;
    drop_caches()?;
    expect_file(&other.path("file"))?;
    other.unmount()
}

/// A blob that has another size for the next daemon is not what was mounted: EIO, until it is mounted
/// anew.
fn next_daemon_tells_another_size(lab: &Lab) -> Result<()> {
    ours_only(lab)?;
    let mut stage = Stage::new(lab, Manner::Serve)?;
    let file = stage.file();
    expect_data(read_block_here(&file, 0), 0)?;
    stage.daemon.stop()?;
    drop_caches()?;
    let size = stage::SIZE * 2;
    let seed = stage::SEED;
    let longer = Blobs::new().with("blob", Blob::Pattern { seed, size });
    let kmsg = Kmsg::from_now()?;
    stage.daemon = stage
        .cache
        .serve(stage::blobs(Manner::Serve).merged(longer))?;
    expect_reads_fail(&file)?;
    let said = kmsg.of_module()?;
    let sizes = |line: &String| {
        [size, stage::SIZE]
            .iter()
            .all(|n| line.contains(&n.to_string()))
    };
    ensure!(said.iter().any(sizes), "the log says {said:?}");
    stage.mount.unmount()?;
    stage.mount = Mount::new(lab.base(), "meta")?;
    expect_file(&stage.file())
}

/// The next bind succeeds at once, in whichever mode, under whichever tag; what is mounted fails.
fn next_cache_is_another(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::Serve)?;
    let file = stage.file();
    expect_data(read_block_here(&file, 0), 0)?;
    stage.daemon.stop()?;
    drop_caches()?;
    for (tag, on_demand) in [(None, false), (Some("another"), true), (None, false)] {
        let device = open_device().context("the device is free at once")?;
        let mut config = CacheConfig::new(stage.cache.dir());
        config.tag = tag.map(Into::into);
        device.configure(&config)?;
        match on_demand {
            true => device.bind_ondemand()?,
            false => device.command(b"bind")?,
        }
        let start = Instant::now();
        let got = read_block_here(&file, 0).map_err(|error| errno(&error));
        let refused = [Some(Errno::IO), Some(Errno::NOBUFS)];
        ensure!(
            got.is_err_and(|error| refused.contains(&error)),
            "it was read"
        );
        at_once(start, "failing")?;
    }
    stage.mount.unmount()?;
    stage.daemon = stage.cache.serve(stage::blobs(Manner::Serve))?;
    stage.mount = Mount::new(lab.base(), "meta")?;
    expect_file(&stage.file())
}

/// The backing file system is busy while an image is mounted from it, and free soon after.
fn last_unmount_ends_it(lab: &Lab) -> Result<()> {
    ours_only(lab)?;
    let mut stage = Stage::new(lab, Manner::Serve)?;
    expect_data(read_block_here(&stage.file(), 0), 0)?;
    stage.daemon.stop()?;
    ensure!(is_bound(), "the cache is gone while an image is mounted");
    ensure!(Known::objects()? == 2, "{} objects", Known::objects()?);
    let busy = unmount(stage.cache.dir(), UnmountFlags::empty());
    ensure!(
        busy == Err(Errno::BUSY),
        "the disk could be unmounted: {busy:?}"
    );
    stage.mount.unmount()?;
    let start = Instant::now();
    eventually("the cache is withdrawn", || !is_bound())?;
    stage.cache.module.unload()?;
    stage.cache.fs.unmount()?;
    println!("all is free {:?} after the last image", start.elapsed());
    at_once(start, "freeing all")
}

/// The module can be unloaded under an image that has lost its daemon, and be loaded again.
fn module_is_unloaded_under_it(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::Serve)?;
    let file = stage.file();
    expect_data(read_block_here(&file, 0), 0)?;
    stage.daemon.stop()?;
    drop_caches()?;
    stage.cache.module.reload()?;
    ensure!(read_block_here(&file, 0).is_err(), "read without a module");
    stage.mount.unmount()?;
    stage.daemon = stage.cache.serve(stage::blobs(Manner::Serve))?;
    stage.mount = Mount::new(lab.base(), "meta")?;
    expect_file(&stage.file())
}

/// Daemons that come and go while images are mounted, read and unmounted: each read is right or an
/// error, and in the end everything can be undone.
fn daemons_come_and_go(lab: &Lab) -> Result<()> {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut cache = lab.cache()?;
    let serve = || Daemon::start(cache.dir(), stage::blobs(Manner::Serve));
    let mut daemon = serve()?;
    let over = AtomicBool::new(false);
    let (base, over) = (lab.base(), &over);
    let reads = std::thread::scope(|scope| -> Result<u64> {
        let readers = [Duration::ZERO, Duration::from_millis(3)].map(|pause| {
            scope.spawn(move || -> Result<u64> {
                let mut right = 0;
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut mount) = try_mount(base, b"meta", b"") else {
                        std::thread::sleep(Duration::from_millis(1));
                        continue;
                    };
                    for block in 0..stage::BLOCKS {
                        if let Ok(got) = read_block_here(&mount.path("file"), block) {
                            expect_data(Ok(got), block)?;
                            right += 1;
                        }
                    }
                    std::thread::sleep(pause);
                    mount.unmount()?;
                }
                Ok(right)
            })
        });
        let turns = (0..40).try_for_each(|_| {
            std::thread::sleep(Duration::from_millis(20));
            daemon.stop()?;
            std::thread::sleep(Duration::from_millis(5));
            daemon = serve()?;
            anyhow::Ok(())
        });
        over.store(true, Ordering::Relaxed);
        let reads = readers
            .into_iter()
            .map(|reader| reader.join().ok().context("a reader panicked")?)
            .sum::<Result<u64>>();
        turns?;
        reads
    })?;
    println!("{reads} blocks were right");
    ensure!(reads > 0, "nothing was read");
    daemon.stop()?;
    cache.module.unload()?;
    cache.fs.unmount()
}
