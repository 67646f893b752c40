//! The byte scan: the first reader of every body, and the only one of bytes that nobody vouches for.
//!
//! One pass without recursion finds where each event and each of its top-level fields lies, and
//! checks what a later parser would trip over: grammar, depth, duplicate keys (as they read after
//! unescaping, in every object), lone surrogates, control characters, numbers that are no finite
//! double, UTF-8.
//!
//! Promises
//! - Never panics, whatever the bytes. Memory: one bit a level of nesting, and records of fields
//!   and keys, both under limits; nothing is allocated for an event once the buffers have grown.
//! - A *flaw* (a bad string, number, word, key, depth or size) costs the event that it lies in and
//!   no other: the scan goes on to that event's end, however deep it is. Only where the end cannot
//!   be told (brackets, commas, quotes out of place, an early end) is the body [`Unreadable`].
//! - Text that it hands out as `str` is UTF-8, and an event without a flaw is JSON that any parser
//!   reads the same way.
//!
//! Reads bytes only: what fields mean is `envelope`'s. Called by `intake`; a recursive parser may
//! see only text that passed here.

mod members;
mod number;
mod pointer;
mod string;
mod walk;

use std::borrow::Cow;
use std::ops::Range;

use crate::rejection::Code;

pub use members::{Member, Members};
pub(crate) use string::end as string_end;
use walk::Walk;

/// How the events lie in a body. Chosen by the path, never by the content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The body is one event, an object.
    Event,
    /// The body is an object with the events in its `batch` array.
    Batch,
    /// The body is an array of events, or one event a line (NDJSON).
    Events,
}

/// What a body may hold. Limits of a single source are the mapping's to apply; these are the
/// largest of any source, and they bound the scan's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// Bytes of one event; beyond them it is flawed.
    pub event_bytes_max: u32,
    /// Levels of objects and arrays in one event, itself included; beyond them it is flawed.
    pub depth_max: u32,
    /// Events in one body; beyond them the body is unreadable.
    pub events_max: u32,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self { event_bytes_max: 32 * 1024, depth_max: 64, events_max: 10_000 }
    }
}

/// Fields recorded for one body, at 36 bytes each. A body of ten thousand events of a hundred
/// fields stays below.
const FIELDS_MAX: usize = 1 << 20;

/// Entries that each buffer keeps from body to body.
const KEPT_MAX: usize = 1 << 14;

/// Keys that the part of a body outside its events may hold.
const ROOT_KEYS_MAX: usize = 1 << 14;

/// A stretch of the body, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One after the last byte.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start: position(start), end: position(end) }
    }

    /// As a range for slicing.
    #[must_use]
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Bytes in it.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Positions are `u32`: [`Scan::read`] refuses larger bodies before it makes one.
fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// What kind of JSON value a token is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueKind {
    /// `null`
    #[default]
    Null,
    /// `false`
    False,
    /// `true`
    True,
    /// A number, as its digits stand.
    Number,
    /// A string, quotes included.
    String,
    /// `[…]`
    Array,
    /// `{…}`
    Object,
}

/// One member of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// The key between its quotes, as sent.
    pub key: Span,
    /// The whole value, quotes or brackets included.
    pub value: Span,
    /// What the value is.
    pub kind: ValueKind,
    /// Whether the key has escapes in it.
    pub key_escaped: bool,
    /// Whether the value is a string with escapes in it.
    pub escaped: bool,
    /// Where in the scan's inner fields the members of this value lie, for `properties`, `traits`
    /// and `context` of an event.
    inner: Span,
}

/// What is wrong with one event, or with a whole body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The reason.
    pub code: Code,
    /// The byte of the body at which it shows.
    pub at: u32,
    /// In words.
    pub what: &'static str,
}

/// The body cannot be read as events at all; nothing of it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {}", flaw.what)]
pub struct Unreadable {
    /// Reason and place.
    pub flaw: Flaw,
    /// Line of the place, from 1.
    pub line: u32,
    /// Byte in that line, from 1.
    pub column: u32,
}

impl Unreadable {
    fn new(body: &[u8], flaw: Flaw) -> Self {
        let before = body.get(..flaw.at as usize).unwrap_or(body);
        let line = before.iter().filter(|&&byte| byte == b'\n').count();
        let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count();
        Self {
            flaw,
            line: position(line).saturating_add(1),
            column: position(column).saturating_add(1),
        }
    }
}

/// One event's place, before anyone asked what it means.
#[derive(Clone, Copy, Debug)]
struct EventPlace {
    span: Span,
    /// Its top-level fields, among all fields.
    fields: Span,
    /// Levels of nesting, itself included.
    depth: u32,
    flaw: Option<Flaw>,
}

/// The buffers of a scan, kept from body to body.
#[derive(Debug, Default)]
pub struct Scan {
    events: Vec<EventPlace>,
    root: Vec<Field>,
    fields: Vec<Field>,
    inner: Vec<Field>,
    workings: walk::Workings,
}

impl Scan {
    /// Empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Scans `body`, which holds events as `shape` says. A leading BOM is skipped.
    ///
    /// # Errors
    /// [`Unreadable`] when the events' borders cannot be told, or what lies outside the events is
    /// flawed, or there are too many.
    pub fn read<'a>(
        &'a mut self,
        body: &'a [u8],
        shape: Shape,
        limits: &ScanLimits,
    ) -> Result<Scanned<'a>, Unreadable> {
        let text = str::from_utf8(body).ok();
        self.find_events(body, shape, limits)
            .and_then(|()| if text.is_some() { Ok(()) } else { self.check_utf8(body) })
            .map_err(|flaw| Unreadable::new(body, flaw))?;
        Ok(Scanned { scan: self, body, text })
    }

    /// Empties the buffers, and lets go of what an unusual body made them grow to.
    fn clear(&mut self) {
        self.events.clear();
        self.events.shrink_to(KEPT_MAX);
        for fields in [&mut self.root, &mut self.fields, &mut self.inner] {
            fields.clear();
            fields.shrink_to(KEPT_MAX);
        }
    }

    fn find_events(&mut self, body: &[u8], shape: Shape, limits: &ScanLimits) -> Result<(), Flaw> {
        self.clear();
        if u32::try_from(body.len()).is_err() {
            return Err(Flaw { code: Code::TooLarge, at: 0, what: "the body is too large" });
        }
        let start = if body.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let first = string::skip_white(body, start);
        let refuse = |what| Err(Flaw { code: Code::InvalidJson, at: position(first), what });
        match (shape, body.get(first)) {
            (_, None) => refuse("the body is empty"),
            (Shape::Event, Some(b'{')) => Walk::new(self, body, limits).event(first),
            (Shape::Batch, Some(b'{')) => Walk::new(self, body, limits).batch(first),
            (Shape::Events, Some(b'[')) => Walk::new(self, body, limits).array(first),
            (Shape::Events, _) if has_object_line(body, first) => {
                self.read_lines(body, first, limits)
            }
            (Shape::Events, _) => refuse("expected a JSON array, or one JSON object a line"),
            (Shape::Event | Shape::Batch, _) => refuse("expected a JSON object"),
        }
    }

    /// One event a line, from the first that is not blank. A line that cannot be read is an event
    /// with a flaw, so that it costs no other. One object that is spread over the lines of the
    /// whole body is taken for what it is.
    fn read_lines(&mut self, body: &[u8], first: usize, limits: &ScanLimits) -> Result<(), Flaw> {
        let mut start = first;
        while start < body.len() {
            let rest = body.get(start..).unwrap_or_default();
            let length = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            let end = start + length;
            let line = body.get(..end).unwrap_or_default();
            let at = string::skip_white(line, start);
            if at < end {
                let read = Walk::new(self, line, limits).line(at);
                if let Err(flaw) = read {
                    if flaw.code == Code::TooMany {
                        return Err(flaw);
                    }
                    if start == first && end < body.len() && self.read_as_one(body, first, limits) {
                        return Ok(());
                    }
                    self.add_broken_line(Span::new(at, string::trim_end(line)), flaw);
                }
            }
            start = end + 1;
        }
        Ok(())
    }

    fn read_as_one(&mut self, body: &[u8], first: usize, limits: &ScanLimits) -> bool {
        self.clear();
        let read = Walk::new(self, body, limits).event(first).is_ok();
        if !read {
            self.clear();
        }
        read
    }

    /// What was recorded of the line goes, but for the flaw; its bytes are the event's.
    fn add_broken_line(&mut self, span: Span, flaw: Flaw) {
        let begun = self.events.pop_if(|event| event.span.start >= span.start);
        let fields = match begun {
            Some(event) => Span { start: event.fields.start, end: position(self.fields.len()) },
            None => Span::new(self.fields.len(), self.fields.len()),
        };
        self.events.push(EventPlace { span, fields, depth: 0, flaw: Some(flaw) });
    }

    /// For the rare body that is no UTF-8: finds the events that are to blame.
    fn check_utf8(&mut self, body: &[u8]) -> Result<(), Flaw> {
        let check = |span: Span| match str::from_utf8(body.get(span.range()).unwrap_or_default()) {
            Ok(_) => Ok(()),
            Err(error) => Err(Flaw {
                code: Code::InvalidText,
                at: span.start.saturating_add(position(error.valid_up_to())),
                what: "the text is not UTF-8",
            }),
        };
        for event in &mut self.events {
            if let (None, Err(flaw)) = (event.flaw, check(event.span)) {
                event.flaw = Some(flaw);
            }
        }
        for field in &self.root {
            check(field.key)?;
            // The array of events is not: it is checked event by event.
            if field.kind != ValueKind::Array {
                check(field.value)?;
            }
        }
        Ok(())
    }
}

/// Whether some line begins like an object: then the others are events with flaws. Else the body
/// is something quite different.
fn has_object_line(body: &[u8], first: usize) -> bool {
    let lines = body.get(first..).unwrap_or_default();
    lines
        .split(|&byte| byte == b'\n')
        .any(|line| line.get(string::skip_white(line, 0)) == Some(&b'{'))
}

/// A body after its scan: where everything lies.
#[derive(Clone, Copy, Debug)]
pub struct Scanned<'a> {
    scan: &'a Scan,
    body: &'a [u8],
    text: Option<&'a str>,
}

impl<'a> Scanned<'a> {
    /// How many events the body holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.scan.events.len()
    }

    /// Whether the body holds no event.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The fields beside `batch`, for [`Shape::Batch`]; none for the other shapes.
    pub fn root(&self) -> impl Iterator<Item = FieldText<'a>> + use<'a> {
        let (body, text) = (self.body, self.text);
        self.scan.root.iter().filter_map(move |field| match text {
            Some(text) => FieldText::of(text, 0, field),
            None => {
                let key = str::from_utf8(body.get(field.key.range())?).ok()?;
                let value = str::from_utf8(body.get(field.value.range())?).ok()?;
                Some(FieldText::new(key, value, field))
            }
        })
    }

    /// The event with this index.
    #[must_use]
    pub fn event(&self, index: usize) -> Option<ScannedEvent<'a>> {
        let place = self.scan.events.get(index)?;
        let bytes = self.body.get(place.span.range())?;
        let text = match self.text {
            Some(text) => text.get(place.span.range()),
            None => str::from_utf8(bytes).ok(),
        };
        Some(ScannedEvent { scan: self.scan, place, bytes, text })
    }

    /// All events, in the order sent.
    pub fn events(&self) -> impl Iterator<Item = ScannedEvent<'a>> + use<'a> {
        let scanned = *self;
        (0..self.len()).filter_map(move |index| scanned.event(index))
    }
}

/// One event of a scanned body.
#[derive(Clone, Copy, Debug)]
pub struct ScannedEvent<'a> {
    scan: &'a Scan,
    place: &'a EventPlace,
    bytes: &'a [u8],
    text: Option<&'a str>,
}

impl<'a> ScannedEvent<'a> {
    /// Its bytes, as received.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its text; `None` where it is no UTF-8, which is a flaw.
    #[must_use]
    pub const fn text(&self) -> Option<&'a str> {
        self.text
    }

    /// Levels of objects and arrays, itself included.
    #[must_use]
    pub const fn depth(&self) -> u32 {
        self.place.depth
    }

    /// What is wrong with it.
    #[must_use]
    pub const fn flaw(&self) -> Option<Flaw> {
        self.place.flaw
    }

    /// JSON pointer to the place in the event at which its flaw shows: the value, or the object
    /// around the key. `None` for the event as a whole.
    #[must_use]
    pub fn flaw_pointer(&self) -> Option<String> {
        let at = self.place.flaw?.at.checked_sub(self.place.span.start)?;
        pointer::to(self.bytes, at as usize)
    }

    /// Its top-level fields, in the order sent: all of them, or with a flaw those that could be
    /// read.
    pub fn fields(&self) -> impl Iterator<Item = FieldText<'a>> + use<'a> {
        let event = *self;
        let fields = event.scan.fields.get(event.place.fields.range()).unwrap_or_default();
        fields.iter().filter_map(move |field| match event.text {
            Some(text) => FieldText::of(text, event.place.span.start, field),
            None => {
                let base = event.place.span.start;
                let bytes = |span: Span| event.bytes.get(span.relative_to(base)?);
                let key = str::from_utf8(bytes(field.key)?).ok()?;
                let value = str::from_utf8(bytes(field.value)?).ok()?;
                Some(FieldText::new(key, value, field))
            }
        })
    }

    /// The members of one of its fields, where that is `properties`, `traits` or `context` and an
    /// object; else none. Their spans are in the body's bytes: [`FieldText::within`] cuts them.
    #[must_use]
    pub fn inner(&self, field: &FieldText<'a>) -> &'a [Field] {
        self.scan.inner.get(field.field.inner.range()).unwrap_or_default()
    }
}

impl Span {
    fn relative_to(self, base: u32) -> Option<Range<usize>> {
        Some(self.start.checked_sub(base)? as usize..self.end.checked_sub(base)? as usize)
    }
}

/// A member of an object, as text.
#[derive(Clone, Copy, Debug)]
pub struct FieldText<'a> {
    /// The key between its quotes, as sent.
    pub key: &'a str,
    /// The whole value, quotes or brackets included.
    pub value: &'a str,
    /// Where it lies, and what it is.
    pub field: &'a Field,
}

impl<'a> FieldText<'a> {
    const fn new(key: &'a str, value: &'a str, field: &'a Field) -> Self {
        Self { key, value, field }
    }

    /// `field` out of a `text` that begins at the body's byte `base`.
    fn of(text: &'a str, base: u32, field: &'a Field) -> Option<Self> {
        let key = text.get(field.key.relative_to(base)?)?;
        let value = text.get(field.value.relative_to(base)?)?;
        Some(Self { key, value, field })
    }

    /// The inner `field` of this value: see [`ScannedEvent::inner`].
    #[must_use]
    pub fn within(&self, field: &'a Field) -> Option<Self> {
        Self::of(self.value, self.field.value.start, field)
    }
}

/// What the string token of scanned text says.
pub(crate) fn string_text(token: &str) -> Cow<'_, str> {
    let quoted = token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    unescaped(quoted.unwrap_or_default())
}

/// What the text between the quotes of a scanned string says.
pub(crate) fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    string::unescape(text.as_bytes(), &mut bytes);
    // Unescaping cuts UTF-8 at backslashes only and adds whole characters: nothing is replaced.
    Cow::Owned(
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}
