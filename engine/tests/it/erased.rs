//! What is erased is in no file, whenever a crash comes; and all else is there as before.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use tracklog_engine::disk::simulated::{Crash, OperationKind, SimDisk};
use tracklog_engine::disk::{Access, Disk, FileName, PAGE_BYTES, PageBuffer};
use tracklog_engine::{Engine, Options};
use tracklog_log::{Erase, EraseError, Log, Retention};
use tracklog_protocol::{KeyValue, Offset, PartitionId};

use crate::rig::{
    Contents, Machine, SLOT_BYTES, append, contents, options, payload, records, set, topic, wait,
};

/// What must be nowhere. No compression makes it smaller.
const CANARY: [u8; 64] = {
    let mut bytes = [0; 64];
    let (mut at, mut state) = (0, 0x9e37_79b9_7f4a_7c15_u64);
    while at < bytes.len() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[at] = (state >> 32) as u8;
        at += 1;
    }
    bytes
};

fn settling() -> Options {
    Options { hot_bytes: Some(SLOT_BYTES), ..options() }
}

/// Whether the canary lies in there. Pages of one byte over and over cannot hold any of it.
fn holds(bytes: &[u8]) -> bool {
    let is_plain = |page: &[u8]| page.first().is_some_and(|byte| page == vec![*byte; page.len()]);
    let pages = (0..bytes.len()).step_by(PAGE_BYTES);
    pages.into_iter().any(|at| {
        let page = &bytes[at..bytes.len().min(at + PAGE_BYTES)];
        let with_before = &bytes[at.saturating_sub(CANARY.len())..at + page.len()];
        !is_plain(page) && with_before.windows(CANARY.len()).any(|window| window == CANARY)
    })
}

fn read(bytes: u64, page: impl Fn(u64, &mut PageBuffer) -> io::Result<()>) -> Vec<u8> {
    const PIECE_BYTES: usize = 256 << 10;
    let mut read = Vec::new();
    for at in (0..bytes).step_by(PIECE_BYTES) {
        let length = PIECE_BYTES.min(usize::try_from(bytes - at).expect("it is small"));
        let mut piece = PageBuffer::zeroed(length / PAGE_BYTES * PAGE_BYTES);
        if page(at, &mut piece).is_ok() {
            read.extend_from_slice(&piece);
        }
    }
    read
}

/// The files of a machine in which the canary is.
fn files_with_it(disk: &SimDisk) -> Vec<String> {
    let mut found = Vec::new();
    let folder = disk.journal_folder().expect("the machine is on");
    for (slot, bytes) in folder.slots {
        // One that is removed, or a pack in the making, is looked at as far as it is there.
        let Ok(file) = disk.open_slot(slot, Access::Read) else { continue };
        if holds(&read(bytes, |at, page| file.read(at, page))) {
            found.push(slot.to_string());
        }
    }
    for (pack, bytes) in disk.packs_folder().expect("the machine is on") {
        let Ok(file) = disk.open_pack(pack) else { continue };
        if holds(&read(bytes, |at, page| file.read(at, page))) {
            found.push(pack.to_string());
        }
    }
    let cut = disk.cut_folder().expect("the machine is on").into_iter();
    let others = folder.indexes.into_iter().map(FileName::Index);
    let others = others.chain(cut.map(|(name, _)| FileName::Cut(name)));
    for name in others.chain([FileName::CheckpointA, FileName::CheckpointB]) {
        if disk.read_file(&name).is_ok_and(|bytes| holds(&bytes)) {
            found.push(name.path());
        }
    }
    found
}

/// A record that holds the canary, of so many bytes that nothing makes smaller.
fn planted(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut record: Vec<u8> = noise.flatten().take(bytes).collect();
    let middle = record.len() / 2;
    record[middle..middle + CANARY.len()].copy_from_slice(&CANARY);
    record
}

/// Appends large records, and some between them that are to be erased.
fn plant(log: &Engine, raw: &[PartitionId], numbers: Range<u64>, erase: &mut Vec<Erase>) {
    for number in numbers {
        let partition = raw[usize::try_from(number % 2).expect("small")];
        if number % 9 == 4 {
            let at = append(log, partition, &planted(number, 4_000)).expect("it is stored");
            erase.push(Erase::one(partition, at));
        }
        append(log, partition, &payload(number, 1 << 20)).expect("it is stored");
    }
}

/// A log with packs, hot segments and one being written, all of which hold some of what is to be
/// erased, in slots that held other things before; where that lies; and all that is there.
fn with_planted(seed: u64, options: Options) -> (Machine, Vec<Erase>, Contents) {
    let mut machine = Machine::with(seed, options);
    let raw = topic(machine.engine(), "raw", 2, Retention::Keep);
    let mut erase = Vec::new();
    plant(machine.engine(), &raw, 0..34, &mut erase);
    machine.reopen();
    let log = machine.engine();
    plant(log, &raw, 34..60, &mut erase);
    let all = contents(log);
    assert!(!files_with_it(&machine.disk).is_empty());
    (machine, erase, all)
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// All but what was to be erased is there, and of that nothing; but for the log's own records.
#[track_caller]
fn assert_erased(log: &Engine, before: &Contents, erase: &[Erase]) {
    let name = |partition: PartitionId| {
        let topic = log.topics().into_iter().find(|topic| topic.id == partition.topic);
        (topic.expect("it is there").name().to_owned(), partition.partition)
    };
    let mut left = before.clone();
    for Erase { partition, from, .. } in erase {
        left.get_mut(&name(*partition)).expect("it is there").remove(&from.0);
    }
    let mut there = contents(log);
    for contents in [&mut there, &mut left] {
        contents.remove(&("_catalog".to_owned(), 0));
    }
    for (partition, records) in &left {
        let found = &there[partition];
        assert!(found.keys().eq(records.keys()), "{partition:?} holds other offsets");
        assert!(found == records, "{partition:?} holds other records");
    }
}

#[test]
fn what_is_erased_is_in_no_file_and_all_else_is_there() {
    for hot_bytes in [Some(SLOT_BYTES), Some(0), None] {
        let (mut machine, erase, all) = with_planted(21, Options { hot_bytes, ..settling() });
        let log = machine.engine();
        let ends = [log.extent(erase[0].partition), log.extent(erase[1].partition)];
        wait(log.erase(erase.clone())).expect("it is erased");
        assert_eq!(files_with_it(&machine.disk), [""; 0]);
        assert_erased(log, &all, &erase);
        assert_eq!([log.extent(erase[0].partition), log.extent(erase[1].partition)], ends);
        assert!(log.verify(&mut |_| {}).expect("it reads").clean);
        let status = log.status();
        assert!(!status.is_erasing || status.erasing_waits.is_none());
        for crash in [Crash::Power, Crash::Kill] {
            machine.crash(crash);
            let report = machine.verify().expect("it opens");
            assert!(report.clean, "{report}");
            machine.open().expect("it opens");
            assert_erased(machine.engine(), &all, &erase);
            assert_eq!(files_with_it(&machine.disk), [""; 0]);
        }
        append(machine.engine(), erase[0].partition, b"later").expect("it goes on");
    }
}

#[test]
fn what_was_given_up_and_lies_in_a_pack_still_goes_along() {
    let (machine, mut erase, _) = with_planted(22, Options { hot_bytes: Some(0), ..settling() });
    let log = machine.engine();
    let last = erase.pop().expect("some were planted");
    for partition in [erase[0].partition, erase[1].partition] {
        let end = log.extent(partition).expect("it is there").end;
        wait(log.trim(partition, end.min(last.from))).expect("it is trimmed");
    }
    assert!(!files_with_it(&machine.disk).is_empty(), "a trim removes whole packs alone");
    wait(log.erase(vec![last])).expect("it is erased");
    assert_eq!(files_with_it(&machine.disk), [""; 0]);
}

#[test]
fn of_a_key_that_is_erased_neither_records_nor_value_are_anywhere() {
    let (mut machine, mut erase, _) = with_planted(23, settling());
    let log = machine.engine();
    let keys = topic(log, "_keys", 1, Retention::Compact)[0];
    set(log, keys, b"other", b"stays");
    for value in [&b"first"[..], &CANARY] {
        let at = set(log, keys, &[b"of ", &CANARY[..]].concat(), value);
        erase.push(Erase::one(keys, at));
    }
    machine.reopen();
    let log = machine.engine();
    assert!(files_with_it(&machine.disk).iter().any(|name| name.starts_with("checkpoint")));
    wait(log.erase(erase)).expect("it is erased");
    assert_eq!(files_with_it(&machine.disk), [""; 0]);
    assert!(records(log, keys).values().all(|record| record.ends_with(b"otherstays")));
    machine.crash(Crash::Power);
    machine.open().expect("it opens");
    assert_eq!(files_with_it(&machine.disk), [""; 0]);
}

#[test]
fn what_was_cut_from_the_log_goes_too() {
    let (mut machine, erase, _) = with_planted(24, settling());
    let name = FileName::Cut("run-1-commits-2-3-segment-1".to_owned());
    let foreign = FileName::Cut("notes".to_owned());
    machine.disk.write_file(&name, &CANARY).expect("there is room");
    machine.disk.write_file(&foreign, b"none of ours").expect("there is room");
    wait(machine.engine().erase(erase)).expect("it is erased");
    assert_eq!(files_with_it(&machine.disk), [""; 0]);
    assert_eq!(machine.disk.read_file(&foreign).expect("it stays"), b"none of ours");
    machine.stop();
}

/// Whether the catalog says that something is to be erased.
fn is_asked(all: &Contents) -> bool {
    let mut asked = std::collections::BTreeSet::new();
    for record in all[&("_catalog".to_owned(), 0)].values() {
        let record = KeyValue::decode(record).expect("the catalog holds keys and values");
        if record.key.first() == Some(&b'e') {
            match record.value {
                Some(_) => asked.insert(record.key.to_vec()),
                None => asked.remove(record.key),
            };
        }
    }
    !asked.is_empty()
}

/// Erases until that is done, or the machine is off.
fn erased_or_off(machine: &Machine, erase: &[Erase]) -> bool {
    let (log, records) = (machine.shared(), erase.to_vec());
    let erasing = std::thread::spawn(move || wait(log.erase(records)).is_ok());
    eventually("it ends", || erasing.is_finished() || machine.disk.free_bytes().is_err());
    if machine.disk.free_bytes().is_err() {
        machine.engine().close();
    }
    erasing.join().expect("it ends")
}

#[test]
fn a_crash_at_any_step_neither_loses_another_nor_lets_it_come_back() {
    let (mut machine, erase, all) = with_planted(25, settling());
    machine.stop();
    let snapshot = machine.disk.snapshot();
    let mut went_on = 0;
    let mut nth = 1;
    loop {
        machine.disk.restore(&snapshot);
        machine.open().expect("it opens");
        let crash = if nth % 2 == 0 { Crash::Power } else { Crash::Kill };
        machine.disk.crash_at_operation(nth, crash);
        let is_erased = erased_or_off(&machine, &erase);
        let is_off = machine.disk.free_bytes().is_err();
        machine.crash(crash);
        machine.disk.heal();
        machine.open().expect("it opens");
        if is_asked(&contents(machine.engine())) {
            went_on += 1;
            let disk = machine.disk.clone();
            eventually("it is erased by itself", || files_with_it(&disk).is_empty());
        } else if !is_erased {
            wait(machine.engine().erase(erase.clone())).expect("it is erased");
        }
        assert_eq!(files_with_it(&machine.disk), [""; 0], "{nth}");
        assert_erased(machine.engine(), &all, &erase);
        machine.stop();
        assert!(machine.verify().expect("it opens").clean);
        if is_erased && !is_off {
            break;
        }
        // Close together where the request is made, and further apart where packs are written.
        nth += nth / 2 + 1;
    }
    assert!(went_on > 3, "only {went_on} crashes came in between");
}

#[test]
fn what_cannot_be_wiped_is_not_called_erased() {
    let (machine, erase, _) = with_planted(26, settling());
    let log = machine.shared();
    let disk = &machine.disk;
    let lasting = tracklog_engine::disk::simulated::Lasting::Always;
    disk.fail_next(OperationKind::RemoveFile, io::ErrorKind::Other, lasting);
    let erasing = std::thread::spawn({
        let log = std::sync::Arc::clone(&log);
        move || wait(log.erase(erase))
    });
    eventually("it says what it waits for", || log.status().erasing_waits.is_some());
    assert!(!erasing.is_finished());
    assert!(log.status().is_erasing);
    disk.heal();
    disk.advance(Duration::from_secs(11));
    // Whatever the journal goes on with has it look again.
    let raw = topic(&*log, "raw", 2, Retention::Keep);
    for number in 0..40 {
        append(&*log, raw[0], &payload(number, 1 << 20)).expect("it is stored");
    }
    erasing.join().expect("it ends").expect("it is erased");
    assert_eq!(files_with_it(disk), [""; 0]);
}

#[test]
fn the_catalog_is_not_erased_and_nothing_beyond_what_is_bounded() {
    let machine = Machine::with(27, settling());
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    append(log, raw, b"some").expect("it is stored");
    let catalog = log.topic("_catalog").expect("it is there").partition(0);
    let refused = wait(log.erase(vec![Erase::one(catalog, Offset(0))]));
    assert_eq!(refused, Err(EraseError::Protected));
    let many = vec![Erase::one(raw, Offset(0)); 70_000];
    assert!(matches!(wait(log.erase(many)), Err(EraseError::TooMany { stretches: 70_000, .. })));
    assert_eq!(records(log, raw).len(), 1);
}
