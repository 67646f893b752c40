//! `tracklog group`: list, describe, reset, delete.

use std::sync::Arc;

use clap::{Args, Subcommand};
use hyper::Method;
use serde::Deserialize;
use tracklog_log::Log;
use tracklog_server::groups::{
    self, GroupDescription, GroupError, GroupName, GroupSummary, NewPlace, PlaceAfter, PlacesAfter,
};
use tracklog_server::offline;

use crate::failure::Failure;
use crate::node_client::segment;
use crate::output::{Output, done, table};
use crate::reading::{Place, Source};

/// List, describe, reset or delete consumer groups
///
/// A group reads topics, each partition by one member at a time, and commits how far it has come.
/// The stage that enriches events is the group `enrich`.
#[derive(Args)]
#[command(after_help = "\
Where records are gone before a group read them, by a limit, a trim or a full disk, it goes on at
the first offset that is there. `tracklog_stage_missed_total` counts them, and the node's log names
them; they are in no lag. A group that is new begins at the first offset that is there.

Examples:
  tracklog group list
  tracklog group describe enrich
  tracklog group reset enrich --topic raw --to -1h
  tracklog group delete reports")]
pub(crate) struct GroupCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Place,
}

#[derive(Subcommand)]
enum Action {
    /// Show all groups and how far they lag
    #[command(after_help = "\
Examples:
  tracklog group list
  tracklog group list --json")]
    List {
        /// One object a line
        #[arg(long)]
        json: bool,
    },
    /// Show a group's partitions: who reads them, how far, how far behind
    #[command(after_help = "\
Examples:
  tracklog group describe enrich
  tracklog group describe enrich --json")]
    Describe {
        /// The group
        name: String,
        /// One object a line, a partition each
        #[arg(long)]
        json: bool,
    },
    /// Let a group without members go on elsewhere
    ///
    /// What it reads again it writes again: use it on groups whose outputs may come twice.
    #[command(after_help = "\
Examples:
  tracklog group reset reports --topic raw --to earliest
  tracklog group reset reports --topic raw --to 2026-01-02T03:00:00Z")]
    Reset {
        /// The group
        name: String,
        /// In which topic
        #[arg(long, value_name = "TOPIC")]
        topic: String,
        /// `earliest`, `latest`, an offset, or a time of appends
        #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
        to: String,
        /// One object a line, a partition each
        #[arg(long)]
        json: bool,
    },
    /// Forget a group without members, and how far it has come
    #[command(after_help = "\
Examples:
  tracklog group delete reports")]
    Delete {
        /// The group
        name: String,
    },
}

#[derive(Deserialize)]
struct AllGroups {
    groups: Vec<GroupSummary>,
}

impl GroupCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let place = &self.place;
        match self.action {
            Action::List { json } => show_list(&crate::block_on(list(place))?, json),
            Action::Describe { name, json } => {
                show_group(&crate::block_on(describe(place, &name))?, json)
            }
            Action::Reset { name, topic, to, json } => {
                show_places(&crate::block_on(reset(place, &name, NewPlace { topic, to }))?, json)
            }
            Action::Delete { name } => crate::block_on(delete(place, &name)),
        }
    }
}

async fn list(place: &Place) -> Result<Vec<GroupSummary>, Failure> {
    match place.open()? {
        Source::Node(node) => {
            let AllGroups { groups } = node.get("/v1/groups").await?;
            Ok(groups)
        }
        Source::Folder(log) => match groups::read(log).await.map_err(Failure::could_not_run)? {
            Some(groups) => groups.list().await.map_err(Failure::could_not_run),
            None => Ok(Vec::new()),
        },
    }
}

async fn describe(place: &Place, name: &str) -> Result<GroupDescription, Failure> {
    match place.open()? {
        Source::Node(node) => node.get(&path(name)).await,
        Source::Folder(log) => {
            let group = group_name(name)?;
            let groups = groups::read(log).await.map_err(Failure::could_not_run)?;
            let none = || Failure::could_not_run(GroupError::NotFound { group: group.clone() });
            let groups = groups.ok_or_else(none)?;
            groups.describe(&group).await.map_err(Failure::could_not_run)
        }
    }
}

async fn reset(place: &Place, name: &str, new: NewPlace) -> Result<Vec<PlaceAfter>, Failure> {
    match place.running()? {
        Some(node) => {
            let body = serde_json::to_vec(&new).map_err(Failure::could_not_run)?;
            let path = format!("{}/reset", path(name));
            let after: PlacesAfter = node.json(Method::POST, &path, body.into()).await?;
            Ok(after.partitions)
        }
        None => {
            let group = group_name(name)?;
            let to = new.place(crate::now()).map_err(Failure::could_not_run)?;
            change(place, async |log| {
                groups::reset(&*groups::open(log).await?, &group, &new.topic, to).await
            })
            .await
        }
    }
}

async fn delete(place: &Place, name: &str) -> Result<(), Failure> {
    match place.running()? {
        Some(node) => node.delete(&path(name)).await?,
        None => {
            let group = group_name(name)?;
            change(place, async |log| groups::open(log).await?.delete(&group).await).await?;
        }
    }
    done(name, "deleted")
}

/// Opens the log of a stopped node, has something changed there, and closes it.
async fn change<T>(
    place: &Place,
    act: impl AsyncFnOnce(Arc<dyn Log>) -> Result<T, GroupError>,
) -> Result<T, Failure> {
    let opened = offline::open_for_change(place.folder().path()).await?;
    let outcome = act(opened.log()).await;
    opened.close().await;
    outcome.map_err(Failure::could_not_run)
}

fn group_name(name: &str) -> Result<GroupName, Failure> {
    GroupName::new(name).map_err(Failure::could_not_run)
}

fn path(name: &str) -> String {
    format!("/v1/groups/{}", segment(name))
}

fn show_list(groups: &[GroupSummary], json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        groups.iter().try_for_each(|group| output.json(group))?;
    } else {
        let head = ["group", "topics", "members", "generation", "lag", "waits"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(groups.iter().map(|group| {
            let GroupSummary { group, topics, members, generation, lag, lag_seconds } = group;
            let numbers = [*members as u64, *generation, *lag].map(|number| number.to_string());
            let waits = format!("{lag_seconds:.1} s");
            [vec![group.clone(), topics.join(", ")], numbers.to_vec(), vec![waits]].concat()
        }));
        output.write(table(&rows).as_bytes())?;
    }
    output.flush()
}

fn show_group(group: &GroupDescription, json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        group.partitions.iter().try_for_each(|partition| output.json(partition))?;
        return output.flush();
    }
    let members = if group.members.is_empty() { "none".into() } else { group.members.join(", ") };
    let GroupDescription { group: name, generation, partitions, .. } = group;
    output.line(&format!("{name}: generation {generation}, members {members}"))?;
    let head = ["topic", "partition", "member", "committed", "end", "lag", "waits"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(partitions.iter().map(|at| {
        vec![
            at.topic.clone(),
            at.partition.to_string(),
            at.member.clone().unwrap_or_else(|| "-".to_owned()),
            at.committed.map_or_else(|| "-".to_owned(), |offset| offset.to_string()),
            at.end.to_string(),
            at.lag.to_string(),
            format!("{:.1} s", at.lag_seconds),
        ]
    }));
    output.write(table(&rows).as_bytes())?;
    output.flush()
}

fn show_places(places: &[PlaceAfter], json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        places.iter().try_for_each(|place| output.json(place))?;
    } else {
        let mut rows = vec![["partition", "next"].map(str::to_owned).to_vec()];
        let row = |place: &PlaceAfter| vec![place.partition.to_string(), place.next.to_string()];
        rows.extend(places.iter().map(row));
        output.write(table(&rows).as_bytes())?;
    }
    output.flush()
}
