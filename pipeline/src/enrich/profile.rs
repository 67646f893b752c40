//! What is known of an event's user and of its group.
//!
//! - `identify` tells traits of the user, `group` those of the group with its group id.
//! - An event gets the traits of the user whom its ids lead to (see `identity.rs`, which runs
//!   before), and of the group that it names; what it tells itself included.
//! - An `alias` gives the user what was known of the previous id: each trait with its own time, so
//!   that the newer one holds.
//!
//! [`external`] has those that somebody else keeps, in a store outside.

pub mod external;

use std::sync::Arc;

use tracklog_protocol::event::{EventKind, EventView};

use super::ids::real;
use super::{Enricher, Enrichment, Input, Looked, LookupFailure, ProfileSeen, present};
use crate::state::{Entity, StateBatch, StoreError};

/// The name of whoever looks up profiles.
const NAME: &str = "profile";

/// Looks up and learns traits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Profile;

impl Enricher for Profile {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> Arc<str> {
        "1".into()
    }

    fn inputs(&self, event: &EventView<'_>, found: &Enrichment) -> Vec<Input> {
        let previous = event.previous_id().filter(|_| event.kind() == EventKind::Alias);
        present([
            ("user", user_of(event, found)),
            ("groupId", event.group_id()),
            ("previousId", previous),
            ("traits", event.traits()),
        ])
    }

    fn enrich(
        &self,
        event: &EventView<'_>,
        state: &mut StateBatch<'_>,
        found: &mut Enrichment,
    ) -> Result<Looked, LookupFailure> {
        let user = user_of(event, found);
        let group = real(event.group_id());
        learn(event, user, group, state)?;
        let user_traits = traits(user.map(Entity::User), state)?;
        let group_traits = traits(group.map(Entity::Group), state)?;
        if user_traits.is_none() && group_traits.is_none() {
            return Ok(Looked::Miss);
        }
        let version = state.offset();
        found.profile = Some(ProfileSeen { user_traits, group_traits, version });
        Ok(Looked::Hit)
    }
}

/// The user whom the ids lead to; without the enricher of identities who the event says.
fn user_of<'a>(event: &EventView<'a>, found: &'a Enrichment) -> Option<&'a str> {
    found.resolved_user_id.as_deref().or_else(|| real(event.user_id()))
}

/// Takes in what `event` tells.
fn learn(
    event: &EventView<'_>,
    user: Option<&str>,
    group: Option<&str>,
    state: &mut StateBatch<'_>,
) -> Result<(), StoreError> {
    let of = match event.kind() {
        EventKind::Identify => user.map(Entity::User),
        EventKind::Group => group.map(Entity::Group),
        EventKind::Alias => return inherit(real(event.previous_id()), user, state),
        _ => None,
    };
    match (of, event.traits()) {
        (Some(of), Some(traits)) => state.learn(of, traits, event.event_time()),
        _ => Ok(()),
    }
}

/// Gives `user` what is known of `previous`.
fn inherit(
    previous: Option<&str>,
    user: Option<&str>,
    state: &mut StateBatch<'_>,
) -> Result<(), StoreError> {
    let (Some(previous), Some(user)) = (previous, user) else {
        return Ok(());
    };
    if previous == user {
        return Ok(());
    }
    match state.profile(Entity::User(previous))? {
        Some(traits) => state.merge_traits(Entity::User(user), traits),
        None => Ok(()),
    }
}

fn traits(
    of: Option<Entity<'_>>,
    state: &mut StateBatch<'_>,
) -> Result<Option<Arc<str>>, StoreError> {
    let Some(of) = of else {
        return Ok(None);
    };
    Ok(state.profile(of)?.and_then(|traits| traits.text()))
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::TimeMicros;
    use tracklog_protocol::event::EventParts;

    use super::*;
    use crate::enrich::identity::Identity;
    use crate::state::StateOptions;
    use crate::state::rig::Rig;

    fn told<'a>(kind: EventKind, user: &'a str, traits: &'a str, time: i64) -> EventParts<'a> {
        EventParts {
            message_id: "m",
            kind,
            user_id: Some(user),
            traits: Some(traits).filter(|it| !it.is_empty()),
            event_time: TimeMicros(time),
            ..EventParts::default()
        }
    }

    fn seen(user: &str, time: i64) -> EventParts<'_> {
        told(EventKind::Track, user, "", time)
    }

    /// What each event got: the user's traits and the group's.
    fn profiles(events: &[EventParts<'_>]) -> Vec<(Option<String>, Option<String>)> {
        let runs = [false, true].map(|together| {
            let rig = Rig::new(StateOptions::default());
            let found = rig.run(events, &[&Identity, &Profile], together);
            let text = |text: Option<Arc<str>>| text.map(|text| text.to_string());
            let profiles = found.into_iter().map(|it| it.profile.unwrap_or_default());
            profiles.map(|it| (text(it.user_traits), text(it.group_traits))).collect()
        });
        let [one_by_one, together]: [Vec<_>; 2] = runs;
        assert_eq!(one_by_one, together);
        together
    }

    fn users(events: &[EventParts<'_>]) -> Vec<String> {
        profiles(events).into_iter().map(|(user, _)| user.unwrap_or_default()).collect()
    }

    #[test]
    fn identify_tells_traits_that_later_events_of_the_user_get() {
        let events = [
            seen("u", 1),
            told(EventKind::Identify, "u", r#"{"plan":"free","n":1.0}"#, 2),
            seen("u", 3),
            told(EventKind::Identify, "u", r#"{"plan":"pro","n":null}"#, 4),
            seen("other", 5),
        ];
        let first = r#"{"n":1.0,"plan":"free"}"#;
        assert_eq!(users(&events), ["", first, first, r#"{"plan":"pro"}"#, ""]);
    }

    #[test]
    fn an_old_identify_that_arrives_late_overwrites_nothing() {
        let events = [
            told(EventKind::Identify, "u", r#"{"plan":"pro"}"#, 9),
            told(EventKind::Identify, "u", r#"{"plan":"free","since":2019}"#, 1),
        ];
        assert_eq!(users(&events)[1], r#"{"plan":"pro","since":2019}"#);
    }

    #[test]
    fn group_tells_traits_of_the_group_that_events_name() {
        let with = |event| EventParts { group_id: Some("g"), ..event };
        let events = [
            with(told(EventKind::Group, "u", r#"{"seats":5}"#, 1)),
            seen("u", 2),
            with(seen("v", 3)),
        ];
        let group = Some(r#"{"seats":5}"#.to_owned());
        assert_eq!(profiles(&events), [(None, group.clone()), (None, None), (None, group)]);
    }

    #[test]
    fn an_alias_inherits_what_is_newer() {
        let events = [
            told(EventKind::Identify, "old", r#"{"a":1,"b":1}"#, 5),
            told(EventKind::Identify, "new", r#"{"b":2,"c":2}"#, 6),
            EventParts {
                kind: EventKind::Alias,
                previous_id: Some("old"),
                ..told(EventKind::Alias, "new", "", 7)
            },
            seen("old", 8),
        ];
        assert_eq!(users(&events)[2..], [r#"{"a":1,"b":2,"c":2}"#; 2]);
    }

    #[test]
    fn traits_name_the_state_that_they_are_of() {
        let rig = Rig::new(StateOptions::default());
        let identify = told(EventKind::Identify, "u", r#"{"a":1}"#, 1);
        let found = rig.run(&[identify, seen("u", 2)], &[&Profile], false);
        let versions = found.into_iter().map(|it| it.profile.unwrap().version.0);
        assert_eq!(versions.collect::<Vec<_>>(), [0, 1], "its own change comes on top");
    }
}
