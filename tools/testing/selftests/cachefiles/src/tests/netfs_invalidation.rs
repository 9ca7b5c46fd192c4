// SPDX-License-Identifier: GPL-2.0

//! Invalidation, at each moment of what it invalidates: nothing of what was before is read or stored.

use super::netfs_caller_scene::{cookie_becomes, has_nothing, Scene, K};
use crate::{
    backing::Frozen,
    cachefilesd::{at_rest, nothing_in_use, Keeper},
    caller::Caller,
    claim::cache_files,
    error_injection::{with, NO_SPACE},
    group,
    lab::{eventually, Lab},
    patience::{numbered, sleeps},
    stage::expect_error,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Errno;
use std::{fs, io, thread};

group!("netfs_invalidation":
    invalidated_under_a_read,
    invalidated_under_a_write,
    invalidated_again_before_a_write_begins,
    invalidated_between_a_read_and_its_copy,
    invalidated_while_the_file_is_made,
    invalidation_that_fails,
);

/// Who reads while everything becomes invalid does not get it, and an empty file takes the place of
/// the old one.
fn invalidated_under_a_read(lab: &Lab) -> Result<()> {
    Scene::new(lab)?.with_both(|scene| {
        let got = scene.invalidated_under("IO.rd", |caller| caller.read(0..64 * K))?;
        // Ours is one that came short.
        let error = if lab.is_peer() {
            Errno::STALE
        } else {
            Errno::IO
        };
        expect_error(got, error, "a read of what has become invalid")?;
        scene.begins_anew()
    })
}

/// What was being written when everything became invalid is not found in the new file.
fn invalidated_under_a_write(lab: &Lab) -> Result<()> {
    Scene::new(lab)?.with_both(|scene| {
        // The first write to a file with a name waits for its mark.
        scene.caller()?.rewrite(0..64 * K)?;
        scene
            .invalidated_under("IO.wr", |caller| caller.rewrite(0..64 * K))?
            .context("a write into the old file")?;
        scene.begins_anew()
    })
}

/// If no empty file can be made, the old one is not kept under what the netfs says now.
fn invalidation_that_fails(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    scene.caller()?.write(0..64 * K)?;
    scene.named()?;
    with(NO_SPACE, || -> Result<()> {
        let caller = scene.caller()?;
        caller.invalidate()?;
        let got = caller.occupancy(&(0..64 * K), 4 * K);
        expect_error(got, Errno::NOBUFS, "a file that could not be exchanged")
    })??;
    scene.caller = None;
    scene.caller = Some(Caller::load(lab)?);
    if lab.is_peer() {
        // C has the old data for the new.
        return Ok(scene.caller()?.read(0..64 * K)?);
    }
    scene.begins_anew()
}

/// What is written in an operation that began before the last invalidation does not get into the new
/// file: C takes it.
fn invalidated_again_before_a_write_begins(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let caller = scene.caller()?;
    caller.write(0..64 * K)?;
    // No new file can be made until the file system is thawed.
    let frozen = Frozen::new(scene.fs.dir())?;
    let got = thread::scope(|scope| -> Result<io::Result<()>> {
        let once = caller.invalidate();
        let (writer, number) = numbered(scope, || caller.write(0..64 * K));
        let waits = eventually("the writer waits", || sleeps(number));
        let again = caller.invalidate();
        drop(frozen);
        once?;
        waits?;
        again?;
        writer.join().ok().context("the thread panicked")
    })?;
    if lab.is_peer() {
        got?;
        return Ok(caller.read(0..64 * K)?);
    }
    expect_error(got, Errno::NOBUFS, "a write of what has become invalid")?;
    has_nothing(caller)
}

/// What the server gave before an invalidation is not stored after it.  `caller` has been told that
/// what it is about to read is to be stored, and the invalidation has come since.
fn not_stored_any_more(lab: &Lab, caller: &Caller) -> Result<()> {
    let got = caller.write(0..64 * K);
    if lab.is_peer() {
        // The old data is what is read from now on.
        got?;
        caller.command("end")?;
        return Ok(caller.read(0..64 * K)?);
    }
    expect_error(got, Errno::NOBUFS, "a copy of what has become invalid")?;
    let got = caller.read(0..64 * K);
    expect_error(got, Errno::NODATA, "what was not stored")?;
    caller.command("end")?;
    // What is read from now on is.
    caller.write(0..64 * K)?;
    Ok(caller.read(0..64 * K)?)
}

/// netfs stores what it has read in another operation, which begins when the data has come.
fn invalidated_between_a_read_and_its_copy(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let _keeper = Keeper::plain(cache.dir())?;
    let caller = Caller::load_reader(lab)?;
    // Both of a file that is new and of one that has data elsewhere.
    for stored in [None, Some(512 * K..576 * K)] {
        if let Some(range) = stored {
            caller.write(range)?;
        }
        at_rest()?;
        caller.command("begin")?;
        for at in [0, 32 * K] {
            ensure!(
                caller.is_to_be_stored(at..at + 32 * K)?,
                "not to be stored from {at}"
            );
        }
        caller.invalidate()?;
        caller.invalidate()?;
        at_rest()?;
        not_stored_any_more(lab, &caller)?;
        caller.invalidate()?;
        at_rest()?;
    }
    Ok(())
}

/// FS-Cache does not tell the cache of an invalidation while it makes the file.
fn invalidated_while_the_file_is_made(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let _keeper = Keeper::plain(cache.dir())?;
    // The volume's directories are there, and the file is not.
    drop(Caller::load(lab)?);
    nothing_in_use()?;
    for file in cache_files(cache.dir()) {
        fs::remove_file(file)?;
    }
    let caller = Caller::load_idle(lab)?;
    let frozen = Frozen::new(cache.dir())?;
    caller.command("use")?;
    cookie_becomes('C')?;
    caller.command("begin")?;
    ensure!(
        caller.is_to_be_stored(0..64 * K)?,
        "the first read is not to be stored"
    );
    caller.invalidate()?;
    drop(frozen);
    at_rest()?;
    not_stored_any_more(lab, &caller)
}
