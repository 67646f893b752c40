//! Files of JSON lines, each event once.
//!
//! Each partition and lane has files of its own, named by the offset of their first line:
//! `enriched-003-00000000000000001207.ndjson`. Lines are appended and synced before their offset
//! is committed; whoever goes on after a crash reads the last whole line's offset from the file,
//! cuts a torn one, and leaves out what is there. A file that is large enough is finished, and
//! never touched again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use tracklog_log::Pending;
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
    writers: Mutex<BTreeMap<(PartitionId, Lane), Seat>>,
}

/// Of one partition and lane; empty before the first line, and after an error.
type Seat = Arc<Mutex<Option<Writer>>>;

/// The file that a partition and lane is appended to.
#[derive(Debug)]
struct Writer {
    file: File,
    bytes: u64,
    /// The last line's offset; `None` before the first.
    last: Option<Offset>,
}

impl Files {
    /// Files of events of `topic`.
    #[must_use]
    pub fn new(spec: FileSpec, topic: &str) -> Self {
        let (topic, writers) = (topic.to_owned(), Mutex::default());
        Self { shared: Arc::new(Shared { spec, topic, writers }) }
    }
}

impl Destination for Files {
    fn limits(&self) -> Limits {
        Limits { events_max: usize::MAX, bytes_max: WRITE_BYTES, give_up_after: None }
    }

    fn deliver<'a>(&'a self, lines: Lines<'a>) -> Pending<'a, Result<(), DeliveryError>> {
        let shared = Arc::clone(&self.shared);
        let (source, lane) = (lines.source, lines.lane);
        let lines: Vec<_> = lines.iter().map(|(offset, line)| (offset, line.to_vec())).collect();
        Box::pin(async move {
            let writing = move || shared.append(source, lane, &lines);
            let written = tokio::task::spawn_blocking(writing).await;
            let written = written.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            written.map_err(|error| DeliveryError::Later { why: error.to_string(), after: None })
        })
    }
}

impl Shared {
    /// Appends those of `lines` that are not there, and syncs.
    fn append(
        &self,
        source: PartitionId,
        lane: Lane,
        lines: &[(Offset, Vec<u8>)],
    ) -> io::Result<()> {
        let writer = Arc::clone(self.writers.lock().entry((source, lane)).or_default());
        // One member has the partition; a call of his that was dropped may still be at work.
        let mut writer = writer.lock();
        let prefix = self.prefix(source, lane);
        // What is known of a file holds no more after an error: it is looked at again.
        let mut at_hand = match writer.take() {
            Some(writer) => Some(writer),
            None => Writer::found(&self.spec.folder, &prefix)?,
        };
        let last = at_hand.as_ref().and_then(|it| it.last);
        let mut new =
            lines.iter().filter(|(offset, _)| last.is_none_or(|last| *offset > last)).peekable();
        let Some((first, _)) = new.peek() else {
            *writer = at_hand;
            return Ok(());
        };
        let full = |it: &Writer| it.bytes >= self.spec.roll_bytes;
        let mut open = match at_hand.take().filter(|it| !full(it)) {
            Some(open) => open,
            None => Writer::create(&self.spec.folder, &prefix, *first)?,
        };
        let text: Vec<u8> = new.clone().flat_map(|(_, line)| line).copied().collect();
        open.file.write_all(&text)?;
        open.file.sync_data()?;
        open.bytes += text.len() as u64;
        open.last = new.last().map(|(offset, _)| *offset);
        *writer = Some(open);
        Ok(())
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
    /// The newest file, behind its last whole line. Files that hold none go.
    fn found(folder: &Path, prefix: &str) -> io::Result<Option<Self>> {
        fs::create_dir_all(folder)?;
        for path in names(folder, prefix)?.into_iter().rev() {
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            let bytes = end_of_lines(&mut file)?;
            if bytes == 0 {
                fs::remove_file(&path)?;
                continue;
            }
            let last = last_offset(&mut file, bytes)?;
            file.set_len(bytes)?;
            file.seek(SeekFrom::Start(bytes))?;
            return Ok(Some(Self { file, bytes, last: Some(last) }));
        }
        Ok(None)
    }

    fn create(folder: &Path, prefix: &str, first: Offset) -> io::Result<Self> {
        let path = folder.join(format!("{prefix}{:020}.ndjson", first.0));
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        File::open(folder)?.sync_all()?;
        Ok(Self { file, bytes: 0, last: None })
    }
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

/// The offset that the last line names. The lines end at `end`.
fn last_offset(file: &mut File, end: u64) -> io::Result<Offset> {
    #[derive(Deserialize)]
    struct Line {
        offset: u64,
    }
    let start = line_break_before(file, end - 1)?.map_or(0, |at| at + 1);
    let line = read_between(file, start, end)?;
    Ok(Offset(serde_json::from_slice::<Line>(&line)?.offset))
}

fn read_between(file: &mut File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(end - start).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
