// SPDX-License-Identifier: GPL-2.0

//! kselftests of CacheFiles in on-demand mode.
//!
//! One program under several names: called `device`, `read_request`, ..., it runs that group of
//! tests and prints KTAP; called `cachefiles-selftests helper ...`, it is one of the processes
//! that a test needs beside itself.  The same program tests our module and C's; called
//! `v5_read_request` and so on, it runs a group's cases in the protocol v5, and called
//! `xfs_read_request` with the cache on XFS.
//!
//! Lives here: which name is which group.  Never here: a test.

mod backing;
mod bench;
mod blob;
mod cachefilesd;
mod caller;
mod claim;
mod daemon;
mod disk;
mod error_injection;
mod farm;
mod fault;
mod file_system;
mod fuzz;
mod helper;
mod image;
mod kernel;
mod ktap;
mod lab;
mod layout;
mod limit;
mod mapping;
mod mount;
mod patience;
mod power_cut;
mod protocol;
mod raw;
mod remote;
mod stage;
mod supervisor;
mod tests;
mod trace;
mod tree;

use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let name = args
        .first()
        .and_then(|path| Path::new(path).file_name())
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match rest.as_slice() {
        ["helper", verb, operands @ ..] => helper::run(verb, operands),
        ["list"] => {
            ktap::list();
            ExitCode::SUCCESS
        }
        ["bench"] => match bench::bench() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        },
        ["case", group, case] => ktap::run_case(group, case),
        [] => ktap::run_group(name),
        _ => {
            eprintln!("usage: GROUP | {name} list | {name} case GROUP CASE | {name} bench | {name} helper ...");
            ExitCode::from(2)
        }
    }
}
