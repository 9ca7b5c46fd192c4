// SPDX-License-Identifier: GPL-2.0

//! One daemon's life from open to the last close, and what must hold afterwards.
//!
//! Lives here: the threads, when they end, and that they do.  Never here: what they do.

use super::{
    actor::Actor,
    line,
    session::Session,
    tally::Tally,
    user::{Mounts, User},
    world::World,
};
use crate::{
    kernel::Kmsg,
    lab::{eventually, Cache, Lab},
    patience::patiently,
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::{protocol::message::Layout, Device};
use fastrand::Rng;
use rustix::io::write;
use std::{
    env, fs,
    path::Path,
    sync::{Arc, LazyLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The daemon's threads.
const ACTORS: u32 = 4;
/// Those who mount, and those who read.
const MOUNTERS: u32 = 2;
const READERS: u32 = 3;

/// How long anything may take that has nobody to wait for.
static BOUND: LazyLock<Duration> = LazyLock::new(|| patiently(Duration::from_secs(15)));

/// What a round is.
#[derive(Clone, Copy)]
pub struct Plan {
    /// What all of it is made of.
    pub seed: u64,
    /// The protocol.
    pub layout: Layout,
    /// How many operations at least.
    pub operations: u64,
}

/// Runs a round, on a cache that is as the round before has left it.
pub fn run_round(lab: &Lab, cache: &Cache, world: &Arc<World>, plan: Plan) -> Result<(u64, Tally)> {
    let log = Kmsg::from_now()?;
    let mut random = Rng::with_seed(plan.seed);
    let session = Session::open(world, cache.dir(), plan.layout, lab.is_peer())?;
    bind(&session, &mut random)?;
    let mounts = Arc::new(Mounts::default());
    let mut actors = vec![];
    for number in 0..ACTORS {
        let actor = Actor::new(&session, random.u64(..))?;
        actors.push(start(&format!("actor{number}"), move || actor.run())?);
    }
    let mut users = vec![];
    let mut user = || User::new(&session, &mounts, lab.base().to_owned(), random.u64(..));
    for number in 0..MOUNTERS {
        let user = user();
        users.push(start(&format!("mounter{number}"), move || user.mount())?);
    }
    for number in 0..READERS {
        let user = user();
        users.push(start(&format!("reader{number}"), move || user.read())?);
    }
    let killer = user();
    users.push(start("killer", move || killer.kill())?);

    let progress = watch(&session, plan.operations);
    session.stop();
    let mut tally = Tally::default();
    let result = progress.and_then(|()| join(actors, "the daemon's own", &mut tally));
    // The daemon goes; whatever its threads were doing, those who wait for it must not.
    session.close(&mut random);
    let result = result.and_then(|()| join(users, "the daemon's users'", &mut tally));
    let wrongs = session.wrongs();
    ensure!(wrongs.is_empty(), "{}", wrongs.join("; "));
    result?;
    let operations = session.operations();
    // With this the sockets go, and what is in them.
    drop(session);
    env::set_current_dir("/")?;
    for mut mount in mounts.drain() {
        mount.unmount()?;
    }
    eventually("the session is over", || Device::open().is_ok())?;
    world.judge_cache(cache.dir())?;
    let splats = log.splats()?;
    ensure!(splats.is_empty(), "the kernel says: {}", splats.join("; "));
    Ok((operations, tally))
}

/// What a daemon does first, with some nonsense in between.
fn bind(session: &Session, random: &mut Rng) -> Result<()> {
    let dir = [b"dir ", session.dir.as_os_str().as_encoded_bytes()].concat();
    let bind = match (session.layout, random.bool()) {
        (Layout::V5, _) => "bind ondemand v5",
        // C knows no other.
        (Layout::Mainline, false) => "bind ondemand",
        (Layout::Mainline, true) if session.is_peer => "bind ondemand",
        (Layout::Mainline, true) => "bind ondemand mainline",
    };
    let device = session.device(random).context("no device")?;
    for command in [&dir[..], bind.as_bytes()] {
        for _ in 0..random.u32(0..20) {
            let nonsense = line::any(random, session.is_peer);
            // What would make the real one come too late.
            let early = [&b"dir"[..], b"bind"];
            if !early.iter().any(|word| nonsense.starts_with(word)) {
                let _ = write(&device, &nonsense);
            }
        }
        write(&device, command).with_context(|| format!("{}", command.escape_ascii()))?;
    }
    Ok(())
}

fn start(name: &str, run: impl FnOnce() -> Tally + Send + 'static) -> Result<JoinHandle<Tally>> {
    let thread = thread::Builder::new().name(name.to_owned());
    Ok(thread.spawn(run)?)
}

/// Waits for the operations to be done; they must go on.
fn watch(session: &Session, operations: u64) -> Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = session.operations();
        if now >= operations || session.is_stopped() {
            return Ok(());
        }
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > *BOUND {
            bail!("nothing was done for {:?}; {}", *BOUND, waiting());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for threads that must end.
fn join(threads: Vec<JoinHandle<Tally>>, whose: &str, tally: &mut Tally) -> Result<()> {
    let deadline = Instant::now() + *BOUND;
    for thread in threads {
        while !thread.is_finished() {
            if Instant::now() > deadline {
                bail!("{whose} threads hang: {}", waiting());
            }
            thread::sleep(Duration::from_millis(1));
        }
        let name = thread.thread().name().unwrap_or_default().to_owned();
        match thread.join() {
            Ok(one) => tally.add(&one),
            Err(_) => bail!("{name} panicked"),
        }
    }
    Ok(())
}

/// What all threads of this process are doing.
fn waiting() -> String {
    let tasks = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let tell = |dir: &Path| {
        let part = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        let stack = part("stack").replace('\n', " ");
        format!("{} in {}: {stack}", part("comm").trim(), part("wchan"))
    };
    tasks
        .map(|task| tell(&task.path()))
        .collect::<Vec<_>>()
        .join(" | ")
}
