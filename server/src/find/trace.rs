//! The ways that one event of `raw` took: enrichment, destinations, the archive.
//!
//! 1. The committed offset of a group says whether its member has come past the event.
//! 2. Then what came of it lies a little behind: an enriched event names the place in `raw` that it
//!    was made of, one that was routed to a topic has the same message id, and what a stage or a
//!    destination refused names the place too. Looked for from the time on at which the event was
//!    appended, for a bounded stretch; what is not found there is `unknown`, and says so.
//! 3. Rules are those that held for the event's offset.

use tracklog_log::dedupe::has_same_id;
use tracklog_log::{FetchError, Log, Topic};
use tracklog_pipeline::archive::chain;
use tracklog_pipeline::destination::retry;
use tracklog_pipeline::destination::undelivered::Undelivered;
use tracklog_pipeline::enrich::stage::NAME as ENRICH;
use tracklog_pipeline::groups::GroupName;
use tracklog_pipeline::route::DestinationName;
use tracklog_protocol::event::{EventView, RawPlace};
use tracklog_protocol::line::format_time;
use tracklog_protocol::rejected::RejectedView;
use tracklog_protocol::{Offset, PartitionId, Record, TimeMicros};

use super::scan::{Chunk, Scan};
use super::{FindError, Finder, Went, WentState};
use crate::node::routing::Way;
use crate::quarantine::{Place, StoredAt, source_of};

/// How much is read for what came of an event, before and after a place was reckoned.
const NEAR_BYTES: usize = 1 << 20;
/// How much is read where no place can be reckoned.
const FAR_BYTES: usize = 16 << 20;
/// What lies out of order, at most: events that were enriched a second time.
const SLACK_OFFSETS: u64 = 256;

/// A record that was found.
struct Lying {
    at: PartitionId,
    offset: Offset,
    appended_at: TimeMicros,
    chunk: Chunk,
}

impl Lying {
    fn record(&self) -> Record<'_> {
        let mut records = self.chunk.records();
        let found = records.find(|(offset, ..)| *offset == self.offset);
        found.expect("it was found there").2
    }
}

impl Finder {
    /// Where the event `record` at `place` of `raw` went.
    pub(super) async fn trace(
        &self,
        place: Place,
        appended_at: TimeMicros,
        record: Record<'_>,
    ) -> Result<Vec<Went>, FindError> {
        let raw = &self.topics.raw;
        let at = raw.partition(place.partition);
        let mut went = Vec::new();
        let mut enriched = None;
        if let Some(topic) = &self.topics.enriched {
            let (way, found) = self.enriched(topic, place, appended_at, record).await?;
            went.push(way);
            enriched = found;
        }
        if self.routing.source().id == raw.id {
            went.extend(self.routed(at, place.offset, appended_at, record).await?);
        } else if let Some(it) = &enriched {
            went.extend(self.routed(it.at, it.offset, it.appended_at, it.record()).await?);
        }
        went.push(self.archived(raw, place).await);
        if let (Some(topic), Some(it)) = (&self.topics.enriched, &enriched) {
            let place = Place { partition: it.at.partition, offset: it.offset };
            went.push(self.archived(topic, place).await);
        }
        Ok(went)
    }

    async fn is_past(
        &self,
        group: &GroupName,
        at: PartitionId,
        offset: Offset,
    ) -> Result<bool, FindError> {
        let committed = self.groups.committed(group, at).await?;
        Ok(committed.is_some_and(|next| next > offset))
    }

    async fn enriched(
        &self,
        topic: &Topic,
        place: Place,
        appended_at: TimeMicros,
        record: Record<'_>,
    ) -> Result<(Went, Option<Lying>), FindError> {
        let way = |state| way(topic.name(), "stage", state);
        let group = GroupName::new(ENRICH).expect("our own names are good");
        let source = self.topics.raw.partition(place.partition);
        if !self.is_past(&group, source, place.offset).await? {
            return Ok((way(WentState::Pending), None));
        }
        let key = EventView::of(record).map_or("", |event| event.partition_key());
        let partition = topic.partition_for(key.as_bytes());
        let made_from = RawPlace { partition: place.partition, offset: place.offset };
        if let Some(found) = made_of(&*self.log, partition, made_from, appended_at).await? {
            let went = Went {
                at: Some(stored_at(topic, found.at, found.offset)),
                stored_at: Some(format_time(found.appended_at)),
                ..way(WentState::Done)
            };
            return Ok((went, Some(found)));
        }
        Ok((
            self.poison(key, place, appended_at).await?.unwrap_or_else(|| way(WentState::Unknown)),
            None,
        ))
    }

    /// What the stage said of the event at `place` when it rejected it, and what became of that.
    async fn poison(
        &self,
        key: &str,
        place: Place,
        appended_at: TimeMicros,
    ) -> Result<Option<Went>, FindError> {
        let raw = self.topics.raw.name();
        let is_it = |record: Record<'_>| {
            let of_stage = |it: &RejectedView<'_>| it.stage() == Some(ENRICH);
            let rejected = RejectedView::of(record).filter(of_stage);
            let source = rejected.and_then(|rejected| source_of(&rejected));
            source == Some((raw, place.partition, place.offset))
        };
        let partition = self.topics.rejected.partition_for(key.as_bytes());
        let mut scan = Scan::since(&*self.log, partition, appended_at).await?;
        let Some(found) = look(&mut scan, partition, FAR_BYTES, is_it).await? else {
            return Ok(None);
        };
        let at = Place { partition: partition.partition, offset: found.offset };
        let told = self.retries.rejections().tell(at, found.record()).await?;
        let rejected = stored_at(&self.topics.rejected, partition, found.offset);
        let why = told.still.unwrap_or(told.reason).message;
        Ok(Some(match told.stored {
            Some(stored) => {
                let why = Some(format!("when it was tried again; it is rejected as {rejected}"));
                Went { at: Some(stored), why, ..way("enriched", "stage", WentState::Done) }
            }
            None => {
                let (at, why) = (Some(rejected), Some(why));
                Went { at, why, ..way("enriched", "stage", WentState::Rejected) }
            }
        }))
    }

    /// The destinations of the event at a place of what is routed.
    async fn routed(
        &self,
        at: PartitionId,
        offset: Offset,
        appended_at: TimeMicros,
        record: Record<'_>,
    ) -> Result<Vec<Went>, FindError> {
        let ways = self.routing.ways(at, offset, record).await.unwrap_or_default();
        let mut went = Vec::with_capacity(ways.len());
        for Way { name, kind, topic, group } in ways {
            let to = |state| way(name.as_str(), kind, state);
            if !self.is_past(&group, at, offset).await? {
                went.push(Went { why: self.held(&name).await?, ..to(WentState::Pending) });
                continue;
            }
            let Some(topic) = topic else {
                went.push(self.delivered((&name, kind), at, offset, appended_at).await?);
                continue;
            };
            let found = match self.log.topic(topic.as_str()) {
                Some(topic) => self.in_topic(&topic, appended_at, record).await?,
                None => None,
            };
            went.push(match found {
                Some((at, time)) => {
                    Went { at: Some(at), stored_at: Some(format_time(time)), ..to(WentState::Done) }
                }
                None => Went { why: Some(not_near(topic.as_str())), ..to(WentState::Unknown) },
            });
        }
        Ok(went)
    }

    /// Why a destination takes nothing now, if it does not.
    async fn held(&self, name: &DestinationName) -> Result<Option<String>, FindError> {
        let all = self.routing.destinations().await?;
        let it = all.into_iter().find(|it| it.destination == name.as_str());
        let it = it.filter(|it| it.state != "running");
        Ok(it.map(|it| match it.why {
            Some(why) => format!("{}: {why}", it.state),
            None => it.state,
        }))
    }

    async fn in_topic(
        &self,
        topic: &Topic,
        appended_at: TimeMicros,
        record: Record<'_>,
    ) -> Result<Option<(StoredAt, TimeMicros)>, FetchError> {
        let Some(event) = EventView::of(record) else { return Ok(None) };
        let partition = topic.partition_for(event.partition_key().as_bytes());
        let is_it = |record: Record<'_>| {
            let found = EventView::of(record);
            found.is_some_and(|found| has_same_id(&found, &event))
        };
        let mut scan = Scan::since(&*self.log, partition, appended_at).await?;
        let found = look(&mut scan, partition, FAR_BYTES, is_it).await?;
        Ok(found.map(|it| (stored_at(topic, partition, it.offset), it.appended_at)))
    }

    /// What became of the event at a place of what is routed, which a destination has come past: it
    /// was taken, unless it was set aside.
    async fn delivered(
        &self,
        (name, kind): (&DestinationName, &str),
        at: PartitionId,
        offset: Offset,
        appended_at: TimeMicros,
    ) -> Result<Went, FindError> {
        let source = self.routing.source().name();
        let is_it = |record: Record<'_>| {
            let key = record.key_value().map(|pair| pair.key);
            let aside = Undelivered::of(record).filter(|_| key == Some(name.as_str().as_bytes()));
            aside.is_some_and(|it| {
                (&*it.topic, it.partition, it.offset) == (source, at.partition, offset.0)
            })
        };
        let to = |state| way(name.as_str(), "destination", state);
        let (mut last, mut is_whole): (Option<Lying>, bool) = (None, true);
        for partition in self.topics.undelivered.partitions() {
            let seen = last_of(&*self.log, partition, appended_at, FAR_BYTES, is_it).await?;
            is_whole &= seen.is_whole;
            let is_later =
                |it: &Lying| last.as_ref().is_none_or(|last| last.appended_at <= it.appended_at);
            last = seen.last.filter(is_later).or(last);
        }
        let Some(found) = last else {
            let to = |state| way(name.as_str(), kind, state);
            let why = "what was set aside for it is gone, or too much to look through".to_owned();
            return Ok(match is_whole {
                true => to(WentState::Done),
                false => Went { why: Some(why), ..to(WentState::Unknown) },
            });
        };
        if self.is_past(&retry::group(name), found.at, found.offset).await? {
            let why = Some("when it was tried again".to_owned());
            return Ok(Went { why, ..to(WentState::Done) });
        }
        let why = Undelivered::of(found.record()).map(|it| it.reason);
        let at = Some(stored_at(&self.topics.undelivered, found.at, found.offset));
        Ok(Went { at, why, ..to(WentState::Undelivered) })
    }

    /// Whether the archive has a record, and in which file.
    async fn archived(&self, topic: &Topic, place: Place) -> Went {
        let way = |state| way("archive", topic.name(), state);
        let Some(store) = &self.archive else { return way(WentState::Off) };
        let Place { partition, offset } = place;
        let step = match chain::step_of(store, topic.name(), partition, offset).await {
            Ok(Some(step)) => step,
            Ok(None) => return way(WentState::Pending),
            Err(error) => return Went { why: Some(error.to_string()), ..way(WentState::Unknown) },
        };
        let has_it = |from: u64, to: u64| (from..to).contains(&offset.0);
        let missing = step
            .missing
            .iter()
            .find(|it| it.range.partition == partition && has_it(it.range.from, it.range.to));
        if let Some(missing) = missing {
            return Went { why: Some(missing.why.clone()), ..way(WentState::Unknown) };
        }
        let files = step.files.iter().filter(|file| {
            let mut partitions = file.partitions.iter();
            partitions.any(|it| it.partition == partition && has_it(it.first, it.last + 1))
        });
        let files: Vec<_> = files.map(|file| &*file.path).collect();
        if files.is_empty() {
            let why = Some("the archive was begun behind it".to_owned());
            return Went { why, ..way(WentState::Unknown) };
        }
        Went { why: Some(files.join(" or ")), ..way(WentState::Done) }
    }
}

/// The event of a partition of `enriched` that was made of the one at `raw`.
async fn made_of(
    log: &dyn Log,
    partition: PartitionId,
    raw: RawPlace,
    appended_at: TimeMicros,
) -> Result<Option<Lying>, FetchError> {
    let is_it =
        |record: Record<'_>| EventView::of(record).and_then(|it| it.made_from()) == Some(raw);
    let mut scan = Scan::since(log, partition, appended_at).await?;
    if let Some(found) = look(&mut scan, partition, NEAR_BYTES, is_it).await? {
        return Ok(Some(found));
    }
    // The stage lagged. Events lie in the order of `raw`, so the place can be reckoned.
    let (mut below, mut end) = (scan.at(), scan.end());
    while below < end {
        let middle = Offset(below.0 + (end.0 - below.0) / 2);
        scan.go_to(middle);
        let Some(chunk) = scan.next_small().await? else { break };
        let first = chunk
            .records()
            .find_map(|(offset, _, record)| Some((offset, EventView::of(record)?.made_from()?)));
        match first {
            Some((_, it)) if it.partition == raw.partition && it.offset >= raw.offset => {
                end = middle;
            }
            Some((offset, _)) => below = offset.plus(1),
            None => below = scan.at().max(middle.plus(1)),
        }
    }
    scan.go_to(Offset(below.0.saturating_sub(SLACK_OFFSETS)).max(scan.start()));
    look(&mut scan, partition, NEAR_BYTES, is_it).await
}

/// What was seen of a partition since some time.
struct Seen {
    /// The last record that was looked for: each retry that fails sets an event aside anew.
    last: Option<Lying>,
    /// All that was appended since was looked at.
    is_whole: bool,
}

/// The last record appended at `since` or later for which `is_it` holds, as far as no more than so
/// much has to be read between two.
async fn last_of(
    log: &dyn Log,
    partition: PartitionId,
    since: TimeMicros,
    bytes_max: usize,
    is_it: impl Fn(Record<'_>) -> bool,
) -> Result<Seen, FetchError> {
    let mut scan = Scan::since(log, partition, since).await?;
    let (is_cut, mut last) = (scan.is_cut(), None);
    while let Some(found) = look(&mut scan, partition, bytes_max, &is_it).await? {
        scan.go_to(found.offset.plus(1));
        last = Some(found);
    }
    Ok(Seen { last, is_whole: !is_cut && scan.at() >= scan.end() })
}

fn way(to: &str, kind: &str, state: WentState) -> Went {
    let (to, kind) = (to.to_owned(), kind.to_owned());
    Went { to, kind, state, at: None, stored_at: None, why: None }
}

fn stored_at(topic: &Topic, at: PartitionId, offset: Offset) -> StoredAt {
    let topic = topic.name().to_owned();
    StoredAt { topic, partition: at.partition, offset: Some(offset.0) }
}

fn not_near(topic: &str) -> String {
    format!("it was routed, and is not near in {topic}")
}

/// The first record for which `is_it` holds, if it lies in what is read next.
async fn look(
    scan: &mut Scan<'_>,
    at: PartitionId,
    bytes_max: usize,
    is_it: impl Fn(Record<'_>) -> bool,
) -> Result<Option<Lying>, FetchError> {
    let mut looked = 0;
    while looked < bytes_max
        && let Some(chunk) = scan.next().await?
    {
        looked += chunk.bytes();
        let found = chunk.records().find(|(.., record)| is_it(*record));
        if let Some((offset, appended_at, _)) = found {
            return Ok(Some(Lying { at, offset, appended_at, chunk }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracklog_log::memory::{MemoryLog, MemoryOptions};
    use tracklog_log::{Append, Domain, Item, Lane, Retention, TopicName, TopicSpec};
    use tracklog_protocol::event::{EnrichedParts, EventBuilder, EventParts};

    use super::*;

    #[tokio::test]
    async fn what_was_not_looked_through_to_its_end_is_not_told_as_whole() {
        let clock = Arc::new(|| TimeMicros(100));
        let log = MemoryLog::new(MemoryOptions { clock, budget_bytes: 64 << 20 });
        let epoch = log.open(Domain::WHOLE).await.unwrap();
        let name = TopicName::new("undelivered").unwrap();
        let spec = TopicSpec { name, partitions: 1, retention: Retention::Keep };
        let at = log.create_topic(spec).await.unwrap().partition(0);
        let bytes = vec![7; 90 << 10];
        for _ in 0..4 {
            let permit = log.reserve(Lane::STAGES, bytes.len()).unwrap();
            let items = [Item::Record { partition: at, record: Record::opaque(&bytes) }];
            log.append(permit, epoch, Append { conditions: &[], items: &items }).await.unwrap();
        }
        let seen = async |bytes_max, found| {
            let is_it = |_: Record<'_>| found;
            let seen = last_of(&log, at, TimeMicros(1), bytes_max, is_it).await.unwrap();
            (seen.last.map(|it| it.offset), seen.is_whole)
        };
        assert_eq!(seen(FAR_BYTES, false).await, (None, true));
        assert_eq!(seen(FAR_BYTES, true).await, (Some(Offset(3)), true));
        assert_eq!(seen(100 << 10, false).await, (None, false), "it ended on its budget");
        log.trim(at, Offset(1)).await.unwrap();
        assert_eq!(seen(FAR_BYTES, false).await, (None, false), "the first may have been it");
        assert_eq!(seen(FAR_BYTES, true).await, (Some(Offset(3)), false));
    }

    /// More than is read near the time of append: the place has to be reckoned.
    #[tokio::test]
    async fn an_event_is_found_in_enriched_however_far_the_stage_lagged() {
        let clock = Arc::new(|| TimeMicros(100));
        let log = MemoryLog::new(MemoryOptions { clock, budget_bytes: 64 << 20 });
        let epoch = log.open(Domain::WHOLE).await.unwrap();
        let name = TopicName::new("enriched").unwrap();
        let spec = TopicSpec { name, partitions: 4, retention: Retention::Keep };
        let at = log.create_topic(spec).await.unwrap().partition(3);
        let (mut event, mut enriched) = (EventBuilder::new(), EventBuilder::new());
        let properties = format!("{{\"text\":\"{}\"}}", "x".repeat(3_000));
        let parts = EventParts { properties: Some(&properties), ..EventParts::default() };
        let event = EventView::of(event.build(&parts)).unwrap();
        let made_from = |offset| RawPlace { partition: 3, offset: Offset(offset) };
        let is_poison = |offset: u64| offset % 7 == 3;
        // One in between was enriched a second time.
        let order = (0..1_500).flat_map(|it| if it == 800 { vec![790, 800] } else { vec![it] });
        for offset in order.filter(|offset| !is_poison(*offset)) {
            let made_from = Some(made_from(offset));
            let parts = EnrichedParts { made_from, ..EnrichedParts::default() };
            let record = enriched.build_enriched(&event, &parts);
            let permit = log.reserve(Lane::STAGES, record.bytes().len()).unwrap();
            let items = [Item::Record { partition: at, record }];
            log.append(permit, epoch, Append { conditions: &[], items: &items }).await.unwrap();
        }
        for offset in [0, 1, 5, 349, 789, 790, 791, 800, 801, 1_200, 1_497, 1_498, 1_499, 1_500] {
            let found = made_of(&log, at, made_from(offset), TimeMicros(1)).await.unwrap();
            let is_there = offset < 1_500 && !is_poison(offset);
            assert_eq!(found.is_some(), is_there, "{offset}");
            if let Some(found) = found {
                let event = EventView::of(found.record()).unwrap();
                assert_eq!(event.made_from(), Some(made_from(offset)));
            }
        }
    }
}
