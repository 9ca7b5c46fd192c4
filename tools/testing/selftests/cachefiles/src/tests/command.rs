// SPDX-License-Identifier: GPL-2.0

//! Commands: every bad one gets C's error number, and from our module a line in the log that
//! names what is wrong; the good ones work in every order that C allows.

use crate::{
    backing::{ram_disk, Backing},
    daemon::{Blobs, Daemon, Manner},
    group,
    kernel::{run, Kmsg, Module},
    ktap::Skip,
    lab::Lab,
    mount::Mount,
    raw::{self, errno},
    stage::{self, expect_error},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{CacheConfig, Device, Errno};
use rustix::{
    fs::{fallocate, statvfs, FallocateFlags},
    mount::MountFlags,
};
use std::{ffi::OsString, fs, path::Path};

group!("command":
    bad_before_bind,
    bad_after_bind,
    too_long,
    bad_address,
    bad_directories,
    refused_without_xattrs,
    refused_by_what_it_cannot_do,
    bound_to_what_can,
    bound_to_a_full_disk,
    refused_read_only,
    limits_are_kept_in_order,
    newline_ends_a_command,
    bind_again_after_a_failure,
    debug_is_a_parameter_and_a_command,
);

const OK: i32 = 0;
const INVAL: i32 = Errno::INVAL.raw_os_error();
const NOTSUP: i32 = Errno::OPNOTSUPP.raw_os_error();
const EXIST: i32 = Errno::EXIST.raw_os_error();
const BUSY: i32 = Errno::BUSY.raw_os_error();
const IO: i32 = Errno::IO.raw_os_error();
const RANGE: i32 = Errno::RANGE.raw_os_error();
const NOENT: i32 = Errno::NOENT.raw_os_error();

/// A command, its error number, and a word of our message.
type Row = (&'static str, i32, &'static str);

const BEFORE_BIND: &[Row] = &[
    ("", NOTSUP, "empty"),
    ("\n", INVAL, "newline"),
    ("\ndir /x", INVAL, "newline"),
    (" dir /x", NOTSUP, "white space"),
    ("nonsense", NOTSUP, "nonsense"),
    ("Dir /x", NOTSUP, "Dir"),
    ("dirr /x", NOTSUP, "dirr"),
    ("dir\0 /x", INVAL, "NUL"),
    ("dir /x\0", INVAL, "NUL"),
    ("dir", INVAL, "dir"),
    ("dir ", INVAL, "dir"),
    ("tag", INVAL, "tag"),
    ("secctx", INVAL, "secctx"),
    ("brun", INVAL, "brun"),
    ("brun 7", INVAL, "brun"),
    ("brun 7%%", INVAL, "brun"),
    ("brun 7% ", INVAL, "brun"),
    ("brun x%", INVAL, "brun"),
    ("brun -1%", INVAL, "brun"),
    ("brun 5%", INVAL, "brun"),
    ("brun 100%", INVAL, "brun"),
    ("bcull 1%", INVAL, "bcull"),
    ("bcull 7%", INVAL, "bcull"),
    ("bstop 5%", INVAL, "bstop"),
    ("frun 5%", INVAL, "frun"),
    ("frun 100%", INVAL, "frun"),
    ("fcull 1%", INVAL, "fcull"),
    ("fcull 7%", INVAL, "fcull"),
    ("fstop 5%", INVAL, "fstop"),
    ("debug x", INVAL, "debug"),
    ("debug 1x", INVAL, "debug"),
    ("cull a/b", INVAL, "cull"),
    ("cull a", IO, "cull"),
    ("inuse a/b", INVAL, "inuse"),
    ("inuse a", IO, "inuse"),
    ("copen 1,1", NOTSUP, "copen"),
    ("copen", NOTSUP, "copen"),
    ("restore", NOTSUP, "restore"),
    ("bind", INVAL, "bind"),
    ("bind ondemand", INVAL, "bind"),
];

const AFTER_BIND: &[Row] = &[
    ("bind", BUSY, "bind"),
    ("bind ondemand", BUSY, "bind"),
    ("dir /x", EXIST, "dir"),
    ("tag x", EXIST, "tag"),
    ("copen", INVAL, "copen"),
    ("copen 1", INVAL, "copen"),
    ("copen ,", INVAL, "copen"),
    ("copen ,1", INVAL, "copen"),
    ("copen x,1", INVAL, "copen"),
    ("copen -1,1", INVAL, "copen"),
    ("copen 1,1", INVAL, "copen"),
    ("copen 99999999999999999999,1", RANGE, "copen"),
    ("copen 4294967296,1", INVAL, "copen"),
    ("cull a/b", INVAL, "cull"),
    ("inuse a/b", INVAL, "inuse"),
    ("brun 100%", INVAL, "brun"),
    ("nonsense", NOTSUP, "nonsense"),
    ("restore", OK, ""),
    ("brun 20%", OK, ""),
];

/// Gives each command and compares what it got; all that is wrong is told at once.
fn check(lab: &Lab, device: &Device, rows: &[Row]) -> Result<()> {
    let mut wrong = Vec::new();
    for (line, want, word) in rows {
        let log = Kmsg::from_now()?;
        let got = match device.command(line.as_bytes()) {
            Ok(()) => 0,
            Err(error) => errno(&error).map_or(-1, Errno::raw_os_error),
        };
        if got != *want {
            wrong.push(format!("{line:?} gave {got}, not {want}"));
        }
        let said = log.of_module()?;
        // C has a message for some of its refusals only.
        let named = lab.is_peer()
            || *want == 0
            || said.iter().any(|text| text.contains(&word.to_lowercase()));
        if !named {
            wrong.push(format!(
                "{line:?}: no message with {word:?} in the log, only {said:?}"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn bad_before_bind(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let device = Device::open()?;
    check(lab, &device, BEFORE_BIND)?;
    // None of these has changed anything.
    for line in ["dir /a", "tag t", "brun 6%", "frun 6%"] {
        device.command(line.as_bytes())?;
    }
    check(
        lab,
        &device,
        &[("dir /b", EXIST, "dir"), ("tag u", EXIST, "tag")],
    )?;
    // What is no mode is found only once there is a directory.
    check(
        lab,
        &device,
        &[("bind x", INVAL, "bind"), ("bind ondemandx", INVAL, "bind")],
    )?;
    // Without a security module any context is taken, but only one.
    check(
        lab,
        &device,
        &[
            ("secctx u:r:t", OK, "secctx"),
            ("secctx u:r:t", INVAL, "secctx"),
        ],
    )
}

fn bad_after_bind(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(Blobs::new())?;
    check(lab, daemon.device()?, AFTER_BIND)?;
    std::env::set_current_dir(cache.dir().join("cache"))?;
    let rows = [
        ("cull nothing", NOENT, "cull"),
        ("inuse nothing", NOENT, "inuse"),
    ];
    let result = check(lab, daemon.device()?, &rows);
    std::env::set_current_dir("/")?;
    result
}

/// One page less one byte is taken, one more is too long.
fn too_long(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let device = Device::open()?;
    let log = Kmsg::from_now()?;
    for len in [4096, 5000, 1 << 20] {
        let line = vec![b'a'; len];
        expect_error(
            device.command(&line),
            Errno::OPNOTSUPP,
            &format!("{len} bytes"),
        )?;
    }
    let said = log.of_module()?;
    let named = said.iter().any(|text| text.contains("4096 bytes"));
    ensure!(
        lab.is_peer() || named,
        "no message about the length: {said:?}"
    );
    let mut longest = b"dir /".to_vec();
    longest.resize(4095, b'x');
    device.command(&longest)?;
    expect_error(
        device.bind_ondemand(),
        Errno::NAMETOOLONG,
        "bind to a name too long",
    )
}

fn bad_address(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let device = Device::open()?;
    expect_error(
        raw::write_from_bad_address(&device, 10),
        Errno::FAULT,
        "a bad address",
    )?;
    device.command(b"dir /tmp")?;
    Ok(())
}

fn bind(dir: &str) -> std::io::Result<()> {
    let device = Device::open()?;
    device.configure(&CacheConfig::new(dir))?;
    device.bind_ondemand()
}

fn bad_directories(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    expect_error(bind("/nothing/here"), Errno::NOENT, "no directory")?;
    expect_error(bind("/etc/passwd"), Errno::NOTDIR, "a file")?;
    // proc cannot make directories.
    expect_error(bind("/proc/sys"), Errno::OPNOTSUPP, "proc")
}

/// A file system without extended attributes is refused, and our log says why.
fn refused_without_xattrs(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let ram = ram_disk(1)?;
    // VFAT has neither extended attributes nor temporary files, a ramfs lacks only the first.
    run("busybox", &["mkdosfs", &ram, "16384"])?;
    for (device, kind) in [("ramfs", "ramfs"), (ram.as_str(), "vfat")] {
        let fs = Backing::mount(lab.base(), device, kind, MountFlags::empty(), "")?;
        let log = Kmsg::from_now()?;
        expect_error(bind(&fs.dir().to_string_lossy()), Errno::OPNOTSUPP, kind)?;
        let said = log.of_module()?.join("\n");
        let why = ["attribute", "xattr", "tmpfile"]
            .iter()
            .any(|word| said.contains(word));
        ensure!(
            lab.is_peer() || why,
            "{kind}: the log does not say why: {said}"
        );
    }
    Ok(())
}

/// What a directory has in it, and what its file system has left.
fn left(dir: &Path) -> Result<(Vec<OsString>, u64, u64)> {
    rustix::fs::sync();
    let names = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    let stat = statvfs(dir)?;
    Ok((names, stat.f_bfree, stat.f_ffree))
}

/// A file system that has all the operations, one of which fails, is refused by the name of that, and
/// nothing is left there.  C finds out when the first object dies of it.
fn refused_by_what_it_cannot_do(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C tries nothing".to_owned()).into());
    }
    let _module = Module::load(lab.module())?;
    // An overlay passes on to a ramfs what that cannot do: direct I/O, attributes.
    let ram = Backing::mount(lab.base(), "ramfs", "ramfs", MountFlags::empty(), "")?;
    let dirs = ["lower", "upper", "work"].map(|name| ram.dir().join(name));
    dirs.iter().try_for_each(fs::create_dir)?;
    let [lower, upper, work] = dirs.map(|dir| dir.display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let fs = Backing::mount(
        lab.base(),
        "overlay",
        "overlay",
        MountFlags::empty(),
        &options,
    )?;
    let before = left(fs.dir())?;
    let log = Kmsg::from_now()?;
    let dir = fs.dir().to_string_lossy();
    expect_error(bind(&dir), Errno::OPNOTSUPP, "no direct I/O")?;
    let said = log.of_module()?.join("\n");
    ensure!(
        said.contains("direct i/o") && said.contains(&*dir),
        "the log says {said}"
    );
    let after = left(fs.dir())?;
    ensure!(before == after, "it had {before:?} and has {after:?}");
    Ok(())
}

/// File systems that pass, each with what makes it special; nothing but the two directories is left.
fn bound_to_what_can(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let ram = ram_disk(1)?;
    let kinds: &[(&str, &[&str], &str)] = &[
        ("ext4", &["-b", "1024"], ""),
        ("ext4", &["-O", "inline_data"], ""),
        ("ext4", &[], "data=journal"),
        ("ext4", &["-O", "bigalloc"], ""),
        ("ext4", &["-O", "^extents,^64bit,^metadata_csum"], ""),
        ("xfs", &[], ""),
        ("btrfs", &[], ""),
    ];
    let mut tried = 0;
    for &(kind, make, options) in kinds {
        let program = format!("mkfs.{kind}");
        let quiet = if kind == "ext4" {
            ["-q", "-F"]
        } else {
            ["-q", "-f"]
        };
        let args = [&quiet[..], make, &[ram.as_str()]].concat();
        let _ = run("modprobe", &["-q", kind]);
        if let Err(error) = run(&program, &args) {
            println!("{kind} {make:?}: {error:#}");
            continue;
        }
        let fs = match Backing::mount(lab.base(), &ram, kind, MountFlags::empty(), options) {
            Ok(fs) => fs,
            Err(error) => {
                println!("{kind} {make:?} {options}: {error:#}");
                continue;
            }
        };
        let dir = fs.dir().to_string_lossy();
        bind(&dir).with_context(|| format!("{kind} {make:?} {options}"))?;
        let (names, ..) = left(fs.dir())?;
        let more = names.iter().filter(|name| *name != "lost+found").count();
        ensure!(more == 2, "{kind} {make:?} {options}: {names:?}");
        tried += 1;
    }
    println!("{tried} file systems");
    ensure!(tried > 2, "{tried} file systems");
    Ok(())
}

/// A disk without a block left can be bound: its daemon is to cull it.
fn bound_to_a_full_disk(lab: &Lab) -> Result<()> {
    let cache = lab.cache_of(16)?;
    // C makes them first, too.
    for name in ["cache", "graveyard"] {
        fs::create_dir(cache.dir().join(name))?;
    }
    let file = fs::File::create(cache.dir().join("ballast"))?;
    let stat = statvfs(cache.dir())?;
    fallocate(
        &file,
        FallocateFlags::empty(),
        0,
        stat.f_bavail * stat.f_frsize,
    )?;
    rustix::fs::syncfs(&file)?;
    bind(&cache.dir().to_string_lossy()).context("a full disk")
}

fn refused_read_only(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let ram = ram_disk(1)?;
    run("mkfs.ext4", &["-q", "-F", &ram, "16M"])?;
    let fs = Backing::mount(lab.base(), &ram, "ext4", MountFlags::RDONLY, "")?;
    let log = Kmsg::from_now()?;
    expect_error(
        bind(&fs.dir().to_string_lossy()),
        Errno::ROFS,
        "a read-only file system",
    )?;
    let said = log.of_module()?.join("\n");
    ensure!(
        lab.is_peer() || said.contains("read-only"),
        "the log does not say why: {said}"
    );
    Ok(())
}

/// 0 <= stop < cull < run < 100 is kept at every step.
fn limits_are_kept_in_order(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = Device::open()?;
    let good = [
        "brun 99%",
        "bcull 98%",
        "bstop 97%",
        "bstop 0%",
        "bcull 1%",
        "brun 2%",
        "debug 0",
    ];
    for line in good {
        device.command(line.as_bytes())?;
    }
    check(
        lab,
        &device,
        &[("brun 1%", INVAL, "brun"), ("bcull 0%", INVAL, "bcull")],
    )?;
    check(
        lab,
        &device,
        &[("bcull 2%", INVAL, "bcull"), ("bstop 1%", INVAL, "bstop")],
    )?;
    device.configure(&CacheConfig::new(cache.dir()))?;
    device.bind_ondemand()?;
    Ok(())
}

/// A newline ends the command, whatever follows it.
fn newline_ends_a_command(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = Device::open()?;
    let dir = cache.dir().to_string_lossy();
    device.command(format!("dir \t  {dir}\nnonsense").as_bytes())?;
    device.command(b"tag mine\n")?;
    let log = Kmsg::from_now()?;
    device.command(b"bind ondemand\n")?;
    let said = log.of_module()?.join("\n");
    ensure!(
        said.contains("mine"),
        "the cache's tag is not in the log: {said}"
    );
    Ok(())
}

/// A bind that failed can be tried again in the same session.
fn bind_again_after_a_failure(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = Device::open()?;
    let dir = cache.dir().join("later");
    device.configure(&CacheConfig::new(&dir))?;
    expect_error(
        device.bind_ondemand(),
        Errno::NOENT,
        "bind before the directory is there",
    )?;
    fs::create_dir(&dir)?;
    device.bind_ondemand()?;
    ensure!(
        dir.join("cache").is_dir() && dir.join("graveyard").is_dir(),
        "no cache in {dir:?}"
    );
    Ok(())
}

/// The mask of what is logged, by either way; a bad one leaves it as it is.
fn debug_is_a_parameter_and_a_command(lab: &Lab) -> Result<()> {
    const PARAMETER: &str = "/sys/module/cachefiles/parameters/debug";
    let cache = lab.cache()?;
    let is = |mask| -> Result<()> {
        let now = fs::read_to_string(PARAMETER)?;
        ensure!(now.trim() == mask, "the mask is {now:?}, not {mask}");
        Ok(())
    };
    is("0")?;
    let device = Device::open()?;
    device.command(b"debug 0x12")?;
    is("18")?;
    ensure!(device.command(b"debug 7x").is_err(), "debug 7x is taken");
    is("18")?;
    // What calls of FS-Cache enter and leave.
    fs::write(PARAMETER, "3")?;
    is("3")?;
    ensure!(fs::write(PARAMETER, "x").is_err(), "x is a mask");
    is("3")?;
    let log = Kmsg::from_now()?;
    device.configure(&CacheConfig::new(cache.dir()))?;
    device.bind_ondemand()?;
    let _daemon = Daemon::over(device, stage::blobs(Manner::Serve))?;
    drop(Mount::new(lab.base(), "meta")?);
    let said = log.of_module()?;
    for (call, what) in [("==> ", "lookup_cookie(c="), ("<== ", "lookup_cookie()")] {
        let wanted = format!("{call}{what}");
        // C's says it only if the kernel has CONFIG_CACHEFILES_DEBUG.
        ensure!(
            lab.is_peer() || said.iter().any(|line| line.starts_with(&wanted)),
            "no {wanted:?} in the log: {said:?}"
        );
    }
    fs::write(PARAMETER, "0").context("the parameter")
}
