//! From the place of backups into a data folder.
//!
//! 1. The folder is locked, and what it holds is held against the backup: a log that has anything which
//!    the backup lacks stays, and so does what cannot be told.
//! 2. All files are written below `restoring/new` in the folder, each object held against its digest;
//!    then that log is verified as a whole.
//! 3. `restoring/ready` says that what follows goes on to its end, whoever takes it up: the old log's
//!    files move to `restoring/old`, the new ones into the folder, `journal` last.
//! 4. `restoring` goes. As long as it is there no node starts and no verb reads the folder.
//!
//! A restore that ends before 3 begins anew when it is run again, one that ends later goes on.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracklog_engine::disk::{Access, BackendChoice, FolderAccess, PageBuffer, open_folder};
use tracklog_engine::{Standing, standing};
use tracklog_pipeline::archive::store::{Opening, Store};

use super::BackupError;
use super::manifest::{
    Content, FileEntry, Manifest, ManifestError, PointEntry, RecoveryPoint, SETTINGS, Target,
    cluster_hex,
};
use super::place::Place;
use super::restored::RestoredFrom;
use crate::folder::{DataFolder, RESTORING};
use crate::verify::{self, VerifyLine};

/// What the log's own files are, in the order in which they leave: without its journal none opens.
const LOG_NAMES: [&str; 6] = ["journal", "checkpoint-a", "checkpoint-b", "packs", "cut", "state"];
/// In which order new ones come: with its journal the log is there.
const NEW_NAMES: [&str; 4] = ["packs", "checkpoint-a", "checkpoint-b", "journal"];
/// Nobody's part is larger.
const PART_BYTES_MAX: u64 = 256 << 20;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Restore {
    /// Where the backups are.
    pub url: String,
    /// Where the log is to be.
    pub folder: PathBuf,
    /// Which backup; the newest when nobody says.
    pub at: Option<u64>,
}

/// A log that was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreReport {
    /// The backup's number.
    pub backup: u64,
    /// How far it goes; none for an empty log.
    #[serde(flatten)]
    pub point: Option<RecoveryPoint>,
    /// Whether all that it holds is good; else it was damaged when it was backed up.
    pub clean: bool,
    /// Settings and keys that were put beside it.
    pub settings: Vec<String>,
    /// Settings and keys of the backup that stayed as they were in the folder.
    pub kept: Vec<String>,
    /// Where the log is that was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<PathBuf>,
}

/// How a restore goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Told {
    /// Bytes that were written, and all there are.
    Progress {
        /// Written.
        bytes_done: u64,
        /// To write.
        bytes_total: u64,
    },
    /// What verifying it tells.
    Verify(VerifyLine),
    /// A backup was passed over.
    Passed(String),
}

/// What goes on to its end, whoever takes it up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    from: RestoredFrom,
    #[serde(flatten)]
    point: Option<RecoveryPoint>,
    clean: bool,
    /// Settings of the backup.
    settings: Vec<String>,
    /// Those that are not in the folder yet.
    new_settings: Vec<String>,
}

/// Restores a backup. `told` gets how it goes on.
///
/// # Errors
/// [`BackupError`]; then the folder holds what it held, or a restore that is to be run again.
pub async fn restore(
    wanted: &Restore,
    told: &mut (dyn FnMut(Told) + Send),
) -> Result<RestoreReport, BackupError> {
    let place = Place::new(Store::open(&wanted.url, Opening::Read)?);
    restore_from(&place, &wanted.folder, wanted.at, told).await
}

/// A backup that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// Its number.
    pub backup: u64,
    /// When it was made, RFC 3339.
    pub written_at: String,
    /// How far it goes; none for an empty log.
    #[serde(flatten)]
    pub point: Option<RecoveryPoint>,
    /// What a restore takes, but for slots that are not full.
    pub bytes: u64,
}

/// The backups at `url`, oldest first; for a damaged manifest what is wrong with it.
///
/// # Errors
/// [`BackupError`] when the store cannot be asked.
pub async fn list(url: &str) -> Result<Vec<Result<Listed, ManifestError>>, BackupError> {
    let place = Place::new(Store::open(url, Opening::Read)?);
    let mut listed = Vec::new();
    for number in place.numbers().await? {
        listed.push(match place.manifest(number).await {
            Ok(manifest) => Ok(Listed::of(&manifest)),
            Err(BackupError::Manifest(error)) => Err(error),
            Err(error) => return Err(error),
        });
    }
    Ok(listed)
}

impl Listed {
    fn of(manifest: &Manifest) -> Self {
        Self {
            backup: manifest.number,
            written_at: manifest.written_at.clone(),
            point: manifest.point.as_ref().map(PointEntry::reached),
            bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        }
    }
}

/// The same from any place.
pub(super) async fn restore_from(
    place: &Place,
    folder: &Path,
    at: Option<u64>,
    told: &mut (dyn FnMut(Told) + Send),
) -> Result<RestoreReport, BackupError> {
    let manifest = choose(place, at, told).await?;
    let folder = DataFolder::at(folder);
    folder.create()?;
    let _lock = lock(&folder)?;
    let work = Work { path: folder.file(RESTORING), folder: &folder };
    if let Some(ready) = work.ready()? {
        let report = work.finish(&ready)?;
        if report.backup == manifest.number {
            return Ok(report);
        }
    }
    work.remove()?;
    refuse_newer(&folder, &manifest)?;
    let new = work.begin()?;
    let mut writing = Writing { place, told: &mut *told, bytes_done: 0, bytes_total: 0 };
    writing.bytes_total = manifest.files.iter().map(|file| file.bytes).sum();
    writing.write(&manifest, &new, &work.path.join("settings")).await?;
    let mut clean = false;
    verify::folder(&new, &mut |line| {
        if let VerifyLine::Summary { clean: is_clean, .. } = line {
            clean = is_clean;
        }
        told(Told::Verify(line));
    })?;
    let ready = work.declare_ready(&manifest, clean)?;
    work.finish(&ready)
}

/// The manifest that is asked for, or the newest that is whole.
async fn choose(
    place: &Place,
    at: Option<u64>,
    told: &mut (dyn FnMut(Told) + Send),
) -> Result<Manifest, BackupError> {
    let nothing = || BackupError::NoBackup { url: place.url().to_owned(), number: at };
    let mut numbers = place.numbers().await?;
    numbers.retain(|number| at.is_none_or(|at| at == *number));
    while let Some(number) = numbers.pop() {
        match place.manifest(number).await {
            Err(BackupError::Manifest(error)) if !numbers.is_empty() => {
                told(Told::Passed(error.to_string()));
            }
            read => return read,
        }
    }
    Err(nothing())
}

/// Keeps nodes out until the restore is over.
fn lock(folder: &DataFolder) -> Result<File, BackupError> {
    let path = folder.file("lock");
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(io_error("open the folder's lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            let at = folder.path().display().to_string();
            Err(BackupError::Refused { at, why: "a process holds it: stop that first".to_owned() })
        }
        Err(fs::TryLockError::Error(error)) => Err(io_error("lock the folder")(error)),
    }
}

/// A log that has something which the backup lacks is not replaced, nor one of which that cannot be
/// told.
fn refuse_newer(folder: &DataFolder, manifest: &Manifest) -> Result<(), BackupError> {
    if !folder.holds_log() {
        return Ok(folder.refuse_foreign()?);
    }
    let at = folder.path().display().to_string();
    let there = standing(folder.path()).map_err(|error| BackupError::Refused {
        at: at.clone(),
        why: format!(
            "it holds a log that cannot be opened, so that nobody can tell whether it is newer than \
             the backup; move it away, or name another folder ({error})"
        ),
    })?;
    if cluster_hex(there.cluster) != manifest.cluster {
        let of_backup = &manifest.cluster;
        let why = format!(
            "its number is {}, and that of the backup {of_backup}",
            cluster_hex(there.cluster)
        );
        return Err(BackupError::AnotherLog { at, why });
    }
    match what_would_be_lost(&there, manifest) {
        None => Ok(()),
        Some(why) => Err(BackupError::Newer { at, why }),
    }
}

/// What the log that is there has, and the backup may lack, in words.
fn what_would_be_lost(there: &Standing, manifest: &Manifest) -> Option<String> {
    let point = PointEntry::of(there.point.as_ref()?);
    let is_in_backup = |of_backup: &PointEntry| {
        let has_segment = |file: &FileEntry| match &file.content {
            Content::Segment { number, salt, .. } => {
                (*number, salt) == (point.segment, &point.salt)
            }
            _ => false,
        };
        let is_same = (of_backup.place(), &of_backup.hash) == (point.place(), &point.hash);
        is_same || (point.place() < of_backup.place() && manifest.files.iter().any(has_segment))
    };
    let lacking = manifest.lacks(&there.topics);
    let is_new = |name: &&String| !name.starts_with('_') && !manifest.topics.contains_key(*name);
    let names = there.topics.iter().map(|topic| &topic.name);
    let topics: Vec<_> = names.filter(is_new).cloned().collect();
    let is_covered = manifest.point.as_ref().is_some_and(is_in_backup);
    if is_covered && lacking.is_empty() && topics.is_empty() {
        return None;
    }
    let of_backup = manifest.point.as_ref();
    let mut what = format!(
        "it goes to {point}, the backup to {}",
        of_backup.map_or_else(|| "nothing".to_owned(), ToString::to_string)
    );
    if lacking.is_empty() && topics.is_empty() {
        what.push_str(", and nothing shows that the backup has all of it");
    } else {
        what.push_str("; lost would be");
        let offsets = lacking.iter().map(|(topic, partition, from, to)| {
            format!(" {topic}/{partition} offsets {from} to {}", to - 1)
        });
        let topics = topics.iter().map(|topic| format!(" all of {topic}"));
        what.push_str(&offsets.chain(topics).collect::<Vec<_>>().join(","));
    }
    what.push_str("; move it away, or name another folder");
    Some(what)
}

/// Files on their way.
struct Writing<'a> {
    place: &'a Place,
    told: &'a mut (dyn FnMut(Told) + Send),
    bytes_done: u64,
    bytes_total: u64,
}

impl Writing<'_> {
    async fn write(
        &mut self,
        manifest: &Manifest,
        new: &Path,
        settings: &Path,
    ) -> Result<(), BackupError> {
        let disk = open_folder(new, FolderAccess::Write, BackendChoice::Blocking);
        let disk = disk.map_err(tracklog_engine::OpenError::from)?;
        for file in &manifest.files {
            match file.content.target() {
                Target::Slot(slot) => {
                    let bytes = manifest.slot_bytes;
                    disk.create_slot(slot, bytes, &mut |_| {})
                        .map_err(io_error(format!("make {slot}")))?;
                    let failed = || io_error(format!("write {slot}"));
                    let slot = disk.open_slot(slot, Access::Write).map_err(failed())?;
                    if file.bytes > bytes {
                        return Err(self.rotten(file));
                    }
                    self.each_part(file, |at, part| {
                        slot.write(at, &pages(&part).freeze()).map_err(failed())
                    })
                    .await?;
                }
                Target::Pack(pack) => {
                    let failed = || io_error(format!("write {pack}"));
                    let mut writer = disk.create_pack(pack).map_err(failed())?;
                    self.each_part(file, |_, part| writer.write(&pages(&part)).map_err(failed()))
                        .await?;
                    writer.finish().map_err(failed())?;
                }
                Target::Small(name) => {
                    let bytes = self.whole(file).await?;
                    disk.write_file(&name, &bytes).map_err(io_error(name.path()))?;
                }
                Target::Setting(name) => {
                    let bytes = self.whole(file).await?;
                    let folder = DataFolder::at(settings);
                    folder.create()?;
                    folder.write_bytes(name, &bytes)?;
                }
            }
        }
        Ok(())
    }

    async fn whole(&mut self, file: &FileEntry) -> Result<Vec<u8>, BackupError> {
        let mut whole = Vec::new();
        self.each_part(file, |_, part| {
            whole.extend_from_slice(&part);
            Ok(())
        })
        .await?;
        Ok(whole)
    }

    /// Hands over the parts of a file, in order, each as it was shipped.
    async fn each_part(
        &mut self,
        file: &FileEntry,
        mut take: impl FnMut(u64, Bytes) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let mut at = 0;
        for name in self.place.parts(file).await? {
            let stored = self.place.object(&name).await?;
            let should = file.part_bytes.min(file.bytes.saturating_sub(at));
            let part = match file.content.is_compressed() {
                true => unpacked(&stored, should),
                false => Some(stored),
            };
            let part = part.filter(|part| part.len() as u64 == should && should > 0);
            let part = part.ok_or(BackupError::Rotten { object: name })?;
            take(at, part)?;
            at += should;
            self.bytes_done += should;
            let (bytes_done, bytes_total) = (self.bytes_done, self.bytes_total);
            (self.told)(Told::Progress { bytes_done, bytes_total });
        }
        if at == file.bytes { Ok(()) } else { Err(self.rotten(file)) }
    }

    fn rotten(&self, file: &FileEntry) -> BackupError {
        BackupError::Rotten { object: file.content.label() }
    }
}

fn unpacked(stored: &[u8], bytes: u64) -> Option<Bytes> {
    let bytes = usize::try_from(bytes.min(PART_BYTES_MAX)).ok()?;
    zstd::bulk::decompress(stored, bytes).ok().map(Bytes::from)
}

/// A part as the disk takes it.
fn pages(part: &[u8]) -> PageBuffer {
    let mut pages = PageBuffer::zeroed(part.len());
    pages[..part.len()].copy_from_slice(part);
    pages
}

/// The folder `restoring` in a data folder.
struct Work<'a> {
    path: PathBuf,
    folder: &'a DataFolder,
}

impl Work<'_> {
    fn files(&self) -> DataFolder {
        DataFolder::at(&self.path)
    }

    fn ready(&self) -> Result<Option<Ready>, BackupError> {
        Ok(self.files().read_json("ready")?)
    }

    /// Removes what a restore left that was not ready.
    fn remove(&self) -> Result<(), BackupError> {
        for path in [&self.path, &self.done()] {
            match fs::remove_dir_all(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(io_error("remove an interrupted restore"))?,
            }
        }
        Ok(())
    }

    /// What it is called while it is removed.
    fn done(&self) -> PathBuf {
        self.folder.file(&format!("{RESTORING}.done"))
    }

    /// Makes room for the new log.
    fn begin(&self) -> Result<PathBuf, BackupError> {
        let new = self.path.join("new");
        DataFolder::at(&new).create()?;
        sync(self.folder.path())?;
        Ok(new)
    }

    fn declare_ready(&self, manifest: &Manifest, clean: bool) -> Result<Ready, BackupError> {
        let named = |name: &&str| {
            let content = Content::Setting { name: (**name).to_owned() };
            manifest.files.iter().any(|file| file.content == content)
        };
        let settings: Vec<_> = SETTINGS.into_iter().filter(named).collect();
        let is_new = |name: &&&str| !self.folder.file(name).exists();
        let new_settings = settings.iter().filter(is_new).map(|name| (*name).to_owned()).collect();
        let ready = Ready {
            from: RestoredFrom::of(manifest),
            point: manifest.point.as_ref().map(PointEntry::reached),
            clean,
            settings: settings.into_iter().map(str::to_owned).collect(),
            new_settings,
        };
        self.files().write_json("ready", &ready)?;
        Ok(ready)
    }

    /// Puts the new log in the place of the old one. Each step may have been done before.
    fn finish(&self, ready: &Ready) -> Result<RestoreReport, BackupError> {
        let (new, old) = (self.path.join("new"), self.path.join("old"));
        let emptied = self.path.join("emptied");
        if !emptied.exists() {
            DataFolder::at(&old).create()?;
            for name in LOG_NAMES {
                rename(&self.folder.file(name), &old.join(name))?;
            }
            fs::write(&emptied, "").map_err(io_error("write in the folder"))?;
            sync(&self.path)?;
        }
        for name in NEW_NAMES {
            rename(&new.join(name), &self.folder.file(name))?;
        }
        let settings = self.path.join("settings");
        for name in &ready.new_settings {
            rename(&settings.join(name), &self.folder.file(name))?;
        }
        ready.from.write(self.folder)?;
        let replaced = self.set_old_aside(&old, ready.from.backup)?;
        rename(&self.path, &self.done())?;
        fs::remove_dir_all(self.done()).map_err(io_error("remove what is left of the restore"))?;
        let kept = ready.settings.iter().filter(|name| !ready.new_settings.contains(name));
        Ok(RestoreReport {
            backup: ready.from.backup,
            point: ready.point.clone(),
            clean: ready.clean,
            kept: kept.cloned().collect(),
            settings: ready.new_settings.clone(),
            replaced,
        })
    }

    /// The log that was there is its operator's to remove.
    fn set_old_aside(&self, old: &Path, backup: u64) -> Result<Option<PathBuf>, BackupError> {
        let is_empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut it| it.next().is_none());
        if !old.exists() || is_empty(old) {
            return Ok(None);
        }
        let aside = self.folder.place_for_replaced(backup);
        rename(old, &aside)?;
        Ok(Some(aside))
    }
}

/// Moves a file or a folder durably; one that is not there was moved before, or never was.
fn rename(from: &Path, to: &Path) -> Result<(), BackupError> {
    #[cfg(test)]
    stop_here()?;
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        moved => moved.map_err(io_error(format!("move {} to {}", from.display(), to.display())))?,
    }
    for path in [from, to] {
        if let Some(folder) = path.parent() {
            sync(folder)?;
        }
    }
    Ok(())
}

fn sync(folder: &Path) -> Result<(), BackupError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(io_error(format!("sync {}", folder.display())))
}

fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BackupError {
    let doing = doing.into();
    move |source| BackupError::Io { doing, source }
}

#[cfg(test)]
thread_local! {
    static STOP: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
}

/// From now on restores of this thread end at the step with this number, as a killed one.
#[cfg(test)]
pub(super) fn stopping_at(step: Option<u32>) {
    STOP.set(step);
}

#[cfg(test)]
fn stop_here() -> Result<(), BackupError> {
    match STOP.get() {
        Some(0) => Err(io_error("go on")(io::Error::other("it was killed"))),
        left => {
            STOP.set(left.map(|left| left - 1));
            Ok(())
        }
    }
}
