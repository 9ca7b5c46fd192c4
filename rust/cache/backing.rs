// SPDX-License-Identifier: GPL-2.0

//! The file behind an object: there from lookup to withdrawal, and written to by the daemon.

use super::copies::Copies;
use super::disk::Disk;
use super::known::{Known, Removals};
use super::staging::Staging;
use super::trust::{Trust, Use};
use super::{inject, BLOCK};
use crate::ondemand::Store;
use crate::sys::block::Block;
use crate::sys::completion::{is_dying, Completion};
use crate::sys::errno::{ENOBUFS, EOPNOTSUPP};
use crate::sys::file::{Extent, File};
use crate::sys::fscache::Count;
use crate::sys::inode::InUse;
use crate::sys::iov_iter::IovIter;
use crate::sys::rwsem::RwSem;
use crate::sys::trace;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex, SpinLock};
use kernel::{new_mutex, new_spinlock};

/// An open cache file, marked in use.
pub(crate) struct CacheFile {
    /// The mark against culling. Dropped first.
    pub(crate) in_use: InUse,
    /// The file.
    pub(crate) file: File,
    /// Whether it has no name in the cache yet.
    pub(crate) unnamed: bool,
    /// If so, invalidations of the cookie that there had been before it was made.
    pub(crate) made_after: u32,
}

/// Where an object's data is.
#[pin_data]
pub(crate) struct Backing {
    disk: Arc<Disk>,
    /// Size of the netfs's file in bytes.
    size: AtomicU64,
    #[pin]
    file: SpinLock<Option<CacheFile>>,
    /// Whether the file holds what it should.
    pub(crate) trust: Trust,
    /// How long the netfs's file was when the file was found to be as that is, or whenever it was cut
    /// since, if that was shorter. 0 if the file was made since.
    valid_to: AtomicU64,
    /// Whether the file is marked on disk as being changed, or need not be.
    marked: AtomicBool,
    /// Whether that mark is there for good, or need not be.
    mark_is_safe: AtomicBool,
    /// Reads under way whose data is to be stored.
    pub(crate) copies: Copies,
    /// What of it is data.
    #[pin]
    pub(crate) known: Known,
    /// Whether the daemon has accepted the object, after which nobody waits for the daemon.
    accepted: AtomicBool,
    /// The lookup is over, with a file or without.
    #[pin]
    settled: Completion,
    /// Blocks that the daemon has written in part. Taken before the backing file is written.
    #[pin]
    staging: Mutex<Staging>,
}

impl Backing {
    /// Without a file.
    pub(crate) fn new(disk: &Arc<Disk>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Backing {
                disk: disk.clone(),
                size: AtomicU64::new(0),
                file <- new_spinlock!(None, "Backing::file"),
                trust: Trust::new(),
                valid_to: AtomicU64::new(0),
                marked: AtomicBool::new(false),
                mark_is_safe: AtomicBool::new(false),
                copies: Copies::new(),
                known <- Known::new(),
                accepted: AtomicBool::new(false),
                settled <- Completion::new(),
                staging <- new_mutex!(Staging::new(), "Backing::staging"),
            }),
            GFP_KERNEL,
        )
    }

    /// Sets the size of the netfs's file.
    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }

    /// Up to where the file may hold what the netfs's file had before this service, in bytes. What is
    /// behind has been stored since; every cut of the netfs's file has been followed since.
    pub(crate) fn valid_to(&self) -> u64 {
        self.valid_to.load(Ordering::Relaxed)
    }

    /// The file was found, and is as the netfs's file is, which has `size` bytes.
    pub(crate) fn found_valid_to(&self, size: u64) {
        self.valid_to.store(size, Ordering::Relaxed);
    }

    /// The netfs's file is to have `size` bytes.
    pub(crate) fn cut_to(&self, size: u64) {
        self.valid_to.fetch_min(size, Ordering::Relaxed);
    }

    /// Puts the file in service.
    pub(crate) fn install(&self, file: CacheFile) {
        drop(self.exchange(file, || ()));
        self.settle();
    }

    /// Puts a file without data in service; returns the one there was.
    pub(crate) fn replace_with_empty(&self, file: CacheFile) -> Option<CacheFile> {
        let made_after = file.made_after;
        // Nobody who has taken the old file can take the new one for used, nor store what was read
        // before.
        self.exchange(file, || {
            self.trust.begin_empty(made_after);
            self.copies.outdate();
            self.valid_to.store(0, Ordering::Relaxed);
        })
    }

    /// Puts another file in service, and does this before anybody can take it; returns the one there
    /// was.
    fn exchange(&self, file: CacheFile, before: impl FnOnce()) -> Option<CacheFile> {
        let mut in_service = self.file.lock();
        before();
        let old = in_service.replace(file);
        drop(in_service);
        self.known.forget();
        self.marked.store(false, Ordering::Relaxed);
        self.mark_is_safe.store(false, Ordering::Relaxed);
        old
    }

    /// Whether [`set_marked`](Self::set_marked) was called for the file in service.
    pub(crate) fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Relaxed)
    }

    /// Whether [`set_mark_safe`](Self::set_mark_safe) was called for the file in service.
    pub(crate) fn is_mark_safe(&self) -> bool {
        self.mark_is_safe.load(Ordering::Relaxed)
    }

    /// The mark of the file in service is on the disk, if it has one.
    pub(crate) fn set_mark_safe(&self) {
        self.mark_is_safe.store(true, Ordering::Relaxed);
    }

    /// The file in service is marked, or without a name.
    pub(crate) fn set_marked(&self) {
        self.marked.store(true, Ordering::Relaxed);
    }

    /// The lookup is over. Without a file from `install`, there will be none.
    pub(crate) fn settle(&self) {
        self.settled.complete();
    }

    /// Completed when the lookup is over.
    pub(crate) fn settled(&self) -> &Completion {
        &self.settled
    }

    /// The file, for the daemon. It may have heard of its success before the lookup that opens the
    /// file is over, and waits for that. Before, it would wait for itself.
    fn file_for_daemon(&self) -> Result<File> {
        if self.accepted.load(Ordering::Acquire) && self.settled.wait_killable(0).is_err() {
            return Err(EINTR);
        }
        self.file().ok_or(ENOBUFS)
    }

    /// Takes the file out of service.
    pub(crate) fn take(&self) -> Option<CacheFile> {
        self.file.lock().take()
    }

    /// The file, if it is in service.
    pub(crate) fn file(&self) -> Option<File> {
        self.file.lock().as_ref().map(|open| open.file.clone())
    }

    /// The file, for an operation that began after so many invalidations, if `now` says that there have
    /// been no more, and if the file has nothing of what was before.
    #[inline]
    pub(crate) fn file_for(&self, invalidations: u32, now: impl FnOnce() -> u32) -> Option<File> {
        let open = self.file.lock();
        let file = open.as_ref()?.file.clone();
        // The count changes before the file does.
        if now() != invalidations {
            drop(open);
            return None;
        }
        match self.trust.used(invalidations) {
            Use::Good => {}
            Use::Late => self.copies.outdate(),
            Use::None => {
                drop(open);
                return None;
            }
        }
        Some(file)
    }

    /// The file, if it is in service and has a name in the cache.
    pub(crate) fn named_file(&self) -> Option<File> {
        let open = self.file.lock();
        open.as_ref()
            .filter(|open| !open.unnamed)
            .map(|open| open.file.clone())
    }

    /// Writes what lies within one block, `at` or behind its start, or keeps it until the block is
    /// whole.
    fn write_part(&self, file: &File, at: u64, bytes: &[u8]) -> Result {
        let block = at / BLOCK;
        let start = block * BLOCK;
        let size = self.size.load(Ordering::Relaxed);
        // What is needed of the block that holds the end of the file is only what comes before it.
        let needed = match size.checked_sub(start) {
            Some(left) if left > 0 => left.min(BLOCK),
            _ => BLOCK,
        };
        let mut staging = self.staging.lock();
        // CAST: At most a block.
        let offset = (at - start) as usize;
        let removals = self.removals(file);
        if is_whole(file, start)? {
            // These bytes are only written again.
            let mut whole = Block::zeroed()?;
            file.read_block(start, &mut whole)?;
            if !Known::nothing_removed_since(file, removals) {
                // It may have been zeros.
                return Err(EIO);
            }
            let place = whole.get_mut(offset..offset + bytes.len()).ok_or(EINVAL)?;
            place.copy_from_slice(bytes);
            return self.add_block(file, start, &whole, true);
        }
        // CAST: At most a block.
        match staging.add(block, offset, bytes, needed as usize)? {
            Some(whole) => self.add_block(file, start, &whole, false),
            None => Ok(()),
        }
    }

    /// Makes `len` bytes at `at`, whole blocks, a hole again, without blocks of the disk.
    ///
    /// A direct write that fails can leave its blocks allocated and unwritten. The file system calls
    /// such a block a hole only as long as nobody has read it through the page cache; then it is
    /// zeros.
    ///
    /// Who has found such a block, of which a part was written, and has read it before this begins is
    /// not found out. A write ends in the midst of a block of ours on a full file system whose blocks are
    /// smaller, or if the daemon's files may not be longer (`RLIMIT_FSIZE`).
    fn punch(&self, file: &File, at: u64, len: u64) -> Result {
        let _acting = self.disk.cred.assume();
        let mut alone = None;
        // From now on whoever begins to read it waits, until after: see `removals`.
        let punched = self.known.while_removing(file, || {
            alone = Some(self.disk.writers.alone());
            punch_hole(file, at, len)
        });
        self.cleaned(punched)
    }

    /// Punches what is not data from `at` to `end`; what is stays. No read has taken it for data: see
    /// `Known::look`.
    fn free_holes(&self, file: &File, at: u64, end: u64) -> Result {
        let _acting = self.disk.cred.assume();
        let _alone = self.disk.writers.alone();
        Known::drop_pages(file, at, end);
        self.cleaned(self.known.while_changing(|| {
            unless_unsupported(each_hole(file, at, end, |hole, len| {
                punch_hole(file, hole, len)
            }))
        }))
    }

    fn cleaned(&self, result: Result) -> Result {
        result.inspect_err(|error| {
            self.disk.io_error(format_args!(
                "Blocks that were not written cannot be removed: error {}",
                error.to_errno()
            ));
        })
    }

    /// What has been taken out of the file, for who is about to read it. Waits for who is just taking
    /// something out of it, so that a read that begins now need not fail.
    #[inline]
    pub(crate) fn removals(&self, file: &File) -> Removals {
        let removals = Known::removals(file);
        match removals.are_over() {
            true => removals,
            false => {
                drop(self.disk.writers.share());
                Known::removals(file)
            }
        }
    }

    /// Writes a block, or leaves a hole: half of it would pass for all of it. `again`: it is there, and
    /// half of it written again is the same.
    fn add_block(&self, file: &File, at: u64, block: &Block, again: bool) -> Result {
        let whole = {
            let _writing = self.disk.writers.share();
            file.write_block(at, block)?
        };
        if whole {
            return Ok(());
        }
        if !again {
            self.punch(file, at, BLOCK)?;
        }
        Err(EIO)
    }

    /// Writes the next block, which may be there already, through memory of our own; returns its size.
    fn copy_block(&self, file: &File, at: u64, from: &mut IovIter<'_>) -> Result<usize> {
        let mut block = Block::zeroed()?;
        // A fault comes before the file is touched, so that no part of a block gets there.
        if from.copy_out(&mut block) != block.len() {
            return Err(EFAULT);
        }
        let again = is_whole(file, at)?;
        self.add_block(file, at, &block, again)?;
        Ok(block.len())
    }

    /// Copies the next `len` bytes, less than a block, out of `from` and writes them at `at`.
    fn take_part(&self, file: &File, at: u64, len: usize, from: &mut IovIter<'_>) -> Result {
        let mut bytes = KVec::from_elem(0, len, GFP_KERNEL)?;
        if from.copy_out(&mut bytes) != len {
            return Err(EFAULT);
        }
        self.write_part(file, at, &bytes)
    }

    /// Writes whole blocks, `left` bytes at most, `directly` or through memory of ours; `done` grows by
    /// what was written. After an error, blocks behind that may be allocated and unwritten.
    fn write_middle(
        &self,
        file: &File,
        here: u64,
        left: usize,
        from: &mut IovIter<'_>,
        done: &mut usize,
        directly: &mut bool,
    ) -> Result {
        if is_dying() {
            return Err(EINTR);
        }
        let before = self.known.before_write(file);
        let writers = &self.disk.writers;
        let wrote = if *directly {
            match from.limited(left, |part| file.write_iter(here, part, writers)) {
                Err(EINVAL) => {
                    // The file system has another rule for memory, of which it tells when it may have
                    // made room for all of it.
                    *directly = false;
                    return self.free_holes(file, here, here + left as u64);
                }
                wrote => wrote?,
            }
        } else {
            self.copy_block(file, here, from)?
        };
        let part = wrote % BLOCK as usize;
        *done += wrote - part;
        self.known
            .written(before, file, here, here + (wrote - part) as u64);
        match (wrote, part) {
            (0, _) => Err(EIO),
            (_, 0) => Ok(()),
            // The daemon's memory or the disk ended in the middle of a block, which looks like data
            // now. It must not: the rest of it would read as zeros.
            _ => {
                self.punch(file, here + (wrote - part) as u64, BLOCK)?;
                Err(EFAULT)
            }
        }
    }

    /// Writes all of `from` at `at`; `done` grows by what was taken, which is not all if there is an
    /// error. Then blocks behind it may be allocated and unwritten.
    fn write_blocks(
        &self,
        file: &File,
        at: u64,
        from: &mut IovIter<'_>,
        done: &mut usize,
    ) -> Result {
        let len = from.count();
        // CAST: Less than a block.
        let head = ((BLOCK - at % BLOCK) % BLOCK) as usize;
        let head = head.min(len);
        if head > 0 {
            self.take_part(file, at, head, from)?;
            *done += head;
        }
        let tail = (len - head) % BLOCK as usize;
        let middle = len - head - tail;
        let mut directly = from.limited(middle, |part| file.takes_directly(part));
        while *done < head + middle {
            let left = head + middle - *done;
            let here = at + *done as u64;
            self.write_middle(file, here, left, from, done, &mut directly)?;
        }
        if tail > 0 {
            self.take_part(file, at + *done as u64, tail, from)?;
            *done += tail;
        }
        Ok(())
    }
}

/// Makes a hole, while nobody writes and acting for the cache: the daemon may not be allowed to.
fn punch_hole(file: &File, at: u64, len: u64) -> Result {
    inject::remove().and_then(|()| file.punch_hole(at, len))
}

/// Does this with the place and the length of each hole from `at` to `end`.
fn each_hole(
    file: &File,
    mut at: u64,
    end: u64,
    mut what: impl FnMut(u64, u64) -> Result,
) -> Result {
    while at < end {
        let hole = match file.next_hole(at)? {
            Extent::At(hole) if hole < end => hole,
            // What is behind the end of the file is none.
            _ => return Ok(()),
        };
        at = match file.next_data(hole)? {
            Extent::At(data) => data.min(end),
            Extent::None => end,
        };
        // It may just have been filled.
        if at > hole {
            what(hole, at - hole)?;
        }
    }
    Ok(())
}

/// How much of what lies from `at` to `end` is holes.
fn bytes_of_holes(file: &File, at: u64, end: u64) -> Result<u64> {
    let mut holes = 0;
    each_hole(file, at, end, |_, len| {
        holes += len;
        Ok(())
    })?;
    Ok(holes)
}

/// Frees what blocks a file that was found in the cache has and that were never written, as a power
/// cut in the middle of a fill leaves them. Nobody else reads the file; but a daemon's write to it, as to
/// an object of before, may still be under way, which `writers` tells.
///
/// They too are a hole only as long as nobody has read them through the page cache, as a backup
/// does.
pub(super) fn free_unwritten(file: &File, writers: &RwSem) -> Result {
    let size = file.size();
    Known::drop_pages(file, 0, size);
    let holes = bytes_of_holes(file, 0, size)?;
    // What the file system needs to find the blocks is counted too.
    if holes == 0 || file.allocated()? <= size - holes {
        return Ok(());
    }
    // Nobody fills a hole when it is about to be punched.
    let _alone = writers.alone();
    // That may have taken long.
    Known::drop_pages(file, 0, size);
    unless_unsupported(each_hole(file, 0, size, |hole, len| {
        file.punch_hole(hole, len)
    }))
}

/// Whether the block at `start` is data to its end.
fn is_whole(file: &File, start: u64) -> Result<bool> {
    let end = start + BLOCK;
    Known::look(file, start, end, || {
        Ok(
            matches!(file.next_data(start)?, Extent::At(data) if data == start)
                && matches!(file.next_hole(start)?, Extent::At(hole) if hole >= end),
        )
    })
}

/// A file system that cannot punch does not reserve what it has not written either.
fn unless_unsupported(punched: Result) -> Result {
    match punched {
        Err(EOPNOTSUPP) => Ok(()),
        punched => punched,
    }
}

impl Store for Backing {
    fn write(&self, object: u32, at: u64, from: &mut IovIter<'_>) -> Result<usize> {
        let file = self.file_for_daemon()?;
        let len = from.count();
        // The last byte must have a file offset.
        at.checked_add(len as u64)
            .filter(|&end| i64::try_from(end).is_ok())
            .ok_or(EFBIG)?;
        let _writing = {
            let _acting = self.disk.cred.assume();
            self.disk.begin_write(len as u64)?
        };
        trace::ondemand_fd_write(object, &file, at, len);
        trace::write(object, &file, at, len);
        Count::Write.bump();
        inject::write()?;
        let mut done = 0;
        let Err(error) = self.write_blocks(&file, at, from, &mut done) else {
            return Ok(done);
        };
        // No block can begin behind the last byte that a file can have.
        let (failed, end) = (at + done as u64, at + len as u64);
        self.free_holes(&file, failed - failed % BLOCK, end.next_multiple_of(BLOCK))?;
        match done {
            0 => Err(error),
            _ => Ok(done),
        }
    }

    fn accepted(&self) {
        self.accepted.store(true, Ordering::Release);
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<u64> {
        self.file_for_daemon()?.seek(offset, whence)
    }
}
