// SPDX-License-Identifier: GPL-2.0

//! The operations that no netfs of 6.12 calls, called by a module that is a netfs for that alone
//! (`netfs_caller/`).

use crate::{
    cachefilesd::Keeper,
    error_injection::{with, IO_ERROR},
    group,
    kernel::remove_module,
    lab::Lab,
    stage::expect_error,
};
use anyhow::{ensure, Context, Result};
use cachefiles_client::Errno;
use rustix::system::finit_module;
use std::{fs, io, ops::Range};

group!("netfs_caller":
    occupancy_of_a_file_with_holes,
    occupancy_of_nothing,
);

const CONTROL: &str = "/sys/kernel/debug/netfs_caller";

/// The module, which has one cookie; dropping it gives the cookie back.
struct Caller;

impl Caller {
    fn load(lab: &Lab) -> Result<Caller> {
        let path = lab.caller()?;
        let file = fs::File::open(&path)?;
        finit_module(file, c"", 0).with_context(|| format!("loading {}", path.display()))?;
        Ok(Caller)
    }

    fn write(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end - range.start;
        fs::write(CONTROL, format!("write {} {len}", range.start))
    }

    /// Where the first data is.
    fn occupancy(&self, range: &Range<u64>, granularity: u64) -> io::Result<Range<u64>> {
        let len = range.end - range.start;
        fs::write(
            CONTROL,
            format!("occupancy {} {len} {granularity}", range.start),
        )?;
        let answer = fs::read_to_string(CONTROL)?;
        let mut words = answer.split_whitespace().flat_map(str::parse::<u64>);
        match (words.next(), words.next()) {
            (Some(start), Some(len)) => Ok(start..start + len),
            _ => Err(io::Error::other(answer)),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Err(error) = remove_module(c"netfs_caller") {
            crate::lab::cleanup_failed(&format!("unloading netfs_caller: {error}"));
        }
    }
}

const K: u64 = 1 << 10;

/// The first data of a range, for ranges that begin and end in data and in holes.
fn occupancy_of_a_file_with_holes(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let _keeper = Keeper::start(cache.dir())?;
    let caller = Caller::load(lab)?;
    for data in [0..12 * K, 32 * K..64 * K] {
        caller.write(data)?;
    }
    for (range, granularity, want) in [
        // To the end of what is there, and to the end of the range.
        (0..64 * K, 4 * K, 0..12 * K),
        (4 * K..12 * K, 4 * K, 4 * K..12 * K),
        (0..8 * K, 4 * K, 0..8 * K),
        // From what is there on.
        (12 * K..96 * K, 4 * K, 32 * K..64 * K),
        (48 * K..256 * K, 4 * K, 48 * K..64 * K),
        // In whole pieces, which are never smaller than a block.
        (0..64 * K, 8 * K, 0..8 * K),
        (4 * K..128 * K, 1, 4 * K..12 * K),
        (40 * K..128 * K, 16 * K, 48 * K..64 * K),
    ] {
        let got = caller.occupancy(&range, granularity);
        let got = got.with_context(|| format!("what there is of {range:?} by {granularity}"))?;
        ensure!(
            got == want,
            "{got:?}, not {want:?}, of {range:?} by {granularity}"
        );
    }
    // The data begins behind the range's beginning and goes on behind its end.
    let (range, want) = (16 * K..40 * K, 32 * K..40 * K);
    let got = caller.occupancy(&range, 4 * K)?;
    // C gives the range's length from there, and so more than was asked for.
    let want = if lab.is_peer() { 32 * K..56 * K } else { want };
    ensure!(got == want, "{got:?}, not {want:?}, of {range:?}");
    // Less than a piece; a hole; what is behind the end.
    for (range, granularity) in [
        (8 * K..32 * K, 16 * K),
        (12 * K..32 * K, 4 * K),
        (64 * K..96 * K, 4 * K),
        (2048 * K..4096 * K, 4 * K),
    ] {
        let got = caller.occupancy(&range, granularity);
        expect_error(got, Errno::NODATA, &format!("{range:?} by {granularity}"))?;
    }
    Ok(())
}

/// A file that has no data, one that cannot be looked at, and a cache that has gone.
fn occupancy_of_nothing(lab: &Lab) -> Result<()> {
    let cache = lab.cache()?;
    let mut keeper = Keeper::start(cache.dir())?;
    let caller = Caller::load(lab)?;
    let range = 0..64 * K;
    let asked = || caller.occupancy(&range, 4 * K);
    expect_error(asked(), Errno::NODATA, "a new file")?;
    caller.write(0..4 * K)?;
    let got = asked()?;
    ensure!(got == (0..4 * K), "{got:?} of a file with one block");
    expect_error(with(IO_ERROR, asked)?, Errno::NOBUFS, "a disk that fails")?;
    let got = asked()?;
    ensure!(got == (0..4 * K), "{got:?} when the disk is well again");
    keeper.stop()?;
    expect_error(asked(), Errno::NOBUFS, "a cache that has gone")
}
