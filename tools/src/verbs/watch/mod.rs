//! `tracklog watch`: counts, rates and sums of events, live.

mod board;
mod stream;

use std::io::IsTerminal as _;
use std::time::Duration;

use board::Board;
use clap::Args;
use hyper::Response;
use hyper::body::Incoming;
use stream::{Told, ToldSplitter};
use tracklog_server::live::{Figures, LiveWindow, WindowSpan};

use crate::failure::Failure;
use crate::node_client::{NoStream, NodeClient, segment};
use crate::output::{Output, notice};
use crate::reading::Place;

/// Windows of the past with which a board begins: what its sparklines show.
const BOARD_WINDOWS: u32 = 30;
/// How often a node that has ended is looked for.
const AGAIN_EVERY: Duration = Duration::from_millis(500);
/// The rows of a terminal that does not say how many it has.
const ROWS_USUAL: usize = 24;
/// Names in a line of plain text.
const NAMES_IN_A_LINE: usize = 8;

/// Watch counts, rates and sums by event name, live
///
/// In windows of a second and of a minute, by the time at which events were stored. On a terminal it
/// is a table, until Ctrl-C; elsewhere a line for each window that is over. A node that ends is
/// waited for, and what it kept meanwhile is told.
#[derive(Args)]
#[command(after_help = "\
What is read is `enriched`, or `raw` where the node enriches nothing. Which numbers are summed, and
how many names are told apart, is in the node's settings, [live]. `late` are events that happened
more than a minute before they were stored.

Examples:
  tracklog watch
  tracklog watch --once
  tracklog watch --name 'Order Completed' --window 1m
  tracklog watch --json | jq -c '{begin, n: .total.count}'")]
pub(crate) struct Watch {
    /// Only this event name, letter by letter; `$page` and the like where events have none
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only windows of this length: 1s or 1m
    #[arg(long, value_name = "SPAN")]
    window: Option<WindowSpan>,
    /// Begin with the last so many windows, at most 60
    #[arg(long, value_name = "N")]
    last: Option<u32>,
    /// Show what there is, and end
    #[arg(long)]
    once: bool,
    /// A line of JSON for each window
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl Watch {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let Some(node) = self.place.running()? else {
            let what = "no node runs there, so nothing will come: start one, or use replay";
            return Err(Failure::of(self.place.folder().path().display(), what));
        };
        let mut shown = self.shown();
        crate::block_on(async {
            tokio::select! {
                ended = self.watch(node, &mut shown) => ended,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })?;
        shown.end()
    }

    fn shown(&self) -> Shown {
        let form = match (self.json, self.once || std::io::stdout().is_terminal()) {
            (true, _) => Form::Json,
            (false, true) => Form::Board,
            (false, false) => Form::Lines,
        };
        let (output, board) = (Output::new(), Board::default());
        Shown { output, form, once: self.once, board, rows_drawn: 0 }
    }

    async fn watch(&self, mut node: NodeClient, shown: &mut Shown) -> Result<(), Failure> {
        let path = self.path(shown);
        let mut splitter = ToldSplitter::default();
        let mut response = node.stream(&path, None).await?;
        loop {
            let ended = take_all(&node, response, &mut splitter, shown).await?;
            if self.once {
                return ended;
            }
            shown.tell("the node has ended; waiting for it")?;
            splitter.cut();
            (node, response) = self.again(&path, &splitter).await?;
            shown.tell("the node is there again")?;
        }
    }

    /// The node as soon as it is there again, and what it goes on to tell.
    async fn again(
        &self,
        path: &str,
        splitter: &ToldSplitter,
    ) -> Result<(NodeClient, Response<Incoming>), Failure> {
        loop {
            tokio::time::sleep(AGAIN_EVERY).await;
            // One that begins holds the folder before it says where it is.
            let Ok(Some(node)) = self.place.running() else { continue };
            match node.stream(path, splitter.last_id()).await {
                Ok(response) => return Ok((node, response)),
                Err(NoStream::Now(_)) => {}
                Err(NoStream::Refused(failure)) => return Err(failure),
            }
        }
    }

    fn path(&self, shown: &Shown) -> String {
        let of_board = (shown.form == Form::Board).then_some(BOARD_WINDOWS);
        let last = self.last.or(of_board).or_else(|| self.once.then_some(1));
        let all = [
            ("name", self.name.clone()),
            ("window", self.window.map(|window| window.as_str().to_owned())),
            ("last", last.map(|last| last.to_string())),
            ("once", self.once.then(|| "true".to_owned())),
        ];
        let given = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let given = given.map(|(name, value)| format!("{name}={}", segment(&value)));
        format!("/v1/live?{}", given.collect::<Vec<_>>().join("&"))
    }
}

/// Shows what comes until the connection ends, and says how it did.
async fn take_all(
    node: &NodeClient,
    response: Response<Incoming>,
    splitter: &mut ToldSplitter,
    shown: &mut Shown,
) -> Result<Result<(), Failure>, Failure> {
    let mut body = response.into_body();
    loop {
        let piece = match node.piece(&mut body).await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(Ok(())),
            Err(broke) => return Ok(Err(broke)),
        };
        splitter.push(&piece, &mut |told| shown.take(told))?;
        shown.pause()?;
    }
}

/// How it is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A table.
    Board,
    /// A line for each window that is over.
    Lines,
    /// The same as JSON; and, where it is shown once, of the minute that is not.
    Json,
}

/// What is shown.
struct Shown {
    output: Output,
    form: Form,
    /// The table is drawn once, at the end, and not over and over.
    once: bool,
    board: Board,
    rows_drawn: usize,
}

impl Shown {
    fn take(&mut self, told: Told) -> Result<(), Failure> {
        match (self.form, told) {
            (Form::Board, told) => {
                self.board.take(told);
                Ok(())
            }
            (_, Told::Window(window)) if !window.complete && !self.once => Ok(()),
            (Form::Lines, Told::Window(window)) => self.output.line(&plain_line(&window)),
            (Form::Lines, Told::Gap(gap)) => {
                let span = gap.window.as_str();
                notice(&format!("windows of {span} before {} are missing", gap.next));
                Ok(())
            }
            (Form::Json, Told::Window(window)) => self.output.json(&window),
            (Form::Json, Told::Gap(gap)) => self.output.json(&serde_json::json!({ "gap": gap })),
        }
    }

    /// All that has come until now was taken.
    fn pause(&mut self) -> Result<(), Failure> {
        match self.form {
            Form::Board if self.once => Ok(()),
            Form::Board => {
                let lines = self.board.lines(rows().saturating_sub(1));
                draw_over(&mut self.output, &lines, &mut self.rows_drawn)
            }
            Form::Lines | Form::Json => self.output.flush(),
        }
    }

    /// Says something of the node, below what is there.
    fn tell(&mut self, text: &str) -> Result<(), Failure> {
        self.output.flush()?;
        notice(text);
        self.rows_drawn = 0;
        Ok(())
    }

    fn end(&mut self) -> Result<(), Failure> {
        if self.form == Form::Board && self.once {
            let lines = self.board.lines(usize::MAX);
            lines.iter().try_for_each(|line| self.output.line(line))?;
        }
        self.output.flush()
    }
}

/// Draws `lines` where those of before are.
fn draw_over(output: &mut Output, lines: &[String], drawn: &mut usize) -> Result<(), Failure> {
    if *drawn > 0 {
        // Up to the first line of before, and everything below it away. From the first column: a
        // terminal echoes `^C`.
        output.write(format!("\r\x1b[{drawn}A\x1b[J").as_bytes())?;
    }
    *drawn = lines.len();
    // A line that a narrow terminal broke in two would not be drawn over: it is cut instead.
    output.write(b"\x1b[?7l")?;
    lines.iter().try_for_each(|line| output.line(line))?;
    output.write(b"\x1b[?7h")?;
    output.flush()
}

/// How many rows the terminal has.
fn rows() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.map_or(ROWS_USUAL, |size| usize::from(size.ws_row)).max(ROWS_USUAL / 3)
}

fn plain_line(window: &LiveWindow) -> String {
    let LiveWindow { window: span, begin, total, names, other, .. } = window;
    let mut line = format!("{begin} {}  {} events", span.as_str(), total.count);
    if total.late > 0 {
        line.push_str(&format!(", {} late", total.late));
    }
    let told = |it: &Figures| format!("{} {}", it.name.as_deref().unwrap_or("other"), it.count);
    let mut all: Vec<_> = names.iter().take(NAMES_IN_A_LINE).map(told).collect();
    if names.len() > NAMES_IN_A_LINE {
        all.push(format!("and {} names more", names.len() - NAMES_IN_A_LINE));
    }
    all.extend(other.as_ref().map(told));
    if !all.is_empty() {
        line.push_str(": ");
        line.push_str(&all.join(", "));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_one_line_with_its_most_frequent_names() {
        let of = |name: Option<&str>, count| Figures {
            name: name.map(str::to_owned),
            count,
            ..Figures::default()
        };
        let mut window = LiveWindow {
            window: WindowSpan::Second,
            begin: "2026-01-02T03:04:05Z".to_owned(),
            complete: true,
            total: of(None, 0),
            names: Vec::new(),
            other: None,
        };
        assert_eq!(plain_line(&window), "2026-01-02T03:04:05Z 1s  0 events");
        window.total = Figures { late: 2, ..of(None, 57) };
        window.names = (0..10).map(|n| of(Some(&format!("E{n}")), 5)).collect();
        window.other = Some(of(None, 7));
        let line = plain_line(&window);
        assert!(line.contains("57 events, 2 late: E0 5, E1 5"), "{line}");
        assert!(line.ends_with("E7 5, and 2 names more, other 7"), "{line}");
    }
}
