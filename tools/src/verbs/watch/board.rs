//! The table that is drawn: what has come, row by row.

use std::collections::{BTreeMap, VecDeque};

use tracklog_server::live::{Figures, LiveWindow, WindowSpan};

use super::stream::Told;
use crate::output::{table, thousands};

/// Seconds that a sparkline shows, a letter each.
const SECONDS: usize = 30;
/// Seconds over which the rate is taken.
const RATE_SECONDS: usize = 10;
const LETTERS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Letters of a name.
const NAME_LETTERS: usize = 40;
/// Lines beside those of names: two heads, total, other, and how many more there are.
const LINES_BESIDE: usize = 5;

/// What has come.
#[derive(Default)]
pub(super) struct Board {
    /// Seconds that are over, the newest last.
    seconds: VecDeque<LiveWindow>,
    /// The minute that is not over, and the one before it.
    minute: Option<LiveWindow>,
    last_minute: Option<LiveWindow>,
    missing: Option<String>,
}

/// Whose figures a row has.
#[derive(Clone, Copy)]
enum Row<'b> {
    Name(&'b str),
    Other,
    Total,
}

impl Board {
    pub(super) fn take(&mut self, told: Told) {
        match told {
            Told::Gap(gap) => {
                self.missing = Some(format!("windows before {} are missing", gap.next));
                if gap.window == WindowSpan::Second {
                    self.seconds.clear();
                }
            }
            Told::Window(window) => match (window.window, window.complete) {
                (WindowSpan::Second, _) => {
                    self.seconds.push_back(window);
                    if self.seconds.len() > SECONDS {
                        self.seconds.pop_front();
                    }
                }
                (WindowSpan::Minute, true) => {
                    self.last_minute = Some(window);
                    self.minute = None;
                }
                (WindowSpan::Minute, false) => self.minute = Some(window),
            },
        }
    }

    /// It as text, in at most `lines_max` lines where there is room for one name.
    pub(super) fn lines(&self, lines_max: usize) -> Vec<String> {
        let names = self.names();
        let shown = names.len().min(lines_max.saturating_sub(LINES_BESIDE).max(1));
        let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
        rows.extend(names[..shown].iter().map(|name| self.row(Row::Name(name))));
        if self.windows().any(|window| window.other.is_some()) {
            rows.push(self.row(Row::Other));
        }
        rows.push(self.row(Row::Total));
        let mut lines = vec![self.headline()];
        lines.extend(table(&rows).lines().map(str::to_owned));
        if names.len() > shown {
            lines.push(format!("and {} names more", names.len() - shown));
        }
        lines
    }

    fn headline(&self) -> String {
        let newest = self.seconds.back().or(self.minute.as_ref()).or(self.last_minute.as_ref());
        let Some(newest) = newest else { return "nothing is told yet".to_owned() };
        let late: u64 = [&self.minute, &self.last_minute]
            .into_iter()
            .flatten()
            .map(|window| window.total.late)
            .sum();
        // Windows begin with a second.
        let mut line = newest.begin.replace(".000000Z", "Z");
        if late > 0 {
            line.push_str(&format!("   {late} late"));
        }
        if let Some(missing) = &self.missing {
            line.push_str(&format!("   {missing}"));
        }
        line
    }

    fn windows(&self) -> impl Iterator<Item = &LiveWindow> {
        self.seconds.iter().chain(&self.minute).chain(&self.last_minute)
    }

    /// All names, the most frequent of this minute and the one before first.
    fn names(&self) -> Vec<&str> {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for window in self.windows() {
            let weight = u64::from(window.window == WindowSpan::Minute);
            for figures in &window.names {
                let name = figures.name.as_deref().unwrap_or_default();
                *counts.entry(name).or_default() += figures.count * weight;
            }
        }
        let mut names: Vec<_> = counts.into_iter().collect();
        names.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        names.into_iter().map(|(name, _)| name).collect()
    }

    fn row(&self, row: Row<'_>) -> Vec<String> {
        let of = |window: &Option<LiveWindow>| {
            let count = window.as_ref().map(|window| row.figures(window).map_or(0, |it| it.count));
            count.map_or_else(|| "-".to_owned(), |count| thousands(&count.to_string()))
        };
        let counts: Vec<u64> = self
            .seconds
            .iter()
            .map(|window| row.figures(window).map_or(0, |figures| figures.count))
            .collect();
        vec![
            row.label(),
            rate(&counts),
            of(&self.minute),
            of(&self.last_minute),
            sparkline(&counts),
            self.sums(row),
        ]
    }

    /// The sums of this minute.
    fn sums(&self, row: Row<'_>) -> String {
        let figures = self.minute.as_ref().and_then(|window| row.figures(window));
        let sums = figures.into_iter().flat_map(|figures| &figures.sums);
        let told = sums.map(|(path, sum)| {
            format!("{} {:.2}", path.strip_prefix("properties.").unwrap_or(path), sum.sum)
        });
        told.collect::<Vec<_>>().join("  ")
    }
}

const HEAD: [&str; 6] = ["event", "a second", "this minute", "last minute", "30 s", "sums"];

impl Row<'_> {
    fn label(self) -> String {
        match self {
            Self::Name(name) if name.chars().count() > NAME_LETTERS => {
                name.chars().take(NAME_LETTERS - 1).chain(['…']).collect()
            }
            Self::Name(name) => name.to_owned(),
            Self::Other => "(other names)".to_owned(),
            Self::Total => "(all)".to_owned(),
        }
    }

    fn figures(self, window: &LiveWindow) -> Option<&Figures> {
        match self {
            Self::Name(name) => {
                window.names.iter().find(|figures| figures.name.as_deref() == Some(name))
            }
            Self::Other => window.other.as_ref(),
            Self::Total => Some(&window.total),
        }
    }
}

/// Over the last seconds.
fn rate(counts: &[u64]) -> String {
    let newest = &counts[counts.len().saturating_sub(RATE_SECONDS)..];
    if newest.is_empty() {
        return "-".to_owned();
    }
    format!("{:.1}", newest.iter().sum::<u64>() as f64 / newest.len() as f64)
}

/// The newest on the right, as high as the highest of them.
fn sparkline(counts: &[u64]) -> String {
    let highest = u128::from(counts.iter().copied().max().unwrap_or(0).max(1));
    let top = LETTERS.len() as u128 - 1;
    let height = |count: u64| usize::try_from((u128::from(count) * top).div_ceil(highest));
    let letter = |count: &u64| LETTERS[height(*count).expect("no count is above the highest")];
    let letters: String = counts.iter().map(letter).collect();
    format!("{letters:>SECONDS$}")
}

#[cfg(test)]
mod tests {
    use tracklog_server::live::{LiveGap, SumFigure};

    use super::*;

    fn figures(name: Option<&str>, count: u64) -> Figures {
        let sum = SumFigure { sum: 12.5, count: 1 };
        let sums = BTreeMap::from([("properties.total".to_owned(), sum)]);
        Figures { name: name.map(str::to_owned), count, sums, ..Figures::default() }
    }

    fn window(window: WindowSpan, complete: bool, counts: &[(&str, u64)]) -> Told {
        Told::Window(LiveWindow {
            window,
            begin: "2026-01-02T03:04:05.000000Z".to_owned(),
            complete,
            total: figures(None, counts.iter().map(|(_, count)| count).sum()),
            names: counts.iter().map(|(name, count)| figures(Some(name), *count)).collect(),
            other: None,
        })
    }

    #[test]
    fn the_most_frequent_names_are_shown_and_the_rest_is_counted() {
        let mut board = Board::default();
        board.take(window(WindowSpan::Second, true, &[("Bought", 1), ("Viewed", 4)]));
        board.take(window(WindowSpan::Minute, true, &[("Bought", 3), ("Left", 1)]));
        board.take(window(WindowSpan::Minute, false, &[("Bought", 1), ("Viewed", 1_234)]));
        let lines = board.lines(usize::MAX);
        assert_eq!(lines[0], "2026-01-02T03:04:05Z");
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cells(&lines[2]), ["Viewed", "4.0", "1,234", "0", "█", "total", "12.50"]);
        assert_eq!(cells(&lines[3]), ["Bought", "1.0", "1", "3", "█", "total", "12.50"]);
        assert_eq!(cells(&lines[4]), ["Left", "0.0", "0", "1"]);
        assert!(lines[5].starts_with("(all)"));
        let few = board.lines(6);
        assert_eq!(few.len(), 5);
        assert!(few[2].starts_with("Viewed") && few[4] == "and 2 names more", "{few:?}");
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut board = Board::default();
        assert_eq!(board.lines(9)[0], "nothing is told yet");
        board.take(window(WindowSpan::Second, true, &[("Bought", 1)]));
        let next = "2026-01-02T03:04:05Z".to_owned();
        board.take(Told::Gap(LiveGap { window: WindowSpan::Second, next }));
        board.take(window(WindowSpan::Second, true, &[("Bought", 1)]));
        assert!(board.lines(9)[0].ends_with("windows before 2026-01-02T03:04:05Z are missing"));
    }

    #[test]
    fn a_sparkline_is_as_high_as_its_highest_and_shows_the_least() {
        assert_eq!(sparkline(&[]).trim(), "");
        assert_eq!(sparkline(&[1, 0, 400, 200]).trim(), "▁ █▄");
        assert_eq!(sparkline(&[1; SECONDS]).chars().count(), SECONDS);
        assert_eq!(sparkline(&[u64::MAX, 1]).trim(), "█▁");
    }
}
