//! Files of separated values: records, and the events that their columns make.
//!
//! Records are those of RFC 4180: a field may be in quotes, and then hold separators, line breaks
//! and doubled quotes. Anything behind a closing quote, and a quote that is never closed, is a
//! flaw that costs the record. A quote inside of a field that does not begin with one is text.
//!
//! The first record names the columns. Values are text, unless a type was declared for the column:
//! no zero, sign or letter is guessed away. An empty value of a declared type is left out.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde_json::value::RawValue;

use super::columns::{Members, event_of, fields_of, is_object, no_column, push_text};
use super::rows::{ROW_BYTES_MAX, RowBuffer, Rows};

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnType {
    Text,
    Number,
    Boolean,
    Json,
}

impl ColumnType {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "text" => Self::Text,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            "json" => Self::Json,
            _ => return None,
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Json => "json",
        }
    }
}

/// How a file's columns are read.
#[derive(Clone, Debug)]
pub(super) struct CsvOptions {
    pub(super) delimiter: u8,
    /// The names of the columns where the file has none.
    pub(super) columns: Option<Vec<String>>,
    /// Columns that are another field than their names say; none: left out.
    pub(super) fields: BTreeMap<String, Option<String>>,
    /// Columns whose type is declared.
    pub(super) types: BTreeMap<String, ColumnType>,
}

/// Where a field of a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Plain,
    Quoted,
    /// Behind a quote in a quoted field: its end, or the first of two.
    Quote,
    /// Behind that and a carriage return.
    QuoteReturn,
}

/// One record: its bytes, and its fields without quotes.
#[derive(Debug, Default)]
struct Record {
    raw: Vec<u8>,
    raw_bytes: u64,
    fields: Vec<u8>,
    ends: Vec<usize>,
    lines: u64,
    flaw: Option<&'static str>,
}

impl Record {
    fn clear(&mut self) {
        self.raw.clear();
        self.fields.clear();
        self.ends.clear();
        (self.raw_bytes, self.lines, self.flaw) = (0, 0, None);
    }

    fn field(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.fields[start..self.ends[index]]
    }

    fn is_blank(&self) -> bool {
        self.ends.len() == 1 && self.raw.iter().all(u8::is_ascii_whitespace)
    }

    /// Reads the next record; `false` at the end.
    fn read(&mut self, input: &mut impl BufRead, delimiter: u8) -> io::Result<bool> {
        self.clear();
        let mut state = State::Start;
        loop {
            let buffer = input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(self.end_of_file(state));
            }
            let mut taken = 0;
            let mut ended = false;
            for byte in buffer {
                taken += 1;
                (state, ended) = self.take(state, *byte, delimiter);
                if ended {
                    break;
                }
            }
            let room = (ROW_BYTES_MAX + 1).saturating_sub(self.raw.len());
            self.raw.extend_from_slice(&buffer[..taken.min(room)]);
            self.raw_bytes += taken as u64;
            input.consume(taken);
            if ended {
                return Ok(true);
            }
        }
    }

    fn take(&mut self, state: State, byte: u8, delimiter: u8) -> (State, bool) {
        if byte == b'\n' {
            self.lines += 1;
        }
        match (state, byte) {
            (State::Start, b'"') => return (State::Quoted, false),
            (State::Quoted, b'"') => return (State::Quote, false),
            (State::Quote, b'"') => {
                self.push(b'"');
                return (State::Quoted, false);
            }
            (State::Quote, b'\r') => return (State::QuoteReturn, false),
            (State::Quoted, byte) => {
                self.push(byte);
                return (State::Quoted, false);
            }
            _ => {}
        }
        match byte {
            b'\n' => {
                if state == State::Plain && self.fields.last() == Some(&b'\r') {
                    self.fields.pop();
                }
                self.ends.push(self.fields.len());
                (State::Start, true)
            }
            _ if byte == delimiter && state != State::QuoteReturn => {
                self.ends.push(self.fields.len());
                (State::Start, false)
            }
            byte => {
                if matches!(state, State::Quote | State::QuoteReturn) {
                    self.flaw = Some("something stands behind a closing quote");
                }
                self.push(byte);
                (State::Plain, false)
            }
        }
    }

    /// A record that is too long is refused, whatever its fields are.
    fn push(&mut self, byte: u8) {
        if self.fields.len() <= ROW_BYTES_MAX {
            self.fields.push(byte);
        }
    }

    fn end_of_file(&mut self, state: State) -> bool {
        if self.raw_bytes == 0 {
            return false;
        }
        if state == State::Quoted {
            self.flaw = Some("a quote is not closed before the file ends");
        }
        self.lines += 1;
        self.ends.push(self.fields.len());
        true
    }
}

/// Reads a file's records as events.
pub(super) struct CsvRows<R> {
    input: R,
    delimiter: u8,
    names: Vec<String>,
    kinds: Vec<ColumnType>,
    event: Members,
    record: Record,
    next_line: u64,
}

impl<R: BufRead> CsvRows<R> {
    /// Reads the head.
    pub(super) fn new(mut input: R, options: &CsvOptions) -> Result<Self, String> {
        let delimiter = options.delimiter;
        let mut record = Record::default();
        let mut next_line = 1;
        let names = match &options.columns {
            Some(names) => names.clone(),
            None => read_head(&mut input, delimiter, &mut record, &mut next_line)?,
        };
        if let Some(unknown) = options.types.keys().find(|name| !names.contains(name)) {
            return Err(no_column(unknown, &names));
        }
        let fields = fields_of(&names, &options.fields)?;
        let kind = |(name, field): (&String, &Option<String>)| {
            let declared = options.types.get(name).copied();
            declared.unwrap_or_else(|| usual_type(field.as_deref().unwrap_or_default()))
        };
        let kinds = names.iter().zip(&fields).map(kind).collect();
        let event = event_of(&names, &fields)?;
        Ok(Self { input, delimiter, names, kinds, event, record, next_line })
    }

    /// Writes the event that the record makes.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), String> {
        if let Some(flaw) = self.record.flaw {
            return Err(flaw.to_owned());
        }
        let (found, wanted) = (self.record.ends.len(), self.names.len());
        if found != wanted {
            return Err(format!("it has {found} columns, and there are {wanted} names"));
        }
        let says = |column| self.says(column);
        self.event.write(out, &says, &mut |column, out| self.write_value(column, out))
    }

    /// Whether the record has something in that column.
    fn says(&self, column: usize) -> bool {
        self.kinds[column] == ColumnType::Text || !self.record.field(column).is_empty()
    }

    fn write_value(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let (name, kind) = (&self.names[column], self.kinds[column]);
        let text = str::from_utf8(self.record.field(column))
            .map_err(|_| format!("column {name} is no UTF-8"))?;
        let shown = || text.chars().take(40).collect::<String>();
        match kind {
            ColumnType::Text => push_text(out, text),
            ColumnType::Number => match number(text) {
                Some((sign, digits)) => {
                    out.extend_from_slice(sign.as_bytes());
                    out.extend_from_slice(digits.as_bytes());
                }
                None => return Err(format!("column {name}: {:?} is no number", shown())),
            },
            ColumnType::Boolean => match &*text.to_ascii_lowercase() {
                "true" => out.extend_from_slice(b"true"),
                "false" => out.extend_from_slice(b"false"),
                _ => return Err(format!("column {name}: {:?} is not true or false", shown())),
            },
            // Checked here: a piece of JSON could else close the object that it stands in.
            ColumnType::Json => match serde_json::from_str::<&RawValue>(text) {
                Ok(value) => out.extend_from_slice(value.get().as_bytes()),
                Err(_) => return Err(format!("column {name}: {:?} is no JSON", shown())),
            },
        }
        Ok(())
    }
}

impl<R: BufRead + Send> Rows for CsvRows<R> {
    fn next(&mut self, row: &mut RowBuffer) -> io::Result<bool> {
        loop {
            row.begin(self.next_line);
            if !self.record.read(&mut self.input, self.delimiter)? {
                return Ok(false);
            }
            self.next_line += self.record.lines;
            if self.record.is_blank() {
                continue;
            }
            let written = self.write(&mut row.bytes);
            let row_bytes = self.record.raw_bytes;
            if written.is_err() || row_bytes.max(row.bytes.len() as u64) > ROW_BYTES_MAX as u64 {
                row.bytes.clear();
                row.bytes.extend_from_slice(trim_end(&self.record.raw));
                row.refused = written.err();
                row.bound(row_bytes.max(row.bytes.len() as u64));
            }
            return Ok(true);
        }
    }

    fn next_number(&self) -> u64 {
        self.next_line
    }
}

/// The names in the first record that is not blank.
fn read_head(
    input: &mut impl BufRead,
    delimiter: u8,
    record: &mut Record,
    next_line: &mut u64,
) -> Result<Vec<String>, String> {
    loop {
        if !record.read(input, delimiter).map_err(|error| error.to_string())? {
            return Err("it is empty: its first line names the columns".to_owned());
        }
        *next_line += record.lines;
        if !record.is_blank() {
            break;
        }
    }
    if let Some(flaw) = record.flaw {
        return Err(format!("the names of its columns cannot be read: {flaw}"));
    }
    let name = |index| {
        let name = str::from_utf8(record.field(index)).map(str::trim);
        name.map(str::to_owned).map_err(|_| "the names of its columns are no UTF-8".to_owned())
    };
    (0..record.ends.len()).map(name).collect()
}

/// A decimal number as JSON spells it: zeros before its digits and a plus go, all else stays.
fn number(text: &str) -> Option<(&'static str, &str)> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let spare = digits.bytes().take_while(|byte| *byte == b'0').count();
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    let spare =
        if is_digit(digits.as_bytes().get(spare)) { spare } else { spare.saturating_sub(1) };
    let digits = &digits[spare..];
    let is_number = is_digit(digits.as_bytes().first())
        && is_digit(digits.as_bytes().last())
        && serde_json::from_str::<serde_json::Number>(digits).is_ok();
    is_number.then_some((sign, digits))
}

/// An object is written as one.
fn usual_type(field: &str) -> ColumnType {
    if is_object(field) { ColumnType::Json } else { ColumnType::Text }
}

fn trim_end(raw: &[u8]) -> &[u8] {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    raw.strip_suffix(b"\r").unwrap_or(raw)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn options() -> CsvOptions {
        let (fields, types) = (BTreeMap::new(), BTreeMap::new());
        CsvOptions { delimiter: b',', columns: None, fields, types }
    }

    /// Numbers and events, or reasons.
    fn rows_with(text: &[u8], options: &CsvOptions) -> Vec<(u64, String)> {
        let mut rows = CsvRows::new(BufReader::with_capacity(5, text), options).unwrap();
        let (mut row, mut found) = (RowBuffer::default(), Vec::new());
        while rows.next(&mut row).unwrap() {
            let event = || String::from_utf8(row.bytes.clone()).unwrap();
            found.push((row.number, row.refused.clone().unwrap_or_else(event)));
        }
        found
    }

    fn rows(text: &str) -> Vec<(u64, String)> {
        rows_with(text.as_bytes(), &options())
    }

    fn owned(rows: &[(u64, &str)]) -> Vec<(u64, String)> {
        rows.iter().map(|(number, text)| (*number, (*text).to_owned())).collect()
    }

    #[test]
    fn quotes_hold_separators_line_breaks_and_quotes() {
        let text = "userId,event,properties.note\r\nu1,seen,\"a, \"\"b\"\"\"\r\n\
                    u2,seen,\"line 1\r\nline 2\"\r\n\r\nu3,seen,";
        let wanted = [
            (2, r#"{"userId":"u1","event":"seen","properties":{"note":"a, \"b\""}}"#),
            (3, r#"{"userId":"u2","event":"seen","properties":{"note":"line 1\r\nline 2"}}"#),
            (6, r#"{"userId":"u3","event":"seen","properties":{"note":""}}"#),
        ];
        assert_eq!(rows(text), owned(&wanted));
    }

    #[test]
    fn values_are_text_until_a_type_is_declared() {
        let text = "userId,event,price,zip,flag,data\n00123,paid,007.50,01067,TRUE,\"[1, 2]\"\n\
                    4,paid,,,,\n";
        let as_text = r#"{"userId":"00123","event":"paid","properties":{"price":"007.50","zip":"01067","flag":"TRUE","data":"[1, 2]"}}"#;
        assert_eq!(rows(text)[0].1, as_text);
        let types = [
            ("price", ColumnType::Number),
            ("flag", ColumnType::Boolean),
            ("data", ColumnType::Json),
        ];
        let types = types.map(|(name, kind)| (name.to_owned(), kind)).into();
        let found = rows_with(text.as_bytes(), &CsvOptions { types, ..options() });
        let typed = r#"{"userId":"00123","event":"paid","properties":{"price":7.50,"zip":"01067","flag":true,"data":[1, 2]}}"#;
        let empty = r#"{"userId":"4","event":"paid","properties":{"zip":""}}"#;
        assert_eq!(found, owned(&[(2, typed), (3, empty)]));
    }

    #[test]
    fn numbers_keep_their_digits() {
        let good = [
            ("0", "0"),
            ("000", "0"),
            ("-007.50", "-7.50"),
            ("+1e5", "1e5"),
            ("0.10", "0.10"),
            ("00.1", "0.1"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
        ];
        for (text, wanted) in good {
            let (sign, digits) = number(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(format!("{sign}{digits}"), wanted);
        }
        for text in ["", "-", "+", "--1", ".5", "5.", "1,5", "1 ", "NaN", "0x10", "1e", "-+1"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_value_that_is_not_of_its_type_costs_its_row() {
        let types = [("n", ColumnType::Number), ("j", ColumnType::Json)];
        let types = types.map(|(name, kind)| (name.to_owned(), kind)).into();
        let text = b"n,j\n12,1\nabc,1\n3,\"1},{\"\n4\n\"5\"x,1\n\xff,1\n6,\"1";
        let found = rows_with(text, &CsvOptions { types, ..options() });
        let wanted = [
            (2, r#"{"properties":{"n":12,"j":1}}"#),
            (3, r#"column n: "abc" is no number"#),
            (4, r#"column j: "1},{" is no JSON"#),
            (5, "it has 1 columns, and there are 2 names"),
            (6, "something stands behind a closing quote"),
            (7, "column n is no UTF-8"),
            (8, "a quote is not closed before the file ends"),
        ];
        assert_eq!(found, owned(&wanted));
    }

    #[test]
    fn columns_are_where_their_names_or_the_caller_say() {
        let fields =
            [("uid", Some("userId")), ("secret", None), ("page", Some("context.page.url"))];
        let fields = fields.map(|(name, field)| (name.to_owned(), field.map(str::to_owned))).into();
        let columns = ["uid", "secret", "page", "a.b", "context.page.title", "traits"];
        let columns = Some(columns.map(str::to_owned).to_vec());
        let options = CsvOptions { delimiter: b';', columns, fields, ..options() };
        let found = rows_with(b"1;x;/a;2;T;{\"k\":1}\n", &options);
        let wanted = r#"{"userId":"1","context":{"page":{"url":"/a","title":"T"}},"properties":{"a.b":"2"},"traits":{"k":1}}"#;
        assert_eq!(found, owned(&[(1, wanted)]));
    }

    #[test]
    fn columns_that_cannot_be_told_apart_are_refused() {
        let head = |text: &str, options: &CsvOptions| {
            CsvRows::new(text.as_bytes(), options).err().unwrap_or_default()
        };
        assert!(head("a,a\n", &options()).contains("two columns are called \"a\""));
        assert!(head("a,,b\n", &options()).contains("column 2 has no name"));
        assert!(head("", &options()).contains("it is empty"));
        assert!(head("price,properties.price\n", &options()).contains("another is already"));
        assert!(head("properties.a,properties.a.b\n", &options()).contains("another is already"));
        let types = [("prise".to_owned(), ColumnType::Number)].into();
        let found = head("price\n", &CsvOptions { types, ..options() });
        assert!(found.contains("there is no column \"prise\": its columns are price"), "{found}");
    }

    #[test]
    fn a_record_without_end_is_refused_in_bounded_memory() {
        let mut text = b"a,b\n\"".to_vec();
        text.resize(3 * ROW_BYTES_MAX, b'x');
        text.extend_from_slice(b"\",1\n2,3\n");
        let found = rows_with(&text, &options());
        assert!(found[0].1.contains("more than 512 KiB"), "{}", found[0].1);
        assert_eq!(found[1], (3, r#"{"properties":{"a":"2","b":"3"}}"#.to_owned()));
    }
}
