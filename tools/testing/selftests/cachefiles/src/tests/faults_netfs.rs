// SPDX-License-Identifier: GPL-2.0

//! No memory in the ordinary mode: each allocation of each operation of the cache fails once, one at a
//! time.  The netfs gets an error and no wrong byte, each transfer ends once (`netfs_caller/` says if
//! not), and the next try works.

use crate::{
    cachefilesd::{at_rest, is_bound, nothing_in_use, Keeper},
    caller::Caller,
    claim::cache_files,
    fault::{each_allocation, Fault},
    group,
    lab::{Cache, Lab},
    raw::errno,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Errno;
use std::{fs, io, ops::Range};

group!("faults_netfs":
    lookup_of_a_new_file,
    lookup_of_a_file_that_is_there,
    storing,
    storing_again,
    preparing_to_store_again,
    reading,
    invalidating,
    committing,
    withdrawing_the_cache,
);

/// What is stored.
const DATA: Range<u64> = 0..64 << 10;

/// A cache, and whoever has bound it, who goes first.
struct Scene<'a> {
    lab: &'a Lab,
    keeper: Keeper,
    cache: Cache,
}

impl Scene<'_> {
    fn new(lab: &Lab) -> Result<Scene<'_>> {
        let cache = lab.cache()?;
        let keeper = Keeper::plain(cache.dir())?;
        let scene = Scene { lab, keeper, cache };
        // The volume's directories are made, and the kernel has in memory what it keeps.
        scene.works()?;
        Ok(scene)
    }

    /// The cache may have died of what could not be written.
    fn bind_again(&mut self) -> Result<()> {
        if !is_bound() {
            self.keeper.stop()?;
            self.keeper = Keeper::plain(self.cache.dir())?;
        }
        Ok(())
    }

    /// A netfs whose file has its data in the cache, and in no file that was there before.
    fn stored(&self) -> Result<Caller> {
        let caller = self.fresh()?;
        caller.write(DATA).context("storing")?;
        Ok(caller)
    }

    /// A netfs whose file has nothing in the cache.
    fn fresh(&self) -> Result<Caller> {
        self.nothing_is_cached()?;
        Caller::load(self.lab)
    }

    /// No file is in the cache, nor in use.
    fn nothing_is_cached(&self) -> Result<()> {
        nothing_in_use()?;
        for file in cache_files(self.cache.dir()) {
            fs::remove_file(file)?;
        }
        Ok(())
    }

    /// All is well: what is stored is read, also by the next one.
    fn works(&self) -> Result<()> {
        let caller = self.stored()?;
        caller.read(DATA).context("reading what was stored")?;
        drop(caller);
        nothing_in_use()?;
        let caller = Caller::load_reader(self.lab)?;
        caller.read(DATA).context("reading what was committed")
    }

    /// Who has the file open goes on, but may find it out of service: what should have been stored in it
    /// was not.
    fn next_try(&mut self, caller: Caller) -> Result<()> {
        for got in [caller.read(DATA), caller.rewrite(DATA), caller.read(DATA)] {
            let refused = matches!(
                got.as_ref().map_err(errno),
                Err(Some(Errno::NOBUFS | Errno::NODATA))
            );
            ensure!(got.is_ok() || refused, "the next try: {got:?}");
        }
        self.next_one(caller)
    }

    /// Who had the file open goes.  For who comes next all is well, in another session if need be.
    fn next_one(&mut self, caller: Caller) -> Result<()> {
        drop(caller);
        self.bind_again()?;
        self.works()
    }
}

/// An operation that failed has said so with an errno that a netfs knows, and because of the fault.
fn told<T>(fault: &Fault, got: io::Result<T>) -> Result<Option<T>> {
    let error = match got {
        Ok(value) => return Ok(Some(value)),
        Err(error) => error,
    };
    ensure!(fault.hit()?, "failed although there was memory: {error}");
    let good = matches!(
        errno(&error),
        // The file system says EIO where it cannot read for want of memory; the others are FS-Cache's,
        // of a cookie that has no object, and that nothing is there.
        Some(Errno::NOMEM | Errno::IO | Errno::NOBUFS | Errno::NODATA)
    );
    ensure!(good, "the error was {error}");
    Ok(None)
}

/// The file is looked up behind the netfs's back, whose first operation waits for that.
fn lookup_of_a_new_file(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    each_allocation("lookup of a new file", 20, 1, |fault| {
        scene.nothing_is_cached()?;
        let (caller, got) = fault.during(|| {
            let caller = Caller::load(lab)?;
            let got = caller.write(DATA);
            Ok::<_, anyhow::Error>((caller, got))
        })??;
        if told(fault, got)?.is_some() {
            caller.read(DATA)?;
        }
        scene.next_one(caller)
    })
}

fn lookup_of_a_file_that_is_there(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    let at_least = lab.with_ours(12, 7);
    each_allocation("lookup of a file that is there", at_least, 1, |fault| {
        drop(scene.stored()?);
        nothing_in_use()?;
        let (caller, got) = fault.during(|| {
            let caller = Caller::load_reader(lab)?;
            let got = caller.read(DATA);
            Ok::<_, anyhow::Error>((caller, got))
        })??;
        told(fault, got)?;
        scene.next_one(caller)
    })
}

fn storing(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    each_allocation("write of what is missing", 10, 1, |fault| {
        let caller = scene.fresh()?;
        // The lookup is not what fails.
        at_rest()?;
        let got = fault.during(|| caller.write(DATA))?;
        if told(fault, got)?.is_some() {
            caller.read(DATA)?;
        }
        scene.next_try(caller)
    })
}

fn storing_again(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    each_allocation("write of what is there", 3, 1, |fault| {
        let caller = scene.stored()?;
        let got = fault.during(|| caller.rewrite(DATA))?;
        told(fault, got)?;
        scene.next_try(caller)
    })
}

fn preparing_to_store_again(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    // It asks for no memory.
    each_allocation("preparing a write", 0, 1, |fault| {
        let caller = scene.stored()?;
        let got = fault.during(|| caller.prepare(&DATA, DATA.end))?;
        if let Some(range) = told(fault, got)? {
            ensure!(range == DATA, "{range:?} may be written");
        }
        scene.next_try(caller)
    })
}

fn reading(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    each_allocation("read of what is there", 3, 1, |fault| {
        let caller = scene.stored()?;
        // It comes from the disk, as everything in the cache does.
        let got = fault.during(|| caller.read(DATA))?;
        told(fault, got)?;
        caller.read(DATA).context("the next try")?;
        scene.next_try(caller)
    })
}

/// Whatever fails, what was there before is not read after.
fn invalidating(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    each_allocation("invalidation", 5, 1, |fault| {
        let caller = scene.stored()?;
        let got = fault.during(|| {
            caller.invalidate()?;
            // It waits for that.
            caller.read(DATA)
        })?;
        let hit = fault.hit()?;
        let nothing = |got: io::Result<()>| match got.as_ref().map_err(errno) {
            Err(Some(Errno::NODATA)) => Ok(()),
            Err(Some(Errno::NOBUFS)) if hit => Ok(()),
            got => Err(anyhow::anyhow!("a read of what is invalid: {got:?}")),
        };
        nothing(got)?;
        nothing(caller.read(DATA)).context("once more")?;
        drop(caller);
        scene.bind_again()?;
        nothing_in_use()?;
        let caller = Caller::load_reader(lab)?;
        // C has the old data for the new: `netfs_invalidation:invalidation_that_fails`.
        let got = caller.read(DATA);
        if !lab.is_peer() || got.is_err() {
            nothing(got).context("the next one")?;
        }
        drop(caller);
        scene.works()
    })
}

/// The netfs lets go of its file, which gets its name and its attribute.
fn committing(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    let (mut rounds, mut lost) = (0, 0);
    each_allocation("commit", 3, 1, |fault| {
        let caller = scene.stored()?;
        fault.during(|| {
            drop(caller);
            nothing_in_use()
        })??;
        scene.bind_again()?;
        rounds += 1;
        let caller = Caller::load_reader(lab)?;
        if told(fault, caller.read(DATA))?.is_none() {
            lost += 1;
        }
        drop(caller);
        scene.works()
    })?;
    println!("{lost} times of {rounds} the file was not kept");
    Ok(())
}

/// The cache goes while a netfs has its file open.
fn withdrawing_the_cache(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab)?;
    each_allocation("end of the cache", 8, 1, |fault| {
        let caller = scene.stored()?;
        fault.during(|| scene.keeper.stop())??;
        let got = caller.read(DATA);
        ensure!(
            got.as_ref().map_err(errno) == Err(Some(Errno::NOBUFS)),
            "a read without a cache: {got:?}"
        );
        scene.next_one(caller)
    })
}
