//! What one source of events may send, and what becomes of it: its rules, as plain data.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::scan::ScanLimits;

/// The rules of one source. Made from the configuration; read by the intake for each request.
#[derive(Clone, Debug, Default)]
pub struct SourceRules {
    /// The name, as it goes into each event.
    pub name: String,
    /// What becomes of events without a schema.
    pub unknown_events: UnknownEvents,
    /// What is stored of user ids.
    pub user_id: UserIdRule,
    /// What is stored of addresses.
    pub ip: IpRule,
    /// Fields that each event must have.
    pub require: Vec<Required>,
    /// Whether rejected events keep their bytes; `None`: only if no privacy rule rewrites any.
    pub keep_rejected_bytes: Option<bool>,
    /// Sizes of events and batches.
    pub limits: ScanLimits,
}

impl SourceRules {
    /// The rules that hold when nothing is configured.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Whether rejected events keep the bytes received.
    #[must_use]
    pub fn keeps_rejected_bytes(&self) -> bool {
        let is_plain = matches!(self.user_id, UserIdRule::Plain) && self.ip == IpRule::Keep;
        self.keep_rejected_bytes.unwrap_or(is_plain)
    }
}

/// What becomes of events that have no schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownEvents {
    /// They are stored unchecked.
    #[default]
    Accept,
    /// They are rejected as `unknown_event`.
    Reject,
}

/// What is stored of user ids.
#[derive(Clone, Debug, Default)]
pub enum UserIdRule {
    /// What the client said.
    #[default]
    Plain,
    /// Its HMAC, in `userId`, `previousId` and their copies in `context` and `extra`.
    Hmac(HmacKey),
}

/// What is stored of addresses: the peer's, the client's, and `context.ip`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpRule {
    /// All of them.
    #[default]
    Keep,
    /// Their networks: /24 and /48.
    Truncate,
    /// Nothing.
    Drop,
}

/// A key for HMAC-SHA-256 of user ids. Says nothing of itself when it is printed.
#[derive(Clone)]
pub struct HmacKey(Hmac<Sha256>);

impl HmacKey {
    /// The key of these bytes.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    /// The HMAC of `id` in lower-case hex.
    #[must_use]
    pub fn hex_of(&self, id: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(id.as_bytes());
        let digest = mac.finalize().into_bytes();
        let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        nibbles.filter_map(|nibble| char::from_digit(u32::from(nibble), 16)).collect()
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey(…)")
    }
}

/// A field that a source can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Required {
    /// `messageId`, as sent.
    MessageId,
    /// `anonymousId`
    AnonymousId,
    /// `userId`
    UserId,
    /// `groupId`
    GroupId,
    /// `context.sessionId`: `session` or `sessionId` in the configuration.
    Session,
    /// `timestamp`, or `originalTimestamp`.
    Timestamp,
    /// `sentAt`
    SentAt,
    /// `properties`
    Properties,
    /// `traits`
    Traits,
    /// `context`
    Context,
}

impl Required {
    const NAMES: [(Self, &'static str, &'static str); 10] = [
        (Self::MessageId, "messageId", "/messageId"),
        (Self::AnonymousId, "anonymousId", "/anonymousId"),
        (Self::UserId, "userId", "/userId"),
        (Self::GroupId, "groupId", "/groupId"),
        (Self::Session, "session", "/context/sessionId"),
        (Self::Timestamp, "timestamp", "/timestamp"),
        (Self::SentAt, "sentAt", "/sentAt"),
        (Self::Properties, "properties", "/properties"),
        (Self::Traits, "traits", "/traits"),
        (Self::Context, "context", "/context"),
    ];

    /// JSON pointer to the field in an event.
    #[must_use]
    pub fn pointer(self) -> &'static str {
        let row = Self::NAMES.iter().find(|(field, ..)| *field == self);
        row.map_or("", |(_, _, pointer)| pointer)
    }
}

/// A name in `require` that is none of an event's fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot require `{0}`: choose from messageId, anonymousId, userId, groupId, session, timestamp, sentAt, properties, traits, context"
)]
pub struct UnknownField(pub String);

impl FromStr for Required {
    type Err = UnknownField;

    fn from_str(name: &str) -> Result<Self, UnknownField> {
        let known = if name == "sessionId" { "session" } else { name };
        let row = Self::NAMES.iter().find(|(_, spelt, _)| *spelt == known);
        row.map(|(field, ..)| *field).ok_or_else(|| UnknownField(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hmac_is_that_of_rfc_4231() {
        let hex = HmacKey::new(b"Jefe").hex_of("what do ya want for nothing?");
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", HmacKey::new(b"secret")), "HmacKey(…)");
    }

    #[test]
    fn fields_are_required_by_the_names_that_events_use() {
        assert_eq!("session".parse(), Ok(Required::Session));
        assert_eq!("sessionId".parse(), Ok(Required::Session));
        assert_eq!("anonymousId".parse::<Required>().unwrap().pointer(), "/anonymousId");
        assert!("sesion".parse::<Required>().unwrap_err().to_string().contains("`sesion`"));
    }

    #[test]
    fn a_source_with_a_privacy_rule_keeps_no_rejected_bytes_unless_told_to() {
        let mut rules = SourceRules::named("shop");
        assert!(rules.keeps_rejected_bytes());
        rules.ip = IpRule::Truncate;
        assert!(!rules.keeps_rejected_bytes());
        rules.keep_rejected_bytes = Some(true);
        assert!(rules.keeps_rejected_bytes());
        let hashed = UserIdRule::Hmac(HmacKey::new(b"k"));
        assert!(!SourceRules { user_id: hashed, ..SourceRules::default() }.keeps_rejected_bytes());
    }
}
