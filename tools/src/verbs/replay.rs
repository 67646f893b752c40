//! `tracklog replay`: a topic, or a range of it, again.

use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracklog_protocol::TimeMicros;
use tracklog_server::bound::{Bound, BoundError, parse_time};
use tracklog_server::replay::Query;

use super::archive;
use super::tail::{FilterArgs, Shown};
use crate::failure::Failure;
use crate::output::notice;
use crate::reading::{Piece, Place, Source};

/// Print a topic, or a range of it, again
///
/// In the order of append times, then of partitions, then of offsets.
#[derive(Args)]
#[command(after_help = "\
Places: an integer is an offset, in each partition. A TIME is RFC 3339 (2026-01-02T03:04:05Z), `now`
or a span back (-90s, -15m, -2h, -7d). --from and --to go by append time, which never goes back:
--from TIME begins at the first record that was appended at or after it. Ranges are [from, to).
--from-event-time and --to-event-time go by when events happened, in whatever order they came in:
every event of the range is there, and none other. What is appended after the start is left out;
`tracklog tail` goes on.

Examples:
  tracklog replay raw --limit 10
  tracklog replay raw --last 20 --event 'Order Completed'
  tracklog replay raw --from -15m --json | jq -c '[.event, .userId]'
  tracklog replay raw --partition 3 --from 1200 --to 1300
  tracklog replay raw --from-event-time 2026-01-01 --to-event-time 2026-01-02
  tracklog replay raw --data /mnt/copy-of-the-folder --output events.ndjson
  tracklog replay raw --archive ./tracklog-data/archive --event 'Order Completed' --json")]
pub(crate) struct Replay {
    /// The topic
    topic: String,
    /// Where to begin [default: the first record]
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Where to end, not included [default: the end now]
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// Only events that happened at or after this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from_event_time: Option<String>,
    /// Only events that happened before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to_event_time: Option<String>,
    /// One partition alone
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Only the last so many lines of what is asked for, of all partitions together
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// At most so many lines, of all partitions together
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Lines of JSON
    #[arg(long)]
    json: bool,
    /// Write lines of JSON to this file, which appears when it is complete
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Read an archive instead of a log: a folder, or the URL of an object store
    #[arg(long, value_name = "URL", conflicts_with_all = ["data", "node"])]
    archive: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    place: Place,
}

impl Replay {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let query = self.query(crate::now())?;
        crate::block_on(async {
            let source = match &self.archive {
                Some(url) => Source::Folder(archive::opened(url).await?),
                None => self.place.open()?,
            };
            match &self.output {
                None => {
                    let mut shown = Shown::new(self.json);
                    source.read(&self.topic, query, &mut |piece| shown.take(piece)).await?;
                    shown.output.flush()?;
                    ended(shown.damaged)
                }
                Some(path) => {
                    let mut file = FileSink::create(path)?;
                    source.read(&self.topic, query, &mut |piece| file.take(piece)).await?;
                    ended(file.finish()?)
                }
            }
        })
    }

    fn query(&self, now: TimeMicros) -> Result<Query, Failure> {
        let bound =
            |name: &str, text: &Option<String>| read(name, text, |text| Bound::parse(text, now));
        let time =
            |name: &str, text: &Option<String>| read(name, text, |text| parse_time(text, now));
        Ok(Query {
            partition: self.partition,
            from: bound("--from", &self.from)?,
            to: bound("--to", &self.to)?,
            from_event_time: time("--from-event-time", &self.from_event_time)?,
            to_event_time: time("--to-event-time", &self.to_event_time)?,
            filter: self.filter.filter(),
            last: self.last,
            limit: self.limit,
            follow: false,
        })
    }
}

fn read<T>(
    name: &str,
    text: &Option<String>,
    parse: impl FnOnce(&str) -> Result<T, BoundError>,
) -> Result<Option<T>, Failure> {
    text.as_deref().map(parse).transpose().map_err(|error| Failure::of(name, error))
}

const fn ended(damaged: bool) -> Result<(), Failure> {
    if damaged { Err(Failure::AnswerIsNo) } else { Ok(()) }
}

/// A file that appears under its name when all lines are in it.
struct FileSink {
    path: PathBuf,
    beside: PathBuf,
    file: BufWriter<File>,
    bar: ProgressBar,
    lines: u64,
    damaged: bool,
}

impl FileSink {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let file = File::create(&beside).map_err(|error| Failure::of(beside.display(), error))?;
        let file = BufWriter::with_capacity(256 << 10, file);
        let path = path.to_owned();
        Ok(Self { path, beside, file, bar: progress_bar(), lines: 0, damaged: false })
    }

    fn take(&mut self, piece: Piece<'_>) -> Result<(), Failure> {
        match piece {
            Piece::Records(records) => self.bar.set_length(records),
            Piece::Lines(lines, count) => {
                let written = self.file.write_all(lines);
                written.map_err(|error| Failure::of(self.beside.display(), error))?;
                self.lines += count;
                self.bar.inc(count);
            }
            Piece::Pause => {}
            Piece::Notice(text) => self.bar.suspend(|| notice(&text)),
            Piece::Damage(text) => {
                self.damaged = true;
                self.bar.suspend(|| notice(&text));
            }
        }
        Ok(())
    }

    /// Whether there was damage.
    fn finish(mut self) -> Result<bool, Failure> {
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        let written = written.and_then(|()| std::fs::rename(&self.beside, &self.path));
        written.map_err(|error| Failure::of(self.path.display(), error))?;
        self.bar.finish_and_clear();
        let lines = if self.lines == 1 { "line" } else { "lines" };
        notice(&format!("{} {lines} in {}", self.lines, self.path.display()));
        Ok(self.damaged)
    }
}

/// A bar on a terminal; nothing elsewhere.
pub(crate) fn progress_bar() -> ProgressBar {
    bar_over("{human_pos} of {human_len}  {per_sec}")
}

/// The same over bytes.
pub(crate) fn progress_bar_over_bytes() -> ProgressBar {
    bar_over("{binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}")
}

fn bar_over(amount: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new(0);
    let style = format!("{{bar:30}} {{percent:>3}}%  {amount}  {{eta}} left");
    bar.set_style(ProgressStyle::with_template(&style).expect("the template is a good one"));
    bar
}
