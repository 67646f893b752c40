//! Files of JSON lines, each event once.
//!
//! Each partition and lane has files of its own, named by the offset of their first line:
//! `enriched-003-00000000000000001207.ndjson`. Lines are appended and synced before their offset
//! is committed; whoever goes on after a crash reads the last whole line's offset from the file,
//! cuts a torn one, syncs, and leaves out what is there. After a failed write or sync the file is cut
//! back to what was synced before: what the page cache says then counts for nothing. A file that is
//! large enough is finished, and never touched again. Files of another log are told apart by the
//! times in them, and are in the way.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use tracklog_log::{Pending, Topic};
use tracklog_protocol::line::format_time;
use tracklog_protocol::{Offset, PartitionId};

use super::{DeliveryError, Destination, Limits, Lines};
use crate::route::{FileSpec, Lane};

/// Lines are written so many bytes at a time.
const WRITE_BYTES: usize = 1 << 20;
/// A file's end is looked for a line in steps of so many bytes.
const TAIL_BYTES: u64 = 64 << 10;

/// A folder of files.
#[derive(Debug)]
pub struct Files {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    spec: FileSpec,
    topic: String,
    /// Lines that were appended before are another log's.
    since: String,
    writers: Mutex<BTreeMap<(PartitionId, Lane), Seat>>,
}

/// Of one partition and lane.
type Seat = Arc<Mutex<Seated>>;

#[derive(Debug, Default)]
enum Seated {
    /// Nothing was looked at yet.
    #[default]
    Nobody,
    /// A file at hand.
    Writing(Writer),
    /// A write or sync failed: first of all the file is cut back to this length.
    Failed { path: PathBuf, synced_bytes: u64 },
}

/// The file that a partition and lane is appended to.
#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// The last line's offset; `None` before the first.
    last: Option<Offset>,
}

impl Files {
    /// Files of events of `topic`.
    #[must_use]
    pub fn new(spec: FileSpec, topic: &Topic) -> Self {
        let (name, writers) = (topic.name().to_owned(), Mutex::default());
        let since = format_time(topic.created);
        Self { shared: Arc::new(Shared { spec, topic: name, since, writers }) }
    }
}

impl Destination for Files {
    fn limits(&self) -> Limits {
        Limits { events_max: usize::MAX, bytes_max: WRITE_BYTES, give_up_after: None }
    }

    fn deliver<'a>(&'a self, lines: Lines<'a>) -> Pending<'a, Result<(), DeliveryError>> {
        let shared = Arc::clone(&self.shared);
        let (source, lane) = (lines.source, lines.lane);
        let ends: Vec<_> = lines.ends().collect();
        let text = lines.text().to_vec();
        Box::pin(async move {
            let writing = move || shared.append(source, lane, &ends, &text);
            let written = tokio::task::spawn_blocking(writing).await;
            let written = written.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            written.map_err(|error| DeliveryError::Later { why: error.to_string(), after: None })
        })
    }
}

impl Shared {
    /// Appends those of the lines in `text` that are not there, and syncs. `lines` are their offsets
    /// and where each ends.
    fn append(
        &self,
        source: PartitionId,
        lane: Lane,
        lines: &[(Offset, usize)],
        text: &[u8],
    ) -> io::Result<()> {
        let seat = Arc::clone(self.writers.lock().entry((source, lane)).or_default());
        // One member has the partition; a call of his that was dropped may still be at work.
        let mut seat = seat.lock();
        let prefix = self.prefix(source, lane);
        let at_hand = match std::mem::take(&mut *seat) {
            Seated::Writing(writer) => Some(writer),
            Seated::Nobody => self.found(&prefix)?,
            Seated::Failed { path, synced_bytes } => {
                *seat = Seated::Failed { path: path.clone(), synced_bytes };
                OpenOptions::new().write(true).open(&path)?.set_len(synced_bytes)?;
                self.found(&prefix)?
            }
        };
        let last = at_hand.as_ref().and_then(|it| it.last);
        let known = lines.partition_point(|(offset, _)| last.is_some_and(|last| *offset <= last));
        let (old, new) = lines.split_at(known);
        let ([(first, _), ..], [.., (newest, _)]) = (new, new) else {
            *seat = at_hand.map_or(Seated::Nobody, Seated::Writing);
            return Ok(());
        };
        let text = &text[old.last().map_or(0, |(_, end)| *end)..];
        let full = |it: &Writer| it.bytes >= self.spec.roll_bytes;
        let mut open = match at_hand.filter(|it| !full(it)) {
            Some(open) => open,
            None => Writer::create(&self.spec.folder, &prefix, *first)?,
        };
        if let Err(error) = open.file.write_all(text).and_then(|()| open.file.sync_data()) {
            *seat = Seated::Failed { path: open.path, synced_bytes: open.bytes };
            return Err(error);
        }
        open.bytes += text.len() as u64;
        open.last = Some(*newest);
        *seat = Seated::Writing(open);
        Ok(())
    }

    /// The newest file, behind its last whole line. Files that hold none go.
    fn found(&self, prefix: &str) -> io::Result<Option<Writer>> {
        let folder = &self.spec.folder;
        make_folder(folder)?;
        for path in names(folder, prefix)?.into_iter().rev() {
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            let bytes = end_of_lines(&mut file)?;
            if bytes == 0 {
                fs::remove_file(&path)?;
                continue;
            }
            let Line { offset, appended_at } = last_line(&mut file, bytes)?;
            if appended_at < self.since {
                let why = format!("{} is of another log: move it away", path.display());
                return Err(io::Error::other(why));
            }
            file.set_len(bytes)?;
            file.sync_all()?;
            File::open(folder)?.sync_all()?;
            file.seek(SeekFrom::Start(bytes))?;
            return Ok(Some(Writer { path, file, bytes, last: Some(Offset(offset)) }));
        }
        Ok(None)
    }

    fn prefix(&self, source: PartitionId, lane: Lane) -> String {
        let lane = match lane {
            Lane::High => "-high",
            Lane::Normal => "",
        };
        format!("{}{lane}-{:03}-", self.topic, source.partition)
    }
}

impl Writer {
    fn create(folder: &Path, prefix: &str, first: Offset) -> io::Result<Self> {
        let path = folder.join(format!("{prefix}{:020}.ndjson", first.0));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        File::open(folder)?.sync_all()?;
        Ok(Self { path, file, bytes: 0, last: None })
    }
}

/// Makes the folder, and those that it lies in, where they are not there.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    make_folder(parent)?;
    fs::create_dir(folder)?;
    File::open(parent)?.sync_all()
}

/// The files with this prefix, oldest first.
fn names(folder: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let offset = name.strip_prefix(prefix).and_then(|it| it.strip_suffix(".ndjson"));
        if offset.is_some_and(|it| it.len() == 20 && it.bytes().all(|it| it.is_ascii_digit())) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Where the last whole line ends.
fn end_of_lines(file: &mut File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    Ok(line_break_before(file, len)?.map_or(0, |at| at + 1))
}

/// Where the last line break below `end` is.
fn line_break_before(file: &mut File, end: u64) -> io::Result<Option<u64>> {
    let mut end = end;
    while end > 0 {
        let start = end.saturating_sub(TAIL_BYTES);
        let bytes = read_between(file, start, end)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(start + at as u64));
        }
        end = start;
    }
    Ok(None)
}

/// What is asked of a line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    offset: u64,
    appended_at: String,
}

/// The last line. The lines end at `end`.
fn last_line(file: &mut File, end: u64) -> io::Result<Line> {
    let start = line_break_before(file, end - 1)?.map_or(0, |at| at + 1);
    let line = read_between(file, start, end)?;
    Ok(serde_json::from_slice(&line)?)
}

fn read_between(file: &mut File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(end - start).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
