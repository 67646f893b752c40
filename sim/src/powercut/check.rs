//! What must hold of a log after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tracklog_engine::{BackendChoice, Engine, Note, Options, WhenFull, verify};
use tracklog_log::block_on;
use tracklog_log::{Append, Domain, Fetch, FetchMode, Item, Lane, Log, Topic};
use tracklog_protocol::{Offset, Record};

use super::marks::{Mark, Stored};
use super::records::{self, Number};
use super::workload::{PARTITIONS, TOPIC, options};

/// What was acked before the cut, and what is known of starts.
#[derive(Debug, Default)]
pub(super) struct Acked {
    stored: Vec<Stored>,
    /// By partition: the first start that was seen after the cut.
    starts_after: [Option<u64>; PARTITIONS as usize],
}

impl Acked {
    /// What the marks before a cut say, and those after it.
    pub(super) fn of<'a>(
        before: impl Iterator<Item = &'a Mark>,
        after: impl Iterator<Item = &'a Mark>,
    ) -> Self {
        let stored = before.flat_map(|mark| mark.stored.iter().copied()).collect();
        let mut starts_after = [None; PARTITIONS as usize];
        // What a producer's first mark after the cut says it may have looked up before the cut.
        let mut marked = BTreeSet::new();
        for mark in after {
            let first = mark.stored.first().is_some_and(|it| marked.insert(it.producer));
            for it in mark.stored.iter().filter(|_| !first) {
                starts_after[it.partition as usize].get_or_insert(it.start);
            }
        }
        Self { stored, starts_after }
    }

    /// How many records.
    fn records(&self) -> u64 {
        self.stored.iter().map(|it| it.count).sum()
    }
}

/// What is wrong.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Records that were acked, not given up since, and so looked for.
    pub(super) checked: u64,
    /// How many of them are not there.
    pub(super) lost: u64,
    /// In words: the first few.
    pub(super) wrong: Vec<String>,
}

const WRONG_MAX: usize = 8;

impl Findings {
    fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.wrong.len() < WRONG_MAX {
            self.wrong.push(what());
        }
    }

    fn all_is_lost(&mut self, acked: &Acked) {
        self.checked += acked.records();
        self.lost += acked.records();
    }

    pub(super) fn is_good(&self) -> bool {
        self.lost == 0 && self.wrong.is_empty()
    }
}

/// What a partition holds.
struct Share {
    start: u64,
    records: BTreeMap<u64, (Number, bool)>,
}

/// Opens the log in `folder` and holds it to what was acked; then appends to it and opens it
/// again.
pub(super) fn check(folder: &Path, acked: &Acked) -> Findings {
    let mut findings = Findings::default();
    if acked.stored.is_empty() && !folder.join("lock").exists() {
        return findings;
    }
    let offline = verify(folder, &mut |_| {});
    match offline {
        Ok(report) if report.clean => {}
        Ok(report) => findings.tell(|| format!("verify: {:?}", report.problems.first())),
        // A log that was not made yet.
        Err(_) if acked.stored.is_empty() => {}
        Err(error) => findings.tell(|| format!("verify: {error}")),
    }
    let Some(shares) = open_and_read(folder, acked, &mut findings) else { return findings };
    compare(&shares, acked, &mut findings);
    append_and_reopen(folder, &shares, &mut findings);
    findings
}

fn open(folder: &Path, findings: &mut Findings) -> Option<Engine> {
    // With room for as many segments as there may be: opening gives none up.
    let options = Options {
        journal_bytes_max: None,
        when_full: WhenFull::Refuse,
        ..options(BackendChoice::Blocking)
    };
    match Engine::open(folder, &options) {
        Ok(log) => Some(log),
        Err(error) => {
            findings.tell(|| format!("it does not open: {error}"));
            None
        }
    }
}

/// None when the log does not open; then all is lost.
fn open_and_read(folder: &Path, acked: &Acked, findings: &mut Findings) -> Option<Vec<Share>> {
    let Some(log) = open(folder, findings) else {
        findings.all_is_lost(acked);
        return None;
    };
    for note in &log.report().notes {
        // Whether a checkpoint is torn, as a cut may leave it, or rotten, `verify` has said.
        if !matches!(note, Note::Cut { .. } | Note::Checkpoint { .. }) {
            findings.tell(|| format!("the opening says: {note}"));
        }
    }
    let Some(topic) = log.topic(TOPIC) else {
        findings.all_is_lost(acked);
        return None;
    };
    Some(topic.partitions().map(|it| read(&log, it, findings)).collect())
}

fn read(log: &Engine, partition: tracklog_protocol::PartitionId, findings: &mut Findings) -> Share {
    let extent = log.extent(partition).expect("the topic is listed");
    let mut share = Share { start: extent.start.0, records: BTreeMap::new() };
    let mut next = extent.start;
    while next < extent.end {
        let from = vec![(partition, next)];
        let fetch = Fetch { from, bytes_max: 4 << 20, wait: false, mode: FetchMode::Replay };
        let mut fetched = match block_on(log.fetch(fetch)) {
            Ok(fetched) => fetched,
            Err(error) => {
                findings.tell(|| format!("{partition} at {next}: {error}"));
                return share;
            }
        };
        let part = fetched.partitions.pop().expect("one was asked for");
        for damage in &part.damage {
            findings.tell(|| format!("damage: {}", damage.what));
        }
        for (offset, record) in part.batches.iter().flat_map(|batch| batch.records()) {
            if offset < next {
                continue;
            }
            match records::read(record.bytes()) {
                Some(number) => drop(share.records.insert(offset.0, number)),
                None if record.bytes() == AFTERWARDS => {}
                None => findings.tell(|| format!("{partition} {offset} is no record of ours")),
            }
        }
        next = part.next;
    }
    share
}

fn compare(shares: &[Share], acked: &Acked, findings: &mut Findings) {
    for it in &acked.stored {
        let share = &shares[it.partition as usize];
        for at in (0..it.count).filter(|at| it.offset + at >= share.start) {
            findings.checked += 1;
            let wanted = Number { producer: it.producer, number: it.first + at };
            let found = share.records.get(&(it.offset + at)).map(|(number, _)| *number);
            if found != Some(wanted) {
                findings.lost += 1;
                let place = (it.partition, it.offset + at);
                findings.tell(|| format!("{wanted:?} was acked at {place:?}, there is {found:?}"));
            }
        }
    }
    for (share, later) in shares.iter().zip(acked.starts_after) {
        if later.is_some_and(|later| share.start > later) {
            findings.tell(|| format!("it starts at {}, and later at {later:?}", share.start));
        }
        let dense = (share.start..).zip(share.records.keys()).all(|(at, offset)| at == *offset);
        if !dense {
            findings.tell(|| "offsets are not dense".to_owned());
        }
    }
    each_append_is_whole(shares, findings);
}

/// Of each producer an unbroken stretch of numbers is left, each once, and the last one ends its
/// append: older ones were given up with their segment.
fn each_append_is_whole(shares: &[Share], findings: &mut Findings) {
    let mut found: BTreeMap<u32, BTreeMap<u64, bool>> = BTreeMap::new();
    for (number, ends) in shares.iter().flat_map(|share| share.records.values()) {
        let numbers = found.entry(number.producer).or_default();
        if numbers.insert(number.number, *ends).is_some() {
            findings.tell(|| format!("{number:?} is there twice"));
        }
    }
    for (producer, numbers) in &found {
        let first = *numbers.keys().next().expect("a producer that was found");
        let unbroken = (first..).zip(numbers.keys()).all(|(number, found)| number == *found);
        let ends = numbers.values().next_back().copied().unwrap_or(true);
        if !unbroken || !ends {
            let shape = (unbroken, ends);
            findings.tell(|| format!("producer {producer}: an append in part, {shape:?}"));
        }
    }
}

/// What is appended after a cut.
const AFTERWARDS: &[u8] = b"afterwards";

fn append_and_reopen(folder: &Path, shares: &[Share], findings: &mut Findings) {
    let Some(log) = open(folder, findings) else { return };
    let topic = log.topic(TOPIC).expect("it was there a moment ago");
    let offset = match append_one(&log, &topic) {
        Ok(offset) => offset,
        Err(error) => return findings.tell(|| format!("it takes no append: {error}")),
    };
    let end = shares[0].records.keys().next_back().map_or(shares[0].start, |last| last + 1);
    if offset.0 != end {
        findings.tell(|| format!("the next append lies at {offset}, the log ended at {end}"));
    }
    drop(log);
    let Some(log) = open(folder, findings) else { return };
    let again = read(&log, topic.partition(0), findings);
    let extent = log.extent(topic.partition(0)).expect("the topic is listed");
    let same = again.records == shares[0].records || again.start > shares[0].start;
    if extent.end != offset.plus(1) || !same {
        findings
            .tell(|| format!("opened once more it ends at {}, not behind {offset}", extent.end));
    }
}

fn append_one(log: &Engine, topic: &Topic) -> Result<Offset, tracklog_log::AppendError> {
    let epoch = block_on(log.open(Domain::WHOLE))?;
    let partition = topic.partition(0);
    let permit = log.reserve(Lane::FIRST_SOURCE, 4096).expect("nothing else is reserved");
    let items = [Item::Record { partition, record: Record::opaque(AFTERWARDS) }];
    let append = Append { conditions: &[], items: &items };
    Ok(block_on(log.append(permit, epoch, append))?.offset(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(producer: u32, offset: u64, first: u64, start: u64) -> Stored {
        Stored { partition: 0, offset, producer, first, count: 2, start }
    }

    fn share(start: u64, numbers: &[(u32, u64, bool)]) -> Share {
        let number = |it: &(u32, u64, bool)| (Number { producer: it.0, number: it.1 }, it.2);
        Share { start, records: (start..).zip(numbers.iter().map(number)).collect() }
    }

    fn wrong(shares: &[Share], acked: &Acked) -> Findings {
        let mut findings = Findings::default();
        compare(shares, acked, &mut findings);
        findings
    }

    #[test]
    fn what_was_acked_must_be_there_unless_it_was_given_up() {
        let marks = [Mark { stored: vec![stored(1, 4, 0, 0), stored(1, 6, 2, 0)] }];
        let acked = Acked::of(marks.iter(), [].iter());
        let whole = [(1, 0, false), (1, 1, false), (1, 2, false), (1, 3, true)];
        assert_eq!(acked.records(), 4);
        assert!(wrong(&[share(4, &whole)], &acked).is_good());
        let given_up = wrong(&[share(6, &whole[2..])], &acked);
        assert!(given_up.is_good() && given_up.checked == 2);
        assert_eq!(wrong(&[share(4, &whole[..3])], &acked).lost, 1);
        assert_eq!(wrong(&[share(5, &whole)], &acked).lost, 3);
    }

    #[test]
    fn an_append_in_part_and_a_record_twice_are_found() {
        let none = Acked::default();
        assert!(!wrong(&[share(0, &[(1, 0, false)])], &none).is_good());
        assert!(!wrong(&[share(0, &[(1, 0, true), (1, 0, true)])], &none).is_good());
        assert!(!wrong(&[share(0, &[(1, 0, true), (1, 2, true)])], &none).is_good());
        assert!(wrong(&[share(0, &[(1, 0, false)]), share(9, &[(1, 1, true)])], &none).is_good());
    }

    #[test]
    fn a_start_goes_back_for_no_reader_but_a_mark_may_be_late() {
        let mark = |producer, start| Mark { stored: vec![stored(producer, 50, 0, start)] };
        let after = [mark(1, 3), mark(2, 3), mark(1, 7), mark(1, 9)];
        let acked = Acked::of([].iter(), after.iter());
        assert_eq!(acked.starts_after[0], Some(7));
        assert!(wrong(&[share(7, &[])], &acked).is_good());
        assert!(!wrong(&[share(8, &[])], &acked).is_good());
    }
}
