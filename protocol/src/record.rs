//! Records: what an offset counts, as bytes that are known to be good.
//!
//! A [`Record`] is a token of trust. Only this crate makes one: from a builder, from the
//! FlatBuffers verifier, or out of a batch whose checksum held. That is why reading one needs no
//! further check.

use std::fmt;

use crate::TimeMicros;
use crate::event::EventView;

/// What the bytes of a batch's records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PayloadKind {
    /// An embedder's own bytes.
    Opaque = 0,
    /// A FlatBuffers `Event`.
    Event = 1,
    /// A FlatBuffers `Rejected`.
    Rejected = 2,
    /// A key and a value, or a key that is deleted: see [`KeyValue`].
    KeyValue = 3,
}

impl PayloadKind {
    /// The kind with this number on disk and on the wire.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Opaque),
            1 => Some(Self::Event),
            2 => Some(Self::Rejected),
            3 => Some(Self::KeyValue),
            _ => None,
        }
    }
}

/// The bytes of one record, known to be good for their kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    kind: PayloadKind,
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// A record of bytes that mean nothing to Tracklog.
    #[must_use]
    pub const fn opaque(bytes: &'a [u8]) -> Self {
        Self { kind: PayloadKind::Opaque, bytes }
    }

    /// A record whose bytes are vouched for by the caller: built, verified, or under a checksum
    /// that held.
    pub(crate) const fn trusted(kind: PayloadKind, bytes: &'a [u8]) -> Self {
        Self { kind, bytes }
    }

    /// What the bytes are.
    #[must_use]
    pub const fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// When the event happened; `None` for other kinds.
    #[must_use]
    pub fn event_time(&self) -> Option<TimeMicros> {
        EventView::of(*self).map(|event| event.event_time())
    }

    /// Key and value, where that is the kind.
    #[must_use]
    pub fn key_value(&self) -> Option<KeyValue<'a>> {
        if self.kind == PayloadKind::KeyValue { KeyValue::decode(self.bytes) } else { None }
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({:?}, {} bytes)", self.kind, self.bytes.len())
    }
}

/// The bit of the key length that says that the key was deleted.
const DELETED: u32 = 1 << 31;

/// A {key, value} record: u32 LE key length (highest bit: deleted), key, value to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyValue<'a> {
    /// What `compact` goes by.
    pub key: &'a [u8],
    /// The value; `None` deletes the key.
    pub value: Option<&'a [u8]>,
}

impl<'a> KeyValue<'a> {
    /// Reads the record `bytes`; `None` when it is shorter than it says.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length);
        let (key, value) = rest.split_at_checked((length & !DELETED) as usize)?;
        match (length & DELETED != 0, value.is_empty()) {
            (false, _) => Some(Self { key, value: Some(value) }),
            (true, true) => Some(Self { key, value: None }),
            (true, false) => None,
        }
    }

    /// Writes the record into `buffer`, which it clears, and returns it.
    ///
    /// # Panics
    /// When the key has 2^31 bytes or more.
    pub fn encode<'b>(&self, buffer: &'b mut Vec<u8>) -> Record<'b> {
        let mut length = u32::try_from(self.key.len()).expect("keys are short");
        assert!(length & DELETED == 0, "keys are short");
        if self.value.is_none() {
            length |= DELETED;
        }
        buffer.clear();
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(self.key);
        buffer.extend_from_slice(self.value.unwrap_or_default());
        Record::trusted(PayloadKind::KeyValue, buffer)
    }
}
