//! Power cuts on a real file system: the log runs on ext4 or XFS over a disk that logs what it is
//! told; then the disk is put together as it may have stood at a thousand moments, mounted, and the
//! log opened on it.
//!
//! What no flush followed may be lost, in part and in any order, at the granularity of a sector.
//! What must hold is in `check`. It takes Linux, root and QEMU's storage daemon; nothing but its
//! pure parts is run by `cargo test`.
//!
//! Called by the binary's `powercut`.

mod block_log;
mod check;
mod machine;
mod marks;
mod records;
mod unsynced;
mod workload;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracklog_engine::BackendChoice;

use self::block_log::{BlockLog, Fate, Image, Kind, remains};
use self::check::{Acked, Findings, check};
pub use self::machine::FileSystem;
use self::machine::Machine;
use self::marks::{Mark, Marks};
use self::workload::Load;
use crate::chance::Chance;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct PowerCuts {
    /// Where the log lies.
    pub file_system: FileSystem,
    /// How many moments are tried.
    pub points: u64,
    /// Decides the moments and what is lost at each; the load also hangs on the clock.
    pub seed: u64,
    /// For how long the log is loaded.
    pub time: Duration,
    /// How commits reach the disk.
    pub backend: BackendChoice,
    /// Whether what is acked is made durable. Without it there must be losses: the control.
    pub syncs: bool,
    /// A folder for the disk and its log, best one in memory.
    pub folder: PathBuf,
    /// Of the disk that lies in the folder already, this moment alone.
    pub again: Option<usize>,
}

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// Something that it takes is not there.
    Missing(String),
    /// Something went wrong that is not the log's.
    Failed(String),
}

impl Failure {
    fn io(doing: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Failed(format!("cannot {doing}: {error}"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(what) | Self::Failed(what) => f.write_str(what),
        }
    }
}

/// What the cuts add up to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Moments that were tried.
    pub points: u64,
    /// Requests that the disk was told.
    pub requests: u64,
    /// How many of them were flushes.
    pub flushes: u64,
    /// Records that were acked while the log was loaded.
    pub acked: u64,
    /// Acked records that were looked for, over all moments: all but those given up by then.
    pub checked: u64,
    /// How many of these were not there.
    pub lost: u64,
    /// Moments at which something was wrong.
    pub bad_points: u64,
}

impl Report {
    /// As one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Self { points, requests, flushes, acked, checked, lost, bad_points } = self;
        format!(
            "{{\"points\":{points},\"requests\":{requests},\"flushes\":{flushes},\
             \"acked\":{acked},\"checked\":{checked},\"lost\":{lost},\"bad_points\":{bad_points}}}"
        )
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { points, requests, flushes, acked, checked, lost, bad_points } = self;
        write!(
            f,
            "{points} cuts in {requests} requests with {flushes} flushes; {acked} records acked, \
             {checked} looked for, {lost} lost; {bad_points} cuts with something wrong"
        )
    }
}

impl PowerCuts {
    /// Loads the log, and cuts the power. `told` hears of each moment at which something was wrong.
    ///
    /// # Errors
    /// [`Failure`], where it cannot be tried.
    pub fn run(&self, told: &dyn Fn(usize, &[String])) -> Result<Report, Failure> {
        machine::require(self.file_system)?;
        machine::enter()?;
        std::fs::create_dir_all(&self.folder).map_err(Failure::io("make the folder"))?;
        let machine = Machine { folder: self.folder.clone(), file_system: self.file_system };
        let mut report = Report::default();
        if self.again.is_none() {
            report.acked = self.load(&machine)?;
        }
        Cutter::new(self, &machine)?.run(report, told)
    }

    fn load(&self, machine: &Machine) -> Result<u64, Failure> {
        let daemon = machine.start()?;
        let disk = machine.exported();
        let mounted = machine.mount(&disk)?;
        let marks = Marks::behind(&disk, self.file_system.bytes());
        let marks = marks.map_err(Failure::io("open the place for marks"))?;
        let load =
            Load { seed: self.seed, time: self.time, backend: self.backend, syncs: self.syncs };
        let acked = workload::run(&mounted.at.join("data"), &load, &marks)?;
        drop((marks, mounted));
        daemon.end()?;
        if acked == 0 {
            return Err(Failure::Failed("nothing was acked: there is nothing to lose".to_owned()));
        }
        Ok(acked)
    }
}

/// Puts disks together and looks at them.
struct Cutter<'a> {
    asked: &'a PowerCuts,
    machine: &'a Machine,
    log: BlockLog,
    /// The disk with all that is durable before request `durable`.
    image: Image,
    durable: usize,
    /// Each with the request that wrote it.
    marks: Vec<(usize, Mark)>,
}

impl<'a> Cutter<'a> {
    fn new(asked: &'a PowerCuts, machine: &'a Machine) -> Result<Self, Failure> {
        let log = BlockLog::open(&machine.log()).map_err(Failure::io("read the disk's log"))?;
        let image = Image::read(&machine.before()).map_err(Failure::io("read the disk"))?;
        let mut cutter = Self { asked, machine, log, image, durable: 0, marks: Vec::new() };
        cutter.marks = cutter.read_marks().map_err(Failure::io("read the marks"))?;
        Ok(cutter)
    }

    fn read_marks(&self) -> io::Result<Vec<(usize, Mark)>> {
        let mut marks = Vec::new();
        for (index, request) in self.log.requests.iter().enumerate() {
            if request.at >= self.machine.file_system.bytes()
                && let Some(mark) = Mark::decode(&self.log.data(request)?)
            {
                marks.push((index, mark));
            }
        }
        Ok(marks)
    }

    fn run(
        mut self,
        mut report: Report,
        told: &dyn Fn(usize, &[String]),
    ) -> Result<Report, Failure> {
        let flushes = self.log.requests.iter().filter(|it| it.kind == Kind::Flush);
        (report.requests, report.flushes) =
            (self.log.requests.len() as u64, flushes.count() as u64);
        for point in self.points() {
            let findings = self.cut(point)?;
            report.points += 1;
            report.checked += findings.checked;
            report.lost += findings.lost;
            if !findings.is_good() {
                report.bad_points += 1;
                told(point, &findings.wrong);
            }
        }
        Ok(report)
    }

    /// The moments, in order: each is the number of requests that came before it. Half of them lie
    /// beside a mark, where a loss would be one of an ack just given.
    fn points(&self) -> Vec<usize> {
        if let Some(point) = self.asked.again {
            return vec![point];
        }
        let mut chance = Chance::new(self.asked.seed);
        let requests = self.log.requests.len();
        let mut points: Vec<usize> = (0..self.asked.points)
            .map(|_| {
                if self.marks.is_empty() || chance.one_in(2) {
                    return chance.index(requests + 1);
                }
                let (at, _) = &self.marks[chance.index(self.marks.len())];
                (at + chance.index(4)).min(requests)
            })
            .collect();
        points.sort_unstable();
        points
    }

    /// Cuts the power behind the first `point` requests, and says what is wrong then.
    fn cut(&mut self, point: usize) -> Result<Findings, Failure> {
        if point > self.log.requests.len() {
            return Err(Failure::Failed(format!("the disk was not told {point} requests")));
        }
        self.advance(point).map_err(Failure::io("read the disk's log"))?;
        let path = self.machine.after_cut();
        self.image.write_out(&path).map_err(Failure::io("write the disk"))?;
        self.write_remains(point, &path).map_err(Failure::io("write the disk"))?;
        let before = self.marks.partition_point(|(at, _)| *at < point);
        let (before, after) = self.marks.split_at(before);
        let acked =
            Acked::of(before.iter().map(|(_, mark)| mark), after.iter().map(|(_, mark)| mark));
        let mounted = self.machine.mount(&path)?;
        let findings = check(&mounted.at.join("data"), &acked);
        drop(mounted);
        Ok(findings)
    }

    /// Takes over all that the last flush before `point` made durable.
    fn advance(&mut self, point: usize) -> io::Result<()> {
        let before = &self.log.requests[..point];
        let flushed = before.iter().rposition(|it| it.kind == Kind::Flush).map_or(0, |at| at + 1);
        for request in &self.log.requests[self.durable.min(flushed)..flushed] {
            if self.is_written(request) {
                self.image.write(request.at, &self.log.data(request)?);
            }
        }
        self.durable = self.durable.max(flushed);
        Ok(())
    }

    fn is_written(&self, request: &block_log::Request) -> bool {
        matches!(request.kind, Kind::Write | Kind::ForcedWrite)
            && request.at < self.machine.file_system.bytes()
    }

    /// Writes what is left of the requests behind the last flush.
    fn write_remains(&self, point: usize, path: &Path) -> io::Result<()> {
        let mut chance = Chance::new(self.asked.seed ^ (point as u64) << 20);
        let fate = *chance.one_of(&[Fate::Kept, Fate::Lost, Fate::Mixed, Fate::Mixed]);
        let file = File::options().write(true).open(path)?;
        for request in &self.log.requests[self.durable..point] {
            if !self.is_written(request) {
                continue;
            }
            let fate = if request.kind == Kind::ForcedWrite { Fate::Kept } else { fate };
            let data = self.log.data(request)?;
            for (at, bytes) in remains(request.at, &data, fate, &mut chance) {
                file.write_all_at(&bytes, at)?;
            }
        }
        Ok(())
    }
}
