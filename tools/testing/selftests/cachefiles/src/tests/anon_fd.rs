// SPDX-License-Identifier: GPL-2.0

//! The anonymous fd: writing, seeking, its ioctl, and its life beside the object's and the
//! device's.

use crate::{
    blob::{pattern, Aligned},
    daemon::{Blobs, Daemon, Event, Manner, Read},
    disk::Disk,
    file_system::{chosen, Property},
    group,
    image::BLOCK,
    kernel::{try_unload, Module},
    ktap::Skip,
    lab::{eventually, Lab},
    limit::Lowered,
    mapping::map_and_write,
    mount::Mount,
    patience::{numbered, sleeps, SOON},
    raw,
    stage::{self, expect_data, expect_error, join, read_block, read_block_here, Stage, SIZE},
    trace::Trace,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::{Device, Errno, ObjectFd, SeekFrom};
use rustix::{
    fs::{fadvise, Advice},
    process::Resource,
};
use std::{
    fs::File,
    io::IoSlice,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

group!("anon_fd":
    write_before_answer,
    writes_move_the_position,
    seeks_data_and_holes,
    takes_one_ioctl,
    cannot_be_read,
    bad_address,
    failed_write_leaves_no_blocks,
    outlives_the_object,
    outlives_the_device,
    writes_race_with_unmount,
    unaligned_buffer,
    unaligned_write_shows_nothing_early,
    unaligned_memory_costs_no_write_a_block,
    large_write,
    write_in_segments,
    write_cut_in_a_block,
    written_from_a_mapping_of_the_image,
    late_write_into_another_objects_file,
);

/// Bytes of the blob, where direct I/O takes them.
fn bytes(offset: u64, len: u64) -> Aligned {
    let mut bytes = Aligned::new(len as usize);
    pattern(stage::SEED, offset, &mut bytes);
    bytes
}

/// Writes what is asked for and says so.
fn answer(read: &Read) -> Result<()> {
    read.object
        .write_all_at(&bytes(read.offset, read.len), read.offset)?;
    Ok(read.object.complete_read(read.msg_id)?)
}

/// The fd of the blob, which is opened.
fn opened(stage: &Stage) -> Result<Arc<ObjectFd>> {
    fd_of(&stage.daemon, &stage.file())
}

/// The fd of the blob of an image's file.
fn fd_of(daemon: &Daemon, file: &Path) -> Result<Arc<ObjectFd>> {
    let reader = read_block(file, 60);
    let read = daemon.read()?;
    answer(&read)?;
    expect_data(join(reader)?, 60)?;
    Ok(read.object)
}

/// Before the OPEN is answered there is no cache file to write to: ENOBUFS, and no harm.
fn write_before_answer(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(stage::blobs(Manner::Manual))?;
    let mount = Mount::new(lab.base(), "meta")?;
    let open = daemon.open()?;
    expect_error(
        open.object.write_at(&bytes(0, BLOCK), 0),
        Errno::NOBUFS,
        "an early write",
    )?;
    expect_error(
        open.object.seek(SeekFrom::Data(0)),
        Errno::NOBUFS,
        "an early seek",
    )?;
    daemon.device()?.open_reply(open.msg_id, Ok(SIZE))?;
    let reader = read_block(&mount.path("file"), 0);
    let read = daemon.read()?;
    answer(&read)?;
    expect_data(join(reader)?, 0)
}

/// Several write() calls in a row go one behind the other.
fn writes_move_the_position(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    for block in 0..4_u64 {
        let wrote = fd.write(&bytes(block * BLOCK, BLOCK))?;
        ensure!(wrote == BLOCK as usize, "{wrote} bytes written");
    }
    let position = rustix::fs::seek(&*fd, SeekFrom::Current(0));
    if lab.is_peer() {
        // C seeks in the cache file, whose position nobody moves.
        println!("C tells the position of the cache file: {position:?}");
    } else {
        ensure!(position == Ok(4 * BLOCK), "the position is {position:?}");
    }
    for block in 0..4 {
        expect_data(read_block_here(&stage.file(), block), block)?;
    }
    ensure!(
        stage.daemon.is_quiet(Duration::from_millis(50)),
        "a READ for what was written"
    );
    Ok(())
}

/// SEEK_DATA and SEEK_HOLE tell what is cached.
fn seeks_data_and_holes(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    fd.write_all_at(&bytes(8 * BLOCK, 2 * BLOCK), 8 * BLOCK)?;
    ensure!(fd.seek(SeekFrom::Data(0))? == 8 * BLOCK, "the first data");
    ensure!(
        fd.seek(SeekFrom::Hole(8 * BLOCK))? == 10 * BLOCK,
        "the hole behind them"
    );
    ensure!(fd.seek(SeekFrom::Hole(0))? == 0, "the hole at the start");
    ensure!(
        fd.seek(SeekFrom::Data(10 * BLOCK))? == 60 * BLOCK,
        "the next data"
    );
    expect_error(
        fd.seek(SeekFrom::Data(61 * BLOCK)),
        Errno::NXIO,
        "no data behind",
    )?;
    expect_error(
        fd.seek(SeekFrom::Data(SIZE)),
        Errno::NXIO,
        "data at the end",
    )?;
    Ok(())
}

fn takes_one_ioctl(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    // FIONBIO and the like are the VFS's; these come to the driver.
    for request in [0x4004_9800, 0x4004_9802, 0x8004_9801, 0x9801] {
        let got = raw::ioctl(&*fd, request, 0);
        expect_error(got, Errno::INVAL, &format!("ioctl {request:#x}"))?;
    }
    expect_error(fd.complete_read(12345), Errno::INVAL, "an unknown id")?;
    Ok(())
}

fn cannot_be_read(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    let got = rustix::io::read(&*fd, &mut [0; 16][..]);
    ensure!(got == Err(Errno::BADF), "reading gave {got:?}");
    Ok(())
}

/// A write from a bad address fails and caches nothing.
fn bad_address(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    let got = raw::pwrite_from_bad_address(&*fd, 2 * BLOCK as usize, 0);
    expect_error(got, Errno::FAULT, "writing from a bad address")?;
    let reader = read_block(&stage.file(), 0);
    let read = stage.daemon.read()?;
    answer(&read)?;
    expect_data(join(reader)?, 0)
}

/// A direct write that fails leaves no block behind that is data to whoever reads the cache file in
/// the ordinary way, as a backup does, and then to us.
fn failed_write_leaves_no_blocks(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::ManualReads)?;
    drop(opened(&stage)?);
    // The file gets its name at the first unmount.
    stage.mount.unmount()?;
    let path = crate::layout::file(stage.cache.dir(), "erofs,meta", b"blob")?;
    eventually("the cache file", || path.exists())?;
    stage.mount = Mount::new(lab.base(), "meta")?;
    let reader = read_block(&stage.file(), 20);
    let read = stage.daemon.read()?;
    let got = raw::pwrite_from_bad_address(&*read.object, 16 * BLOCK as usize, 0);
    expect_error(got, Errno::FAULT, "writing from a bad address")?;
    let copy = std::fs::read(&path)?;
    ensure!(copy.len() as u64 == SIZE, "{} bytes", copy.len());
    let first = read.object.seek(SeekFrom::Data(0))?;
    if lab.is_peer() {
        println!("C: the first data is at {first}");
    } else {
        ensure!(first >= 16 * BLOCK, "zeros at {first} count as data");
    }
    answer(&read)?;
    expect_data(join(reader)?, 20)
}

/// After the unmount the fd takes nothing more, and does no harm (CVE-2024-56549).
fn outlives_the_object(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let daemon = cache.serve(stage::blobs(Manner::Manual))?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    let open = daemon.open()?;
    daemon.device()?.open_reply(open.msg_id, Ok(SIZE))?;
    let reader = read_block(&mount.path("file"), 0);
    let read = daemon.read()?;
    answer(&read)?;
    expect_data(join(reader)?, 0)?;
    mount.unmount()?;
    match daemon.event()? {
        Event::Close { object_id } => ensure!(object_id == open.object_id, "a CLOSE of another"),
        other => anyhow::bail!("expected a CLOSE, got {other:?}"),
    }
    eventually("the object is gone", || {
        open.object.write_at(&bytes(0, BLOCK), 0).is_err()
    })?;
    expect_error(
        open.object.write_at(&bytes(0, BLOCK), 0),
        Errno::NOBUFS,
        "a late write",
    )?;
    expect_error(
        open.object.seek(SeekFrom::Data(0)),
        Errno::NOBUFS,
        "a late seek",
    )?;
    expect_error(
        open.object.complete_read(read.msg_id),
        Errno::INVAL,
        "a late answer",
    )?;
    Ok(())
}

/// The device can be closed before the anonymous fds: until they go too, the module is in use
/// and there is no second opener.
fn outlives_the_device(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    stage.daemon.stop()?;
    ensure!(
        try_unload() == Err(Errno::WOULDBLOCK),
        "unloaded under an anonymous fd"
    );
    expect_error(
        Device::open(),
        Errno::BUSY,
        "opening the device while an anonymous fd is left",
    )?;
    // The cache is dead; what it does with this is its own affair, so long as it does it.
    let _ = fd.write_at(&bytes(0, BLOCK), 0);
    let _ = fd.seek(SeekFrom::Data(0));
    let _ = fd.complete_read(1);
    stage.mount.unmount()?;
    drop(fd);
    eventually("the device is free", || Device::open().is_ok())
}

/// Writes and seeks in one thread, unmount and mount in another; each time of a new file.
fn writes_race_with_unmount(lab: &Lab) -> Result<()> {
    const ROUNDS: u64 = 10;
    let name = |round: u64| (format!("meta{round}"), format!("blob{round}"));
    let mut blobs = Blobs::new();
    for (meta, blob) in (0..ROUNDS).map(name) {
        blobs = blobs.merged(stage::blobs_named(&meta, &blob, Manner::Manual));
    }
    let cache = lab.cache()?;
    let daemon = cache.serve(blobs)?;
    for round in 0..ROUNDS {
        let mut mount = Mount::new(lab.base(), &name(round).0)?;
        let open = daemon.open()?;
        daemon.device()?.open_reply(open.msg_id, Ok(SIZE))?;
        let fd = open.object;
        eventually("the file", || fd.write_at(&bytes(0, BLOCK), 0).is_ok())?;
        let writer = thread::spawn(move || {
            for at in 0..400_u64 {
                let block = at % 32;
                let _ = fd.write_at(&bytes(block * BLOCK, BLOCK), block * BLOCK);
                let _ = fd.seek(SeekFrom::Data(0));
            }
        });
        thread::sleep(Duration::from_millis(round));
        mount.unmount()?;
        match daemon.event()? {
            Event::Close { .. } => {}
            other => anyhow::bail!("expected a CLOSE, got {other:?}"),
        }
        ensure!(writer.join().is_ok(), "the writer panicked");
    }
    Ok(())
}

/// While a long write from an odd address is under way, a backup reads what has not been written yet.
/// That is not data, neither then nor later.
fn unaligned_write_shows_nothing_early(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C refuses such a write".to_owned()).into());
    }
    let disk = Disk::new("cachefiles-held", 64)?;
    let fs = disk.format_and_mount(lab.base())?;
    let _module = Module::load(lab.module())?;
    let daemon = Daemon::start(fs.dir(), stage::blobs(Manner::ManualReads))?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    drop(fd_of(&daemon, &mount.path("file"))?);
    // The file gets its name at the first unmount.
    mount.unmount()?;
    let path = crate::layout::file(fs.dir(), "erofs,meta", b"blob")?;
    eventually("the cache file", || path.exists())?;
    mount = Mount::new(lab.base(), "meta")?;
    let reader = read_block(&mount.path("file"), 1);
    let read = daemon.read()?;
    answer(&read)?;
    expect_data(join(reader)?, 1)?;
    let fd = read.object;
    // All that lies between what has been read by now.
    let (first, last) = (2, 59);
    let at = first * BLOCK;
    let mut bytes = vec![0; 1 + ((u64::from(last) + 1 - first) * BLOCK) as usize];
    pattern(stage::SEED, at, &mut bytes[1..]);
    let backup = File::open(&path)?;
    let held = disk.hold()?;
    thread::scope(|scope| -> Result<()> {
        let (writer, writes) = numbered(scope, || fd.write_all_at(&bytes[1..], at));
        let begun = eventually("the disk is asked to write", || sleeps(writes));
        let mut block = [0; BLOCK as usize];
        let copied = backup.read_exact_at(&mut block, u64::from(last) * BLOCK);
        // It waits for the daemon, or until the file is the writer's no longer.
        let file = mount.path("file");
        let (reader, reads) = numbered(scope, move || read_block_here(&file, last));
        let queued = eventually("the reader waits", || sleeps(reads) || reader.is_finished());
        drop(held);
        while !reader.is_finished() {
            if let Ok(read) = daemon.read_within(Duration::from_millis(5)) {
                while !writer.is_finished() {
                    thread::yield_now();
                }
                read.object.complete_read(read.msg_id)?;
            }
        }
        writer.join().ok().context("the writer panicked")??;
        expect_data(reader.join().ok().context("the reader panicked")?, last)?;
        copied?;
        begun.and(queued)
    })?;
    drop(fd);
    mount.unmount()
}

/// A buffer that direct I/O does not take is the daemon's usual mistake.
fn unaligned_buffer(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    let mut buffer = Aligned::new(2 * BLOCK as usize);
    pattern(stage::SEED, 4 * BLOCK, &mut buffer[3..3 + BLOCK as usize]);
    let wrote = fd.write_at(&buffer[3..3 + BLOCK as usize], 4 * BLOCK);
    if lab.is_peer() {
        // C hands the buffer to direct I/O as it is.
        println!("C with a buffer at an odd address: {wrote:?}");
        if wrote.is_err() {
            return expect_error(wrote, Errno::INVAL, "a buffer at an odd address");
        }
    } else {
        ensure!(wrote? == BLOCK as usize, "not all was taken");
    }
    expect_data(read_block_here(&stage.file(), 4), 4)
}

/// Memory that the device cannot take is copied many blocks at once: a daemon whose buffer lies anywhere,
/// as Python's do, does not wait for the disk once a block.
fn unaligned_memory_costs_no_write_a_block(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C hands such memory to direct I/O as it is".to_owned()).into());
    }
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    let mut unaligned = Aligned::new(SIZE as usize + BLOCK as usize);
    pattern(stage::SEED, 0, &mut unaligned[1..=SIZE as usize]);
    let direct = Trace::of("events/iomap/iomap_dio_rw_begin/enable")?;
    fd.write_all_at(&unaligned[1..=SIZE as usize], 0)?;
    let lines = direct.end()?;
    let writes = lines
        .iter()
        .filter(|line| line.contains("iomap_dio_rw_begin: "))
        .count() as u64;
    let blocks = SIZE / BLOCK;
    println!("{writes} writes for {blocks} blocks");
    ensure!(
        writes > 0 && writes <= blocks / 8,
        "{writes} writes for {blocks} blocks"
    );
    stage::expect_file(&stage.file())
}

/// The whole blob in one write.
fn large_write(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    let wrote = fd.write_at(&bytes(0, SIZE), 0)?;
    ensure!(wrote as u64 == SIZE, "{wrote} of {SIZE} bytes");
    stage::expect_file(&stage.file())?;
    ensure!(
        stage.daemon.is_quiet(Duration::from_millis(50)),
        "a READ for what was written"
    );
    Ok(())
}

/// Many pieces of memory in one write, of whole blocks, and of a few bytes each that end with them in the
/// midst of a block.
fn write_in_segments(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    let write = |at: u64, data: &[u8], piece: usize| -> Result<()> {
        let pieces: Vec<IoSlice> = data.chunks(piece).map(IoSlice::new).collect();
        let wrote = rustix::io::pwritev(&*fd, &pieces, at)?;
        ensure!(wrote == data.len(), "{wrote} of {} bytes", data.len());
        Ok(())
    };
    write(10 * BLOCK, &bytes(10 * BLOCK, 9 * BLOCK), BLOCK as usize)?;
    for block in 10..19 {
        expect_data(read_block_here(&stage.file(), block), block)?;
    }
    if lab.is_peer() {
        // It takes no odd pieces.
        return Ok(());
    }
    // Nine pieces are more than the kernel has room for on its stack.
    for (block, pieces) in [(20, 2), (21, 8), (22, 9), (23, 16)] {
        let start = block * BLOCK;
        let data = bytes(start, BLOCK);
        let (from, to) = (100, 100 + 10 * pieces);
        write(start + from as u64, &data[from..to], 10)?;
        // To its end.
        write(start + to as u64, &data[to..], 600)?;
        write(start, &data[..from], from)?;
    }
    for block in 20..24 {
        expect_data(read_block_here(&stage.file(), block), block)?;
    }
    ensure!(
        stage.daemon.is_quiet(Duration::from_millis(50)),
        "a READ for what was written"
    );
    Ok(())
}

/// A write that ends within a block, for whatever reason, does not make that block data, whose rest
/// would be zeros.
fn write_cut_in_a_block(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C takes a block for data that was written in part".to_owned()).into());
    }
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    // What a disk can write of a block.
    let part = 1024;
    for aligned in [true, false] {
        for (there, block) in [(false, 8), (true, 16)] {
            let block = block + if aligned { 0 } else { 16 };
            let what = format!("aligned: {aligned}, there: {there}");
            let (at, len) = (block * BLOCK, 3 * BLOCK);
            if there {
                fd.write_all_at(&bytes(at, len), at)?;
            }
            let mut unaligned = vec![0; len as usize + 1];
            pattern(stage::SEED, at, &mut unaligned[1..]);
            let cut = Lowered::to(Resource::Fsize, at + BLOCK + part)?;
            let wrote = match aligned {
                true => fd.write_at(&bytes(at, len), at),
                false => fd.write_at(&unaligned[1..], at),
            };
            drop(cut);
            ensure!(
                wrote.as_ref().ok() == Some(&(BLOCK as usize)),
                "{what}: {wrote:?} of a block and a part"
            );
            let file = stage.file();
            let reader = read_block(&file, block as u32);
            if let Ok(read) = stage.daemon.read_within(Duration::from_millis(50)) {
                anyhow::bail!("{what}: a READ at {} for what was written", read.offset);
            }
            expect_data(join(reader)?, block as u32)?;
            for block in block + 1..block + 3 {
                let reader = read_block(&file, block as u32);
                // A direct write cannot know what was there: then it is asked for again.
                let blindly = aligned || chosen().lacks.contains(&Property::WritesParts);
                let may_come = there && blindly && block == at / BLOCK + 1;
                while there && !reader.is_finished() {
                    if let Ok(read) = stage.daemon.read_within(Duration::from_millis(2)) {
                        ensure!(may_come, "{what}: block {block} is asked for again");
                        answer(&read)?;
                    }
                }
                if !there {
                    let read = stage.daemon.read().with_context(|| what.clone())?;
                    ensure!(read.offset == block * BLOCK, "a READ at {}", read.offset);
                    answer(&read)?;
                }
                expect_data(join(reader)?, block as u32).with_context(|| what.clone())?;
            }
        }
    }
    Ok(())
}

/// A daemon's memory can be that of the image that it serves: what is missing there is asked for when
/// its write has begun, and another thread of it brings it.  C waits for that with the cache file
/// locked, and whoever brings it waits for C.
fn written_from_a_mapping_of_the_image(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C's daemon waits for itself".to_owned()).into());
    }
    let stage = Stage::new(lab, Manner::ManualReads)?;
    let fd = opened(&stage)?;
    // Whole blocks go to the disk from where they are, others through memory of the module's own.
    for (block, part, len) in [(8, 0, BLOCK), (16, 0, 4 * BLOCK), (24, 100, 200)] {
        let at = block * BLOCK + part;
        let mut writer = map_and_write(&stage.file(), &fd, at..at + len, SIZE)?;
        let deadline = Instant::now() + *SOON;
        let mut asked = 0;
        let status = loop {
            if let Some(status) = writer.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                writer.kill()?;
                writer.wait()?;
                anyhow::bail!(
                    "a write from the block {block} still waits after {:?}",
                    *SOON
                );
            }
            if let Ok(read) = stage.daemon.read_within(Duration::from_millis(2)) {
                asked += 1;
                answer(&read)?;
            }
        };
        ensure!(status.success(), "the writer: {status}");
        ensure!(asked > 0, "nothing was missing at the block {block}");
        expect_data(read_block_here(&stage.file(), block as u32), block as u32)?;
    }
    Ok(())
}

/// A write can go on for longer than its object is there, into a file that another object has by then,
/// and fail.  What the other object has stored stays, and what the write has not stored is no data.
fn late_write_into_another_objects_file(lab: &Lab) -> Result<()> {
    if lab.is_peer() {
        return Err(Skip("C takes a block for data that was written in part".to_owned()).into());
    }
    let cache = lab.cache()?;
    let manner = Manner::ManualReads;
    let others = stage::blobs_named("meta2", "blob2", manner);
    let daemon = cache.serve(stage::blobs(manner).merged(others))?;
    let other = Mount::new(lab.base(), "meta2")?;
    let mut mount = Mount::new(lab.base(), "meta")?;
    let fd = fd_of(&daemon, &mount.path("file"))?;
    // It begins, and waits for its own memory.
    let at = 8 * BLOCK;
    let mut writer = map_and_write(
        &other.path("file"),
        &fd,
        at..at + 2 * BLOCK,
        at + BLOCK + 1024,
    )?;
    let late = daemon.read().context("the writer's memory")?;
    ensure!(late.offset == at, "a READ at {}", late.offset);
    drop(fd);
    mount.unmount()?;
    let mount = Mount::new(lab.base(), "meta")?;
    let file = mount.path("file");
    let read_once = |block| -> Result<()> {
        let reader = read_block(&file, block);
        while !reader.is_finished() {
            if let Ok(read) = daemon.read_within(Duration::from_millis(2)) {
                answer(&read)?;
            }
        }
        expect_data(join(reader)?, block)
    };
    read_once(8)?;
    // Now it goes on, and fails.
    answer(&late)?;
    let status = writer.wait()?;
    ensure!(
        !status.success(),
        "all of a block was written behind the limit"
    );
    // As many blocks as before, but others.
    read_once(9)?;
    fadvise(File::open(&file)?, 0, None, Advice::DontNeed)?;
    read_once(8).context("what the late write has removed")?;
    read_once(9)
}
