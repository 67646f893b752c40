//! `tracklog find`: where is my event?

use clap::Args;
use tracklog_protocol::TimeMicros;
use tracklog_server::bound::Bound;
use tracklog_server::find::{Finds, Found, Went};

use crate::failure::Failure;
use crate::node_client::segment;
use crate::output::{Output, notice, table};
use crate::reading::Place;

/// How far back it is scanned where nobody says: a day.
const SCANNED_BACK_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// Find events by message id or user: where each is, and where it went
///
/// A message id is looked up in the index of `raw`, however old the event is. `rejected`, which has no
/// index, and all of a user are scanned over a range of append times. For each event it is told when it
/// was received and stored, whether it was enriched, which destinations took it, and whether the
/// archive has it.
#[derive(Args)]
#[command(after_help = "\
What is stored later than --to is not looked at. Without --from an id is looked up in all of `raw`,
and what is scanned is scanned a day back: `rejected`, what of `raw` no index covers, as with
`dedupe_window` off, and for --user both. --from holds for all. A scan reads every record from there
on.

Ways are `done`, `pending` (the stage or destination is not there yet), `rejected` or `undelivered`
with the reason, `unknown` where it cannot be told any more, or `off`.

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
    /// Where to begin [default: -24h for what is scanned; an id is looked up however old]
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
        let range = self.range(crate::now())?;
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
            notice(&self.nothing_found(looked));
            return Err(Failure::AnswerIsNo);
        }
        Ok(())
    }

    /// The range, the same for all pieces.
    fn range(&self, now: TimeMicros) -> Result<String, Failure> {
        let bound = |text: &String| Bound::parse(text, now).map_err(Failure::could_not_run);
        let day_ago = Bound::Time(TimeMicros(now.0 - SCANNED_BACK_MICROS));
        let from = match self.from.as_ref().map(bound).transpose()? {
            Some(from) => format!("from={}", segment(&from.to_text())),
            None => format!("scan-from={}", segment(&day_ago.to_text())),
        };
        // What is appended in this very microsecond is looked at, too.
        let end = Bound::Time(TimeMicros(now.0 + 1));
        let to = self.to.as_ref().map(bound).transpose()?.unwrap_or(end).to_text();
        Ok(format!("{from}&to={}", segment(&to)))
    }

    fn nothing_found(&self, looked: u64) -> String {
        let further = "--from looks further back";
        match (&self.id, &self.from) {
            (Some(_), None) => format!(
                "nothing found: not in the index of raw, nor in {looked} events that were scanned, \
                 a day back; {further}"
            ),
            _ => format!("nothing found in {looked} events; {further}"),
        }
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

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn range(arguments: &[&str]) -> String {
        let command = Find::augment_args(clap::Command::new("find"));
        let matches = command.try_get_matches_from([&["find"], arguments].concat()).unwrap();
        let find = Find::from_arg_matches(&matches).unwrap();
        let range = find.range(TimeMicros(86_400_000_000 * 2)).unwrap();
        percent_encoding::percent_decode_str(&range).decode_utf8().unwrap().into_owned()
    }

    #[test]
    fn without_a_beginning_only_what_is_scanned_has_one() {
        let end = "to=1970-01-03T00:00:00.000001Z";
        for sought in [&["m7"][..], &["--user", "u7"]] {
            let day_ago = format!("scan-from=1970-01-02T00:00:00.000000Z&{end}");
            assert_eq!(range(sought), day_ago);
            let hour_ago = format!("from=1970-01-02T23:00:00.000000Z&{end}");
            assert_eq!(range(&[sought, &["--from", "-1h"]].concat()), hour_ago);
        }
        assert_eq!(range(&["m7", "--from", "5", "--to", "9"]), "from=5&to=9");
    }
}
