// SPDX-License-Identifier: GPL-2.0

//! READ: what is asked for, and what the reader gets for every way to answer it.  Never zeros.

use crate::{
    blob::{Aligned, Blob},
    daemon::{Blobs, Manner, Read},
    group,
    image::{Image, BLOCK},
    lab::Lab,
    mount::Mount,
    stage::{
        self, expect_data, expect_error, expect_file, join, read_block, read_block_here, want,
        Stage, SIZE,
    },
};
use anyhow::{bail, ensure, Context, Result};
use cachefiles_client::Errno;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::FileExt,
    thread::{self, JoinHandle},
    time::Duration,
};

group!("read_request":
    asks_for_whole_blocks_that_are_missing,
    long_hole_is_several_reads,
    completed_without_writing,
    completed_after_a_failed_write,
    short_write,
    short_write_completed_later,
    write_at_unaligned_offset,
    write_in_odd_pieces,
    rewrite_part_of_a_cached_block,
    write_past_the_end,
    write_more_than_asked,
    completed_twice_or_with_a_wrong_id,
    completed_through_another_object,
    open_id_is_no_read_id,
    answered_in_reverse_order,
    whole_blob_written_at_open,
);

/// A block of the blob, where direct I/O takes it.
fn aligned(block: u32) -> Aligned {
    let mut bytes = Aligned::new(BLOCK as usize);
    bytes.copy_from_slice(&want(block));
    bytes
}

/// Writes what a READ asks for and completes it.
fn serve(read: &Read) -> Result<()> {
    let mut bytes = Aligned::new(usize::try_from(read.len)?);
    crate::blob::pattern(stage::SEED, read.offset, &mut bytes);
    read.object.write_all_at(&bytes, read.offset)?;
    read.object.complete_read(read.msg_id)?;
    Ok(())
}

/// Completes this READ, and the one that its reader's second try makes, without any more data; what the
/// reader got. (The page cache reads ahead first, and once more when that failed.)
fn complete_all(
    stage: &Stage,
    read: Read,
    reader: JoinHandle<io::Result<Vec<u8>>>,
) -> Result<io::Result<Vec<u8>>> {
    read.object.complete_read(read.msg_id)?;
    drop(read);
    while !reader.is_finished() {
        if let Ok(read) = stage.daemon.read_within(Duration::from_millis(2)) {
            read.object.complete_read(read.msg_id)?;
        }
    }
    join(reader)
}

/// The data that are written afterwards reach the reader: the failure has spoilt nothing.
fn recovers(stage: &Stage, block: u32) -> Result<()> {
    let reader = read_block(&stage.file(), block);
    let read = stage.daemon.read()?;
    serve(&read)?;
    expect_data(join(reader)?, block)
}

/// READs are for whole blocks, inside the blob, and never for what is cached.
fn asks_for_whole_blocks_that_are_missing(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let mut asked = BTreeSet::new();
    for block in [5, 6, 0, 63, 62, 30] {
        let reader = read_block(&stage.file(), block);
        let read = stage.daemon.read()?;
        ensure!(
            read.offset % BLOCK == 0 && read.len % BLOCK == 0,
            "{} {}",
            read.offset,
            read.len
        );
        ensure!(
            read.len > 0 && read.offset + read.len <= SIZE,
            "{} {}",
            read.offset,
            read.len
        );
        let start = u64::from(block) * BLOCK;
        ensure!(
            (read.offset..read.offset + read.len).contains(&start),
            "not what was missed"
        );
        for at in (read.offset..read.offset + read.len).step_by(BLOCK as usize) {
            ensure!(asked.insert(at), "the block at {at} is asked for again");
        }
        serve(&read)?;
        expect_data(join(reader)?, block)?;
    }
    // From the page cache, and from the cache file.
    expect_data(read_block_here(&stage.file(), 5), 5)?;
    crate::kernel::drop_caches()?;
    expect_data(read_block_here(&stage.file(), 5), 5)?;
    ensure!(
        stage.daemon.is_quiet(Duration::from_millis(50)),
        "a READ for cached data"
    );
    Ok(())
}

/// A read of more than daemons have buffers for is several READs, of which none is longer than those.
/// C asks for all of it at once.
fn long_hole_is_several_reads(lab: &Lab) -> Result<()> {
    const LEN: u64 = 8 << 20;
    const MOST: u64 = 2 << 20;
    let image = Image::new().device("blob").file("file", 11, [(1, 0)]);
    let blob = Blob::Pattern {
        seed: stage::SEED,
        size: LEN,
    };
    let blobs = Blobs::new().with("meta", image.build());
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs.with_manner("blob", blob.clone(), Manner::ManualReads))?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    // How much the page cache asks for at once.
    let mut disks = fs::read_dir("/sys/class/bdi")?.flatten();
    let erofs = disks.find(|disk| disk.file_name().to_string_lossy().starts_with("erofs-"));
    let erofs = erofs.context("EROFS has no bdi")?;
    fs::write(erofs.path().join("read_ahead_kb"), (LEN >> 10).to_string())?;
    let file = fs::File::open(mount.path("file"))?;
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; LEN as usize];
        file.read_exact_at(&mut bytes, 0).map(|()| bytes)
    });
    let mut longest = 0;
    while !reader.is_finished() {
        if let Ok(read) = daemon.read_within(Duration::from_millis(20)) {
            longest = longest.max(read.len);
            serve(&read)?;
        }
    }
    let got = join(reader)?.context("the reader")?;
    ensure!(got == blob.read(0, LEN as usize)?[..], "wrong bytes");
    println!("the longest READ was of {longest} bytes");
    let want = if lab.is_peer() { LEN } else { MOST };
    ensure!(longest == want, "the longest READ was of {longest} bytes");
    mount.unmount()
}

fn completed_without_writing(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::CompleteOnly)?;
    for block in [0, 1, 63] {
        expect_error(
            read_block_here(&stage.file(), block),
            Errno::IO,
            "no data were written",
        )?;
    }
    Ok(())
}

/// As nydusd does: the write fails, the READ is completed all the same.
fn completed_after_a_failed_write(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let reader = read_block(&stage.file(), 2);
    let read = stage.daemon.read()?;
    let failed =
        crate::raw::pwrite_from_bad_address(&*read.object, 4096, i64::try_from(read.offset)?);
    expect_error(failed, Errno::FAULT, "writing from a bad address")?;
    let got = complete_all(&stage, read, reader)?;
    expect_error(got, Errno::IO, "the write failed")?;
    recovers(&stage, 2)
}

/// Half a block: the reader gets an error, and nobody ever sees zeros.
fn short_write(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let reader = read_block(&stage.file(), 2);
    let read = stage.daemon.read()?;
    let half = (BLOCK / 2) as usize;
    let wrote = read.object.write_at(&aligned(2)[..half], read.offset);
    if lab.is_peer() {
        // C writes the half and the file system fills the block: C's reader gets zeros.
        println!("C takes half a block for a whole one; its reader sees zeros: {wrote:?}");
        read.object.complete_read(read.msg_id)?;
        let got = join(reader)??;
        ensure!(
            got[..half] == want(2)[..half],
            "the half that was written is wrong"
        );
        return Ok(());
    }
    ensure!(wrote? == half, "not all of the half was taken");
    let got = complete_all(&stage, read, reader)?;
    expect_error(got, Errno::IO, "half the block is missing")?;
    recovers(&stage, 2)
}

/// The other half later: then the block is whole.
fn short_write_completed_later(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let reader = read_block(&stage.file(), 2);
    let read = stage.daemon.read()?;
    let half = (BLOCK / 2) as usize;
    let bytes = aligned(2);
    ensure!(
        read.object.write_at(&bytes[..half], read.offset)? == half,
        "the first half"
    );
    let rest = read
        .object
        .write_at(&bytes[half..], read.offset + half as u64);
    if lab.is_peer() {
        // C takes no write that does not start at a page.
        println!("C refuses a write that starts inside a page: {rest:?}");
        expect_error(rest, Errno::NOBUFS, "a write that starts inside a page")?;
        read.object.write_all_at(&bytes, read.offset)?;
    } else {
        ensure!(rest? == half, "the second half");
    }
    read.object.complete_read(read.msg_id)?;
    expect_data(join(reader)?, 2)
}

/// A write that begins and ends inside blocks: the whole blocks in it are cached.
fn write_at_unaligned_offset(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let reader = read_block(&stage.file(), 3);
    let read = stage.daemon.read()?;
    let from = 2 * BLOCK + 100;
    let mut bytes = Aligned::new(BLOCK as usize * 2 + 1000);
    crate::blob::pattern(stage::SEED, from, &mut bytes);
    let wrote = read.object.write_at(&bytes, from);
    if lab.is_peer() {
        println!("C refuses a write that starts inside a page: {wrote:?}");
        expect_error(wrote, Errno::NOBUFS, "a write that starts inside a page")?;
        serve(&read)?;
        return expect_data(join(reader)?, 3);
    }
    ensure!(wrote? == bytes.len(), "not all was taken");
    read.object.complete_read(read.msg_id)?;
    expect_data(join(reader)?, 3)?;
    recovers(&stage, 2)?;
    recovers(&stage, 4)
}

/// One block in pieces of 1, 2, 3, ... bytes.
fn write_in_odd_pieces(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        println!("C takes no write that does not start at a page");
        return Ok(());
    }
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let reader = read_block(&stage.file(), 7);
    let read = stage.daemon.read()?;
    let bytes = aligned(7);
    let (mut at, mut piece) = (0, 1);
    while at < bytes.len() {
        let end = bytes.len().min(at + piece);
        let wrote = read
            .object
            .write_at(&bytes[at..end], read.offset + at as u64)?;
        ensure!(wrote == end - at, "{wrote} of {} bytes at {at}", end - at);
        (at, piece) = (end, piece + 1);
    }
    read.object.complete_read(read.msg_id)?;
    expect_data(join(reader)?, 7)
}

/// Parts of a block that is there already are written again in place, whatever their alignment.
fn rewrite_part_of_a_cached_block(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        println!("C takes no write that does not start at a page");
        return Ok(());
    }
    let mut stage = Stage::new(lab, Manner::ManualReads)?;
    let reader = read_block(&stage.file(), 3);
    let read = stage.daemon.read()?;
    let object = read.object.clone();
    serve(&read)?;
    expect_data(join(reader)?, 3)?;
    // The last of these runs into the next block, which does not get whole by it.
    for (from, len) in [(50, 100), (1, 1), (4095, 1), (100, 5000)] {
        let mut bytes = vec![0; len];
        let at = 3 * BLOCK + from;
        crate::blob::pattern(stage::SEED, at, &mut bytes);
        let wrote = object.write_at(&bytes, at)?;
        ensure!(
            wrote == len,
            "{wrote} of {len} bytes at {from} within the block"
        );
    }
    crate::kernel::drop_caches()?;
    expect_data(read_block_here(&stage.file(), 3), 3)?;
    recovers(&stage, 4)?;
    drop((read, object));
    stage.mount.unmount()?;
    stage.mount = Mount::new(lab.base(), "meta")?;
    expect_data(read_block_here(&stage.file(), 3), 3)
}

/// A prefetch may write beyond the size that the OPEN gave; it does no harm.
fn write_past_the_end(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::ManualReads)?;
    let reader = read_block(&stage.file(), 63);
    let read = stage.daemon.read()?;
    let mut bytes = Aligned::new(8 * BLOCK as usize);
    crate::blob::pattern(stage::SEED, read.offset, &mut bytes);
    let wrote = read.object.write_at(&bytes, read.offset)?;
    ensure!(
        wrote == bytes.len(),
        "{wrote} of {} bytes written over the end",
        bytes.len()
    );
    let far = read
        .object
        .write_at(&bytes[..BLOCK as usize], SIZE + (1 << 20))?;
    ensure!(far == BLOCK as usize, "{far} bytes written beyond the end");
    read.object.complete_read(read.msg_id)?;
    drop(read);
    expect_data(join(reader)?, 63)?;
    stage.mount.unmount()?;
    stage.mount = Mount::new(lab.base(), "meta")?;
    expect_data(read_block_here(&stage.file(), 63), 63)
}

/// What is written beyond a READ's range is there for later readers.
fn write_more_than_asked(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let reader = read_block(&stage.file(), 10);
    let read = stage.daemon.read()?;
    let mut bytes = Aligned::new(8 * BLOCK as usize);
    crate::blob::pattern(stage::SEED, 8 * BLOCK, &mut bytes);
    read.object.write_all_at(&bytes, 8 * BLOCK)?;
    read.object.complete_read(read.msg_id)?;
    expect_data(join(reader)?, 10)?;
    for block in 8..16 {
        expect_data(read_block_here(&stage.file(), block), block)?;
    }
    ensure!(
        stage.daemon.is_quiet(Duration::from_millis(50)),
        "a READ for what was written"
    );
    Ok(())
}

fn completed_twice_or_with_a_wrong_id(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let reader = read_block(&stage.file(), 1);
    let read = stage.daemon.read()?;
    for id in [
        read.msg_id.wrapping_add(1),
        read.msg_id.wrapping_sub(1),
        u32::MAX,
    ] {
        expect_error(
            read.object.complete_read(id),
            Errno::INVAL,
            "completing an unknown id",
        )?;
    }
    serve(&read)?;
    let again = read.object.complete_read(read.msg_id);
    expect_error(again, Errno::INVAL, "completing a READ twice")?;
    expect_data(join(reader)?, 1)
}

/// A READ can be completed through its own object's fd only.
fn completed_through_another_object(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let (one, two) = ("meta", "meta2");
    let blobs = stage::blobs_named(one, "blob", Manner::ManualReads);
    let image = Image::new()
        .device("blob2")
        .file("file", 0, [(1, 0), (1, 1)])
        .build();
    let source = Blob::Pattern {
        seed: stage::SEED,
        size: 2 * BLOCK,
    };
    let blobs = blobs
        .with(two, image)
        .with_manner("blob2", source, Manner::ManualReads);
    let daemon = cache.serve(blobs)?;
    let first = Mount::new(lab.base(), one)?;
    let second = Mount::new(lab.base(), two)?;
    let (reader1, reader2) = (
        read_block(&first.path("file"), 0),
        read_block(&second.path("file"), 0),
    );
    let (a, b) = (daemon.read()?, daemon.read()?);
    expect_error(
        a.object.complete_read(b.msg_id),
        Errno::INVAL,
        "through another object's fd",
    )?;
    expect_error(
        b.object.complete_read(a.msg_id),
        Errno::INVAL,
        "through another object's fd",
    )?;
    serve(&a)?;
    serve(&b)?;
    expect_data(join(reader1)?, 0)?;
    expect_data(join(reader2)?, 0)
}

/// An OPEN is not answered by a READ's answer, nor the reverse.
fn open_id_is_no_read_id(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(stage::blobs(Manner::Manual))?;
    let mount = Mount::new(lab.base(), "meta")?;
    let open = daemon.open()?;
    expect_error(
        open.object.complete_read(open.msg_id),
        Errno::INVAL,
        "an OPEN completed",
    )?;
    let device = daemon.device()?;
    device.open_reply(open.msg_id, Ok(SIZE))?;
    let reader = read_block(&mount.path("file"), 0);
    let read = daemon.read()?;
    expect_error(
        device.open_reply(read.msg_id, Ok(SIZE)),
        Errno::INVAL,
        "a READ answered by copen",
    )?;
    expect_error(
        device.open_reply(read.msg_id, Err(Errno::IO)),
        Errno::INVAL,
        "a READ refused",
    )?;
    serve(&read)?;
    expect_data(join(reader)?, 0)
}

/// Eight readers, answered last first.
fn answered_in_reverse_order(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let readers: Vec<_> = (0..8)
        .map(|n| (n * 4, read_block(&stage.file(), n * 4)))
        .collect();
    let mut reads = Vec::new();
    for _ in &readers {
        reads.push(stage.daemon.read()?);
    }
    let ids: BTreeSet<u32> = reads.iter().map(|read| read.msg_id).collect();
    ensure!(ids.len() == reads.len(), "two READs have one id: {ids:?}");
    for read in reads.iter().rev() {
        serve(read)?;
    }
    for (block, reader) in readers {
        expect_data(join(reader)?, block)?;
    }
    Ok(())
}

/// A daemon that writes the whole blob when it is opened is never asked for a READ of it.
fn whole_blob_written_at_open(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(stage::blobs(Manner::Manual))?;
    let mount = Mount::new(lab.base(), "meta")?;
    let open = daemon.open()?;
    let mut bytes = Aligned::new(usize::try_from(SIZE)?);
    crate::blob::pattern(stage::SEED, 0, &mut bytes);
    // The cache file may not be there before the answer.
    if let Err(error) = open.object.write_all_at(&bytes, 0) {
        expect_error::<()>(Err(error), Errno::NOBUFS, "writing before the answer")?;
    }
    daemon.device()?.open_reply(open.msg_id, Ok(SIZE))?;
    let mut tries = 0;
    while let Err(error) = open.object.write_all_at(&bytes, 0) {
        // The lookup goes on behind the answer.
        tries += 1;
        if tries == 500 {
            bail!("writing after the answer: {error}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    expect_file(&mount.path("file"))?;
    ensure!(
        daemon.is_quiet(Duration::from_millis(50)),
        "a READ for what was prefetched"
    );
    Ok(())
}
