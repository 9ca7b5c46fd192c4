// SPDX-License-Identifier: GPL-2.0

//! Our module and C's share a cache on disk: what one has filled the other reads without asking,
//! and the trees that they make are equal to the byte.

use crate::{
    backing::Backing,
    blob::{pattern, Blob},
    daemon::{Blobs, Daemon},
    group,
    image::{Image, BLOCK},
    kernel::Module,
    lab::Lab,
    mount::Mount,
    tree,
};
use anyhow::{ensure, Context, Result};
use rustix::fs::{getxattr, listxattr};
use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt},
    },
    path::Path,
};
use walkdir::WalkDir;

group!("interop":
    peer_fills_ours_reads,
    ours_fills_peer_reads,
    trees_are_equal_for_every_key,
);

/// Fills a cache with one module and reads it with the other.
fn crossing(lab: &Lab, filler: &Path, reader: &Path) -> Result<()> {
    let images = lab.images()?;
    let fs = Backing::ext4(lab.base(), 0, 256)?;
    for (module, fills) in [(filler, true), (reader, false), (filler, false)] {
        let _module = Module::load(module)?;
        for kind in ["chunked", "lz4"] {
            let kind = tree::kind(kind)?;
            let daemon = Daemon::start(fs.dir(), tree::blobs(&images, kind)?)?;
            let mut mount = Mount::with(lab.base(), kind.name, &tree::options(kind))?;
            tree::compare(mount.dir(), &images)?;
            mount.unmount()?;
            let reads = daemon.reads();
            let module = module.display();
            ensure!(
                (reads > 0) == fills,
                "{reads} READs of {} by {module}",
                kind.name
            );
        }
    }
    Ok(())
}

fn peer_fills_ours_reads(lab: &Lab) -> Result<()> {
    crossing(lab, &lab.peer_module()?, &lab.our_module()?)
}

fn ours_fills_peer_reads(lab: &Lab) -> Result<()> {
    crossing(lab, &lab.our_module()?, &lab.peer_module()?)
}

/// Cookie keys for every way in which a file name is made of one.
fn keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = vec![
        // As they are.
        b"plain-name".to_vec(),
        b"!\"#$%&'()*+-.0:;<=>?@[\\]^_`{|}~\x7f".to_vec(),
        b"D".to_vec(),
        vec![b'x'; 250],
        // In hexadecimal, big endian and little endian, with words of zero length.
        b"a b".to_vec(),
        b"\x01\x02\x03\x04".to_vec(),
        b"\x01".to_vec(),
        b"\x80\x81".to_vec(),
        b"/".to_vec(),
        b"/var/lib/blob".to_vec(),
        b" \x01 \x01 \x01".to_vec(),
        // In base64, with every padding.
        b"a name with blanks, which is rather long".to_vec(),
        b"a name with blanks, which is rather lon".to_vec(),
        b"a name with blanks, which is rather lo".to_vec(),
        (0x80..=0xff).collect(),
    ];
    // Of every length, and bytes beyond ASCII.
    for len in 1..24 {
        keys.push((0..len).map(|n| 0x81 + n * 5).collect());
        keys.push(
            (0..len)
                .map(|n| b"ab \x02"[n as usize % 4])
                .chain([b'\t'])
                .collect(),
        );
    }
    for key in &mut keys {
        // A comma ends a mount option.
        key.retain(|byte| *byte != b',');
    }
    keys.sort();
    keys.dedup();
    keys
}

/// Everything about a file of the cache that a module or a daemon can see.
pub(super) type Entry = (u32, u64, Vec<(Vec<u8>, Vec<u8>)>, Option<[u8; 32]>);

/// Everything under a directory.
pub(super) fn listing(root: &Path) -> Result<BTreeMap<Vec<u8>, Entry>> {
    let mut entries = BTreeMap::new();
    for entry in WalkDir::new(root) {
        let entry = entry?;
        let name = entry
            .path()
            .strip_prefix(root)?
            .as_os_str()
            .as_bytes()
            .to_vec();
        let meta = entry.metadata()?;
        let mut names = vec![0; 1024];
        let len = listxattr(entry.path(), &mut names[..])?;
        let mut xattrs = Vec::new();
        for xattr in names[..len]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let mut value = vec![0; 1024];
            let len = getxattr(entry.path(), xattr, &mut value[..])?;
            value.truncate(len);
            xattrs.push((xattr.to_vec(), value));
        }
        let (size, sum) = if meta.is_file() {
            (meta.size(), Some(tree::checksum(entry.path())?))
        } else {
            (0, None)
        };
        entries.insert(name, (meta.mode(), size, xattrs, sum));
    }
    Ok(entries)
}

/// A cache that a module fills through one mount of one blob a key.
fn filled_by(lab: &Lab, module: &Path) -> Result<BTreeMap<Vec<u8>, Entry>> {
    let fs = Backing::ext4(lab.base(), 0, 64)?;
    let keys = keys();
    {
        let _module = Module::load(module)?;
        for (number, keys) in keys.chunks(20).enumerate() {
            fill(lab, &fs, number, keys)?;
        }
    }
    listing(&fs.dir().join("cache"))
}

fn fill(lab: &Lab, fs: &Backing, number: usize, keys: &[Vec<u8>]) -> Result<()> {
    let mut image = Image::new();
    let mut blobs = Blobs::new();
    let mut options = vec![];
    for (key, device) in keys.iter().zip(1..) {
        let seed = u64::from(device);
        // Sizes beside the limits of a block, and one block left out.
        let size = 3 * BLOCK - seed % 3;
        image = image
            .device("-")
            .file(format!("file-{device:03}"), 0, [(device, 0), (device, 2)]);
        blobs = blobs.with(key, Blob::Pattern { seed, size });
        options.extend([&b"device="[..], key, b","].concat());
    }
    let fsid = format!("keys{number}");
    let blobs = blobs.with(&fsid, image.build());
    let _daemon = Daemon::start(fs.dir(), blobs)?;
    options.extend(b"domain_id=all");
    let mount = crate::mount::try_mount(lab.base(), fsid.as_bytes(), &options)
        .with_context(|| format!("mounting with keys {keys:?}"))?;
    for (key, device) in keys.iter().zip(1_u64..) {
        let file = File::open(mount.path(&format!("file-{device:03}")))?;
        let mut got = vec![0; BLOCK as usize];
        file.read_exact_at(&mut got, 0)
            .with_context(|| format!("reading {key:?}"))?;
        let mut want = vec![0; BLOCK as usize];
        pattern(device, 0, &mut want);
        ensure!(got == want, "the blob {key:?} has wrong bytes");
    }
    Ok(())
}

/// Names, modes, sizes, attributes and contents are the same for every key.
fn trees_are_equal_for_every_key(lab: &Lab) -> Result<()> {
    let peer = filled_by(lab, &lab.peer_module()?)?;
    let files = peer.values().filter(|entry| entry.3.is_some()).count();
    ensure!(
        files >= keys().len(),
        "only {files} files for {} keys",
        keys().len()
    );
    println!("{files} cache files");
    let ours = filled_by(lab, &lab.our_module()?)?;
    differences(&peer, &ours)
}

/// Fails if the caches that C's module and ours have made differ.
pub(super) fn differences(
    peer: &BTreeMap<Vec<u8>, Entry>,
    ours: &BTreeMap<Vec<u8>, Entry>,
) -> Result<()> {
    let mut wrong = vec![];
    for name in peer.keys().chain(ours.keys()) {
        let (theirs, ours) = (peer.get(name), ours.get(name));
        if theirs != ours {
            let name = String::from_utf8_lossy(name);
            wrong.push(format!("{name}: C {theirs:x?}, ours {ours:x?}"));
        }
    }
    wrong.dedup();
    let differing = wrong.len();
    // The first few tell enough.
    wrong.truncate(6);
    ensure!(
        wrong.is_empty(),
        "{differing} entries differ, such as:\n{}",
        wrong.join("\n")
    );
    Ok(())
}
