//! Every byte of an archive, checked: what its manifests say against what lies there.
//!
//! - The chain: dense numbers, digests, ends that follow from ranges, each offset somewhere.
//! - Each file: its size, its digest, and its rows, decoded: sorted, in their ranges, as many as
//!   said, at the times said.
//! - Objects that no manifest names are counted: a crash leaves such until the next start.

use std::collections::{BTreeMap, HashSet};

use super::chain::{Chain, ChainError};
use super::file::{FileError, OpenFile};
use super::manifest::{FileEntry, TopicEnds};
use super::store::{Object, Store, StoreError};

/// What a topic has in an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicSummary {
    /// Its partitions and where each goes on.
    pub ends: Option<TopicEnds>,
    /// Steps that added to it.
    pub manifests: u64,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the events take in the log.
    pub event_bytes: u64,
    /// Its events.
    pub rows: u64,
    /// Offsets that the log had lost.
    pub missing: u64,
    /// The least and the greatest event time, where there are events.
    pub event_times: Option<(i64, i64)>,
    /// The same of append times.
    pub append_times: Option<(i64, i64)>,
}

/// What an archive has, by its manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// By topic.
    pub topics: BTreeMap<String, TopicSummary>,
    /// How many manifests there are.
    pub manifests: u64,
    /// When the last was written.
    pub written_at: Option<String>,
}

impl Summary {
    /// Of a whole chain.
    #[must_use]
    pub fn of(chain: &Chain) -> Self {
        let mut summary = Self { manifests: chain.manifests.len() as u64, ..Self::default() };
        for (name, ends) in chain.topics().into_iter().flatten() {
            summary.topics.entry(name.clone()).or_default().ends = Some(ends.clone());
        }
        for sealed in &chain.manifests {
            let manifest = &sealed.manifest;
            let topic = summary.topics.entry(manifest.topic.clone()).or_default();
            topic.manifests += 1;
            let missing = manifest.missing.iter().map(|it| it.range.to - it.range.from);
            topic.missing += missing.sum::<u64>();
            manifest.files.iter().for_each(|file| topic.add(file));
            summary.written_at = Some(manifest.written_at.clone());
        }
        summary
    }
}

impl TopicSummary {
    fn add(&mut self, file: &FileEntry) {
        self.files += 1;
        self.bytes += file.bytes;
        self.event_bytes += file.event_bytes;
        self.rows += file.rows;
        let widen = |times: Option<(i64, i64)>, least: i64, greatest: i64| {
            let (min, max) = times.unwrap_or((least, greatest));
            Some((min.min(least), max.max(greatest)))
        };
        self.event_times = widen(self.event_times, file.min_event_time, file.max_event_time);
        self.append_times = widen(self.append_times, file.min_append_time, file.max_append_time);
    }
}

/// Something that is wrong with an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it lies.
    pub path: String,
    /// What is wrong.
    pub what: String,
}

/// What a verification tells as it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Told {
    /// Bytes checked, of all.
    Progress {
        /// So far.
        bytes_done: u64,
        /// In the end.
        bytes_total: u64,
    },
    /// A file is damaged.
    Problem(Problem),
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What the manifests say.
    pub summary: Summary,
    /// How many files are damaged.
    pub damaged: u64,
    /// Objects that no manifest names.
    pub orphans: Vec<Object>,
}

/// Checks the archive in `store`.
///
/// # Errors
/// [`ChainError`] when the chain is not whole, or the store fails.
pub async fn verify(
    store: &Store,
    told: &mut (dyn FnMut(Told) + Send),
) -> Result<Verdict, ChainError> {
    let chain = Chain::load(store).await?;
    let bytes_total = chain.files().map(|file| file.bytes).sum();
    let (mut bytes_done, mut damaged) = (0, 0);
    let mut named = HashSet::new();
    for file in chain.files() {
        let twice = !named.insert(&*file.path);
        let what = if twice { Some("two manifests name it".to_owned()) } else { None };
        if let Some(what) = what.or(check_file(store, file).await?) {
            damaged += 1;
            told(Told::Problem(Problem { path: file.path.clone(), what }));
        }
        bytes_done += file.bytes;
        told(Told::Progress { bytes_done, bytes_total });
    }
    let mut orphans = store.files().await?;
    orphans.retain(|object| !named.contains(&*object.path));
    Ok(Verdict { summary: Summary::of(&chain), damaged, orphans })
}

/// What is wrong with a file, if anything.
async fn check_file(store: &Store, file: &FileEntry) -> Result<Option<String>, StoreError> {
    let bytes = match store.get(&file.path).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(Some("it is gone".to_owned())),
        Err(error) => return Err(error),
    };
    if bytes.len() as u64 != file.bytes {
        let is = bytes.len();
        return Ok(Some(format!("it has {is} bytes, and its manifest says {}", file.bytes)));
    }
    let open = match OpenFile::open(bytes, &file.sha256) {
        Ok(open) => open,
        Err(error) => return Ok(Some(error.to_string())),
    };
    Ok(check_rows(&open, file).unwrap_or_else(|error| Some(error.to_string())))
}

fn check_rows(open: &OpenFile, file: &FileEntry) -> Result<Option<String>, FileError> {
    if open.partitions() != file.partitions || open.rows() as u64 != file.rows {
        return Ok(Some("its rows are not those that its manifest says".to_owned()));
    }
    let mut times = [(i64::MAX, i64::MIN); 2];
    open.read(0..open.rows(), |place, record| {
        let event_time = record.event_time().expect("rows are events");
        for ((least, greatest), time) in times.iter_mut().zip([event_time, place.appended_at]) {
            *least = time.0.min(*least);
            *greatest = time.0.max(*greatest);
        }
    })?;
    let said =
        [(file.min_event_time, file.max_event_time), (file.min_append_time, file.max_append_time)];
    Ok((times != said).then(|| "its times are not those that its manifest says".to_owned()))
}
