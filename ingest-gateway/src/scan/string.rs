//! Strings and white space: skipping over them eight bytes at a time, and reading escapes.
//!
//! The word-wise tests mark a byte with its highest bit. A borrow may mark a byte wrongly only
//! above one that is marked rightly, and only the lowest mark is used, so the answer is exact.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Marks the first byte of `word` that ends a plain stretch of a string: a quote, a backslash, or
/// a control character.
const fn stops(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let found = (quote.wrapping_sub(ONES) & !quote)
        | (backslash.wrapping_sub(ONES) & !backslash)
        | (word.wrapping_sub(ONES * 0x20) & !word);
    found & HIGHS
}

/// The first byte at or after `at` that is not plain text of a string, or the end.
#[inline(always)]
pub(super) fn skip_plain(body: &[u8], mut at: usize) -> usize {
    while let Some(word) = body.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let marks = stops(u64::from_le_bytes(*word));
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while body.get(at).is_some_and(|&byte| byte != b'"' && byte != b'\\' && byte >= 0x20) {
        at += 1;
    }
    at
}

/// The closing quote of the string that opens at `at`, or the end. For text that was scanned.
pub(crate) fn end(body: &[u8], at: usize) -> usize {
    let mut at = skip_plain(body, at + 1);
    loop {
        match body.get(at) {
            Some(b'\\') => at = skip_plain(body, at + 2),
            Some(&byte) if byte != b'"' => at = skip_plain(body, at + 1),
            _ => return at,
        }
    }
}

/// The first byte at or after `at` that is not white space, or the end.
#[inline(always)]
pub(super) fn skip_white(body: &[u8], mut at: usize) -> usize {
    while body.get(at).is_some_and(|&byte| byte <= b' ' && is_white(byte)) {
        at += 1;
    }
    at
}

/// One after the last byte that is not white space.
pub(super) fn trim_end(body: &[u8]) -> usize {
    body.iter().rposition(|&byte| !is_white(byte)).map_or(0, |last| last + 1)
}

const fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// What a backslash begins.
pub(super) enum Escape {
    /// A character, and the bytes that spell it.
    Character(char, usize),
    /// Half of a surrogate pair, and the bytes that spell it.
    Lone(usize),
    /// No escape; the bytes to skip.
    Bad(usize),
}

/// Reads the escape whose backslash is at `at`.
pub(super) fn escape(body: &[u8], at: usize) -> Escape {
    let character = match body.get(at + 1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_escape(body, at),
        // Not the byte after: it may be the first of a character, or a line's end.
        _ => return Escape::Bad(1),
    };
    Escape::Character(character, 2)
}

fn unicode_escape(body: &[u8], at: usize) -> Escape {
    let Some(first) = hex4(body, at + 2) else {
        return Escape::Bad(2);
    };
    if let Some(character) = char::from_u32(first) {
        return Escape::Character(character, 6);
    }
    let second = match body.get(at + 6..at + 8) {
        Some(b"\\u") if first < 0xDC00 => hex4(body, at + 8),
        _ => None,
    };
    match second {
        Some(second @ 0xDC00..=0xDFFF) => {
            let scalar = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            char::from_u32(scalar).map_or(Escape::Lone(6), |it| Escape::Character(it, 12))
        }
        _ => Escape::Lone(6),
    }
}

fn hex4(body: &[u8], at: usize) -> Option<u32> {
    body.get(at..at + 4)?
        .iter()
        .try_fold(0, |value, &byte| Some(value * 16 + char::from(byte).to_digit(16)?))
}

/// Appends what the text between the quotes of a string says to `out`. Escapes that are none are
/// left as they stand; scanned text has none.
pub(super) fn unescape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = 0;
    while let Some(found) = text.get(rest..).and_then(|t| t.iter().position(|&b| b == b'\\')) {
        let at = rest + found;
        out.extend_from_slice(text.get(rest..at).unwrap_or_default());
        rest = match escape(text, at) {
            Escape::Character(character, length) => {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                at + length
            }
            Escape::Lone(length) | Escape::Bad(length) => {
                out.extend_from_slice(text.get(at..at + length).unwrap_or_default());
                at + length
            }
        };
    }
    out.extend_from_slice(text.get(rest..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stop_is_found_wherever_it_lies() {
        for stop in [b'"', b'\\', 0, 0x1f, b'\n'] {
            for before in 0..20 {
                for after in 0..20 {
                    let mut body = vec![0x80u8; before];
                    body.push(stop);
                    body.extend(std::iter::repeat_n(b'!', after));
                    assert_eq!(skip_plain(&body, 0), before);
                }
            }
        }
    }

    #[test]
    fn every_other_byte_is_plain() {
        for byte in 0x20..=0xff {
            if byte != b'"' && byte != b'\\' {
                assert_eq!(skip_plain(&[byte; 17], 0), 17, "{byte:#x}");
            }
        }
    }

    #[test]
    fn escapes_read_as_the_standard_says() {
        let mut out = Vec::new();
        unescape(br#"a\"\\\/\b\f\n\r\t\u00e9\u20AC\ud83d\ude00z"#, &mut out);
        assert_eq!(out, "a\"\\/\u{8}\u{c}\n\r\té€😀z".as_bytes());
    }
}
