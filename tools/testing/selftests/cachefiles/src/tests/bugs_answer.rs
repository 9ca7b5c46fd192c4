// SPDX-License-Identifier: GPL-2.0

//! What broke in C when answers, ids and `restore` came in an order that nobody had thought of.
//! Each case is named after the CVE, or the title, of Documentation/known-bugs.rst.

use super::bugs_scene::{at_once, breathe, lock, mounting, rounds, served, Again, Hand, Scene};
use crate::{
    group,
    image::BLOCK,
    lab::{eventually, Lab},
    patience::SOON,
    protocol::spoken,
    stage::{self, expect_data, expect_error, read_block, SIZE},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{Errno, Layout, ObjectFd};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

group!("bugs_answer":
    cve_2024_40899,
    cve_2024_41050,
    cve_2024_41074,
    cve_2024_41075,
    anon_fd_closed_during_copen,
    restore_twice,
    closing_one_fd_spares_others,
    busy_object_starves_nobody,
    failed_copen_then_mount_again,
);

/// A moment in which something would happen if it were to.
const MOMENT: Duration = Duration::from_millis(50);

/// `restore` makes an OPEN new, a reader takes it again and again, and a copen frees it.
fn cve_2024_40899(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let mut last = 0;
    // How often an OPEN has to be read: on C a second fd is refused with EEXIST, and the OPEN with it.
    let enough = if lab.is_peer() { 1 } else { 2 };
    for round in rounds() {
        last = round;
        let seen = Arc::new(Mutex::new(vec![]));
        let (device, seeing) = (hand.device()?, Arc::clone(&seen));
        let reader = Again::and_again(move || {
            if let Ok(Some(request)) = device.next_request() {
                lock(&seeing).push(request.msg_id());
            }
            breathe();
        });
        let device = hand.device()?;
        let restorer = Again::and_again(move || {
            let _ = device.restore();
            breathe();
        });
        let mount = mounting(lab, "meta", "");
        eventually("the OPEN is read, or the mount fails", || {
            lock(&seen).len() >= enough || mount.is_finished()
        })?;
        let ids = lock(&seen).clone();
        ensure!(
            lab.is_peer() || (ids.len() >= enough && ids.iter().all(|id| *id == ids[0])),
            "the OPEN was read as {ids:?}"
        );
        if let Some(id) = ids.last() {
            let _ = hand.device()?.open_reply(*id, Err(Errno::NOENT));
        }
        ensure!(
            at_once("a refused mount", mount)?.is_err(),
            "mounted without an image"
        );
        drop((reader, restorer));
        hand.turn()?;
    }
    println!("{last} rounds");
    hand.serve_all();
    hand.mount(lab, "meta")?.unmount()
}

/// A late copen with the id of a request that is over meets no successor.
fn cve_2024_41050(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let mut ids = HashSet::new();
    for _ in 0..40 {
        let mount = mounting(lab, "blob", "");
        let open = hand.open()?;
        let device = hand.device()?;
        ensure!(
            ids.insert(open.msg_id),
            "the id {} was given out twice",
            open.msg_id
        );
        for old in ids.iter().filter(|id| **id != open.msg_id) {
            expect_error(
                device.open_reply(*old, Ok(BLOCK)),
                Errno::INVAL,
                "a stray copen",
            )?;
        }
        ensure!(!mount.is_finished(), "a stray copen ended the mount");
        device.open_reply(open.msg_id, Err(Errno::NOENT))?;
        ensure!(
            at_once("a refused mount", mount)?.is_err(),
            "mounted without an image"
        );
    }
    Ok(())
}

/// A copen for the OPEN of a lost fd that nobody has read: the object can be opened all the same.
fn cve_2024_41074(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    let device = scene.hand.device()?;
    let reader = scene.reader(3);
    let read = scene.hand.read()?;
    drop(std::mem::replace(&mut scene.blob.object, dummy()?));
    if lab.is_peer() {
        thread::sleep(MOMENT);
        // C delivers the READ again, and asks for a new OPEN, only after these two.
        device.restore()?;
        // A read into nothing takes no request, but has C queue the reopening.
        let _ = device.read_bytes(&mut []);
        thread::sleep(MOMENT);
    } else {
        // Nothing else is new: what there is to read is the OPEN.
        ensure!(device.wait(Some(*SOON))?, "no OPEN came");
    }
    // The id of the OPEN was reserved before that of the READ, with the fd.
    let near = (1..8).flat_map(|away| {
        [
            read.msg_id.wrapping_add(away),
            read.msg_id.wrapping_sub(away),
        ]
    });
    for id in near {
        let got = device.open_reply(id, Ok(SIZE));
        if lab.is_peer() {
            // C takes the answer, and fails the OPEN with EBADFD behind it.
            println!("copen of {id}: {got:?}");
        } else {
            expect_error(got, Errno::INVAL, "a copen for what was not read")?;
        }
    }
    scene.blob = scene.hand.opened()?;
    let away = i64::from(scene.blob.msg_id) - i64::from(read.msg_id);
    ensure!(
        lab.is_peer() || (1..8).contains(&away.abs()),
        "the OPEN is {away} from the READ: none of the copens was for it"
    );
    scene.hand.read()?.answer(&scene.blob.object)?;
    expect_data(scene.hand.until_done(reader)?, 3)?;
    scene.still_serves(4)
}

/// Something that takes the place of an anonymous fd.
pub(super) fn dummy() -> Result<ObjectFd> {
    Ok(ObjectFd::from(std::os::fd::OwnedFd::from(
        std::fs::File::open("/dev/null")?,
    )))
}

/// An OPEN is answered as an OPEN only, a READ through its own object's fd only.
fn cve_2024_41075(lab: &Lab) -> Result<()> {
    let one = Scene::new(lab)?;
    let mount = one.hand.mount(lab, "meta2")?;
    let open = one.hand.open()?;
    let device = one.hand.device()?;
    let wrong = |got, what| expect_error(got, Errno::INVAL, what);
    wrong(
        open.object.complete_read(open.msg_id),
        "an OPEN answered as a READ",
    )?;
    wrong(
        one.blob.object.complete_read(open.msg_id),
        "another object's OPEN answered",
    )?;
    device.open_reply(open.msg_id, Ok(SIZE))?;
    let readers = (one.reader(0), read_block(&mount.file(), 0));
    let (mut first, mut second) = (one.hand.read()?, one.hand.read()?);
    if first.object_id != one.blob.object_id {
        std::mem::swap(&mut first, &mut second);
    }
    wrong(
        device.open_reply(first.msg_id, Ok(SIZE)),
        "a READ answered as an OPEN",
    )?;
    wrong(
        device.open_reply(first.msg_id, Err(Errno::IO)),
        "a READ refused",
    )?;
    // In v5 an answer comes through no fd.
    if spoken() == Layout::Mainline {
        wrong(
            open.object.complete_read(first.msg_id),
            "a READ answered through another fd",
        )?;
        wrong(
            one.blob.object.complete_read(second.msg_id),
            "a READ answered through another fd",
        )?;
    }
    second.answer(&open.object)?;
    first.answer(&one.blob.object)?;
    expect_data(one.hand.until_done(readers.0)?, 0)?;
    expect_data(one.hand.until_done(readers.1)?, 0)
}

/// The fd goes while copen makes its object open: then it is not open, and is opened again.
fn anon_fd_closed_during_copen(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let (mut early, mut late) = (0, 0);
    for round in rounds() {
        let mount = hand.mount(lab, "meta")?;
        let open = hand.open()?;
        let (device, object) = (hand.device()?, open.object);
        // It succeeds also if the fd was faster: then it is the lookup that fails.
        let answer = || device.open_reply(open.msg_id, Ok(SIZE));
        match round % 4 {
            // On either side of copen for certain, and at about the same time.
            0 => {
                drop(object);
                answer()?;
            }
            1 => {
                answer()?;
                drop(object);
            }
            moment => {
                let closer = thread::spawn(move || {
                    thread::sleep(Duration::from_micros(u64::from(round % 8) * 100));
                    drop(object);
                });
                thread::sleep(Duration::from_micros(u64::from(moment) * 150));
                answer()?;
                ensure!(closer.join().is_ok(), "the closing thread panicked");
            }
        }
        let block = round % stage::BLOCKS;
        let reader = read_block(&mount.file(), block);
        hand.serve_all_now(true);
        match hand
            .until_done(reader)
            .context("a reader after the fd was closed")?
        {
            Ok(got) => {
                expect_data(Ok(got), block)?;
                late += 1;
            }
            Err(_) => early += 1,
        }
        hand.serve_all_now(false);
        mount.unmount()?;
    }
    println!("closed before copen in {early} rounds, after it in {late}");
    ensure!(
        early > 0 && late > 0,
        "it was always the same side of copen"
    );
    Ok(())
}

/// `restore` with the fd held: there is never a second one.
fn restore_twice(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let mount = mounting(lab, "blob", "");
    let open = hand.open()?;
    let device = hand.device()?;
    for _ in 0..2 {
        device.restore()?;
        let again = device.next_request();
        if lab.is_peer() {
            // C delivers it, finds that there is an fd, and fails the OPEN.
            println!("C after restore: {again:?}");
            expect_error(again, Errno::EXIST, "a second OPEN")?;
            ensure!(
                at_once("the mount", mount)?.is_err(),
                "mounted although the OPEN failed"
            );
            drop(open);
            return still_mounts(lab, &hand);
        }
        ensure!(
            again?.is_none(),
            "a second OPEN while the fd of the first is held"
        );
    }
    // Once it is released, there is a new one.
    let (msg_id, object_id) = (open.msg_id, open.object_id);
    drop(open);
    let open = hand.open()?;
    ensure!(
        open.msg_id == msg_id,
        "another OPEN, {} after {msg_id}",
        open.msg_id
    );
    // The fd, which is what v5 names, is what the kernel gives out first.
    ensure!(
        open.object_id != object_id || spoken() == Layout::V5,
        "the number of an fd that is gone"
    );
    device.restore()?;
    ensure!(
        device.next_request()?.is_none(),
        "two fds after the third restore"
    );
    device.open_reply(open.msg_id, Err(Errno::NOENT))?;
    ensure!(
        at_once("a refused mount", mount)?.is_err(),
        "mounted without an image"
    );
    drop(open);
    still_mounts(lab, &hand)
}

fn still_mounts(lab: &Lab, hand: &Arc<Hand>) -> Result<()> {
    hand.serve_all();
    let mount = hand.mount(lab, "meta")?;
    expect_data(hand.until_done(read_block(&mount.file(), 5))?, 5)?;
    mount.unmount()
}

/// Closing an object's fd does nothing to the READs of another.
fn closing_one_fd_spares_others(lab: &Lab) -> Result<()> {
    let one = Scene::new(lab)?;
    let mount = one.hand.mount(lab, "meta2")?;
    let two = one.hand.opened()?;
    let readers = (one.reader(0), read_block(&mount.file(), 0));
    let reads = [one.hand.read()?, one.hand.read()?];
    let [first, second] = match reads {
        [a, b] if a.object_id == one.blob.object_id => [a, b],
        [a, b] => [b, a],
    };
    drop(two);
    thread::sleep(MOMENT);
    ensure!(
        !readers.0.is_finished() && !readers.1.is_finished(),
        "a reader was sent away"
    );
    first.answer(&one.blob.object)?;
    expect_data(one.hand.until_done(readers.0)?, 0)?;
    if lab.is_peer() {
        // C delivers a READ that was in the daemon's hands once more only after `restore`.
        one.hand.device()?.restore()?;
    }
    let two = one.hand.opened()?;
    let again = one.hand.read()?;
    ensure!(
        again.msg_id == second.msg_id,
        "another READ than that which lost its fd"
    );
    again.answer(&two.object)?;
    expect_data(one.hand.until_done(readers.1)?, 0)
}

/// However many READs an object makes, another's comes in its turn.
fn busy_object_starves_nobody(lab: &Lab) -> Result<()> {
    const BUSY: u32 = 8;
    let busy = Scene::new(lab)?;
    let mount = busy.hand.mount(lab, "meta2")?;
    let quiet = busy.hand.opened()?;
    // What the image's own metadata needs is fetched before it counts.
    served(&busy.hand, &quiet.object, &mount.file(), 63)?;
    let readers: Vec<_> = (0..BUSY).map(|block| (block, busy.reader(block))).collect();
    let mut held = vec![];
    for _ in 0..BUSY {
        held.push(busy.hand.read()?);
    }
    let patient = read_block(&mount.file(), 0);
    let device = busy.hand.device()?;
    ensure!(device.wait(Some(*SOON))?, "no READ came");
    // With this all of them are new, and the busy object's come first in the table.
    let mut turns = 0;
    let read = loop {
        device.restore()?;
        let read = busy.hand.read()?;
        if read.object_id == quiet.object_id {
            break read;
        }
        turns += 1;
        ensure!(
            turns <= BUSY,
            "{turns} READs of one object before the first of the other"
        );
    };
    println!("{turns} READs of the busy object came first");
    read.answer(&quiet.object)?;
    expect_data(busy.hand.until_done(patient)?, 0)?;
    for read in held {
        read.answer(&busy.blob.object)?;
    }
    for (block, reader) in readers {
        expect_data(busy.hand.until_done(reader)?, block)?;
    }
    Ok(())
}

/// A refused OPEN of a file that is cached already leaves the file free for the next mount.
fn failed_copen_then_mount_again(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    hand.serve_all();
    let mount = hand.mount(lab, "meta")?;
    expect_data(hand.until_done(read_block(&mount.file(), 1))?, 1)?;
    mount.unmount()?;
    for _ in 0..3 {
        hand.refuse_all(true);
        let mount = hand.until_done(mounting(lab, "meta", ""))?;
        ensure!(mount.is_err(), "mounted although the OPEN was refused");
        hand.refuse_all(false);
        let mount = hand.mount(lab, "meta").context("after a refused OPEN")?;
        expect_data(hand.until_done(read_block(&mount.file(), 1))?, 1)?;
        mount.unmount()?;
    }
    Ok(())
}
