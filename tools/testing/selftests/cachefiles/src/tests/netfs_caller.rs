// SPDX-License-Identifier: GPL-2.0

//! The operations that no netfs of 6.12 calls, called by a module that is a netfs for that alone
//! (`netfs_caller/`).

use super::{
    eviction::{bound, give_back, take_space},
    netfs_caller_scene::{cookie_becomes, has_nothing, Scene, K},
};
use crate::{
    backing::Frozen,
    cachefilesd::{nothing_in_use, Counters, Keeper, Known},
    caller::Caller,
    claim::{cache_files, only_file_is_marked},
    error_injection::{with, IO_ERROR, NO_SPACE},
    group,
    kernel::drop_caches,
    ktap::Skip,
    lab::{eventually, Lab},
    stage::expect_error,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{cache::limits::Levels, Errno};
use std::{fs, io, ops::Range, thread, time::Duration};

group!("netfs_caller":
    occupancy_of_a_file_with_holes,
    occupancy_of_nothing,
    prepared_to_be_rewritten,
    prepared_when_space_is_short,
    read_that_cannot_begin,
    written_to_without_a_cache,
    in_use_when_the_cache_goes,
    written_to_while_the_cache_goes,
    marked_also_during_the_lookup,
    lookup_that_fails_under_an_operation,
    written_to_after_a_failed_lookup,
);

/// The first data of a range, for ranges that begin and end in data and in holes.
fn occupancy_of_a_file_with_holes(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let _keeper = Keeper::start(cache.dir())?;
    let caller = Caller::load(lab)?;
    for data in [0..12 * K, 32 * K..64 * K] {
        caller.write(data)?;
    }
    for (range, granularity, want) in [
        // To the end of what is there, and to the end of the range.
        (0..64 * K, 4 * K, 0..12 * K),
        (4 * K..12 * K, 4 * K, 4 * K..12 * K),
        (0..8 * K, 4 * K, 0..8 * K),
        // From what is there on.
        (12 * K..96 * K, 4 * K, 32 * K..64 * K),
        (48 * K..256 * K, 4 * K, 48 * K..64 * K),
        // In whole pieces, which are never smaller than a block.
        (0..64 * K, 8 * K, 0..8 * K),
        (4 * K..128 * K, 1, 4 * K..12 * K),
        (40 * K..128 * K, 16 * K, 48 * K..64 * K),
    ] {
        let got = caller.occupancy(&range, granularity);
        let got = got.with_context(|| format!("what there is of {range:?} by {granularity}"))?;
        ensure!(
            got == want,
            "{got:?}, not {want:?}, of {range:?} by {granularity}"
        );
    }
    // The data begins behind the range's beginning and goes on behind its end.
    let (range, want) = (16 * K..40 * K, 32 * K..40 * K);
    let got = caller.occupancy(&range, 4 * K)?;
    // C gives the range's length from there, and so more than was asked for.
    let want = if lab.is_peer() { 32 * K..56 * K } else { want };
    ensure!(got == want, "{got:?}, not {want:?}, of {range:?}");
    // Less than a piece; a hole; what is behind the end.
    for (range, granularity) in [
        (8 * K..32 * K, 16 * K),
        (12 * K..32 * K, 4 * K),
        (64 * K..96 * K, 4 * K),
        (2048 * K..4096 * K, 4 * K),
    ] {
        let got = caller.occupancy(&range, granularity);
        expect_error(got, Errno::NODATA, &format!("{range:?} by {granularity}"))?;
    }
    Ok(())
}

/// A file that has no data, one that cannot be looked at, and a cache that has gone.
fn occupancy_of_nothing(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let mut keeper = Keeper::start(cache.dir())?;
    let caller = Caller::load(lab)?;
    let range = 0..64 * K;
    let asked = || caller.occupancy(&range, 4 * K);
    expect_error(asked(), Errno::NODATA, "a new file")?;
    caller.write(0..4 * K)?;
    let got = asked()?;
    ensure!(got == (0..4 * K), "{got:?} of a file with one block");
    expect_error(with(IO_ERROR, asked)?, Errno::NOBUFS, "a disk that fails")?;
    let got = asked()?;
    ensure!(got == (0..4 * K), "{got:?} when the disk is well again");
    keeper.stop()?;
    expect_error(asked(), Errno::NOBUFS, "a cache that has gone")
}

/// Whole blocks are prepared, and what is no block is not.
fn prepared_to_be_rewritten(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let _keeper = Keeper::plain(cache.dir())?;
    let caller = Caller::load_reader(lab)?;
    caller.write(0..12 * K)?;
    for (range, upper, want) in [
        // All there, in part, and nothing; the last block is filled up, if it may be.
        (0..12 * K, 12 * K, 0..12 * K),
        (4 * K..20 * K, 16 * K, 4 * K..20 * K),
        (32 * K..64 * K, 32 * K, 32 * K..64 * K),
        (0..5000, 8 * K, 0..8 * K),
        (8 * K..8 * K + 1, 4 * K, 8 * K..12 * K),
    ] {
        let got = caller.prepare(&range, upper);
        let got = got.with_context(|| format!("{range:?}, at most {upper}"))?;
        ensure!(got == want, "{got:?}, not {want:?}, of {range:?}");
    }
    for (range, upper) in [(512..4 * K, 4 * K), (4097..8 * K, 8 * K), (0..5000, 4 * K)] {
        let before = Counters::now()?;
        let got = caller.prepare(&range, upper);
        expect_error(got, Errno::NOBUFS, &format!("{range:?}, at most {upper}"))?;
        let moved = Counters::now()?.since(&before);
        ensure!(moved.get("IO.mis") == 1, "no misfit is counted: {moved:?}");
    }
    caller.rewrite(8 * K..24 * K)?;
    caller.read(0..24 * K)?;
    let got = with(IO_ERROR, || caller.prepare(&(0..8 * K), 8 * K))?;
    expect_error(got, Errno::IO, "a disk that fails")?;
    caller.read(0..24 * K).context("after a disk that failed")
}

/// Below the limit, what is there may be written again, and what is there in part is not written: it
/// stays as it is.  C makes a hole of it.
fn prepared_when_space_is_short(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(64)?;
    let _device = bound(
        &cache,
        |config| {
            config.blocks = Levels {
                run: 60,
                cull: 50,
                stop: 40,
            };
        },
        "bind",
    )?;
    let caller = Caller::load_reader(lab)?;
    for data in [0..12 * K, 16 * K..32 * K] {
        caller.write(data)?;
    }
    let ballast = take_space(cache.dir())?;
    let short = |range: Range<u64>| -> Result<(io::Result<Range<u64>>, i64)> {
        let before = Counters::now()?;
        let got = caller.prepare(&range, range.end - range.start);
        Ok((got, Counters::now()?.since(&before).get("NoSpace.nwr")))
    };
    let (got, counted) = short(64 * K..96 * K)?;
    expect_error(got, Errno::NOBUFS, "a hole")?;
    ensure!(counted == 1, "a hole is counted {counted} times");
    let (got, counted) = short(0..12 * K)?;
    ensure!(got? == (0..12 * K) && counted == 0, "{counted} for data");
    caller.read(0..12 * K)?;
    let (got, counted) = short(0..32 * K)?;
    if lab.is_peer() {
        // C goes on to write, below the limit.
        ensure!(got? == (0..32 * K) && counted == 1, "{counted} for a part");
        has_nothing(&caller).context("given up")?;
    } else {
        expect_error(got, Errno::NOBUFS, "what is there in part")?;
        ensure!(counted == 1, "a part is counted {counted} times");
        caller.read(0..12 * K).context("what is there in part")?;
    }
    give_back(&ballast)?;
    caller.rewrite(0..32 * K).context("when there is room")?;
    Ok(caller.read(0..32 * K)?)
}

/// A netfs that fills the cache itself is told of a read that cannot begin as of one that came short:
/// then it asks the server.
fn read_that_cannot_begin(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let _keeper = Keeper::plain(cache.dir())?;
    let caller = Caller::load(lab)?;
    caller.write(0..64 * K)?;
    caller.command("begin")?;
    let got = caller.read_on(0..8 * K)?;
    ensure!(got == 8 * K, "{got} bytes in the operation");
    with(NO_SPACE, || -> Result<()> {
        caller.invalidate()?;
        let got = caller.occupancy(&(0..64 * K), 4 * K);
        expect_error(got, Errno::NOBUFS, "a file that could not be exchanged")
    })??;
    let got = caller.read_on(0..8 * K);
    if lab.is_peer() {
        // A page that is to be written in part is not read then, and written as it is.
        expect_error(got, Errno::NOBUFS, "a read that cannot begin")?;
    } else {
        let got = got.context("a read that cannot begin")?;
        ensure!(
            got == 0,
            "{got} bytes of a file that could not be exchanged"
        );
    }
    Ok(caller.command("end")?)
}

/// The cache ends, and another one begins on the same disk.
fn begin_again(scene: &mut Scene<'_>, meanwhile: impl FnOnce(&Caller) -> Result<()>) -> Result<()> {
    scene.keeper.stop()?;
    meanwhile(scene.caller()?)?;
    scene.keeper = Keeper::plain(scene.fs.dir())?;
    Ok(scene.caller()?.command("use")?)
}

/// What was written when there was no cache to be told is not hidden by what is cached.
fn written_to_without_a_cache(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    scene.caller()?.write(0..64 * K)?;
    scene.caller()?.command("unuse")?;
    // Within the same tick of the clock it might have been written to.
    thread::sleep(Duration::from_millis(50));
    begin_again(&mut scene, |_| Ok(()))?;
    scene
        .caller()?
        .read(0..64 * K)
        .context("nothing has been written")?;
    scene.caller()?.command("unuse")?;
    begin_again(&mut scene, |caller| {
        caller.command("write-use")?;
        Ok(caller.command("unuse")?)
    })?;
    if lab.is_peer() {
        return Ok(scene.caller()?.read(0..64 * K)?);
    }
    scene.begins_anew()
}

/// Who has the file open for writing when the cache goes may go on writing, and nobody tells the cache.
fn in_use_when_the_cache_goes(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    scene.caller()?.write(0..64 * K)?;
    begin_again(&mut scene, |_| Ok(()))?;
    if lab.is_peer() {
        return Ok(scene.caller()?.read(0..64 * K)?);
    }
    scene.begins_anew()
}

/// Who begins to write while the file is being committed for the last time, and has done before the cache
/// is gone: FS-Cache does not note that.
fn written_to_while_the_cache_goes(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(
            Skip("C makes a file on a frozen file system, of which ext4 warns".to_owned()).into(),
        );
    }
    for read_meanwhile in [false, true] {
        let mut scene = Scene::new(lab)?;
        scene.caller = None;
        nothing_in_use()?;
        for file in cache_files(scene.fs.dir()) {
            fs::remove_file(file)?;
        }
        scene.caller = Some(Caller::load_reader(lab)?);
        let caller = scene.caller.as_ref().context("no caller")?;
        caller.write(0..64 * K)?;
        if !read_meanwhile {
            caller.command("unuse")?;
        }
        // The new file cannot get its name until the file system is thawed.
        let frozen = Frozen::new(scene.fs.dir())?;
        let keeper = &mut scene.keeper;
        thread::scope(|scope| -> Result<()> {
            let ending = scope.spawn(|| keeper.stop());
            let written = cookie_becomes('W').and_then(|()| {
                caller.command("write-use")?;
                Ok(caller.command("unuse")?)
            });
            // As long as a disk takes that is not well.
            thread::sleep(Duration::from_millis(200));
            drop(frozen);
            ending.join().ok().context("the thread panicked")??;
            written
        })?;
        scene.keeper = Keeper::plain(scene.fs.dir())?;
        scene.caller()?.command("use")?;
        let begins = scene.begins_anew();
        begins.with_context(|| format!("read meanwhile: {read_meanwhile}"))?;
    }
    Ok(())
}

/// A file is marked before it is written to, also if FS-Cache did not say that it would be, because it
/// was being looked up.
fn marked_also_during_the_lookup(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    scene.caller()?.write(0..64 * K)?;
    scene.named()?;
    scene.caller = None;
    scene.caller = Some(Caller::load_idle(lab)?);
    let marked = || only_file_is_marked(scene.fs.dir());
    eventually("the mark is gone", || marked().is_ok_and(|marked| !marked))?;
    drop_caches()?;
    let held = scene.disk.hold()?;
    let caller = scene.caller()?;
    caller.command("use")?;
    caller.command("write-use")?;
    drop(held);
    caller.read(0..64 * K)?;
    let before = marked()?;
    caller.rewrite(0..4 * K)?;
    println!("marked by FS-Cache: {before}");
    let after = marked()?;
    // C does not mark it.
    ensure!(
        after || lab.is_peer(),
        "a file without a mark was written to"
    );
    Ok(())
}

/// What FS-Cache is doing with its volumes.
fn volumes_flags() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/fs/fscache/volumes")?;
    let flags = text
        .lines()
        .skip(2)
        .map(|line| line.split_whitespace().nth(4));
    let flags = flags.map(|word| Some(word?.to_owned()));
    flags.collect::<Option<_>>().context("not understood")
}

/// A lookup by this use finds nothing and makes no file; an operation that has begun meanwhile keeps the
/// cookie as it is.
fn fails_under_an_operation(scene: &mut Scene<'_>, how: &str) -> Result<()> {
    scene.caller = Some(Caller::load_idle(scene.lab)?);
    eventually("the volume is made", || {
        volumes_flags().is_ok_and(|flags| flags == ["00"])
    })?;
    // No new file can be made until the file system is thawed.
    let frozen = Frozen::new(scene.fs.dir())?;
    scene.caller()?.command(how)?;
    cookie_becomes('C')?;
    scene.caller()?.command("begin")?;
    with(NO_SPACE, || {
        drop(frozen);
        cookie_becomes('F')
    })?
}

/// Who begins to read a file that is being made, and then is not, refers to the cache until he ends,
/// and the cache to an object.
fn lookup_that_fails_under_an_operation(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(
            Skip("C makes a file on a frozen file system, of which ext4 warns".to_owned()).into(),
        );
    }
    let mut scene = Scene::new(lab)?;
    scene.caller = None;
    nothing_in_use()?;
    for file in cache_files(scene.fs.dir()) {
        fs::remove_file(file)?;
    }
    fails_under_an_operation(&mut scene, "write-use")?;
    let objects = Known::objects()?;
    ensure!(objects == 1, "{objects} objects under an operation");
    scene.caller()?.command("end")?;
    nothing_in_use()?;
    // The next use is served.
    scene.caller = None;
    scene.caller = Some(Caller::load(lab)?);
    scene.caller()?.write(0..64 * K)?;
    Ok(scene.caller()?.read(0..64 * K)?)
}

/// FS-Cache does not note who begins to write between a lookup that fails and the end of the operations
/// that it let begin.  What was cached before must not be found again.
fn written_to_after_a_failed_lookup(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(
            Skip("C makes a file on a frozen file system, of which ext4 warns".to_owned()).into(),
        );
    }
    let mut scene = Scene::new(lab)?;
    scene.caller()?.write(0..64 * K)?;
    scene.caller = None;
    nothing_in_use()?;
    let files = cache_files(scene.fs.dir());
    let file = files.first().context("no file")?;
    let away = scene.fs.dir().join("away");
    fs::rename(file, &away)?;
    fails_under_an_operation(&mut scene, "use")?;
    let caller = scene.caller()?;
    for word in ["write-use", "unuse", "end", "unuse"] {
        caller.command(word).context(word)?;
    }
    nothing_in_use()?;
    fs::rename(&away, file)?;
    caller.command("use")?;
    scene.begins_anew()
}
