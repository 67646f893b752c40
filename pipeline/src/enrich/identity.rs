//! Who an event is of: anonymous ids lead to users, and users that are the same to one.
//!
//! Links
//! - An event with a user id and an anonymous id links the latter to the former, unless that link
//!   is there. An `alias` links its previous id, be it a device's or a user's, to its user id.
//! - Of two links of one id that of the later event time holds.
//! - Words for nothing link nobody: `undefined`, `null`, `0` and their like, all in `ids.rs`.
//!
//! Resolving
//! - An event's own user id goes first, then the link of its anonymous id. So an anonymous event of
//!   a device that several share goes to the user to whom the device was last linked, and an event
//!   with a user id stays that user's.
//! - From a user the links of aliases are followed, at most [`STEPS_MAX`] of them. Where they lead
//!   in a circle, all in it are the one whose id is the least in the order of bytes.

use std::sync::Arc;

use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::{EventKind, EventView};

use super::ids::real;
use super::{Enricher, Enrichment, Input, Looked, LookupFailure, present};
use crate::state::{LinkId, StateBatch, StoreError};

/// How many aliases are followed. A circle of more is followed from each id to another end.
pub const STEPS_MAX: usize = 32;

/// Finds the user of an event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity;

impl Enricher for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn version(&self) -> Arc<str> {
        "1".into()
    }

    fn inputs(&self, event: &EventView<'_>, _found: &Enrichment) -> Vec<Input> {
        let previous = event.previous_id().filter(|_| event.kind() == EventKind::Alias);
        present([
            ("userId", event.user_id()),
            ("anonymousId", event.anonymous_id()),
            ("previousId", previous),
        ])
    }

    fn enrich(
        &self,
        event: &EventView<'_>,
        state: &mut StateBatch<'_>,
        found: &mut Enrichment,
    ) -> Result<Looked, LookupFailure> {
        let user = real(event.user_id());
        let anonymous = real(event.anonymous_id());
        if let Some(user) = user {
            learn(event, user, anonymous, state)?;
        }
        let user: Option<Arc<str>> = match (user, anonymous) {
            (Some(user), _) => Some(user.into()),
            (None, Some(id)) => state.link(LinkId::Anonymous(id))?.map(|it| Arc::clone(&it.user)),
            (None, None) => None,
        };
        let Some(user) = user else {
            return Ok(Looked::Miss);
        };
        found.resolved_user_id = Some(resolve(user, state)?);
        Ok(Looked::Hit)
    }
}

/// Takes in the links that `event`, of `user`, makes.
fn learn(
    event: &EventView<'_>,
    user: &str,
    anonymous: Option<&str>,
    state: &mut StateBatch<'_>,
) -> Result<(), StoreError> {
    let time = event.event_time();
    if event.kind() == EventKind::Alias
        && let Some(previous) = real(event.previous_id())
    {
        link(LinkId::Anonymous(previous), user, time, state)?;
        if previous != user {
            link(LinkId::User(previous), user, time, state)?;
        }
    }
    anonymous.map_or(Ok(()), |id| link(LinkId::Anonymous(id), user, time, state))
}

/// Links `id` to `user`, unless it is or a later event said otherwise.
fn link(
    id: LinkId<'_>,
    user: &str,
    time: TimeMicros,
    state: &mut StateBatch<'_>,
) -> Result<(), StoreError> {
    let changes = match state.link(id)? {
        Some(known) => *known.user != *user && time >= known.time,
        None => true,
    };
    if changes { state.set_link(id, user, time) } else { Ok(()) }
}

/// The user that `user` is the same as.
fn resolve(user: Arc<str>, state: &mut StateBatch<'_>) -> Result<Arc<str>, StoreError> {
    let Some(mut link) = state.link(LinkId::User(&user))? else {
        return Ok(user);
    };
    let mut way = vec![user];
    loop {
        let next = Arc::clone(&link.user);
        if let Some(start) = way.iter().position(|passed| *passed == next) {
            let circle = way.drain(start..);
            return Ok(circle.min().expect("it has the one that was found"));
        }
        way.push(Arc::clone(&next));
        match state.link(LinkId::User(&next))? {
            Some(further) if way.len() <= STEPS_MAX => link = further,
            _ => return Ok(next),
        }
    }
}

/// All users whom `event` may lead to within its batch: whom its ids lead to as things are when the
/// batch begins, and everybody on the way there. What the batch itself links leads to such users of
/// its own events, and on from there by links that were there.
pub(super) fn candidates(
    event: &EventView<'_>,
    state: &mut StateBatch<'_>,
) -> Result<Vec<Arc<str>>, StoreError> {
    let mut users: Vec<Arc<str>> = real(event.user_id()).map(Arc::from).into_iter().collect();
    if let Some(id) = real(event.anonymous_id())
        && let Some(link) = state.link(LinkId::Anonymous(id))?
    {
        users.push(Arc::clone(&link.user));
    }
    let mut at = 0;
    while let Some(user) = users.get(at)
        && users.len() <= 2 * STEPS_MAX
    {
        let next = state.link(LinkId::User(user))?;
        if let Some(link) = next
            && !users.contains(&link.user)
        {
            users.push(Arc::clone(&link.user));
        }
        at += 1;
    }
    Ok(users)
}

impl From<StoreError> for LookupFailure {
    fn from(error: StoreError) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tracklog_log::Log;
    use tracklog_protocol::event::EventParts;

    use super::*;
    use crate::state::StateOptions;
    use crate::state::rig::Rig;

    fn event<'a>(user: &'a str, anonymous: &'a str, time: i64) -> EventParts<'a> {
        let there = |id: &'a str| Some(id).filter(|id| !id.is_empty());
        EventParts {
            message_id: "m",
            user_id: there(user),
            anonymous_id: there(anonymous),
            event_time: TimeMicros(time),
            ..EventParts::default()
        }
    }

    fn identify<'a>(user: &'a str, anonymous: &'a str, time: i64) -> EventParts<'a> {
        EventParts { kind: EventKind::Identify, ..event(user, anonymous, time) }
    }

    fn alias<'a>(previous: &'a str, user: &'a str, time: i64) -> EventParts<'a> {
        EventParts { kind: EventKind::Alias, previous_id: Some(previous), ..event(user, "", time) }
    }

    /// The users of `events`, whether they come one by one or in one batch.
    fn users(events: &[EventParts<'_>]) -> Vec<String> {
        let resolved = [false, true].map(|together| {
            let found = Rig::new(StateOptions::default()).run(events, &[&Identity], together);
            let users = found.into_iter().map(|it| it.resolved_user_id);
            users.map(|user| user.map_or_else(|| "-".to_owned(), |user| user.to_string())).collect()
        });
        let [one_by_one, together]: [Vec<String>; 2] = resolved;
        assert_eq!(one_by_one, together);
        together
    }

    #[test]
    fn an_anonymous_visitor_is_known_after_identify() {
        let events = [event("", "D", 1), identify("alice", "D", 2), event("", "D", 3)];
        assert_eq!(users(&events), ["-", "alice", "alice"]);
    }

    #[test]
    fn any_event_with_both_ids_links_them() {
        assert_eq!(users(&[event("bob", "D", 1), event("", "D", 2)]), ["bob", "bob"]);
    }

    #[test]
    fn a_shared_device_leaves_users_apart_and_is_the_last_ones() {
        let events = [
            event("", "D", 1),
            identify("alice", "D", 2),
            event("alice", "D", 3),
            identify("bob", "D", 4),
            event("bob", "D", 5),
            event("", "D", 6),
            event("alice", "", 7),
        ];
        assert_eq!(users(&events), ["-", "alice", "alice", "bob", "bob", "bob", "alice"]);
    }

    #[test]
    fn a_late_link_does_not_win_over_a_later_one() {
        let events = [identify("bob", "D", 10), identify("alice", "D", 5), event("", "D", 11)];
        assert_eq!(users(&events), ["bob", "alice", "bob"]);
    }

    #[test]
    fn an_alias_joins_devices_and_users() {
        let events = [alias("old", "new", 1), event("old", "", 2), event("", "old", 3)];
        assert_eq!(users(&events), ["new", "new", "new"]);
    }

    #[test]
    fn aliases_in_a_circle_end_in_one_user() {
        let events = [
            alias("a", "b", 1),
            alias("b", "a", 2),
            event("a", "", 3),
            event("b", "", 4),
            alias("c", "b", 5),
            event("c", "", 6),
        ];
        assert_eq!(users(&events)[1..], ["a", "a", "a", "a", "a"]);
        let itself = [alias("x", "x", 1), event("x", "", 2)];
        assert_eq!(users(&itself), ["x", "x"]);
    }

    #[test]
    fn long_chains_and_large_circles_end() {
        let names: Vec<_> = (0..100).map(|n| format!("u{n:02}")).collect();
        let mut events: Vec<_> =
            names.windows(2).map(|pair| alias(&pair[0], &pair[1], 1)).collect();
        events.push(event("u90", "", 2));
        events.push(event("u00", "", 2));
        let found = users(&events);
        assert_eq!(found[99..], ["u99".to_owned(), format!("u{STEPS_MAX}")]);
        events.push(alias("u99", "u00", 3));
        assert_eq!(users(&events).len(), 102);
    }

    #[test]
    fn words_for_nothing_link_nobody() {
        let events = [
            identify("alice", "undefined", 1),
            identify("bob", "undefined", 2),
            event("", "undefined", 3),
            identify("null", "D", 4),
            event("", "D", 5),
            alias("null", "carol", 6),
            alias("carol", "0", 7),
            event("carol", "", 8),
        ];
        assert_eq!(users(&events), ["alice", "bob", "-", "-", "-", "carol", "-", "carol"]);
    }

    #[test]
    fn a_link_that_is_there_is_not_written_again() {
        let rig = Rig::new(StateOptions::default());
        let end = || rig.log.extent(rig.state.partition()).unwrap().end.0;
        rig.run(&[identify("alice", "D", 1)], &[&Identity], true);
        assert_eq!(end(), 1);
        rig.run(&[event("alice", "D", 2), event("", "D", 3)], &[&Identity], false);
        assert_eq!(end(), 1);
        rig.run(&[event("bob", "D", 0)], &[&Identity], false);
        assert_eq!(end(), 1, "nor is one that an event before it would make");
    }
}
