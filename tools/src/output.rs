//! Standard output: data, whole lines, and nothing else.
//!
//! Notices go to standard error. Lines for people are made safe to show; bytes and JSON pass as they
//! are. A reader that has gone (`| head`) ends the verb quietly.

use std::io::{self, BufWriter, Stdout, Write as _};

use serde::Serialize;

use crate::failure::Failure;
use crate::terminal::printable;

/// Standard output, buffered.
pub(crate) struct Output(BufWriter<Stdout>);

impl Output {
    pub(crate) fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout()))
    }

    /// Writes bytes that end with a line.
    pub(crate) fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        self.0.write_all(lines).map_err(|error| failure(&error))
    }

    /// Writes one line for people; one only, whatever is in it.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.write(printable(line).as_bytes())?;
        self.write(b"\n")
    }

    /// Writes text of our own making that has several lines.
    pub(crate) fn lines(&mut self, text: &str) -> Result<(), Failure> {
        text.lines().try_for_each(|line| self.line(line))
    }

    /// Writes one object as a line of JSON.
    pub(crate) fn json(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(object).map_err(Failure::could_not_run)?;
        self.write(line.as_bytes())?;
        self.write(b"\n")
    }

    /// Lets the reader see what was written.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(|error| failure(&error))
    }
}

fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::NobodyReads,
        _ => Failure::of("standard output", error),
    }
}

/// Says that it was done, where that is all there is to say.
pub(crate) fn done(name: &str, what: &str) -> Result<(), Failure> {
    let mut output = Output::new();
    output.line(&format!("{name}: {what}"))?;
    output.flush()
}

/// Tells people something beside the data.
pub(crate) fn notice(line: &str) {
    eprintln!("tracklog: {}", printable(line));
}

/// Rows as columns, each as wide as its widest cell. The first row is the head.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let rows = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect());
    let rows: Vec<Vec<_>> = rows.collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Digits with thousands apart.
pub(crate) fn thousands(digits: &str) -> String {
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = super::table(&[row(["topic", "records"]), row(["a", "1"])]);
        assert_eq!(text, "topic  records\na      1\n");
    }
}
