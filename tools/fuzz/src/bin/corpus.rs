// SPDX-License-Identifier: GPL-2.0

//! `fuzz-corpus unpack FILE DIR` makes libFuzzer's directory of a file of inputs, and
//! `fuzz-corpus pack DIR FILE` the file of the directory.
//!
//! Lives here: files and their names.  Never here: the form, which is [`cachefiles_fuzz::corpus`]'s.

use anyhow::{bail, Result};
use cachefiles_fuzz::corpus;
use std::{env, fs};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["unpack", file, dir] => {
            fs::create_dir_all(dir)?;
            for (input, number) in corpus::read(&fs::read_to_string(file)?)?.iter().zip(0..) {
                fs::write(format!("{dir}/kept-{number:04}"), input)?;
            }
        }
        ["pack", dir, file] => {
            let mut inputs = vec![];
            for entry in fs::read_dir(dir)? {
                inputs.push(fs::read(entry?.path())?);
            }
            fs::write(file, corpus::write(&inputs))?;
        }
        _ => bail!("usage: fuzz-corpus unpack FILE DIR | pack DIR FILE"),
    }
    Ok(())
}
