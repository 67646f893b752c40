//! `tracklog enrich`: what enrichment makes of an event.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::value::RawValue;
use tracklog_server::config::{Flags, Settings};
use tracklog_server::explain::{Explanation, Look, Question, offline};

use crate::failure::Failure;
use crate::output::{Output, table};
use crate::reading::{Place, Source};

/// Show what enrichment makes of an event
#[derive(Args)]
#[command(after_help = "\
Examples:
  tracklog enrich explain event.json")]
pub(crate) struct EnrichCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Place,
}

#[derive(Subcommand)]
enum Action {
    Explain(Explain),
}

/// Show what each enricher would add to an event, what it read, and how long it took
///
/// The event is judged as `/v1/events` would. A running node is asked with its own settings; a
/// stopped one's state is built again outside of its folder, which takes as long as its changelog is
/// long. Without a folder nobody is known. Nothing is stored.
///
/// Exit status: 1 when the event would be rejected.
#[derive(Args)]
#[command(after_help = "\
Examples:
  echo '{\"type\":\"page\",\"anonymousId\":\"d\"}' | tracklog enrich explain -
  tracklog enrich explain event.json --user-agent 'Mozilla/5.0 (iPhone; …)' --ip 81.2.69.160
  tracklog enrich explain event.json --config tracklog.toml --ip 10.0.0.9 \\
    --header 'X-Forwarded-For: 81.2.69.160' --header 'CF-IPCountry: GB'")]
struct Explain {
    /// One event, as an SDK sends it; `-` is standard input
    #[arg(value_name = "EVENT.json")]
    event: PathBuf,
    /// The settings of a node that does not run [default: $TRACKLOG_CONFIG]
    #[arg(long, value_name = "FILE", conflicts_with = "node")]
    config: Option<PathBuf>,
    /// The source whose key it comes with
    #[arg(long, value_name = "NAME", default_value = "default")]
    source: String,
    /// The address that the request comes from: a client's, or a proxy's
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    /// The request's `User-Agent`
    #[arg(long, value_name = "TEXT")]
    user_agent: Option<String>,
    /// Another header of the request; may be given again
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// One object
    #[arg(long)]
    json: bool,
}

impl EnrichCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let Action::Explain(explain) = self.action;
        crate::block_on(explain.run(self.place))
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl Explain {
    async fn run(self, place: Place) -> Result<(), Failure> {
        let question = self.question()?;
        let explanation = match place.is_node() {
            true => ask(&place, &question).await?,
            false => self.of_folder(place, &question).await?,
        };
        let mut output = Output::new();
        if self.json {
            output.json(&explanation)?;
        } else {
            show(&mut output, &explanation)?;
        }
        output.flush()?;
        if explanation.rejected.is_some() { Err(Failure::AnswerIsNo) } else { Ok(()) }
    }

    fn question(&self) -> Result<Question, Failure> {
        let agent = self.user_agent.iter().map(|agent| ("user-agent".to_owned(), agent.clone()));
        Ok(Question {
            event: self.read()?,
            source: Some(self.source.clone()),
            ip: self.ip,
            headers: agent.chain(self.header.iter().cloned()).collect(),
        })
    }

    fn read(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let read = match self.event.to_str() {
            Some("-") => std::io::stdin().read_to_string(&mut text).map(|_| text),
            _ => std::fs::read_to_string(&self.event),
        };
        read.map_err(|error| Failure::of(self.event.display(), error))
    }

    /// Asks the node that holds the folder; else reads it, if it is there.
    async fn of_folder(
        &self,
        mut place: Place,
        question: &Question,
    ) -> Result<Explanation, Failure> {
        let flags =
            Flags { config: self.config.clone(), data: place.data.clone(), ..Flags::default() };
        let settings = Settings::load(&flags, std::env::vars()).map_err(Failure::could_not_run)?;
        let is_named = place.data.is_some() || settings.data != Settings::default_data();
        place.data = Some(settings.data.clone());
        let log = match is_named || settings.data.is_dir() {
            false => None,
            true => match place.open()? {
                Source::Folder(log) => Some(log),
                Source::Node(_) if self.config.is_some() => {
                    let what = "a node holds it, and explains by its own settings: no --config";
                    return Err(Failure::of(settings.data.display(), what));
                }
                Source::Node(node) => return ask_node(&node, question).await,
            },
        };
        let scratch = tempfile::tempdir().map_err(Failure::could_not_run)?;
        let explained = offline(&settings, log, &scratch.path().join("state"), question).await;
        explained.map_err(Failure::could_not_run)
    }
}

async fn ask(place: &Place, question: &Question) -> Result<Explanation, Failure> {
    let node = place.running()?.expect("an address is that of a node");
    ask_node(&node, question).await
}

async fn ask_node(
    node: &crate::node_client::NodeClient,
    question: &Question,
) -> Result<Explanation, Failure> {
    let body = serde_json::to_vec(question).map_err(Failure::could_not_run)?;
    node.json(Method::POST, "/v1/enrich/explain", body.into()).await
}

fn show(output: &mut Output, explanation: &Explanation) -> Result<(), Failure> {
    let id = explanation.message_id.as_deref().unwrap_or("without a message id");
    if let Some(rejected) = &explanation.rejected {
        let at = rejected.pointer.iter().map(|pointer| format!(" at {pointer}"));
        let at: String = at.collect();
        return output
            .line(&format!("event {id}: rejected{at}, {}: {}", rejected.code, rejected.message));
    }
    output.line(&format!("event {id}, state as of {}", explanation.state_offset))?;
    explanation.enrichers.iter().try_for_each(|look| show_look(output, look))
}

fn show_look(output: &mut Output, look: &Look) -> Result<(), Failure> {
    let why: String = look.failure.iter().map(|why| format!(" ({why})")).collect();
    let Look { enricher, version, result, micros, .. } = look;
    output.line(&format!("{enricher}: {result}{why}, {micros:.1} µs, version {version}"))?;
    let adds: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(look.adds.get()).map_err(Failure::could_not_run)?;
    let row = |word: &str, name: &str, value: &str| {
        vec![format!("  {word}"), name.to_owned(), value.to_owned()]
    };
    let reads = look.reads.iter().map(|(name, value)| row("reads", name, value));
    let adds = adds.iter().map(|(name, value)| row("adds", name, value.get()));
    let rows: Vec<_> = reads.chain(adds).collect();
    output.write(table(&rows).as_bytes())
}
