//! Where is my event? Events found by message id or user, and where each went.
//!
//! Promises
//! - What is told is read from the log as it is now: the event's own record, committed offsets of
//!   groups, `undelivered`, the archive's manifests. Where something cannot be told, that is said.
//! - One call reads a bounded piece, and says where the next goes on.
//!
//! [`Finder::find`] is the search. Events with a message id are found in the log's index of ids: what is
//! read of `raw` are the batches that may hold one, and what no index covers. A user's events, and
//! what lies in `rejected`, are found by a scan over a range of append times, which may begin later than
//! what the index is asked for. An event's partition is that of its anonymous id where it has one, which nobody who asks for a user
//! knows; so all are read, those of the user's own key first. `trace` follows one event.
//!
//! Called by `admin`.

mod scan;
mod trace;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracklog_ingest_gateway::scan::Members;
use tracklog_ingest_gateway::source::HmacKey;
use tracklog_log::{FetchError, IdPlaces, Log, Topic};
use tracklog_pipeline::archive::store::Store;
use tracklog_pipeline::groups::{GroupError, Groups};
use tracklog_protocol::event::{EventFlags, EventView};
use tracklog_protocol::line::format_time;
use tracklog_protocol::rejected::RejectedView;
use tracklog_protocol::{Offset, PartitionId, Record, TimeMicros, partition_for};

use crate::bound::Bound;
use crate::node::routing::Routing;
use crate::quarantine::{Place, QuarantineError, Reason, Retries, StoredAt};
use scan::Scan;

/// A piece has so many events at most.
const FOUND_MAX: usize = 100;
/// And is cut where so much was read for it.
const READ_BYTES_MAX: usize = 64 << 20;

/// Whom or what is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// Events with this message id.
    Id(String),
    /// Events of this user, by the user id: as it was sent, or as it is stored where a source hashes it.
    User(String),
}

/// Whom or what is looked for, with what becomes of a user id where a source hashes it.
struct Wanted<'s> {
    sought: &'s Sought,
    hashed: Option<String>,
}

impl Wanted<'_> {
    fn is(&self, record: Record<'_>) -> bool {
        if let Some(event) = EventView::of(record) {
            return match self.sought {
                Sought::Id(id) => event.message_id() == id,
                Sought::User(user) => event.user_id().is_some_and(|it| self.is_user(user, it)),
            };
        }
        let Some(rejected) = RejectedView::of(record) else { return false };
        match self.sought {
            Sought::Id(id) => rejected.message_id() == Some(id),
            Sought::User(user) => {
                let text = rejected.body().and_then(|body| str::from_utf8(body).ok());
                let said = text.and_then(|text| Members::find(text, "userId"));
                said.is_some_and(|said| {
                    let text = serde_json::from_str::<String>(said.value);
                    text.map_or(said.value == user, |text| self.is_user(user, &text))
                })
            }
        }
    }

    fn is_user(&self, user: &str, said: &str) -> bool {
        said == user || self.hashed.as_deref() == Some(said)
    }

    /// The key whose partition is read first.
    fn key(&self) -> &str {
        match self.sought {
            Sought::Id(key) | Sought::User(key) => key,
        }
    }
}

/// A search.
#[derive(Clone, Debug)]
pub struct Search {
    /// What is looked for.
    pub sought: Sought,
    /// Where to begin, in each partition.
    pub from: Option<Bound>,
    /// Where to begin in what has to be scanned, if later: what an index answers costs the same however
    /// old it is.
    pub scan_from: Option<Bound>,
    /// Where to end, not included.
    pub to: Option<Bound>,
    /// Where the piece before ended.
    pub after: Option<Cursor>,
    /// At most so many events.
    pub limit: Option<usize>,
}

/// A place in a search: the next record to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    topic: String,
    place: Place,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.place)
    }
}

/// The text is no place of a search.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place where a search goes on")]
pub struct NoCursor(String);

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let parsed = text.split_once('/').and_then(|(topic, place)| {
            let topic = [RAW, REJECTED].into_iter().find(|name| *name == topic)?;
            Some(Self { topic: topic.to_owned(), place: place.parse().ok()? })
        });
        parsed.ok_or_else(|| NoCursor(text.chars().take(64).collect()))
    }
}

const RAW: &str = "raw";
const REJECTED: &str = "rejected";

/// What became of an event at the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is in `raw`.
    Stored,
    /// It is in `rejected`.
    Rejected,
    /// It was rejected, and stored when it was tried again.
    Retried,
}

impl Verdict {
    /// As text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Rejected => "rejected",
            Self::Retried => "retried",
        }
    }
}

/// An event that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// Where it lies.
    #[serde(flatten)]
    pub at: StoredAt,
    /// What became of it at the gateway, or at a stage.
    pub verdict: Verdict,
    /// The message id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Its name, or what kind it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The user, as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// When it was received.
    pub received_at: String,
    /// When it was stored there.
    pub stored_at: String,
    /// Whether another event with the same id and other contents was stored before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub id_reused: bool,
    /// Why it was rejected: the newest reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Where it is now that it was tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried: Option<StoredAt>,
    /// Where it went from `raw`, in order.
    pub went: Vec<Went>,
}

/// A way that an event took, or takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Went {
    /// Whereto: `enriched`, a destination's name, `archive`.
    pub to: String,
    /// What that is: `stage`, the destination's type, or the topic that is archived.
    pub kind: String,
    /// `done`, `pending`, `rejected`, `undelivered`, `unknown` or `off`.
    pub state: WentState,
    /// Where it lies there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<StoredAt>,
    /// When it came there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_at: Option<String>,
    /// Why not, or more of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How far a way was gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WentState {
    /// It is there.
    Done,
    /// It is not there yet.
    Pending,
    /// The stage rejected it.
    Rejected,
    /// The destination did not take it.
    Undelivered,
    /// It cannot be told any more.
    Unknown,
    /// This node has no such way.
    Off,
}

impl WentState {
    /// As text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::Undelivered => "undelivered",
            Self::Unknown => "unknown",
            Self::Off => "off",
        }
    }
}

/// A piece of a search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finds {
    /// Events, in the order in which partitions are read.
    pub events: Vec<Found>,
    /// Records that were looked at.
    pub looked: u64,
    /// Where the next piece begins; `None` at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// A topic can't be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// How far groups are can't be read.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// What became of rejected events can't be read.
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
}

/// What a search looks at.
pub struct Finder {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) groups: Arc<Groups<dyn Log>>,
    pub(crate) routing: Arc<Routing>,
    pub(crate) retries: Arc<Retries>,
    pub(crate) archive: Option<Store>,
    pub(crate) topics: FinderTopics,
    /// By what sources hash user ids; `None` where none ever did.
    pub(crate) privacy_key: Option<HmacKey>,
}

/// The topics that events go through.
pub(crate) struct FinderTopics {
    pub(crate) raw: Topic,
    pub(crate) rejected: Topic,
    /// `None` where the stage is off.
    pub(crate) enriched: Option<Topic>,
    pub(crate) undelivered: Topic,
}

impl Finder {
    /// Looks for events, as many as one piece holds.
    ///
    /// # Errors
    /// [`FindError`].
    pub async fn find(&self, search: &Search) -> Result<Finds, FindError> {
        let limit = search.limit.unwrap_or(FOUND_MAX).min(FOUND_MAX);
        let (mut events, mut looked, mut read_bytes) = (Vec::new(), 0, 0);
        let wanted = self.wanted(&search.sought);
        let order = self.order(&wanted);
        let index = self.index(&search.sought).await?;
        let begins = search.after.as_ref().map_or(0, |after| {
            let is_it = |(topic, partition): &(&Topic, u32)| {
                topic.name() == after.topic && *partition == after.place.partition
            };
            order.iter().position(is_it).unwrap_or(order.len())
        });
        for (topic, partition) in &order[begins..] {
            let is_first =
                |it: &&Cursor| it.topic == topic.name() && it.place.partition == *partition;
            let after = search.after.as_ref().filter(is_first).map(|it| it.place.offset);
            let at = topic.partition(*partition);
            let index = index.as_ref().filter(|_| topic.id == self.topics.raw.id);
            let stretches = to_read(&*self.log, index, at, search.scan_from).await?;
            if stretches.is_empty() {
                continue;
            }
            let whole = Scan::of(&*self.log, at, search.from, search.to, after).await?;
            for mut scan in stretches.iter().filter_map(|stretch| whole.within(stretch)) {
                while let Some(chunk) = scan.next().await? {
                    read_bytes += chunk.bytes();
                    for (offset, appended_at, record) in chunk.records() {
                        let is_full = events.len() >= limit;
                        if is_full && wanted.is(record) {
                            let next = cursor(topic, *partition, offset);
                            return Ok(Finds { events, looked, next: Some(next) });
                        }
                        looked += 1;
                        if wanted.is(record) {
                            let place = Place { partition: *partition, offset };
                            events.push(self.told(place, appended_at, record).await?);
                        }
                    }
                    if read_bytes >= READ_BYTES_MAX {
                        let next = cursor(topic, *partition, scan.at());
                        return Ok(Finds { events, looked, next: Some(next) });
                    }
                }
            }
        }
        Ok(Finds { events, looked, next: None })
    }

    fn wanted<'s>(&self, sought: &'s Sought) -> Wanted<'s> {
        let hashed = match (sought, &self.privacy_key) {
            (Sought::User(user), Some(key)) => Some(key.hex_of(user)),
            _ => None,
        };
        Wanted { sought, hashed }
    }

    /// What the log's index says of a message id.
    async fn index(&self, sought: &Sought) -> Result<Option<IdPlaces>, FetchError> {
        let Sought::Id(id) = sought else { return Ok(None) };
        self.log.id_places(self.topics.raw.id, id).await.map(Some)
    }

    /// All partitions, in the order in which they are read.
    fn order(&self, wanted: &Wanted<'_>) -> Vec<(&Topic, u32)> {
        let FinderTopics { raw, rejected, .. } = &self.topics;
        let likely = partition_for(wanted.key().as_bytes(), raw.spec.partitions);
        let others = (0..raw.spec.partitions).filter(|partition| *partition != likely);
        let of_raw = std::iter::once(likely).chain(others).map(|partition| (raw, partition));
        of_raw.chain((0..rejected.spec.partitions).map(|partition| (rejected, partition))).collect()
    }

    async fn told(
        &self,
        place: Place,
        appended_at: TimeMicros,
        record: Record<'_>,
    ) -> Result<Found, FindError> {
        let stored_at = format_time(appended_at);
        let at = |topic: &Topic| StoredAt {
            topic: topic.name().to_owned(),
            partition: place.partition,
            offset: Some(place.offset.0),
        };
        let text = |text: Option<&str>| text.map(str::to_owned);
        let Some(event) = EventView::of(record) else {
            let told = self.retries.rejections().tell(place, record).await?;
            let retried = told.stored;
            return Ok(Found {
                at: at(&self.topics.rejected),
                verdict: if retried.is_some() { Verdict::Retried } else { Verdict::Rejected },
                message_id: told.message_id,
                event: told.event,
                source: told.source,
                user_id: None,
                received_at: told.received_at,
                stored_at,
                id_reused: false,
                reason: Some(told.still.unwrap_or(told.reason)),
                retried,
                went: Vec::new(),
            });
        };
        Ok(Found {
            at: at(&self.topics.raw),
            verdict: Verdict::Stored,
            message_id: Some(event.message_id().to_owned()),
            event: Some(event.name().unwrap_or_else(|| event.kind().as_str()).to_owned()),
            source: text(event.source()),
            user_id: text(event.user_id()),
            received_at: format_time(event.received_time()),
            stored_at,
            id_reused: event.flags().contains(EventFlags::ID_REUSED),
            reason: None,
            retried: None,
            went: self.trace(place, appended_at, record).await?,
        })
    }
}

/// What of a partition has to be read, in order: the records that the index names, and what it does
/// not cover, or all where there is none, from `scan_from` on.
async fn to_read(
    log: &dyn Log,
    index: Option<&IdPlaces>,
    at: PartitionId,
    scan_from: Option<Bound>,
) -> Result<Vec<Range<Offset>>, FetchError> {
    let nothing = IdPlaces::default();
    let whole = [Offset::ZERO..Offset(u64::MAX)];
    let unindexed: Vec<_> = match index {
        Some(index) => of_partition(&index.unindexed, at).cloned().collect(),
        None => whole.to_vec(),
    };
    let scan_start = match scan_from {
        Some(from) if !unindexed.is_empty() => {
            Scan::of(log, at, Some(from), None, None).await?.start()
        }
        _ => Offset::ZERO,
    };
    Ok(stretches(index.unwrap_or(&nothing), at, &unindexed, scan_start))
}

fn stretches(
    index: &IdPlaces,
    at: PartitionId,
    unindexed: &[Range<Offset>],
    scan_start: Offset,
) -> Vec<Range<Offset>> {
    let scanned = unindexed.iter().map(|it| it.start.max(scan_start)..it.end);
    let scanned: Vec<_> = scanned.filter(|it| it.start < it.end).collect();
    let is_covered = |offset: &&Offset| !scanned.iter().any(|it| it.contains(offset));
    let places = of_partition(&index.places, at).filter(is_covered);
    let mut stretches: Vec<_> = places.map(|offset| *offset..offset.plus(1)).collect();
    stretches.extend(scanned);
    stretches.sort_unstable_by_key(|stretch| stretch.start);
    stretches
}

fn of_partition<T>(of_all: &[(PartitionId, T)], at: PartitionId) -> impl Iterator<Item = &T> {
    of_all.iter().filter(move |(partition, _)| *partition == at).map(|(_, it)| it)
}

fn cursor(topic: &Topic, partition: u32, offset: Offset) -> String {
    let place = Place { partition, offset };
    Cursor { topic: topic.name().to_owned(), place }.to_string()
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracklog_engine::disk::Disk as _;
    use tracklog_engine::disk::simulated::SimDisk;
    use tracklog_engine::{Engine, Options};
    use tracklog_log::{
        Append, Dedupe, Domain, Epoch, Item, Lane, Retention, TopicName, TopicSpec, dedupe,
    };
    use tracklog_protocol::TopicId;
    use tracklog_protocol::event::{EventBuilder, EventParts};

    use super::*;

    #[test]
    fn what_the_index_names_and_what_it_does_not_cover_is_read_in_order_and_once() {
        let at = |partition| PartitionId::new(TopicId(1), partition);
        let stretch = |from, to| Offset(from)..Offset(to);
        let index = IdPlaces {
            places: vec![(at(0), Offset(3)), (at(1), Offset(40)), (at(0), Offset(12))],
            unindexed: vec![(at(0), stretch(10, 20)), (at(2), stretch(0, 9))],
        };
        let from = |partition, scan_start| {
            let unindexed: Vec<_> =
                of_partition(&index.unindexed, at(partition)).cloned().collect();
            stretches(&index, at(partition), &unindexed, Offset(scan_start))
        };
        assert_eq!(from(0, 0), [stretch(3, 4), stretch(10, 20)]);
        assert_eq!(from(1, 0), [stretch(40, 41)]);
        assert_eq!(from(2, 0), [stretch(0, 9)]);
        assert!(from(3, 0).is_empty());
        // Where less is scanned, what the index names there is read nevertheless.
        assert_eq!(from(0, 15), [stretch(3, 4), stretch(12, 13), stretch(15, 20)]);
        assert!(from(2, 9).is_empty());
    }

    const HOUR: i64 = 3_600_000_000;

    async fn append(log: &Engine, epoch: Epoch, at: PartitionId, message_id: &str) -> Offset {
        let mut builder = EventBuilder::new();
        let parts = EventParts { message_id, ..EventParts::default() };
        let record = builder.build(&parts);
        let permit = log.reserve(Lane::FIRST_SOURCE, record.bytes().len()).unwrap();
        let items = [Item::Record { partition: at, record }];
        let append = Append { conditions: &[], items: &items };
        log.append(permit, epoch, append).await.unwrap();
        Offset(log.extent(at).unwrap().end.0 - 1)
    }

    #[tokio::test]
    async fn an_id_is_looked_up_however_old_and_what_is_scanned_begins_later() {
        let disk = SimDisk::new(7);
        disk.set_auto(true);
        let name = TopicName::new("raw").unwrap();
        let dedupe = vec![Dedupe { topic: name.clone(), window: dedupe::WINDOW }];
        let options = Options { slot_bytes: Some(16 << 20), dedupe, ..Options::default() };
        let log = Engine::open_on(Arc::new(disk.clone()), &options).unwrap();
        let epoch = log.open(Domain::WHOLE).await.unwrap();
        let spec = |name| TopicSpec { name, partitions: 1, retention: Retention::Keep };
        let raw = log.create_topic(spec(name)).await.unwrap().partition(0);
        let rejected = spec(TopicName::new("rejected").unwrap());
        let rejected = log.create_topic(rejected).await.unwrap().partition(0);
        for id in ["old", "young"] {
            append(&log, epoch, raw, id).await;
            append(&log, epoch, rejected, id).await;
            disk.advance(Duration::from_secs(72 * 3_600));
        }
        let now = disk.now().0;
        let index = log.id_places(raw.topic, "old").await.unwrap();
        let between = Some(Bound::Time(TimeMicros(now - 96 * HOUR)));
        let read = async |index, at| to_read(&log, index, at, between).await.unwrap();
        assert_eq!(read(Some(&index), raw).await, [Offset(0)..Offset(1)]);
        assert_eq!(read(None, raw).await, [Offset(1)..Offset(u64::MAX)]);
        assert_eq!(read(None, rejected).await, [Offset(1)..Offset(u64::MAX)]);
    }

    #[test]
    fn a_search_goes_on_at_a_place_of_a_topic_that_it_reads() {
        for text in ["raw/3@17", "rejected/0@0"] {
            assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        }
        for text in ["", "raw", "raw/3", "enriched/3@17", "raw/x@1"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
