//! The engine's counters in Prometheus' words, beside the gateway's.

use std::fmt::Write as _;
use std::time::Duration;

use tracklog_engine::{State, Status};

/// Appends the engine's metrics to `text`.
pub(crate) fn encode(status: &Status, text: &mut String) {
    let counter = |text: &mut String, name: &str, help: &str, value: u64| {
        declare(text, name, "counter", help);
        line(text, &format!("{name}_total"), "", value);
    };
    let gauge = |text: &mut String, name: &str, help: &str, value: u64| {
        declare(text, name, "gauge", help);
        line(text, name, "", value);
    };
    counter(text, "tracklog_log_commits", "Commits made durable.", status.commits);
    counter(text, "tracklog_log_records", "Records made durable.", status.records);
    counter(
        text,
        "tracklog_log_commit_bytes",
        "Bytes of durable commits, headers and padding included.",
        status.commit_bytes,
    );
    gauge(text, "tracklog_log_commits_in_flight", "Commits on their way.", status.in_flight);
    let reserved = status.reserved_bytes as u64;
    gauge(text, "tracklog_log_reserved_bytes", "Budget of the intake in use.", reserved);
    let waiting = status.waiting_bytes as u64;
    gauge(text, "tracklog_log_waiting_bytes", "Bytes that wait for a commit.", waiting);
    gauge(text, "tracklog_log_segments", "Segments in use.", status.segments as u64);
    gauge(text, "tracklog_log_slot_bytes", "Size of a slot.", status.slot_bytes);
    encode_reads(status, text);
    encode_writes(status, text);
    encode_state(status, text);
    declare(text, "tracklog_log_backend", "info", "How commits reach the disk.");
    let labels = format!(
        "{{kind=\"{}\",direct=\"{}\"}}",
        status.backend.kind.as_str(),
        status.backend.direct
    );
    line(text, "tracklog_log_backend_info", &labels, 1);
}

fn encode_reads(status: &Status, text: &mut String) {
    declare(text, "tracklog_log_batches_read", "counter", "Batches read, by where they lay.");
    let places =
        [("ring", status.reads_ring), ("active", status.reads_active), ("map", status.reads_map)];
    for (place, count) in places {
        line(text, "tracklog_log_batches_read_total", &format!("{{place=\"{place}\"}}"), count);
    }
    const PINNED: &str = "tracklog_log_pinned_bytes";
    declare(text, PINNED, "gauge", "Bytes of mapped segments that answers hold.");
    line(text, PINNED, "", status.reads_pinned_bytes);
    const COPIED: &str = "tracklog_log_windows_copied";
    declare(text, COPIED, "counter", "Windows copied since answers held too much of maps.");
    line(text, &format!("{COPIED}_total"), "", status.reads_copied);
    const REPLAY: &str = "tracklog_log_replay_bytes";
    declare(text, REPLAY, "gauge", "Bytes being read for replays, or read and not yet taken.");
    line(text, REPLAY, "", status.replay_bytes);
}

/// Entry `i` of the engine's counts is of times below 2^i µs. Told from 32 µs to 17 s: what lies
/// outside is in the first bucket, or in the last.
fn encode_writes(status: &Status, text: &mut String) {
    const NAME: &str = "tracklog_log_commit_seconds";
    const TOLD: std::ops::RangeInclusive<i32> = 5..=24;
    declare(text, NAME, "histogram", "How long a commit took to become durable.");
    let mut count = 0;
    for (power, of_this) in (0_i32..).zip(status.write_micros) {
        count += of_this;
        if TOLD.contains(&power) {
            let labels = format!("{{le=\"{}\"}}", 2_f64.powi(power) / 1e6);
            line(text, &format!("{NAME}_bucket"), &labels, count);
        }
    }
    line(text, &format!("{NAME}_bucket"), "{le=\"+Inf\"}", count);
    line(text, &format!("{NAME}_count"), "", count);
    let seconds = Duration::from_micros(status.write_micros_sum).as_secs_f64();
    writeln!(text, "{NAME}_sum {seconds}").expect("a string takes all text");
}

fn encode_state(status: &Status, text: &mut String) {
    declare(text, "tracklog_log_state", "stateset", "Whether new appends are taken.");
    let now = match status.state {
        State::Open => "open",
        State::Shedding => "shedding",
        State::Full(_) => "full",
        State::Closed(_) => "closed",
    };
    for state in ["open", "shedding", "full", "closed"] {
        let labels = format!("{{tracklog_log_state=\"{state}\"}}");
        line(text, "tracklog_log_state", &labels, u64::from(state == now));
    }
}

fn declare(text: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string takes all text");
}

fn line(text: &mut String, name: &str, labels: &str, value: u64) {
    writeln!(text, "{name}{labels} {value}").expect("a string takes all text");
}
