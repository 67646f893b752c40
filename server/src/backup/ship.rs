//! From a data folder into the place of its backups.
//!
//! A backup, step by step: take a snapshot; ship what of its files is not there yet, packs first
//! since they stay longest; create the manifest; remove what older ones alone named. Where the log
//! has moved on meanwhile, take another snapshot: what was shipped is not shipped again. Where
//! another writer was first, begin from its manifest.
//!
//! Reads the folder and changes nothing in it; holds one part of a file in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize as _, Serialize};
use tracklog_engine::disk::{FileName, PAGE_BYTES, PackId, PageBuffer};
use tracklog_engine::{
    LogEnd, OpenError, PackCopy, SegmentCopy, Snapshot, SnapshotError, Snapshots, TopicExtents,
};
use tracklog_pipeline::archive::manifest::sha256;
use tracklog_pipeline::archive::store::{Opening, Store};
use tracklog_pipeline::quantity;
use tracklog_protocol::line::format_time;

use super::BackupError;
use super::manifest::{
    CheckpointFile, Content, FORMAT, FileEntry, Manifest, Parts, PointEntry, RecoveryPoint,
    SETTINGS, cluster_hex, entries, hex,
};
use super::place::{Place, Published};
use crate::clock;
use crate::folder::DataFolder;
use crate::offline::is_held;

/// What a part of a file has.
const PART_BYTES: usize = 8 << 20;
/// A complete file of more parts is listed in an object of its own.
const LISTED_MAX: usize = 16;
/// The compression of what is not compressed already: the fastest.
const ZSTD_LEVEL: i32 = 1;
/// How long to wait before what failed is tried again, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How backups are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// So many backups stay, at least 1.
    pub keep: usize,
    /// So many bytes are read a second, at most.
    pub rate: u64,
    /// Whether settings and keys are backed up too.
    pub with_settings: bool,
    /// What a part of a file has: whole pages.
    pub part_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { keep: 10, rate: 64 << 20, with_settings: true, part_bytes: PART_BYTES }
    }
}

/// It is no size.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no size like '64 MiB'")]
pub struct RateError {
    text: String,
}

/// A number of bytes as people write it.
///
/// # Errors
/// [`RateError`] where it is none, or none at all.
pub fn rate(text: &str) -> Result<u64, RateError> {
    let from: serde::de::value::BorrowedStrDeserializer<'_, serde::de::value::Error> =
        serde::de::value::BorrowedStrDeserializer::new(text);
    let size = quantity::Bytes::deserialize(from).ok().filter(|size| size.0 > 0);
    size.map(|size| size.0).ok_or_else(|| RateError { text: text.to_owned() })
}

/// A backup that was made, or found to be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupReport {
    /// Its number.
    pub backup: u64,
    /// Whether it was made now; else nothing is new since.
    pub made: bool,
    /// How far it goes; none for an empty log.
    #[serde(flatten)]
    pub point: Option<RecoveryPoint>,
    /// Files that it names.
    pub files: usize,
    /// Their bytes, before compression.
    pub bytes: u64,
    /// What was shipped for it.
    pub shipped_bytes: u64,
    /// Commits that the log had lost, as it is known.
    pub missing_commits: u64,
    /// What could not be read: it is damaged in the backup too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
    /// Why what is of no use any more could not be removed; it will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_removed: Option<String>,
}

/// Makes backups of one folder in one place.
#[derive(Debug)]
pub struct Backup {
    place: Place,
    folder: DataFolder,
    source: Snapshots,
    options: Options,
    /// The newest manifest that is known.
    tip: Option<Manifest>,
    /// What was shipped for the manifest after it.
    shipped: BTreeMap<Content, FileEntry>,
    shipped_bytes: u64,
    /// Packs that were looked at.
    packs: BTreeMap<PackId, LookedAt>,
    unreadable: Vec<String>,
    is_swept: bool,
    pace: Pace,
}

/// What is known of a pack's file.
#[derive(Clone, Debug)]
struct LookedAt {
    pack: PackCopy,
    fingerprint: u64,
    bytes: u64,
    /// The runs of which it holds commits.
    runs: Vec<u64>,
}

/// A file that is being shipped.
struct Shipping {
    content: Content,
    bytes: u64,
    /// Whether nothing will be added to it.
    is_complete: bool,
}

/// The log of a folder.
fn source_of(folder: &DataFolder) -> Result<Snapshots, BackupError> {
    let source = Snapshots::of_folder(folder.path())?;
    folder.refuse_half_restored()?;
    if !folder.holds_log() {
        return Err(OpenError::NotALog { path: folder.path().to_owned() }.into());
    }
    Ok(source)
}

/// A backup in the folder itself would be lost with it, and hold what was erased from it.
fn refuse_inside(folder: &DataFolder, url: &str) -> Result<(), BackupError> {
    let Some(place) = Store::folder_of(url) else { return Ok(()) };
    let place = std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
    let there = place.ancestors().find_map(|it| it.canonicalize().ok());
    let data = folder.path().canonicalize().ok();
    match (there, data) {
        (Some(there), Some(data)) if there.starts_with(&data) => {
            let why = "it lies in the data folder, and would be lost with it".to_owned();
            Err(BackupError::Refused { at: url.to_owned(), why })
        }
        _ => Ok(()),
    }
}

impl Backup {
    /// Of the folder `folder`, in the store at `url`.
    ///
    /// # Errors
    /// [`BackupError`] where either cannot be opened.
    pub async fn open(
        folder: &DataFolder,
        url: &str,
        options: Options,
    ) -> Result<Self, BackupError> {
        let source = source_of(folder)?;
        refuse_inside(folder, url)?;
        Self::from(source, folder, Store::open(url, Opening::Write)?, options).await
    }

    /// The same in any store.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn of(
        folder: &DataFolder,
        store: Store,
        options: Options,
    ) -> Result<Self, BackupError> {
        Self::from(source_of(folder)?, folder, store, options).await
    }

    async fn from(
        source: Snapshots,
        folder: &DataFolder,
        store: Store,
        options: Options,
    ) -> Result<Self, BackupError> {
        assert!(options.part_bytes.is_multiple_of(PAGE_BYTES), "a part is whole pages long");
        let mut backup = Self {
            place: Place::new(store),
            folder: folder.clone(),
            source,
            options,
            tip: None,
            shipped: BTreeMap::new(),
            shipped_bytes: 0,
            packs: BTreeMap::new(),
            unreadable: Vec::new(),
            is_swept: false,
            pace: Pace::new(options.rate),
        };
        backup.read_tip().await?;
        Ok(backup)
    }

    /// Makes a backup, unless nothing is new since the last. What was shipped when it fails or is
    /// dropped is not shipped again by the next call.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn make(&mut self) -> Result<BackupReport, BackupError> {
        // What is shipped for a backup that comes to nothing is found by a sweep.
        let was_swept = std::mem::replace(&mut self.is_swept, false);
        let (manifest, made) = self.publish().await?;
        self.is_swept = was_swept;
        let mut report = self.report(&manifest, made);
        self.tip = Some(manifest);
        if made {
            self.shipped.clear();
            self.shipped_bytes = 0;
        }
        if made || !self.is_swept {
            // The backup is there: what could not be removed is removed another time.
            let cleaned = self.clean(report.backup).await;
            report.not_removed = cleaned.err().map(|error| error.to_string());
        }
        Ok(report)
    }

    /// Makes a backup now and every `interval`, until the future is dropped. `told` gets each, and
    /// what fails and is tried again.
    ///
    /// # Errors
    /// [`BackupError`] of a kind that no other try mends.
    pub async fn follow(
        &mut self,
        interval: Duration,
        told: &mut (dyn FnMut(Result<BackupReport, &BackupError>) + Send),
    ) -> Result<(), BackupError> {
        let mut pause = PAUSE_MIN;
        loop {
            let began = Instant::now();
            match self.make().await {
                Ok(report) => {
                    pause = PAUSE_MIN;
                    if report.made {
                        told(Ok(report));
                    }
                    tokio::time::sleep(interval.saturating_sub(began.elapsed())).await;
                }
                Err(error) if error.is_passing() => {
                    told(Err(&error));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_tip(&mut self) -> Result<(), BackupError> {
        let newest = self.place.numbers().await?.last().copied();
        self.tip = match newest {
            Some(newest) => Some(self.place.manifest(newest).await?),
            None => None,
        };
        // What was shipped for another number may be removed any time.
        self.shipped.clear();
        Ok(())
    }

    /// The newest manifest, and whether it was made now.
    async fn publish(&mut self) -> Result<(Manifest, bool), BackupError> {
        loop {
            let manifest = match self.manifest_of_now().await {
                Err(BackupError::Snapshot(SnapshotError::MovedOn)) => continue,
                manifest => manifest?,
            };
            if let Some(tip) = self.tip.take_if(|tip| tip.says_what(&manifest)) {
                return Ok((tip, false));
            }
            if self.place.publish(&manifest).await? == Published::Newest {
                return Ok((manifest, true));
            }
            self.read_tip().await?;
        }
    }

    /// What the log is now, all of it shipped.
    async fn manifest_of_now(&mut self) -> Result<Manifest, BackupError> {
        self.folder.refuse_half_restored()?;
        self.unreadable.clear();
        let is_free = matches!(is_held(self.folder.path()), Ok(false));
        let mut snapshot =
            self.source.take(if is_free { LogEnd::Whole } else { LogEnd::Vouched })?;
        if self.tip.as_ref().is_some_and(|tip| is_short_of(tip, &snapshot)) {
            // A node is about to open what was backed up while none had it.
            snapshot = self.source.take(LogEnd::Whole)?;
        }
        self.look_at_packs(&snapshot)?;
        if let Some(tip) = &self.tip {
            refuse_step_back(tip, &snapshot, &self.packs, self.place.url())?;
        }
        let files = self.ship(&snapshot).await?;
        Ok(self.manifest(&snapshot, files))
    }

    fn number(&self) -> u64 {
        self.tip.as_ref().map_or(1, |tip| tip.number + 1)
    }

    fn manifest(&self, snapshot: &Snapshot, files: Vec<FileEntry>) -> Manifest {
        Manifest {
            format: FORMAT,
            number: self.number(),
            written_at: format_time(clock::now()),
            cluster: cluster_hex(snapshot.cluster),
            slot_bytes: snapshot.slot_bytes,
            point: snapshot.point.as_ref().map(PointEntry::of),
            topics: entries(&snapshot.topics),
            missing_commits: snapshot.missing_commits,
            files,
        }
    }

    fn report(&self, manifest: &Manifest, made: bool) -> BackupReport {
        BackupReport {
            backup: manifest.number,
            made,
            point: manifest.point.as_ref().map(PointEntry::reached),
            files: manifest.files.len(),
            bytes: manifest.files.iter().map(|file| file.bytes).sum(),
            shipped_bytes: self.shipped_bytes,
            missing_commits: manifest.missing_commits,
            unreadable: self.unreadable.clone(),
            not_removed: None,
        }
    }

    /// Removes what is of no use any more; what a killed writer left, once.
    async fn clean(&mut self, newest: u64) -> Result<(), BackupError> {
        self.place.retire(newest, self.options.keep.max(1)).await?;
        if self.is_swept {
            return Ok(());
        }
        match self.place.sweep(newest).await {
            Ok(0) => {}
            Ok(count) => tracing::info!("removed {count} objects that no backup names"),
            Err(error) if error.is_passing() => return Err(error),
            // Nobody knows what a damaged manifest names: then nothing is removed.
            Err(error) => tracing::warn!(%error, "no unnamed objects are removed"),
        }
        self.is_swept = true;
        Ok(())
    }

    /// Ships what is not there yet; all files of the snapshot then.
    async fn ship(&mut self, snapshot: &Snapshot) -> Result<Vec<FileEntry>, BackupError> {
        let mut files = Vec::new();
        for pack in &snapshot.packs {
            files.extend(self.ship_pack(pack).await?);
        }
        for segment in &snapshot.segments {
            match self.ship_segment(segment).await {
                // It is missing in the log too.
                Err(BackupError::Snapshot(SnapshotError::Missing { what })) => {
                    self.unreadable.push(what);
                }
                shipped => files.push(shipped?),
            }
        }
        let (name, bytes) = &snapshot.checkpoint;
        let file = match name {
            FileName::CheckpointA => CheckpointFile::A,
            _ => CheckpointFile::B,
        };
        files.push(self.ship_small(Content::Checkpoint { file }, bytes).await?);
        if self.options.with_settings {
            for name in SETTINGS {
                if let Some(bytes) = self.folder.read_bytes(name)? {
                    let content = Content::Setting { name: name.to_owned() };
                    files.push(self.ship_small(content, &bytes).await?);
                }
            }
        }
        Ok(files)
    }

    /// Looks at the packs that were not looked at yet.
    fn look_at_packs(&mut self, snapshot: &Snapshot) -> Result<(), BackupError> {
        self.packs.retain(|_, known| snapshot.packs.contains(&known.pack));
        for pack in &snapshot.packs {
            if self.packs.contains_key(&pack.id) {
                continue;
            }
            let open = match self.source.open_pack(pack) {
                Ok(open) => open,
                Err(SnapshotError::Missing { what }) => {
                    self.unreadable.push(what);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let (fingerprint, bytes) = (open.fingerprint, open.bytes());
            let known = LookedAt { pack: *pack, fingerprint, bytes, runs: open.runs };
            self.packs.insert(pack.id, known);
        }
        Ok(())
    }

    async fn ship_pack(&mut self, pack: &PackCopy) -> Result<Option<FileEntry>, BackupError> {
        let Some(LookedAt { fingerprint, bytes, .. }) = self.packs.get(&pack.id) else {
            // It is missing in the log too.
            return Ok(None);
        };
        let (name, bytes) = (pack.id.to_string(), *bytes);
        let content = Content::Pack { name, fingerprint: hex(*fingerprint) };
        if let Some(file) = self.complete(&content, bytes) {
            return Ok(Some(file));
        }
        let open = self.source.open_pack(pack)?;
        let shipping = Shipping { content, bytes, is_complete: true };
        let shipped = self.ship_parts(&shipping, |_, at, bytes| Ok(open.read(at, bytes))).await;
        shipped.map(Some)
    }

    async fn ship_segment(&mut self, segment: &SegmentCopy) -> Result<FileEntry, BackupError> {
        let SegmentCopy { slot, number, salt, bytes, is_full, .. } = *segment;
        let content = Content::Segment { slot: slot.0, number, salt: hex(salt) };
        if let Some(file) = self.complete(&content, bytes) {
            return Ok(file);
        }
        let shipping = Shipping { content, bytes, is_complete: is_full };
        self.ship_parts(&shipping, |source, at, bytes| source.read_segment(segment, at, bytes))
            .await
    }

    /// The file as it is there already, if all of it is.
    fn complete(&self, content: &Content, bytes: u64) -> Option<FileEntry> {
        let is_whole =
            |file: &&FileEntry| matches!(file.parts, Parts::Roll(_)) || file.bytes == bytes;
        self.there(content).filter(is_whole).cloned()
    }

    /// What there is of a file, shipped for this manifest or named by the one before.
    fn there(&self, content: &Content) -> Option<&FileEntry> {
        let of_tip = || self.tip.as_ref()?.files.iter().find(|file| file.content == *content);
        self.shipped.get(content).or_else(of_tip)
    }

    /// Ships a file from where it is not there yet. Parts that end below what was there are used again;
    /// they are the same bytes.
    async fn ship_parts(
        &mut self,
        shipping: &Shipping,
        read: impl Fn(&Snapshots, u64, usize) -> Result<(PageBuffer, usize), SnapshotError>,
    ) -> Result<FileEntry, BackupError> {
        let Shipping { content, bytes, is_complete } = shipping;
        let part_bytes = self.options.part_bytes as u64;
        let of_ours = self.there(content).filter(|file| file.part_bytes == part_bytes);
        let mut names = match of_ours.map(|file| (&file.parts, file.bytes)) {
            Some((Parts::Listed(names), there)) => {
                let whole = there.min(*bytes) / part_bytes;
                names.iter().take(usize::try_from(whole).unwrap_or(usize::MAX)).cloned().collect()
            }
            _ => Vec::new(),
        };
        let mut lost = 0;
        let mut at = names.len() as u64 * part_bytes;
        while at < *bytes {
            let length = usize::try_from((*bytes - at).min(part_bytes)).expect("a part is small");
            let (pages, unread) = read(&self.source, at, length)?;
            lost += unread;
            let label = format!("{}.{:05}", content.label(), names.len());
            names.push(self.put(&label, &pages[..length], content.is_compressed()).await?);
            at += length as u64;
            let parts = Parts::Listed(names.clone());
            self.note(FileEntry { content: content.clone(), bytes: at, part_bytes, parts });
        }
        if lost > 0 {
            self.unreadable.push(format!("{lost} bytes of {}", content.label()));
        }
        let mut parts = Parts::Listed(names);
        if let Parts::Listed(names) = &parts
            && *is_complete
            && names.len() > LISTED_MAX
        {
            let roll = serde_json::to_vec(names).expect("texts can be written");
            let label = format!("{}.roll", content.label());
            parts = Parts::Roll(self.put(&label, &roll, false).await?);
        }
        let file = FileEntry { content: content.clone(), bytes: *bytes, part_bytes, parts };
        self.note(file.clone());
        Ok(file)
    }

    async fn ship_small(
        &mut self,
        content: Content,
        bytes: &[u8],
    ) -> Result<FileEntry, BackupError> {
        let packed = packed(bytes, content.is_compressed());
        let digest = sha256(&packed);
        if let Some(file) = self.there(&content)
            && let Parts::Listed(names) = &file.parts
            && names.len() == 1
            && names[0].rsplit('.').next() == Some(&*digest)
        {
            return Ok(file.clone());
        }
        let name = self.create(&format!("{}.00000", content.label()), packed).await?;
        let parts = Parts::Listed(vec![name]);
        let bytes = bytes.len() as u64;
        let file = FileEntry { content, bytes, part_bytes: bytes, parts };
        self.note(file.clone());
        Ok(file)
    }

    fn note(&mut self, file: FileEntry) {
        self.shipped.insert(file.content.clone(), file);
    }

    async fn put(
        &mut self,
        label: &str,
        bytes: &[u8],
        is_compressed: bool,
    ) -> Result<String, BackupError> {
        self.pace.take(bytes.len()).await;
        self.create(label, packed(bytes, is_compressed)).await
    }

    async fn create(&mut self, label: &str, bytes: Bytes) -> Result<String, BackupError> {
        self.shipped_bytes += bytes.len() as u64;
        self.place.create(self.number(), label, bytes).await
    }
}

/// A part as it is stored.
fn packed(bytes: &[u8], is_compressed: bool) -> Bytes {
    if !is_compressed {
        return Bytes::copy_from_slice(bytes);
    }
    zstd::bulk::compress(bytes, ZSTD_LEVEL).expect("memory takes what was compressed").into()
}

/// Whether the snapshot ends before the backup does, in the same run.
fn is_short_of(tip: &Manifest, snapshot: &Snapshot) -> bool {
    let points = tip.point.as_ref().zip(snapshot.point.as_ref());
    points.is_some_and(|(tip, point)| tip.run == point.run && tip.commit > point.commit)
}

/// A backup is never older than the one before it, and of the same log.
fn refuse_step_back(
    tip: &Manifest,
    snapshot: &Snapshot,
    packs: &BTreeMap<PackId, LookedAt>,
    url: &str,
) -> Result<(), BackupError> {
    let at = url.to_owned();
    let cluster = cluster_hex(snapshot.cluster);
    if tip.cluster != cluster {
        let why = format!("its number is {}, and that of this one {cluster}", tip.cluster);
        return Err(BackupError::AnotherLog { at, why });
    }
    let Some(of_tip) = &tip.point else { return Ok(()) };
    let point = snapshot.point.as_ref().map(PointEntry::of);
    let why = match point {
        None => "this log is empty".to_owned(),
        Some(point) if point.place() < of_tip.place() => format!("this log to {point}"),
        Some(point) if went_apart(tip, of_tip, &point, snapshot, packs) => {
            "this log went another way since, as one that was restored from an older state"
                .to_owned()
        }
        Some(_) => return Ok(()),
    };
    let why = format!("backup {} there goes to {of_tip}, and {why}", tip.number);
    Err(BackupError::Newer { at, why })
}

/// Whether the log of the snapshot, which goes further, lacks the commit `of_tip`, as far as anything
/// tells.
fn went_apart(
    tip: &Manifest,
    of_tip: &PointEntry,
    point: &PointEntry,
    snapshot: &Snapshot,
    packs: &BTreeMap<PackId, LookedAt>,
) -> bool {
    if point.place() == of_tip.place() {
        return point.hash != of_tip.hash;
    }
    if let Some(same) = snapshot.segments.iter().find(|it| it.number == of_tip.segment) {
        return hex(same.salt) != of_tip.salt;
    }
    if let Some((_, last)) = snapshot.ended.iter().find(|(run, _)| *run == of_tip.run) {
        return *last < of_tip.commit;
    }
    let of_segments = snapshot.segments.iter().map(|segment| segment.run);
    let of_packs = packs.values().flat_map(|pack| pack.runs.iter().copied());
    let runs: BTreeSet<u64> = of_segments.chain(of_packs).collect();
    // Runs below all that there are have expired.
    let is_strange = runs.first().is_some_and(|first| *first <= of_tip.run);
    if is_strange && !runs.contains(&of_tip.run) {
        return true;
    }
    let is_covered = |topic: &TopicExtents| {
        let of_tip = tip.topics.get(&topic.name).filter(|it| it.created == topic.created.0);
        let of_tip = of_tip.map_or(&[][..], |it| &it.partitions);
        of_tip.iter().zip(&topic.extents).all(|((_, end), extent)| *end <= extent.end.0)
    };
    !snapshot.topics.iter().all(is_covered)
}

/// So many bytes a second, and no more at once than a part.
#[derive(Debug)]
struct Pace {
    rate: u64,
    /// When what was taken is paid for.
    due: Option<Instant>,
}

impl Pace {
    const fn new(rate: u64) -> Self {
        Self { rate, due: None }
    }

    async fn take(&mut self, bytes: usize) {
        let now = Instant::now();
        let due = self.due.map_or(now, |due| due.max(now));
        tokio::time::sleep(due.saturating_duration_since(now)).await;
        let micros = (bytes as u64).saturating_mul(1_000_000) / self.rate.max(1);
        self.due = Some(due + Duration::from_micros(micros));
    }
}
