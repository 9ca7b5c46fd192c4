// SPDX-License-Identifier: GPL-2.0

//! Printing with the prefix that CacheFiles has always had, and rate limits.

use core::fmt;
use kernel::print::{call_printk, format_strings};

/// How grave a message is.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    /// Something failed.
    Error,
    /// Something is odd.
    Warning,
    /// Normal but notable.
    Notice,
    /// Normal.
    Info,
    /// For developers.
    Debug,
}

/// Prints one line; [`crate::sys::log::error!`] and its sisters format it.
pub(crate) fn print(level: Level, args: fmt::Arguments<'_>) {
    let format = match level {
        Level::Error => &format_strings::ERR,
        Level::Warning => &format_strings::WARNING,
        Level::Notice => &format_strings::NOTICE,
        Level::Info => &format_strings::INFO,
        Level::Debug => &format_strings::DEBUG,
    };
    // SAFETY: The format string is one of the kernel crate's, and the prefix ends with a NUL.
    unsafe { call_printk(format, b"CacheFiles\0", args) }
}

/// Whether one more message that user space can cause at will may be printed now.
pub(crate) fn may_print() -> bool {
    // SAFETY: The shim's rate limit state is static and locks itself.
    unsafe { super::bindings::cfrs_ratelimit() }
}

/// A call from FS-Cache or netfs that the `debug` parameter has logged: its start is bit 0, its end
/// bit 1.
pub(crate) struct Call(&'static str);

impl Call {
    /// The call of `name` for the cookie with this number begins; it ends when this is dropped.
    pub(crate) fn enter(name: &'static str, cookie: u32) -> Self {
        if super::module::debug_mask() & 1 != 0 {
            print(Level::Debug, format_args!("==> {name}(c={cookie:x})\n"));
        }
        Call(name)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if super::module::debug_mask() & 2 != 0 {
            print(Level::Debug, format_args!("<== {}()\n", self.0));
        }
    }
}

macro_rules! error {
    ($($arg:tt)+) => {
        $crate::sys::log::print(
            $crate::sys::log::Level::Error, format_args!("{}\n", format_args!($($arg)+)))
    };
}
macro_rules! notice {
    ($($arg:tt)+) => {
        $crate::sys::log::print(
            $crate::sys::log::Level::Notice, format_args!("{}\n", format_args!($($arg)+)))
    };
}
macro_rules! info {
    ($($arg:tt)+) => {
        $crate::sys::log::print(
            $crate::sys::log::Level::Info, format_args!("{}\n", format_args!($($arg)+)))
    };
}
macro_rules! warn_limited {
    ($($arg:tt)+) => {
        if $crate::sys::log::may_print() {
            $crate::sys::log::print(
                $crate::sys::log::Level::Warning, format_args!("{}\n", format_args!($($arg)+)))
        }
    };
}
macro_rules! debug {
    ($($arg:tt)+) => {
        if $crate::sys::module::debug_mask() & 4 != 0 {
            $crate::sys::log::print(
                $crate::sys::log::Level::Debug, format_args!("{}\n", format_args!($($arg)+)))
        }
    };
}
pub(crate) use {debug, error, info, notice, warn_limited};
