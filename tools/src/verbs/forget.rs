//! `tracklog forget`: erases what is stored of a user.

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use tracklog_server::archive::{Opening, Store};
use tracklog_server::forget::{self, Forget, ForgetLine, Receipt, Told};

use crate::failure::Failure;
use crate::node_client::NodeClient;
use crate::output::{Output, notice};
use crate::reading::Place;

/// Erase what is stored of a user, for good
///
/// The user's events, rejected and undelivered ones, what enrichment knows of them, and their rows in
/// the archive go, with all ids that are linked to them: devices on which they were seen last, and
/// aliases. All else stays where it is, but for logs in the folder that a restore replaced: they go as a
/// whole, their records are in the log too. When it ends well no file of the node's folder holds the user
/// any more, spare ones included. Interrupted at any time, run it again: it goes on.
///
/// A node that runs does it itself. It goes on taking events, while enrichment, routing and the archive
/// stand still until it is done; what it takes of the user meanwhile stays. It does not end with this
/// command.
#[derive(Args)]
#[command(after_help = "\
What it cannot reach is told: backups, what went out to webhooks, files and other systems, and what
in the folder is not the node's own.

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
    /// knows its own. `archive` in the data folder is gone through in any case
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    #[command(flatten)]
    place: Place,
}

impl ForgetCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        if !self.yes && !self.dry_run {
            return Err(self.unconfirmed());
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
        let named = self.archive.as_deref().map(|url| Store::open(url, Opening::Write));
        let archive = named.transpose().map_err(Failure::could_not_run)?;
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

    /// Nothing is done without a yes, and it is said what goes besides records.
    fn unconfirmed(&self) -> Failure {
        let mut what =
            "there is no way back: see with --dry-run what would go, and say --yes".to_owned();
        let replaced =
            if self.place.is_node() { Ok(Vec::new()) } else { self.place.folder().replaced() };
        for name in replaced.unwrap_or_default() {
            what.push_str(&format!("; {name}, a log that a restore replaced, goes as a whole"));
        }
        Failure::could_not_run(what)
    }
}

fn words(told: Told) -> String {
    match told {
        Told::Topic(topic) => format!("reading {topic}"),
        Told::Erasing(records) => format!("erasing {records} records"),
        Told::Archive(url) => format!("reading the archive {url}"),
        Told::ReplacedLog(name) => format!("removing {name}"),
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
    if receipt.archive_files > 0 {
        lines.push(format!("{} files of the archive written anew", receipt.archive_files));
    }
    if receipt.archives.is_empty() {
        lines.push("no archive was looked at".to_owned());
    }
    let verb = if receipt.dry_run { "would be removed" } else { "removed" };
    for name in &receipt.replaced_logs {
        lines.push(format!("{name}: {verb} as a whole, a log that a restore replaced"));
    }
    if receipt.unreadable > 0 {
        let unreadable = receipt.unreadable;
        lines.push(format!("{unreadable} records cannot be read: whose they are is not known"));
    }
    lines.push("out of reach:".to_owned());
    lines.extend(receipt.unreached.iter().map(|what| format!("  {what}")));
    lines.join("\n")
}
