//! Events as a browser's SDK sends them: one of 780 bytes as JSON, the parts of events as the
//! gateway hands them to the builder, and opaque records of 256 bytes.

use tracklog_protocol::event::{
    CampaignParts, DeviceParts, EnrichedParts, EventFlags, EventKind, EventParts, Fields,
    GeoOrigin, GeoParts, PageParts, ProfileParts, PropertySpan, RawPlace, SessionParts,
};
use tracklog_protocol::{Offset, Record, TimeMicros};

/// Size of the records that the log is measured with.
pub const RECORD_BYTES: usize = 256;

/// When the samples happened.
pub const EVENT_TIME: TimeMicros = TimeMicros(1_767_323_045_678_000);
/// When they were received.
pub const RECEIVED_TIME: TimeMicros = TimeMicros(1_767_323_046_201_342);

/// The name of the sample event.
pub const EVENT_NAME: &str = "product.viewed";
/// The schema of the sample event's properties: the one that `tracklog demo` shows.
pub const EVENT_SCHEMA: &str =
    include_str!("../../tools/src/verbs/demo/schemas/product.viewed.json");

/// The sample event's properties.
pub const PROPERTIES: &str = concat!(
    r#"{"product_id":"p-1017","name":"Enamel mug","category":"kitchen","price":14.90,"#,
    r#""currency":"EUR","quantity":2,"url":"https://shop.example/p/1017"}"#
);
/// The sample event's context.
pub const CONTEXT: &str = concat!(
    r#"{"library":{"name":"analytics.js","version":"npm:next-1.84.3"},"#,
    r#""page":{"path":"/p/1017","title":"Enamel mug","url":"https://shop.example/p/1017","#,
    r#""referrer":"https://search.example/q?enamel+mug+wh"},"#,
    r#""userAgent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0","#,
    r#""screen":{"width":1920,"height":1080},"#,
    r#""locale":"de-DE","timezone":"Europe/Berlin"}"#
);
const MESSAGE_ID: &str = "ajs-next-1767323045678-2f1b0a55-7d0c-4c7d-9a52-0c4d7c1f6f6f";
const ANONYMOUS_ID: &str = "8f14e45f-ceea-467f-a0e6-4b3f3b3b3b3b";

/// The sample event, 780 bytes of JSON.
#[must_use]
pub fn event_json() -> String {
    format!(
        concat!(
            r#"{{"type":"track","event":"{name}","messageId":"{message}","#,
            r#""anonymousId":"{anonymous}","userId":"user-4711","#,
            r#""timestamp":"2026-01-02T03:04:05.678Z","#,
            r#""properties":{properties},"context":{context},"integrations":{{}}}}"#
        ),
        name = EVENT_NAME,
        message = MESSAGE_ID,
        anonymous = ANONYMOUS_ID,
        properties = PROPERTIES,
        context = CONTEXT,
    )
}

/// The body of a batch of `count` sample events.
#[must_use]
pub fn batch_json(count: usize) -> String {
    let events = vec![event_json(); count].join(",");
    format!(r#"{{"batch":[{events}],"sentAt":"2026-01-02T03:04:06.000Z"}}"#)
}

/// The index of the sample event's properties, as the gateway's scan finds it.
///
/// # Panics
/// Never: the sample is good JSON, which a test holds.
#[must_use]
pub fn property_index() -> Vec<PropertySpan> {
    Fields::of(PROPERTIES).collect::<Result<_, _>>().expect("the sample's properties are an object")
}

/// An event of twelve fields.
#[must_use]
pub fn twelve_fields() -> EventParts<'static> {
    EventParts {
        message_id: MESSAGE_ID,
        kind: EventKind::Track,
        name: Some(EVENT_NAME),
        source: Some("shop"),
        anonymous_id: Some(ANONYMOUS_ID),
        user_id: Some("user-4711"),
        event_time: EVENT_TIME,
        received_time: RECEIVED_TIME,
        client_time_text: Some("2026-01-02T03:04:05.678Z"),
        flags: EventFlags::SKEW_CORRECTED,
        properties: Some(PROPERTIES),
        context: Some(CONTEXT),
        ..EventParts::default()
    }
}

/// The sample event without its properties and context, and what goes with them.
#[must_use]
pub fn few_fields() -> EventParts<'static> {
    EventParts {
        user_id: None,
        client_time_text: None,
        properties: None,
        context: None,
        ..twelve_fields()
    }
}

/// The sample event with all that the gateway finds in its 780 bytes and in its request.
#[must_use]
pub fn segment_like(property_index: &[PropertySpan]) -> EventParts<'_> {
    EventParts {
        client_time: Some(TimeMicros(EVENT_TIME.0 - 1_000)),
        sent_time_text: Some("2026-01-02T03:04:06.000Z"),
        schema_version: Some(1),
        peer_address: Some("10.0.0.1"),
        client_address: Some("203.0.113.9"),
        headers: &[("accept-language", "de"), ("dnt", "1")],
        user_agent: Some("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        locale: Some("de-DE"),
        page_url: Some("https://shop.example/p/1017"),
        page_path: Some("/p/1017"),
        page_referrer: Some("https://search.example/q?enamel+mug+wh"),
        page_title: Some("Enamel mug"),
        library_name: Some("analytics.js"),
        library_version: Some("npm:next-1.84.3"),
        property_index,
        integrations: Some("{}"),
        ..twelve_fields()
    }
}

/// What enrichment finds out about the sample event, where every look-up has an answer.
#[must_use]
pub fn enriched() -> EnrichedParts<'static> {
    EnrichedParts {
        resolved_user_id: Some("user-4711"),
        session: Some(SessionParts {
            id: Some("1f0e3dad99908345"),
            number: 3,
            started: TimeMicros(EVENT_TIME.0 - 90_000_000),
            landing_page: Some("https://shop.example/"),
            ..SessionParts::default()
        }),
        device: Some(DeviceParts {
            browser: Some("Firefox"),
            browser_version: Some("140.0"),
            os: Some("Linux"),
            class: Some("desktop"),
            ..DeviceParts::default()
        }),
        geo: Some(GeoParts {
            country: Some("DE"),
            region: Some("BE"),
            city: Some("Berlin"),
            postal_code: Some("10115"),
            time_zone: Some("Europe/Berlin"),
            latitude: Some(52.5),
            longitude: Some(13.4),
            accuracy_km: 20,
            as_number: 64_500,
            as_name: Some("Example Net"),
            origin: GeoOrigin::Database,
        }),
        campaign: Some(CampaignParts {
            referrer_host: Some("search.example"),
            referrer_kind: Some("search"),
            ..CampaignParts::default()
        }),
        page: Some(PageParts {
            scheme: Some("https"),
            host: Some("shop.example"),
            path: Some("/p/1017"),
            ..PageParts::default()
        }),
        profile: Some(ProfileParts {
            version: Offset(1_234_567),
            traits: Some(r#"{"plan":"pro","email":"mug@shop.example","createdAt":"2024-05-06"}"#),
            group_traits: Some(r#"{"name":"Acme","seats":12}"#),
        }),
        enriched_by: Some("device@1 geo@1767312000 page@1 profile@1 identity@1 session@1"),
        failures: None,
        state_offset: Some(Offset(1_234_570)),
        made_from: Some(RawPlace { partition: 3, offset: Offset(987_654_321) }),
    }
}

/// A record of 256 bytes that mean nothing.
#[must_use]
pub const fn record() -> Record<'static> {
    const BYTES: [u8; RECORD_BYTES] = {
        let mut bytes = [0_u8; RECORD_BYTES];
        let mut at = 0;
        while at < RECORD_BYTES {
            bytes[at] = b'a' + (at % 26) as u8;
            at += 1;
        }
        bytes
    };
    Record::opaque(&BYTES)
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::event::{EventBuilder, EventView, Property};

    use super::*;

    #[test]
    fn the_sample_event_has_the_size_that_the_figures_name() {
        assert_eq!(event_json().len(), 780);
    }

    #[test]
    fn the_sample_is_what_the_parts_say() {
        let index = property_index();
        let mut builder = EventBuilder::new();
        let event = EventView::of(builder.build(&segment_like(&index))).unwrap();
        let Some(Property::Number(price)) = event.property("price") else { panic!("a number") };
        assert_eq!(price.token(), "14.90");
        let json: serde_json::Value = serde_json::from_str(&batch_json(50)).unwrap();
        let events = json["batch"].as_array().unwrap();
        assert_eq!(events.len(), 50);
        assert_eq!(events[49]["context"]["page"]["title"], event.page_title().unwrap());
    }
}
