//! What was done to an event on its way in, a bit each.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of marks. Bits are given once; unknown ones, of newer programs, are kept.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct EventFlags(u32);

impl EventFlags {
    /// No mark.
    pub const NONE: Self = Self(0);
    /// The client said no time: the event time is the received time.
    pub const TIME_GUESSED: Self = Self(1);
    /// The event time was moved by the skew between the client's clock and ours.
    pub const SKEW_CORRECTED: Self = Self(1 << 1);
    /// The client's time was out of range, corrected or not: the received time stands instead.
    pub const TIME_OUT_OF_RANGE: Self = Self(1 << 2);
    /// The client's time is stored as said, because it declared it true.
    pub const TIME_DECLARED: Self = Self(1 << 3);
    /// The client's `sentAt` could not be read.
    pub const SENT_TIME_UNUSABLE: Self = Self(1 << 4);
    /// The client sent before the event happened, by its own clock: the received time stands.
    pub const SENT_BEFORE_EVENT: Self = Self(1 << 5);
    /// The client sent no message id, so one was made.
    pub const ID_MADE: Self = Self(1 << 6);
    /// User ids are hashed, as the source wants it.
    pub const USER_ID_HASHED: Self = Self(1 << 7);
    /// Addresses are cut to their network, as the source wants it.
    pub const ADDRESS_TRUNCATED: Self = Self(1 << 8);
    /// Addresses are left out, as the source wants it.
    pub const ADDRESS_DROPPED: Self = Self(1 << 9);
    /// `context` or `integrations` hold what the batch said for all its events, so that the text
    /// is not the one sent.
    pub const ROOT_MERGED: Self = Self(1 << 10);
    /// `client_time_text` is the bare JSON token: the client sent no string.
    pub const CLIENT_TIME_BARE: Self = Self(1 << 11);
    /// `sent_time_text` is the bare JSON token: the client sent no string.
    pub const SENT_TIME_BARE: Self = Self(1 << 12);
    /// Another event with this message id, and another content, was stored before.
    pub const ID_REUSED: Self = Self(1 << 13);

    /// Each known mark and its name in lines of JSON.
    const NAMES: [(Self, &'static str); 14] = [
        (Self::TIME_GUESSED, "timeGuessed"),
        (Self::SKEW_CORRECTED, "skewCorrected"),
        (Self::TIME_OUT_OF_RANGE, "timeOutOfRange"),
        (Self::TIME_DECLARED, "timeDeclared"),
        (Self::SENT_TIME_UNUSABLE, "sentAtUnusable"),
        (Self::SENT_BEFORE_EVENT, "sentBeforeEvent"),
        (Self::ID_MADE, "idMade"),
        (Self::USER_ID_HASHED, "userIdHashed"),
        (Self::ADDRESS_TRUNCATED, "addressTruncated"),
        (Self::ADDRESS_DROPPED, "addressDropped"),
        (Self::ROOT_MERGED, "rootMerged"),
        (Self::CLIENT_TIME_BARE, "timestampBare"),
        (Self::SENT_TIME_BARE, "sentAtBare"),
        (Self::ID_REUSED, "idReused"),
    ];

    /// The set with these bits.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits, as stored.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether no mark is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all marks of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set and the marks of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names of the known marks that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

impl BitOr for EventFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl BitOrAssign for EventFlags {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.with(other);
    }
}

impl fmt::Debug for EventFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventFlags({:#x}", self.0)?;
        self.names().try_for_each(|name| write!(f, " {name}"))?;
        f.write_str(")")
    }
}
