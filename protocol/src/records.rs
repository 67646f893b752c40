//! Records side by side: what a builder made, one after the other, kept until they are appended.

use std::fmt;

use crate::{PayloadKind, Record};

/// Records in one piece of memory, which is kept when they are cleared.
#[derive(Clone, Default)]
pub struct Records {
    bytes: Vec<u8>,
    /// What each is, and where it ends.
    ends: Vec<(PayloadKind, usize)>,
}

impl Records {
    /// No records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Copies `record` to the end.
    pub fn push(&mut self, record: Record<'_>) {
        self.bytes.extend_from_slice(record.bytes());
        self.ends.push((record.kind(), self.bytes.len()));
    }

    /// The record with this index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        let &(kind, end) = self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before].1);
        // Trusted as it came: the bytes are those of the record that was pushed.
        Some(Record::trusted(kind, &self.bytes[start..end]))
    }

    /// All records, in the order pushed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        (0..self.len()).map(|index| self.get(index).expect("the index is below the count"))
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes they have together.
    #[must_use]
    pub const fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Removes all but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.bytes.truncate(self.ends.last().map_or(0, |(_, end)| *end));
    }

    /// Removes all, and keeps at most `bytes_kept` of their memory.
    pub fn clear(&mut self, bytes_kept: usize) {
        self.bytes.clear();
        self.ends.clear();
        self.bytes.shrink_to(bytes_kept);
        self.ends.shrink_to(bytes_kept / 64);
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records({} records, {} bytes)", self.len(), self.byte_count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_pushed() {
        let mut records = Records::new();
        for text in ["one", "", "three"] {
            records.push(Record::opaque(text.as_bytes()));
        }
        let texts: Vec<_> = records.iter().map(|record| record.bytes().to_vec()).collect();
        assert_eq!(texts, [&b"one"[..], b"", b"three"]);
        assert_eq!(records.get(3), None);
        records.truncate(2);
        assert_eq!((records.len(), records.byte_count()), (2, 3));
        records.push(Record::opaque(b"four"));
        assert_eq!(records.get(2), Some(Record::opaque(b"four")));
        records.clear(0);
        assert!(records.is_empty());
    }
}
