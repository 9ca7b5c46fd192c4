// SPDX-License-Identifier: GPL-2.0

//! The module's own switch for errors, the sysctl `cachefiles.error_injection`: bit 0 makes what
//! takes space fail with ENOSPC, bit 1 makes everything fail with EIO.  Each value at each step.

use super::faults_scene::{
    blobs, bytes, forget_pages, in_time, mount, mounted, read, read_right, serve, unmount, BOUND,
    SIZE,
};
use crate::{
    claim::cache_files,
    daemon::{Daemon, Manner},
    error_injection::{with, Injection, IO_ERROR, NO_SPACE, SWITCH},
    group,
    image::BLOCK,
    ktap::Skip,
    lab::{eventually, free_device, Cache, Lab},
    mount::Mount,
    raw::errno,
    stage::{expect_data, read_block},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{Device, Errno};
use std::{env, fs, io, path::Path, thread};

group!("faults_injection":
    the_switch,
    bind,
    bind_into_an_empty_directory,
    lookup,
    create,
    lookup_behind_the_open,
    create_behind_the_open,
    read_of_what_is_missing,
    read_of_what_is_there,
    write,
    commit,
    cull,
);

/// Bits that mean something, and one that does not.
const VALUES: [u32; 4] = [NO_SPACE, IO_ERROR, NO_SPACE | IO_ERROR, 4];

/// What a value makes of a step that takes space.
fn of_writing(value: u32) -> Option<Errno> {
    match value & 3 {
        0 => None,
        NO_SPACE => Some(Errno::NOSPC),
        _ => Some(Errno::IO),
    }
}

/// What a value makes of a step that takes none.
fn of_reading(value: u32) -> Option<Errno> {
    (value & IO_ERROR != 0).then_some(Errno::IO)
}

/// What somebody got must be this.
fn same<T>(what: &str, value: u32, got: io::Result<T>, want: Option<Errno>) -> Result<()> {
    let got = got.err().map(|error| errno(&error));
    ensure!(
        got == want.map(Some),
        "{what} with {value}: {got:?}, not {want:?}"
    );
    Ok(())
}

/// Whether the cache is dead: no command is taken any more.
fn is_dead(device: &Device) -> Result<bool> {
    match device.command(b"debug 0") {
        Ok(()) => Ok(false),
        Err(error) if errno(&error) == Some(Errno::IO) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The module and a cache, if the kernel has the switch.
fn cache(lab: &Lab) -> Result<Cache> {
    let cache = lab.cache()?;
    if !Path::new(SWITCH).exists() {
        return Err(Skip("the kernel has no CONFIG_CACHEFILES_ERROR_INJECTION".to_owned()).into());
    }
    Ok(cache)
}

/// A session in which blocks 0 to 3 are cached; nothing is mounted.
fn filled(lab: &Lab, cache: &Cache) -> Result<Daemon> {
    let daemon = serve(cache.dir(), Manner::Serve)?;
    let mount = mounted(lab)?;
    for block in 0..4 {
        read_right(&mount, block)?;
    }
    unmount(mount)?;
    Ok(daemon)
}

/// A fresh session has all bytes right.
fn all_is_well(lab: &Lab, cache: &Cache) -> Result<()> {
    let _daemon = serve(cache.dir(), Manner::Serve)?;
    let mount = mounted(lab).context("mounting with the switch off")?;
    for block in 0..12 {
        read_right(&mount, block)?;
    }
    unmount(mount)
}

/// It is there with the module, keeps what is written, takes numbers only, and goes with it.
fn the_switch(lab: &Lab) -> Result<()> {
    let mut cache = cache(lab)?;
    let injection = Injection::of(0)?;
    for value in [1, 2, 3, u32::MAX, 0] {
        injection.turn(value)?;
        let text = fs::read_to_string(SWITCH)?;
        ensure!(text.trim() == value.to_string(), "{value} reads as {text}");
    }
    for bad in ["-1", "word", "4294967296"] {
        ensure!(fs::write(SWITCH, bad).is_err(), "{bad:?} was taken");
    }
    cache.module.unload()?;
    ensure!(!Path::new(SWITCH).exists(), "it outlives the module");
    Ok(())
}

fn bind(lab: &Lab) -> Result<()> {
    let cache = cache(lab)?;
    drop(filled(lab, &cache)?);
    for value in VALUES {
        let device = free_device(cache.dir())?;
        let got = with(value, || device.bind_ondemand())?;
        let failed = got.is_err();
        same("bind", value, got, of_reading(value))?;
        if failed {
            device.bind_ondemand().context("the next try")?;
        }
        drop(device);
    }
    all_is_well(lab, &cache)
}

fn bind_into_an_empty_directory(lab: &Lab) -> Result<()> {
    let cache = cache(lab)?;
    for value in VALUES {
        let dir = cache.dir().join(value.to_string());
        fs::create_dir(&dir)?;
        let device = free_device(&dir)?;
        let got = with(value, || device.bind_ondemand())?;
        let failed = got.is_err();
        same("bind", value, got, of_writing(value))?;
        if failed {
            device.bind_ondemand().context("the next try")?;
        }
        drop(device);
    }
    all_is_well(lab, &cache)
}

/// An image whose cache files are there.
fn lookup(lab: &Lab) -> Result<()> {
    let cache = cache(lab)?;
    for value in VALUES {
        let daemon = filled(lab, &cache)?;
        let got = with(value, || mount(lab))??;
        let failed = got.is_err();
        ensure!(
            failed == of_reading(value).is_some(),
            "a mount with {value}: {got:?}"
        );
        match got {
            Ok(mount) => unmount(mount)?,
            Err(error) => println!("{value}: the mount fails with {error}"),
        }
        println!("{value}: dead {}", is_dead(daemon.device()?)?);
        drop(daemon);
        all_is_well(lab, &cache)?;
    }
    Ok(())
}

/// An image without cache files.
fn create(lab: &Lab) -> Result<()> {
    let cache = cache(lab)?;
    for value in VALUES {
        let daemon = filled(lab, &cache)?;
        for file in cache_files(cache.dir()) {
            fs::remove_file(file)?;
        }
        let got = with(value, || mount(lab))??;
        ensure!(
            got.is_err() == of_writing(value).is_some(),
            "a mount with {value}: {got:?}"
        );
        match got {
            Ok(mount) => unmount(mount)?,
            Err(error) => println!("{value}: the mount fails with {error}"),
        }
        let dead = is_dead(daemon.device()?)?;
        println!("{value}: dead {dead}");
        ensure!(
            !dead || of_reading(value).is_some(),
            "a lack of space has killed the cache"
        );
        if !dead {
            // A lack of space is no reason to give up.
            let mount = mounted(lab).context("the next try")?;
            read_right(&mount, 2)?;
            unmount(mount)?;
        }
        drop(daemon);
        all_is_well(lab, &cache)?;
    }
    Ok(())
}

/// Mounts, and has the switch on from when the OPEN waits for the daemon.
fn mount_from_open(lab: &Lab, dir: &Path, value: u32) -> Result<(Daemon, Result<Mount, Errno>)> {
    let device = free_device(dir)?;
    device.bind_ondemand()?;
    let mounting = Mount::in_background(lab.base(), "meta");
    ensure!(device.wait(Some(*BOUND))?, "no OPEN");
    with(value, || {
        let daemon = Daemon::patient(device, blobs(Manner::Serve))?;
        Ok((daemon, in_time("a mount", mounting)?))
    })?
}

/// The second half of a lookup, behind the OPEN: the attribute of a file that is there cannot be
/// read, and the cache is dead.
fn lookup_behind_the_open(lab: &Lab) -> Result<()> {
    let cache = cache(lab)?;
    drop(filled(lab, &cache)?);
    for value in VALUES {
        let (daemon, got) = mount_from_open(lab, cache.dir(), value)?;
        let want = of_reading(value).is_some();
        ensure!(got.is_err() == want, "a mount with {value}: {got:?}");
        let dead = is_dead(daemon.device()?)?;
        ensure!(dead == want, "{value}: whether the cache is dead: {dead}");
        drop(got);
        drop(daemon);
        all_is_well(lab, &cache)?;
    }
    Ok(())
}

/// The same of a new file, which cannot get its size.
fn create_behind_the_open(lab: &Lab) -> Result<()> {
    let cache = cache(lab)?;
    drop(filled(lab, &cache)?);
    for value in VALUES {
        for file in cache_files(cache.dir()) {
            fs::remove_file(file)?;
        }
        let (daemon, got) = mount_from_open(lab, cache.dir(), value)?;
        let want = of_writing(value).is_some();
        ensure!(got.is_err() == want, "a mount with {value}: {got:?}");
        let dead = is_dead(daemon.device()?)?;
        println!("{value}: dead {dead}");
        ensure!(
            !dead || of_reading(value).is_some(),
            "a lack of space has killed the cache"
        );
        drop(got);
        drop(daemon);
        all_is_well(lab, &cache)?;
    }
    Ok(())
}

fn read_of_what_is_missing(lab: &Lab) -> Result<()> {
    let cache = cache(lab)?;
    let daemon = filled(lab, &cache)?;
    let mount = mounted(lab)?;
    for (value, block) in VALUES.into_iter().zip(5..) {
        let got = with(value, || read(&mount, block))??;
        // The daemon cannot write for want of space, and completes the READ all the same.
        let want = of_writing(value).map(|_| Errno::IO);
        same("a read", value, got, want)?;
        ensure!(!is_dead(daemon.device()?)?, "{value}: the cache is dead");
        read_right(&mount, block).context("the next try")?;
    }
    unmount(mount)
}

fn read_of_what_is_there(lab: &Lab) -> Result<()> {
    let cache = cache(lab)?;
    let daemon = filled(lab, &cache)?;
    let mount = mounted(lab)?;
    let reads = daemon.reads();
    for value in VALUES {
        forget_pages(&mount)?;
        let got = with(value, || read(&mount, 1))??;
        same("a read", value, got, of_reading(value))?;
        ensure!(!is_dead(daemon.device()?)?, "{value}: the cache is dead");
        expect_data(read(&mount, 1)?, 1).context("the next try")?;
    }
    ensure!(
        daemon.reads() == reads,
        "the daemon was asked for what is there"
    );
    unmount(mount)
}

fn write(lab: &Lab) -> Result<()> {
    let cache = cache(lab)?;
    let daemon = serve(cache.dir(), Manner::Manual)?;
    let mount = mounted(lab)?;
    let open = daemon.open()?;
    daemon.device()?.open_reply(open.msg_id, Ok(SIZE))?;
    let write = |block: u32| {
        open.object
            .write_at(&bytes(block, BLOCK as usize), u64::from(block) * BLOCK)
    };
    eventually("the file can be written", || write(0).is_ok())?;
    for (value, block) in VALUES.into_iter().zip(1..) {
        let got = with(value, || write(block))?;
        let failed = got.is_err();
        same("a write", value, got, of_writing(value))?;
        if failed {
            let reader = read_block(&mount.path("file"), block);
            answer(&daemon, &reader, |read| {
                Ok(read.object.complete_read(read.msg_id)?)
            })?;
            let got = in_time("a reader", reader)?;
            same("a read of it", value, got, Some(Errno::IO))?;
            ensure!(write(block)? == BLOCK as usize, "the next try");
        }
        ensure!(!is_dead(daemon.device()?)?, "{value}: the cache is dead");
        read_right(&mount, block)?;
    }
    drop(open);
    drop(mount);
    drop(daemon);
    all_is_well(lab, &cache)
}

/// Answers READs so until the reader has ended.
fn answer<T>(
    daemon: &Daemon,
    reader: &thread::JoinHandle<T>,
    how: impl Fn(&crate::daemon::Read) -> Result<()>,
) -> Result<()> {
    let start = std::time::Instant::now();
    while !reader.is_finished() && start.elapsed() < *BOUND {
        if let Ok(read) = daemon.read_within(std::time::Duration::from_millis(2)) {
            how(&read)?;
        }
    }
    Ok(())
}

/// What cannot be committed is lost, and does not pass for valid.
fn commit(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        let why = "C's cache dies, and then keeps its objects, or has a file that it cannot read";
        return Err(Skip(why.to_owned()).into());
    }
    let cache = cache(lab)?;
    for value in VALUES {
        let daemon = filled(lab, &cache)?;
        for file in cache_files(cache.dir()) {
            fs::remove_file(file)?;
        }
        let mount = mounted(lab)?;
        read_right(&mount, 1)?;
        with(value, || unmount(mount))??;
        let kept = cache_files(cache.dir()).len();
        let dead = is_dead(daemon.device()?)?;
        println!("{value}: {kept} files kept, dead {dead}");
        if value & 3 == 0 {
            ensure!(kept == 2, "{value}: {kept} files");
        } else {
            ensure!(kept == 0, "{value}: {kept} files");
        }
        let want = of_reading(value).is_some();
        ensure!(dead == want, "{value}: whether the cache is dead: {dead}");
        drop(daemon);
        all_is_well(lab, &cache)?;
    }
    Ok(())
}

fn cull(lab: &Lab) -> Result<()> {
    let cache = cache(lab)?;
    let dir = cache.dir().join("cache");
    for (value, victim) in VALUES
        .into_iter()
        .flat_map(|value| [false, true].map(|is_dir| (value, is_dir)))
    {
        let daemon = filled(lab, &cache)?;
        let path = dir.join("victim");
        if victim {
            fs::create_dir(&path)?;
        } else {
            fs::write(&path, "victim")?;
        }
        env::set_current_dir(&dir)?;
        let got = with(value, || match daemon.device() {
            Ok(device) => device.command(b"cull victim"),
            Err(error) => Err(io::Error::other(error)),
        });
        env::set_current_dir("/")?;
        let got = got?;
        let want = of_reading(value);
        // C says that it has culled a directory that it could not move.
        let said = want.filter(|_| !(lab.is_peer() && victim));
        same("cull", value, got, said)?;
        ensure!(
            path.exists() == want.is_some(),
            "{value}: culled and not culled"
        );
        if path.is_dir() {
            fs::remove_dir(&path)?;
        } else if path.exists() {
            fs::remove_file(&path)?;
        }
        println!("{value}: dead {}", is_dead(daemon.device()?)?);
        drop(daemon);
    }
    all_is_well(lab, &cache)
}
