//! What became of rejected events that were tried again, in the topic [`TOPIC`].
//!
//! Promises
//! - An outcome is in the commit of the event that it tells of, on the condition that the page which
//!   it lies in is as it was read: so an event is stored once, whoever dies when.
//! - Memory: some 20 bytes for each event that was tried, as long as its record in `rejected` is
//!   there.
//!
//! A page holds the outcomes of [`PAGE_OFFSETS`] offsets of one partition. An offset is given when a
//! commit is written, so an outcome cannot name that of its own event; it names the end that the
//! partition had before, and the event is the first of its id from there on. Bytes:
//! `pipeline/FORMAT.md`, section *Retries*.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracklog_log::meta::{MetaError, MetaTopic};
use tracklog_log::{Condition, Epoch, Log, Meta as _, Topic, TopicName};
use tracklog_protocol::{KeyValue, Offset, PartitionId, Record};

/// Where outcomes are kept.
pub const TOPIC: &str = "_retries";

/// So many offsets share a record.
const PAGE_OFFSETS: u64 = 256;
/// The topic is rewritten once it has so many records beyond those that count.
const STALE_RECORDS_MAX: u64 = 10_000;

/// Why an event is, or stays, rejected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reason {
    /// The code, as answers have it.
    pub code: String,
    /// Where in the event, as a JSON pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Why, for people.
    pub message: String,
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is stored.
    Stored(NearPlace),
    /// It was rejected again.
    Failing(Reason),
}

/// About where an event was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NearPlace {
    /// The topic's name.
    pub(super) topic: String,
    /// Its partition there.
    pub(super) partition: u32,
    /// It lies here or behind.
    pub(super) from: Offset,
}

/// Which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PageKey {
    /// The partition of `rejected`.
    pub(super) partition: u32,
    first: u64,
}

impl PageKey {
    /// The page of a place in `rejected`.
    pub(super) const fn of(partition: u32, offset: Offset) -> Self {
        Self { partition, first: offset.0 - offset.0 % PAGE_OFFSETS }
    }

    /// The first offset in it.
    pub(super) const fn first(self) -> Offset {
        Offset(self.first)
    }

    /// The first offset that is not in it.
    pub(super) const fn end(self) -> Offset {
        Offset(self.first + PAGE_OFFSETS)
    }

    fn to_bytes(self) -> Vec<u8> {
        format!("{}/{}", self.partition, self.first).into_bytes()
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (partition, first) = str::from_utf8(bytes).ok()?.split_once('/')?;
        Some(Self { partition: partition.parse().ok()?, first: first.parse().ok()? })
    }
}

/// The outcomes of a stretch of offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    key: PageKey,
    /// Where its record lies; `None` before the first.
    version: Option<Offset>,
    outcomes: BTreeMap<u64, Outcome>,
}

/// A page as it is written: what many outcomes share stands once.
#[derive(Default, Serialize, Deserialize)]
struct Written {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    topics: Vec<String>,
    /// Offset, index of the topic, partition, and the end before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stored: Vec<(u64, usize, u32, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<Reason>,
    /// Offset, and index of the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failing: Vec<(u64, usize)>,
}

impl Page {
    pub(super) fn read(
        key: PageKey,
        version: Offset,
        value: &[u8],
    ) -> Result<Self, serde_json::Error> {
        let Written { topics, stored, reasons, failing } = serde_json::from_slice(value)?;
        let stored = stored.into_iter().filter_map(|(offset, topic, partition, from)| {
            let topic = topics.get(topic)?.clone();
            let near = NearPlace { topic, partition, from: Offset(from) };
            Some((offset, Outcome::Stored(near)))
        });
        let failing = failing.into_iter().filter_map(|(offset, reason)| {
            Some((offset, Outcome::Failing(reasons.get(reason)?.clone())))
        });
        let outcomes = stored.chain(failing).collect();
        Ok(Self { key, version: Some(version), outcomes })
    }

    /// Which it is.
    pub(super) const fn key(&self) -> PageKey {
        self.key
    }

    /// What became of the event at `offset`, if it was tried.
    pub(super) fn outcome(&self, offset: Offset) -> Option<&Outcome> {
        self.outcomes.get(&offset.0)
    }

    /// Notes what became of the event at `offset`; false if that is known.
    pub(super) fn set(&mut self, offset: Offset, outcome: Outcome) -> bool {
        assert!(PageKey::of(self.key.partition, offset) == self.key, "it is an offset of the page");
        self.outcomes.insert(offset.0, outcome.clone()) != Some(outcome)
    }

    /// Forgets what became of events at offsets that do not stay; false if there were none.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(Offset) -> bool) -> bool {
        let before = self.outcomes.len();
        self.outcomes.retain(|offset, _| stays(Offset(*offset)));
        self.outcomes.len() < before
    }

    /// Its record, written into `out`, as it is to be.
    pub(super) fn record<'o>(&self, out: &'o mut Vec<u8>) -> Record<'o> {
        KeyValue { key: &self.key.to_bytes(), value: Some(&self.value()) }.encode(out)
    }

    /// The value of its record, as it is to be.
    pub(super) fn value(&self) -> Vec<u8> {
        let (mut written, mut topics, mut reasons) =
            (Written::default(), BTreeMap::new(), BTreeMap::new());
        for (offset, outcome) in &self.outcomes {
            match outcome {
                Outcome::Stored(NearPlace { topic, partition, from }) => {
                    let index = index_of(&mut topics, &mut written.topics, topic);
                    written.stored.push((*offset, index, *partition, from.0));
                }
                Outcome::Failing(reason) => {
                    let index = index_of(&mut reasons, &mut written.reasons, reason);
                    written.failing.push((*offset, index));
                }
            }
        }
        serde_json::to_vec(&written).expect("texts and numbers become JSON")
    }

    /// What must hold for its record to be stored: nobody else has changed the page.
    pub(super) fn condition(&self, partition: PartitionId) -> Condition {
        Condition::LastOfKey { partition, key: self.key.to_bytes(), last: self.version }
    }
}

/// The index of `value` in `all`, where it is put if it is new.
fn index_of<'v, T: Ord + Clone>(
    known: &mut BTreeMap<&'v T, usize>,
    all: &mut Vec<T>,
    value: &'v T,
) -> usize {
    *known.entry(value).or_insert_with(|| {
        all.push(value.clone());
        all.len() - 1
    })
}

/// All outcomes.
pub(super) struct Outcomes {
    /// `None` where nobody ever tried anything, and the log is only read.
    ledger: Option<MetaTopic<dyn Log>>,
}

impl Outcomes {
    /// Those of a node, which adds more.
    pub(super) async fn open(log: Arc<dyn Log>, epoch: Epoch) -> Result<Self, MetaError> {
        let name = TopicName::new(TOPIC).expect("our own names are good");
        Ok(Self { ledger: Some(MetaTopic::open(log, epoch, name).await?) })
    }

    /// Those of a log that is only read.
    pub(super) async fn read(log: Arc<dyn Log>) -> Result<Self, MetaError> {
        let Some(topic) = log.topic(TOPIC) else { return Ok(Self { ledger: None }) };
        let ledger = MetaTopic::over(log, Epoch(0), topic.partition(0)).await?;
        Ok(Self { ledger: Some(ledger) })
    }

    /// Where they are written.
    pub(super) fn partition(&self) -> PartitionId {
        self.ledger.as_ref().expect("who writes has opened them").partition()
    }

    /// Takes in what was written.
    pub(super) async fn refresh(&self) -> Result<(), MetaError> {
        match &self.ledger {
            Some(ledger) => ledger.refresh().await,
            None => Ok(()),
        }
    }

    /// The page with this key.
    pub(super) fn page(&self, key: PageKey) -> Result<Page, serde_json::Error> {
        let found = self.ledger.as_ref().and_then(|ledger| ledger.get(&key.to_bytes()));
        match found {
            Some(found) => Page::read(key, found.version, &found.value),
            None => Ok(Page { key, version: None, outcomes: BTreeMap::new() }),
        }
    }

    /// Writes what counts anew once there is much that does not: pages of records that are gone
    /// from `rejected` do not.
    pub(super) async fn rewrite(&self, log: &dyn Log, rejected: &Topic) -> Result<(), MetaError> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let counts = |key: &[u8]| {
            let Some(key) = PageKey::parse(key) else { return true };
            let has_partition = key.partition < rejected.spec.partitions;
            let extent = has_partition.then(|| log.extent(rejected.partition(key.partition)));
            extent.flatten().is_none_or(|extent| extent.start < key.end())
        };
        ledger.rewrite(STALE_RECORDS_MAX, counts).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: &str) -> Outcome {
        let message = format!("it is {code}");
        Outcome::Failing(Reason { code: code.to_owned(), pointer: None, message })
    }

    fn stored(topic: &str, from: u64) -> Outcome {
        Outcome::Stored(NearPlace { topic: topic.to_owned(), partition: 3, from: Offset(from) })
    }

    #[test]
    fn a_page_reads_back_and_says_what_is_shared_once() {
        let key = PageKey::of(2, Offset(300));
        let mut page = Page { key, version: None, outcomes: BTreeMap::new() };
        for (offset, outcome) in [
            (256, reason("schema")),
            (257, stored("raw", 9)),
            (300, reason("schema")),
            (301, stored("enriched", 0)),
            (511, reason("too_large")),
        ] {
            assert!(page.set(Offset(offset), outcome.clone()));
            assert!(!page.set(Offset(offset), outcome), "it is known");
        }
        let mut buffer = Vec::new();
        let record = page.record(&mut buffer);
        let change = record.key_value().unwrap();
        assert_eq!(PageKey::parse(change.key), Some(key));
        let value = change.value.unwrap();
        assert_eq!(str::from_utf8(value).unwrap().matches("it is schema").count(), 1);
        page.version = Some(Offset(7));
        assert_eq!(Page::read(key, Offset(7), value).unwrap(), page);
    }

    #[test]
    fn an_outcome_takes_the_place_of_the_one_before() {
        let key = PageKey::of(0, Offset(0));
        let mut page = Page { key, version: None, outcomes: BTreeMap::new() };
        assert!(page.set(Offset(5), reason("schema")));
        assert!(page.set(Offset(5), stored("raw", 1)));
        assert_eq!(page.outcome(Offset(5)), Some(&stored("raw", 1)));
        assert_eq!(page.outcome(Offset(6)), None);
    }
}
