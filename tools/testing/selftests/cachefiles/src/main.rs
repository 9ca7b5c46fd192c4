// SPDX-License-Identifier: GPL-2.0

//! kselftests of CacheFiles in on-demand mode.
//!
//! One program under several names: called `device`, `read_request`, ..., it runs that group of
//! tests and prints KTAP; called `cachefiles-selftests helper ...`, it is one of the processes
//! that a test needs beside itself.  The same program tests our module and C's.
//!
//! Lives here: which name is which group.  Never here: a test.

mod backing;
mod blob;
mod daemon;
mod helper;
mod image;
mod kernel;
mod ktap;
mod lab;
mod mount;
mod raw;
mod stage;
mod tests;
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
            tests::GROUPS
                .iter()
                .for_each(|group| println!("{}", group.name));
            ExitCode::SUCCESS
        }
        ["case", group, case] => ktap::run_case(group, case),
        [] => ktap::run_group(name),
        _ => {
            eprintln!("usage: GROUP | {name} list | {name} case GROUP CASE | {name} helper ...");
            ExitCode::from(2)
        }
    }
}
