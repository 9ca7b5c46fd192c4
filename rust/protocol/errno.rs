// SPDX-License-Identifier: GPL-2.0

//! The error numbers that the pure files return, as positive numbers of x86_64 and of every other
//! architecture that uses `asm-generic/errno.h`.
//!
//! Lives here: constants.  Never here: an error type; those stand beside the code that fails.

/// A malformed argument.
pub const EINVAL: i32 = 22;
/// A number that is well-formed and too large.
pub const ERANGE: i32 = 34;
/// A name longer than a directory entry may be.
pub const ENAMETOOLONG: i32 = 36;
/// A line that names no command that is known, or not in this mode.
pub const EOPNOTSUPP: i32 = 95;
/// The largest error number that fits the kernel's error pointers (`MAX_ERRNO`).
pub const MAX_ERRNO: i32 = 4095;
