//! Events like those of a shop.

use tracklog_protocol::event::{
    CampaignParts, DeviceParts, EnrichedParts, EventFlags, EventParts, Fields, GeoOrigin, GeoParts,
    PageParts, ProfileParts, PropertySpan, RawPlace, SessionParts,
};
use tracklog_protocol::{Offset, TimeMicros};

/// 2026-01-02T03:04:05.678901Z.
pub(crate) const EVENT_TIME: TimeMicros = TimeMicros(1_767_323_045_678_901);
/// A second and a bit later.
pub(crate) const RECEIVED_TIME: TimeMicros = TimeMicros(1_767_323_047_000_002);

pub(crate) const PROPERTIES: &str = r#"{"product_id":"p-17","price":12.50,"quantity":2,"on\u0053ale":true,"coupon":null,"tags":["a","b"],"box":{"price":1}}"#;

pub(crate) fn index(properties: &str) -> Vec<PropertySpan> {
    Fields::of(properties).collect::<Result<_, _>>().expect("the properties are an object")
}

/// An event with every field set.
pub(crate) fn full(index: &[PropertySpan]) -> EventParts<'_> {
    EventParts {
        flags: EventFlags::SKEW_CORRECTED | EventFlags::ROOT_MERGED,
        previous_id: Some("before"),
        group_id: Some("group"),
        category: Some("category"),
        client_time: Some(TimeMicros(EVENT_TIME.0 - 5)),
        client_time_text: Some("2026-01-02T03:04:05.678896Z"),
        schema_version: Some(3),
        headers: &[("accept-language", "de"), ("dnt", "1")],
        page_url: Some("https://shop.example/p/17?x=\"1\""),
        page_path: Some("/p/17"),
        page_referrer: Some("https://search.example/"),
        page_title: Some("Ein Stück"),
        library_name: Some("analytics.js"),
        library_version: Some("1.84.3"),
        channel: Some("web"),
        locale: Some("de-DE"),
        traits: Some("{\"plan\": \"pro\"}"),
        extra: Some("{\"_metadata\":{\"nodeVersion\":\"v20\"}}"),
        ..twelve_fields(index)
    }
}

/// An event as a browser's SDK makes them most often.
pub(crate) fn twelve_fields(index: &[PropertySpan]) -> EventParts<'_> {
    EventParts {
        message_id: "ajs-next-1767323045678-2f1b0a55-7d0c-4c7d-9a52-0c4d7c1f6f6f",
        name: Some("Product Viewed"),
        source: Some("shop"),
        anonymous_id: Some("8f14e45f-ceea-467f-a0e6-4b3f3b3b3b3b"),
        user_id: Some("4711"),
        session_id: Some("1767322800000"),
        event_time: EVENT_TIME,
        received_time: RECEIVED_TIME,
        sent_time_text: Some("2026-01-02T03:04:06.000Z"),
        peer_address: Some("10.0.0.1"),
        client_address: Some("203.0.113.9"),
        user_agent: Some("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
        properties: Some(PROPERTIES),
        property_index: index,
        context: Some("{\"library\":{\"name\":\"analytics.js\",\"version\":\"1.84.3\"}}"),
        integrations: Some("{}"),
        ..EventParts::default()
    }
}

/// What enrichment finds out, every field set.
pub(crate) fn enriched() -> EnrichedParts<'static> {
    EnrichedParts {
        resolved_user_id: Some("user-1"),
        session: Some(SessionParts {
            id: Some("5f3a"),
            number: 2,
            started: EVENT_TIME,
            first_event: true,
            landing_page: Some("https://shop.example/"),
            previous_ended: Some(TimeMicros(EVENT_TIME.0 - 3_600_000_000)),
        }),
        device: Some(DeviceParts {
            browser: Some("Firefox"),
            browser_version: Some("140.0"),
            os: Some("Linux"),
            os_version: Some("6.18"),
            brand: Some("Acme"),
            model: Some("Book"),
            class: Some("desktop"),
            bot: false,
        }),
        geo: Some(GeoParts {
            country: Some("DE"),
            region: Some("BE"),
            city: Some("Berlin"),
            postal_code: Some("10115"),
            time_zone: Some("Europe/Berlin"),
            latitude: Some(52.5),
            longitude: Some(13.25),
            accuracy_km: 20,
            as_number: 64_500,
            as_name: Some("Example Net"),
            origin: GeoOrigin::Header,
        }),
        campaign: Some(CampaignParts {
            source: Some("letter"),
            medium: Some("mail"),
            name: Some("spring"),
            term: Some("shoes"),
            content: Some("top"),
            id: Some("7"),
            click_id: Some("abc"),
            click_id_kind: Some("gclid"),
            referrer_host: Some("search.example"),
            referrer_kind: Some("search"),
            referrer_name: Some("Example"),
        }),
        page: Some(PageParts {
            scheme: Some("https"),
            host: Some("shop.example"),
            path: Some("/p/17"),
            query: Some("x=1"),
            fragment: Some("top"),
        }),
        profile: Some(ProfileParts {
            version: Offset(41),
            traits: Some("{\"plan\": \"pro\"}"),
            group_traits: Some("{\"seats\":12.50}"),
        }),
        enriched_by: Some("device@1 geo@7"),
        failures: Some("{\"page\":\"timed out\"}"),
        state_offset: Some(Offset(42)),
        made_from: Some(RawPlace { partition: 3, offset: Offset(1206) }),
    }
}
