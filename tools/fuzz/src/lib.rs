// SPDX-License-Identifier: GPL-2.0

//! What must hold of the kernel module's pure files for any bytes whatsoever.
//!
//! Lives here: one function a target, which panics where a property does not hold.  libFuzzer calls
//! it (`src/bin/`, built by scripts/fuzz-host with coverage), and so does `tests/replay.rs`, as an
//! ordinary test, with the inputs that libFuzzer has found before.  Never here: a copy of the code
//! under test; where an answer can be had in another way, that is what it is compared with.

pub mod command;
pub mod corpus;
pub mod key;
pub mod limits;
pub mod message;
mod take;

/// A target: its name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 4] = [
    ("command", command::check),
    ("message", message::check),
    ("key", key::check),
    ("limits", limits::check),
];

/// What the kernel's log can take: one line of printable characters.
///
/// # Panics
///
/// If the sentence is not one.
fn assert_is_a_line(sentence: &str, longest: usize) {
    assert!(sentence.len() <= longest, "{} bytes", sentence.len());
    assert!(
        sentence.bytes().all(|byte| matches!(byte, b' '..=b'~')),
        "{sentence:?} is no line for a log"
    );
}
