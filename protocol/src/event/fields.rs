//! A checked walk over the text of one JSON object.
//!
//! Promises: an object that is walked to its end without [`NotAnObject`] is JSON by RFC 8259, at
//! most [`JSON_DEPTH_MAX`] deep. Never recurses, never allocates, never panics. It does not judge
//! duplicate names, lone surrogates or the size of numbers: that is the intake's business.
//!
//! The intake has a scan of its own, which also says what is wrong and where. This one is for
//! events that come from elsewhere, and checks that an index says what its text says.

use super::{PropertySpan, ValueKind};
use crate::words::find_end_of_plain;

/// How many arrays and objects may be open at once, the object itself included.
pub const JSON_DEPTH_MAX: usize = u128::BITS as usize;

/// The text is no JSON object, or too deep or too long for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON object (from byte {at})")]
pub struct NotAnObject {
    /// Where the walk stopped.
    pub at: usize,
}

/// The fields of a JSON object, in their order.
///
/// ```
/// use tracklog_protocol::event::{Fields, Property};
///
/// let text = r#"{"price": 12.50}"#;
/// let spans: Vec<_> = Fields::of(text).collect::<Result<_, _>>()?;
/// let Some(Property::Number(price)) = spans[0].value(text) else { panic!() };
/// assert_eq!(price.token(), "12.50");
/// # Ok::<(), tracklog_protocol::event::NotAnObject>(())
/// ```
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    walk: Walk<'a>,
    next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Start,
    Field,
    Nothing,
}

impl<'a> Fields<'a> {
    /// The fields of the object that is `text`, white space around it allowed.
    #[must_use]
    pub const fn of(text: &'a str) -> Self {
        Self { walk: Walk { bytes: text.as_bytes(), at: 0 }, next: Next::Start }
    }

    /// Whether `text` is one JSON value and nothing else.
    pub(super) fn is_value(text: &'a str) -> bool {
        let mut walk = Walk { bytes: text.as_bytes(), at: 0 };
        walk.value().is_some() && walk.at == walk.bytes.len()
    }

    fn advance(&mut self) -> Option<Option<PropertySpan>> {
        self.walk.skip_space();
        match self.next {
            Next::Nothing => return Some(None),
            Next::Start => {
                self.walk.take(b'{')?;
                self.walk.skip_space();
                if self.walk.take(b'}').is_some() {
                    return self.end();
                }
            }
            Next::Field => {
                if self.walk.take(b'}').is_some() {
                    return self.end();
                }
                self.walk.take(b',')?;
                self.walk.skip_space();
            }
        }
        self.next = Next::Field;
        self.walk.field().map(Some)
    }

    fn end(&mut self) -> Option<Option<PropertySpan>> {
        self.next = Next::Nothing;
        self.walk.skip_space();
        if self.walk.at == self.walk.bytes.len() { Some(None) } else { None }
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<PropertySpan, NotAnObject>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance() {
            Some(field) => field.map(Ok),
            None => {
                self.next = Next::Nothing;
                Some(Err(NotAnObject { at: self.walk.at }))
            }
        }
    }
}

/// A place in a text, and the steps over it. A step answers `None` where the text is no JSON.
#[derive(Clone, Debug)]
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        if self.peek()? != wanted {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// One name and its value.
    fn field(&mut self) -> Option<PropertySpan> {
        let name_at = self.at + 1;
        let name_escaped = self.string()?;
        let name_len = self.at - 1 - name_at;
        self.colon()?;
        let value_at = self.at;
        let kind = self.value()?;
        Some(PropertySpan {
            name_at: u32::try_from(name_at).ok()?,
            name_len: u32::try_from(name_len).ok()?,
            value_at: u32::try_from(value_at).ok()?,
            value_len: u32::try_from(self.at - value_at).ok()?,
            kind,
            name_escaped,
        })
    }

    fn colon(&mut self) -> Option<()> {
        self.skip_space();
        self.take(b':')?;
        self.skip_space();
        Some(())
    }

    fn value(&mut self) -> Option<ValueKind> {
        match self.peek()? {
            b'[' | b'{' => self.container(),
            _ => self.scalar(),
        }
    }

    fn scalar(&mut self) -> Option<ValueKind> {
        match self.peek()? {
            b'"' => self.string().map(|_| ValueKind::String),
            b't' => self.word(b"true").map(|()| ValueKind::Bool),
            b'f' => self.word(b"false").map(|()| ValueKind::Bool),
            b'n' => self.word(b"null").map(|()| ValueKind::Null),
            _ => self.number().map(|()| ValueKind::Number),
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        if !self.bytes.get(self.at..)?.starts_with(word) {
            return None;
        }
        self.at += word.len();
        Some(())
    }

    /// A string with its quotes; whether it holds a backslash.
    fn string(&mut self) -> Option<bool> {
        self.take(b'"')?;
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(self.at..)?;
            self.at += find_end_of_plain(rest).unwrap_or(rest.len());
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(escaped),
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    /// An array or object with all that is in it.
    fn container(&mut self) -> Option<ValueKind> {
        let kind = if self.peek()? == b'{' { ValueKind::Object } else { ValueKind::Array };
        let mut open = Open::default();
        loop {
            self.begin_value(&mut open)?;
            if self.end_values(&mut open)? {
                return Some(kind);
            }
        }
    }

    /// Steps over a scalar, or into containers up to the first scalar or empty container.
    fn begin_value(&mut self, open: &mut Open) -> Option<()> {
        loop {
            let (is_object, close) = match self.peek()? {
                b'{' => (true, b'}'),
                b'[' => (false, b']'),
                _ => return self.scalar().map(|_| ()),
            };
            self.at += 1;
            open.push(is_object)?;
            self.skip_space();
            if self.peek()? == close {
                return Some(());
            }
            if is_object {
                self.name()?;
            }
        }
    }

    /// Steps over whatever ends after a value; whether the outermost container did.
    fn end_values(&mut self, open: &mut Open) -> Option<bool> {
        loop {
            self.skip_space();
            let byte = self.peek()?;
            self.at += 1;
            match (byte, open.is_object()) {
                (b',', is_object) => {
                    self.skip_space();
                    if is_object {
                        self.name()?;
                    }
                    return Some(false);
                }
                (b'}', true) | (b']', false) => {
                    if open.pop() {
                        return Some(true);
                    }
                }
                _ => return None,
            }
        }
    }

    fn name(&mut self) -> Option<()> {
        self.string()?;
        self.colon()
    }
}

/// The containers that are open: a bit each, set for objects, the innermost lowest.
#[derive(Default)]
struct Open {
    objects: u128,
    depth: usize,
}

impl Open {
    fn push(&mut self, is_object: bool) -> Option<()> {
        // The object that is walked is one of those that may be open.
        if self.depth + 1 == JSON_DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(is_object);
        Some(())
    }

    /// Closes the innermost; whether it was the last.
    fn pop(&mut self) -> bool {
        self.depth -= 1;
        self.objects >>= 1;
        self.depth == 0
    }

    fn is_object(&self) -> bool {
        self.objects & 1 == 1
    }
}
