// SPDX-License-Identifier: GPL-2.0

//! /dev/cachefiles itself: who may open it, what it says before a cache is bound, and unloading.

use super::eviction::number_in;
use crate::{
    daemon::Blobs,
    group,
    helper::{errno_name, Helper},
    kernel::{try_unload, Module},
    lab::Lab,
    patience::SOON,
    raw::{self, errno},
};
use anyhow::{ensure, Result};
use cachefiles_client::{CacheConfig, Device, Errno, DEVICE_PATH};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    process::Command,
    time::Duration,
};

group!("device":
    appears_and_goes,
    belongs_to_one_opener,
    needs_cap_sys_admin,
    has_nothing_to_read_before_bind,
    cannot_be_unloaded_in_use,
    closes_without_bind,
    state_line_of_plain_bind,
    refuses_other_ioctls,
);

/// The node comes with the module, is root's alone, and goes with it.
fn appears_and_goes(lab: &Lab) -> Result<()> {
    let mut module = Module::load(lab.module())?;
    let meta = fs::metadata(DEVICE_PATH)?;
    ensure!(
        meta.file_type().is_char_device(),
        "{DEVICE_PATH} is no character device"
    );
    let mode = meta.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "{DEVICE_PATH} has the mode {mode:o}");
    module.unload()?;
    ensure!(!fs::exists(DEVICE_PATH)?, "{DEVICE_PATH} is still there");
    Ok(())
}

/// The second opener gets EBUSY until the first has gone.
fn belongs_to_one_opener(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    for _ in 0..3 {
        let first = Device::open()?;
        let second = Device::open().err().and_then(|error| errno(&error));
        ensure!(
            second == Some(Errno::BUSY),
            "the second opener got {second:?}, not EBUSY"
        );
        let other = Helper::start(&["open-device"])?.finish(*SOON)?;
        ensure!(
            other == errno_name(Errno::BUSY),
            "another process got {other}, not EBUSY"
        );
        drop(first);
    }
    drop(Device::open()?);
    Ok(())
}

/// Root without CAP_SYS_ADMIN gets EPERM, and does not make the device busy.
fn needs_cap_sys_admin(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]);
    setpriv.arg(std::env::current_exe()?);
    let said = Helper::start_with(setpriv, &["open-device"])?.finish(*SOON)?;
    ensure!(
        said == errno_name(Errno::PERM),
        "without CAP_SYS_ADMIN the open gave {said}, not EPERM"
    );
    drop(Device::open()?);
    Ok(())
}

/// Before bind a read gives 0 bytes whatever the buffer, and poll says nothing.
fn has_nothing_to_read_before_bind(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let device = Device::open()?;
    for len in [0, 1, 16, 1024] {
        let read = device.read_bytes(&mut vec![0; len])?;
        ensure!(read == 0, "a read of {len} bytes gave {read}");
    }
    ensure!(
        raw::read_into_bad_address(&device, 1024)? == 0,
        "a bad address matters"
    );
    ensure!(
        !device.wait(Some(Duration::from_millis(20)))?,
        "the device polls readable"
    );
    Ok(())
}

/// rmmod is refused while the device is open, while a cache is bound, and with an image mounted.
fn cannot_be_unloaded_in_use(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = Device::open()?;
    ensure!(
        try_unload() == Err(Errno::WOULDBLOCK),
        "the module was unloaded with the device open"
    );
    device.configure(&CacheConfig::new(cache.dir()))?;
    device.bind_ondemand()?;
    ensure!(
        try_unload() == Err(Errno::WOULDBLOCK),
        "the module was unloaded with a cache bound"
    );
    drop(device);
    let daemon = cache.serve(Blobs::new())?;
    ensure!(
        try_unload() == Err(Errno::WOULDBLOCK),
        "the module was unloaded under a daemon"
    );
    drop(daemon);
    Ok(())
}

/// A session that never binds, or only gives some commands, leaves nothing.
fn closes_without_bind(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    for lines in [
        &[][..],
        &["dir /tmp"],
        &["tag x"],
        &["dir /tmp", "tag x", "brun 20%"],
    ] {
        let device = Device::open()?;
        for line in lines {
            device.command(line.as_bytes())?;
        }
    }
    ensure!(
        fs::read_dir(cache.dir())?.count() == 1,
        "something but lost+found is in the cache"
    );
    Ok(())
}

/// Bound without `ondemand`, reading gives the state line of the ordinary mode.
fn state_line_of_plain_bind(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let device = Device::open()?;
    device.configure(&CacheConfig::new(cache.dir()))?;
    device.command(b"bind")?;
    let mut buf = [0; 1024];
    let len = device.read_bytes(&mut buf)?;
    let line = String::from_utf8_lossy(&buf[..len]).into_owned();
    let names: Vec<&str> = line
        .split(' ')
        .filter_map(|word| word.split('=').next())
        .collect();
    let want = [
        "cull",
        "frun",
        "fcull",
        "fstop",
        "brun",
        "bcull",
        "bstop",
        "freleased",
        "breleased",
    ];
    ensure!(names == want, "the state line is {line:?}");
    ensure!(line.starts_with("cull=0 "), "an empty cache says {line:?}");
    let value = |name| number_in(&line, name);
    let blocks = (value("brun")?, value("bcull")?, value("bstop")?);
    ensure!(
        blocks.0 > blocks.1 && blocks.1 > blocks.2,
        "the limits are not in order: {line:?}"
    );
    let short = device
        .read_bytes(&mut buf[..8])
        .err()
        .and_then(|error| errno(&error));
    ensure!(
        short == Some(Errno::MSGSIZE),
        "a short buffer gave {short:?}, not EMSGSIZE"
    );
    let bad = raw::read_into_bad_address(&device, 1024)
        .err()
        .and_then(|error| errno(&error));
    ensure!(
        bad == Some(Errno::FAULT),
        "a bad address gave {bad:?}, not EFAULT"
    );
    for line in ["copen 1,2", "restore"] {
        let got = device
            .command(line.as_bytes())
            .err()
            .and_then(|error| errno(&error));
        ensure!(
            got == Some(Errno::OPNOTSUPP),
            "{line} gave {got:?}, not EOPNOTSUPP"
        );
    }
    Ok(())
}

/// The device takes no ioctl.
fn refuses_other_ioctls(lab: &Lab) -> Result<()> {
    let _module = Module::load(lab.module())?;
    let device = Device::open()?;
    for request in [0, 0x4004_9801] {
        let got = raw::ioctl(&device, request, 1)
            .err()
            .and_then(|error| errno(&error));
        ensure!(
            got == Some(Errno::NOTTY),
            "ioctl {request:#x} gave {got:?}, not ENOTTY"
        );
    }
    Ok(())
}
