//! Consumer groups as they are told to operators: over HTTP, by a running node, or from a folder.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracklog_log::{Domain, Log};
pub use tracklog_pipeline::groups::{
    GroupDescription, GroupError, GroupName, GroupNameError, GroupSummary, PartitionLag,
};
use tracklog_pipeline::groups::{Groups, ResetTo};
use tracklog_protocol::TimeMicros;

use crate::bound::{Bound, BoundError};
use crate::clock;

/// Where a group is to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPlace {
    /// In which topic.
    pub topic: String,
    /// `earliest`, `latest`, an offset, a time, or a span back.
    pub to: String,
}

impl NewPlace {
    /// What `to` means; `now` is what spans count back from.
    ///
    /// # Errors
    /// [`BoundError`] when it means nothing.
    pub fn place(&self, now: TimeMicros) -> Result<ResetTo, BoundError> {
        match self.to.as_str() {
            "earliest" => Ok(ResetTo::Earliest),
            "latest" => Ok(ResetTo::Latest),
            text => Ok(match Bound::parse(text, now)? {
                Bound::Offset(offset) => ResetTo::Offset(offset),
                Bound::Time(time) => ResetTo::Time(time),
                Bound::Now => ResetTo::Latest,
            }),
        }
    }
}

/// Where a group goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacesAfter {
    /// In each partition.
    pub partitions: Vec<PlaceAfter>,
}

/// Where a group goes on in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceAfter {
    /// Its index.
    pub partition: u32,
    /// The offset to read next.
    pub next: u64,
}

/// Lets a group without members go on elsewhere.
///
/// # Errors
/// As [`Groups::reset`].
pub async fn reset(
    groups: &Groups<dyn Log>,
    name: &GroupName,
    topic: &str,
    to: ResetTo,
) -> Result<Vec<PlaceAfter>, GroupError> {
    let places = groups.reset(name, topic, to).await?;
    let after =
        places.iter().map(|(at, next)| PlaceAfter { partition: at.partition, next: next.0 });
    Ok(after.collect())
}

/// The groups of a log that is only read; none where nobody ever joined one.
///
/// # Errors
/// [`GroupError::Ledger`] when they can't be read.
pub async fn read(log: Arc<dyn Log>) -> Result<Option<Arc<Groups<dyn Log>>>, GroupError> {
    Groups::read(log, Arc::new(clock::now)).await
}

/// The groups of a log that nobody else writes to.
///
/// # Errors
/// [`GroupError::Ledger`] when they can't be read or written.
pub async fn open(log: Arc<dyn Log>) -> Result<Arc<Groups<dyn Log>>, GroupError> {
    let epoch = log.open(Domain::WHOLE).await?;
    Groups::open(log, epoch, Arc::new(clock::now)).await
}
