// SPDX-License-Identifier: GPL-2.0

//! The inputs worth keeping, as text: one a line, escaped as Rust escapes bytes.
//!
//! Lives here: reading and writing that form.  libFuzzer wants a directory with a file for each;
//! `fuzz-corpus` makes one of the other.

use anyhow::{bail, Context, Result};

/// What a file of inputs begins with.
const HEAD: &str =
    "# SPDX-License-Identifier: GPL-2.0\n# Inputs of a fuzz target; scripts/fuzz-host\n";

/// The inputs of a file.
///
/// # Errors
///
/// If a line is not escaped as [`write`](fn@write) does it.
pub fn read(text: &str) -> Result<Vec<Vec<u8>>> {
    let lines = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| !line.starts_with('#'));
    lines
        .map(|(line, number)| unescape(line).with_context(|| format!("line {number}")))
        .collect()
}

/// A file of inputs.
pub fn write(inputs: &[Vec<u8>]) -> String {
    let mut lines: Vec<String> = inputs.iter().map(|input| escape(input)).collect();
    lines.sort();
    lines.dedup();
    lines
        .iter()
        .fold(HEAD.to_owned(), |text, line| text + line + "\n")
}

/// As Rust does, and `#` too, so that no input looks like a comment.
fn escape(input: &[u8]) -> String {
    input.escape_ascii().to_string().replace('#', "\\x23")
}

fn unescape(line: &str) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let mut rest = line.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().context("a lone backslash")? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [rest.next(), rest.next()].map(|digit| digit.unwrap_or(b'?'));
                    u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?
                }
                itself @ (b'\\' | b'\'' | b'"') => itself,
                other => bail!("\\{}", char::from(other)),
            },
            byte => byte,
        });
    }
    Ok(bytes)
}
