//! What is shown: a table for people, or one JSON line for each cell and peer.
//!
//! The rate is the median over the rounds. The ratio is the median of the rounds' own ratios, ours
//! to the peer's: the two sides of each were measured in the same minute.

use serde::Serialize;

use crate::measure::Cell;
use crate::peers::{KINDS, Kind};

/// A cell's rates: for each kind one a round, none where the kind has no such cell.
pub(crate) struct Measured {
    pub(crate) cell: Cell,
    pub(crate) rates: Vec<Vec<f64>>,
}

/// One cell of one peer.
#[derive(Debug, Serialize)]
struct Figure<'a> {
    cell: &'a str,
    peer: &'a str,
    version: &'a str,
    licence: &'a str,
    /// The median over the rounds.
    records_per_second: f64,
    /// Of each round.
    rounds: &'a [f64],
    /// Ours to this one: the median of the rounds' ratios.
    ours_to_it: Option<f64>,
}

impl Measured {
    /// Ours to its. None where ours was not measured.
    fn ratio(&self, kind: usize) -> Option<f64> {
        let rounds = self.rates[0].iter().zip(&self.rates[kind]);
        (!self.rates[0].is_empty()).then(|| median(rounds.map(|(ours, its)| ours / its)))
    }

    fn measured(&self) -> impl Iterator<Item = (usize, &'static Kind)> {
        KINDS.iter().enumerate().filter(|(kind, _)| !self.rates[*kind].is_empty())
    }
}

/// Markdown: a row a cell, a column a peer.
pub(crate) fn table(all: &[Measured]) -> String {
    let columns: Vec<_> = (0..KINDS.len())
        .filter(|kind| all.iter().any(|measured| !measured.rates[*kind].is_empty()))
        .collect();
    let heads =
        columns.iter().map(|kind| format!(" {} {} |", KINDS[*kind].name, KINDS[*kind].version));
    let mut table = format!("| records/s |{}\n", heads.collect::<String>().replace("  |", " |"));
    table += &format!("|---|{}\n", "--:|".repeat(columns.len()));
    for measured in all {
        table += &format!("| {} |", measured.cell.name());
        for kind in &columns {
            let rates = &measured.rates[*kind];
            if rates.is_empty() {
                table += " – |";
                continue;
            }
            let rate = rounded(median(rates.iter().copied()));
            table += &match measured.ratio(*kind) {
                Some(_) if *kind == 0 => format!(" **{rate}** |"),
                Some(ratio) => format!(" {rate} ({ratio:.1}×) |"),
                None => format!(" {rate} |"),
            };
        }
        table.push('\n');
    }
    table
}

/// A JSON line for each cell and peer.
pub(crate) fn json_lines(all: &[Measured]) -> serde_json::Result<Vec<String>> {
    let of_cell = |measured: &Measured| {
        let cell = measured.cell.name();
        let figure = |(kind, about): (usize, &'static Kind)| {
            serde_json::to_string(&Figure {
                cell: &cell,
                peer: about.name,
                version: about.version,
                licence: about.licence,
                records_per_second: median(measured.rates[kind].iter().copied()),
                rounds: &measured.rates[kind],
                ours_to_it: measured.ratio(kind),
            })
        };
        measured.measured().map(figure).collect::<Vec<_>>()
    };
    all.iter().flat_map(of_cell).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// Three digits, which is more than such figures hold.
fn rounded(value: f64) -> String {
    let unit = 10_f64.powf((value.max(1.0).log10().floor() - 2.0).max(0.0));
    let digits = format!("{:.0}", (value / unit).round() * unit);
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn figures_keep_three_digits_and_are_grouped() {
        assert_eq!(rounded(1_234_567.0), "1,230,000");
        assert_eq!(rounded(86.4), "86");
        assert_eq!(rounded(9_876.0), "9,880");
    }
}
