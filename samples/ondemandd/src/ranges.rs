// SPDX-License-Identifier: GPL-2.0

//! The list of ranges to prefetch.
//!
//! Lives here: the list's two notations, and what it says about one blob.  Never here: fetching.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use bytesize::ByteSize;
use serde::Deserialize;
use thiserror::Error;

use crate::name::{BadName, BlobName};
use crate::transfer::{round_down, round_up};

/// Ranges by blob, each blob's in the order of the list: first things first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeList {
    by_blob: HashMap<BlobName, Vec<Range<u64>>>,
}

/// Why a list was refused.
#[derive(Debug, Error)]
pub enum RangeListError {
    /// The file cannot be read.
    #[error("cannot read it")]
    Unreadable(#[from] io::Error),
    /// It begins like JSON and is not a list of `{"key", "offset", "length"}`.
    #[error("as JSON it wants to be [{{\"key\": \"…\", \"offset\": 0, \"length\": 4096}}, …]")]
    Json(#[from] serde_json::Error),
    /// A line has another number of words than three.
    #[error("line {0} is not \"key offset length\"")]
    Words(usize),
    /// An offset or length is not a size.
    #[error("line {line}: {word:?} is not a number of bytes ({why})")]
    Number {
        /// The line, counted from 1.
        line: usize,
        /// The word.
        word: String,
        /// What the parser says.
        why: String,
    },
    /// A key that cannot be a blob's.
    #[error("entry {entry}: {why}")]
    Name {
        /// The line or entry, counted from 1.
        entry: usize,
        /// What is wrong with it.
        why: BadName,
    },
    /// Offset and length together leave the numbers.
    #[error("entry {0}: the range ends beyond 2^63")]
    TooFar(usize),
}

/// An entry in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    offset: u64,
    length: u64,
}

impl RangeList {
    /// Reads the list in a file.
    pub fn read(path: &Path) -> Result<Self, RangeListError> {
        Self::parse(&fs::read_to_string(path)?)
    }

    /// Reads a list: JSON if it begins with `[`, else one range a line, `#` beginning a comment.
    pub fn parse(text: &str) -> Result<Self, RangeListError> {
        let mut list = Self::default();
        if text.trim_start().starts_with('[') {
            let entries: Vec<Entry> = serde_json::from_str(text)?;
            for (i, e) in entries.iter().enumerate() {
                list.add(i + 1, &e.key, e.offset, e.length)?;
            }
            return Ok(list);
        }
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] => {}
                [key, offset, length] => {
                    let (offset, length) = (bytes(i + 1, offset)?, bytes(i + 1, length)?);
                    list.add(i + 1, key, offset, length)?;
                }
                _ => return Err(RangeListError::Words(i + 1)),
            }
        }
        Ok(list)
    }

    fn add(
        &mut self,
        entry: usize,
        key: &str,
        offset: u64,
        length: u64,
    ) -> Result<(), RangeListError> {
        let name =
            BlobName::new(key.as_bytes()).map_err(|why| RangeListError::Name { entry, why })?;
        let end = offset
            .checked_add(length)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or(RangeListError::TooFar(entry))?;
        self.by_blob.entry(name).or_default().push(offset..end);
        Ok(())
    }

    /// The ranges of one blob, cut at its end and widened to whole pages.
    pub fn of(&self, name: &BlobName, size: u64) -> Vec<Range<u64>> {
        let listed = self
            .by_blob
            .get(name)
            .map(Vec::as_slice)
            .unwrap_or_default();
        listed
            .iter()
            .map(|r| r.start..r.end.min(size))
            .filter(|r| !r.is_empty())
            .map(|r| round_down(r.start)..round_up(r.end))
            .collect()
    }
}

/// A number of bytes as people write it: 4096, 64KiB, 1MiB.
fn bytes(line: usize, word: &str) -> Result<u64, RangeListError> {
    let number = |why| RangeListError::Number {
        line,
        word: word.to_owned(),
        why,
    };
    word.parse::<ByteSize>().map(|b| b.as_u64()).map_err(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str) -> BlobName {
        BlobName::new(key.as_bytes()).unwrap()
    }

    #[test]
    fn lines_and_json_say_the_same() {
        let lines = "# what python3 reads first\n\nroot.blob 1MiB 64KiB # libc\nroot.blob 0 4096\nroot.meta 8192 1\n";
        let json = r#" [{"key": "root.blob", "offset": 1048576, "length": 65536},
            {"key": "root.blob", "offset": 0, "length": 4096},
            {"key": "root.meta", "offset": 8192, "length": 1}]"#;
        let list = RangeList::parse(lines).unwrap();
        assert_eq!(list, RangeList::parse(json).unwrap());
        let of = |key, size| list.of(&name(key), size);
        assert_eq!(of("root.blob", 1 << 30), [1048576..1114112, 0..4096]);
        assert_eq!(of("root.meta", 1 << 20), vec![8192..12288]);
        assert_eq!(of("other", 1 << 20), []);
    }

    #[test]
    fn ranges_end_with_the_blob() {
        let list = RangeList::parse("b 0 1GiB\nb 5000 10\nb 8192 4096\nb 100 0").unwrap();
        assert_eq!(list.of(&name("b"), 5000), vec![0..8192]);
        assert_eq!(list.of(&name("b"), 5001), [0..8192, 4096..8192]);
        assert_eq!(list.of(&name("b"), 0), []);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text| RangeList::parse(text).unwrap_err().to_string();
        assert!(error("a 0 1\nb 0\n").contains("line 2"));
        assert!(error("a 0 many").contains("\"many\""));
        assert!(error("../a 0 1").contains("slash"));
        assert!(error("a 9223372036854775807 1").contains("2^63"));
        assert!(error("[{\"key\": \"a\"}]").contains("JSON"));
        assert!(error("[{\"key\":\"a\",\"offset\":0,\"length\":1,\"x\":1}]").contains("JSON"));
    }

    #[test]
    fn an_empty_list_is_a_list() {
        assert_eq!(RangeList::parse("").unwrap(), RangeList::default());
        assert_eq!(RangeList::parse("[]").unwrap(), RangeList::default());
    }
}
