//! What operators ask of groups: which there are, how far they lag, and to begin elsewhere.
//!
//! A running node is asked, or the log of a stopped one is opened: the ledger has all of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::MutexGuard;
use tracklog_log::meta::{Expect, Versioned};
use tracklog_log::{Extent, Fetch, FetchError, FetchMode, Log, Meta as _, TimeKind, Topic};
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use super::coordinator::{Group, Groups};
use super::ledger::{GroupRecord, group_key, offset_key, offset_keys};
use super::{Committed, Generation, GroupError, GroupName};

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupSummary {
    /// Its name.
    pub group: String,
    /// What it reads.
    pub topics: Vec<String>,
    /// How many members it has.
    pub members: usize,
    /// Which assignment holds.
    pub generation: u64,
    /// Records that it has still to read.
    pub lag: u64,
    /// How long the first of them has waited.
    pub lag_seconds: f64,
}

/// A group with its partitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupDescription {
    /// Its name.
    pub group: String,
    /// Which assignment holds.
    pub generation: u64,
    /// Its members, by name.
    pub members: Vec<String>,
    /// All of them that it reads, in order.
    pub partitions: Vec<PartitionLag>,
}

/// How far a group is in a partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionLag {
    /// The topic.
    pub topic: String,
    /// The partition's index.
    pub partition: u32,
    /// The offset to read next; absent where nothing was committed.
    pub committed: Option<u64>,
    /// The partition's end.
    pub end: u64,
    /// Records that are there and still to be read.
    pub lag: u64,
    /// How long the first of them has waited.
    pub lag_seconds: f64,
    /// Who reads it.
    pub member: Option<String>,
}

/// How far a group is behind in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    /// Its name.
    pub group: String,
    /// Its topic.
    pub topic: String,
    /// Records that are still to be read, in all partitions.
    pub records: u64,
}

/// How long what a group has still to read of a topic has waited.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupWait {
    /// Its name.
    pub group: String,
    /// Its topic.
    pub topic: String,
    /// Since the oldest of it was stored; 0 where there is nothing.
    pub seconds: f64,
}

/// Where a group is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// At the first record that is there.
    Earliest,
    /// Behind the last.
    Latest,
    /// At this offset, in each partition; clamped to what is there.
    Offset(Offset),
    /// At the first record that was appended at or after this time.
    Time(TimeMicros),
}

impl<L: Log + ?Sized> Groups<L> {
    /// All groups, by name. Reads a record of each partition in which one lags.
    ///
    /// # Errors
    /// [`GroupError::Ledger`] when the ledger can't be read; others when the log can't.
    pub async fn list(&self) -> Result<Vec<GroupSummary>, GroupError> {
        self.ledger.refresh().await?;
        let mut summaries = Vec::new();
        for (name, record) in self.records()? {
            let topics = self.topics_of(&record);
            let (mut lag, mut lag_seconds) = (0, 0_f64);
            for topic in &topics {
                for at in topic.partitions() {
                    let of_partition = self.partition_lag(&name, topic, at).await?;
                    lag += of_partition.lag;
                    lag_seconds = lag_seconds.max(of_partition.lag_seconds);
                }
            }
            summaries.push(GroupSummary {
                group: name.to_string(),
                lag,
                lag_seconds,
                topics: record.topics,
                members: self.live_members(&name).await,
                generation: record.generation,
            });
        }
        Ok(summaries)
    }

    /// The group with its partitions.
    ///
    /// # Errors
    /// [`GroupError::NotFound`]; others when ledger or log can't be read.
    pub async fn describe(&self, name: &GroupName) -> Result<GroupDescription, GroupError> {
        self.ledger.refresh().await?;
        let record = self.record(name)?;
        let mut partitions = Vec::new();
        for topic in self.topics_of(&record) {
            for at in topic.partitions() {
                partitions.push(self.partition_lag(name, &topic, at).await?);
            }
        }
        let groups = self.locked().await;
        let live = groups.get(name).map(|group| &group.membership);
        let members = live.map_or_else(Vec::new, |live| live.members().cloned().collect());
        for lag in &mut partitions {
            let topic = self.log.topic(&lag.topic);
            let at = topic.map(|topic| topic.partition(lag.partition));
            let owner = at.and_then(|at| live?.owner(at));
            lag.member = owner.map(ToString::to_string);
        }
        Ok(GroupDescription {
            group: name.to_string(),
            generation: record.generation,
            members: members.iter().map(ToString::to_string).collect(),
            partitions,
        })
    }

    /// How far each group is behind in each topic. Reads nothing but the ledger.
    ///
    /// # Errors
    /// [`GroupError::Ledger`] when the ledger can't be read.
    pub async fn lags(&self) -> Result<Vec<GroupLag>, GroupError> {
        self.ledger.refresh().await?;
        let lag = |(name, topic): (GroupName, Topic)| GroupLag {
            records: topic.partitions().map(|at| self.behind(&name, at).1).sum(),
            group: name.to_string(),
            topic: topic.name().to_owned(),
        };
        Ok(self.read_topics()?.into_iter().map(lag).collect())
    }

    /// How long what each group has still to read waits. Reads a record of each partition that has
    /// some.
    ///
    /// # Errors
    /// As [`describe`](Self::describe).
    pub async fn waits(&self) -> Result<Vec<GroupWait>, GroupError> {
        self.ledger.refresh().await?;
        let mut waits = Vec::new();
        for (name, topic) in self.read_topics()? {
            let mut seconds = 0_f64;
            for at in topic.partitions() {
                seconds = seconds.max(self.partition_lag(&name, &topic, at).await?.lag_seconds);
            }
            let topic = topic.name().to_owned();
            waits.push(GroupWait { group: name.to_string(), topic, seconds });
        }
        Ok(waits)
    }

    /// All groups, by name. One that goes meanwhile is left out.
    fn records(&self) -> Result<Vec<(GroupName, GroupRecord)>, GroupError> {
        let records = self.names().into_iter().filter_map(|name| match self.record(&name) {
            Err(GroupError::NotFound { .. }) => None,
            record => Some(record.map(|record| (name, record))),
        });
        records.collect()
    }

    /// Each group with each topic that it reads.
    fn read_topics(&self) -> Result<Vec<(GroupName, Topic)>, GroupError> {
        let mut all = Vec::new();
        for (name, record) in self.records()? {
            let topics = self.topics_of(&record);
            all.extend(topics.into_iter().map(|topic| (name.clone(), topic)));
        }
        Ok(all)
    }

    /// Lets the group go on elsewhere in `topic`.
    ///
    /// # Errors
    /// [`GroupError::InUse`] while it has members, [`GroupError::NotFound`],
    /// [`GroupError::NoTopic`]; others when ledger or log can't be used.
    pub async fn reset(
        &self,
        name: &GroupName,
        topic: &str,
        to: ResetTo,
    ) -> Result<Vec<(PartitionId, Offset)>, GroupError> {
        let _nobody_joins = self.without_members(name).await?;
        self.ledger.refresh().await?;
        let record = self.record(name)?;
        let topics = self.topics_of(&record);
        let topic = topics
            .iter()
            .find(|it| it.name() == topic)
            .ok_or_else(|| GroupError::NoTopic { group: name.clone(), topic: topic.to_owned() })?;
        let mut resets = Vec::new();
        for at in topic.partitions() {
            let next = self.place(at, to).await?;
            let generation = Generation(record.generation);
            let committed = Committed { next, generation, at: (self.clock)() };
            let key = offset_key(name, at);
            self.ledger.put(&key, Some(&committed.encode()), Expect::Any).await?;
            resets.push((at, next));
        }
        Ok(resets)
    }

    /// Forgets the group and its offsets.
    ///
    /// # Errors
    /// [`GroupError::InUse`] while it has members, [`GroupError::NotFound`],
    /// [`GroupError::Ledger`].
    pub async fn delete(&self, name: &GroupName) -> Result<(), GroupError> {
        let _nobody_joins = self.without_members(name).await?;
        self.ledger.refresh().await?;
        self.forget(self.record(name)?.generation);
        for (key, _) in self.ledger.list(&offset_keys(name)) {
            self.ledger.put(&key, None, Expect::Any).await?;
        }
        self.ledger.put(&group_key(name), None, Expect::Any).await?;
        Ok(())
    }

    /// The offset that a group reads next of a partition; `None` where nothing was committed.
    ///
    /// # Errors
    /// [`GroupError::Ledger`] when the ledger can't be read.
    pub async fn committed(
        &self,
        name: &GroupName,
        at: PartitionId,
    ) -> Result<Option<Offset>, GroupError> {
        self.ledger.refresh().await?;
        Ok(self.behind(name, at).0)
    }

    /// Nobody joins while the answer is held, and nobody who is gone commits any more.
    async fn without_members(
        &self,
        name: &GroupName,
    ) -> Result<MutexGuard<'_, BTreeMap<GroupName, Group>>, GroupError> {
        let mut groups = self.locked().await;
        self.expire_in(&mut groups).await?;
        let members = groups.get(name).map_or(0, |group| group.membership.members().count());
        if members == 0 {
            return Ok(groups);
        }
        Err(GroupError::InUse { group: name.clone(), members })
    }

    fn record(&self, name: &GroupName) -> Result<GroupRecord, GroupError> {
        let record = self.ledger.get(&group_key(name));
        record
            .and_then(|Versioned { value, .. }| GroupRecord::decode(&value))
            .ok_or_else(|| GroupError::NotFound { group: name.clone() })
    }

    /// The group's topics that are still there.
    fn topics_of(&self, record: &GroupRecord) -> Vec<Topic> {
        record.topics.iter().filter_map(|name| self.log.topic(name)).collect()
    }

    async fn live_members(&self, name: &GroupName) -> usize {
        let groups = self.locked().await;
        groups.get(name).map_or(0, |group| group.membership.members().count())
    }

    /// The next offset to read, as far as it is committed, and how many records are behind it.
    fn behind(&self, name: &GroupName, at: PartitionId) -> (Option<Offset>, u64) {
        let found = self.ledger.get(&offset_key(name, at));
        let committed = found.and_then(|it| Committed::decode(&it.value)).map(|it| it.next);
        let Extent { start, end } =
            self.log.extent(at).unwrap_or(Extent { start: Offset::ZERO, end: Offset::ZERO });
        let next = committed.unwrap_or(start).max(start);
        (committed, end.0.saturating_sub(next.0))
    }

    async fn partition_lag(
        &self,
        name: &GroupName,
        topic: &Topic,
        at: PartitionId,
    ) -> Result<PartitionLag, GroupError> {
        let (committed, lag) = self.behind(name, at);
        let end = self.log.extent(at).map_or(0, |extent| extent.end.0);
        let waited = match lag {
            0 => 0,
            _ => self.waited(at, Offset(end - lag)).await?,
        };
        Ok(PartitionLag {
            topic: topic.name().to_owned(),
            partition: at.partition,
            committed: committed.map(|offset| offset.0),
            end,
            lag,
            lag_seconds: waited as f64 / 1e6,
            member: None,
        })
    }

    /// For how many microseconds the record at `next`, or the first after it, has been there.
    async fn waited(&self, at: PartitionId, next: Offset) -> Result<i64, GroupError> {
        let (from, mode) = (vec![(at, next)], FetchMode::Replay);
        let fetch = Fetch { from, bytes_max: 1, wait: false, mode };
        let fetched = match self.log.fetch(fetch).await {
            // Given up meanwhile.
            Err(FetchError::OutOfRange { .. }) => return Ok(0),
            fetched => fetched?,
        };
        let first = fetched.partitions.first().and_then(|found| found.batches.first());
        Ok(first.map_or(0, |batch| ((self.clock)().0 - batch.append_time().0).max(0)))
    }

    async fn place(&self, at: PartitionId, to: ResetTo) -> Result<Offset, GroupError> {
        let extent = self.log.extent(at).ok_or(FetchError::UnknownPartition { partition: at })?;
        Ok(match to {
            ResetTo::Earliest => extent.start,
            ResetTo::Latest => extent.end,
            ResetTo::Offset(offset) => offset.clamp(extent.start, extent.end),
            ResetTo::Time(time) => self.log.offset_at(at, TimeKind::Append, time).await?,
        })
    }
}
