//! What state is kept: the value of a key, and how a change is joined with it.
//!
//! A change and what it leads to are of one kind and have the same bytes: to apply a change is to
//! join it with what is there. So no change depends on what its writer had read, and two
//! partitions may change one user at once.

use std::sync::Arc;

use tracklog_protocol::TimeMicros;

use super::bytes::Reader;
use super::key::{ID_BYTES_MAX, KeyKind};
use super::traits::Traits;
use super::visits::Visits;

/// What an allocator takes for a block besides its bytes: a word, and what rounds it up.
pub(super) const BLOCK_BYTES: usize = 16;
/// A block that is shared counts in two words who has a share in it.
const SHARED_BYTES: usize = BLOCK_BYTES + 2 * size_of::<usize>();

/// The user whom an id leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The user.
    pub user: Arc<str>,
    /// The time of the event that said so. A later one holds.
    pub time: TimeMicros,
}

/// The value of one key. Cheap to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Link(Arc<Link>),
    Traits(Arc<Traits>),
    Visits(Arc<Visits>),
}

impl Entry {
    /// `newer`, which comes later in the changelog, joined with what is there; and how much of it
    /// was dropped.
    pub(super) fn join(known: Option<&Self>, newer: &Self) -> (Self, u64) {
        match (known, newer) {
            (Some(Self::Link(known)), Self::Link(newer)) if newer.time < known.time => {
                (Self::Link(Arc::clone(known)), 0)
            }
            (Some(Self::Traits(known)), Self::Traits(newer)) => {
                let (joined, dropped) = known.join(newer);
                (Self::Traits(Arc::new(joined)), dropped)
            }
            _ => (newer.clone(), 0),
        }
    }

    /// Whether a join with it is it, whatever was there.
    pub(super) const fn replaces(&self) -> bool {
        matches!(self, Self::Visits(_))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Link(link) => {
                out.extend_from_slice(&link.time.0.to_le_bytes());
                out.extend_from_slice(link.user.as_bytes());
            }
            Self::Traits(traits) => out.extend_from_slice(traits.encoded()),
            Self::Visits(visits) => visits.encode(out),
        }
    }

    /// The value `bytes` of a key of this kind.
    pub(super) fn decode(kind: KeyKind, bytes: &[u8]) -> Option<Self> {
        match kind {
            KeyKind::AnonymousLink | KeyKind::UserLink => {
                let mut reader = Reader(bytes);
                let time = TimeMicros(reader.i64()?);
                let user = reader.text(reader.0.len()).filter(|id| id.len() <= ID_BYTES_MAX)?;
                Some(Self::Link(Arc::new(Link { user: user.into(), time })))
            }
            KeyKind::UserTraits | KeyKind::GroupTraits => {
                Traits::decode(bytes).map(|traits| Self::Traits(Arc::new(traits)))
            }
            KeyKind::Visits => Visits::decode(bytes).map(|visits| Self::Visits(Arc::new(visits))),
        }
    }

    /// About what it takes in memory, as if nobody else had a share in it.
    pub(super) fn byte_count(&self) -> usize {
        match self {
            Self::Link(link) => SHARED_BYTES + size_of::<Link>() + SHARED_BYTES + link.user.len(),
            // What is encoded is a block of its own, and the text that is made of it another.
            Self::Traits(traits) => {
                let blocks = 2 * SHARED_BYTES + BLOCK_BYTES;
                blocks + size_of::<Traits>() + traits.byte_count()
            }
            Self::Visits(visits) => {
                let pages = visits.landing_pages();
                let pages: usize = pages.map(|page| SHARED_BYTES + page.len()).sum();
                SHARED_BYTES + size_of::<Visits>() + pages
            }
        }
    }
}
