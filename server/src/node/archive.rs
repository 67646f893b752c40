//! The node's archive: the loop that fills it, on a thread of its own.
//!
//! Promises
//! - A store that is slow or fails holds up the archive and nothing else.
//! - A place that cannot be one is known before the log is opened; one that fails later is tried
//!   again.
//! - [`Archive::stand_still`] waits for no flush: what is not archived yet is in the log.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{Mutex, watch};
use tracklog_log::{Log, Topic};
use tracklog_pipeline::archive::archiver::{
    ArchiveCounters, Archiver, ArchiverEnd, Flush, Schemas,
};
use tracklog_pipeline::archive::store::{Opening, Store, StoreError};
use tracklog_protocol::Offset;
use tracklog_registry::Registry;

use super::stages::NodeTime;
use crate::backup::RestoredFrom;
use crate::config::ArchiveSettings;
use crate::folder::{DataFolder, FolderError};

/// What is archived.
const TOPICS: [&str; 2] = ["raw", "enriched"];

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The place cannot be one.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the folder says of a restore cannot be read.
    #[error(transparent)]
    Restored(#[from] FolderError),
    /// There are no more threads.
    #[error("its thread: {0}")]
    Thread(#[from] io::Error),
}

/// The archive, which runs or stands still.
pub(super) struct Archive {
    store: Store,
    log: Arc<dyn Log>,
    registry: Arc<Registry>,
    folder: DataFolder,
    flush: Flush,
    topics: Vec<Topic>,
    counters: Arc<ArchiveCounters>,
    running: Mutex<Option<Running>>,
}

/// It runs.
struct Running {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// The place of the archive; `None` where there is to be none.
pub(super) fn place(
    settings: &ArchiveSettings,
    folder: &DataFolder,
) -> Result<Option<Store>, ArchiveError> {
    if !settings.enabled {
        return Ok(None);
    }
    let own = || folder.file("archive").to_string_lossy().into_owned();
    let url = settings.url.clone().unwrap_or_else(own);
    Ok(Some(Store::open(&url, Opening::Write)?))
}

/// The same place for whoever only reads it; `None`, and told, where it cannot be opened again.
pub(super) fn reader(store: &Store) -> Option<Store> {
    let opened = Store::open(store.url(), Opening::Read);
    opened.inspect_err(|error| tracing::warn!(%error, "the archive cannot be asked")).ok()
}

impl Archive {
    /// Begins where the last manifest in `store` ends.
    pub(super) async fn start(
        settings: &ArchiveSettings,
        store: Store,
        log: &Arc<dyn Log>,
        registry: &Arc<Registry>,
        folder: &DataFolder,
    ) -> Result<Self, ArchiveError> {
        let topics: Vec<Topic> = TOPICS.iter().filter_map(|name| log.topic(name)).collect();
        let archive = Self {
            store,
            log: Arc::clone(log),
            registry: Arc::clone(registry),
            folder: folder.clone(),
            flush: Flush { bytes: settings.flush_bytes(), interval: settings.flush_interval() },
            counters: Arc::new(ArchiveCounters::new(&topics)),
            topics,
            running: Mutex::default(),
        };
        archive.go_on().await?;
        Ok(archive)
    }

    /// Lets it go on where its last manifest ends.
    pub(super) async fn go_on(&self) -> Result<(), ArchiveError> {
        let mut running = self.running.lock().await;
        if running.is_none() {
            *running = Some(self.run()?);
        }
        Ok(())
    }

    fn run(&self) -> Result<Running, ArchiveError> {
        let restored = Restored::read(&self.folder, self.store.url())?;
        let archiver = Archiver {
            log: Arc::clone(&self.log),
            store: self.store.clone(),
            topics: self.topics.clone(),
            schemas: Arc::new(Registered(Arc::clone(&self.registry))),
            flush: self.flush,
            time: Arc::new(NodeTime),
            counters: Arc::clone(&self.counters),
        };
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("tracklog-archive".to_owned());
        let thread = thread.spawn(move || {
            let archived = async {
                if let Some(restored) = restored {
                    restored.check(&archiver, stopped.clone()).await?;
                }
                archiver.run(stopped).await
            };
            if let Err(error) = runtime.block_on(archived) {
                tracing::error!(%error, "nothing is archived any more");
            }
            // A call that hangs in a store must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(Running { stop, thread })
    }

    /// Where it lies.
    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    /// Where metrics come from.
    pub(super) fn counters(&self) -> Arc<ArchiveCounters> {
        Arc::clone(&self.counters)
    }

    /// Ends it between two steps, until [`go_on`](Self::go_on).
    pub(super) async fn stand_still(&self) {
        let Some(Running { stop, thread }) = self.running.lock().await.take() else { return };
        stop.send_replace(true);
        let ending = tokio::task::spawn_blocking(move || thread.join());
        if !matches!(ending.await, Ok(Ok(()))) {
            tracing::warn!("the archive's thread did not end by itself");
        }
    }
}

/// A log that was restored, and an archive that was not held against it yet.
struct Restored {
    from: RestoredFrom,
    ends: BTreeMap<String, Vec<Offset>>,
    folder: DataFolder,
}

impl Restored {
    fn read(folder: &DataFolder, url: &str) -> Result<Option<Self>, FolderError> {
        let Some(from) = RestoredFrom::read(folder)? else { return Ok(None) };
        let ends = from.ends_for(url);
        Ok(ends.map(|ends| Self { from, ends, folder: folder.clone() }))
    }

    /// Ends the archive where it is ahead of the log as that was restored; else that is known from
    /// then on.
    async fn check(
        mut self,
        archiver: &Archiver<dyn Log>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), ArchiverEnd> {
        tokio::select! {
            checked = archiver.check_restored(&self.ends) => checked?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        if let Err(error) = self.from.archive_is_own(&self.folder, archiver.store.url()) {
            // Then it is looked at again at the next start, and may be refused.
            tracing::error!(%error, "it cannot be noted that the archive is this log's");
        }
        Ok(())
    }
}

/// The registry, as the archive asks it.
struct Registered(Arc<Registry>);

impl Schemas for Registered {
    fn versions(&self, name: &str) -> Vec<Bytes> {
        let versions = self.0.versions(name).unwrap_or_default();
        let text = |version| self.0.get(name, Some(version)).ok().map(|(_, text)| text);
        versions.into_iter().filter_map(text).collect()
    }
}
