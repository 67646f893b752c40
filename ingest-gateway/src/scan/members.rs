//! The members of one object, out of text that the scan passed. For the few objects whose inner
//! fields the scan does not record.

use super::{ValueKind, string};

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The key between its quotes, as sent.
    pub key: &'a str,
    /// The whole value, quotes or brackets included.
    pub value: &'a str,
    /// What the value is.
    pub kind: ValueKind,
}

/// Goes over the members of an object. Ends early on text that is none; never panics.
#[derive(Clone, Debug)]
pub struct Members<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Members<'a> {
    /// The members of the object `text`; none if it is something else.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let start = string::skip_white(text.as_bytes(), 0);
        let is_object = text.as_bytes().get(start) == Some(&b'{');
        Self { text, at: if is_object { start + 1 } else { text.len() } }
    }

    /// The member with this key, spelt without escapes.
    #[must_use]
    pub fn find(text: &'a str, key: &str) -> Option<Member<'a>> {
        Self::of(text).find(|member| member.key == key)
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let bytes = self.text.as_bytes();
        let key_start = skip_to(bytes, self.at, b'"')?;
        let key_end = string::end(bytes, key_start);
        let colon = skip_to(bytes, key_end + 1, b':')?;
        let start = string::skip_white(bytes, colon + 1);
        let (end, kind) = value_end(bytes, start)?;
        self.at = end;
        Some(Member {
            key: self.text.get(key_start + 1..key_end)?,
            value: self.text.get(start..end)?,
            kind,
        })
    }
}

/// The place of `byte`, if only white space and a comma lie before it.
fn skip_to(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    let mut at = string::skip_white(bytes, at);
    if bytes.get(at) == Some(&b',') {
        at = string::skip_white(bytes, at + 1);
    }
    (bytes.get(at) == Some(&byte)).then_some(at)
}

fn value_end(bytes: &[u8], start: usize) -> Option<(usize, ValueKind)> {
    let word = |kind| {
        let rest = bytes.get(start..)?;
        let length = rest.iter().position(|&b| matches!(b, b',' | b'}' | b']') || b <= b' ');
        Some((start + length.unwrap_or(rest.len()), kind))
    };
    match bytes.get(start)? {
        b'"' => Some((string::end(bytes, start) + 1, ValueKind::String)),
        b'{' => Some((container_end(bytes, start)?, ValueKind::Object)),
        b'[' => Some((container_end(bytes, start)?, ValueKind::Array)),
        b't' => word(ValueKind::True),
        b'f' => word(ValueKind::False),
        b'n' => word(ValueKind::Null),
        _ => word(ValueKind::Number),
    }
}

fn container_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = start;
    loop {
        match bytes.get(at)? {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b'"' => at = string::end(bytes, at),
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_in_order_with_their_exact_text() {
        let text = " { \"a\" : 1 ,\n\"b\\\"\":\"x\\\"}\", \"c\":{\"d\":[{}, \"]\"]},\"e\":null , \"f\":true}";
        let members: Vec<_> =
            Members::of(text).map(|member| (member.key, member.value, member.kind)).collect();
        assert_eq!(
            members,
            [
                ("a", "1", ValueKind::Number),
                ("b\\\"", "\"x\\\"}\"", ValueKind::String),
                ("c", "{\"d\":[{}, \"]\"]}", ValueKind::Object),
                ("e", "null", ValueKind::Null),
                ("f", "true", ValueKind::True),
            ]
        );
    }

    #[test]
    fn text_that_is_no_object_has_no_members() {
        for text in ["", "[1]", "null", "\"{\"", "{", "{\"a", "{\"a\"", "{\"a\":", "{\"a\":[", "{}"]
        {
            assert_eq!(Members::of(text).count(), 0, "{text}");
        }
    }
}
