//! Backups: a log and what a node needs beside it, in an object store, while the node runs; and
//! back into a folder.
//!
//! What always holds
//! 1. A backup is a log as a crash leaves it, up to its recovery point: a commit that it names. What
//!    was acked up to there is in it, nothing after it is, and nothing is torn. How a copy of files
//!    that are written meanwhile comes to be one is said in the engine, whose
//!    [`Snapshots`](tracklog_engine::Snapshots) say what belongs together.
//! 2. Packs and full segments, which never change, are shipped once and shared by all later backups; of
//!    the segment that is being written only what is new is shipped. `place` has the rules.
//! 3. A manifest is created last, under a number that nobody has: whoever reads sees a whole backup or
//!    the one before. Writers may be killed anywhere, and several may write at once.
//! 4. Every object's name holds its SHA-256, and the manifest holds its own: a restore uses nothing
//!    that is not what was shipped.
//! 5. A place has the backups of one log, each newer than the one before. A log that is behind the
//!    newest backup, or went another way, is refused: it wants another place.
//! 6. A restore never replaces a log that has something which the backup lacks, and what it makes is no
//!    log before all of it is there and was verified.
//!
//! `ship` makes backups, [`restore`] reads them; `manifest` is what they say, `place` where things
//! lie. FORMAT.md beside this file has both byte by byte.

use std::io;

use tracklog_engine::{OpenError, SnapshotError};
use tracklog_pipeline::archive::store::StoreError;

use crate::folder::FolderError;

mod manifest;
mod place;
mod restore;
mod restored;
mod ship;

pub use manifest::{ManifestError, RecoveryPoint};
pub use restore::{Listed, Restore, RestoreReport, Told, list, restore};
pub(crate) use restored::RestoredFrom;
pub use ship::{Backup, BackupReport, Options, RateError, rate};

/// Why there is no backup, or why it was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A manifest is not what it should be.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file of the folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The log in the folder cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file of the restored folder cannot be written or moved.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// An object is not what was shipped.
    #[error("object {object} is damaged or gone")]
    Rotten {
        /// Its name.
        object: String,
    },
    /// There is no backup, or not this one.
    #[error("{url} holds no backup{}", number.map_or_else(String::new, |it| format!(" {it}")))]
    NoBackup {
        /// Where it should be.
        url: String,
        /// The one that was asked for.
        number: Option<u64>,
    },
    /// It is the place of another log's backups, or the folder of another log.
    #[error("{at} holds another log: {why}")]
    AnotherLog {
        /// Where.
        at: String,
        /// What does not fit.
        why: String,
    },
    /// It would be a step back.
    #[error("{at} holds a newer log: {why}")]
    Newer {
        /// Where.
        at: String,
        /// What would be lost.
        why: String,
    },
    /// The folder cannot be restored into as it is, or no backup belongs there.
    #[error("{at}: {why}")]
    Refused {
        /// The folder.
        at: String,
        /// Why not.
        why: String,
    },
}

impl BackupError {
    /// Whether trying again may help.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Store(StoreError::Failed(_)))
    }
}

#[cfg(test)]
mod tests;
