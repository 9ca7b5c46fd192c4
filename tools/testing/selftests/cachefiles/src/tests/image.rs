// SPDX-License-Identifier: GPL-2.0

//! Images read through the cache: every file of every kind of image has the right checksum.

use crate::{
    blob::{pattern, Blob},
    daemon::Blobs,
    group,
    helper::Helper,
    image::{Image, BLOCK, HOLE},
    lab::{eventually, Lab},
    mount::Mount,
    patience::patiently,
    tree,
};
use anyhow::{ensure, Context, Result};
use std::{fs::File, os::unix::fs::FileExt, path::Path, time::Duration};

group!("image":
    plain,
    tail_packed,
    chunked_with_blob,
    lz4,
    sixteen_readers_at_random,
    data_far_into_a_blob,
    sixty_four_blobs,
    thousand_cookies,
    two_images_share_a_domain,
);

fn checksums(lab: &Lab, name: &str) -> Result<()> {
    let images = lab.images()?;
    let kind = tree::kind(name)?;
    let cache = lab.cache()?;
    let daemon = cache.serve(tree::blobs(&images, kind)?)?;
    let mut mount = Mount::with(lab.base(), kind.name, &tree::options(kind))?;
    let files = tree::compare(mount.dir(), &images)?;
    ensure!(files > 50, "only {files} files");
    let (opens, reads) = (daemon.opens(), daemon.reads());
    ensure!(opens == 1 + u64::from(kind.has_blob), "{opens} OPENs");
    ensure!(reads > 0, "no READ: the data came from nowhere");
    println!("{files} files, {reads} READs, {} bytes", daemon.bytes());
    mount.unmount()
}

fn plain(lab: &Lab) -> Result<()> {
    checksums(lab, "plain")
}

fn tail_packed(lab: &Lab) -> Result<()> {
    checksums(lab, "tail-packed")
}

fn chunked_with_blob(lab: &Lab) -> Result<()> {
    checksums(lab, "chunked")
}

fn lz4(lab: &Lab) -> Result<()> {
    checksums(lab, "lz4")
}

/// Sixteen processes read at random from an empty cache, and all they read is right.
fn sixteen_readers_at_random(lab: &Lab) -> Result<()> {
    let images = lab.images()?;
    let kind = tree::kind("chunked")?;
    let cache = lab.cache()?;
    let _daemon = cache.serve(tree::blobs(&images, kind)?)?;
    let mount = Mount::with(lab.base(), kind.name, &tree::options(kind))?;
    let (dir, images) = (mount.dir().to_string_lossy(), images.to_string_lossy());
    let readers = (0..16)
        .map(|seed| Helper::start(&["read-random", &dir, &images, &seed.to_string(), "60"]))
        .collect::<Result<Vec<_>>>()?;
    for reader in readers {
        let said = reader.finish(patiently(Duration::from_secs(60)))?;
        ensure!(said == "ok", "a reader said: {said}");
    }
    Ok(())
}

/// Reads a file of one pattern and compares.
fn expect_pattern(file: &Path, seed: u64, blocks: &[(u64, u32)]) -> Result<()> {
    let file = File::open(file).with_context(|| file.display().to_string())?;
    for &(at, block) in blocks {
        let (mut got, mut want) = (vec![0; BLOCK as usize], vec![0; BLOCK as usize]);
        if block != HOLE {
            pattern(seed, u64::from(block) * BLOCK, &mut want);
        }
        file.read_exact_at(&mut got, at)
            .with_context(|| format!("the block at {at}, {block} in the blob"))?;
        ensure!(
            got == want,
            "the block at {at}, {block} in the blob, is wrong"
        );
    }
    Ok(())
}

/// A sparse blob: data beyond 2 GiB, 4 GiB, 2^31 and 2^32-2 blocks.
fn data_far_into_a_blob(lab: &Lab) -> Result<()> {
    const SEED: u64 = 7;
    // ext4 and EROFS end at 2^32 - 1 blocks of 4 KiB; the last number means a hole to EROFS.
    let far = [
        0,
        1,
        (2_u64 << 30).div_euclid(BLOCK) as u32 - 1,
        (4_u64 << 30).div_euclid(BLOCK) as u32 - 1,
        (4_u64 << 30).div_euclid(BLOCK) as u32,
        (5_u64 << 30).div_euclid(BLOCK) as u32,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffd,
        0xffff_fffe,
        // Last, for what src/tree.rs says about holes.
        HOLE,
    ];
    let chunks: Vec<(u16, u32)> = far.iter().map(|&block| (1, block)).collect();
    let image = Image::new()
        .device("far.blob")
        .file("far", 0, chunks)
        .build();
    let size = u64::from(u32::MAX) * BLOCK;
    let blobs = Blobs::new()
        .with("far", image)
        .with("far.blob", Blob::Pattern { seed: SEED, size });
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs)?;
    let mut mount = Mount::new(lab.base(), "far")?;
    let blocks: Vec<(u64, u32)> = (0..).step_by(BLOCK as usize).zip(far).collect();
    expect_pattern(&mount.path("far"), SEED, &blocks)?;
    let reads = daemon.reads();
    mount.unmount()?;
    let mut mount = Mount::new(lab.base(), "far")?;
    expect_pattern(&mount.path("far"), SEED, &blocks)?;
    ensure!(
        daemon.reads() == reads,
        "{} READs for cached data",
        daemon.reads() - reads
    );
    mount.unmount()
}

/// An image of one file a blob.
fn many(count: u16) -> (Blobs, Vec<String>) {
    let names: Vec<String> = (0..count)
        .map(|number| format!("blob-{number:04}"))
        .collect();
    let mut image = Image::new();
    let mut blobs = Blobs::new();
    for (name, device) in names.iter().zip(1..) {
        image = image.device(name).file(name, 0, [(device, 0), (device, 1)]);
        blobs = blobs.with(
            name,
            Blob::Pattern {
                seed: device.into(),
                size: 2 * BLOCK,
            },
        );
    }
    (blobs.with("many", image.build()), names)
}

fn mount_many(lab: &Lab, count: u16) -> Result<()> {
    let (blobs, names) = many(count);
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs)?;
    let mut mount = Mount::new(lab.base(), "many")?;
    // EROFS does not wait for the lookup of a blob before it is read.
    let opens = u64::from(count) + 1;
    grows_to("OPENs", opens, || daemon.opens())?;
    for (name, seed) in names.iter().zip(1..) {
        expect_pattern(&mount.path(name), seed, &[(0, 0), (BLOCK, 1)])?;
    }
    mount.unmount()?;
    grows_to("CLOSEs", opens, || daemon.closes())
}

/// Waits until there are so many, and no longer than is decent for the next one.
fn grows_to(what: &str, count: u64, now: impl Fn() -> u64) -> Result<()> {
    loop {
        let before = now();
        if before == count {
            return Ok(());
        }
        eventually(
            &format!("{count} {what}, of which there are {before}"),
            || now() != before,
        )?;
    }
}

fn sixty_four_blobs(lab: &Lab) -> Result<()> {
    mount_many(lab, 64)
}

fn thousand_cookies(lab: &Lab) -> Result<()> {
    mount_many(lab, 1000)
}

/// Two images in one domain have one cookie for the blob that they share.
fn two_images_share_a_domain(lab: &Lab) -> Result<()> {
    let image = |chunk: u32| {
        Image::new()
            .device("shared")
            .file("file", 0, [(1, chunk)])
            .build()
    };
    let blobs = Blobs::new()
        .with("one", image(0))
        .with("two", image(1))
        .with(
            "shared",
            Blob::Pattern {
                seed: 3,
                size: 2 * BLOCK,
            },
        );
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs)?;
    let one = Mount::with(lab.base(), "one", "domain_id=common")?;
    let two = Mount::with(lab.base(), "two", "domain_id=common")?;
    expect_pattern(&one.path("file"), 3, &[(0, 0)])?;
    expect_pattern(&two.path("file"), 3, &[(0, 1)])?;
    ensure!(
        daemon.opens() == 3,
        "{} OPENs for two images and one blob",
        daemon.opens()
    );
    let volume = cache.dir().join("cache/Ierofs,common");
    ensure!(volume.is_dir(), "no volume directory {}", volume.display());
    Ok(())
}
