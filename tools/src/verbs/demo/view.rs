//! What the demo shows: where it is, what to try, and how it goes.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use tracklog_server::node::Node;

use super::downstream::Downstream;
use super::traffic::{Counts, Tally};
use crate::failure::Failure;
use crate::output::Output;
use crate::terminal::printable;

/// Over which time rates are taken.
const RATE_OVER: Duration = Duration::from_secs(5);

/// How many codes of rejected events the live view shows.
const CODES_SHOWN: usize = 8;

/// What does not change while it runs.
pub(super) struct Facts {
    http: String,
    https: String,
    key: String,
    folder: String,
    backend: String,
    program: String,
}

impl Facts {
    pub(super) fn of(node: &Node, folder: &Path) -> Self {
        let url = |scheme: &str, address: Option<std::net::SocketAddr>| {
            address.map(|address| format!("{scheme}://{address}")).unwrap_or_default()
        };
        // `cargo run` starts a program that is on nobody's path.
        let program = std::env::args().next().filter(|name| name.contains('/'));
        Self {
            http: url("http", node.http()),
            https: url("https", node.https()),
            key: node.default_key().text.clone(),
            folder: quoted(&folder.display().to_string()),
            backend: node.backend(),
            program: quoted(&program.unwrap_or_else(|| "tracklog".to_owned())),
        }
    }

    /// Commands that work while it runs.
    fn commands(&self) -> Vec<String> {
        let Self { program, folder, .. } = self;
        let verb = |verb: &str| format!("{program} {verb} --data {folder}");
        vec![
            verb("tail raw --limit 10"),
            verb("tail rejected --limit 3"),
            verb("tail enriched --limit 3"),
            verb("tail orders --limit 3"),
            verb("destination list"),
            verb("group list"),
            verb("watch --once"),
            verb("replay raw --from -1m --event 'Order Completed' --limit 5 --json"),
            verb("topic describe raw"),
            verb("schema list"),
            verb("archive status"),
            verb("verify"),
            format!(
                "curl -k -u {}: {}/v1/track -d '{{\"event\":\"Hello\",\"userId\":\"1\"}}'",
                self.key, self.https
            ),
            format!("curl {}/metrics", self.http),
        ]
    }

    fn text(&self) -> String {
        let mut text = format!(
            "Tracklog demo\n\n  https      {}\n  http       {}\n  write key  {}\n  folder     {}\n  \
             disk       {}\n\nTry, in another terminal:\n\n",
            self.https, self.http, self.key, self.folder, self.backend
        );
        for command in self.commands() {
            text.push_str(&format!("  $ {command}\n"));
        }
        text
    }
}

/// As a shell reads it back.
fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Draws. Live on a terminal: the lines of before are drawn over.
pub(super) struct View {
    facts: Facts,
    live: bool,
    output: Output,
    began: Instant,
    /// Moments of the last seconds, with what was accepted and rejected by then.
    past: VecDeque<(Instant, u64, u64)>,
    lines_drawn: usize,
}

impl View {
    pub(super) fn new(facts: Facts, live: bool) -> Self {
        let (output, began, past) = (Output::new(), Instant::now(), VecDeque::new());
        Self { facts, live, output, began, past, lines_drawn: 0 }
    }

    pub(super) const fn is_live(&self) -> bool {
        self.live
    }

    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        self.output.lines(&self.facts.text())?;
        self.output.line("")?;
        self.output.flush()
    }

    pub(super) fn draw(&mut self, tally: &Tally, behind: &Downstream) -> Result<(), Failure> {
        let counts = tally.counts();
        let rates = self.rates(&counts);
        let lines = if self.live {
            live_lines(&counts, rates, behind, self.began.elapsed())
        } else {
            vec![plain_line(&counts, rates, behind, self.began.elapsed())]
        };
        if self.live && self.lines_drawn > 0 {
            // Up to the first line of before, and everything below it away. From the first column:
            // a terminal echoes `^C`.
            self.output.write(format!("\r\x1b[{}A\x1b[J", self.lines_drawn).as_bytes())?;
        }
        self.lines_drawn = lines.len();
        // A line that a narrow terminal broke in two would not be drawn over: it is cut instead.
        let [cut, whole] = if self.live { ["\x1b[?7l", "\x1b[?7h"] } else { [""; 2] };
        let drawn = lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n");
        self.output.write(format!("{cut}{drawn}{whole}\n").as_bytes())?;
        self.output.flush()
    }

    /// The last numbers, and how to see more.
    pub(super) fn end(&mut self, tally: &Tally, behind: &Downstream) -> Result<(), Failure> {
        self.draw(tally, behind)?;
        let Facts { program, folder, .. } = &self.facts;
        let more = format!("\nThe folder stays: {program} replay raw --data {folder}");
        self.output.lines(&more)?;
        self.output.flush()
    }

    /// Accepted and rejected a second, over the last seconds.
    fn rates(&mut self, counts: &Counts) -> (f64, f64) {
        let now = Instant::now();
        let rejected = rejected(counts);
        self.past.push_back((now, counts.accepted, rejected));
        while self.past.len() > 2 && self.past.front().is_some_and(|past| now - past.0 > RATE_OVER)
        {
            self.past.pop_front();
        }
        let Some((then, accepted_then, rejected_then)) = self.past.front() else {
            return (0.0, 0.0);
        };
        let seconds = (now - *then).as_secs_f64().max(0.001);
        let rate = |now: u64, then: u64| (now - then) as f64 / seconds;
        (rate(counts.accepted, *accepted_then), rate(rejected, *rejected_then))
    }
}

fn rejected(counts: &Counts) -> u64 {
    counts.rejected.values().map(|rejected| rejected.count).sum()
}

fn quantile(counts: &Counts, quantile: f64) -> String {
    let micros = counts.latencies.value_at_quantile(quantile);
    format!("{:.1} ms", micros as f64 / 1e3)
}

fn live_lines(
    counts: &Counts,
    (accepted, refused): (f64, f64),
    behind: &Downstream,
    ran: Duration,
) -> Vec<String> {
    let seconds = ran.as_secs();
    let mut lines = vec![
        format!("running    {:02}:{:02}", seconds / 60, seconds % 60),
        format!(
            "answered   p50 {}   p99 {}   slowest {}",
            quantile(counts, 0.5),
            quantile(counts, 0.99),
            quantile(counts, 1.0)
        ),
        format!("accepted   {:>9}  {accepted:>7.0}/s", counts.accepted),
        format!("rejected   {:>9}  {refused:>7.0}/s", rejected(counts)),
    ];
    let mut codes: Vec<_> = counts.rejected.iter().collect();
    codes.sort_by_key(|(_, rejected)| std::cmp::Reverse(rejected.count));
    lines.extend(
        codes
            .iter()
            .take(CODES_SHOWN)
            .map(|(code, rejected)| format!("  {code:<13}{:>5}  {}", rejected.count, rejected.why)),
    );
    lines.push(format!("enriched   {:>9}", behind.enriched));
    lines.push(format!("routed     {}", counted(&behind.routed)));
    lines.push(format!("archived   {:>9}  rows of raw and enriched", behind.archived));
    if !behind.live.is_empty() {
        lines.push(format!("last second  {}", counted(&behind.live)));
    }
    if counts.failed > 0 {
        lines.push(format!("failed     {:>9}  requests", counts.failed));
    }
    lines
}

/// As in `orders 12, gold 7`.
fn counted<T: std::fmt::Display>(counts: &[(T, u64)]) -> String {
    let counts = counts.iter().map(|(name, count)| format!("{name} {count}"));
    counts.collect::<Vec<_>>().join(", ")
}

fn plain_line(
    counts: &Counts,
    (accepted, refused): (f64, f64),
    behind: &Downstream,
    ran: Duration,
) -> String {
    format!(
        "{:>4} s  accepted {} ({accepted:.0}/s)  rejected {} ({refused:.0}/s)  enriched {}  \
         routed: {}  live {}/s  archived {}  failed {}  p50 {}  p99 {}",
        ran.as_secs(),
        counts.accepted,
        rejected(counts),
        behind.enriched,
        counted(&behind.routed),
        behind.live.iter().map(|(_, count)| count).sum::<u64>(),
        behind.archived,
        counts.failed,
        quantile(counts, 0.5),
        quantile(counts, 0.99),
    )
}

#[cfg(test)]
mod tests {
    use super::super::traffic::Rejected;
    use super::*;

    #[test]
    fn the_live_view_tells_why_events_are_rejected() {
        let mut counts = Counts { accepted: 7, ..Counts::default() };
        let why = "/properties/price is not of type number".to_owned();
        counts.rejected.insert("schema".to_owned(), Rejected { count: 2, why });
        let live = vec![("Order Completed".to_owned(), 2), ("$page".to_owned(), 1)];
        let routed = vec![("orders", 2), ("gold", 1)];
        let behind = Downstream { enriched: 6, routed, archived: 12, live };
        let lines = live_lines(&counts, (1.0, 0.5), &behind, Duration::from_secs(61));
        assert_eq!(lines[0], "running    01:01");
        assert_eq!(lines[3], "rejected           2        0/s");
        assert_eq!(lines[4], "  schema           2  /properties/price is not of type number");
        let behind = [
            "enriched           6",
            "routed     orders 2, gold 1",
            "archived          12  rows of raw and enriched",
            "last second  Order Completed 2, $page 1",
        ];
        assert_eq!(lines[5..], behind);
    }

    #[test]
    fn what_a_shell_would_split_is_quoted() {
        assert_eq!(quoted("./tracklog-demo"), "./tracklog-demo");
        assert_eq!(quoted("my demo"), "'my demo'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
