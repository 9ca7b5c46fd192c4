// SPDX-License-Identifier: GPL-2.0

//! Six images, four of them in one domain and sharing two blobs, that are mounted, read, culled
//! and lost at random; and the daemon of this, which culls by itself as nydusd does.
//!
//! Lives here: the images, the errors that are allowed, and the daemon's process.  Never here: a
//! test.

use crate::{
    blob::{pattern, Blob},
    daemon::{Blobs, Daemon},
    image::{Image, BLOCK},
    lab::free_device,
    layout,
    mount::{try_mount, Mount},
    raw::errno,
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{Device, Errno};
use rustix::fs::{fadvise, Advice};
use std::{env, fs::File, io, os::unix::fs::FileExt, path::Path, thread, time::Duration};

/// An image.
pub struct Field {
    fsid: &'static str,
    domain: Option<&'static str>,
    shared: &'static str,
    /// Of the pattern of its own blob.
    seed: u64,
}

const fn field(
    fsid: &'static str,
    domain: Option<&'static str>,
    shared: &'static str,
    seed: u64,
) -> Field {
    Field {
        fsid,
        domain,
        shared,
        seed,
    }
}

/// The images.
pub const FIELDS: [Field; 6] = [
    field("one", Some("d"), "left", 11),
    field("two", Some("d"), "left", 12),
    field("three", Some("d"), "right", 13),
    field("four", Some("d"), "right", 14),
    field("five", None, "left", 15),
    field("six", None, "right", 16),
];

/// Blocks of a blob; each is a chunk of its own.
const BLOCKS: u32 = 24;

/// The seed of a shared blob's pattern.
fn shared_seed(name: &str) -> u64 {
    match name {
        "left" => 21,
        _ => 22,
    }
}

fn source(seed: u64) -> Blob {
    let size = u64::from(BLOCKS) * BLOCK;
    Blob::Pattern { seed, size }
}

/// What the daemon serves.
pub fn blobs() -> Blobs {
    let mut blobs = Blobs::new()
        .with("left", source(shared_seed("left")))
        .with("right", source(shared_seed("right")));
    let chunks = |device| (0..BLOCKS).map(|block| (device, block)).collect::<Vec<_>>();
    for field in &FIELDS {
        let image = Image::new()
            .device(field.own())
            .device(field.shared)
            .file("own", 0, chunks(1))
            .file("shared", 0, chunks(2))
            .build();
        blobs = blobs
            .with(field.fsid, image)
            .with(field.own(), source(field.seed));
    }
    blobs
}

/// Every cookie: its volume's key and its own.
fn cookies() -> Vec<(String, String)> {
    let of = |field: &Field| {
        let keys = [field.fsid.to_owned(), field.own(), field.shared.to_owned()];
        keys.map(|key| (field.volume(), key))
    };
    let mut all: Vec<_> = FIELDS.iter().flat_map(of).collect();
    all.sort();
    all.dedup();
    all
}

impl Field {
    fn own(&self) -> String {
        format!("own-{}", self.fsid)
    }

    fn volume(&self) -> String {
        format!("erofs,{}", self.domain.unwrap_or(self.fsid))
    }

    /// Mounts it.
    pub fn mount(&self, base: &Path) -> Result<Mount, Errno> {
        let domain = self.domain.map(|domain| format!("domain_id={domain}"));
        let options = domain.unwrap_or_default();
        try_mount(base, self.fsid.as_bytes(), options.as_bytes())
    }

    /// Reads one block of one of its files, not from memory; wrong bytes are an error of ours.
    pub fn read(&self, mount: &Mount, random: &mut fastrand::Rng) -> Result<io::Result<()>> {
        let (name, seed) = match random.bool() {
            true => ("own", self.seed),
            false => ("shared", shared_seed(self.shared)),
        };
        self.read_block(mount, name, seed, random.u32(..BLOCKS))
    }

    /// Reads all of both files, which must be right.
    pub fn read_all(&self, mount: &Mount) -> Result<()> {
        for (name, seed) in [("own", self.seed), ("shared", shared_seed(self.shared))] {
            for block in 0..BLOCKS {
                self.read_block(mount, name, seed, block)?
                    .with_context(|| format!("{}, {name}, block {block}", self.fsid))?;
            }
        }
        Ok(())
    }

    fn read_block(
        &self,
        mount: &Mount,
        name: &str,
        seed: u64,
        block: u32,
    ) -> Result<io::Result<()>> {
        let at = u64::from(block) * BLOCK;
        let (mut got, mut want) = (vec![0; BLOCK as usize], vec![0; BLOCK as usize]);
        let mut read = || -> io::Result<()> {
            let file = File::open(mount.path(name))?;
            fadvise(&file, 0, None, Advice::Random)?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
            file.read_exact_at(&mut got, at)
        };
        if let Err(error) = read() {
            return Ok(Err(error));
        }
        pattern(seed, at, &mut want);
        ensure!(
            got == want,
            "{}, {name}, block {block}: wrong bytes, {:?} for {:?}",
            self.fsid,
            got.get(..8),
            want.get(..8)
        );
        Ok(Ok(()))
    }
}

/// Binds when the session before is over.
fn bind(cache: &Path) -> Result<Device> {
    let device = free_device(cache)?;
    device.bind_ondemand()?;
    Ok(device)
}

/// A daemon of the farm in this process.
pub fn serve(cache: &Path) -> Result<Daemon> {
    Daemon::over(bind(cache)?, blobs())
}

/// Serves the farm and culls at random, until it is killed.  Says `c` for each blob culled.
pub fn run(cache: &str, seed: &str) -> Result<()> {
    let cache = Path::new(cache);
    let mut random = fastrand::Rng::with_seed(seed.parse()?);
    let mut daemon = serve(cache)?;
    let cookies = cookies();
    println!("ready");
    while daemon.is_serving() {
        thread::sleep(Duration::from_micros(random.u64(..3000)));
        let (volume, key) = &cookies[random.usize(..cookies.len())];
        let file = layout::file(cache, volume, key.as_bytes())?;
        // The volume may not have been made yet.
        let Some(()) = file.parent().and_then(|dir| env::set_current_dir(dir).ok()) else {
            continue;
        };
        let cull = random.bool();
        let verb = if cull { "cull" } else { "inuse" };
        let line = format!("{verb} {}", layout::name(&file));
        match daemon.device()?.command(line.as_bytes()) {
            Ok(()) if cull => println!("c"),
            Ok(()) => {}
            Err(error) => match errno(&error) {
                // Somebody has it, or it was culled or never there.
                Some(Errno::BUSY | Errno::NOENT | Errno::STALE) => {}
                _ => bail!("{line} in {volume}: {error}"),
            },
        }
    }
    daemon.stop()?;
    bail!("the daemon has ended")
}
