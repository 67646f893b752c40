//! Writes `seeds/`: a few honest inputs for each target, from which it starts.
#![forbid(unsafe_code)]

use std::path::Path;
use std::{fs, io};

use tracklog_fuzz::disk::{Sample, checkpoints, head_of};
use tracklog_fuzz::pack::PackSample;
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::columns::Encoder;
use tracklog_protocol::event::{
    CampaignParts, DeviceParts, EnrichedParts, EventBuilder, EventFlags, EventKind, EventParts,
    Fields, GeoOrigin, GeoParts, PageParts, ProfileParts, RawPlace, SessionParts,
};
use tracklog_protocol::rejected::{RejectedBuilder, RejectedParts};
use tracklog_protocol::{
    KeyValue, Offset, PayloadKind, ProducerEpoch, ProducerId, Record, Sequence, TimeMicros,
};

const PROPERTIES: &str = r#"{"id":"p-17","price":12.50,"on\u0053ale":true,"coupon":null,"tags":["a",1e2],"box":{"x":1}}"#;
const RULES: &[(&str, &str, &str)] = &[
    (
        "all-kinds",
        r#"[destinations.orders]
type = "topic"
partitions = 3
[destinations.crm]
type = "webhook"
url = "https://crm.example/hook"
secret_file = "crm.key"
headers = { "x-team" = "a" }
batch_events = 10
batch_bytes = "64 KiB"
timeout = "5s"
give_up_after = "1h"
[destinations.export]
type = "file"
folder = "export"
roll_bytes = "1 MiB"
[[rules]]
name = "large orders"
event = "Order *"
type = "track"
source = ["web", "app"]
where = 'properties.total >= 10 and geo.country in ["DE", "AT"] or not exists(userId)'
to = ["orders", "crm"]
priority = "high"
sample = 0.5
sample_by = "userId"
drop = ["properties.tags.0", "clientAddress", "traits"]
[[rules]]
name = "rest"
to = ["orders", "export"]
keep = ["userId", "properties.cart.items.0.sku", "geo.country", "profile.traits.total"]
"#,
        PROPERTIES,
    ),
    (
        "comparisons",
        r#"[destinations.t]
type = "topic"
[[rules]]
name = "r"
where = "properties.\"a.b\" like 'x*' and context.n.0 != 1e2 or (traits.t contains \"b\" and not page.url starts_with 'h')"
to = ["t"]
"#,
        r#"{"a.b":"xyz","n":[1,2],"t":["b",null]}"#,
    ),
    ("empty", "", "{}"),
];
const TIME: TimeMicros = TimeMicros(1_767_322_800_000_000);

fn main() -> io::Result<()> {
    let mut events = EventBuilder::new();
    let full = events.build(&full_event()).bytes().to_vec();
    let bare = events.build(&bare_event()).bytes().to_vec();
    let found = found();
    let enriched = EventParts { enriched: Some(&found), ..bare_event() };
    let enriched = events.build(&enriched).bytes().to_vec();
    let mut rejections = RejectedBuilder::new();
    let rejected = rejections.build(&rejected_event()).bytes().to_vec();
    write("event_view", "event-full", &full)?;
    write("event_view", "event-bare", &bare)?;
    write("event_view", "event-enriched", &enriched)?;
    write("event_view", "rejected", &rejected)?;

    let event = |bytes| tracklog_protocol::event::verify(bytes).expect("it was built here");
    let bytes = batch(PayloadKind::Event, &[event(&full), event(&bare)]);
    write("batch_decode", "events", &bytes)?;
    write("batch_decode", "one-event", &batch(PayloadKind::Event, &[event(&bare)]))?;
    let opaque = [Record::opaque(b""), Record::opaque(b"some bytes"), Record::opaque(b"\0")];
    write("batch_decode", "opaque", &batch(PayloadKind::Opaque, &opaque))?;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let pairs = [
        KeyValue { key: b"key", value: Some(b"value") }.encode(&mut first),
        KeyValue { key: b"key", value: None }.encode(&mut second),
    ];
    let stretch = Sequence(3)..Sequence(1 << 40);
    let derived = BatchBuilder::new(PayloadKind::Opaque);
    let derived = derived.derived_by(ProducerId(1), ProducerEpoch(2), stretch);
    write("batch_decode", "derived", &finish(derived, &opaque))?;
    write("batch_decode", "key-values", &batch(PayloadKind::KeyValue, &pairs))?;
    write("columns_decode", "batch", &bytes)?;
    let all = [event(&full), event(&bare), event(&enriched), event(&full), event(&enriched)];
    write("columns_decode", "columns", &columns_of(&batch(PayloadKind::Event, &all)))?;

    for (door, name, body) in BODIES {
        write("gateway_json", name, &[&[*door], body.as_bytes()].concat())?;
    }
    for (name, rules, object) in RULES {
        write("route_rules", name, format!("{rules}\0{object}").as_bytes())?;
    }
    for (name, body) in TEXTS {
        write("json_acceptance", name, body.as_bytes())?;
    }
    for (name, parts) in BATCHES {
        let parts = parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>();
        write("segment_batch", name, &[&[0], &*parts.join(&0xff)].concat())?;
    }
    for (target, name, text) in LINES {
        write(target, name, text.as_bytes())?;
    }
    for (name, schema, payload) in SCHEMAS {
        let parts = [schema.as_bytes(), payload.as_bytes()];
        write("registry_schema", name, &parts.join(&0))?;
    }
    write_disks()
}

/// What the target takes for the columns of a batch.
fn columns_of(batch: &[u8]) -> Vec<u8> {
    let mut space = batch.to_vec();
    space.resize(space.len().next_multiple_of(8), 0);
    let mut encoder = Encoder::new();
    let areas = encoder.encode(&space).expect("events are turned into columns");
    let size = |bytes: usize| u16::try_from(bytes).expect("the seeds are small").to_le_bytes();
    let asked = u32::try_from(space.len()).expect("the seeds are small").to_le_bytes();
    let sizes = [size(areas.numbers.len()), size(areas.texts.len())].concat();
    [&sizes, &asked[..], areas.numbers, areas.texts, areas.raw].concat()
}

/// Checkpoints, and edits of a log: see the targets.
fn write_disks() -> io::Result<()> {
    for (name, file) in ["a", "b"].iter().zip(checkpoints()) {
        write("checkpoint_load", name, &[&[0], &*file].concat())?;
        write("checkpoint_load", &format!("{name}-alone"), &[&[1], &*file].concat())?;
    }
    for (name, head) in commit_heads() {
        write("commit_header", name, &head)?;
    }
    write_packs()?;
    let how_many = Sample::the().commits.len();
    let last = u8::try_from(how_many - 1).expect("a small log");
    let edits: &[Edits<'_>] = &[
        ("untouched", 0, &[]),
        ("rotted-bit", 4, &[[1, 3, 200, 0, 1, 0, 0, 0]]),
        ("header-gone", 5, &[[7, last, 0, 0, 0, 0, 0, 0]]),
        ("page-misdirected", 1, &[[3, 2, 5, 0, 0, 0, 0, 0]]),
        ("checkpoints-gone", 0, &[[4, 0, 0, 0, 0, 0, 0, 0], [4, 1, 0, 0, 0, 0, 0, 0]]),
        ("slot-gone", 1, &[[5, 1, 0, 0, 0, 0, 0, 0]]),
        ("sector-bad", 0, &[[6, 4, 0, 0, 0, 0, 0, 0]]),
        ("forged-number", 3, &[[7, 4, 5, 0, 9, 0, 0, 0]]),
        ("forged-directory", 7, &[[8, 4, 8, 0, 9, 0, 0, 0]]),
        ("forged-opened", 3, &[[8, 0, 32, 0, 1, 0, 0, 0]]),
        ("forged-slot", 3, &[[9, 1, 40, 0, 9, 0, 0, 0]]),
    ];
    write_edits("journal_recovery", edits)
}

/// How a file or a log is changed: a name, how, and each change.
type Edits<'a> = (&'a str, u8, &'a [[u8; 8]]);

fn write_edits(target: &str, all: &[Edits<'_>]) -> io::Result<()> {
    for (name, how, edits) in all {
        write(target, name, &[&[*how], &*edits.concat()].concat())?;
    }
    Ok(())
}

/// A pack's footer, its frames, and edits of it.
fn write_packs() -> io::Result<()> {
    let sample = PackSample::the();
    write("pack_read", "footer", &[&[2], sample.footer()].concat())?;
    for (name, frame) in sample.frames() {
        let space_bytes = frame.space_bytes.to_le_bytes();
        write("pack_read", name, &[&[3], &space_bytes[..], frame.stored].concat())?;
    }
    let edits: &[Edits<'_>] = &[
        ("untouched", 0, &[]),
        ("rotted-bit", 0, &[[0, 40, 0, 0, 3, 0, 0, 0]]),
        ("page-gone", 0, &[[3, 0, 0, 0, 0, 0, 0, 0]]),
        ("page-misdirected", 0, &[[4, 0, 0, 0, 1, 0, 0, 0]]),
        ("cut", 0, &[[5, 0, 16, 0, 0, 0, 0, 0]]),
        ("forged-number", 1, &[[1, 100, 0, 0, 9, 0, 0, 0]]),
    ];
    write_edits("pack_read", edits)
}

/// One of each kind: the header and what it says lies behind it.
fn commit_heads() -> Vec<(&'static str, Vec<u8>)> {
    let sample = Sample::the();
    let disk = sample.machine();
    let heads = sample.commits.iter().map(|(slot, at)| head_of(&disk, *slot, *at));
    let heads: Vec<_> = heads.collect();
    let first = |kind| heads.iter().find(|head| head[6] == kind).expect("all kinds occur").clone();
    vec![("data", first(1)), ("mark", first(2)), ("opened", first(3)), ("sealed", first(4))]
}

const TEXTS: &[(&str, &str)] = &[
    (
        "event",
        r#"{"event":"A","properties":{"price":12.50,"\u0061":"\ud83d\ude00","list":[[],{},null,-0.0e1]},"traits":{"b":true},"context":{"page":{"url":"x"}}}"#,
    ),
    (
        "numbers",
        r#"{"a":[0,-0,1e400,1.7976931348623157e308,123456789012345678901234567890,1E-9,0.5e+2]}"#,
    ),
    ("twice", r#"{"a":1,"\u0061":2}"#),
    ("lone", r#"{"a":"\ud83d","b":"\"\\\/\b\f\n\r\t"}"#),
    ("white", "\u{feff} {\r\n\t\"a\" : [ 1 , false ] }\n"),
    (
        "deep",
        r#"{"a":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}"#,
    ),
];

const BATCHES: &[(&str, &[&str])] = &[
    (
        "three",
        &[
            r#""context":{"ip":"::1","library":{"name":"x"}},"integrations":{"All":true},"sentAt":"2026-01-02T03:04:05.678Z","writeKey":"k""#,
            r#"{"type":"track","event":"A","anonymousId":"x","messageId":"m","timestamp":"2026-01-02T03:04:05Z"}"#,
            r#"{"type":"alias","userId":"7","previousId":"6","context":{"ip":"10.0.0.1"}}"#,
            r#"{"type":"page","properties":{"a":1e400}}"#,
        ],
    ),
    ("bare", &["", r#"{"type":"identify","userId":7,"traits":{"plan":"pro"}}"#, "{}"]),
    (
        "kinds",
        &[
            r#""context":{"locale":"en","page":{"url":"https://x.example/"},"traits":{"a":1}},"timestamp":"2026-01-02T03:04:05Z","sentAt":1767322800000"#,
            r#"{"type":"identify","userId":"u-1","traits":{"userId":"u-1"},"context":{"locale":"de","sessionId":5}}"#,
            r#"{"type":"page","name":"Home","category":"Docs","anonymousId":"a","properties":{"url":"https://y.example/","title":"T"}}"#,
            r#"{"type":"screen","event":"Viewed","userId":7,"channel":"mobile"}"#,
            r#"{"type":"group","groupId":9007199254740993,"userId":-7,"integrations":{"All":false}}"#,
            r#"{"type":"track","event":"\u0045\n","user\u0049d":"1","properties":{"i":-1,"f":1.5e3,"u":18446744073709551615}}"#,
        ],
    ),
    (
        "refused",
        &[
            r#""integrations":null,"timestamp":{},"context":7,"more":[1]"#,
            r#"{"type":"track","event":5,"userId":"1"}"#,
            r#"{"type":"track","event":"E","userId":{}}"#,
            r#"{"type":"nothing"}"#,
            r#"7"#,
            r#"{"type":"track","event":"E","event":"F","userId":"1"}"#,
            r#"{"type":"track","event":"E","userId":"a\u0000"}"#,
            r#"{"type":"track","event":"E","userId":"1","timestamp":"soon"}"#,
            r#"{"type":"page","userId":"","anonymousId":null}"#,
        ],
    ),
    (
        "times",
        &[
            r#""sentAt":"2026-01-02T03:04:06Z""#,
            r#"{"type":"track","event":"E","userId":"1","timestamp":1767322800}"#,
            r#"{"type":"track","event":"E","userId":"1","originalTimestamp":"2026-01-02T03:04:05"}"#,
            r#"{"type":"track","event":"E","userId":"1","timestamp":1767322800000,"sentAt":"2026-01-02T03:04:07Z"}"#,
            r#"{"type":"track","event":"E","userId":"1","timestamp":"2030-01-01T00:00:00Z","messageId":""}"#,
        ],
    ),
    (
        "same",
        &[
            r#""writeKey":"k""#,
            r#"{"type":"track","event":"E","userId":"1","messageId":"m"}"#,
            r#"{"type":"track","event":"E","userId":"1","messageId":"m"}"#,
            r#"{"type":"track","event":"F","userId":"1","messageId":"m"}"#,
        ],
    ),
];

const LINES: &[(&str, &str, &str)] = &[
    (
        "rudder_pixel",
        "pixel",
        "writeKey=k&anonymousId=a&event=Seen+it&properties.price=5&context.page.url=https%3A%2F%2Fx.example%2F%3Fa&channel=mail",
    ),
    ("rudder_pixel", "clash", "a=1&a=2&a.b=3&c.d=4&c=5&a..b=%ff&.=2&x.x.x.x.x.x.x.x.x.x=%22"),
    ("event_time", "zones", "2024-11-25T10:00:00.123456789+08:00\n2024-11-25 02:00:00Z"),
    ("event_time", "epochs", "1732500000\n1732500000250"),
    ("event_time", "leap", "2016-12-31T23:59:60.5z\n2016-12-31t23:59:59-0500"),
    ("event_time", "decimal", "1732500000.25\n-12e3"),
];

const SCHEMAS: &[(&str, &str, &str)] = &[
    (
        "order",
        r##"{"type":"object","required":["price"],"properties":{"price":{"type":"number","minimum":0,"multipleOf":0.01},"tags":{"type":"array","uniqueItems":true,"items":{"type":"string","maxLength":4}},"at":{"format":"date-time"}},"additionalProperties":false}"##,
        r#"{"price":12.50,"tags":["a","b"],"at":"2026-01-02T03:04:05Z"}"#,
    ),
    (
        "references",
        r##"{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"n":{"anyOf":[{"type":"null"},{"type":"object","properties":{"x":{"$ref":"#/definitions/n"}}}]}},"$ref":"#/definitions/n"}"##,
        r#"{"x":{"x":{"x":7}}}"#,
    ),
    (
        "rest",
        r##"{"$defs":{"a":{"const":1}},"if":{"required":["a"]},"then":{"patternProperties":{"^a+$":{"$ref":"#/$defs/a"}}},"else":{"propertyNames":{"pattern":"b"}},"dependentRequired":{"a":["b"]},"oneOf":[{"minProperties":1},{"not":{}}],"unevaluatedProperties":{"enum":[1,3.0,"x"]}}"##,
        r#"{"a":1.0,"b":3}"#,
    ),
    (
        "shapes",
        r#"{"type":["object","null"],"minProperties":1,"maxProperties":3,"patternProperties":{"^a":{"type":"string"},"b$":{"type":"integer"}},"additionalProperties":{"type":"boolean"},"propertyNames":{"maxLength":2}}"#,
        r#"{"a1":"x","b":7,"c":true}"#,
    ),
    (
        "shapes-refused",
        r#"{"properties":{"a":false,"b":true},"patternProperties":{"^p":{"minimum":3}},"additionalProperties":false}"#,
        r#"{"b":null,"p":2,"z":1}"#,
    ),
    (
        "lists",
        r#"{"properties":{"l":{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"enum":[1,"x",null,[1.0],{"a":2}]},"contains":{"const":{"a":2}},"minContains":1,"maxContains":2,"minItems":1,"maxItems":6,"uniqueItems":true,"unevaluatedItems":false}}}"#,
        r#"{"l":[4,"t",{"a":2},[1],null]}"#,
    ),
    (
        "lists-old",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","properties":{"l":{"items":[{"type":"number"},{"type":"boolean"}],"additionalItems":{"type":"null"},"contains":{"type":"null"}}},"dependencies":{"l":["m"],"m":{"required":["n"]}}}"#,
        r#"{"l":[1.5,true,null],"m":1,"n":2}"#,
    ),
    (
        "numbers",
        r#"{"properties":{"i":{"type":"integer","multipleOf":3,"exclusiveMinimum":-9,"exclusiveMaximum":18446744073709551616},"f":{"type":"number","minimum":-1.5e300,"maximum":0.25,"multipleOf":0.125},"e":{"enum":[1.0,2,-3]},"c":{"const":1e2}}}"#,
        r#"{"i":9007199254740993,"f":0.25,"e":1,"c":100}"#,
    ),
    (
        "texts",
        r#"{"properties":{"s":{"type":"string","minLength":1,"maxLength":9,"pattern":"^(a|\\d+)\\p{L}?$","contentEncoding":"base64","contentMediaType":"application/json"},"t":{"pattern":"^abc"},"u":{"pattern":"abc$"},"v":{"enum":["\ud83d\ude00"]}}}"#,
        r#"{"s":"12\u00e4","t":"abcd","u":"xabc","v":"\ud83d\ude00"}"#,
    ),
    (
        "formats",
        r#"{"properties":{"a":{"format":"date-time"},"b":{"format":"date"},"c":{"format":"time"},"d":{"format":"duration"},"e":{"format":"email"},"f":{"format":"hostname"},"g":{"format":"ipv4"},"h":{"format":"ipv6"},"i":{"format":"uri"},"j":{"format":"uri-reference"},"k":{"format":"uuid"},"l":{"format":"regex"},"m":{"format":"json-pointer"},"n":{"format":"relative-json-pointer"},"o":{"format":"uri-template"},"p":{"format":"iri"},"q":{"format":"idn-hostname"},"r":{"format":"unknown"}}}"#,
        r#"{"a":"2026-01-02T03:04:05.6+01:00","b":"2024-02-29","c":"23:59:60Z","d":"P1DT2H","e":"a@b.example","f":"b.example","g":"203.0.113.9","h":"::ffff:1.2.3.4","i":"https://x.example/?a#b","j":"../a","k":"2f1b0a55-0000-4000-8000-000000000000","l":"^a+$","m":"/a~1b/0","n":"1/a","o":"/{a}","p":"https://x.example/%C3%A4","q":"x.example","r":7}"#,
    ),
    (
        "choices",
        r#"{"allOf":[{"required":["a"]},{"properties":{"a":{"anyOf":[{"type":"string"},{"type":"integer","minimum":5}]}}}],"anyOf":[{"required":["b"]}],"oneOf":[{"properties":{"k":{"const":1}},"required":["k"]},{"properties":{"k":{"const":2}},"required":["k"]}],"not":{"required":["never"]}}"#,
        r#"{"a":6,"b":0,"k":2}"#,
    ),
    (
        "choices-refused",
        r#"{"oneOf":[{"type":"object"},{"minProperties":1}],"allOf":[{"not":{}}],"anyOf":[{"type":"string"},{"maxProperties":0}]}"#,
        r#"{"a":1}"#,
    ),
    (
        "conditions",
        r#"{"if":{"properties":{"kind":{"const":"card"}},"required":["kind"]},"then":{"required":["number"]},"else":{"required":["iban"],"if":{"required":["bic"]},"then":false},"dependentRequired":{"iban":["name"]},"dependentSchemas":{"name":{"properties":{"name":{"minLength":2}}}}}"#,
        r#"{"kind":"sepa","iban":"DE1","name":"xy"}"#,
    ),
    (
        "rest-of-all",
        r##"{"allOf":[{"properties":{"a":true}},{"if":{"required":["b"]},"then":{"properties":{"b":{"type":"null"}}},"else":{"patternProperties":{"^c":{}}}},{"$ref":"#/$defs/d"},{"dependentSchemas":{"a":{"properties":{"e":true}}}},{"anyOf":[{"properties":{"f":true}},{"properties":{"g":true}}]},{"oneOf":[{"properties":{"h":{"const":1}},"required":["h"]},false]},{"not":{"not":{"properties":{"i":true}}}}],"unevaluatedProperties":{"type":"boolean"},"$defs":{"d":{"properties":{"d":true},"additionalProperties":{"type":["number","null","boolean"]}}}}"##,
        r#"{"a":1,"b":null,"d":2,"e":3,"f":4,"g":5,"h":1,"z":true}"#,
    ),
    (
        "rest-of-lists",
        r#"{"properties":{"l":{"allOf":[{"prefixItems":[true]},{"contains":{"type":"string"}},{"if":{"minItems":2},"then":{"prefixItems":[true,true]}}],"unevaluatedItems":{"type":"null"}}},"unevaluatedProperties":false}"#,
        r#"{"l":[1,2,"a",null]}"#,
    ),
    (
        "graph",
        r##"{"$id":"https://x.example/tree","$anchor":"root","type":"object","properties":{"next":{"$ref":"#root"},"leaf":{"$ref":"#/$defs/leaf"},"same":{"$ref":"tree#/$defs/leaf"}},"$defs":{"leaf":{"$id":"leaf","type":"integer","$defs":{"deep":{"$anchor":"deep","type":"string"}}},"use":{"$ref":"leaf#deep"}},"required":["leaf"]}"##,
        r#"{"leaf":1,"next":{"leaf":2,"next":{"leaf":3,"same":4}}}"#,
    ),
    (
        "dynamic",
        r##"{"$schema":"https://json-schema.org/draft/2020-12/schema","$id":"https://x.example/strict","$dynamicAnchor":"node","$ref":"#/$defs/tree","unevaluatedProperties":false,"$defs":{"tree":{"$dynamicAnchor":"base","properties":{"data":true,"children":{"type":"array","items":{"$dynamicRef":"#node"}}}}}}"##,
        r#"{"data":1,"children":[{"data":2},{"children":[]}]}"#,
    ),
    (
        "recursive",
        r##"{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveAnchor":true,"properties":{"kids":{"items":{"$recursiveRef":"#"}},"n":{"type":"number"}},"unevaluatedProperties":false}"##,
        r#"{"n":1,"kids":[{"n":2},{"kids":[{"n":"3"}]}]}"#,
    ),
    (
        "circles",
        r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##,
        r#"{}"#,
    ),
    (
        "nowhere",
        r##"{"$ref":"https://elsewhere.example/schema","properties":{"a":{"$ref":"#/$defs/missing"}}}"##,
        r#"{}"#,
    ),
    (
        "draft-four",
        r#"{"$schema":"http://json-schema.org/draft-04/schema#","id":"https://x.example/four","properties":{"n":{"minimum":1,"exclusiveMinimum":true,"maximum":9,"exclusiveMaximum":false,"type":"integer"}},"required":["n"]}"#,
        r#"{"n":1}"#,
    ),
    (
        "draft-six",
        r#"{"$schema":"http://json-schema.org/draft-06/schema#","properties":{"n":{"const":null},"m":{"contains":{"minimum":2}},"x":{"examples":[1],"default":2}},"propertyNames":{"enum":["n","m","x"]}}"#,
        r#"{"n":null,"m":[1,2],"x":0}"#,
    ),
    (
        "steps",
        r##"{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"},{"$ref":"#/$defs/b"}]},"b":{"allOf":[{"$ref":"#/$defs/c"},{"$ref":"#/$defs/c"}]},"c":{"properties":{"x":{"$ref":"#/$defs/a"}},"additionalProperties":false}}}"##,
        r#"{"x":{"x":{"x":{"x":{"x":{"x":{"y":0}}}}}}}"#,
    ),
    (
        "annotations",
        r#"{"title":"t","description":"d","$comment":"c","deprecated":true,"readOnly":true,"writeOnly":false,"examples":[{}],"default":{},"$vocabulary":{"https://x.example/v":true},"unknown":{"type":"no"},"type":"object"}"#,
        r#"{"a":"\u0000\"\\\/\b\f\n\r\t"}"#,
    ),
    ("no-schema", r#"{"type":"strin","properties":[],"required":"a","minimum":"x"}"#, r#"{}"#),
    ("false", r#"false"#, r#"{"a":[]}"#),
    ("true", r#"true"#, r#"[1,-0.0,1e-7,123456789012345678901234567890]"#),
];

/// Doors are numbered as in the target.
const BODIES: &[(u8, &str, &str)] = &[
    (
        0,
        "track",
        r#"{"event":"Signed Up","userId":7,"timestamp":"2026-01-02T03:04:05+0800","sentAt":1767322800000,"properties":{"price":12.50,"\u0061":"\ud83d\ude00","list":[[],{},null,-0.0e1]},"context":{"ip":"203.0.113.9","sessionId":1,"page":{"url":"https://x.example/"},"library":{"name":"x"},"traits":{"a":1}},"more":[1]}"#,
    ),
    (
        6,
        "batch",
        r#"{"batch":[{"type":"track","event":"A","anonymousId":"x","messageId":"m"},{"type":"alias","userId":"7","previousId":"6"},{"type":"page"}],"context":{"ip":"::1"},"integrations":{"All":true},"sentAt":"2026-01-02T03:04:05.678Z","writeKey":"k"}"#,
    ),
    (
        8,
        "array",
        r#"[{"type":"identify","userId":"7","traits":{"plan":"pro"}},{"type":"group","groupId":"g","anonymousId":""}]"#,
    ),
    (
        8,
        "lines",
        "\u{feff}{\"type\":\"screen\",\"name\":\"n\",\"userId\":\"7\"}\n\n{\"type\":\"track\"}\r\n",
    ),
    (
        0x17,
        "import-strict",
        r#"{"batch":[{"type":"track","event":"A","userId":"7","originalTimestamp":"1767322800","context":{"userId":"7","ip":"10.0.0.1"},"previousId":"6"}]}"#,
    ),
    (
        1,
        "identify",
        r#"{"userId":"u-1","anonymousId":"a-1","messageId":"m-1","traits":{"email":"a@b.example","userId":"u-1","nested":{"user_id":"u-1","ids":["u-1",7]}},"context":{"traits":{"plan":"pro"},"locale":"en-GB","timezone":"Europe/Berlin","userAgent":"Mozilla/5.0","sessionId":1767322800,"sessionStart":true,"protocols":{"violations":[]}},"timestamp":1767322800,"originalTimestamp":"2026-01-02T03:04:05"}"#,
    ),
    (
        2,
        "page",
        r#"{"name":"Home","category":"Docs","anonymousId":"a-1","properties":{"url":"https://x.example/?utm_source=a","path":"/","referrer":"https://y.example/","title":"T","search":""},"context":{"page":{"url":"https://z.example/","path":"/z","referrer":"","title":null},"campaign":{"name":"c"}},"channel":"web","sessionId":"9"}"#,
    ),
    (
        3,
        "screen",
        r#"{"name":"","event":"Viewed","userId":7,"properties":{},"context":{"device":{"id":"d","advertisingId":"x"},"os":{"name":"iOS"}},"category":7}"#,
    ),
    (
        4,
        "group",
        r#"{"groupId":9007199254740993,"userId":-7,"traits":{"name":"g"},"integrations":{"All":false,"S3":{"a":1}}}"#,
    ),
    (5, "alias", r#"{"previousId":"a-1","userId":"u-1","anonymousId":null}"#),
    (
        0x15,
        "alias-hashed",
        r#"{"previousId":6,"userId":7,"context":{"previous_id":6,"otherId":7,"list":["7",6,true,null],"ip":"203.0.113.9"},"traits":{"userId":""},"properties":{"user_id":8}}"#,
    ),
    (
        0x10,
        "track-hashed",
        r#"{"event":"E","userId":"u-1","properties":{"userId":"u-1","u":"u-1","k":{"\u0075serId":"u-2"}},"context":{"ip":"2001:db8::7","traits":{"user_id":"u-1"}},"more":{"userId":"u-1"}}"#,
    ),
    (0x30, "kept", r#"{"event":"E","userId":"u-1","properties":[1]}"#),
    (0x40, "no-address", r#"{"event":"E","userId":"1","context":{"ip":"203.0.113.9"}}"#),
    (
        0x80,
        "required",
        r#"{"event":"E","userId":"1","context":{"sessionId":5},"timestamp":"2026-01-02T03:04:05Z"}"#,
    ),
    (0x80, "required-missing", r#"{"event":"E","userId":"1","timestamp":"soon"}"#),
    (0, "ids-of-no-kind", r#"{"event":"E","userId":{},"anonymousId":[1],"messageId":true}"#),
    (0, "nul", r#"{"event":"E\u0000","userId":"a\u0000b"}"#),
    (0, "name-of-no-kind", r#"{"event":5,"userId":"1"}"#),
    (0, "nobody", r#"{"event":"E","userId":"","anonymousId":null}"#),
    (0, "twice", r#"{"event":"E","event":"F","userId":"1","\u0075serId":"2"}"#),
    (
        0,
        "spelt",
        r#"{"\u0065vent":"\u00c4\n\"","user\u0049d":"1","propert\u0069es":{"\u006e":-12,"i":-9223372036854775808,"u":18446744073709551615,"f":1e308,"z":-0,"e":2E+3},"conte\u0078t":{"li\u0062rary":{"name":"x","version":"1"},"\u0070age":{"\u0075rl":"https:\/\/x.example"}}}"#,
    ),
    (
        0,
        "parts-of-no-kind",
        r#"{"event":"E","userId":"1","context":7,"properties":"x","traits":[1],"integrations":null,"timestamp":{},"sentAt":[],"writeKey":5,"sessionId":1.5,"channel":{}}"#,
    ),
    (
        0,
        "deep",
        r#"{"event":"E","userId":"1","properties":{"a":[{"a":[{"a":[{"a":[{"a":[{"a":[{"a":[1]}]}]}]}]}]}]}}"#,
    ),
    (
        0,
        "too-deep",
        r#"{"event":"E","userId":"1","properties":{"a":[{"a":[{"a":[{"a":[{"a":[{"a":[{"a":[{"a":[{"a":[1]}]}]}]}]}]}]}]}]}}"#,
    ),
    (0, "cut", r#"{"event":"E","userId":"1","properties":{"a":"b"#),
    (0, "surrogate", r#"{"event":"\ud800","userId":"1"}"#),
    (
        6,
        "batch-of-all",
        r#"{"batch":[{"type":"screen","name":"n","userId":"1"},{"type":"group","groupId":"g","userId":"1"},{"type":"identify","userId":"1","traits":{}},{"type":"nothing","userId":"1"},{},7,{"type":"track","userId":"1"},{"type":"track","event":"E","userId":"1","context":{"locale":"de"},"writeKey":"k"}],"context":{"locale":"en","library":{"name":"x"}},"timestamp":"2026-01-02T03:04:05Z","sentAt":1767322800000}"#,
    ),
    (6, "batch-of-none", r#"{"batch":[],"writeKey":"k"}"#),
    (6, "no-batch", r#"{"batch":{},"x":1}"#),
    (
        7,
        "import",
        r#"{"batch":[{"type":"track","event":"A","userId":"7","timestamp":"2020-01-02T03:04:05Z","messageId":"m"},{"type":"page","anonymousId":"a","originalTimestamp":1577934245000}]}"#,
    ),
    (8, "one", r#"{"type":"track","event":"E","userId":"1"}"#),
    (
        8,
        "lines-mixed",
        "{\"type\":\"track\",\"event\":\"E\",\"userId\":\"1\"}\n[{\"type\":\"page\",\"userId\":\"1\"}]\n{\"type\":",
    ),
    (
        9,
        "merge",
        r#"{"userId":"7","mergeProperties":[{"type":"email","value":"a@b.example"},{"type":"mobile","value":"+491"}],"messageId":"m"}"#,
    ),
    (9, "merge-short", r#"{"mergeProperties":[{"type":"email"},{"value":7}]}"#),
];

fn full_event() -> EventParts<'static> {
    let index: Result<Vec<_>, _> = Fields::of(PROPERTIES).collect();
    EventParts {
        message_id: "ajs-next-1767322800000-2f1b0a55",
        kind: EventKind::Track,
        name: Some("Product Viewed"),
        source: Some("shop"),
        anonymous_id: Some("8f14e45f"),
        user_id: Some("4711"),
        event_time: TIME,
        received_time: TIME,
        client_time: Some(TIME),
        client_time_text: Some("1767322800000"),
        sent_time_text: Some("2026-01-02T03:00:00Z"),
        flags: EventFlags::CLIENT_TIME_BARE,
        schema_version: Some(2),
        headers: &[("accept-language", "de"), ("dnt", "1")],
        properties: Some(PROPERTIES),
        property_index: Vec::leak(index.expect("an object")),
        traits: Some(r#"{"plan": "pro"}"#),
        context: Some("{\n\"library\":{\"name\":\"x\"}}"),
        integrations: Some("{}"),
        extra: Some(r#"{"_metadata":[]}"#),
        ..EventParts::default()
    }
}

fn bare_event() -> EventParts<'static> {
    EventParts {
        message_id: "m",
        kind: EventKind::Alias,
        user_id: Some("7"),
        previous_id: Some("6"),
        event_time: TIME,
        received_time: TIME,
        ..EventParts::default()
    }
}

/// What enrichment finds out.
fn found() -> EnrichedParts<'static> {
    EnrichedParts {
        resolved_user_id: Some("user-1"),
        session: Some(SessionParts {
            id: Some("5f3a"),
            number: 2,
            started: TIME,
            first_event: true,
            landing_page: Some("https://shop.example/"),
            previous_ended: Some(TIME),
        }),
        device: Some(DeviceParts {
            browser: Some("Firefox"),
            class: Some("desktop"),
            bot: true,
            ..DeviceParts::default()
        }),
        geo: Some(GeoParts {
            country: Some("DE"),
            latitude: Some(52.5),
            longitude: Some(13.25),
            accuracy_km: 20,
            as_number: 64_500,
            origin: GeoOrigin::Header,
            ..GeoParts::default()
        }),
        campaign: Some(CampaignParts { id: Some("7"), ..CampaignParts::default() }),
        page: Some(PageParts { host: Some("shop.example"), ..PageParts::default() }),
        profile: Some(ProfileParts {
            version: Offset(41),
            traits: Some(r#"{"plan": "pro"}"#),
            group_traits: Some("{\n\"seats\":12.50}"),
        }),
        enriched_by: Some("device@1 geo@7"),
        failures: Some(r#"{"page":"timed out"}"#),
        state_offset: Some(Offset(42)),
        made_from: Some(RawPlace { partition: 3, offset: Offset(1206) }),
    }
}

fn rejected_event() -> RejectedParts<'static> {
    RejectedParts {
        code: "schema",
        message: "is no number",
        pointer: Some("/properties/price"),
        body: br#"{"type":"track"}"#,
        ..RejectedParts::default()
    }
}

fn batch(kind: PayloadKind, records: &[Record<'_>]) -> Vec<u8> {
    let builder = BatchBuilder::new(kind);
    finish(builder.produced_by(ProducerId(1), ProducerEpoch(2), Sequence(3)), records)
}

fn finish(mut builder: BatchBuilder, records: &[Record<'_>]) -> Vec<u8> {
    for record in records {
        builder.push(*record);
    }
    builder.finish().view().bytes().to_vec()
}

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}
