//! Where logs are written while they are measured, and a log opened for that.
//!
//! Promises: nothing is left behind; a log's journal stays at five slots where it is bounded; a folder in memory, and
//! a backend that the machine refuses, are said aloud.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tracklog_engine::{BackendChoice, Engine, OpenError, Options, WhenFull};
use tracklog_log::{Domain, Epoch, Log as _, Retention, TopicName, TopicSpec};
use tracklog_protocol::PartitionId;

/// Names the folder to measure in.
pub const FOLDER_VARIABLE: &str = "TRACKLOG_BENCH_DIR";
/// Slots of a journal that drops its oldest segment: one written, one next, two of ballast, one
/// full.
const SLOTS: u64 = 5;
/// What `statfs` calls a file system in memory.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// The folder to measure in: what the variable names, else `otherwise`, which is made.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn folder(otherwise: &str) -> PathBuf {
    let path = env::var_os(FOLDER_VARIABLE).map_or_else(|| otherwise.into(), PathBuf::from);
    fs::create_dir_all(&path).expect("the folder to measure in can be made");
    if is_in_memory(&path) {
        eprintln!(
            "warning: {} is in memory: what is measured is no disk; name another folder with \
             {FOLDER_VARIABLE}",
            path.display()
        );
    }
    path
}

fn is_in_memory(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == TMPFS_MAGIC)
}

/// How a log to be measured is opened.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How commits reach the disk.
    pub backend: BackendChoice,
    /// Size of a slot.
    pub slot_bytes: u64,
    /// Whether the journal gives up its oldest segment beyond five slots.
    pub bounded: bool,
    /// How much of the log's end stays in memory.
    pub ring_bytes: usize,
    /// How many threads read the past; with none whoever asks reads it himself.
    pub replay_threads: usize,
    /// What is not settled of full segments; `None` where nothing is, as else the journal would refuse
    /// what the settler is too slow for.
    pub hot_bytes: Option<u64>,
}

impl Shape {
    /// As a server opens it, but for the bound of its size.
    #[must_use]
    pub const fn of_server(backend: BackendChoice) -> Self {
        Self {
            backend,
            slot_bytes: 256 << 20,
            bounded: true,
            ring_bytes: 64 << 20,
            replay_threads: 2,
            hot_bytes: None,
        }
    }

    /// What the journal holds at most, where it is bounded.
    #[must_use]
    pub const fn journal_bytes_max(&self) -> u64 {
        SLOTS * self.slot_bytes
    }
}

/// Opens the log at `path` and becomes its writer; `runtime` wakes who waits for it.
///
/// # Errors
/// As [`Engine::open`].
///
/// # Panics
/// Never: a log that was just opened can be written.
pub fn start(
    path: &Path,
    options: &Options,
    runtime: &Runtime,
) -> Result<(Arc<Engine>, Epoch), OpenError> {
    let engine = Arc::new(Engine::open(path, options)?);
    for _ in 0..runtime.metrics().num_workers() {
        runtime.spawn(engine.relay());
    }
    let epoch = runtime.block_on(engine.open(Domain::WHOLE)).expect("a new log is open");
    Ok((engine, epoch))
}

/// A log in a folder of its own, which goes with it.
#[derive(Debug)]
pub struct ScratchLog {
    /// The log.
    pub engine: Arc<Engine>,
    /// Its writer.
    pub epoch: Epoch,
    folder: TempDir,
}

impl ScratchLog {
    /// Makes a log in `folder`. `None`, and a line that says why, where the machine refuses the
    /// backend.
    ///
    /// # Panics
    /// When it cannot be made for another reason.
    #[must_use]
    pub fn open(folder: &Path, shape: &Shape, runtime: &Runtime) -> Option<Self> {
        let folder = TempDir::with_prefix_in("log-", folder).expect("a folder can be made");
        Self::open_in(folder, shape, runtime)
    }

    /// Stops it and opens it again in another shape. Nobody else may hold it.
    ///
    /// # Panics
    /// When it cannot be opened.
    #[must_use]
    pub fn reopen(self, shape: &Shape, runtime: &Runtime) -> Self {
        let Self { engine, folder, .. } = self;
        engine.close();
        drop(engine);
        Self::open_in(folder, shape, runtime).expect("the backend worked before")
    }

    fn open_in(folder: TempDir, shape: &Shape, runtime: &Runtime) -> Option<Self> {
        let options = Options {
            slot_bytes: Some(shape.slot_bytes),
            backend: shape.backend,
            ring_bytes: shape.ring_bytes,
            replay_threads: shape.replay_threads,
            hot_bytes: shape.hot_bytes,
            journal_bytes_max: shape.bounded.then(|| shape.journal_bytes_max()),
            when_full: if shape.bounded { WhenFull::DropOldest } else { WhenFull::Refuse },
            ..Options::default()
        };
        let (engine, epoch) = match start(folder.path(), &options, runtime) {
            Ok(started) => started,
            Err(OpenError::Folder(tracklog_engine::disk::OpenFolderError::NoUring { source })) => {
                eprintln!("skipped: this machine refuses io_uring: {source}");
                return None;
            }
            Err(error) => panic!("cannot open a log to measure: {error}"),
        };
        Some(Self { engine, epoch, folder })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A topic's partitions. Makes the topic where it is not there yet.
    ///
    /// # Panics
    /// When the name is none, or that of a topic with other partitions.
    #[must_use]
    pub fn topic(&self, name: &str, partitions: u32, runtime: &Runtime) -> Arc<[PartitionId]> {
        let name = TopicName::new(name).expect("a topic's name");
        let spec = TopicSpec { name, partitions, retention: Retention::Keep };
        let topic =
            runtime.block_on(self.engine.create_topic(spec)).expect("a topic of this shape");
        topic.partitions().collect()
    }
}
