// SPDX-License-Identifier: GPL-2.0

//! What can be wrong with a line that a daemon wrote, and how to say it.
//!
//! Lives here: the errors of [`super::command`], their error numbers, and one sentence for each
//! that names the bytes and the rule they break.  Never here: the grammar itself.

use super::{
    command::{Bound, Resource, Verb, MAX_LINE},
    errno,
    number::NumberError,
};
use core::fmt;

/// Which number of a command is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The id of the message answered.
    Id,
    /// The size of an object.
    Size,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Id => "message id",
            Field::Size => "size",
        })
    }
}

/// Why a line is no command: the rule and the bytes that break it.
///
/// [`Display`](fmt::Display) makes one sentence of it, for the kernel's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError<'a> {
    /// The line has this many bytes, more than [`MAX_LINE`].
    TooLong(usize),
    /// There is a NUL at this offset.
    Nul(usize),
    /// The line begins with its newline.
    NoCommand,
    /// The line begins with white space.
    LeadingSpace,
    /// This first word, or the empty one, is no command.
    Unknown(&'a [u8]),
    /// The command needs an argument.
    MissingArgument(Verb),
    /// A limit is not digits and a `%`, or far beyond any percentage.
    NotAPercentage(Verb, &'a [u8]),
    /// `cull` and `inuse` take a name, not a path.
    NotAFileName(Verb, &'a [u8]),
    /// `debug` takes a number of 32 bits.
    NotAMask(&'a [u8]),
    /// `timeout` takes a number of milliseconds.
    NotATime(&'a [u8]),
    /// `copen` has no comma.
    NoReply(&'a [u8]),
    /// A number is malformed or too large.
    BadNumber {
        /// The command.
        verb: Verb,
        /// Which of its numbers.
        field: Field,
        /// The bytes in its place.
        text: &'a [u8],
        /// What is wrong with them.
        why: NumberError,
    },
}

impl CommandError<'_> {
    /// The positive error number that the write fails with.
    pub const fn errno(&self) -> i32 {
        match self {
            CommandError::TooLong(_) | CommandError::LeadingSpace | CommandError::Unknown(_) => {
                errno::EOPNOTSUPP
            }
            CommandError::BadNumber { why, .. } => why.errno(),
            CommandError::Nul(_)
            | CommandError::NoCommand
            | CommandError::MissingArgument(_)
            | CommandError::NotAPercentage(..)
            | CommandError::NotAFileName(..)
            | CommandError::NotAMask(_)
            | CommandError::NotATime(_)
            | CommandError::NoReply(_) => errno::EINVAL,
        }
    }
}

impl fmt::Display for CommandError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            CommandError::TooLong(len) => {
                write!(f, "a command of {len} bytes; at most {MAX_LINE} are taken")
            }
            CommandError::Nul(at) => write!(f, "a command with a NUL at byte {at}"),
            CommandError::NoCommand => f.write_str("a newline without a command before it"),
            CommandError::LeadingSpace => {
                f.write_str("a command with white space before its first word")
            }
            CommandError::Unknown(b"") => f.write_str("an empty command"),
            CommandError::Unknown(name) => {
                write!(f, "unknown command {}; the commands are", Quoted(name))?;
                Verb::ALL
                    .into_iter()
                    .try_for_each(|verb| write!(f, " {verb}"))
            }
            CommandError::MissingArgument(verb) => {
                write!(f, "{verb}: an argument is missing; write '{}'", usage(verb))
            }
            CommandError::NotAPercentage(verb, text) => write!(
                f,
                "{verb}: {} is not a percentage; write '{}'",
                Quoted(text),
                usage(verb)
            ),
            CommandError::NotAFileName(verb, text) => write!(
                f,
                "{verb}: {} has a '/'; write a name in the working directory",
                Quoted(text)
            ),
            CommandError::NotAMask(text) => {
                write!(f, "debug: {} is not a mask of 32 bits", Quoted(text))
            }
            CommandError::NotATime(text) => write!(
                f,
                "timeout: {} is not a number of milliseconds",
                Quoted(text)
            ),
            CommandError::NoReply(text) => write!(
                f,
                "copen: no ',' in {}; write '{}'",
                Quoted(text),
                usage(Verb::Copen)
            ),
            CommandError::BadNumber {
                verb,
                field,
                text,
                why,
            } => write!(f, "{verb}: the {field} {} {why}", Quoted(text)),
        }
    }
}

const fn usage(verb: Verb) -> &'static str {
    match verb {
        Verb::Bind => "bind [ondemand]",
        Verb::Limit(Resource::Blocks, Bound::Run) => "brun <N>%",
        Verb::Limit(Resource::Blocks, Bound::Cull) => "bcull <N>%",
        Verb::Limit(Resource::Blocks, Bound::Stop) => "bstop <N>%",
        Verb::Limit(Resource::Files, Bound::Run) => "frun <N>%",
        Verb::Limit(Resource::Files, Bound::Cull) => "fcull <N>%",
        Verb::Limit(Resource::Files, Bound::Stop) => "fstop <N>%",
        Verb::Cull => "cull <name>",
        Verb::Debug => "debug <mask>",
        Verb::Timeout => "timeout <milliseconds>",
        Verb::Dir => "dir <path>",
        Verb::InUse => "inuse <name>",
        Verb::SecCtx => "secctx <context>",
        Verb::Tag => "tag <name>",
        Verb::Copen => "copen <id>,<size or -errno>",
        Verb::Restore => "restore",
        Verb::Cinit => "cinit <id>[,<size>]",
        Verb::Cread => "cread <id>",
    }
}

/// Bytes of a daemon, made safe for a log: escaped, in quotes, and cut after 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<'a>(pub &'a [u8]);

impl Quoted<'_> {
    /// How many bytes are shown.
    pub const MAX: usize = 64;
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("'")?;
        for byte in self.0.iter().take(Self::MAX) {
            write!(f, "{}", core::ascii::escape_default(*byte))?;
        }
        f.write_str(if self.0.len() > Self::MAX {
            "...'"
        } else {
            "'"
        })
    }
}

/// A sentence about [`BindMode::Unknown`](super::command::BindMode::Unknown).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownBindMode<'a>(pub &'a [u8]);

impl fmt::Display for UnknownBindMode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bind: {} is no mode; write nothing, 'ondemand', 'ondemand mainline' or 'ondemand v5'",
            Quoted(self.0)
        )
    }
}
