//! The chain of manifests in a store: its tip for who goes on, all of it for who reads.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tracklog_protocol::Offset;

use super::layout;
use super::manifest::{
    FORMAT, FORMAT_REPLACING, FileEntry, Manifest, ManifestError, Missing, OffsetRange, Replaced,
    Sealed, Span, TopicEnds,
};
use super::store::{Created, Store, StoreError};

/// Manifests that are read at once.
const READ_AT_ONCE: usize = 16;

/// The chain cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A manifest is not what it should be.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A manifest is gone that others follow.
    #[error("manifest {number} is missing, and {last} is there")]
    Hole {
        /// The number of the first that is not there.
        number: u64,
        /// The last that is.
        last: u64,
    },
    /// There is no archive.
    #[error("{url} holds no archive: one begins some minutes after the first event")]
    Empty {
        /// Where it should be.
        url: String,
    },
}

/// The last manifest; `None` for an archive that has not begun.
///
/// # Errors
/// [`ChainError`], but not `Empty`.
pub async fn tip(store: &Store) -> Result<Option<Sealed>, ChainError> {
    match store.manifests(0).await?.last() {
        None => Ok(None),
        Some(last) => Ok(Some(read(store, *last).await?)),
    }
}

/// The step that brought `offset` of a partition of `topic` into the archive; `None` where none has
/// yet. Reads few manifests of many: each says how far all partitions are.
///
/// # Errors
/// [`ChainError`], but not `Empty`.
pub async fn step_of(
    store: &Store,
    topic: &str,
    partition: u32,
    offset: Offset,
) -> Result<Option<Manifest>, ChainError> {
    let numbers = store.manifests(0).await?;
    let (mut below, mut end) = (0, numbers.len());
    let mut found = None;
    while below < end {
        let middle = below + (end - below) / 2;
        let Manifest { topics, .. } = &read(store, numbers[middle]).await?.manifest;
        let span = topics.get(topic).and_then(|ends| ends.partitions.get(partition as usize));
        if span.is_some_and(|span| offset.0 < span.end) {
            end = middle;
            found = Some(middle);
        } else {
            below = middle + 1;
        }
    }
    let Some(found) = found else { return Ok(None) };
    let replaced = tip(store).await?.and_then(|tip| tip.manifest.last_replacement);
    if replaced.is_none_or(|last| last < numbers[found]) {
        return Ok(Some(read(store, numbers[found]).await?.manifest));
    }
    // What was replaced since is told by manifests anywhere behind it.
    let mut chain = Chain::load(store).await?;
    Ok(Some(chain.manifests.swap_remove(found).manifest))
}

/// The manifest with this number.
///
/// # Errors
/// [`ChainError`], but not `Empty`.
pub(super) async fn read(store: &Store, number: u64) -> Result<Sealed, ChainError> {
    let bytes = store.get(&layout::manifest(number)).await?;
    Ok(Manifest::decode(number, &bytes)?)
}

/// All manifests, checked against each other; what later ones replace is replaced in the steps that
/// added it.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// By number.
    pub manifests: Vec<Sealed>,
}

impl Chain {
    /// Reads the chain, and checks it.
    ///
    /// # Errors
    /// [`ChainError`] for the first thing that does not fit.
    pub async fn load(store: &Store) -> Result<Self, ChainError> {
        let numbers = store.manifests(0).await?;
        let Some(last) = numbers.last().copied() else {
            return Err(ChainError::Empty { url: store.url().to_owned() });
        };
        let holes = (0_u64..).zip(&numbers).find(|(number, is)| number != *is);
        if let Some((number, _)) = holes {
            return Err(ChainError::Hole { number, last });
        }
        let reads = futures_util::stream::iter(numbers).map(|number| read(store, number));
        let manifests: Vec<_> = reads.buffered(READ_AT_ONCE).try_collect().await?;
        let mut before = None;
        for sealed in &manifests {
            sealed.check_follows(before)?;
            before = Some(sealed);
        }
        let mut chain = Self { manifests };
        chain.replace()?;
        Ok(chain)
    }

    fn replace(&mut self) -> Result<(), ManifestError> {
        let mut steps: HashMap<String, usize> = HashMap::new();
        for index in 0..self.manifests.len() {
            let Manifest { number, files, replaces, .. } = &self.manifests[index].manifest;
            let (number, replaces) = (*number, replaces.clone());
            steps.extend(files.iter().map(|file| (file.path.clone(), index)));
            let broken = |why: String| ManifestError::Chain { number, why };
            for replaced in replaces {
                let Some(at) = steps.remove(&replaced.path) else {
                    return Err(broken(format!("{} is not there to be replaced", replaced.path)));
                };
                replaced.apply(&mut self.manifests[at].manifest).map_err(broken)?;
                steps.extend(replaced.with.map(|with| (with.path, at)));
            }
        }
        Ok(())
    }

    /// The topics that the archive has, and what it covers of each.
    #[must_use]
    pub fn topics(&self) -> Option<&BTreeMap<String, TopicEnds>> {
        self.manifests.last().map(|last| &last.manifest.topics)
    }

    /// The steps of a topic, in order.
    pub fn steps<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Manifest> {
        self.manifests.iter().map(|it| &it.manifest).filter(move |it| it.topic == topic)
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.manifests.iter().flat_map(|sealed| &sealed.manifest.files)
    }
}

/// The number of the manifest that follows `tip`.
#[must_use]
pub fn next_number(tip: Option<&Sealed>) -> u64 {
    tip.map_or(0, |tip| tip.manifest.number + 1)
}

/// What a step adds to a topic.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// The topic.
    pub topic: &'a str,
    /// When the log made it.
    pub created: i64,
    /// By partition, where it goes on before this step.
    pub spans: Vec<Span>,
    /// What was read of it.
    pub ranges: Vec<OffsetRange>,
    /// What of that was not there.
    pub missing: Vec<Missing>,
    /// The files that have the rest.
    pub files: Vec<FileEntry>,
}

impl Step<'_> {
    /// The manifest that makes this step, after `tip`.
    #[must_use]
    pub fn manifest(self, tip: Option<&Sealed>, written_at: String) -> Manifest {
        let mut topics = tip.map(|tip| tip.manifest.topics.clone()).unwrap_or_default();
        let mut partitions = self.spans;
        for range in &self.ranges {
            partitions[range.partition as usize].end = range.to;
        }
        topics.insert(self.topic.to_owned(), TopicEnds { created: self.created, partitions });
        Manifest {
            format: FORMAT,
            number: next_number(tip),
            predecessor: tip.map(|tip| tip.digest.clone()),
            written_at,
            topic: self.topic.to_owned(),
            ranges: self.ranges,
            missing: self.missing,
            files: self.files,
            replaces: Vec::new(),
            last_replacement: tip.and_then(|tip| tip.manifest.last_replacement),
            topics,
        }
    }
}

/// The manifest after `tip` that lets other files take the place of some.
#[must_use]
pub(super) fn replacement(
    tip: &Sealed,
    topic: &str,
    replaces: Vec<Replaced>,
    written_at: String,
) -> Manifest {
    let number = tip.manifest.number + 1;
    Manifest {
        format: FORMAT_REPLACING,
        number,
        predecessor: Some(tip.digest.clone()),
        written_at,
        topic: topic.to_owned(),
        ranges: Vec::new(),
        missing: Vec::new(),
        files: Vec::new(),
        replaces,
        last_replacement: Some(number),
        topics: tip.manifest.topics.clone(),
    }
}

/// Creates `manifest`: makes its files visible. `None` when another one took its number.
///
/// # Errors
/// [`ChainError::Store`]: it may or may not be there; calling again finds out.
pub async fn append(store: &Store, manifest: &Manifest) -> Result<Option<Sealed>, ChainError> {
    let bytes = Bytes::from(manifest.encode());
    let path = layout::manifest(manifest.number);
    match store.create(&path, bytes.clone()).await? {
        Created::Ours => Ok(Some(Manifest::decode(manifest.number, &bytes)?)),
        Created::Taken => Ok(None),
    }
}
