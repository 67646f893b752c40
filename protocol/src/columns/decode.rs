//! From columns to batches.

use std::mem;
use std::ops::Range;

use super::cut::{Hole, SLOT_BYTES, fill_number, fill_raw};
use super::heads::Heads;
use super::layout::{Mention, Template, WhatIn, put_spans};
use super::numbers::{StreamId, StreamsIn};
use super::source::Source;
use super::visitors::Latest;
use super::{
    Areas, COLUMNS_MAX, ColumnsError, RECORD_NEW_TEMPLATE, RECORD_PLAIN, RECORD_REMOVED,
    RECORD_TEMPLATE, SHAPES_APART, TEXT_BEFORE, TEXT_NEW, TEXT_OF_COLUMN, TEXT_OF_VISITOR,
    VISITORS_MAX,
};
use crate::batch::{BATCH_BYTES_MAX, BatchHeader, EventTimes, Produced, Rewritten, Stamp};
use crate::{Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimeMicros, TopicId};

/// The bytes that were turned into `areas`: so many.
///
/// # Errors
/// [`ColumnsError`], where they are not what an [`Encoder`](super::Encoder) gave.
pub fn decode(areas: Areas<'_>, space_bytes: usize) -> Result<Vec<u8>, ColumnsError> {
    let mut space = vec![0; space_bytes.saturating_add(ROOM_BEHIND)];
    Decoder::default().decode(areas, &mut space)?;
    space.truncate(space_bytes);
    Ok(space)
}

/// So much room is wanted behind what is decoded, for whatever is left there.
pub const ROOM_BEHIND: usize = SLOT_BYTES;

/// Turns columns into batches, again and again in the same memory.
#[derive(Debug, Default)]
pub struct Decoder {
    memory: Memory,
}

impl Decoder {
    /// Writes the bytes that were turned into `areas` into `space`, all of it but the
    /// [`ROOM_BEHIND`]. What was there does not matter.
    ///
    /// # Errors
    /// As [`decode`].
    ///
    /// # Panics
    /// When `space` has less than that room.
    pub fn decode(&mut self, areas: Areas<'_>, space: &mut [u8]) -> Result<(), ColumnsError> {
        let mut numbers = Source::new(areas.numbers);
        let mut raw = Source::new(areas.raw);
        let visitor_column = numbers.size()?.checked_sub(1);
        let mut memory = mem::take(&mut self.memory);
        memory.clear();
        memory.streams.read(&mut numbers, &mut raw)?;
        let heads = Heads::open(|_| memory.streams.open())?;
        let out = Out::new(space);
        let mut decoding = Decoding {
            out,
            memory,
            heads,
            texts: Source::new(areas.texts),
            raw,
            visitor_column,
            visitor: None,
            record: 0,
        };
        decoding.batches()?;
        self.memory = decoding.memory;
        Ok(())
    }
}

/// What is written, up to a bound.
struct Out<'a> {
    /// What was written, and behind it bytes without a meaning: a slot at least.
    bytes: &'a mut [u8],
    len: usize,
    bytes_max: usize,
    /// Steps that need not write anything; honest columns take fewer of them than bytes.
    steps: usize,
}

/// What is short is copied in pieces of one size, which costs less than to ask how long it is.
const PIECE_BYTES: usize = 32;

impl<'a> Out<'a> {
    fn new(bytes: &'a mut [u8]) -> Self {
        let bytes_max = bytes.len().checked_sub(SLOT_BYTES).expect("there is room behind");
        Self { bytes, len: 0, bytes_max, steps: 0 }
    }

    fn len(&self) -> usize {
        self.len
    }

    fn is_full(&self) -> bool {
        self.len >= self.bytes_max
    }

    /// What was written from there on.
    fn written(&mut self, from: usize) -> Result<&mut [u8], ColumnsError> {
        self.bytes.get_mut(from..self.len).ok_or(ColumnsError::Malformed)
    }

    /// Makes sure of room for so many bytes more.
    #[inline]
    fn room(&self, bytes: usize) -> Result<(), ColumnsError> {
        if bytes <= self.bytes_max - self.len { Ok(()) } else { Err(ColumnsError::Long) }
    }

    #[inline]
    fn step(&mut self) -> Result<(), ColumnsError> {
        self.steps += 1;
        if self.steps <= self.bytes_max { Ok(()) } else { Err(ColumnsError::Long) }
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Result<(), ColumnsError> {
        self.room(bytes.len())?;
        self.set(self.len, bytes)?;
        self.len += bytes.len();
        Ok(())
    }

    /// Puts a stretch of `from`.
    #[inline]
    fn put_from(&mut self, from: &[u8], stretch: Place) -> Result<(), ColumnsError> {
        let (at, bytes) = (stretch.at as usize, stretch.bytes as usize);
        let piece = from.get(at..).and_then(|from| from.first_chunk::<PIECE_BYTES>());
        match piece {
            Some(piece) if bytes <= PIECE_BYTES => {
                self.room(bytes)?;
                self.set(self.len, piece)?;
                self.len += bytes;
                Ok(())
            }
            _ => self.put(from.get(at..at + bytes).ok_or(ColumnsError::Malformed)?),
        }
    }

    /// Puts what `fill` writes into a slot; it says how many bytes that are.
    #[inline]
    fn put_slot(
        &mut self,
        fill: impl FnOnce(&mut [u8; SLOT_BYTES]) -> usize,
    ) -> Result<(), ColumnsError> {
        let slot = self.bytes.get_mut(self.len..).and_then(|rest| rest.first_chunk_mut());
        let bytes = fill(slot.ok_or(ColumnsError::Malformed)?);
        self.room(bytes)?;
        self.len += bytes;
        Ok(())
    }

    /// Zeros up to a place.
    #[inline]
    fn fill(&mut self, to: usize) -> Result<(), ColumnsError> {
        let missing = to.saturating_sub(self.len);
        self.room(missing)?;
        let zeros = if missing <= 8 { 8 } else { missing };
        let place = self.bytes.get_mut(self.len..self.len + zeros);
        let place = place.ok_or(ColumnsError::Malformed)?;
        match place.first_chunk_mut::<8>() {
            Some(eight) if missing <= 8 => *eight = [0; 8],
            _ => place.fill(0),
        }
        self.len += missing;
        Ok(())
    }

    #[inline]
    fn again(&mut self, place: Place) -> Result<Place, ColumnsError> {
        let (at, bytes) = (place.at as usize, place.bytes as usize);
        let start = self.len;
        self.room(bytes)?;
        if at + bytes > start {
            return Err(ColumnsError::Malformed);
        }
        if bytes <= PIECE_BYTES {
            let piece = self.bytes.get(at..).and_then(|from| from.first_chunk::<PIECE_BYTES>());
            let piece = *piece.ok_or(ColumnsError::Malformed)?;
            self.set(start, &piece)?;
        } else {
            self.bytes.copy_within(at..at + bytes, start);
        }
        self.len += bytes;
        self.since(start)
    }

    #[inline]
    fn since(&self, start: usize) -> Result<Place, ColumnsError> {
        Place::between(start, self.len)
    }

    #[inline]
    fn set(&mut self, at: usize, bytes: &[u8]) -> Result<(), ColumnsError> {
        let place = self.bytes.get_mut(at..at + bytes.len());
        place.ok_or(ColumnsError::Malformed)?.copy_from_slice(bytes);
        Ok(())
    }

    /// Sets the lowest bytes of a number, eight at most.
    #[inline]
    fn set_number(&mut self, at: usize, number: u64, bytes: usize) -> Result<(), ColumnsError> {
        let number = number.to_le_bytes();
        match (bytes, number) {
            (8, all) => self.set(at, &all),
            (4, [a, b, c, d, ..]) => self.set(at, &[a, b, c, d]),
            (1, [a, ..]) => self.set(at, &[a]),
            _ => self.set(at, number.get(..bytes).unwrap_or_default()),
        }
    }

    fn set_u32(&mut self, at: usize, number: usize) -> Result<(), ColumnsError> {
        let number = u32::try_from(number).map_err(|_| ColumnsError::Long)?;
        self.set(at, &number.to_le_bytes())
    }
}

/// A text that was written. None begins with the first byte.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    at: u32,
    bytes: u32,
}

impl Place {
    #[inline]
    fn between(start: usize, end: usize) -> Result<Self, ColumnsError> {
        let u32_of = |size: usize| u32::try_from(size).map_err(|_| ColumnsError::Long);
        Ok(Self { at: u32_of(start)?, bytes: u32_of(end - start)? })
    }
}

/// A column with one text has room for so many.
const VALUES_AT_ONCE: usize = 32;

#[derive(Debug, Default)]
struct Column {
    codes: StreamId,
    shape_codes: StreamId,
    values: Vec<Place>,
    /// Each a stretch of the pieces.
    shapes: Vec<Range<usize>>,
    rest: Option<StreamId>,
    /// The last text, and its record.
    latest: (u64, Place),
}

impl Column {
    fn emptied(mut self) -> Self {
        self.values.clear();
        self.shapes.clear();
        Self { values: self.values, shapes: self.shapes, ..Self::default() }
    }
}

/// A piece of a shape.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Among the literals.
    literal: Place,
    filling: Filling,
}

/// What fills the hole of a piece.
#[derive(Clone, Copy, Debug)]
enum Filling {
    Nothing,
    Text(usize),
    Raw(Hole, usize),
    Number(Hole, StreamId),
}

impl Filling {
    /// Which stream gives the numbers is said later.
    fn of(hole: Hole) -> Self {
        match (hole, hole.raw_bytes()) {
            (Hole::End, _) => Self::Nothing,
            (Hole::Leaf(column), _) => Self::Text(column as usize),
            (_, Some(bytes)) => Self::Raw(hole, bytes),
            (_, None) => Self::Number(hole, 0),
        }
    }
}

/// What is known of the columns that are read, and kept for its memory.
#[derive(Debug, Default)]
struct Memory {
    streams: StreamsIn,
    columns: Vec<Column>,
    /// Columns of earlier batches.
    spare: Vec<Column>,
    pieces: Vec<Piece>,
    /// Those of the pieces, one behind the other.
    literals: Vec<u8>,
    number_streams: Vec<StreamId>,
    templates: Vec<Template>,
    of_visitors: Latest<Place>,
    /// Where the parts of the event at hand begin.
    starts: Vec<usize>,
    /// Its index, while it is made.
    spans: Vec<u8>,
}

impl Memory {
    fn clear(&mut self) {
        // The first comes to be the first again.
        self.spare.extend(self.columns.drain(..).rev().map(Column::emptied));
        self.pieces.clear();
        self.literals.clear();
        self.number_streams.clear();
        self.templates.clear();
        self.of_visitors.clear();
    }
}

struct Decoding<'a> {
    out: Out<'a>,
    memory: Memory,
    heads: Heads,
    texts: Source<'a>,
    raw: Source<'a>,
    visitor_column: Option<usize>,
    visitor: Option<usize>,
    record: u64,
}

/// Whether a text may have leaves: those of a leaf would go on for ever.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    May,
    No,
}

impl Decoding<'_> {
    fn batches(&mut self) -> Result<(), ColumnsError> {
        let mut end_offset = 0;
        while !self.out.is_full() {
            match self.memory.streams.next(self.heads.form)?.checked_sub(1) {
                None => {
                    let bytes = self.memory.streams.next_size(self.heads.plain_bytes)?;
                    let batch = self.texts.take(bytes)?;
                    self.out.put(batch)?;
                    end_offset = BatchHeader::decode(batch).map_or(0, |header| {
                        header.stamp().base_offset.0.wrapping_add(u64::from(header.count()))
                    });
                }
                Some(flags) => {
                    let flags = u16::try_from(flags);
                    let flags = flags.map_err(|_| ColumnsError::Malformed)?;
                    end_offset = self.batch(flags, end_offset)?;
                }
            }
            self.out.step()?;
            self.out.fill(self.out.len().next_multiple_of(8))?;
        }
        Ok(())
    }

    /// Writes a batch, and returns the offset after it.
    fn batch(&mut self, flags: u16, end_offset: u64) -> Result<u64, ColumnsError> {
        let mut head = self.head(flags, end_offset)?;
        let start = self.out.len();
        let body_at = match Rewritten::has_blocks(flags) {
            true => self.memory.streams.next_size(self.heads.body_at)?,
            false => head.body_at(0),
        };
        self.out.room(body_at)?;
        self.out.fill(start + body_at)?;
        self.records(&head)?;
        if Rewritten::has_event_times(flags) {
            let time = |number: u64| TimeMicros(number.cast_signed());
            let min = time(self.memory.streams.next(self.heads.least)?);
            let max = time(self.memory.streams.next(self.heads.greatest)?);
            head.event_times = Some(EventTimes { min, max });
        }
        let body_bytes = self.out.len() - start - body_at;
        if body_at + body_bytes > BATCH_BYTES_MAX || body_at != head.body_at(body_bytes) {
            return Err(ColumnsError::Malformed);
        }
        head.finish(self.out.written(start)?, body_bytes);
        Ok(head.stamp.base_offset.0.wrapping_add(head.count as u64))
    }

    fn head(&mut self, flags: u16, end_offset: u64) -> Result<Rewritten, ColumnsError> {
        let (streams, heads) = (&mut self.memory.streams, &self.heads);
        let u32_of = |number: u64| u32::try_from(number).map_err(|_| ColumnsError::Malformed);
        let topic = TopicId(u32_of(streams.next(heads.topic)?)?);
        let partition = PartitionId::new(topic, u32_of(streams.next(heads.partition)?)?);
        let base_offset = Offset(end_offset.wrapping_add(streams.next(heads.skipped)?));
        let count = streams.next_size(heads.count)?;
        let append_time = TimeMicros(streams.next(heads.append_time)?.cast_signed());
        let produced = match Rewritten::is_produced(flags) {
            false => None,
            true => {
                let id = ProducerId(streams.next(heads.producer)?);
                let epoch = ProducerEpoch(u32_of(streams.next(heads.epoch)?)?);
                let sequence = Sequence(streams.next(heads.sequence)?);
                let next = match Rewritten::states_next(flags) {
                    true => streams.next(heads.next)?,
                    false => sequence.0.wrapping_add(count as u64),
                };
                Some(Produced { id, epoch, sequence, next: Sequence(next) })
            }
        };
        let goes_on = produced.is_none_or(|produced| produced.next > produced.sequence);
        if count == 0 || count > self.out.bytes_max || !goes_on {
            return Err(ColumnsError::Malformed);
        }
        let stamp = Stamp { partition, base_offset, append_time };
        Ok(Rewritten { flags, count, event_times: None, produced, stamp })
    }

    fn records(&mut self, head: &Rewritten) -> Result<(), ColumnsError> {
        let table_at = self.out.len();
        let records_at = table_at + head.records_at();
        self.out.fill(records_at)?;
        for index in 0..head.count {
            self.out.step()?;
            let from_records = self.out.len() - records_at;
            self.out.fill(records_at + from_records.next_multiple_of(8))?;
            self.record += 1;
            self.visitor = None;
            let code = self.memory.streams.next(self.heads.template)?;
            match code {
                RECORD_NEW_TEMPLATE => {
                    let template = self.new_template()?;
                    self.event(&template)?;
                    self.memory.templates.push(template);
                }
                RECORD_PLAIN => {
                    let bytes = self.memory.streams.next_size(self.heads.record_bytes)?;
                    let record = self.texts.take(bytes)?;
                    self.out.put(record)?;
                }
                RECORD_REMOVED => {}
                _ => {
                    let number = usize::try_from(code - RECORD_TEMPLATE).unwrap_or(usize::MAX);
                    let known = self.memory.templates.get_mut(number);
                    let template = mem::take(known.ok_or(ColumnsError::Malformed)?);
                    self.event(&template)?;
                    if let Some(known) = self.memory.templates.get_mut(number) {
                        *known = template;
                    }
                }
            }
            if head.count > 1 {
                let end = u32::try_from(self.out.len() - records_at);
                let end = end.map_err(|_| ColumnsError::Long)?;
                let entry = Rewritten::table_entry(end, code == RECORD_REMOVED);
                self.out.set(table_at + index * 4, &entry.to_le_bytes())?;
            }
        }
        Ok(())
    }

    fn new_template(&mut self) -> Result<Template, ColumnsError> {
        let Memory { streams, columns, spare, number_streams, .. } = &mut self.memory;
        Template::read(&mut self.texts, |column| match column {
            Mention::Text(column) => open_column(column, columns, spare, streams),
            Mention::Number(column) if column == number_streams.len() => {
                number_streams.push(streams.open()?);
                Ok(())
            }
            Mention::Number(column) if column < number_streams.len() => Ok(()),
            Mention::Number(_) => Err(ColumnsError::Malformed),
        })
    }

    fn event(&mut self, template: &Template) -> Result<(), ColumnsError> {
        let start = self.out.len();
        self.out.put(&[0; 4])?;
        self.out.put(&template.identifier)?;
        self.memory.starts.clear();
        for (number, part) in template.parts.iter().enumerate() {
            let at = part.begins(self.out.len() - start);
            self.out.fill(start + at)?;
            self.memory.starts.push(at);
            if number == template.root {
                self.out.set_u32(start, at)?;
            }
            if let Some((from, field_at)) = part.from() {
                let place = self.memory.starts.get(from).map_or(0, |from| from + field_at);
                self.out.set_u32(start + place, at - place)?;
            }
            self.part(&part.what, start, at)?;
        }
        for (table, vtable) in template.tables() {
            let place = |part: usize| self.memory.starts.get(part).copied().unwrap_or_default();
            let (table, vtable) = (place(table), place(vtable));
            let back = (table as u64).wrapping_sub(vtable as u64).to_le_bytes();
            self.out.set(start + table, back.get(..4).unwrap_or_default())?;
        }
        self.out.fill(start + (self.out.len() - start).next_multiple_of(4))
    }

    /// Writes a part, which begins at `at` in the event that begins at `start`.
    fn part(&mut self, what: &WhatIn, start: usize, at: usize) -> Result<(), ColumnsError> {
        let at = start + at;
        match what {
            WhatIn::Vtable(bytes) => self.out.put(bytes),
            WhatIn::Table { bytes, numbers, .. } => {
                self.out.fill(at + bytes)?;
                for number in numbers {
                    let stream = self.memory.number_streams.get(number.column).copied();
                    let stream = stream.ok_or(ColumnsError::Malformed)?;
                    let value = self.memory.streams.next(stream)?;
                    self.out.set_number(at + number.at, value, number.bytes)?;
                }
                Ok(())
            }
            WhatIn::Text(column) => {
                self.out.put(&[0; 4])?;
                let text = self.text(*column, Leaves::May)?;
                self.out.set(at, &text.bytes.to_le_bytes())?;
                self.out.put(&[0])
            }
            WhatIn::Tables(count) => {
                self.out.room(*count)?;
                self.out.fill(at + 4 + count * 4)?;
                self.out.set_u32(at, *count)
            }
            WhatIn::Spans(text) => {
                let text_at = self.memory.starts.get(*text).copied().unwrap_or_default();
                self.spans(start + text_at)
            }
        }
    }

    /// Writes the index of the text whose length lies at `text_at`.
    fn spans(&mut self, text_at: usize) -> Result<(), ColumnsError> {
        let text = self.out.written(text_at)?.split_first_chunk();
        let (length, text) = text.ok_or(ColumnsError::Malformed)?;
        let text = text.get(..u32::from_le_bytes(*length) as usize);
        let text = text.ok_or(ColumnsError::Malformed)?;
        let text = str::from_utf8(text).map_err(|_| ColumnsError::Malformed)?;
        self.memory.spans.clear();
        if !put_spans(text, &mut self.memory.spans) {
            return Err(ColumnsError::Malformed);
        }
        self.out.put(&self.memory.spans)
    }

    /// Writes the next text of a column.
    fn text(&mut self, column: usize, leaves: Leaves) -> Result<Place, ColumnsError> {
        self.out.step()?;
        let of = self.memory.columns.get(column).ok_or(ColumnsError::Malformed)?;
        let code = self.memory.streams.next(of.codes)?;
        let mut value = of.values.len();
        let place = match code {
            TEXT_NEW => Place::default(),
            TEXT_OF_VISITOR => {
                let visitor = self.visitor.ok_or(ColumnsError::Malformed)?;
                self.memory.of_visitors.get(visitor, column).ok_or(ColumnsError::Malformed)?
            }
            TEXT_OF_COLUMN..TEXT_BEFORE => {
                let other =
                    usize::try_from(code - TEXT_OF_COLUMN).map_err(|_| ColumnsError::Malformed)?;
                let (record, latest) =
                    self.memory.columns.get(other).ok_or(ColumnsError::Malformed)?.latest;
                if record != self.record {
                    return Err(ColumnsError::Malformed);
                }
                latest
            }
            TEXT_BEFORE.. => {
                value = usize::try_from(code - TEXT_BEFORE).map_err(|_| ColumnsError::Malformed)?;
                *of.values.get(value).ok_or(ColumnsError::Malformed)?
            }
        };
        if Some(column) == self.visitor_column {
            self.visitor = Some(value).filter(|visitor| *visitor < VISITORS_MAX);
        }
        let place = match code {
            TEXT_NEW => self.new_text(column, leaves)?,
            _ => self.out.again(place)?,
        };
        let of = self.memory.columns.get_mut(column).ok_or(ColumnsError::Malformed)?;
        if code == TEXT_NEW {
            if of.values.is_empty() {
                of.values.reserve(VALUES_AT_ONCE);
            }
            of.values.push(place);
        }
        of.latest = (self.record, place);
        if let Some(visitor) = self.visitor {
            self.memory.of_visitors.set(visitor, column, place);
        }
        Ok(place)
    }

    /// Writes a text by its shape.
    fn new_text(&mut self, column: usize, leaves: Leaves) -> Result<Place, ColumnsError> {
        let shape = self.shape(column)?;
        let start = self.out.len();
        for piece in shape {
            let Piece { literal, filling } =
                *self.memory.pieces.get(piece).ok_or(ColumnsError::Malformed)?;
            self.out.put_from(&self.memory.literals, literal)?;
            match filling {
                Filling::Nothing => {}
                Filling::Text(leaf) if leaves == Leaves::May => {
                    self.text(leaf, Leaves::No)?;
                }
                Filling::Text(_) => return Err(ColumnsError::Malformed),
                Filling::Raw(hole, bytes) => {
                    let raw = self.raw.take(bytes)?;
                    self.out.put_slot(|slot| fill_raw(hole, raw, slot))?;
                }
                Filling::Number(hole, stream) => {
                    let number = self.memory.streams.next(stream)?;
                    self.out.put_slot(|slot| fill_number(hole, number, slot))?;
                }
            }
        }
        self.out.since(start)
    }

    /// The shape of the next new text of a column: a stretch of the pieces.
    fn shape(&mut self, column: usize) -> Result<Range<usize>, ColumnsError> {
        let of = self.memory.columns.get(column).ok_or(ColumnsError::Malformed)?;
        if let Some(known) = self.memory.streams.next(of.shape_codes)?.checked_sub(1) {
            let known = usize::try_from(known).ok().and_then(|known| of.shapes.get(known));
            return known.cloned().ok_or(ColumnsError::Malformed);
        }
        let start = self.memory.pieces.len();
        loop {
            let (literal, hole) = Hole::read(&mut self.texts)?;
            if let Hole::Leaf(leaf) = hole {
                let Memory { streams, columns, spare, .. } = &mut self.memory;
                open_column(leaf as usize, columns, spare, streams)?;
            }
            let Memory { pieces, literals, .. } = &mut self.memory;
            let start = literals.len();
            literals.extend_from_slice(literal);
            let literal = Place::between(start, literals.len())?;
            pieces.push(Piece { literal, filling: Filling::of(hole) });
            if hole == Hole::End {
                break;
            }
        }
        let Memory { streams, columns, pieces, .. } = &mut self.memory;
        let of = columns.get_mut(column).ok_or(ColumnsError::Malformed)?;
        let is_apart = of.shapes.len() < SHAPES_APART;
        for piece in pieces.iter_mut().skip(start) {
            if let Filling::Number(_, stream) = &mut piece.filling {
                *stream = match (is_apart, of.rest) {
                    (false, Some(rest)) => rest,
                    (true, _) => streams.open()?,
                    (false, None) => *of.rest.insert(streams.open()?),
                };
            }
        }
        let shape = start..pieces.len();
        of.shapes.push(shape.clone());
        Ok(shape)
    }
}

/// Opens a text column where it is named for the first time.
fn open_column(
    column: usize,
    columns: &mut Vec<Column>,
    spare: &mut Vec<Column>,
    streams: &mut StreamsIn,
) -> Result<(), ColumnsError> {
    if column < columns.len() {
        return Ok(());
    }
    if column > columns.len() || column >= COLUMNS_MAX {
        return Err(ColumnsError::Malformed);
    }
    let memory = spare.pop().unwrap_or_default();
    let (codes, shape_codes) = (streams.open()?, streams.open()?);
    columns.push(Column { codes, shape_codes, ..memory });
    Ok(())
}
