// SPDX-License-Identifier: GPL-2.0

//! Makes numbers and keys of a fuzzer's bytes.
//!
//! Lives here: taking from the front; what is not there is zero, so that every input is a good one.

/// The bytes that are left.
pub struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to so many bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let front = self.bytes(N);
        array
            .iter_mut()
            .zip(front)
            .for_each(|(to, from)| *to = *from);
        array
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// A number of 32 bits.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// A number of 64 bits.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}
