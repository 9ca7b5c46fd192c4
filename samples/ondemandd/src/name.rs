// SPDX-License-Identifier: GPL-2.0

//! The name of a blob: a cookie key that has proved fit to be a file name.
//!
//! Lives here: the check, and how a key is shown to people.  Never here: looking a blob up, which
//! is [`crate::blobs`]'s.
//!
//! Cookie keys come from mount options.  Who mounts may choose which blob to ask for,
//! but must not choose a file outside the blob directory.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use thiserror::Error;

/// A file name without a directory: not empty, not `.` or `..`, no `/`, no NUL, at most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BlobName(Vec<u8>);

/// Why a cookie key cannot name a blob.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadName {
    /// It has no byte.
    #[error("the key is empty")]
    Empty,
    /// It is `.` or `..`.
    #[error("the key is a directory's name")]
    Directory,
    /// It has a `/`.
    #[error("the key has a slash")]
    Slash,
    /// It has a NUL byte.
    #[error("the key has a NUL byte")]
    Nul,
    /// No file system takes a name this long.
    #[error("the key is longer than 255 bytes")]
    TooLong,
}

impl BlobName {
    /// Accepts a cookie key as a file name, or says why not.
    pub fn new(key: &[u8]) -> Result<Self, BadName> {
        match key {
            [] => Err(BadName::Empty),
            b"." | b".." => Err(BadName::Directory),
            _ if key.contains(&b'/') => Err(BadName::Slash),
            _ if key.contains(&0) => Err(BadName::Nul),
            _ if key.len() > 255 => Err(BadName::TooLong),
            _ => Ok(Self(key.to_vec())),
        }
    }

    /// The name as a path of one component.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Printable(&self.0), f)
    }
}

impl fmt::Debug for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes for a log line: text stays as it is, every other byte becomes an escape.
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for key in [
            &b"rootfs.meta"[..],
            b"sha256:0a1b",
            b"...",
            b"..x",
            b" ",
            &[0xff; 255],
        ] {
            let name = BlobName::new(key).unwrap();
            assert_eq!(name.as_path().as_os_str().as_bytes(), key);
            assert_eq!(name.as_path().components().count(), 1);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (key, why) in [
            (&b""[..], BadName::Empty),
            (b".", BadName::Directory),
            (b"..", BadName::Directory),
            (b"../secret", BadName::Slash),
            (b"/etc/shadow", BadName::Slash),
            (b"a/", BadName::Slash),
            (b"a\0b", BadName::Nul),
            (&[b'x'; 256], BadName::TooLong),
        ] {
            assert_eq!(BlobName::new(key), Err(why));
        }
    }

    #[test]
    fn a_name_is_shown_on_one_line() {
        let name = BlobName::new(b"a\n\xffb").unwrap();
        assert_eq!(name.to_string(), r"a\n\xffb");
    }
}
