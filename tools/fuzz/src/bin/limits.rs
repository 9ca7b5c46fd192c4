// SPDX-License-Identifier: GPL-2.0

//! libFuzzer's way into [`cachefiles_fuzz::limits`].
//!
//! Lives here: the entry point, which has no Rust `main`.  Never here: what is checked.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cachefiles_fuzz::limits::check(data));
