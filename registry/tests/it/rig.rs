//! A registry over a log in memory.

use std::sync::Arc;

use bytes::Bytes;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::meta::MetaTopic;
use tracklog_log::{Domain, Log as _, Meta, TopicName};
use tracklog_protocol::TimeMicros;
use tracklog_registry::{Limits, Registry};

/// A log that outlives the registries opened over it.
pub(crate) struct Rig {
    pub(crate) log: Arc<MemoryLog>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(|| TimeMicros(1_700_000_000_000_000));
        let budget_bytes = 64 << 20;
        let log = MemoryLog::new(MemoryOptions { clock, budget_bytes });
        Self { log: Arc::new(log) }
    }

    /// Another store on the same topic, under the epoch that all stores of this rig share.
    pub(crate) async fn meta(&self, epoch: tracklog_log::Epoch) -> Arc<dyn Meta> {
        let name = TopicName::new("_schemas").unwrap();
        let log = Arc::clone(&self.log);
        Arc::new(MetaTopic::open(log, epoch, name).await.unwrap())
    }

    pub(crate) async fn epoch(&self) -> tracklog_log::Epoch {
        self.log.open(Domain::WHOLE).await.unwrap()
    }

    /// Opens the log anew, as a restart does, and a registry over it.
    pub(crate) async fn open(&self) -> Registry {
        self.open_with(Limits::default()).await
    }

    pub(crate) async fn open_with(&self, limits: Limits) -> Registry {
        let epoch = self.epoch().await;
        Registry::open(self.meta(epoch).await, limits).await.unwrap()
    }
}

/// A registry of its own.
pub(crate) async fn registry() -> Registry {
    Rig::new().open().await
}

pub(crate) fn body(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}
