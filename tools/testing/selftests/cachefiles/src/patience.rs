// SPDX-License-Identifier: GPL-2.0

//! How long a test waits for what must happen.
//!
//! Lives here: the one factor by which every such bound is longer on a kernel that checks all it
//! does, and waiting for a thread within such a bound.  Never here: how long nothing must happen,
//! which is no bound.

use anyhow::{ensure, Context, Result};
use std::{
    sync::LazyLock,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How much slower the debug kernel is, at its worst, without KVM.
const DEBUG_KERNEL: u32 = 10;

/// How long what must come may take.
pub static SOON: LazyLock<Duration> = LazyLock::new(|| patiently(Duration::from_secs(10)));

/// This bound, on the kernel that runs.
pub fn patiently(bound: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let system = rustix::system::uname();
        // scripts/kernel.d/debug.config says so in CONFIG_LOCALVERSION.
        if system.release().to_string_lossy().contains("-debug") {
            DEBUG_KERNEL
        } else {
            1
        }
    });
    bound * *FACTOR
}

/// The result of a thread that must end within this time.
pub fn within<T>(bound: Duration, what: &str, thread: JoinHandle<T>) -> Result<T> {
    let deadline = Instant::now() + bound;
    while !thread.is_finished() {
        ensure!(
            Instant::now() < deadline,
            "{what} still waits after {bound:?}"
        );
        thread::sleep(Duration::from_micros(200));
    }
    let result = thread.join().ok();
    result.with_context(|| format!("{what}: the thread panicked"))
}
