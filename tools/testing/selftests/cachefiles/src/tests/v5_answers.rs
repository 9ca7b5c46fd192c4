// SPDX-License-Identifier: GPL-2.0

//! Answers in v5: `cinit` and `cread` on the device, and what becomes of wrong and late ones.

use super::{
    bugs_scene::{at_once, bytes, mounting, served, Hand, Read, Scene},
    v5::{refused, MOMENT},
};
use crate::{
    group,
    kernel::Kmsg,
    lab::Lab,
    patience::SOON,
    raw,
    stage::{expect_data, expect_error, read_block, SIZE},
};
use anyhow::{bail, ensure, Result};
use cachefiles_client::{
    protocol::message::{OPEN_WANT_CACHE_SIZE, READ_COMPLETE},
    Errno, Request,
};
use std::{os::fd::AsFd, thread};

group!("v5_answers":
    no_ioctl_answers_a_read,
    cinit_without_size_refuses,
    malformed_answers,
    answered_twice,
    cread_before_delivery,
    cread_of_any_object,
    cread_after_the_fd_is_closed,
    late_cread_meets_reused_id,
);

/// The fd takes no answer in v5, neither the right one nor another.
fn no_ioctl_answers_a_read(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let reader = scene.reader(3);
    let read = scene.hand.read()?;
    for id in [read.msg_id, read.msg_id.wrapping_add(1)] {
        let got = raw::ioctl(scene.blob.object.as_fd(), READ_COMPLETE, id);
        expect_error(got, Errno::INVAL, "an answer through the fd")?;
    }
    thread::sleep(MOMENT);
    ensure!(!reader.is_finished(), "the ioctl answered the READ");
    read.answer(&scene.blob.object)?;
    expect_data(scene.hand.until_done(reader)?, 3)
}

/// WANT_CACHE_SIZE is set, so an answer without a size, or with 0, refuses the object: the command
/// succeeds and the log says it.  The same object can be opened afterwards.
fn cinit_without_size_refuses(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let device = hand.device()?;
    for answer in ["", ",0", ",0x0"] {
        let mount = mounting(lab, "blob", "");
        ensure!(device.wait(Some(*SOON))?, "no OPEN came");
        let Some(Request::Open {
            msg_id,
            object,
            flags,
            ..
        }) = device.next_request()?
        else {
            bail!("no OPEN");
        };
        ensure!(flags == OPEN_WANT_CACHE_SIZE, "the flags are {flags:#x}");
        let log = Kmsg::from_now()?;
        device.command(format!("cinit {msg_id}{answer}").as_bytes())?;
        let got = at_once("a refused mount", mount)?;
        ensure!(got.is_err(), "mounted an object without a size");
        let said = log.of_module()?.join("\n");
        ensure!(said.contains("no size"), "the log says {said:?}");
        drop(object);
    }
    hand.serve_all();
    let mount = hand.mount(lab, "meta")?;
    expect_data(hand.until_done(read_block(&mount.file(), 5))?, 5)?;
    mount.unmount()
}

/// Wrong answers fail and answer nothing: what they were meant for still waits.
fn malformed_answers(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let device = hand.device()?;
    let mount = hand.mount(lab, "meta")?;
    let open = hand.open()?;
    let id = open.msg_id;
    let (over, other) = (u64::from(id) + (1 << 32), id.wrapping_add(7));
    for (line, error) in [
        ("cinit".to_owned(), Errno::INVAL),
        ("cinit ,1".to_owned(), Errno::INVAL),
        ("cinit x,1".to_owned(), Errno::INVAL),
        ("cinit -1,1".to_owned(), Errno::INVAL),
        (format!("cinit {id},"), Errno::INVAL),
        (format!("cinit {id},x"), Errno::INVAL),
        (format!("cinit {id},1x"), Errno::INVAL),
        // v5 has no errors in its answers.
        (format!("cinit {id},-2"), Errno::INVAL),
        (format!("cinit {id},99999999999999999999"), Errno::RANGE),
        (format!("cinit {id},9223372036854775808"), Errno::RANGE),
        ("cinit 99999999999999999999,1".to_owned(), Errno::RANGE),
        (format!("cinit {other},1"), Errno::INVAL),
        (format!("cinit {over},1"), Errno::INVAL),
        // An OPEN is no READ.
        (format!("cread {id}"), Errno::INVAL),
    ] {
        refused(&device, &line, error)?;
    }
    device.command(format!("cinit {id:#x},{SIZE:#x}\n").as_bytes())?;
    let reader = read_block(&mount.file(), 2);
    let read = hand.read()?;
    let id = read.msg_id;
    let (over, other) = (u64::from(id) + (1 << 32), id.wrapping_add(7));
    for (line, error) in [
        ("cread".to_owned(), Errno::INVAL),
        ("cread x".to_owned(), Errno::INVAL),
        ("cread -1".to_owned(), Errno::INVAL),
        (format!("cread {id},1"), Errno::INVAL),
        (format!("cread {id}x"), Errno::INVAL),
        ("cread 99999999999999999999".to_owned(), Errno::RANGE),
        (format!("cread {other}"), Errno::INVAL),
        (format!("cread {over}"), Errno::INVAL),
        // A READ is no OPEN.
        (format!("cinit {id},4096"), Errno::INVAL),
        (format!("cinit {id}"), Errno::INVAL),
    ] {
        refused(&device, &line, error)?;
    }
    thread::sleep(MOMENT);
    ensure!(
        !reader.is_finished(),
        "a wrong answer has answered the READ"
    );
    open.object
        .write_all_at(&bytes(read.offset, read.len), read.offset)?;
    device.command(format!("cread {id:#o}\n").replace("0o", "0").as_bytes())?;
    expect_data(hand.until_done(reader)?, 2)
}

/// The second answer to a request finds none, of an OPEN as of a READ.
fn answered_twice(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let device = scene.hand.device()?;
    let again = |line: String| refused(&device, &line, Errno::INVAL);
    again(format!("cinit {},{SIZE}", scene.blob.msg_id))?;
    again(format!("cinit {}", scene.blob.msg_id))?;
    let reader = scene.reader(6);
    let read = scene.hand.read()?;
    read.answer(&scene.blob.object)?;
    again(format!("cread {}", read.msg_id))?;
    expect_data(scene.hand.until_done(reader)?, 6)?;
    scene.still_serves(7)
}

/// An answer to a READ that nobody has read yet is for none, and does it no harm.
fn cread_before_delivery(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let device = scene.hand.device()?;
    let reader = scene.reader(1);
    let first = scene.hand.read()?;
    first.answer(&scene.blob.object)?;
    expect_data(scene.hand.until_done(reader)?, 1)?;
    let reader = scene.reader(9);
    ensure!(device.wait(Some(*SOON))?, "no READ came");
    let early = 1..8;
    for id in early.clone() {
        refused(
            &device,
            &format!("cread {}", first.msg_id.wrapping_add(id)),
            Errno::INVAL,
        )?;
    }
    thread::sleep(MOMENT);
    ensure!(!reader.is_finished(), "an early answer counted");
    let read = scene.hand.read()?;
    ensure!(
        early.contains(&read.msg_id.wrapping_sub(first.msg_id)),
        "the READ {} was not among those that were tried",
        read.msg_id
    );
    read.answer(&scene.blob.object)?;
    expect_data(scene.hand.until_done(reader)?, 9)
}

/// A `cread` names the READ alone: it is no matter whose fd the daemon holds, nor in which order.
fn cread_of_any_object(lab: &Lab) -> Result<()> {
    let one = Scene::new(lab)?;
    let mount = one.hand.mount(lab, "meta2")?;
    let two = one.hand.opened()?;
    let readers = (one.reader(0), read_block(&mount.file(), 0));
    let (mut first, mut second) = (one.hand.read()?, one.hand.read()?);
    if first.object_id != one.blob.object_id {
        std::mem::swap(&mut first, &mut second);
    }
    let write = |object: &cachefiles_client::ObjectFd, read: Read| {
        object.write_all_at(&bytes(read.offset, read.len), read.offset)
    };
    write(&one.blob.object, first)?;
    write(&two.object, second)?;
    // Through each other's, as far as there is a "through".
    one.blob.object.complete_read(second.msg_id)?;
    two.object.complete_read(first.msg_id)?;
    expect_data(one.hand.until_done(readers.0)?, 0)?;
    expect_data(one.hand.until_done(readers.1)?, 0)
}

/// The order of close(2) and `cread` is the daemon's: the READ waits for its answer, and takes it.
fn cread_after_the_fd_is_closed(lab: &Lab) -> Result<()> {
    // What is bound last goes first.
    let Scene {
        cache: _cache,
        hand,
        blob,
        mount,
    } = Scene::new(lab)?;
    let device = hand.device()?;
    let reader = read_block(&mount.file(), 2);
    let read = hand.read()?;
    blob.object
        .write_all_at(&bytes(read.offset, read.len), read.offset)?;
    drop(blob);
    thread::sleep(MOMENT);
    ensure!(!reader.is_finished(), "the close has answered the READ");
    device.cread(read.msg_id)?;
    expect_data(at_once("the reader", reader)?, 2)?;
    expect_error(device.cread(read.msg_id), Errno::INVAL, "a second cread")?;
    // The OPEN that the close has brought stands, for what is missing.
    let blob = hand.opened()?;
    served(&hand, &blob.object, &mount.file(), 3)
}

/// Closing an fd answers no READ, so that a late `cread` cannot meet a successor of its id.  (In
/// the fourth version of the series it did.)
fn late_cread_meets_reused_id(lab: &Lab) -> Result<()> {
    // What is bound last goes first.
    let Scene {
        cache: _cache,
        hand,
        blob,
        mount,
    } = Scene::new(lab)?;
    let device = hand.device()?;
    let reader = read_block(&mount.file(), 2);
    let first = hand.read()?;
    drop(blob);
    thread::sleep(MOMENT);
    ensure!(
        !reader.is_finished(),
        "closing the fd has answered its READ"
    );
    let blob = hand.open()?;
    let as_open = device.cread(blob.msg_id);
    expect_error(as_open, Errno::INVAL, "an OPEN answered by cread")?;
    device.cinit(blob.msg_id, Some(SIZE))?;
    let again = hand.read()?;
    ensure!(
        again.msg_id == first.msg_id,
        "another READ, {} after {}",
        again.msg_id,
        first.msg_id
    );
    again.answer(&blob.object)?;
    expect_data(hand.until_done(reader)?, 2)?;

    // Now the id is over; whatever comes next has another one.
    for block in 9..13 {
        let reader = read_block(&mount.file(), block);
        let next = hand.read()?;
        for late in [first.msg_id, blob.msg_id] {
            expect_error(device.cread(late), Errno::INVAL, "a late cread")?;
        }
        thread::sleep(MOMENT);
        ensure!(
            !reader.is_finished(),
            "a late cread has answered another READ"
        );
        next.answer(&blob.object)?;
        expect_data(hand.until_done(reader)?, block)?;
    }
    Ok(())
}
