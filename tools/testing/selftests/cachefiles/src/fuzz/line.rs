// SPDX-License-Identifier: GPL-2.0

//! Command lines: those that there are, those that there are not, and what lies between.
//!
//! Lives here: making them up.  Never here: writing them.

use cachefiles_client::protocol::command::{parse, split, Command, CopenReply};
use fastrand::Rng;

const SEEDS: &[&str] = &[
    "bind",
    "bind ondemand",
    "bind ondemand mainline",
    "bind ondemand v5",
    "bind something",
    "brun 10%",
    "bcull 7%",
    "bstop 3%",
    "frun 10%",
    "fcull 7%",
    "fstop 3%",
    "frun 100%",
    "fstop x%",
    "fcull",
    "cull",
    "cull a/b",
    "cull ..",
    "cull .",
    "inuse",
    "inuse no-such-file",
    "inuse ..",
    "dir /tmp",
    "dir",
    "secctx",
    "secctx u:object_r:x",
    "tag another",
    "tag",
    "copen",
    "copen 4294967295",
    "copen 4294967296,0",
    "copen 3000000000,4096",
    "copen 18446744073709551616,1",
    "copen x,1",
    "cinit",
    "cinit 4294967295",
    "cinit 3000000000,4096",
    "cread",
    "cread 4294967295",
    "cread 4294967296",
    "cread -1",
    "restore now",
    "restore mainline",
    "restore v5",
    "timeout",
    "timeout x",
    "timeout 0",
    "debug 0",
    "debug x",
    "Bind",
    "sudo make me a sandwich",
    "\n",
    " bind",
    "",
];

/// A line; what it would do must not make what the daemon has said untrue.
pub fn any(random: &mut Rng, is_peer: bool) -> Vec<u8> {
    let mut line = match random.u32(0..10) {
        0 => (0..random.usize(..40)).map(|_| random.u8(..)).collect(),
        _ => SEEDS[random.usize(..SEEDS.len())].as_bytes().to_vec(),
    };
    for _ in 0..random.u32(0..3) {
        change(&mut line, random);
    }
    match is_harmless(&line, is_peer) {
        true => line,
        false => b"no-such-command".to_vec(),
    }
}

fn change(line: &mut Vec<u8>, random: &mut Rng) {
    let at = random.usize(..=line.len());
    match random.u32(0..6) {
        0 => line.insert(at, random.u8(..)),
        1 => line.insert(at, *random.choice(b" ,%\n\t\0-0").unwrap_or(&b' ')),
        2 if at < line.len() => drop(line.remove(at)),
        3 if at < line.len() => line[at] = random.u8(..),
        4 => line.truncate(at),
        5 => line.extend_from_within(..at),
        _ => line.push(b'\n'),
    }
}

/// The exceptions: a wrong size for a request that waits, perhaps; file names outside of the
/// cache, which C takes; and C's debugging messages, which would be all that is done.
fn is_harmless(line: &[u8], is_peer: bool) -> bool {
    match parse(line) {
        Ok(Command::Copen(copen)) => {
            copen.id > i32::MAX as u64 || !matches!(copen.reply, Ok(CopenReply::Size(_)))
        }
        Ok(Command::Cinit(cinit)) => cinit.id > i32::MAX as u64 || cinit.size.is_none(),
        Ok(Command::Cread(cread)) => cread.id > i32::MAX as u64,
        Ok(Command::Debug(mask)) => mask == 0,
        Ok(_) => true,
        // C takes the low bits of a mask that is too large.
        Err(_) => !(is_peer && line.starts_with(b"debug")),
    }
}

/// What to count it as.
pub fn kind(line: &[u8]) -> &'static str {
    match (split(line), parse(line)) {
        (Ok((verb, _)), Ok(_)) => verb.name(),
        (Ok(_), Err(_)) => "command, bad arguments",
        (Err(_), _) => "no command",
    }
}
