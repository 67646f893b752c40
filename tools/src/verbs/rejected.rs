//! `tracklog rejected`: list, show, retry.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tracklog_server::bound::Bound;
use tracklog_server::quarantine::{
    Filter, Listed, Place as At, Reason, RejectedEvent, Rejections, Retried, Shown, State,
};

use crate::failure::Failure;
use crate::node_client::{Answered, NodeClient, segment};
use crate::output::{Output, notice, table};
use crate::patience::Patience;
use crate::reading::{Place, Source};

/// How long a node that is busy is asked again.
const PATIENCE: Duration = Duration::from_secs(30);
const ROUTE: &str = "/v1/rejected";

/// List, show, or try again what was rejected
///
/// Refused events lie in the topic `rejected`, with the reason and the bytes received. Once a schema
/// or a limit was corrected, `retry` has the node judge them again, and stores what is good now.
#[derive(Args)]
#[command(after_help = "\
A place is PARTITION@OFFSET in the topic `rejected`. States: `waiting`; `retried`, with the place
where it is now; `failing`, with the newest reason; `final`: it cannot be tried again, since its
bytes were cut or not kept.

Examples:
  tracklog rejected list --code schema --event 'Order Completed'
  tracklog rejected show 2@1207
  tracklog rejected retry --code schema --from -7d")]
pub(crate) struct RejectedCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Place,
}

#[derive(Subcommand)]
enum Action {
    /// Show rejected events: where, why, and how each is now
    #[command(after_help = "\
Examples:
  tracklog rejected list
  tracklog rejected list --code schema --from -1h --json")]
    List {
        #[command(flatten)]
        wanted: Wanted,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// One object a line
        #[arg(long)]
        json: bool,
    },
    /// Show one whole, with the bytes that were received
    #[command(after_help = "\
Examples:
  tracklog rejected show 2@1207
  tracklog rejected show rejected/2@1207 --json")]
    Show {
        /// Its place
        #[arg(value_name = "PARTITION@OFFSET")]
        at: At,
        /// As an object
        #[arg(long)]
        json: bool,
    },
    /// Try rejected events again, under their own ids and times of receipt
    ///
    /// What is good now goes to `raw`; what a stage rejected goes through that stage. Each is
    /// stored once, however often this runs: it may be stopped at any time, and run again. What
    /// still fails stays, with its new reason.
    #[command(after_help = "\
Exit status: 0 done, 1 some were rejected again, 2 it could not run.

Examples:
  tracklog rejected retry
  tracklog rejected retry --event 'Order Completed' --source shop")]
    Retry {
        #[command(flatten)]
        wanted: Wanted,
        /// One object a line: each event as it is now
        #[arg(long)]
        json: bool,
    },
}

/// Which rejected events are meant.
#[derive(Args)]
struct Wanted {
    /// Only those with this code, at first or by the newest reason
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only events of this name
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Only events of this source
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// Where to begin, in `rejected` [default: the first record]
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Where to end, not included [default: the end]
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    to: Option<String>,
}

impl Wanted {
    fn filter(self) -> Result<Filter, Failure> {
        let bound = |text: Option<String>| {
            let bound = text.map(|text| Bound::parse(&text, crate::now()));
            bound.transpose().map_err(Failure::could_not_run)
        };
        let Self { code, event, source, from, to } = self;
        Ok(Filter { code, event, source, from: bound(from)?, to: bound(to)? })
    }
}

impl RejectedCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        crate::block_on(async {
            let Self { action, place } = self;
            match action {
                Action::List { wanted, limit, json } => {
                    list(&place, &wanted.filter()?, limit, json).await
                }
                Action::Show { at, json } => show(&place, at, json).await,
                Action::Retry { wanted, json } => {
                    retry(&place.node()?, &wanted.filter()?, json).await
                }
            }
        })
    }
}

/// The parameters of a piece.
fn query(filter: &Filter, after: Option<&str>, limit: Option<usize>) -> String {
    let bound = |bound: Option<Bound>| bound.map(Bound::to_text);
    let parameters = [
        ("code", filter.code.clone()),
        ("event", filter.event.clone()),
        ("source", filter.source.clone()),
        ("from", bound(filter.from)),
        ("to", bound(filter.to)),
        ("after", after.map(str::to_owned)),
        ("limit", limit.map(|limit| limit.to_string())),
    ];
    let given = parameters.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| format!("{name}={}", segment(&value))).collect::<Vec<_>>().join("&")
}

/// Rejected events of a folder that no node holds.
async fn rejections(log: std::sync::Arc<dyn tracklog_log::Log>) -> Result<Rejections, Failure> {
    let none = || Failure::could_not_run("there is no topic rejected");
    Rejections::read(log).await.map_err(Failure::could_not_run)?.ok_or_else(none)
}

async fn list(
    place: &Place,
    filter: &Filter,
    limit: Option<usize>,
    json: bool,
) -> Result<(), Failure> {
    let source = match place.open()? {
        Source::Node(node) => Ok(node),
        Source::Folder(log) => Err(rejections(log).await?),
    };
    let (mut output, mut after, mut left) = (Output::new(), None::<String>, limit);
    let mut is_first = true;
    loop {
        let Listed { records, damaged, next } = match &source {
            Ok(node) => {
                node.get(&format!("{ROUTE}?{}", query(filter, after.as_deref(), left))).await?
            }
            Err(folder) => {
                let after = after.as_deref().map(|text| text.parse().expect("it wrote that"));
                folder.list(filter, after, left).await.map_err(Failure::could_not_run)?
            }
        };
        tell_damage(damaged);
        if json {
            records.iter().try_for_each(|event| output.json(event))?;
        } else {
            output.write(listing(&records, std::mem::take(&mut is_first)).as_bytes())?;
        }
        output.flush()?;
        left = left.map(|left| left.saturating_sub(records.len()));
        after = next;
        if after.is_none() || left == Some(0) {
            return Ok(());
        }
    }
}

fn tell_damage(damaged: u64) {
    if damaged > 0 {
        notice(&format!("{damaged} rejected events are damaged: `tracklog verify` says where"));
    }
}

fn listing(events: &[RejectedEvent], with_head: bool) -> String {
    let head = ["place", "received", "source", "event", "code", "pointer", "state"];
    let mut rows = Vec::new();
    if with_head {
        rows.push(head.map(str::to_owned).to_vec());
    }
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    rows.extend(events.iter().map(|event| {
        vec![
            event.place().to_string(),
            event.received_at.clone(),
            or_dash(&event.source),
            or_dash(&event.event),
            event.reason.code.clone(),
            or_dash(&event.reason.pointer),
            state(event),
        ]
    }));
    table(&rows)
}

/// How an event is, in words.
fn state(event: &RejectedEvent) -> String {
    let mut words = event.state.as_str().to_owned();
    if let Some(stored) = &event.stored {
        words.push_str(&format!(" to {stored}"));
    }
    match (&event.still, event.state) {
        (Some(still), State::Final) => words.push_str(&format!(": {}", still.message)),
        (Some(still), _) => words.push_str(&format!(" with {}", still.code)),
        (None, _) => {}
    }
    words
}

async fn show(place: &Place, at: At, json: bool) -> Result<(), Failure> {
    let shown: Shown = match place.open()? {
        Source::Node(node) => node.get(&format!("{ROUTE}/{at}")).await?,
        Source::Folder(log) => {
            rejections(log).await?.show(at).await.map_err(Failure::could_not_run)?
        }
    };
    let mut output = Output::new();
    if json {
        output.json(&shown)?;
        return output.flush();
    }
    let Shown { told, record } = &shown;
    output.line(&format!("rejected/{at}: {}", state(told)))?;
    output.line(&format!("reason: {}", why(&told.reason)))?;
    if let Some(still) = &told.still {
        output.line(&format!("now: {}", why(still)))?;
    }
    let record: Value = serde_json::from_str(record.get()).map_err(Failure::could_not_run)?;
    let fields = record.as_object().into_iter().flatten();
    let told_above = ["topic", "partition", "offset", "code", "pointer", "message", "body"];
    for (name, value) in fields.filter(|(name, _)| !told_above.contains(&name.as_str())) {
        match value.as_str() {
            Some(text) => output.line(&format!("{name}: {text}"))?,
            None => output.line(&format!("{name}: {value}"))?,
        }
    }
    if let Some(body) = record.get("body").and_then(Value::as_str) {
        output.line("")?;
        output.lines(body)?;
    }
    output.flush()
}

fn why(reason: &Reason) -> String {
    let Reason { code, pointer, message } = reason;
    let at = pointer.as_ref().map_or_else(String::new, |pointer| format!(" at {pointer}"));
    format!("{message}{at} ({code})")
}

/// What a retry has done so far.
#[derive(Default)]
struct Counts {
    stored: u64,
    failing: u64,
    not_kept: u64,
    already: u64,
}

async fn retry(node: &NodeClient, filter: &Filter, json: bool) -> Result<(), Failure> {
    let (mut output, mut after) = (Output::new(), None::<String>);
    let mut counts = Counts::default();
    loop {
        let path = format!("{ROUTE}/retry?{}", query(filter, after.as_deref(), None));
        let Retried { records, already, damaged, next } = piece(node, &path).await?;
        tell_damage(damaged);
        counts.already += already;
        for event in &records {
            match event.state {
                State::Retried => counts.stored += 1,
                State::Final => counts.not_kept += 1,
                State::Failing | State::Waiting => counts.failing += 1,
            }
            if json {
                output.json(event)?;
            } else {
                output.line(&told(event))?;
            }
        }
        output.flush()?;
        after = next;
        if after.is_none() {
            break;
        }
    }
    let Counts { stored, failing, not_kept, already } = counts;
    let summary = format!(
        "{stored} stored, {failing} rejected again, {not_kept} that cannot be tried, {already} \
         stored before"
    );
    if json {
        notice(&summary);
    } else {
        output.line(&summary)?;
    }
    output.flush()?;
    if failing > 0 { Err(Failure::AnswerIsNo) } else { Ok(()) }
}

fn told(event: &RejectedEvent) -> String {
    let place = event.place();
    match (&event.stored, &event.still) {
        (Some(stored), _) => format!("{place} is {stored} now"),
        (None, Some(still)) if event.state == State::Final => {
            format!("{place} cannot be tried: {}", why(still))
        }
        (None, Some(still)) => format!("{place} is rejected again: {}", why(still)),
        (None, None) => format!("{place} waits"),
    }
}

/// Has the node try a piece, however often it says that it is busy.
async fn piece(node: &NodeClient, path: &str) -> Result<Retried, Failure> {
    let mut patience = Patience::new(PATIENCE);
    loop {
        let answered = node.answer(Method::POST, path, Bytes::new()).await;
        let again = |error| Failure::could_not_run(format!("{error}; run it again to go on"));
        let Answered { status, code, message, body } = answered.map_err(again)?;
        match status {
            status if status.is_success() => {
                let parsed = serde_json::from_slice(&body);
                return parsed.map_err(|error| Failure::of("the node's answer", error));
            }
            StatusCode::TOO_MANY_REQUESTS => patience.wait(&message, "retry", None).await?,
            StatusCode::CONFLICT if code == "moved" => {
                patience.wait(&message, "retry", None).await?;
            }
            _ => return Err(Failure::could_not_run(message)),
        }
    }
}
