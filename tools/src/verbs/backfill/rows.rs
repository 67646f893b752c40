//! Rows out of a file, one after the other, in bounded memory.
//!
//! A row is never longer than [`ROW_BYTES_MAX`]; of a longer one the first bytes stay, with the
//! reason why it is refused. Numbers count the file's lines from 1: what an editor shows.

use std::io::{self, BufRead};

/// The longest row that is sent.
pub(super) const ROW_BYTES_MAX: usize = 512 << 10;
/// What is kept of one that is longer.
const KEPT_BYTES: usize = 64 << 10;

/// A row, in memory that is used again for the next.
#[derive(Debug, Default)]
pub(super) struct RowBuffer {
    /// Its number in the file.
    pub(super) number: u64,
    /// What should be an event in JSON; of a refused row what stands in the file.
    pub(super) bytes: Vec<u8>,
    /// Why it is refused.
    pub(super) refused: Option<String>,
}

impl RowBuffer {
    pub(super) fn begin(&mut self, number: u64) {
        self.number = number;
        self.bytes.clear();
        self.bytes.shrink_to(ROW_BYTES_MAX);
        self.refused = None;
    }

    /// Refuses a row of so many bytes if that is too many.
    pub(super) fn bound(&mut self, row_bytes: u64) {
        if row_bytes > ROW_BYTES_MAX as u64 {
            let whole = ROW_BYTES_MAX >> 10;
            self.refused = Some(format!("it has {row_bytes} bytes, more than {whole} KiB"));
            self.bytes.truncate(KEPT_BYTES);
        }
    }
}

/// Reads a file's rows.
pub(super) trait Rows: Send {
    /// Reads the next row that is not blank into `row`; `false` at the end.
    fn next(&mut self, row: &mut RowBuffer) -> io::Result<bool>;

    /// The number that a row behind the last one would have.
    fn next_number(&self) -> u64;
}

/// A file of one JSON object a line.
pub(super) struct JsonLines<R> {
    input: R,
    next_line: u64,
}

impl<R: BufRead> JsonLines<R> {
    pub(super) const fn new(input: R) -> Self {
        Self { input, next_line: 1 }
    }
}

impl<R: BufRead + Send> Rows for JsonLines<R> {
    fn next(&mut self, row: &mut RowBuffer) -> io::Result<bool> {
        loop {
            row.begin(self.next_line);
            let line_bytes = read_line(&mut self.input, &mut row.bytes)?;
            if line_bytes == 0 {
                return Ok(false);
            }
            self.next_line += 1;
            row.bound(line_bytes);
            while row.bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                row.bytes.pop();
            }
            if !row.bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
                return Ok(true);
            }
        }
    }

    fn next_number(&self) -> u64 {
        self.next_line
    }
}

/// Reads a line with its end, of which no more than [`ROW_BYTES_MAX`] is kept, and tells how many
/// bytes it has.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    let mut line_bytes = 0;
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(buffer.len(), |end| end + 1);
        let room = (ROW_BYTES_MAX + 1).saturating_sub(line.len());
        line.extend_from_slice(&buffer[..taken.min(room)]);
        input.consume(taken);
        line_bytes += taken as u64;
        if end.is_some() || taken == 0 {
            return Ok(line_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn rows(text: &[u8]) -> Vec<(u64, Vec<u8>, Option<String>)> {
        let mut lines = JsonLines::new(BufReader::with_capacity(7, text));
        let (mut row, mut rows) = (RowBuffer::default(), Vec::new());
        while lines.next(&mut row).unwrap() {
            rows.push((row.number, row.bytes.clone(), row.refused.clone()));
        }
        rows
    }

    #[test]
    fn lines_are_counted_and_blank_ones_hold_no_row() {
        let found = rows(b"{\"a\":1}\r\n\r\n  \n{\"a\":22222}\n\n\0\0\n{\"cut\":");
        let found: Vec<_> = found.iter().map(|(number, bytes, _)| (*number, &bytes[..])).collect();
        let wanted: [(u64, &[u8]); 4] =
            [(1, b"{\"a\":1}"), (4, b"{\"a\":22222}"), (6, b"\0\0"), (7, b"{\"cut\":")];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_line_without_end_is_refused_in_bounded_memory() {
        let mut text = vec![b'x'; 3 * ROW_BYTES_MAX];
        text.extend_from_slice(b"\n{}\n");
        let found = rows(&text);
        assert_eq!(found[0].1.len(), KEPT_BYTES);
        let reason = found[0].2.as_deref().unwrap();
        assert!(reason.starts_with("it has 1572865 bytes"), "{reason}");
        assert_eq!((found[1].0, &found[1].1[..], &found[1].2), (2, &b"{}"[..], &None));
    }
}
