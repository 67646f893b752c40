//! Roles of a suite that are played in processes of their own, and what a process takes.
//!
//! Memory is what one process has, an opening is a process's first, and a kill ends one: so a suite
//! starts its own program again for each, with `--role` and what the role is told. What comes of it is
//! lines of a name and a number.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

const ROLE: &str = "--role";

/// What a role found out, by name.
#[derive(Clone, Debug)]
pub struct Told(BTreeMap<String, f64>);

impl Told {
    /// The figure of this name.
    ///
    /// # Panics
    /// When the role told none.
    #[must_use]
    pub fn figure(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("the role tells no {name}"))
    }
}

/// Has this program play a role in a process of its own, and waits until that ended.
///
/// # Panics
/// When it fails; that it is killed is no failure.
#[must_use]
pub fn play(role: &str, folder: &Path, told: &[u64]) -> Told {
    let program = env::current_exe().expect("a program knows where it lies");
    let mut command = Command::new(program);
    command.args([ROLE, role]).arg(folder).args(told.iter().map(u64::to_string));
    let child = command.stdout(Stdio::piped()).spawn().expect("this program can be started");
    let output = child.wait_with_output().expect("a child is waited for");
    let is_killed = output.status.signal() == Some(rustix::process::Signal::KILL.as_raw());
    assert!(output.status.success() || is_killed, "{role} failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.lines().filter_map(|line| {
        let (name, figure) = line.rsplit_once(' ')?;
        Some((name.to_owned(), figure.parse().ok()?))
    });
    Told(figures.collect())
}

/// The role that this process plays, with the folder and the numbers that it was told.
#[must_use]
pub fn role() -> Option<(String, String, Vec<u64>)> {
    let mut arguments = env::args().skip_while(|it| it != ROLE).skip(1);
    let (role, folder) = (arguments.next()?, arguments.next()?);
    Some((role, folder, arguments.filter_map(|it| it.parse().ok()).collect()))
}

/// Tells who started this process a figure.
#[allow(clippy::print_stdout, reason = "it is what the other process reads")]
pub fn tell(name: &str, figure: f64) {
    println!("{name} {figure}");
}

/// Ends this process at once, `with` all that it holds: nothing is stopped, closed or written.
///
/// # Panics
/// When the system does not let it.
pub fn die<T>(with: T) -> ! {
    std::mem::forget(with);
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::KILL).expect("it is our own");
    loop {
        std::thread::park();
    }
}

/// What all threads of this process have used.
#[must_use]
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}

/// What the threads of this process with this name have used: as far as the system keeps it, the first
/// fifteen bytes.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn thread_cpu_time(name: &str) -> Duration {
    let threads = fs::read_dir("/proc/self/task").expect("Linux tells a process about itself");
    // One that has ended meanwhile tells nothing.
    let told = threads.flatten().filter_map(|thread| {
        let of = |file: &str| fs::read_to_string(thread.path().join(file)).ok();
        let nanos = of("schedstat")?.split_whitespace().next()?.parse().ok()?;
        (of("comm")?.trim_end() == name).then(|| Duration::from_nanos(nanos))
    });
    let told: Vec<Duration> = told.collect();
    assert!(!told.is_empty(), "no thread has the name {name}");
    told.iter().sum()
}

/// Memory of this process that belongs to no file.
#[must_use]
pub fn anonymous_bytes() -> u64 {
    proc_figure("/proc/self/status", "RssAnon:") << 10
}

/// What this process has had written to disks.
#[must_use]
pub fn written_bytes() -> u64 {
    proc_figure("/proc/self/io", "write_bytes:")
}

fn proc_figure(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).expect("Linux tells a process about itself");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("it tells this too");
    let figure = line.split_whitespace().next().and_then(|figure| figure.parse().ok());
    figure.expect("it is a number")
}
