//! Logs in real folders: who may open them, and what is said of files that are not as they were.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tracklog_engine::{BackendChoice, Engine, OfflineLog, OpenError, Options, inspect, verify};
use tracklog_log::Retention;

use crate::rig::{append, contents, options, payload, records, topic};

fn folder() -> TempDir {
    tempfile::tempdir().expect("there is room for a folder")
}

fn blocking() -> Options {
    Options { backend: BackendChoice::Blocking, ..options() }
}

/// A stopped log of `count` records of `length` bytes.
fn filled(count: u64, length: usize) -> TempDir {
    let folder = folder();
    let log = Engine::open(folder.path(), &blocking()).expect("a new log opens");
    let raw = topic(&log, "raw", 1, Retention::Keep)[0];
    for number in 0..count {
        append(&log, raw, &payload(number, length)).expect("it is stored");
    }
    folder
}

/// The folder's files with their contents.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).expect("it can be read");
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

fn is_one_line(error: &OpenError) -> bool {
    error.to_string().lines().count() == 1
}

#[test]
fn a_folder_that_is_open_is_refused_and_both_logs_stay_as_they_are() {
    let folder = folder();
    let log = Engine::open(folder.path(), &blocking()).expect("a new log opens");
    let raw = topic(&log, "raw", 1, Retention::Keep)[0];
    append(&log, raw, b"one").expect("it is stored");
    let error = Engine::open(folder.path(), &blocking()).expect_err("it is in use");
    assert!(error.to_string().ends_with("is in use by another process"), "{error}");
    append(&log, raw, b"two").expect("it is stored");
    drop(log);
    let log = Engine::open(folder.path(), &blocking()).expect("it is free");
    assert_eq!(records(&log, raw).len(), 2);
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_in_one_line() {
    // Nobody can make a folder there, root neither.
    let error =
        Engine::open(Path::new("/proc/tracklog"), &blocking()).expect_err("it is read-only");
    assert!(error.to_string().starts_with("could not open /proc/tracklog: "), "{error}");
    assert!(is_one_line(&error));
}

#[test]
fn a_folder_to_read_only_is_read_and_stays_as_it_is() {
    let folder = filled(3, 100);
    let before = files(folder.path());
    let journal = folder.path().join("journal");
    for path in [folder.path(), &journal] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o500)).expect("it is ours");
    }
    let log = OfflineLog::open(folder.path()).expect("it opens");
    assert_eq!(contents(&log)[&("raw".to_owned(), 0)].len(), 3);
    assert!(verify(folder.path(), &mut |_| {}).expect("it opens").clean);
    for path in [folder.path(), &journal] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("it is ours");
    }
    assert_eq!(files(folder.path()), before);
}

#[test]
fn a_truncated_segment_is_told_and_the_rest_is_read() {
    for length in [0, 512, 4096, 4096 * 2, 4096 * 3 + 512, 5_000_000, (16 << 20) - 512] {
        let folder = filled(20, 1 << 20);
        // A checkpoint then has the topic, whose record lies in what will be cut off.
        drop(Engine::open(folder.path(), &blocking()).expect("it opens"));
        let slot = folder.path().join("journal/slot-00000000");
        let file = fs::OpenOptions::new().write(true).open(slot).expect("it is there");
        file.set_len(length).expect("it is ours");
        let report = verify(folder.path(), &mut |_| {}).expect("it opens");
        assert!(!report.clean, "{length} bytes: {report}");
        let told = report.to_string();
        assert!(told.contains("slot-00000000"), "{length} bytes: {told}");
        let log = OfflineLog::open(folder.path()).expect("it opens");
        let found = contents(&log)[&("raw".to_owned(), 0)].clone();
        assert!(found.len() >= 5, "{length} bytes: the second segment is whole");
        drop(log);
        let log = Engine::open(folder.path(), &blocking()).expect("it opens");
        assert_eq!(contents(&log)[&("raw".to_owned(), 0)], found, "{length} bytes");
        let raw = topic(&log, "raw", 1, Retention::Keep)[0];
        let next = append(&log, raw, b"more").expect("it is stored").0;
        assert!(next >= 20, "{length} bytes: offset {next} was given before");
    }
}

#[test]
fn a_truncated_last_segment_is_never_taken_for_a_short_log() {
    for length in [4096 * 2, 4096 * 20, 4096 * 100 + 512] {
        let folder = filled(12, 100_000);
        let slot = folder.path().join("journal/slot-00000000");
        let file = fs::OpenOptions::new().write(true).open(slot).expect("it is there");
        file.set_len(length).expect("it is ours");
        match verify(folder.path(), &mut |_| {}) {
            Ok(report) => assert!(!report.clean, "{length} bytes: {report}"),
            Err(error) => assert!(is_one_line(&error), "{error}"),
        }
        match Engine::open(folder.path(), &blocking()) {
            Ok(log) => {
                let notes = &log.report().notes;
                assert!(!notes.is_empty(), "{length} bytes: acked records are gone in silence");
            }
            Err(error) => assert!(is_one_line(&error), "{error}"),
        }
    }
}

#[test]
fn a_truncated_last_segment_can_be_given_up_and_no_offset_is_given_twice() {
    let folder = filled(12, 100_000);
    let slot = folder.path().join("journal/slot-00000000");
    let file = fs::OpenOptions::new().write(true).open(slot).expect("it is there");
    file.set_len(4096 * 100).expect("it is ours");
    let accept = Options { accept_loss: true, ..blocking() };
    let log = Engine::open(folder.path(), &accept).expect("the loss is accepted");
    let told = log.report().notes.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(told.iter().any(|note| note.contains("slot-00000000 are missing")), "{told:?}");
    let raw = topic(&log, "raw", 1, Retention::Keep)[0];
    assert!(!records(&log, raw).is_empty(), "what is left is read");
    let next = append(&log, raw, b"more").expect("it is stored");
    assert!(next.0 >= 12, "offset {next} was given before");
    drop(log);
    let log = Engine::open(folder.path(), &blocking()).expect("it was accepted once");
    assert_eq!(append(&log, raw, b"more").expect("it is stored"), next.plus(1));
}

#[test]
fn every_file_of_a_log_can_be_looked_at() {
    let folder = filled(20, 1 << 20);
    let look = |name: &str| inspect(&folder.path().join(name)).expect("it is a log's file");
    let slot = look("journal/slot-00000000");
    assert_eq!(slot.kind, "slot");
    let text = slot.to_string();
    assert!(text.contains("\n4096 opened commit 1, mark 0, 4096 bytes, appended at "), "{text}");
    assert!(text.contains(": stands on nothing: the log's first run, skips 0"), "{text}");
    assert!(text.contains(": 1 records in 1 batches of 1 partitions"), "{text}");
    assert!(text.contains(": segment 2 in slot-00000001 follows"), "{text}");
    assert!(!text.contains("unreadable"), "{text}");
    let checkpoint = look("checkpoint-a");
    assert_eq!(checkpoint.kind, "checkpoint");
    let text = checkpoint.to_string();
    assert!(text.contains("state: whole") && text.contains("section 6 partitions"), "{text}");
    let index = look("journal/0000000000000001.idx");
    assert_eq!(index.kind, "index");
    assert!(index.to_string().contains("topic 1 partition 0: "), "{index}");
    // A copy somewhere else, under another name, is told by its first bytes.
    let copy = folder.path().join("copy");
    fs::copy(folder.path().join("journal/slot-00000000"), &copy).expect("it is copied");
    assert_eq!(inspect(&copy).expect("it is a slot").lines, slot.lines);
}

#[test]
fn rotten_files_can_be_looked_at_and_others_are_told_so_in_one_line() {
    let folder = filled(3, 10_000);
    let slot = folder.path().join("journal/slot-00000000");
    let mut bytes = fs::read(&slot).expect("it is there");
    bytes[40] ^= 1;
    bytes[4096 * 2 + 5] ^= 1;
    fs::write(&slot, &bytes).expect("it is ours");
    let text = inspect(&slot).expect("it is a slot").to_string();
    assert!(text.contains("header: rotten"), "{text}");
    assert!(text.contains("\n8192 unreadable, "), "{text}");
    for (name, bytes) in
        [("checkpoint-a", &b"TLOGCKPT"[..]), ("journal/0000000000000009.idx", b"x")]
    {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("it is ours");
        match inspect(&path) {
            Ok(torn) => assert!(torn.to_string().contains("torn"), "{torn}"),
            Err(error) => assert!(is_one_line(&error), "{error}"),
        }
    }
    let other = folder.path().join("notes.txt");
    fs::write(&other, "hello").expect("it is ours");
    let error = inspect(&other).expect_err("it is none of a log's files");
    assert!(error.to_string().contains("is no slot, pack, checkpoint, index or cut"), "{error}");
    let error = inspect(&folder.path().join("gone")).expect_err("there is no file");
    assert!(is_one_line(&error) && error.to_string().contains("gone"), "{error}");
}
