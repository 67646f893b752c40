//! `tracklog route`: show, check, explain.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hyper::Method;
use tracklog_server::routes::{
    Delivered, RouteExplanation, RouteQuestion, RoutesStatus, RulesSummary, check,
};

use crate::asked_event::{self, Answerer, AskedEvent};
use crate::failure::Failure;
use crate::output::{Output, table};
use crate::reading::Place;

/// Show the rules that route events, check a file of them, or ask where an event goes
#[derive(Args)]
#[command(after_help = "\
Examples:
  tracklog route show
  tracklog route check routes.toml
  tracklog route explain event.json --routes routes.toml")]
pub(crate) struct RouteCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Place,
}

#[derive(Subcommand)]
enum Action {
    /// Show which rules a running node routes by, and why it refuses its file, if it does
    #[command(after_help = "\
Examples:
  tracklog route show
  tracklog route show --json")]
    Show {
        /// One object
        #[arg(long)]
        json: bool,
    },
    /// Say whether a file of rules can be used; no node is asked
    ///
    /// Exit status: 1 when it cannot.
    #[command(after_help = "\
Examples:
  tracklog route check routes.toml && mv routes.toml DIR/routes.toml")]
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// One object
        #[arg(long)]
        json: bool,
    },
    Explain(Explain),
}

/// Show what each rule says of an event, and what goes where
///
/// The event is judged as `/v1/events` would and enriched as it would be now; a running node is
/// asked, with its own settings and rules. Nothing is stored.
///
/// Exit status: 1 when the event would be rejected.
#[derive(Args)]
#[command(after_help = "\
Examples:
  echo '{\"type\":\"track\",\"event\":\"Order Completed\",\"anonymousId\":\"d\"}' | tracklog route explain -
  tracklog route explain event.json --ip 81.2.69.160
  tracklog route explain event.json --routes new-routes.toml --json")]
struct Explain {
    #[command(flatten)]
    asked: AskedEvent,
    /// The rules of this file, instead of those that hold
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
    /// One object
    #[arg(long)]
    json: bool,
}

impl RouteCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Show { json } => crate::block_on(show(&self.place, json)),
            Action::Check { file, json } => check_file(&file, json),
            Action::Explain(explain) => crate::block_on(explain.run(self.place)),
        }
    }
}

async fn show(place: &Place, json: bool) -> Result<(), Failure> {
    let node = place.node()?;
    let status: RoutesStatus = node.get("/v1/routes").await?;
    let mut output = Output::new();
    if json {
        output.json(&status)?;
        return output.flush();
    }
    let RoutesStatus { file, from, version, since, rules, refused } = status;
    match (version, since) {
        (Some(version), Some(since)) => {
            output.line(&format!(
                "{from} by {file}: {rules} rules, version {version} since {since}"
            ))?;
        }
        _ => output.line(&format!("{from} by {file}: no rules yet"))?,
    }
    if let Some(why) = refused {
        output.line(&format!("the file as it is now is refused: {why}"))?;
    }
    output.flush()
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::of(file.display(), error))
}

fn check_file(file: &Path, json: bool) -> Result<(), Failure> {
    let text = read(file)?;
    let mut output = Output::new();
    let place = file.display();
    match check(&text) {
        Ok(summary) => {
            if json {
                output.json(&summary)?;
            } else {
                let RulesSummary { rules, destinations } = summary;
                let names = destinations.join(", ");
                output.line(&format!("{place}: good, {rules} rules; destinations: {names}"))?;
            }
            output.flush()
        }
        Err(error) => {
            if json {
                let told = serde_json::json!({ "line": error.line, "error": error.what });
                output.json(&told)?;
            } else {
                output.line(&format!("{place}:{}: {}", error.line, error.what))?;
            }
            output.flush()?;
            Err(Failure::AnswerIsNo)
        }
    }
}

impl Explain {
    async fn run(self, place: Place) -> Result<(), Failure> {
        let question = self.asked.question()?;
        let rules = self.routes.as_deref().map(read).transpose()?;
        let explanation = match self.asked.answerer(place, &question).await? {
            Answerer::Node(node) => {
                let asked = RouteQuestion { question, rules };
                let body = serde_json::to_vec(&asked).map_err(Failure::could_not_run)?;
                node.json(Method::POST, "/v1/routes/explain", body.into()).await?
            }
            Answerer::Here { explainer, routes, from, .. } => {
                let text = rules.map_or_else(|| read(&routes), Ok)?;
                explainer.route(&question, &text, from).await.map_err(Failure::could_not_run)?
            }
        };
        let is_rejected = explanation.rejected.is_some();
        asked_event::tell(&explanation, self.json, is_rejected, tell)
    }
}

fn tell(output: &mut Output, explanation: &RouteExplanation) -> Result<(), Failure> {
    if let Some(rejected) = &explanation.rejected {
        return output.line(&format!("rejected, {}: {}", rejected.code, rejected.message));
    }
    let mut rows = vec![["rule", "verdict", "to"].map(str::to_owned).to_vec()];
    rows.extend(
        explanation
            .rules
            .iter()
            .map(|rule| vec![rule.rule.clone(), rule.verdict.clone(), rule.to.join(", ")]),
    );
    output.write(table(&rows).as_bytes())?;
    if explanation.destinations.is_empty() {
        return output.line("it goes nowhere");
    }
    for Delivered { destination, rule, lane, event } in &explanation.destinations {
        output.line(&format!("to {destination}, by {rule}, priority {lane}: {event}"))?;
    }
    Ok(())
}
