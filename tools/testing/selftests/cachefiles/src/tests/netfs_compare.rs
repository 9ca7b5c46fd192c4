// SPDX-License-Identifier: GPL-2.0

//! The ordinary mode on C's module and on ours: the same operations make the same cache and move
//! the same counters, and each serves what the other has stored.

use super::{
    eviction::{becomes, bound, give_back, take_space},
    netfs_scene::{check, check_all, content, publish, read_all, SIZES},
    netfs_tree::Tree,
};
use crate::{
    backing::Backing,
    cachefilesd::{
        at_rest, drop_pages, no_volumes, nothing_in_use, settle, Counters, Keeper, Known,
    },
    group, kernel,
    kernel::Module,
    lab::{Cache, Lab},
    layout,
    patience::is_debug_kernel,
    remote::{Client, Kind, Remote},
    trace::{self, stories, Trace},
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::cache::limits::Levels;
use rustix::fs::{fadvise, Advice};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

group!("netfs_compare":
    nfs_trees_are_equal,
    ninep_trees_are_equal,
    nfs_script,
    nfs3_script,
    ninep_script,
    counters_of_a_cache,
    nfs_filled_by_the_other_module,
    ninep_filled_by_the_other_module,
);

/// A fresh cache for this module.  cachefilesd is not there: it would remove what directories are
/// empty whenever it looks.
fn fresh(lab: &Lab, module: &Path) -> Result<Cache> {
    let fs = Backing::ext4(lab.base(), 0, 64)?;
    let module = Module::load(module)?;
    Ok(Cache { module, fs })
}

/// The cache that a module makes of reading.
fn made_by(lab: &Lab, module: &Path, remote: &Remote) -> Result<Tree> {
    let cache = fresh(lab, module)?;
    let mut daemon = Keeper::plain(cache.dir())?;
    let mut client = remote.mount()?;
    check_all(&client, 1)?;
    drop_pages()?;
    check_all(&client, 1)?;
    // A part of a file, so that the cache file has holes.
    read_part(&client, "big", 3 << 20, &content(5, 5 << 20))?;
    settle()?;
    client.unmount()?;
    nothing_in_use()?;
    daemon.stop()?;
    Tree::read(cache.dir(), Path::to_path_buf)
}

/// Reading makes the same cache with C's module and with ours, to the byte.
fn trees_are_equal(lab: &Lab, kind: Kind) -> Result<()> {
    let remote = Remote::new(lab, kind)?;
    publish(&remote, 1)?;
    fs::write(remote.path("big"), content(5, 5 << 20))?;
    let theirs = made_by(lab, &lab.peer_module()?, &remote)?;
    let files = theirs.files();
    ensure!(files > SIZES.len(), "only {files} files in the cache");
    let ours = made_by(lab, &lab.our_module()?, &remote)?;
    Tree::compare(&theirs, &ours)
}

fn nfs_trees_are_equal(lab: &Lab) -> Result<()> {
    trees_are_equal(lab, Kind::Nfs(4))
}

fn ninep_trees_are_equal(lab: &Lab) -> Result<()> {
    trees_are_equal(lab, Kind::NineP)
}

/// Each module reads what the other has stored, and asks the server for nothing.
fn filled_by_the_other_module(lab: &Lab, kind: Kind) -> Result<()> {
    let remote = Remote::new(lab, kind)?;
    publish(&remote, 1)?;
    for (filler, reader) in [
        (lab.peer_module()?, lab.our_module()?),
        (lab.our_module()?, lab.peer_module()?),
    ] {
        let fs = Backing::ext4(lab.base(), 0, 64)?;
        for (module, fills) in [(&filler, true), (&reader, false)] {
            let _module = Module::load(module)?;
            let _daemon = Keeper::start(fs.dir())?;
            let client = remote.mount()?;
            let reading = read_all(&client, 1)?;
            match fills {
                true => reading.is_stored(),
                false => reading.is_from_cache(),
            }
            .with_context(|| module.display().to_string())?;
        }
        kernel::drop_caches()?;
    }
    Ok(())
}

fn nfs_filled_by_the_other_module(lab: &Lab) -> Result<()> {
    filled_by_the_other_module(lab, Kind::Nfs(4))
}

fn ninep_filled_by_the_other_module(lab: &Lab) -> Result<()> {
    filled_by_the_other_module(lab, Kind::NineP)
}

/// Reads the page at this offset, and nothing ahead.
fn read_part(client: &Client, name: &str, at: usize, image: &[u8]) -> Result<()> {
    let file = File::open(client.path(name))?;
    fadvise(&file, 0, None, Advice::Random)?;
    let mut part = vec![0; 4096];
    file.read_exact_at(&mut part, at as u64)?;
    ensure!(
        part == image[at..at + 4096],
        "{name} is wrong at {at} and behind it"
    );
    Ok(())
}

/// What a script leaves: the cache but for what files' versions are known by, what the server has, by how much the counters moved, and what the
/// trace tells.
struct Outcome {
    tree: Tree,
    files: BTreeMap<String, Vec<u8>>,
    moved: Counters,
    stories: Vec<String>,
}

/// The files of a script: their sizes, and the seeds of what is in them.
const FILES: [(&str, u64, usize); 9] = [
    ("whole", 41, 81_920),
    ("part", 42, 1 << 20),
    ("changed", 43, 20_480),
    ("gone", 44, 8192),
    ("moved", 45, 8192),
    ("cut", 46, 69_632),
    ("grown", 47, 4096),
    ("culled", 48, 16_384),
    ("culled-and-read", 49, 16_384),
];

fn put(remote: &Remote, name: &str, seed: u64, size: usize) -> Result<()> {
    let file = File::create(remote.path(name))?;
    file.write_all_at(&content(seed, size), 0)?;
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seed))?;
    Ok(())
}

/// The size and seed of a script's file.
fn image(name: &str) -> Result<Vec<u8>> {
    let file = FILES.iter().find(|(known, _, _)| *known == name);
    let (_, seed, size) = file.with_context(|| format!("no file {name}"))?;
    Ok(content(*seed, *size))
}

/// Where the cache has the file of this netfs's file.
fn place(cache: &Cache, kind: Kind, inode: u64) -> Result<PathBuf> {
    if kind == Kind::NineP {
        // The key is the server's number, from which the inode's is made.
        let key = (inode - 2).to_le_bytes();
        return layout::file(cache.dir(), "9p,share,", &key);
    }
    // The key is the server's file handle: some constants, the inode, its generation.
    let part = format!(",{inode:x},");
    let mut found = None;
    for entry in walkdir::WalkDir::new(cache.dir().join("cache")) {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type().is_file() && name.contains(&part) {
            found = Some(entry.into_path());
        }
    }
    found.with_context(|| format!("no file of the inode {inode} in the cache"))
}

/// Opens a file, which NFS invalidates then, and lets that happen before the file has another size.
fn opened_to_write(client: &Client, name: &str) -> Result<File> {
    let file = OpenOptions::new().write(true).open(client.path(name))?;
    at_rest()?;
    Ok(file)
}

/// Every operation that a cache can see, in one order.
fn script(lab: &Lab, module: &Path, kind: Kind) -> Result<Outcome> {
    let remote = Remote::new(lab, kind)?;
    for (name, seed, size) in FILES {
        put(&remote, name, seed, size)?;
    }
    rustix::fs::sync();
    let cache = fresh(lab, module)?;
    let trace = Trace::begin()?;
    let device = bound(&cache, |_| (), "bind")?;
    let before = Counters::now()?;
    let mut client = remote.mount()?;
    let mut inodes = BTreeMap::new();

    // Lookup, read, read again from the cache, read a part.
    for (name, _, _) in FILES {
        inodes.insert(name, fs::metadata(client.path(name))?.ino());
        match name {
            "part" => read_part(&client, name, 300 << 10, &image(name)?)?,
            _ => check(&client.path(name), &image(name)?)?,
        }
        settle()?;
    }
    drop_pages()?;
    check(&client.path("whole"), &image("whole")?)?;
    read_part(&client, "part", 300 << 10, &image("part")?)?;
    read_part(&client, "part", 900 << 10, &image("part")?)?;
    settle()?;

    // Create, write, truncate, extend.
    let file = File::create(client.path("new"))?;
    at_rest()?;
    file.write_all_at(&content(50, 12_288), 0)?;
    drop(file);
    inodes.insert("new", fs::metadata(client.path("new"))?.ino());
    settle()?;
    let file = opened_to_write(&client, "whole")?;
    for (seed, at, len) in [(51, 8192, 4096), (52, 20_480, 24_576), (53, 81_920, 8192)] {
        file.write_all_at(&content(seed, len), at)?;
    }
    file.sync_all()?;
    drop(file);
    settle()?;
    opened_to_write(&client, "cut")?.set_len(40_960)?;
    let file = opened_to_write(&client, "grown")?;
    file.set_len(12_288)?;
    file.write_all_at(&content(54, 8192), 12_288)?;
    drop(file);
    settle()?;

    // Unlink and rename.
    fs::remove_file(client.path("gone"))?;
    fs::rename(client.path("moved"), client.path("moved-2"))?;
    check(&client.path("moved-2"), &image("moved")?)?;

    // Another mount, between which the server changes a file.
    client.unmount()?;
    nothing_in_use()?;
    put(&remote, "changed", 60, 24_576)?;
    client = remote.mount()?;
    check(&client.path("changed"), &content(60, 24_576))?;
    check(&client.path("moved-2"), &image("moved")?)?;
    settle()?;
    client.unmount()?;
    nothing_in_use()?;

    // Culling.
    for name in ["culled", "culled-and-read"] {
        let path = place(&cache, kind, inodes[name])?;
        becomes(&device, "cull", &path, Ok(()))?;
    }
    client = remote.mount()?;
    check(&client.path("culled-and-read"), &image("culled-and-read")?)?;
    settle()?;
    client.unmount()?;
    nothing_in_use()?;
    let moved = Counters::now()?.since(&before);
    no_volumes()?;
    let stories = stories(&trace.end()?);

    let mut labels = BTreeMap::new();
    let root = cache.dir().join("cache");
    for (name, inode) in inodes {
        if let Ok(path) = place(&cache, kind, inode) {
            labels.insert(path.strip_prefix(&root)?.to_owned(), PathBuf::from(name));
        }
    }
    let tree = Tree::read(cache.dir(), |path| match labels.get(path) {
        Some(name) => name.clone(),
        None => path.to_owned(),
    })?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(remote.path(""))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, fs::read(entry.path())?);
        }
    }
    drop(device);
    Ok(Outcome {
        tree: tree.without_versions(),
        files,
        moved,
        stories,
    })
}

/// What the server must have after a script.
fn expected() -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for (name, seed, size) in FILES {
        files.insert(name.to_owned(), content(seed, size));
    }
    let mut whole = content(41, 81_920);
    whole.extend(content(53, 8192));
    whole[8192..12_288].copy_from_slice(&content(51, 4096));
    whole[20_480..45_056].copy_from_slice(&content(52, 24_576));
    files.insert("whole".to_owned(), whole);
    let mut cut = content(46, 69_632);
    cut.truncate(40_960);
    files.insert("cut".to_owned(), cut);
    let mut grown = content(47, 4096);
    grown.resize(12_288, 0);
    grown.extend(content(54, 8192));
    files.insert("grown".to_owned(), grown);
    files.insert("changed".to_owned(), content(60, 24_576));
    files.insert("new".to_owned(), content(50, 12_288));
    files.remove("gone");
    let moved = files.remove("moved").context("no file moved")?;
    files.insert("moved-2".to_owned(), moved);
    Ok(files)
}

/// Counters that tell how long something took, or which of two was first: FS-Cache's LRU lets go of
/// what was not used for ten seconds.
const BY_TIME: [&str; 2] = ["LRU.", "WbLock."];

/// Our story of an object, without what C does not do: it leaves the mark on a file in whose place an
/// invalidation puts another one.
fn as_c_tells(story: &str) -> String {
    let (mut told, mut marked) = (String::new(), "");
    for line in story.split_inclusive('\n') {
        match line.split_once(": ") {
            Some(("mark_inactive", file)) if !["", file].contains(&marked) => continue,
            Some(("mark_active", file)) => marked = file,
            _ => {}
        }
        told += line;
    }
    told
}

fn script_on_both(lab: &Lab, kind: Kind) -> Result<()> {
    // Where it is too slow, FS-Cache's LRU lets go of a file that is used again.  That makes two objects
    // of it, and one that is opened for writing is invalidated while it is looked up, before or after
    // it has got its file: neither the traces nor the caches can be compared.
    for _ in 0..3 {
        let theirs = script(lab, &lab.peer_module()?, kind)?;
        let ours = script(lab, &lab.our_module()?, kind)?;
        right_on_the_server(&theirs, &ours)?;
        let let_go = [&theirs, &ours].map(|outcome| outcome.moved.get("LRU.exp"));
        if let_go == [0, 0] {
            same_outcome(&theirs, &ours)?;
            let told = ours.stories.iter().map(|story| as_c_tells(story));
            let mut told: Vec<String> = told.collect();
            told.sort();
            return trace::compare(&theirs.stories, &told);
        }
        println!("too slow to be compared: the LRU let go of {let_go:?} files");
        if is_debug_kernel() {
            return Ok(());
        }
    }
    bail!("three times too slow")
}

/// Whatever the cache makes of it, the server has what was written.
fn right_on_the_server(theirs: &Outcome, ours: &Outcome) -> Result<()> {
    for (who, outcome) in [("C", theirs), ("ours", ours)] {
        for (name, want) in expected()? {
            let got = outcome.files.get(&name);
            ensure!(got == Some(&want), "{who}: the server's {name} is wrong");
        }
    }
    Ok(())
}

/// All but the traces.
fn same_outcome(theirs: &Outcome, ours: &Outcome) -> Result<()> {
    let files = theirs.tree.files();
    ensure!(files == 9, "{files} files in C's cache");
    Tree::compare(&theirs.tree, &ours.tree)?;
    let wrong = theirs.moved.differences(&ours.moved, &BY_TIME);
    ensure!(
        wrong.is_empty(),
        "the counters moved otherwise, C's and ours: {wrong:?}"
    );
    Ok(())
}

/// One script of all operations leaves the same cache and the same counts with both modules.
fn nfs_script(lab: &Lab) -> Result<()> {
    script_on_both(lab, Kind::Nfs(4))
}

fn nfs3_script(lab: &Lab) -> Result<()> {
    script_on_both(lab, Kind::Nfs(3))
}

/// The same with 9P, which writes into the cache what is written locally.
fn ninep_script(lab: &Lab) -> Result<()> {
    script_on_both(lab, Kind::NineP)
}

/// The counters that a cache feeds.  Nothing moves `IO.mis` here: the netfs library of 6.12 gives the
/// cache whole pages alone.
const FED: [&str; 6] = [
    "IO.rd",
    "IO.wr",
    "IO.mis",
    "NoSpace.nwr",
    "NoSpace.ncr",
    "NoSpace.cull",
];

/// Counts, event by event; and how many files FS-Cache's LRU let go of meanwhile.
type Counted = (Vec<(&'static str, Vec<i64>)>, i64);

/// What a module counts.
fn counted(lab: &Lab, module: &Path) -> Result<Counted> {
    let remote = Remote::new(lab, Kind::NineP)?;
    let image = content(70, 65_536);
    for name in ["filled", "partial", "unread", "written", "across"] {
        fs::write(remote.path(name), &image)?;
    }
    let cache = fresh(lab, module)?;
    let mut events = Vec::new();
    let begin = Counters::now()?;
    let mut before = begin.clone();
    let mut note = |event: &'static str| -> Result<()> {
        settle()?;
        let now = Counters::now()?;
        let moved = now.since(&before);
        events.push((event, FED.iter().map(|name| moved.get(name)).collect()));
        before = now;
        Ok(())
    };
    let limits = Levels {
        run: 60,
        cull: 50,
        stop: 40,
    };
    let device = bound(&cache, |config| config.blocks = limits, "bind")?;
    let mut client = remote.mount()?;
    let write = |name: &str, at: u64, len: usize| -> Result<()> {
        let file = OpenOptions::new().write(true).open(client.path(name))?;
        file.write_all_at(&content(72, len), at)?;
        Ok(file.sync_all()?)
    };
    write("written", 100, 10)?;
    write("written", 65_536, 10)?;
    write("across", 100, 10_000)?;
    note("writing parts of blocks")?;
    check(&client.path("filled"), &image)?;
    note("filling")?;
    drop_pages()?;
    check(&client.path("filled"), &image)?;
    note("reading")?;
    read_part(&client, "partial", 0, &image)?;
    note("filling a part")?;
    let ballast = take_space(cache.dir())?;
    read_part(&client, "partial", 32_768, &image)?;
    note("no room for blocks")?;
    check(&client.path("unread"), &image)?;
    note("no room for a file")?;
    give_back(&ballast)?;
    let inode = fs::metadata(client.path("filled"))?.ino();
    let objects = Known::objects()?;
    client.unmount()?;
    nothing_in_use()?;
    becomes(&device, "cull", &place(&cache, Kind::NineP, inode)?, Ok(()))?;
    note("culling")?;
    drop(device);
    events.push(("objects", vec![i64::from(objects)]));
    Ok((events, Counters::now()?.since(&begin).get("LRU.exp")))
}

/// Every counter that C's module feeds in /proc/fs/fscache/stats is fed by ours on the same events.
fn counters_of_a_cache(lab: &Lab) -> Result<()> {
    let mut tries = 0;
    let (theirs, ours) = loop {
        let (theirs, let_go) = counted(lab, &lab.peer_module()?)?;
        let (ours, ours_let_go) = counted(lab, &lab.our_module()?)?;
        // Of those there are fewer objects.
        if (let_go, ours_let_go) == (0, 0) || is_debug_kernel() {
            break (theirs, ours);
        }
        tries += 1;
        ensure!(tries < 3, "three times too slow to be compared");
    };
    println!("{FED:?}: {theirs:?}");
    for (at, name) in FED.iter().enumerate() {
        ensure!(
            *name == "IO.mis"
                || theirs
                    .iter()
                    .any(|(_, moved)| moved.get(at).is_some_and(|by| *by > 0)),
            "nothing has moved C's {name}"
        );
    }
    ensure!(theirs == ours, "C's {theirs:?}, ours {ours:?}");
    Ok(())
}
