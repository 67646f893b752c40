//! The state machine of the scan.
//!
//! 1. A value begins: where values are events, an event begins; where they belong to a recorded
//!    field, its start is noted.
//! 2. A container opens: its kind is one bit of a stack, so that its end is found at any depth.
//!    While the event has no flaw, a frame remembers where its keys begin.
//! 3. A key is read: it goes to the keys of the frame, and a duplicate is looked for.
//! 4. A container closes: its keys go. A large one sorts them first, to find duplicates.
//! 5. An event ends: what it left on the stacks goes, and with it its flaw.
//!
//! Duplicates: 64 bits an object, one of which each key sets, tell most keys to be new. Where the
//! bit is set already, the first [`LINEAR_KEYS`] keys are compared one by one; objects with more
//! are sorted when they close. So a million keys cost n log n, and a dozen cost next to nothing.
//! After its first flaw an event is only followed to its end, and its top-level fields recorded.

use super::number::{self, Number};
use super::string::{self, Escape};
use super::{
    EventPlace, FIELDS_MAX, Field, Flaw, KEPT_MAX, ROOT_KEYS_MAX, Scan, ScanLimits, Span,
    ValueKind, position,
};
use crate::rejection::Code;

/// Keys of an object that are compared one by one.
const LINEAR_KEYS: usize = 32;

/// A depth that is never reached: a body has no more bytes than this.
const NOWHERE: u32 = u32::MAX;

/// The stacks of a walk, kept for the next.
#[derive(Debug, Default)]
pub(super) struct Workings {
    keys: Vec<Key>,
    /// The text of keys that have escapes.
    unescaped: Vec<u8>,
    frames: Vec<Frame>,
    /// Kinds of the containers below the innermost 64.
    deep_kinds: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    hash: u64,
    start: u32,
    length: u32,
    /// Its opening quote in the body.
    at: u32,
    /// Whether its text lies in `unescaped`, not in the body.
    is_unescaped: bool,
}

/// What an open object has on the stacks.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    keys: usize,
    unescaped: usize,
    /// A bit for each key, by its hash.
    seen: u64,
}

enum State {
    Value,
    Key,
    After,
    Close,
}

pub(super) struct Walk<'s> {
    body: &'s [u8],
    limits: &'s ScanLimits,
    scan: &'s mut Scan,
    /// Open containers, and the kinds of the innermost 64: a set bit is an object.
    depth: u32,
    kinds: u64,
    frame: Frame,
    /// The depth at which values are events.
    event_at: u32,
    /// The depth at which members are recorded, and whether they are now.
    field_at: u32,
    records_fields: bool,
    records_inner: bool,
    /// Members are the body's own, not an event's.
    in_root: bool,
    root_is_batch: bool,
    saw_batch: bool,
    /// The open event has no flaw.
    is_clean: bool,
    event_start: usize,
    depth_limit: u32,
    deepest: u32,
    /// The stacks as they were before the open event.
    before_event: Mark,
}

/// How full the stacks are.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    frame: Frame,
    frames: usize,
    keys: usize,
    unescaped: usize,
}

impl<'s> Walk<'s> {
    pub(super) fn new(scan: &'s mut Scan, body: &'s [u8], limits: &'s ScanLimits) -> Self {
        scan.workings.clear();
        Self {
            body,
            limits,
            scan,
            depth: 0,
            kinds: 0,
            frame: Frame::default(),
            event_at: NOWHERE,
            field_at: NOWHERE,
            records_fields: false,
            records_inner: false,
            in_root: false,
            root_is_batch: false,
            saw_batch: false,
            is_clean: true,
            event_start: 0,
            depth_limit: limits.depth_max,
            deepest: 0,
            before_event: Mark::default(),
        }
    }

    /// The body is one event.
    pub(super) fn event(mut self, at: usize) -> Result<(), Flaw> {
        self.event_at = 0;
        self.field_at = 1;
        let end = self.value(at)?;
        self.nothing_after(end, "expected the end of the body")
    }

    /// The line is one event.
    pub(super) fn line(mut self, at: usize) -> Result<(), Flaw> {
        self.event_at = 0;
        self.field_at = 1;
        let end = self.value(at)?;
        self.nothing_after(end, "expected the end of the line: one object a line")
    }

    /// The body is an array of events.
    pub(super) fn array(mut self, at: usize) -> Result<(), Flaw> {
        self.event_at = 1;
        self.field_at = 2;
        let end = self.value(at)?;
        self.nothing_after(end, "expected the end of the body")
    }

    /// The body is an object with a `batch`.
    pub(super) fn batch(mut self, at: usize) -> Result<(), Flaw> {
        self.root_is_batch = true;
        self.enter_root();
        let end = self.value(at)?;
        self.nothing_after(end, "expected the end of the body")?;
        if self.saw_batch {
            return Ok(());
        }
        Err(Flaw {
            code: Code::MissingField,
            at: position(at),
            what: "expected an object with a `batch` array",
        })
    }

    fn enter_root(&mut self) {
        self.event_at = NOWHERE;
        self.field_at = 1;
        self.in_root = true;
        self.records_fields = true;
        self.records_inner = false;
    }

    fn enter_batch(&mut self) {
        self.event_at = 2;
        self.field_at = 3;
        self.in_root = false;
        self.records_fields = false;
        self.saw_batch = true;
    }

    fn nothing_after(&self, end: usize, what: &'static str) -> Result<(), Flaw> {
        let rest = string::skip_white(self.body, end);
        if rest == self.body.len() { Ok(()) } else { Err(self.broken(rest, what)) }
    }

    fn broken(&self, at: usize, what: &'static str) -> Flaw {
        let what = if at >= self.body.len() { "the JSON ends early" } else { what };
        Flaw { code: Code::InvalidJson, at: position(at), what }
    }

    /// Notes what is wrong with the open event. Outside of events it is the body's own fault.
    #[cold]
    fn flaw(&mut self, code: Code, at: usize, what: &'static str) -> Result<(), Flaw> {
        let flaw = Flaw { code, at: position(at), what };
        if self.event_at == NOWHERE {
            return Err(flaw);
        }
        self.is_clean = false;
        self.records_inner = false;
        if let Some(event) = self.scan.events.last_mut() {
            event.flaw.get_or_insert(flaw);
        }
        Ok(())
    }

    /// Reads the value at `at` with all that is in it, and returns its end.
    fn value(&mut self, mut at: usize) -> Result<usize, Flaw> {
        let mut state = State::Value;
        loop {
            at = string::skip_white(self.body, at);
            match state {
                State::Value => {
                    if self.depth == self.event_at {
                        self.begin_event(at)?;
                    }
                    let start = at;
                    let (kind, escaped) = match self.body.get(at) {
                        Some(b'"') => {
                            let (end, escaped) = self.string(at)?;
                            at = end;
                            (ValueKind::String, escaped)
                        }
                        Some(b'{') => {
                            self.open(at, ValueKind::Object)?;
                            at = string::skip_white(self.body, at + 1);
                            let is_empty = self.body.get(at) == Some(&b'}');
                            state = if is_empty { State::Close } else { State::Key };
                            continue;
                        }
                        Some(b'[') => {
                            self.open(at, ValueKind::Array)?;
                            at = string::skip_white(self.body, at + 1);
                            let is_empty = self.body.get(at) == Some(&b']');
                            state = if is_empty { State::Close } else { State::Value };
                            continue;
                        }
                        _ => {
                            let (end, kind) = self.bare(at)?;
                            at = end;
                            (kind, false)
                        }
                    };
                    self.scalar_done(start, at, kind, escaped)?;
                    state = State::After;
                }
                State::Key => {
                    at = self.key(at)?;
                    state = State::Value;
                    continue;
                }
                State::Close => {
                    at += 1;
                    self.close(at)?;
                    state = State::After;
                }
                State::After => {
                    let in_object = self.kinds & 1 == 1;
                    state = match self.body.get(at) {
                        Some(b',') => {
                            at += 1;
                            if in_object { State::Key } else { State::Value }
                        }
                        Some(b'}') if in_object => State::Close,
                        Some(b']') if !in_object => State::Close,
                        _ if in_object => return Err(self.broken(at, "expected ',' or '}'")),
                        _ => return Err(self.broken(at, "expected ',' or ']'")),
                    };
                    continue;
                }
            }
            if self.depth == 0 {
                return Ok(at);
            }
        }
    }

    #[inline]
    fn string(&mut self, at: usize) -> Result<(usize, bool), Flaw> {
        let end = string::skip_plain(self.body, at + 1);
        if self.body.get(end) == Some(&b'"') {
            return Ok((end + 1, false));
        }
        self.string_rest(end)
    }

    /// The rest of a string that has more than plain text in it, and whether it has escapes.
    fn string_rest(&mut self, mut at: usize) -> Result<(usize, bool), Flaw> {
        let mut has_escapes = false;
        loop {
            match self.body.get(at) {
                None => return Err(self.broken(at, "")),
                Some(b'"') => return Ok((at + 1, has_escapes)),
                Some(b'\\') => {
                    has_escapes = true;
                    at += match string::escape(self.body, at) {
                        Escape::Character(_, length) => length,
                        Escape::Lone(length) => {
                            self.flaw(Code::InvalidText, at, "half a surrogate pair")?;
                            length
                        }
                        Escape::Bad(length) => {
                            self.flaw(Code::InvalidJson, at, "no such escape in a string")?;
                            length
                        }
                    };
                }
                Some(_) => {
                    self.flaw(Code::InvalidJson, at, "a control character in a string")?;
                    at += 1;
                }
            }
            at = string::skip_plain(self.body, at);
        }
    }

    /// A number or a word.
    #[inline]
    fn bare(&mut self, at: usize) -> Result<(usize, ValueKind), Flaw> {
        let rest = self.body.get(at..).unwrap_or_default();
        let (end, kind) = match rest {
            [b'-' | b'0'..=b'9', ..] => match number::read(self.body, at) {
                Number::Finite(end) => (end, ValueKind::Number),
                Number::Infinite(end) => {
                    self.flaw(Code::NumberRange, at, "a number that no double holds")?;
                    (end, ValueKind::Number)
                }
                Number::Bad => return self.bad_word(at),
            },
            [b't', b'r', b'u', b'e', ..] => (at + 4, ValueKind::True),
            [b'f', b'a', b'l', b's', b'e', ..] => (at + 5, ValueKind::False),
            [b'n', b'u', b'l', b'l', ..] => (at + 4, ValueKind::Null),
            _ => return self.bad_word(at),
        };
        if self.body.get(end).is_some_and(is_word) {
            return self.bad_word(at);
        }
        Ok((end, kind))
    }

    /// `NaN`, `undefined`, `01` and their like: where they end is plain, so they cost one event.
    #[cold]
    fn bad_word(&mut self, at: usize) -> Result<(usize, ValueKind), Flaw> {
        let rest = self.body.get(at..).unwrap_or_default();
        let length = rest.iter().position(|byte| !is_word(byte)).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.broken(at, "expected a value"));
        }
        self.flaw(Code::InvalidJson, at, "no JSON value")?;
        Ok((at + length, ValueKind::Null))
    }

    /// Reads the key at `at` and the colon behind it.
    #[inline]
    fn key(&mut self, at: usize) -> Result<usize, Flaw> {
        if self.body.get(at) != Some(&b'"') {
            return Err(self.broken(at, "expected a key in quotes"));
        }
        let (end, escaped) = self.string(at)?;
        if self.is_clean {
            self.remember_key(at, end - 1, escaped)?;
        }
        self.record_key(Span::new(at + 1, end - 1), escaped)?;
        let colon = string::skip_white(self.body, end);
        if self.body.get(colon) != Some(&b':') {
            return Err(self.broken(colon, "expected ':'"));
        }
        Ok(colon + 1)
    }

    #[inline]
    fn record_key(&mut self, key: Span, key_escaped: bool) -> Result<(), Flaw> {
        let list = if self.depth == self.field_at && self.records_fields {
            if self.in_root { &mut self.scan.root } else { &mut self.scan.fields }
        } else if self.records_inner && self.depth == self.field_at + 1 {
            &mut self.scan.inner
        } else {
            return Ok(());
        };
        if list.len() >= FIELDS_MAX {
            let what = "too many fields in one request";
            return Err(Flaw { code: Code::TooMany, at: key.start, what });
        }
        list.push(Field { key, key_escaped, ..Field::default() });
        Ok(())
    }

    /// Looks for the key in its object, and adds it.
    #[inline]
    fn remember_key(&mut self, at: usize, end: usize, escaped: bool) -> Result<(), Flaw> {
        if self.event_at == NOWHERE {
            if self.scan.workings.keys.len() >= ROOT_KEYS_MAX {
                let what = "too many keys outside of the events";
                return Err(Flaw { code: Code::TooMany, at: position(at), what });
            }
        } else if end - self.event_start > self.limits.event_bytes_max as usize {
            return self.flaw_too_large();
        }
        let workings = &mut self.scan.workings;
        let (start, length, hash) = if escaped {
            let start = workings.unescaped.len();
            string::unescape(
                self.body.get(at + 1..end).unwrap_or_default(),
                &mut workings.unescaped,
            );
            let end = workings.unescaped.len();
            (start, end - start, hash(&workings.unescaped, start, end))
        } else {
            (at + 1, end - at - 1, hash(self.body, at + 1, end))
        };
        let key = Key {
            hash,
            start: position(start),
            length: position(length),
            at: position(at),
            is_unescaped: escaped,
        };
        let bit = 1 << (hash >> 58);
        let maybe_seen = self.frame.seen & bit != 0;
        self.frame.seen |= bit;
        if maybe_seen && workings.is_duplicate(self.body, self.frame.keys, key) {
            return self.flaw(Code::DuplicateKey, at, "the object has this key twice");
        }
        workings.keys.push(key);
        Ok(())
    }

    #[cold]
    fn flaw_too_large(&mut self) -> Result<(), Flaw> {
        self.records_fields = false;
        self.flaw(Code::TooLarge, self.event_start, "the event is too large")
    }

    fn open(&mut self, at: usize, kind: ValueKind) -> Result<(), Flaw> {
        self.container_begins(at, kind);
        if self.is_clean && self.depth >= self.depth_limit {
            self.flaw(Code::TooDeep, at, "nested too deep")?;
        }
        if self.depth.is_multiple_of(64) && self.depth > 0 {
            self.scan.workings.deep_kinds.push(self.kinds);
        }
        let is_object = kind == ValueKind::Object;
        self.kinds = (self.kinds << 1) | u64::from(is_object);
        self.depth += 1;
        if self.is_clean {
            self.deepest = self.deepest.max(self.depth);
            if is_object {
                let workings = &mut self.scan.workings;
                workings.frames.push(self.frame);
                self.frame = workings.new_frame();
            }
        }
        Ok(())
    }

    /// Notes where the container at `at` begins, if it belongs to a recorded field.
    #[inline]
    fn container_begins(&mut self, at: usize, kind: ValueKind) {
        if self.depth == self.field_at && self.records_fields {
            let inner = self.scan.inner.len();
            let list = if self.in_root { &mut self.scan.root } else { &mut self.scan.fields };
            let Some(field) = list.last_mut() else { return };
            field.value = Span { start: position(at), end: 0 };
            field.kind = kind;
            let key = self.body.get(field.key.range());
            if self.in_root {
                if kind == ValueKind::Array && key == Some(b"batch") {
                    self.enter_batch();
                }
            } else if kind == ValueKind::Object && self.is_clean && key.is_some_and(has_inner) {
                field.inner = Span::new(inner, inner);
                self.records_inner = true;
            }
        } else if self.records_inner
            && self.depth == self.field_at + 1
            && let Some(field) = self.scan.inner.last_mut()
        {
            field.value = Span { start: position(at), end: 0 };
            field.kind = kind;
        }
    }

    /// The container whose last byte is before `end` closes.
    fn close(&mut self, end: usize) -> Result<(), Flaw> {
        if self.is_clean && self.kinds & 1 == 1 {
            self.forget_keys()?;
        }
        self.depth -= 1;
        self.kinds >>= 1;
        if self.depth.is_multiple_of(64) && self.depth > 0 {
            self.kinds = self.scan.workings.deep_kinds.pop().unwrap_or_default();
        }
        if self.root_is_batch && self.depth == 1 && !self.in_root {
            self.enter_root();
        }
        let end_at = position(end);
        if self.depth == self.event_at {
            self.end_event(end)?;
        } else if self.depth == self.field_at && self.records_fields {
            let inner = self.scan.inner.len();
            let list = if self.in_root { &mut self.scan.root } else { &mut self.scan.fields };
            if let Some(field) = list.last_mut() {
                field.value.end = end_at;
                if self.records_inner {
                    field.inner.end = position(inner);
                    self.records_inner = false;
                }
            }
        } else if self.records_inner
            && self.depth == self.field_at + 1
            && let Some(field) = self.scan.inner.last_mut()
        {
            field.value.end = end_at;
        }
        Ok(())
    }

    /// The keys of the closing object go; in a large one duplicates are looked for first.
    #[inline]
    fn forget_keys(&mut self) -> Result<(), Flaw> {
        let workings = &mut self.scan.workings;
        if workings.keys.len() - self.frame.keys > LINEAR_KEYS
            && let Some(at) = workings.sort_for_duplicate(self.body, self.frame.keys)
        {
            return self.flaw(Code::DuplicateKey, at as usize, "the object has this key twice");
        }
        workings.keys.truncate(self.frame.keys);
        workings.unescaped.truncate(self.frame.unescaped);
        self.frame = workings.frames.pop().unwrap_or_default();
        Ok(())
    }

    #[inline]
    fn scalar_done(
        &mut self,
        start: usize,
        end: usize,
        kind: ValueKind,
        escaped: bool,
    ) -> Result<(), Flaw> {
        let field = if self.depth == self.field_at && self.records_fields {
            if self.in_root { self.scan.root.last_mut() } else { self.scan.fields.last_mut() }
        } else if self.records_inner && self.depth == self.field_at + 1 {
            self.scan.inner.last_mut()
        } else if self.depth == self.event_at {
            return self.end_event(end);
        } else {
            return Ok(());
        };
        if let Some(field) = field {
            field.value = Span::new(start, end);
            field.kind = kind;
            field.escaped = escaped;
        }
        Ok(())
    }

    fn begin_event(&mut self, at: usize) -> Result<(), Flaw> {
        if self.scan.events.len() >= self.limits.events_max as usize {
            let what = "too many events in one request";
            return Err(Flaw { code: Code::TooMany, at: position(at), what });
        }
        let fields = self.scan.fields.len();
        self.scan.events.push(EventPlace {
            span: Span::new(at, at),
            fields: Span::new(fields, fields),
            depth: 0,
            flaw: None,
        });
        self.before_event = self.scan.workings.mark(self.frame);
        self.event_start = at;
        self.deepest = self.depth;
        self.depth_limit = self.depth.saturating_add(self.limits.depth_max);
        self.records_fields = self.body.get(at) == Some(&b'{');
        if self.records_fields {
            return Ok(());
        }
        self.flaw(Code::InvalidJson, at, "an event is a JSON object")
    }

    fn end_event(&mut self, end: usize) -> Result<(), Flaw> {
        if self.is_clean && end - self.event_start > self.limits.event_bytes_max as usize {
            self.flaw_too_large()?;
        }
        let fields = self.scan.fields.len();
        if let Some(event) = self.scan.events.last_mut() {
            event.span.end = position(end);
            event.fields.end = position(fields);
            event.depth = self.deepest - self.event_at;
        }
        self.scan.workings.reset(self.before_event);
        self.frame = self.before_event.frame;
        self.depth_limit = self.limits.depth_max;
        self.is_clean = true;
        self.records_fields = false;
        self.records_inner = false;
        Ok(())
    }
}

impl Workings {
    fn clear(&mut self) {
        self.keys.clear();
        self.keys.shrink_to(KEPT_MAX);
        self.unescaped.clear();
        self.unescaped.shrink_to(KEPT_MAX);
        self.frames.clear();
        self.deep_kinds.clear();
        self.deep_kinds.shrink_to(KEPT_MAX);
    }

    fn new_frame(&self) -> Frame {
        Frame { keys: self.keys.len(), unescaped: self.unescaped.len(), seen: 0 }
    }

    fn mark(&self, frame: Frame) -> Mark {
        Mark {
            frame,
            frames: self.frames.len(),
            keys: self.keys.len(),
            unescaped: self.unescaped.len(),
        }
    }

    fn reset(&mut self, mark: Mark) {
        self.frames.truncate(mark.frames);
        self.keys.truncate(mark.keys);
        self.unescaped.truncate(mark.unescaped);
    }

    fn text<'t>(&'t self, body: &'t [u8], key: &Key) -> &'t [u8] {
        let text = if key.is_unescaped { &self.unescaped } else { body };
        text.get(key.start as usize..key.start as usize + key.length as usize).unwrap_or_default()
    }

    /// Whether `key` is among the first keys of the object whose keys begin at `first`. Of a large
    /// object only its closing can tell.
    fn is_duplicate(&self, body: &[u8], first: usize, key: Key) -> bool {
        let keys = self.keys.get(first..).unwrap_or_default();
        keys.len() < LINEAR_KEYS
            && keys.iter().any(|other| {
                other.hash == key.hash && self.text(body, other) == self.text(body, &key)
            })
    }

    /// Where a key stands that is a duplicate, in the object whose keys begin at `first`.
    #[cold]
    fn sort_for_duplicate(&mut self, body: &[u8], first: usize) -> Option<u32> {
        let mut keys = std::mem::take(&mut self.keys);
        let own = keys.get_mut(first..).unwrap_or_default();
        own.sort_unstable_by(|a, b| {
            a.hash.cmp(&b.hash).then_with(|| self.text(body, a).cmp(self.text(body, b)))
        });
        let twice = own.array_windows().find_map(|[a, b]| {
            let same = a.hash == b.hash && self.text(body, a) == self.text(body, b);
            same.then_some(a.at.max(b.at))
        });
        self.keys = keys;
        twice
    }
}

/// Whether the scan records the members of an event's field with this key.
fn has_inner(key: &[u8]) -> bool {
    matches!(key, b"properties" | b"traits" | b"context")
}

const fn is_word(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.' | b'_' | b'$')
}

/// A hash of a short text out of its length and its first and last eight bytes. Equal hashes are
/// always compared byte by byte, so a collision costs time only, and that is bounded.
#[inline]
fn hash(buffer: &[u8], start: usize, end: usize) -> u64 {
    const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
    let length = end - start;
    let (head, tail) = if length >= 8 {
        (word(buffer, start), word(buffer, end - 8))
    } else {
        (short_word(buffer, start, length), 0)
    };
    let mixed = head ^ tail.rotate_left(29) ^ (length as u64).wrapping_mul(MIX);
    let mixed = mixed.wrapping_mul(MIX);
    (mixed ^ (mixed >> 29)).wrapping_mul(MIX)
}

fn word(buffer: &[u8], at: usize) -> u64 {
    buffer
        .get(at..)
        .and_then(|rest| rest.first_chunk::<8>())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Fewer than eight bytes, as the low ones of a word.
fn short_word(buffer: &[u8], start: usize, length: usize) -> u64 {
    if buffer.len() - start >= 8 {
        return word(buffer, start) & ((1 << (8 * length)) - 1);
    }
    let bytes = buffer.get(start..start + length).unwrap_or_default();
    bytes.iter().rev().fold(0, |word, &byte| (word << 8) | u64::from(byte))
}
