//! `tracklog find`: where is my event?

use clap::Args;
use tracklog_protocol::TimeMicros;
use tracklog_server::bound::Bound;
use tracklog_server::find::{Finds, Found, Went};

use crate::failure::Failure;
use crate::node_client::segment;
use crate::output::{Output, notice, table};
use crate::reading::Place;

/// How far back it is looked where nobody says: a day.
const LOOKED_BACK_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// Find events by message id or user: where each is, and where it went
///
/// Looks through `raw` and `rejected` over a range of append times, and tells for each event when it
/// was received and stored, whether it was enriched, which destinations took it, and whether the
/// archive has it.
#[derive(Args)]
#[command(after_help = "\
What is stored later than --to is not looked at; without --from it is looked a day back. Ways are
`done`, `pending` (the stage or destination is not there yet), `rejected` or `undelivered` with the
reason, `unknown` where it cannot be told any more, or `off`.

Exit status: 0 found, 1 nothing was found, 2 it could not run.

Examples:
  tracklog find 0d9e2a4c-6a5b-4d8e-9a57-2f9f6a0c7e11
  tracklog find --user u-1207 --from -2h
  tracklog find order-4711 --from 2026-01-02 --to 2026-01-03 --json")]
pub(crate) struct Find {
    /// A message id
    #[arg(value_name = "MESSAGE-ID", required_unless_present = "user", conflicts_with = "user")]
    id: Option<String>,
    /// A user id: as it is sent, or as it is stored where a source hashes ids
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Where to begin [default: -24h]
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Where to end, not included [default: now]
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// At most so many events
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// One object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl Find {
    pub(crate) fn run(self) -> Result<(), Failure> {
        crate::block_on(self.find())
    }

    async fn find(self) -> Result<(), Failure> {
        let node = self.place.node()?;
        let range = self.range()?;
        let sought = match (&self.id, &self.user) {
            (Some(id), _) => format!("id={}", segment(id)),
            (None, user) => format!("user={}", segment(user.as_deref().unwrap_or_default())),
        };
        let mut output = Output::new();
        let (mut after, mut left, mut looked) = (String::new(), self.limit, 0);
        while left > 0 {
            let path = format!("/v1/find?{sought}&{range}&limit={left}{after}");
            let Finds { events, looked: more, next } = node.get(&path).await?;
            looked += more;
            left = left.saturating_sub(events.len());
            for event in &events {
                if self.json {
                    output.json(event)?;
                } else {
                    output.write(told(event).as_bytes())?;
                }
            }
            output.flush()?;
            match next {
                Some(next) => after = format!("&after={}", segment(&next)),
                None => break,
            }
        }
        if left == self.limit {
            notice(&format!("nothing found in {looked} events; --from looks further back"));
            return Err(Failure::AnswerIsNo);
        }
        Ok(())
    }

    /// The range, the same for all pieces.
    fn range(&self) -> Result<String, Failure> {
        let now = crate::now();
        let bound = |text: &Option<String>, otherwise: Bound| {
            let read = |text: &String| Bound::parse(text, now).map_err(Failure::could_not_run);
            text.as_ref().map_or(Ok(otherwise), read)
        };
        let day_ago = TimeMicros(now.0 - LOOKED_BACK_MICROS);
        let from = bound(&self.from, Bound::Time(day_ago))?.to_text();
        // What is appended in this very microsecond is looked at, too.
        let to = bound(&self.to, Bound::Time(TimeMicros(now.0 + 1)))?.to_text();
        Ok(format!("from={}&to={}", segment(&from), segment(&to)))
    }
}

/// An event, for people.
fn told(event: &Found) -> String {
    let mut head = format!("{}  {}", event.at, event.verdict.as_str());
    let parts = [&event.event, &event.source, &event.message_id];
    for part in parts.into_iter().flatten() {
        head.push_str(&format!("  {part}"));
    }
    if event.id_reused {
        head.push_str("  (another event has this id)");
    }
    let row = |name: &str, what: String| vec![format!("  {name}"), what];
    let mut rows = vec![row("received", event.received_at.clone())];
    rows.push(row("stored", event.stored_at.clone()));
    if let Some(reason) = &event.reason {
        let at = reason.pointer.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
        rows.push(row("reason", format!("{}{at} ({})", reason.message, reason.code)));
    }
    if let Some(retried) = &event.retried {
        rows.push(row("retried", format!("it is {retried} now")));
    }
    rows.extend(event.went.iter().map(|went| row(&went.to, way(went))));
    format!("{}\n{}", crate::terminal::printable(&head), table(&rows))
}

fn way(went: &Went) -> String {
    let mut words = format!("{} ({})", went.state.as_str(), went.kind);
    if let Some(at) = &went.at {
        words.push_str(&format!(" {at}"));
    }
    if let Some(time) = &went.stored_at {
        words.push_str(&format!(" {time}"));
    }
    if let Some(why) = &went.why {
        words.push_str(&format!(": {why}"));
    }
    words
}
