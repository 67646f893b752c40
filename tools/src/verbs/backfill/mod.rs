//! `tracklog backfill`: files of past events into the log, each row once.
//!
//! | file | what it does |
//! |---|---|
//! | `input` | a file, its hash, its content unpacked |
//! | `rows`, `csv`, `parquet`, `columns` | rows out of it, as events in JSON |
//! | `chunks` | rows put together to what is sent at once |
//! | `sending` | chunks to the node, with patience |
//!
//! What makes it exact is the node's: see [`tracklog_server::backfill`].

mod chunks;
mod columns;
mod csv;
mod input;
mod parquet;
mod rows;
mod sending;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tracklog_server::backfill::{Progress, RejectedRow};

use super::replay::progress_bar;
use crate::failure::Failure;
use crate::output::{Output, notice};
use crate::reading::Place;
use crate::span::span;
use chunks::{OpenRows, read_ahead};
use csv::{ColumnType, CsvOptions, CsvRows};
use input::Input;
use parquet::ParquetRows;
use rows::JsonLines;
use sending::Sender;

/// Rejected rows that are told to people; all of them are in `rejected`.
const REJECTED_SHOWN_MAX: usize = 10;

/// Bring files of past events into the log
///
/// Rows are checked as live events are: good ones are stored in `raw` under the time when they
/// happened, others in `rejected` with their number and the reason. A row is stored once: whatever
/// is killed, run it again; a file that was stored already stores nothing.
#[derive(Args)]
#[command(after_help = "\
Formats: NDJSON, an event a line; CSV (and TSV) with the names of the columns in its first line;
each plain, gzipped or zstd; Parquet. A column is the field that it is called (userId, event,
timestamp, messageId, type, properties.price, context.page.url) and else a property of its own name.
Values of a CSV are text, unless --types says number, boolean or json; columns that are whole
objects (properties) are JSON. Those of a Parquet file have its types: decimals keep all digits,
bytes that are no text cost their row, INT96 is in UTC. An event without a type is a track call, one
without an id gets one made of file and line.

Times: RFC 3339 with a zone, or an epoch. 03/04/2025 is refused, and so is a time without a zone
unless --zoneless utc says what it is. A row without a time is stored under the present one, and
counted.

The node must run: it checks and stores the rows. Exit status: 0 all rows of the files are stored, 1
some were rejected, 2 it could not run, or not to the end: run it again.

Examples:
  tracklog backfill old-events.ndjson.gz
  tracklog backfill orders.csv --source shop --types price=number,paid=boolean
  tracklog backfill log.csv --map ts=timestamp,uid=userId,internal= --zoneless utc
  zcat part-*.gz | tracklog backfill - --format ndjson --json")]
pub(crate) struct Backfill {
    /// The files; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Whose events they are: a source of the node's configuration, whose rules hold for them
    #[arg(long, value_name = "NAME", default_value = "default")]
    source: String,
    /// What the files are [default: by their names]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// CSV: columns whose values are no text but number, boolean or json
    #[arg(long, value_name = "COLUMN=TYPE,…", value_delimiter = ',', value_parser = type_of)]
    types: Vec<(String, ColumnType)>,
    /// CSV, Parquet: columns that are another field than they are called; without a field they are left out
    #[arg(long, value_name = "COLUMN=FIELD,…", value_delimiter = ',', value_parser = field_of)]
    map: Vec<(String, Option<String>)>,
    /// CSV: the names of the columns, where the first line does not have them
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// CSV: what stands between values [default: a comma; a tab in .tsv]
    #[arg(long, value_name = "LETTER", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// What a time without a zone is
    #[arg(long, value_enum, default_value_t = ZonelessArg::Refused)]
    zoneless: ZonelessArg,
    /// How long to try again while the node is away or takes nothing
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = span)]
    patience: Duration,
    /// One object a line: rejected rows, and a summary of each file
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Ndjson,
    Csv,
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ZonelessArg {
    Refused,
    Utc,
}

fn type_of(text: &str) -> Result<(String, ColumnType), String> {
    let (column, kind) = text.rsplit_once('=').ok_or("it is not of the form COLUMN=TYPE")?;
    let kind = ColumnType::from_name(kind).ok_or("types are text, number, boolean and json")?;
    Ok((column.to_owned(), kind))
}

fn field_of(text: &str) -> Result<(String, Option<String>), String> {
    let (column, field) = text.rsplit_once('=').ok_or("it is not of the form COLUMN=FIELD")?;
    Ok((column.to_owned(), Some(field.to_owned()).filter(|field| !field.is_empty())))
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [letter] if letter.is_ascii() && !matches!(letter, b'"' | b'\n' | b'\r') => Ok(*letter),
        _ => Err("it is no single letter of ASCII, nor \\t".to_owned()),
    }
}

/// What became of a file.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    file: String,
    sha256: String,
    /// Rows that this run stored in `raw`.
    stored: u64,
    /// Rows that were in `raw` already, by an earlier run or otherwise.
    duplicate: u64,
    /// Rows that are in `rejected`, whoever stored them.
    rejected: u64,
    /// Of all that are stored, those that said no time.
    without_time: u64,
    seconds: f64,
}

impl Backfill {
    pub(crate) fn run(self) -> Result<(), Failure> {
        crate::block_on(self.all())
    }

    async fn all(self) -> Result<(), Failure> {
        let mut output = Output::new();
        let mut has_rejected = false;
        for path in &self.files {
            let summary = self.one(path, &mut output).await?;
            has_rejected |= summary.rejected > 0;
            self.show(&summary, &mut output)?;
        }
        if has_rejected { Err(Failure::AnswerIsNo) } else { Ok(()) }
    }

    /// Brings in what is missing of a file.
    async fn one(&self, path: &Path, output: &mut Output) -> Result<Summary, Failure> {
        let began = Instant::now();
        let format = self.format_of(path)?;
        self.check_options(format, path)?;
        let input = Arc::new(Input::open(path)?);
        let reading = self.reading(format, path);
        let mut sender = Sender::new(self, &input, &reading);
        // Of a finished file the node would have nothing to refuse.
        let before = sender.progress().await?.under(&reading);
        let before = before.map_err(|error| Failure::of(&input.name, error))?;
        let mut after = before.clone();
        if !before.finished {
            let open = self.rows(format, path, &input);
            after = self.send(open, &input, &mut sender, before.clone(), output).await?;
        }
        let done = after.stored.saturating_sub(before.stored);
        let found = after.duplicate.saturating_sub(before.duplicate);
        Ok(Summary {
            file: input.name.clone(),
            sha256: input.hash.clone(),
            stored: done.saturating_sub(found),
            duplicate: before.stored + found,
            rejected: after.rejected,
            without_time: after.without_time,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    async fn send(
        &self,
        open: OpenRows,
        input: &Input,
        sender: &mut Sender<'_>,
        mut progress: Progress,
        output: &mut Output,
    ) -> Result<Progress, Failure> {
        let bar = byte_bar(input.bytes);
        let bytes_read = Arc::new(AtomicU64::new(0));
        let chunks = read_ahead(open, Arc::clone(&bytes_read), progress.next_row);
        let mut chunks = chunks.map_err(Failure::could_not_run)?;
        let mut told = 0;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(|error| Failure::of(&input.name, error))?;
            if chunk.is_last && !input.is_unchanged() {
                return Err(Failure::of(&input.name, "it was changed while it was read"));
            }
            let stored = sender.send(&chunk, &bar).await?;
            progress = stored.progress;
            bar.set_position(bytes_read.load(Ordering::Relaxed));
            bar.set_message(format!("{} rows", progress.stored + progress.rejected));
            bar.suspend(|| self.tell(&input.name, &stored.rejected, &mut told, output))?;
        }
        bar.finish_and_clear();
        if !progress.finished {
            return Err(Failure::of(&input.name, "it was not read to its end"));
        }
        Ok(progress)
    }

    fn tell(
        &self,
        file: &str,
        rejected: &[RejectedRow],
        told: &mut usize,
        output: &mut Output,
    ) -> Result<(), Failure> {
        for row in rejected {
            if self.json {
                output.json(&serde_json::json!({ "file": file, "rejected": row }))?;
                continue;
            }
            *told += 1;
            if *told <= REJECTED_SHOWN_MAX {
                let place =
                    row.pointer.as_deref().map(|it| format!(" at {it}")).unwrap_or_default();
                notice(&format!("{file}: {}{place} ({})", row.message, row.code));
            } else if *told == REJECTED_SHOWN_MAX + 1 {
                notice(&format!("{file}: further rejected rows are told by `replay rejected`"));
            }
        }
        output.flush()
    }

    fn show(&self, summary: &Summary, output: &mut Output) -> Result<(), Failure> {
        if self.json {
            output.json(summary)?;
        } else {
            let Summary { file, stored, duplicate, rejected, without_time, seconds, .. } = summary;
            let rate = if *seconds > 0.0 { *stored as f64 / seconds } else { 0.0 };
            output.line(&format!(
                "{file}: {stored} stored, {duplicate} duplicate, {rejected} rejected, \
                 {without_time} without a time; {seconds:.1} s, {rate:.0} rows/s"
            ))?;
        }
        output.flush()
    }

    fn format_of(&self, path: &Path) -> Result<Format, Failure> {
        let by_name = || match extension(path).as_str() {
            "ndjson" | "jsonl" | "json" => Some(Format::Ndjson),
            "csv" | "tsv" => Some(Format::Csv),
            "parquet" => Some(Format::Parquet),
            _ => None,
        };
        self.format.or_else(by_name).ok_or_else(|| {
            let name = path.display();
            Failure::of(
                name,
                "its name does not say what it is: give --format ndjson, csv or parquet",
            )
        })
    }

    fn csv_options(&self, path: &Path) -> CsvOptions {
        let by_name = if extension(path) == "tsv" { b'\t' } else { b',' };
        CsvOptions {
            delimiter: self.delimiter.unwrap_or(by_name),
            columns: self.columns.clone(),
            fields: self.map.iter().cloned().collect(),
            types: self.types.iter().cloned().collect(),
        }
    }

    /// How the file is read, in words that are the same whenever its rows are.
    fn reading(&self, format: Format, path: &Path) -> String {
        let CsvOptions { delimiter, columns, fields, types } = self.csv_options(path);
        let mut words = match format {
            Format::Ndjson => "ndjson".to_owned(),
            Format::Parquet => "parquet".to_owned(),
            Format::Csv => format!("csv --delimiter {:?}", char::from(delimiter)),
        };
        let mut add = |name: &str, values: Vec<String>| {
            if !values.is_empty() {
                words.push_str(&format!(" --{name} {}", values.join(",")));
            }
        };
        add("columns", columns.unwrap_or_default());
        let field = |(column, field): (&String, &Option<String>)| {
            format!("{column}={}", field.as_deref().unwrap_or_default())
        };
        add("map", fields.iter().map(field).collect());
        let kind = |(column, kind): (&String, &ColumnType)| format!("{column}={}", kind.name());
        add("types", types.iter().map(kind).collect());
        if self.zoneless == ZonelessArg::Utc {
            words.push_str(" --zoneless utc");
        }
        words
    }

    /// Refuses options that say nothing of such a file.
    fn check_options(&self, format: Format, path: &Path) -> Result<(), Failure> {
        let of_csv = [
            ("--types", !self.types.is_empty()),
            ("--columns", self.columns.is_some()),
            ("--delimiter", self.delimiter.is_some()),
        ];
        let idle = match format {
            Format::Csv => None,
            Format::Parquet => of_csv.iter().find(|(_, is_given)| *is_given),
            Format::Ndjson if !self.map.is_empty() => Some(&("--map", true)),
            Format::Ndjson => of_csv.iter().find(|(_, is_given)| *is_given),
        };
        match idle {
            None => Ok(()),
            Some((option, _)) => {
                let what = format!("{option} is nothing for such a file");
                Err(Failure::of(path.display(), what))
            }
        }
    }

    fn rows(&self, format: Format, path: &Path, input: &Arc<Input>) -> OpenRows {
        let (options, input) = (self.csv_options(path), Arc::clone(input));
        Box::new(move |bytes_read| {
            let text = || input.read(Arc::clone(&bytes_read)).map_err(|error| error.to_string());
            Ok(match format {
                Format::Csv => Box::new(CsvRows::new(text()?, &options)?),
                Format::Ndjson => Box::new(JsonLines::new(lines(text()?)?)),
                Format::Parquet => {
                    let file = input.file().map_err(|error| error.to_string())?;
                    Box::new(ParquetRows::new(file, &options.fields, bytes_read)?)
                }
            })
        })
    }
}

/// What holds an event a line, as far as its beginning tells.
fn lines<R: std::io::BufRead>(mut text: R) -> Result<R, String> {
    let begin = text.fill_buf().map_err(|error| error.to_string())?;
    if begin.trim_ascii_start().starts_with(b"[") {
        let what = "it is a JSON array: give its events a line each, as `jq -c .[]` does";
        return Err(what.to_owned());
    }
    Ok(text)
}

/// The name's end, that of a compression aside.
fn extension(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    name.rsplit_once('.').map(|(_, end)| end.to_owned()).unwrap_or_default()
}

/// A bar over a file's bytes.
fn byte_bar(bytes: u64) -> ProgressBar {
    let bar = progress_bar();
    bar.set_length(bytes);
    let style = "{bar:30} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {msg}  {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is a good one"));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_name_says_whatever_packed_it() {
        for (name, wanted) in [
            ("a.ndjson", "ndjson"),
            ("/x.y/A.CSV.gz", "csv"),
            ("b.tsv.zst", "tsv"),
            ("c.gz", ""),
            ("-", ""),
        ] {
            assert_eq!(extension(Path::new(name)), wanted, "{name}");
        }
    }
}
