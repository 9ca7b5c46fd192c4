// SPDX-License-Identifier: GPL-2.0

//! A disk that breaks and is mended when a test says so.
//!
//! Lives here: a device-mapper device over a RAM disk, its tables, and a file system on it.  Never
//! here: what is stored there, or what must come of its breaking.

use crate::{
    backing::{ram_disk, Backing},
    file_system::{chosen, Property},
    kernel::run,
};
use anyhow::{Context, Result};
use std::path::Path;

/// How a disk can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// All works.
    Well,
    /// Nothing works.
    Dead,
    /// What is read fails, what is written is stored.
    Unreadable,
    /// What is written fails, what is there can be read.
    Unwritable,
}

/// The disk; dropping it removes it.
pub struct Disk {
    name: String,
    device: String,
    below: String,
    sectors: u64,
}

impl Disk {
    /// A disk of this size that works.
    pub fn new(name: &str, mib: u64) -> Result<Disk> {
        run("modprobe", &["-a", "dm-mod", "dm-flakey", "dm-dust"])?;
        let mut disk = Disk {
            name: name.to_owned(),
            device: String::new(),
            below: ram_disk(0)?,
            sectors: mib.max(chosen().least()) << 11,
        };
        let table = disk.table(Health::Well);
        run("dmsetup", &["create", name, "--table", &table])?;
        // There is no udev here to make a node of this name.
        let columns = ["info", "-c", "--noheadings", "-o", "blkdevname", name];
        disk.device = format!("/dev/{}", run("dmsetup", &columns)?.trim());
        Ok(disk)
    }

    /// A fresh file system for a cache on it, mounted.
    pub fn format_and_mount(&self, base: &Path) -> Result<Backing> {
        chosen().make(&self.device, None)?;
        self.mount(base)
    }

    /// The file system on it, which must be sound or easily made so, mounted.
    pub fn check_and_mount(&self, base: &Path) -> Result<Backing> {
        // The first run or mount replays the journal and may mend what a fault has left; after it,
        // the file system is sound.
        match chosen().kind() {
            "ext4" => drop(run("e2fsck", &["-f", "-y", &self.device])),
            _ => self.mount(base)?.unmount()?,
        }
        chosen().check(&self.device)?;
        self.mount(base)
    }

    fn mount(&self, base: &Path) -> Result<Backing> {
        // No timer of the file system's finds the fault before the test does.
        let options = match chosen().lacks.contains(&Property::SurvivesErrors) {
            false => "errors=continue,commit=300",
            true => "",
        };
        Backing::of_cache(base, &self.device, options)
    }

    fn table(&self, health: Health) -> String {
        let (sectors, below) = (self.sectors, &self.below);
        // The flakey target is down for ever after no time.
        let flakey = |what| format!("0 {sectors} flakey {below} 0 0 1000000 1 {what}");
        match health {
            Health::Well => format!("0 {sectors} linear {below} 0"),
            Health::Dead => format!("0 {sectors} error"),
            Health::Unreadable => flakey("error_reads"),
            Health::Unwritable => flakey("error_writes"),
        }
    }

    /// From now on it is so.
    pub fn becomes(&self, health: Health) -> Result<()> {
        self.set_table(&self.table(health))
            .with_context(|| format!("making the disk {health:?}"))
    }

    /// Holds what is read and written until the result is dropped.
    pub fn hold(&self) -> Result<Held<'_>> {
        let held = Held(self);
        run(
            "dmsetup",
            &["suspend", "--noflush", "--nolockfs", &self.name],
        )?;
        Ok(held)
    }

    fn resume(&self) -> Result<()> {
        run("dmsetup", &["resume", &self.name]).map(drop)
    }

    /// From now on these blocks of 4096 bytes cannot be read, until they are written.
    pub fn spoil(&self, blocks: &[u64]) -> Result<()> {
        self.set_table(&format!("0 {} dust {} 0 4096", self.sectors, self.below))?;
        for block in blocks {
            self.message(&["addbadblock", &block.to_string()])?;
        }
        self.message(&["enable"])
    }

    fn message(&self, words: &[&str]) -> Result<()> {
        run("dmsetup", &[&["message", &self.name, "0"], words].concat()).map(drop)
    }

    /// Nothing is flushed or frozen: the disk changes under the file system at once.
    fn set_table(&self, table: &str) -> Result<()> {
        run("dmsetup", &["load", &self.name, "--table", table])?;
        drop(self.hold()?);
        Ok(())
    }
}

/// A disk that takes requests and does nothing about them.
pub struct Held<'a>(&'a Disk);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.resume() {
            crate::lab::cleanup_failed(&format!("{error:#}"));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run("dmsetup", &["remove", "--retry", &self.name]) {
            crate::lab::cleanup_failed(&format!("{error:#}"));
        }
    }
}
