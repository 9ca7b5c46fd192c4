// SPDX-License-Identifier: GPL-2.0

//! What is cached stays cached: a warm cache asks for nothing after a remount, after the module
//! is loaded anew, after a reboot.

use super::netfs_reboot;
use crate::{
    backing::Backing,
    daemon::{Blobs, Daemon},
    group,
    kernel::Module,
    ktap::Group,
    lab::Lab,
    mount::Mount,
    tree::{self, Kind},
};
use anyhow::{ensure, Result};
use rustix::mount::MountFlags;

group!("persistence":
    after_remount,
    after_another_daemon,
    after_reload,
    half_filled_cache_asks_for_the_rest,
    in_a_shared_domain,
);

/// Run in a first boot, on a disk that stays.
pub const FILL: Group = Group {
    name: "reboot_fill",
    cases: &[
        crate::ktap::Case {
            name: "fill",
            run: fill,
        },
        crate::ktap::Case {
            name: "fill_over_the_network",
            run: netfs_reboot::fill,
        },
    ],
};

/// Run in a second boot.
pub const READ: Group = Group {
    name: "reboot_read",
    cases: &[
        crate::ktap::Case {
            name: "after_reboot",
            run: after_reboot,
        },
        crate::ktap::Case {
            name: "over_the_network_after_reboot",
            run: netfs_reboot::after_reboot,
        },
    ],
};

/// The kinds that are kept; two cookies each, or compressed.
const KEPT: [&str; 2] = ["chunked", "lz4"];

fn mount(lab: &Lab, kind: &Kind) -> Result<Mount> {
    Mount::with(lab.base(), kind.name, &tree::options(kind))
}

/// Mounts, compares everything, unmounts; the number of READs that took.
fn pass(lab: &Lab, daemon: &Daemon, kind: &Kind) -> Result<u64> {
    let before = daemon.reads();
    let mut mount = mount(lab, kind)?;
    tree::compare(mount.dir(), &lab.images()?)?;
    mount.unmount()?;
    Ok(daemon.reads() - before)
}

fn blobs(lab: &Lab, kind: &Kind) -> Result<Blobs> {
    tree::blobs(&lab.images()?, kind)
}

fn after_remount(lab: &Lab) -> Result<()> {
    let kind = tree::kind("chunked")?;
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs(lab, kind)?)?;
    ensure!(
        pass(lab, &daemon, kind)? > 0,
        "a cold cache asked for nothing"
    );
    for round in 0..3 {
        let reads = pass(lab, &daemon, kind)?;
        ensure!(reads == 0, "{reads} READs in remount {round}");
    }
    Ok(())
}

fn after_another_daemon(lab: &Lab) -> Result<()> {
    let kind = tree::kind("tail-packed")?;
    let cache = lab.cache()?;
    let mut daemon = cache.serve(blobs(lab, kind)?)?;
    ensure!(
        pass(lab, &daemon, kind)? > 0,
        "a cold cache asked for nothing"
    );
    daemon.stop()?;
    let daemon = cache.serve(blobs(lab, kind)?)?;
    let reads = pass(lab, &daemon, kind)?;
    ensure!(reads == 0, "{reads} READs under another daemon");
    Ok(())
}

fn after_reload(lab: &Lab) -> Result<()> {
    let kind = tree::kind("lz4")?;
    let mut cache = lab.cache()?;
    let mut daemon = cache.serve(blobs(lab, kind)?)?;
    ensure!(
        pass(lab, &daemon, kind)? > 0,
        "a cold cache asked for nothing"
    );
    daemon.stop()?;
    cache.module.reload()?;
    let daemon = cache.serve(blobs(lab, kind)?)?;
    let reads = pass(lab, &daemon, kind)?;
    ensure!(reads == 0, "{reads} READs after the module was loaded anew");
    Ok(())
}

/// What was read is there, what was not is asked for, and never twice.
fn half_filled_cache_asks_for_the_rest(lab: &Lab) -> Result<()> {
    let kind = tree::kind("chunked")?;
    let images = lab.images()?;
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs(lab, kind)?)?;
    let mut first = mount(lab, kind)?;
    let name = "a/b/c/big";
    let same =
        tree::checksum(&first.path(name))? == tree::checksum(&images.join("source").join(name))?;
    ensure!(same, "wrong data");
    first.unmount()?;
    let mut second = mount(lab, kind)?;
    let before = daemon.reads();
    tree::checksum(&second.path(name))?;
    ensure!(
        daemon.reads() == before,
        "{} READs for one warm file",
        daemon.reads() - before
    );
    tree::compare(second.dir(), &images)?;
    ensure!(daemon.reads() > before, "the other files came from nowhere");
    second.unmount()?;
    let reads = pass(lab, &daemon, kind)?;
    ensure!(reads == 0, "{reads} READs for what two mounts have fetched");
    Ok(())
}

fn in_a_shared_domain(lab: &Lab) -> Result<()> {
    let kind = tree::kind("chunked")?;
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs(lab, kind)?)?;
    let options = format!("domain_id=common,{}", tree::options(kind));
    let mut reads = 0;
    for round in 0..2 {
        let before = daemon.reads();
        let mut mount = Mount::with(lab.base(), kind.name, &options)?;
        tree::compare(mount.dir(), &lab.images()?)?;
        mount.unmount()?;
        reads = daemon.reads() - before;
        ensure!(round == 1 || reads > 0, "a cold cache asked for nothing");
    }
    ensure!(reads == 0, "{reads} READs for a warm domain");
    Ok(())
}

fn all_blobs(lab: &Lab) -> Result<Blobs> {
    let images = lab.images()?;
    let mut all = Blobs::new();
    for name in KEPT {
        all = all.merged(tree::blobs(&images, tree::kind(name)?)?);
    }
    Ok(all)
}

fn fill(lab: &Lab) -> Result<()> {
    let fs = Backing::ext4_on(lab.base(), &lab.disk()?)?;
    let _module = Module::load(lab.module())?;
    let daemon = Daemon::start(fs.dir(), all_blobs(lab)?)?;
    for name in KEPT {
        ensure!(
            pass(lab, &daemon, tree::kind(name)?)? > 0,
            "a cold cache asked for nothing"
        );
    }
    Ok(())
}

fn after_reboot(lab: &Lab) -> Result<()> {
    let fs = Backing::mount(lab.base(), &lab.disk()?, "ext4", MountFlags::empty(), "")?;
    let _module = Module::load(lab.module())?;
    let daemon = Daemon::start(fs.dir(), all_blobs(lab)?)?;
    for name in KEPT {
        let reads = pass(lab, &daemon, tree::kind(name)?)?;
        ensure!(reads == 0, "{reads} READs of {name} after a reboot");
    }
    Ok(())
}
