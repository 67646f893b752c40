//! The last lines of a reading: where it begins so that just so many come.
//!
//! In no partition do append times go back, so what was appended from some time on is the end of
//! the merged order. The latest such time with enough records is searched for, and what it leaves
//! is counted: filters and gaps make fewer lines than offsets. Too few, and the search goes on for
//! more records; too many, and the reading passes over the first of them. So the end is read twice
//! and nothing of it is held.

use std::sync::Arc;

use tracklog_log::{FetchError, Log, TimeKind};
use tracklog_protocol::TimeMicros;

use super::merge::{Merge, Range};
use super::{Query, wanted_of};

/// How many times as many records are tried when a filter left too few lines.
const GROWTH: u64 = 4;
/// What is tried then at least: less would be a pass for a handful.
const TRIED_MIN: u64 = 1 << 10;

/// The end of `ranges`, and how many of its first lines are too many for the last `lines_max`.
pub(super) async fn end_of(
    log: &Arc<dyn Log>,
    query: &Query,
    ranges: Vec<Range>,
    lines_max: u64,
) -> Result<(Vec<Range>, u64), FetchError> {
    let mut records = lines_max;
    loop {
        let end = with_records(&**log, &ranges, records).await?;
        let lines = count(log, query, end.clone()).await?;
        if lines >= lines_max || count_of(&end) == count_of(&ranges) {
            return Ok((end, lines.saturating_sub(lines_max)));
        }
        records = records.saturating_mul(GROWTH).max(TRIED_MIN);
    }
}

/// What was appended from the latest time on that leaves so many records at least.
async fn with_records(
    log: &dyn Log,
    ranges: &[Range],
    records: u64,
) -> Result<Vec<Range>, FetchError> {
    let mut enough = ranges.to_vec();
    let mut too_few: Vec<_> =
        ranges.iter().map(|range| Range { from: range.to, ..*range }).collect();
    if records == 0 {
        return Ok(too_few);
    }
    let (mut early, mut late) = (i64::MIN, i64::MAX);
    while count_of(&enough) > records && i64::midpoint(early, late) > early {
        let time = i64::midpoint(early, late);
        let between = since(log, &enough, &too_few, TimeMicros(time)).await?;
        if count_of(&between) >= records {
            (early, enough) = (time, between);
        } else {
            (late, too_few) = (time, between);
        }
    }
    Ok(enough)
}

/// The ranges from `time` on, which lies between the times of the two that are known.
async fn since(
    log: &dyn Log,
    earlier: &[Range],
    later: &[Range],
    time: TimeMicros,
) -> Result<Vec<Range>, FetchError> {
    let mut found = Vec::with_capacity(earlier.len());
    for (earlier, later) in earlier.iter().zip(later) {
        let mut from = later.from;
        if earlier.from < later.from {
            let at = log.offset_at(earlier.partition, TimeKind::Append, time).await?;
            from = at.clamp(earlier.from, later.from);
        }
        found.push(Range { from, ..*earlier });
    }
    Ok(found)
}

fn count_of(ranges: &[Range]) -> u64 {
    ranges.iter().map(|range| range.to.0.saturating_sub(range.from.0)).sum()
}

/// How many lines a reading of `ranges` gives. What it must tell beside them the reading tells.
async fn count(log: &Arc<dyn Log>, query: &Query, ranges: Vec<Range>) -> Result<u64, FetchError> {
    let mut merge = Merge::new(Arc::clone(log), ranges);
    let mut lines = 0;
    loop {
        match merge.next().await? {
            Some(slice) => lines += wanted_of(query, &slice).count() as u64,
            None if merge.take_notes().is_empty() => return Ok(lines),
            None => {}
        }
    }
}
