//! `tracklog destination`: list, pause, resume, retry.

use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;
use tracklog_server::routes::DestinationStatus;

use crate::failure::Failure;
use crate::node_client::{NodeClient, segment};
use crate::output::{Output, done, table};
use crate::reading::Place;

/// List destinations, hold one, let it go on, or try again what it did not take
///
/// Destinations are named in the file of rules. Each keeps its own place in the log: one that is
/// held or fails delays no other, and goes on where it was.
#[derive(Args)]
#[command(after_help = "\
Examples:
  tracklog destination list
  tracklog destination pause crm
  tracklog destination resume crm
  tracklog destination retry crm")]
pub(crate) struct DestinationCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Place,
}

#[derive(Subcommand)]
enum Action {
    /// Show all destinations: how each fares, and how far it lags
    ///
    /// Last `live` and `archive`: they get every event without a rule, and cannot be held.
    #[command(after_help = "\
Examples:
  tracklog destination list
  tracklog destination list --json")]
    List {
        /// One object a line
        #[arg(long)]
        json: bool,
    },
    /// Hold a destination, over restarts too; its events wait in the log
    #[command(after_help = "\
Examples:
  tracklog destination pause crm")]
    Pause {
        /// Its name
        name: String,
    },
    /// Let a destination that was held go on where it was
    #[command(after_help = "\
Examples:
  tracklog destination resume crm")]
    Resume {
        /// Its name
        name: String,
    },
    /// Try again what a destination did not take, and lies in `undelivered`
    ///
    /// Each event there is tried once for each time this is asked; `list` shows how it goes. What
    /// is still not taken is set aside anew.
    #[command(after_help = "\
Examples:
  tracklog destination retry crm && tracklog destination list")]
    Retry {
        /// Its name
        name: String,
    },
}

#[derive(Deserialize)]
struct AllDestinations {
    destinations: Vec<DestinationStatus>,
}

impl DestinationCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        crate::block_on(async {
            let node = self.place.node()?;
            match self.action {
                Action::List { json } => list(&node, json).await,
                Action::Pause { name } => act(&node, &name, "pause", "paused").await,
                Action::Resume { name } => act(&node, &name, "resume", "goes on").await,
                Action::Retry { name } => {
                    let begun =
                        "what lies aside is tried again: `destination list` shows how it goes";
                    act(&node, &name, "retry", begun).await
                }
            }
        })
    }
}

async fn act(node: &NodeClient, name: &str, act: &str, done_so: &str) -> Result<(), Failure> {
    let path = format!("/v1/destinations/{}/{act}", segment(name));
    let _: Value = node.json(Method::POST, &path, Bytes::new()).await?;
    done(name, done_so)
}

async fn list(node: &NodeClient, json: bool) -> Result<(), Failure> {
    let AllDestinations { destinations } = node.get("/v1/destinations").await?;
    let mut output = Output::new();
    if json {
        destinations.iter().try_for_each(|one| output.json(one))?;
        return output.flush();
    }
    let head = ["destination", "type", "state", "lag", "delivered", "undelivered", "retry", "why"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(destinations.into_iter().map(|one| {
        let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |it| it.to_string());
        vec![
            one.destination,
            one.r#type,
            one.state,
            one.lag.to_string(),
            number(one.delivered),
            number(one.undelivered),
            one.retry.unwrap_or_else(|| "-".to_owned()),
            one.why.unwrap_or_else(|| "-".to_owned()),
        ]
    }));
    output.write(table(&rows).as_bytes())?;
    output.flush()
}
