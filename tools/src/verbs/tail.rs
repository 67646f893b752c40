//! `tracklog tail`: a topic, live.

use std::io::IsTerminal as _;

use clap::Args;
use tracklog_server::bound::Bound;
use tracklog_server::replay::{Filter, Query};

use crate::failure::Failure;
use crate::output::{Output, notice};
use crate::pretty::Pretty;
use crate::reading::{Piece, Place};

/// Where a live view begins if nobody says otherwise.
const NOW: &str = "now";

/// Which records are shown.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct FilterArgs {
    /// Only events of this name, letter by letter
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Only what this source sent
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only events of this user id
    #[arg(long, value_name = "ID")]
    user: Option<String>,
}

impl FilterArgs {
    pub(crate) fn filter(&self) -> Filter {
        Filter { event: self.event.clone(), source: self.source.clone(), user: self.user.clone() }
    }
}

/// Watch a topic live
///
/// Shows each record as soon as it is durable, until Ctrl-C. Accepted events are in `raw`, refused
/// ones in `rejected`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  tracklog tail raw
  tracklog tail raw --last 20
  tracklog tail raw --event 'Order Completed' --json | jq .properties
  tracklog tail rejected --from -5m
  tracklog tail raw --node https://events.example.com --token-file admin.token")]
pub(crate) struct Tail {
    /// The topic
    topic: String,
    /// Begin here instead of now: an offset or a time, as `tracklog replay --from`
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true, default_value = NOW)]
    from: String,
    /// Begin with the last so many lines that are there
    #[arg(long, value_name = "N", conflicts_with = "from")]
    last: Option<u64>,
    /// One partition alone
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// End after so many lines
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Lines of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    place: Place,
}

impl Tail {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let from = Bound::parse(&self.from, crate::now());
        let from = from.map_err(|error| Failure::of("--from", error))?;
        let query = Query {
            partition: self.partition,
            // The last lines may lie anywhere.
            from: self.last.is_none().then_some(from),
            last: self.last,
            filter: self.filter.filter(),
            limit: self.limit,
            follow: true,
            ..Query::default()
        };
        let Some(node) = self.place.running()? else {
            let what = "no node runs there, so nothing will come: start one, or use replay";
            return Err(Failure::of(self.place.folder().path().display(), what));
        };
        if self.from == NOW && std::io::stderr().is_terminal() {
            notice(&format!("waiting for what comes into {}; Ctrl-C ends", self.topic));
        }
        let source = crate::reading::Source::Node(node);
        let mut shown = Shown::new(self.json);
        let mut sink = |piece: Piece<'_>| shown.take(piece);
        crate::block_on(async {
            tokio::select! {
                ended = source.read(&self.topic, query, &mut sink) => ended,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })?;
        shown.output.flush()
    }
}

/// Writes a reading to standard output, and at once.
pub(crate) struct Shown {
    pub(crate) output: Output,
    pretty: Option<Pretty>,
    pub(crate) damaged: bool,
}

impl Shown {
    pub(crate) fn new(json: bool) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let pretty = (!json).then_some(Pretty { colours });
        Self { output: Output::new(), pretty, damaged: false }
    }

    pub(crate) fn take(&mut self, piece: Piece<'_>) -> Result<(), Failure> {
        match piece {
            Piece::Lines(lines, _) => match self.pretty {
                Some(pretty) => self.output.write(pretty.lines(lines).as_bytes()),
                None => self.output.write(lines),
            },
            Piece::Pause => self.output.flush(),
            Piece::Records(_) => Ok(()),
            Piece::Notice(text) => {
                notice(&text);
                Ok(())
            }
            Piece::Damage(text) => {
                self.damaged = true;
                notice(&text);
                Ok(())
            }
        }
    }
}
