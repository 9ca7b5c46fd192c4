// SPDX-License-Identifier: GPL-2.0

//! How long a test waits for what must happen.
//!
//! Lives here: the one factor by which every such bound is longer on a kernel that checks all it
//! does, waiting for a thread within such a bound, and whether a thread waits itself.  Never here:
//! how long nothing must happen, which is no bound.

use crate::ktap::in_ci;
use anyhow::{ensure, Context, Result};
use rustix::{process::Pid, thread::gettid};
use std::{
    fs,
    sync::{mpsc, LazyLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How much slower the debug kernel is, at its worst, without KVM.
const DEBUG_KERNEL: u32 = 10;

/// How much slower a machine may be that does this for others, and much else.
const CI: u32 = 3;

/// How long what must come may take.
pub static SOON: LazyLock<Duration> = LazyLock::new(|| patiently(Duration::from_secs(10)));

/// Whether the kernel that runs checks all it does.
pub fn is_debug_kernel() -> bool {
    let system = rustix::system::uname();
    // scripts/kernel.d/debug.config says so in CONFIG_LOCALVERSION.
    system.release().to_string_lossy().contains("-debug")
}

/// This bound, on the kernel that runs.
pub fn patiently(bound: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| match (is_debug_kernel(), in_ci()) {
        (true, true) => DEBUG_KERNEL * CI,
        (true, false) => DEBUG_KERNEL,
        (false, true) => CI,
        (false, false) => 1,
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

/// A thread, and its number, by which [`sleeps`] knows it.
pub fn numbered<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    what: impl FnOnce() -> T + Send + 'scope,
) -> (thread::ScopedJoinHandle<'scope, T>, Option<Pid>) {
    let (tell, told) = mpsc::channel();
    let thread = scope.spawn(move || {
        // Whoever does not hear it has gone.
        let _ = tell.send(gettid());
        what()
    });
    (thread, told.recv().ok())
}

/// Whether a thread of this process waits in the kernel, deaf to signals: for a disk, or for somebody who
/// does.
pub fn sleeps(thread: Option<Pid>) -> bool {
    let Some(thread) = thread else { return false };
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
    stat.is_ok_and(|stat| stat.contains(") D "))
}
