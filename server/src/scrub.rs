//! The scrub: everything in a running log is read again, slowly, so that rot is known before somebody
//! needs what it took.
//!
//! Promises
//! - It reads so many bytes a second at most, and begins no sooner than an hour after the last time it
//!   began; the first time ten minutes after the start.
//! - What it finds is told once a pass, and stands in the metrics until the next.
//! - It ends with the log, behind the segment or pack that it is at.
//!
//! Called by the log of a running node.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracklog_engine::Engine;

use crate::{clock, metrics};

const FIRST_AFTER: Duration = Duration::from_secs(600);
const EVERY: Duration = Duration::from_secs(3_600);

/// A scrub that runs.
pub(crate) struct Scrub {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    is_over: Mutex<bool>,
    changed: Condvar,
    bytes: AtomicU64,
    passes: AtomicU64,
    /// What the last pass found.
    problems: AtomicU64,
    damaged_records: AtomicU64,
    /// When it ended; 0: none has.
    ended_micros: AtomicI64,
}

impl Scrub {
    /// Begins to read at `rate` bytes a second; at 0 nothing is read.
    pub(crate) fn start(engine: &Arc<Engine>, rate: u64) -> Self {
        let shared = Arc::<Shared>::default();
        let thread = (rate > 0).then(|| {
            let (engine, shared) = (Arc::clone(engine), Arc::clone(&shared));
            let builder = std::thread::Builder::new().name("tracklog-scrub".to_owned());
            builder.spawn(move || shared.run(&engine, rate, (FIRST_AFTER, EVERY)))
        });
        let thread = thread.transpose().unwrap_or_else(|error| {
            tracing::warn!("nothing is scrubbed: {error}");
            None
        });
        Self { shared, thread: Mutex::new(thread) }
    }

    /// Ends it, and waits until it has.
    pub(crate) fn stop(&self) {
        *self.shared.is_over.lock() = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the scrub panicked");
        }
    }

    pub(crate) fn encode_metrics(&self, text: &mut String) {
        let shared = &self.shared;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("tracklog_scrub_bytes", "Bytes of the log read again.", load(&shared.bytes)),
            ("tracklog_scrub_passes", "Times that all of it was.", load(&shared.passes)),
        ] {
            metrics::declare(text, name, "counter", help);
            writeln!(text, "{name}_total {value}").expect("a string takes all text");
        }
        let ended = shared.ended_micros.load(Ordering::Relaxed) / 1_000_000;
        let (problems, damaged) = (load(&shared.problems), load(&shared.damaged_records));
        for (name, help, value) in [
            ("tracklog_scrub_problems", "What was wrong the last time.", problems.to_string()),
            ("tracklog_scrub_damaged_records", "Records lost to damage then.", damaged.to_string()),
            ("tracklog_scrub_ended_seconds", "When that was; 0: not yet.", ended.to_string()),
        ] {
            metrics::declare(text, name, "gauge", help);
            writeln!(text, "{name} {value}").expect("a string takes all text");
        }
    }
}

impl Drop for Scrub {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn run(&self, engine: &Engine, rate: u64, (first_after, every): (Duration, Duration)) {
        let mut wait = first_after;
        while self.pause(wait) {
            let began = Instant::now();
            self.pass(engine, rate);
            wait = every.saturating_sub(began.elapsed());
        }
    }

    fn pass(&self, engine: &Engine, rate: u64) {
        let began = Instant::now();
        let mut seen = 0;
        let report = engine.scrub(
            &mut |progress| {
                let new = progress.bytes_done.saturating_sub(seen);
                seen = progress.bytes_done;
                self.bytes.fetch_add(new, Ordering::Relaxed);
                let due = Duration::from_micros(seen.saturating_mul(1_000_000) / rate);
                self.pause(due.saturating_sub(began.elapsed()));
            },
            &|| *self.is_over.lock(),
        );
        match report {
            Ok(Some(report)) => {
                self.passes.fetch_add(1, Ordering::Relaxed);
                self.problems.store(report.problem_count, Ordering::Relaxed);
                self.damaged_records.store(report.damaged.records, Ordering::Relaxed);
                self.ended_micros.store(clock::now().0, Ordering::Relaxed);
                if !report.clean {
                    tracing::error!("the log is damaged, `tracklog verify` tells where: {report}");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("the log cannot be scrubbed: {error}"),
        }
    }

    /// Waits so long. False when it is over.
    fn pause(&self, moment: Duration) -> bool {
        let until = Instant::now() + moment;
        let mut is_over = self.is_over.lock();
        while !*is_over && !self.changed.wait_until(&mut is_over, until).timed_out() {}
        !*is_over
    }
}

#[cfg(test)]
mod tests {
    use tracklog_engine::Options;
    use tracklog_engine::disk::SlotId;
    use tracklog_engine::disk::simulated::SimDisk;
    use tracklog_log::{Append, Domain, Item, Lane, Log as _, Retention, TopicName, TopicSpec};
    use tracklog_protocol::Record;

    use super::*;

    const SLOT_BYTES: u64 = 16 << 20;

    /// Fills more than a slot with records of these bytes.
    async fn fill(engine: &Engine, record: &[u8]) {
        let epoch = engine.open(Domain::WHOLE).await.unwrap();
        let name = TopicName::new("t").unwrap();
        let spec = TopicSpec { name, partitions: 1, retention: Retention::Keep };
        let partition = engine.create_topic(spec).await.unwrap().partition(0);
        for _ in 0..=SLOT_BYTES / record.len() as u64 {
            let permit = engine.reserve(Lane::FIRST_SOURCE, record.len()).unwrap();
            let items = [Item::Record { partition, record: Record::opaque(record) }];
            let append = Append { conditions: &[], items: &items };
            engine.append(permit, epoch, append).await.unwrap();
        }
    }

    #[tokio::test]
    async fn damage_that_a_pass_finds_stands_in_the_metrics_until_a_pass_finds_none() {
        let disk = SimDisk::new(11);
        disk.set_auto(true);
        let options = Options { slot_bytes: Some(SLOT_BYTES), ..Options::default() };
        let engine = Arc::new(Engine::open_on(Arc::new(disk.clone()), &options).unwrap());
        fill(&engine, &vec![b'x'; 256 << 10]).await;
        let scrub = Scrub { shared: Arc::default(), thread: Mutex::default() };
        let passed = || {
            scrub.shared.pass(&engine, u64::MAX >> 20);
            let mut text = String::new();
            scrub.encode_metrics(&mut text);
            let name = "tracklog_scrub_damaged_records ";
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(passed(), 0);
        // Within one of the records, whichever that is.
        let (slot, at) = (SlotId(0), SLOT_BYTES / 2);
        assert_eq!(disk.peek(slot, at, 8), [b'x'; 8]);
        disk.flip_bit(slot, at, 3);
        assert_eq!(passed(), 1, "one record is lost");
        disk.flip_bit(slot, at, 3);
        assert_eq!(passed(), 0);
    }

    #[test]
    fn a_pass_reads_all_at_its_rate_and_a_stop_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { slot_bytes: Some(16 << 20), ..Options::default() };
        let engine = Arc::new(Engine::open(folder.path(), &options).unwrap());
        let shared = Shared::default();
        shared.pass(&engine, 1 << 30);
        assert_eq!(shared.passes.load(Ordering::Relaxed), 1);
        assert!(shared.bytes.load(Ordering::Relaxed) > 0);
        assert_eq!(shared.problems.load(Ordering::Relaxed), 0);
        let read = shared.bytes.load(Ordering::Relaxed);
        let began = Instant::now();
        shared.pass(&engine, 8 * read);
        assert!(began.elapsed() >= Duration::from_millis(125), "an eighth of a second's worth");
        // At a byte a second it would take days.
        let scrub = Scrub { shared: Arc::default(), thread: Mutex::default() };
        let (shared, read) = (Arc::clone(&scrub.shared), Arc::clone(&engine));
        let thread = std::thread::spawn(move || {
            shared.run(&read, 1, (Duration::ZERO, Duration::from_secs(86_400)));
        });
        *scrub.thread.lock() = Some(thread);
        while scrub.shared.bytes.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let began = Instant::now();
        scrub.stop();
        assert!(began.elapsed() < Duration::from_secs(60), "nobody waited for it");
        let mut text = String::new();
        scrub.encode_metrics(&mut text);
        let bytes = scrub.shared.bytes.load(Ordering::Relaxed);
        assert!(text.contains(&format!("tracklog_scrub_bytes_total {bytes}\n")), "{text}");
    }
}
