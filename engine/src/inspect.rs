//! Looking at one file of a data folder, for the person who wants to know what is in it.
//!
//! Promises
//! - Any file may be given, whole, torn or rotten, in its place or a copy elsewhere: the answer is
//!   what can be read of it, or one line that says why nothing can.
//! - Nothing is written. Memory is bounded by the number of commits in a slot.
//! - Salts are never shown: whoever knows one could forge commits.
//!
//! What a file should be is told by its name, and by its first bytes where the name says nothing.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tracklog_log::Retention;
use tracklog_protocol::TimeMicros;

use crate::checkpoint::{self, Checkpoint, Ending};
use crate::disk::{PAGE_BYTES, PageBuffer, Slot, SlotId, open_alone, open_pack_alone, read_alone};
use crate::error::OpenError;
use crate::index_file;
use crate::journal::commit::{
    Base, CommitHeader, CommitKind, DirectoryEntry, Opened, Sealed, Stretch, control_body,
    directory,
};
use crate::journal::segment::{FIRST_COMMIT_AT, SLOT_BYTES_MAX, SlotPage};
use crate::journal::walk::Walker;
use crate::partition::places::SegmentId;
use crate::settled::pack::{PackHead, PackIndex};

/// No file but a slot is larger.
const FILE_BYTES_MAX: u64 = SLOT_BYTES_MAX;

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// What the file is: `slot`, `pack`, `checkpoint`, `index` or `cut`.
    pub kind: &'static str,
    /// What its head says, by name.
    pub facts: Vec<(&'static str, String)>,
    /// What is in it, a line each: commits, sections, partitions.
    pub lines: Vec<String>,
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        for (name, value) in &self.facts {
            write!(f, "\n  {name}: {value}")?;
        }
        for line in &self.lines {
            write!(f, "\n{line}")?;
        }
        Ok(())
    }
}

/// Looks at `file`.
///
/// # Errors
/// [`OpenError`] when it cannot be read, is of a newer format, or is none of a log's files.
pub fn inspect(file: &Path) -> Result<Inspection, OpenError> {
    let shown = file.display();
    let doing = || OpenError::io(format!("read {shown}"));
    match kind_of(file).map_err(doing())? {
        Kind::Slot(slot) => inspect_slot(file, slot),
        Kind::Checkpoint => {
            let bytes = read_alone(file, FILE_BYTES_MAX).map_err(doing())?;
            inspect_checkpoint(&bytes).ok_or_else(|| rotten(file, "a checkpoint"))
        }
        Kind::Index => {
            let bytes = read_alone(file, FILE_BYTES_MAX).map_err(doing())?;
            inspect_index(&bytes).ok_or_else(|| rotten(file, "an index"))
        }
        Kind::Cut => inspect_cut(file),
        Kind::Pack => inspect_pack(file),
        Kind::Other => {
            let what = format!("{shown} is no slot, pack, checkpoint, index or cut of a log");
            Err(OpenError::Damaged { what })
        }
    }
}

fn inspect_pack(file: &Path) -> Result<Inspection, OpenError> {
    let alone = open_pack_alone(file);
    let alone = alone.map_err(OpenError::io(format!("read {}", file.display())))?;
    let (index, _) = PackIndex::read_any(&*alone).map_err(|error| OpenError::Damaged {
        what: format!("{} cannot be read: {error}", file.display()),
    })?;
    let PackHead { id, run, last, append_time_last, batches, records, journal_bytes, file_bytes } =
        index.head;
    let facts = vec![
        ("segments", format!("{} to {}", id.first, id.last)),
        ("generation", id.generation.to_string()),
        ("last commit", format!("{last} of run {run}")),
        ("last append time", format!("{append_time_last} µs")),
        ("records", format!("{records} in {batches} batches")),
        ("bytes", format!("{file_bytes} in {} frames", index.frames.len())),
        ("bytes in the journal", journal_bytes.to_string()),
    ];
    let lines = index.shares.iter().map(|share| {
        let first = share.places.first().map_or(share.end, |place| place.base_offset);
        let (partition, places) = (share.partition, share.places.len());
        format!("{partition}: offsets {first} to {} in {places} places", share.end)
    });
    Ok(Inspection { kind: "pack", facts, lines: lines.collect() })
}

fn rotten(file: &Path, kind: &str) -> OpenError {
    let what = format!("{} is {kind} of which nothing can be read: rotten", file.display());
    OpenError::Damaged { what }
}

/// What a file should be.
enum Kind {
    /// With its number, where its name tells that.
    Slot(Option<SlotId>),
    Checkpoint,
    Index,
    Cut,
    Pack,
    Other,
}

fn kind_of(file: &Path) -> std::io::Result<Kind> {
    // A name says what a file should be, whatever became of it.
    let slot = open_alone(file)?;
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let folder = file.parent().and_then(Path::file_name);
    if let Some(number) = name.strip_prefix("slot-").and_then(|digits| digits.parse().ok()) {
        return Ok(Kind::Slot(Some(SlotId(number))));
    }
    if matches!(name, "checkpoint-a" | "checkpoint-b") {
        return Ok(Kind::Checkpoint);
    }
    if name.ends_with(".idx") {
        return Ok(Kind::Index);
    }
    if name.ends_with(".pack") {
        return Ok(Kind::Pack);
    }
    if folder.is_some_and(|folder| folder == "cut") {
        return Ok(Kind::Cut);
    }
    drop(slot);
    let head = read_alone(file, FILE_BYTES_MAX)?;
    Ok(match head.get(..8) {
        Some(b"TLOGSLOT") => Kind::Slot(None),
        Some(b"TLOGCKPT") => Kind::Checkpoint,
        Some(b"TLOGINDX") => Kind::Index,
        Some(first) if first.starts_with(b"TLC") => Kind::Cut,
        _ => Kind::Other,
    })
}

fn inspect_slot(file: &Path, slot: Option<SlotId>) -> Result<Inspection, OpenError> {
    let doing = || OpenError::io(format!("read {}", file.display()));
    let handle = open_alone(file).map_err(doing())?;
    let mut page = PageBuffer::zeroed(PAGE_BYTES);
    let first = handle.read(0, &mut page).ok().map(|()| page);
    let mut inspection = Inspection { kind: "slot", facts: Vec::new(), lines: Vec::new() };
    inspection.fact("bytes", handle.bytes());
    // A copy under another name still tells whose it is.
    let slot = slot.or_else(|| first.as_deref().and_then(named_slot)).unwrap_or(SlotId(0));
    let header = first.map_or(SlotPage::Bad, |page| SlotPage::decode(&page, slot));
    let id = match header {
        SlotPage::Header(header) => {
            inspection.fact("slot", header.slot);
            inspection.fact("log", format!("{:032x}", header.cluster.0));
            inspection.fact("slot bytes", header.slot_bytes);
            inspection.fact("segment", header.segment);
            inspection.fact("run", header.run);
            inspection.fact("stands on", base_text(header.base));
            inspection.fact("skips", header.skip);
            SegmentId {
                number: header.segment,
                slot: header.slot,
                run: header.run,
                salt: header.salt,
            }
        }
        SlotPage::OtherVersion(_) => {
            return Err(OpenError::NewerFormat { file: file.display().to_string() });
        }
        SlotPage::Blank => {
            inspection.fact("header", "blank: made, and never used".to_owned());
            return Ok(inspection);
        }
        SlotPage::Bad => {
            inspection.fact("header", "rotten".to_owned());
            let Some(id) = segment_of_first(&*handle, slot) else { return Ok(inspection) };
            inspection.fact("segment, as its first commit says", id.number);
            id
        }
    };
    inspection.commits(handle, id);
    Ok(inspection)
}

/// The slot's number in a header page.
fn named_slot(page: &[u8]) -> Option<SlotId> {
    page.get(12..16)?.try_into().ok().map(u32::from_le_bytes).map(SlotId)
}

/// Which segment lies in a slot whose header is rotten, as the first good commit says.
fn segment_of_first(handle: &dyn Slot, slot: SlotId) -> Option<SegmentId> {
    let mut page = PageBuffer::zeroed(PAGE_BYTES);
    let mut at = u64::from(FIRST_COMMIT_AT);
    while at < handle.bytes() {
        if handle.read(at, &mut page).is_ok()
            && let Ok(header) = CommitHeader::decode(&page)
            && u64::from(header.position) == at
        {
            let CommitHeader { segment: number, run, salt, .. } = header;
            return Some(SegmentId { number, slot, run, salt });
        }
        at += PAGE_BYTES as u64;
    }
    None
}

impl Inspection {
    fn fact(&mut self, name: &'static str, value: impl fmt::Display) {
        self.facts.push((name, value.to_string()));
    }

    /// The commits of a segment, and what lies between them.
    fn commits(&mut self, handle: Arc<dyn Slot>, id: SegmentId) {
        let bytes = handle.bytes();
        let mut walker = Walker::new(handle, id);
        let walked = walker.walk();
        let mut end = FIRST_COMMIT_AT;
        for found in &walked.found {
            let header = &found.header;
            if header.position > end {
                let lost = header.position - end;
                self.lines.push(format!("{end} unreadable, {lost} bytes"));
            }
            end = header.end();
            let body = walker.control_body(header);
            self.lines.push(commit_line(header, &found.entries, body.as_deref()));
        }
        if walked.newer {
            self.lines.push("a commit that needs a newer tracklog".to_owned());
        }
        self.fact("commits", walked.found.len());
        self.fact("bytes used", end);
        self.fact("bytes behind the last commit", bytes.saturating_sub(u64::from(end)));
    }
}

/// A commit in one line.
fn commit_line(header: &CommitHeader, entries: &[DirectoryEntry], body: Option<&[u8]>) -> String {
    let CommitHeader { position, number, mark, commit_bytes, append_time, .. } = header;
    let kind = match header.kind {
        CommitKind::Data => "data".to_owned(),
        CommitKind::Mark => "mark".to_owned(),
        CommitKind::Opened => "opened".to_owned(),
        CommitKind::Sealed => "sealed".to_owned(),
        CommitKind::Other { byte, .. } => format!("kind {byte}"),
    };
    let TimeMicros(at) = append_time;
    let start = format!(
        "{position} {kind} commit {number}, mark {mark}, {commit_bytes} bytes, appended at {at} µs"
    );
    match header.kind {
        CommitKind::Data => {
            let records: u64 = entries.iter().map(|entry| u64::from(entry.count)).sum();
            let (batches, parts) = (entries.len(), partition_count(entries));
            format!("{start}: {records} records in {batches} batches of {parts} partitions")
        }
        CommitKind::Opened => match body.and_then(Opened::decode) {
            Some(opened) => format!("{start}: {}", opened_text(&opened)),
            None => format!("{start}: malformed"),
        },
        CommitKind::Sealed => match body.and_then(Sealed::decode) {
            Some(next) => format!("{start}: segment {} in {} follows", next.segment, next.slot),
            None => format!("{start}: malformed"),
        },
        _ => start,
    }
}

/// How many partitions there are; their batches lie side by side.
fn partition_count(entries: &[DirectoryEntry]) -> usize {
    entries.chunk_by(|one, other| one.partition == other.partition).count()
}

fn base_text(base: Option<Base>) -> String {
    base.map_or_else(
        || "nothing: the log's first run".to_owned(),
        |base| format!("commit {} of run {}", base.number, base.run),
    )
}

fn opened_text(opened: &Opened) -> String {
    let mut text = format!("stands on {}, skips {}", base_text(opened.base), opened.skip);
    let lists =
        [("damaged", &opened.damaged), ("void", &opened.void), ("given up", &opened.given_up)];
    for (name, list) in lists {
        for Stretch { run, first, last } in list {
            let more = format!("; {name}: commits {first} to {last} of run {run}");
            text.push_str(&more);
        }
    }
    text
}

fn inspect_checkpoint(bytes: &[u8]) -> Option<Inspection> {
    let look = checkpoint::look(bytes);
    let mut inspection = Inspection { kind: "checkpoint", facts: Vec::new(), lines: Vec::new() };
    let state = match look.ending {
        Ending::Whole => "whole",
        Ending::Torn => "torn: it was being written at a crash",
        Ending::Rotten => "rotten behind the sections below",
    };
    if look.sections.is_empty() && look.ending == Ending::Rotten {
        return None;
    }
    inspection.fact("bytes", bytes.len());
    inspection.fact("state", state);
    for (kind, flags, length) in look.sections {
        let name = checkpoint::section_name(kind);
        inspection.lines.push(format!("section {kind} {name}, flags {flags}, {length} bytes"));
    }
    let Ok(checkpoint) = Checkpoint::decode(bytes) else { return Some(inspection) };
    inspection.checkpoint(&checkpoint);
    Some(inspection)
}

impl Inspection {
    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        let position = &checkpoint.position;
        self.fact("sequence", checkpoint.sequence);
        self.fact("log", format!("{:032x}", checkpoint.cluster.0));
        self.fact("slot bytes", checkpoint.slot_bytes);
        self.fact("stands at", format!("commit {} of run {}", position.number, position.run));
        self.fact("segment", format!("{}, up to {}", position.segment, position.end));
        self.fact("append time", format!("{} µs", position.append_time));
        self.fact("last data", base_text(checkpoint.base));
        self.fact("opened", opened_text(&checkpoint.opened));
        self.fact("live records", checkpoint.live.len());
        for id in &checkpoint.slots {
            let SegmentId { number, slot, run, .. } = id;
            self.lines.push(format!("segment {number} of run {run} in {slot}"));
        }
        for base in &checkpoint.ended {
            self.lines.push(format!("run {} ended at commit {}", base.run, base.number));
        }
        for topic in &checkpoint.topics {
            let (id, count) = (topic.id, topic.spec.partitions);
            let rule = match topic.spec.retention {
                Retention::Keep => "keep",
                Retention::Compact => "compact",
            };
            self.lines.push(format!("topic {id} {}, {count} partitions, {rule}", topic.name()));
        }
        for (partition, extent) in &checkpoint.partitions {
            self.lines.push(format!("{partition}: offsets {} to {}", extent.start, extent.end));
        }
    }
}

fn inspect_index(bytes: &[u8]) -> Option<Inspection> {
    let id = index_file::identity(bytes)?;
    let mut inspection = Inspection { kind: "index", facts: Vec::new(), lines: Vec::new() };
    inspection.fact("bytes", bytes.len());
    inspection.fact("segment", id.number);
    inspection.fact("run", id.run);
    let Some(index) = index_file::decode(&id, bytes) else {
        inspection.fact("state", "torn or rotten: it is made again from its segment");
        return Some(inspection);
    };
    inspection.fact("commits", index.commits.len());
    for commit in &index.commits {
        let (position, number, size) = (commit.position, commit.number, commit.commit_bytes);
        inspection.lines.push(format!("{position} commit {number}, {size} bytes"));
    }
    for share in &index.shares {
        let first = share.places.first().map_or(share.end, |place| place.base_offset);
        let (partition, batches, end) = (share.partition, share.places.len(), share.end);
        inspection.lines.push(format!("{partition}: {batches} batches, offsets {first} to {end}"));
    }
    Some(inspection)
}

/// What an opening cut: commits, of which any part may be torn.
fn inspect_cut(file: &Path) -> Result<Inspection, OpenError> {
    let doing = || OpenError::io(format!("read {}", file.display()));
    let handle = open_alone(file).map_err(doing())?;
    let mut inspection = Inspection { kind: "cut", facts: Vec::new(), lines: Vec::new() };
    inspection.fact("bytes", handle.bytes());
    let mut page = PageBuffer::zeroed(PAGE_BYTES);
    let (mut at, mut count) = (0, 0_u64);
    while at < handle.bytes() {
        handle.read(at, &mut page).map_err(doing())?;
        let Ok(header) = CommitHeader::decode(&page) else {
            at += PAGE_BYTES as u64;
            continue;
        };
        count += 1;
        inspection.lines.push(cut_line(&*handle, at, &header));
        at += u64::from(header.commit_bytes.max(FIRST_COMMIT_AT));
    }
    inspection.fact("commits", count);
    Ok(inspection)
}

/// The commit at `at` of a cut, as far as its directory or body is good.
fn cut_line(handle: &dyn Slot, at: u64, header: &CommitHeader) -> String {
    let length = header.head_bytes().min(header.commit_bytes as usize);
    let mut head = PageBuffer::zeroed(length);
    let is_read = handle.read(at, &mut head).is_ok();
    match control_body(header, &head).filter(|_| is_read) {
        Some(body) => {
            let entries = directory(header, &head).filter(|_| header.kind == CommitKind::Data);
            commit_line(header, &entries.unwrap_or_default(), Some(body))
        }
        None => format!("{} commit {}: torn", header.position, header.number),
    }
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::{Offset, PartitionId, TopicId};

    use super::*;
    use crate::journal::commit::{CommitNumber, Run, Salt, SegmentNumber};
    use crate::journal::segment::{ClusterId, SlotHeader};

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// A reader of another make would be written from FORMAT.md: these are its rows.
    #[test]
    fn fields_lie_where_the_format_says() {
        let slot = SlotHeader {
            cluster: ClusterId(16),
            slot: SlotId(12),
            slot_bytes: 32,
            segment: SegmentNumber(40),
            run: Run(48),
            salt: Salt(56),
            base: Some(Base { run: Run(64), number: CommitNumber(72), hash: 80 }),
            skip: 88,
        };
        let page = slot.encode();
        assert_eq!((page.len(), &page[..8], u32_at(&page, 8)), (4096, &b"TLOGSLOT"[..], 1));
        assert_eq!(u32_at(&page, 12), 12);
        assert!((16..=88).step_by(8).all(|at| u64_at(&page, at) == at as u64 || at == 24));
        assert!(page[96..4092].iter().all(|byte| *byte == 0));
        assert_eq!(u32_at(&page, 4092), crc32fast::hash(&page[..4092]));

        let header = CommitHeader {
            kind: CommitKind::Sealed,
            salt: Salt(8),
            run: Run(16),
            number: CommitNumber(24),
            segment: SegmentNumber(32),
            position: 40,
            commit_bytes: 44,
            chain: 48,
            mark: CommitNumber(56),
            append_time: TimeMicros(64),
            directory_bytes: 72,
            directory_crc: 76,
        };
        let bytes = header.encode();
        assert_eq!(bytes[..8], *b"TLC\x01\x01\x00\x04\x00");
        assert!([8, 16, 24, 32, 48, 56, 64].iter().all(|at| u64_at(&bytes, *at) == *at as u64));
        assert!([40, 44, 72, 76].iter().all(|at| u32_at(&bytes, *at) as usize == *at));
        assert!(bytes[80..124].iter().all(|byte| *byte == 0));
        assert_eq!(u32_at(&bytes, 124), crc32fast::hash(&bytes[..124]));

        let entry = DirectoryEntry {
            partition: PartitionId::new(TopicId(0), 4),
            base_offset: Offset(8),
            count: 16,
            place: 20,
            batch_bytes: 24,
            batch_crc: 28,
            event_time_max: TimeMicros(32),
        };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        assert_eq!(bytes.len(), 40);
        assert!([0, 4, 16, 20, 24, 28].iter().all(|at| u32_at(&bytes, *at) as usize == *at));
        assert_eq!((u64_at(&bytes, 8), u64_at(&bytes, 32)), (8, 32));
    }
}
