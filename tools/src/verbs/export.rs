//! `tracklog export`: events out of the archive, as files.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tracklog_protocol::event::EventView;
use tracklog_protocol::line::{LinePlace, format_time, write_line};
use tracklog_server::archive::{self, Part, PartError, RowPlace, Store, Wanted};
use tracklog_server::bound::parse_time;

use super::archive::ArchivePlace;
use super::replay::progress_bar;
use crate::failure::Failure;
use crate::output::notice;

/// Take events out of the archive, as Parquet, lines of JSON, or CSV
///
/// Writes a file for each file of the archive that has some of what is wanted. Each appears when it
/// is complete: an export that was interrupted is taken up by running it again.
#[derive(Args)]
#[command(after_help = "\
A TIME is RFC 3339 (2026-01-02T03:04:05Z), a date, `now` or a span back (-90s, -15m, -2h, -7d);
times are those of the events. What is not in the archive yet is left out: `tracklog archive status`
tells how far it is, `tracklog replay` reads the log.

Examples:
  tracklog export --output ./january --from 2026-01-01 --to 2026-02-01
  tracklog export --output ./orders --name 'Order Completed' --format csv
  tracklog export enriched --output ./web --source web --format ndjson --archive s3://bucket/events")]
pub(crate) struct Export {
    /// The topic
    #[arg(default_value = "raw")]
    topic: String,
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    format: Format,
    /// Only events that happened at or after this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Only events that happened before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// Only events of this name, letter by letter
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only what this source sent
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    #[command(flatten)]
    place: ArchivePlace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// With the archive's columns
    Parquet,
    /// The lines that `replay` prints
    Ndjson,
    /// Columns of texts, the JSON parts among them
    Csv,
}

impl Format {
    const fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }
}

/// What is in the folder, so that another export does not go on with it.
const ASKED_FILE: &str = "export.json";

impl Export {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let wanted = self.wanted()?;
        crate::block_on(self.export(&wanted))
    }

    fn wanted(&self) -> Result<Wanted, Failure> {
        let now = crate::now();
        let time = |name: &str, text: &Option<String>| {
            let time = text.as_deref().map(|text| parse_time(text, now)).transpose();
            time.map_err(|error| Failure::of(name, error))
        };
        Ok(Wanted {
            from: time("--from", &self.from)?,
            to: time("--to", &self.to)?,
            name: self.name.clone(),
            source: self.source.clone(),
        })
    }

    async fn export(&self, wanted: &Wanted) -> Result<(), Failure> {
        let url = self.place.url();
        let (store, parts) = archive::parts(&url, &self.topic, wanted)
            .await
            .map_err(|error| Failure::of(&url, error))?;
        let no_topic = || Failure::could_not_run(format!("there is no topic {} in it", self.topic));
        let parts = parts.ok_or_else(no_topic)?;
        self.take_folder(&url)?;
        let bar = progress_bar();
        bar.set_length(parts.iter().map(|part| part.file.rows).sum());
        let mut sum = Sum::default();
        for part in &parts {
            let path = self.output.join(format!("{}.{}", part.name, self.format.extension()));
            if path.exists() {
                sum.kept += 1;
            } else if let Some(rows) = self.write_part(&store, part, wanted, &path).await? {
                sum.rows += rows;
                sum.files += 1;
            }
            bar.inc(part.file.rows);
        }
        bar.finish_and_clear();
        let kept = if sum.kept > 0 { format!("; {} were there", sum.kept) } else { String::new() };
        let place = self.output.display();
        notice(&format!("{} events in {} files in {place}{kept}", sum.rows, sum.files));
        Ok(())
    }

    /// Makes the folder, or finds that this very export began it.
    fn take_folder(&self, url: &str) -> Result<(), Failure> {
        let place = self.output.display();
        let failed = |error: std::io::Error| Failure::of(place.to_string(), error);
        // Spans back mean another time at each run, so what was said counts, not what it meant.
        let asked = serde_json::json!({
            "archive": url, "topic": self.topic, "format": self.format.extension(),
            "from": self.from, "to": self.to, "name": self.name, "source": self.source,
        });
        let asked = format!("{asked}\n");
        fs::create_dir_all(&self.output).map_err(failed)?;
        let file = self.output.join(ASKED_FILE);
        match fs::read_to_string(&file) {
            Ok(before) if before == asked => Ok(()),
            Ok(_) => {
                let what = "it holds another export: name another folder";
                Err(Failure::of(self.output.display(), what))
            }
            Err(_) if fs::read_dir(&self.output).map_err(failed)?.next().is_some() => {
                Err(Failure::of(self.output.display(), "it is not empty: name another folder"))
            }
            Err(_) => fs::write(&file, asked).map_err(failed),
        }
    }

    /// Writes what is wanted of a part; `None` when there is nothing.
    async fn write_part(
        &self,
        store: &Store,
        part: &Part,
        wanted: &Wanted,
        path: &Path,
    ) -> Result<Option<u64>, Failure> {
        let open = part.open(store).await.map_err(Failure::could_not_run)?;
        let mut bytes = Vec::new();
        let mut rows = 0;
        match self.format {
            Format::Parquet => {
                let found = part.parquet(&open, wanted).map_err(Failure::could_not_run)?;
                let Some((found, count)) = found else { return Ok(None) };
                return write_whole(path, &found).map(|()| Some(count));
            }
            Format::Csv => write_head(&mut bytes),
            Format::Ndjson => {}
        }
        let read = open.read(0..open.rows(), |place, record| {
            let event = EventView::of(record).expect("rows are events");
            if !wanted.has(&event) {
                return;
            }
            rows += 1;
            match self.format {
                Format::Csv => write_row(&mut bytes, place, &event),
                _ => {
                    let RowPlace { partition, offset, appended_at } = place;
                    let at = LinePlace { topic: &self.topic, partition, offset, appended_at };
                    write_line(&mut bytes, at, record);
                }
            }
        });
        let failed = |error| Failure::could_not_run(PartError::to_string(&part.failed(error)));
        read.map_err(failed)?;
        if rows == 0 {
            return Ok(None);
        }
        write_whole(path, &bytes).map(|()| Some(rows))
    }
}

#[derive(Default)]
struct Sum {
    rows: u64,
    files: u64,
    kept: u64,
}

/// A file that appears under its name when all is in it.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::of(path.display(), error);
    let beside = path.with_extension("part");
    let mut file = BufWriter::new(File::create(&beside).map_err(failed)?);
    file.write_all(bytes).and_then(|()| file.flush()).map_err(failed)?;
    file.get_ref().sync_all().map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

/// The columns of a CSV, and what an event has in them.
type Column = (&'static str, for<'a> fn(&EventView<'a>) -> Option<&'a str>);

const COLUMNS: [Column; 27] = [
    ("messageId", |event| Some(event.message_id())),
    ("type", |event| Some(event.kind().as_str())),
    ("event", |event| event.name()),
    ("source", |event| event.source()),
    ("anonymousId", |event| event.anonymous_id()),
    ("userId", |event| event.user_id()),
    ("previousId", |event| event.previous_id()),
    ("groupId", |event| event.group_id()),
    ("sessionId", |event| event.session_id()),
    ("resolvedUserId", |event| event.resolved_user_id()),
    ("category", |event| event.category()),
    ("channel", |event| event.channel()),
    ("locale", |event| event.locale()),
    ("userAgent", |event| event.user_agent()),
    ("clientAddress", |event| event.client_address()),
    ("libraryName", |event| event.library_name()),
    ("libraryVersion", |event| event.library_version()),
    ("pageUrl", |event| event.page_url()),
    ("pagePath", |event| event.page_path()),
    ("pageReferrer", |event| event.page_referrer()),
    ("pageTitle", |event| event.page_title()),
    ("country", |event| event.geo().and_then(|geo| geo.country)),
    ("properties", |event| event.properties()),
    ("traits", |event| event.traits()),
    ("context", |event| event.context()),
    ("integrations", |event| event.integrations()),
    ("extra", |event| event.extra()),
];

fn write_head(out: &mut Vec<u8>) {
    out.extend_from_slice(b"partition,offset,appendedAt,timestamp,receivedAt");
    for (name, _) in COLUMNS {
        out.push(b',');
        out.extend_from_slice(name.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// By RFC 4180.
fn write_row(out: &mut Vec<u8>, place: RowPlace, event: &EventView<'_>) {
    let times = [place.appended_at, event.event_time(), event.received_time()].map(format_time);
    let begin = format!("{},{},{}", place.partition, place.offset, times.join(","));
    out.extend_from_slice(begin.as_bytes());
    for (_, value) in COLUMNS {
        out.push(b',');
        write_cell(out, value(event).unwrap_or_default());
    }
    out.extend_from_slice(b"\r\n");
}

fn write_cell(out: &mut Vec<u8>, text: &str) {
    if !text.contains(['"', ',', '\r', '\n']) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let cell = |text: &str| {
            let mut out = Vec::new();
            write_cell(&mut out, text);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(cell("plain"), "plain");
        assert_eq!(cell(r#"{"a":1,"b":2}"#), r#""{""a"":1,""b"":2}""#);
        assert_eq!(cell("two\nlines"), "\"two\nlines\"");
    }
}
