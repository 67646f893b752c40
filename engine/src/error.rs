//! Why a log could not be opened, in words for the person at the console.

use std::io;
use std::path::PathBuf;

use crate::disk::OpenFolderError;
use crate::journal::commit::{CommitNumber, Run};

/// Why a log could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder cannot be used: missing, locked by another process, read-only.
    #[error(transparent)]
    Folder(#[from] OpenFolderError),
    /// Another process still writes to one of the slots.
    #[error("{file} is locked by another process")]
    Locked {
        /// Which slot.
        file: String,
    },
    /// There is no log in the folder.
    #[error("{} holds no log", path.display())]
    NotALog {
        /// The folder.
        path: PathBuf,
    },
    /// A file is of a version of the format that this program does not know.
    #[error("{file} needs a newer tracklog: its format is of another version")]
    NewerFormat {
        /// Which file.
        file: String,
    },
    /// Something vouches for commits that are not there: the disk lied about flushing, or old
    /// files were put back. Opening with loss accepted records it and goes on.
    #[error(
        "commits {first} to {last} of run {run} were acked and are not in the journal: a disk \
         that lied about flushing, or old files put back; to go on without them, open with \
         --accept-loss"
    )]
    LostCommits {
        /// Whose.
        run: Run,
        /// The first that is lost.
        first: CommitNumber,
        /// The last that is known to be.
        last: CommitNumber,
    },
    /// What is left does not say where the log stands.
    #[error("the log cannot be opened: {what}")]
    Damaged {
        /// What is missing.
        what: String,
    },
    /// A size that a log cannot have.
    #[error("a slot of {bytes} bytes: slots are a power of two from 16 MiB to 1 GiB")]
    SlotBytes {
        /// What was asked for.
        bytes: u64,
    },
    /// The disk did not do as told.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What it answered.
        source: io::Error,
    },
}

impl OpenError {
    /// For `map_err`: an I/O error while `doing` something.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing: doing.into(), source }
    }
}
