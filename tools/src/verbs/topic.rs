//! `tracklog topic`: create, list, describe, delete.

use clap::{Args, Subcommand};
use hyper::Method;
use serde::{Deserialize, Serialize};
use tracklog_server::offline;
use tracklog_server::topics::{self, NewTopic, TopicDetails, TopicSummary};

use crate::failure::Failure;
use crate::node_client::segment;
use crate::output::{Output, table};
use crate::reading::{Place, Source};

/// Create, list, describe or delete topics
#[derive(Args)]
#[command(after_help = "\
Examples:
  tracklog topic list
  tracklog topic describe raw
  tracklog topic create orders.paid --partitions 8
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
        /// Only the last record of each key must stay; as yet older ones are not removed
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

fn tell_made(topic: &TopicSummary) -> Result<(), Failure> {
    let mut output = Output::new();
    let TopicSummary { topic, partitions, retention, .. } = topic;
    output.line(&format!("{topic}: partitions {partitions}, retention {retention}"))?;
    output.flush()
}

/// A span of time in its largest whole unit.
fn span(seconds: u64) -> String {
    match seconds {
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
    Ok(())
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
}

fn show_details(topic: &TopicDetails, json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        for range in &topic.partitions {
            let (partition, start, end) = (range.partition, range.start, range.end);
            output.json(&PartitionLine { topic: &topic.topic, partition, start, end })?;
        }
    } else {
        let TopicDetails { topic: name, retention, created_at, dedupe_seconds, .. } = topic;
        let dedupe = dedupe_seconds.map_or_else(String::new, |seconds| {
            format!(", each event stored once within {}", span(seconds))
        });
        let made = made_at(created_at);
        output.line(&format!("{name}: retention {retention}{dedupe}, created {made}"))?;
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
