// SPDX-License-Identifier: GPL-2.0

//! Eviction as nydusd does it: `inuse` and `cull` of names that it computes, the graveyard, and
//! how a daemon that polls learns that it should cull; and as `ondemandd` does it.

use super::eviction_daemon::{
    daemon_culls_the_oldest, daemon_empties_the_graveyard, daemon_makes_room,
    daemon_waits_when_all_is_in_use,
};
use crate::{
    blob::Blob,
    cachefilesd::at_rest,
    caller::Caller,
    claim::cache_files,
    daemon::{Blobs, Daemon, Manner},
    group,
    image::{Image, BLOCK},
    kernel::Kmsg,
    ktap::Skip,
    lab::{eventually, Cache, Lab},
    layout,
    mount::{try_mount, Mount},
    patience::SOON,
    protocol::open_device,
    raw::errno,
    stage::{self, expect_data, expect_error, read_block_here},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{cache::limits::Levels, CacheConfig, Device, Errno};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{fallocate, statvfs, FallocateFlags, StatVfsMountFlags},
};
use std::{
    env,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

group!("eviction":
    culled_by_computed_names,
    in_use_from_lookup_on,
    volume_goes_to_the_graveyard,
    what_is_no_file_goes_to_the_graveyard,
    few_blocks_wake_who_polls,
    few_inodes_wake_who_polls,
    others_fill_the_disk,
    on_a_read_only_disk,
    state_line_tells_of_culling,
    state_line_counts_what_is_released,
    daemon_makes_room,
    daemon_culls_the_oldest,
    daemon_waits_when_all_is_in_use,
    daemon_empties_the_graveyard,
);

/// A command about the last part of a path, given from the directory that it is in.
pub(super) fn command(device: &Device, verb: &str, path: &Path) -> Result<Result<(), Errno>> {
    env::set_current_dir(path.parent().context("no directory")?)?;
    let got = device.command(format!("{verb} {}", layout::name(path)).as_bytes());
    env::set_current_dir("/")?;
    match got {
        Ok(()) => Ok(Ok(())),
        Err(error) => Ok(Err(errno(&error).context("no error number")?)),
    }
}

/// Waits until a command about a file has this result.
pub(super) fn becomes(
    device: &Device,
    verb: &str,
    path: &Path,
    want: Result<(), Errno>,
) -> Result<()> {
    let mut last = None;
    let done = eventually("the answer", || {
        last = Some(command(device, verb, path));
        matches!(last, Some(Ok(got)) if got == want)
    });
    done.with_context(|| {
        let path = path.display();
        format!("{verb} {path} shall give {want:?}, and gives {last:?}")
    })
}

/// Keys whose names are as they are, in hexadecimal, and in base 64.
const KEYS: [&str; 5] = [
    "blob",
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "a b",
    "/var/lib/blob",
    "a name with blanks, which is rather long",
];

/// Blobs of keys of every kind are where a daemon computes them to be: busy while mounted, culled
/// when not, and then fetched anew.
fn culled_by_computed_names(lab: &Lab) -> Result<()> {
    let mut image = Image::new();
    let mut blobs = Blobs::new();
    let mut options = "domain_id=d".to_owned();
    // A comma ends a mount option.
    let keys = KEYS.map(|key| key.replace(',', ";"));
    for (key, device) in keys.iter().zip(1..) {
        let chunks: Vec<_> = (0..4).map(|block| (device, block)).collect();
        image = image.device("-").file(format!("file-{device}"), 0, chunks);
        options += &format!(",device={key}");
        let (seed, size) = (stage::SEED, 4 * BLOCK);
        blobs = blobs.with(key, Blob::Pattern { seed, size });
    }
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs.with("meta", image.build()))?;
    let device = daemon.device()?;
    let files = keys
        .iter()
        .map(|key| layout::file(cache.dir(), "erofs,d", key.as_bytes()))
        .collect::<Result<Vec<_>>>()?;
    for round in 0..2 {
        let before = daemon.reads();
        let mut mount = Mount::with(lab.base(), "meta", &options)?;
        for device in 1..=KEYS.len() {
            let file = mount.path(&format!("file-{device}"));
            expect_data(read_block_here(&file, 2), 2)?;
        }
        let reads = daemon.reads() - before;
        ensure!(
            reads >= KEYS.len() as u64,
            "{reads} READs in round {round} for what is not there"
        );
        mount.unmount()?;
        for file in &files {
            becomes(device, "inuse", file, Ok(()))?;
        }
        let mut mount = Mount::with(lab.base(), "meta", &options)?;
        for file in &files {
            becomes(device, "inuse", file, Err(Errno::BUSY))?;
            let got = command(device, "cull", file)?;
            ensure!(got == Err(Errno::BUSY), "cull of a mounted blob: {got:?}");
        }
        for device in 1..=KEYS.len() {
            let file = mount.path(&format!("file-{device}"));
            expect_data(read_block_here(&file, 3), 3)?;
        }
        mount.unmount()?;
        for file in &files {
            becomes(device, "cull", file, Ok(()))?;
            ensure!(!file.exists(), "{} is still there", file.display());
        }
    }
    Ok(())
}

/// A file that is looked up is in use before the daemon has answered: it cannot be culled from
/// under the lookup.
fn in_use_from_lookup_on(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(stage::blobs(Manner::Manual))?;
    let device = daemon.device()?;
    let file = layout::file(cache.dir(), "erofs,meta", b"blob")?;
    for round in 0..3 {
        let mut mount = Mount::new(lab.base(), "meta")?;
        let open = daemon.open()?;
        if round > 0 {
            for verb in ["inuse", "cull"] {
                let got = command(device, verb, &file)?;
                ensure!(got == Err(Errno::BUSY), "{verb} during a lookup: {got:?}");
            }
        }
        device.open_reply(open.msg_id, Ok(stage::SIZE))?;
        let reader = stage::read_block(&mount.path("file"), round);
        let read = daemon.read()?;
        let mut bytes = crate::blob::Aligned::new(usize::try_from(read.len)?);
        crate::blob::pattern(stage::SEED, read.offset, &mut bytes);
        read.object.write_all_at(&bytes, read.offset)?;
        read.object.complete_read(read.msg_id)?;
        expect_data(stage::join(reader)?, round)?;
        mount.unmount()?;
        daemon.event().context("no CLOSE")?;
        becomes(device, "inuse", &file, Ok(()))?;
    }
    becomes(device, "cull", &file, Ok(()))
}

/// What is in a directory.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    entries.collect()
}

/// A whole volume: in use while it is mounted, also against rmdir; culled, it is in the graveyard,
/// where it is the daemon's to delete, and nobody touches it otherwise.
fn volume_goes_to_the_graveyard(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let mut daemon = cache.serve(stage::blobs(Manner::Serve))?;
    let graveyard = cache.dir().join("graveyard");
    let volume = layout::volume(cache.dir(), "erofs,meta")?;
    let blob = layout::file(cache.dir(), "erofs,meta", b"blob")?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    stage::expect_file(&mount.path("file"))?;
    let empty = entries(&volume)?
        .into_iter()
        .find(|fan| entries(fan).is_ok_and(|files| files.is_empty()))
        .context("every directory has a file")?;
    for dir in [&volume, &empty] {
        for verb in ["inuse", "cull"] {
            let got = command(daemon.device()?, verb, dir)?;
            ensure!(got == Err(Errno::BUSY), "{verb} of {dir:?}: {got:?}");
        }
    }
    let got = fs::remove_dir(&empty);
    expect_error(got, Errno::BUSY, "rmdir of a directory in use")?;
    mount.unmount()?;
    eventually("the blob's file", || blob.exists())?;
    becomes(daemon.device()?, "cull", &volume, Ok(()))?;
    ensure!(!volume.exists(), "the volume is still there");
    let graves = entries(&graveyard)?;
    let [grave] = graves.as_slice() else {
        anyhow::bail!("in the graveyard: {graves:?}");
    };
    let buried = grave.join(blob.strip_prefix(&volume)?);
    ensure!(buried.is_file(), "{} is not there", buried.display());
    // Another daemon, and another volume of the same name.
    daemon.stop()?;
    daemon = cache.serve(stage::blobs(Manner::Serve))?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    let before = daemon.reads();
    stage::expect_file(&mount.path("file"))?;
    ensure!(
        daemon.reads() > before,
        "a culled blob was read from somewhere"
    );
    ensure!(buried.is_file(), "somebody else has emptied the graveyard");
    fs::remove_dir_all(grave).context("emptying the graveyard")?;
    stage::expect_file(&mount.path("file"))?;
    mount.unmount()
}

/// A directory where a cache file should be is moved away, and the blob is fetched.
fn what_is_no_file_goes_to_the_graveyard(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(stage::blobs(Manner::Serve))?;
    let blob = layout::file(cache.dir(), "erofs,meta", b"blob")?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    // Unmounted before the daemon has answered, it would have no file.
    stage::expect_file(&mount.path("file"))?;
    mount.unmount()?;
    becomes(daemon.device()?, "cull", &blob, Ok(()))?;
    fs::create_dir(&blob)?;
    fs::write(blob.join("inside"), "x")?;
    let log = Kmsg::from_now()?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    stage::expect_file(&mount.path("file"))?;
    let said = log.of_module()?.join("\n");
    ensure!(said.contains("file"), "the log does not say why: {said}");
    mount.unmount()?;
    eventually("the blob's file", || blob.is_file())?;
    let graves = entries(&cache.dir().join("graveyard"))?;
    let [grave] = graves.as_slice() else {
        anyhow::bail!("in the graveyard: {graves:?}");
    };
    ensure!(grave.join("inside").is_file(), "something else was buried");
    fs::remove_dir_all(grave).context("emptying the graveyard")
}

/// What the device polls for, within a time.
pub(super) fn polled(device: &Device, within: Duration) -> Result<PollFlags> {
    let mut fds = [PollFd::new(device, PollFlags::IN | PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec::try_from(within)?))?;
    Ok(fds[0].revents())
}

/// Binds with these limits.
pub(super) fn bound(
    cache: &Cache,
    config: impl FnOnce(&mut CacheConfig),
    line: &str,
) -> Result<Device> {
    let device = open_device()?;
    let mut settings = CacheConfig::new(cache.dir());
    config(&mut settings);
    device.configure(&settings)?;
    device.command(line.as_bytes())?;
    Ok(device)
}

pub(super) const LEVELS: Levels = Levels {
    run: 60,
    cull: 50,
    stop: 10,
};

/// Takes space until 30 per cent are free.
pub(super) fn take_space(dir: &Path) -> Result<PathBuf> {
    let ballast = dir.join("ballast");
    let file = File::create(&ballast)?;
    let stat = statvfs(dir)?;
    let free = stat.f_bavail * stat.f_frsize;
    let leave = stat.f_blocks * stat.f_frsize * 3 / 10;
    let take = free.checked_sub(leave).context("too little is free")?;
    fallocate(&file, FallocateFlags::empty(), 0, take)?;
    rustix::fs::syncfs(&file)?;
    // For a tenth of a second the module need not look again what there is to spare.
    thread::sleep(Duration::from_millis(200));
    Ok(ballast)
}

/// Gives space back, and waits until the file system has it.
pub(super) fn give_back(ballast: &Path) -> Result<()> {
    let dir = ballast.parent().context("no directory")?.to_owned();
    fs::remove_file(ballast)?;
    rustix::fs::syncfs(File::open(&dir)?)?;
    eventually("the space is free", || {
        statvfs(&dir).is_ok_and(|stat| stat.f_bavail > stat.f_blocks * 65 / 100)
    })
}

/// A thread that waits for POLLOUT of a device of its own.
fn awaits_culling(daemon: &Daemon) -> Result<thread::JoinHandle<Result<PollFlags>>> {
    let device = Device::from(rustix::io::dup(daemon.device()?)?);
    Ok(thread::spawn(move || {
        let mut fds = [PollFd::new(&device, PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec::try_from(*SOON)?))?;
        Ok(fds[0].revents())
    }))
}

fn woken(poller: thread::JoinHandle<Result<PollFlags>>) -> Result<()> {
    let events = poller.join().ok().context("the poller panicked")??;
    ensure!(events.contains(PollFlags::OUT), "it polls {events:?}");
    Ok(())
}

pub(super) const NOW: Duration = Duration::ZERO;

/// A write that finds few blocks free has the daemon woken with POLLOUT; there is room still, and
/// the reader gets its data.  A write that finds enough again ends it.
fn few_blocks_wake_who_polls(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(64)?;
    let device = bound(&cache, |config| config.blocks = LEVELS, "bind ondemand")?;
    let daemon = Daemon::over(device, stage::blobs(Manner::Serve))?;
    let mount = Mount::new(lab.base(), "meta")?;
    let file = mount.path("file");
    let device = daemon.device()?;
    let mut block = 0;
    for _ in 0..2 {
        expect_data(read_block_here(&file, block), block)?;
        let events = polled(device, NOW)?;
        ensure!(!events.contains(PollFlags::OUT), "culling an empty disk");
        let poller = awaits_culling(&daemon)?;
        let ballast = take_space(cache.dir())?;
        expect_data(read_block_here(&file, block + 1), block + 1)?;
        woken(poller)?;
        // It stays until there is enough.
        expect_data(read_block_here(&file, block + 2), block + 2)?;
        let events = polled(device, NOW)?;
        ensure!(events.contains(PollFlags::OUT), "it polls {events:?}");
        give_back(&ballast)?;
        block += 3;
    }
    Ok(())
}

/// The same with inodes: a lookup that has to make a file finds few of them.
fn few_inodes_wake_who_polls(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(16)?;
    let levels = Levels {
        run: 80,
        cull: 70,
        stop: 5,
    };
    let device = bound(&cache, |config| config.files = levels, "bind ondemand")?;
    let blobs = stage::blobs(Manner::Serve)
        .merged(stage::blobs_named("meta2", "blob2", Manner::Serve))
        .merged(stage::blobs_named("meta3", "blob3", Manner::Serve));
    let daemon = Daemon::over(device, blobs)?;
    let device = daemon.device()?;
    let first = Mount::with(lab.base(), "meta", "domain_id=d")?;
    expect_data(read_block_here(&first.path("file"), 0), 0)?;
    let events = polled(device, NOW)?;
    ensure!(!events.contains(PollFlags::OUT), "culling an empty disk");
    let poller = awaits_culling(&daemon)?;
    let many = cache.dir().join("many");
    fs::create_dir(&many)?;
    let stat = statvfs(cache.dir())?;
    for number in 0..stat.f_ffree.saturating_sub(stat.f_files * 6 / 10) {
        File::create(many.join(number.to_string()))?;
    }
    let second = Mount::with(lab.base(), "meta2", "domain_id=d")?;
    expect_data(read_block_here(&second.path("file"), 0), 0)?;
    woken(poller)?;
    fs::remove_dir_all(&many)?;
    // The next file finds enough.
    let third = Mount::with(lab.base(), "meta3", "domain_id=d")?;
    expect_data(read_block_here(&third.path("file"), 0), 0)?;
    let events = polled(device, NOW)?;
    ensure!(!events.contains(PollFlags::OUT), "culling goes on");
    Ok(())
}

/// Nothing is written to the cache while others take the disk's space: POLLOUT comes by itself, in both
/// modes, and goes when the space is back.  C looks at the disk only when it uses it.
fn others_fill_the_disk(lab: &Lab) -> Result<()> {
    for line in ["bind", "bind ondemand"] {
        let cache = lab.cache_of(64)?;
        let device = bound(&cache, |config| config.blocks = LEVELS, line)?;
        let polled_out = || polled(&device, NOW).is_ok_and(|it| it.contains(PollFlags::OUT));
        ensure!(!polled_out(), "{line}: culling an empty disk");
        let ballast = take_space(cache.dir())?;
        let mut fds = [PollFd::new(&device, PollFlags::OUT)];
        let within = Duration::from_secs(if lab.is_peer() { 3 } else { 10 });
        let woken = poll(&mut fds, Some(&Timespec::try_from(within)?))?;
        ensure!(
            (woken == 1) != lab.is_peer(),
            "{line}: {woken} woken in {within:?}"
        );
        give_back(&ballast)?;
        eventually("the end of culling", || !polled_out())?;
    }
    Ok(())
}

/// On a disk that has become read-only `inuse` answers, `cull` fails with EROFS, and a mount with EIO, for
/// a reason that the log tells; the cache stays alive.
fn on_a_read_only_disk(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C refuses inuse there, and says nothing of the mount".to_owned()).into());
    }
    let cache = lab.cache()?;
    let other = stage::blobs_named("other", "blob", Manner::Serve);
    let daemon = cache.serve(stage::blobs(Manner::Serve).merged(other))?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    let file = layout::file(cache.dir(), "erofs,meta", b"blob")?;
    expect_data(read_block_here(&mount.path("file"), 0), 0)?;
    mount.unmount()?;
    at_rest()?;
    // As after an error of the disk's; whoever has files open for writing keeps them.
    fs::write("/proc/sysrq-trigger", "u")?;
    eventually("the disk is read-only", || {
        statvfs(cache.dir()).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
    })?;
    let device = daemon.device()?;
    let log = Kmsg::from_now()?;
    ensure!(
        command(device, "inuse", &file)? == Ok(()),
        "inuse is refused"
    );
    let got = command(device, "cull", &file)?;
    ensure!(got == Err(Errno::ROFS), "cull: {got:?}");
    for fsid in ["meta", "other"] {
        let got = try_mount(lab.base(), fsid.as_bytes(), b"").map(drop);
        ensure!(got == Err(Errno::IO), "mounting {fsid}: {got:?}");
        let said = log.of_module()?;
        let why = |line: &String| line.contains(fsid) && line.contains("error -30");
        ensure!(said.iter().any(why), "the log says {said:?}");
    }
    device.command(b"timeout 0").context("the cache is alive")
}

/// In the ordinary mode the state line says whether to cull, POLLOUT says the same, and POLLIN
/// that the line has not been read since it changed.
fn state_line_tells_of_culling(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(64)?;
    let device = bound(&cache, |config| config.blocks = LEVELS, "bind")?;
    for _ in 0..2 {
        let line = state_line(&device)?;
        ensure!(line.starts_with("cull=0 "), "{line}");
        let events = polled(&device, NOW)?;
        ensure!(events.is_empty(), "it polls {events:?}");
        let ballast = take_space(cache.dir())?;
        let line = state_line(&device)?;
        ensure!(line.starts_with("cull=1 "), "{line}");
        // What was just read is no news.
        let events = polled(&device, NOW)?;
        ensure!(events == PollFlags::OUT, "it polls {events:?}");
        give_back(&ballast)?;
    }
    Ok(())
}

/// The state line.
pub(super) fn state_line(device: &Device) -> Result<String> {
    let mut line = [0; 256];
    let len = device.read_bytes(&mut line)?;
    Ok(String::from_utf8_lossy(&line[..len]).into_owned())
}

/// A number of the state line.
pub(super) fn number_in(line: &str, name: &str) -> Result<u64> {
    let word = line
        .split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = word.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    number.with_context(|| format!("no {name} in {line:?}"))
}

/// The files that the cache has let go of since the last time, and their blocks: culling may be worth
/// another try.
fn released(device: &Device) -> Result<(u64, u64)> {
    let line = state_line(device)?;
    Ok((
        number_in(&line, "freleased")?,
        number_in(&line, "breleased")?,
    ))
}

/// A file that goes out of use can be culled from then on: whoever polls is told, and how much of the
/// disk it has.
fn state_line_counts_what_is_released(lab: &Lab) -> Result<()> {
    const LEN: u64 = 64 << 10;
    let cache = lab.cache()?;
    let device = bound(&cache, |_| (), "bind")?;
    let caller = Caller::load(lab)?;
    caller.write(0..LEN)?;
    drop(caller);
    eventually("the file has a name", || {
        cache_files(cache.dir()).len() == 1
    })?;
    at_rest()?;
    state_line(&device)?;
    for _ in 0..3 {
        ensure!(released(&device)? == (0, 0), "nothing was released");
        let events = polled(&device, NOW)?;
        ensure!(events.is_empty(), "it polls {events:?}");
        let caller = Caller::load_reader(lab)?;
        caller.read(0..LEN)?;
        ensure!(released(&device)? == (0, 0), "a file in use was released");
        drop(caller);
        let events = polled(&device, *SOON)?;
        ensure!(events.contains(PollFlags::IN), "it polls {events:?}");
        let files = cache_files(cache.dir());
        let blocks = fs::metadata(files.first().context("no file")?)?.blocks();
        let got = released(&device)?;
        ensure!(got == (1, blocks), "{got:?} released, of {blocks} blocks");
    }
    Ok(())
}
