// SPDX-License-Identifier: GPL-2.0

//! Error codes that the kernel crate of 6.12 has no names for.

use core::num::NonZeroI32;
use kernel::error::Error;

const fn code(errno: u32) -> Error {
    // CAST: Error numbers are below 4096.
    let Some(number) = NonZeroI32::new(-(errno as i32)) else {
        panic!("0 is no error");
    };
    // SAFETY: An `Error` is one field, the negative number, and nothing else: the sizes are equal,
    // as the compiler checks here. `Error::from_errno` does the same but is not `const`, which
    // patterns need.
    unsafe { core::mem::transmute::<NonZeroI32, Error>(number) }
}

macro_rules! codes {
    ($($name:ident: $doc:literal,)+) => {
        $(
            #[doc = $doc]
            pub(crate) const $name: Error = code(super::bindings::$name);
        )+
    };
}

codes! {
    EBADFD: "File descriptor in bad state.",
    EDQUOT: "Quota exceeded.",
    EMSGSIZE: "Message too long.",
    ENOBUFS: "No buffer space available.",
    ENODATA: "No data available.",
    EOPNOTSUPP: "Operation not supported on transport endpoint.",
    ESTALE: "Stale file handle.",
    ETIMEDOUT: "Connection timed out.",
}
