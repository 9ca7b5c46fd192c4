// SPDX-License-Identifier: GPL-2.0

//! What broke in C when a request, an object or a session went while somebody still used it.
//! Each case is named after the CVE, or the title, of Documentation/known-bugs.rst.

use super::bugs_scene::{
    at_once, breathe, bytes, mounting, rounds, Again, Hand, Scene, AT_ONCE, MOMENTS,
};
use crate::{
    error_injection::{Injection, IO_ERROR},
    group,
    helper::Helper,
    image::BLOCK,
    kernel::try_unload,
    lab::{eventually, Lab},
    mount::try_mount,
    patience::SOON,
    protocol::spoken,
    raw::{close_received, read_into_bad_address},
    stage::{self, expect_data, expect_error, read_block},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{
    protocol::message::{decode, Body, MSG_MAX},
    Device, Errno, Layout, SeekFrom,
};
use std::{
    collections::HashSet,
    fs,
    os::fd::AsRawFd,
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

group!("bugs_lifetime":
    cve_2024_39510,
    cve_2024_40900,
    cve_2024_40913,
    cve_2024_40935,
    cve_2024_41051,
    cve_2024_41057,
    cve_2024_41058,
    cve_2024_56549,
    poll_against_freed_request,
    device_closed_before_anon_fds,
    unkillable_reader,
);

/// A moment in which something would happen if it were to.
const MOMENT: Duration = Duration::from_millis(50);

/// `restore` while the daemon lives, at the time of a CLOSE that two threads may read.
fn cve_2024_39510(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    hand.serve_all();
    let restoring = Arc::new(AtomicBool::new(false));
    let reader = || -> Result<Again> {
        let (device, hand) = (hand.device()?, Arc::clone(&hand));
        Ok(Again::and_again(move || match device.next_request() {
            Ok(Some(request)) => hand.serve(&device, request),
            _ => breathe(),
        }))
    };
    let (first, second) = (reader()?, reader()?);
    let (device, now) = (hand.device()?, Arc::clone(&restoring));
    let restored = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&restored);
    let restorer = Again::and_again(move || match now.load(Ordering::SeqCst) {
        true if device.restore().is_ok() => drop(counted.fetch_add(1, Ordering::SeqCst)),
        _ => breathe(),
    });
    let mut opened = 0_usize;
    for round in rounds() {
        let mount = hand.mount(lab, "meta")?;
        let block = round % stage::BLOCKS;
        expect_data(hand.until_done(read_block(&mount.file(), block))?, block)?;
        // The image and its blob.
        opened += 2;
        restoring.store(true, Ordering::SeqCst);
        mount.unmount()?;
        restoring.store(false, Ordering::SeqCst);
    }
    let all_told = || {
        let told: HashSet<u32> = hand.told_to_close().into_iter().collect();
        told.len() == opened
    };
    hand.until("a CLOSE of each object", all_told)?;
    drop((first, second, restorer));
    let twice = hand.told_to_close().len() - opened;
    let restored = restored.load(Ordering::SeqCst);
    println!("{opened} objects closed, {twice} of them twice, {restored} restores");
    ensure!(restored > 0, "there was no race of a CLOSE and `restore`");
    // C may deliver a CLOSE again that is just being delivered.
    ensure!(
        lab.is_peer() || twice == 0,
        "{twice} objects were closed twice"
    );
    Ok(())
}

/// The device is closed by one thread while others read it, and a mount waits.
fn cve_2024_40900(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let mut last = 0;
    for round in rounds() {
        last = round;
        let hand = Hand::bind(&cache)?;
        let mount = mounting(lab, "meta", "");
        hand.device()?.wait(Some(*SOON))?;
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let device = hand.device()?;
                Ok(thread::spawn(move || drop(device.next_request())))
            })
            .collect::<Result<_>>()?;
        let closer = {
            let hand = Arc::clone(&hand);
            thread::spawn(move || {
                thread::sleep(Duration::from_micros(u64::from(round % 8) * 10));
                hand.close();
            })
        };
        ensure!(
            at_once("a mount", mount)?.is_err(),
            "mounted without a daemon"
        );
        at_once("the closing thread", closer)?;
        for reader in readers {
            at_once("a reading thread", reader)?;
        }
    }
    println!("{last} rounds");
    serves_anew(lab, &Hand::bind(&cache)?)
}

/// The cache is as good as ever.
fn serves_anew(lab: &Lab, hand: &Arc<Hand>) -> Result<()> {
    hand.serve_all();
    let mount = hand.mount(lab, "meta").context("after the bug")?;
    expect_data(hand.until_done(read_block(&mount.file(), 7))?, 7)?;
    mount.unmount()
}

fn open_fds() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// A bad buffer leaves no fd.  An fd that another thread closes by its number, as soon as it is
/// there, takes nothing with it.
fn cve_2024_40913(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let device = hand.device()?;
    for round in rounds() {
        let mount = mounting(lab, "blob", "");
        device.wait(Some(*SOON))?;
        if round % 4 == 0 {
            let fds = open_fds()?;
            let got = read_into_bad_address(&*device, MSG_MAX);
            expect_error(got, Errno::FAULT, "a bad address")?;
            ensure!(open_fds()? == fds, "an fd was left");
            if lab.is_peer() {
                // On C the OPEN ends with EFAULT; ours is the next one again.
                ensure!(
                    at_once("the mount", mount)?.is_err(),
                    "mounted after EFAULT"
                );
                continue;
            }
        }
        // The number that the next fd will have; no other thread opens anything.
        let number = u32::try_from(fs::File::open("/dev/null")?.as_raw_fd())?;
        let closer = Again::and_again(move || close_received(number));
        let mut buf = [0; MSG_MAX];
        let len = device.read_bytes(&mut buf)?;
        let message = decode(&buf[..len], device.layout())
            .ok()
            .context("no message")?;
        thread::sleep(Duration::from_micros(100));
        drop(closer);
        // The closer may have had no time.
        if let Body::Open { fd, .. } = message.body {
            close_received(fd);
        }
        let answer = if round % 2 == 0 {
            Ok(BLOCK)
        } else {
            Err(Errno::NOENT)
        };
        device.open_reply(message.id, answer)?;
        let got = at_once("the mount", mount)?;
        ensure!(got.is_err(), "mounted an object whose fd is gone");
    }
    serves_anew(lab, &hand)
}

/// An I/O error kills the cache with an OPEN and a READ pending: both fail at once.
fn cve_2024_40935(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let mount = hand.mount_with(lab, "meta", "domain_id=d")?;
    let blob = hand.opened()?;
    let reader = read_block(&mount.file(), 3);
    hand.read()?;
    let pending = mounting(lab, "blob2", "domain_id=d");
    let open = hand.open()?;
    let injection = Injection::of(IO_ERROR)?;
    // A lookup in a volume that is open meets the error.
    let failing = mounting(lab, "meta3", "domain_id=d");
    ensure!(
        at_once("the mount that fails", failing)?.is_err(),
        "mounted in spite of EIO"
    );
    ensure!(
        at_once("the mount that waits", pending)?.is_err(),
        "mounted from a dead cache"
    );
    let got = at_once("the reader", reader)?;
    ensure!(got.is_err(), "read what nobody has sent");
    drop(injection);
    let got = hand.device()?.open_reply(open.msg_id, Ok(BLOCK));
    expect_error(got, Errno::IO, "a command to a dead cache")?;
    drop((blob, open));
    mount.unmount()?;
    hand.close();
    serves_anew(lab, &Hand::bind(&cache)?)
}

/// The fd is closed with a READ pending, the device read, and closed, and all unmounted.
fn cve_2024_41051(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let mut last = 0;
    for round in rounds() {
        last = round;
        let hand = Hand::bind(&cache)?;
        let mount = hand.mount(lab, "meta")?;
        let blob = hand.opened()?;
        // Some blocks may be cached already, those of later rounds are not.
        let reader = read_block(&mount.file(), round % stage::BLOCKS);
        let read = hand.read()?;
        drop(blob);
        let device = hand.device()?;
        if round % 2 == 0 {
            // C asks for a new OPEN for READs only that are new.
            device.restore()?;
        }
        // On ours this is the new OPEN, on C it queues the making of one.
        drop(device.next_request());
        drop(device);
        thread::sleep(Duration::from_micros(u64::from(round % 4) * 50));
        hand.close();
        ensure!(
            at_once("the reader", reader)?.is_err(),
            "READ {} was answered",
            read.msg_id
        );
        mount.unmount()?;
    }
    println!("{last} rounds");
    serves_anew(lab, &Hand::bind(&cache)?)
}

/// The daemon goes, at any moment, while something is looked up; `refuse`: or refused.
fn exit_against_mount(lab: &Lab, refuse: bool) -> Result<()> {
    let cache = lab.cache()?;
    let mut whole = Duration::ZERO;
    // The first mount makes the volume's directories.
    for _ in 0..2 {
        let hand = Hand::bind(&cache)?;
        hand.serve_all();
        hand.refuse_all(refuse);
        let start = Instant::now();
        let got = hand.until_done(mounting(lab, "meta", ""))?;
        whole = start.elapsed();
        ensure!(got.is_err() == refuse, "a mount: {got:?}");
        drop(got.map(|mount| hand.adopt(mount)));
        hand.close();
    }
    let (mut mounted, mut failed) = (0, 0);
    let mut rounds = rounds();
    for round in 0.. {
        // More of them where few moments are tried.
        let enough = round >= 40 || failed > 0 && (refuse || mounted > 0);
        if rounds.next().is_none() && enough {
            break;
        }
        let hand = Hand::bind(&cache)?;
        hand.serve_all();
        hand.refuse_all(refuse);
        let begin = Instant::now();
        let mount = mounting(lab, "meta", "");
        let mount = thread::spawn(move || (mount.join(), begin.elapsed()));
        let server = {
            let hand = Arc::clone(&hand);
            Again::and_again(move || {
                if !hand.turn().unwrap_or(false) {
                    breathe();
                }
            })
        };
        // From before anything until after all.
        thread::sleep(whole * (round % MOMENTS) * 2 / (MOMENTS - 1));
        hand.close();
        let (got, took) = at_once("a mount while the daemon goes", mount)?;
        drop(server);
        // What the server was just taking when the device went.
        hand.close();
        match got.ok().context("a mounting thread panicked")? {
            Ok(mount) => {
                mounted += 1;
                // The machine may do more than before, or less.
                whole = took;
                ensure!(!refuse, "mounted although it was refused");
                hand.adopt(mount).unmount()?;
            }
            Err(_) => {
                failed += 1;
                if !refuse && round % MOMENTS == MOMENTS - 1 {
                    whole *= 2;
                }
            }
        }
    }
    println!("{mounted} mounts in time, {failed} failed; one takes {whole:.0?}");
    ensure!(
        failed > 0 && (refuse || mounted > 0),
        "the daemon went at no other moment"
    );
    serves_anew(lab, &Hand::bind(&cache)?)
}

/// The daemon goes while a cookie is looked up.
fn cve_2024_41057(lab: &Lab) -> Result<()> {
    exit_against_mount(lab, false)
}

/// The daemon goes while a mount fails, and gives its volume back.
fn cve_2024_41058(lab: &Lab) -> Result<()> {
    exit_against_mount(lab, true)
}

/// pwrite and lseek on the anonymous fd while its object goes.
fn cve_2024_56549(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let (mut good, mut late) = (0, 0);
    for round in rounds() {
        let mount = hand.mount(lab, "meta")?;
        let open = hand.opened()?;
        let object = Arc::new(open.object);
        let counts = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let (fd, counted) = (Arc::clone(&object), Arc::clone(&counts));
        let writer = Again::and_again(move || {
            let wrote = fd.write_at(&bytes(0, BLOCK), 0);
            let count = if wrote.is_ok() {
                &counted.0
            } else {
                &counted.1
            };
            count.fetch_add(1, Ordering::SeqCst);
        });
        let fd = Arc::clone(&object);
        let seeker = Again::and_again(move || drop(fd.seek(SeekFrom::Data(0))));
        let count = |of: &AtomicU32| of.load(Ordering::SeqCst);
        eventually("a write in time", || count(&counts.0) > 0)?;
        thread::sleep(Duration::from_micros(u64::from(round % 8) * 300));
        mount.unmount()?;
        // The object is gone then.
        hand.until("a late write", || count(&counts.1) > 0)?;
        drop((writer, seeker));
        good += count(&counts.0);
        late += count(&counts.1);
        expect_error(
            object.write_at(&bytes(0, BLOCK), 0),
            Errno::NOBUFS,
            "a late write",
        )?;
        expect_error(object.seek(SeekFrom::Data(0)), Errno::NOBUFS, "a late seek")?;
    }
    println!("{good} writes in time, {late} too late");
    serves_anew(lab, &hand)
}

/// SIGKILL ends a reader that waits for the daemon.
fn unkillable_reader(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    for block in 0..4_u32 {
        let offset = (u64::from(block) * BLOCK).to_string();
        let file = scene.mount.file();
        // Another process may need more of the image before it can read.
        let starting = thread::spawn(move || {
            Helper::start(&["read", &file.to_string_lossy(), &offset, "4096"])?.ready()
        });
        let mut reader = scene.hand.until_done(starting)??;
        let read = scene.hand.read()?;
        reader.kill()?;
        reader.finish(*AT_ONCE).context("a killed reader")?;
        // An answer to nobody; the request is gone on C and ours alike.
        let got = scene.blob.object.complete_read(read.msg_id);
        expect_error(got, Errno::INVAL, "a READ whose reader was killed")?;
    }
    scene.still_serves(40)
}

/// poll looks at the requests while they come and are freed.
fn poll_against_freed_request(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let hand = Hand::bind(&cache)?;
    let poller = || -> Result<Again> {
        let device: Arc<Device> = hand.device()?;
        Ok(Again::and_again(move || {
            drop(device.wait(Some(Duration::ZERO)))
        }))
    };
    let pollers = (poller()?, poller()?);
    hand.refuse_all(true);
    let mut last = 0;
    for round in rounds() {
        last = round;
        let mount = hand.until_done(mounting(lab, "blob", ""))?;
        ensure!(mount.is_err(), "mounted although it was refused");
    }
    drop(pollers);
    println!("{last} rounds");
    hand.refuse_all(false);
    serves_anew(lab, &hand)
}

/// The device goes before the anonymous fds: the cache is unbound when the last of them goes.
fn device_closed_before_anon_fds(lab: &Lab) -> Result<()> {
    let Scene {
        mount,
        blob,
        hand,
        cache,
    } = Scene::new(lab)?;
    let reader = read_block(&mount.file(), 3);
    hand.read()?;
    hand.close();
    ensure!(
        at_once("the reader", reader)?.is_err(),
        "read what nobody has sent"
    );
    ensure!(
        try_unload() == Err(Errno::WOULDBLOCK),
        "unloaded under an anonymous fd"
    );
    expect_error(
        Device::open(),
        Errno::BUSY,
        "opening the device under an anonymous fd",
    )?;
    let _ = blob.object.write_at(&bytes(0, BLOCK), 0);
    let _ = blob.object.seek(SeekFrom::Data(0));
    let nobody = match spoken() {
        Layout::Mainline => Errno::INVAL,
        // There is no device to say it to.
        Layout::V5 => Errno::BADF,
    };
    let answer = blob.object.complete_read(1);
    expect_error(answer, nobody, "an answer to a dead cache")?;
    ensure!(
        try_mount(lab.base(), b"meta2", b"").is_err(),
        "mounted from a dead cache"
    );
    mount.unmount()?;
    thread::sleep(MOMENT);
    expect_error(
        Device::open(),
        Errno::BUSY,
        "opening the device under an anonymous fd",
    )?;
    drop(blob);
    eventually("the device is free", || Device::open().is_ok())?;
    serves_anew(lab, &Hand::bind(&cache)?)
}
