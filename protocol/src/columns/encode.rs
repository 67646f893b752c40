//! From batches to columns.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;
use std::ops::Range;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::cut::{Cut, Hole, IsTime};
use super::decode::{Decoder, ROOM_BEHIND};
use super::heads::Heads;
use super::json::{Leaf, find_leaves, leaf_bytes};
use super::layout::{ColumnsOfPaths, IsJson, PATHS, Parts, Path, Template, WhatIn};
use super::numbers::{Costs, StreamId, Streams};
use super::source::{Source, put_number};
use super::visitors::Latest;
use super::{
    Areas, COLUMNS_MAX, COLUMNS_NAMED, COPIED_BYTES_MIN, RECORD_NEW_TEMPLATE, RECORD_PLAIN,
    RECORD_REMOVED, RECORD_TEMPLATE, SHAPES_APART, TEXT_BEFORE, TEXT_NEW, TEXT_OF_COLUMN,
    TEXT_OF_VISITOR, VISITORS_MAX,
};
use crate::PayloadKind;
use crate::batch::BatchHeader;

/// Beyond so many columns JSON texts are not taken apart: their keys are no names of fields.
const LEAF_COLUMNS_MAX: usize = COLUMNS_MAX / 2;
/// Texts that came so early in a column are told by their place, before it is asked what the
/// visitor sent: most columns have few texts, and one place for each is the shortest.
const FREQUENT: u64 = TEXT_BEFORE + 8;
/// Batches are not taken apart beyond so many bytes of them: places in them are 32 bits.
const SPACE_BYTES_MAX: usize = u32::MAX as usize;

/// Turns batches into columns, again and again in the same memory.
#[derive(Debug)]
pub struct Encoder {
    costs: Costs,
    streams: Streams,
    content: Content,
    parts: Parts,
    leaves: Vec<Leaf>,
    cut: Cut,
    template: Vec<u8>,
    /// The templates by their numbers, and those numbers, the last used first.
    templates: Vec<Template>,
    usual: Vec<usize>,
    starts: Vec<usize>,
    numbers: Vec<u8>,
    raw: Vec<u8>,
    /// What was written, read again.
    decoder: Decoder,
    decoded: Vec<u8>,
}

/// What was met so far.
#[derive(Debug, Default)]
struct Content {
    columns: Vec<Column>,
    /// Columns of earlier batches, for their memory.
    spare: Vec<Column>,
    /// Texts that are read apart from streams.
    texts: Vec<u8>,
    raw: Vec<u8>,
    /// Where each is in its column, by hashes that hold the column.
    values: HashMap<u64, u32, Hashed>,
    shapes: HashMap<u64, u32, Hashed>,
    leaf_columns: HashMap<u64, usize, Hashed>,
    paths: Paths,
    visitor_column: Option<usize>,
    /// By hash: the texts of the record.
    recent: Vec<Recent>,
    record: u32,
    visitor: Option<usize>,
    of_visitors: Latest<Sent>,
}

/// The columns of the fields of events.
#[derive(Debug, Default)]
struct Paths {
    texts: Vec<Option<usize>>,
    numbers: Vec<Option<usize>>,
    number_streams: Vec<StreamId>,
}

#[derive(Debug, Default)]
struct Column {
    is_json: bool,
    codes: StreamId,
    shape_codes: StreamId,
    values: Vec<Place>,
    shapes: Vec<Shape>,
    latest_shape: usize,
    /// Of a JSON text: the shapes that came last, the last one first.
    usual: Vec<usize>,
    /// Of shapes beyond those that have streams of their own.
    rest: Option<StreamId>,
    /// The last text, and its record.
    latest: (u32, Place),
}

/// What a visitor sent in a column.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    place: Place,
    /// Which value of the column it is, where that is known.
    value: Option<u32>,
}

/// A stretch of the batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    at: u32,
    bytes: u32,
}

#[derive(Debug)]
struct Shape {
    /// In the texts.
    at: Range<usize>,
    /// For the numbers in its holes.
    streams: Vec<StreamId>,
    /// Of a JSON text, of each leaf: what comes before it, in the texts, and its column.
    leaves: Vec<(Range<usize>, usize)>,
    /// What comes behind all holes, in the texts.
    tail: Range<usize>,
}

impl Column {
    fn clear(&mut self) {
        self.values.clear();
        self.shapes.clear();
        self.latest_shape = 0;
        self.usual.clear();
        self.rest = None;
        self.latest = (0, Place::default());
    }
}

impl Shape {
    /// The one that was just written at `at` of the texts, with streams for its numbers.
    fn open(at: Range<usize>, texts: &[u8], of: &mut Column, streams: &mut Streams) -> Self {
        let is_apart = of.shapes.len() < SHAPES_APART;
        let mut shape =
            Self { at: at.clone(), streams: Vec::new(), leaves: Vec::new(), tail: 0..0 };
        let mut pieces = Source::new(&texts[at.clone()]);
        loop {
            let (literal, hole) = Hole::read(&mut pieces).expect("it was written just now");
            let behind = at.end - pieces.len() - hole.bytes();
            let literal = behind - literal.len()..behind;
            match (hole, hole.number()) {
                (Hole::Leaf(column), _) => shape.leaves.push((literal, column as usize)),
                (_, Some(is_time)) if is_apart => shape.streams.push(streams.opened(is_time)),
                (_, Some(_)) if of.rest.is_none() => of.rest = Some(streams.open()),
                (Hole::End, _) => {
                    shape.tail = literal;
                    return shape;
                }
                _ => {}
            }
        }
    }

    /// Whether a JSON text has this shape; then `leaves` are its leaves.
    fn fits(&self, text: &[u8], texts: &[u8], leaves: &mut Vec<Leaf>) -> bool {
        leaves.clear();
        let mut at = 0;
        let before = self.leaves.iter().map(|(before, _)| before);
        for (before, next) in before.clone().zip(before.skip(1).chain([&self.tail])) {
            let before = &texts[before.clone()];
            if !text[at..].starts_with(before) {
                return false;
            }
            at += before.len();
            let is_string = texts[next.clone()].first() == Some(&b'"');
            let Some(bytes) = leaf_bytes(&text[at..], is_string) else { return false };
            leaves.push(Leaf { at: at..at + bytes, path: 0 });
            at += bytes;
        }
        !self.leaves.is_empty() && text[at..] == texts[self.tail.clone()]
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    hash: u64,
    record: u32,
    column: usize,
}

const RECENT: usize = 256;
/// An event is held against so many templates before a new one is made.
const TEMPLATES_TRIED: usize = 32;
/// A JSON text is held against so many shapes before its leaves are looked for.
const SHAPES_TRIED: usize = 4;

impl Place {
    fn of(range: &Range<usize>) -> Self {
        let u32_of = |size: usize| u32::try_from(size).expect("less than 4 GiB are taken apart");
        Self { at: u32_of(range.start), bytes: u32_of(range.len()) }
    }

    fn in_space(self, space: &[u8]) -> &[u8] {
        let at = self.at as usize;
        &space[at..at + self.bytes as usize]
    }
}

/// Hashes are hashed already.
#[derive(Clone, Copy, Debug, Default)]
struct HashItself(u64);
type Hashed = BuildHasherDefault<HashItself>;

impl Hasher for HashItself {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// One that has met nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            costs: Costs::new(),
            streams: Streams::default(),
            content: Content::default(),
            parts: Parts::default(),
            leaves: Vec::new(),
            cut: Cut::default(),
            template: Vec::new(),
            templates: Vec::new(),
            usual: Vec::new(),
            starts: Vec::new(),
            numbers: Vec::new(),
            raw: Vec::new(),
            decoder: Decoder::default(),
            decoded: Vec::new(),
        }
    }

    /// The columns of `space`: batches, each at a multiple of 8, zeros between and behind. `None`
    /// where there are no events in it, or where columns would not give the same bytes again.
    pub fn encode(&mut self, space: &[u8]) -> Option<Areas<'_>> {
        if space.len() > SPACE_BYTES_MAX || !space.len().is_multiple_of(8) {
            return None;
        }
        self.streams.clear();
        self.content.clear();
        self.templates.clear();
        self.usual.clear();
        let Self { streams, .. } = self;
        let heads =
            Heads::open(|is_time| Ok::<_, std::convert::Infallible>(streams.opened(is_time)));
        let Ok(heads) = heads;
        let (mut at, mut end_offset, mut is_worth_it) = (0, 0, false);
        while at < space.len() {
            let header = BatchHeader::decode(&space[at..]).ok()?;
            let range = at..at + header.batch_bytes();
            let batch = space.get(range.clone())?;
            if let Some(places) = places_apart(&header, batch) {
                self.put_head(&heads, &header, end_offset);
                self.put_records(&heads, space, at, places);
                self.put_event_times(&heads, &header);
                is_worth_it = true;
            } else {
                self.streams.push(heads.form, 0);
                self.streams.push(heads.plain_bytes, batch.len() as u64);
                self.content.texts.extend_from_slice(batch);
            }
            end_offset = header.stamp().base_offset.0.wrapping_add(u64::from(header.count()));
            at = range.end.next_multiple_of(8);
        }
        if !is_worth_it {
            return None;
        }
        self.finish();
        let areas = Areas { numbers: &self.numbers, texts: &self.content.texts, raw: &self.raw };
        self.decoded.resize(space.len() + ROOM_BEHIND, 0);
        self.decoder.decode(areas, &mut self.decoded).ok()?;
        self.decoded.starts_with(space).then_some(areas)
    }

    fn put_head(&mut self, heads: &Heads, header: &BatchHeader, end_offset: u64) {
        let (stamp, streams) = (header.stamp(), &mut self.streams);
        streams.begin_record();
        streams.push(heads.form, 1 + u64::from(header.flags()));
        streams.push(heads.topic, u64::from(stamp.partition.topic.0));
        streams.push(heads.partition, u64::from(stamp.partition.partition));
        streams.push(heads.skipped, stamp.base_offset.0.wrapping_sub(end_offset));
        streams.push(heads.count, u64::from(header.count()));
        streams.push(heads.append_time, stamp.append_time.0.cast_unsigned());
        if header.has_blocks() {
            streams.push(heads.body_at, header.body_at() as u64);
        }
        if let Some(produced) = header.produced() {
            streams.push(heads.producer, produced.id.0);
            streams.push(heads.epoch, u64::from(produced.epoch.0));
            streams.push(heads.sequence, produced.sequence.0);
            if header.states_next() {
                streams.push(heads.next, produced.next.0);
            }
        }
    }

    fn put_event_times(&mut self, heads: &Heads, header: &BatchHeader) {
        if let Some(times) = header.event_times() {
            self.streams.push(heads.least, times.min.0.cast_unsigned());
            self.streams.push(heads.greatest, times.max.0.cast_unsigned());
        }
    }

    fn put_records(
        &mut self,
        heads: &Heads,
        space: &[u8],
        batch_at: usize,
        places: Vec<Option<Range<usize>>>,
    ) {
        for place in places {
            self.streams.begin_record();
            self.content.begin_record();
            match place {
                None => self.streams.push(heads.template, RECORD_REMOVED),
                Some(at) => self.put_record(heads, space, batch_at + at.start..batch_at + at.end),
            }
        }
    }

    fn put_record(&mut self, heads: &Heads, space: &[u8], range: Range<usize>) {
        let record = &space[range.clone()];
        let Some(number) = self.put_template(heads, record) else {
            self.streams.push(heads.template, RECORD_PLAIN);
            self.streams.push(heads.record_bytes, record.len() as u64);
            self.content.texts.extend_from_slice(record);
            return;
        };
        let template = &self.templates[number];
        for (part, at) in template.parts.iter().zip(&self.starts) {
            match &part.what {
                WhatIn::Table { numbers, .. } => {
                    for number in numbers {
                        let at = at + number.at;
                        let value = number_of(&record[at..at + number.bytes]);
                        let stream = self.content.paths.number_streams[number.column];
                        self.streams.push(stream, value);
                    }
                }
                WhatIn::Text(column) => {
                    let at = range.start + at + 4;
                    let bytes = number_of(&space[at - 4..at]) as usize;
                    let mut texts = Texts {
                        space,
                        streams: &mut self.streams,
                        content: &mut self.content,
                        cut: &mut self.cut,
                    };
                    texts.put(*column, at..at + bytes, Some(&mut self.leaves));
                }
                WhatIn::Vtable(_) | WhatIn::Tables(_) | WhatIn::Spans(_) => {}
            }
        }
    }

    /// Tells the template of a record, and where its parts begin.
    fn put_template(&mut self, heads: &Heads, record: &[u8]) -> Option<usize> {
        let Self { templates, starts, usual, .. } = self;
        let known = usual.iter().position(|known| templates[*known].fits(record, starts));
        if let Some(rank) = known {
            let number = usual[rank];
            usual[..=rank].rotate_right(1);
            self.streams.push(heads.template, RECORD_TEMPLATE + number as u64);
            return Some(number);
        }
        self.parts.find(record)?;
        self.template.clear();
        let mut columns = Named { streams: &mut self.streams, content: &mut self.content };
        self.parts.put_template(record, &mut self.template, &mut columns)?;
        let template = Template::read(&mut Source::new(&self.template), |_| Ok(())).ok()?;
        if !template.fits(record, starts) {
            return None;
        }
        let number = templates.len();
        templates.push(template);
        if usual.len() == TEMPLATES_TRIED {
            usual.pop();
        }
        usual.insert(0, number);
        self.streams.push(heads.template, RECORD_NEW_TEMPLATE);
        self.content.texts.extend_from_slice(&self.template);
        Some(number)
    }

    fn finish(&mut self) {
        self.numbers.clear();
        self.raw.clear();
        let visitor = self.content.visitor_column.map_or(0, |column| column as u64 + 1);
        put_number(&mut self.numbers, visitor);
        self.streams.finish(&mut self.numbers, &mut self.raw, &self.costs);
        self.raw.extend_from_slice(&self.content.raw);
    }
}

/// Where the records of a batch lie that is taken apart: one of events, with a header as a builder
/// writes it. Of those that were removed nothing lies anywhere.
fn places_apart(header: &BatchHeader, batch: &[u8]) -> Option<Vec<Option<Range<usize>>>> {
    let is_usual = header.kind() == PayloadKind::Event && header.is_as_built();
    is_usual.then(|| header.record_places(batch)).flatten()
}

impl Streams {
    fn opened(&mut self, is_time: IsTime) -> StreamId {
        if is_time == IsTime::Yes { self.open_time() } else { self.open() }
    }
}

impl Content {
    fn clear(&mut self) {
        self.spare.append(&mut self.columns);
        self.texts.clear();
        self.raw.clear();
        self.values.clear();
        self.shapes.clear();
        self.leaf_columns.clear();
        self.paths.texts.clear();
        self.paths.texts.resize(PATHS, None);
        self.paths.numbers.clear();
        self.paths.numbers.resize(PATHS, None);
        self.paths.number_streams.clear();
        self.visitor_column = None;
        self.recent.clear();
        self.recent.resize(RECENT, Recent::default());
        self.record = 0;
        self.visitor = None;
        self.of_visitors.clear();
    }

    fn begin_record(&mut self) {
        self.record += 1;
        self.visitor = None;
    }

    fn open_column(&mut self, streams: &mut Streams, is_json: bool) -> usize {
        let (codes, shape_codes) = (streams.open(), streams.open());
        let mut column = self.spare.pop().unwrap_or_default();
        column.clear();
        (column.is_json, column.codes, column.shape_codes) = (is_json, codes, shape_codes);
        self.columns.push(column);
        self.columns.len() - 1
    }
}

/// The columns that templates name.
struct Named<'e> {
    streams: &'e mut Streams,
    content: &'e mut Content,
}

impl ColumnsOfPaths for Named<'_> {
    fn text(&mut self, path: Path, is_json: IsJson) -> usize {
        if let Some(column) = self.content.paths.texts[path] {
            return column;
        }
        let column = self.content.open_column(self.streams, is_json == IsJson::Yes);
        self.content.paths.texts[path] = Some(column);
        if is_json == IsJson::NoVisitor {
            self.content.visitor_column = Some(column);
        }
        column
    }

    fn number(&mut self, path: Path, is_time: bool) -> usize {
        if let Some(column) = self.content.paths.numbers[path] {
            return column;
        }
        let is_time = if is_time { IsTime::Yes } else { IsTime::No };
        let streams = &mut self.content.paths.number_streams;
        streams.push(self.streams.opened(is_time));
        let column = streams.len() - 1;
        self.content.paths.numbers[path] = Some(column);
        column
    }
}

/// The way of texts into columns.
struct Texts<'e> {
    space: &'e [u8],
    streams: &'e mut Streams,
    content: &'e mut Content,
    cut: &'e mut Cut,
}

impl Texts<'_> {
    /// Puts the text at `at` into a column. Leaves are found in `leaves`; one has none itself.
    fn put(&mut self, column: usize, at: Range<usize>, leaves: Option<&mut Vec<Leaf>>) {
        let place = Place::of(&at);
        let text = place.in_space(self.space);
        let hash = xxh3_64(text);
        let (code, mut value) = self.code(column, text, hash);
        self.streams.push(self.content.columns[column].codes, code);
        if Some(column) == self.content.visitor_column {
            let visitor = match value {
                Some(before) => before as usize,
                None => self.content.columns[column].values.len(),
            };
            self.content.visitor = Some(visitor).filter(|visitor| *visitor < VISITORS_MAX);
        }
        if code == TEXT_NEW {
            let values = &mut self.content.columns[column].values;
            let next = u32::try_from(values.len()).expect("fewer texts than bytes");
            values.push(place);
            value = Some(next);
            self.content.values.entry(keyed(hash, column)).or_insert(next);
            match leaves.filter(|_| self.content.columns[column].is_json) {
                Some(leaves) => self.put_json(column, &at, leaves),
                None => self.put_cut(column, text),
            }
        }
        self.note(column, Sent { place, value }, hash, code);
    }

    /// What tells the text, where something does, and which value of the column it is, if that is
    /// known.
    fn code(&self, column: usize, text: &[u8], hash: u64) -> (u64, Option<u32>) {
        let content = &*self.content;
        let is = |place: Place| place.in_space(self.space) == text;
        let is_visitor = Some(column) == content.visitor_column;
        let recent = &content.recent[recent_at(hash)];
        if !is_visitor && recent.hash == hash && recent.record == content.record {
            let (record, place) = content.columns[recent.column].latest;
            if record == content.record && is(place) {
                return (TEXT_OF_COLUMN + recent.column as u64, None);
            }
        }
        let visitor = content.visitor.filter(|_| !is_visitor);
        let last = visitor.and_then(|visitor| content.of_visitors.get(visitor, column));
        let last = last.filter(|last| last.place != Place::default() && is(last.place));
        let value = match last.and_then(|last| last.value) {
            // Looked up it would be found there.
            Some(value) => Some(value),
            None => self.value(column, text, hash),
        };
        let before = value.map(|value| TEXT_BEFORE + u64::from(value));
        let code = match (before, last) {
            (Some(before), _) if before < FREQUENT => before,
            (_, Some(_)) => TEXT_OF_VISITOR,
            (Some(before), None) => before,
            (None, None) => TEXT_NEW,
        };
        (code, value)
    }

    /// Which value of the column the text is.
    fn value(&self, column: usize, text: &[u8], hash: u64) -> Option<u32> {
        let value = self.content.values.get(&keyed(hash, column)).copied()?;
        let place = self.content.columns[column].values[value as usize];
        (place.in_space(self.space) == text).then_some(value)
    }

    /// Remembers the text as the latest of its column.
    fn note(&mut self, column: usize, sent: Sent, hash: u64, code: u64) {
        let content = &mut *self.content;
        content.columns[column].latest = (content.record, sent.place);
        if let Some(visitor) = content.visitor {
            content.of_visitors.set(visitor, column, sent);
        }
        let is_copy = (TEXT_OF_COLUMN..TEXT_BEFORE).contains(&code);
        let is_long = sent.place.bytes as usize >= COPIED_BYTES_MIN;
        if !is_copy && is_long && column < COLUMNS_NAMED {
            content.recent[recent_at(hash)] = Recent { hash, record: content.record, column };
        }
    }

    fn put_json(&mut self, column: usize, at: &Range<usize>, leaves: &mut Vec<Leaf>) {
        let text = &self.space[at.clone()];
        let number = match self.usual_shape(column, text, leaves) {
            Some(known) => known,
            None => match self.find_shape(column, text, leaves) {
                Some(found) => found,
                None => return self.put_cut(column, text),
            },
        };
        for (index, leaf) in leaves.iter().enumerate() {
            let leaf_column = self.content.columns[column].shapes[number].leaves[index].1;
            self.put(leaf_column, at.start + leaf.at.start..at.start + leaf.at.end, None);
        }
    }

    /// Tells the shape, where it is one that came lately.
    fn usual_shape(&mut self, column: usize, text: &[u8], leaves: &mut Vec<Leaf>) -> Option<usize> {
        let of = &mut self.content.columns[column];
        let texts = &self.content.texts;
        let fits = |known: &usize| of.shapes[*known].fits(text, texts, leaves);
        let rank = of.usual.iter().position(fits)?;
        let number = of.usual[rank];
        of.usual[..=rank].rotate_right(1);
        self.streams.push(of.shape_codes, number as u64 + 1);
        Some(number)
    }

    /// Finds the leaves and tells the shape. `None` where the text is not to be taken apart.
    fn find_shape(&mut self, column: usize, text: &[u8], leaves: &mut Vec<Leaf>) -> Option<usize> {
        let is_json = find_leaves(text, leaves);
        if !is_json || self.content.columns.len() + leaves.len() > LEAF_COLUMNS_MAX {
            return None;
        }
        let mut shape = mem::take(&mut self.cut.shape);
        shape.clear();
        let mut from = 0;
        for leaf in &*leaves {
            let leaf_column = self.leaf_column(column, leaf.path);
            let named = u32::try_from(leaf_column).expect("columns are few");
            Hole::Leaf(named).put(&text[from..leaf.at.start], &mut shape);
            from = leaf.at.end;
        }
        Hole::End.put(&text[from..], &mut shape);
        let number = self.put_shape(column, &shape);
        self.cut.shape = shape;
        let usual = &mut self.content.columns[column].usual;
        usual.retain(|known| *known != number);
        usual.truncate(SHAPES_TRIED - 1);
        usual.insert(0, number);
        Some(number)
    }

    fn leaf_column(&mut self, column: usize, path: u64) -> usize {
        let key = keyed(path, column);
        if let Some(known) = self.content.leaf_columns.get(&key) {
            return *known;
        }
        let opened = self.content.open_column(self.streams, false);
        self.content.leaf_columns.insert(key, opened);
        opened
    }

    fn put_cut(&mut self, column: usize, text: &[u8]) {
        self.cut.cut(text);
        let shape = mem::take(&mut self.cut.shape);
        let number = self.put_shape(column, &shape);
        self.cut.shape = shape;
        self.content.raw.extend_from_slice(&self.cut.raw);
        let of = &self.content.columns[column];
        let apart = of.shapes[number].streams.iter().copied();
        let streams = apart.chain(std::iter::repeat_with(|| of.rest.expect("it was opened")));
        for (number, stream) in self.cut.numbers.iter().zip(streams) {
            self.streams.push(stream, *number);
        }
    }

    /// Tells the shape, and returns its number in the column.
    fn put_shape(&mut self, column: usize, shape: &[u8]) -> usize {
        let of = &mut self.content.columns[column];
        let texts = &self.content.texts;
        let is = |known: &usize| {
            of.shapes.get(*known).is_some_and(|known| texts[known.at.clone()] == *shape)
        };
        let latest = Some(of.latest_shape).filter(is);
        let key = latest.is_none().then(|| xxh3_64_with_seed(shape, column as u64));
        let known = latest.or_else(|| {
            let known = self.content.shapes.get(&key?).map(|known| *known as usize);
            known.filter(is)
        });
        if let Some(known) = known {
            of.latest_shape = known;
            self.streams.push(of.shape_codes, known as u64 + 1);
            return known;
        }
        self.streams.push(of.shape_codes, 0);
        let number = of.shapes.len();
        of.latest_shape = number;
        let next = u32::try_from(number).expect("fewer shapes than bytes");
        key.map(|key| self.content.shapes.entry(key).or_insert(next));
        let start = self.content.texts.len();
        self.content.texts.extend_from_slice(shape);
        let at = start..self.content.texts.len();
        let shape = Shape::open(at, &self.content.texts, of, self.streams);
        of.shapes.push(shape);
        number
    }
}

fn recent_at(hash: u64) -> usize {
    (hash % RECENT as u64) as usize
}

/// A hash of something in a column.
const fn keyed(hash: u64, column: usize) -> u64 {
    (hash ^ column as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A little-endian number of at most eight bytes.
fn number_of(bytes: &[u8]) -> u64 {
    match *bytes {
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    }
}
