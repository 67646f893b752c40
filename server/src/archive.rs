//! Archives, as operators ask for them: opened as a log, told, verified, exported, and brought
//! back into a new log.
//!
//! Promises
//! - Reading an archive changes nothing in it.
//! - [`restore`] gives each record the offset that it had, or stops and says why; taken up again
//!   after an end of any sort, it goes on where it was. Where there is none any more, since it was
//!   erased, a record is put and erased in the new log too.

use std::sync::Arc;

use tracklog_log::{
    Append, AppendError, Busy, CatalogError, Condition, Domain, Epoch, Erase, EraseError, Fetch,
    FetchError, FetchMode, Item, Lane, Log, Topic,
};
use tracklog_pipeline::archive::chain::Chain;
pub use tracklog_pipeline::archive::chain::ChainError;
pub use tracklog_pipeline::archive::columns::RowPlace;
pub use tracklog_pipeline::archive::export::{Part, PartError, Wanted};
use tracklog_pipeline::archive::log::ArchiveLog;
pub use tracklog_pipeline::archive::store::{Opening, Store, StoreError};
use tracklog_pipeline::archive::verify as verification;
pub use tracklog_pipeline::archive::verify::{Problem, Summary, Told, TopicSummary, Verdict};
use tracklog_protocol::{BatchView, Offset, PartitionId, Record};

/// What an append of [`restore`] has at most, about.
const APPEND_BYTES: usize = 256 << 10;
/// What is read of a partition before another has its turn.
const FETCH_BYTES: usize = 1 << 20;

/// Opens an archive as the log that it was made of.
///
/// # Errors
/// [`ChainError`] when there is none, or its manifests are not whole.
pub async fn open(url: &str) -> Result<Arc<dyn Log>, ChainError> {
    let store = Store::open(url, Opening::Read)?;
    Ok(Arc::new(ArchiveLog::open(store).await?))
}

/// What an archive has, by its manifests; nothing where it has not begun.
///
/// # Errors
/// As [`open`].
pub async fn status(url: &str) -> Result<Summary, ChainError> {
    let store = Store::open(url, Opening::Read)?;
    match Chain::load(&store).await {
        Ok(chain) => Ok(Summary::of(&chain)),
        Err(ChainError::Empty { .. }) => Ok(Summary::default()),
        Err(error) => Err(error),
    }
}

/// Checks every byte of an archive.
///
/// # Errors
/// [`ChainError`] when the chain is not whole, or the store fails.
pub async fn verify(url: &str, told: &mut (dyn FnMut(Told) + Send)) -> Result<Verdict, ChainError> {
    let store = Store::open(url, Opening::Read)?;
    verification::verify(&store, told).await
}

/// The store of an archive, and the parts of it that have what is wanted of a topic.
///
/// # Errors
/// As [`open`].
pub async fn parts(
    url: &str,
    topic: &str,
    wanted: &Wanted,
) -> Result<(Store, Option<Vec<Part>>), ChainError> {
    let store = Store::open(url, Opening::Read)?;
    let chain = Chain::load(&store).await?;
    let is_there = chain.topics().is_some_and(|topics| topics.contains_key(topic));
    let parts = is_there.then(|| wanted.parts(&chain, topic));
    Ok((store, parts))
}

/// Why a topic could not be brought back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The archive has no such topic.
    #[error("the archive has no topic {topic}")]
    NoTopic {
        /// Its name.
        topic: String,
    },
    /// The offsets could not be the same.
    #[error("{topic}/{partition} goes on at {should} in the archive, and at {is} in the new log")]
    Offset {
        /// The topic.
        topic: String,
        /// The partition's index.
        partition: u32,
        /// What comes next in the archive.
        should: Offset,
        /// What would be given next.
        is: Offset,
    },
    /// Records of the archive cannot be read.
    #[error("{topic}/{partition}: offsets {from} to {to} are damaged: {what}")]
    Damaged {
        /// The topic.
        topic: String,
        /// The partition's index.
        partition: u32,
        /// The first.
        from: Offset,
        /// The first after them.
        to: Offset,
        /// What is wrong.
        what: String,
    },
    /// The archive did not give its records.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The new log did not make the topic.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The new log did not take the records.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The new log has no room in its intake: nobody else writes to it, so it never has.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The new log did not erase what holds the places of erased records.
    #[error(transparent)]
    Erase(#[from] EraseError),
}

/// Brings the topic called `name` out of `archive` into `log`, to the end, and goes on where an
/// earlier try ended. `told` gets how many records were brought over, and of how many.
///
/// # Errors
/// [`RestoreError`]; what is there by then stays.
pub async fn restore(
    archive: &dyn Log,
    log: &dyn Log,
    name: &str,
    told: &mut dyn FnMut(u64, u64),
) -> Result<u64, RestoreError> {
    let no_topic = || RestoreError::NoTopic { topic: name.to_owned() };
    let from = archive.topic(name).ok_or_else(no_topic)?;
    let epoch = log.open(Domain::WHOLE).await?;
    let to = log.create_topic(from.spec.clone()).await?;
    let (restored, holes) = (0, Vec::new());
    let mut restoring = Restoring { archive, log, epoch, from: &from, restored, holes };
    let ends = |log: &dyn Log, topic: &Topic| -> u64 {
        let extents = topic.partitions().filter_map(|id| log.extent(id));
        extents.map(|extent| extent.end.0 - extent.start.0).sum()
    };
    let all = ends(archive, &from);
    // In turns, so that records lie about in the order in which they came.
    loop {
        let mut is_done = true;
        for (source, target) in from.partitions().zip(to.partitions()) {
            is_done &= restoring.turn(source, target).await?;
            told(ends(log, &to), all);
        }
        if is_done {
            restoring.erase_holes().await?;
            return Ok(restoring.restored);
        }
    }
}

/// A topic on its way.
struct Restoring<'a> {
    archive: &'a dyn Log,
    log: &'a dyn Log,
    epoch: Epoch,
    from: &'a Topic,
    restored: u64,
    /// Where nothing is any more.
    holes: Vec<Erase>,
}

/// What holds a place until it is erased.
const PLACEHOLDER: &[u8] = b"erased";
/// So many places are filled in one append.
const PLACES_AT_ONCE: u64 = 10_000;
/// So many stretches of them are erased at once.
const HOLES_MAX: usize = 10_000;

impl Restoring<'_> {
    /// Brings some records of a partition over; whether that was all.
    async fn turn(
        &mut self,
        source: PartitionId,
        target: PartitionId,
    ) -> Result<bool, RestoreError> {
        let extent = self.archive.extent(source).expect("the archive has its own topic");
        let next = self.log.extent(target).expect("the topic was just made").end;
        if next >= extent.end {
            return Ok(true);
        }
        if next < extent.start {
            return Err(self.other_offset(source, extent.start, next));
        }
        let (from, mode) = (vec![(source, next)], FetchMode::Replay);
        let fetch = Fetch { from, bytes_max: FETCH_BYTES, wait: false, mode };
        let mut fetched = self.archive.fetch(fetch).await?;
        let found = fetched.partitions.pop().expect("one partition was asked for");
        if let Some(damage) = found.damage.first() {
            return Err(RestoreError::Damaged {
                topic: self.from.name().to_owned(),
                partition: source.partition,
                from: damage.from,
                to: damage.to,
                what: damage.what.clone(),
            });
        }
        let next = self.append(target, next, &found.batches).await?;
        self.fill(target, next, found.next).await?;
        Ok(false)
    }

    /// Puts something in the places from `next` on, up to `to`, that are to be erased.
    async fn fill(
        &mut self,
        partition: PartitionId,
        mut next: Offset,
        to: Offset,
    ) -> Result<(), RestoreError> {
        if next < to {
            self.holes.push(Erase { partition, from: next, to });
        }
        while next < to {
            let record = Record::opaque(PLACEHOLDER);
            let count = (to.0 - next.0).min(PLACES_AT_ONCE);
            let items: Vec<_> = (0..count).map(|_| Item::Record { partition, record }).collect();
            let conditions = [Condition::NextOffset { partition, next }];
            let permit = self.log.reserve(Lane::REPLAY, items.len() * PLACEHOLDER.len())?;
            let append = Append { conditions: &conditions, items: &items };
            self.log.append(permit, self.epoch, append).await?;
            next = next.plus(count);
        }
        if self.holes.len() >= HOLES_MAX {
            self.erase_holes().await?;
        }
        Ok(())
    }

    async fn erase_holes(&mut self) -> Result<(), RestoreError> {
        let holes = std::mem::take(&mut self.holes);
        if !holes.is_empty() {
            self.log.erase(holes).await?;
        }
        Ok(())
    }

    async fn append(
        &mut self,
        target: PartitionId,
        next: Offset,
        batches: &[BatchView],
    ) -> Result<Offset, RestoreError> {
        let mut next = next;
        let mut records = batches.iter().flat_map(BatchView::records).peekable();
        while let Some((offset, _)) = records.peek() {
            let offset = *offset;
            self.fill(target, next, offset).await?;
            next = next.max(offset);
            let first = next;
            let (mut items, mut bytes) = (Vec::new(), 0);
            while let Some((offset, record)) =
                records.next_if(|(offset, _)| bytes < APPEND_BYTES && *offset <= next)
            {
                if offset < next {
                    continue;
                }
                bytes += record.bytes().len();
                items.push(Item::Record { partition: target, record });
                next = next.plus(1);
            }
            // Nobody else writes; a record that is there twice would be worse than an end.
            let conditions = [Condition::NextOffset { partition: target, next: first }];
            let permit = self.log.reserve(Lane::REPLAY, bytes)?;
            let append = Append { conditions: &conditions, items: &items };
            self.log.append(permit, self.epoch, append).await?;
            self.restored += items.len() as u64;
        }
        Ok(next)
    }

    fn other_offset(&self, source: PartitionId, should: Offset, is: Offset) -> RestoreError {
        let topic = self.from.name().to_owned();
        RestoreError::Offset { topic, partition: source.partition, should, is }
    }
}

#[cfg(test)]
mod tests;
