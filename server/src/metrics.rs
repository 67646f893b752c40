//! The counters of engine and stages in Prometheus' words, beside the gateway's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tracklog_engine::{State, Status};
use tracklog_log::{Log, Topic};
use tracklog_pipeline::archive::archiver::{ArchiveCounters, TopicCounters};
use tracklog_pipeline::enrich::geo::FileInUse;
use tracklog_pipeline::enrich::profile::external::ExternalProfile;
use tracklog_pipeline::enrich::stage::Enlisted;
use tracklog_pipeline::groups::{GroupLag, GroupWait};
use tracklog_pipeline::realtime::{Alerts, Live};
use tracklog_pipeline::stage::{Counter, StageCounters};
use tracklog_pipeline::state::StateCounts;
use tracklog_protocol::{TimeMicros, TopicId};

use crate::quarantine::RetryCounters;

/// Appends the engine's metrics to `text`.
pub(crate) fn encode(status: &Status, text: &mut String) {
    let counter = |text: &mut String, name: &str, help: &str, value: u64| {
        declare(text, name, "counter", help);
        line(text, &format!("{name}_total"), "", value);
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
    gauge(text, "tracklog_log_packs", "Packs in use.", status.packs as u64);
    gauge(text, "tracklog_log_pack_bytes", "What the files of packs take.", status.pack_bytes);
    let settled = status.settled_bytes;
    gauge(
        text,
        "tracklog_log_settled_bytes",
        "What the journal took for what is in packs.",
        settled,
    );
    counter(
        text,
        "tracklog_log_packs_made_bytes",
        "Bytes of packs that were written, of segments and of smaller packs.",
        status.packs_made_bytes,
    );
    gauge(text, "tracklog_log_slot_bytes", "Size of a slot.", status.slot_bytes);
    const IDS: &str = "Message ids of the journal by which events are known again.";
    gauge(text, "tracklog_log_ids", IDS, status.ids);
    gauge(text, "tracklog_log_ids_bytes", "Bytes that they take.", status.ids_bytes);
    const SETTLED_IDS: &str = "Message ids in packs by which events are known again.";
    gauge(text, "tracklog_log_settled_ids", SETTLED_IDS, status.settled_ids);
    let bytes = status.settled_ids_bytes;
    gauge(
        text,
        "tracklog_log_settled_ids_bytes",
        "Bytes of memory that their filters take.",
        bytes,
    );
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
    let places = [
        ("ring", status.reads_ring),
        ("active", status.reads_active),
        ("map", status.reads_map),
        ("pack", status.reads_pack),
    ];
    for (place, count) in places {
        line(text, "tracklog_log_batches_read_total", &format!("{{place=\"{place}\"}}"), count);
    }
    const PINNED: &str = "tracklog_log_pinned_bytes";
    declare(text, PINNED, "gauge", "Bytes of mapped segments that answers hold.");
    line(text, PINNED, "", status.reads_pinned_bytes);
    const COPIED: &str = "tracklog_log_windows_copied";
    declare(text, COPIED, "counter", "Windows copied since answers held too much of maps.");
    line(text, &format!("{COPIED}_total"), "", status.reads_copied);
    const FRAMES: &str = "tracklog_log_frames_decoded";
    declare(text, FRAMES, "counter", "Frames of packs that were read and decoded.");
    line(text, &format!("{FRAMES}_total"), "", status.frames_decoded);
    const FRAME_BYTES: &str = "tracklog_log_frame_bytes";
    declare(text, FRAME_BYTES, "gauge", "Decoded bytes of packs that are kept.");
    line(text, FRAME_BYTES, "", status.frame_bytes);
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

pub(crate) fn declare(text: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string takes all text");
}

fn line(text: &mut String, name: &str, labels: &str, value: u64) {
    writeln!(text, "{name}{labels} {value}").expect("a string takes all text");
}

/// Appends a gauge without labels.
pub(crate) fn gauge(text: &mut String, name: &str, help: &str, value: u64) {
    declare(text, name, "gauge", help);
    line(text, name, "", value);
}

/// Appends what each topic holds.
pub(crate) fn encode_topics(log: &dyn Log, bytes: &BTreeMap<TopicId, u64>, text: &mut String) {
    const BYTES: &str = "tracklog_topic_bytes";
    const RECORDS: &str = "tracklog_topic_records";
    const APPENDED: &str = "tracklog_topic_appended_records";
    let topics = log.topics();
    let extents = |topic: &Topic| {
        let extents = topic.partitions().filter_map(|at| log.extent(at));
        extents.fold((0, 0), |(there, all), it| (there + it.end.0 - it.start.0, all + it.end.0))
    };
    let counted: Vec<(u64, u64)> = topics.iter().map(extents).collect();
    let labels = |topic: &Topic| format!("{{topic=\"{}\"}}", topic.name());
    declare(text, BYTES, "gauge", "What a topic takes on the disk, the newest segment aside.");
    for topic in &topics {
        line(text, BYTES, &labels(topic), bytes.get(&topic.id).copied().unwrap_or(0));
    }
    declare(text, RECORDS, "gauge", "Offsets that are there.");
    for (topic, (there, _)) in topics.iter().zip(&counted) {
        line(text, RECORDS, &labels(topic), *there);
    }
    declare(text, APPENDED, "counter", "Offsets that were ever given: the sum of the end offsets.");
    for (topic, (_, all)) in topics.iter().zip(&counted) {
        line(text, &format!("{APPENDED}_total"), &labels(topic), *all);
    }
}

/// Appends what became of rejected events that were tried again.
pub(crate) fn encode_retries(counters: &RetryCounters, text: &mut String) {
    const NAME: &str = "tracklog_rejected_retried";
    declare(text, NAME, "counter", "Rejected events that were tried again, by what came of it.");
    for (outcome, counter) in [("stored", &counters.stored), ("failing", &counters.failing)] {
        line(
            text,
            &format!("{NAME}_total"),
            &format!("{{outcome=\"{outcome}\"}}"),
            counter.count(),
        );
    }
}

/// Appends how far groups are behind.
pub(crate) fn encode_lags(lags: &[GroupLag], text: &mut String) {
    const NAME: &str = "tracklog_group_lag_records";
    declare(text, NAME, "gauge", "Records that a group has still to read.");
    for GroupLag { group, topic, records } in lags {
        line(text, NAME, &of_group(group, topic), *records);
    }
}

/// Appends how long groups were behind when that was last looked at.
pub(crate) fn encode_waits(waits: &[GroupWait], text: &mut String) {
    const NAME: &str = "tracklog_group_lag_seconds";
    const HELP: &str = "How long the first record that a group has still to read waits.";
    declare(text, NAME, "gauge", HELP);
    for GroupWait { group, topic, seconds } in waits {
        let labels = of_group(group, topic);
        writeln!(text, "{NAME}{labels} {seconds}").expect("a string takes all text");
    }
}

fn of_group(group: &str, topic: &str) -> String {
    format!("{{group=\"{group}\",topic=\"{topic}\"}}")
}

type OfStage = fn(&StageCounters) -> u64;

const OF_STAGES: [(&str, &str, OfStage); 7] = [
    ("records", "Records that were worked on.", |it| it.records.count()),
    ("outputs", "Records that came of them.", |it| it.outputs.count()),
    ("commits", "Commits of outputs.", |it| it.commits.count()),
    ("rejected", "Records that went to rejected.", |it| it.rejected.count()),
    ("missed", "Records that were gone or damaged before they were read.", |it| it.missed.count()),
    ("stale", "Commits refused since another member took over.", |it| it.stale.count()),
    ("retried", "Times that log or stage were asked again.", |it| it.retried.count()),
];

/// Appends what stages have done.
pub(crate) fn encode_stages(stages: &[(String, Arc<StageCounters>)], text: &mut String) {
    for (name, help, count) in OF_STAGES {
        let name = format!("tracklog_stage_{name}");
        declare(text, &name, "counter", help);
        for (stage, counters) in stages {
            let labels = format!("{{stage=\"{stage}\"}}");
            line(text, &format!("{name}_total"), &labels, count(counters));
        }
    }
}

/// Appends what enrichers have found.
pub(crate) fn encode_enrichers(enrichers: &[Enlisted], text: &mut String) {
    const LOOKUPS: &str = "tracklog_enrich_lookups";
    const TIMED: &str = "tracklog_enrich_lookup_seconds";
    declare(text, LOOKUPS, "counter", "Look-ups of enrichers, by what came of them.");
    for enricher in enrichers {
        let (name, counters) = (enricher.name(), enricher.counters());
        for (result, counter) in
            [("hit", &counters.hits), ("miss", &counters.misses), ("failure", &counters.failures)]
        {
            let labels = format!("{{enricher=\"{name}\",result=\"{result}\"}}");
            line(text, &format!("{LOOKUPS}_total"), &labels, counter.count());
        }
    }
    declare(text, TIMED, "summary", "How long look-ups took; one in 64 is timed.");
    for enricher in enrichers {
        let (name, counters) = (enricher.name(), enricher.counters());
        let labels = format!("{{enricher=\"{name}\"}}");
        line(text, &format!("{TIMED}_count"), &labels, counters.timed.count());
        let seconds = Duration::from_nanos(counters.timed_nanos.count()).as_secs_f64();
        writeln!(text, "{TIMED}_sum{labels} {seconds}").expect("a string takes all text");
    }
}

/// Appends which files of places are asked: without any there are no places but those of headers.
pub(crate) fn encode_geo_files(files: &[FileInUse], text: &mut String) {
    const FILES: &str = "tracklog_geo_databases";
    const BUILT: &str = "tracklog_geo_database_built_timestamp_seconds";
    gauge(text, FILES, "Files of networks that are asked for places.", files.len() as u64);
    declare(text, BUILT, "gauge", "When each of them was made, in seconds since 1970.");
    for FileInUse { path, built_at_seconds } in files {
        let labels = format!("{{file=\"{}\"}}", escaped(&path.to_string_lossy()));
        line(text, BUILT, &labels, *built_at_seconds);
    }
}

/// Appends what came of asking a profile store outside.
pub(crate) fn encode_profile_store(profile: &ExternalProfile, text: &mut String) {
    const TRIPS: &str = "tracklog_profile_store_requests";
    const SECONDS: &str = "tracklog_profile_store_request_seconds";
    const PROFILES: &str = "tracklog_profile_store_profiles";
    let (store, counters) = (profile.store_name(), profile.counters());
    let labels = format!("{{store=\"{store}\"}}");
    declare(text, TRIPS, "counter", "Requests to the profile store, by what came of them.");
    for (result, counter) in [
        ("answered", &counters.answered),
        ("failed", &counters.failed),
        ("late", &counters.late),
        ("refused", &counters.refused),
    ] {
        let labels = format!("{{store=\"{store}\",result=\"{result}\"}}");
        line(text, &format!("{TRIPS}_total"), &labels, counter.count());
    }
    declare(text, SECONDS, "summary", "How long requests took that were made.");
    let made = [&counters.answered, &counters.failed, &counters.late];
    line(text, &format!("{SECONDS}_count"), &labels, made.map(Counter::count).iter().sum());
    let seconds = Duration::from_nanos(counters.nanos.count()).as_secs_f64();
    writeln!(text, "{SECONDS}_sum{labels} {seconds}").expect("a string takes all text");
    declare(text, PROFILES, "counter", "Users and groups looked up, by where.");
    for (place, counter) in [("store", &counters.asked), ("cache", &counters.cached)] {
        let labels = format!("{{store=\"{store}\",place=\"{place}\"}}");
        line(text, &format!("{PROFILES}_total"), &labels, counter.count());
    }
    const OPEN: &str = "tracklog_profile_store_breaker_open";
    const OPENED: &str = "tracklog_profile_store_breaker_opened";
    let (is_open, opened) = profile.breaker();
    declare(text, OPEN, "gauge", "1 while the profile store is not asked since it failed.");
    line(text, OPEN, &labels, u64::from(is_open));
    declare(text, OPENED, "counter", "Times that the profile store was given up for a while.");
    line(text, &format!("{OPENED}_total"), &labels, opened);
}

/// Appends what enrichment's state takes and has met.
pub(crate) fn encode_enrich_state(counts: &StateCounts, text: &mut String) {
    for (name, help, value) in [
        ("traits_dropped", "Members of traits that had no room.", counts.traits_dropped),
        ("changes_unknown", "Changes that this program does not know.", counts.changes_unknown),
        ("changes_damaged", "Changes that could not be read.", counts.changes_damaged),
        ("store_reads", "Look-ups that went to the store on disk.", counts.store_reads),
        ("flushes", "Tables written into the store.", counts.flushes),
        ("flushes_failed", "Tables that could not be written, each try.", counts.flushes_failed),
    ] {
        let name = format!("tracklog_state_{name}");
        declare(text, &name, "counter", help);
        line(text, &format!("{name}_total"), "", value);
    }
    const TABLE: &str = "tracklog_state_table_bytes";
    declare(text, TABLE, "gauge", "About what changes take that are not in the store yet.");
    line(text, TABLE, "", counts.table_bytes as u64);
}

/// Appends who watches live figures, and how far those are behind.
pub(crate) fn encode_live(live: &Live<dyn Log>, text: &mut String) {
    let counters = live.counters();
    for (name, help, counter) in [
        ("events", "Events that were counted.", &counters.events),
        ("skipped", "Records passed over: too far behind, damaged, or gone.", &counters.skipped),
    ] {
        let name = format!("tracklog_live_{name}");
        declare(text, &name, "counter", help);
        line(text, &format!("{name}_total"), "", counter.count());
    }
    let lag = live.lag();
    for (name, help, value) in [
        ("viewers", "Who watches; nothing is read while nobody does.", live.viewers() as u64),
        ("names", "Event names that are told apart.", live.names() as u64),
        ("lag_records", "Records that live figures have still to count.", lag.records),
    ] {
        let name = format!("tracklog_live_{name}");
        declare(text, &name, "gauge", help);
        line(text, &name, "", value);
    }
    const SECONDS: &str = "tracklog_live_lag_seconds";
    declare(text, SECONDS, "gauge", "How long the oldest of them may have waited.");
    writeln!(text, "{SECONDS} {}", lag.seconds).expect("a string takes all text");
}

/// Appends what the archive has done, and has to do.
pub(crate) fn encode_archive(counters: &ArchiveCounters, now: TimeMicros, text: &mut String) {
    type Read = fn(&TopicCounters) -> u64;
    let labels = |topic: &TopicCounters| format!("{{topic=\"{}\"}}", topic.topic);
    let counted: [(&str, &str, Read); 5] = [
        ("rows", "Events archived.", |topic| topic.rows.count()),
        ("files", "Files made visible.", |topic| topic.files.count()),
        ("bytes", "Their bytes.", |topic| topic.bytes.count()),
        ("manifests", "Steps of the archive.", |topic| topic.manifests.count()),
        ("missed", "Records gone or damaged before they were read.", |topic| topic.missed.count()),
    ];
    for (name, help, read) in counted {
        let name = format!("tracklog_archive_{name}");
        declare(text, &name, "counter", help);
        for topic in &counters.topics {
            line(text, &format!("{name}_total"), &labels(topic), read(topic));
        }
    }
    const RECORDS: &str = "tracklog_archive_lag_records";
    declare(text, RECORDS, "gauge", "Records that are not archived yet.");
    for topic in &counters.topics {
        line(text, RECORDS, &labels(topic), topic.lag_records());
    }
    const SECONDS: &str = "tracklog_archive_lag_seconds";
    declare(text, SECONDS, "gauge", "How long the first of them waits.");
    for topic in &counters.topics {
        let seconds = topic.waits(now).as_secs_f64();
        writeln!(text, "{SECONDS}{} {seconds}", labels(topic)).expect("a string takes all text");
    }
    const ERRORS: &str = "tracklog_archive_errors";
    declare(text, ERRORS, "counter", "Times that the store or the log failed the archive.");
    line(text, "tracklog_archive_errors_total", "", counters.errors.count());
    const RUNS: &str = "tracklog_archive_up";
    declare(text, RUNS, "gauge", "Whether it goes on.");
    line(text, RUNS, "", u64::from(counters.is_up()));
}

/// Appends how thresholds stand, and what was told of them.
pub(crate) fn encode_alerts(alerts: &Alerts<dyn Log>, text: &mut String) {
    const CROSSED: &str = "tracklog_threshold_crossed";
    const WAITING: &str = "tracklog_threshold_waiting";
    const CALLS: &str = "tracklog_threshold_calls";
    let labels = |name: &str| format!("{{threshold=\"{}\"}}", escaped(name));
    declare(text, CROSSED, "gauge", "Whether a threshold is crossed.");
    for (name, is_crossed, ..) in alerts.each() {
        line(text, CROSSED, &labels(name), u64::from(is_crossed));
    }
    declare(text, WAITING, "gauge", "What its webhook is still to be told.");
    for (name, _, waiting, _) in alerts.each() {
        line(text, WAITING, &labels(name), waiting as u64);
    }
    declare(text, CALLS, "counter", "Calls of its webhook: taken, failed, or given up.");
    for (name, _, _, counters) in alerts.each() {
        let name = escaped(name);
        for (result, counter) in [
            ("told", &counters.told),
            ("failed", &counters.failed),
            ("given_up", &counters.given_up),
        ] {
            let labels = format!("{{threshold=\"{name}\",result=\"{result}\"}}");
            line(text, &format!("{CALLS}_total"), &labels, counter.count());
        }
    }
}

/// A text of somebody's choice as a label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
