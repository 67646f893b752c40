//! A verification as lines: the same from a running node, from a stopped folder, and over HTTP.
//!
//! The engine does the checking; here its report becomes what `tracklog verify` prints.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tracklog_engine::{Engine, OpenError, PartitionReport, Progress, VerifyReport};

use crate::folder::DataFolder;

/// One thing that a verification tells. The summary comes last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VerifyLine {
    /// How far it is.
    #[serde(rename_all = "camelCase")]
    Progress {
        /// Bytes read.
        bytes_done: u64,
        /// Bytes to read in all.
        bytes_total: u64,
    },
    /// What a crash left behind: no damage.
    Remark(String),
    /// What recovery found.
    Note(String),
    /// Something that is not as it should be.
    Problem {
        /// The file.
        file: String,
        /// Where in it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<u64>,
        /// What is wrong.
        what: String,
    },
    /// One partition, and its first damage if it has any.
    #[serde(rename_all = "camelCase")]
    Partition {
        /// Its topic.
        topic: String,
        /// Its index.
        partition: u32,
        /// Its first offset.
        start: u64,
        /// The offset after its last record.
        end: u64,
        /// Records that can be read.
        readable_records: u64,
        /// Records that cannot.
        damaged_records: u64,
        /// Where the first of these is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first_damage: Option<FirstDamage>,
    },
    /// What it comes to.
    #[serde(rename_all = "camelCase")]
    Summary {
        /// Whether all that was acked is there and good.
        clean: bool,
        /// Segments in use.
        segments: u64,
        /// Packs in use.
        #[serde(default)]
        packs: u64,
        /// What can be read.
        readable: Amount,
        /// What cannot.
        damaged: Amount,
        /// How many problems there are; the first thousand are told.
        problems: u64,
    },
    /// The verification could not go on.
    Error {
        /// Why not.
        message: String,
    },
}

/// Where the first damage of a partition is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstDamage {
    /// The first record that cannot be read.
    pub from: u64,
    /// The offset after the last one there.
    pub to: u64,
    /// The segment.
    pub segment: u64,
    /// The slot's file.
    pub slot: String,
    /// Where in the slot.
    pub position: u64,
    /// What is wrong.
    pub what: String,
}

/// How much of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Records.
    pub records: u64,
    /// Batches.
    pub batches: u64,
    /// Commits.
    pub commits: u64,
    /// Bytes, headers and padding included.
    pub bytes: u64,
}

/// Verifies the log in a folder that nobody holds; changes nothing. `told` gets each line as soon
/// as it is known.
///
/// # Errors
/// When the log cannot even be opened.
pub fn folder(path: &Path, told: &mut dyn FnMut(VerifyLine)) -> Result<(), OpenError> {
    DataFolder::at(path).refuse_half_restored()?;
    let mut tick = Tick::default();
    let report = tracklog_engine::verify(path, &mut |progress| tick.tell(progress, told))?;
    tell(&report, told);
    Ok(())
}

/// Verifies what a running log has published.
pub(crate) fn running(engine: &Engine, told: &mut dyn FnMut(VerifyLine)) {
    let mut tick = Tick::default();
    match engine.verify(&mut |progress| tick.tell(progress, told)) {
        Ok(report) => tell(&report, told),
        Err(error) => told(VerifyLine::Error { message: error.to_string() }),
    }
}

/// Tells progress a thousand times, so that it moves on a log of terabytes too.
#[derive(Default)]
struct Tick(Option<u64>);

impl Tick {
    fn tell(&mut self, progress: Progress, told: &mut dyn FnMut(VerifyLine)) {
        let Progress { bytes_done, bytes_total } = progress;
        let tick = bytes_done.saturating_mul(1_000) / bytes_total.max(1);
        if self.0 != Some(tick) {
            self.0 = Some(tick);
            told(VerifyLine::Progress { bytes_done, bytes_total });
        }
    }
}

fn tell(report: &VerifyReport, told: &mut dyn FnMut(VerifyLine)) {
    report.remarks.iter().for_each(|remark| told(VerifyLine::Remark(remark.clone())));
    report.notes.iter().for_each(|note| told(VerifyLine::Note(note.to_string())));
    for problem in &report.problems {
        let (file, position, what) = (problem.file.clone(), problem.position, problem.what.clone());
        told(VerifyLine::Problem { file, position, what });
    }
    report.partitions.iter().for_each(|it| told(partition(it)));
    told(VerifyLine::Summary {
        clean: report.clean,
        segments: report.segments,
        packs: report.packs,
        readable: amount(&report.readable),
        damaged: amount(&report.damaged),
        problems: report.problem_count,
    });
}

fn partition(report: &PartitionReport) -> VerifyLine {
    VerifyLine::Partition {
        topic: report.topic.clone(),
        partition: report.id.partition,
        start: report.start,
        end: report.end,
        readable_records: report.records,
        damaged_records: report.damaged_records,
        first_damage: report.first_damage.as_ref().map(|damage| FirstDamage {
            from: damage.from,
            to: damage.to,
            segment: damage.segment,
            slot: damage.slot.clone(),
            position: damage.position,
            what: damage.what.clone(),
        }),
    }
}

const fn amount(counts: &tracklog_engine::Counts) -> Amount {
    Amount {
        records: counts.records,
        batches: counts.batches,
        commits: counts.commits,
        bytes: counts.bytes,
    }
}

impl VerifyLine {
    /// The line as JSON, line break included.
    ///
    /// # Panics
    /// Never: texts and numbers can be written.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut line = serde_json::to_string(self).expect("texts and numbers can be written");
        line.push('\n');
        line
    }
}

/// For people; progress and sound partitions are of no interest to them.
impl fmt::Display for VerifyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Progress { .. } | Self::Partition { first_damage: None, .. } => Ok(()),
            Self::Remark(text) | Self::Note(text) => f.write_str(text),
            Self::Problem { file, position: Some(at), what } => write!(f, "{file} at {at}: {what}"),
            Self::Problem { file, position: None, what } => write!(f, "{file}: {what}"),
            Self::Partition {
                topic,
                partition,
                readable_records: good,
                damaged_records: bad,
                first_damage: Some(first),
                ..
            } => write!(
                f,
                "{topic}/{partition}: {bad} records are damaged, {good} are readable; the first \
                 damage is offsets {} to {} (not included), at {} of {}, segment {}: {}",
                first.from, first.to, first.position, first.slot, first.segment, first.what
            ),
            Self::Summary { clean, segments, packs, readable, damaged, problems } => {
                write!(f, "readable: {readable} in {}", counted(*segments, "segment"))?;
                if *packs > 0 {
                    write!(f, " and {}", counted(*packs, "pack"))?;
                }
                writeln!(f)?;
                if !clean {
                    writeln!(f, "damaged: {damaged}; {}", counted(*problems, "problem"))?;
                }
                f.write_str(if *clean { "clean" } else { "not clean" })
            }
            Self::Error { message } => f.write_str(message),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, batches, commits, bytes } = self;
        let batches =
            if *batches == 1 { "1 batch".to_owned() } else { format!("{batches} batches") };
        let [records, commits] =
            [(*records, "record"), (*commits, "commit")].map(|(n, what)| counted(n, what));
        write!(f, "{records}, {batches}, {commits}, {}", size(*bytes))
    }
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// As people read it; the exact number is in the JSON.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_as_people_do() {
        let readable = Amount { records: 1, batches: 1, commits: 2, bytes: 2_666_496 };
        let damaged = Amount { records: 0, batches: 0, commits: 0, bytes: 0 };
        let summary = |packs| {
            let (clean, segments, problems) = (true, 1, 0);
            VerifyLine::Summary { clean, segments, packs, readable, damaged, problems }.to_string()
        };
        let wanted = "readable: 1 record, 1 batch, 2 commits, 2.5 MiB in 1 segment";
        assert_eq!(summary(0), format!("{wanted}\nclean"));
        assert_eq!(summary(2), format!("{wanted} and 2 packs\nclean"));
    }

    #[test]
    fn lines_read_back_as_they_were_written() {
        let amount = Amount { records: 1, batches: 2, commits: 3, bytes: 4 };
        let first = FirstDamage {
            from: 5,
            to: 9,
            segment: 1,
            slot: "slot-00000001".to_owned(),
            position: 4_096,
            what: "the checksum does not fit".to_owned(),
        };
        let lines = [
            VerifyLine::Progress { bytes_done: 1, bytes_total: 2 },
            VerifyLine::Remark("torn".to_owned()),
            VerifyLine::Problem {
                file: "checkpoint-a".to_owned(),
                position: None,
                what: "rot".to_owned(),
            },
            VerifyLine::Partition {
                topic: "raw".to_owned(),
                partition: 3,
                start: 0,
                end: 12,
                readable_records: 8,
                damaged_records: 4,
                first_damage: Some(first),
            },
            VerifyLine::Summary {
                clean: false,
                segments: 1,
                packs: 3,
                readable: amount,
                damaged: amount,
                problems: 1,
            },
        ];
        for line in lines {
            let json = line.to_json();
            assert_eq!(json.lines().count(), 1);
            assert_eq!(serde_json::from_str::<VerifyLine>(&json).unwrap(), line, "{json}");
        }
    }
}
