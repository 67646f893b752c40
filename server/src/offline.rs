//! A data folder that no node holds: read without changing anything, or changed for a moment.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use tracklog_engine::OfflineLog;
use tracklog_log::Log;

use crate::blocking;
use crate::config::JournalSettings;
use crate::disk_log::{DiskLog, OpenError, is_locked};
use crate::folder::DataFolder;

/// Why a folder cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// A node holds it: ask that one.
    #[error("a node holds the folder")]
    Held,
    /// The log cannot be opened.
    #[error(transparent)]
    Open(OpenError),
}

impl From<OpenError> for OfflineError {
    fn from(error: OpenError) -> Self {
        if is_locked(&error) { Self::Held } else { Self::Open(error) }
    }
}

/// Whether a process holds the folder's lock. Looks at the lock by taking it, shared, for a
/// moment; makes nothing.
///
/// # Errors
/// When the lock cannot be looked at.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let lock = match File::open(path.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        lock => lock?,
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Opens the log in the folder read-only: recovery runs in memory, nothing is written. What
/// recovery found is told by the log's own warnings; `told` gets each as a line.
///
/// # Errors
/// [`OfflineError`]; a held folder is one.
pub fn open(path: &Path, told: &mut dyn FnMut(String)) -> Result<Arc<dyn Log>, OfflineError> {
    if is_held(path).unwrap_or(false) {
        return Err(OfflineError::Held);
    }
    DataFolder::at(path).refuse_half_restored()?;
    let log = OfflineLog::open(path)?;
    log.notes().iter().for_each(|note| told(note.to_string()));
    Ok(Arc::new(log))
}

/// A log that is open to write, for a change by its operator while no node runs.
pub struct Changing(DiskLog);

/// What a log has made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Commits, marks and the like included.
    pub commits: u64,
    /// Their bytes, headers and padding included.
    pub bytes: u64,
}

/// Opens the log in the folder to change something.
///
/// # Errors
/// [`OfflineError`]; a folder without a log is one, and stays without.
pub async fn open_for_change(path: &Path) -> Result<Changing, OfflineError> {
    if !DataFolder::at(path).holds_log() {
        return Err(OfflineError::Open(OpenError::NotALog { path: path.to_owned() }));
    }
    Ok(Changing(DiskLog::open(path, &JournalSettings::default()).await?))
}

/// Makes a log in a folder, or opens the one that is there, without a node: for measurements.
///
/// # Errors
/// [`OfflineError`], as when a node starts.
pub async fn make(path: &Path, settings: &JournalSettings) -> Result<Changing, OfflineError> {
    Ok(Changing(DiskLog::open(path, settings).await?))
}

impl Changing {
    /// The log.
    #[must_use]
    pub fn log(&self) -> Arc<dyn Log> {
        self.0.log()
    }

    /// What it has written since it was opened.
    #[must_use]
    pub fn written(&self) -> Written {
        self.0.written()
    }

    /// Makes what was changed durable and lets the folder go.
    pub async fn close(self) {
        blocking::run(move || self.0.close()).await;
    }
}

impl std::fmt::Debug for Changing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changing").field("path", &self.0.path()).finish_non_exhaustive()
    }
}
