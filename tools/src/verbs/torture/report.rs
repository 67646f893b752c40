//! What a torture comes to.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tracklog_server::doctor::SyncLatency;

use super::ledger::{Checked, Ledger};
use crate::failure::Failure;
use crate::output::{Output, table};

/// Complaints that are kept word by word.
const COMPLAINTS_MAX: usize = 20;
/// A line of progress for so many kills.
const TOLD_EVERY: u64 = 10;

/// The numbers, and what is wrong. As JSON it is one object.
#[derive(Serialize)]
pub(super) struct Report {
    seed: u64,
    seconds: f64,
    kills: u64,
    kills_while_starting: u64,
    acked: u64,
    unanswered: u64,
    found: u64,
    lost: u64,
    doubled: u64,
    misplaced: u64,
    gaps: u64,
    /// Starts on a log that a killed node left, and how long they took.
    recoveries: u64,
    recovery_millis_p50: u64,
    recovery_millis_max: u64,
    sync_micros_p50: u64,
    /// Why the disk's syncs are too good to be true.
    #[serde(skip_serializing_if = "Option::is_none")]
    sync_doubt: Option<String>,
    complaints: Vec<String>,
    clean: bool,
    #[serde(skip)]
    acked_now: u64,
    #[serde(skip)]
    recovery_millis: Histogram<u64>,
}

impl Report {
    pub(super) fn new(seed: u64, sync: SyncLatency) -> Self {
        Self {
            seed,
            seconds: 0.0,
            kills: 0,
            kills_while_starting: 0,
            acked: 0,
            unanswered: 0,
            found: 0,
            lost: 0,
            doubled: 0,
            misplaced: 0,
            gaps: 0,
            recoveries: 0,
            recovery_millis_p50: 0,
            recovery_millis_max: 0,
            sync_micros_p50: u64::try_from(sync.p50.as_micros()).unwrap_or(u64::MAX),
            sync_doubt: sync.doubt,
            complaints: Vec::new(),
            clean: true,
            acked_now: 0,
            recovery_millis: Histogram::new(3).expect("three digits are allowed"),
        }
    }

    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) const fn kills(&self) -> u64 {
        self.kills + self.kills_while_starting
    }

    /// Whether nothing is wrong so far.
    pub(super) const fn is_clean(&self) -> bool {
        self.clean
    }

    pub(super) fn killed(&mut self, ledger: &Ledger) {
        self.kills += 1;
        self.acked_now = ledger.len() as u64;
    }

    pub(super) const fn killed_while_starting(&mut self) {
        self.kills_while_starting += 1;
    }

    pub(super) fn recovered(&mut self, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.recovery_millis.saturating_record(millis);
        self.recoveries += 1;
        self.recovery_millis_p50 = self.recovery_millis.value_at_quantile(0.5);
        self.recovery_millis_max = self.recovery_millis.max();
    }

    pub(super) fn did_not_start(&mut self, why: String) {
        self.complain(format!("after a kill it does not start: {why}"));
    }

    pub(super) fn checked(&mut self, checked: Checked) {
        self.acked += checked.acked;
        self.unanswered += checked.unanswered;
        self.found += checked.found;
        self.lost += checked.lost;
        self.doubled += checked.doubled;
        self.misplaced += checked.misplaced;
        self.gaps += checked.gaps;
        self.acked_now = 0;
        checked.complaints.into_iter().for_each(|what| self.complain(what));
        self.clean &= self.lost + self.doubled + self.misplaced + self.gaps == 0;
    }

    fn complain(&mut self, what: String) {
        self.clean = false;
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(what);
        }
    }

    pub(super) fn ended(&mut self, after: Duration) {
        self.seconds = (after.as_secs_f64() * 10.0).round() / 10.0;
    }

    /// A line now and then.
    pub(super) fn tell_progress(&self) -> Result<(), Failure> {
        if !self.kills.is_multiple_of(TOLD_EVERY) {
            return Ok(());
        }
        let mut output = Output::new();
        output.line(&format!(
            "{} kills, {} events acked, a recovery takes {} ms",
            self.kills(),
            self.acked + self.acked_now,
            self.recovery_millis_p50
        ))?;
        output.flush()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |what: &str, value: String| vec![what.to_owned(), value];
        let rows = [
            row("seed", self.seed.to_string()),
            row(
                "kills",
                format!("{} under load, {} while starting", self.kills, self.kills_while_starting),
            ),
            row("acked", format!("{} events", self.acked)),
            row("unanswered", format!("{} events, which may be there or not", self.unanswered)),
            row("found", self.found.to_string()),
            row("lost", self.lost.to_string()),
            row("doubled", self.doubled.to_string()),
            row("misplaced", self.misplaced.to_string()),
            row("gaps", self.gaps.to_string()),
            row(
                "recoveries",
                format!(
                    "{}, {} ms median, {} ms at most",
                    self.recoveries, self.recovery_millis_p50, self.recovery_millis_max
                ),
            ),
            row(
                "sync",
                match &self.sync_doubt {
                    None => {
                        format!("{} µs median for 4 KiB, as drives have it", self.sync_micros_p50)
                    }
                    Some(doubt) => format!("{} µs median for 4 KiB: {doubt}", self.sync_micros_p50),
                },
            ),
        ];
        f.write_str(&table(&rows))?;
        self.complaints.iter().try_for_each(|what| writeln!(f, "{what}"))?;
        f.write_str(if self.clean { "clean" } else { "NOT clean" })
    }
}
