// SPDX-License-Identifier: GPL-2.0

//! The grammar of the lines that a daemon writes to `/dev/cachefiles`.
//!
//! Lives here: `cachefiles_daemon_write()` up to the choice of a handler, and of each handler the
//! part that looks at its arguments.  Never here: the state of a cache, or what a command does;
//! and the sentences about what is wrong with a line are in [`super::command_error`].
//!
//! Parsing has two steps, because C answers some lines before it looks at the cache and others
//! after.  [`split`] finds the verb, and its errors come first.  Then the caller takes its lock,
//! refuses commands to a dead cache (EIO) and on-demand commands out of that mode (EOPNOTSUPP),
//! and only then calls [`Verb::parse`] for the arguments.

pub use super::command_error::{CommandError, Field, Quoted, UnknownBindMode};

use super::{
    errno,
    message::Layout,
    number::{parse_i64, parse_prefix, parse_u64, Base, NumberError},
};
use core::fmt;

/// The longest line in bytes, a newline included: C copies it into one page with a NUL behind it.
pub const MAX_LINE: usize = 4095;

/// What a space limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Free inodes of the backing file system: `frun`, `fcull`, `fstop`.
    Files,
    /// Available blocks of the backing file system: `brun`, `bcull`, `bstop`.
    Blocks,
}

/// Which of the three limits of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Culling ceases when this much is free.
    Run,
    /// Culling begins when less than this is free.
    Cull,
    /// Nothing more is allocated when less than this is free.
    Stop,
}

/// The first word of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `bind`
    Bind,
    /// `brun`, `bcull`, `bstop`, `frun`, `fcull`, `fstop`
    Limit(Resource, Bound),
    /// `cull`
    Cull,
    /// `debug`
    Debug,
    /// `dir`
    Dir,
    /// `inuse`
    InUse,
    /// `secctx`
    SecCtx,
    /// `tag`
    Tag,
    /// `copen`: mainline's answer to an OPEN
    Copen,
    /// `restore`
    Restore,
    /// `cinit`: v5's answer to an OPEN
    Cinit,
    /// `cread`: v5's answer to a READ
    Cread,
    /// `timeout`: how long requests may go unanswered; C has no such command
    Timeout,
}

impl Verb {
    /// Every verb, in the order of C's table and with v5's and our own at the end.
    pub const ALL: [Verb; 18] = [
        Verb::Bind,
        Verb::Limit(Resource::Blocks, Bound::Run),
        Verb::Limit(Resource::Blocks, Bound::Cull),
        Verb::Limit(Resource::Blocks, Bound::Stop),
        Verb::Cull,
        Verb::Debug,
        Verb::Dir,
        Verb::Limit(Resource::Files, Bound::Run),
        Verb::Limit(Resource::Files, Bound::Cull),
        Verb::Limit(Resource::Files, Bound::Stop),
        Verb::InUse,
        Verb::SecCtx,
        Verb::Tag,
        Verb::Copen,
        Verb::Restore,
        Verb::Cinit,
        Verb::Cread,
        Verb::Timeout,
    ];

    /// The word as a daemon writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Bind => "bind",
            Verb::Limit(Resource::Blocks, Bound::Run) => "brun",
            Verb::Limit(Resource::Blocks, Bound::Cull) => "bcull",
            Verb::Limit(Resource::Blocks, Bound::Stop) => "bstop",
            Verb::Limit(Resource::Files, Bound::Run) => "frun",
            Verb::Limit(Resource::Files, Bound::Cull) => "fcull",
            Verb::Limit(Resource::Files, Bound::Stop) => "fstop",
            Verb::Cull => "cull",
            Verb::Debug => "debug",
            Verb::Dir => "dir",
            Verb::InUse => "inuse",
            Verb::SecCtx => "secctx",
            Verb::Tag => "tag",
            Verb::Copen => "copen",
            Verb::Restore => "restore",
            Verb::Cinit => "cinit",
            Verb::Cread => "cread",
            Verb::Timeout => "timeout",
        }
    }

    /// The verb of this exact name; case counts.
    pub fn from_name(name: &[u8]) -> Option<Verb> {
        Verb::ALL
            .into_iter()
            .find(|verb| verb.name().as_bytes() == name)
    }

    /// Whether the verb belongs to on-demand mode.  Out of that mode C answers EOPNOTSUPP before
    /// it looks at the arguments.
    pub const fn is_ondemand(self) -> bool {
        matches!(
            self,
            Verb::Copen | Verb::Restore | Verb::Cinit | Verb::Cread
        )
    }

    /// Reads the arguments that [`split`] left.
    ///
    /// # Errors
    ///
    /// Those that the handler in C finds in its arguments alone.  What depends on the cache (a
    /// second `dir`, a limit out of order, an unknown word after `bind`) is left to the caller.
    pub fn parse(self, args: &[u8]) -> Result<Command<'_>, CommandError<'_>> {
        match self {
            Verb::Bind => Ok(Command::Bind(BindMode::parse(args))),
            Verb::Limit(resource, bound) => self.percent(args).map(|percent| Command::Limit {
                resource,
                bound,
                percent,
            }),
            Verb::Cull => self.file_name(args).map(Command::Cull),
            Verb::InUse => self.file_name(args).map(Command::InUse),
            Verb::Debug => debug_mask(args).map(Command::Debug),
            Verb::Dir => self.present(args).map(Command::Dir),
            Verb::SecCtx => self.present(args).map(Command::SecCtx),
            Verb::Tag => self.present(args).map(Command::Tag),
            Verb::Copen => CopenArgs::parse(self.present(args)?).map(Command::Copen),
            Verb::Restore => Ok(Command::Restore(restored_layout(args))),
            Verb::Cinit => CinitArgs::parse(self.present(args)?).map(Command::Cinit),
            Verb::Cread => self
                .number(Field::Id, self.present(args)?)
                .map(|id| Command::Cread(CreadArgs { id })),
            Verb::Timeout => milliseconds(self.present(args)?).map(Command::Timeout),
        }
    }

    fn present(self, args: &[u8]) -> Result<&[u8], CommandError<'_>> {
        if args.is_empty() {
            Err(CommandError::MissingArgument(self))
        } else {
            Ok(args)
        }
    }

    /// An empty name passes, as in C: the lookup refuses it later, with EACCES.
    fn file_name(self, args: &[u8]) -> Result<&[u8], CommandError<'_>> {
        if args.contains(&b'/') {
            Err(CommandError::NotAFileName(self, args))
        } else {
            Ok(args)
        }
    }

    /// Digits and then exactly `%`.  As in C no digits at all are 0.  Where C would take a number
    /// beyond 64 bits modulo 2^64 it is refused here: no daemon can have meant that.
    fn percent(self, args: &[u8]) -> Result<u64, CommandError<'_>> {
        let prefix = parse_prefix(self.present(args)?, Base::Ten);
        match (prefix.value, prefix.rest) {
            (Some(percent), b"%") => Ok(percent),
            _ => Err(CommandError::NotAPercentage(self, args)),
        }
    }

    fn number(self, field: Field, text: &[u8]) -> Result<u64, CommandError<'_>> {
        parse_u64(text).map_err(|why| CommandError::BadNumber {
            verb: self,
            field,
            text,
            why,
        })
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What follows `bind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode<'a> {
    /// Nothing: the ordinary mode.
    Plain,
    /// `ondemand`, or with the layout named, `ondemand mainline` and `ondemand v5`.  `None` leaves
    /// the layout to the module's parameter.
    OnDemand(Option<Layout>),
    /// Anything else.  C answers EINVAL, but only after it has found the limits in order, a
    /// directory given and the cache not yet bound: see [`UnknownBindMode`] for a message.
    Unknown(&'a [u8]),
}

impl<'a> BindMode<'a> {
    /// Reads what follows `bind`; C compares the whole of it, so a space too many is unknown.
    pub fn parse(args: &'a [u8]) -> BindMode<'a> {
        match args {
            b"" => BindMode::Plain,
            b"ondemand" => BindMode::OnDemand(None),
            b"ondemand mainline" => BindMode::OnDemand(Some(Layout::Mainline)),
            b"ondemand v5" => BindMode::OnDemand(Some(Layout::V5)),
            other => BindMode::Unknown(other),
        }
    }
}

/// A line that is well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Put the cache in service.
    Bind(BindMode<'a>),
    /// Set a space limit.
    Limit {
        /// What it counts.
        resource: Resource,
        /// Which limit.
        bound: Bound,
        /// Of the backing file system's total; any number that fits, not yet compared with 100.
        percent: u64,
    },
    /// Cull this name from the working directory.
    Cull(&'a [u8]),
    /// Ask whether this name in the working directory is in use.
    InUse(&'a [u8]),
    /// Set the mask of debugging messages.
    Debug(u32),
    /// Set the cache's directory.  Spaces at its end are part of it.
    Dir(&'a [u8]),
    /// Set the security context.
    SecCtx(&'a [u8]),
    /// Set the cache's tag.
    Tag(&'a [u8]),
    /// Answer an OPEN (mainline).
    Copen(CopenArgs<'a>),
    /// Give out again all requests that were read but not answered, if they are in this layout.
    Restore(Option<Layout>),
    /// Answer an OPEN (v5).
    Cinit(CinitArgs),
    /// Answer a READ (v5).
    Cread(CreadArgs),
    /// Fail requests that go unanswered for so many milliseconds; 0: never.
    Timeout(u32),
}

/// `copen <id>,<size or -errno>`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopenArgs<'a> {
    /// The message answered.  C's `unsigned long`: an id above [`u32::MAX`] names no request.
    pub id: u64,
    /// The answer.  C reads it after it has found the request, and a bad one then fails both the
    /// command and the request; so it is not an error of the line.
    pub reply: Result<CopenReply, NumberError>,
    /// The bytes of the answer, for messages.
    pub reply_text: &'a [u8],
}

/// What a daemon answers to an OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopenReply {
    /// The size of the object in bytes, at most [`i64::MAX`].
    Size(u64),
    /// A positive error number, 1 to 4095, with which the OPEN fails; the command itself succeeds.
    Error(i32),
    /// A negative number that is no error number: command and OPEN both fail with EINVAL.
    BadError(i64),
}

impl<'a> CopenArgs<'a> {
    fn parse(args: &'a [u8]) -> Result<CopenArgs<'a>, CommandError<'a>> {
        let (id, size) = split_at_comma(args);
        let reply_text = size.ok_or(CommandError::NoReply(args))?;
        Ok(CopenArgs {
            id: Verb::Copen.number(Field::Id, id)?,
            reply: parse_i64(reply_text).map(CopenReply::from),
            reply_text,
        })
    }
}

impl From<i64> for CopenReply {
    fn from(number: i64) -> CopenReply {
        match u64::try_from(number) {
            Ok(size) => CopenReply::Size(size),
            Err(_) => match i32::try_from(number.unsigned_abs()) {
                Ok(errno) if errno <= errno::MAX_ERRNO => CopenReply::Error(errno),
                _ => CopenReply::BadError(number),
            },
        }
    }
}

/// `cinit <id>[,<size>]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CinitArgs {
    /// The message answered; an id above [`u32::MAX`] names no request.
    pub id: u64,
    /// The size of the object in bytes, at most [`i64::MAX`]; where the OPEN asked for it, none and
    /// 0 refuse the object.
    pub size: Option<u64>,
}

impl CinitArgs {
    /// The size is read before the id, as the posted code does.  That code takes sizes beyond
    /// 2^63 and makes negative ones of them; here they are out of range.
    fn parse(args: &[u8]) -> Result<CinitArgs, CommandError<'_>> {
        let (id, size) = split_at_comma(args);
        let size = match size {
            Some(text) => Some(match Verb::Cinit.number(Field::Size, text)? {
                size if i64::try_from(size).is_ok() => size,
                _ => {
                    return Err(CommandError::BadNumber {
                        verb: Verb::Cinit,
                        field: Field::Size,
                        text,
                        why: NumberError::Range,
                    })
                }
            }),
            None => None,
        };
        Ok(CinitArgs {
            id: Verb::Cinit.number(Field::Id, id)?,
            size,
        })
    }
}

/// `cread <id>`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreadArgs {
    /// The message answered; an id above [`u32::MAX`] names no request.
    pub id: u64,
}

/// Splits a line, as written, into its verb and the verb's arguments: everything up to the first
/// newline, less the white space between the two.
///
/// # Errors
///
/// [`TooLong`](CommandError::TooLong), [`Nul`](CommandError::Nul),
/// [`NoCommand`](CommandError::NoCommand), [`LeadingSpace`](CommandError::LeadingSpace),
/// [`Unknown`](CommandError::Unknown), in this order.
pub fn split(line: &[u8]) -> Result<(Verb, &[u8]), CommandError<'_>> {
    if line.len() > MAX_LINE {
        return Err(CommandError::TooLong(line.len()));
    }
    // C looks for a NUL in the whole line, and so behind its newline too.
    if let Some(at) = line.iter().position(|byte| *byte == 0) {
        return Err(CommandError::Nul(at));
    }
    let (text, newline) = split_at(line, |byte| byte == b'\n');
    if text.is_empty() && newline.is_some() {
        return Err(CommandError::NoCommand);
    }
    let (name, args) = split_at(text, is_space);
    if name.is_empty() && args.is_some() {
        return Err(CommandError::LeadingSpace);
    }
    let verb = Verb::from_name(name).ok_or(CommandError::Unknown(name))?;
    Ok((verb, skip_spaces(args.unwrap_or(&[]))))
}

/// [`split`] and [`Verb::parse`] in one, for those who have no cache whose state comes between.
///
/// # Errors
///
/// Those of the two.
pub fn parse(line: &[u8]) -> Result<Command<'_>, CommandError<'_>> {
    let (verb, args) = split(line)?;
    verb.parse(args)
}

/// `isspace()` of the kernel's `lib/ctype.c`, whose table is Latin-1: tab, newline, vertical tab,
/// form feed, carriage return, space, and the no-break space 0xa0.
pub const fn is_space(byte: u8) -> bool {
    matches!(byte, 0x09..=0x0d | 0x20 | 0xa0)
}

fn skip_spaces(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text {
        if !is_space(*first) {
            break;
        }
        text = rest;
    }
    text
}

fn debug_mask(args: &[u8]) -> Result<u32, CommandError<'_>> {
    // No argument is a mask of 0, as in C.  C cuts a mask to its 32 low bits; here one that has
    // more is refused.
    let prefix = parse_prefix(args, Base::Auto);
    match (prefix.value.map(u32::try_from), prefix.rest) {
        (Some(Ok(mask)), []) => Ok(mask),
        _ => Err(CommandError::NotAMask(args)),
    }
}

/// Digits alone, which must fit an `i32`: the kernel's own times do.
fn milliseconds(args: &[u8]) -> Result<u32, CommandError<'_>> {
    let prefix = parse_prefix(args, Base::Ten);
    match (prefix.value.map(i32::try_from), prefix.digits, prefix.rest) {
        (Some(Ok(ms)), 1.., []) => Ok(ms.unsigned_abs()),
        _ => Err(CommandError::NotATime(args)),
    }
}

/// C takes no notice of what follows `restore`, and so it is no error; but a daemon may say which
/// layout it is going to read.
fn restored_layout(args: &[u8]) -> Option<Layout> {
    [Layout::Mainline, Layout::V5]
        .into_iter()
        .find(|layout| layout.name().as_bytes() == args)
}

fn split_at_comma(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    split_at(text, |byte| byte == b',')
}

/// What is before the first byte that `is_separator`, and what is behind it if there is one.
fn split_at(text: &[u8], is_separator: impl Fn(u8) -> bool) -> (&[u8], Option<&[u8]>) {
    let mut parts = text.splitn(2, |byte| is_separator(*byte));
    (parts.next().unwrap_or(&[]), parts.next())
}
