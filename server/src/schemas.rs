//! Schemas without a node: trying one out, and looking at those of a stopped folder.

use std::sync::Arc;

use bytes::Bytes;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::meta::{MetaError, MetaTopic};
use tracklog_log::{
    Append, Domain, Epoch, FetchError, Item, Lane, Log, Retention, Topic, TopicName, TopicSpec,
};
use tracklog_registry::{Candidate, Limits, OpenError, Registry};
pub use tracklog_registry::{RegistryError, Summary, Violation};

use crate::clock;
use crate::reading::Piece;

/// The internal topic where a node keeps its schemas.
pub(crate) const SCHEMAS_TOPIC: &str = "_schemas";

/// Why the schemas of a folder cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemasError {
    /// The log does not give them.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// They are damaged, or too many to hold.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A newer program wrote them.
    #[error(transparent)]
    Registry(#[from] OpenError),
}

/// A registry in memory: it compiles and judges as a node does, and forgets what it holds.
pub struct SchemaCopy(Registry);

impl SchemaCopy {
    /// One that holds nothing.
    ///
    /// # Errors
    /// Never: memory takes what is written.
    pub async fn empty() -> Result<Self, SchemasError> {
        Self::over(Memory::new().await?).await
    }

    /// One that holds what `log` does.
    ///
    /// # Errors
    /// When the log's schemas cannot be read.
    pub async fn of(log: &dyn Log) -> Result<Self, SchemasError> {
        let memory = Memory::new().await?;
        if let Some(topic) = log.topic(SCHEMAS_TOPIC) {
            memory.copy(log, &topic).await?;
        }
        Self::over(memory).await
    }

    async fn over(memory: Memory) -> Result<Self, SchemasError> {
        let meta = MetaTopic::open(memory.log, memory.epoch, name()).await?;
        Ok(Self(Registry::open(Arc::new(meta), Limits::default()).await?))
    }

    /// The registry itself, which forgets what it holds when it is dropped.
    #[must_use]
    pub(crate) fn into_registry(self) -> Registry {
        self.0
    }

    /// All names with their versions.
    #[must_use]
    pub fn list(&self) -> Vec<Summary> {
        self.0.list()
    }

    /// The newest schema of `event`, or this version of it, as it was registered.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, event: &str, version: Option<u32>) -> Result<Bytes, RegistryError> {
        self.0.get(event, version).map(|(_, schema)| schema)
    }

    /// What is wrong with `payload` by a schema that is not registered, if anything.
    ///
    /// # Errors
    /// When the schema is refused, or the payload is no JSON that an event may hold.
    pub async fn check(
        &self,
        schema: &Bytes,
        payload: &[u8],
    ) -> Result<Option<Violation>, RegistryError> {
        self.0.check(Candidate::Body(schema.clone()), payload).await
    }

    /// What is wrong with `payload` by the newest schema of `event`, if anything.
    ///
    /// # Errors
    /// When there is none, or the payload is no JSON that an event may hold.
    pub async fn check_registered(
        &self,
        event: &str,
        payload: &[u8],
    ) -> Result<Option<Violation>, RegistryError> {
        self.0.check(Candidate::Registered(event, None), payload).await
    }
}

impl std::fmt::Debug for SchemaCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchemaCopy").finish_non_exhaustive()
    }
}

fn name() -> TopicName {
    TopicName::new(SCHEMAS_TOPIC).expect("our own names are good")
}

/// A log in memory, with the topic of schemas.
struct Memory {
    log: Arc<MemoryLog>,
    epoch: Epoch,
    topic: Topic,
}

impl Memory {
    async fn new() -> Result<Self, MetaError> {
        let clock = Arc::new(clock::now);
        let log = Arc::new(MemoryLog::new(MemoryOptions { clock, budget_bytes: 64 << 20 }));
        let epoch = log.open(Domain::WHOLE).await.map_err(MetaError::Append)?;
        let spec = TopicSpec { name: name(), partitions: 1, retention: Retention::Compact };
        let topic = log.create_topic(spec).await?;
        Ok(Self { log, epoch, topic })
    }

    /// Appends every record that `from` has there, in order.
    async fn copy(&self, from: &dyn Log, topic: &Topic) -> Result<(), SchemasError> {
        let source = topic.partition(0);
        let Some(extent) = from.extent(source) else { return Ok(()) };
        let mut next = extent.start;
        while next < extent.end {
            let piece = Piece::read(from, source, next).await?;
            for (_, record) in piece.records() {
                let permit = self.log.reserve(Lane::INTERNAL, record.bytes().len());
                let items = [Item::Record { partition: self.topic.partition(0), record }];
                let append = Append { conditions: &[], items: &items };
                let ticket = self.log.append(permit.map_err(MetaError::Busy)?, self.epoch, append);
                ticket.await.map_err(MetaError::Append)?;
            }
            next = piece.next;
        }
        Ok(())
    }
}
