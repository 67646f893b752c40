//! Texts looked through eight bytes at a time, for the few bytes that end a stretch of JSON.
//!
//! A question is asked of eight bytes at once, as of one little-endian number. The answer has the
//! highest bit of a byte set where it is one of those; of the lowest such byte that holds, above it
//! an answer may say too much. So only the lowest is looked at.

const LOWEST: u64 = u64::from_le_bytes([0x01; 8]);
const HIGHEST: u64 = u64::from_le_bytes([0x80; 8]);

/// Where the first quote or backslash is.
#[inline]
pub(crate) fn find_quote_or_backslash(text: &[u8]) -> Option<usize> {
    find(text, |word| equal(word, b'"') | equal(word, b'\\'))
}

/// Where the first byte is that a JSON string does not hold as it is: a quote, a backslash, or a
/// control character.
#[inline]
pub(crate) fn find_end_of_plain(text: &[u8]) -> Option<usize> {
    find(text, |word| equal(word, b'"') | equal(word, b'\\') | below(word, 0x20))
}

/// Where the first decimal digit is.
#[inline]
pub(crate) fn find_digit(text: &[u8]) -> Option<usize> {
    find(text, |word| below(word ^ (LOWEST * 0x30), 10))
}

#[inline]
fn find(text: &[u8], ask: impl Fn(u64) -> u64) -> Option<usize> {
    let mut at = 0;
    while let Some(eight) = text.get(at..).and_then(|rest| rest.first_chunk()) {
        let answer = ask(u64::from_le_bytes(*eight));
        if answer != 0 {
            return Some(at + first(answer));
        }
        at += 8;
    }
    let rest = text.get(at..).unwrap_or_default();
    let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    // The zeros behind the end may be among what is asked for.
    let found = Some(ask(word)).filter(|answer| *answer != 0).map(first);
    found.filter(|found| *found < rest.len()).map(|found| at + found)
}

const fn first(answer: u64) -> usize {
    answer.trailing_zeros() as usize / 8
}

const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (LOWEST * byte as u64), 1)
}

/// Bytes below `bound`, which is at most 128.
const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(LOWEST * bound as u64) & !word & HIGHEST
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_found_is_what_a_look_at_each_byte_finds(
            text in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), b'+'..=b'>'], 0..40),
        ) {
            let first = |is: fn(&u8) -> bool| text.iter().position(is);
            let quote = first(|byte| matches!(byte, b'"' | b'\\'));
            prop_assert_eq!(find_quote_or_backslash(&text), quote);
            let end = first(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            prop_assert_eq!(find_end_of_plain(&text), end);
            prop_assert_eq!(find_digit(&text), first(u8::is_ascii_digit));
        }
    }
}
