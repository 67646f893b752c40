//! An event that is asked about, as flags, and who answers: a running node, or this process by a
//! folder that nobody holds. Nothing is stored.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tempfile::TempDir;
use tracklog_server::config::{Flags, RouteFrom, Settings};
use tracklog_server::explain::{Explainer, Question, offline};

use crate::failure::Failure;
use crate::node_client::NodeClient;
use crate::output::Output;
use crate::reading::{Place, Source};

/// The event, and the request that might bring it.
#[derive(Args)]
pub(crate) struct AskedEvent {
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
}

/// Who answers.
pub(crate) enum Answerer {
    /// A node, by its own settings.
    Node(NodeClient),
    /// This process.
    Here {
        explainer: Box<Explainer>,
        /// Where the file of rules would lie that such a node looks at.
        routes: PathBuf,
        /// Which events it routes.
        from: RouteFrom,
        /// Holds the state that was built for this.
        _scratch: TempDir,
    },
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl AskedEvent {
    /// The question.
    pub(crate) fn question(&self) -> Result<Question, Failure> {
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

    /// The node at `place`, or the one that holds the folder there; else this process, by that
    /// folder if it is there.
    pub(crate) async fn answerer(
        &self,
        mut place: Place,
        question: &Question,
    ) -> Result<Answerer, Failure> {
        if place.is_node() {
            return Ok(Answerer::Node(place.running()?.expect("an address is that of a node")));
        }
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
                Source::Node(node) => return Ok(Answerer::Node(node)),
            },
        };
        let scratch = tempfile::tempdir().map_err(Failure::could_not_run)?;
        let state = scratch.path().join("state");
        let explainer = offline(&settings, log, &state, question).await;
        let explainer = Box::new(explainer.map_err(Failure::could_not_run)?);
        let routes = settings.route.file.unwrap_or_else(|| settings.data.join("routes.toml"));
        let from = settings.route.from;
        Ok(Answerer::Here { explainer, routes, from, _scratch: scratch })
    }
}

/// Prints the answer: as JSON, or as `show` has it. That the event would be rejected is a no.
pub(crate) fn tell<T: Serialize>(
    answer: &T,
    json: bool,
    is_rejected: bool,
    show: impl FnOnce(&mut Output, &T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        output.json(answer)?;
    } else {
        show(&mut output, answer)?;
    }
    output.flush()?;
    if is_rejected { Err(Failure::AnswerIsNo) } else { Ok(()) }
}
