//! `tracklog enrich`: what enrichment makes of an event.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::value::RawValue;
use tracklog_server::explain::{Explanation, Look};

use crate::asked_event::{self, Answerer, AskedEvent};
use crate::failure::Failure;
use crate::output::{Output, table};
use crate::reading::Place;

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
    #[command(flatten)]
    asked: AskedEvent,
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

impl Explain {
    async fn run(self, place: Place) -> Result<(), Failure> {
        let question = self.asked.question()?;
        let explanation: Explanation = match self.asked.answerer(place, &question).await? {
            Answerer::Node(node) => {
                let body = serde_json::to_vec(&question).map_err(Failure::could_not_run)?;
                node.json(Method::POST, "/v1/enrich/explain", body.into()).await?
            }
            Answerer::Here { explainer, .. } => {
                explainer.explain(&question).await.map_err(Failure::could_not_run)?
            }
        };
        let is_rejected = explanation.rejected.is_some();
        asked_event::tell(&explanation, self.json, is_rejected, show)
    }
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
