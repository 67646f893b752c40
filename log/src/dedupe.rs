//! Exact dedupe of events: when a log knows an event again, and what becomes of it then.
//!
//! A client that never learned the outcome of a request sends it again, and must find each event
//! stored once. In the topics for which a log is told so when it is opened ([`Dedupe`]) an event
//! is known by its **source and message id**, in whatever partition of the topic:
//!
//! - **Once.** Of an event whose id was stored within the window, counted in append time, and whose
//!   content is the same, nothing is stored: it is acked as a duplicate, with the first place. That
//!   does not renew the window.
//! - **The same id with another content is kept** and marked
//!   [`ID_REUSED`](EventFlags::ID_REUSED). Content is only what the client said: kind, name, its
//!   own time, properties, traits; JSON texts may differ in white space. When it was sent and what
//!   we added is no part of it, and neither are user, context and address: they change from one
//!   attempt to the next.
//! - **As long as the event is there.** What was trimmed or given up to make room, went with its
//!   topic or was lost to damage is known no more: an ack never names what is gone, and an event
//!   twice is better than one swallowed by a comparison that nobody can make.
//! - Of one id at most [`EVENTS_PER_ID_MAX`] events are known at a time. Further ones with other
//!   contents are kept, and not known again, as long as those are there and in the window: an id
//!   that means so many things is none. A log may let one go early that is nearly out of it.
//!
//! A log may find by a hash, so what it finds is a *perhaps*: it refuses the whole append with
//! [`AppendError::Seen`], nothing stored, and names the places, which are durable by then. Who
//! appended looks at the events that lie there and appends again without the duplicates, with a
//! [`Condition::Differs`] for each place that holds another event. [`append_once`] does all that;
//! [`resolve`] goes on where a first append was refused.
//!
//! The order is that of the appends: of two alike that are on their way the second is refused, and
//! told so when the first is durable. Whole batches ([`Item::Batch`]) are stored as they are; their
//! events are known from then on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracklog_protocol::event::{EventBuilder, EventFlags, EventView};
use tracklog_protocol::{BatchView, Offset, PartitionId, Record, Records, TimeMicros};

use crate::{
    Append, AppendError, Busy, Condition, Epoch, Fetch, FetchError, FetchMode, Item, Lane, Log,
    Stored, TopicName,
};

/// How long an id is known where nobody says otherwise.
pub const WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// So many events are known by one id.
pub const EVENTS_PER_ID_MAX: usize = 8;

/// Reading an event takes its batch, whatever its size; more is of no use.
const READ_BYTES: usize = 1;

/// A topic whose events are stored once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dedupe {
    /// Its name. There need not be such a topic yet.
    pub topic: TopicName,
    /// How long an id is known after its event was stored.
    pub window: Duration,
}

/// What a log found of an append's events. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// In order of items, each at most once.
    pub items: Vec<SeenItem>,
}

/// An event that may be there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenItem {
    /// Its index in [`Append::items`].
    pub item: usize,
    /// Where events lie that may have its id. None: an event before it in the same append may
    /// have it, so that it has to come in an append behind.
    pub places: Vec<(PartitionId, Offset)>,
    /// Events that were appended before are outside of the window.
    pub not_before: TimeMicros,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where its event lies; for a batch its first record.
    pub partition: PartitionId,
    /// See `partition`.
    pub offset: Offset,
    /// How it came there.
    pub kind: VerdictKind,
}

/// How an item came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictKind {
    /// It was stored.
    Stored,
    /// It was there already.
    Duplicate,
    /// It was stored, and marked: another event has the same id.
    Reused,
}

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes {
    /// For each item.
    pub verdicts: Vec<Verdict>,
    /// So many events were found in the place of others by a hash that they share.
    pub collisions: u64,
}

impl Outcomes {
    /// All stored by one append, none of them seen before.
    fn of(stored: &Stored, items: &[Item<'_>]) -> Self {
        let verdict = |(index, item): (usize, &Item<'_>)| {
            let (partition, offset) = (item.partition(), stored.offset(index));
            Verdict { partition, offset, kind: VerdictKind::Stored }
        };
        Self { verdicts: items.iter().enumerate().map(verdict).collect(), collisions: 0 }
    }
}

/// Why an append was not, or not wholly, stored. What is stored of it is known again when it is
/// sent once more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnceError {
    /// As for every append, but for [`AppendError::Seen`].
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The intake is busy.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// An event that may be the same cannot be read for now.
    #[error("an event that may be the same cannot be read: {0}")]
    Fetch(#[from] FetchError),
}

/// Appends all items, each event once, and waits until they are durable. They lie in one commit
/// unless two of them may have the same id. The conditions are asked of the append that stores
/// something first.
///
/// # Errors
/// [`OnceError`].
pub async fn append_once(
    log: &dyn Log,
    lane: Lane,
    epoch: Epoch,
    append: Append<'_>,
) -> Result<Outcomes, OnceError> {
    let permit = log.reserve(lane, bytes_of(append.items))?;
    match log.append(permit, epoch, append).await {
        Ok(stored) => Ok(Outcomes::of(&stored, append.items)),
        Err(AppendError::Seen(seen)) => resolve(log, lane, epoch, append, seen).await,
        Err(error) => Err(error.into()),
    }
}

/// Goes on with an append that was refused since some of its events may be there already.
///
/// # Errors
/// [`OnceError`].
pub async fn resolve(
    log: &dyn Log,
    lane: Lane,
    epoch: Epoch,
    append: Append<'_>,
    seen: Arc<Seen>,
) -> Result<Outcomes, OnceError> {
    let mut round = Round::new(log, append);
    let mut sent: Vec<usize> = (0..append.items.len()).collect();
    let mut seen = seen;
    loop {
        round.look(&sent, &seen).await?;
        let repeats: Vec<usize> =
            seen.items.iter().filter(|it| it.places.is_empty()).map(|it| sent[it.item]).collect();
        let repeats = round.differing(&sent, repeats);
        sent.retain(|item| round.is_open(*item) && !repeats.contains(item));
        round.behind.extend(repeats);
        // Each round takes an item out, or a place that it differs from, of which there are few.
        seen = loop {
            if sent.is_empty() {
                sent = std::mem::take(&mut round.behind);
                sent.sort_unstable();
            }
            if sent.is_empty() {
                return Ok(round.finish());
            }
            match round.send(lane, epoch, &sent).await {
                Ok(()) => sent.clear(),
                Err(OnceError::Append(AppendError::Seen(seen))) => break seen,
                Err(error) => return Err(error),
            }
        };
    }
}

fn bytes_of(items: &[Item<'_>]) -> usize {
    let bytes = |item: &Item<'_>| match item {
        Item::Record { record, .. } => record.bytes().len(),
        Item::Batch { batch, .. } => batch.view().bytes().len(),
    };
    items.iter().map(bytes).sum()
}

/// An append on its way, whose events are looked for.
struct Round<'a> {
    log: &'a dyn Log,
    append: Append<'a>,
    /// Nothing of it is stored yet.
    is_first: bool,
    verdicts: Vec<Option<Verdict>>,
    /// Places that hold other events, by item.
    differs: Vec<(usize, (PartitionId, Offset))>,
    /// Events that are marked, and which of `marks` each is.
    reused: BTreeMap<usize, usize>,
    marks: Records,
    /// Items that come in an append behind.
    behind: Vec<usize>,
    /// Items that say the same as an earlier one, and which that is.
    same_as: BTreeMap<usize, usize>,
    collisions: u64,
    /// The batch that was read last.
    batch: Option<BatchView>,
}

impl<'a> Round<'a> {
    fn new(log: &'a dyn Log, append: Append<'a>) -> Self {
        Self {
            log,
            append,
            is_first: true,
            verdicts: vec![None; append.items.len()],
            differs: Vec::new(),
            reused: BTreeMap::new(),
            marks: Records::new(),
            behind: Vec::new(),
            same_as: BTreeMap::new(),
            collisions: 0,
            batch: None,
        }
    }

    fn is_open(&self, item: usize) -> bool {
        self.verdicts[item].is_none() && !self.same_as.contains_key(&item)
    }

    fn finish(mut self) -> Outcomes {
        for (item, earlier) in self.same_as {
            let first = self.verdicts[earlier].expect("an item that stands for others has its own");
            self.verdicts[item] = Some(Verdict { kind: VerdictKind::Duplicate, ..first });
        }
        let verdicts = self.verdicts.into_iter();
        let verdicts = verdicts.map(|it| it.expect("a round ends when each item has its verdict"));
        Outcomes { verdicts: verdicts.collect(), collisions: self.collisions }
    }

    /// Those of `repeats` that say something else than the earlier items `sent` of their id. The
    /// others go where those go: each would take a round of its own.
    fn differing(&mut self, sent: &[usize], repeats: Vec<usize>) -> Vec<usize> {
        if repeats.is_empty() {
            return repeats;
        }
        let mut differing = Vec::new();
        let mut earlier: BTreeMap<_, Vec<(usize, EventView<'_>)>> = BTreeMap::new();
        for item in sent.iter().copied() {
            let Some(event) = event_of(&self.append.items[item]) else { continue };
            let topic = self.append.items[item].partition().topic;
            let id = (topic, event.source(), event.message_id());
            let of_id = earlier.entry(id).or_default();
            let same = of_id.iter().find(|(_, other)| has_same_content(&event, other));
            let same = same.map(|(first, _)| *first);
            let is_repeat = repeats.binary_search(&item).is_ok();
            match same.filter(|_| is_repeat) {
                Some(first) => drop(self.same_as.insert(item, first)),
                None if is_repeat => differing.push(item),
                None => {}
            }
            if same.is_none() && of_id.len() < EVENTS_PER_ID_MAX {
                of_id.push((item, event));
            }
        }
        differing
    }

    /// Compares the items that were seen with what lies in the places.
    async fn look(&mut self, sent: &[usize], seen: &Seen) -> Result<(), OnceError> {
        for SeenItem { item, places, not_before } in &seen.items {
            let item = sent[*item];
            for place in places {
                if self.look_at(item, *place, *not_before).await? {
                    let (partition, offset) = *place;
                    let kind = VerdictKind::Duplicate;
                    self.verdicts[item] = Some(Verdict { partition, offset, kind });
                    break;
                }
                self.differs.push((item, *place));
            }
        }
        Ok(())
    }

    /// Whether the item is the event at `place`.
    async fn look_at(
        &mut self,
        item: usize,
        place: (PartitionId, Offset),
        not_before: TimeMicros,
    ) -> Result<bool, OnceError> {
        self.read(place).await?;
        let Some(event) = event_of(&self.append.items[item]) else { return Ok(false) };
        let batch = self.batch.as_ref().filter(|batch| batch.append_time() >= not_before);
        let Some(stored) = batch.and_then(|batch| event_at(batch, place.1)) else {
            return Ok(false);
        };
        if !has_same_id(&event, &stored) {
            self.collisions += 1;
            return Ok(false);
        }
        if has_same_content(&event, &stored) {
            return Ok(true);
        }
        self.mark(item);
        Ok(false)
    }

    /// Has the batch at hand that holds `place`, or none where it is gone.
    async fn read(&mut self, (partition, offset): (PartitionId, Offset)) -> Result<(), FetchError> {
        let holds = |batch: &BatchView| {
            batch.partition() == partition
                && (batch.base_offset()..batch.end_offset()).contains(&offset)
        };
        if self.batch.as_ref().is_some_and(holds) {
            return Ok(());
        }
        self.batch = None;
        let from = vec![(partition, offset)];
        let fetch = Fetch { from, bytes_max: READ_BYTES, wait: false, mode: FetchMode::Live };
        match self.log.fetch(fetch).await {
            Ok(mut fetched) => {
                let found = fetched.partitions.pop();
                let batches = found.map(|found| found.batches).unwrap_or_default();
                self.batch = batches.into_iter().find(holds);
                Ok(())
            }
            Err(FetchError::OutOfRange { .. } | FetchError::UnknownPartition { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Marks an item whose id another event has.
    fn mark(&mut self, item: usize) {
        if self.reused.contains_key(&item) {
            return;
        }
        let Some(event) = event_of(&self.append.items[item]) else { return };
        let flags = event.flags() | EventFlags::ID_REUSED;
        self.marks.push(EventBuilder::new().build_flagged(&event, flags));
        self.reused.insert(item, self.marks.len() - 1);
    }

    /// Appends the items `sent`, and waits.
    async fn send(&mut self, lane: Lane, epoch: Epoch, sent: &[usize]) -> Result<(), OnceError> {
        let items: Vec<Item<'_>> = sent.iter().map(|item| self.item(*item)).collect();
        let mut conditions = if self.is_first { self.append.conditions.to_vec() } else { vec![] };
        for (item, (partition, offset)) in &self.differs {
            if let Ok(item) = sent.binary_search(item) {
                let (partition, offset) = (*partition, *offset);
                conditions.push(Condition::Differs { item, partition, offset });
            }
        }
        let permit = self.log.reserve(lane, bytes_of(&items))?;
        let append = Append { conditions: &conditions, items: &items };
        let stored = self.log.append(permit, epoch, append).await?;
        self.is_first = false;
        for (index, item) in sent.iter().enumerate() {
            let partition = self.append.items[*item].partition();
            let offset = stored.offset(index);
            let is_reused = self.reused.contains_key(item);
            let kind = if is_reused { VerdictKind::Reused } else { VerdictKind::Stored };
            self.verdicts[*item] = Some(Verdict { partition, offset, kind });
        }
        Ok(())
    }

    /// An item as it is to be stored.
    fn item(&self, index: usize) -> Item<'_> {
        let item = self.append.items[index];
        match self.reused.get(&index).and_then(|mark| self.marks.get(*mark)) {
            Some(record) => Item::Record { partition: item.partition(), record },
            None => item,
        }
    }
}

fn event_of<'a>(item: &Item<'a>) -> Option<EventView<'a>> {
    match item {
        Item::Record { record, .. } => EventView::of(*record),
        Item::Batch { .. } => None,
    }
}

fn event_at(batch: &BatchView, offset: Offset) -> Option<EventView<'_>> {
    let index = usize::try_from(offset.0.checked_sub(batch.base_offset().0)?).ok()?;
    let record: Option<Record<'_>> = batch.entry(index)?.record();
    record.and_then(EventView::of)
}

/// Whether two events are known by the same id.
#[must_use]
pub fn has_same_id(one: &EventView<'_>, other: &EventView<'_>) -> bool {
    one.message_id() == other.message_id() && one.source() == other.source()
}

/// Whether the client said the same in both.
#[must_use]
pub fn has_same_content(one: &EventView<'_>, other: &EventView<'_>) -> bool {
    one.kind() == other.kind()
        && one.name() == other.name()
        && one.client_time() == other.client_time()
        && unreadable_time(one) == unreadable_time(other)
        && is_same_json(one.properties(), other.properties())
        && is_same_json(one.traits(), other.traits())
}

/// What the client said for a time, where it is none.
fn unreadable_time<'a>(event: &EventView<'a>) -> Option<&'a str> {
    event.client_time_text().filter(|_| event.client_time().is_none())
}

/// Whether two JSON texts are the same but for white space between tokens.
fn is_same_json(one: Option<&str>, other: Option<&str>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other || tokens(one).eq(tokens(other)),
        (one, other) => one == other,
    }
}

/// The bytes of a JSON text without the white space between its tokens.
fn tokens(json: &str) -> impl Iterator<Item = u8> + '_ {
    let (mut in_string, mut is_escaped) = (false, false);
    json.bytes().filter(move |byte| {
        let is_kept = in_string || !matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ => {}
        }
        is_kept
    })
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::TopicId;
    use tracklog_protocol::event::{EventKind, EventParts};

    use super::*;
    use crate::memory::{MemoryLog, MemoryOptions};

    fn with_both<T>(
        one: &EventParts<'_>,
        other: &EventParts<'_>,
        look: impl Fn(&EventView<'_>, &EventView<'_>) -> T,
    ) -> T {
        let mut records = Records::new();
        records.push(EventBuilder::new().build(one));
        records.push(EventBuilder::new().build(other));
        let view = |index| EventView::of(records.get(index).unwrap()).unwrap();
        look(&view(0), &view(1))
    }

    #[test]
    fn content_is_what_the_client_said_and_does_not_change_from_attempt_to_attempt() {
        let event = EventParts {
            message_id: "m-1",
            kind: EventKind::Track,
            name: Some("Order Completed"),
            client_time: Some(TimeMicros(5)),
            client_time_text: Some("1970-01-01T00:00:00.000005Z"),
            properties: Some(r#"{"total": 12.50, "to": "a b"}"#),
            traits: Some("{}"),
            ..EventParts::default()
        };
        let same = [
            EventParts { sent_time_text: Some("now"), ..event },
            EventParts { user_id: Some("7"), context: Some("{}"), extra: Some("{}"), ..event },
            EventParts { received_time: TimeMicros(9), event_time: TimeMicros(9), ..event },
            EventParts { client_time_text: Some("1970-01-01T00:00:00.000005+00:00"), ..event },
            EventParts { properties: Some("{\"total\":12.50,\n\t\"to\":\"a b\"}"), ..event },
        ];
        for other in same {
            assert!(with_both(&event, &other, has_same_content), "{other:?}");
        }
        let different = [
            EventParts { kind: EventKind::Page, ..event },
            EventParts { name: Some("Order"), ..event },
            EventParts { name: None, ..event },
            EventParts { client_time: Some(TimeMicros(6)), ..event },
            EventParts { client_time: None, ..event },
            EventParts { properties: Some(r#"{"total": 12.5, "to": "a b"}"#), ..event },
            EventParts { properties: Some(r#"{"total": 12.50, "to": "ab"}"#), ..event },
            EventParts { properties: None, ..event },
            EventParts { traits: Some(r#"{"plan":1}"#), ..event },
        ];
        for other in different {
            assert!(!with_both(&event, &other, has_same_content), "{other:?}");
        }
        let timeless = EventParts { client_time: None, client_time_text: Some("soon"), ..event };
        let later = EventParts { client_time_text: Some("later"), ..timeless };
        assert!(with_both(&timeless, &timeless, has_same_content));
        assert!(!with_both(&timeless, &later, has_same_content));
    }

    #[test]
    fn an_id_is_told_apart_by_its_source() {
        let web = EventParts { message_id: "m", source: Some("web"), ..EventParts::default() };
        let app = EventParts { source: Some("app"), ..web };
        assert!(with_both(&web, &web, has_same_id));
        assert!(!with_both(&web, &app, has_same_id));
        assert!(!with_both(&web, &EventParts { message_id: "n", ..web }, has_same_id));
    }

    #[test]
    fn repeats_that_say_the_same_are_not_sent_again_one_by_one() {
        let clock = Arc::new(|| TimeMicros(0));
        let log = MemoryLog::new(MemoryOptions { clock, budget_bytes: 1 << 20 });
        let mut records = Records::new();
        for index in 0..1_000 {
            let (source, properties) = match index {
                300 => (Some("app"), "{}"),
                500 | 900 => (Some("web"), "[]"),
                _ => (Some("web"), "{}"),
            };
            let parts = EventParts { message_id: "m", source, ..EventParts::default() };
            records.push(
                EventBuilder::new().build(&EventParts { properties: Some(properties), ..parts }),
            );
        }
        let partition = PartitionId::new(TopicId(1), 0);
        let items: Vec<_> =
            records.iter().map(|record| Item::Record { partition, record }).collect();
        let mut round = Round::new(&log, Append { conditions: &[], items: &items });
        let sent: Vec<usize> = (0..1_000).collect();
        assert_eq!(round.differing(&sent, (1..1_000).collect()), [300, 500]);
        assert_eq!(round.same_as.len(), 997);
        assert_eq!((round.same_as[&1], round.same_as[&900]), (0, 500));
    }

    #[test]
    fn white_space_counts_in_strings_alone() {
        let same = |one, other| is_same_json(Some(one), Some(other));
        assert!(same(r#"{"a":[1,2]}"#, " { \"a\" : [ 1 , 2 ] } "));
        assert!(same(r#"{"a\" b":1}"#, r#"{"a\" b": 1}"#));
        assert!(!same(r#"{"a\" b":1}"#, r#"{"a\"b":1}"#));
        assert!(!same(r#"{"a\\":" "}"#, r#"{"a\\":""}"#));
        assert!(!is_same_json(Some("{}"), None));
    }
}
