//! What each enricher makes of one event: for people who ask why it got what it got.
//!
//! The event passes the enrichers as in the stage, one after the other, each seeing what those
//! before it found. What it changes in the state holds for the enrichers behind it and is then
//! forgotten with the batch: nothing of it is ever stored.

use std::sync::Arc;

use tracklog_protocol::Record;
use tracklog_protocol::event::{EventBuilder, EventView};
use tracklog_protocol::line::write_enrichment;

use super::stage::parts_of;
use super::{Enricher, Enrichment, Input, Looked, LookupFailure};
use crate::state::StateBatch;

/// What one enricher made of an event.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The enricher's name.
    pub enricher: &'static str,
    /// Its version.
    pub version: Arc<str>,
    /// What it looked at.
    pub inputs: Vec<Input>,
    /// What came of it.
    pub outcome: Result<Looked, LookupFailure>,
    /// How long that took.
    pub nanos: u64,
    /// What it adds to the event: a JSON object, as in lines of `enriched`.
    pub added: String,
}

/// Passes `event` through `enrichers` in the state of `state`, which is a batch of its own; `found`
/// is all that they found in the end. `nanos` is a clock that never goes back.
pub async fn explain(
    enrichers: &[Arc<dyn Enricher>],
    event: &EventView<'_>,
    state: &mut StateBatch<'_>,
    found: &mut Enrichment,
    nanos: fn() -> u64,
) -> Vec<Explained> {
    for enricher in enrichers {
        if let Some(fetching) = enricher.prepare(&mut std::iter::once(*event), state) {
            fetching.await;
        }
    }
    *found = Enrichment::default();
    let one = |enricher: &Arc<dyn Enricher>| {
        let (inputs, before) = (enricher.inputs(event, found), found.clone());
        let began = nanos();
        let outcome = enricher.enrich(event, state, found);
        let nanos = nanos().saturating_sub(began);
        let mut added = Vec::new();
        write_enrichment(&mut added, &parts_of(&difference(&before, found)));
        let added = String::from_utf8(added).expect("a line is text");
        let (enricher, version) = (enricher.name(), enricher.version());
        Explained { enricher, version, inputs, outcome, nanos, added }
    };
    enrichers.iter().map(one).collect()
}

/// `event` with what was found, built in `builder`.
pub fn enriched<'b>(
    event: &EventView<'_>,
    found: &Enrichment,
    builder: &'b mut EventBuilder,
) -> Record<'b> {
    builder.build_enriched(event, &parts_of(found))
}

/// What is in `after` and was not in `before`.
fn difference(before: &Enrichment, after: &Enrichment) -> Enrichment {
    fn new<T: Clone + PartialEq>(before: &Option<T>, after: &Option<T>) -> Option<T> {
        if before == after { None } else { after.clone() }
    }
    Enrichment {
        resolved_user_id: new(&before.resolved_user_id, &after.resolved_user_id),
        device: new(&before.device, &after.device),
        geo: new(&before.geo, &after.geo),
        campaign: new(&before.campaign, &after.campaign),
        page: new(&before.page, &after.page),
        profile: new(&before.profile, &after.profile),
        visit: new(&before.visit, &after.visit),
    }
}

#[cfg(test)]
mod tests {
    use tracklog_log::Log;
    use tracklog_log::conformance::block_on;
    use tracklog_protocol::Offset;
    use tracklog_protocol::event::{EventKind, EventParts};

    use super::*;
    use crate::enrich::device::{Device, DeviceOptions};
    use crate::enrich::identity::Identity;
    use crate::enrich::page::Page;
    use crate::enrich::profile::Profile;
    use crate::enrich::session::Session;
    use crate::state::StateOptions;
    use crate::state::rig::Rig;

    fn enrichers() -> Vec<Arc<dyn Enricher>> {
        vec![
            Arc::new(Device::new(DeviceOptions::default())),
            Arc::new(Page),
            Arc::new(Identity),
            Arc::new(Profile),
            Arc::new(Session::default()),
        ]
    }

    fn explained(rig: &Rig, parts: &EventParts<'_>) -> Vec<Explained> {
        let mut builder = EventBuilder::new();
        let event = EventView::of(builder.build(parts)).unwrap();
        let mut state = rig.begin(0);
        state.begin_event(Offset(0));
        let mut found = Enrichment::default();
        block_on(explain(&enrichers(), &event, &mut state, &mut found, || 7))
    }

    #[test]
    fn each_enricher_tells_what_it_read_and_what_it_adds() {
        let rig = Rig::new(StateOptions::default());
        let known = EventParts {
            kind: EventKind::Identify,
            anonymous_id: Some("d"),
            user_id: Some("alice"),
            traits: Some(r#"{"plan":"pro"}"#),
            ..EventParts::default()
        };
        rig.run(&[known], &[&Identity, &Profile], true);
        let asked = EventParts {
            message_id: "m",
            anonymous_id: Some("d"),
            page_url: Some("https://shop.example/p?utm_source=letter"),
            ..EventParts::default()
        };
        let explained = explained(&rig, &asked);
        let names: Vec<_> = explained.iter().map(|it| it.enricher).collect();
        assert_eq!(names, ["device", "page", "identity", "profile", "session"]);
        let [device, page, identity, profile, session] = &explained[..] else { panic!() };
        assert_eq!((&device.outcome, &*device.added), (&Ok(Looked::Miss), "{}"));
        assert!(device.inputs.is_empty());
        assert!(page.added.contains(r#""campaign":{"source":"letter"}"#), "{}", page.added);
        assert!(!page.added.contains("resolvedUserId"));
        assert_eq!(identity.added, r#"{"resolvedUserId":"alice"}"#);
        assert_eq!(identity.inputs, [("anonymousId".to_owned(), "d".to_owned())]);
        assert_eq!(profile.inputs, [("user".to_owned(), "alice".to_owned())]);
        assert!(profile.added.contains(r#""traits":{"plan":"pro"}"#), "{}", profile.added);
        assert!(!profile.added.contains("resolvedUserId"), "that is another's");
        assert!(session.added.contains(r#""number":1"#), "{}", session.added);
        assert_eq!(session.outcome, Ok(Looked::Hit));
    }

    #[test]
    fn what_an_event_tells_itself_is_seen_by_the_enrichers_behind_and_nothing_is_stored() {
        let rig = Rig::new(StateOptions::default());
        let asked = EventParts {
            kind: EventKind::Identify,
            message_id: "m",
            anonymous_id: Some("d"),
            user_id: Some("bob"),
            traits: Some(r#"{"plan":"free"}"#),
            ..EventParts::default()
        };
        for _ in 0..2 {
            let explained = explained(&rig, &asked);
            assert!(explained[3].added.contains(r#"{"plan":"free"}"#), "{:?}", explained[3]);
            assert!(explained[4].added.contains(r#""firstEvent":true"#), "{:?}", explained[4]);
        }
        assert_eq!(rig.log.extent(rig.state.partition()).unwrap().end, Offset(0));
    }
}
