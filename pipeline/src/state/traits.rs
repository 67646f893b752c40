//! Traits of a user or a group: a map that is joined member by member.
//!
//! Each member has the time of the event that said it; of two values the one with the later time
//! holds, and of two with the same time the later in the changelog. `null` removes a member and
//! leaves its time, so that an older value that arrives afterwards stays out. A join therefore
//! gives the same whatever the order, as long as times differ.
//!
//! At most [`TRAITS_BYTES_MAX`] and [`MEMBERS_MAX`]: when a value does not fit, removed members are
//! forgotten first; if it still does not fit it is dropped, and counted.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::{Fields, ValueKind};

use super::bytes::Reader;

/// What the traits of one user or group take, at most, encoded.
pub const TRAITS_BYTES_MAX: usize = 64 << 10;
/// How many members they have, at most.
pub const MEMBERS_MAX: usize = 500;

/// What a member takes besides its texts.
const MEMBER_BYTES: usize = 8 + 4 + 4;
/// What is written around a member's name and value in the text, and around all members.
const JOINTS_BYTES: usize = 4;
const BRACES_BYTES: usize = 2;
/// The value's length of a member that was removed.
const REMOVED: u32 = u32::MAX;

/// Members in the order of their names, in the bytes of FORMAT.md.
pub struct Traits {
    encoded: Box<[u8]>,
    /// How long the text is, at most.
    text_bytes: usize,
    /// Made when it is first asked for.
    text: OnceLock<Option<Arc<str>>>,
}

#[derive(Clone, Copy)]
struct Member<'a> {
    /// As between the quotes of a JSON string, in its shortest form.
    name: &'a str,
    /// A JSON value; `None` was removed.
    value: Option<&'a str>,
    time: TimeMicros,
}

impl Member<'_> {
    fn byte_count(&self) -> usize {
        MEMBER_BYTES + self.name.len() + self.value.map_or(0, str::len)
    }

    fn text_bytes(&self) -> usize {
        self.value.map_or(0, |value| JOINTS_BYTES + self.name.len() + value.len())
    }
}

impl Traits {
    /// What the JSON object `text` says at `time`, and how many of its members do not fit.
    /// `None` when it says nothing.
    pub(crate) fn of_object(text: &str, time: TimeMicros) -> (Option<Self>, u64) {
        let names: Vec<_> = Fields::of(text)
            .map_while(Result::ok)
            .filter_map(|span| {
                let name = canonical(&span.name(text)?);
                let value_at = span.value_at as usize;
                let value = text.get(value_at..value_at + span.value_len as usize)?;
                let value = (span.kind != ValueKind::Null).then_some(value);
                Some((name, value))
            })
            .collect();
        let members = names.iter().map(|(name, value)| Member { name, value: *value, time });
        let mut joined = Members::default();
        let dropped = joined.join(members);
        let traits = if joined.members.is_empty() { None } else { Some(joined.encode()) };
        (traits, dropped)
    }

    /// These and `newer`, member by member; and how many members did not fit.
    pub(super) fn join(&self, newer: &Self) -> (Self, u64) {
        let mut members = Members::default();
        let dropped = members.join(self.members()) + members.join(newer.members());
        (members.encode(), dropped)
    }

    /// The members that are there, as one JSON object; `None` when there is none.
    #[must_use]
    pub fn text(&self) -> Option<Arc<str>> {
        self.text.get_or_init(|| self.to_json()).clone()
    }

    fn to_json(&self) -> Option<Arc<str>> {
        let mut json = String::with_capacity(self.text_bytes);
        for member in self.members() {
            if let Some(value) = member.value {
                json.push_str(if json.is_empty() { "{\"" } else { ",\"" });
                json.push_str(member.name);
                json.push_str("\":");
                json.push_str(value);
            }
        }
        if json.is_empty() {
            return None;
        }
        json.push('}');
        Some(json.into())
    }

    /// What bytes and text take.
    pub(super) const fn byte_count(&self) -> usize {
        self.encoded.len() + self.text_bytes
    }

    pub(super) fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Reads what [`encoded`](Self::encoded) wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let mut text_bytes = BRACES_BYTES;
        while !reader.is_empty() {
            text_bytes += member(&mut reader)?.text_bytes();
        }
        Some(Self { encoded: bytes.into(), text_bytes, text: OnceLock::new() })
    }

    fn members(&self) -> impl Iterator<Item = Member<'_>> {
        let mut reader = Reader(&self.encoded);
        std::iter::from_fn(move || if reader.is_empty() { None } else { member(&mut reader) })
    }
}

impl Clone for Traits {
    fn clone(&self) -> Self {
        Self { encoded: self.encoded.clone(), text: OnceLock::new(), ..*self }
    }
}

impl PartialEq for Traits {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for Traits {}

impl fmt::Debug for Traits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members().map(|member| (member.name, (member.value, member.time)));
        f.debug_map().entries(members).finish()
    }
}

fn member<'a>(reader: &mut Reader<'a>) -> Option<Member<'a>> {
    let time = TimeMicros(reader.i64()?);
    let name_bytes = reader.u32()?;
    let value_bytes = reader.u32()?;
    let name = reader.text(name_bytes as usize)?;
    let value = match value_bytes {
        REMOVED => None,
        bytes => Some(reader.text(bytes as usize)?),
    };
    Some(Member { name, value, time })
}

/// A name as between the quotes of a JSON string, the same for all ways to escape it.
fn canonical(name: &str) -> String {
    let quoted = serde_json::to_string(name).expect("a text becomes JSON");
    quoted[1..quoted.len() - 1].to_owned()
}

/// Members that are being joined, by name.
#[derive(Default)]
struct Members<'a> {
    members: Vec<Member<'a>>,
    byte_count: usize,
}

impl<'a> Members<'a> {
    fn join(&mut self, newer: impl Iterator<Item = Member<'a>>) -> u64 {
        let dropped = newer.map(|member| u64::from(!self.set(member)));
        dropped.sum()
    }

    /// Whether there was room for `member`, or no need of it.
    fn set(&mut self, member: Member<'a>) -> bool {
        let known = self.place(&member);
        if known.is_ok_and(|index| member.time < self.members[index].time) {
            return true;
        }
        if !self.fits(&member) {
            self.members.retain(|member| member.value.is_some());
            self.byte_count = self.members.iter().map(Member::byte_count).sum();
            if !self.fits(&member) {
                return false;
            }
        }
        self.byte_count += member.byte_count();
        match self.place(&member) {
            Ok(index) => {
                self.byte_count -= self.members[index].byte_count();
                self.members[index] = member;
            }
            Err(index) => self.members.insert(index, member),
        }
        true
    }

    fn place(&self, member: &Member<'_>) -> Result<usize, usize> {
        self.members.binary_search_by(|known| known.name.cmp(member.name))
    }

    fn fits(&self, member: &Member<'_>) -> bool {
        let (count, bytes) = match self.place(member) {
            Ok(index) => (0, self.members[index].byte_count()),
            Err(_) => (1, 0),
        };
        self.members.len() + count <= MEMBERS_MAX
            && self.byte_count - bytes + member.byte_count() <= TRAITS_BYTES_MAX
    }

    fn encode(&self) -> Traits {
        let mut encoded = Vec::with_capacity(self.byte_count);
        for member in &self.members {
            let length = |text: &str| u32::try_from(text.len()).expect("texts are bounded");
            encoded.extend_from_slice(&member.time.0.to_le_bytes());
            encoded.extend_from_slice(&length(member.name).to_le_bytes());
            encoded.extend_from_slice(&member.value.map_or(REMOVED, length).to_le_bytes());
            encoded.extend_from_slice(member.name.as_bytes());
            encoded.extend_from_slice(member.value.unwrap_or_default().as_bytes());
        }
        let text_bytes = self.members.iter().map(Member::text_bytes).sum::<usize>() + BRACES_BYTES;
        Traits { encoded: encoded.into(), text_bytes, text: OnceLock::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, time: i64) -> Traits {
        Traits::of_object(text, TimeMicros(time)).0.unwrap()
    }

    fn text(traits: &Traits) -> String {
        traits.text().map_or_else(String::new, |text| text.to_string())
    }

    #[test]
    fn the_later_value_of_each_member_holds_whatever_the_order() {
        let (old, new) = (said(r#"{"plan":"free","city":"Ulm"}"#, 1), said(r#"{"plan":"pro"}"#, 2));
        let expected = r#"{"city":"Ulm","plan":"pro"}"#;
        assert_eq!(text(&old.join(&new).0), expected);
        assert_eq!(text(&new.join(&old).0), expected);
    }

    #[test]
    fn null_removes_and_keeps_older_values_out() {
        let gone = said(r#"{"plan":null}"#, 5);
        assert_eq!(gone.text(), None);
        let late = gone.join(&said(r#"{"plan":"free"}"#, 4)).0;
        assert_eq!(late.text(), None);
        assert_eq!(text(&late.join(&said(r#"{"plan":"pro"}"#, 6)).0), r#"{"plan":"pro"}"#);
    }

    #[test]
    fn of_two_at_one_time_the_later_in_the_changelog_holds() {
        let joined = said(r#"{"a":1}"#, 1).join(&said(r#"{"a":2}"#, 1)).0;
        assert_eq!(text(&joined), r#"{"a":2}"#);
    }

    #[test]
    fn a_name_is_one_member_however_it_is_escaped() {
        let joined = said(r#"{"é\n":1}"#, 1).join(&said(r#"{"\u00e9\u000a":[1, 2]}"#, 2)).0;
        assert_eq!(text(&joined), r#"{"é\n":[1, 2]}"#);
    }

    #[test]
    fn what_is_beyond_the_bounds_is_dropped_and_counted() {
        let many: Vec<_> = (0..MEMBERS_MAX + 7).map(|n| format!("\"k{n}\":{n}")).collect();
        let (traits, dropped) =
            Traits::of_object(&format!("{{{}}}", many.join(",")), TimeMicros(1));
        assert_eq!(dropped, 7);
        let traits = traits.unwrap();
        assert_eq!(traits.members().count(), MEMBERS_MAX);
        let large = said(&format!(r#"{{"k1":"{}"}}"#, "x".repeat(60_000)), 2);
        assert_eq!(traits.join(&large).1, 1, "the old value stays");
        let (kept, _) = traits.join(&large);
        assert!(kept.encoded().len() <= TRAITS_BYTES_MAX && text(&kept).contains("\"k1\":1,"));
    }

    #[test]
    fn removed_members_make_room() {
        let full: Vec<_> = (0..MEMBERS_MAX).map(|n| format!("\"k{n}\":{n}")).collect();
        let full = said(&format!("{{{}}}", full.join(",")), 1);
        let full = full.join(&said(r#"{"k0":null}"#, 2)).0;
        let (joined, dropped) = full.join(&said(r#"{"new":true}"#, 3));
        assert_eq!(dropped, 0);
        assert!(text(&joined).contains("\"new\":true"));
    }

    #[test]
    fn traits_are_read_back_and_cut_ones_are_not() {
        let traits = said(r#"{"a":1,"b":null,"c":{"d":[]}}"#, -3);
        assert_eq!(Traits::decode(traits.encoded()).unwrap(), traits);
        assert!(Traits::decode(&traits.encoded()[..traits.encoded().len() - 1]).is_none());
    }
}
