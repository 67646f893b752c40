//! What every backend promises, tried on each of them: threads and io_uring, with O_DIRECT and
//! without, and the simulated disk. A backend that this machine refuses is left out, aloud.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use super::files::FileDisk;
use super::probe::Paging;
use super::simulated::SimDisk;
use super::*;

const SLOT: SlotId = SlotId(7);
const SLOT_BYTES: u64 = 2 << 20;
const PAGE: u64 = PAGE_BYTES as u64;

/// A disk of some kind, and the folder that it lives in.
struct Tried {
    name: String,
    disk: Arc<dyn Disk>,
    _folder: Option<tempfile::TempDir>,
}

impl Tried {
    fn slot(&self) -> Arc<dyn Slot> {
        self.disk.create_slot(SLOT, SLOT_BYTES, &mut |_| {}).unwrap();
        self.disk.open_slot(SLOT, Access::Write).unwrap()
    }
}

fn on_each_backend(check: impl Fn(&Tried)) {
    let kinds = [BackendChoice::Blocking, BackendChoice::Uring];
    for (choice, paging) in
        kinds.iter().flat_map(|kind| [(*kind, Paging::BestAvailable), (*kind, Paging::Buffered)])
    {
        if let Some(tried) = on_files(choice, paging) {
            check(&tried);
        }
    }
    let simulated = SimDisk::new(1);
    simulated.set_auto(true);
    let disk = Arc::new(simulated);
    check(&Tried { name: "simulated".to_owned(), disk, _folder: None });
}

fn on_files(choice: BackendChoice, paging: Paging) -> Option<Tried> {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("{choice:?}, {paging:?}");
    match FileDisk::open_to_write(folder.path(), choice, paging) {
        Ok(disk) if disk.backend().direct != (paging == Paging::BestAvailable) => {
            eprintln!("left out: {name}: O_DIRECT is refused in {}", folder.path().display());
            None
        }
        Ok(disk) => Some(Tried { name, disk: Arc::new(disk), _folder: Some(folder) }),
        Err(OpenFolderError::NoUring { source }) => {
            eprintln!("left out: {name}: {source}");
            None
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

fn pages(fill: u8, count: usize) -> Bytes {
    let mut buffer = PageBuffer::zeroed(count * PAGE_BYTES);
    buffer.fill(fill);
    buffer.freeze()
}

fn read(slot: &dyn Slot, at: u64, count: usize) -> Vec<u8> {
    let mut buffer = PageBuffer::zeroed(count * PAGE_BYTES);
    slot.read(at, &mut buffer).unwrap();
    buffer.to_vec()
}

/// A completion that sends its result.
fn tell<T: Send + 'static>(to: &mpsc::Sender<(T, io::Result<()>)>, what: T) -> WriteDone {
    let to = to.clone();
    Box::new(move |result| to.send((what, result)).unwrap())
}

#[test]
fn submitted_writes_are_read_back_once_done() {
    on_each_backend(|tried| {
        let slot = tried.slot();
        let (ended, ends) = mpsc::channel();
        for number in 0..4_u8 {
            let at = u64::from(number) * 3 * PAGE;
            slot.submit(at, pages(number + 1, 3), tell(&ended, number));
        }
        for _ in 0..4 {
            let (number, result) = ends.recv().unwrap();
            result.unwrap();
            let found = read(&*slot, u64::from(number) * 3 * PAGE, 3);
            assert!(found.iter().all(|byte| *byte == number + 1), "{}", tried.name);
        }
        assert!(read(&*slot, 12 * PAGE, 4).iter().all(|byte| *byte == 0), "{}", tried.name);
    });
}

#[test]
fn each_completion_is_called_once_also_when_too_many_wait() {
    on_each_backend(|tried| {
        let slot = tried.slot();
        let (ended, ends) = mpsc::channel();
        let places = SLOT_BYTES / PAGE;
        for number in 0..places {
            slot.submit(number * PAGE, pages(1, 1), tell(&ended, number));
        }
        drop(ended);
        let mut told: Vec<_> = ends.iter().collect();
        told.sort_by_key(|(number, _)| *number);
        assert!(told.iter().map(|(number, _)| *number).eq(0..places), "{}", tried.name);
        for (number, result) in told {
            let expected = match result {
                Ok(()) => 1,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{}", tried.name);
                    0
                }
            };
            assert_eq!(read(&*slot, number * PAGE, 1)[0], expected, "{}", tried.name);
        }
    });
}

#[test]
fn completion_may_submit_the_next_write() {
    fn chain(slot: &Arc<dyn Slot>, number: u8, ended: mpsc::Sender<()>) {
        let next = Arc::clone(slot);
        let done = move |result: io::Result<()>| {
            result.unwrap();
            match number {
                20 => ended.send(()).unwrap(),
                _ => chain(&next, number + 1, ended),
            }
        };
        slot.submit(u64::from(number) * PAGE, pages(number, 1), Box::new(done));
    }
    on_each_backend(|tried| {
        let slot = tried.slot();
        let (ended, ends) = mpsc::channel();
        chain(&slot, 1, ended);
        ends.recv().unwrap();
        for number in 1..=20_u8 {
            assert_eq!(read(&*slot, u64::from(number) * PAGE, 1)[0], number, "{}", tried.name);
        }
    });
}

/// The backends that write to files: on the simulated disk a write ends when it is told to.
fn on_each_backend_of_files(check: impl Fn(&Tried)) {
    on_each_backend(|tried| {
        if tried._folder.is_some() {
            check(tried);
        }
    });
}

#[test]
fn who_waits_makes_the_first_write_itself_and_what_follows_goes_to_the_backend() {
    on_each_backend_of_files(|tried| {
        let slot = tried.slot();
        let (ended, ends) = mpsc::channel();
        let by = move |number: u8| {
            let ended = ended.clone();
            move |result: io::Result<()>| {
                result.unwrap();
                ended.send((number, thread::current().id())).unwrap();
            }
        };
        let (next, behind) = (Arc::clone(&slot), by(3));
        let first = by(1);
        let done = move |result| {
            assert!(is_telling());
            first(result);
            next.submit(2 * PAGE, pages(3, 1), Box::new(behind));
        };
        write_here(|| {
            slot.submit(0, pages(1, 1), Box::new(done));
            slot.submit(PAGE, pages(2, 1), Box::new(by(2)));
        });
        assert!(!is_telling());
        let own = thread::current().id();
        let mut told: Vec<_> = (0..3).map(|_| ends.recv().unwrap()).collect();
        told.sort_by_key(|(number, _)| *number);
        let here: Vec<_> = told.iter().map(|(_, thread)| *thread == own).collect();
        assert_eq!(here, [true, false, false], "{}", tried.name);
        for number in 0..3 {
            assert_eq!(read(&*slot, u64::from(number) * PAGE, 1)[0], number + 1, "{}", tried.name);
        }
    });
}

#[test]
fn a_write_that_a_panicking_caller_was_to_make_is_told_as_failed() {
    on_each_backend_of_files(|tried| {
        let slot = tried.slot();
        let (ended, ends) = mpsc::channel();
        let panics = AssertUnwindSafe(|| {
            write_here(|| {
                slot.submit(0, pages(1, 1), tell(&ended, 1));
                panic!("as it is meant to");
            })
        });
        catch_unwind(panics).unwrap_err();
        assert!(ends.try_recv().unwrap().1.is_err(), "{}", tried.name);
        slot.submit(PAGE, pages(2, 1), tell(&ended, 2));
        assert!(ends.recv().unwrap().1.is_ok(), "{}: this thread offers nothing more", tried.name);
    });
}

#[test]
fn dropping_slot_and_disk_ends_what_they_were_given() {
    on_each_backend(|tried| {
        let slot = tried.slot();
        let (ended, ends) = mpsc::channel();
        for number in 0..16 {
            slot.submit(number * 16 * PAGE, pages(3, 16), tell(&ended, number));
        }
        drop((slot, ended));
        assert!(ends.iter().all(|(_, result)| result.is_ok()), "{}", tried.name);
        // The lock was free as soon as the last write had told so.
        let again = tried.disk.open_slot(SLOT, Access::Write).unwrap();
        assert!(read(&*again, 0, 256).iter().all(|byte| *byte == 3), "{}", tried.name);
    });
}

#[test]
fn last_user_may_go_from_inside_a_completion() {
    for choice in [BackendChoice::Blocking, BackendChoice::Uring] {
        let Some(tried) = on_files(choice, Paging::BestAvailable) else { continue };
        let slot = tried.slot();
        let (ended, ends) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let keeps = (tried, Arc::clone(&slot));
        let done = move |result: io::Result<()>| {
            gone.recv().unwrap();
            drop(keeps);
            ended.send(result).unwrap();
        };
        slot.submit(0, pages(1, 1), Box::new(done));
        drop(slot);
        go.send(()).unwrap();
        ends.recv().unwrap().unwrap();
    }
}

#[test]
fn panicking_completion_leaves_nobody_waiting() {
    for choice in [BackendChoice::Blocking, BackendChoice::Uring] {
        let Some(tried) = on_files(choice, Paging::BestAvailable) else { continue };
        let slot = tried.slot();
        let (ended, ends) = mpsc::channel();
        slot.submit(0, pages(1, 1), Box::new(|_| panic!("on purpose, in a test")));
        for number in 1..=40 {
            slot.submit(number * PAGE, pages(1, 1), tell(&ended, number));
        }
        drop(ended);
        assert_eq!(ends.iter().count(), 40, "{}", tried.name);
    }
}

#[test]
fn write_that_waits_is_durable_at_its_place_only() {
    on_each_backend(|tried| {
        let slot = tried.slot();
        assert_eq!(slot.bytes(), SLOT_BYTES);
        slot.write(PAGE, &pages(9, 1)).unwrap();
        let found = read(&*slot, 0, 3);
        assert!(found[..PAGE_BYTES].iter().all(|byte| *byte == 0), "{}", tried.name);
        assert!(found[PAGE_BYTES..2 * PAGE_BYTES].iter().all(|byte| *byte == 9), "{}", tried.name);
        assert!(found[2 * PAGE_BYTES..].iter().all(|byte| *byte == 0), "{}", tried.name);
        slot.sync().unwrap();
        slot.drop_cache().unwrap();
        assert_eq!(read(&*slot, 0, 3), found, "{}", tried.name);
    });
}

#[test]
fn read_beyond_the_end_is_an_error() {
    on_each_backend(|tried| {
        let slot = tried.slot();
        let error = slot.read(SLOT_BYTES - PAGE, &mut PageBuffer::zeroed(2 * PAGE_BYTES));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{}", tried.name);
    });
}

#[test]
fn writes_off_their_pages_are_a_programming_error() {
    on_each_backend(|tried| {
        let slot = tried.slot();
        let bad = [
            (512, pages(1, 1)),
            (0, pages(1, 1).slice(..512)),
            (0, pages(1, 2).slice(512..512 + PAGE_BYTES)),
            (SLOT_BYTES - PAGE, pages(1, 2)),
            (u64::MAX - PAGE + 1, pages(1, 1)),
        ];
        for (at, bytes) in bad {
            let submit = || slot.submit(at, bytes.clone(), Box::new(|_| ()));
            assert!(catch_unwind(AssertUnwindSafe(submit)).is_err(), "{}", tried.name);
            let write = || slot.write(at, &bytes);
            assert!(catch_unwind(AssertUnwindSafe(write)).is_err(), "{}", tried.name);
        }
    });
}

#[test]
fn slot_takes_one_writer_and_any_readers() {
    on_each_backend(|tried| {
        let slot = tried.slot();
        let second = tried.disk.open_slot(SLOT, Access::Write).err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock, "{}", tried.name);
        let refilled = tried.disk.create_slot(SLOT, SLOT_BYTES, &mut |_| {}).unwrap_err();
        assert_eq!(refilled.kind(), io::ErrorKind::WouldBlock, "{}", tried.name);
        slot.write(0, &pages(1, 1)).unwrap();
        let reader = tried.disk.open_slot(SLOT, Access::Read).unwrap();
        assert_eq!(read(&*reader, 0, 1)[0], 1, "{}", tried.name);
        drop(slot);
        tried.disk.open_slot(SLOT, Access::Write).unwrap();
    });
}

#[test]
fn slot_made_again_is_zero_again() {
    on_each_backend(|tried| {
        let slot = tried.slot();
        slot.write(PAGE, &pages(5, 3)).unwrap();
        drop(slot);
        let slot = tried.slot();
        let count = usize::try_from(SLOT_BYTES / PAGE).unwrap();
        assert!(read(&*slot, 0, count).iter().all(|byte| *byte == 0), "{}", tried.name);
    });
}

#[test]
fn slot_that_is_not_there_cannot_be_opened_or_removed() {
    on_each_backend(|tried| {
        for access in [Access::Read, Access::Write] {
            let error = tried.disk.open_slot(SlotId(1), access).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{}", tried.name);
        }
        let error = tried.disk.remove_slot(SlotId(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{}", tried.name);
    });
}

#[test]
fn journal_folder_lists_slots_and_indexes_by_number() {
    on_each_backend(|tried| {
        assert_eq!(tried.disk.journal_folder().unwrap(), JournalFolder::default());
        for slot in [12, 3, 200] {
            tried.disk.create_slot(SlotId(slot), PAGE * u64::from(slot), &mut |_| {}).unwrap();
        }
        for segment in [40, 5] {
            tried.disk.write_file(&FileName::Index(segment), b"index").unwrap();
        }
        tried.disk.write_file(&FileName::CheckpointA, b"checkpoint").unwrap();
        tried.disk.remove_slot(SlotId(12)).unwrap();
        let folder = tried.disk.journal_folder().unwrap();
        let slots = vec![(SlotId(3), 3 * PAGE), (SlotId(200), 200 * PAGE)];
        assert_eq!(folder, JournalFolder { slots, indexes: vec![5, 40] }, "{}", tried.name);
    });
}

#[test]
fn small_files_are_replaced_as_a_whole() {
    on_each_backend(|tried| {
        let names = [
            FileName::CheckpointA,
            FileName::CheckpointB,
            FileName::Index(3),
            FileName::Cut("run-1-commit-7".to_owned()),
        ];
        for name in &names {
            let missing = tried.disk.read_file(name).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound, "{}", tried.name);
            tried.disk.remove_file(name).unwrap();
            for length in [100_000, 4096, 5000, 0] {
                let bytes: Vec<u8> = (0_u8..=250).cycle().take(length).collect();
                tried.disk.write_file(name, &bytes).unwrap();
                assert_eq!(tried.disk.read_file(name).unwrap(), bytes, "{}", tried.name);
            }
            tried.disk.remove_file(name).unwrap();
            let removed = tried.disk.read_file(name).unwrap_err();
            assert_eq!(removed.kind(), io::ErrorKind::NotFound, "{}", tried.name);
        }
    });
}

#[test]
fn mapped_bytes_outlive_map_slot_and_file() {
    on_each_backend(|tried| {
        let slot = tried.slot();
        slot.write(2 * PAGE, &pages(6, 2)).unwrap();
        let map = slot.map().unwrap();
        let bytes = Arc::clone(&map).bytes(2 * PAGE - 10, 20).unwrap();
        let whole = usize::try_from(SLOT_BYTES).unwrap();
        assert_eq!(Arc::clone(&map).bytes(0, whole).unwrap().len(), whole, "{}", tried.name);
        assert!(Arc::clone(&map).bytes(SLOT_BYTES, 0).unwrap().is_empty(), "{}", tried.name);
        for (at, length) in [(SLOT_BYTES - 1, 2), (u64::MAX, 2)] {
            let error = Arc::clone(&map).bytes(at, length).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{}", tried.name);
        }
        drop((map, slot));
        tried.disk.remove_slot(SLOT).unwrap();
        assert_eq!(&bytes[..], [[0; 10], [6; 10]].concat(), "{}", tried.name);
    });
}

#[test]
fn clocks_run_and_chance_differs() {
    on_each_backend(|tried| {
        let year_2020 = TimeMicros(1_577_836_800_000_000);
        assert!(tried.disk.now() > year_2020, "{}", tried.name);
        assert!(tried.disk.monotonic() <= tried.disk.monotonic(), "{}", tried.name);
        assert_ne!(tried.disk.random(), tried.disk.random(), "{}", tried.name);
        assert!(tried.disk.free_bytes().unwrap() > 0, "{}", tried.name);
    });
}

#[test]
fn backend_says_what_runs_and_why() {
    on_each_backend(|tried| {
        let backend = tried.disk.backend();
        assert_eq!(backend.direct, tried.disk.reads_are_direct());
        assert!(!backend.why.is_empty());
        assert!(tried.name.to_lowercase().starts_with(backend.kind.as_str()), "{}", tried.name);
    });
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn automatic_choice_measures_and_leaves_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("new/data");
    let disk = open_folder(&folder, FolderAccess::Write, BackendChoice::Auto).unwrap();
    let why = disk.backend().why;
    assert!(why.starts_with("measured") || why.starts_with("io_uring is refused"), "{why}");
    assert_eq!(names_in(&folder), ["journal", "lock"]);
}

#[test]
fn folder_is_private() {
    use std::os::unix::fs::PermissionsExt as _;

    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let disk = open_folder(&folder, FolderAccess::Write, BackendChoice::Blocking).unwrap();
    disk.create_slot(SLOT, PAGE, &mut |_| {}).unwrap();
    disk.write_file(&FileName::Cut("x".to_owned()), b"x").unwrap();
    let mode =
        |path: &str| std::fs::metadata(folder.join(path)).unwrap().permissions().mode() & 0o777;
    for path in ["", "journal", "cut"] {
        assert_eq!(mode(path), 0o700, "{path}");
    }
    for path in ["lock", "journal/slot-00000007", "cut/x"] {
        assert_eq!(mode(path), 0o600, "{path}");
    }
}

#[test]
fn folder_takes_one_process_to_write_and_any_to_read() {
    let folder = tempfile::tempdir().unwrap();
    let open = |access| open_folder(folder.path(), access, BackendChoice::Blocking);
    let disk = open(FolderAccess::Write).unwrap();
    disk.create_slot(SLOT, PAGE, &mut |_| {}).unwrap();
    assert!(matches!(open(FolderAccess::Write), Err(OpenFolderError::Locked { .. })));
    let reader = open(FolderAccess::ReadOnly).unwrap();
    assert_eq!(reader.journal_folder().unwrap().slots, [(SLOT, PAGE)]);

    let slot = disk.open_slot(SLOT, Access::Write).unwrap();
    drop(disk);
    assert!(
        matches!(open(FolderAccess::Write), Err(OpenFolderError::Locked { .. })),
        "an open slot keeps the folder locked"
    );
    drop(slot);
    open(FolderAccess::Write).unwrap();
}

#[test]
fn read_only_opening_makes_and_changes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let read_only = |path: &Path| open_folder(path, FolderAccess::ReadOnly, BackendChoice::Auto);
    let missing = parent.path().join("missing");
    assert!(matches!(read_only(&missing), Err(OpenFolderError::NotFound { .. })));
    assert!(!missing.exists());

    let empty = read_only(parent.path()).unwrap();
    assert_eq!(empty.journal_folder().unwrap(), JournalFolder::default());
    assert!(names_in(parent.path()).is_empty());

    let folder = parent.path().join("data");
    let disk = open_folder(&folder, FolderAccess::Write, BackendChoice::Blocking).unwrap();
    disk.create_slot(SLOT, SLOT_BYTES, &mut |_| {}).unwrap();
    disk.open_slot(SLOT, Access::Write).unwrap().write(PAGE, &pages(8, 1)).unwrap();
    disk.write_file(&FileName::CheckpointA, b"checkpoint").unwrap();
    drop(disk);
    std::fs::remove_file(folder.join("lock")).unwrap();

    let disk = read_only(&folder).unwrap();
    let slot = disk.open_slot(SLOT, Access::Read).unwrap();
    assert_eq!(read(&*slot, PAGE, 1)[0], 8);
    assert_eq!(disk.read_file(&FileName::CheckpointA).unwrap(), b"checkpoint");
    let denied = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    };
    denied(disk.write_file(&FileName::CheckpointB, b""));
    denied(disk.remove_file(&FileName::CheckpointA));
    denied(disk.create_slot(SlotId(8), PAGE, &mut |_| {}));
    denied(disk.remove_slot(SLOT));
    denied(disk.open_slot(SLOT, Access::Write).map(drop));
    denied(slot.write(0, &pages(1, 1)));
    let (ended, ends) = mpsc::channel();
    slot.submit(0, pages(1, 1), tell(&ended, ()));
    denied(ends.recv().unwrap().1);
    assert_eq!(names_in(&folder), ["checkpoint-a", "journal"]);
}

#[test]
fn files_of_other_names_are_no_slots() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open_folder(folder.path(), FolderAccess::Write, BackendChoice::Blocking).unwrap();
    let journal = folder.path().join("journal");
    let strangers = ["slot-1", "slot-+0000001", "slot-0000000x", "slot-00000001.bak", "1.idx"];
    for name in strangers.iter().chain(&["slot-00000001", "0000000000000009.idx"]) {
        std::fs::write(journal.join(name), b"").unwrap();
    }
    let found = disk.journal_folder().unwrap();
    assert_eq!(found, JournalFolder { slots: vec![(SlotId(1), 0)], indexes: vec![9] });
}

#[test]
fn slot_larger_than_the_file_system_is_refused_and_leaves_nothing() {
    use rustix::fs::{FallocateFlags, fallocate};

    let folder = tempfile::tempdir().unwrap();
    let disk = open_folder(folder.path(), FolderAccess::Write, BackendChoice::Blocking).unwrap();
    let bytes = 1 << 62;
    let file = tempfile::tempfile_in(folder.path()).unwrap();
    if fallocate(&file, FallocateFlags::empty(), 0, bytes) == Err(rustix::io::Errno::OPNOTSUPP) {
        eprintln!("left out: this file system learns that it is full by being filled");
        return;
    }
    disk.create_slot(SLOT, bytes, &mut |_| {}).unwrap_err();
    assert!(disk.journal_folder().unwrap().slots.is_empty());
}

#[test]
fn many_threads_share_a_slot() {
    on_each_backend(|tried| {
        let slot = tried.slot();
        thread::scope(|scope| {
            for part in 0..4_u64 {
                let slot = &slot;
                scope.spawn(move || {
                    let (ended, ends) = mpsc::channel();
                    for number in 0..30 {
                        let at = (part * 30 + number) * PAGE;
                        slot.submit(
                            at,
                            pages(u8::try_from(part).unwrap() + 1, 1),
                            tell(&ended, ()),
                        );
                        ends.recv().unwrap().1.unwrap();
                    }
                });
            }
        });
        let found = read(&*slot, 0, 120);
        for (number, page) in found.chunks(PAGE_BYTES).enumerate() {
            let part = u8::try_from(number / 30).unwrap();
            assert!(page.iter().all(|byte| *byte == part + 1), "{}", tried.name);
        }
    });
}

#[test]
fn measuring_gives_figures_for_each_way_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let measured = measure(folder.path()).unwrap();
    assert!(names_in(folder.path()).is_empty());
    let all = [&measured.serial, &measured.blocking].into_iter().chain(&measured.uring).flatten();
    for figures in all {
        assert!(figures.p50 > Duration::ZERO && figures.p50 <= figures.p99, "{figures:?}");
        assert!(figures.per_second > 0.0 && figures.per_second_alone > 0.0, "{figures:?}");
    }
}
