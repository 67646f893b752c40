//! Putting the segments' commits in order: numbers, chain, times and offsets over all of them.
//!
//! Promises: commits are taken once, in the order of segments; memory is bounded by the number of
//! partitions and of holes.

use std::collections::{BTreeMap, VecDeque};

use tracklog_log::Extent;
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use super::pack::{CheckedPack, Stretch};
use super::report::{PartitionReport, RecordDamage, VerifyReport};
use super::segment::{BadRecords, Checked};
use super::segment_name;
use crate::checkpoint::{Checkpoint, Position};
use crate::disk::FileName;
use crate::journal::commit::{self, CommitHeader, CommitKind, CommitNumber, DirectoryEntry, Run};
use crate::journal::segment::FIRST_COMMIT_AT;
use crate::journal::walk::Found;
use crate::partition::places::{Home, SegmentId};

/// A place in the journal.
#[derive(Clone, Copy, Debug)]
struct At {
    home: Home,
    position: u64,
}

/// Commits that are missing.
struct Hole {
    commits: commit::Stretch,
    at: At,
}

/// What the commits of a partition add up to.
#[derive(Default)]
struct Tally {
    /// The offset after its last record; `None` before the first.
    end: Option<Offset>,
    records: u64,
    damaged: u64,
    first_damage: Option<RecordDamage>,
    /// How many holes there were at its last record.
    holes: usize,
    /// How far runs had skipped at its last record.
    skipped: u64,
}

impl Tally {
    /// The offset at which the partition's next records should begin, where they begin at `base`.
    /// `skipped` is how far runs have skipped, after each that did.
    fn expected(&self, base: Offset, extent: Option<&Extent>, skipped: &[u64]) -> Offset {
        let all = last_of(skipped);
        if let Some(end) = self.end {
            // What was trimmed before it was settled is not missed.
            let start = extent.map_or(Offset::ZERO, |extent| extent.start);
            return end.plus(all - self.skipped).max(start.min(base));
        }
        let start = extent.map_or(base, |extent| extent.start);
        // A partition takes part in the skips that came after it was made.
        let since = |before: &u64| start.plus(all - before) == base;
        if base <= start || skipped.iter().any(since) { base } else { start }
    }

    /// The same where the partition's next records lie in a pack: in which run they were written is
    /// not known, so that any of the skips since the last may lie between. And how far runs had
    /// skipped then.
    fn expected_in_pack(
        &self,
        base: Offset,
        extent: Option<&Extent>,
        skipped: &[u64],
    ) -> (Offset, u64) {
        let Some(end) = self.end else {
            return (self.expected(base, extent, skipped), last_of(skipped));
        };
        let possible = skipped.iter().filter(|skipped| **skipped >= self.skipped);
        let possible = possible.map(|skipped| (end.plus(skipped - self.skipped), *skipped));
        let last = possible.rev().find(|(offset, _)| *offset <= base);
        let (offset, skipped) = last.unwrap_or((end, self.skipped));
        // What was trimmed before it was settled is not missed.
        let start = extent.map_or(Offset::ZERO, |extent| extent.start);
        (offset.max(start.min(base)), skipped)
    }

    /// Notes `count` records as lost ahead of `expected`, in the first hole since the last record
    /// if there is one. Answers the count.
    fn lose(&mut self, expected: Offset, count: u64, at: At, holes: &[Hole]) -> u64 {
        let (at, what) = match holes.get(self.holes) {
            Some(hole) => {
                let commit::Stretch { run, first, .. } = hole.commits;
                (hole.at, format!("commit {first} of run {run} cannot be read"))
            }
            None => (at, "they are not there, and no commit is missing".to_owned()),
        };
        let from = self.end.unwrap_or(expected);
        self.damaged += count;
        self.first_damage.get_or_insert_with(|| at.damage(from, from.plus(count), what));
        count
    }
}

impl At {
    fn damage(&self, from: Offset, to: Offset, what: String) -> RecordDamage {
        RecordDamage {
            from: from.0,
            to: to.0,
            segment: self.home.number().0,
            slot: match self.home {
                Home::Segment(id) => id.slot.to_string(),
                Home::Pack(pack) => pack.to_string(),
            },
            position: self.position,
            what,
        }
    }
}

/// Whether two stretches of commits have one in common.
fn overlap(one: &commit::Stretch, other: &commit::Stretch) -> bool {
    one.run == other.run && one.first <= other.last && other.first <= one.last
}

fn last_of(skipped: &[u64]) -> u64 {
    skipped.last().copied().unwrap_or(0)
}

/// The commit before.
#[derive(Clone, Copy)]
struct Before {
    run: Run,
    number: CommitNumber,
    /// `None` where it is missing.
    hash: Option<u64>,
    append_time: TimeMicros,
}

/// All commits in order.
pub(super) struct Replay<'a> {
    extents: &'a BTreeMap<PartitionId, Extent>,
    /// How far each run skips ahead of the one before.
    skips: BTreeMap<Run, u64>,
    /// How far runs have skipped so far, after each that did.
    skipped: Vec<u64>,
    /// The last run in which a data commit was seen.
    data_in: Run,
    before: Option<Before>,
    holes: Vec<Hole>,
    tallies: BTreeMap<PartitionId, Tally>,
    checkpoints: VecDeque<(FileName, Checkpoint)>,
    /// Whether partitions must begin where they are said to.
    starts_are_known: bool,
    /// The last place that was looked at.
    last: Option<At>,
    /// What a topic that is gone had trimmed lies in no pack, and nobody knows how much that was.
    any_packs: bool,
}

impl<'a> Replay<'a> {
    pub(super) fn new(
        extents: &'a BTreeMap<PartitionId, Extent>,
        skips: BTreeMap<Run, u64>,
        checkpoints: Vec<(FileName, Checkpoint)>,
    ) -> Self {
        Self {
            extents,
            skips,
            skipped: vec![0],
            data_in: Run(0),
            before: None,
            holes: Vec::new(),
            tallies: BTreeMap::new(),
            checkpoints: checkpoints.into(),
            starts_are_known: true,
            last: None,
            any_packs: false,
        }
    }

    /// Begins anew: the log gave up the oldest segments while they were read.
    pub(super) fn restart(&mut self) {
        self.before = None;
        self.tallies.clear();
        self.checkpoints.clear();
        self.starts_are_known = false;
    }

    /// Takes the next segment.
    pub(super) fn segment(&mut self, checked: Checked, report: &mut VerifyReport) {
        let id = checked.expected.id;
        report.segments += 1;
        report.readable.add(&checked.readable);
        report.damaged.add(&checked.damaged);
        for problem in checked.problems {
            report.problem(problem.file, problem.position, problem.what);
        }
        checked.remarks.into_iter().for_each(|remark| report.remark(remark));
        if let Some(opened) = checked.opened {
            self.skips.insert(id.run, opened.skip);
        }
        let mut bad = checked.bad.into_iter().peekable();
        let mut end = FIRST_COMMIT_AT;
        for found in &checked.commits {
            self.commit(&id, found, end, report);
            end = found.header.end();
            while let Some(bad) = bad.next_if(|bad| bad.position < u64::from(end)) {
                self.bad_records(&id, bad);
            }
        }
        self.expect_up_to(&id, checked.expected.last, end, report);
    }

    /// Takes the next pack. All of them come before the first segment.
    pub(super) fn pack(&mut self, checked: CheckedPack, report: &mut VerifyReport) {
        let CheckedPack { head, index, runs, readable, damaged, problems } = checked;
        report.packs += 1;
        self.any_packs = true;
        report.readable.add(&readable);
        report.damaged.add(&damaged);
        for problem in problems {
            report.problem(problem.file, problem.position, problem.what);
        }
        let Some(index) = index else {
            // What it held is counted; nobody can tell where the rest goes on.
            return self.restart();
        };
        for (run, skip) in index.runs.iter().copied() {
            if self.data_in < run {
                self.data_in = run;
                self.skip(skip);
            }
        }
        // Where ends were in the middle of what was settled since, nobody can tell.
        let last = (head.run, head.last);
        self.checkpoints.retain(|(_, it)| (it.position.run, it.position.number) >= last);
        let at = At { home: Home::Pack(head.id), position: 0 };
        for Stretch { partition, from, to } in runs {
            let tally = self.tallies.entry(partition).or_default();
            let extent = self.extents.get(&partition).filter(|_| self.starts_are_known);
            let (expected, skipped) = tally.expected_in_pack(from, extent, &self.skipped);
            if from > expected && self.extents.contains_key(&partition) {
                let lost = from.0 - expected.0;
                report.damaged.records += tally.lose(expected, lost, at, &self.holes);
            }
            tally.end = Some(to.max(tally.end.unwrap_or_default()));
            tally.records += to.0 - from.0;
            tally.holes = self.holes.len();
            tally.skipped = skipped;
        }
        self.last = Some(at);
        // Between a pack and what follows others may have expired.
        self.before = None;
    }

    fn commit(&mut self, id: &SegmentId, found: &Found, end: u32, report: &mut VerifyReport) {
        let Found { header, hash, entries } = found;
        self.check_checkpoints(Some(header), report);
        // What lay in segments that were given up is not missed.
        if self.before.is_some() || header.position > FIRST_COMMIT_AT {
            self.expect_up_to(id, CommitNumber(header.number.0 - 1), end, report);
        }
        self.check_chain(id, header, report);
        if header.kind == CommitKind::Data && self.data_in < header.run {
            self.data_in = header.run;
            let skip = self.skips.get(&header.run).copied().unwrap_or(0);
            self.skip(skip);
        }
        for entry in entries {
            self.entry(id, header, entry, report);
        }
        self.last = Some(At { home: Home::Segment(*id), position: u64::from(header.position) });
        self.before = Some(Before {
            run: header.run,
            number: header.number,
            hash: Some(*hash),
            append_time: header.append_time,
        });
        self.check_reached(id, found, report);
    }

    /// Notes the numbers up to `last` that were not seen, the next of which should lie at `end`.
    fn expect_up_to(
        &mut self,
        id: &SegmentId,
        last: CommitNumber,
        end: u32,
        report: &mut VerifyReport,
    ) {
        let first = match self.before {
            Some(before) if before.run == id.run => before.number.next(),
            Some(_) => CommitNumber(1),
            // Older segments of the run may have been given up: one is missing at least.
            None => last,
        };
        if first > last {
            return;
        }
        let at = At { home: Home::Segment(*id), position: u64::from(end) };
        let commits = commit::Stretch { run: id.run, first, last };
        let what = match commits.count() {
            1 => format!("commit {first} of run {} cannot be read", id.run),
            _ => format!("commits {first} to {last} of run {} cannot be read", id.run),
        };
        report.problem(segment_name(id), Some(at.position), what);
        report.damaged.commits += commits.count();
        self.holes.push(Hole { commits, at });
        let append_time = self.before.map_or(TimeMicros(i64::MIN), |before| before.append_time);
        self.before = Some(Before { run: id.run, number: last, hash: None, append_time });
    }

    fn check_chain(&self, id: &SegmentId, header: &CommitHeader, report: &mut VerifyReport) {
        let Some(before) = self.before else { return };
        let position = Some(u64::from(header.position));
        if header.append_time <= before.append_time {
            let what = format!("the append time of commit {} goes back", header.number);
            report.problem(segment_name(id), position, what);
        }
        let follows = before.run == header.run && before.number.next() == header.number;
        if follows && before.hash.is_some_and(|hash| hash != header.chain) {
            let what = format!("commit {} does not follow on the one before", header.number);
            report.problem(segment_name(id), position, what);
        }
    }

    fn skip(&mut self, by: u64) {
        if by > 0 {
            self.skipped.push(last_of(&self.skipped) + by);
        }
    }

    /// Takes one batch as the directory names it.
    fn entry(
        &mut self,
        id: &SegmentId,
        header: &CommitHeader,
        entry: &DirectoryEntry,
        report: &mut VerifyReport,
    ) {
        let at =
            At { home: Home::Segment(*id), position: u64::from(header.position + entry.place) };
        let tally = self.tallies.entry(entry.partition).or_default();
        let base = entry.base_offset;
        let extent = self.extents.get(&entry.partition).filter(|_| self.starts_are_known);
        let expected = tally.expected(base, extent, &self.skipped);
        if tally.end.is_some_and(|end| base < end) {
            let what = format!("{} has offset {base} twice", entry.partition);
            report.problem(segment_name(id), Some(at.position), what);
        }
        let is_missed = !self.any_packs || self.extents.contains_key(&entry.partition);
        if base > expected && is_missed {
            let lost = base.0 - expected.0;
            report.damaged.records += tally.lose(expected, lost, at, &self.holes);
        }
        tally.end = Some(entry.end_offset().max(tally.end.unwrap_or_default()));
        tally.records += u64::from(entry.count);
        tally.holes = self.holes.len();
        tally.skipped = last_of(&self.skipped);
    }

    fn bad_records(&mut self, id: &SegmentId, bad: BadRecords) {
        let tally = self.tallies.entry(bad.partition).or_default();
        let at = At { home: Home::Segment(*id), position: bad.position };
        // The report counts them already, with their batch.
        tally.damaged += bad.count;
        tally.records -= bad.count;
        tally.first_damage.get_or_insert_with(|| at.damage(bad.from, bad.to, bad.what));
    }

    /// How far the last run skips, if it holds no data yet.
    pub(super) fn pending_skip(&self) -> u64 {
        let run = self.before.map_or(Run(0), |before| before.run);
        let skip = self.skips.get(&run).copied().unwrap_or(0);
        if self.data_in < run { skip } else { 0 }
    }

    /// Holds the checkpoints against the commits, as soon as `next` is not in them any more.
    fn check_checkpoints(&mut self, next: Option<&CommitHeader>, report: &mut VerifyReport) {
        let behind = |position: &Position| {
            next.is_none_or(|next| (position.run, position.number) < (next.run, next.number))
        };
        while let Some((name, checkpoint)) =
            self.checkpoints.pop_front_if(|(_, checkpoint)| behind(&checkpoint.position))
        {
            self.check_ends(&name, &checkpoint, report);
        }
    }

    /// Whether the ends that a checkpoint names are those of the commits up to it.
    fn check_ends(&self, name: &FileName, checkpoint: &Checkpoint, report: &mut VerifyReport) {
        if !self.holes.is_empty() {
            // With commits missing nobody can tell.
            return;
        }
        let run = checkpoint.position.run;
        let skip = if self.data_in < run { checkpoint.opened.skip } else { 0 };
        for (partition, extent) in &checkpoint.partitions {
            let Some(tally) = self.tallies.get(partition) else { continue };
            let Some(end) = tally.end else { continue };
            let end = end.plus(last_of(&self.skipped) - tally.skipped + skip);
            // What was trimmed before it was settled is not missed.
            let start = self.extents.get(partition).map_or(Offset::ZERO, |extent| extent.start);
            let end = end.max(start.min(extent.end));
            if end != extent.end {
                let says = extent.end;
                let what = format!("it says that {partition} ends at {says}, its commits at {end}");
                report.problem(name.path(), None, what);
            }
        }
    }

    /// Whether the commit at which a checkpoint stands is the one that it names.
    fn check_reached(&self, id: &SegmentId, found: &Found, report: &mut VerifyReport) {
        let header = &found.header;
        for (name, checkpoint) in &self.checkpoints {
            let position = &checkpoint.position;
            if (position.run, position.number) != (header.run, header.number) {
                continue;
            }
            let said = (position.segment, position.end, position.hash);
            if said != (id.number, header.end(), found.hash) {
                let what = format!("it names another commit {} than the journal", header.number);
                report.problem(name.path(), None, what);
            }
        }
    }

    /// Holds what all commits add up to against the end offsets, and reports the partitions.
    /// `listed` are missing commits that are known, `skip` how far the ends are ahead.
    pub(super) fn finish(
        mut self,
        listed: &[commit::Stretch],
        skip: u64,
        is_running: bool,
        report: &mut VerifyReport,
    ) {
        self.check_checkpoints(None, report);
        for stretch in listed {
            let seen = self.holes.iter().any(|hole| overlap(&hole.commits, stretch));
            if !seen {
                report.damaged.commits += stretch.count();
            }
        }
        self.skip(skip);
        for (partition, extent) in self.extents {
            let tally = self.tallies.entry(*partition).or_default();
            let known = Some(extent).filter(|_| self.starts_are_known);
            let expected = tally.expected(extent.end, known, &self.skipped);
            // A running log lists a commit before it raises the ends.
            if extent.end < expected && !is_running {
                let says = extent.end;
                let what = format!("{partition} ends at {says}, its commits at {expected}");
                report.problem("the checkpoint".to_owned(), None, what);
            }
            if let Some(at) = self.last
                && extent.end > expected
            {
                let lost = extent.end.0 - expected.0;
                report.damaged.records += tally.lose(expected, lost, at, &self.holes);
            }
        }
        report.partitions = self.partitions();
    }

    fn partitions(self) -> Vec<PartitionReport> {
        let report = |(id, tally): (PartitionId, Tally)| {
            let end = tally.end.unwrap_or_default();
            let extent = self.extents.get(&id);
            let extent = extent.copied().unwrap_or(Extent { start: end, end });
            PartitionReport {
                id,
                topic: String::new(),
                start: extent.start.0,
                end: extent.end.0,
                records: tally.records,
                damaged_records: tally.damaged,
                first_damage: tally.first_damage,
            }
        };
        self.tallies.into_iter().map(report).collect()
    }
}
