// SPDX-License-Identifier: GPL-2.0

//! Which files of the cache to cull.
//!
//! Lives here: walking the cache's directories, and keeping the files that were not used for longest
//! in bounded memory.  Never here: when to cull, the device, or the graveyard.
//!
//! ```text
//! <dir>/cache/I<volume key>/@<two digits>/<cooked cookie key>
//! ```

use std::collections::BinaryHeap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

/// What the kernel says and does about a name in a directory of the cache.
pub trait Kernel {
    /// Whether it could be culled; false if it is in use, or gone.
    fn may_cull(&self, dir: &Path, name: &OsStr) -> io::Result<bool>;

    /// Culls it; false if it is in use, or gone.
    fn cull(&self, dir: &Path, name: &OsStr) -> io::Result<bool>;
}

/// A file that may be culled.  The order is that of culling.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Victim {
    /// When it was used last: seconds and nanoseconds.
    pub used: (i64, i64),
    /// Bytes that it has on the disk.
    pub bytes: u64,
    /// Its directory.
    pub dir: Rc<Path>,
    /// Its name there.
    pub name: OsString,
}

/// The files that were not used for longest, of any number.
#[derive(Debug)]
pub struct Oldest {
    /// The youngest is on top.
    heap: BinaryHeap<Victim>,
    most: usize,
}

impl Oldest {
    /// Keeps at most so many.
    pub fn new(most: usize) -> Self {
        Self {
            heap: BinaryHeap::new(),
            most,
        }
    }

    /// Whether a file that was used then would be kept.
    fn wants(&self, used: (i64, i64)) -> bool {
        self.heap.len() < self.most
            || self
                .heap
                .peek()
                .is_some_and(|youngest| used < youngest.used)
    }

    /// Keeps a file, in place of the youngest if there are enough.
    fn add(&mut self, victim: Victim) {
        self.heap.push(victim);
        if self.heap.len() > self.most {
            self.heap.pop();
        }
    }

    /// The files, the oldest first.
    pub fn into_sorted(self) -> Vec<Victim> {
        self.heap.into_sorted_vec()
    }
}

/// What there is to cull.
#[derive(Debug)]
pub struct Survey {
    /// Files that are not in use.
    pub oldest: Oldest,
    /// Names of volumes that have no file; they may be in use.
    pub empty_volumes: Vec<OsString>,
}

impl Survey {
    /// Looks at the whole cache, and remembers at most `most` of each kind.  Ends early if `stop` says
    /// so.
    pub fn of(
        cache: &Path,
        kernel: &dyn Kernel,
        most: usize,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let mut survey = Self {
            oldest: Oldest::new(most),
            empty_volumes: vec![],
        };
        for volume in directories(cache, b'I')? {
            let path = cache.join(&volume);
            let mut files = 0;
            for fan in directories(&path, b'@')? {
                if stop() {
                    return Ok(survey);
                }
                files += survey.look_into(path.join(fan).into(), kernel)?;
            }
            if files == 0 && survey.empty_volumes.len() < most {
                survey.empty_volumes.push(volume);
            }
        }
        Ok(survey)
    }

    /// Looks at the files of one directory; says how many there are.
    fn look_into(&mut self, dir: Rc<Path>, kernel: &dyn Kernel) -> io::Result<u64> {
        let mut files = 0;
        for entry in unless_gone(fs::read_dir(&dir))?.into_iter().flatten() {
            let entry = entry?;
            let Some(meta) = unless_gone(entry.metadata())?.filter(fs::Metadata::is_file) else {
                continue;
            };
            files += 1;
            let (used, name) = ((meta.atime(), meta.atime_nsec()), entry.file_name());
            if self.oldest.wants(used) && can_be_named(&name) && kernel.may_cull(&dir, &name)? {
                self.oldest.add(Victim {
                    used,
                    // That is what a block is here, whatever the file system's.
                    bytes: meta.blocks() * 512,
                    dir: Rc::clone(&dir),
                    name,
                });
            }
        }
        Ok(files)
    }
}

/// The names of directories that begin with this letter.
fn directories(dir: &Path, letter: u8) -> io::Result<Vec<OsString>> {
    let mut names = vec![];
    for entry in unless_gone(fs::read_dir(dir))?.into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_bytes().first() == Some(&letter)
            && can_be_named(&name)
            && entry.file_type()?.is_dir()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether a command can have this name for its argument.  The kernel makes no other names.
fn can_be_named(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !bytes.contains(&b'\n') && !bytes.first().is_some_and(u8::is_ascii_whitespace)
}

/// The kernel removes stale files meanwhile.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::HashSet;
    use std::fs::{File, FileTimes};
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    /// A kernel that has these names in use.
    #[derive(Default)]
    pub struct FakeKernel {
        pub in_use: HashSet<OsString>,
        pub asked: RefCell<usize>,
    }

    impl Kernel for FakeKernel {
        fn may_cull(&self, dir: &Path, name: &OsStr) -> io::Result<bool> {
            *self.asked.borrow_mut() += 1;
            Ok(!self.in_use.contains(name) && dir.join(name).exists())
        }

        fn cull(&self, dir: &Path, name: &OsStr) -> io::Result<bool> {
            let path = dir.join(name);
            let may = self.may_cull(dir, name)?;
            match may && path.is_dir() {
                true => fs::rename(&path, dir.with_file_name("graveyard").join(name))?,
                false if may => fs::remove_file(&path)?,
                false => {}
            }
            Ok(may)
        }
    }

    /// A file of a cache, of this many bytes, that was used so many seconds after 1970.
    pub fn file(dir: &Path, volume: &str, name: &str, bytes: usize, used: u64) -> PathBuf {
        let fan = dir.join("cache").join(volume).join("@00");
        fs::create_dir_all(&fan).unwrap();
        let path = fan.join(name);
        fs::write(&path, vec![1; bytes]).unwrap();
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(used);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_accessed(used)).unwrap();
        path
    }

    fn survey(dir: &Path, kernel: &FakeKernel, most: usize) -> (Vec<OsString>, Vec<OsString>) {
        let survey = Survey::of(&dir.join("cache"), kernel, most, &|| false).unwrap();
        let files = survey.oldest.into_sorted();
        let names = files.into_iter().map(|victim| victim.name).collect();
        (names, survey.empty_volumes)
    }

    #[test]
    fn the_oldest_come_first_and_the_youngest_are_left_out() {
        let tmp = tempfile::tempdir().unwrap();
        for number in 0..50_u64 {
            // In no order, in two volumes.
            let used = 1000 + number * 37 % 50;
            let volume = if number % 2 == 0 { "Ia" } else { "Ib" };
            file(tmp.path(), volume, &format!("D{used}"), 1, used);
        }
        let kernel = FakeKernel::default();
        let (names, empty) = survey(tmp.path(), &kernel, 7);
        let want: Vec<_> = (1000..1007)
            .map(|used| OsString::from(format!("D{used}")))
            .collect();
        assert_eq!(names, want);
        assert!(empty.is_empty());
        assert!(*kernel.asked.borrow() < 50, "asked about each file");
    }

    #[test]
    fn what_is_in_use_takes_no_place() {
        let tmp = tempfile::tempdir().unwrap();
        for used in 0..10 {
            file(tmp.path(), "Ia", &format!("D{used}"), 1, used);
        }
        let in_use = (0..8).map(|used| format!("D{used}").into()).collect();
        let kernel = FakeKernel {
            in_use,
            ..FakeKernel::default()
        };
        assert_eq!(survey(tmp.path(), &kernel, 2).0, ["D8", "D9"]);
    }

    #[test]
    fn only_files_of_volumes_are_looked_at() {
        let tmp = tempfile::tempdir().unwrap();
        file(tmp.path(), "Ia", "Done", 1, 1);
        file(tmp.path(), "other", "Dfile", 1, 1);
        file(tmp.path(), "Ia", "two\nlines", 1, 1);
        let cache = tmp.path().join("cache");
        fs::write(cache.join("Ifile"), "").unwrap();
        fs::write(cache.join("Ia/Dstray"), "").unwrap();
        fs::create_dir_all(cache.join("Ia/@00/Ddir")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", cache.join("Ia/@00/Dlink")).unwrap();
        fs::create_dir_all(cache.join("Iempty/@01")).unwrap();
        let (names, empty) = survey(tmp.path(), &FakeKernel::default(), 9);
        assert_eq!(names, ["Done"]);
        assert_eq!(empty, ["Iempty"]);
    }

    #[test]
    fn a_cache_that_is_not_there_yet_has_nothing() {
        let (names, empty) = survey(Path::new("/nonexistent"), &FakeKernel::default(), 9);
        assert!(names.is_empty() && empty.is_empty());
    }
}
