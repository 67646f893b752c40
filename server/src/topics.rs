//! Topics as they are told to operators: over HTTP, by a running node, or from a folder.

use serde::de::value::BorrowedStrDeserializer;
use serde::{Deserialize, Serialize};
use tracklog_log::{
    AppendError, CatalogError, FetchError, Limits, Log, Retention, TimeKind, Topic, TopicName,
    TopicNameError, TopicSpec, WhenFull,
};
use tracklog_pipeline::quantity;
use tracklog_protocol::line::format_time;
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use crate::bound::{Bound, BoundError};
use crate::config::WhenFullSetting;

/// A topic in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicSummary {
    /// Its name.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// `keep` or `compact`.
    pub retention: String,
    /// When it was made.
    pub created_at: String,
    /// Offsets that are there, of all partitions.
    pub records: u64,
    /// What they take on the disk, but for those of the newest segment; where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A topic with its partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicDetails {
    /// Its name.
    pub topic: String,
    /// `keep` or `compact`.
    pub retention: String,
    /// For how many seconds an event is known again that is sent once more, where it is stored once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe_seconds: Option<u64>,
    /// For how many seconds a record stays at least, where older ones go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
    /// How many bytes stay at least, where more go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// What becomes of its oldest records before the disk is full, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFullSetting>,
    /// What it takes on the disk, but for the newest segment; where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When it was made.
    pub created_at: String,
    /// All of them, in order.
    pub partitions: Vec<PartitionRange>,
}

/// The readable range of a partition: `start <= offset < end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRange {
    /// Its index.
    pub partition: u32,
    /// The first offset that is there.
    pub start: u64,
    /// The first that is not there yet.
    pub end: u64,
}

/// A topic that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions it gets.
    pub partitions: u32,
    /// Whether only the last record of each key must stay.
    #[serde(default)]
    pub compact: bool,
}

/// How much of a topic is to be kept from now on; what is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewLimits {
    /// A span like `7d`, or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// A size like `100 GiB`, or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<String>,
    /// Whether its oldest records go before the disk is full, or appends are refused when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFullSetting>,
}

/// Up to where a topic's records are to be given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trim {
    /// The first offset that stays, in each partition, or a time of appends.
    pub before: String,
    /// In this partition; in all where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Only count what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// What of a topic was given up, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trimmed {
    /// Its name.
    pub topic: String,
    /// Those that were asked for.
    pub partitions: Vec<TrimmedPartition>,
}

/// A partition and what of it was given up, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrimmedPartition {
    /// Its index.
    pub partition: u32,
    /// The first offset that stays.
    pub start: u64,
    /// The first that is not there yet.
    pub end: u64,
    /// Offsets that are gone, or would be.
    pub dropped: u64,
}

impl NewLimits {
    /// These over what holds now.
    ///
    /// # Errors
    /// One line, when one of them is neither.
    pub fn over(&self, now: Limits) -> Result<Limits, String> {
        let age = self.max_age.as_deref().map(limit::<quantity::Span>).transpose()?;
        let bytes = self.max_bytes.as_deref().map(limit::<quantity::Bytes>).transpose()?;
        Ok(Limits {
            age: age.map_or(now.age, |age| age.map(|span| span.0)),
            bytes: bytes.map_or(now.bytes, |bytes| bytes.map(|size| size.0)),
            when_full: self.when_full.map_or(now.when_full, WhenFull::from),
        })
    }
}

/// `off`, or a quantity.
fn limit<'a, T: Deserialize<'a>>(text: &'a str) -> Result<Option<T>, String> {
    if text == "off" {
        return Ok(None);
    }
    let from: BorrowedStrDeserializer<'a, serde::de::value::Error> =
        BorrowedStrDeserializer::new(text);
    T::deserialize(from).map(Some).map_err(|error| format!("{error}, and not \"off\""))
}

/// Why there is no such topic now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] TopicNameError),
    /// Names that begin with `_`, and the topics that the gateway writes to, are the node's own.
    #[error("topic {0} belongs to the node itself")]
    Own(TopicName),
    /// The limits are none.
    #[error("{0}")]
    Limits(String),
    /// The text is no place in a topic.
    #[error("before: {0}")]
    Bound(#[from] BoundError),
    /// There is no such partition.
    #[error("topic {topic} has partitions 0 to {last}, and no {partition}")]
    NoPartition {
        /// The topic.
        topic: TopicName,
        /// What was asked for.
        partition: u32,
        /// The last that it has.
        last: u32,
    },
    /// No partition that is meant has come so far: nobody means to give up all of them by that.
    #[error("offset {asked} is beyond the end of {topic}, which is at {end}")]
    Beyond {
        /// The topic.
        topic: TopicName,
        /// What was asked for.
        asked: Offset,
        /// The greatest end of the partitions that are meant.
        end: Offset,
    },
    /// A compacted topic is what its records add up to: it has no oldest ones that may go.
    #[error("topic {0} is compacted: the last record of each key stays")]
    Compacted(TopicName),
    /// A time cannot be looked up.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The log did not store the change. Again is safe.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The topic of accepted events.
pub const RAW: &str = "raw";

/// The topics that a node makes on its first start.
pub const OWN_TOPICS: [(&str, u32); 4] =
    [(RAW, 16), ("rejected", 4), ("enriched", 16), ("undelivered", 4)];

/// All topics, by name.
#[must_use]
pub fn list(log: &dyn Log) -> Vec<TopicSummary> {
    log.topics().iter().map(|topic| summary(log, topic)).collect()
}

/// One topic.
#[must_use]
pub fn summary(log: &dyn Log, topic: &Topic) -> TopicSummary {
    TopicSummary {
        topic: topic.name().to_owned(),
        partitions: topic.spec.partitions,
        retention: retention(topic).to_owned(),
        created_at: format_time(topic.created),
        records: ranges(log, topic).map(|range| range.end - range.start).sum(),
        bytes: log.topic_bytes(topic.id),
    }
}

/// One topic with its partitions.
#[must_use]
pub fn describe(log: &dyn Log, topic: &Topic) -> TopicDetails {
    let limits = log.limits(topic.id);
    TopicDetails {
        topic: topic.name().to_owned(),
        retention: retention(topic).to_owned(),
        dedupe_seconds: log.dedupe_window(topic.id).map(|window| window.as_secs()),
        max_age_seconds: limits.age.map(|age| age.as_secs()),
        max_bytes: limits.bytes,
        when_full: (limits.when_full == WhenFull::DropOldest)
            .then_some(WhenFullSetting::DropOldest),
        bytes: log.topic_bytes(topic.id),
        created_at: format_time(topic.created),
        partitions: ranges(log, topic).collect(),
    }
}

/// Makes a topic; one that is there already, as asked for, is fine.
///
/// # Errors
/// [`TopicError`] when the name is none or taken, or the log does not store the change.
pub async fn create(log: &dyn Log, new: &NewTopic) -> Result<Topic, TopicError> {
    let name = TopicName::new(&new.name)?;
    if name.is_internal() {
        return Err(TopicError::Own(name));
    }
    let retention = if new.compact { Retention::Compact } else { Retention::Keep };
    Ok(log.create_topic(TopicSpec { name, partitions: new.partitions, retention }).await?)
}

/// Says how much of a topic is kept.
///
/// # Errors
/// [`TopicError`] when there is none, it is internal, the limits are none, or the log does not
/// store the change.
pub async fn limit_topic(
    log: &dyn Log,
    name: &str,
    new: &NewLimits,
) -> Result<TopicDetails, TopicError> {
    let name = TopicName::new(name)?;
    if name.is_internal() {
        return Err(TopicError::Own(name));
    }
    let topic = log.topic(name.as_str());
    let topic = topic.ok_or_else(|| CatalogError::NotFound { name: name.clone() })?;
    let limits = new.over(log.limits(topic.id)).map_err(TopicError::Limits)?;
    log.set_limits(&name, limits).await?;
    Ok(describe(log, &topic))
}

/// Gives up a topic's oldest records, for good: read or not, archived or not. A partition that has none
/// to give up stays as it is; one that was interrupted goes on when it is asked again.
///
/// # Errors
/// [`TopicError`] when there is none, it is internal or compacted, `before` is no place that it has, or
/// the log does not store the change.
pub async fn trim(
    log: &dyn Log,
    name: &str,
    trim: &Trim,
    now: TimeMicros,
) -> Result<Trimmed, TopicError> {
    let name = TopicName::new(name)?;
    if name.is_internal() {
        return Err(TopicError::Own(name));
    }
    let topic = log.topic(name.as_str());
    let topic = topic.ok_or_else(|| CatalogError::NotFound { name: name.clone() })?;
    if topic.spec.retention == Retention::Compact {
        return Err(TopicError::Compacted(name));
    }
    let before = Bound::parse(&trim.before, now)?;
    let meant = meant(&topic, trim.partition)?;
    refuse_beyond(log, &topic, &meant, before)?;
    let mut partitions = Vec::new();
    for id in meant {
        partitions.push(trim_partition(log, id, before, trim.dry_run).await?);
    }
    Ok(Trimmed { topic: topic.name().to_owned(), partitions })
}

fn meant(topic: &Topic, partition: Option<u32>) -> Result<Vec<PartitionId>, TopicError> {
    match partition {
        None => Ok(topic.partitions().collect()),
        Some(partition) if partition < topic.spec.partitions => {
            Ok(vec![topic.partition(partition)])
        }
        Some(partition) => {
            let (topic, last) = (topic.spec.name.clone(), topic.spec.partitions - 1);
            Err(TopicError::NoPartition { topic, partition, last })
        }
    }
}

fn refuse_beyond(
    log: &dyn Log,
    topic: &Topic,
    meant: &[PartitionId],
    before: Bound,
) -> Result<(), TopicError> {
    let Bound::Offset(asked) = before else { return Ok(()) };
    let ends = meant.iter().filter_map(|id| log.extent(*id)).map(|extent| extent.end);
    let end = ends.max().unwrap_or(Offset::ZERO);
    if asked <= end {
        return Ok(());
    }
    Err(TopicError::Beyond { topic: topic.spec.name.clone(), asked, end })
}

async fn trim_partition(
    log: &dyn Log,
    id: PartitionId,
    before: Bound,
    dry_run: bool,
) -> Result<TrimmedPartition, TopicError> {
    let extent = log.extent(id).ok_or(FetchError::UnknownPartition { partition: id })?;
    let start = match before {
        Bound::Offset(offset) => offset,
        Bound::Time(time) => log.offset_at(id, TimeKind::Append, time).await?,
        Bound::Now => extent.end,
    };
    let start = start.clamp(extent.start, extent.end);
    if !dry_run && start > extent.start {
        log.trim(id, start).await?;
    }
    let (partition, dropped) = (id.partition, start.0 - extent.start.0);
    Ok(TrimmedPartition { partition, start: start.0, end: extent.end.0, dropped })
}

/// Deletes a topic with all its records.
///
/// # Errors
/// [`TopicError`] when there is none, it is the node's own, or the log does not store the change.
pub async fn delete(log: &dyn Log, name: &str) -> Result<(), TopicError> {
    let name = TopicName::new(name)?;
    if name.is_internal() || OWN_TOPICS.iter().any(|(own, _)| *own == name.as_str()) {
        return Err(TopicError::Own(name));
    }
    Ok(log.delete_topic(&name).await?)
}

fn ranges<'a>(log: &'a dyn Log, topic: &'a Topic) -> impl Iterator<Item = PartitionRange> + 'a {
    topic.partitions().map(|id| {
        let extent = log.extent(id);
        let (start, end) = extent.map_or((0, 0), |extent| (extent.start.0, extent.end.0));
        PartitionRange { partition: id.partition, start, end }
    })
}

const fn retention(topic: &Topic) -> &'static str {
    match topic.spec.retention {
        Retention::Keep => "keep",
        Retention::Compact => "compact",
    }
}
