//! `tracklog topic`: create, list, describe, limit, trim, delete.

use clap::{Args, Subcommand};
use hyper::Method;
use serde::{Deserialize, Serialize};
use tracklog_server::bound::Bound;
use tracklog_server::config::WhenFullSetting;
use tracklog_server::offline;
use tracklog_server::topics::{
    self, NewLimits, NewTopic, TopicDetails, TopicSummary, Trim, Trimmed, TrimmedPartition,
};

use crate::failure::Failure;
use crate::node_client::segment;
use crate::output::{Output, done, table};
use crate::reading::{Place, Source};

/// Create, list, describe, limit, trim or delete topics
#[derive(Args)]
#[command(after_help = "\
Examples:
  tracklog topic list
  tracklog topic describe raw
  tracklog topic create orders.paid --partitions 8
  tracklog topic limit raw --max-age 30d
  tracklog topic trim raw --before 2026-01-01 --dry-run
  tracklog topic delete orders.paid")]
pub(crate) struct TopicCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Place,
}

#[derive(Subcommand)]
enum Action {
    /// Make a topic; asking again for the same one is fine
    #[command(after_help = "\
Examples:
  tracklog topic create orders.paid
  tracklog topic create orders.paid --partitions 8")]
    Create {
        /// 1 to 128 of a-z 0-9 . _ - ; not with _ at the start
        name: String,
        /// How many partitions; fixed for ever
        #[arg(long, value_name = "N", default_value_t = 16)]
        partitions: u32,
        /// Only the last record of each key must stay: older ones go when they are settled
        #[arg(long)]
        compact: bool,
    },
    /// Show all topics
    #[command(after_help = "\
Examples:
  tracklog topic list
  tracklog topic list --json")]
    List {
        /// One object a line
        #[arg(long)]
        json: bool,
    },
    /// Show a topic's partitions and their offsets
    #[command(after_help = "\
Examples:
  tracklog topic describe raw")]
    Describe {
        /// The topic
        name: String,
        /// One object a line, a partition each
        #[arg(long)]
        json: bool,
    },
    /// Say how much of a topic is kept; what is beyond goes, oldest first
    #[command(after_help = "\
A record stays at least so long after it was appended, whatever time its client said, and so many
bytes on the disk stay at least. What is beyond either goes in larger pieces, some time later.
Before the disk is full, what topics hold goes, oldest first, where --when-full drop_oldest allows
it: read or not, archived or not. Other topics keep what they have.

Examples:
  tracklog topic limit raw --max-age 30d
  tracklog topic limit enriched --max-bytes '200 GiB'
  tracklog topic limit raw --max-age off
  tracklog topic limit enriched --when-full drop_oldest")]
    Limit {
        /// The topic
        name: String,
        /// So long records stay: 12h, 7d, off
        #[arg(long, value_name = "SPAN")]
        max_age: Option<String>,
        /// So many bytes stay: '100 GiB', off
        #[arg(long, value_name = "SIZE")]
        max_bytes: Option<String>,
        /// What its oldest records do before the disk is full: they stay (refuse), or go (drop_oldest)
        #[arg(long, value_name = "WHAT", value_parser = when_full)]
        when_full: Option<WhenFullSetting>,
    },
    /// Give up a topic's oldest records, for good
    #[command(after_help = "\
What lies before an offset, or was appended before a time, is gone when it ends: read or not,
archived or not. All other records stay at their offsets, and new ones go on behind them. Who reads
from an offset that is gone is told the first that is there, and goes on from it; a group too, and
what it did not read counts as missed. The room on the disk comes back some time later, in larger
pieces. Compacted topics and the node's internal ones have nothing to give up.

Examples:
  tracklog topic trim raw --before -30d --dry-run
  tracklog topic trim raw --before 2026-01-01 --yes
  tracklog topic trim orders.paid --partition 3 --before 120000 --yes")]
    Trim {
        /// The topic
        name: String,
        /// The first offset that stays, in each partition, or a time of appends
        #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
        before: String,
        /// In this partition alone
        #[arg(long, value_name = "N")]
        partition: Option<u32>,
        /// Only count what would go
        #[arg(long)]
        dry_run: bool,
        /// Do it: there is no way back
        #[arg(long, conflicts_with = "dry_run")]
        yes: bool,
        /// One object a line, a partition each
        #[arg(long)]
        json: bool,
    },
    /// Delete a topic with all its records
    #[command(after_help = "\
Examples:
  tracklog topic delete orders.paid")]
    Delete {
        /// The topic
        name: String,
    },
}

#[derive(Deserialize)]
struct Topics {
    topics: Vec<TopicSummary>,
}

impl TopicCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let place = &self.place;
        match self.action {
            Action::Create { name, partitions, compact } => {
                crate::block_on(create(place, NewTopic { name, partitions, compact }))
            }
            Action::List { json } => show_list(&crate::block_on(list(place))?, json),
            Action::Describe { name, json } => {
                show_details(&crate::block_on(async { place.open()?.topic(&name).await })?, json)
            }
            Action::Limit { name, max_age: None, max_bytes: None, when_full: None } => {
                Err(Failure::could_not_run(format!(
                    "say --max-age, --max-bytes or --when-full: how much of {name} is kept"
                )))
            }
            Action::Limit { name, max_age, max_bytes, when_full } => {
                crate::block_on(limit(place, &name, NewLimits { max_age, max_bytes, when_full }))
            }
            Action::Trim { dry_run: false, yes: false, .. } => Err(Failure::could_not_run(
                "there is no way back: see with --dry-run what would go, and say --yes",
            )),
            Action::Trim { name, before, partition, dry_run, yes: _, json } => {
                let asked = Trim { before, partition, dry_run };
                show_trimmed(&crate::block_on(trim(place, &name, asked))?, dry_run, json)
            }
            Action::Delete { name } => crate::block_on(delete(place, &name)),
        }
    }
}

async fn create(place: &Place, new: NewTopic) -> Result<(), Failure> {
    match place.running()? {
        Some(node) => {
            let body = serde_json::to_vec(&new).map_err(Failure::could_not_run)?;
            let made = node.json(Method::POST, "/v1/topics", body.into()).await?;
            tell_made(&made)
        }
        None => {
            let log = offline::open_for_change(place.folder().path()).await?;
            let made = topics::create(&*log.log(), &new).await.map_err(Failure::could_not_run)?;
            let made = topics::summary(&*log.log(), &made);
            log.close().await;
            tell_made(&made)
        }
    }
}

async fn limit(place: &Place, name: &str, new: NewLimits) -> Result<(), Failure> {
    let limited: TopicDetails = match place.running()? {
        Some(node) => {
            let body = serde_json::to_vec(&new).map_err(Failure::could_not_run)?;
            let path = format!("/v1/topics/{}", segment(name));
            node.json(Method::PATCH, &path, body.into()).await?
        }
        None => {
            let log = offline::open_for_change(place.folder().path()).await?;
            let limited = topics::limit_topic(&*log.log(), name, &new).await;
            let limited = limited.map_err(Failure::could_not_run)?;
            log.close().await;
            limited
        }
    };
    let mut output = Output::new();
    output.line(&format!("{}: {}", limited.topic, kept(&limited)))?;
    output.flush()
}

async fn trim(place: &Place, name: &str, asked: Trim) -> Result<Trimmed, Failure> {
    let now = crate::now();
    let before = Bound::parse(&asked.before, now).map_err(Failure::could_not_run)?;
    let asked = Trim { before: before.to_text(), ..asked };
    if let Some(node) = place.running()? {
        let body = serde_json::to_vec(&asked).map_err(Failure::could_not_run)?;
        let path = format!("/v1/topics/{}/trim", segment(name));
        return node.json(Method::POST, &path, body.into()).await;
    }
    if asked.dry_run {
        // Counting leaves the folder as it is.
        let log = place.open_folder()?;
        return topics::trim(&*log, name, &asked, now).await.map_err(Failure::could_not_run);
    }
    let log = offline::open_for_change(place.folder().path()).await?;
    let trimmed = topics::trim(&*log.log(), name, &asked, now).await;
    log.close().await;
    trimmed.map_err(Failure::could_not_run)
}

fn when_full(text: &str) -> Result<WhenFullSetting, String> {
    serde_json::from_value(text.into()).map_err(|_| "it is refuse or drop_oldest".to_owned())
}

/// What of a topic is kept, in words.
fn kept(topic: &TopicDetails) -> String {
    let age = topic.max_age_seconds.map(|seconds| format!("for {}", span(seconds)));
    let bytes = topic.max_bytes.map(|bytes| format!("up to {} MiB", bytes >> 20));
    let room = match topic.when_full {
        Some(WhenFullSetting::DropOldest) => Some("while the disk has room".to_owned()),
        Some(WhenFullSetting::Refuse) | None => None,
    };
    let limits: Vec<String> = [age, bytes, room].into_iter().flatten().collect();
    if limits.is_empty() {
        format!("retention {}", topic.retention)
    } else {
        format!("kept {}", limits.join(", "))
    }
}

fn tell_made(topic: &TopicSummary) -> Result<(), Failure> {
    let mut output = Output::new();
    let TopicSummary { topic, partitions, retention, .. } = topic;
    output.line(&format!("{topic}: partitions {partitions}, retention {retention}"))?;
    output.flush()
}

/// A span of time in its largest whole unit.
fn span(seconds: u64) -> String {
    match seconds {
        _ if seconds >= 172_800 && seconds.is_multiple_of(86_400) => {
            format!("{} d", seconds / 86_400)
        }
        _ if seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
        _ if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

/// When a topic was made. The catalog's own is as old as the log, and has no time.
fn made_at(time: &str) -> &str {
    if time.starts_with("1970-01-01T00:00:00") { "-" } else { time }
}

async fn delete(place: &Place, name: &str) -> Result<(), Failure> {
    match place.running()? {
        Some(node) => {
            node.delete(&format!("/v1/topics/{}", segment(name))).await?;
        }
        None => {
            let log = offline::open_for_change(place.folder().path()).await?;
            topics::delete(&*log.log(), name).await.map_err(Failure::could_not_run)?;
            log.close().await;
        }
    }
    done(name, "deleted")
}

async fn list(place: &Place) -> Result<Vec<TopicSummary>, Failure> {
    match place.open()? {
        Source::Node(node) => {
            let Topics { topics } = node.get("/v1/topics").await?;
            Ok(topics)
        }
        Source::Folder(log) => Ok(topics::list(&*log)),
    }
}

fn show_list(topics: &[TopicSummary], json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        topics.iter().try_for_each(|topic| output.json(topic))?;
    } else {
        let mut rows = vec![
            ["topic", "partitions", "records", "retention", "created"].map(str::to_owned).to_vec(),
        ];
        rows.extend(topics.iter().map(|topic| {
            let (partitions, records) = (topic.partitions.to_string(), topic.records.to_string());
            let (retention, created) = (topic.retention.clone(), made_at(&topic.created_at).into());
            vec![topic.topic.clone(), partitions, records, retention, created]
        }));
        output.write(table(&rows).as_bytes())?;
    }
    output.flush()
}

#[derive(Serialize)]
struct PartitionLine<'a> {
    topic: &'a str,
    partition: u32,
    start: u64,
    end: u64,
    /// Of a topic that was trimmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
}

fn show_trimmed(trimmed: &Trimmed, dry_run: bool, json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        for TrimmedPartition { partition, start, end, dropped } in &trimmed.partitions {
            let (partition, start, end, dropped) = (*partition, *start, *end, Some(*dropped));
            let topic = &trimmed.topic;
            output.json(&PartitionLine { topic, partition, start, end, dropped })?;
        }
        return output.flush();
    }
    let dropped: u64 = trimmed.partitions.iter().map(|partition| partition.dropped).sum();
    let verb = if dry_run { "would go" } else { "are gone" };
    output.line(&format!("{}: {dropped} records {verb}", trimmed.topic))?;
    let mut rows = vec![["partition", "start", "end", "dropped"].map(str::to_owned).to_vec()];
    rows.extend(trimmed.partitions.iter().map(|it| {
        [u64::from(it.partition), it.start, it.end, it.dropped].map(|n| n.to_string()).to_vec()
    }));
    output.write(table(&rows).as_bytes())?;
    output.flush()
}

fn show_details(topic: &TopicDetails, json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        for range in &topic.partitions {
            let (partition, start, end) = (range.partition, range.start, range.end);
            let (topic, dropped) = (&topic.topic, None);
            output.json(&PartitionLine { topic, partition, start, end, dropped })?;
        }
    } else {
        let TopicDetails { topic: name, created_at, dedupe_seconds, .. } = topic;
        let dedupe = dedupe_seconds.map_or_else(String::new, |seconds| {
            format!(", each event stored once within {}", span(seconds))
        });
        let made = made_at(created_at);
        let bytes = topic.bytes.map_or_else(String::new, |bytes| {
            format!(", {bytes} bytes in full segments and packs")
        });
        output.line(&format!("{name}: {}{bytes}{dedupe}, created {made}", kept(topic)))?;
        let mut rows = vec![["partition", "start", "end", "records"].map(str::to_owned).to_vec()];
        rows.extend(topic.partitions.iter().map(|range| {
            let records = range.end - range.start;
            [u64::from(range.partition), range.start, range.end, records]
                .map(|n| n.to_string())
                .to_vec()
        }));
        output.write(table(&rows).as_bytes())?;
    }
    output.flush()
}
