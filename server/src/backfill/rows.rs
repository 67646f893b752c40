//! Rows of a file on their way to a node: the body of `POST /v1/backfills/{source}/{hash}`.
//! How they are framed: `server/HTTP.md`, section *Rows of a file*.

use std::io::Write as _;

use tracklog_ingest_gateway::intake::rows::{Row, RowContent};

/// The body is no list of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rows are not framed as they should be, from byte {at} on")]
pub struct Misframed {
    /// Where the row begins that is not.
    pub at: usize,
}

/// Appends `row` to a body.
pub fn push_row(body: &mut Vec<u8>, row: &Row<'_>) {
    let number = row.number;
    let written = match row.content {
        RowContent::Event(bytes) => {
            let head = writeln!(body, "{number} event {}", bytes.len());
            body.extend_from_slice(bytes);
            head
        }
        RowContent::Refused { reason, bytes } => {
            let head = writeln!(body, "{number} refused {} {}", reason.len(), bytes.len());
            body.extend_from_slice(reason.as_bytes());
            body.extend_from_slice(bytes);
            head
        }
    };
    written.expect("a vector takes all bytes");
    body.push(b'\n');
}

/// Reads the rows of a body.
///
/// # Errors
/// [`Misframed`] at the first that is none, or whose number does not rise.
pub fn rows_of(body: &[u8]) -> Result<Vec<Row<'_>>, Misframed> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (before, at) = (rows.last().map_or(0, |row| row.number), body.len() - rest.len());
        let row = take_row(&mut rest).filter(|row| row.number > before);
        rows.push(row.ok_or(Misframed { at })?);
    }
    Ok(rows)
}

/// The first row of `rest`, which begins behind it afterwards; unchanged where there is none.
fn take_row<'a>(rest: &mut &'a [u8]) -> Option<Row<'a>> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (head, behind) = rest.split_at_checked(end)?;
    let mut words = str::from_utf8(head).ok()?.split(' ');
    let number = words.next()?.parse().ok()?;
    let what = words.next()?;
    let mut behind = behind.get(1..)?;
    let mut take = |length: &str| {
        let (taken, rest) = behind.split_at_checked(length.parse().ok()?)?;
        behind = rest;
        Some(taken)
    };
    let content = match what {
        "event" => RowContent::Event(take(words.next()?)?),
        "refused" => {
            let reason = str::from_utf8(take(words.next()?)?).ok()?;
            RowContent::Refused { reason, bytes: take(words.next()?)? }
        }
        _ => return None,
    };
    if words.next().is_some() {
        return None;
    }
    *rest = behind.strip_prefix(b"\n")?;
    Some(Row { number, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back_whatever_bytes_they_hold() {
        let rows = [
            Row { number: 3, content: RowContent::Event(b"{\"event\":\"a\"}") },
            Row { number: 4, content: RowContent::Event(b"\n5 event 1\n\0\xff") },
            Row { number: 9, content: RowContent::Refused { reason: "why", bytes: b"a,\n\"" } },
        ];
        let mut body = Vec::new();
        rows.iter().for_each(|row| push_row(&mut body, row));
        assert_eq!(rows_of(&body), Ok(rows.to_vec()));
        assert_eq!(rows_of(b""), Ok(Vec::new()));
    }

    #[test]
    fn a_body_that_is_cut_or_goes_back_is_refused_where_that_is() {
        let good = b"1 event 2\n{}\n";
        for end in 1..good.len() {
            assert_eq!(rows_of(&good[..end]), Err(Misframed { at: 0 }), "{end}");
        }
        for second in ["1 event 2\n{}\n", "2 event 3\n{}\n", "2 row 2\n{}\n", "2 event 2 2\n{}\n"] {
            let body = [&good[..], second.as_bytes()].concat();
            assert_eq!(rows_of(&body), Err(Misframed { at: good.len() }), "{second}");
        }
        assert_eq!(rows_of(b"0 event 2\n{}\n"), Err(Misframed { at: 0 }), "they count from 1");
        let huge = format!("1 event {}\n{{}}\n", u64::MAX);
        assert_eq!(rows_of(huge.as_bytes()), Err(Misframed { at: 0 }));
    }
}
