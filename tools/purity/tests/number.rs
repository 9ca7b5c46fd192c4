// SPDX-License-Identifier: GPL-2.0

//! `protocol::number` against a model in 128 bits and against corner cases worked out from
//! `lib/kstrtox.c`.

use proptest::prelude::*;
use purity::protocol::number::{parse_i64, parse_prefix, parse_u64, Base, NumberError, Prefix};

use NumberError::{Invalid, Range};

/// `kstrtoul(text, 0, …)` in other words: how many digits there are is found first, and their
/// value is the standard library's business.
fn model(text: &str, min: i128, max: i128) -> Result<i128, NumberError> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) if min < 0 => (true, rest),
        _ => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = text.to_ascii_lowercase();
    let hexadecimal = |c: char| c.is_ascii_hexdigit();
    let (radix, body) = match lower.strip_prefix("0x") {
        Some(body) if body.starts_with(hexadecimal) => (16, body),
        _ if lower.starts_with('0') => (8, lower.as_str()),
        _ => (10, lower.as_str()),
    };
    let end = body
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(body.len());
    let (digits, rest) = body.split_at(end);
    if digits.is_empty() {
        return Err(Invalid);
    }
    // The texts made here have too few digits for 128 bits.
    let value = i128::from_str_radix(digits, radix).unwrap();
    // C reads the digits as an unsigned number first, and that may already be too large.
    if value > i128::from(u64::MAX) {
        return Err(Range);
    }
    if !matches!(rest, "" | "\n") {
        return Err(Invalid);
    }
    let value = if negative { -value } else { value };
    (min..=max).contains(&value).then_some(value).ok_or(Range)
}

fn check(text: &str) {
    let unsigned = model(text, 0, i128::from(u64::MAX));
    assert_eq!(
        parse_u64(text.as_bytes()).map(i128::from),
        unsigned,
        "{text:?}"
    );
    let signed = model(text, i128::from(i64::MIN), i128::from(i64::MAX));
    assert_eq!(
        parse_i64(text.as_bytes()).map(i128::from),
        signed,
        "{text:?}"
    );
}

#[test]
fn corner_cases_of_kstrtoul() {
    for (text, result) in [
        ("", Err(Invalid)),
        ("\n", Err(Invalid)),
        ("+", Err(Invalid)),
        ("0", Ok(0)),
        ("0\n", Ok(0)),
        ("0\n\n", Err(Invalid)),
        ("00", Ok(0)),
        ("0x", Err(Invalid)),
        ("0xg", Err(Invalid)),
        ("0x+1", Err(Invalid)),
        ("0x0", Ok(0)),
        ("0XaB", Ok(0xab)),
        ("08", Err(Invalid)),
        ("010", Ok(8)),
        ("+010", Ok(8)),
        ("++1", Err(Invalid)),
        ("-0", Err(Invalid)),
        ("-1", Err(Invalid)),
        (" 1", Err(Invalid)),
        ("1 ", Err(Invalid)),
        ("1,", Err(Invalid)),
        ("12ab", Err(Invalid)),
        ("18446744073709551615", Ok(u64::MAX)),
        ("18446744073709551616", Err(Range)),
        ("18446744073709551616x", Err(Range)),
        ("018446744073709551616", Err(Invalid)),
        ("0xffffffffffffffff", Ok(u64::MAX)),
        ("0x10000000000000000", Err(Range)),
        ("0000000000000000000000000000000000000000001", Ok(1)),
        ("1777777777777777777777", Err(Range)),
        ("01777777777777777777777", Ok(u64::MAX)),
        ("02000000000000000000000", Err(Range)),
    ] {
        assert_eq!(parse_u64(text.as_bytes()), result, "{text:?}");
    }
    // A NUL is no end here: the caller has refused it long before.
    assert_eq!(parse_u64(b"1\0"), Err(Invalid));
}

#[test]
fn corner_cases_of_kstrtol() {
    for (text, result) in [
        ("-0", Ok(0)),
        ("-1", Ok(-1)),
        ("+1", Ok(1)),
        ("-+1", Err(Invalid)),
        ("+-1", Err(Invalid)),
        ("--1", Err(Invalid)),
        ("-", Err(Invalid)),
        ("-0x", Err(Invalid)),
        ("-0x10\n", Ok(-16)),
        ("-010", Ok(-8)),
        ("9223372036854775807", Ok(i64::MAX)),
        ("9223372036854775808", Err(Range)),
        ("0x8000000000000000", Err(Range)),
        ("-0x8000000000000000", Ok(i64::MIN)),
        ("-9223372036854775808", Ok(i64::MIN)),
        ("-9223372036854775809", Err(Range)),
        ("-18446744073709551615", Err(Range)),
        ("-18446744073709551616", Err(Range)),
    ] {
        assert_eq!(parse_i64(text.as_bytes()), result, "{text:?}");
    }
}

#[test]
fn corner_cases_of_simple_strtoul() {
    let prefix = |value, digits, rest: &'static str| Prefix {
        value,
        digits,
        rest: rest.as_bytes(),
    };
    for (base, text, result) in [
        (Base::Auto, "", prefix(Some(0), 0, "")),
        (Base::Auto, "%", prefix(Some(0), 0, "%")),
        (Base::Auto, "0x", prefix(Some(0), 1, "x")),
        (Base::Auto, "0xfg", prefix(Some(15), 1, "g")),
        (Base::Auto, "08", prefix(Some(0), 1, "8")),
        (Base::Auto, "+1", prefix(Some(0), 0, "+1")),
        (Base::Ten, "010%", prefix(Some(10), 3, "%")),
        (Base::Ten, "0x1", prefix(Some(0), 1, "x1")),
        (Base::Ten, "99999999999999999999!", prefix(None, 20, "!")),
    ] {
        assert_eq!(parse_prefix(text.as_bytes(), base), result, "{text:?}");
    }
}

#[test]
fn errors_have_the_kernels_numbers() {
    assert_eq!((Invalid.errno(), Range.errno()), (22, 34));
}

proptest! {
    #[test]
    fn as_the_model_on_texts_like_numbers(text in "[-+]{0,2}(0x|0X|0)?[0-9a-fA-F]{0,22}[-+ \n,gx%]{0,2}") {
        check(&text);
    }

    #[test]
    fn as_the_model_around_the_limits(
        limit in prop::sample::select(vec![0, 1i128 << 31, 1 << 32, 1 << 63, 1 << 64]),
        step in -3i128..=3,
        sign in prop::sample::select(vec!["", "+", "-"]),
        tail in prop::sample::select(vec!["", "\n", "0", " "]),
    ) {
        let value = (limit + step).abs();
        for number in [
            format!("{value}"),
            format!("{value:#x}"),
            format!("0X{value:X}"),
            format!("0{value:o}"),
        ] {
            check(&format!("{sign}{number}{tail}"));
        }
    }

    #[test]
    fn no_bytes_are_too_strange(
        mut bytes in prop::collection::vec(
            prop_oneof![40 => b'0'..=b'9', 1 => any::<u8>()],
            0..64,
        ),
        hexadecimal: bool,
    ) {
        if hexadecimal {
            bytes.splice(0..0, *b"0x");
        }
        let _ = parse_u64(&bytes);
        let _ = parse_i64(&bytes);
        for base in [Base::Auto, Base::Ten] {
            let prefix = parse_prefix(&bytes, base);
            prop_assert!(bytes.ends_with(prefix.rest));
        }
    }
}
