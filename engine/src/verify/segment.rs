//! Verifying one segment by itself: its header, its commits, their batches, its index file.
//!
//! Promises: what the disk does not give costs what lies there and no more; memory is bounded by
//! one commit, one window, and the list of the segment's batches.

use bytes::Bytes;
use tracklog_protocol::{BatchView, Offset, PartitionId, PayloadKind, Record, TimeMicros};
use tracklog_protocol::{event, rejected};

use super::report::{Counts, Problem};
use super::{read_header, segment_name};
use crate::disk::{Access, Disk, FileName, is_torn};
use crate::index_file;
use crate::journal::commit::{CommitHeader, CommitKind, CommitNumber, DirectoryEntry, Opened};
use crate::journal::segment::{FIRST_COMMIT_AT, SlotPage};
use crate::journal::walk::{Found, Walker, named_batch};
use crate::partition::places::{IndexBuilder, SegmentId, SegmentIndex};

/// So much is read at once while commits are small.
const WINDOW_BYTES: usize = 1 << 20;

/// What a segment is said to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) id: SegmentId,
    /// Its last commit that counts.
    pub(super) last: CommitNumber,
    /// Where that ends, or later.
    pub(super) end: u64,
    /// It is being written: what lies behind the end is none of ours.
    pub(super) is_active: bool,
}

/// What a segment holds.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) expected: Expected,
    /// The commits that count, with their directories.
    pub(super) commits: Vec<Found>,
    /// What the run's first commit says, where it lies here.
    pub(super) opened: Option<Opened>,
    pub(super) readable: Counts,
    pub(super) damaged: Counts,
    pub(super) bad: Vec<BadRecords>,
    pub(super) problems: Vec<Problem>,
    pub(super) remarks: Vec<String>,
}

/// Records of one batch that cannot be read.
#[derive(Debug)]
pub(super) struct BadRecords {
    pub(super) partition: PartitionId,
    pub(super) from: Offset,
    pub(super) to: Offset,
    pub(super) count: u64,
    pub(super) position: u64,
    pub(super) what: String,
}

/// Reads a segment; `read` hears of every stretch of bytes that is done with.
pub(super) fn check(
    disk: &dyn Disk,
    slot_bytes: u64,
    expected: Expected,
    read: &mut dyn FnMut(u64),
) -> Checked {
    let mut checked = Checked {
        expected,
        commits: Vec::new(),
        opened: None,
        readable: Counts::default(),
        damaged: Counts::default(),
        bad: Vec::new(),
        problems: Vec::new(),
        remarks: Vec::new(),
    };
    let slot = match disk.open_slot(expected.id.slot, Access::Read) {
        Ok(slot) => slot,
        Err(error) => {
            checked.problem(None, format!("it cannot be opened: {error}"));
            read(expected.end);
            return checked;
        }
    };
    if slot.bytes() != slot_bytes {
        let are = slot.bytes();
        checked.problem(None, format!("the file has {are} bytes instead of {slot_bytes}"));
    }
    checked.check_header(disk);
    let until = if expected.is_active { expected.end.min(slot.bytes()) } else { slot.bytes() };
    let mut walker = Walker::new(slot, expected.id);
    let walked = walker.walk_to(until);
    if walked.newer {
        checked.problem(None, "it holds a commit that needs a newer tracklog".to_owned());
    }
    let mut commits = walked.found;
    let counting = commits.partition_point(|found| found.header.number <= expected.last);
    let behind = commits.split_off(counting);
    checked.check_index(disk, &commits, &behind);
    checked.check_commits(&mut walker, commits, read);
    checked
}

impl Checked {
    fn problem(&mut self, position: Option<u64>, what: String) {
        let file = segment_name(&self.expected.id);
        self.problems.push(Problem { file, position, what });
    }

    fn check_header(&mut self, disk: &dyn Disk) {
        let id = self.expected.id;
        let is_good = match read_header(disk, id.slot) {
            Some(SlotPage::Header(header)) => {
                (header.segment, header.run, header.salt) == (id.number, id.run, id.salt)
            }
            _ => false,
        };
        if !is_good {
            self.problem(Some(0), "the slot's header is rotten or of another segment".to_owned());
        }
    }

    fn check_commits(
        &mut self,
        walker: &mut Walker,
        commits: Vec<Found>,
        read: &mut dyn FnMut(u64),
    ) {
        let mut window = Window { at: 0, bytes: Bytes::new() };
        let mut end = FIRST_COMMIT_AT;
        for found in &commits {
            let header = &found.header;
            self.damaged.bytes += u64::from(header.position - end);
            end = header.end();
            self.readable.commits += 1;
            self.readable.bytes += u64::from(header.commit_bytes);
            if header.kind == CommitKind::Opened {
                self.check_opened(walker, header);
            }
            self.check_batches(walker, &mut window, found);
            read(u64::from(header.commit_bytes));
        }
        self.commits = commits;
    }

    fn check_opened(&mut self, walker: &mut Walker, header: &CommitHeader) {
        self.opened = walker.control_body(header).and_then(|body| Opened::decode(&body));
        if self.opened.is_none() {
            let what = "what the run's first commit says is malformed".to_owned();
            self.problem(Some(u64::from(header.position)), what);
        }
    }

    fn check_batches(&mut self, walker: &Walker, window: &mut Window, found: &Found) {
        let header = &found.header;
        let whole = window.read(walker, header.position, header.commit_bytes as usize);
        for entry in &found.entries {
            let start = entry.place as usize;
            let batch = match &whole {
                Some(commit) => Some(commit.slice(start..start + entry.batch_bytes as usize)),
                // A bad sector costs the batches that lie on it.
                None => walker.bytes(header.position + entry.place, entry.batch_bytes as usize),
            };
            match check_batch(batch, header, entry) {
                Ok(()) => {
                    self.readable.batches += 1;
                    self.readable.records += u64::from(entry.count);
                }
                Err(bad) => self.note_bad(entry, bad),
            }
        }
    }

    fn note_bad(&mut self, entry: &DirectoryEntry, bad: BadRecords) {
        let bytes = u64::from(entry.batch_bytes);
        self.damaged.batches += 1;
        self.damaged.records += bad.count;
        self.damaged.bytes += bytes;
        self.readable.records += u64::from(entry.count) - bad.count;
        self.readable.bytes -= bytes;
        self.bad.push(bad);
    }

    /// Holds the index file against what the segment itself says. Where a run has ended its index may
    /// have marks besides `behind` the last commit that the next run stands on.
    fn check_index(&mut self, disk: &dyn Disk, commits: &[Found], behind: &[Found]) {
        if self.expected.is_active {
            return;
        }
        let name = FileName::Index(self.expected.id.number.0);
        let file = match disk.read_file(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                let what = format!("it cannot be read: {error}");
                self.problems.push(Problem { file: name.path(), position: None, what });
                return;
            }
        };
        let built = index_of(commits);
        let marks = behind.iter().take_while(|found| found.header.kind != CommitKind::Data).count();
        let longer = (1..=marks).map(|marks| index_of(commits.iter().chain(&behind[..marks])));
        let encode = |index: &SegmentIndex| index_file::encode(&self.expected.id, index);
        let mut rights = vec![encode(&built)];
        rights.extend(longer.map(|index| encode(&index)));
        let path = name.path();
        match judge_index(&self.expected.id, &file, &rights, &built) {
            Index::Good => {}
            Index::Torn => {
                self.remarks.push(format!("{path} is torn: it was being written at a crash"));
            }
            Index::Wrong(what) => {
                let what = format!("{what}; a log opens without it");
                self.problems.push(Problem { file: path, position: None, what });
            }
        }
    }
}

/// What an index file is worth.
enum Index {
    Good,
    /// Some sectors of the right one.
    Torn,
    Wrong(&'static str),
}

fn index_of<'a>(commits: impl IntoIterator<Item = &'a Found>) -> SegmentIndex {
    let mut builder = IndexBuilder::default();
    for found in commits {
        builder.add(&found.header, &found.entries);
    }
    builder.finish()
}

/// What `file` is worth, where each of `rights` would be right.
fn judge_index(id: &SegmentId, file: &[u8], rights: &[Vec<u8>], built: &SegmentIndex) -> Index {
    if rights.iter().any(|right| file == right) {
        return Index::Good;
    }
    if rights.iter().any(|right| is_torn(file, right)) {
        return Index::Torn;
    }
    match index_file::decode(id, file) {
        None => Index::Wrong("it is rotten"),
        // Where commits are missing it may know more than can be read.
        Some(index) if covers(&index, built) => Index::Good,
        Some(_) => Index::Wrong("it does not say what the segment holds"),
    }
}

/// Whether all of `part` is in `index`, and `part` lacks something.
fn covers(index: &SegmentIndex, part: &SegmentIndex) -> bool {
    let commits = part.commits.iter().all(|commit| index.commits.contains(commit));
    let shares = part.shares.iter().all(|share| {
        let whole = index.share(share.partition);
        whole.is_some_and(|whole| share.places.iter().all(|place| whole.places.contains(place)))
    });
    commits && shares && index.commits.len() > part.commits.len()
}

/// A stretch of the segment, read at once.
struct Window {
    at: u32,
    bytes: Bytes,
}

impl Window {
    /// `length` bytes at `at`; `None` when the disk does not give them.
    fn read(&mut self, walker: &Walker, at: u32, length: usize) -> Option<Bytes> {
        if let Some(bytes) = self.slice(at, length) {
            return Some(bytes);
        }
        let ahead = walker.bytes_left(at).min(WINDOW_BYTES).max(length);
        self.bytes = walker.bytes(at, ahead).or_else(|| walker.bytes(at, length))?;
        self.at = at;
        self.slice(at, length)
    }

    fn slice(&self, at: u32, length: usize) -> Option<Bytes> {
        let start = at.checked_sub(self.at)? as usize;
        let end = start.checked_add(length)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }
}

/// Checks one batch, to its last record.
fn check_batch(
    bytes: Option<Bytes>,
    header: &CommitHeader,
    entry: &DirectoryEntry,
) -> Result<(), BadRecords> {
    let bad = |from: Offset, to: Offset, count: u64, what: String| BadRecords {
        partition: entry.partition,
        from,
        to,
        count,
        position: u64::from(header.position) + u64::from(entry.place),
        what,
    };
    let whole = |what: &str| {
        bad(entry.base_offset, entry.end_offset(), u64::from(entry.count), what.to_owned())
    };
    let bytes = bytes.ok_or_else(|| whole("the disk does not give it"))?;
    let Some(batch) = named_batch(bytes.clone(), entry) else {
        let why = BatchView::check(bytes).err();
        let why = why.map_or_else(
            || "it is not the batch that its directory names".to_owned(),
            |error| error.to_string(),
        );
        return Err(whole(&why));
    };
    let event_time_max = batch.header().event_times().map(|times| times.max);
    if batch.append_time() != header.append_time
        || event_time_max.unwrap_or(TimeMicros(i64::MIN)) != entry.event_time_max
    {
        return Err(whole("its times are not those that its commit and directory say"));
    }
    let mut records = batch.records().filter(|(_, record)| !is_good(*record));
    let Some((first, record)) = records.next() else { return Ok(()) };
    let (last, count) = records.fold((first, 1), |(_, count), (offset, _)| (offset, count + 1));
    let what = format!("the record is no good {:?}, and its checksum is", record.kind());
    Err(bad(first, last.plus(1), count, what))
}

/// Whether a record is what its batch says, by the checks that it passed when it came in.
pub(super) fn is_good(record: Record<'_>) -> bool {
    match record.kind() {
        PayloadKind::Opaque => true,
        PayloadKind::KeyValue => record.key_value().is_some(),
        PayloadKind::Event => event::verify(record.bytes()).is_ok(),
        PayloadKind::Rejected => rejected::verify(record.bytes()).is_ok(),
    }
}
