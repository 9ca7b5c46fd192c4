// SPDX-License-Identifier: GPL-2.0

//! No memory while a cache or a file of it begins or ends: each allocation of each operation fails
//! once, one at a time.  Whoever asked gets an error, and the next try works, with every byte right.
//! What happens in between is in `faults_requests.rs`.

use super::faults_scene::{
    blobs, bytes, mount, mounted, read, read_right, right_in_the_end, serve, told, unmount,
};
use crate::{
    cachefilesd::no_volumes,
    claim::cache_files,
    daemon::{Daemon, Manner},
    fault::{each_allocation, Fault},
    group,
    ktap::{in_ci, Skip},
    lab::{eventually, free_device, Cache, Lab},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{CacheConfig, Device};
use std::{env, fs, path::Path};

group!("faults_memory":
    opening_the_device,
    settings,
    bind,
    bind_into_an_empty_directory,
    open_of_a_new_file,
    open_of_a_file_that_is_there,
    first_open_of_a_volume,
    open_of_a_volume_that_lacks_a_directory,
    withdrawal,
    unbinding,
    bind_over_a_cache_in_use,
    cull,
);

fn opening_the_device(lab: &Lab) -> Result<()> {
    let _cache = lab.cache()?;
    each_allocation("open(2) of the device", lab.with_ours(2, 1), 1, |fault| {
        let got = fault.during(Device::open)?;
        if told(fault, got)?.is_none() {
            drop(Device::open().context("the next try")?);
        }
        Ok(())
    })
}

fn settings(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    each_allocation("dir, tag and limits", lab.with_ours(3, 2), 1, |fault| {
        let device = Device::open()?;
        let config = CacheConfig::new(cache.dir());
        let got = fault.during(|| device.configure(&config))?;
        if told(fault, got)?.is_none() {
            // Those before the one that failed are set, and are not set twice.
            drop(device);
            Device::open()?.configure(&config).context("the next try")?;
        }
        Ok(())
    })
}

/// Everything is right: a fresh daemon serves, an image is mounted and read.
fn all_is_well(lab: &Lab, dir: &Path) -> Result<()> {
    let _daemon = serve(dir, Manner::Serve)?;
    let mount = mounted(lab)?;
    for block in [0, 1, 40] {
        read_right(&mount, block)?;
    }
    unmount(mount)
}

fn bind(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    all_is_well(lab, cache.dir())?;
    each_allocation("bind", lab.with_ours(10, 7), 1, |fault| {
        let device = free_device(cache.dir())?;
        let got = fault.during(|| device.bind_ondemand())?;
        if told(fault, got)?.is_none() {
            device.bind_ondemand().context("the next try")?;
        }
        Ok(())
    })?;
    all_is_well(lab, cache.dir())
}

fn bind_into_an_empty_directory(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let mut number = 0;
    each_allocation("bind that makes the directories", 22, 1, |fault| {
        number += 1;
        let dir = cache.dir().join(number.to_string());
        fs::create_dir(&dir)?;
        let device = free_device(&dir)?;
        let got = fault.during(|| device.bind_ondemand())?;
        if told(fault, got)?.is_none() {
            device.bind_ondemand().context("the next try")?;
        }
        drop(device);
        eventually("the directory is free", || fs::remove_dir_all(&dir).is_ok())
    })
}

/// Mounts under the fault.  An image that could not be mounted can be then, and is right.
fn open(lab: &Lab, fault: &mut Fault, block: u32, failed: &mut u32) -> Result<()> {
    let got = fault.during(|| mount(lab))??;
    *failed += u32::from(right_in_the_end(lab, fault, got, block)?);
    Ok(())
}

/// The cache files of the image and of its blob, which is opened behind the mount's back.
fn made_files(lab: &Lab, cache: &Cache) -> Result<Vec<std::path::PathBuf>> {
    let mount = mounted(lab)?;
    read_right(&mount, 3)?;
    unmount(mount)?;
    let files = cache_files(cache.dir());
    ensure!(files.len() == 2, "{} cache files", files.len());
    Ok(files)
}

fn open_of_a_new_file(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let _daemon = serve(cache.dir(), Manner::Serve)?;
    let files = made_files(lab, &cache)?;
    let mut failed = 0;
    // How many there are depends on what ext4 has in memory: 78 to 111.
    each_allocation("open of new files", (50, 1), 11, |fault| {
        for file in &files {
            // It was not made if the fault has prevented it.
            let _ = fs::remove_file(file);
        }
        open(lab, fault, 3, &mut failed)
    })?;
    println!("{failed} times the image had to be mounted again");
    Ok(())
}

fn open_of_a_file_that_is_there(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = serve(cache.dir(), Manner::Serve)?;
    let mount = mounted(lab)?;
    read_right(&mount, 3)?;
    unmount(mount)?;
    let mut failed = 0;
    let at_least = lab.with_ours(30, 18);
    each_allocation("open of files that are there", at_least, 5, |fault| {
        open(lab, fault, 3, &mut failed)
    })?;
    println!("{failed} times the image had to be mounted again");
    let reads = daemon.reads();
    let mount = mounted(lab)?;
    read_right(&mount, 3)?;
    ensure!(daemon.reads() == reads, "what was cached is lost");
    unmount(mount)
}

/// The 256 directories of a volume are made, with thousands of allocations.
fn first_open_of_a_volume(lab: &Lab) -> Result<()> {
    if !in_ci() {
        return Err(Skip("it takes minutes; set CI".to_owned()).into());
    }
    if lab.is_peer() {
        return Err(Skip("C refuses the volume from then on".to_owned()).into());
    }
    let cache = lab.cache()?;
    let _daemon = serve(cache.dir(), Manner::Serve)?;
    let mut failed = 0;
    each_allocation("open in a new volume", (12, 2), 499, |fault| {
        open(lab, fault, 3, &mut failed)?;
        let volume = cache.dir().join("cache/Ierofs,meta");
        // FS-Cache lets the volume go behind the mount's back.
        eventually("the volume is free", || fs::remove_dir_all(&volume).is_ok())
    })?;
    println!("{failed} times the image had to be mounted again");
    Ok(())
}

/// One of the volume's directories is made, as the others were.
fn open_of_a_volume_that_lacks_a_directory(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C refuses the volume from then on".to_owned()).into());
    }
    let cache = lab.cache()?;
    let _daemon = serve(cache.dir(), Manner::Serve)?;
    let files = made_files(lab, &cache)?;
    let lacking = cache.dir().join("cache/Ierofs,meta/@7f");
    let mut failed = 0;
    each_allocation("open in a volume that lacks a directory", 12, 1, |fault| {
        no_volumes()?;
        // It was not made if the fault has prevented it.
        let _ = fs::remove_dir_all(&lacking);
        open(lab, fault, 3, &mut failed)?;
        ensure!(lacking.is_dir(), "it was not made");
        ensure!(
            files.iter().all(|file| file.exists()),
            "the volume is another one"
        );
        Ok(())
    })?;
    println!("{failed} times the image had to be mounted again");
    Ok(())
}

/// What cannot be committed is fetched again.
fn withdrawal(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C ends its cache and keeps its objects".to_owned()).into());
    }
    let cache = lab.cache()?;
    let daemon = serve(cache.dir(), Manner::Serve)?;
    let files = made_files(lab, &cache)?;
    let (mut rounds, mut lost) = (0, 0);
    // Six, or five if the journal has in memory what a file's directory needs: a CLOSE needs none.
    each_allocation("withdrawal of new files", 5, 1, |fault| {
        for file in &files {
            let _ = fs::remove_file(file);
        }
        let mount = mounted(lab)?;
        read_right(&mount, 7)?;
        fault.during(|| unmount(mount))??;
        rounds += 1;
        lost += u32::from(cache_files(cache.dir()).len() < files.len());
        let reads = daemon.reads();
        let mount = mounted(lab)?;
        read_right(&mount, 7)?;
        if !fault.hit()? {
            ensure!(daemon.reads() == reads, "lost although there was memory");
        }
        unmount(mount)
    })?;
    println!("{lost} times of {rounds} a file was not kept");
    Ok(())
}

/// The cache goes with an image mounted.
fn unbinding(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C refuses the next mount".to_owned()).into());
    }
    let cache = lab.cache()?;
    all_is_well(lab, cache.dir())?;
    let files = cache_files(cache.dir());
    // Where there is no memory to leave it to the next one, it is withdrawn at once.
    each_allocation("end of a cache in use", 1, 1, |fault| {
        for file in &files {
            let _ = fs::remove_file(file);
        }
        let mut daemon = serve(cache.dir(), Manner::Serve)?;
        let mount = mounted(lab)?;
        read_right(&mount, 7)?;
        fault.during(|| daemon.stop())??;
        unmount(mount)?;
        let _daemon = serve(cache.dir(), Manner::Serve)?;
        let mount = mounted(lab)?;
        read_right(&mount, 7)?;
        unmount(mount)
    })
}

/// A cache takes the place of one whose image is mounted, and has it withdrawn first.
fn bind_over_a_cache_in_use(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C has withdrawn it by then".to_owned()).into());
    }
    let cache = lab.cache()?;
    all_is_well(lab, cache.dir())?;
    let files = cache_files(cache.dir());
    each_allocation("bind over a cache in use", 30, 3, |fault| {
        for file in &files {
            let _ = fs::remove_file(file);
        }
        let mut daemon = serve(cache.dir(), Manner::Serve)?;
        let mount = mounted(lab)?;
        read_right(&mount, 7)?;
        daemon.stop()?;
        let device = free_device(cache.dir())?;
        let got = fault.during(|| device.bind_ondemand())?;
        if told(fault, got)?.is_none() {
            device.bind_ondemand().context("the next try")?;
        }
        let _daemon = Daemon::patient(device, blobs(Manner::Serve))?;
        // It may have lost its cache for good.
        if let Ok(got) = read(&mount, 9)? {
            ensure!(got[..] == bytes(9, got.len())[..], "wrong bytes");
        }
        unmount(mount)?;
        let mount = mounted(lab)?;
        read_right(&mount, 7)?;
        unmount(mount)
    })
}

fn cull(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C leaves the file in use for ever".to_owned()).into());
    }
    let cache = lab.cache()?;
    let daemon = serve(cache.dir(), Manner::Serve)?;
    let dir = cache.dir().join("cache");
    env::set_current_dir(&dir)?;
    let result = cull_here(daemon.device()?, &dir);
    env::set_current_dir("/")?;
    result?;
    let mount = mounted(lab)?;
    read_right(&mount, 7)?;
    unmount(mount)
}

fn cull_here(device: &Device, dir: &Path) -> Result<()> {
    let victim = dir.join("victim");
    let cull = || device.command(b"cull victim");
    each_allocation("cull of a file", 3, 1, |fault| {
        fs::write(&victim, "victim")?;
        let got = fault.during(cull)?;
        if told(fault, got)?.is_none() {
            ensure!(victim.exists(), "a cull that failed has culled");
            cull().context("the next try")?;
        }
        ensure!(!victim.exists(), "not culled");
        Ok(())
    })?;
    each_allocation("cull of a directory", 4, 1, |fault| {
        fs::create_dir(&victim)?;
        let got = fault.during(cull)?;
        if told(fault, got)?.is_none() {
            ensure!(victim.exists(), "a cull that failed has culled");
            cull().context("the next try")?;
        }
        ensure!(!victim.exists(), "not culled");
        Ok(())
    })
}
