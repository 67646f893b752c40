//! `tracklog forget`: erases what is stored of a user.

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use tracklog_server::archive::{Opening, Store, StoreError};
use tracklog_server::folder::DataFolder;
use tracklog_server::forget::{self, Forget, ForgetLine, Receipt, Told};

use crate::failure::Failure;
use crate::node_client::NodeClient;
use crate::output::{Output, notice};
use crate::reading::Place;

/// Erase what is stored of a user, for good
///
/// The user's events, rejected and undelivered ones, what enrichment knows of them, and their rows in
/// the archive go, with all ids that are linked to them: devices on which they were seen last, and
/// aliases. All else stays where it is. When it ends well no file of the folder holds them any more,
/// spare ones included. Interrupted at any time, run it again: it goes on.
///
/// A node that runs does it itself. It goes on taking events, while enrichment, routing and the archive
/// stand still until it is done; what it takes of the user meanwhile stays. It does not end with this
/// command.
#[derive(Args)]
#[command(after_help = "\
What it cannot reach is told: backups, and what went out to webhooks, files and other systems.

Examples:
  tracklog forget u-1207 --dry-run
  tracklog forget u-1207 --yes
  tracklog forget u-1207 --yes --archive s3://bucket/events --json")]
pub(crate) struct ForgetCommand {
    /// The user id, as clients send it; where a source hashes ids, the hash is looked for too
    user: String,
    /// Only count what there is
    #[arg(long)]
    dry_run: bool,
    /// Do it: there is no way back
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// The receipt as one object
    #[arg(long)]
    json: bool,
    /// Of a folder whose node is stopped, the archive: a folder, or the URL of an object store; a node
    /// has its own [default: `archive` in the data folder]
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    #[command(flatten)]
    place: Place,
}

impl ForgetCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        if !self.yes && !self.dry_run {
            let what = "there is no way back: see with --dry-run what would go, and say --yes";
            return Err(Failure::could_not_run(what));
        }
        let receipt = crate::block_on(self.forget())?;
        let mut output = Output::new();
        if self.json { output.json(&receipt) } else { output.lines(&told_to_people(&receipt)) }
    }

    async fn forget(&self) -> Result<Receipt, Failure> {
        if let Some(node) = self.place.running()? {
            return self.ask(&node).await;
        }
        let folder = self.place.folder();
        let archive = self.archive(&folder).map_err(Failure::could_not_run)?;
        let whom = Forget { user: &self.user, dry_run: self.dry_run };
        let mut tell = |told| notice(&words(told));
        let forgotten = forget::forget(&folder, archive.as_ref(), whom, &mut tell).await;
        forgotten.map_err(Failure::could_not_run)
    }

    /// Has the node do it.
    async fn ask(&self, node: &NodeClient) -> Result<Receipt, Failure> {
        if self.archive.is_some() {
            let what = "the node goes through its own archive: --archive is for a folder whose node \
                        is stopped";
            return Err(Failure::could_not_run(what));
        }
        let asked = serde_json::json!({ "user": self.user, "dryRun": self.dry_run });
        let body = Bytes::from(asked.to_string());
        let answer = node.ask(Method::POST, "/v1/forget", body).await?;
        let mut end = None;
        let mut take = |line| match line {
            ForgetLine::Told(told) => notice(&words(told)),
            ForgetLine::Receipt(receipt) => end = Some(Ok(receipt)),
            ForgetLine::Error(why) => end = Some(Err(Failure::could_not_run(why))),
        };
        node.lines(answer, &mut take).await?;
        end.unwrap_or_else(|| Err(Failure::could_not_run("the node ended: run it again to go on")))
    }

    /// The archive that was named; else the folder's own, where it has one.
    fn archive(&self, folder: &DataFolder) -> Result<Option<Store>, StoreError> {
        let own = folder.file("archive");
        match &self.archive {
            Some(url) => Store::open(url, Opening::Write).map(Some),
            None if own.is_dir() => Store::open(&own.to_string_lossy(), Opening::Write).map(Some),
            None => Ok(None),
        }
    }
}

fn words(told: Told) -> String {
    match told {
        Told::Topic(topic) => format!("reading {topic}"),
        Told::Erasing(records) => format!("erasing {records} records"),
        Told::Archive(url) => format!("reading the archive {url}"),
    }
}

fn told_to_people(receipt: &Receipt) -> String {
    let verb = if receipt.dry_run { "would be erased" } else { "erased" };
    let mut lines = Vec::new();
    let ids = |ids: &[String]| if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
    lines.push(format!("user ids: {}", ids(&receipt.user_ids)));
    lines.push(format!("anonymous ids: {}", ids(&receipt.anonymous_ids)));
    if receipt.records.is_empty() && receipt.archived.is_empty() {
        lines.push("nothing of them was found".to_owned());
    }
    for (topic, count) in &receipt.records {
        lines.push(format!("{topic}: {count} records {verb}"));
    }
    for (topic, count) in &receipt.archived {
        lines.push(format!("archive of {topic}: {count} events {verb}"));
    }
    match &receipt.archive {
        Some(_) if receipt.archive_files > 0 => {
            lines.push(format!("{} files of the archive written anew", receipt.archive_files));
        }
        Some(_) => {}
        None => lines.push("no archive was looked at".to_owned()),
    }
    if receipt.unreadable > 0 {
        let unreadable = receipt.unreadable;
        lines.push(format!("{unreadable} records cannot be read: whose they are is not known"));
    }
    lines.push("out of reach:".to_owned());
    lines.extend(receipt.unreached.iter().map(|what| format!("  {what}")));
    lines.join("\n")
}
