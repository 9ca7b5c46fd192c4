// SPDX-License-Identifier: GPL-2.0

//! A tree of files, the EROFS images made of it, and the comparison of a mounted image with it.
//!
//! Lives here: what the host prepares before the VM boots (`helper images`), and the checksums.
//! Never here: images that mkfs.erofs cannot make, see [`crate::image`].

use crate::{blob::Blob, daemon::Blobs, kernel::run};
use anyhow::{ensure, Context, Result};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fmt::Write,
    fs,
    io::Read,
    os::unix::fs::{symlink, MetadataExt},
    path::{Path, PathBuf},
};
use walkdir::WalkDir;

/// An image of the tree.
pub struct Kind {
    /// Its name; also its fsid.
    pub name: &'static str,
    options: &'static [&'static str],
    /// Whether its data are in a second blob, `NAME.blob`.
    pub has_blob: bool,
}

/// The images that are made.
pub const KINDS: [Kind; 4] = [
    // Every file's data in whole blocks.
    Kind {
        name: "plain",
        options: &["-Enoinline_data"],
        has_blob: false,
    },
    // The tail of a file beside its inode.
    Kind {
        name: "tail-packed",
        options: &["-Eforce-inode-extended"],
        has_blob: false,
    },
    Kind {
        name: "chunked",
        options: &["--chunksize=16384"],
        has_blob: true,
    },
    Kind {
        name: "lz4",
        options: &["-zlz4", "-Eztailpacking"],
        has_blob: false,
    },
];

/// The kind of this name.
pub fn kind(name: &str) -> Result<&'static Kind> {
    KINDS
        .iter()
        .find(|kind| kind.name == name)
        .with_context(|| format!("no image {name}"))
}

/// Makes the tree and its images in this directory.
pub fn make(dir: &Path) -> Result<()> {
    let source = dir.join("source");
    make_source(&source)?;
    for kind in &KINDS {
        let image = dir.join(kind.name);
        let blob = dir.join(format!("{}.blob", kind.name));
        let mut options: Vec<String> = kind.options.iter().map(|&option| option.into()).collect();
        if kind.has_blob {
            // mkfs.erofs wants the file to exist.
            fs::write(&blob, "")?;
            options.push(format!("--blobdev={}", blob.display()));
        }
        options.extend(["--quiet", "-T0", "-Uclear", "--all-root"].map(String::from));
        options.extend([image.display().to_string(), source.display().to_string()]);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        run("mkfs.erofs", &options)?;
    }
    let mut sums = String::new();
    for name in names(&source)? {
        let path = source.join(&name);
        if fs::symlink_metadata(&path)?.is_file() {
            sums += &format!("{} {}\n", hex(&checksum(&path)?), name.display());
        }
    }
    Ok(fs::write(dir.join(SUMS), sums)?)
}

/// The file with the checksums of the tree, as sha256sum would print them.
const SUMS: &str = "sums";

fn hex(sum: &[u8]) -> String {
    sum.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Everything below a directory, in order.
fn names(root: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in WalkDir::new(root).sort_by_file_name() {
        names.push(entry?.path().strip_prefix(root)?.to_owned());
    }
    Ok(names)
}

/// Files of every size that is next to a limit, some of them easy to compress.
fn make_source(dir: &Path) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(1);
    for sub in ["", "a", "a/b", "a/b/c", "many"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    let sizes = [
        0, 1, 511, 512, 4095, 4096, 4097, 8192, 16383, 16384, 16385, 65537, 300_000,
    ];
    for (number, size) in sizes.into_iter().enumerate() {
        let mut bytes = vec![0; size];
        random.fill(&mut bytes);
        fs::write(dir.join("a").join(format!("random-{size}")), &bytes)?;
        let line = format!("line {number} of a file that compresses well\n");
        let text: Vec<u8> = line.bytes().cycle().take(size * 2).collect();
        fs::write(dir.join("a/b").join(format!("text-{}", size * 2)), text)?;
    }
    for number in 0..40 {
        let mut bytes = vec![0; random.usize(..9000)];
        random.fill(&mut bytes);
        fs::write(dir.join("many").join(format!("file-{number}")), bytes)?;
    }
    let mut big = vec![0; 4 << 20];
    random.fill(&mut big);
    fs::write(dir.join("a/b/c/big"), big)?;
    // No file has a hole: over fscache EROFS of 6.12 reads as zeros all that follows a hole in the
    // same readahead (erofs_fscache_data_read_slice() does not stop at the end of the hole).
    for (target, name) in [("a/b/c/big", "link"), ("nowhere", "dangling")] {
        let link = dir.join(name);
        let _ = fs::remove_file(&link);
        symlink(target, link)?;
    }
    Ok(())
}

/// The blobs of a kind's image.
pub fn blobs(images: &Path, kind: &Kind) -> Result<Blobs> {
    let file = |name: &str| {
        let path = images.join(name);
        Blob::file(&path)
            .with_context(|| format!("no image {}: run it by make check", path.display()))
    };
    let mut blobs = Blobs::new().with(kind.name, file(kind.name)?);
    if kind.has_blob {
        let name = format!("{}.blob", kind.name);
        blobs = blobs.with(&name, file(&name)?);
    }
    Ok(blobs)
}

/// The mount options of a kind's image beside its fsid.
pub fn options(kind: &Kind) -> String {
    if kind.has_blob {
        format!("device={}.blob", kind.name)
    } else {
        String::new()
    }
}

/// The SHA-256 of a file.
pub fn checksum(path: &Path) -> Result<[u8; 32]> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buf = vec![0; 128 << 10];
    loop {
        let read = file
            .read(&mut buf)
            .with_context(|| format!("reading {}", path.display()))?;
        match buf.get(..read) {
            Some(bytes) if read != 0 => hash.update(bytes),
            _ => return Ok(hash.finalize().into()),
        }
    }
}

/// Compares a mounted image with the tree it was made of: every name, type, size, link and
/// checksum.  Returns the number of files.
pub fn compare(mounted: &Path, images: &Path) -> Result<usize> {
    let source = images.join("source");
    let listed = names(&source)?;
    ensure!(
        listed == names(mounted)?,
        "the image has other names than its source"
    );
    let sums = fs::read_to_string(images.join(SUMS))?;
    let sums: HashMap<&Path, &str> = sums
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(sum, name)| (Path::new(name), sum))
        .collect();
    let mut files = 0;
    for name in &listed {
        let (want, got) = (source.join(name), mounted.join(name));
        let (want_meta, got_meta) = (fs::symlink_metadata(&want)?, fs::symlink_metadata(&got)?);
        let same_type = want_meta.file_type() == got_meta.file_type();
        ensure!(same_type, "{} has another type", name.display());
        if want_meta.is_symlink() {
            ensure!(
                fs::read_link(&want)? == fs::read_link(&got)?,
                "link {}",
                name.display()
            );
        } else if want_meta.is_file() {
            ensure!(
                want_meta.size() == got_meta.size(),
                "the size of {}",
                name.display()
            );
            let same = sums.get(name.as_path()) == Some(&hex(&checksum(&got)?).as_str());
            ensure!(same, "the checksum of {} is wrong", name.display());
            files += 1;
        }
    }
    Ok(files)
}
