// SPDX-License-Identifier: GPL-2.0

//! Numbers as `lib/kstrtox.c` of the kernel reads them, on byte slices.
//!
//! Lives here: the equivalents of `kstrtoul(s, 0)`, `kstrtol(s, 0)` and `simple_strtoul()`.
//! Never here: what a number means.
//!
//! The end of the slice takes the place of C's terminating NUL; a NUL inside it is a byte like
//! any other that is no digit.  Corner cases that daemons can meet and that we keep: `0x` alone
//! and `08` are a zero followed by rubbish; a sign comes before the prefix (`-0x10`), never after
//! it, and there is one at most; a number too large is reported as such even if rubbish follows.

use super::errno;
use core::fmt;

/// Why bytes are not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// There is no digit, or something follows the digits.  C: `-EINVAL`.
    Invalid,
    /// The digits are more than the type holds.  C: `-ERANGE`.
    Range,
}

impl NumberError {
    /// The positive error number that C returns for this.
    pub const fn errno(self) -> i32 {
        match self {
            NumberError::Invalid => errno::EINVAL,
            NumberError::Range => errno::ERANGE,
        }
    }
}

impl fmt::Display for NumberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NumberError::Invalid => "is not a number",
            NumberError::Range => "is too large a number",
        })
    }
}

/// How the base of a number is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// `0x` and a hexadecimal digit begin a hexadecimal number, any other `0` an octal one, the
    /// rest are decimal: base 0 in C.
    Auto,
    /// Always decimal: base 10 in C.
    Ten,
}

/// The digits at the front of some bytes and what is behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix<'a> {
    /// The value; `None` if it does not fit, where C goes on with it modulo 2^64.
    pub value: Option<u64>,
    /// How many digits there were, without a `0x`; the value of no digits is 0.
    pub digits: usize,
    /// The bytes after the last digit.
    pub rest: &'a [u8],
}

/// Reads an unsigned number as `kstrtoul(text, 0, …)` does: one `+` may lead, one newline may
/// trail.
///
/// # Errors
///
/// [`NumberError::Range`] if it is more than 64 bits, whatever follows; otherwise
/// [`NumberError::Invalid`] if there are no digits or anything follows them.
pub fn parse_u64(text: &[u8]) -> Result<u64, NumberError> {
    unsigned(text.strip_prefix(b"+").unwrap_or(text))
}

/// Reads a signed number as `kstrtol(text, 0, …)` does: one `+` or `-` may lead, one newline may
/// trail.
///
/// # Errors
///
/// As [`parse_u64`], with [`NumberError::Range`] for what does not fit an [`i64`].
pub fn parse_i64(text: &[u8]) -> Result<i64, NumberError> {
    match text.strip_prefix(b"-") {
        // C negates the unsigned number, so that -2^63 is in range and `-+1` is rubbish.
        Some(digits) => 0i64
            .checked_sub_unsigned(unsigned(digits)?)
            .ok_or(NumberError::Range),
        None => i64::try_from(parse_u64(text)?).map_err(|_| NumberError::Range),
    }
}

/// Reads the digits at the front of `text` as `simple_strtoul()` does.  Nothing is an error here:
/// without digits the value is 0 and all of `text` is left over.
pub fn parse_prefix(text: &[u8], base: Base) -> Prefix<'_> {
    let (radix, mut rest) = match (base, text) {
        (Base::Ten, _) => (10, text),
        (Base::Auto, [b'0', b'x' | b'X', digits @ ..]) if starts_hexadecimal(digits) => {
            (16, digits)
        }
        (Base::Auto, [b'0', ..]) => (8, text),
        (Base::Auto, _) => (10, text),
    };
    let mut value = Some(0u64);
    let mut digits = 0usize;
    while let [first, behind @ ..] = rest {
        let Some(digit) = char::from(*first).to_digit(radix) else {
            break;
        };
        // Digits after an overflow are still digits: the caller has to see what follows them.
        value = value
            .and_then(|v| v.checked_mul(u64::from(radix)))
            .and_then(|v| v.checked_add(u64::from(digit)));
        digits = digits.saturating_add(1);
        rest = behind;
    }
    Prefix {
        value,
        digits,
        rest,
    }
}

/// `_kstrtoull(text, 0, …)`: no sign is allowed.
fn unsigned(text: &[u8]) -> Result<u64, NumberError> {
    let prefix = parse_prefix(text, Base::Auto);
    let value = prefix.value.ok_or(NumberError::Range)?;
    match prefix.rest {
        [] | [b'\n'] if prefix.digits > 0 => Ok(value),
        _ => Err(NumberError::Invalid),
    }
}

fn starts_hexadecimal(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_hexdigit)
}
