//! Reading back, warm, with checksums.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use tracklog_log::{Append, Fetch, FetchError, FetchMode, Item, Log, Topic};
use tracklog_protocol::{BatchView, Offset, PartitionId};
use tracklog_server::config::{JournalSettings, WhenFullSetting};
use tracklog_server::offline;

use super::append::{BATCH_RECORDS, RECORD_BYTES, batch, reserve, topic};
use super::{Figure, Run};
use crate::failure::Failure;

const PARTITIONS: u32 = 16;
/// What is read: some full segments, so that most of it lies in maps.
const LOG_BYTES: usize = 1 << 30;
const FETCH_BYTES: usize = 8 << 20;
/// What is kept of a scan to hash it again: more than a processor's caches, less than the engine
/// lets answers pin of its maps.
const KEPT_BYTES_MAX: usize = 128 << 20;
const RAW: &str = "CRC-32 over the same bytes";

pub(super) async fn measure(run: &Run) -> Result<Vec<Figure>, Failure> {
    let scratch = run.scratch()?;
    let folder = scratch.path().join("log");
    let settings =
        JournalSettings { bytes_max: None, when_full: WhenFullSetting::Refuse, ..run.journal() };
    let opened = offline::make(&folder, &settings).await?;
    let filled = fill(opened.log()).await?;
    opened.close().await;
    // Opened again, nothing is in the tail ring: what is read comes from the segments.
    let log = offline::open(&folder, &mut |_| {})?;
    let warm = Scan::all(&log, &filled, Keep::Views).await?;
    let raw = crc_bytes_per_second(&warm.views);
    let bytes = warm.bytes;
    drop(warm);
    let mut best = 0.0_f64;
    let began = Instant::now();
    while began.elapsed() < run.time() {
        let scan = Scan::all(&log, &filled, Keep::Nothing).await?;
        assert!(scan.bytes == bytes, "a scan reads all there is");
        best = best.max(scan.bytes as f64 / scan.seconds);
    }
    let case = format!("warm scan, {PARTITIONS} partitions, {} MiB", bytes >> 20);
    let per_event = RECORD_BYTES as f64 * 1.03;
    let events = format!("≈ {} events/s", super::rounded(best / per_event));
    let figure = Figure::new(format!("{case} ({events})"), "MB/s", best / 1e6);
    Ok(vec![figure.beside(raw / 1e6, RAW)])
}

async fn fill(log: Arc<dyn Log>) -> Result<Topic, Failure> {
    let (epoch, topic) = topic(&*log, PARTITIONS).await?;
    let batches = LOG_BYTES / (BATCH_RECORDS * RECORD_BYTES);
    let mut waiting = std::collections::VecDeque::new();
    for number in 0..batches {
        let batch = batch(BATCH_RECORDS, u8::try_from(number % 251).unwrap_or_default());
        let partition = u32::try_from(number).unwrap_or_default() % PARTITIONS;
        let partition = topic.partition(partition);
        let permit = reserve(&*log, 0, batch.view().bytes().len() + 128).await;
        let items = [Item::Batch { partition, batch: &batch }];
        waiting.push_back(log.append(permit, epoch, Append { conditions: &[], items: &items }));
        if waiting.len() > 32
            && let Some(ticket) = waiting.pop_front()
        {
            ticket.await.map_err(Failure::could_not_run)?;
        }
    }
    for ticket in waiting {
        ticket.await.map_err(Failure::could_not_run)?;
    }
    Ok(topic)
}

/// What a scan keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    /// The first batches.
    Views,
}

/// One scan of all partitions.
pub(super) struct Scan {
    pub(super) bytes: usize,
    pub(super) seconds: f64,
    views: Vec<BatchView>,
}

impl Scan {
    pub(super) async fn all(
        log: &Arc<dyn Log>,
        topic: &Topic,
        keep: Keep,
    ) -> Result<Self, Failure> {
        let (mut views, mut seen_bytes) = (Vec::new(), 0);
        let keeps = |_, batch: BatchView| {
            seen_bytes += batch.bytes().len();
            if keep == Keep::Views && seen_bytes <= KEPT_BYTES_MAX {
                views.push(batch);
            }
        };
        let scan = Self::each(log, topic, keeps).await?;
        Ok(Self { views, ..scan })
    }

    /// Gives each batch to `take`, with the offset from which on it was asked for.
    pub(super) async fn each(
        log: &Arc<dyn Log>,
        topic: &Topic,
        mut take: impl FnMut(Offset, BatchView),
    ) -> Result<Self, Failure> {
        let began = Instant::now();
        let mut scan = Self { bytes: 0, seconds: 0.0, views: Vec::new() };
        let start = |id| log.extent(id).map_or(Offset::ZERO, |extent| extent.start);
        let mut from: Vec<(PartitionId, Offset)> =
            topic.partitions().map(|id| (id, start(id))).collect();
        while !from.is_empty() {
            let fetch = Fetch {
                from: from.clone(),
                bytes_max: FETCH_BYTES,
                wait: false,
                mode: FetchMode::Replay,
            };
            let fetched = match log.fetch(fetch).await {
                Ok(fetched) => fetched,
                // What was to be read next has expired.
                Err(FetchError::OutOfRange { partition, extent, .. }) => {
                    from.iter_mut()
                        .filter(|(id, _)| *id == partition)
                        .for_each(|(_, next)| *next = extent.start);
                    continue;
                }
                Err(error) => return Err(Failure::could_not_run(error)),
            };
            let asked = std::mem::take(&mut from);
            for ((_, asked), found) in asked.into_iter().zip(fetched.partitions) {
                scan.bytes += found.batches.iter().map(|batch| batch.bytes().len()).sum::<usize>();
                found.batches.into_iter().for_each(|batch| take(asked, batch));
                if found.next < found.extent.end {
                    from.push((found.partition, found.next));
                }
            }
        }
        scan.seconds = began.elapsed().as_secs_f64();
        Ok(scan)
    }
}

fn crc_bytes_per_second(views: &[BatchView]) -> f64 {
    let pass = || {
        let began = Instant::now();
        let bytes: usize = views.iter().map(|view| view.bytes().len()).sum();
        for view in views {
            black_box(crc32fast::hash(view.bytes()));
        }
        bytes as f64 / began.elapsed().as_secs_f64()
    };
    (0..3).map(|_| pass()).fold(0.0, f64::max)
}
