//! What state is kept of: the keys, in the changelog and in the store alike.
//!
//! Bytes: FORMAT.md, section *State*. A key begins with the byte of its kind; ids follow as sent.

/// Longer ids are kept in events and looked up nowhere.
pub const ID_BYTES_MAX: usize = 512;
/// A source's name is shorter; what is longer has no state.
const SOURCE_BYTES_MAX: usize = 512;

/// What a key is of. The numbers stand in the changelog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum KeyKind {
    AnonymousLink = 1,
    UserLink = 2,
    UserTraits = 3,
    GroupTraits = 4,
    Visits = 5,
}

impl KeyKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::AnonymousLink),
            2 => Some(Self::UserLink),
            3 => Some(Self::UserTraits),
            4 => Some(Self::GroupTraits),
            5 => Some(Self::Visits),
            _ => None,
        }
    }

    /// The kind that the first byte of `key` names.
    pub(super) fn of(key: &[u8]) -> Option<Self> {
        Self::from_byte(*key.first()?)
    }
}

/// An id that leads to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkId<'a> {
    /// A device's or browser's.
    Anonymous(&'a str),
    /// A user's own, which an alias joined with another.
    User(&'a str),
}

/// Who has traits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entity<'a> {
    /// A user.
    User(&'a str),
    /// A group of users.
    Group(&'a str),
}

impl<'a> Entity<'a> {
    /// The id's text.
    #[must_use]
    pub const fn id(&self) -> &'a str {
        match self {
            Self::User(id) | Self::Group(id) => id,
        }
    }
}

/// Whose visits are counted: somebody at one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Visitor<'a> {
    /// The source.
    pub source: &'a str,
    /// The device, or the user where there is none.
    pub id: LinkId<'a>,
}

impl<'a> LinkId<'a> {
    /// The id's text.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        match self {
            Self::Anonymous(id) | Self::User(id) => id,
        }
    }

    const fn kind(&self) -> KeyKind {
        match self {
            Self::Anonymous(_) => KeyKind::AnonymousLink,
            Self::User(_) => KeyKind::UserLink,
        }
    }
}

/// Something that has a key.
pub(super) trait Keyed {
    /// Writes the key into `key`, which it clears. `false`: an id is too long to have one.
    fn write_key(&self, key: &mut Vec<u8>) -> bool;
}

fn write(key: &mut Vec<u8>, kind: KeyKind, id: &str) -> bool {
    key.clear();
    key.push(kind as u8);
    key.extend_from_slice(id.as_bytes());
    id.len() <= ID_BYTES_MAX
}

impl Keyed for LinkId<'_> {
    fn write_key(&self, key: &mut Vec<u8>) -> bool {
        write(key, self.kind(), self.as_str())
    }
}

impl Keyed for Entity<'_> {
    fn write_key(&self, key: &mut Vec<u8>) -> bool {
        match self {
            Self::User(id) => write(key, KeyKind::UserTraits, id),
            Self::Group(id) => write(key, KeyKind::GroupTraits, id),
        }
    }
}

impl Keyed for Visitor<'_> {
    fn write_key(&self, key: &mut Vec<u8>) -> bool {
        let id = self.id.as_str();
        if self.source.len() > SOURCE_BYTES_MAX || id.len() > ID_BYTES_MAX {
            return false;
        }
        key.clear();
        key.extend_from_slice(&[KeyKind::Visits as u8, self.id.kind() as u8]);
        let source_bytes = u16::try_from(self.source.len()).expect("checked above");
        key.extend_from_slice(&source_bytes.to_le_bytes());
        key.extend_from_slice(self.source.as_bytes());
        key.extend_from_slice(id.as_bytes());
        true
    }
}
