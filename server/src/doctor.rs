//! What a machine can do for a log: facts about a folder's disk, and what would run there.
//!
//! Measures in a folder of its own inside and removes it; the log's files, and a node that may hold
//! them, are left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracklog_engine::OfflineLog;
use tracklog_engine::disk::{
    BackendChoice, DurableWrites, FolderAccess, Measured, measure, open_folder,
};
use tracklog_log::{Fetch, FetchMode, Log, Topic};
use tracklog_protocol::{BatchView, Offset, PartitionId, TimeMicros};

use crate::folder::DataFolder;
use crate::{clock, offline};

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// What was found.
    pub found: String,
    /// Whether it is as it should be.
    pub good: bool,
}

/// How far a clock may have run ahead before it is worth a word.
const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(1);

/// Looks at the machine and at the disk that holds, or would hold, `data`.
///
/// # Errors
/// When nothing can be written there.
pub fn examine(data: &Path) -> io::Result<Vec<Finding>> {
    let place = existing(data)?;
    let scratch = Scratch::make(&place)?;
    let measured = measure(&scratch.0)?;
    let mut findings = vec![
        fact("kernel", kernel()),
        fact("processors", std::thread::available_parallelism().map_or(1, usize::from).to_string()),
        fact("folder", place.display().to_string()),
        fact("file system", file_system(&place)),
        fact("O_DIRECT", direct_words(&measured)),
        fact(
            "io_uring",
            match &measured.uring {
                Ok(_) => "works".to_owned(),
                Err(why) => format!("refused: {why}"),
            },
        ),
    ];
    findings.extend(running_backend(data));
    findings.push(backend(&scratch.0));
    findings.extend(latencies(&measured));
    findings.extend(sync_doubt(&place, &measured));
    findings.extend(clock_ahead(data));
    Ok(findings)
}

fn fact(what: impl Into<String>, found: impl Into<String>) -> Finding {
    Finding { what: what.into(), found: found.into(), good: true }
}

/// The folder, or the nearest one above it that is there.
fn existing(data: &Path) -> io::Result<PathBuf> {
    let whole = std::path::absolute(data)?;
    let found = whole.ancestors().find(|path| path.is_dir());
    found.map(Path::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A folder of our own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn make(place: &Path) -> io::Result<Self> {
        let path = place.join(format!(".tracklog-doctor-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("{} stays behind: {error}", self.0.display());
        }
    }
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The type and device of the mount that holds `place`: the longest mount point above it.
fn file_system(place: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let held_by = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        let (kind, device) = (after.next()?, after.next()?);
        place.starts_with(point).then(|| (point.len(), format!("{kind} on {device}")))
    });
    held_by.max_by_key(|(length, _)| *length).map_or_else(|| "unknown".to_owned(), |(_, text)| text)
}

fn direct_words(measured: &Measured) -> String {
    match measured.direct {
        true => "works".to_owned(),
        false => "refused here: writes go through the page cache and are synced, which is slower, \
                  and after an I/O error a node has to be started again"
            .to_owned(),
    }
}

/// What the node took that runs in the folder: its settings may say so, or the machine was another when
/// it started.
fn running_backend(data: &Path) -> Option<Finding> {
    if !offline::is_held(data).unwrap_or(false) {
        return None;
    }
    let node = DataFolder::at(data).node().ok()??;
    let found = format!("{} (process {})", node.backend?, node.pid);
    Some(fact("disk backend of the node that runs here", found))
}

/// What a node would run, by the very rule that a node uses.
fn backend(scratch: &Path) -> Finding {
    match open_folder(scratch, FolderAccess::Write, BackendChoice::Auto) {
        Ok(disk) => {
            let backend = disk.backend();
            fact("disk backend", format!("{}: {}", backend.kind.as_str(), backend.why))
        }
        Err(error) => {
            Finding { what: "disk backend".to_owned(), found: error.to_string(), good: false }
        }
    }
}

/// What a durable write costs somewhere, and whether that can be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncLatency {
    /// Of 4 KiB, written and synced: the median.
    pub p50: Duration,
    /// Why such a sync cannot vouch for anything after a power cut.
    pub doubt: Option<String>,
}

/// No drive that keeps its promise answers sooner: two commands, a write and a flush, each with the
/// way to the drive and back.
const SYNC_MIN: Duration = Duration::from_micros(7);

/// Measures what a durable write costs in `folder`, which must be there.
///
/// # Errors
/// When nothing can be written there.
pub fn sync_latency(folder: &Path) -> io::Result<SyncLatency> {
    let scratch = Scratch::make(folder)?;
    let measured = measure(&scratch.0)?;
    let p50 = measured.serial.first().map_or(Duration::ZERO, |writes| writes.p50);
    Ok(SyncLatency { p50, doubt: doubt(&file_system(&std::path::absolute(folder)?), p50) })
}

fn doubt(file_system: &str, p50: Duration) -> Option<String> {
    let kind = file_system.split(' ').next().unwrap_or_default();
    if matches!(kind, "tmpfs" | "ramfs") {
        return Some(format!("{kind} is memory, and nothing in it survives a power cut"));
    }
    let micros = p50.as_micros();
    (p50 < SYNC_MIN).then(|| {
        format!("too good to be true: no drive syncs in {micros} µs, so something answers for it")
    })
}

/// Where such a doubt is of interest beside other findings.
fn sync_doubt(place: &Path, measured: &Measured) -> Option<Finding> {
    let p50 = measured.serial.first()?.p50;
    let found = doubt(&file_system(place), p50)?;
    Some(Finding { what: "sync".to_owned(), found, good: false })
}

fn latencies(measured: &Measured) -> Vec<Finding> {
    let of = |how: &str, writes: &[DurableWrites]| -> Vec<Finding> {
        let words = |write: &DurableWrites| {
            let size = write.write_bytes >> 10;
            let (p50, p99) = (write.p50.as_micros(), write.p99.as_micros());
            let (alone, four) = (write.per_second_alone, write.per_second);
            let found =
                format!("{p50} µs median, {p99} µs p99, {alone:.0}/s alone, {four:.0}/s at best");
            fact(format!("{size} KiB durable, {how}"), found)
        };
        writes.iter().map(words).collect()
    };
    let mut all = of("write + fdatasync", &measured.serial);
    all.extend(of("blocking", &measured.blocking));
    all.extend(measured.uring.as_ref().map(|writes| of("uring", writes)).unwrap_or_default());
    all
}

/// Append times never go back: a clock that once ran ahead holds them there until it is caught up.
fn clock_ahead(data: &Path) -> Option<Finding> {
    let log: Arc<dyn Log> = Arc::new(OfflineLog::open(data).ok()?);
    let last = last_append_time(&*log)?;
    let ahead = Duration::from_micros(u64::try_from(last.0 - clock::now().0).unwrap_or(0));
    let good = ahead <= CLOCK_AHEAD_MAX;
    let found = match good {
        true => "not behind the log's last append".to_owned(),
        false => format!(
            "the log's last append is {ahead:.0?} ahead of this clock: a clock ran ahead, and \
             append times stand still until it is caught up"
        ),
    };
    Some(Finding { what: "clock".to_owned(), found, good })
}

fn last_append_time(log: &dyn Log) -> Option<TimeMicros> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
    let last_of = |id: PartitionId| {
        let extent = log.extent(id)?;
        let last = extent.end.0.checked_sub(1).filter(|last| *last >= extent.start.0)?;
        let from = vec![(id, Offset(last))];
        let fetch = Fetch { from, bytes_max: 1, wait: false, mode: FetchMode::Replay };
        let fetched = runtime.block_on(log.fetch(fetch)).ok()?;
        fetched.partitions.first()?.batches.last().map(BatchView::append_time)
    };
    let topics = log.topics();
    topics.iter().flat_map(Topic::partitions).filter_map(last_of).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_into_memory_and_syncs_faster_than_any_drive_are_doubted() {
        let doubted = |kind, micros| doubt(kind, Duration::from_micros(micros)).is_some();
        assert!(doubted("tmpfs on tmpfs", 900));
        assert!(doubted("ext4 on /dev/sda1", 3));
        assert!(!doubted("ext4 on /dev/sda1", 12));
        assert!(!doubted("xfs on /dev/nvme0n1", 130));
    }

    #[test]
    fn a_folder_that_is_not_there_is_measured_through_its_parent_and_nothing_stays() {
        let parent = tempfile::tempdir().unwrap();
        let findings = examine(&parent.path().join("not/there")).unwrap();
        let what: Vec<_> = findings.iter().map(|finding| &*finding.what).collect();
        for wanted in ["kernel", "file system", "O_DIRECT", "io_uring", "disk backend"] {
            assert!(what.contains(&wanted), "{wanted} in {what:?}");
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
