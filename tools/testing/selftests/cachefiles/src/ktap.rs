// SPDX-License-Identifier: GPL-2.0

//! Runs the cases of a group and prints KTAP.
//!
//! Lives here: each case runs in a process of its own, so that one that panics, hangs or leaks an
//! fd spoils no other; what a case leaves behind in the kernel (a module, a mount, a process)
//! makes it fail.  Never here: what is tested.

use crate::{
    file_system::{self, FileSystem, Property},
    kernel::{allocations, count_allocations, RUST},
    lab::{Lab, Leftovers},
    patience::{is_debug_kernel, patiently},
    protocol, tests,
};
use cachefiles_client::Layout;
use std::{
    env, error, fmt, fs,
    io::{self, BufRead, BufReader},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// A group of cases: one kselftest.
pub struct Group {
    /// The name of the kselftest.
    pub name: &'static str,
    /// What it has.
    pub cases: &'static [Case],
}

/// One case: a line of the result.
pub struct Case {
    /// Its name, that of the function.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Lab) -> anyhow::Result<()>,
}

/// A group whose cases also run in the protocol v5, as the kselftest `v5_<group>`.
pub struct InV5 {
    /// The group.
    pub group: &'static Group,
    /// Its cases that do not: mainline's own, and those to which the protocol is nothing.
    pub without: &'static [&'static str],
    /// Whether that is left to CI, which has the time, and to whoever asks for it by name.
    pub long: bool,
}

/// A group whose cases also run on each backing file system, as the kselftest `<file system>_<group>`.
pub struct OnEach {
    /// The group.
    pub group: &'static Group,
    /// What some of its cases need, which a file system may lack.
    pub needs: &'static [(&'static str, &'static [Property])],
    /// The file systems on which CI runs it; the others are for who asks for them by name.
    pub in_ci: &'static [&'static str],
}

/// The group of these functions.
#[macro_export]
macro_rules! group {
    ($name:literal: $($case:ident),* $(,)?) => {
        /// The group's cases.
        pub const GROUP: $crate::ktap::Group = $crate::ktap::Group {
            name: $name,
            cases: &[$($crate::ktap::Case { name: stringify!($case), run: $case }),*],
        };
    };
}

/// The error of a case that cannot run here, with the reason.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for Skip {}

/// How long a case may take; the longest takes 30 s on a machine that does nothing else, and 130 s with
/// CI's numbers, where it may take longer.
const TIME_LIMIT: Duration = Duration::from_secs(270);

const STATUS_FAILED: u8 = 1;
const STATUS_SKIPPED: u8 = 4;

fn find(group: &str) -> Option<&'static Group> {
    // Some run on file systems that are named, and nowhere else.
    let on_each = tests::ON_EACH.iter().map(|on| on.group);
    tests::GROUPS
        .iter()
        .copied()
        .chain(on_each)
        .find(|known| known.name == group)
}

/// How the names of kselftests in v5 begin.
const V5: &str = "v5";

/// What a kselftest's cases are told by the environment.
#[derive(Clone, Copy)]
struct Setting {
    /// The protocol that they speak.
    layout: Layout,
    /// The file system that their caches are on.
    file_system: &'static FileSystem,
}

impl Setting {
    /// ext4, and this protocol.
    fn speaking(layout: Layout) -> Setting {
        Setting {
            layout,
            file_system: &file_system::EXT4,
        }
    }
}

/// A kselftest: the cases of a group, and their setting.
fn kselftest(name: &str) -> Option<(&'static Group, Vec<&'static Case>, Setting)> {
    if let Some(group) = tests::GROUPS.iter().find(|group| group.name == name) {
        let layout = match name.starts_with(V5) {
            true => Layout::V5,
            false => Layout::Mainline,
        };
        let setting = Setting::speaking(layout);
        return Some((group, group.cases.iter().collect(), setting));
    }
    if let Some((file_system, on)) = on_file_systems().find(|(fs, on)| on_name(fs, on) == name) {
        let can = |case: &&Case| {
            let needs = on.needs.iter().filter(|(name, _)| *name == case.name);
            let mut needs = needs.flat_map(|(_, needs)| *needs);
            !needs.any(|need| file_system.lacks.contains(need))
        };
        let layout = Layout::Mainline;
        let setting = Setting {
            layout,
            file_system,
        };
        return Some((
            on.group,
            on.group.cases.iter().filter(can).collect(),
            setting,
        ));
    }
    let again = tests::IN_V5
        .iter()
        .find(|again| name.strip_prefix("v5_") == Some(again.group.name))?;
    let cases = again.group.cases.iter();
    let cases = cases.filter(|case| !again.without.contains(&case.name));
    Some((again.group, cases.collect(), Setting::speaking(Layout::V5)))
}

/// Each file system with each group that runs on it.
fn on_file_systems() -> impl Iterator<Item = (&'static FileSystem, &'static OnEach)> {
    let each = |fs| tests::ON_EACH.iter().map(move |on| (fs, on));
    file_system::ALL.iter().flat_map(each)
}

/// The name of a group's kselftest on a file system.
fn on_name(file_system: &FileSystem, on: &OnEach) -> String {
    format!("{}_{}", file_system.name, on.group.name)
}

/// Whether there is time: continuous integration sets `CI`.
pub fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|ci| !ci.is_empty())
}

/// Prints the names of the kselftests, in the order in which they are to run; with `CI` set, those
/// that take long as well, and for who names some, all.  C's module speaks mainline only.
pub fn list() {
    let is_named = env::var_os("NAMED").is_some_and(|named| !named.is_empty());
    let in_ci = || is_named || in_ci();
    let is_peer = env::var_os("PEER").is_some_and(|peer| !peer.is_empty());
    for group in tests::GROUPS {
        let wanted = !tests::LONG.contains(&group.name) || in_ci();
        if wanted && (!is_peer || !group.name.starts_with(V5)) {
            println!("{}", group.name);
        }
    }
    let again = tests::IN_V5.iter().filter(|again| !again.long || in_ci());
    for again in again.filter(|_| !is_peer) {
        println!("v5_{}", again.group.name);
    }
    for (fs, on) in on_file_systems() {
        if is_named || in_ci() && on.in_ci.contains(&fs.name) {
            println!("{}", on_name(fs, on));
        }
    }
}

/// Runs one case in this process, in the protocol that the environment says; the result is the exit
/// status.
pub fn run_case(group: &str, case: &str) -> ExitCode {
    let Some(case) = find(group).and_then(|group| group.cases.iter().find(|c| c.name == case))
    else {
        eprintln!("no case {group}:{case}");
        return ExitCode::from(2);
    };
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) => {
            println!("{error:#}");
            return ExitCode::from(STATUS_FAILED);
        }
    };
    let result = (case.run)(&lab);
    match result.and(lab.close()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Skip>() => {
            println!("SKIP {error}");
            ExitCode::from(STATUS_SKIPPED)
        }
        Err(error) => {
            println!("{error:#}");
            ExitCode::from(STATUS_FAILED)
        }
    }
}

/// Runs all cases of a group, or those that a word `GROUP:CASE` of `CACHEFILES_CASES` names.
pub fn run_group(name: &str) -> ExitCode {
    let Some((group, cases, setting)) = kselftest(name) else {
        eprintln!("no group {name}");
        return ExitCode::from(2);
    };
    let words = env::var("CACHEFILES_CASES").unwrap_or_default();
    let only: Vec<&str> = words
        .split_whitespace()
        .filter_map(|word| word.split_once(':'))
        .filter_map(|(group, case)| (group == name).then_some(case))
        .collect();
    let cases: Vec<&Case> = cases
        .into_iter()
        .filter(|case| only.is_empty() || only.contains(&case.name))
        .collect();
    // What a case starts and forgets becomes a child of ours, and is found.
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        eprintln!("becoming the subreaper: {error}");
        return ExitCode::FAILURE;
    }
    count_allocations(true);
    // The debug kernel has kmemleak.
    if in_ci() && !is_debug_kernel() && allocations(RUST).is_none() {
        eprintln!("the kernel does not count memory (CONFIG_MEM_ALLOC_PROFILING)");
        return ExitCode::FAILURE;
    }
    println!("KTAP version 1");
    println!("1..{}", cases.len());
    let mut failed = 0;
    for (number, case) in (1..).zip(cases) {
        tell_kernel_log(name, case.name);
        let start = Instant::now();
        let outcome = run_child(group.name, case.name, setting);
        let took = start.elapsed().as_millis();
        match outcome {
            Ok(Outcome::Passed) => println!("ok {number} {} # {took} ms", case.name),
            Ok(Outcome::Skipped(why)) => println!("ok {number} {} # SKIP {why}", case.name),
            Ok(Outcome::Failed(why)) => {
                println!("# {why}");
                println!("not ok {number} {}", case.name);
                failed += 1;
            }
            Err(error) => {
                println!("# cannot run the case: {error}");
                println!("not ok {number} {}", case.name);
                failed += 1;
            }
        }
    }
    ExitCode::from(u8::from(failed != 0))
}

/// Says in the kernel's log which case is next, for those who look for the one that it is about.
fn tell_kernel_log(group: &str, case: &str) {
    // What cannot be written there is no reason to fail.
    let _ = fs::write("/dev/kmsg", format!("selftests: {group}:{case}"));
}

enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

fn run_child(group: &str, case: &str, setting: Setting) -> io::Result<Outcome> {
    let before = Leftovers::now();
    let mut child = Command::new("/proc/self/exe")
        .args(["case", group, case])
        .env(protocol::VARIABLE, setting.layout.name())
        .env(file_system::VARIABLE, setting.file_system.name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (sender, lines) = mpsc::channel();
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);
    let mut skip = None;
    let limit = patiently(TIME_LIMIT);
    let deadline = Instant::now() + limit;
    let mut timed_out = false;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => match line.strip_prefix("SKIP ") {
                Some(why) => skip = Some(why.to_owned()),
                None => println!("# {line}"),
            },
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                timed_out = true;
                break;
            }
        }
    }
    let status = if timed_out {
        kill(child)?
    } else {
        Some(child.wait()?)
    };
    let mut problems = match status {
        _ if timed_out => vec![format!("took longer than {} s", limit.as_secs())],
        Some(status) if status.success() || status.code() == Some(STATUS_SKIPPED.into()) => vec![],
        Some(status) => vec![format!("the case ended with {status}")],
        None => vec!["the case cannot be killed".to_owned()],
    };
    problems.extend(Leftovers::now().clean_up(&before));
    Ok(match (problems.is_empty(), skip) {
        (true, None) => Outcome::Passed,
        (true, Some(why)) => Outcome::Skipped(why),
        (false, _) => Outcome::Failed(problems.join("; ")),
    })
}

/// Hands on each line that comes from a pipe.
fn forward(pipe: Option<impl io::Read + Send + 'static>, to: mpsc::Sender<String>) {
    let Some(pipe) = pipe else { return };
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                break;
            }
        }
    });
}

/// Kills a process; nothing is returned if that does not end it within some seconds.
fn kill(mut child: Child) -> io::Result<Option<std::process::ExitStatus>> {
    child.kill()?;
    for _ in 0..50 {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(None)
}
