//! Erasing events from an archive: the only way in which something of it goes.
//!
//! 1. Each file that holds some of them is written anew without them, and read back.
//! 2. A manifest says what stands in the place of what: from then on the archive is without them.
//! 3. What no manifest names any more, or ever did, is removed, and what writes left in a folder that
//!    were killed midway.
//!
//! Promises
//! - All other events stay, with all their columns; the offsets of those that went are counted as
//!   missing, as `erased`.
//! - Whatever ends in between, who erases again finishes it. Nobody else may write to the archive
//!   meanwhile: what another writer is about to name would be removed.
//! - Memory is bounded by one file and what is written of it.
//!
//! A bucket that keeps older versions of its objects keeps them here too.

use std::collections::{BTreeMap, HashSet};
use std::io;

use bytes::Bytes;
use tracklog_protocol::event::EventView;
use tracklog_protocol::line::format_time;
use tracklog_protocol::{Offset, TimeMicros};

use super::chain::{self, Chain, ChainError};
use super::columns::RowPlace;
use super::file::{FileError, OpenFile};
use super::layout;
use super::manifest::{FILES_REPLACED_MAX, FileEntry, OffsetRange, Replaced, Sealed, sha256};
use super::store::{Created, Store, StoreError};

/// The number of an archive's first manifest.
const FIRST_MANIFEST: u64 = 0;

/// What was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Events, by topic.
    pub events: BTreeMap<String, u64>,
    /// Files that held some of them.
    pub files: u64,
    /// Objects that were removed: those files, what no manifest named, and halves of them.
    pub removed: u64,
}

/// Why it could not be finished. Again is safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EraseError {
    /// The archive cannot be read or written.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A file cannot be read: whether it holds some nobody can tell.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What is wrong with it.
        error: FileError,
    },
    /// A file is not there as it was written.
    #[error("{path} holds other bytes than were written: remove it")]
    Other {
        /// Which.
        path: String,
    },
    /// There is no manifest, and a file that cannot be the first of an archive: nobody can tell what
    /// else it holds.
    #[error("{path} is there, and no manifest: bring those back, or remove the archive")]
    NoManifests {
        /// Which.
        path: String,
    },
    /// What killed writes left in a folder stays.
    #[error("what killed writes left in {url} cannot be removed: {source}")]
    Unfinished {
        /// Where.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody else writes to the archive.
    #[error("another writer is at this archive: stop it")]
    AnotherWriter,
}

impl From<StoreError> for EraseError {
    fn from(error: StoreError) -> Self {
        Self::Chain(error.into())
    }
}

/// Counts the events that [`erase`] would erase, by topic, and changes nothing.
///
/// # Errors
/// [`EraseError`]; an archive that has not begun holds none.
pub async fn count(
    store: &Store,
    is_doomed: &(dyn Fn(&EventView<'_>) -> bool + Sync),
) -> Result<BTreeMap<String, u64>, EraseError> {
    let mut counts = BTreeMap::new();
    let Some(chain) = load(store).await? else { return Ok(counts) };
    for (topic, file) in files_of(&chain) {
        let doomed = doomed_in(&open(store, file).await?, &file.path, is_doomed)?;
        if !doomed.is_empty() {
            *counts.entry(topic.clone()).or_default() += doomed.len() as u64;
        }
    }
    Ok(counts)
}

/// Erases all events that are doomed.
///
/// # Errors
/// [`EraseError`]; what was done by then stays done.
pub async fn erase(
    store: &Store,
    is_doomed: &(dyn Fn(&EventView<'_>) -> bool + Sync),
    now: TimeMicros,
) -> Result<Erased, EraseError> {
    let mut erased = Erased::default();
    let chain = load(store).await?.unwrap_or_default();
    let mut by_topic: BTreeMap<&String, Vec<&FileEntry>> = BTreeMap::new();
    for (topic, file) in files_of(&chain) {
        by_topic.entry(topic).or_default().push(file);
    }
    for (topic, files) in by_topic {
        let mut replaced = Replacing::of(store, topic, now).await?;
        for file in files {
            let Some(events) = replaced.replace(file, is_doomed).await? else { continue };
            *erased.events.entry(topic.clone()).or_default() += events;
            erased.files += 1;
        }
        replaced.publish().await?;
    }
    erased.removed = remove_unnamed(store).await?;
    let failed = |source| EraseError::Unfinished { url: store.url().to_owned(), source };
    erased.removed += store.remove_unfinished().map_err(failed)?;
    Ok(erased)
}

async fn load(store: &Store) -> Result<Option<Chain>, ChainError> {
    match Chain::load(store).await {
        Ok(chain) => Ok(Some(chain)),
        Err(ChainError::Empty { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn files_of(chain: &Chain) -> impl Iterator<Item = (&String, &FileEntry)> {
    let manifests = chain.manifests.iter().map(|sealed| &sealed.manifest);
    manifests.flat_map(|manifest| manifest.files.iter().map(|file| (&manifest.topic, file)))
}

async fn open(store: &Store, file: &FileEntry) -> Result<OpenFile, EraseError> {
    let bytes = store.get(&file.path).await?;
    let failed = |error| EraseError::File { path: file.path.clone(), error };
    OpenFile::open(bytes, &file.sha256).map_err(failed)
}

fn doomed_in(
    open: &OpenFile,
    path: &str,
    is_doomed: &(dyn Fn(&EventView<'_>) -> bool + Sync),
) -> Result<Vec<RowPlace>, EraseError> {
    let mut doomed = Vec::new();
    let read = open.read(0..open.rows(), |place, record| {
        if EventView::of(record).is_some_and(|event| is_doomed(&event)) {
            doomed.push(place);
        }
    });
    read.map_err(|error| EraseError::File { path: path.to_owned(), error })?;
    Ok(doomed)
}

/// Files of a topic that others take the place of, and the manifest that is to say so.
struct Replacing<'a> {
    store: &'a Store,
    topic: &'a str,
    now: TimeMicros,
    /// The manifest before it.
    tip: Sealed,
    replaced: Vec<Replaced>,
}

impl<'a> Replacing<'a> {
    async fn of(store: &'a Store, topic: &'a str, now: TimeMicros) -> Result<Self, EraseError> {
        let tip = chain::tip(store).await?.ok_or(EraseError::AnotherWriter)?;
        Ok(Self { store, topic, now, tip, replaced: Vec::new() })
    }

    /// Writes a file anew without what is doomed, where it holds some; says how many events went.
    async fn replace(
        &mut self,
        file: &FileEntry,
        is_doomed: &(dyn Fn(&EventView<'_>) -> bool + Sync),
    ) -> Result<Option<u64>, EraseError> {
        let old = open(self.store, file).await?;
        let doomed = doomed_in(&old, &file.path, is_doomed)?;
        if doomed.is_empty() {
            return Ok(None);
        }
        let failed = |error| EraseError::File { path: file.path.clone(), error };
        let with = match old.filtered(|event| !is_doomed(event)).map_err(failed)? {
            Some((bytes, _)) => Some(self.write(&file.path, bytes).await?),
            None => None,
        };
        let erased = ranges(&doomed);
        self.replaced.push(Replaced { path: file.path.clone(), with, erased });
        if self.replaced.len() == FILES_REPLACED_MAX {
            self.publish().await?;
        }
        Ok(Some(doomed.len() as u64))
    }

    /// Writes what takes the place of the file at `path`, and reads it back.
    async fn write(&self, path: &str, bytes: Bytes) -> Result<FileEntry, EraseError> {
        let digest = sha256(&bytes);
        let failed = |error| EraseError::File { path: path.to_owned(), error };
        let new = OpenFile::open(bytes.clone(), &digest).map_err(failed)?;
        let manifest = self.tip.manifest.number + 1;
        let entry = entry(path, &new, manifest, digest).map_err(failed)?;
        let is_there = self.store.create(&entry.path, bytes.clone()).await? == Created::Ours;
        if is_there && self.store.get(&entry.path).await? == bytes {
            return Ok(entry);
        }
        Err(EraseError::Other { path: entry.path })
    }

    /// From then on the archive is without what was doomed in these files.
    async fn publish(&mut self) -> Result<(), EraseError> {
        if self.replaced.is_empty() {
            return Ok(());
        }
        let replaced = std::mem::take(&mut self.replaced);
        let manifest = chain::replacement(&self.tip, self.topic, replaced, format_time(self.now));
        let published = chain::append(self.store, &manifest).await?;
        self.tip = published.ok_or(EraseError::AnotherWriter)?;
        Ok(())
    }
}

/// What a manifest says of a file that stands in the place of the one at `path`.
fn entry(
    path: &str,
    file: &OpenFile,
    manifest: u64,
    sha256: String,
) -> Result<FileEntry, FileError> {
    let mut ends: Option<(RowPlace, RowPlace)> = None;
    let (mut event_bytes, mut times) = (0, [(i64::MAX, i64::MIN); 2]);
    file.read(0..file.rows(), |place, record| {
        ends = Some((ends.map_or(place, |(first, _)| first), place));
        event_bytes += record.bytes().len() as u64;
        let event_time = record.event_time().expect("rows are events");
        for ((least, greatest), time) in times.iter_mut().zip([event_time, place.appended_at]) {
            *least = time.0.min(*least);
            *greatest = time.0.max(*greatest);
        }
    })?;
    let path = layout::beside(path, ends.expect("a file has a row"), manifest, &sha256);
    let [(min_event_time, max_event_time), (min_append_time, max_append_time)] = times;
    Ok(FileEntry {
        path,
        sha256,
        bytes: file.bytes().len() as u64,
        rows: file.rows() as u64,
        event_bytes,
        partitions: file.partitions(),
        min_event_time,
        max_event_time,
        min_append_time,
        max_append_time,
    })
}

/// Offsets side by side as ranges; rows come by partition, then offset.
fn ranges(places: &[RowPlace]) -> Vec<OffsetRange> {
    let mut ranges: Vec<OffsetRange> = Vec::new();
    for RowPlace { partition, offset: Offset(offset), .. } in places {
        match ranges.last_mut().filter(|it| it.partition == *partition && it.to == *offset) {
            Some(range) => range.to += 1,
            None => {
                ranges.push(OffsetRange { partition: *partition, from: *offset, to: *offset + 1 })
            }
        }
    }
    ranges
}

/// Removes the objects that no manifest names, and tells how many there were.
async fn remove_unnamed(store: &Store) -> Result<u64, EraseError> {
    let chain = load(store).await?;
    let has_begun = chain.is_some();
    let chain = chain.unwrap_or_default();
    let named: HashSet<&str> = chain.files().map(|file| &*file.path).collect();
    let mut unnamed = Vec::new();
    for object in store.files().await? {
        if named.contains(&*object.path) {
            continue;
        }
        // Without a manifest, only what the first one was to name is nobody's for sure.
        if !has_begun && layout::manifest_of(&object.path) != Some(FIRST_MANIFEST) {
            return Err(EraseError::NoManifests { path: object.path });
        }
        unnamed.push(object.path);
    }
    store.remove(&unnamed).await?;
    Ok(unnamed.len() as u64)
}
