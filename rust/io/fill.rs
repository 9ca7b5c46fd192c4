// SPDX-License-Identifier: GPL-2.0

//! What the daemon writes through an object's fd.
//!
//! Whole blocks go to the cache file directly, from the daemon's memory or, where the device cannot
//! take it, through memory of ours. Parts of blocks wait in `cache/partial.rs`. A block of the cache file
//! is written whole or not at all: half of it would pass for all of it.

use crate::cache::backing::Backing;
use crate::cache::file::{Begin, CacheFile};
use crate::cache::{inject, BLOCK};
use crate::ondemand::Store;
use crate::sys::block::{Blocks, SIZE};
use crate::sys::completion::is_dying;
use crate::sys::fscache::Count;
use crate::sys::iov_iter::IovIter;
use crate::sys::trace;
use core::sync::atomic::Ordering;
use kernel::alloc::flags::__GFP_NOWARN;
use kernel::prelude::*;

/// Blocks that are copied at once.
const AT_ONCE: usize = 16;

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
        trace::ondemand_fd_write(object, file.file(), at, len);
        trace::write(object, file.file(), at, len);
        Count::Write.bump();
        inject::write()?;
        let mut done = 0;
        match write_all(self, &file, at, from, &mut done) {
            Err(error) if done == 0 => Err(error),
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
        self.file_for_daemon()?.file().seek(offset, whence)
    }
}

/// Writes all of `from` at `at`; `done` grows by what was taken, which is not all after an error.
fn write_all(
    backing: &Backing,
    file: &CacheFile,
    at: u64,
    from: &mut IovIter<'_>,
    done: &mut usize,
) -> Result {
    let len = from.count();
    // CAST: Less than a block.
    let head = ((BLOCK - at % BLOCK) % BLOCK) as usize;
    let head = head.min(len);
    if head > 0 {
        take_part(backing, file, at, head, from)?;
        *done += head;
    }
    let tail = (len - head) % SIZE;
    write_whole(file, at, len - tail, from, done)?;
    if tail > 0 {
        take_part(backing, file, at + *done as u64, tail, from)?;
        *done += tail;
    }
    Ok(())
}

/// Writes whole blocks, until `done` is `end`.
fn write_whole(
    file: &CacheFile,
    at: u64,
    end: usize,
    from: &mut IovIter<'_>,
    done: &mut usize,
) -> Result {
    let mut directly = from.limited(end - *done, |part| file.file().takes_directly(part));
    let mut memory = None;
    while *done < end {
        if is_dying() {
            return Err(EINTR);
        }
        let here = at + *done as u64;
        let left = (end - *done).min(room(file, here)?);
        let asked = file.asked();
        let wrote = if directly {
            match from.limited(left, |part| file.file().write_iter(here, part)) {
                Err(EINVAL) => {
                    // The file system has another rule for memory than its device.
                    directly = false;
                    continue;
                }
                wrote => wrote?,
            }
        } else {
            let memory = match &mut memory {
                Some(memory) => memory,
                none => none.insert(bounce(left / SIZE)?),
            };
            let len = left.min(memory.len());
            // A fault comes before the file is touched.
            let copied = from.copy_out(memory.get_mut(..len).ok_or(EINVAL)?);
            match file
                .file()
                .write_blocks(here, memory, copied - copied % SIZE)?
            {
                wrote if wrote == len => wrote,
                wrote => {
                    // What was copied cannot be given back.
                    *done += wrote - wrote % SIZE;
                    return Err(if copied < len { EFAULT } else { ENOSPC });
                }
            }
        };
        // On a full disk, a file system with smaller blocks may have taken a part of one of ours. The rest
        // of it is a hole, so that it does not count as data.
        let whole = wrote - wrote % SIZE;
        file.learn(asked, here, here + whole as u64);
        *done += whole;
        if whole == 0 || whole < wrote {
            return Err(ENOSPC);
        }
    }
    Ok(())
}

/// Memory for so many blocks, or for less.
fn bounce(count: usize) -> Result<Blocks> {
    Blocks::zeroed(count.clamp(1, AT_ONCE), GFP_KERNEL | __GFP_NOWARN)
        .or_else(|_| Blocks::zeroed(1, GFP_KERNEL))
}

/// How many bytes in whole blocks the task may write at `at`; `EFBIG` if none. Else the file system
/// would end a write at the task's limit, in the midst of a block.
fn room(file: &CacheFile, at: u64) -> Result<usize> {
    let limit = file.file().size_limit();
    let room = (limit - limit % BLOCK).saturating_sub(at);
    match usize::try_from(room).unwrap_or(usize::MAX) {
        0 => Err(EFBIG),
        room => Ok(room),
    }
}

/// Copies the next `len` bytes, less than a block, out of `from` and writes them at `at`.
fn take_part(
    backing: &Backing,
    file: &CacheFile,
    at: u64,
    len: usize,
    from: &mut IovIter<'_>,
) -> Result {
    let mut bytes = KVec::from_elem(0, len, GFP_KERNEL)?;
    if from.copy_out(&mut bytes) != len {
        return Err(EFAULT);
    }
    write_part(backing, file, at, &bytes)
}

/// Writes what lies within one block, `at` or behind its start, or keeps it until the block is whole.
fn write_part(backing: &Backing, file: &CacheFile, at: u64, bytes: &[u8]) -> Result {
    let block = at / BLOCK;
    let start = block * BLOCK;
    // CAST: At most a block, all three.
    let offset = (at - start) as usize;
    // Of the block that the netfs's file ends in, only what comes before the end is needed.
    let needed = match backing.size().checked_sub(start) {
        Some(left) if left > 0 => left.min(BLOCK) as usize,
        _ => BLOCK as usize,
    };
    room(file, start)?;
    let mut partial = backing.partial.lock();
    let whole = match file.begins_with(start, start + BLOCK)? {
        Begin::DataTo(end) if end == start + BLOCK => {
            let mut whole = Blocks::zeroed(1, GFP_KERNEL)?;
            file.file().read_blocks(start, &mut whole)?;
            let place = whole.get_mut(offset..offset + bytes.len()).ok_or(EINVAL)?;
            place.copy_from_slice(bytes);
            whole
        }
        _ => match partial.add(block, offset, bytes, needed)? {
            Some(whole) => whole,
            None => return Ok(()),
        },
    };
    let asked = file.asked();
    match file.file().write_blocks(start, &whole, SIZE)? {
        SIZE => {
            file.learn(asked, start, start + BLOCK);
            Ok(())
        }
        _ => Err(ENOSPC),
    }
}
