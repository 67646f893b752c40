//! Trying out a schema without a node.

use std::sync::Arc;

use bytes::Bytes;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::meta::MetaTopic;
use tracklog_log::{Domain, Log, TopicName};
use tracklog_registry::{Candidate, Limits, Registry};
pub use tracklog_registry::{RegistryError, Violation};

use crate::clock;

/// A registry that holds nothing and forgets everything: it compiles and judges as a node does.
pub struct DryRun(Registry);

impl DryRun {
    /// A fresh one.
    ///
    /// # Panics
    /// Never: memory takes what is written.
    pub async fn new() -> Self {
        let clock = Arc::new(clock::now);
        let log = Arc::new(MemoryLog::new(MemoryOptions { clock, budget_bytes: 1 << 20 }));
        let epoch = log.open(Domain::WHOLE).await.expect("a log in memory opens");
        let name = TopicName::new("_schemas").expect("our own names are good");
        let meta = MetaTopic::open(log, epoch, name).await.expect("memory can be read");
        let registry = Registry::open(Arc::new(meta), Limits::default()).await;
        Self(registry.expect("an empty store can be read"))
    }

    /// What is wrong with `payload` by `schema`, if anything.
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
}

impl std::fmt::Debug for DryRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DryRun").finish_non_exhaustive()
    }
}
