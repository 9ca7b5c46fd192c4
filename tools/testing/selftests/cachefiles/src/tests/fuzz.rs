// SPDX-License-Identifier: GPL-2.0

//! A daemon that does whatever comes into its head; see [`crate::fuzz`] for what must hold.
//!
//! From the environment: `FUZZ_SEED` brings back a run of that kind, `FUZZ_OPERATIONS` sets how
//! much a case does, `FUZZ_SECONDS` how long a case goes on instead.

use crate::{
    fuzz::{run_round, Plan, Tally, World},
    group,
    ktap::{in_ci, Skip},
    lab::{Cache, Lab},
    mount::Mount,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::protocol::message::Layout;
use fastrand::Rng;
use std::{
    env, fs, io,
    os::unix::fs::FileExt,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

group!("fuzz":
    mainline,
    v5,
);

/// What a case does unless told otherwise: in the continuous integration, and for a person who waits.
const OPERATIONS_IN_CI: u64 = 101_000;
const OPERATIONS: u64 = 10_000;
/// What of that is done in one daemon's life.
const ROUND: u64 = 10_000;

fn mainline(lab: &Lab) -> Result<()> {
    // Who says how much of it wants it there, too.
    let asked = ["FUZZ_SEED", "FUZZ_OPERATIONS", "FUZZ_SECONDS"];
    if lab.is_peer() && asked.iter().all(|name| env::var_os(name).is_none()) {
        return Err(Skip("C leaves readers and mounts waiting for ever".to_owned()).into());
    }
    fuzz(lab, Layout::Mainline)
}

fn v5(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C speaks mainline only".to_owned()).into());
    }
    fuzz(lab, Layout::V5)
}

fn from_environment<T: FromStr>(name: &str) -> Result<Option<T>> {
    match env::var(name) {
        Ok(value) if !value.is_empty() => {
            let number = value.parse().ok();
            Ok(Some(number.with_context(|| format!("{name}={value}"))?))
        }
        _ => Ok(None),
    }
}

fn fuzz(lab: &Lab, layout: Layout) -> Result<()> {
    let seed = from_environment("FUZZ_SEED")?.unwrap_or_else(|| fastrand::u64(..));
    let usual = match in_ci() {
        true => OPERATIONS_IN_CI,
        false => OPERATIONS,
    };
    let operations = from_environment("FUZZ_OPERATIONS")?.unwrap_or(usual);
    let seconds: Option<u64> = from_environment("FUZZ_SECONDS")?;
    println!("FUZZ_SEED={seed}");
    let world = Arc::new(World::new());
    let mut cache = lab.cache()?;
    let mut random = Rng::with_seed(seed);
    let (mut done, mut rounds, mut tally) = (0, 0, Tally::default());
    let start = Instant::now();
    let goes_on = |done, tally: &Tally| match seconds {
        Some(seconds) => start.elapsed() < Duration::from_secs(seconds),
        // In one daemon's life it may be that next to no mount came to pass.
        None => done < operations || done < 3 * operations && was_real(tally, done).is_err(),
    };
    while goes_on(done, &tally) {
        let plan = Plan {
            seed: random.u64(..),
            layout,
            operations: ROUND,
        };
        let (more, counts) = run_round(lab, &cache, &world, plan)
            .with_context(|| format!("round {rounds} of FUZZ_SEED={seed}"))?;
        done += more;
        rounds += 1;
        tally.add(&counts);
        between_rounds(&mut cache, &mut random)?;
    }
    let took = start.elapsed();
    println!(
        "{done} operations in {rounds} rounds, {} ms: {} a second",
        took.as_millis(),
        done * 1000 / (took.as_millis() as u64).max(1)
    );
    tally.lines().iter().for_each(|line| println!("{line}"));
    all_can_be_read(lab, &cache, &world)?;
    println!(
        "all can be read, {} ms",
        (start.elapsed() - took).as_millis()
    );
    was_real(&tally, done)
}

/// The next round may find a cache, or an empty one, or the module new.
fn between_rounds(cache: &mut Cache, random: &mut Rng) -> Result<()> {
    if random.u32(0..3) == 0 {
        for dir in ["cache", "graveyard"] {
            match fs::remove_dir_all(cache.dir().join(dir)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
    }
    if random.u32(0..3) == 0 {
        cache.module.reload()?;
    }
    Ok(())
}

/// A daemon of good manners finds the cache in order: every byte comes, and is right.
fn all_can_be_read(lab: &Lab, cache: &Cache, world: &World) -> Result<()> {
    let _daemon = cache.serve(world.blobs())?;
    for image in &world.images {
        let mount = Mount::with(lab.base(), &image.fsid, image.more)?;
        for file in &image.files {
            let bytes = fs::File::open(mount.path(&file.name))?;
            for block in (0..file.blocks).step_by(8) {
                let mut got = vec![0; 8 << 12];
                // What was lied about may have been given a wrong size, which is its own now.
                match bytes.read_exact_at(&mut got, block << 12) {
                    Err(error) if world.sources[file.source].honest => {
                        return Err(error).with_context(|| format!("{}: {block}", file.name))
                    }
                    Err(_) => {}
                    Ok(()) => world.judge(file, block, &got)?,
                }
            }
        }
    }
    Ok(())
}

/// That so much was done is worth something only if readers met the daemon.
fn was_real(tally: &Tally, done: u64) -> Result<()> {
    for (kind, least) in [
        ("OPEN", done / 5000),
        ("READ", done / 2000),
        ("mount", done / 20_000),
        ("umount", 1),
        ("read of a page", done / 5000),
        ("killed reader", 1),
    ] {
        let times = tally.succeeded(kind);
        ensure!(times >= least, "'{kind}' happened {times} times only");
    }
    for kind in [
        "no command",
        "lseek",
        "pwrite",
        "ioctl of the device",
        "answer of the wrong kind",
    ] {
        let times = tally.tried(kind);
        ensure!(
            times >= done / 20_000,
            "'{kind}' was tried {times} times only"
        );
    }
    Ok(())
}
