//! The reader that feeds the windows, and what it shares with who watches them.
//!
//! 1. While nobody watches: nothing.
//! 2. Begin with the minute before the one that is: by the time of append, which the log looks up.
//!    What would take too long to read is passed over.
//! 3. Read to the end, then wait for more, and let a few commits come together.
//! 4. Too far behind: go on from the newest, with windows that begin now.
//! 5. Nobody watches any more, and a while has passed: forget all.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tracklog_log::{
    Extent, Fetch, FetchError, FetchMode, Fetched, FetchedPartition, Log, TimeKind, Topic,
};
use tracklog_protocol::event::EventView;
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use super::span::WindowSpan;
use super::sum::SumPath;
use super::windows::{Seen, Windows};
use crate::stage::{Counter, Time};

/// What is read at once, of all partitions.
const FETCH_BYTES: usize = 256 << 10;
/// More records than these are not caught up with: some two seconds' work.
const BEHIND_RECORDS_MAX: u64 = 2_000_000;
/// Nor is what was stored longer ago, once the end was reached.
const BEHIND_MICROS_MAX: i64 = 10_000_000;
/// A reader that is no further behind is at the end, in the eyes of those who watch.
const AT_END_MICROS: i64 = 1_000_000;
/// What comes at the end is read together.
const END_PAUSE: Duration = Duration::from_millis(50);
/// How long to wait before a read that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long windows outlive who watched them last.
const LINGER: Duration = Duration::from_secs(60);

/// What is counted.
#[derive(Clone, Debug)]
pub struct LiveOptions {
    /// Names that are told apart.
    pub names_max: usize,
    /// Names that are told apart in any case.
    pub reserved: Vec<String>,
    /// Numbers that are summed.
    pub sums: Vec<SumPath>,
}

/// What the reader has done since it was started.
#[derive(Debug, Default)]
pub struct LiveCounters {
    /// Events that were counted.
    pub events: Counter,
    /// Records that were passed over: too far behind, damaged, or gone.
    pub skipped: Counter,
}

/// How far behind the reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LiveLag {
    /// Records that it has still to read.
    pub records: u64,
    /// How long the oldest of them may have waited.
    pub seconds: f64,
}

/// The live figures of a topic.
pub struct Live<L: ?Sized> {
    pub(super) log: Arc<L>,
    topic: Topic,
    pub(super) time: Arc<dyn Time>,
    options: LiveOptions,
    pub(super) viewers: watch::Sender<usize>,
    pub(super) reading: Mutex<Option<Reading>>,
    counters: LiveCounters,
}

/// The windows, and how far the topic was read into them.
pub(super) struct Reading {
    pub(super) windows: Windows,
    places: Vec<Place>,
    /// Whether the end was reached since the begin, or since what was passed over.
    has_caught_up: bool,
}

struct Place {
    partition: PartitionId,
    next: Offset,
    /// All that was stored until then is read.
    through: TimeMicros,
}

impl<L: Log + ?Sized> Live<L> {
    /// Of `topic`; somebody has to [`run`](Self::run) it.
    #[must_use]
    pub fn new(log: Arc<L>, topic: Topic, time: Arc<dyn Time>, options: LiveOptions) -> Self {
        let (viewers, reading, counters) = (watch::channel(0).0, Mutex::default(), <_>::default());
        Self { log, topic, time, options, viewers, reading, counters }
    }

    /// What was done.
    #[must_use]
    pub const fn counters(&self) -> &LiveCounters {
        &self.counters
    }

    /// The numbers that are summed.
    #[must_use]
    pub fn sums(&self) -> &[SumPath] {
        &self.options.sums
    }

    /// How many watch.
    #[must_use]
    pub fn viewers(&self) -> usize {
        *self.viewers.borrow()
    }

    /// How many names are told apart now.
    #[must_use]
    pub fn names(&self) -> usize {
        self.reading.lock().as_ref().map_or(0, |reading| reading.windows.names())
    }

    /// How far behind the reader is; not at all while nobody watches.
    #[must_use]
    pub fn lag(&self) -> LiveLag {
        let now = self.time.now();
        let reading = self.reading.lock();
        let Some(reading) = &*reading else { return LiveLag::default() };
        let behind = now.0.saturating_sub(reading.through(&*self.log, now).0).max(0);
        LiveLag { records: reading.behind(&*self.log), seconds: behind as f64 / 1e6 }
    }

    /// Reads while somebody watches, until `stop` says so or the log is closed. Dropping the
    /// future ends it as well.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut viewers = self.viewers.subscribe();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = viewers.wait_for(|viewers| *viewers > 0) => {}
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                error = self.follow() => {
                    tracing::warn!(topic = self.topic.name(), %error, "live figures end");
                    return;
                }
                () = self.left_alone(&mut viewers) => {}
            }
            *self.reading.lock() = None;
        }
    }

    /// Resolves when nobody has watched for a while.
    async fn left_alone(&self, viewers: &mut watch::Receiver<usize>) {
        loop {
            let none = viewers.wait_for(|viewers| *viewers == 0).await.is_ok();
            assert!(none, "the sender lives in `self`");
            tokio::select! {
                () = self.time.pause(LINGER) => return,
                _ = viewers.wait_for(|viewers| *viewers > 0) => {}
            }
        }
    }

    /// Reads until that is not possible any more, and says why.
    async fn follow(&self) -> FetchError {
        loop {
            let error = match self.begin().await {
                Ok(()) => match self.read().await {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match error {
                FetchError::Io { why, .. } => {
                    let topic = self.topic.name();
                    tracing::warn!(topic, why, "live figures cannot be read; begun again");
                    self.time.pause(RETRY_PAUSE).await;
                }
                FetchError::OutOfRange { .. } => {}
                error => return error,
            }
        }
    }

    pub(super) async fn begin(&self) -> Result<(), FetchError> {
        let minute = WindowSpan::Minute.window_of(self.time.now());
        let since = minute.plus(-1).begin();
        let mut places = Vec::new();
        for partition in self.topic.partitions() {
            let next = self.log.offset_at(partition, TimeKind::Append, since).await?;
            places.push(Place { partition, next, through: since });
        }
        let windows = Windows::new(self.options.clone(), since);
        *self.reading.lock() = Some(Reading { windows, places, has_caught_up: false });
        Ok(())
    }

    async fn read(&self) -> Result<std::convert::Infallible, FetchError> {
        loop {
            let (from, is_far) = self.next_places();
            let mode = if is_far { FetchMode::Replay } else { FetchMode::Live };
            let fetch = Fetch { from, bytes_max: FETCH_BYTES, wait: true, mode };
            let fetched = self.log.fetch(fetch).await?;
            match self.take(fetched) {
                0 => self.time.pause(END_PAUSE).await,
                _ => tokio::task::yield_now().await,
            }
        }
    }

    /// Where to go on, and whether that is far from the end. Too far: at the end.
    pub(super) fn next_places(&self) -> (Vec<(PartitionId, Offset)>, bool) {
        let now = self.time.now();
        let mut reading = self.reading.lock();
        let reading = reading.as_mut().expect("it is there from the begin on");
        let behind = now.0.saturating_sub(reading.through(&*self.log, now).0);
        let records = reading.behind(&*self.log);
        let is_late = reading.has_caught_up && behind > BEHIND_MICROS_MAX;
        if records > BEHIND_RECORDS_MAX || is_late {
            reading.windows = Windows::new(self.options.clone(), now);
            reading.go_to_the_end(&*self.log, now);
            self.counters.skipped.add(records);
            tracing::warn!(records, "live figures are too far behind: they go on from the newest");
        }
        reading.has_caught_up |= records == 0;
        reading.stand_at_the_end(&*self.log, now);
        let from = reading.places.iter().map(|place| (place.partition, place.next));
        (from.collect(), !reading.has_caught_up)
    }

    /// Counts what was read, and says how many records are left.
    fn take(&self, fetched: Fetched) -> u64 {
        let now = self.time.now();
        let mut reading = self.reading.lock();
        let reading = reading.as_mut().expect("it is there from the begin on");
        let Reading { windows, places, .. } = reading;
        let mut left = 0;
        for (place, found) in places.iter_mut().zip(fetched.partitions) {
            left += found.extent.end.0.saturating_sub(found.next.0);
            self.take_partition(windows, place, found, now);
        }
        left
    }

    fn take_partition(
        &self,
        windows: &mut Windows,
        place: &mut Place,
        found: FetchedPartition,
        now: TimeMicros,
    ) {
        let mut numbers = Vec::with_capacity(self.options.sums.len());
        let (mut events, mut last) = (0, place.through);
        for batch in &found.batches {
            last = batch.append_time();
            let records = batch.records().filter(|(offset, _)| *offset >= place.next);
            for event in records.filter_map(|(_, record)| EventView::of(record)) {
                numbers.clear();
                numbers.extend(self.options.sums.iter().map(|path| path.number(&event)));
                windows.add(Seen {
                    name: event.event_name(),
                    stored: last,
                    happened: event.event_time(),
                    numbers: &numbers,
                });
                events += 1;
            }
        }
        self.counters.events.add(events);
        self.counters.skipped.add(found.damage.iter().map(|gone| gone.to.0 - gone.from.0).sum());
        place.next = found.next;
        place.through = if found.next >= found.extent.end { now } else { last };
    }
}

impl Reading {
    /// All that was stored until then is read, but for commits that were on their way.
    pub(super) fn through(&self, log: &(impl Log + ?Sized), now: TimeMicros) -> TimeMicros {
        let behind = self.places.iter().filter(|place| place.behind(log) > 0);
        behind.map(|place| place.through).min().unwrap_or(now)
    }

    /// The same, and whether that is about now.
    pub(super) fn is_at_end(&self, through: TimeMicros, now: TimeMicros) -> bool {
        self.has_caught_up && now.0.saturating_sub(through.0) < AT_END_MICROS
    }

    fn behind(&self, log: &(impl Log + ?Sized)) -> u64 {
        self.places.iter().map(|place| place.behind(log)).sum()
    }

    /// Notes which partitions are read to their end now.
    fn stand_at_the_end(&mut self, log: &(impl Log + ?Sized), now: TimeMicros) {
        for place in self.places.iter_mut().filter(|place| place.behind(log) == 0) {
            place.through = now;
        }
    }

    fn go_to_the_end(&mut self, log: &(impl Log + ?Sized), now: TimeMicros) {
        for place in &mut self.places {
            if let Some(Extent { end, .. }) = log.extent(place.partition) {
                place.next = end;
                place.through = now;
            }
        }
        self.has_caught_up = true;
    }
}

impl Place {
    fn behind(&self, log: &(impl Log + ?Sized)) -> u64 {
        log.extent(self.partition).map_or(0, |extent| extent.end.0.saturating_sub(self.next.0))
    }
}

impl<L: ?Sized> std::fmt::Debug for Live<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("topic", &self.topic.name()).finish_non_exhaustive()
    }
}
