//! What the client called.

use std::fmt;

use crate::generated::event as raw;

/// The six calls of the tracking APIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Something was done.
    #[default]
    Track,
    /// Who the user is.
    Identify,
    /// A page was seen.
    Page,
    /// A screen of an app was seen.
    Screen,
    /// Which group the user belongs to.
    Group,
    /// Two ids are the same user.
    Alias,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Track, Self::Identify, Self::Page, Self::Screen, Self::Group, Self::Alias];

    /// As clients write it in `type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
        }
    }

    /// What an event of this kind goes by where it has no name of its own: for schemas, rules and
    /// figures. Empty for [`Track`](Self::Track), which has none without a name.
    #[must_use]
    pub const fn nameless(self) -> &'static str {
        match self {
            Self::Track => "",
            Self::Identify => "$identify",
            Self::Page => "$page",
            Self::Screen => "$screen",
            Self::Group => "$group",
            Self::Alias => "$alias",
        }
    }

    /// The kind that clients write so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub(super) const fn to_raw(self) -> raw::Kind {
        match self {
            Self::Track => raw::Kind::Track,
            Self::Identify => raw::Kind::Identify,
            Self::Page => raw::Kind::Page,
            Self::Screen => raw::Kind::Screen,
            Self::Group => raw::Kind::Group,
            Self::Alias => raw::Kind::Alias,
        }
    }

    pub(super) const fn from_raw(kind: raw::Kind) -> Option<Self> {
        match kind {
            raw::Kind::Track => Some(Self::Track),
            raw::Kind::Identify => Some(Self::Identify),
            raw::Kind::Page => Some(Self::Page),
            raw::Kind::Screen => Some(Self::Screen),
            raw::Kind::Group => Some(Self::Group),
            raw::Kind::Alias => Some(Self::Alias),
            _ => None,
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
