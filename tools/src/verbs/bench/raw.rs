//! Raw figures: what the plainest programs do with the same bytes.
//!
//! Both write over and over into one file whose blocks were all written before, as a log of some
//! age does. *Serial* is `pwrite` and `fdatasync` from one thread. *Bare* is what a log can hope for
//! at best: threads that each write a commit's size with one direct, synchronous call, from memory on
//! huge pages, and do nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use memmap2::{Advice, MmapMut};

use super::append::latencies;

const FILE_BYTES: u64 = 256 << 20;
/// What the serial writer goes round in: as much as stays in the page cache of any machine.
const SERIAL_BYTES: u64 = 64 << 20;

/// A file whose blocks were all written and synced once.
pub(super) struct RawDisk {
    path: PathBuf,
}

/// What raw writers did, in all their turns.
pub(super) struct Written {
    time: Duration,
    /// Of each write, in micros.
    pub(super) latencies: Histogram<u64>,
    /// Whether they went past the page cache; else each was followed by a sync.
    pub(super) direct: bool,
}

impl Written {
    pub(super) fn nothing() -> Self {
        Self { time: Duration::ZERO, latencies: latencies(), direct: false }
    }

    pub(super) fn add(&mut self, turn: &Self) {
        self.time += turn.time;
        self.latencies.add(&turn.latencies).expect("the bounds are the same");
        self.direct = turn.direct;
    }

    /// All of them together.
    pub(super) fn writes_per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.time.as_secs_f64()
    }
}

impl RawDisk {
    pub(super) fn make(folder: &Path) -> io::Result<Self> {
        let path = folder.join("raw");
        let mut file = File::create(&path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(Self { path })
    }

    /// Serial pwrite + fdatasync of `bytes`.
    pub(super) fn serial(&self, bytes: usize, time: Duration) -> io::Result<Written> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let buffer = vec![0xA5; bytes];
        let places = SERIAL_BYTES / bytes as u64;
        let mut taken = Written::nothing();
        let began = Instant::now();
        while taken.time < time {
            file.write_all_at(&buffer, taken.latencies.len() % places * bytes as u64)?;
            file.sync_data()?;
            let now = began.elapsed();
            taken.latencies.saturating_record(micros(now - taken.time));
            taken.time = now;
        }
        Ok(taken)
    }

    /// So many writers of `bytes` each, which are whole pages.
    pub(super) fn bare(&self, bytes: usize, writers: usize, time: Duration) -> io::Result<Written> {
        let (file, direct) = self.open_bare()?;
        let (next, began) = (AtomicU64::new(0), Instant::now());
        let written = std::thread::scope(|scope| {
            let write = || write_bare(&file, direct, bytes, &next, began + time);
            // All of them are started before one is waited for.
            let mut started = Vec::with_capacity(writers);
            started.extend((0..writers).map(|_| scope.spawn(write)));
            let written = started.into_iter().map(|it| it.join().expect("a writer does not panic"));
            written.collect::<io::Result<Vec<_>>>()
        })?;
        let mut all = latencies();
        written.iter().for_each(|of_one| all.add(of_one).expect("the bounds are the same"));
        Ok(Written { time: began.elapsed(), latencies: all, direct })
    }

    /// The file, past the page cache where its system takes that, which a write shows.
    fn open_bare(&self) -> io::Result<(File, bool)> {
        let mut options = OpenOptions::new();
        options.write(true);
        let direct = options.clone().custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(&self.path);
        let page = MmapMut::map_anon(4_096)?;
        match direct.and_then(|file| file.write_all_at(&page, 0).map(|()| file)) {
            Ok(file) => Ok((file, true)),
            Err(_) => Ok((options.open(&self.path)?, false)),
        }
    }
}

/// One writer, until the time is over.
fn write_bare(
    file: &File,
    direct: bool,
    bytes: usize,
    next: &AtomicU64,
    until: Instant,
) -> io::Result<Histogram<u64>> {
    let mut memory = MmapMut::map_anon(bytes.max(2 << 20))?;
    // A wish: some systems have none.
    drop(memory.advise(Advice::HugePage));
    memory.fill(0xA5);
    let places = FILE_BYTES / bytes as u64;
    let mut taken = latencies();
    loop {
        let began = Instant::now();
        if began >= until {
            return Ok(taken);
        }
        let place = next.fetch_add(1, Ordering::Relaxed) % places;
        file.write_all_at(&memory[..bytes], place * bytes as u64)?;
        if !direct {
            file.sync_data()?;
        }
        taken.saturating_record(micros(began.elapsed()));
    }
}

/// In whole micros.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
