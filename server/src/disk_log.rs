//! The log of a running node: the engine, behind the seam. The only file of a node that knows it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
pub use tracklog_engine::OpenError;
use tracklog_engine::disk::OpenFolderError;
use tracklog_engine::{BackendChoice, Engine, Options, State};
use tracklog_log::{Dedupe, Log, TopicName};

use crate::admin::Verification;
use crate::config::{BackendName, JournalSettings, SettleSetting};
use crate::folder::DataFolder;
use crate::offline::Written;
use crate::scrub::Scrub;
use crate::{blocking, metrics, topics, verify};

/// How often a folder in use is tried again, and after which pause: a reading verb looks at the
/// lock for a moment, and such a moment must not keep a node from starting.
const LOCK_TRIES: usize = 8;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// So many bytes a second are read again where nobody says otherwise: a terabyte in a day and a half.
const SCRUB_RATE: u64 = 8 << 20;

/// An open log.
pub(crate) struct DiskLog {
    engine: Arc<Engine>,
    scrub: Scrub,
    path: PathBuf,
}

impl DiskLog {
    /// Opens the log in `path`, and makes one where there is none. Recovery blocks on the disk:
    /// it has a thread of its own.
    pub(crate) async fn open(path: &Path, settings: &JournalSettings) -> Result<Self, OpenError> {
        DataFolder::at(path).refuse_half_restored()?;
        let options = options(settings);
        let mut tries = 1;
        loop {
            let (path, options) = (path.to_owned(), options.clone());
            let rate = settings.scrub_rate.unwrap_or(SCRUB_RATE);
            match blocking::run(move || Self::open_blocking(path, &options, rate)).await {
                Err(error) if is_locked(&error) && tries < LOCK_TRIES => {
                    tries += 1;
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                opened => return opened.inspect(Self::relay),
            }
        }
    }

    fn open_blocking(path: PathBuf, options: &Options, rate: u64) -> Result<Self, OpenError> {
        let engine = Arc::new(Engine::open(&path, options)?);
        let report = engine.report();
        let what = if report.created { "made" } else { "opened" };
        tracing::info!("log {what} in {:.1?}, run {}", report.took, report.run);
        let scrub = Scrub::start(&engine, rate);
        Ok(Self { engine, scrub, path })
    }

    /// What it has written since it was opened.
    pub(crate) fn written(&self) -> Written {
        let status = self.engine.status();
        Written { commits: status.commits, bytes: status.commit_bytes }
    }

    /// Has those who wait for a commit woken by the workers of this runtime, which run them.
    fn relay(&self) {
        for _ in 0..Handle::current().metrics().num_workers() {
            tokio::spawn(self.engine.relay());
        }
    }

    pub(crate) fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.engine) as Arc<dyn Log>
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How it verifies itself while it runs.
    pub(crate) fn verification(&self) -> Verification {
        let engine = Arc::clone(&self.engine);
        Box::new(move |told| verify::running(&engine, told))
    }

    /// Why it takes nothing until it is opened again, if so.
    pub(crate) fn closed(&self) -> Option<String> {
        match self.engine.state() {
            State::Closed(why) => Some(why),
            _ => None,
        }
    }

    /// Which disk backend runs, in one word, and why.
    pub(crate) fn backend(&self) -> (&'static str, String) {
        let backend = self.engine.status().backend;
        let paging = if backend.direct { "O_DIRECT" } else { "buffered" };
        (backend.kind.as_str(), format!("{} ({paging}): {}", backend.kind.as_str(), backend.why))
    }

    pub(crate) fn encode_metrics(&self, text: &mut String) {
        metrics::encode(&self.engine.status(), text);
        metrics::encode_topics(&*self.engine, &self.engine.bytes_by_topic(), text);
        if let Ok(free_bytes) = self.engine.free_bytes() {
            metrics::gauge(text, "tracklog_disk_free_bytes", "Room left on the disk.", free_bytes);
        }
        self.scrub.encode_metrics(text);
    }

    /// What was taken becomes durable, what comes is refused. Blocks until it is done.
    pub(crate) fn close(&self) {
        self.scrub.stop();
        self.engine.close();
    }
}

/// The engine's options.
pub(crate) fn options(settings: &JournalSettings) -> Options {
    let usual = Options::default();
    Options {
        slot_bytes: settings.slot_bytes,
        backend: match settings.backend {
            BackendName::Auto => BackendChoice::Auto,
            BackendName::Uring => BackendChoice::Uring,
            BackendName::Blocking => BackendChoice::Blocking,
        },
        budget_bytes: settings.budget_bytes.unwrap_or(usual.budget_bytes),
        ring_bytes: settings.ring_bytes.unwrap_or(usual.ring_bytes),
        hot_bytes: match settings.settle {
            SettleSetting::On => settings.hot_bytes.or(usual.hot_bytes),
            SettleSetting::Off => None,
        },
        pack_level: settings.pack_level.map_or(usual.pack_level, |level| {
            i32::try_from(level).expect("a level is checked when it is read")
        }),
        journal_bytes_max: settings.bytes_max,
        when_full: settings.when_full.into(),
        dedupe: settings.dedupe_window.map(deduplicated).into_iter().collect(),
        ids_bytes: settings.ids_bytes_max.unwrap_or(usual.ids_bytes),
        accept_loss: settings.accept_loss,
        commit_deadline: settings.commit_deadline.unwrap_or(usual.commit_deadline),
        ..usual
    }
}

/// Where events are stored once: in the topic that takes them from outside. Topics that are
/// derived from it keep whatever a stage makes, for else a second making would come to nothing.
fn deduplicated(window: Duration) -> Dedupe {
    Dedupe { topic: TopicName::new(topics::RAW).expect("our own names are good"), window }
}

/// Whether another process holds the folder or one of its files.
pub(crate) const fn is_locked(error: &OpenError) -> bool {
    matches!(error, OpenError::Locked { .. } | OpenError::Folder(OpenFolderError::Locked { .. }))
}
