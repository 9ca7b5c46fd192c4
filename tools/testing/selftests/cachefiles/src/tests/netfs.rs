// SPDX-License-Identifier: GPL-2.0

//! The ordinary mode: network file systems that fill the cache by themselves, with Debian's own
//! daemon.

use super::{
    netfs_ends,
    netfs_scene::{check, check_all, content, from_cache, name, publish, read_all},
};
use crate::{
    blob::{pattern, Aligned},
    cachefilesd::{drop_pages, is_bound, nothing_in_use, settle, Counters, Keeper},
    claim::cache_files,
    error_injection::{Injection, NO_SPACE},
    group,
    kernel::run,
    ktap::{Case, Group},
    lab::Lab,
    remote::{Client, Kind, Remote},
    trace::traced,
};
use anyhow::{ensure, Context, Result};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
};

group!("netfs":
    nfs4_reads_fill_and_serve,
    ninep_reads_fill_and_serve,
    nfs_change_on_the_server,
    stale_file_goes_with_its_successor,
    ninep_local_writes,
    ninep_truncates_and_extends,
    ninep_cut_by_who_may_not_write_much,
    ninep_direct_writes,
    ninep_write_that_the_cache_cannot_take,
    trace_events,
);

/// What tells little that the core does not.
pub const MORE: Group = Group {
    name: "netfs_more",
    cases: &[
        Case {
            name: "nfs3_reads_fill_and_serve",
            run: nfs3_reads_fill_and_serve,
        },
        Case {
            name: "nfs3_change_on_the_server",
            run: nfs3_change_on_the_server,
        },
        Case {
            name: "nfs3_local_writes",
            run: nfs3_local_writes,
        },
        Case {
            name: "ninep_change_on_the_server",
            run: ninep_change_on_the_server,
        },
        Case {
            name: "nfs_local_writes",
            run: nfs_local_writes,
        },
        Case {
            name: "ninep_last_page_is_not_cached",
            run: netfs_ends::ninep_last_page_is_not_cached,
        },
        Case {
            name: "nfs_last_page_is_not_cached",
            run: netfs_ends::nfs_last_page_is_not_cached,
        },
        Case {
            name: "ninep_sizes_and_readers",
            run: netfs_ends::ninep_sizes_and_readers,
        },
        Case {
            name: "nfs_sizes_and_readers",
            run: netfs_ends::nfs_sizes_and_readers,
        },
    ],
};

/// The first read fills, the second one is served from the cache, also after another mount, and
/// after another daemon.
fn reads_fill_and_serve(lab: &Lab, kind: Kind) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, kind)?;
    publish(&remote, 1)?;
    let mut daemon = Keeper::start(cache.dir())?;
    let mut client = remote.mount()?;
    read_all(&client, 1)?.is_stored()?;
    drop_pages()?;
    let again = read_all(&client, 1)?;
    again.is_from_cache().context("with the pages dropped")?;
    client.unmount()?;
    client = remote.mount()?;
    let again = read_all(&client, 1)?;
    again.is_from_cache().context("after another mount")?;
    client.unmount()?;
    daemon.kill()?;
    daemon = Keeper::start(cache.dir())?;
    client = remote.mount()?;
    let again = read_all(&client, 1)?;
    again.is_from_cache().context("after another daemon")?;
    client.unmount()?;
    daemon.stop()
}

fn nfs4_reads_fill_and_serve(lab: &Lab) -> Result<()> {
    reads_fill_and_serve(lab, Kind::Nfs(4))
}

fn nfs3_reads_fill_and_serve(lab: &Lab) -> Result<()> {
    reads_fill_and_serve(lab, Kind::Nfs(3))
}

fn ninep_reads_fill_and_serve(lab: &Lab) -> Result<()> {
    reads_fill_and_serve(lab, Kind::NineP)
}

/// What has changed on the server is not taken from the cache, and what comes instead is stored.
fn change_on_the_server(lab: &Lab, kind: Kind) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, kind)?;
    publish(&remote, 1)?;
    let _daemon = Keeper::start(cache.dir())?;
    let mut client = remote.mount()?;
    check_all(&client, 1)?;
    if kind == Kind::NineP {
        // It trusts its pages and its cache for as long as it is mounted.
        client.unmount()?;
        publish(&remote, 2)?;
        client = remote.mount()?;
    } else {
        publish(&remote, 2)?;
    }
    check_all(&client, 2).context("after the change")?;
    client.unmount()?;
    client = remote.mount()?;
    let again = read_all(&client, 2)?;
    again.is_from_cache().context("after another mount")
}

/// A file that is not what the server has does not outlive the new one that was to take its place, and
/// comes to nothing: it may look right again.
fn stale_file_goes_with_its_successor(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::NineP)?;
    let _keeper = Keeper::plain(cache.dir())?;
    let change = |seed, name| -> Result<Vec<u8>> {
        let bytes = content(seed, 64 << 10);
        fs::write(remote.path(name), &bytes)?;
        Ok(bytes)
    };
    let mut image = change(1, "file")?;
    let mut client = remote.mount()?;
    check(&client.path("file"), &image)?;
    settle()?;
    client.unmount()?;
    nothing_in_use()?;
    let old = cache_files(cache.dir());
    ensure!(old.len() == 1, "{} files are stored", old.len());
    // Another version, and another size.
    image = change(2, "file")?;
    image.extend_from_slice(&[1; 4096]);
    fs::write(remote.path("file"), &image)?;
    client = remote.mount()?;
    let file = OpenOptions::new().write(true).open(client.path("file"))?;
    check(&client.path("file"), &image)?;
    settle()?;
    {
        let _full = Injection::of(NO_SPACE)?;
        file.write_all_at(&[2; 4096], 8192)?;
        file.sync_all()?;
        settle()?;
    }
    image[8192..12288].fill(2);
    drop(file);
    check(&client.path("file"), &image)?;
    client.unmount()?;
    nothing_in_use()?;
    // C gives the new file its name.
    let left = cache_files(cache.dir()).len();
    let want = lab.with_ours(0, 1);
    ensure!(left == want, "{left} files are there, not {want}");
    check(&remote.path("file"), &image)
}

fn nfs_change_on_the_server(lab: &Lab) -> Result<()> {
    change_on_the_server(lab, Kind::Nfs(4))
}

fn nfs3_change_on_the_server(lab: &Lab) -> Result<()> {
    change_on_the_server(lab, Kind::Nfs(3))
}

fn ninep_change_on_the_server(lab: &Lab) -> Result<()> {
    change_on_the_server(lab, Kind::NineP)
}

/// Writes here and there in the file of 1 MiB, and in the image of it.
fn scribble(client: &Client, image: &mut Vec<u8>) -> Result<()> {
    let path = client.path(&name(1_048_581));
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    for (seed, at, len) in [
        (11, 0, 100),
        (12, 4096, 4096),
        (13, 10_000, 20_000),
        (14, 1_048_570, 11),
        (15, 1_048_576, 9000),
        (16, 500_001, 1),
    ] {
        let bytes = content(seed, len);
        file.write_all_at(&bytes, at as u64)?;
        if image.len() < at + len {
            image.resize(at + len, 0);
        }
        image[at..at + len].copy_from_slice(&bytes);
    }
    file.sync_all()?;
    Ok(())
}

/// What is written locally is what the server has, and what is read afterwards, from memory, from
/// the cache and after another mount.
fn local_writes(lab: &Lab, kind: Kind) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, kind)?;
    publish(&remote, 1)?;
    let mut daemon = Keeper::start(cache.dir())?;
    let mut client = remote.mount()?;
    check_all(&client, 1)?;
    let file = name(1_048_581);
    let mut image = content(1, 1_048_581);
    scribble(&client, &mut image)?;
    let small = content(9, 12_345);
    fs::write(client.path("new"), &small)?;
    settle()?;
    check(&client.path(&file), &image).context("from memory")?;
    check(&remote.path(&file), &image).context("on the server")?;
    drop_pages()?;
    check(&client.path(&file), &image).context("with the pages dropped")?;
    settle()?;
    client.unmount()?;
    check(&remote.path("new"), &small).context("on the server")?;
    client = remote.mount()?;
    check(&client.path(&file), &image).context("after another mount")?;
    check(&client.path("new"), &small).context("after another mount")?;
    settle()?;
    drop_pages()?;
    for (file, image) in [(file.as_str(), &image), ("new", &small)] {
        let before = Counters::now()?;
        check(&client.path(file), image)?;
        from_cache(&Counters::now()?.since(&before), image.len()).context("at last")?;
    }
    client.unmount()?;
    daemon.stop()
}

fn nfs_local_writes(lab: &Lab) -> Result<()> {
    local_writes(lab, Kind::Nfs(4))
}

fn nfs3_local_writes(lab: &Lab) -> Result<()> {
    local_writes(lab, Kind::Nfs(3))
}

fn ninep_local_writes(lab: &Lab) -> Result<()> {
    local_writes(lab, Kind::NineP)
}

/// What was cut off does not come back when the file grows again.
fn ninep_truncates_and_extends(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::NineP)?;
    publish(&remote, 1)?;
    let _daemon = Keeper::start(cache.dir())?;
    let mut client = remote.mount()?;
    check_all(&client, 1)?;
    let file = name(70_000);
    let mut image = content(1, 70_000);
    for (shorter, longer) in [(65_000, 66_000), (40_960, 70_001), (5000, 5001), (0, 9000)] {
        let open = OpenOptions::new().write(true).open(client.path(&file))?;
        for size in [shorter, longer] {
            open.set_len(size as u64)?;
            image.resize(size, 0);
        }
        drop(open);
        settle()?;
        drop_pages()?;
        check(&client.path(&file), &image)
            .with_context(|| format!("cut to {shorter}, then {longer} long"))?;
        check(&remote.path(&file), &image).context("on the server")?;
        client.unmount()?;
        client = remote.mount()?;
        check(&client.path(&file), &image).context("after another mount")?;
        settle()?;
    }
    Ok(())
}

/// A cache file that has not grown with the netfs's file does not grow when that is cut.  In C it
/// does, within the limits of who cuts, who can so end the cache for everybody.
fn ninep_cut_by_who_may_not_write_much(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::NineP)?;
    publish(&remote, 1)?;
    let _daemon = Keeper::plain(cache.dir())?;
    let client = remote.mount()?;
    check_all(&client, 1)?;
    let path = client.path(&name(4096));
    let mut image = content(1, 4096);
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(10 << 20)?;
    let cut = format!("ulimit -f 100; truncate -s 5M {}", path.display());
    let got = run("sh", &["-c", &cut]);
    image.resize(5 << 20, 0);
    drop(file);
    settle()?;
    if lab.is_peer() {
        println!("{got:?}; C's cache lives: {}", is_bound());
        return Ok(());
    }
    got.context("cutting the file")?;
    ensure!(is_bound(), "the cache has ended");
    drop_pages()?;
    check(&path, &image)?;
    settle()?;
    drop_pages()?;
    let other = name(1_048_581);
    let before = Counters::now()?;
    check(&client.path(&other), &content(1, 1_048_581))?;
    from_cache(&Counters::now()?.since(&before), 1_048_581).context("another file")
}

/// What goes to the server past the pages is not hidden by older data in the cache.
fn ninep_direct_writes(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::NineP)?;
    publish(&remote, 1)?;
    let _daemon = Keeper::start(cache.dir())?;
    let mut client = remote.mount()?;
    check_all(&client, 1)?;
    let file = name(70_000);
    let mut image = content(1, 70_000);
    let open = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(client.path(&file))?;
    let mut bytes = Aligned::new(8192);
    pattern(21, 0, &mut bytes);
    open.write_all_at(&bytes, 8192)?;
    drop(open);
    image[8192..16384].copy_from_slice(&bytes);
    check(&client.path(&file), &image)?;
    check(&remote.path(&file), &image).context("on the server")?;
    settle()?;
    client.unmount()?;
    client = remote.mount()?;
    check(&client.path(&file), &image).context("after another mount")
}

/// A local write that the server has and the cache has not does not leave older data in the cache
/// for who reads next.  C does leave it: 9P does not invalidate what could not be written.
fn ninep_write_that_the_cache_cannot_take(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::NineP)?;
    publish(&remote, 1)?;
    let _daemon = Keeper::start(cache.dir())?;
    let mut client = remote.mount()?;
    check_all(&client, 1)?;
    let file = name(70_000);
    let mut image = content(1, 70_000);
    let open = OpenOptions::new().write(true).open(client.path(&file))?;
    settle()?;
    {
        let _full = Injection::of(NO_SPACE)?;
        let bytes = content(31, 4096);
        open.write_all_at(&bytes, 8192)?;
        open.sync_all()?;
        settle()?;
        image[8192..12288].copy_from_slice(&bytes);
    }
    drop(open);
    check(&remote.path(&file), &image).context("on the server")?;
    drop_pages()?;
    let got = fs::read(client.path(&file))?;
    if lab.is_peer() {
        println!(
            "C gave the {} data",
            if got == image { "new" } else { "old" }
        );
        return Ok(());
    }
    ensure!(got == image, "old data came from the cache");
    settle()?;
    client.unmount()?;
    client = remote.mount()?;
    check(&client.path(&file), &image).context("after another mount")
}

/// What happens to a file from its first read to its commit can be traced by C's names and fields.
fn trace_events(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let remote = Remote::new(lab, Kind::NineP)?;
    let bytes = content(1, 10_000);
    fs::write(remote.path("file"), &bytes)?;
    let trace = traced(|| {
        let mut daemon = Keeper::start(cache.dir())?;
        for _ in 0..2 {
            let mut client = remote.mount()?;
            check(&client.path("file"), &bytes)?;
            settle()?;
            client.unmount()?;
        }
        daemon.stop()
    })?
    .join("\n");
    for want in [
        "cachefiles_mkdir: ",
        "cachefiles_mark_active: ",
        "cachefiles_mark_inactive: ",
        "cachefiles_vol_coherency: V=",
        "SET ok",
        "cachefiles_lookup: ",
        "cachefiles_tmpfile: ",
        "EXPTMP",
        "no-data",
        "cachefiles_write: ",
        "cachefiles_link: ",
        "cachefiles_coherency: ",
        "have-data",
        "cachefiles_read: ",
        "NEW obj",
        "GET ioreq",
        "PUT ioreq",
        "SEE clean_commit",
    ] {
        ensure!(trace.contains(want), "no {want:?} in the trace:\n{trace}");
    }
    Ok(())
}
