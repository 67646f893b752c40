//! Random programs of idempotent producers: what is not acked is sent again, in any order and any
//! company, by writers that take over from one another, over crashes.
//!
//! What they hold the log to: a batch is stored once, and where its ack says, whatever the one
//! that was acked; a producer's batches lie in its order; a refusal says nothing that is not so;
//! what recovery makes of the log is what the appender made of it, with checkpoints and without.

use tracklog_log::producers::BATCHES_REMEMBERED;
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{PayloadKind, ProducerEpoch, ProducerId, Sequence, VerifiedBatch};

use super::*;

const PRODUCERS: u64 = 3;

/// A producer in a partition.
type At = (u64, u32);

/// A batch that was made.
struct Made {
    stretch: std::ops::Range<u64>,
    records: Vec<Vec<u8>>,
    acked: Option<Offset>,
}

/// An append under way: batches by their number, and the epoch under which it was sent.
struct Flying {
    batches: Vec<(At, usize)>,
    epoch: u32,
    ticket: Ticket,
}

struct Program {
    numbers: Numbers,
    disk: SimDisk,
    made: BTreeMap<At, Vec<Made>>,
    /// By producer: of the writer that lives.
    epochs: BTreeMap<u64, u32>,
    flying: Vec<Flying>,
    /// The journal of this run has failed: nobody was told what became of the last appends.
    failed: bool,
    payload: u64,
}

impl Program {
    fn run(seed: u64) {
        let disk = SimDisk::new(seed);
        let mut rig = Rig::open(&disk).expect("a new log opens");
        rig.make_topic();
        let mut program = Self {
            numbers: Numbers(seed),
            disk,
            made: BTreeMap::new(),
            epochs: BTreeMap::new(),
            flying: Vec::new(),
            failed: false,
            payload: 0,
        };
        for _ in 0..program.numbers.below(5) + 2 {
            for _ in 0..program.numbers.below(150) {
                program.one_step(&mut rig);
                program.collect();
            }
            rig = program.next_run(rig);
        }
        program.send_all(&mut rig);
        program.check(true);
    }

    fn one_step(&mut self, rig: &mut Rig) {
        match self.numbers.below(12) {
            0..=1 => self.send_new(rig),
            2..=3 => self.send_again(rig),
            4..=6 => {
                rig.step();
            }
            7..=8 => {
                self.disk.step();
            }
            9 => {
                rig.keep();
            }
            10 if self.numbers.one_in(4) => {
                let id = self.numbers.below(PRODUCERS);
                *self.epochs.entry(id).or_default() += 1;
            }
            10 => {
                let fault = std::io::ErrorKind::Other;
                if self.numbers.one_in(25) {
                    self.disk.fail_next(OperationKind::Submit, fault, Lasting::Once);
                }
            }
            _ => self.disk.advance(Duration::from_millis(self.numbers.below(6_000))),
        }
    }

    /// One to three new batches of one producer.
    fn send_new(&mut self, rig: &Rig) {
        let id = self.numbers.below(PRODUCERS);
        let mut batches = Vec::new();
        for _ in 0..self.numbers.below(3) + 1 {
            let at = (id, self.numbers.below(u64::from(PARTITIONS)) as u32);
            let made = self.made.entry(at).or_default();
            // What lies behind an ack that is missing must be known again when that comes.
            let open = made.iter().position(|made| made.acked.is_none());
            if open.is_none_or(|open| made.len() - open < BATCHES_REMEMBERED) {
                let begin = made.last().map_or(0, |last| last.stretch.end);
                let made = self.make(begin);
                let list = self.made.get_mut(&at).unwrap();
                list.push(made);
                batches.push((at, list.len() - 1));
            }
        }
        self.send(rig, batches);
    }

    fn make(&mut self, begin: u64) -> Made {
        let count = self.numbers.below(4) + 1;
        let records = (0..count).map(|_| {
            self.payload += 1;
            let size = if self.numbers.one_in(10) { 300_000 } else { 200 };
            let mut bytes = self.payload.to_le_bytes().to_vec();
            bytes.resize(8 + self.numbers.below(size) as usize, self.numbers.next() as u8);
            bytes
        });
        let records = records.collect();
        let derived = self.numbers.one_in(3);
        let length = if derived { self.numbers.below(1 << 40) + 1 } else { count };
        Made { stretch: begin..begin + length, records, acked: None }
    }

    /// Some of a producer's last batches, acked or not, in some order.
    fn send_again(&mut self, rig: &Rig) {
        let id = self.numbers.below(PRODUCERS);
        let mut batches = Vec::new();
        for partition in 0..PARTITIONS {
            let made = self.made.get(&(id, partition)).map_or(0, Vec::len);
            let first = made.saturating_sub(BATCHES_REMEMBERED + 2);
            let from = first + self.numbers.below((made - first) as u64 + 1) as usize;
            let to = (from + self.numbers.below(3) as usize).min(made);
            batches.extend((from..to).map(|number| ((id, partition), number)));
        }
        self.send(rig, batches);
    }

    fn send(&mut self, rig: &Rig, batches: Vec<(At, usize)>) {
        let Some(((id, _), _)) = batches.first() else { return };
        let live = self.epochs.get(id).copied().unwrap_or_default();
        // Now and then a writer does not know yet that another took over.
        let epoch = live.saturating_sub(u32::from(self.numbers.one_in(8)));
        let built: Vec<_> = batches
            .iter()
            .map(|(at, number)| (place(at.1), self.made[at][*number].batch(at.0, epoch)))
            .collect();
        let items: Vec<_> = built
            .iter()
            .map(|(partition, batch)| Item::Batch { partition: *partition, batch })
            .collect();
        let append = Append { conditions: &[], items: &items };
        if let Ok(ticket) = rig.client.append(Lane(9), append) {
            self.flying.push(Flying { batches, epoch, ticket });
        }
    }

    /// Takes the outcomes that are known by now.
    fn collect(&mut self) {
        for mut flying in std::mem::take(&mut self.flying) {
            match decided(&mut flying.ticket) {
                None => self.flying.push(flying),
                Some(result) => self.told(&flying, result),
            }
        }
    }

    fn told(&mut self, flying: &Flying, result: Result<Stored, AppendError>) {
        match result {
            Ok(stored) => {
                for (item, (at, number)) in flying.batches.iter().enumerate() {
                    let made = &mut self.made.get_mut(at).unwrap()[*number];
                    let offset = stored.offset(item);
                    let before = made.acked.replace(offset);
                    assert!(
                        before.is_none_or(|it| it == offset),
                        "{at:?} {number} is in two places"
                    );
                    assert!(before.is_none() || stored.is_duplicate(), "{at:?} {number} again");
                }
            }
            Err(AppendError::OutOfSequence { item, expected }) => {
                let (at, number) = flying.batches[item];
                let made = &self.made[&at];
                let acked = made.iter().filter(|made| made.acked.is_some());
                let acked = acked.map(|made| made.stretch.end).max().unwrap_or(0);
                assert!(expected.0 >= acked, "{at:?}: what was acked up to {acked} is asked for");
                let ends = |made: &Made| made.stretch.end == expected.0;
                assert!(
                    expected.0 == 0 || made.iter().any(ends),
                    "{at:?} never came to {expected}"
                );
                assert!(expected.0 != made[number].stretch.start, "{at:?} sent what was asked for");
            }
            Err(AppendError::StaleProducer { item, current }) => {
                let ((id, _), _) = flying.batches[item];
                assert!(flying.epoch < current.0 && current.0 <= self.epochs[&id]);
            }
            Err(AppendError::Unknown { .. } | AppendError::Closed { .. }) => self.failed = true,
            Err(error) => panic!("{error}"),
        }
    }

    /// Ends the run and opens again, with up to three crashes on the way.
    fn next_run(&mut self, mut rig: Rig) -> Rig {
        if self.numbers.one_in(3) {
            rig.settle_marked();
            self.collect();
            assert!(self.flying.is_empty(), "all is decided");
            assert!(self.failed || rig.stepper.journal.producers_agree(), "published as stamped");
            let published = rig.stepper.journal.checkpoint().producers;
            rig.stop();
            self.disk = self.disk.reboot();
            if !self.failed {
                let found = recovered(&self.disk).producers;
                assert!(found.iter().eq(&published), "recovery makes something else of it");
            }
        } else {
            let kind = if self.numbers.one_in(2) { Crash::Power } else { Crash::Kill };
            self.disk.crash(kind);
            self.collect();
            drop(rig);
            self.disk = self.disk.reboot();
        }
        self.collect();
        self.flying.clear();
        self.failed = false;
        self.disk.heal();
        for _ in 0..self.numbers.below(3) {
            let kind = if self.numbers.one_in(2) { Crash::Power } else { Crash::Kill };
            self.disk.crash_at_operation(self.numbers.below(40) + 1, kind);
            drop(Rig::open(&self.disk));
            self.disk.crash(kind);
            self.disk = self.disk.reboot();
            self.disk.heal();
        }
        let rig = Rig::open(&self.disk);
        let rig = rig.unwrap_or_else(|error| panic!("{error}\n{:#?}", self.disk.trace()));
        self.check(false);
        rig
    }

    /// Sends what is not acked until all of it is.
    fn send_all(&mut self, rig: &mut Rig) {
        let places: Vec<At> = self.made.keys().copied().collect();
        for at in places {
            for number in 0..self.made[&at].len() {
                if self.made[&at][number].acked.is_some() {
                    continue;
                }
                let epoch = self.epochs.get(&at.0).copied().unwrap_or_default();
                let batch = self.made[&at][number].batch(at.0, epoch);
                let items = [Item::Batch { partition: place(at.1), batch: &batch }];
                let append = Append { conditions: &[], items: &items };
                let ticket = rig.client.append(Lane(9), append).expect("there is room");
                rig.settle();
                let stored = result(ticket).expect("it is decided");
                let stored = stored.unwrap_or_else(|error| panic!("{at:?} {number}: {error}"));
                self.made.get_mut(&at).unwrap()[number].acked = Some(stored.offset(0));
            }
        }
    }

    /// Checks what is on the disk; with `whole`, that all that was made is.
    fn check(&self, whole: bool) {
        let recovered = recovered(&self.disk);
        let found = contents(&self.disk, &recovered);
        let mut count = 0;
        for ((id, partition), made) in &self.made {
            let offsets_of = |bytes: &Vec<u8>| -> Vec<Offset> {
                let mine = found.iter().filter(|((of, _), _)| *of == place(*partition));
                mine.filter(|(_, found)| found[..] == bytes[..]).map(|((_, at), _)| *at).collect()
            };
            let mut last = None;
            for (number, made) in made.iter().enumerate() {
                let at: Vec<_> = made.records.iter().map(offsets_of).collect();
                assert!(at.iter().all(|at| at.len() <= 1), "{id} {partition} {number} is doubled");
                let at: Vec<Offset> = at.into_iter().flatten().collect();
                assert!(at.is_empty() || at.len() == made.records.len(), "a part of {number}");
                if let Some(acked) = made.acked {
                    assert_eq!(at.first(), Some(&acked), "{id} {partition} {number} was acked");
                }
                assert!(!whole || !at.is_empty(), "{id} {partition} {number} is not there");
                assert!(at.is_empty() || last < at.first().copied(), "{number} is out of order");
                last = at.last().copied().max(last);
                count += at.len();
            }
        }
        let ours = found.keys().filter(|(partition, _)| partition.topic == TopicId(1)).count();
        assert_eq!(ours, count, "what is there was made");
        self.check_without_checkpoints(&recovered);
    }

    /// The journal alone adds up to the same.
    fn check_without_checkpoints(&self, expected: &Recovered) {
        let copy = SimDisk::new(0);
        copy.restore(&self.disk.snapshot());
        copy.set_file(&FileName::CheckpointA, None);
        copy.set_file(&FileName::CheckpointB, None);
        // Where a slot was being prepared when the power failed, it takes a checkpoint to open.
        if let Ok(Some(found)) = recover(&copy, false) {
            assert_eq!(found.producers, expected.producers);
        }
    }
}

impl Made {
    fn batch(&self, id: u64, epoch: u32) -> VerifiedBatch {
        let (id, epoch) = (ProducerId(id), ProducerEpoch(epoch));
        let stretch = Sequence(self.stretch.start)..Sequence(self.stretch.end);
        let mut builder = BatchBuilder::new(PayloadKind::Opaque).derived_by(id, epoch, stretch);
        for record in &self.records {
            builder.push(Record::opaque(record));
        }
        builder.finish()
    }
}

#[test]
fn producers_that_send_again_until_acked_are_stored_once() {
    run_seeds(120, Program::run);
}

/// A batch of one record of producer 7, in partition 0.
fn batch(sequence: u64, bytes: &[u8]) -> VerifiedBatch {
    let made = Made { stretch: sequence..sequence + 1, records: vec![bytes.to_vec()], acked: None };
    made.batch(7, 0)
}

fn submit(rig: &Rig, batch: &VerifiedBatch) -> Ticket {
    let items = [Item::Batch { partition: place(0), batch }];
    rig.client.append(Lane(9), Append { conditions: &[], items: &items }).expect("there is room")
}

/// Sends a batch and settles: its offset, and whether it was there before.
fn send(rig: &mut Rig, batch: &VerifiedBatch) -> Result<(u64, bool), AppendError> {
    let ticket = submit(rig, batch);
    rig.settle();
    let stored = result(ticket).expect("it is decided")?;
    Ok((stored.offset(0).0, stored.is_duplicate()))
}

fn expected<T>(next: u64) -> Result<T, AppendError> {
    Err(AppendError::OutOfSequence { item: 0, expected: Sequence(next) })
}

#[test]
fn a_duplicate_waits_for_the_first_and_is_unknown_where_that_is() {
    for fails in [false, true] {
        let (disk, mut rig) = node(1);
        let sent = batch(0, b"a");
        let mut first = submit(&rig, &sent);
        rig.step();
        let mut second = submit(&rig, &sent);
        rig.step();
        assert!(decided(&mut first).is_none() && decided(&mut second).is_none());
        if fails {
            drop(rig.append(&[(place(1), vec![1; 70_000])], &[]));
            disk.fail_next(OperationKind::Submit, std::io::ErrorKind::Other, Lasting::Once);
        }
        rig.settle();
        let told = [first, second].map(|ticket| result(ticket).expect("it is decided"));
        let told = told.map(|stored| stored.map(|it| (it.offset(0).0, it.is_duplicate())));
        match told {
            [Ok(first), Ok(second)] => {
                assert!(!fails && (first, second) == ((0, false), (0, true)))
            }
            told => {
                assert!(fails, "{told:?}");
                let unknown = |it: &_| matches!(it, Err(AppendError::Unknown { .. }));
                assert!(told.iter().all(unknown), "{told:?}");
            }
        }
    }
}

#[test]
fn a_batch_that_was_cut_is_stored_when_it_is_sent_again() {
    let (disk, mut rig) = node(1);
    assert_eq!(send(&mut rig, &batch(0, b"a")), Ok((0, false)));
    rig.settle_marked();
    let torn = batch(1, &[1; 9_000]);
    assert_eq!(send(&mut rig, &torn), Ok((1, false)));
    let at = lies(&disk, Offset(1));
    let disk = power_cut(&disk, rig);
    // No mark vouches for it, and one of its pages did not come.
    disk.corrupt(at.slot, at.commit + 4096, &[0; 4096]);
    let mut rig = Rig::open(&disk).unwrap();
    assert!(rig.notes.iter().any(|note| matches!(note, Note::Cut { .. })), "{:?}", rig.notes);
    assert_eq!(send(&mut rig, &batch(2, b"c")), expected(1));
    assert_eq!(send(&mut rig, &torn), Ok((1, false)));
    assert_eq!(send(&mut rig, &batch(0, b"a")), Ok((0, true)));
}

#[test]
fn a_producer_whose_batch_is_lost_to_rot_is_asked_for_it_again() {
    let (disk, mut rig) = node(1);
    for (sequence, bytes) in (0..).zip([b"a", b"b"]) {
        assert_eq!(send(&mut rig, &batch(sequence, bytes)), Ok((sequence, false)));
    }
    rig.settle_marked();
    let at = lies(&disk, Offset(1));
    let disk = power_cut(&disk, rig);
    rot(&disk, at.slot, at.commit);
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!(missing(&rig.notes).len(), 1);
    assert_eq!(send(&mut rig, &batch(2, b"c")), expected(1));
    let (again, is_duplicate) = send(&mut rig, &batch(1, b"b")).expect("it is asked for");
    assert!(again > 1 && !is_duplicate);
    assert_eq!(send(&mut rig, &batch(2, b"c")), Ok((again + 1, false)));
    // What lies behind the loss is known again.
    assert_eq!(send(&mut rig, &batch(1, b"b")), Ok((again, true)));
}

#[test]
fn an_older_batch_in_the_place_of_a_lost_one_moves_no_producer() {
    let (disk, mut rig) = node(1);
    for (sequence, bytes) in (0..).zip([b"a", b"b"]) {
        assert_eq!(send(&mut rig, &batch(sequence, bytes)), Ok((sequence, false)));
    }
    rig.settle_marked();
    let (old, new) = (lies(&disk, Offset(0)), lies(&disk, Offset(1)));
    let disk = power_cut(&disk, rig);
    let body = disk.peek(old.slot, old.batch, old.batch_bytes);
    disk.corrupt(new.slot, new.batch, &body);
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!(send(&mut rig, &batch(0, b"a")), Ok((0, true)));
    assert_eq!(send(&mut rig, &batch(1, b"b")), Ok((2, false)));
}

#[test]
fn silence_counts_over_restarts_and_in_append_time_alone() {
    let (disk, mut rig) = node(1);
    assert_eq!(send(&mut rig, &batch(0, b"a")), Ok((0, false)));
    let day = Duration::from_secs(24 * 60 * 60);
    disk.advance(tracklog_log::producers::SILENCE_MAX - day);
    let disk = power_cut(&disk, rig);
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!(send(&mut rig, &batch(0, b"a")), Ok((0, true)));
    disk.advance(day + Duration::from_secs(1));
    let disk = power_cut(&disk, rig);
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!(send(&mut rig, &batch(1, b"b")), expected(0));
    assert_eq!(send(&mut rig, &batch(0, b"b")), Ok((1, false)));
}

#[test]
fn batches_of_a_topic_that_is_deleted_meanwhile_leave_no_producer() {
    let (disk, mut rig) = node(1);
    assert_eq!(send(&mut rig, &batch(0, b"a")), Ok((0, false)));
    // The deletion and what comes after it are in flight together.
    let name = tracklog_log::TopicName::new("t").unwrap();
    let key = catalog::topic_key(&name);
    let mut buffer = Vec::new();
    let record = tracklog_protocol::KeyValue { key: &key, value: None }.encode(&mut buffer);
    let items = [Item::Record { partition: catalog::PARTITION, record }];
    let deleted = rig.client.append(Lane(9), Append { conditions: &[], items: &items }).unwrap();
    rig.step();
    let late = submit(&rig, &batch(1, &vec![1; 70_000]));
    rig.step();
    assert_eq!(disk.in_flight(), 2);
    let waiting = submit(&rig, &batch(2, b"c"));
    rig.settle_marked();
    for ticket in [deleted, late, waiting] {
        assert!(result(ticket).expect("it is decided").is_ok());
    }
    assert_eq!(rig.stepper.journal.checkpoint().producers, []);
    let disk = power_cut(&disk, rig);
    assert_eq!(recovered(&disk).producers.iter().count(), 0);
}

#[test]
fn a_batch_is_known_again_after_restarts_that_wrote_nothing_else() {
    let (disk, mut rig) = node(1);
    let first = batch(0, b"a");
    assert_eq!(send(&mut rig, &first), Ok((0, false)));
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let disk = power_cut(&disk, Rig::open(&disk).unwrap());
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!(send(&mut rig, &first), Ok((0, true)));
}

/// A node with a batch of producer 7 behind one of another, both in one commit, whose power was
/// cut before any checkpoint knew of them. The header of the second lies on two pages, far behind
/// that of the first.
fn node_with_a_header_on_two_pages(sent: &VerifiedBatch) -> SimDisk {
    let header_bytes = tracklog_protocol::batch::HEADER_BYTES_MAX as u64;
    for filler in (200_000..204_200).step_by(16) {
        let (disk, mut rig) = node(1);
        let records = vec![vec![1; filler]];
        let other = Made { stretch: 0..1, records, acked: None }.batch(8, 0);
        let items = [&other, sent].map(|batch| Item::Batch { partition: place(0), batch });
        let append = Append { conditions: &[], items: &items };
        let ticket = rig.client.append(Lane(9), append).expect("there is room");
        rig.settle_marked();
        result(ticket).expect("it is decided").expect("it is stored");
        let page_left = 4096 - lies(&disk, Offset(1)).batch % 4096;
        if page_left < header_bytes / 2 {
            return power_cut(&disk, rig);
        }
    }
    panic!("no filler is right");
}

#[test]
fn a_read_that_fails_once_lets_no_opening_forget_a_batch() {
    let sent = batch(0, b"a");
    let mut disk = node_with_a_header_on_two_pages(&sent);
    let before = disk.snapshot();
    for nth in 1.. {
        disk.restore(&before);
        let first = disk.operations();
        disk.fail_operation(nth, std::io::ErrorKind::Other, Lasting::Once);
        let opened = Rig::open(&disk);
        let operations = disk.operations() - first;
        disk.heal();
        disk = match opened {
            Ok(rig) => power_cut(&disk, rig),
            Err(_) => power_cut_again(&disk),
        };
        let mut rig = Rig::open(&disk).unwrap();
        assert_eq!(send(&mut rig, &sent), Ok((1, true)), "operation {nth} failed");
        disk = power_cut(&disk, rig);
        if nth > operations {
            assert!(nth > 20, "{nth}");
            return;
        }
    }
}
