//! One person's ids, as the changelog links them, and which of its records are about them: for who
//! forgets somebody.
//!
//! An id is the person's when the last that is known of it leads to one of their user ids. So a device
//! that somebody else has logged in on since is theirs no more. Records are looked at one by one,
//! several times over, and only candidates are kept: memory goes by the person, not by the log.

use std::collections::{BTreeMap, BTreeSet};

use tracklog_protocol::event::EventView;
use tracklog_protocol::{Record, TimeMicros};

use super::change::Change;
use super::entry::Entry;
use super::key::{KeyKind, LinkId};

/// Ids that are one person's, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    users: BTreeSet<String>,
    devices: BTreeSet<String>,
}

impl Person {
    /// Who has these user ids, as far as nothing is known of others.
    #[must_use]
    pub fn of(users: impl IntoIterator<Item = String>) -> Self {
        Self { users: users.into_iter().collect(), devices: BTreeSet::new() }
    }

    /// The user ids.
    #[must_use]
    pub const fn users(&self) -> &BTreeSet<String> {
        &self.users
    }

    /// The anonymous ids.
    #[must_use]
    pub const fn devices(&self) -> &BTreeSet<String> {
        &self.devices
    }

    /// Whether an id is theirs.
    #[must_use]
    pub fn has(&self, id: LinkId<'_>) -> bool {
        match id {
            LinkId::User(id) => self.users.contains(id),
            LinkId::Anonymous(id) => self.devices.contains(id),
        }
    }

    /// Whether the event is theirs, by any id in it.
    #[must_use]
    pub fn did(&self, event: &EventView<'_>) -> bool {
        let has_user = |id: Option<&str>| id.is_some_and(|id| self.users.contains(id));
        let previous = event.previous_id();
        has_user(event.user_id())
            || has_user(previous)
            || has_user(event.enriched().resolved_user_id)
            || [event.anonymous_id(), previous]
                .into_iter()
                .flatten()
                .any(|id| self.devices.contains(id))
    }

    /// Whether a record of the changelog is about them.
    #[must_use]
    pub fn is_in(&self, change: Record<'_>) -> bool {
        let Some(change) = Change::decode(change) else { return false };
        let links_there =
            matches!(&change.entry, Entry::Link(link) if self.users.contains(&*link.user));
        links_there || id_of(change.key).is_some_and(|id| self.has(id))
    }
}

/// The user or device that a key is of.
fn id_of(key: &[u8]) -> Option<LinkId<'_>> {
    let text = |bytes| str::from_utf8(bytes).ok();
    let (kind, rest) = (KeyKind::of(key)?, key.get(1..)?);
    match kind {
        KeyKind::AnonymousLink => text(rest).map(LinkId::Anonymous),
        KeyKind::UserLink | KeyKind::UserTraits => text(rest).map(LinkId::User),
        KeyKind::GroupTraits => None,
        KeyKind::Visits => {
            let (source_bytes, named) = rest.get(1..)?.split_first_chunk::<2>()?;
            let id = text(named.get(usize::from(u16::from_le_bytes(*source_bytes))..)?)?;
            let is_device = KeyKind::of(rest)? == KeyKind::AnonymousLink;
            Some(if is_device { LinkId::Anonymous(id) } else { LinkId::User(id) })
        }
    }
}

/// Finds a person's ids, in rounds over the whole changelog until one finds nothing new.
#[derive(Debug)]
pub struct Linking {
    person: Person,
    /// Ids that led to the person at some time, or are theirs; and where they lead at last.
    candidates: BTreeMap<(bool, String), Option<(TimeMicros, String)>>,
}

impl Linking {
    /// Begins with what is known of the person.
    #[must_use]
    pub const fn new(person: Person) -> Self {
        Self { person, candidates: BTreeMap::new() }
    }

    /// First in a round: every record of the changelog.
    pub fn propose(&mut self, record: Record<'_>) {
        let Some((id, link)) = link_of(record) else { return };
        if self.person.users.contains(&link.1) || self.person.has(as_link(&id)) {
            self.candidates.entry(id).or_default();
        }
    }

    /// Second in a round: every record again.
    pub fn follow(&mut self, record: Record<'_>) {
        let Some((id, link)) = link_of(record) else { return };
        if let Some(last) = self.candidates.get_mut(&id)
            && last.as_ref().is_none_or(|(time, _)| *time <= link.0)
        {
            *last = Some(link);
        }
    }

    /// Ends a round: whether it found more of the person's ids, so that another must follow.
    pub fn end_round(&mut self) -> bool {
        let before = self.person.clone();
        for ((is_user, id), last) in std::mem::take(&mut self.candidates) {
            let Some((_, user)) = last else { continue };
            if is_user && before.users.contains(&id) {
                // An alias: whom it leads to is the same person.
                self.person.users.insert(user);
            } else if before.users.contains(&user) {
                let ids = if is_user { &mut self.person.users } else { &mut self.person.devices };
                ids.insert(id);
            }
        }
        self.person != before
    }

    /// Who it is.
    #[must_use]
    pub fn finish(self) -> Person {
        self.person
    }
}

/// Which id, a user's or not, a record links, to whom and when.
fn link_of(record: Record<'_>) -> Option<((bool, String), (TimeMicros, String))> {
    let change = Change::decode(record)?;
    let Entry::Link(link) = &change.entry else { return None };
    let id = match id_of(change.key)? {
        LinkId::User(id) => (true, id.to_owned()),
        LinkId::Anonymous(id) => (false, id.to_owned()),
    };
    Some((id, (link.time, link.user.to_string())))
}

fn as_link((is_user, id): &(bool, String)) -> LinkId<'_> {
    if *is_user { LinkId::User(id) } else { LinkId::Anonymous(id) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracklog_protocol::{Offset, PartitionId, Records, TopicId};

    use super::*;
    use crate::state::Link;
    use crate::state::key::{Entity, Keyed, Visitor};
    use crate::state::{Inactivity, Traits, Visits};

    fn push(records: &mut Records, of: &impl Keyed, entry: Entry) {
        let mut key = Vec::new();
        assert!(of.write_key(&mut key));
        let source = PartitionId::new(TopicId(3), 1);
        let change = Change { key: &key, entry, source, offset: Offset(7) };
        records.push(change.encode(&mut Vec::new(), &mut Vec::new()));
    }

    fn links(links: &[(LinkId<'_>, i64, &str)]) -> Records {
        let mut records = Records::new();
        for (id, time, user) in links {
            let link = Link { user: (*user).into(), time: TimeMicros(*time) };
            push(&mut records, id, Entry::Link(Arc::new(link)));
        }
        records
    }

    fn found(user: &str, records: &Records) -> (Vec<String>, Vec<String>) {
        let mut linking = Linking::new(Person::of([user.to_owned()]));
        loop {
            records.iter().for_each(|record| linking.propose(record));
            records.iter().for_each(|record| linking.follow(record));
            if !linking.end_round() {
                let person = linking.finish();
                return (
                    person.users().iter().cloned().collect(),
                    person.devices().iter().cloned().collect(),
                );
            }
        }
    }

    #[test]
    fn ids_are_the_persons_whose_last_link_leads_there() {
        use LinkId::{Anonymous, User};
        let records = links(&[
            (Anonymous("shared"), 9, "bob"),
            (Anonymous("phone"), 1, "alice"),
            (Anonymous("shared"), 2, "alice"),
            (User("al"), 3, "alice"),
            (Anonymous("tablet"), 4, "al"),
            (Anonymous("other"), 5, "bob"),
        ]);
        let both = (
            vec!["al".to_owned(), "alice".to_owned()],
            vec!["phone".to_owned(), "tablet".to_owned()],
        );
        assert_eq!(found("alice", &records), both);
        assert_eq!(found("al", &records), both, "an alias leads there too");
        let bob = (vec!["bob".to_owned()], vec!["other".to_owned(), "shared".to_owned()]);
        assert_eq!(found("bob", &records), bob);
        assert_eq!(found("carol", &records), (vec!["carol".to_owned()], Vec::new()));
    }

    #[test]
    fn records_about_them_are_known_by_every_kind_of_key() {
        let mut person = Person::of(["alice".to_owned()]);
        person.devices.insert("phone".to_owned());
        let visits = Visits::place(
            None,
            TimeMicros(1),
            None,
            Inactivity::new(std::time::Duration::from_secs(1)),
        );
        let visits = Entry::Visits(Arc::new(visits.change.expect("it begins one")));
        let traits = Traits::of_object(r#"{"a": 1}"#, TimeMicros(1)).0.expect("there is one");
        let traits = Entry::Traits(Arc::new(traits));
        let mut records = links(&[
            (LinkId::Anonymous("phone"), 1, "alice"),
            (LinkId::Anonymous("shared"), 1, "alice"),
            (LinkId::Anonymous("shared"), 2, "bob"),
        ]);
        push(&mut records, &Entity::User("alice"), traits.clone());
        push(&mut records, &Entity::User("bob"), traits.clone());
        push(&mut records, &Entity::Group("alice"), traits);
        for id in [LinkId::Anonymous("phone"), LinkId::User("alice"), LinkId::Anonymous("alice")] {
            push(&mut records, &Visitor { source: "web", id }, visits.clone());
        }
        let about: Vec<bool> = records.iter().map(|record| person.is_in(record)).collect();
        assert_eq!(about, [true, true, false, true, false, false, true, true, false]);
    }
}
