//! What a browser says of itself: the agent string and the client hints, as far as they are read.
//! It is the key of the cache, borrowed to look up and owned to keep.

use quick_cache::Equivalent;
use tracklog_protocol::event::EventView;

use crate::enrich::text::cut;

/// Of an agent string, this much is read: more than any browser's has, and little enough that the
/// worst made on purpose takes the rules some milliseconds.
pub const AGENT_BYTES_MAX: usize = 1 << 10;
/// A client hint that is longer is not read.
pub const HINT_BYTES_MAX: usize = 512;

/// The client hints that are read, by their place in [`Texts::hints`].
#[derive(Clone, Copy)]
pub(super) enum Hint {
    Brands,
    Mobile,
    Platform,
    PlatformVersion,
    Model,
    FullVersions,
}

const HINTS: usize = 6;

impl Hint {
    /// The hint of that header, its name in lower case.
    fn of_header(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("sec-ch-ua")? {
            "" => Self::Brands,
            "-mobile" => Self::Mobile,
            "-platform" => Self::Platform,
            "-platform-version" => Self::PlatformVersion,
            "-model" => Self::Model,
            "-full-version-list" => Self::FullVersions,
            _ => return None,
        })
    }
}

/// Whether the header of this name, in lower case, is a hint.
pub(super) fn is_hint(name: &str) -> bool {
    Hint::of_header(name).is_some()
}

/// An agent string and its hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Texts<T> {
    agent: T,
    hints: [Option<T>; HINTS],
}

/// As it lies in the event.
pub(super) type Said<'a> = Texts<&'a str>;
/// As it is kept.
pub(super) type OwnedSaid = Texts<Box<str>>;

impl<'a> Said<'a> {
    /// What the sender of `event` said; `None` when it said nothing. Only the browsers that are
    /// built on Chromium send hints: beside another agent they are somebody else's.
    pub(super) fn by(event: &EventView<'a>) -> Option<Self> {
        let mut said = Self::agent_alone(event.user_agent()?)?;
        let mut hints = [None; HINTS];
        for (name, value) in event.headers() {
            let hint = Hint::of_header(name).filter(|_| value.len() <= HINT_BYTES_MAX);
            if let Some(hint) = hint {
                hints[hint as usize].get_or_insert(value);
            }
        }
        if hints.iter().any(Option::is_some) && said.agent.contains("Chrome/") {
            said.hints = hints;
        }
        Some(said)
    }

    /// An agent string without hints.
    pub(super) fn agent_alone(agent: &'a str) -> Option<Self> {
        let agent = cut(agent, AGENT_BYTES_MAX).trim();
        let says_something = !matches!(agent, "" | "-");
        says_something.then_some(Self { agent, hints: [None; HINTS] })
    }

    pub(super) const fn agent(&self) -> &'a str {
        self.agent
    }

    pub(super) const fn hint(&self, hint: Hint) -> Option<&'a str> {
        self.hints[hint as usize]
    }

    pub(super) fn kept(self) -> OwnedSaid {
        Texts { agent: self.agent.into(), hints: self.hints.map(|hint| hint.map(Into::into)) }
    }
}

impl OwnedSaid {
    pub(super) fn byte_count(&self) -> usize {
        self.agent.len() + self.hints.iter().flatten().map(|hint| hint.len()).sum::<usize>()
    }
}

impl Equivalent<OwnedSaid> for Said<'_> {
    fn equivalent(&self, other: &OwnedSaid) -> bool {
        let hints = self.hints.iter().zip(&other.hints);
        *self.agent == *other.agent && hints.into_iter().all(|(a, b)| *a == b.as_deref())
    }
}
