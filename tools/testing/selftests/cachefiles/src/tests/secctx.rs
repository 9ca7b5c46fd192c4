// SPDX-License-Identifier: GPL-2.0

//! The command `secctx`, on a kernel whose security module is Smack: which contexts are taken, and with
//! which labels files are made, by C's module and by ours.  It has a VM of its own, in which Smack is on
//! from boot.

use super::{
    netfs_files::{publish, settle},
    netfs_scene::{check, content},
};
use crate::{
    backing::Backing,
    cachefilesd::is_bound,
    group,
    kernel::Module,
    ktap::Skip,
    lab::{eventually, Lab},
    raw::errno,
    remote::{Kind, Remote},
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Device;
use rustix::{fs::XattrFlags, mount::MountFlags};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use walkdir::WalkDir;

group!("secctx":
    labels_and_refusals,
);

const LABEL: &str = "security.SMACK64";

/// A label that is in use.
const KNOWN: &str = "Cache";

/// What is said to the device, and the label of the cache's directory.
const STORIES: &[(&[&str], &str)] = &[
    (&[], "_"),
    (&[], KNOWN),
    (&["secctx _"], KNOWN),
    (&["secctx Cache"], "_"),
    (&["secctx Cache"], KNOWN),
    (&["secctx NobodyKnows"], KNOWN),
    (&["secctx -forbidden"], "_"),
    (&["secctx"], "_"),
    (&["secctx Cache", "secctx Cache"], KNOWN),
];

/// What came of a story: the errors of the commands and of `bind`, and the label of each file.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    said: Vec<Option<i32>>,
    labels: BTreeMap<PathBuf, String>,
}

fn label(path: &Path) -> Result<String> {
    let mut bytes = [0; 256];
    let len = rustix::fs::getxattr(path, LABEL, &mut bytes)
        .with_context(|| format!("the label of {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
}

/// A file system whose root is labelled so.
fn labelled(lab: &Lab, label: &str) -> Result<Backing> {
    let fs = Backing::ext4(lab.base(), 0, 64)?;
    rustix::fs::setxattr(fs.dir(), LABEL, label.as_bytes(), XattrFlags::empty())
        .with_context(|| format!("labelling {}", fs.dir().display()))?;
    Ok(fs)
}

/// Tells the story to this module.
fn tell(lab: &Lab, module: &Path, remote: &Remote, story: &(&[&str], &str)) -> Result<Outcome> {
    let (commands, dir_label) = story;
    let mut fs = labelled(lab, dir_label)?;
    let _module = Module::load(module)?;
    let device = Device::open()?;
    device.command(format!("dir {}", fs.dir().display()).as_bytes())?;
    let said: Vec<Option<i32>> = commands
        .iter()
        .chain([&"bind"])
        .map(|command| {
            let error = device.command(command.as_bytes()).err()?;
            errno(&error).map(|error| error.raw_os_error())
        })
        .collect();
    if is_bound() {
        let mut client = remote.mount()?;
        check(&client.path("file"), &content(1, 10_000))?;
        settle()?;
        client.unmount()?;
    }
    drop(device);
    eventually("the cache is withdrawn", || !is_bound())?;
    // Of the disk, not of what the kernel has in its memory.
    fs.unmount()?;
    let fs = Backing::mount(lab.base(), fs.device(), "ext4", MountFlags::empty(), "")?;
    let mut labels = BTreeMap::new();
    for entry in WalkDir::new(fs.dir()) {
        let entry = entry?;
        let name = entry.path().strip_prefix(fs.dir())?.to_owned();
        labels.insert(name, label(entry.path())?);
    }
    Ok(Outcome { said, labels })
}

/// Both modules take and refuse the same, and label what they make alike: as the directory is.
fn labels_and_refusals(lab: &Lab) -> Result<()> {
    let own = fs::read_to_string("/proc/self/attr/current");
    if own.is_err() || !Path::new("/sys/fs/smackfs").exists() {
        return Err(Skip("the kernel was not booted with lsm=smack".to_owned()).into());
    }
    let remote = Remote::new(lab, Kind::NineP)?;
    publish(&remote, "file", &content(1, 10_000))?;
    // Smack knows a label from the first time that it is used.
    drop(labelled(lab, KNOWN)?);
    for story in STORIES {
        let theirs = tell(lab, &lab.peer_module()?, &remote, story)?;
        let ours = tell(lab, &lab.our_module()?, &remote, story)?;
        println!("{story:?}: {:?}, {} files", ours.said, ours.labels.len());
        ensure!(
            theirs == ours,
            "{story:?}:\nC's {theirs:#?}\nours {ours:#?}"
        );
        let made = ours
            .labels
            .iter()
            .filter(|(name, _)| name.starts_with("cache"));
        for (name, label) in made {
            ensure!(
                label == story.1,
                "{story:?}: {} is labelled {label}",
                name.display()
            );
        }
    }
    Ok(())
}
