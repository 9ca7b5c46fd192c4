// SPDX-License-Identifier: GPL-2.0

//! `rust/protocol/command.rs`, `command_error.rs` and `number.rs`: the input is a line.
//!
//! Lives here: that a line is taken apart in one way only, that what is understood can be written
//! again and is understood alike, that numbers are what a slow reading of them says, and that an
//! error is one that is documented, said in one line.

use crate::assert_is_a_line;
use purity::protocol::{
    command::{
        is_space, parse, split, BindMode, CinitArgs, Command, CommandError, CopenArgs, CopenReply,
        Quoted, UnknownBindMode, Verb, MAX_LINE,
    },
    message::Layout,
    number::{parse_i64, parse_u64, NumberError},
};

const EINVAL: i32 = 22;
const ERANGE: i32 = 34;
const EOPNOTSUPP: i32 = 95;

/// Checks one line.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(line: &[u8]) {
    numbers(line);
    assert_is_a_line(&Quoted(line).to_string(), 4 * Quoted::MAX + 5);
    assert_is_a_line(&UnknownBindMode(line).to_string(), 1000);
    let whole = parse(line);
    let parts = split(line).and_then(|(verb, args)| {
        verb_is_the_first_word(line, verb, args);
        verb.parse(args)
    });
    assert_eq!(whole, parts, "in one step or in two");
    match whole {
        Ok(command) => understood(line, &command),
        Err(error) => refused(line, &error),
    }
}

/// The verb is what the line begins with, the arguments all else up to the newline.
fn verb_is_the_first_word(line: &[u8], verb: Verb, args: &[u8]) {
    let rest = line
        .strip_prefix(verb.name().as_bytes())
        .expect("the line begins with its verb");
    let text = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    assert!(text.ends_with(args));
    let between = &text[..text.len() - args.len()];
    assert!(between.iter().all(|byte| is_space(*byte)));
    assert!(text.is_empty() || !between.is_empty(), "a word goes on");
    assert!(!args.first().is_some_and(|byte| is_space(*byte)));
}

fn understood(line: &[u8], command: &Command<'_>) {
    assert!(line.len() <= MAX_LINE && !line.contains(&0));
    let written = write(command);
    if written.len() > MAX_LINE {
        // The same with a space where there were none: a line that was just short enough.
        assert!(line.len() + 1 >= MAX_LINE);
        return;
    }
    let again = parse(&written).expect("what was understood can be written");
    match (command, again) {
        // Only the text of the number may differ.
        (Command::Copen(before), Command::Copen(after)) => {
            assert_eq!((before.id, before.reply), (after.id, after.reply));
        }
        (before, after) => assert_eq!(*before, after),
    }
}

/// Writes a command as a daemon would.
fn write(command: &Command<'_>) -> Vec<u8> {
    let text = |verb: Verb, argument: &[u8]| [verb.name().as_bytes(), b" ", argument].concat();
    let number = |verb: Verb, argument: String| text(verb, argument.as_bytes());
    match *command {
        Command::Bind(BindMode::Plain) => b"bind".to_vec(),
        Command::Bind(BindMode::OnDemand(None)) => b"bind ondemand".to_vec(),
        Command::Bind(BindMode::OnDemand(Some(Layout::Mainline))) => {
            b"bind ondemand mainline".to_vec()
        }
        Command::Bind(BindMode::OnDemand(Some(Layout::V5))) => b"bind ondemand v5".to_vec(),
        Command::Bind(BindMode::Unknown(mode)) => text(Verb::Bind, mode),
        Command::Limit {
            resource,
            bound,
            percent,
        } => number(Verb::Limit(resource, bound), format!("{percent}%")),
        Command::Cull(name) => text(Verb::Cull, name),
        Command::InUse(name) => text(Verb::InUse, name),
        Command::Debug(mask) => number(Verb::Debug, format!("{mask:#x}")),
        Command::Dir(dir) => text(Verb::Dir, dir),
        Command::SecCtx(context) => text(Verb::SecCtx, context),
        Command::Tag(tag) => text(Verb::Tag, tag),
        Command::Copen(CopenArgs {
            id,
            reply,
            reply_text,
        }) => {
            assert_reply(reply, reply_text);
            match reply {
                Ok(CopenReply::Size(size)) => number(Verb::Copen, format!("{id},{size}")),
                Ok(CopenReply::Error(errno)) => number(Verb::Copen, format!("{id},-{errno}")),
                Ok(CopenReply::BadError(bad)) => number(Verb::Copen, format!("{id},{bad}")),
                Err(_) => [format!("copen {id},").as_bytes(), reply_text].concat(),
            }
        }
        Command::Restore(None) => b"restore".to_vec(),
        Command::Restore(Some(layout)) => text(Verb::Restore, layout.name().as_bytes()),
        Command::Cinit(CinitArgs { id, size: None }) => number(Verb::Cinit, id.to_string()),
        Command::Cinit(CinitArgs {
            id,
            size: Some(size),
        }) => {
            assert!(i64::try_from(size).is_ok());
            number(Verb::Cinit, format!("{id},{size}"))
        }
        Command::Cread(cread) => number(Verb::Cread, cread.id.to_string()),
        Command::Timeout(ms) => {
            assert!(i32::try_from(ms).is_ok());
            number(Verb::Timeout, ms.to_string())
        }
    }
}

fn assert_reply(reply: Result<CopenReply, NumberError>, text: &[u8]) {
    let number = match slowly(text, true) {
        Ok(number) => i64::try_from(number).map_err(|_| NumberError::Range),
        Err(error) => Err(error),
    };
    match reply {
        Ok(CopenReply::Size(size)) => assert_eq!(number, Ok(i64::try_from(size).unwrap())),
        Ok(CopenReply::Error(errno)) => {
            assert!((1..=4095).contains(&errno));
            assert_eq!(number, Ok(-i64::from(errno)));
        }
        Ok(CopenReply::BadError(bad)) => {
            assert!(bad < -4095);
            assert_eq!(number, Ok(bad));
        }
        Err(error) => assert_eq!(number, Err(error)),
    }
}

fn refused(line: &[u8], error: &CommandError<'_>) {
    assert_is_a_line(&error.to_string(), 1000);
    let errno = match error {
        CommandError::TooLong(len) => {
            assert!(*len == line.len() && *len > MAX_LINE);
            EOPNOTSUPP
        }
        CommandError::Nul(at) => {
            assert!(line[*at] == 0 && !line[..*at].contains(&0));
            EINVAL
        }
        CommandError::NoCommand => {
            assert_eq!(line.first(), Some(&b'\n'));
            EINVAL
        }
        CommandError::LeadingSpace => {
            assert!(is_space(line[0]));
            EOPNOTSUPP
        }
        CommandError::Unknown(word) => {
            assert!(line.starts_with(word) && Verb::from_name(word).is_none());
            EOPNOTSUPP
        }
        CommandError::MissingArgument(_) => EINVAL,
        CommandError::NotAPercentage(_, text) => {
            assert!(!text.is_empty());
            EINVAL
        }
        CommandError::NotAFileName(_, text) => {
            assert!(text.contains(&b'/'));
            EINVAL
        }
        CommandError::NotAMask(text) | CommandError::NotATime(text) => {
            assert!(!text.is_empty());
            EINVAL
        }
        CommandError::NoReply(text) => {
            assert!(!text.contains(&b','));
            EINVAL
        }
        CommandError::BadNumber { why, .. } => match why {
            NumberError::Invalid => EINVAL,
            NumberError::Range => ERANGE,
        },
    };
    assert_eq!(error.errno(), errno);
}

/// The whole input as a number.
fn numbers(text: &[u8]) {
    let unsigned = slowly(text, false)
        .and_then(|number| u64::try_from(number).map_err(|_| NumberError::Range));
    assert_eq!(parse_u64(text), unsigned, "{}", text.escape_ascii());
    let signed =
        slowly(text, true).and_then(|number| i64::try_from(number).map_err(|_| NumberError::Range));
    assert_eq!(parse_i64(text), signed, "{}", text.escape_ascii());
}

/// A number as kstrtox() reads it, by the standard library's reading of its digits.
fn slowly(text: &[u8], signed: bool) -> Result<i128, NumberError> {
    let (sign, text) = match text {
        [b'-', rest @ ..] if signed => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        _ => (1, text),
    };
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let (radix, text) = match text {
        [b'0', b'x' | b'X', rest @ ..] if is_hex(rest.first()) => (16, rest),
        [b'0', ..] => (8, text),
        _ => (10, text),
    };
    let digits = text
        .iter()
        .take_while(|byte| char::from(**byte).is_digit(radix))
        .count();
    let (digits, rest) = text.split_at(digits);
    let significant: String = digits
        .iter()
        .map(|byte| char::from(*byte))
        .skip_while(|digit| *digit == '0')
        .collect();
    // 25 digits of any base fit, and are too many.
    let value = match significant.len() {
        0 => 0,
        1..=25 => i128::from_str_radix(&significant, radix).expect("digits"),
        _ => i128::MAX,
    };
    if value > i128::from(u64::MAX) {
        return Err(NumberError::Range);
    }
    match rest {
        b"" | b"\n" if !digits.is_empty() => Ok(sign * value),
        _ => Err(NumberError::Invalid),
    }
}
