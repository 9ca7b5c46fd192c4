// SPDX-License-Identifier: GPL-2.0

//! Daemons that are not there, die or hang: everybody gets an error soon, and everything can be
//! undone.

use super::bugs_scene::{served, Scene};
use crate::{
    cachefilesd::Known,
    daemon::{Blobs, Event, Manner},
    group,
    helper::{errno_name, Helper},
    kernel::{Kmsg, Module},
    ktap::Skip,
    lab::{eventually, Cache, Lab},
    mount::{try_mount, Mount},
    patience::patiently,
    stage::{self, expect_data, join, read_block, read_block_here, Stage},
    tree,
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{Device, Errno};
use std::{
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

group!("failure":
    mount_without_daemon,
    mount_after_daemon,
    daemon_killed_under_readers,
    daemon_killed_before_open_is_answered,
    reader_killed_while_it_waits,
    mount_killed_while_it_waits,
    mount_killed_before_open_is_answered,
    reader_killed_before_open_is_answered,
    unmount_while_daemon_hangs,
    device_closed_without_unmount,
    next_daemon_serves_again,
    unknown_blob,
    timeout_ends_what_a_silent_daemon_leaves,
    timeout_ends_an_open,
    compressed_read_that_fails,
);

/// What is to happen at once must happen within this time.
static AT_ONCE: LazyLock<Duration> = LazyLock::new(|| patiently(Duration::from_secs(1)));

/// With no cache, and then with the device open but nothing bound, a mount fails at once.
fn mount_without_daemon(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    for open in [false, true] {
        let _device = if open { Some(Device::open()?) } else { None };
        let start = Instant::now();
        let got = try_mount(lab.base(), b"nothing", b"");
        ensure!(got.is_err(), "mounted from nothing");
        ensure!(
            start.elapsed() < *AT_ONCE,
            "that took {:?}",
            start.elapsed()
        );
    }
    Ok(())
}

/// The same after a daemon has come and gone.
fn mount_after_daemon(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::Serve)?;
    expect_data(read_block_here(&stage.file(), 0), 0)?;
    stage.mount.unmount()?;
    stage.daemon.stop()?;
    let start = Instant::now();
    ensure!(
        try_mount(lab.base(), b"meta", b"").is_err(),
        "mounted without a daemon"
    );
    ensure!(
        start.elapsed() < *AT_ONCE,
        "that took {:?}",
        start.elapsed()
    );
    Ok(())
}

/// A daemon in a process of its own, and the chunked image mounted.
fn foreign(lab: &Lab, manner: &str) -> Result<(Cache, Helper, Mount)> {
    let images = lab.images()?;
    let kind = tree::kind("chunked")?;
    let cache = lab.cache()?;
    let (dir, images) = (cache.dir().to_string_lossy(), images.to_string_lossy());
    let daemon = Helper::start(&["daemon", &dir, &images, kind.name, manner])?.ready()?;
    let mount = Mount::with(lab.base(), kind.name, &tree::options(kind))?;
    Ok((cache, daemon, mount))
}

/// SIGKILL to the daemon while 16 processes wait: each gets EIO within a second, and then the
/// image can be unmounted and the module unloaded.
fn daemon_killed_under_readers(lab: &Lab) -> Result<()> {
    const READERS: usize = 16;
    let (mut cache, mut daemon, mut mount) = foreign(lab, "ignore-blob")?;
    let file = mount.path("a/b/c/big");
    let readers = (0..READERS)
        .map(|number| {
            let offset = (number * 256 * 1024).to_string();
            Helper::start(&["read", &file.to_string_lossy(), &offset, "4096"])?.ready()
        })
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..READERS {
        let line = daemon.line()?;
        ensure!(line.starts_with("Read"), "the daemon said {line:?}");
    }
    let start = Instant::now();
    daemon.kill()?;
    for reader in readers {
        let left = AT_ONCE.saturating_sub(start.elapsed());
        let said = reader
            .finish(left)
            .context("a reader after the daemon was killed")?;
        // The page cache tries once more when a read fails.  On C the object may have been
        // withdrawn by then, and FS-Cache says ENOBUFS.
        let late = lab.is_peer() && said == errno_name(Errno::NOBUFS);
        let good = said == errno_name(Errno::IO) || late;
        ensure!(good, "a reader got {said}, not EIO");
    }
    println!("all readers had their EIO after {:?}", start.elapsed());
    drop(daemon);
    mount.unmount()?;
    cache.module.unload()?;
    cache.fs.unmount()
}

/// The same while a mount waits for its OPEN.
fn daemon_killed_before_open_is_answered(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let mut daemon = cache.serve(
        stage::blobs_named("other", "blob", Manner::Serve).with_manner(
            "meta",
            crate::blob::Blob::Bytes(vec![].into()),
            Manner::Manual,
        ),
    )?;
    let mount = Mount::in_background(lab.base(), "meta");
    drop(daemon.open()?);
    let start = Instant::now();
    daemon.stop()?;
    let got = mount.join().ok().context("the mounting thread panicked")?;
    ensure!(got.is_err(), "mounted without a daemon");
    ensure!(
        start.elapsed() < *AT_ONCE,
        "that took {:?}",
        start.elapsed()
    );
    Ok(())
}

/// SIGKILL ends a reader whose READ nobody answers.
fn reader_killed_while_it_waits(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let file = stage.file();
    let mut reader = Helper::start(&["read", &file.to_string_lossy(), "0", "4096"])?.ready()?;
    let read = stage.daemon.read()?;
    let start = Instant::now();
    reader.kill()?;
    reader.finish(*AT_ONCE).context("a killed reader")?;
    ensure!(
        start.elapsed() < *AT_ONCE,
        "that took {:?}",
        start.elapsed()
    );
    // Its READ is gone, or is answered to nobody.
    let _ = read.object.complete_read(read.msg_id);
    drop(read);
    let other = read_block(&stage.file(), 40);
    let read = stage.daemon.read()?;
    read.object.write_all_at(&aligned(40), read.offset)?;
    read.object.complete_read(read.msg_id)?;
    expect_data(join(other)?, 40)
}

fn aligned(block: u32) -> crate::blob::Aligned {
    let want = stage::want(block);
    let mut bytes = crate::blob::Aligned::new(want.len());
    bytes.copy_from_slice(&want);
    bytes
}

/// A mount whose READ of the superblock nobody answers can be killed.
fn mount_killed_while_it_waits(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let blobs = stage::blobs_named("other", "blob", Manner::Serve);
    let image = crate::blob::Blob::Pattern {
        seed: 1,
        size: 1 << 20,
    };
    let daemon = cache.serve(blobs.with_manner("meta", image, Manner::ManualReads))?;
    let mut mount = std::process::Command::new("mount")
        .args(["-t", "erofs", "-o", "fsid=meta", "none", "/mnt"])
        .spawn()?;
    let read = daemon.read()?;
    let start = Instant::now();
    mount.kill()?;
    eventually("the killed mount ends", || {
        matches!(mount.try_wait(), Ok(Some(_)))
    })?;
    ensure!(
        start.elapsed() < *AT_ONCE,
        "that took {:?}",
        start.elapsed()
    );
    drop(read);
    let mount = Mount::new(lab.base(), "other")?;
    expect_data(read_block_here(&mount.path("file"), 1), 1)
}

/// A mount whose OPEN nobody answers can be killed; then everything is as if it had not been.
fn mount_killed_before_open_is_answered(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let blobs = stage::blobs_named("other", "blob", Manner::Serve);
    let empty = crate::blob::Blob::Bytes(vec![].into());
    let daemon = cache.serve(blobs.with_manner("meta", empty, Manner::Manual))?;
    let mut mount = std::process::Command::new("mount")
        .args(["-t", "erofs", "-o", "fsid=meta", "none", "/mnt"])
        .spawn()?;
    let open = daemon.open()?;
    let start = Instant::now();
    mount.kill()?;
    if lab.is_peer() {
        // In C the cookie is being looked up until the daemon answers, and FS-Cache makes all who
        // use it wait, deaf to signals.
        thread::sleep(Duration::from_millis(300));
        ensure!(
            matches!(mount.try_wait(), Ok(None)),
            "C let the killed mount go"
        );
        daemon.device()?.open_reply(open.msg_id, Err(Errno::IO))?;
    }
    eventually("the killed mount ends", || {
        matches!(mount.try_wait(), Ok(Some(_)))
    })?;
    if !lab.is_peer() {
        ensure!(
            start.elapsed() < *AT_ONCE,
            "that took {:?}",
            start.elapsed()
        );
        // The mount is undone, and its request with it.
        let device = daemon.device()?;
        eventually("the OPEN is over", || {
            let late = device.open_reply(open.msg_id, Ok(4096)).err();
            late.and_then(|error| error.raw_os_error()) == Some(Errno::INVAL.raw_os_error())
        })?;
    }
    drop(open);
    daemon.device()?.command(b"timeout 0")?;
    let mount = Mount::new(lab.base(), "other")?;
    expect_data(read_block_here(&mount.path("file"), 1), 1)
}

/// So can the reader of a blob whose OPEN is not answered, while another waits on.
fn reader_killed_before_open_is_answered(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::Manual)?;
    let file = stage.file();
    let open = stage.daemon.open()?;
    let mut reader = Helper::start(&["read", &file.to_string_lossy(), "0", "4096"])?.ready()?;
    let other = read_block(&file, 5);
    let start = Instant::now();
    reader.kill()?;
    if !lab.is_peer() {
        // C: as above.
        reader.finish(*AT_ONCE).context("a killed reader")?;
        ensure!(
            start.elapsed() < *AT_ONCE,
            "that took {:?}",
            start.elapsed()
        );
    }
    let size = stage::SIZE;
    stage.daemon.device()?.open_reply(open.msg_id, Ok(size))?;
    loop {
        let read = stage.daemon.read()?;
        let block = u32::try_from(read.offset / crate::image::BLOCK)?;
        for block in block..block + u32::try_from(read.len / crate::image::BLOCK)? {
            let at = u64::from(block) * crate::image::BLOCK;
            read.object.write_all_at(&aligned(block), at)?;
        }
        read.object.complete_read(read.msg_id)?;
        if (block..block + u32::try_from(read.len / crate::image::BLOCK)?).contains(&5) {
            break;
        }
    }
    expect_data(join(other)?, 5)
}

/// A daemon that reads nothing any more keeps no image mounted and no object in memory; when it reads
/// again, it is told of them.  C's objects stay until then.
fn unmount_while_daemon_hangs(lab: &Lab) -> Result<()> {
    // What has to go first comes last.
    let Scene {
        cache: _cache,
        hand,
        blob,
        mount,
    } = Scene::new(lab)?;
    let file = mount.file();
    served(&hand, &blob.object, &file, 9)?;
    // Another process may need more of the image before it can read.
    let starting = thread::spawn(move || {
        Helper::start(&["read", &file.to_string_lossy(), "0", "4096"])?.ready()
    });
    let mut reader = hand.until_done(starting)??;
    hand.read()?;
    reader.kill()?;
    reader.finish(*AT_ONCE).context("a killed reader")?;
    let nobody_reads = hand.device()?.wait(Some(Duration::ZERO))?;
    ensure!(!nobody_reads, "there is something to read already");
    if lab.is_peer() {
        mount.unmount()?;
    } else {
        mount.unmount_unread()?;
        eventually("the objects are gone", || {
            Known::objects().is_ok_and(|objects| objects == 0)
        })?;
        ensure!(
            hand.device()?.wait(Some(Duration::ZERO))?,
            "there is no CLOSE"
        );
    }
    hand.until_told_to_close(blob.object_id)?;
    drop(blob);
    hand.serve_all();
    let mount = hand.mount(lab, "meta")?;
    expect_data(hand.until_done(read_block(&mount.file(), 5))?, 5)?;
    mount.unmount()
}

/// The daemon goes with the image still mounted: reading fails, unmounting works.
fn device_closed_without_unmount(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::Serve)?;
    expect_data(read_block_here(&stage.file(), 0), 0)?;
    stage.daemon.stop()?;
    expect_data(read_block_here(&stage.file(), 0), 0).context("from the page cache")?;
    let start = Instant::now();
    let got = read_block_here(&stage.file(), 1);
    ensure!(got.is_err(), "a block that nobody has sent was read");
    ensure!(
        start.elapsed() < *AT_ONCE,
        "that took {:?}",
        start.elapsed()
    );
    stage.mount.unmount()
}

/// After a daemon has gone with an image mounted, the next one serves the same cache.
fn next_daemon_serves_again(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::Serve)?;
    for block in [0, 9] {
        expect_data(read_block_here(&stage.file(), block), block)?;
    }
    for _ in 0..3 {
        stage.daemon.stop()?;
        ensure!(
            read_block_here(&stage.file(), 33).is_err(),
            "read without a daemon"
        );
        stage.mount.unmount()?;
        stage.daemon = stage.cache.serve(stage::blobs(Manner::Serve))?;
        stage.mount = Mount::new(lab.base(), "meta")?;
        let before = stage.daemon.reads();
        expect_data(read_block_here(&stage.file(), 9), 9)?;
        let reads = stage.daemon.reads() - before;
        ensure!(
            reads == 0,
            "{reads} READs for what an earlier daemon has fetched"
        );
    }
    stage::expect_file(&stage.file())
}

/// A blob that the daemon does not know: the image is mounted, its file gives an error.
fn unknown_blob(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let image = crate::image::Image::new()
        .device("blob")
        .file("file", 0, [(1, 0)])
        .build();
    let refused = crate::blob::Blob::Bytes(vec![].into());
    let manner = Manner::RefuseOpen(Errno::NOENT);
    let blobs = Blobs::new()
        .with("meta", image)
        .with_manner("blob", refused, manner);
    let daemon = cache.serve(blobs)?;
    let mount = Mount::new(lab.base(), "meta")?;
    eventually("the blob's OPEN", || daemon.opens() == 2)?;
    // C: as in open_request.
    let error = if lab.is_peer() {
        Errno::NOBUFS
    } else {
        Errno::IO
    };
    for what in ["the first read", "the second"] {
        let got = read_block_here(&mount.path("file"), 0);
        stage::expect_error(got, error, what)?;
    }
    Ok(())
}

/// `timeout` bounds the wait of a reader and of a mount by a daemon that lives and says nothing.
/// What comes later is served as ever.
fn timeout_ends_what_a_silent_daemon_leaves(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let device = stage.daemon.device()?;
    let set = |line: &str| device.command(line.as_bytes());
    if lab.is_peer() {
        let error = set("timeout 100").err().and_then(|e| e.raw_os_error());
        ensure!(
            error == Some(Errno::OPNOTSUPP.raw_os_error()),
            "C has no such command: {error:?}"
        );
        return Ok(());
    }
    // Nobody has asked for one: what is answered late is answered.
    answered_after(&stage, 19, Duration::from_millis(1500))?;
    set("timeout 300")?;
    let log = Kmsg::from_now()?;
    let start = Instant::now();
    let got = join(read_block(&stage.file(), 20));
    let error = got?.err().and_then(|e| e.raw_os_error());
    // EROFS makes EIO of whatever ended its read.
    ensure!(
        error == Some(Errno::IO.raw_os_error()),
        "a reader got {error:?}"
    );
    ensure!(
        start.elapsed() < 4 * *AT_ONCE,
        "that took {:?}",
        start.elapsed()
    );
    ensure!(
        start.elapsed() >= Duration::from_millis(300),
        "nobody waited"
    );
    says_etimedout(&log)?;
    while let Ok(late) = stage.daemon.read_within(Duration::from_millis(50)) {
        let answer = late.object.complete_read(late.msg_id);
        ensure!(answer.is_err(), "a READ that is over was completed");
    }
    set("timeout 0")?;
    answered_after(&stage, 20, Duration::from_millis(600))
}

/// Somebody reads this block, and the daemon answers after so long.
fn answered_after(stage: &Stage, block: u32, pause: Duration) -> Result<()> {
    let reader = read_block(&stage.file(), block);
    let read = stage.daemon.read()?;
    thread::sleep(pause);
    read.object.write_all_at(&aligned(block), read.offset)?;
    read.object.complete_read(read.msg_id)?;
    expect_data(join(reader)?, block)
}

/// The module has told of a request that failed so, which EROFS makes something else of.
fn says_etimedout(log: &Kmsg) -> Result<()> {
    let said = log.of_module()?;
    ensure!(
        said.iter()
            .any(|line| line.contains("fails with etimedout")),
        "no request failed with ETIMEDOUT: {said:?}"
    );
    Ok(())
}

/// `timeout` bounds the wait of a mount for its OPEN, too. The answer that comes later is for
/// nobody, the daemon is told to close the fd, and the next mount is served.
fn timeout_ends_an_open(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C has no such command".to_owned()).into());
    }
    let cache = lab.cache()?;
    let blobs = stage::blobs_named("other", "blob", Manner::Serve);
    let empty = crate::blob::Blob::Bytes(vec![].into());
    let daemon = cache.serve(blobs.with_manner("meta", empty, Manner::Manual))?;
    // It must have read the OPEN by then.
    let time = Duration::from_secs(2);
    daemon.device()?.command(b"timeout 2000")?;
    let log = Kmsg::from_now()?;
    let start = Instant::now();
    let mount = Mount::in_background(lab.base(), "meta");
    let open = daemon.open()?;
    let got = mount.join().ok().context("the mounting thread panicked")?;
    ensure!(got.is_err(), "mounted without an image");
    ensure!(start.elapsed() >= time, "nobody waited");
    ensure!(
        start.elapsed() < time + 4 * *AT_ONCE,
        "that took {:?}",
        start.elapsed()
    );
    says_etimedout(&log)?;
    let late = daemon.device()?.open_reply(open.msg_id, Ok(4096)).err();
    ensure!(
        late.and_then(|error| error.raw_os_error()) == Some(Errno::INVAL.raw_os_error()),
        "an OPEN that is over was answered"
    );
    match daemon.event()? {
        Event::Close { object_id } if object_id == open.object_id => {}
        other => bail!("not the CLOSE of the object that was opened too late: {other:?}"),
    }
    drop(open);
    let mount = Mount::new(lab.base(), "other")?;
    expect_data(read_block_here(&mount.path("file"), 1), 1)
}

/// A READ for compressed data that is not answered: its reader is killed, or the daemon goes. EROFS
/// submits such reads as bios, and must not be told of the failure while it prepares one.
fn compressed_read_that_fails(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip(
            "with C, EROFS ends a bio that it has freed (erofs_fscache_submit_bio())".to_owned(),
        )
        .into());
    }
    let images = lab.images()?;
    let kind = tree::kind("lz4")?;
    let blob = crate::blob::Blob::file(&images.join(kind.name))?;
    let cache = lab.cache()?;
    let blobs = Blobs::new().with_manner(kind.name, blob.clone(), Manner::ManualReads);
    let mut daemon = cache.serve(blobs)?;
    let answer = |read: crate::daemon::Read| -> Result<()> {
        let bytes = blob.read(read.offset, usize::try_from(read.len)?)?;
        read.object.write_all_at(&bytes, read.offset)?;
        Ok(read.object.complete_read(read.msg_id)?)
    };
    let mounting = Mount::in_background(lab.base(), kind.name);
    while !mounting.is_finished() {
        if let Ok(read) = daemon.read_within(Duration::from_millis(20)) {
            answer(read)?;
        }
    }
    let mut mount = mounting
        .join()
        .ok()
        .context("the mounting thread panicked")??;
    let file = mount.path("a/b/c/big");
    let reader = |offset: u64| {
        let offset = offset.to_string();
        Helper::start(&["read", &file.to_string_lossy(), &offset, "4096"])
    };
    // What leads to the file comes first, page by page, and is not submitted as bios.
    let mut first = reader(0)?;
    let start = Instant::now();
    let pending = loop {
        let read = daemon.read()?;
        if read.len > 4096 {
            break read;
        }
        answer(read)?;
    };
    first.kill()?;
    first.finish(*AT_ONCE).context("a killed reader")?;
    println!("killed {:?} after the start", start.elapsed());
    let _ = pending.object.complete_read(pending.msg_id);
    drop(pending);
    let second = reader(1 << 20)?;
    let pending = daemon.read()?;
    drop(pending);
    daemon.stop()?;
    let said = second
        .finish(*AT_ONCE)
        .context("a reader without a daemon")?;
    ensure!(
        said == errno_name(Errno::IO),
        "a reader got {said}, not EIO"
    );
    mount.unmount()
}
