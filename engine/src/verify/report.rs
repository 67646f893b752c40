//! What a verification found: fields for programs, lines for people.

use std::fmt;

use tracklog_protocol::PartitionId;

use crate::journal::recovery::Note;

/// So many problems are kept; more are counted.
const PROBLEMS_MAX: usize = 1_000;

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of packs and segments read.
    pub bytes_done: u64,
    /// Bytes of packs and segments to read in all.
    pub bytes_total: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Whether all that was acked and not given up since is there and good.
    pub clean: bool,
    /// Segments in use.
    pub segments: u64,
    /// Packs in use.
    pub packs: u64,
    /// Slots that hold none.
    pub slots_unused: u64,
    /// What can be read.
    pub readable: Counts,
    /// What cannot, as far as it can be counted: whole commits that are missing, and batches and
    /// records that are bad or lie in them.
    pub damaged: Counts,
    /// Every partition that is there or has records, by topic and number.
    pub partitions: Vec<PartitionReport>,
    /// What is wrong, in the order found: the first thousand.
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problem_count: u64,
    /// What a crash left behind and the next opening tidies up: no damage.
    pub remarks: Vec<String>,
    /// What recovery found.
    pub notes: Vec<Note>,
}

/// How much of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commits.
    pub commits: u64,
    /// Batches.
    pub batches: u64,
    /// Records.
    pub records: u64,
    /// Bytes, headers and padding included.
    pub bytes: u64,
}

impl Counts {
    pub(super) const fn add(&mut self, more: &Self) {
        self.commits += more.commits;
        self.batches += more.batches;
        self.records += more.records;
        self.bytes += more.bytes;
    }
}

/// One partition.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionReport {
    /// Its numbers.
    pub id: PartitionId,
    /// Its topic's name.
    pub topic: String,
    /// The first offset that is still wanted.
    pub start: u64,
    /// The offset after its last record.
    pub end: u64,
    /// Records that can be read, those below the start that lie on the disk still included.
    pub records: u64,
    /// Records that cannot.
    pub damaged_records: u64,
    /// Where the first of these is.
    pub first_damage: Option<RecordDamage>,
}

/// Records that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordDamage {
    /// The first of them.
    pub from: u64,
    /// The offset after the last of them.
    pub to: u64,
    /// The segment they lie in, or should; of a pack the last one that is in it.
    pub segment: u64,
    /// The slot's file, or the pack's.
    pub slot: String,
    /// Where in the file.
    pub position: u64,
    /// What is wrong.
    pub what: String,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Where in it, where that can be said.
    pub position: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl VerifyReport {
    pub(super) fn problem(&mut self, file: String, position: Option<u64>, what: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { file, position, what });
        }
    }

    pub(super) fn remark(&mut self, what: String) {
        if self.remarks.len() < PROBLEMS_MAX {
            self.remarks.push(what);
        }
    }

    /// Says whether it is clean.
    pub(super) fn judge(&mut self) {
        let is_damage = |note: &Note| {
            matches!(
                note,
                Note::Missing { .. }
                    | Note::LostKey { .. }
                    | Note::SlotUnreadable { .. }
                    | Note::Pack { .. }
            )
        };
        self.clean = self.problem_count == 0
            && self.damaged == Counts::default()
            && !self.notes.iter().any(is_damage);
    }

    /// The partitions with damage.
    pub fn damaged_partitions(&self) -> impl Iterator<Item = &PartitionReport> {
        self.partitions.iter().filter(|partition| partition.damaged_records > 0)
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for remark in &self.remarks {
            writeln!(f, "{remark}")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        if self.problem_count > self.problems.len() as u64 {
            writeln!(f, "… {} problems in all", self.problem_count)?;
        }
        for partition in self.damaged_partitions() {
            writeln!(f, "{partition}")?;
        }
        let Self { readable, segments, packs, .. } = self;
        match packs {
            0 => writeln!(f, "readable: {readable} in {segments} segments")?,
            _ => writeln!(f, "readable: {readable} in {segments} segments and {packs} packs")?,
        }
        if self.damaged != Counts::default() {
            writeln!(f, "damaged: {}", self.damaged)?;
        }
        f.write_str(if self.clean { "clean" } else { "not clean" })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commits, batches, records, bytes } = self;
        write!(f, "{records} records, {batches} batches, {commits} commits, {bytes} bytes")
    }
}

impl fmt::Display for PartitionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} partition {}", self.topic, self.id.partition)?;
        let Some(first) = &self.first_damage else {
            return write!(f, ": {} records, offsets {} to {}", self.records, self.start, self.end);
        };
        let (bad, good) = (self.damaged_records, self.records);
        write!(f, ": {bad} records are damaged, {good} are readable; the first damage: {first}")
    }
}

impl fmt::Display for RecordDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, segment, slot, position, what } = self;
        let last = to - 1;
        write!(f, "offsets {from} to {last} at {position} of segment {segment} in {slot}: {what}")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "{} at {position}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}
