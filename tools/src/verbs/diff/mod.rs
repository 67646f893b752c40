//! `tracklog diff`: which events of two topics differ, and in which fields.
//!
//! Both topics are read as lines of JSON, brought into the order of what pairs them (`sorting`), and
//! compared pair by pair (`comparing`).

mod comparing;
mod sorting;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracklog_protocol::line::format_time;
use tracklog_protocol::{Offset, TimeMicros};
use tracklog_server::bound::Bound;
use tracklog_server::replay::Query;

use crate::failure::Failure;
use crate::output::{Output, notice};
use crate::reading::{Piece, Place, Source};
use comparing::{FieldDifference, Ignored, differences};
use sorting::{Keyed, Sorted, Sorter};

/// The topic that events have their places in.
const RAW: &str = "raw";
/// Differences that are told to people.
const SHOWN_MAX: u64 = 20;
/// Letters of a value that people see.
const VALUE_CHARS_MAX: usize = 60;

/// Show which events of two topics differ, and in which fields
///
/// Events are paired by their place in `raw`: those of `raw` by their own, enriched ones by what they
/// were made of; where a topic has no such place, by message id. Where a record lies and since when
/// does not count.
#[derive(Args)]
#[command(after_help = "\
Ranges are of `raw`, [from, to): an integer is an offset, in each partition; a TIME goes by append
time. With events that have no place there a TIME goes by when they were received.

Memory stays bounded: what does not fit is sorted in files below $TMPDIR. Exit status: 0 all are
equal, 1 some differ, 2 it could not be told.

Examples:
  tracklog diff enriched enriched.again
  tracklog diff enriched enriched.again --from -1d --ignore enrichedBy --ignore geo.city
  tracklog diff enriched enriched.again --json | jq -r 'select(.fields) | .messageId'")]
pub(crate) struct Diff {
    /// The first topic
    topic_a: String,
    /// The second
    topic_b: String,
    /// Where to begin, in `raw` [default: all that is there]
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Where to end, in `raw`, not included
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// A field that does not count, with all that lies in it: `geo`, `session.id`
    #[arg(long, value_name = "FIELD")]
    ignore: Vec<String>,
    /// One object a line: each event that differs, and a summary
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// What pairs an event with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PairedBy {
    Place,
    Id,
}

/// What is looked at in a line before it is compared.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    topic: String,
    partition: u32,
    offset: u64,
    message_id: Option<String>,
    received_at: Option<String>,
    raw_partition: Option<u32>,
    raw_offset: Option<u64>,
}

impl Head {
    fn of(line: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(line).map_err(|error| Failure::of("a line of a topic", error))
    }

    /// Where the event lies in `raw`.
    fn raw_place(&self) -> Option<(u32, u64)> {
        match (self.raw_partition, self.raw_offset) {
            (Some(partition), Some(offset)) => Some((partition, offset)),
            _ => (self.topic == RAW).then_some((self.partition, self.offset)),
        }
    }
}

/// Which events are looked at.
#[derive(Default)]
struct Range {
    /// Nothing before it is in the range: an event is appended nowhere before it is in `raw`.
    read_from: Option<Bound>,
    /// By partition of `raw`, the first offset that is, and the first that no longer is.
    places: BTreeMap<u32, (u64, u64)>,
    /// The same by the time of receipt, as lines have it.
    times: (Option<String>, Option<String>),
}

impl Range {
    fn holds(&self, head: &Head, by: PairedBy) -> bool {
        if by == PairedBy::Place {
            let Some((partition, offset)) = head.raw_place() else { return false };
            let range = self.places.get(&partition);
            return range.is_none_or(|(from, to)| (*from..*to).contains(&offset));
        }
        let (from, to) = &self.times;
        let received = head.received_at.as_deref().unwrap_or_default();
        from.as_deref().is_none_or(|from| received >= from)
            && to.as_deref().is_none_or(|to| received < to)
    }
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    equal: u64,
    differ: u64,
    only_a: u64,
    only_b: u64,
    /// How many events differ in each field.
    fields: BTreeMap<String, u64>,
}

/// An event that differs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Difference<'d> {
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_partition: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'d str>,
    /// The only topic that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    only_in: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Vec<FieldDifference>>,
}

impl Diff {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let source = self.place.open()?;
        let (a, b) = crate::block_on(async {
            let by = self.paired_by(&source).await?;
            let range = self.range(&source, by, crate::now()).await?;
            let a = self.sorted(&source, &self.topic_a, by, &range).await?;
            let b = self.sorted(&source, &self.topic_b, by, &range).await?;
            Ok((a, b))
        })?;
        let mut shown = Shown {
            of: &self,
            ignored: Ignored::new(&self.ignore),
            output: Output::new(),
            summary: Summary::default(),
            told: 0,
        };
        shown.compare(a, b)?;
        shown.end()
    }

    /// Places, where the first event of each topic has one.
    async fn paired_by(&self, source: &Source) -> Result<PairedBy, Failure> {
        let mut by = PairedBy::Place;
        for topic in [&self.topic_a, &self.topic_b] {
            let query = Query { limit: Some(1), ..Query::default() };
            read(source, topic, query, &mut |line| {
                if Head::of(line)?.raw_place().is_none() {
                    by = PairedBy::Id;
                }
                Ok(())
            })
            .await?;
        }
        Ok(by)
    }

    async fn range(
        &self,
        source: &Source,
        by: PairedBy,
        now: TimeMicros,
    ) -> Result<Range, Failure> {
        let bound = |name: &str, text: &Option<String>| {
            let parse = |text: &String| Bound::parse(text, now);
            text.as_ref().map(parse).transpose().map_err(|error| Failure::of(name, error))
        };
        let (from, to) = (bound("--from", &self.from)?, bound("--to", &self.to)?);
        let read_from = from.filter(|from| matches!(from, Bound::Time(_)));
        let mut range = Range { read_from, ..Range::default() };
        match by {
            _ if from.is_none() && to.is_none() => {}
            PairedBy::Id => range.times = (time_of(from, now)?, time_of(to, now)?),
            PairedBy::Place => {
                let everything = Bound::Offset(Offset::ZERO);
                let starts = places(source, from.unwrap_or(everything)).await?;
                let ends = match to {
                    Some(to) => places(source, to).await?,
                    None => BTreeMap::new(),
                };
                let end = |partition| ends.get(partition).copied().unwrap_or(u64::MAX);
                let both =
                    starts.iter().map(|(partition, start)| (*partition, (*start, end(partition))));
                range.places = both.collect();
            }
        }
        Ok(range)
    }

    /// The events of a topic that lie in `range`, in the order of what pairs them.
    async fn sorted(
        &self,
        source: &Source,
        topic: &str,
        by: PairedBy,
        range: &Range,
    ) -> Result<Sorted, Failure> {
        let mut sorter = Sorter::new();
        let query = Query { from: range.read_from, ..Query::default() };
        read(source, topic, query, &mut |line| {
            let head = Head::of(line)?;
            if !range.holds(&head, by) {
                return Ok(());
            }
            let key = match (by, head.raw_place()) {
                (PairedBy::Place, Some((partition, offset))) => {
                    format!("{partition:010}/{offset:020}").into_bytes()
                }
                _ => head.message_id.unwrap_or_default().into_bytes(),
            };
            let pushed = sorter.push(Keyed { key, line: line.to_vec() });
            pushed.map_err(|error| Failure::of("lines that are sorted", error))
        })
        .await?;
        sorter.finish().map_err(|error| Failure::of("lines that are sorted", error))
    }
}

/// The same moment in the form that lines have.
fn time_of(bound: Option<Bound>, now: TimeMicros) -> Result<Option<String>, Failure> {
    match bound {
        None => Ok(None),
        Some(Bound::Time(time)) => Ok(Some(format_time(time))),
        Some(Bound::Now) => Ok(Some(format_time(now))),
        Some(Bound::Offset(_)) => {
            Err(Failure::could_not_run("these events have no offset in raw: give a time"))
        }
    }
}

/// By partition of `raw`, the first offset at or behind `bound`; the highest there is where no
/// record is.
async fn places(source: &Source, bound: Bound) -> Result<BTreeMap<u32, u64>, Failure> {
    let mut places = BTreeMap::new();
    for partition in source.topic(RAW).await?.partitions {
        let mut place = u64::MAX;
        if let Bound::Offset(offset) = bound {
            place = offset.0;
        } else {
            let (partition, from) = (Some(partition.partition), Some(bound));
            let query = Query { partition, from, limit: Some(1), ..Query::default() };
            read(source, RAW, query, &mut |line| {
                place = Head::of(line)?.offset;
                Ok(())
            })
            .await?;
        }
        places.insert(partition.partition, place);
    }
    Ok(places)
}

/// Reads a topic line by line. What is damaged cannot be compared: then there is no answer.
async fn read(
    source: &Source,
    topic: &str,
    query: Query,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    source
        .read(topic, query, &mut |piece| match piece {
            Piece::Lines(lines, _) => lines
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .try_for_each(&mut *take),
            Piece::Notice(text) => {
                notice(&text);
                Ok(())
            }
            Piece::Damage(text) => Err(Failure::of(topic, text)),
            Piece::Records(_) | Piece::Pause => Ok(()),
        })
        .await
}

/// Prints differences, and counts them.
struct Shown<'d> {
    of: &'d Diff,
    ignored: Ignored,
    output: Output,
    summary: Summary,
    told: u64,
}

impl Shown<'_> {
    /// Goes through both topics side by side.
    fn compare(&mut self, a: Sorted, b: Sorted) -> Result<(), Failure> {
        let failed = |error| Failure::of("lines that are sorted", error);
        let (mut a, mut b) = (a, b);
        let mut next_a = a.next().transpose().map_err(failed)?;
        let mut next_b = b.next().transpose().map_err(failed)?;
        loop {
            let order = match (&next_a, &next_b) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(in_a), Some(in_b)) => in_a.key.cmp(&in_b.key),
            };
            let found = (next_a.take_if(|_| order.is_le()), next_b.take_if(|_| order.is_ge()));
            if found.0.is_some() {
                next_a = a.next().transpose().map_err(failed)?;
            }
            if found.1.is_some() {
                next_b = b.next().transpose().map_err(failed)?;
            }
            match found {
                (Some(in_a), Some(in_b)) => self.pair(&in_a.line, &in_b.line)?,
                (Some(in_a), None) => self.alone(&in_a.line, true)?,
                (None, Some(in_b)) => self.alone(&in_b.line, false)?,
                (None, None) => unreachable!("one of the two comes first"),
            }
        }
    }

    fn pair(&mut self, a: &[u8], b: &[u8]) -> Result<(), Failure> {
        let parse = |line| -> Result<Value, Failure> {
            serde_json::from_slice(line).map_err(|error| Failure::of("a line of a topic", error))
        };
        let fields = differences(&parse(a)?, &parse(b)?, &self.ignored);
        if fields.is_empty() {
            self.summary.equal += 1;
            return Ok(());
        }
        self.summary.differ += 1;
        for difference in &fields {
            *self.summary.fields.entry(difference.field.clone()).or_default() += 1;
        }
        self.show(&Head::of(a)?, None, Some(fields))
    }

    fn alone(&mut self, line: &[u8], is_in_a: bool) -> Result<(), Failure> {
        let of = self.of;
        let (count, topic) = match is_in_a {
            true => (&mut self.summary.only_a, &of.topic_a),
            false => (&mut self.summary.only_b, &of.topic_b),
        };
        *count += 1;
        self.show(&Head::of(line)?, Some(topic), None)
    }

    fn show(
        &mut self,
        head: &Head,
        only_in: Option<&str>,
        fields: Option<Vec<FieldDifference>>,
    ) -> Result<(), Failure> {
        let (raw_partition, raw_offset) = head.raw_place().unzip();
        let message_id = head.message_id.as_deref();
        let difference = Difference { raw_partition, raw_offset, message_id, only_in, fields };
        if self.of.json {
            return self.output.json(&difference);
        }
        self.told += 1;
        match self.told {
            ..=SHOWN_MAX => self.output.line(&words(&difference)),
            _ if self.told == SHOWN_MAX + 1 => self.output.line("… (--json tells all)"),
            _ => Ok(()),
        }
    }

    fn end(mut self) -> Result<(), Failure> {
        let Summary { equal, differ, only_a, only_b, fields } = &self.summary;
        if self.of.json {
            self.output.json(&self.summary)?;
        } else {
            let Diff { topic_a, topic_b, .. } = self.of;
            self.output.line(&format!(
                "{equal} equal, {differ} differ, {only_a} only in {topic_a}, {only_b} only in {topic_b}"
            ))?;
            let mut by_count: Vec<_> = fields.iter().collect();
            by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (field, count) in by_count {
                self.output.line(&format!("  {field}  {count}"))?;
            }
        }
        self.output.flush()?;
        if differ + only_a + only_b == 0 { Ok(()) } else { Err(Failure::AnswerIsNo) }
    }
}

/// For people, on one line.
fn words(difference: &Difference<'_>) -> String {
    let Difference { raw_partition, raw_offset, message_id, only_in, fields } = difference;
    let mut text = match (raw_partition, raw_offset) {
        (Some(partition), Some(offset)) => format!("{RAW}/{partition}@{offset}  "),
        _ => String::new(),
    };
    text.push_str(message_id.unwrap_or("without id"));
    if let Some(topic) = only_in {
        text.push_str(&format!("  only in {topic}"));
    }
    for FieldDifference { field, a, b } in fields.iter().flatten() {
        text.push_str(&format!("  {field}: {} → {}", shown(a.as_ref()), shown(b.as_ref())));
    }
    text
}

fn shown(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
