// SPDX-License-Identifier: GPL-2.0

//! What only the protocol v5 has: its bytes, the words that choose it, and the fd as an object's
//! name.  Its answers are in `v5_answers`.
//! The cases that both protocols have run a second time as `v5_<group>`.

use super::bugs_scene::{at_once, bytes, mounting, served, Hand, Open, Scene};
use crate::{
    daemon::{Blobs, Daemon},
    group,
    kernel::Module,
    lab::{eventually, Lab},
    patience::SOON,
    protocol::open_device,
    raw::{self, close_received},
    stage::{expect_data, expect_error, read_block},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{protocol::message::NO_FD, CacheConfig, Device, Errno, Layout, Request};
use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    time::Duration,
};

group!("v5":
    bytes_of_the_messages,
    bind_chooses_the_protocol,
    loaded_with_the_parameter,
    words_of_the_other_protocol,
    requests_name_the_fd,
    restore_with_a_protocol,
);

/// A moment in which something would happen if it were to.
pub const MOMENT: Duration = Duration::from_millis(50);

/// The device refuses this line with this error.
pub fn refused(device: &Device, line: &str, error: Errno) -> Result<()> {
    expect_error(device.command(line.as_bytes()), error, line)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// One message as bytes, after a read that is one byte too short for it has left it where it was.
fn message(device: &Device) -> Result<Vec<u8>> {
    ensure!(device.wait(Some(*SOON))?, "no request came");
    let mut len = 1;
    let mut bytes = loop {
        let mut bytes = vec![0xee; len];
        match device.read_bytes(&mut bytes) {
            Ok(read) => {
                ensure!(read == len, "{read} bytes read where {len} just fit");
                break bytes;
            }
            Err(error) => expect_error::<()>(Err(error), Errno::MSGSIZE, "a short read")?,
        }
        len += 1;
    };
    bytes.truncate(len);
    Ok(bytes)
}

/// OPEN, READ and CLOSE, byte for byte as the structures of the posted series lie in memory.
fn bytes_of_the_messages(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = open_device()?;
    device.configure(&CacheConfig::new(cache.dir()))?;
    device.bind_ondemand()?;
    let mount = mounting(lab, "meta", "domain_id=dom");
    let word = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_ne_bytes).context("a message cut short")
    };

    let open = message(&device)?;
    let (id, fd) = (word(&open, 0)?, word(&open, 20)?);
    let want = [
        words(&[id, 0, 12 + 16 + 10 + 4, 10, 4, fd, 1]),
        b"erofs,dom\0meta".to_vec(),
    ];
    ensure!(open == want.concat(), "the OPEN is {open:?}");
    let link = fs::read_link(format!("/proc/self/fd/{fd}"))?;
    ensure!(
        link == Path::new("anon_inode:[cachefiles]"),
        "the fd {fd} is {}",
        link.display()
    );
    device.command(format!("cinit {id},4096").as_bytes())?;

    // The page cache tries a second time; then the mount fails, and the object goes.
    let mut reads = 0;
    loop {
        let next = message(&device)?;
        let id = word(&next, 0)?;
        if word(&next, 4)? == 1 {
            ensure!(next == words(&[id, 1, 16, fd]), "the CLOSE is {next:?}");
            break;
        }
        reads += 1;
        let range = [0, 4096_u64].map(u64::to_ne_bytes).concat();
        let want = [words(&[id, 2, 36]), range, words(&[fd, 0])];
        ensure!(next == want.concat(), "the READ is {next:?}");
        device.command(format!("cread {id}").as_bytes())?;
    }
    ensure!(reads > 0, "a mount that reads nothing");
    close_received(fd);
    let got = at_once("the mount", mount)?;
    ensure!(got.is_err(), "mounted from nothing");
    Ok(())
}

const PARAMETER: &str = "/sys/module/cachefiles/parameters/ondemand_protocol";

/// Which protocol a bound session speaks: each refuses the other's words before it looks at them.
fn spoken_by(device: &Device) -> Result<Layout> {
    let (yes, other) = (Errno::INVAL, Errno::OPNOTSUPP);
    let is = |layout: Layout, copen, rest| -> Result<Layout> {
        refused(device, "copen 1,1", copen)?;
        for line in ["cinit 1,1", "cinit", "cread 1", "cread x"] {
            refused(device, line, rest)?;
        }
        Ok(layout)
    };
    match device.command(b"copen 1,1") {
        Err(error) if raw::errno(&error) == Some(yes) => is(Layout::Mainline, yes, other),
        _ => is(Layout::V5, other, yes),
    }
}

/// The word behind `bind ondemand`, and the parameter where there is none.
fn bind_chooses_the_protocol(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let says = |want: &str| -> Result<()> {
        let is = fs::read_to_string(PARAMETER)?;
        ensure!(is.trim_end() == want, "the parameter is {is:?}, not {want}");
        Ok(())
    };
    let bound = |line: &str, want: Layout| -> Result<()> {
        let device = Device::open()?;
        device.configure(&CacheConfig::new(cache.dir()))?;
        for wrong in [
            "bind ondemand v6",
            "bind ondemand V5",
            "bind ondemand v5 ",
            "bind ondemand  v5",
            "bind v5",
        ] {
            refused(&device, wrong, Errno::INVAL)?;
        }
        device.command(line.as_bytes()).context(line.to_owned())?;
        let spoken = spoken_by(&device)?;
        ensure!(spoken == want, "{line} speaks {spoken}");
        Ok(())
    };
    says("mainline")?;
    bound("bind ondemand", Layout::Mainline)?;
    bound("bind ondemand v5", Layout::V5)?;
    fs::write(PARAMETER, "v5\n")?;
    says("v5")?;
    bound("bind ondemand", Layout::V5)?;
    bound("bind ondemand mainline", Layout::Mainline)?;
    for wrong in ["v6", "2"] {
        expect_error(fs::write(PARAMETER, wrong), Errno::INVAL, wrong)?;
    }
    says("v5")?;
    // The client means what it says, whatever the parameter.
    for layout in [Layout::Mainline, Layout::V5] {
        let device = Device::open()?.with_layout(layout);
        device.configure(&CacheConfig::new(cache.dir()))?;
        device.bind_ondemand()?;
        let spoken = spoken_by(&device)?;
        ensure!(spoken == layout, "the client speaks {spoken}, not {layout}");
    }
    Ok(())
}

/// The parameter when the module is loaded.
fn loaded_with_the_parameter(lab: &Lab) -> Result<()> {
    let refused = Module::load_with(lab.module(), c"ondemand_protocol=v6").err();
    ensure!(
        refused.is_some(),
        "loaded with a protocol that nobody knows"
    );
    let mut cache = lab.cache()?;
    cache.module.unload()?;
    cache.module = Module::load_with(lab.module(), c"ondemand_protocol=v5")?;
    let device = Device::open()?;
    device.configure(&CacheConfig::new(cache.dir()))?;
    device.command(b"bind ondemand")?;
    let spoken = spoken_by(&device)?;
    ensure!(spoken == Layout::V5, "a plain bind speaks {spoken}");
    Ok(())
}

/// The words of one protocol do nothing to a request of the other's.
fn words_of_the_other_protocol(lab: &Lab) -> Result<()> {
    for (layout, words) in [
        (Layout::V5, &["copen ID,4096", "copen ID,-2"][..]),
        (Layout::Mainline, &["cinit ID,4096", "cinit ID", "cread ID"]),
    ] {
        let cache = lab.cache()?;
        let device = Device::open()?.with_layout(layout);
        device.configure(&CacheConfig::new(cache.dir()))?;
        device.bind_ondemand()?;
        let mount = mounting(lab, "meta", "");
        let (mut held, mut reads) = (vec![], 0);
        while !mount.is_finished() {
            if !device.wait(Some(MOMENT))? {
                continue;
            }
            let Some(request) = device.next_request()? else {
                continue;
            };
            let id = request.msg_id();
            for word in words {
                refused(
                    &device,
                    &word.replace("ID", &id.to_string()),
                    Errno::OPNOTSUPP,
                )?;
            }
            let waits = !matches!(request, Request::Close { .. });
            ensure!(
                !waits || !mount.is_finished(),
                "the wrong word answered a request"
            );
            match request {
                Request::Open { object, .. } => {
                    device.open_reply(id, Ok(4096))?;
                    // An fd that is gone would be asked for again.
                    held.push(object);
                }
                // Without the data, so that the mount fails.
                Request::Read { .. } if layout == Layout::V5 => {
                    reads += 1;
                    device.cread(id)?;
                }
                Request::Read { .. } => break,
                Request::Close { .. } => {}
            }
        }
        ensure!(held.len() == 1, "{} OPENs", held.len());
        ensure!(layout == Layout::Mainline || reads > 0, "no READ");
        drop(device);
        ensure!(
            at_once("the mount", mount)?.is_err(),
            "mounted from nothing"
        );
    }
    Ok(())
}

/// The CLOSEs that come until there are so many: the fds that they name.
fn closes(hand: &Hand, count: usize) -> Result<Vec<u32>> {
    let device = hand.device()?;
    let mut fds = vec![];
    eventually("the CLOSEs", || {
        while let Ok(Some(request)) = device.next_request() {
            if let Request::Close { object_id, .. } = request {
                fds.push(object_id);
            }
        }
        fds.len() >= count
    })?;
    Ok(fds)
}

/// READ and CLOSE name the fd of the OPEN, also that of a second one; a CLOSE comes only for an fd
/// that is held, and the daemon then closes it.
fn requests_name_the_fd(lab: &Lab) -> Result<()> {
    // What is bound last goes first.
    let Scene {
        cache: _cache,
        hand,
        blob,
        mount,
    } = Scene::new(lab)?;
    let fd_of = |open: &Open| open.object.as_fd().as_raw_fd();
    ensure!(
        i32::try_from(blob.object_id) == Ok(fd_of(&blob)),
        "the OPEN names {}, and the fd is {}",
        blob.object_id,
        fd_of(&blob)
    );
    served(&hand, &blob.object, &mount.file(), 0)?;
    let first = blob.object_id;
    drop(blob);
    // What takes its number now is not the object's.
    let other = fs::File::open("/dev/null")?;
    ensure!(
        u32::try_from(other.as_raw_fd()) == Ok(first),
        "the number {first} was not the next"
    );
    let reader = read_block(&mount.file(), 1);
    let blob = hand.opened()?;
    ensure!(blob.object_id != first, "a number that is in use");
    let read = hand.read()?;
    ensure!(
        read.object_id == blob.object_id,
        "the READ names {}, not {}",
        read.object_id,
        blob.object_id
    );
    read.answer(&blob.object)?;
    expect_data(hand.until_done(reader)?, 1)?;

    let second = hand.mount(lab, "meta2")?;
    let gone = hand.opened()?;
    served(&hand, &gone.object, &second.file(), 0)?;
    drop(gone);
    second.unmount_unread()?;
    mount.unmount_unread()?;
    // Two images and the one blob whose fd is held.
    let fds = closes(&hand, 3)?;
    ensure!(
        fds.iter().filter(|fd| **fd == blob.object_id).count() == 1,
        "the CLOSEs name {fds:?}, not {} once",
        blob.object_id
    );
    ensure!(
        !fds.contains(&NO_FD) && fds.len() == 3,
        "the CLOSEs name {fds:?}"
    );
    // The daemon is told before the file goes.
    hand.until("writes fail", || {
        blob.object.write_at(&bytes(0, 4096), 0).is_err()
    })?;
    let late = blob.object.write_at(&bytes(0, 4096), 0);
    expect_error(late, Errno::NOBUFS, "a write after the CLOSE")?;
    drop((blob, other));
    ensure!(closes(&hand, 0)?.is_empty(), "a CLOSE for a closed fd");
    Ok(())
}

/// `restore` may say for which protocol; the wrong one does nothing.
fn restore_with_a_protocol(lab: &Lab) -> Result<()> {
    for layout in [Layout::V5, Layout::Mainline] {
        let cache = lab.cache()?;
        let device = Device::open()?.with_layout(layout);
        device.configure(&CacheConfig::new(cache.dir()))?;
        device.bind_ondemand()?;
        let mount = mounting(lab, "nothing", "");
        ensure!(device.wait(Some(*SOON))?, "no OPEN came");
        drop(device.next_request()?);
        let (right, wrong) = match layout {
            Layout::V5 => ("restore v5", "restore mainline"),
            Layout::Mainline => ("restore mainline", "restore v5"),
        };
        refused(&device, wrong, Errno::OPNOTSUPP)?;
        ensure!(
            device.next_request()?.is_none(),
            "{wrong} has restored a session of {layout}"
        );
        // C takes no notice of what follows, and neither do we of what is no protocol.
        for line in [right, "restore", "restore now"] {
            device.command(line.as_bytes())?;
            let again = device.next_request()?;
            ensure!(again.is_some(), "{line} has restored nothing");
        }
        // A daemon that takes over with the client finds out in the same way.
        let wrong = Device::from(rustix::io::dup(&device)?).with_layout(match layout {
            Layout::V5 => Layout::Mainline,
            Layout::Mainline => Layout::V5,
        });
        expect_error(wrong.restore(), Errno::OPNOTSUPP, "the wrong takeover")?;
        drop(wrong);
        let daemon = Daemon::over(device, Blobs::new())?;
        daemon.device()?.restore()?;
        ensure!(at_once("the mount", mount)?.is_err(), "mounted nothing");
    }
    Ok(())
}
