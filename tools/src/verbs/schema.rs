//! `tracklog schema`: register, list, show, delete, try out.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tracklog_server::schemas::{SchemaCopy, Summary, Violation};

use crate::failure::Failure;
use crate::node_client::{NodeClient, segment};
use crate::output::{Output, done, table};
use crate::reading::{Place, Source};

/// Register, list, show, delete or try out schemas of events
///
/// These are JSON Schemas of an event's `properties` (of its `traits` for identify and group), by
/// event name.
#[derive(Args)]
#[command(after_help = "\
A file's name is the event's name, percent-encoded: `Order%20Completed.json`; `NAME@2.json` is
version 2. Calls without a name are $identify, $group, $page, $screen and $alias.

Examples:
  tracklog schema push schemas/*.json
  tracklog schema push order.json --event 'Order Completed'
  tracklog schema list
  tracklog schema show 'Order Completed'
  tracklog schema check order.json --payload example.json     (no node is needed)
  tracklog schema check --event 'Order Completed' --payload example.json")]
pub(crate) struct SchemaCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Place,
}

#[derive(Subcommand)]
enum Action {
    /// Register schemas with a running node
    #[command(after_help = "\
Examples:
  tracklog schema push schemas/*.json
  tracklog schema push order.json --event 'Order Completed'")]
    Push {
        /// Files; each is named after its event
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The event's name, for a single file
        #[arg(long, value_name = "NAME", value_parser = event_name)]
        event: Option<String>,
        /// One object a line
        #[arg(long)]
        json: bool,
    },
    /// Show the names and versions that are registered
    #[command(after_help = "\
Examples:
  tracklog schema list")]
    List {
        /// One object a line
        #[arg(long)]
        json: bool,
    },
    /// Show a schema as it was registered
    #[command(
        disable_version_flag = true,
        after_help = "\
Examples:
  tracklog schema show 'Order Completed'
  tracklog schema show 'Order Completed' --version 1 > order.json"
    )]
    Show {
        /// The event's name
        #[arg(value_name = "NAME", value_parser = event_name)]
        event: String,
        /// Which version [default: the newest]
        #[arg(long, value_name = "N")]
        version: Option<u32>,
    },
    /// Delete all versions of an event's schema from a running node: its events are taken unchecked then
    #[command(after_help = "\
Examples:
  tracklog schema delete 'Order Completed'")]
    Delete {
        /// The event's name
        #[arg(value_name = "NAME", value_parser = event_name)]
        event: String,
    },
    /// Say whether schemas compile, and whether payloads are valid
    #[command(after_help = "\
Examples:
  tracklog schema check order.json --payload example.json     (no node is needed)
  tracklog schema check --event 'Order Completed' --payload example.json")]
    Check {
        /// Schema files
        #[arg(value_name = "FILE", required_unless_present = "event", conflicts_with = "event")]
        files: Vec<PathBuf>,
        /// A schema that is registered, instead of files
        #[arg(long, value_name = "NAME", requires = "payload", value_parser = event_name)]
        event: Option<String>,
        /// Payloads, each one JSON object; all are held against each schema
        #[arg(long, value_name = "FILE")]
        payload: Vec<PathBuf>,
        /// One object a line
        #[arg(long)]
        json: bool,
    },
}

fn event_name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty; say which event, as in --event 'Order Completed'".to_owned()),
        name => Ok(name.to_owned()),
    }
}

impl SchemaCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let place = &self.place;
        match self.action {
            Action::Push { files, event, json } => {
                crate::block_on(push(&running(place)?, &files, event.as_deref(), json))
            }
            Action::List { json } => show(&crate::block_on(list(place))?, json),
            Action::Show { event, version } => {
                crate::block_on(show_registered(place, &event, version))
            }
            Action::Delete { event } => {
                let deleted = crate::block_on(running(place)?.delete(&path_of(&event, None)));
                deleted.map_err(|failure| about(&event, failure))?;
                done(&event, "deleted")
            }
            Action::Check { files, event: None, payload, json } => {
                crate::block_on(check_files(&files, &payload, json))
            }
            Action::Check { event: Some(event), payload, json, .. } => {
                crate::block_on(check_registered(place, &event, &payload, json))
            }
        }
    }
}

fn running(place: &Place) -> Result<NodeClient, Failure> {
    place.running()?.ok_or_else(|| {
        let what = "no node runs there: start one with `tracklog serve`";
        Failure::of(place.folder().path().display(), what)
    })
}

#[derive(Serialize, Deserialize)]
struct Pushed {
    name: String,
    version: u32,
    created: bool,
}

async fn push(
    node: &NodeClient,
    files: &[PathBuf],
    event: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    if event.is_some() && files.len() > 1 {
        return Err(Failure::could_not_run("--event names one event: give one file"));
    }
    let mut output = Output::new();
    for file in files {
        let (name, version) = match event {
            Some(event) => (event.to_owned(), None),
            None => named(file)?,
        };
        let pushed: Pushed = node
            .json(Method::PUT, &path_of(&name, version), read(file)?)
            .await
            .map_err(|failure| about(file.display(), failure))?;
        if json {
            output.json(&pushed)?;
        } else {
            let word = if pushed.created { "registered" } else { "unchanged" };
            output.line(&format!("{} version {}: {word}", pushed.name, pushed.version))?;
        }
    }
    output.flush()
}

/// Where a node has a schema: one version of it, or all.
fn path_of(event: &str, version: Option<u32>) -> String {
    let versions = version.map_or_else(String::new, |version| format!("/versions/{version}"));
    format!("/v1/schemas/{}{versions}", segment(event))
}

async fn show_registered(place: &Place, event: &str, version: Option<u32>) -> Result<(), Failure> {
    let schema = match Registered::open(place).await? {
        Registered::Node(node) => node.bytes(&path_of(event, version)).await,
        Registered::Copy(copy) => copy.get(event, version).map_err(Failure::could_not_run),
    };
    let schema = schema.map_err(|failure| about(event, failure))?;
    let mut output = Output::new();
    output.write(&schema)?;
    if !schema.ends_with(b"\n") {
        output.write(b"\n")?;
    }
    output.flush()
}

/// The event and the version that a file's name says.
fn named(file: &Path) -> Result<(String, Option<u32>), Failure> {
    let no_name = || Failure::of(file.display(), "its name is not NAME.json: use --event NAME");
    let stem =
        file.file_name().and_then(|name| name.to_str()).and_then(|n| n.strip_suffix(".json"));
    let stem = stem.filter(|stem| !stem.is_empty()).ok_or_else(no_name)?;
    let (name, version) = match stem.rsplit_once('@').map(|(name, n)| (name, n.parse())) {
        Some((name, Ok(version))) => (name, Some(version)),
        _ => (stem, None),
    };
    let name = percent_decode_str(name).decode_utf8().map_err(|_| no_name())?;
    Ok((name.into_owned(), version))
}

#[derive(Deserialize)]
struct Listed {
    schemas: Vec<Schema>,
}

#[derive(Serialize, Deserialize)]
struct Schema {
    name: String,
    versions: Vec<u32>,
}

async fn list(place: &Place) -> Result<Vec<Schema>, Failure> {
    match place.open()? {
        Source::Node(node) => {
            let Listed { schemas } = node.json(Method::GET, "/v1/schemas", Bytes::new()).await?;
            Ok(schemas)
        }
        Source::Folder(log) => {
            let copy = SchemaCopy::of(&*log).await.map_err(Failure::could_not_run)?;
            let schema = |summary: Summary| {
                let name = summary.name.as_str().to_owned();
                Schema { name, versions: summary.versions }
            };
            Ok(copy.list().into_iter().map(schema).collect())
        }
    }
}

fn show(schemas: &[Schema], json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        schemas.iter().try_for_each(|schema| output.json(schema))?;
    } else {
        let mut rows = vec![vec!["event".to_owned(), "versions".to_owned()]];
        rows.extend(schemas.iter().map(|schema| {
            let versions: Vec<_> = schema.versions.iter().map(u32::to_string).collect();
            vec![schema.name.clone(), versions.join(", ")]
        }));
        output.write(table(&rows).as_bytes())?;
    }
    output.flush()
}

/// What became of one schema, or of one payload by it.
#[derive(Serialize)]
struct Verdict<'a> {
    schema: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// Shows verdicts and remembers whether all were good.
struct Verdicts {
    output: Output,
    json: bool,
    all_valid: bool,
}

impl Verdicts {
    fn new(json: bool) -> Self {
        Self { output: Output::new(), json, all_valid: true }
    }

    fn show(&mut self, verdict: &Verdict<'_>) -> Result<(), Failure> {
        self.all_valid &= verdict.valid;
        if self.json {
            return self.output.json(verdict);
        }
        let what = verdict.payload.unwrap_or(verdict.schema);
        let word = match (verdict.valid, verdict.payload) {
            (true, None) => "compiles",
            (true, Some(_)) => "valid",
            (false, _) => "invalid",
        };
        let why = [verdict.pointer, verdict.message].into_iter().flatten();
        let why = why.filter(|part| !part.is_empty());
        let why: String = why.map(|part| format!(": {part}")).collect();
        self.output.line(&format!("{what}: {word}{why}"))
    }

    fn end(mut self) -> Result<(), Failure> {
        self.output.flush()?;
        if self.all_valid { Ok(()) } else { Err(Failure::AnswerIsNo) }
    }
}

async fn check_files(files: &[PathBuf], payloads: &[PathBuf], json: bool) -> Result<(), Failure> {
    let dry_run = SchemaCopy::empty().await.map_err(Failure::could_not_run)?;
    let mut verdicts = Verdicts::new(json);
    for file in files {
        let schema = read(file)?;
        let shown = file.display().to_string();
        let compiled = dry_run.check(&schema, b"{}").await.map(|_| ());
        let message = compiled.as_ref().err().map(ToString::to_string);
        verdicts.show(&Verdict {
            schema: &shown,
            payload: None,
            valid: compiled.is_ok(),
            pointer: None,
            message: message.as_deref(),
        })?;
        if compiled.is_err() {
            continue;
        }
        for payload in payloads {
            let path = payload.display().to_string();
            let checked = dry_run.check(&schema, &read(payload)?).await;
            let checked = checked.map_err(|error| Failure::of(&path, error))?;
            verdicts.show(&Verdict {
                schema: &shown,
                payload: Some(&path),
                valid: checked.is_none(),
                pointer: checked.as_ref().map(|violation| &*violation.pointer),
                message: checked.as_ref().map(|violation| &*violation.message),
            })?;
        }
    }
    verdicts.end()
}

#[derive(Deserialize)]
struct Judged {
    valid: bool,
    pointer: Option<String>,
    message: Option<String>,
}

impl Judged {
    fn of(violation: Option<Violation>) -> Self {
        let (pointer, message) = violation.map(|it| (it.pointer, it.message)).unzip();
        Self { valid: message.is_none(), pointer, message }
    }
}

async fn check_registered(
    place: &Place,
    event: &str,
    payloads: &[PathBuf],
    json: bool,
) -> Result<(), Failure> {
    let mut verdicts = Verdicts::new(json);
    let source = Registered::open(place).await?;
    for payload in payloads {
        let judged = source.check(event, read(payload)?).await;
        let judged = judged.map_err(|failure| about(payload.display(), failure))?;
        verdicts.show(&Verdict {
            schema: event,
            payload: Some(&payload.display().to_string()),
            valid: judged.valid,
            pointer: judged.pointer.as_deref(),
            message: judged.message.as_deref(),
        })?;
    }
    verdicts.end()
}

/// Registered schemas, wherever they are.
enum Registered {
    Node(NodeClient),
    Copy(SchemaCopy),
}

impl Registered {
    async fn open(place: &Place) -> Result<Self, Failure> {
        match place.open()? {
            Source::Node(node) => Ok(Self::Node(node)),
            Source::Folder(log) => {
                SchemaCopy::of(&*log).await.map(Self::Copy).map_err(Failure::could_not_run)
            }
        }
    }

    async fn check(&self, event: &str, payload: Bytes) -> Result<Judged, Failure> {
        match self {
            Self::Node(node) => {
                let path = format!("/v1/schemas/{}/check", segment(event));
                node.json(Method::POST, &path, payload).await
            }
            Self::Copy(copy) => {
                let checked = copy.check_registered(event, &payload).await;
                checked.map(Judged::of).map_err(Failure::could_not_run)
            }
        }
    }
}

fn read(file: &Path) -> Result<Bytes, Failure> {
    let read = std::fs::read(file);
    read.map(Bytes::from).map_err(|error| Failure::of(file.display(), error))
}

/// The failure, with what it is about before it.
fn about(what: impl std::fmt::Display, failure: Failure) -> Failure {
    match failure {
        Failure::CouldNotRun(line) => Failure::of(what, line),
        failure => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_s_name_says_event_and_version() {
        let named = |file: &str| named(Path::new(file)).ok();
        assert_eq!(named("a/Order%20Completed.json"), Some(("Order Completed".into(), None)));
        assert_eq!(named("signup@3.json"), Some(("signup".into(), Some(3))));
        assert_eq!(named("a@b.json"), Some(("a@b".into(), None)));
        assert_eq!(named("$identify.json"), Some(("$identify".into(), None)));
        assert!(named("schema.txt").is_none() && named(".json").is_none());
    }
}
