//! What rules say of events, and what lanes make of them over crashes and changes.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use proptest::prelude::*;
use serde_json::Value as Json;
use tracklog_log::conformance::block_on;
use tracklog_log::memory::MemoryLog;
use tracklog_log::{Log as _, Topic};
use tracklog_protocol::event::{
    CampaignParts, DeviceParts, EnrichedParts, EventBuilder, EventKind, EventParts, EventView,
    GeoParts, PageParts, ProfileParts, RawPlace, SessionParts,
};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::{BatchView, Offset, Record, TimeMicros};

use super::expression::Expression;
use super::field::{Number, Value};
use super::*;
use crate::groups::Start;
use crate::rig::{NoTime, Rig, group, poll_until_idle};
use crate::stage::{Delivery, PartitionLoop, StageEnd};

const ENRICHED: EnrichedParts<'_> = EnrichedParts {
    resolved_user_id: Some("u-1"),
    session: Some(SessionParts {
        id: Some("s-1"),
        number: 3,
        started: TimeMicros(1),
        first_event: true,
        landing_page: Some("https://shop.example/"),
        previous_ended: Some(TimeMicros(0)),
    }),
    device: Some(DeviceParts {
        browser: Some("Firefox"),
        browser_version: Some("133.0"),
        os: Some("Linux"),
        os_version: Some("6"),
        brand: Some("B"),
        model: Some("M"),
        class: Some("desktop"),
        bot: true,
    }),
    geo: Some(GeoParts {
        country: Some("DE"),
        region: Some("BE"),
        city: Some("Berlin"),
        postal_code: Some("10115"),
        time_zone: Some("Europe/Berlin"),
        latitude: Some(52.5),
        longitude: Some(13.4),
        accuracy_km: 10,
        as_number: 64_496,
        as_name: Some("Example"),
        origin: tracklog_protocol::event::GeoOrigin::Database,
    }),
    campaign: Some(CampaignParts {
        source: Some("news"),
        medium: Some("email"),
        name: Some("spring"),
        term: Some("t"),
        content: Some("c"),
        id: Some("1"),
        click_id: Some("x"),
        click_id_kind: Some("gclid"),
        referrer_host: Some("mail.example"),
        referrer_kind: Some("mail"),
        referrer_name: Some("Mail"),
    }),
    page: Some(PageParts {
        scheme: Some("https"),
        host: Some("shop.example"),
        path: Some("/a"),
        query: Some("b=c"),
        fragment: Some("d"),
    }),
    profile: Some(ProfileParts {
        version: Offset(9),
        traits: Some(r#"{"plan":"gold","age":40}"#),
        group_traits: Some(r#"{"seats":12}"#),
    }),
    enriched_by: Some("device@1"),
    failures: Some(r#"{"geo":"no database"}"#),
    state_offset: Some(Offset(5)),
    made_from: Some(RawPlace { partition: 2, offset: Offset(77) }),
};

const FULL: EventParts<'_> = EventParts {
    message_id: "m-1",
    kind: EventKind::Track,
    name: Some("Order Completed"),
    source: Some("web"),
    anonymous_id: Some("a-1"),
    user_id: Some("u-1"),
    previous_id: Some("p-1"),
    group_id: Some("g-1"),
    session_id: Some("c-1"),
    category: Some("shop"),
    event_time: TimeMicros(10),
    received_time: TimeMicros(20),
    client_time: Some(TimeMicros(9)),
    client_time_text: Some("1970-01-01T00:00:00.000009Z"),
    sent_time_text: Some("1970-01-01T00:00:00Z"),
    flags: tracklog_protocol::event::EventFlags::from_bits(0),
    schema_version: Some(4),
    peer_address: Some("10.0.0.1"),
    client_address: Some("203.0.113.9"),
    headers: &[("cf-ipcountry", "DE")],
    user_agent: Some("Mozilla/5.0"),
    locale: Some("de-DE"),
    page_url: Some("https://shop.example/a?b=c#d"),
    page_path: Some("/a"),
    page_referrer: Some("https://mail.example/"),
    page_title: Some("A"),
    library_name: Some("analytics.js"),
    library_version: Some("2.1"),
    channel: Some("web"),
    properties: Some(
        r#"{"total":120.50,"cart":{"items":[{"sku":"x-1","n":2},{"sku":"x-2"}],"coupon":null},
        "tags":["a","b"],"vip":true,"we\u0069rd.name":"w"}"#,
    ),
    property_index: &[],
    traits: Some(r#"{"email":"a@b.example"}"#),
    context: Some(r#"{"ip":"203.0.113.9","app":{"name":"Shop"}}"#),
    integrations: Some(r#"{"All":true}"#),
    extra: Some(r#"{"foo":18446744073709551615}"#),
    enriched: Some(&ENRICHED),
};

fn line(record: Record<'_>) -> Json {
    let mut text = Vec::new();
    let at = LinePlace { topic: "t", partition: 0, offset: Offset(0), appended_at: TimeMicros(0) };
    write_line(&mut text, at, record);
    serde_json::from_slice(&text).unwrap()
}

/// Paths of everything in `json` that is no object, as a rule names them.
fn leaves(json: &Json, path: &str, out: &mut Vec<(String, Json)>) {
    match json {
        Json::Object(members) => {
            for (name, below) in members {
                let name = if name.contains('.') { format!("{name:?}") } else { name.clone() };
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                leaves(below, &path, out);
            }
        }
        leaf => out.push((path.to_owned(), leaf.clone())),
    }
}

fn shown(value: &Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Text(text) => text.as_ref().into(),
        Value::Number(Number::Integer(number)) => number.to_string().parse::<Json>().unwrap(),
        Value::Number(Number::Double(number)) => number.to_string().parse::<Json>().unwrap(),
        Value::Array(text) => serde_json::from_str(text).unwrap(),
        Value::Object => Json::Object(serde_json::Map::new()),
    }
}

/// Numbers by their value, however they are written.
fn same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

#[test]
fn every_field_of_the_line_has_the_same_name_and_value_in_rules() {
    let mut builder = EventBuilder::new();
    let record = builder.build(&FULL);
    let event = EventView::of(record).unwrap();
    let mut found = Vec::new();
    leaves(&line(record), "", &mut found);
    assert!(found.len() > 70, "{} fields", found.len());
    for (path, wanted) in found {
        // Where a record lies is no part of it.
        if ["topic", "partition", "offset", "appendedAt", "headers"].contains(&&*path)
            || path.starts_with("enrichFailures.")
        {
            continue;
        }
        let field = Field::parse(&path).unwrap_or_else(|error| panic!("{error}"));
        let value = field.value(&event).unwrap_or_else(|| panic!("{path} has no value"));
        assert!(same(&shown(&value), &wanted), "{path}: {value:?}, in the line {wanted}");
    }
}

#[test]
fn a_field_that_no_event_has_is_refused_with_what_there_is() {
    let refused = |path: &str| Field::parse(path).unwrap_err().to_string();
    assert!(refused("propertys.total").contains("below properties, traits, context"));
    assert!(refused("geo.land").contains("geo has country, region"));
    assert!(refused("properties..x").contains("a name is empty"));
    assert!(refused("properties.\"x").contains("quote is not closed"));
    assert!(refused(&["properties"; 17].join(".")).contains("more than 16"));
}

fn holds(expression: &str) -> bool {
    let mut builder = EventBuilder::new();
    let event = EventView::of(builder.build(&FULL)).unwrap();
    let parsed = Expression::parse(expression);
    parsed.unwrap_or_else(|error| panic!("{expression}: {error}")).holds(&event)
}

#[test]
fn expressions_hold_as_their_page_says() {
    for yes in [
        "properties.total >= 120.5",
        "properties.total > 120 and geo.country == \"DE\"",
        "extra.foo == 18446744073709551615",
        "not extra.foo == 18446744073709551614",
        "properties.cart.items.1.sku == 'x-2'",
        "properties.cart.coupon == null",
        "properties.tags contains \"b\"",
        "properties.vip == true and device.bot == true",
        "properties.\"weird.name\" == 'w'",
        "event like \"Order *\" or exists(traits.nothing)",
        "type in [\"page\", \"track\"]",
        "userAgent starts_with 'Mozilla' and page.url ends_with '#d'",
        "clientAddress contains '0.113'",
        "properties.nothing != 1",
        "not (exists(properties.nothing) or properties.total < 0)",
        "not not exists(userId)",
        "timestamp < '2000'",
        "properties.total > 1e2",
        "profile.traits.plan == 'gold' and profile.groupTraits.seats == 12",
    ] {
        assert!(holds(yes), "{yes}");
    }
    for no in [
        "properties.nothing == null",
        "properties.total == '120.50'",
        "properties.nothing < 1",
        "extra.foo == 18446744073709551614",
        "properties.cart.items.2.sku == 'x-2'",
        "properties.tags contains 'c'",
        "event like 'order*'",
        "not exists(userId)",
    ] {
        assert!(!holds(no), "{no}");
    }
}

#[test]
fn what_is_no_expression_is_refused_where_it_is_wrong() {
    let refused = |text: &str| Expression::parse(text).unwrap_err().to_string();
    assert_eq!(
        refused("event == "),
        "at character 10: a number, a text in quotes, true, false or null was expected"
    );
    assert!(refused("event = 'x'").starts_with("at character 7: a comparison was expected"));
    assert!(refused("evnt == 'x'").starts_with("at character 1: \"evnt\" is no field"));
    assert_eq!(refused("event == 'ü' x"), "at character 14: nothing more was expected");
    assert!(refused("userId < true").contains("only numbers and texts have an order"));
    assert!(refused(&"(".repeat(40)).contains("deeper than 32"));
    let many = vec!["exists(userId)"; 257].join(" and ");
    assert!(refused(&many).contains("more than 256 tests"));
    assert!(refused("").contains("a field was expected"));
}

fn projected(fields: &str) -> Json {
    let text = format!(
        "[destinations.t]\ntype = \"topic\"\n[[rules]]\nname = \"r\"\nto = [\"t\"]\n{fields}\n"
    );
    let rules = Rules::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let table = RouteTable::new(rules);
    let (mut builder, mut second) = (EventBuilder::new(), EventBuilder::new());
    let record = builder.build(&FULL);
    let event = EventView::of(record).unwrap();
    let taken = table.taken(&event, &DestinationName::new("t").unwrap()).unwrap();
    let record = taken.projected(&event, record, &mut second);
    // What is built is what a reader of the log would take.
    tracklog_protocol::event::verify(record.bytes()).unwrap();
    line(record)
}

#[test]
fn what_is_dropped_is_gone_and_all_else_is_as_sent() {
    let whole = projected("");
    let left = projected(
        r#"drop = ["clientAddress", "properties.cart.items", "context", "geo.city", "device", "page"]"#,
    );
    let mut wanted = whole;
    for (object, field) in [
        ("", "clientAddress"),
        ("/properties/cart", "items"),
        ("", "context"),
        ("/geo", "city"),
        ("", "device"),
        ("", "page"),
    ] {
        let object = wanted.pointer_mut(object).and_then(Json::as_object_mut).unwrap();
        object.remove(field).unwrap();
    }
    assert_eq!(left, wanted);
}

#[test]
fn what_is_kept_stays_and_what_every_event_has() {
    let left = projected(
        r#"keep = ["userId", "properties.total", "properties.cart", "geo.country", "profile.traits.plan"]
drop = ["properties.cart.coupon"]"#,
    );
    let mut names: Vec<_> = left.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let kept = [
        "appendedAt",
        "event",
        "geo",
        "messageId",
        "offset",
        "partition",
        "profile",
        "properties",
        "rawOffset",
        "rawPartition",
        "receivedAt",
        "schemaVersion",
        "source",
        "stateOffset",
        "timestamp",
        "topic",
        "type",
        "userId",
    ];
    assert_eq!(names, kept);
    let properties: Json = serde_json::from_str(
        r#"{"total":120.50,"cart":{"items":[{"sku":"x-1","n":2},{"sku":"x-2"}]}}"#,
    )
    .unwrap();
    assert_eq!(left["properties"], properties);
    assert_eq!(left["profile"]["traits"], serde_json::json!({"plan": "gold"}));
    assert!(left["geo"].get("city").is_none());
}

#[test]
fn elements_of_arrays_are_named_by_their_numbers() {
    let items = |fields: &str| projected(fields)["properties"]["cart"]["items"].clone();
    let json = |text: &str| serde_json::from_str::<Json>(text).unwrap();
    assert_eq!(items(""), json(r#"[{"sku":"x-1","n":2},{"sku":"x-2"}]"#));
    let dropped = |path: &str| items(&format!("drop = [\"properties.cart.items.{path}\"]"));
    assert_eq!(dropped("0"), json(r#"[{"sku":"x-2"}]"#));
    assert_eq!(dropped("0.sku"), json(r#"[{"n":2},{"sku":"x-2"}]"#));
    assert_eq!(dropped("7"), items(""));
    assert_eq!(dropped("sku"), items(""), "an array has no names but numbers");
    let kept = |path: &str| items(&format!("keep = [\"properties.cart.items.{path}\"]"));
    assert_eq!(kept("1"), json(r#"[{"sku":"x-2"}]"#));
    assert_eq!(kept("0.n"), json(r#"[{"n":2}]"#));
    assert_eq!(kept("sku"), json("[]"));
    let both = "keep = [\"properties.cart.items\"]\ndrop = [\"properties.cart.items.0.n\", \
                \"properties.cart.items.1\"]";
    assert_eq!(items(both), json(r#"[{"sku":"x-1"}]"#));
}

#[test]
fn a_file_that_says_something_else_is_refused_with_its_line() {
    let refused = |text: &str| Rules::parse(text).unwrap_err().to_string();
    let topic = "[destinations.t]\ntype = \"topic\"\n";
    let rule = "[[rules]]\nname = \"r\"\n";
    for (text, says) in [
        (format!("{topic}{rule}to = [\"u\"]\n"), "line 5: there is no [destinations.u]"),
        (format!("{topic}{rule}to = [\"archive\"]\n"), "line 5: the archive takes every event"),
        (format!("{topic}{rule}to = []\n"), "line 5: a rule needs a destination"),
        (format!("{topic}{rule}to = [\"t\"]\nwhen = 1\n"), "line 6: unknown field `when`"),
        (
            format!("{topic}{rule}to = [\"t\"]\nwhere = 'x == 1'\n"),
            "line 6: `where`, at character 1",
        ),
        (format!("{topic}{rule}to = [\"t\"]\nsample = 1.5\n"), "line 6: 1.5 is not from"),
        (
            format!("{topic}{rule}to = [\"t\"]\nsample_by = \"userId\"\n"),
            "line 6: `sample_by` needs",
        ),
        (format!("{topic}{rule}to = [\"t\"]\ndrop = [\"messageId\"]\n"), "line 6: every event has"),
        (format!("{topic}{rule}to = [\"t\"]\npriority = \"urgent\"\n"), "line 6: unknown variant"),
        (format!("{topic}{rule}to = [\"t\"]\ntype = \"trak\"\n"), "line 4: \"trak\" is no type"),
        (format!("{topic}{rule}to = [\"t\"]\n{rule}to = [\"t\"]\n"), "there are two rules \"r\""),
        ("[destinations.t]\ntype = \"tpoic\"\n".into(), "line 2: \"tpoic\" is no type"),
        (
            "[destinations.t]\ntype = \"topic\"\ntopic = \"raw\"\n".into(),
            "line 3: raw is a topic of",
        ),
        ("[destinations._t]\ntype = \"topic\"\n".into(), "line 1: \"_t\" is no destination's name"),
        ("[destinations.w]\ntype = \"webhook\"\n".into(), "line 1: a webhook needs an `url`"),
        (
            "[destinations.w]\ntype = \"webhook\"\nurl = \"ftp://x\"\n".into(),
            "line 3: \"ftp://x\" is no URL",
        ),
        (
            "[destinations.w]\ntype = \"topic\"\nurl = \"http://x\"\n".into(),
            "line 3: `url` is for destinations of type webhook, not topic",
        ),
        ("[destinations.\"t.high\"]\ntype = \"topic\"\n".into(), "line 1: \"t.high\" is no destination's"),
        (
            "[destinations.a]\ntype = \"file\"\nfolder = \"x\"\n[destinations.b]\ntype = \"file\"\nfolder = \"x\"\n".into(),
            "another destination has the folder x",
        ),
        (
            "[destinations.a]\ntype = \"file\"\nfolder = \"x\"\n[destinations.b]\ntype = \"file\"\nfolder = \"./y/.././x/\"\n".into(),
            "line 4: another destination has the folder ./y/.././x/",
        ),
        (format!("{topic}{rule}to = [\"t\"]\nsample = nan\n"), "line 6: NaN is not from"),
        ("rules = 3".into(), "line 1: "),
        ("[[rules]\n".into(), "line 1: "),
    ] {
        let said = refused(&text);
        assert!(said.contains(says), "{text}\n{said}");
    }
}

const NAMES: [&str; 4] = ["Order Completed", "Order Cancelled", "Signed Up", "x"];
const SOURCES: [&str; 2] = ["web", "app"];

#[derive(Clone, Debug)]
struct AnyRule {
    event: Option<&'static str>,
    kind: Option<&'static str>,
    source: Option<&'static str>,
    above: Option<u8>,
    high: bool,
    to: Vec<&'static str>,
}

fn any_rule() -> impl Strategy<Value = AnyRule> {
    let event = prop::sample::select(vec!["*", "Order *", "Order Completed", "x", "?*p"]);
    let to = prop::sample::subsequence(vec!["one", "two", "three"], 1..=3);
    let kind = prop::sample::select(vec!["track", "page"]);
    (
        prop::option::of(event),
        prop::option::of(kind),
        prop::option::of(prop::sample::select(vec!["web", "a*"])),
        prop::option::of(0_u8..4),
        any::<bool>(),
        to,
    )
        .prop_map(|(event, kind, source, above, high, to)| AnyRule {
            event,
            kind,
            source,
            above,
            high,
            to,
        })
}

fn file(rules: &[AnyRule]) -> String {
    let mut text = String::new();
    for name in ["one", "two", "three"] {
        text.push_str(&format!("[destinations.{name}]\ntype = \"topic\"\npartitions = 1\n"));
    }
    for (index, rule) in rules.iter().enumerate() {
        text.push_str(&format!("[[rules]]\nname = \"{index}\"\nto = {:?}\n", rule.to));
        let mut key = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                text.push_str(&format!("{key} = \"{value}\"\n"));
            }
        };
        key("event", rule.event);
        key("type", rule.kind);
        key("source", rule.source);
        key("where", rule.above.map(|above| format!("properties.n > {above}")).as_deref());
        key("priority", rule.high.then_some("high"));
    }
    text
}

#[derive(Clone, Copy, Debug)]
struct AnyEvent {
    name: &'static str,
    source: &'static str,
    n: u8,
}

fn any_event() -> impl Strategy<Value = AnyEvent> {
    let name = prop::sample::select(NAMES.to_vec());
    let source = prop::sample::select(SOURCES.to_vec());
    (name, source, 0_u8..6).prop_map(|(name, source, n)| AnyEvent { name, source, n })
}

fn built<T>(event: AnyEvent, id: &str, with: impl FnOnce(Record<'_>) -> T) -> T {
    let properties = format!("{{\"n\":{}}}", event.n);
    let parts = EventParts {
        message_id: id,
        name: Some(event.name),
        source: Some(event.source),
        anonymous_id: Some("same"),
        properties: Some(&properties),
        ..EventParts::default()
    };
    with(EventBuilder::new().build(&parts))
}

/// Where an event goes, read from the rules without any index.
fn plainly(rules: &[AnyRule], event: AnyEvent) -> BTreeMap<&'static str, bool> {
    let mut to = BTreeMap::new();
    for rule in rules {
        let name = rule.event.unwrap_or("*");
        let is_named = match name {
            "*" => true,
            "Order *" => event.name.starts_with("Order "),
            "?*p" => event.name.ends_with('p') && event.name.len() > 1,
            name => event.name == name,
        };
        let is_from =
            rule.source.is_none_or(|it| it == event.source || it == "a*" && event.source == "app");
        let is_kind = rule.kind.is_none_or(|kind| kind == "track");
        if is_named && is_from && is_kind && rule.above.is_none_or(|above| event.n > above) {
            for name in &rule.to {
                to.entry(*name).or_insert(rule.high);
            }
        }
    }
    to
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_event_goes_where_a_plain_reading_of_the_rules_sends_it(
        rules in prop::collection::vec(any_rule(), 0..12),
        events in prop::collection::vec(any_event(), 1..20),
    ) {
        let table = RouteTable::new(Rules::parse(&file(&rules)).unwrap());
        for event in events {
            let wanted = plainly(&rules, event);
            let found = built(event, "m", |record| {
                let view = EventView::of(record).unwrap();
                let mut found = BTreeMap::new();
                table.each(&view, |name, taken| {
                    let before = found.insert(name.to_string(), taken.lane() == Lane::High);
                    assert!(before.is_none(), "twice to {name}");
                    let alone = table.taken(&view, name).unwrap();
                    assert_eq!(alone.rule(), taken.rule());
                });
                found
            });
            let wanted: BTreeMap<_, _> = wanted.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}

/// Words of which files are made, and some of which they are not.
fn any_file() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "[destinations.t]",
        "[[rules]]",
        "type",
        "name",
        "to",
        "where",
        "keep",
        "drop",
        "sample",
        "=",
        "\n",
        "\"",
        "'",
        "[",
        "]",
        "(",
        ")",
        ",",
        ".",
        "topic",
        "t",
        "r",
        "1",
        "-1e999",
        "0.5",
        "not",
        "and",
        "or",
        "exists",
        "in",
        "like",
        "properties.x",
        "geo.city",
        "==",
        "<=",
        "\\",
        "\u{0}",
        "ü",
        " ",
    ]);
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_file_or_refused_with_a_line_of_it(text in any_file(), junk in ".{0,80}") {
        for text in [text, junk] {
            if let Err(RulesError { line, .. }) = Rules::parse(&text) {
                prop_assert!((1..=text.matches('\n').count() + 1).contains(&line), "{line}");
            }
        }
    }

    #[test]
    fn any_expression_is_judged_or_refused(text in any_file(), junk in ".{0,80}") {
        let mut builder = EventBuilder::new();
        let event = EventView::of(builder.build(&FULL)).unwrap();
        for text in [text, junk] {
            if let Ok(expression) = Expression::parse(&text) {
                expression.holds(&event);
            }
        }
    }

    #[test]
    fn whatever_is_kept_and_dropped_what_is_left_is_an_event(
        keep in prop::option::of(prop::collection::vec(0_usize..200, 0..4)),
        drop in prop::collection::vec(0_usize..200, 0..4),
    ) {
        let mut builder = EventBuilder::new();
        let record = builder.build(&FULL);
        let event = EventView::of(record).unwrap();
        let mut paths = Vec::new();
        leaves(&line(record), "", &mut paths);
        let whole = ["properties", "properties.cart", "geo", "profile", "page", "context.app"];
        let paths: Vec<_> = paths.into_iter().map(|it| it.0).chain(whole.map(str::to_owned)).collect();
        let fields = |of: &[usize]| -> Vec<Field> {
            let path = |at: &usize| &paths[at % paths.len()];
            of.iter().filter_map(|at| Field::parse(path(at)).ok()).collect()
        };
        let (keep, drop) = (keep.map(|it| fields(&it)), fields(&drop));
        let gone: Vec<_> = drop.iter().filter(|it| it.can_be_dropped()).cloned().collect();
        let projection = projection::Projection::new(keep, drop);
        let mut second = EventBuilder::new();
        let left = projection.apply(&event, &mut second);
        tracklog_protocol::event::verify(left.bytes()).unwrap();
        let left = EventView::of(left).unwrap();
        prop_assert_eq!(left.message_id(), event.message_id());
        for field in gone {
            prop_assert!(field.value(&left).is_none(), "{} is still there", field);
        }
    }
}

#[test]
fn a_sample_takes_its_share_and_takes_the_same_again() {
    let text = "[destinations.one]\ntype = \"topic\"\n[[rules]]\nname = \"r\"\nto = [\"one\"]\nsample = 0.25\n";
    let (one, other) = (Rules::parse(text).unwrap(), Rules::parse(text).unwrap());
    let (one, other) = (RouteTable::new(one), RouteTable::new(other));
    let name = DestinationName::new("one").unwrap();
    let mut taken = 0;
    for id in 0..4_000 {
        let event = AnyEvent { name: "x", source: "web", n: 0 };
        built(event, &format!("id-{id}"), |record| {
            let view = EventView::of(record).unwrap();
            let is_taken = one.taken(&view, &name).is_some();
            assert_eq!(is_taken, other.taken(&view, &name).is_some());
            taken += u32::from(is_taken);
        });
    }
    assert!((900..1_100).contains(&taken), "{taken} of 4,000");
}

/// Two lanes over a source of one partition, and topics with one each.
struct Lanes {
    rig: Rig,
    source: Topic,
    rejected: Topic,
}

impl Lanes {
    fn new() -> Self {
        let rig = Rig::new();
        let (source, rejected) = (rig.topic("enriched", 1), rig.topic("rejected", 1));
        Self { rig, source, rejected }
    }

    fn routes(&self) -> Arc<Routes<MemoryLog>> {
        let log = Arc::clone(&self.rig.log);
        Arc::new(block_on(Routes::open(log, self.rig.epoch, self.source.clone())).unwrap())
    }

    fn activate(&self, routes: &Routes<MemoryLog>, rules: &[AnyRule]) {
        let text = file(rules);
        block_on(routes.activate(&text, self.rig.now(), |_| Offset::ZERO)).unwrap();
    }

    fn write(&self, event: AnyEvent, id: &str) {
        built(event, id, |record| {
            self.rig.append(&[], &[(self.source.partition(0), record)]).unwrap();
        });
    }

    /// Runs `lane` in a new process, for so many polls.
    fn run(
        &self,
        routes: &Arc<Routes<MemoryLog>>,
        lane: Lane,
        polls: usize,
    ) -> Poll<Result<(), StageEnd>> {
        let stage = RouteStage::new(Arc::clone(&self.rig.log), Arc::clone(routes), lane);
        let groups = self.rig.groups();
        let name = group(crate::stage::Stage::name(&stage));
        let shared = PartitionLoop {
            log: Arc::clone(&self.rig.log),
            epoch: self.rig.epoch,
            stage: Arc::new(stage),
            source: self.source.clone(),
            rejected: self.rejected.clone(),
            delivery: Delivery::OneCommit,
            time: Arc::new(NoTime(self.rig.clock())),
            counters: Arc::default(),
        };
        let topics = vec![self.source.clone()];
        let member = block_on(groups.join(&name, "m", topics, Start::Earliest)).unwrap();
        let running = pin!(shared.run(&member, self.source.partition(0)));
        poll_until_idle(running, polls)
    }

    /// Ids in a topic, in order.
    fn ids(&self, topic: &str) -> Vec<String> {
        let Some(topic) = self.rig.log.topic(topic) else { return Vec::new() };
        let batches = self.rig.read(topic.partition(0));
        let records = batches.iter().flat_map(BatchView::records);
        records.map(|(_, it)| EventView::of(it).unwrap().message_id().to_owned()).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(AnyEvent),
    /// New rules, and whether their process lives on.
    Change(Vec<AnyRule>),
    /// A process begins anew.
    Restart,
    /// A lane runs for so many polls and dies.
    Run(bool, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => any_event().prop_map(Step::Write),
        1 => prop::collection::vec(any_rule(), 0..5).prop_map(Step::Change),
        1 => Just(Step::Restart),
        3 => (any::<bool>(), 0_usize..8).prop_map(|(high, polls)| Step::Run(high, polls)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lanes_that_lag_and_die_while_rules_change_send_each_event_once_by_the_rules_of_its_time(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let lanes = Lanes::new();
        let mut routes = lanes.routes();
        let (mut rules, mut wanted) = (Vec::new(), BTreeMap::<(&str, bool), Vec<String>>::new());
        for (index, step) in steps.iter().enumerate() {
            match step {
                Step::Write(event) => {
                    let id = format!("{index:03}");
                    lanes.write(*event, &id);
                    for (to, high) in plainly(&rules, *event) {
                        wanted.entry((to, high)).or_default().push(id.clone());
                    }
                }
                Step::Change(new) => {
                    lanes.activate(&routes, new);
                    rules.clone_from(new);
                }
                Step::Restart => routes = lanes.routes(),
                Step::Run(high, polls) => {
                    let lane = if *high { Lane::High } else { Lane::Normal };
                    // Whatever it comes to, the next process goes on.
                    drop(lanes.run(&routes, lane, *polls));
                }
            }
        }
        for lane in [Lane::High, Lane::Normal] {
            prop_assert_eq!(lanes.run(&routes, lane, usize::MAX), Poll::Pending);
        }
        for to in ["one", "two", "three"] {
            let (mut high, mut normal) = (Vec::new(), Vec::new());
            for id in lanes.ids(to) {
                let of_high = wanted.get(&(to, true)).is_some_and(|it| it.contains(&id));
                if of_high { high.push(id) } else { normal.push(id) }
            }
            let of = |high| wanted.get(&(to, high)).cloned().unwrap_or_default();
            prop_assert_eq!(high, of(true), "to {}, by the lane of high priority", to);
            prop_assert_eq!(normal, of(false), "to {}", to);
        }
        prop_assert_eq!(lanes.rig.end(lanes.rejected.partition(0)), Offset::ZERO);
    }
}

/// However far the usual lane is behind: what is of high priority passes it, and costs as many steps
/// as if there were no usual lane.
#[test]
fn what_is_of_high_priority_arrives_though_the_usual_lane_has_not_begun() {
    let lanes = Lanes::new();
    let routes = lanes.routes();
    let rule = |event, high, to| AnyRule {
        event: Some(event),
        kind: None,
        source: None,
        above: None,
        high,
        to: vec![to],
    };
    let rules = [rule("Order *", true, "one"), rule("x", false, "two")];
    lanes.activate(&routes, &rules);
    let usual = AnyEvent { name: "x", source: "web", n: 1 };
    let high = AnyEvent { name: "Order Completed", ..usual };
    const USUAL: usize = 5_000;
    (0..USUAL).for_each(|number| lanes.write(usual, &format!("usual-{number}")));
    lanes.write(high, "high");
    // Some to claim the partition, and one for each commit; a commit takes hundreds of events.
    let steps = 50;
    assert!(lanes.run(&routes, Lane::High, steps).is_pending());
    assert_eq!((lanes.ids("one"), lanes.ids("two").len()), (vec!["high".to_owned()], 0));
    assert!(lanes.run(&routes, Lane::Normal, usize::MAX).is_pending());
    assert_eq!((lanes.ids("one").len(), lanes.ids("two").len()), (1, USUAL));
}

#[test]
fn rules_that_nobody_needs_are_forgotten_and_the_rest_survive_a_restart() {
    let lanes = Lanes::new();
    let routes = lanes.routes();
    let to = |event| AnyRule {
        event: Some(event),
        kind: None,
        source: None,
        above: None,
        high: false,
        to: vec!["one"],
    };
    let some = AnyEvent { name: "x", source: "web", n: 1 };
    for (index, event) in ["*", "x", "Order *", "?*p"].into_iter().enumerate() {
        lanes.activate(&routes, &[to(event)]);
        lanes.write(some, &index.to_string());
    }
    let text = file(&[to("?*p")]);
    let again = block_on(routes.activate(&text, lanes.rig.now(), |_| Offset::ZERO)).unwrap();
    assert_eq!(again, Activated::Unchanged);
    let text = file(&[]);
    let needed = |_| Offset(2);
    let activated = block_on(routes.activate(&text, lanes.rig.now(), needed)).unwrap();
    assert_eq!(activated, Activated::Version(5));
    for routes in [routes, lanes.routes()] {
        let history = block_on(routes.history());
        let number = |offset| {
            history.at(lanes.source.partition(0), Offset(offset)).map(|version| version.number)
        };
        assert_eq!([1, 2, 3, 4].map(number), [None, Some(3), Some(4), Some(5)]);
        assert_eq!(history.newest().unwrap().rules().rule_count(), 0);
        assert!(history.versions().any(|version| version.serves_topics(Lane::Normal)));
    }
}

#[test]
fn a_bad_file_changes_nothing() {
    let lanes = Lanes::new();
    let routes = lanes.routes();
    let refused =
        block_on(routes.activate("[[rules]]\nname = \"r\"\n", lanes.rig.now(), |_| Offset::ZERO));
    assert!(
        matches!(refused, Err(ActivateError::Rules(RulesError { line: 1, .. }))),
        "{refused:?}"
    );
    assert!(block_on(routes.history()).newest().is_none());
}
