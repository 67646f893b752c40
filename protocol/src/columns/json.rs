//! JSON texts as shapes: keys, punctuation and white space stay, each scalar is a leaf.
//!
//! A leaf goes by its path, so that the same field of differently shaped texts is one column. What
//! is no JSON is found to be so at some point, or cut in odd ways: both come back as they were.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::words::find_quote_or_backslash;

/// A scalar in a text: of a string what is between its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) at: Range<usize>,
    /// The hash of the keys that lead to it; elements of an array go by the same one.
    pub(super) path: u64,
}

/// Deeper texts are not cut.
const DEPTH_MAX: usize = 64;

/// Finds the leaves of `text`. False where it is not to be cut.
pub(super) fn find_leaves(text: &[u8], leaves: &mut Vec<Leaf>) -> bool {
    leaves.clear();
    let mut walk = Walk { text, at: 0, open: Vec::new(), key: 0, wants_key: false };
    while walk.at < text.len() {
        if walk.step(leaves).is_none() {
            return false;
        }
    }
    walk.open.is_empty()
}

/// The length of the leaf at the beginning of `text`; `None` where a string has no end.
pub(super) fn leaf_bytes(text: &[u8], is_string: bool) -> Option<usize> {
    if !is_string {
        return Some(text.iter().take_while(|byte| IS_SCALAR[usize::from(**byte)]).count());
    }
    let mut at = 0;
    loop {
        let stop = find_quote_or_backslash(text.get(at..)?)?;
        if text.get(at + stop) == Some(&b'"') {
            return Some(at + stop);
        }
        at += stop + 2;
    }
}

struct Walk<'a> {
    text: &'a [u8],
    at: usize,
    open: Vec<Open>,
    /// The path of the value that comes.
    key: u64,
    wants_key: bool,
}

/// An array or object that is open, and its path.
#[derive(Clone, Copy)]
struct Open {
    path: u64,
    is_object: bool,
}

impl Walk<'_> {
    fn step(&mut self, leaves: &mut Vec<Leaf>) -> Option<()> {
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        match byte {
            b'{' | b'[' => self.begin(byte == b'{'),
            b'}' | b']' => self.open.pop().map(|_| self.wants_key = false),
            b',' => {
                let open = self.open.last()?;
                self.wants_key = open.is_object;
                self.key = open.path;
                Some(())
            }
            b':' | b' ' | b'\n' | b'\r' | b'\t' => Some(()),
            b'"' => self.string(leaves),
            _ => {
                let start = self.at - 1;
                self.at += leaf_bytes(self.rest(), false)?;
                self.leaf(start..self.at, leaves)
            }
        }
    }

    fn begin(&mut self, is_object: bool) -> Option<()> {
        if self.open.len() == DEPTH_MAX || self.wants_key {
            return None;
        }
        let path = xxh3_64_with_seed(if is_object { b"{" } else { b"[" }, self.key);
        self.open.push(Open { path, is_object });
        self.key = path;
        self.wants_key = is_object;
        Some(())
    }

    fn string(&mut self, leaves: &mut Vec<Leaf>) -> Option<()> {
        let start = self.at;
        self.at += leaf_bytes(self.rest(), true)?;
        let content = start..self.at;
        self.at += 1;
        if self.wants_key {
            self.wants_key = false;
            self.key = xxh3_64_with_seed(self.text.get(content)?, self.open.last()?.path);
            return Some(());
        }
        self.leaf(content, leaves)
    }

    fn leaf(&self, at: Range<usize>, leaves: &mut Vec<Leaf>) -> Option<()> {
        // One outside of everything: no text that is worth it.
        self.open.last().filter(|_| !self.wants_key)?;
        leaves.push(Leaf { at, path: self.key });
        Some(())
    }

    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }
}

/// Whether a byte may stand in a scalar that is no string.
static IS_SCALAR: [bool; 256] = {
    let mut are = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        are[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        byte += 1;
    }
    are
};

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(text: &str) -> Option<Vec<(String, u64)>> {
        let mut leaves = Vec::new();
        let is_cut = find_leaves(text.as_bytes(), &mut leaves);
        is_cut
            .then(|| leaves.into_iter().map(|leaf| (text[leaf.at].to_owned(), leaf.path)).collect())
    }

    #[test]
    fn scalars_are_leaves_and_the_same_path_is_the_same_whatever_stands_beside_it() {
        let one = leaves(r#"{"a":1,"b":{"c":"x \" y"},"d":[true,null]}"#).unwrap();
        let texts: Vec<_> = one.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["1", "x \\\" y", "true", "null"]);
        assert_eq!(one[2].1, one[3].1, "elements of an array go by one path");
        let other = leaves(r#"{ "z":{}, "b" : { "c" : -1.5e3 } }"#).unwrap();
        assert_eq!(other, [("-1.5e3".to_owned(), one[1].1)]);
        assert_ne!(one[0].1, one[1].1);
    }

    #[test]
    fn what_is_no_object_is_not_cut() {
        for text in ["{\"a", "{", "}", "1", "\"a\"", "{\"a\\", "{1:2}", "{{}}", "\u{7f}"] {
            assert_eq!(leaves(text), None, "{text}");
        }
        assert_eq!(leaves(&"[".repeat(DEPTH_MAX + 1)), None);
    }
}
