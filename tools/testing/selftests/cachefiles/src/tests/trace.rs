// SPDX-License-Identifier: GPL-2.0

//! The trace events: declared as C declares them, and told when it happens.  Those of the ordinary
//! mode are in `netfs`.

use super::eviction::{becomes, command};
use crate::{
    backing::Backing,
    cachefilesd::no_volumes,
    daemon::{Daemon, Manner},
    error_injection::{with, IO_ERROR},
    group,
    kernel::Module,
    lab::{eventually, Lab},
    layout,
    mount::Mount,
    stage::{blobs, expect_data, expect_error, read_block_here, Stage},
    trace::{compare, declared, stories, traced, Trace},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Errno;
use std::{collections::BTreeMap, fs};

group!("trace":
    events_are_declared_as_c_declares_them,
    requests_and_answers,
    errors_and_removals,
    stories_are_those_of_c,
);

/// Names, fields and formats, which scripts depend on.
fn events_are_declared_as_c_declares_them(lab: &Lab) -> Result<()> {
    let of = |module| -> Result<BTreeMap<String, String>> {
        let _module = Module::load(module)?;
        declared()
    };
    let (ours, peers) = (of(&lab.our_module()?)?, of(&lab.peer_module()?)?);
    ensure!(peers.len() > 20, "C declares {} events only", peers.len());
    for (name, format) in &peers {
        let own = ours.get(name).with_context(|| format!("no event {name}"))?;
        ensure!(own == format, "{name} is\n{own}\nand not\n{format}");
    }
    ensure!(
        ours.len() == peers.len(),
        "more events than C has: {ours:?}"
    );
    Ok(())
}

/// An event of a trace: `task-1 [000] ..... 1.0: name: key=value ...`.
struct Event {
    name: String,
    fields: BTreeMap<String, String>,
}

fn parse(lines: &[String]) -> Vec<Event> {
    let event = |line: &String| {
        let (before, told) = line.split_once(": cachefiles_ondemand_")?;
        let (name, fields) = (!before.starts_with('#'))
            .then_some(told)?
            .split_once(": ")?;
        let fields = fields.split_whitespace().filter_map(|field| {
            let (key, value) = field.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        });
        Some(Event {
            name: name.to_owned(),
            fields: fields.collect(),
        })
    };
    lines.iter().filter_map(event).collect()
}

/// One image is mounted, a block is read and the image unmounted: each request and its answer, in
/// this order, of the same object and, but for C's, of the same message.
fn requests_and_answers(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::Serve)?;
    let lines = traced(|| {
        expect_data(read_block_here(&stage.mount.path("file"), 5), 5)?;
        stage.mount.unmount()?;
        eventually("two CLOSEs", || stage.daemon.closes() == 2)
    })?;
    let events = parse(&lines);
    let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    let of_the_block = |event: &&Event| {
        let is = |key, value| event.fields.get(key).is_some_and(|field| field == value);
        is("s", "5000") && is("l", "1000")
    };
    let read = events.iter().filter(|event| event.name == "read");
    let read = read
        .into_iter()
        .find(of_the_block)
        .with_context(|| format!("no READ in {lines:#?}"))?;
    let own = || {
        let own = events
            .iter()
            .filter(|event| event.fields["o"] == read.fields["o"]);
        own.skip_while(|event| !core::ptr::eq(*event, read))
    };
    let order: Vec<_> = own().map(|event| event.name.as_str()).take(3).collect();
    ensure!(
        order == ["read", "fd_write", "cread"],
        "the READ's story: {order:?}"
    );
    ensure!(
        own().nth(1).is_some_and(|write| of_the_block(&write)),
        "another write"
    );
    let cread = own().nth(2).context("no answer")?;
    // C tells of a READ before it has an id and knows whose it is.
    if !lab.is_peer() {
        ensure!(
            read.fields["mid"] == cread.fields["mid"],
            "the messages differ"
        );
    }
    let closed = events.iter().filter(|event| event.name == "close");
    let closed: Vec<_> = closed.map(|event| &event.fields["oid"]).collect();
    ensure!(closed.len() == 2, "the CLOSEs: {names:?}");
    ensure!(
        closed.contains(&&read.fields["oid"]),
        "another object was closed"
    );
    let released = || {
        let released = events.iter().filter(|event| event.name == "fd_release");
        released.filter(|event| lab.is_peer() || closed.contains(&&event.fields["oid"]))
    };
    ensure!(released().count() > 0, "no fd was released: {names:?}");

    // And the beginning: both OPENs and their answers.
    let lines = traced(|| {
        let mut mount = Mount::new(lab.base(), "meta")?;
        expect_data(read_block_here(&mount.path("file"), 6), 6)?;
        mount.unmount()
    })?;
    let events = parse(&lines);
    let of = |name| events.iter().filter(move |event| event.name == name);
    ensure!(of("open").count() == 2, "the OPENs:\n{}", lines.join("\n"));
    for open in of("open") {
        // Nor does C know this id.
        let key = if lab.is_peer() { "o" } else { "mid" };
        let answer = of("copen").find(|copen| copen.fields[key] == open.fields[key]);
        let answer = answer.with_context(|| format!("no answer to {:?}", open.fields))?;
        ensure!(answer.fields["o"] == open.fields["o"], "the objects differ");
        ensure!(answer.fields["l"] != "0", "the size: {:?}", answer.fields);
        ensure!(open.fields["fd"] != "0", "the fd: {:?}", open.fields);
    }
    Ok(())
}

/// Of these lines, one is of this event and tells all of these.
fn tells(lines: &[String], event: &str, told: &[&str]) -> Result<()> {
    let event = format!(": cachefiles_{event}: ");
    let found = lines.iter().any(|line| {
        let fields = line.split_once(&event).map(|(_, fields)| fields);
        fields.is_some_and(|fields| told.iter().all(|word| fields.contains(word)))
    });
    ensure!(found, "no{event}with {told:?} in\n{}", lines.join("\n"));
    Ok(())
}

/// What goes wrong with the disk, and what is removed from it.
fn errors_and_removals(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::Serve)?;
    let lines = traced(|| {
        let got = with(IO_ERROR, || read_block_here(&stage.file(), 3))?;
        expect_error(got, Errno::IO, "a read from a failing disk")
    })?;
    tells(&lines, "io_error", &["seek", "e=-5"])?;

    stage.mount.unmount()?;
    let dir = stage.cache.dir();
    let volume = layout::volume(dir, "erofs,meta")?;
    let blob = layout::file(dir, "erofs,meta", b"blob")?;
    let meta = layout::file(dir, "erofs,meta", b"meta")?;
    let device = stage.daemon.device()?;
    for file in [&blob, &meta] {
        becomes(device, "inuse", file, Ok(()))?;
    }
    // One file by the names of two objects.
    let away = blob.with_file_name("away");
    fs::rename(&blob, &away)?;
    fs::hard_link(&meta, &blob)?;
    let lines = traced(|| {
        Mount::new(lab.base(), "meta")?.unmount()?;
        becomes(device, "inuse", &meta, Ok(()))
    })?;
    tells(&lines, "mark_failed", &[])?;

    fs::rename(&away, &blob)?;
    let lines = traced(|| becomes(device, "cull", &volume, Ok(())))?;
    tells(&lines, "rename", &["w=was_culled"])?;

    let mut mount = Mount::new(lab.base(), "meta")?;
    expect_data(read_block_here(&mount.path("file"), 5), 5)?;
    mount.unmount()?;
    becomes(device, "inuse", &blob, Ok(()))?;
    let lines = traced(|| {
        let got = with(IO_ERROR, || command(device, "cull", &blob))??;
        ensure!(got == Err(Errno::IO), "cull on a failing disk: {got:?}");
        Ok(())
    })?;
    tells(&lines, "unlink", &["w=was_culled"])?;
    tells(&lines, "vfs_error", &["unlink", "e=-5"])
}

/// What is told of objects on demand from the first mount to the last withdrawal, but for requests and
/// answers.
fn stories_are_those_of_c(lab: &Lab) -> Result<()> {
    let of = |module| -> Result<Vec<String>> {
        let _module = Module::load(module)?;
        let fs = Backing::ext4(lab.base(), 0, 64)?;
        let trace = Trace::begin()?;
        let daemon = Daemon::start(fs.dir(), blobs(Manner::Serve))?;
        for round in 1..3 {
            let mut mount = Mount::new(lab.base(), "meta")?;
            for block in [5, 9, 5 + round] {
                expect_data(read_block_here(&mount.path("file"), block), block)?;
            }
            mount.unmount()?;
            eventually("both objects are closed", || {
                daemon.closes() == u64::from(2 * round)
            })?;
        }
        no_volumes()?;
        drop(daemon);
        let mut lines = trace.end()?;
        lines.retain(|line| !line.contains(": cachefiles_ondemand_"));
        Ok(stories(&lines))
    };
    compare(&of(&lab.peer_module()?)?, &of(&lab.our_module()?)?)
}
