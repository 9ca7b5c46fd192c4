// SPDX-License-Identifier: GPL-2.0

//! Those who use the images meanwhile: they mount, read, unmount, and are killed.
//!
//! Lives here: what they do, and that what they read is judged.  Never here: the daemon.

use super::{
    session::{lock, Session},
    tally::Tally,
    world::BlobImage,
};
use crate::{
    helper::Helper,
    image::BLOCK,
    mount::{try_mount, Mount},
    patience::SOON,
    raw::errno,
};
use fastrand::Rng;
use rustix::{
    fs::{fadvise, Advice},
    io::Errno,
};
use std::{
    fs::File,
    io,
    num::NonZero,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// What is mounted: a place for each image.
#[derive(Default)]
pub struct Mounts([Mutex<Option<Mount>>; 4]);

impl Mounts {
    /// Takes all out.
    pub fn drain(&self) -> impl Iterator<Item = Mount> + '_ {
        self.0.iter().filter_map(|place| lock(place).take())
    }
}

/// A user.
pub struct User {
    session: Arc<Session>,
    mounts: Arc<Mounts>,
    base: PathBuf,
    random: Rng,
    tally: Tally,
}

impl User {
    /// A user with this seed.
    pub fn new(session: &Arc<Session>, mounts: &Arc<Mounts>, base: PathBuf, seed: u64) -> User {
        User {
            session: Arc::clone(session),
            mounts: Arc::clone(mounts),
            base,
            random: Rng::with_seed(seed),
            tally: Tally::default(),
        }
    }

    fn note(&mut self, kind: &'static str, error: Option<Errno>) {
        self.session.count();
        self.tally.count(kind, error);
    }

    /// One that mounts and unmounts.
    pub fn mount(mut self) -> Tally {
        while !self.session.is_stopped() {
            let at = self.random.usize(..self.mounts.0.len());
            let mounts = Arc::clone(&self.mounts);
            let (Some(place), session) = (mounts.0.get(at), Arc::clone(&self.session)) else {
                break;
            };
            let mounted = lock(place).take();
            match mounted {
                Some(mount) if self.random.u32(0..4) == 0 => self.unmount(mount, place),
                Some(mount) => {
                    self.put(mount, place);
                    thread::sleep(Duration::from_micros(500));
                }
                None => {
                    let Some(image) = session.world.images.get(at) else {
                        break;
                    };
                    let more = image.more.as_bytes();
                    match try_mount(&self.base, image.fsid.as_bytes(), more) {
                        Ok(mount) => {
                            self.note("mount", None);
                            self.put(mount, place);
                        }
                        Err(error) => self.note("mount", Some(error)),
                    }
                }
            }
        }
        self.tally
    }

    /// Puts it in its place; another mounter may have been faster, then it is one too many.
    fn put(&mut self, mount: Mount, place: &Mutex<Option<Mount>>) {
        let other = lock(place).replace(mount);
        if let Some(other) = other {
            self.detach(other);
        }
    }

    fn unmount(&mut self, mut mount: Mount, place: &Mutex<Option<Mount>>) {
        match mount.unmount() {
            Ok(()) => self.note("umount", None),
            Err(error) => {
                let error = error.downcast_ref::<Errno>().copied();
                self.note("umount", error.or(Some(Errno::IO)));
                if self.random.bool() {
                    self.detach(mount);
                } else {
                    self.put(mount, place);
                }
            }
        }
    }

    fn detach(&mut self, mount: Mount) {
        let error = mount.detach().err();
        self.note("lazy umount", error);
    }

    /// Some file of some mounted image.
    fn some_file(&mut self) -> Option<(PathBuf, usize, usize)> {
        let at = self.random.usize(..self.mounts.0.len());
        let files = &self.session.world.images.get(at)?.files;
        let file = self.random.usize(..files.len());
        let name = &files.get(file)?.name;
        let mounted = lock(self.mounts.0.get(at)?);
        Some((mounted.as_ref()?.path(name), at, file))
    }

    /// One that reads, and looks at what it gets.
    pub fn read(mut self) -> Tally {
        while !self.session.is_stopped() {
            let Some((path, at, file)) = self.some_file() else {
                thread::sleep(Duration::from_micros(500));
                continue;
            };
            match File::open(path) {
                Ok(open) => {
                    self.note("open of a file", None);
                    let session = Arc::clone(&self.session);
                    if let Some(image) = session.world.images.get(at) {
                        self.read_file(&open, image, file);
                    }
                }
                // It was just unmounted.
                Err(error) => self.note("open of a file", errno(&error)),
            }
        }
        self.tally
    }

    fn read_file(&mut self, open: &File, image: &BlobImage, file: usize) {
        let Some(file) = image.files.get(file) else {
            return;
        };
        // On C a range that is there only in part makes EROFS end a bio twice; so there it is a
        // page at a time, which is there or not.
        let ahead = !self.session.is_peer && self.random.bool();
        if !ahead {
            let _ = fadvise(open, 0, None, Advice::Random);
        }
        for _ in 0..self.random.u32(1..8) {
            if self.session.is_stopped() {
                return;
            }
            let block = self.random.u64(..file.blocks);
            let many = if ahead { self.random.u64(1..12) } else { 1 };
            let offset = block * BLOCK;
            let mut bytes = vec![0; (many.min(file.blocks - block) * BLOCK) as usize];
            let kind = if ahead {
                "read of pages"
            } else {
                "read of a page"
            };
            match open.read_at(&mut bytes, offset) {
                Ok(len) => {
                    self.note(kind, None);
                    let got = bytes.get(..len).unwrap_or_default();
                    if let Err(error) = self.session.world.judge(file, block, got) {
                        self.session.fail(format!("{}: {error:#}", image.fsid));
                    }
                    if len == 0 {
                        let what = format!("{} ends at block {block}", file.name);
                        self.session.fail(what);
                    }
                }
                Err(error) => self.read_failed(kind, &error),
            }
            if self.random.u32(0..6) == 0 {
                let len = NonZero::new(file.blocks * BLOCK);
                let error = fadvise(open, 0, len, Advice::DontNeed).err();
                self.note("fadvise", error);
            }
        }
    }

    fn read_failed(&mut self, kind: &'static str, error: &io::Error) {
        let error = errno(error);
        self.note(kind, error);
        // ENOBUFS is FS-Cache's own, for an object that was refused or withdrawn.
        if !matches!(error, Some(Errno::IO | Errno::NOBUFS)) {
            self.session.fail(format!("a read failed with {error:?}"));
        }
    }

    /// One that starts readers, and kills them.
    pub fn kill(mut self) -> Tally {
        while !self.session.is_stopped() {
            let Some((path, at, file)) = self.some_file() else {
                thread::sleep(Duration::from_millis(2));
                continue;
            };
            let files = self.session.world.images.get(at).map(|image| &image.files);
            let blocks = files
                .and_then(|files| files.get(file))
                .map_or(1, |f| f.blocks);
            let offset = (self.random.u64(..blocks) * BLOCK).to_string();
            let path = path.display().to_string();
            let Ok(mut helper) = Helper::start(&["read", &path, &offset, "4096"]) else {
                self.session.fail("no reader can be started".to_owned());
                break;
            };
            thread::sleep(Duration::from_micros(self.random.u64(..8000)));
            let _ = helper.kill();
            match helper.finish(*SOON) {
                Ok(_) => self.note("killed reader", None),
                Err(error) => self.session.fail(format!("a killed reader: {error}")),
            }
        }
        self.tally
    }
}
