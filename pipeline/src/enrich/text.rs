//! Texts that others wrote: cut, decoded, walked. Nothing in them is taken to be well-formed.

use std::borrow::Cow;

use tracklog_protocol::event::{Fields, Property};

/// The longest beginning of `text` of at most `bytes_max` bytes that cuts no character.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The members of a JSON object, up to where it is none.
pub(super) fn members(text: &str) -> impl Iterator<Item = (Cow<'_, str>, Property<'_>)> {
    let spans = Fields::of(text).map_while(Result::ok);
    spans.filter_map(|span| Some((span.name(text)?, span.value(text)?)))
}

/// A name or a value of a query, decoded: `%XX` and `+`. What is no such code stands for itself,
/// and what is no UTF-8 then becomes U+FFFD.
pub(super) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let (byte, behind) = match (first, behind) {
            (b'+', _) => (b' ', behind),
            (b'%', [high, low, behind @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, behind),
                _ => (b'%', &rest[1..]),
            },
            (byte, _) => (*byte, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
    match String::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned().into(),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_code_stands_for_itself() {
        assert_eq!(decode("a%20b+c%C3%BC"), "a b cü");
        assert_eq!(decode("100%+%-%4"), "100% %-%4");
        assert_eq!(decode("%ff"), "\u{fffd}");
        assert_eq!(decode("%+1"), "% 1", "no sign is a digit");
    }
}
