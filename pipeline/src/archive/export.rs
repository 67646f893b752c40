//! Parts of an archive, taken out: which files have what is wanted, and what of each.
//!
//! A part is what is wanted of one file of the archive: so an export can be taken up where it
//! ended, and needs no more memory than a file.

use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::EventView;

use super::chain::Chain;
use super::file::{FileError, OpenFile};
use super::layout;
use super::manifest::FileEntry;
use super::store::{Store, StoreError};

/// What is wanted. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Happened at or after this time.
    pub from: Option<TimeMicros>,
    /// Happened before this time.
    pub to: Option<TimeMicros>,
    /// Of this name, letter by letter.
    pub name: Option<String>,
    /// Sent by this source.
    pub source: Option<String>,
}

/// What is wanted of one file.
#[derive(Clone, Debug)]
pub struct Part {
    /// A name that no other part has, and that this one has at each try.
    pub name: String,
    /// The file.
    pub file: FileEntry,
}

/// A part cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is damaged.
    #[error("{path}: {error}")]
    File {
        /// Where it lies.
        path: String,
        /// What is wrong with it.
        error: FileError,
    },
}

impl Wanted {
    /// Whether `event` is.
    #[must_use]
    pub fn has(&self, event: &EventView<'_>) -> bool {
        let time = event.event_time();
        let same = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        self.from.is_none_or(|from| time >= from)
            && self.to.is_none_or(|to| time < to)
            && same(&self.name, event.name())
            && same(&self.source, event.source())
    }

    /// Whether a file may have some.
    fn may_be_in(&self, file: &FileEntry) -> bool {
        let folder = layout::event_of(&file.path);
        self.from.is_none_or(|from| file.max_event_time >= from.0)
            && self.to.is_none_or(|to| file.min_event_time < to.0)
            && self.name.as_deref().is_none_or(|name| folder.is_none_or(|folder| folder == name))
    }

    /// Whether all rows of a file are.
    fn has_all_of(&self, file: &FileEntry) -> bool {
        self.source.is_none()
            && self.from.is_none_or(|from| file.min_event_time >= from.0)
            && self.to.is_none_or(|to| file.max_event_time < to.0)
            && (self.name.is_none() || layout::event_of(&file.path) == self.name)
    }

    /// The parts of `topic` in which there may be some, in the order in which they were archived.
    #[must_use]
    pub fn parts(&self, chain: &Chain, topic: &str) -> Vec<Part> {
        let files = chain.steps(topic).flat_map(|manifest| {
            let numbered = (0_usize..).zip(&manifest.files);
            numbered.map(|(index, file)| (manifest.number, index, file))
        });
        let parts = files.filter(|(_, _, file)| self.may_be_in(file));
        let part = |(number, index, file): (u64, usize, &FileEntry)| Part {
            name: format!("{topic}-{number:08}-{index:04}"),
            file: file.clone(),
        };
        parts.map(part).collect()
    }
}

impl Part {
    /// Fetches its file, and checks it.
    ///
    /// # Errors
    /// [`PartError`].
    pub async fn open(&self, store: &Store) -> Result<OpenFile, PartError> {
        let bytes = store.get(&self.file.path).await?;
        OpenFile::open(bytes, &self.file.sha256).map_err(|error| self.failed(error))
    }

    /// What is wanted of its file, as a file of the same columns; `None` when there is nothing.
    ///
    /// # Errors
    /// [`PartError::File`].
    pub fn parquet(
        &self,
        open: &OpenFile,
        wanted: &Wanted,
    ) -> Result<Option<(bytes::Bytes, u64)>, PartError> {
        if wanted.has_all_of(&self.file) {
            return Ok(Some((open.bytes(), self.file.rows)));
        }
        open.filtered(|event| wanted.has(event)).map_err(|error| self.failed(error))
    }

    /// The error of this part's file.
    #[must_use]
    pub fn failed(&self, error: FileError) -> PartError {
        PartError::File { path: self.file.path.clone(), error }
    }
}
