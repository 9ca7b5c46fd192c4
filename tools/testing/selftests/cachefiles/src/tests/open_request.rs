// SPDX-License-Identifier: GPL-2.0

//! OPEN: what it carries, and what becomes of the mount for every way to answer it.

use crate::{
    cachefilesd::Known,
    daemon::{Daemon, Event, Manner},
    group,
    image::BLOCK,
    kernel::Kmsg,
    lab::{eventually, free_device, Lab},
    mount::{try_mount, Mount, Mounting},
    patience::SOON,
    protocol::open_device,
    raw,
    stage::{self, expect_data, expect_error, expect_file, read_block_here, Stage},
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{CacheConfig, Device, Errno, Request};
use std::{fs, time::Duration};

group!("open_request":
    carries_keys,
    answered_with_error,
    closed_then_answered_with_error,
    answered_with_error_then_closed,
    closed_then_answered_with_size,
    size_zero_reads_as_error,
    malformed_answers,
    size_that_no_file_can_have,
    answered_twice,
    fd_closed_early_is_reopened,
    small_buffer_loses_nothing,
    bad_address_leaks_no_fd,
    unserved_before_unmount,
    answered_after_unmount,
);

/// A session over a fresh cache whose requests all come to the test.
fn manual(lab: &Lab) -> Result<(crate::lab::Cache, Daemon)> {
    let cache = lab.cache()?;
    let blobs = stage::blobs_named("other", "blob", Manner::Serve);
    let blobs = blobs.with_manner(
        "meta",
        crate::blob::Blob::Bytes(vec![].into()),
        Manner::Manual,
    );
    let daemon = cache.serve(blobs)?;
    Ok((cache, daemon))
}

fn mounted(mount: Mounting) -> Result<Result<Mount, Errno>> {
    mount.join().ok().context("the mounting thread panicked")
}

/// After a failed mount the same session serves a good one.
fn still_serves(lab: &Lab) -> Result<()> {
    let mount = Mount::new(lab.base(), "other")?;
    expect_data(read_block_here(&mount.path("file"), 3), 3)
}

/// The volume's key without its NUL, the cookie's key, and an id that is not 0.
fn carries_keys(lab: &Lab) -> Result<()> {
    let (_cache, daemon) = manual(lab)?;
    let mount = Mount::in_background(lab.base(), "meta");
    let open = daemon.open()?;
    ensure!(open.volume == b"erofs,meta", "volume key {:?}", open.volume);
    ensure!(open.key == b"meta", "cookie key {:?}", open.key);
    ensure!(open.object_id != 0, "the object's id is 0");
    daemon
        .device()?
        .open_reply(open.msg_id, Err(Errno::NOENT))?;
    ensure!(mounted(mount)?.is_err(), "mounted without an image");
    Ok(())
}

fn refused(lab: &Lab, error: Errno, order: &str) -> Result<()> {
    let (_cache, daemon) = manual(lab)?;
    let mount = Mount::in_background(lab.base(), "meta");
    let open = daemon.open()?;
    let (msg_id, object_id) = (open.msg_id, open.object_id);
    let mut open = Some(open);
    if order == "close first" {
        open = None;
        daemon.forget(object_id)?;
    }
    daemon.device()?.open_reply(msg_id, Err(error))?;
    drop(open);
    daemon.forget(object_id)?;
    let got = mounted(mount)?;
    // In C the cookie is not cached then, which FS-Cache calls ENOBUFS unless it has let the read begin.
    let errors: &[Errno] = if lab.is_peer() {
        &[Errno::NOBUFS, Errno::IO]
    } else {
        &[Errno::IO]
    };
    ensure!(
        got.as_ref().is_err_and(|error| errors.contains(error)),
        "the OPEN was refused, and mounting said {got:?}"
    );
    still_serves(lab)
}

fn answered_with_error(lab: &Lab) -> Result<()> {
    refused(lab, Errno::NODEV, "close last")
}

/// As nydusd does.
fn closed_then_answered_with_error(lab: &Lab) -> Result<()> {
    refused(lab, Errno::NOENT, "close first")?;
    refused(lab, Errno::ALREADY, "close first")
}

/// As styx does.
fn answered_with_error_then_closed(lab: &Lab) -> Result<()> {
    refused(lab, Errno::NODEV, "close last")
}

/// An object whose fd is gone cannot be opened with a size: the mount fails, nothing hangs.
fn closed_then_answered_with_size(lab: &Lab) -> Result<()> {
    let (_cache, daemon) = manual(lab)?;
    let mount = Mount::in_background(lab.base(), "meta");
    let open = daemon.open()?;
    let (msg_id, object_id) = (open.msg_id, open.object_id);
    drop(open);
    daemon.forget(object_id)?;
    daemon.device()?.open_reply(msg_id, Ok(BLOCK))?;
    ensure!(
        mounted(mount)?.is_err(),
        "mounted an object that nobody serves"
    );
    still_serves(lab)
}

/// A blob of size 0 has no data: its readers get an error, never zeros.
fn size_zero_reads_as_error(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::Size(0))?;
    // Nothing was said of the image itself; the blob is looked up behind the mount.
    eventually("the blob's OPEN", || stage.daemon.opens() == 2)?;
    match read_block_here(&stage.file(), 0) {
        // The daemon writes the data all the same when it is asked.
        Ok(bytes) => expect_data(Ok(bytes), 0),
        Err(error) => expect_error::<()>(Err(error), Errno::IO, "reading a blob of size 0"),
    }
}

/// Wrong answers fail with C's error numbers.  One with the right id but a wrong size fails the
/// OPEN too, as nobody knows what was meant.
fn malformed_answers(lab: &Lab) -> Result<()> {
    let (_cache, daemon) = manual(lab)?;
    let device = daemon.device()?;
    for (size, want) in [
        ("", Errno::INVAL),
        ("x", Errno::INVAL),
        ("1x", Errno::INVAL),
        ("99999999999999999999", Errno::RANGE),
        ("-5000", Errno::INVAL),
    ] {
        let mount = Mount::in_background(lab.base(), "meta");
        let open = daemon.open()?;
        let wrong_id = format!("copen {},4096", open.msg_id.wrapping_add(7));
        expect_error(
            device.command(wrong_id.as_bytes()),
            Errno::INVAL,
            "an unknown id",
        )?;
        let log = Kmsg::from_now()?;
        let line = format!("copen {},{size}", open.msg_id);
        expect_error(device.command(line.as_bytes()), want, &line)?;
        let said = log.of_module()?.join("\n");
        ensure!(
            lab.is_peer() || said.contains("copen"),
            "no message about {line}: {said}"
        );
        ensure!(mounted(mount)?.is_err(), "mounted after {line}");
        daemon.forget(open.object_id)?;
    }
    still_serves(lab)
}

/// A size that no file of the cache can have: the mount fails, and the daemon, which has accepted
/// the object and read nothing since, is told to close its fd.
fn size_that_no_file_can_have(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = free_device(cache.dir())?;
    device.bind_ondemand()?;
    let mount = Mount::in_background(lab.base(), "meta");
    ensure!(device.wait(Some(*SOON))?, "no OPEN");
    let request = device.next_request()?;
    let Some(Request::Open {
        msg_id,
        object_id: opened,
        object,
        ..
    }) = request
    else {
        bail!("not an OPEN: {request:?}");
    };
    device.open_reply(msg_id, Ok(1 << 50))?;
    ensure!(mounted(mount)?.is_err(), "mounted a file of a pebibyte");
    // C's object does not go before the CLOSE is read.
    if !lab.is_peer() {
        eventually("the object is gone", || {
            Known::objects().is_ok_and(|objects| objects == 0)
        })?;
    }
    ensure!(device.wait(Some(*SOON))?, "no CLOSE");
    let request = device.next_request()?;
    ensure!(
        matches!(request, Some(Request::Close { object_id, .. }) if object_id == opened),
        "not the CLOSE of {opened}: {request:?}"
    );
    drop(object);
    Ok(())
}

/// The second answer to one OPEN finds no request.
fn answered_twice(lab: &Lab) -> Result<()> {
    let (_cache, daemon) = manual(lab)?;
    let mount = Mount::in_background(lab.base(), "meta");
    let open = daemon.open()?;
    let device = daemon.device()?;
    device.open_reply(open.msg_id, Err(Errno::NOENT))?;
    expect_error(
        device.open_reply(open.msg_id, Ok(4096)),
        Errno::INVAL,
        "a second answer",
    )?;
    ensure!(mounted(mount)?.is_err(), "the second answer counted");
    Ok(())
}

/// A miss on an object whose fd was closed after the OPEN opens it anew.
fn fd_closed_early_is_reopened(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(stage::blobs(Manner::Manual))?;
    let mount = Mount::new(lab.base(), "meta")?;
    for block in 0..4 {
        let reader = stage::read_block(&mount.path("file"), block);
        let open = daemon.open()?;
        daemon.device()?.open_reply(open.msg_id, Ok(stage::SIZE))?;
        let read = daemon.read()?;
        ensure!(
            read.offset == u64::from(block) * BLOCK,
            "a READ at {}",
            read.offset
        );
        read.object.write_all_at(&aligned(block), read.offset)?;
        read.object.complete_read(read.msg_id)?;
        expect_data(stage::join(reader)?, block)?;
        let object_id = open.object_id;
        drop((open, read));
        daemon.forget(object_id)?;
    }
    // What is cached needs no fd.
    expect_data(read_block_here(&mount.path("file"), 0), 0)
}

/// A block of the blob, where direct I/O takes it.
fn aligned(block: u32) -> crate::blob::Aligned {
    let mut bytes = crate::blob::Aligned::new(BLOCK as usize);
    bytes.copy_from_slice(&stage::want(block));
    bytes
}

fn open_fds() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// A bound device without a daemon, and a mount that waits for its OPEN.
fn waiting_open(lab: &Lab) -> Result<(crate::lab::Cache, Device, Mounting)> {
    let cache = lab.cache()?;
    let device = open_device()?;
    device.configure(&CacheConfig::new(cache.dir()))?;
    device.bind_ondemand()?;
    let mount = Mount::in_background(lab.base(), "meta");
    ensure!(device.wait(Some(*SOON))?, "no OPEN came");
    Ok((cache, device, mount))
}

/// EMSGSIZE, and the request is still the next.
fn small_buffer_loses_nothing(lab: &Lab) -> Result<()> {
    let (_cache, device, mount) = waiting_open(lab)?;
    let fds = open_fds()?;
    for len in [0, 1, 16, 32, 40] {
        let got = device.read_bytes(&mut vec![0; len]);
        expect_error(got, Errno::MSGSIZE, &format!("a read of {len} bytes"))?;
    }
    ensure!(open_fds()? == fds, "a refused read left an fd");
    ensure!(device.wait(Some(Duration::ZERO))?, "the request is gone");
    let _daemon = Daemon::over(device, stage::blobs(Manner::Serve))?;
    let mount = mounted(mount)??;
    expect_file(&mount.path("file"))
}

/// EFAULT, and no fd is left; what becomes of the mount is the daemon's fault.
fn bad_address_leaks_no_fd(lab: &Lab) -> Result<()> {
    let (_cache, device, mount) = waiting_open(lab)?;
    let fds = open_fds()?;
    expect_error(
        raw::read_into_bad_address(&device, 1024),
        Errno::FAULT,
        "a bad address",
    )?;
    ensure!(
        open_fds()? == fds,
        "{} fds more",
        open_fds()?.wrapping_sub(fds)
    );
    // On C the request is answered with EFAULT; ours may keep it.  Either way serving goes on.
    let _daemon = Daemon::over(device, stage::blobs(Manner::Serve))?;
    drop(mounted(mount)?);
    let mount = Mount::new(lab.base(), "meta")?;
    expect_file(&mount.path("file"))
}

/// A device's OPEN that is never answered: reading fails when the daemon goes, and the mount can
/// be undone.
fn unserved_before_unmount(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let mut daemon = cache.serve(stage::blobs(Manner::Manual))?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    let open = daemon.open()?;
    let reader = stage::read_block(&mount.path("file"), 0);
    std::thread::sleep(Duration::from_millis(50));
    drop(open);
    daemon.stop()?;
    let got = stage::join(reader)?;
    ensure!(got.is_err(), "the reader got data that nobody sent");
    mount.unmount()?;
    let again = try_mount(lab.base(), b"meta", b"");
    ensure!(again.is_err(), "mounted without a daemon");
    Ok(())
}

/// An image is unmounted while the daemon, which has read an OPEN, is about to answer it: the answer
/// is taken all the same, and then the daemon is told to close the fd.  One that closes it instead
/// hears no more.
fn answered_after_unmount(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(stage::blobs(Manner::Manual))?;
    for answered in [true, false, true] {
        let mut mount = Mount::new(lab.base(), "meta")?;
        let open = daemon.open()?;
        mount.unmount()?;
        // C's object waits for the answer, and goes then.
        if !lab.is_peer() {
            eventually("the object is gone", || {
                let cookies = fs::read_to_string("/proc/fs/fscache/cookies");
                // "blob".
                cookies.is_ok_and(|cookies| !cookies.contains("626c6f62"))
            })?;
        }
        if !answered && !lab.is_peer() {
            let object_id = open.object_id;
            drop(open);
            daemon.forget(object_id)?;
            ensure!(
                daemon.is_quiet(Duration::from_millis(20)),
                "something about a closed fd"
            );
            continue;
        }
        daemon
            .device()?
            .open_reply(open.msg_id, Ok(stage::SIZE))
            .context("the late answer")?;
        match daemon.event()? {
            Event::Close { object_id } if object_id == open.object_id => {}
            other => bail!("expected a CLOSE of {}, got {other:?}", open.object_id),
        }
    }
    Ok(())
}
