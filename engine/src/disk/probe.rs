//! Which backend runs in a folder: tried and measured there, not guessed.
//!
//! The rule: io_uring wherever it works and writes at 90 % of the threads' rate or more, or at half
//! of it for three quarters of the CPU a write; else threads. (Less CPU by any margin is noise: two
//! idle backends differ by a tenth.) The measurement takes a tenth of a second, on a scratch file
//! of one mebibyte that has no name any more when it begins, and is left out when the choice was
//! made by hand. O_DIRECT is used wherever a write through it succeeds.
//!
//! Threads win by far where the device has no FUA and the processors are busy: the kernel then ends
//! a ring's write in a worker thread of its own, which waits for its turn, but a thread's write in
//! that thread.
//!
//! [`measure`] takes a second or two and answers `doctor`. Called by `files` otherwise.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};

use super::blocking::Threads;
use super::files::{BackendChoice, SlotFile, Write, Writers};
use super::uring::Ring;
use super::{Backend, BackendKind, PAGE_BYTES, PageBuffer};

const SCRATCH_BYTES: usize = 1 << 20;
/// What the choice is measured with: the size at which a commit closes under load.
const PROBE_WRITE_BYTES: usize = 64 << 10;
/// How long each backend writes in each of two rounds.
const PROBE_TURN: Duration = Duration::from_millis(25);
const PROBE_IN_FLIGHT: usize = 4;

const MEASURE_WRITE_BYTES: [usize; 2] = [4 << 10, 64 << 10];
const MEASURE_TURN: Duration = Duration::from_millis(100);

/// Whether O_DIRECT is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paging {
    /// Where the file system takes it.
    BestAvailable,
    /// Not at all: for tests of the fallback.
    #[cfg(test)]
    Buffered,
}

/// Why there is no backend.
pub(super) enum ChooseError {
    /// io_uring was asked for.
    NoUring(io::Error),
    /// The folder or the machine refuses.
    Io(io::Error),
}

/// Starts the backend that is to write in `folder`.
pub(super) fn choose(
    folder: &Path,
    choice: BackendChoice,
    paging: Paging,
) -> Result<(Writers, Backend), ChooseError> {
    let scratch = match Scratch::make(folder, paging) {
        // A full disk is a state in which a log opens, to be read and to be freed.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => None,
        made => Some(made.map_err(ChooseError::Io)?),
    };
    let direct = scratch.as_ref().is_none_or(|scratch| scratch.direct);
    let asked = || "asked for".to_owned();
    let (writers, why) = match choice {
        BackendChoice::Blocking => (start_threads()?, asked()),
        BackendChoice::Uring => (start_ring().map_err(ChooseError::NoUring)?, asked()),
        BackendChoice::Auto => pick(scratch.as_ref())?,
    };
    let kind = match writers {
        Writers::Threads(_) => BackendKind::Blocking,
        Writers::Ring(_) => BackendKind::Uring,
    };
    Ok((writers, Backend { kind, direct, why }))
}

/// What to say of a folder in which nothing is written.
pub(super) fn read_only(direct: bool) -> Backend {
    let why = "opened to read only: nothing is written".to_owned();
    Backend { kind: BackendKind::Blocking, direct, why }
}

/// Whether a slot can be read past the page cache.
pub(super) fn reads_direct(slot: &Path) -> bool {
    SlotFile::open_to_read(slot, true)
        .and_then(|file| match file.read(0, &mut PageBuffer::zeroed(PAGE_BYTES)) {
            // Too short to tell.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            read => read,
        })
        .is_ok()
}

fn start_threads() -> Result<Writers, ChooseError> {
    Threads::start().map(Writers::Threads).map_err(ChooseError::Io)
}

fn start_ring() -> io::Result<Writers> {
    Ring::start().map(Writers::Ring)
}

/// The better of the two that work.
fn pick(scratch: Option<&Scratch>) -> Result<(Writers, String), ChooseError> {
    let ring = match start_ring() {
        Ok(ring) => ring,
        Err(error) => return Ok((start_threads()?, format!("io_uring is refused: {error}"))),
    };
    let Some(scratch) = scratch else {
        return Ok((ring, "io_uring works; not measured, since the disk is full".to_owned()));
    };
    let threads = start_threads()?;
    let (mut by_ring, mut by_threads) = (Work::default(), Work::default());
    for _round in 0..2 {
        for (writers, work) in [(&threads, &mut by_threads), (&ring, &mut by_ring)] {
            let turn = drive(writers, scratch, PROBE_WRITE_BYTES, PROBE_IN_FLIGHT, PROBE_TURN);
            work.add(&turn.map_err(ChooseError::Io)?);
        }
    }
    let verdict = Verdict::of(&by_ring, &by_threads);
    let why = format!(
        "{}: 64 KiB writes a second {:.0} by io_uring, {:.0} by threads; CPU a write {} and {} µs",
        verdict.as_str(),
        by_ring.per_second(),
        by_threads.per_second(),
        by_ring.cpu_per_write().as_micros(),
        by_threads.cpu_per_write().as_micros(),
    );
    Ok((if verdict == Verdict::ThreadsFaster { threads } else { ring }, why))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    RingAsFast,
    RingCheaper,
    ThreadsFaster,
}

impl Verdict {
    /// The rule of this file's head.
    fn of(ring: &Work, threads: &Work) -> Self {
        let rate = ring.per_second() / threads.per_second();
        let cpu = ring.cpu_per_write().as_secs_f64() / threads.cpu_per_write().as_secs_f64();
        if rate >= 0.9 {
            Self::RingAsFast
        } else if rate >= 0.5 && cpu <= 0.75 {
            Self::RingCheaper
        } else {
            Self::ThreadsFaster
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::RingAsFast => "measured, io_uring is as fast",
            Self::RingCheaper => "measured, io_uring costs less CPU",
            Self::ThreadsFaster => "measured, threads are faster",
        }
    }
}

/// A file to try writes in, without a name: nothing is left of it, however we end.
struct Scratch {
    file: Arc<SlotFile>,
    direct: bool,
}

impl Scratch {
    fn make(folder: &Path, paging: Paging) -> io::Result<Self> {
        let path = folder.join(format!(".probe-{}", process::id()));
        let made = Self::make_at(&path, paging);
        let removed = fs::remove_file(&path);
        let scratch = made?;
        removed.map(|()| scratch)
    }

    fn make_at(path: &Path, paging: Paging) -> io::Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(&PageBuffer::zeroed(SCRATCH_BYTES))?;
        file.sync_all()?;
        if paging == Paging::BestAvailable
            && let Some(file) = open_direct(path)?
        {
            return Ok(Self { file: Arc::new(file), direct: true });
        }
        let file = SlotFile::open_unlocked(path, false)?;
        Ok(Self { file: Arc::new(file), direct: false })
    }
}

/// The file, opened past the page cache; none when the file system, or the device below it,
/// does not do that with pages of ours.
fn open_direct(path: &Path) -> io::Result<Option<SlotFile>> {
    let mut page = PageBuffer::zeroed(PAGE_BYTES);
    let tried = SlotFile::open_unlocked(path, true).and_then(|file| {
        file.write_durably(0, &page)?;
        file.read(0, &mut page)?;
        Ok(file)
    });
    match tried {
        Ok(file) => Ok(Some(file)),
        Err(error) => match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => Ok(None),
            _ => Err(error),
        },
    }
}

/// Writes done, and what they took.
#[derive(Default)]
struct Work {
    latencies: Vec<Duration>,
    elapsed: Duration,
    cpu: Duration,
}

impl Work {
    fn add(&mut self, other: &Self) {
        self.latencies.extend_from_slice(&other.latencies);
        self.elapsed += other.elapsed;
        self.cpu += other.cpu;
    }

    fn writes(&self) -> u32 {
        u32::try_from(self.latencies.len()).expect("a turn is short")
    }

    fn per_second(&self) -> f64 {
        f64::from(self.writes()) / self.elapsed.as_secs_f64()
    }

    fn cpu_per_write(&self) -> Duration {
        self.cpu / self.writes().max(1)
    }

    fn quantile(&mut self, per_mille: usize) -> Duration {
        self.latencies.sort_unstable();
        let index = self.latencies.len() * per_mille / 1000;
        self.latencies[index.min(self.latencies.len() - 1)]
    }
}

/// Keeps `in_flight` writes going for `turn`.
fn drive(
    writers: &Writers,
    scratch: &Scratch,
    bytes: usize,
    in_flight: usize,
    turn: Duration,
) -> io::Result<Work> {
    let pages = PageBuffer::zeroed(bytes).freeze();
    let mut places = (0..SCRATCH_BYTES).step_by(bytes).cycle();
    let (ended, ends) = mpsc::channel();
    let mut begin = || {
        let at = places.next().expect("a cycle has no end");
        begin_write(writers, scratch, at, pages.clone(), ended.clone())
    };
    let (started, cpu_before) = (Instant::now(), cpu_time());
    for _ in 0..in_flight {
        begin()?;
    }
    let mut work = Work::default();
    let mut flying = in_flight;
    while flying > 0 {
        let (began, result) = ends.recv().expect("`ended` lives here");
        result?;
        work.latencies.push(began.elapsed());
        if started.elapsed() < turn {
            begin()?;
        } else {
            flying -= 1;
        }
    }
    work.elapsed = started.elapsed();
    work.cpu = cpu_time().saturating_sub(cpu_before);
    Ok(work)
}

type Ended = (Instant, io::Result<()>);

fn begin_write(
    writers: &Writers,
    scratch: &Scratch,
    at: usize,
    pages: Bytes,
    ended: mpsc::Sender<Ended>,
) -> io::Result<()> {
    let at = u64::try_from(at).expect("a scratch file is small");
    let began = Instant::now();
    // Who measures may have gone after an error: then nobody needs to know.
    let done = Box::new(move |result| drop(ended.send((began, result))));
    let write = Write::new(Arc::clone(&scratch.file), at, pages, done);
    writers.submit(write).map_err(|_| io::Error::other("four writes overfill the queue"))
}

/// What this process has computed so far, the kernel's workers for it included.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("a process does not compute backwards")
}

/// What durable writes cost in a folder.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Whether O_DIRECT works there.
    pub direct: bool,
    /// Write and `fdatasync`, one at a time, through the page cache: what to compare with.
    pub serial: Vec<DurableWrites>,
    /// By threads.
    pub blocking: Vec<DurableWrites>,
    /// By io_uring, or why it is refused.
    pub uring: Result<Vec<DurableWrites>, String>,
}

/// What durable writes of one size cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DurableWrites {
    /// The size.
    pub write_bytes: usize,
    /// Time of a write when it is alone, median.
    pub p50: Duration,
    /// The same, one of a hundred takes longer.
    pub p99: Duration,
    /// Writes a second, one at a time.
    pub per_second_alone: f64,
    /// Writes a second, four in flight; serial writes have no more than one.
    pub per_second: f64,
}

/// Measures durable writes of 4 and 64 KiB in `folder`, with each backend that works there. Takes
/// a second or two, writes one mebibyte over and over, and leaves nothing behind.
///
/// # Errors
/// As the file system says.
pub fn measure(folder: &Path) -> io::Result<Measured> {
    let scratch = Scratch::make(folder, Paging::BestAvailable)?;
    let serial = MEASURE_WRITE_BYTES.map(|bytes| measure_serial(folder, bytes));
    let threads = Writers::Threads(Threads::start()?);
    let uring = match start_ring() {
        Ok(ring) => Ok(measure_backend(&ring, &scratch)?),
        Err(error) => Err(error.to_string()),
    };
    Ok(Measured {
        direct: scratch.direct,
        serial: serial.into_iter().collect::<io::Result<_>>()?,
        blocking: measure_backend(&threads, &scratch)?,
        uring,
    })
}

fn measure_backend(writers: &Writers, scratch: &Scratch) -> io::Result<Vec<DurableWrites>> {
    let measured = MEASURE_WRITE_BYTES.map(|write_bytes| {
        let alone = drive(writers, scratch, write_bytes, 1, MEASURE_TURN)?;
        let four = drive(writers, scratch, write_bytes, PROBE_IN_FLIGHT, MEASURE_TURN)?;
        Ok(summed_up(write_bytes, alone, four.per_second()))
    });
    measured.into_iter().collect()
}

fn measure_serial(folder: &Path, write_bytes: usize) -> io::Result<DurableWrites> {
    let path = folder.join(format!(".probe-{}", process::id()));
    let made = Scratch::make_at(&path, Paging::BestAvailable);
    let file = File::options().write(true).open(&path);
    fs::remove_file(&path)?;
    drop(made?);
    let work = write_serially(&file?, write_bytes)?;
    let per_second = work.per_second();
    Ok(summed_up(write_bytes, work, per_second))
}

fn write_serially(file: &File, write_bytes: usize) -> io::Result<Work> {
    use std::os::unix::fs::FileExt as _;

    let pages = PageBuffer::zeroed(write_bytes);
    let mut work = Work::default();
    let started = Instant::now();
    let mut places = (0..SCRATCH_BYTES).step_by(write_bytes).cycle();
    while started.elapsed() < MEASURE_TURN || work.latencies.is_empty() {
        let at = places.next().expect("a cycle has no end");
        let began = Instant::now();
        file.write_all_at(&pages, u64::try_from(at).expect("a scratch file is small"))?;
        file.sync_data()?;
        work.latencies.push(began.elapsed());
    }
    work.elapsed = started.elapsed();
    Ok(work)
}

fn summed_up(write_bytes: usize, mut alone: Work, per_second: f64) -> DurableWrites {
    DurableWrites {
        write_bytes,
        p50: alone.quantile(500),
        p99: alone.quantile(990),
        per_second_alone: alone.per_second(),
        per_second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(writes: usize, cpu_micros: u32) -> Work {
        let latencies = vec![Duration::from_micros(100); writes];
        let cpu = Duration::from_micros(10) * cpu_micros * u32::try_from(writes).unwrap() / 10;
        Work { latencies, elapsed: Duration::from_millis(50), cpu }
    }

    #[test]
    fn ring_is_taken_when_as_fast_or_clearly_cheaper() {
        let threads = work(1000, 40);
        let cases = [
            (work(900, 80), Verdict::RingAsFast),
            (work(890, 39), Verdict::ThreadsFaster),
            (work(500, 30), Verdict::RingCheaper),
            (work(490, 1), Verdict::ThreadsFaster),
        ];
        for (ring, verdict) in cases {
            assert_eq!(Verdict::of(&ring, &threads), verdict, "{} writes", ring.writes());
        }
    }

    #[test]
    fn full_disk_is_no_reason_to_have_no_backend() {
        let (_, why) = pick(None).map_err(|_| "no backend").unwrap();
        assert!(why.contains("the disk is full") || why.contains("refused"), "{why}");
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let latencies = (1..=200).rev().map(Duration::from_millis).collect();
        let mut work = Work { latencies, ..Work::default() };
        assert_eq!(work.quantile(500), Duration::from_millis(101));
        assert_eq!(work.quantile(990), Duration::from_millis(199));
    }
}
