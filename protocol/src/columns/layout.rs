//! Where the parts of an event lie in its bytes: its *template*, and what fills it.
//!
//! An event is a FlatBuffer. Its vtables, the order of its parts and where a table has its fields
//! are the same for many events; lengths of texts and numbers are not. A template says the former,
//! and the latter give everything else: offsets, padding, ends. It owes nothing to whoever built
//! the event: what lies otherwise than a template can say is kept as it is.
//!
//! ```text
//! template  u root, 4 bytes identifier, u parts, then each, in the order in which they lie
//! part      0  alignment, u length, bytes                       a vtable
//!           1  alignment, u length, u vtable, u fields, fields  a table; its vtable is a part
//!           2  u column                                         a text: u32 length, bytes, 0
//!           3  u count, so many u parts                         a vector of tables
//!           4  u part                                           the index of the text that is that part
//! field     u at, size, u number column                         a number, little-endian
//!           u at, 0, u part                                     what leads to another part
//! ```
//!
//! An event begins with a u32 that leads to its root and the identifier. The parts follow; each
//! begins at the first place from the end of the one before that has its alignment: a byte
//! 16 × modulus + remainder of vtables and tables, 4 of the others. Between them, behind the last
//! up to a multiple of 4, and where a table has no field lie zeros.

use std::ops::Range;

use super::ColumnsError;
use super::source::{Source, put_size};
use crate::event::{Fields, PropertySpan};

/// What one field of a table is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    /// A number of so many bytes.
    Number(u8),
    /// A time in microseconds.
    Time,
    /// A text.
    Text,
    /// The text by which the events of one visitor are told.
    Visitor,
    /// A JSON text.
    Json,
    /// The spans of the text in that slot.
    Spans(usize),
    Table(&'static [Self]),
    Tables(&'static [Self]),
}

/// The fields of an event, as in `protocol/schema/event.fbs`. An event with a field beyond these is
/// kept as it is.
pub(super) static EVENT: [Slot; 47] = {
    use Slot::{Json, Number, Spans, Table, Tables, Text, Time, Visitor};
    static HEADER: [Slot; 2] = [Text, Text];
    static SESSION: [Slot; 7] = [Text, Number(4), Time, Number(4), Number(1), Text, Time];
    static CAMPAIGN: [Slot; 11] = [Text; 11];
    static DEVICE: [Slot; 8] = [Text, Text, Text, Text, Text, Text, Text, Number(1)];
    static GEO: [Slot; 11] =
        [Text, Text, Text, Text, Text, Number(8), Number(8), Number(4), Number(4), Text, Number(1)];
    static PROFILE: [Slot; 3] = [Number(8), Json, Json];
    static PAGE: [Slot; 5] = [Text; 5];
    let mut event = [Text; 47];
    event[1] = Number(1);
    event[4] = Visitor;
    event[7] = Time;
    event[8] = Time;
    event[9] = Time;
    event[12] = Number(4);
    event[15] = Tables(&HEADER);
    event[17] = Json;
    event[18] = Spans(17);
    event[19] = Json;
    event[20] = Json;
    event[29] = Json;
    event[30] = Json;
    event[34] = Number(4);
    event[36] = Table(&SESSION);
    event[37] = Table(&CAMPAIGN);
    event[38] = Table(&DEVICE);
    event[39] = Table(&GEO);
    event[40] = Table(&PROFILE);
    event[42] = Number(4);
    event[43] = Number(8);
    event[44] = Number(8);
    event[45] = Table(&PAGE);
    event[46] = Json;
    event
};

/// A field of an event or of a table in it: below [`PATHS`].
pub(super) type Path = usize;
const SLOTS_MAX: usize = 64;
pub(super) const PATHS: usize = SLOTS_MAX * (SLOTS_MAX + 1);
/// Tables of a vector beyond so many go by the paths of the last.
const TABLES_APART: usize = 16;

const fn inner_path(outer: Path, slot: usize) -> Path {
    SLOTS_MAX * (outer + 1) + slot
}

const HEAD_BYTES: usize = 8;
const SPAN_BYTES: usize = 20;
const TABLE_BYTES_MAX: usize = 256;
const PARTS_MAX: usize = 4_096;

/// A part of an event as it was found.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) at: Range<usize>,
    pub(super) what: What,
    alignment: Alignment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Vtable,
    /// Where its vtable begins, and which of the found fields are its own.
    Table(usize, Range<usize>),
    Text(Path, IsJson),
    /// Which of the found fields are its elements.
    Tables(Range<usize>),
    /// Where the text begins.
    Spans(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsJson {
    Yes,
    No,
    /// A text by which the events of one visitor are told.
    NoVisitor,
}

/// A field of a table, or an element of a vector, as it was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// In its table.
    pub(super) at: usize,
    pub(super) holds: Holds,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Holds {
    Number {
        path: Path,
        bytes: u8,
        is_time: bool,
    },
    /// Where the part begins.
    Part(usize),
}

/// Begins at `remainder` by `modulus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alignment {
    modulus: u8,
    remainder: u8,
}

impl Alignment {
    const FOUR: Self = Self { modulus: 4, remainder: 0 };

    /// That of a place that holds numbers of at most eight bytes.
    fn of(at: usize, modulus: u8) -> Self {
        let remainder = at % usize::from(modulus);
        Self { modulus, remainder: u8::try_from(remainder).expect("below a byte's modulus") }
    }

    /// The modulus is a power of two.
    fn next(self, from: usize) -> usize {
        let (modulus, remainder) = (usize::from(self.modulus), usize::from(self.remainder));
        from + (remainder.wrapping_sub(from) & (modulus - 1))
    }

    const fn byte(self) -> u8 {
        self.modulus << 4 | self.remainder
    }

    fn read(source: &mut Source<'_>) -> Result<Self, ColumnsError> {
        let byte = source.byte()?;
        let (modulus, remainder) = (byte >> 4, byte & 15);
        let is_good = matches!(modulus, 1 | 4 | 8) && remainder < modulus;
        is_good.then_some(Self { modulus, remainder }).ok_or(ColumnsError::Malformed)
    }
}

/// The parts of one event, found again and again in the same memory.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) parts: Vec<Part>,
    pub(super) fields: Vec<Field>,
    root: usize,
}

impl Parts {
    /// Finds the parts of the event that is `bytes`. `None` where a template cannot say it all.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<()> {
        self.parts.clear();
        self.fields.clear();
        self.root = u32_at(bytes, 0)?;
        self.find_table(bytes, self.root, &EVENT, |slot| slot)?;
        self.parts.sort_unstable_by_key(|part| part.at.start);
        self.parts.dedup_by(|later, part| {
            part.at == later.at && part.what == What::Vtable && later.what == What::Vtable
        });
        self.check_places(bytes)
    }

    fn find_table(
        &mut self,
        bytes: &[u8],
        at: usize,
        slots: &'static [Slot],
        path: impl Fn(usize) -> Path,
    ) -> Option<()> {
        let back = i32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        let vtable_at = at.checked_add_signed(-isize::try_from(back).ok()?)?;
        let vtable_bytes = usize::from(u16_at(bytes, vtable_at)?);
        let table_bytes = usize::from(u16_at(bytes, vtable_at + 2)?);
        let vtable = bytes.get(vtable_at..vtable_at + vtable_bytes)?;
        if vtable_bytes % 2 != 0 || !(4..=TABLE_BYTES_MAX).contains(&table_bytes) {
            return None;
        }
        // Fields of inner tables come between; they are moved behind those of this one.
        let mut own = Vec::new();
        let mut modulus = 4;
        for (slot, entry) in vtable.get(4..)?.chunks_exact(2).enumerate() {
            let field_at = usize::from(u16::from_le_bytes([entry[0], entry[1]]));
            if field_at == 0 {
                continue;
            }
            let kind = slots.get(slot)?;
            let holds = self.find_field(bytes, at, field_at, kind, path(slot), slots, vtable)?;
            if matches!(holds, Holds::Number { bytes: 8, .. }) {
                modulus = 8;
            }
            own.push(Field { at: field_at, holds });
        }
        check_rest(bytes.get(at..at + table_bytes)?, &own)?;
        let first = self.fields.len();
        self.fields.append(&mut own);
        let vtable_end = vtable_at + vtable_bytes;
        let is_beside = vtable_end == at;
        let alignment = Alignment::of(vtable_at, if is_beside { modulus } else { 4 });
        self.parts.push(Part { at: vtable_at..vtable_end, what: What::Vtable, alignment });
        let alignment = if is_beside { Alignment::of(0, 1) } else { Alignment::of(at, modulus) };
        let what = What::Table(vtable_at, first..self.fields.len());
        self.parts.push(Part { at: at..at + table_bytes, what, alignment });
        Some(())
    }

    #[expect(clippy::too_many_arguments, reason = "a field is seen in its table and its schema")]
    fn find_field(
        &mut self,
        bytes: &[u8],
        table_at: usize,
        field_at: usize,
        slot: &'static Slot,
        path: Path,
        slots: &'static [Slot],
        vtable: &[u8],
    ) -> Option<Holds> {
        let at = table_at + field_at;
        let is_json = match slot {
            Slot::Number(bytes) => {
                return Some(Holds::Number { path, bytes: *bytes, is_time: false });
            }
            Slot::Time => return Some(Holds::Number { path, bytes: 8, is_time: true }),
            Slot::Text => IsJson::No,
            Slot::Visitor => IsJson::NoVisitor,
            Slot::Json => IsJson::Yes,
            Slot::Table(inner) => {
                let to = followed(bytes, at)?;
                self.find_table(bytes, to, inner, |slot| inner_path(path, slot))?;
                return Some(Holds::Part(to));
            }
            Slot::Tables(inner) => return self.find_tables(bytes, at, inner, path),
            Slot::Spans(of) => {
                debug_assert!(slots.len() > *of, "the text is a field of the same table");
                let text = usize::from(u16_at(vtable, 4 + of * 2).filter(|at| *at > 0)?);
                return self.find_spans(bytes, at, followed(bytes, table_at + text)?);
            }
        };
        let to = followed(bytes, at)?;
        let end = (to + 4).checked_add(u32_at(bytes, to)?)?;
        if *bytes.get(end)? != 0 {
            return None;
        }
        let what = What::Text(path, is_json);
        self.parts.push(Part { at: to..end + 1, what, alignment: Alignment::FOUR });
        Some(Holds::Part(to))
    }

    fn find_tables(
        &mut self,
        bytes: &[u8],
        at: usize,
        inner: &'static [Slot],
        path: Path,
    ) -> Option<Holds> {
        let to = followed(bytes, at)?;
        let count = u32_at(bytes, to).filter(|count| *count < PARTS_MAX)?;
        let mut own = Vec::new();
        for index in 0..count {
            let at = 4 + index * 4;
            let table = followed(bytes, to + at)?;
            let first = index.min(TABLES_APART - 1) * inner.len();
            self.find_table(bytes, table, inner, |slot| inner_path(path, first + slot))?;
            own.push(Field { at, holds: Holds::Part(table) });
        }
        let first = self.fields.len();
        self.fields.append(&mut own);
        let what = What::Tables(first..self.fields.len());
        self.parts.push(Part { at: to..to + 4 + count * 4, what, alignment: Alignment::FOUR });
        Some(Holds::Part(to))
    }

    /// Spans that say what the text at `text_at` says.
    fn find_spans(&mut self, bytes: &[u8], at: usize, text_at: usize) -> Option<Holds> {
        let to = followed(bytes, at).filter(|to| *to > text_at)?;
        let at = to..to + spans_bytes(bytes, to, text_at)?;
        self.parts.push(Part { at, what: What::Spans(text_at), alignment: Alignment::FOUR });
        Some(Holds::Part(to))
    }

    /// Whether the parts lie where a template puts them, zeros between.
    fn check_places(&self, bytes: &[u8]) -> Option<()> {
        if self.parts.len() > PARTS_MAX || self.root < HEAD_BYTES {
            return None;
        }
        let mut end = HEAD_BYTES;
        for part in &self.parts {
            let fits = part.at.start == part.alignment.next(end);
            if !fits || !is_zero(bytes.get(end..part.at.start)?) {
                return None;
            }
            end = part.at.end;
        }
        let ends = end.next_multiple_of(4) == bytes.len() && is_zero(bytes.get(end..)?);
        ends.then_some(())
    }

    /// Writes the template. The columns of paths are asked for in the order in which they are read.
    pub(super) fn put_template(
        &self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        columns: &mut impl ColumnsOfPaths,
    ) -> Option<()> {
        put_size(out, self.part_at(self.root)?);
        out.extend_from_slice(bytes.get(4..HEAD_BYTES)?);
        put_size(out, self.parts.len());
        for part in &self.parts {
            match &part.what {
                What::Vtable => {
                    out.extend_from_slice(&[0, part.alignment.byte()]);
                    put_size(out, part.at.len());
                    out.extend_from_slice(bytes.get(part.at.clone())?);
                }
                What::Table(vtable, fields) => {
                    out.extend_from_slice(&[1, part.alignment.byte()]);
                    put_size(out, part.at.len());
                    put_size(out, self.part_at(*vtable)?);
                    put_size(out, fields.len());
                    for field in self.fields.get(fields.clone())? {
                        self.put_field(field, out, columns)?;
                    }
                }
                What::Text(path, is_json) => {
                    out.push(2);
                    put_size(out, columns.text(*path, *is_json));
                }
                What::Tables(elements) => {
                    out.push(3);
                    put_size(out, elements.len());
                    for element in self.fields.get(elements.clone())? {
                        let Holds::Part(at) = element.holds else { return None };
                        put_size(out, self.part_at(at)?);
                    }
                }
                What::Spans(text) => {
                    out.push(4);
                    put_size(out, self.part_at(*text)?);
                }
            }
        }
        Some(())
    }

    fn put_field(
        &self,
        field: &Field,
        out: &mut Vec<u8>,
        columns: &mut impl ColumnsOfPaths,
    ) -> Option<()> {
        put_size(out, field.at);
        match field.holds {
            Holds::Number { path, bytes, is_time } => {
                out.push(bytes);
                put_size(out, columns.number(path, is_time));
            }
            Holds::Part(at) => {
                out.push(0);
                put_size(out, self.part_at(at)?);
            }
        }
        Some(())
    }

    /// The part that begins there, by its number.
    fn part_at(&self, at: usize) -> Option<usize> {
        self.parts.binary_search_by_key(&at, |part| part.at.start).ok()
    }
}

/// Which columns the paths of an event have.
pub(super) trait ColumnsOfPaths {
    fn text(&mut self, path: Path, is_json: IsJson) -> usize;
    fn number(&mut self, path: Path, is_time: bool) -> usize;
}

/// Nothing but the fields, and the way to the vtable, may be other than zero.
fn check_rest(table: &[u8], fields: &[Field]) -> Option<()> {
    let mut rest = [0; TABLE_BYTES_MAX];
    let rest = rest.get_mut(..table.len())?;
    rest.copy_from_slice(table);
    rest.get_mut(..4)?.fill(0);
    for field in fields {
        rest.get_mut(field.at..field.at + field.holds.bytes())?.fill(0);
    }
    is_zero(rest).then_some(())
}

impl Holds {
    fn bytes(self) -> usize {
        match self {
            Self::Number { bytes, .. } => usize::from(bytes),
            Self::Part(_) => 4,
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let number = bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
    usize::try_from(number).ok()
}

fn followed(bytes: &[u8], at: usize) -> Option<usize> {
    at.checked_add(u32_at(bytes, at)?)
}

/// The size of the index at `at`, if it says what the text at `text_at` says.
fn spans_bytes(bytes: &[u8], at: usize, text_at: usize) -> Option<usize> {
    let text_end = (text_at + 4).checked_add(u32_at(bytes, text_at)?)?;
    let text = str::from_utf8(bytes.get(text_at + 4..text_end)?).ok()?;
    let mut rest = bytes.get(at + 4..)?;
    let mut count = 0;
    for span in spans_of(text) {
        let (found, after) = rest.split_at_checked(SPAN_BYTES)?;
        if found != span? {
            return None;
        }
        rest = after;
        count += 1;
    }
    (u32_at(bytes, at)? == count).then_some(4 + count * SPAN_BYTES)
}

/// The index of a JSON text as it lies in an event; `None` in the place where it is no object.
fn spans_of(text: &str) -> impl Iterator<Item = Option<[u8; SPAN_BYTES]>> {
    Fields::of(text).map(|span| span.ok().map(|span: PropertySpan| span.to_raw().0))
}

/// A template, read.
#[derive(Debug, Default)]
pub(super) struct Template {
    pub(super) identifier: [u8; 4],
    pub(super) root: usize,
    pub(super) parts: Vec<PartIn>,
}

#[derive(Debug)]
pub(super) struct PartIn {
    alignment: Alignment,
    /// The part and the place in it that lead here.
    from: Option<(usize, usize)>,
    pub(super) what: WhatIn,
}

#[derive(Debug)]
pub(super) enum WhatIn {
    Vtable(Vec<u8>),
    Table {
        bytes: usize,
        vtable: usize,
        numbers: Vec<NumberIn>,
        /// Where no field lies.
        gaps: Vec<Range<usize>>,
    },
    Text(usize),
    Tables(usize),
    Spans(usize),
}

/// A number of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct NumberIn {
    pub(super) at: usize,
    pub(super) bytes: usize,
    pub(super) column: usize,
}

impl Template {
    /// The other way of [`Parts::put_template`]. `mention` is told of each column, in order.
    pub(super) fn read(
        source: &mut Source<'_>,
        mut mention: impl FnMut(Mention) -> Result<(), ColumnsError>,
    ) -> Result<Self, ColumnsError> {
        let malformed = || ColumnsError::Malformed;
        let root = source.size()?;
        let identifier = *source.take(4)?.first_chunk().ok_or_else(malformed)?;
        let count = source.size()?;
        if count > PARTS_MAX || root >= count {
            return Err(malformed());
        }
        let (mut parts, mut ways) = (Vec::new(), Vec::new());
        for part in 0..count {
            parts.push(PartIn::read(source, part, &mut ways, &mut mention)?);
        }
        for (part, at, to) in ways {
            // A part is reached once, from before.
            let to = parts.get_mut(to).filter(|to| to.from.is_none()).ok_or_else(malformed)?;
            to.from = Some((part, at));
        }
        let leads_on = parts.iter().enumerate().all(|(part, in_it)| {
            in_it.from.is_none_or(|(from, _)| from < part) && in_it.is_good(part, &parts)
        });
        let is_table = matches!(parts.get(root), Some(PartIn { what: WhatIn::Table { .. }, .. }));
        if leads_on && is_table { Ok(Self { identifier, root, parts }) } else { Err(malformed()) }
    }
}

impl Template {
    /// Whether the event that is `bytes` lies as the template says; `starts` is where its parts begin
    /// then. Quicker than to find the parts, and right as far as it says yes.
    pub(super) fn fits(&self, bytes: &[u8], starts: &mut Vec<usize>) -> bool {
        self.place(bytes, starts).is_some()
    }

    fn place(&self, bytes: &[u8], starts: &mut Vec<usize>) -> Option<()> {
        starts.clear();
        let mut end = HEAD_BYTES;
        for part in &self.parts {
            let at = part.begins(end);
            if at != end && !is_zero(bytes.get(end..at)?) {
                return None;
            }
            starts.push(at);
            if let Some((from, field_at)) = part.from {
                let place = starts.get(from)? + field_at;
                if followed(bytes, place)? != at {
                    return None;
                }
            }
            end = at + part.what.bytes_at(bytes, at, starts)?;
        }
        let ends = end.next_multiple_of(4) == bytes.len() && is_zero(bytes.get(end..)?);
        let leads_to_root = u32_at(bytes, 0)? == *starts.get(self.root)?;
        let is_named = bytes.get(4..HEAD_BYTES)? == self.identifier;
        let know_vtables = self.tables().all(|(table, vtable)| {
            let back = starts.get(table).zip(starts.get(vtable));
            back.is_some_and(|(table, vtable)| {
                u32_at(bytes, *table) == Some(table.wrapping_sub(*vtable) & u32::MAX as usize)
            })
        });
        (ends && leads_to_root && is_named && know_vtables).then_some(())
    }

    /// The tables and their vtables, by their numbers.
    pub(super) fn tables(&self) -> impl Iterator<Item = (usize, usize)> {
        self.parts.iter().enumerate().filter_map(|(part, in_it)| match in_it.what {
            WhatIn::Table { vtable, .. } => Some((part, vtable)),
            _ => None,
        })
    }
}

/// A column that a template names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mention {
    Text(usize),
    Number(usize),
}

impl WhatIn {
    /// How many bytes the part has that begins there in an event. What leads on in it is not looked at.
    fn bytes_at(&self, bytes: &[u8], at: usize, starts: &[usize]) -> Option<usize> {
        match self {
            Self::Vtable(vtable) => (bytes.get(at..)?.starts_with(vtable)).then_some(vtable.len()),
            Self::Table { bytes: table_bytes, gaps, .. } => {
                let table = bytes.get(at..at + table_bytes)?;
                let are_zero = gaps.iter().all(|gap| table.get(gap.clone()).is_some_and(is_zero));
                are_zero.then_some(*table_bytes)
            }
            Self::Text(_) => {
                let text_bytes = u32_at(bytes, at)?;
                (*bytes.get(at + 4 + text_bytes)? == 0).then_some(text_bytes + 5)
            }
            Self::Tables(count) => (u32_at(bytes, at)? == *count).then_some(4 + count * 4),
            Self::Spans(text) => spans_bytes(bytes, at, *starts.get(*text)?),
        }
    }
}

impl PartIn {
    fn read(
        source: &mut Source<'_>,
        part: usize,
        ways: &mut Vec<(usize, usize, usize)>,
        mention: &mut impl FnMut(Mention) -> Result<(), ColumnsError>,
    ) -> Result<Self, ColumnsError> {
        let kind = source.byte()?;
        let alignment = if kind < 2 { Alignment::read(source)? } else { Alignment::FOUR };
        let what = match kind {
            0 => {
                let bytes = source.size()?;
                WhatIn::Vtable(source.take(bytes)?.to_vec())
            }
            1 => Self::read_table(source, part, ways, mention)?,
            2 => {
                let column = source.size()?;
                mention(Mention::Text(column))?;
                WhatIn::Text(column)
            }
            3 => {
                let count = source.size()?;
                for index in 0..count {
                    ways.push((part, 4 + index * 4, source.size()?));
                }
                WhatIn::Tables(count)
            }
            4 => WhatIn::Spans(source.size()?),
            _ => return Err(ColumnsError::Malformed),
        };
        Ok(Self { alignment, from: None, what })
    }

    fn read_table(
        source: &mut Source<'_>,
        part: usize,
        ways: &mut Vec<(usize, usize, usize)>,
        mention: &mut impl FnMut(Mention) -> Result<(), ColumnsError>,
    ) -> Result<WhatIn, ColumnsError> {
        let malformed = || ColumnsError::Malformed;
        let (bytes, vtable) = (source.size()?, source.size()?);
        let mut numbers = Vec::new();
        let mut fields: Vec<_> = std::iter::once(0..4).collect();
        for _ in 0..source.size()? {
            let (at, size) = (source.size()?, usize::from(source.byte()?));
            let end = at.checked_add(if size == 0 { 4 } else { size }).ok_or_else(malformed)?;
            if end > bytes || bytes > TABLE_BYTES_MAX || size > 8 {
                return Err(malformed());
            }
            fields.push(at..end);
            match size {
                0 => ways.push((part, at, source.size()?)),
                _ => {
                    let column = source.size()?;
                    mention(Mention::Number(column))?;
                    numbers.push(NumberIn { at, bytes: size, column });
                }
            }
        }
        Ok(WhatIn::Table { bytes, vtable, numbers, gaps: gaps(fields, bytes) })
    }

    /// Whether other parts are what this one takes them for.
    fn is_good(&self, part: usize, parts: &[Self]) -> bool {
        match &self.what {
            WhatIn::Table { bytes, vtable, .. } => {
                let is_vtable =
                    matches!(parts.get(*vtable), Some(Self { what: WhatIn::Vtable(_), .. }));
                is_vtable && (4..=TABLE_BYTES_MAX).contains(bytes)
            }
            WhatIn::Spans(text) => {
                let is_text = matches!(parts.get(*text), Some(Self { what: WhatIn::Text(_), .. }));
                is_text && *text < part
            }
            WhatIn::Vtable(_) | WhatIn::Text(_) | WhatIn::Tables(_) => true,
        }
    }

    /// Where it begins in the event, behind a part that ends at `end`.
    pub(super) fn begins(&self, end: usize) -> usize {
        self.alignment.next(end)
    }

    pub(super) const fn from(&self) -> Option<(usize, usize)> {
        self.from
    }
}

/// What of a table of so many bytes is no field's.
fn gaps(mut fields: Vec<Range<usize>>, bytes: usize) -> Vec<Range<usize>> {
    fields.sort_unstable_by_key(|field| field.start);
    fields.push(bytes..bytes);
    let mut end = 0;
    let gap = |field: Range<usize>| {
        let gap = end..field.start;
        end = end.max(field.end);
        (!gap.is_empty()).then_some(gap)
    };
    fields.into_iter().filter_map(gap).collect()
}

/// Writes the index of `text`. False where that is no JSON object.
pub(super) fn put_spans(text: &str, out: &mut Vec<u8>) -> bool {
    let count_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut count = 0_u32;
    for span in spans_of(text) {
        let Some(span) = span else { return false };
        out.extend_from_slice(&span);
        count += 1;
    }
    if let Some(place) = out.get_mut(count_at..count_at + 4) {
        place.copy_from_slice(&count.to_le_bytes());
    }
    true
}
