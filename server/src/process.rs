//! What the system says of this process, in the words that Prometheus' client libraries have for it.
//!
//! Of Linux' `/proc`; what cannot be read there is left out.

use std::fmt::Write as _;
use std::fs;

use crate::metrics::{declare, gauge};

/// `USER_HZ` of all systems that Linux runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends version, CPU time, memory and open files to `text`.
pub(crate) fn encode_metrics(text: &mut String) {
    declare(text, "tracklog_build", "info", "Which program this is.");
    let version = env!("CARGO_PKG_VERSION");
    writeln!(text, "tracklog_build_info{{version=\"{version}\"}} 1").expect("a string takes text");
    if let Some(ticks) = fs::read_to_string("/proc/self/stat").ok().and_then(|it| cpu_ticks(&it)) {
        const CPU: &str = "process_cpu_seconds";
        declare(text, CPU, "counter", "CPU time of all threads.");
        let seconds = ticks as f64 / TICKS_PER_SECOND;
        writeln!(text, "{CPU}_total {seconds}").expect("a string takes text");
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().and_then(|it| resident(&it)) {
        let help = "Memory that is resident, mapped segments included.";
        gauge(text, "process_resident_memory_bytes", help, bytes);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        gauge(text, "process_open_fds", "Open files and sockets.", open.count() as u64);
    }
}

/// The time of user and system in `/proc/PID/stat` (proc(5)): the 14th and 15th field. The second, the
/// program's name, may hold blanks and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()? + ticks()?)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_whatever_a_program_is_called() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 31 0 0 20 0 9 0 5 1 2";
        assert_eq!(cpu_ticks(stat), Some(281));
        assert_eq!(cpu_ticks("7 (a"), None);
        assert_eq!(resident("VmPeak:\t 9 kB\nVmRSS:\t  512 kB\n"), Some(512 << 10));
    }

    #[test]
    fn this_process_is_told_of() {
        let mut text = String::new();
        encode_metrics(&mut text);
        for name in
            ["process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds "]
        {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            assert!(line.parse::<f64>().unwrap() >= 0.0, "{name}{line}");
        }
        assert!(text.contains("tracklog_build_info{version=\""));
    }
}
