//! Where the event of an outcome lies, and what a stage's rejected record was made of.

use tracklog_ingest_gateway::scan::Members;
use tracklog_log::{Fetch, FetchError, FetchMode, Log};
use tracklog_protocol::event::EventView;
use tracklog_protocol::rejected::RejectedView;
use tracklog_protocol::{BatchView, Offset, PartitionId, Record};

use super::StoredAt;
use super::outcomes::NearPlace;

/// How much one read asks for.
const FETCH_BYTES: usize = 64 << 10;
/// How far the event of an outcome is looked for: what may come in between an end that was read
/// and a commit that was written then.
const LOOKED_BYTES_MAX: usize = 64 << 20;

/// Where the event of `near` lies that has the id `message_id`, and came from `source` where that is
/// known.
pub(super) async fn place_of(
    log: &dyn Log,
    near: &NearPlace,
    (source, message_id): (Option<&str>, &str),
) -> Result<StoredAt, FetchError> {
    let NearPlace { topic, partition, from } = near;
    let offset = match log.topic(topic) {
        Some(found) if *partition < found.spec.partitions => {
            find(log, found.partition(*partition), *from, (source, message_id)).await?
        }
        _ => None,
    };
    let offset = offset.map(|offset| offset.0);
    Ok(StoredAt { topic: topic.clone(), partition: *partition, offset })
}

async fn find(
    log: &dyn Log,
    partition: PartitionId,
    from: Offset,
    (source, message_id): (Option<&str>, &str),
) -> Result<Option<Offset>, FetchError> {
    let is_it = |record: Record<'_>| {
        let event = EventView::of(record).filter(|event| event.message_id() == message_id);
        event.is_some_and(|event| source.is_none() || event.source() == source)
    };
    let (mut next, mut looked) = (from, 0);
    while looked < LOOKED_BYTES_MAX {
        let Some(extent) = log.extent(partition) else { return Ok(None) };
        if next < extent.start || next >= extent.end {
            return Ok(None);
        }
        let (batches, after) = read(log, partition, next, FETCH_BYTES).await?;
        let mut records = batches.iter().flat_map(BatchView::records);
        if let Some((offset, _)) = records.find(|(at, record)| *at >= next && is_it(*record)) {
            return Ok(Some(offset));
        }
        looked += batches.iter().map(|batch| batch.bytes().len()).sum::<usize>().max(FETCH_BYTES);
        next = after;
    }
    Ok(None)
}

/// Reads on from `from`, which is there.
pub(super) async fn read(
    log: &dyn Log,
    partition: PartitionId,
    from: Offset,
    bytes_max: usize,
) -> Result<(Vec<BatchView>, Offset), FetchError> {
    let mode = FetchMode::Replay;
    let fetch = Fetch { from: vec![(partition, from)], bytes_max, wait: false, mode };
    let mut fetched = log.fetch(fetch).await?;
    let found = fetched.partitions.pop().expect("one partition was asked for");
    Ok((found.batches, found.next))
}

/// Where the record lies that a stage rejected: its line, which is the body, begins with that.
pub(crate) fn source_of<'r>(rejected: &RejectedView<'r>) -> Option<(&'r str, u32, Offset)> {
    let line = rejected.body().and_then(|body| match str::from_utf8(body) {
        Ok(line) => Some(line),
        Err(cut) => str::from_utf8(&body[..cut.valid_up_to()]).ok(),
    })?;
    let mut members = Members::of(line);
    let mut take = |key: &str| members.next().filter(|member| member.key == key);
    // Names of topics have no character that is escaped.
    let topic = take("topic")?.value.strip_prefix('"')?.strip_suffix('"')?;
    let partition = take("partition")?.value.parse().ok()?;
    let offset = take("offset")?.value.parse().ok()?;
    Some((topic, partition, Offset(offset)))
}
