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
//! What a log has settled it may know in less detail yet: it names no places then
//! ([`SeenAt::Settled`]), and who appended asks [`Log::settled_places`] for them. The answer says how
//! far the log had settled when it looked ([`Settled`]); appended again with that
//! ([`Condition::Looked`]) an event is not asked for again, unless more was settled meanwhile.
//!
//! The order is that of the appends: of two alike that are on their way the second is refused, and
//! told so when the first is durable. Whole batches ([`Item::Batch`]) are stored as they are; their
//! events are known from then on. So events of one append that have the id of an earlier one of it,
//! and say something else, go as a batch beside that one, once they were compared with what it was
//! compared with: it answers for them, and they need no append each.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::event::{EventBuilder, EventFlags, EventView};
use tracklog_protocol::{
    BatchView, Offset, PartitionId, PayloadKind, Record, Records, TimeMicros, TopicId,
    VerifiedBatch,
};

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
    /// Where it may be.
    pub at: SeenAt,
}

/// Where an event may be already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenAt {
    /// In the append itself: an event before it may have its id, so that it has to come in an append
    /// behind.
    Before,
    /// At one of these places.
    Places {
        /// At least one.
        places: Vec<(PartitionId, Offset)>,
        /// Events that were appended before are outside of the window.
        not_before: TimeMicros,
    },
    /// Among what is settled: [`Log::settled_places`] tells where.
    Settled,
}

/// How far a log had settled its events, in a count of its own that only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Settled(pub u64);

/// By what an event of a topic is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The topic.
    pub topic: TopicId,
    /// The source's name; none counts as an empty one.
    pub source: String,
    /// The message id, as sent.
    pub message_id: String,
}

/// Where settled events lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledPlaces {
    /// For each id that was asked for, oldest first: where events lie that may have it.
    pub places: Vec<Vec<(PartitionId, Offset)>>,
    /// For each: events that were appended before are outside of the window.
    pub not_before: Vec<TimeMicros>,
    /// All that was settled up to here was looked through.
    pub through: Settled,
}

impl SettledPlaces {
    /// Of so many ids none is found, in a log that settles nothing.
    #[must_use]
    pub fn none(ids: usize) -> Self {
        let not_before = vec![TimeMicros(i64::MIN); ids];
        Self { places: vec![Vec::new(); ids], not_before, through: Settled::default() }
    }
}

/// Where events lie that may have a message id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdPlaces {
    /// By partition and offset.
    pub places: Vec<(PartitionId, Offset)>,
    /// Stretches that are in no index: only who reads them can tell.
    pub unindexed: Vec<(PartitionId, Range<Offset>)>,
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
/// unless two that have not the same id may be taken for such. The conditions are asked of the append that stores
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
        round.part(&sent, &seen);
        round.look(&sent, &seen).await?;
        sent = round.leading(&sent);
        // Each round takes an item out, or a place that it differs from, of which there are few; but
        // where the log settled more meanwhile, which it does now and then.
        seen = loop {
            if sent.is_empty() {
                sent = std::mem::take(&mut round.behind).into_iter().collect();
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

/// Where an event may lie that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its index among the items.
    pub item: usize,
    /// Where events lie that may have its id, oldest first.
    pub places: Vec<(PartitionId, Offset)>,
    /// Events that were appended before are outside of the window.
    pub not_before: TimeMicros,
    /// These are all that were settled up to here.
    pub through: Option<Settled>,
}

/// Where the events of `items` may lie that were seen; but those that were seen in the append itself.
///
/// # Errors
/// When the log cannot be asked.
pub async fn sights(
    log: &dyn Log,
    items: &[Item<'_>],
    seen: &Seen,
) -> Result<Vec<Sight>, FetchError> {
    let (mut sights, mut settled) = (Vec::new(), Vec::new());
    for SeenItem { item, at } in &seen.items {
        match at {
            SeenAt::Before => {}
            SeenAt::Places { places, not_before } => {
                let (places, not_before) = (places.clone(), *not_before);
                sights.push(Sight { item: *item, places, not_before, through: None });
            }
            SeenAt::Settled => settled.extend(id_of(&items[*item]).map(|id| (*item, id))),
        }
    }
    if settled.is_empty() {
        return Ok(sights);
    }
    let (settled, ids): (Vec<usize>, Vec<EventId>) = settled.into_iter().unzip();
    let SettledPlaces { places, not_before, through } = log.settled_places(ids).await?;
    for ((item, places), not_before) in settled.into_iter().zip(places).zip(not_before) {
        sights.push(Sight { item, places, not_before, through: Some(through) });
    }
    Ok(sights)
}

fn id_of(item: &Item<'_>) -> Option<EventId> {
    let event = event_of(item)?;
    Some(EventId {
        topic: item.partition().topic,
        source: event.source().unwrap_or_default().to_owned(),
        message_id: event.message_id().to_owned(),
    })
}

fn bytes_of(items: &[Item<'_>]) -> usize {
    let bytes = |item: &Item<'_>| match item {
        Item::Record { record, .. } => record.bytes().len(),
        Item::Batch { batch, .. } => batch.view().bytes().len(),
    };
    items.iter().map(bytes).sum()
}

/// What an item is not.
#[derive(Default)]
struct Others {
    /// Places that hold other events, or none any more.
    places: Vec<(PartitionId, Offset)>,
    /// So many of them hold events that are known.
    known: usize,
    /// All that was settled up to here is among them.
    through: Option<Settled>,
}

/// What lies at a place.
enum Lies {
    /// The event that is looked for.
    There,
    /// Another one.
    Another,
    /// None that is known.
    Nothing,
}

/// An append on its way, whose events are looked for.
struct Round<'a> {
    log: &'a dyn Log,
    append: Append<'a>,
    /// Nothing of it is stored yet.
    is_first: bool,
    verdicts: Vec<Option<Verdict>>,
    /// What each item was compared with, and is not.
    others: BTreeMap<usize, Others>,
    /// Events that are marked, and which of `marks` each is.
    reused: BTreeMap<usize, usize>,
    marks: Records,
    /// Items that come in an append behind: another event before them may have their id.
    behind: BTreeSet<usize>,
    /// Items that say the same as an earlier one, and which that is.
    same_as: BTreeMap<usize, usize>,
    /// Items with the id of an earlier one that say something else, by that one: they go with it.
    following: BTreeMap<usize, Vec<usize>>,
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
            others: BTreeMap::new(),
            reused: BTreeMap::new(),
            marks: Records::new(),
            behind: BTreeSet::new(),
            same_as: BTreeMap::new(),
            following: BTreeMap::new(),
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

    /// Parts the items `sent` that an earlier one stands for or answers for from the others.
    fn part(&mut self, sent: &[usize], seen: &Seen) {
        let seen_items: BTreeMap<_, _> =
            seen.items.iter().map(|it| (sent[it.item], it.at == SeenAt::Before)).collect();
        if !seen_items.values().any(|is_repeat| *is_repeat) {
            return;
        }
        let append = self.append;
        let mut earlier: BTreeMap<_, Vec<(usize, EventView<'_>)>> = BTreeMap::new();
        for item in sent.iter().copied() {
            let Some(event) = event_of(&append.items[item]) else { continue };
            let topic = append.items[item].partition().topic;
            let of_id = earlier.entry((topic, event.source(), event.message_id())).or_default();
            let same = of_id.iter().find(|(_, other)| has_same_content(&event, other));
            let same = same.map(|(first, _)| *first);
            let leader = of_id.first().map(|(first, _)| *first);
            match (seen_items.get(&item), same, leader) {
                (Some(_), Some(first), _) => drop(self.same_as.insert(item, first)),
                (Some(_), None, Some(leader)) => {
                    self.following.entry(leader).or_default().push(item);
                    self.mark(item);
                }
                (Some(true), None, None) => drop(self.behind.insert(item)),
                _ => {}
            }
            if same.is_none() && of_id.len() < EVENTS_PER_ID_MAX {
                of_id.push((item, event));
            }
        }
    }

    /// Of `sent` those that an append has as records of their own. Of followers whose leader was
    /// there already the first leads the others.
    fn leading(&mut self, sent: &[usize]) -> Vec<usize> {
        let mut leading: Vec<usize> = Vec::new();
        let followers: BTreeSet<usize> = self.following.values().flatten().copied().collect();
        for item in sent.iter().copied() {
            if followers.contains(&item) || self.behind.contains(&item) {
                continue;
            }
            if self.is_open(item) {
                leading.push(item);
            } else if let Some(followers) = self.following.remove(&item) {
                let mut open = followers.into_iter().filter(|item| self.is_open(*item));
                if let Some(first) = open.next() {
                    let rest: Vec<_> = open.collect();
                    self.following.insert(first, rest);
                    leading.push(first);
                }
            }
        }
        leading.sort_unstable();
        leading
    }

    /// Compares the items that were seen, and those that follow them, with what lies in the places.
    async fn look(&mut self, sent: &[usize], seen: &Seen) -> Result<(), OnceError> {
        let items: Vec<_> = sent.iter().map(|item| self.append.items[*item]).collect();
        for Sight { item, places, not_before, through } in sights(self.log, &items, seen).await? {
            let leader = sent[item];
            let followers = self.following.get(&leader).into_iter().flatten().copied();
            let together: Vec<usize> = [leader].into_iter().chain(followers).collect();
            // By place, so that each is read once.
            for place in places {
                for item in together.iter().copied() {
                    if self.is_open(item) {
                        self.compare(item, place, not_before).await?;
                    }
                }
            }
            for item in together {
                let others = self.others.entry(item).or_default();
                others.through = others.through.max(through);
            }
        }
        Ok(())
    }

    /// Compares an item with what lies in a place, where it was not before.
    async fn compare(
        &mut self,
        item: usize,
        place: (PartitionId, Offset),
        not_before: TimeMicros,
    ) -> Result<(), OnceError> {
        let others = self.others.get(&item);
        if others.is_some_and(|others| others.places.contains(&place)) {
            return Ok(());
        }
        // What comes behind so many is not known.
        let is_known = others.is_none_or(|others| others.known < EVENTS_PER_ID_MAX);
        let lies =
            if is_known { self.look_at(item, place, not_before).await? } else { Lies::Nothing };
        if matches!(lies, Lies::There) {
            let (partition, offset) = place;
            let kind = VerdictKind::Duplicate;
            self.verdicts[item] = Some(Verdict { partition, offset, kind });
            return Ok(());
        }
        let others = self.others.entry(item).or_default();
        others.known += usize::from(matches!(lies, Lies::Another));
        others.places.push(place);
        Ok(())
    }

    /// Whether the item is the event at `place`.
    async fn look_at(
        &mut self,
        item: usize,
        place: (PartitionId, Offset),
        not_before: TimeMicros,
    ) -> Result<Lies, OnceError> {
        self.read(place).await?;
        let Some(event) = event_of(&self.append.items[item]) else { return Ok(Lies::Nothing) };
        let batch = self.batch.as_ref().filter(|batch| batch.append_time() >= not_before);
        let Some(stored) = batch.and_then(|batch| event_at(batch, place.1)) else {
            return Ok(Lies::Nothing);
        };
        if !has_same_id(&event, &stored) {
            self.collisions += 1;
            return Ok(Lies::Another);
        }
        if has_same_content(&event, &stored) {
            return Ok(Lies::There);
        }
        self.mark(item);
        Ok(Lies::Another)
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

    /// Appends the items `sent` with their followers, and waits.
    async fn send(&mut self, lane: Lane, epoch: Epoch, sent: &[usize]) -> Result<(), OnceError> {
        let followers = self.batches_following(sent);
        let mut items: Vec<Item<'_>> = sent.iter().map(|item| self.item(*item)).collect();
        items.extend(
            followers.iter().map(|it| Item::Batch { partition: it.partition, batch: &it.batch }),
        );
        let mut conditions = if self.is_first { self.append.conditions.to_vec() } else { vec![] };
        for (item, others) in &self.others {
            let Ok(item) = sent.binary_search(item) else { continue };
            let differs = others.places.iter().map(|(partition, offset)| {
                let (partition, offset) = (*partition, *offset);
                Condition::Differs { item, partition, offset }
            });
            conditions.extend(differs);
            conditions.extend(others.through.map(|through| Condition::Looked { item, through }));
        }
        let permit = self.log.reserve(lane, bytes_of(&items))?;
        let append = Append { conditions: &conditions, items: &items };
        let stored = self.log.append(permit, epoch, append).await?;
        self.is_first = false;
        for (index, item) in sent.iter().enumerate() {
            self.is_stored(*item, stored.offset(index));
        }
        for (index, Following { items, .. }) in followers.iter().enumerate() {
            let first = stored.offset(sent.len() + index);
            for (offset, item) in (first.0..).zip(items) {
                self.is_stored(*item, Offset(offset));
            }
        }
        Ok(())
    }

    fn is_stored(&mut self, item: usize, offset: Offset) {
        let partition = self.append.items[item].partition();
        let is_reused = self.reused.contains_key(&item);
        let kind = if is_reused { VerdictKind::Reused } else { VerdictKind::Stored };
        self.verdicts[item] = Some(Verdict { partition, offset, kind });
    }

    /// What follows the items `sent`, by partition.
    fn batches_following(&self, sent: &[usize]) -> Vec<Following> {
        let mut by_partition: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        let followers = sent.iter().filter_map(|item| self.following.get(item)).flatten();
        for item in followers.copied().filter(|item| self.is_open(*item)) {
            let partition = self.append.items[item].partition();
            by_partition.entry(partition).or_default().push(item);
        }
        let following = |(partition, mut items): (_, Vec<usize>)| {
            items.sort_unstable();
            let mut batch = BatchBuilder::new(PayloadKind::Event);
            for item in &items {
                if let Item::Record { record, .. } = self.item(*item) {
                    batch.push(record);
                }
            }
            Following { partition, items, batch: batch.finish() }
        };
        by_partition.into_iter().map(following).collect()
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

/// Events of one partition that others answer for.
struct Following {
    partition: PartitionId,
    items: Vec<usize>,
    batch: VerifiedBatch,
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
    use tracklog_protocol::event::{EventKind, EventParts};

    use super::*;
    use crate::conformance::block_on;
    use crate::memory::{MemoryLog, MemoryOptions};
    use crate::{Domain, Retention, TopicSpec};
    use std::sync::atomic::{AtomicU64, Ordering};

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

    /// A log in memory with a topic whose events are stored once, and how many appends it stored.
    struct Counted {
        log: MemoryLog,
        epoch: Epoch,
        partition: PartitionId,
        stamped: Arc<AtomicU64>,
    }

    impl Counted {
        fn new() -> Self {
            let stamped = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&stamped);
            let clock = Arc::new(move || TimeMicros(count.fetch_add(1, Ordering::Relaxed) as i64));
            let options = MemoryOptions { clock, budget_bytes: 1 << 24 };
            let topic = TopicName::new("once").unwrap();
            let dedupe = vec![Dedupe { topic: topic.clone(), window: WINDOW }];
            let log = MemoryLog::new(options).deduplicating(&dedupe);
            let epoch = block_on(log.open(Domain::WHOLE)).unwrap();
            let spec = TopicSpec { name: topic, partitions: 2, retention: Retention::Keep };
            let partition = block_on(log.create_topic(spec)).unwrap().partition(0);
            Self { log, epoch, partition, stamped }
        }

        /// What became of events of these ids and contents, and how often the log looked at its
        /// clock meanwhile: for each append once or twice.
        fn send(&self, events: &[(&str, String)]) -> (Outcomes, u64) {
            let mut records = Records::new();
            for (id, properties) in events {
                let parts = EventParts { message_id: id, source: Some("web"), ..<_>::default() };
                let parts = EventParts { properties: Some(properties), ..parts };
                records.push(EventBuilder::new().build(&parts));
            }
            let partitions = [0, 1].map(|index| PartitionId { partition: index, ..self.partition });
            let item = |(index, record)| {
                let partition = partitions[usize::from(index % 7 == 3)];
                Item::Record { partition, record }
            };
            let items: Vec<_> = records.iter().enumerate().map(item).collect();
            let append = Append { conditions: &[], items: &items };
            let before = self.stamped.load(Ordering::Relaxed);
            let sent = append_once(&self.log, Lane::FIRST_SOURCE, self.epoch, append);
            let sent = block_on(sent).unwrap();
            (sent, self.stamped.load(Ordering::Relaxed) - before)
        }

        fn properties_at(&self, Verdict { partition, offset, .. }: Verdict) -> String {
            let from = vec![(partition, offset)];
            let fetch = Fetch { from, bytes_max: 1, wait: false, mode: FetchMode::Live };
            let fetched = block_on(self.log.fetch(fetch)).unwrap();
            let batch = &fetched.partitions[0].batches[0];
            event_at(batch, offset).unwrap().properties().unwrap().to_owned()
        }
    }

    #[test]
    fn an_id_with_any_number_of_contents_in_one_append_takes_few_rounds() {
        let counted = Counted::new();
        let event = |index: usize| match index % 5 {
            4 => ("other", "{}".to_owned()),
            _ => ("m", format!("{{\"n\":{}}}", index % 400)),
        };
        let events: Vec<_> = (0..1_000).map(event).collect();
        for attempt in 0..2 {
            let (sent, stamps) = counted.send(&events);
            assert!(stamps < 10, "{stamps}");
            let stored = |it: &&Verdict| it.kind != VerdictKind::Duplicate;
            let plain = sent.verdicts.iter().filter(|it| it.kind == VerdictKind::Stored);
            assert_eq!(plain.count(), if attempt == 0 { 2 } else { 0 });
            for ((_, properties), verdict) in events.iter().zip(&sent.verdicts) {
                assert_eq!(counted.properties_at(*verdict), *properties);
            }
            // Of one id so many are known again; the others are kept once more each time.
            let known = 1 + if attempt == 0 { 0 } else { EVENTS_PER_ID_MAX };
            let again = sent.verdicts.iter().filter(stored).count();
            assert!(again <= 801 - known + usize::from(attempt == 0), "{again}");
        }
    }

    #[test]
    fn what_is_there_already_is_found_for_each_event_of_an_id() {
        use VerdictKind::{Duplicate, Reused, Stored};
        let counted = Counted::new();
        let event = |n: u32| ("m", format!("{{\"n\":{n}}}"));
        let (first, _) = counted.send(&[event(1), event(2)]);
        let kinds = |sent: &Outcomes| sent.verdicts.iter().map(|it| it.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&first), [Stored, Reused]);
        let (second, _) = counted.send(&[event(1), event(3), event(2), event(3), event(4)]);
        assert_eq!(kinds(&second), [Duplicate, Reused, Duplicate, Duplicate, Reused]);
        assert_eq!(second.verdicts[2], Verdict { kind: Duplicate, ..first.verdicts[1] });
        let (third, _) = counted.send(&[event(4), event(3), event(1)]);
        assert_eq!(kinds(&third), [Duplicate; 3]);
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
