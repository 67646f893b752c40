//! The byte scan against the grammar, against another parser, and against what people send.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::value::RawValue;
use tracklog_ingest_gateway::intake::fuzz_body;
use tracklog_ingest_gateway::rejection::Code;
use tracklog_ingest_gateway::scan::{Scan, ScanLimits, Shape, Unreadable, ValueKind};

fn flaw_with(body: &[u8], limits: &ScanLimits) -> Result<Option<Code>, Unreadable> {
    let mut scan = Scan::new();
    let scanned = scan.read(body, Shape::Event, limits)?;
    assert_eq!(scanned.len(), 1);
    Ok(scanned.event(0).unwrap().flaw().map(|flaw| flaw.code))
}

fn flaw(body: impl AsRef<[u8]>) -> Result<Option<Code>, Unreadable> {
    flaw_with(body.as_ref(), &ScanLimits::default())
}

#[test]
fn good_text_is_good() {
    for body in [
        "{}",
        " { } ",
        "\u{feff}{\"a\":1}",
        r#"{"a":[],"b":{},"c":[[],{}],"d":[{}]}"#,
        r#"{"a":[1,-2,3.5,1e3,1E-3,-0,0.0],"b":true,"c":false,"d":null}"#,
        "{\n\t\"a\" : 1 ,\r\n \"list\": [\n 1,\n 2\n ]\n}",
        r#"{"\u0000":"\u0000","\ud83d\ude00":"\"\\\/\b\f\n\r\t"}"#,
        r#"{"a.b":1,"a":{"b":2},"$set":{"x":1},"":0}"#,
        r#"{"__proto__":{"a":1},"constructor":{"prototype":{}}}"#,
        "{\"t\":\"👨‍👩‍👧 \u{202e}evil\u{202c} \u{2028} Ж é e\u{301} \u{7f} \u{10ffff}\"}",
        r#"{"a":{"x":1},"b":{"x":1},"x":[{"x":1},{"x":1}]}"#,
        r#"{"n":1e-400,"m":123456789012345678901234567890,"k":1.7976931348623157e308}"#,
    ] {
        assert_eq!(flaw(body), Ok(None), "{body}");
    }
}

#[test]
fn a_bad_token_is_a_flaw_of_its_event() {
    for (body, code) in [
        (&br#"{"q":1,"q":2}"#[..], Code::DuplicateKey),
        (br#"{"a":{"q":1,"r":[],"q":{}}}"#, Code::DuplicateKey),
        (br#"{"q":1,"\u0071":2}"#, Code::DuplicateKey),
        (br#"{"\u0071":1,"q":2}"#, Code::DuplicateKey),
        (br#"{"":1,"":2}"#, Code::DuplicateKey),
        (br#"{"t":"\ud83d"}"#, Code::InvalidText),
        (br#"{"t":"\ude00"}"#, Code::InvalidText),
        (br#"{"t":"\ud83d\ud83d"}"#, Code::InvalidText),
        (br#"{"t":"\ud83dx"}"#, Code::InvalidText),
        (br#"{"\udc00":1}"#, Code::InvalidText),
        (b"{\"t\":\"\xff\"}", Code::InvalidText),
        (b"{\"t\":\"\xc0\x80\"}", Code::InvalidText),
        (b"{\"t\":\"\xed\xa0\xbd\"}", Code::InvalidText),
        (b"{\"t\":\"\xe2\x82\"}", Code::InvalidText),
        (b"{\"\xe9\":1}", Code::InvalidText),
        (b"{\"t\":\"a\nb\"}", Code::InvalidJson),
        (b"{\"t\":\"a\x00b\"}", Code::InvalidJson),
        (br#"{"t":"\x41"}"#, Code::InvalidJson),
        (br#"{"t":"\u12"}"#, Code::InvalidJson),
        (br#"{"t":"\u12g4"}"#, Code::InvalidJson),
        (br#"{"n":1e400}"#, Code::NumberRange),
        (br#"{"n":-1e309}"#, Code::NumberRange),
        (br#"{"n":NaN}"#, Code::InvalidJson),
        (br#"{"n":-Infinity}"#, Code::InvalidJson),
        (br#"{"n":01}"#, Code::InvalidJson),
        (br#"{"n":1.}"#, Code::InvalidJson),
        (br#"{"n":+1}"#, Code::InvalidJson),
        (br#"{"n":.5}"#, Code::InvalidJson),
        (br#"{"n":1e}"#, Code::InvalidJson),
        (br#"{"n":0x10}"#, Code::InvalidJson),
        (br#"{"n":tru}"#, Code::InvalidJson),
        (br#"{"n":nulls}"#, Code::InvalidJson),
        (br#"{"n":True}"#, Code::InvalidJson),
        (br#"{"n":undefined}"#, Code::InvalidJson),
    ] {
        let shown = String::from_utf8_lossy(body);
        assert_eq!(flaw(body), Ok(Some(code)), "{shown}");
    }
}

#[test]
fn broken_grammar_is_the_bodys_fault() {
    for body in [
        "",
        " ",
        "\u{feff}",
        "{",
        "}",
        "[",
        "]",
        "null",
        "1",
        "\"x\"",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\":1 \"b\":2}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":'x'}",
        "{\"a\":[1,]}",
        "{\"a\":[,]}",
        "{\"a\":[1 2]}",
        "{\"a\":[1}}",
        "{\"a\":{]}",
        "{} {}",
        "{}x",
        "{}}",
        "{},",
        "{\"a\":\"x}",
        "{\"a\":\"x\\",
        "{\"a\":\"x\\\"}",
        "{\"a\"::1}",
        "{\"a\":1}\u{0}",
        "{\"a\":@}",
        "{1:2}",
        "{null:1}",
        "/**/{}",
        "{\"a\":1}//",
        "{\"a\":\u{a0}1}",
        "{\"a\":1;\"b\":2}",
    ] {
        let error = flaw(body).expect_err(body);
        assert_eq!(error.flaw.code, Code::InvalidJson, "{body}");
        assert!(error.flaw.at as usize <= body.len());
    }
}

#[test]
fn a_refusal_names_line_and_column() {
    let error = flaw("{\"a\":1,\n \"b\":2\n \"c\":3}").unwrap_err();
    assert_eq!(error.to_string(), "line 3, column 2: expected ',' or '}'");
    assert_eq!(flaw("").unwrap_err().to_string(), "line 1, column 1: the body is empty");
    assert_eq!(flaw("{\"a").unwrap_err().to_string(), "line 1, column 4: the JSON ends early");
}

#[test]
fn flaws_name_the_place_in_their_event() {
    let body = br#"[{"a":1},{"b":{"c":[0,{"d":1,"d":2}]}},{"x/y":[1e999]},{"t":["ok","\ud800"]}]"#;
    let mut scan = Scan::new();
    let scanned = scan.read(body, Shape::Events, &ScanLimits::default()).unwrap();
    let pointers: Vec<_> = scanned.events().map(|event| event.flaw_pointer()).collect();
    let expected =
        [None, Some("/b/c/1/d".to_owned()), Some("/x~1y/0".to_owned()), Some("/t/1".to_owned())];
    assert_eq!(pointers, expected);
}

#[test]
fn depth_is_counted_from_the_event_and_stops_where_it_should() {
    let nested = |levels: usize| format!("{{\"a\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(flaw(nested(63)), Ok(None));
    assert_eq!(flaw(nested(64)), Ok(Some(Code::TooDeep)));
    for levels in [65, 66, 127, 128, 129, 200, 15_000] {
        assert_eq!(flaw(nested(levels)), Ok(Some(Code::TooDeep)), "{levels}");
    }
    let mut scan = Scan::new();
    for (levels, depth) in [(0, 1), (1, 2), (63, 64)] {
        let body = format!("{{\"batch\":[{}]}}", nested(levels));
        let scanned = scan.read(body.as_bytes(), Shape::Batch, &ScanLimits::default()).unwrap();
        assert_eq!(scanned.event(0).unwrap().depth(), depth);
    }
}

/// Alternating kinds, so that each closing bracket must be looked up.
fn deep(levels: usize) -> String {
    let open = "{\"d\":[".repeat(levels);
    let close = "]}".repeat(levels);
    format!("{open}{close}")
}

#[test]
fn a_bottomless_event_is_passed_over_and_its_neighbours_stand() {
    let good = r#"{"a":{"b":1}}"#;
    let body = format!("[{good},{},{good}]", deep(300_000));
    let limits = ScanLimits { event_bytes_max: u32::MAX, ..ScanLimits::default() };
    let mut scan = Scan::new();
    let scanned = scan.read(body.as_bytes(), Shape::Events, &limits).unwrap();
    let flaws: Vec<_> = scanned.events().map(|event| event.flaw().map(|flaw| flaw.code)).collect();
    assert_eq!(flaws, [None, Some(Code::TooDeep), None]);
    assert_eq!(scanned.event(2).unwrap().text(), Some(good));

    let wrong_close = body.replacen("]}]}", "]}}]", 1);
    assert!(scan.read(wrong_close.as_bytes(), Shape::Events, &limits).is_err());
}

#[test]
fn duplicates_are_found_among_many_keys() {
    let limits = ScanLimits { event_bytes_max: u32::MAX, ..ScanLimits::default() };
    for count in [2, 31, 32, 33, 34, 63, 64, 65, 1_000, 200_000] {
        let keys: Vec<_> = (0..count).map(|index| format!("\"key number {index}\":0")).collect();
        let object = |keys: &[String]| format!("{{\"properties\":{{{}}}}}", keys.join(","));
        assert_eq!(flaw_with(object(&keys).as_bytes(), &limits), Ok(None), "{count}");
        for (first, second) in [(0, count - 1), (count / 2, count - 1), (0, 1)] {
            if first != second {
                let mut twice = keys.clone();
                twice[second] = keys[first].clone();
                let found = flaw_with(object(&twice).as_bytes(), &limits);
                assert_eq!(found, Ok(Some(Code::DuplicateKey)), "{count}: {first}, {second}");
            }
        }
    }
}

#[test]
fn keys_with_equal_ends_and_lengths_are_told_apart() {
    let keys: Vec<_> = (0..200).map(|index| format!("\"prefix--{index:05}--suffix\":0")).collect();
    assert_eq!(flaw(format!("{{{}}}", keys.join(","))), Ok(None));
}

#[test]
fn an_event_beyond_its_bytes_is_too_large_and_its_neighbours_stand() {
    let sized = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
    let many_keys: Vec<_> = (0..10_000).map(|index| format!("\"k{index}\":{index}")).collect();
    let many_keys = format!("{{{}}}", many_keys.join(","));
    let body = format!("[{},{},{many_keys},{{}}]", sized(32_768), sized(32_769));
    let mut scan = Scan::new();
    let scanned = scan.read(body.as_bytes(), Shape::Events, &ScanLimits::default()).unwrap();
    let flaws: Vec<_> = scanned.events().map(|event| event.flaw().map(|flaw| flaw.code)).collect();
    assert_eq!(flaws, [None, Some(Code::TooLarge), Some(Code::TooLarge), None]);
    assert!(scanned.event(2).unwrap().fields().count() < 6_000, "recording stops at the limit");
}

#[test]
fn too_many_events_are_refused_as_a_whole() {
    let limits = ScanLimits { events_max: 3, ..ScanLimits::default() };
    let mut scan = Scan::new();
    let mut read = |body: &str, shape| {
        let read = scan.read(body.as_bytes(), shape, &limits);
        read.map(|scanned| scanned.len()).map_err(|error| error.flaw.code)
    };
    assert_eq!(read("[{},{},{}]", Shape::Events), Ok(3));
    assert_eq!(read("[{},{},{},{}]", Shape::Events), Err(Code::TooMany));
    assert_eq!(read("{}\n{}\n{}\n\n", Shape::Events), Ok(3));
    assert_eq!(read("{}\n{}\n{}\n{}", Shape::Events), Err(Code::TooMany));
    assert_eq!(read("{}\nx\nx\nx", Shape::Events), Err(Code::TooMany));
    assert_eq!(read(r#"{"batch":[{},{},{},{}]}"#, Shape::Batch), Err(Code::TooMany));
}

#[test]
fn a_batch_knows_what_lies_beside_its_events() {
    let body = r#"{"sentAt":"s","batch":[{"a":1,"batch":[1]},{"b":{"batch":[2]}}],"context":{"x":[{}]},"writeKey":"k"}"#;
    let mut scan = Scan::new();
    let scanned = scan.read(body.as_bytes(), Shape::Batch, &ScanLimits::default()).unwrap();
    let root: Vec<_> = scanned.root().map(|field| (field.key, field.value)).collect();
    assert_eq!(root[0], ("sentAt", "\"s\""));
    assert_eq!(root[2], ("context", "{\"x\":[{}]}"));
    assert_eq!(root[3], ("writeKey", "\"k\""));
    let texts: Vec<_> = scanned.events().filter_map(|event| event.text()).collect();
    assert_eq!(texts, [r#"{"a":1,"batch":[1]}"#, r#"{"b":{"batch":[2]}}"#]);
}

#[test]
fn what_lies_beside_the_events_of_a_batch_must_be_good() {
    let mut scan = Scan::new();
    let mut read = |body: &[u8]| {
        let read = scan.read(body, Shape::Batch, &ScanLimits::default());
        read.map(|scanned| scanned.len()).map_err(|error| error.flaw.code)
    };
    assert_eq!(read(br#"{"batch":[]}"#), Ok(0));
    assert_eq!(read(br#"{"batch" : [ {} ] }"#), Ok(1));
    assert_eq!(read(b"{}"), Err(Code::MissingField));
    assert_eq!(read(br#"{"batch":{}}"#), Err(Code::MissingField));
    assert_eq!(read(br#"{"batch":null}"#), Err(Code::MissingField));
    assert_eq!(read(br#"{"context":{"batch":[{}]}}"#), Err(Code::MissingField));
    assert_eq!(read(br#"{"batch":[{}],"batch":[{}]}"#), Err(Code::DuplicateKey));
    assert_eq!(read(br#"{"batch":[{}],"context":{"a":1,"a":2}}"#), Err(Code::DuplicateKey));
    assert_eq!(read(br#"{"sentAt":"\ud800","batch":[]}"#), Err(Code::InvalidText));
    assert_eq!(read(b"{\"sentAt\":\"\xff\",\"batch\":[]}"), Err(Code::InvalidText));
    assert_eq!(read(br#"{"batch":[],"n":1e999}"#), Err(Code::NumberRange));
    assert_eq!(read(br#"[{}]"#), Err(Code::InvalidJson));
    let nested = format!("{{\"batch\":[],\"context\":{}}}", deep(100));
    assert_eq!(read(nested.as_bytes()), Err(Code::TooDeep));
    let crowd: Vec<_> = (0..20_000).map(|index| format!("\"k{index}\":0")).collect();
    let crowd = format!("{{\"batch\":[],\"context\":{{{}}}}}", crowd.join(","));
    assert_eq!(read(crowd.as_bytes()), Err(Code::TooMany));
}

fn lines(body: &[u8]) -> Vec<Option<Code>> {
    let mut scan = Scan::new();
    let scanned = scan.read(body, Shape::Events, &ScanLimits::default()).unwrap();
    scanned.events().map(|event| event.flaw().map(|flaw| flaw.code)).collect()
}

#[test]
fn lines_are_events_and_blank_lines_are_none() {
    assert_eq!(lines(b"{}\n{}"), [None, None]);
    assert_eq!(lines(b"\xef\xbb\xbf{}\r\n\r\n   \r\n\t{}  \r\n"), [None, None]);
    assert_eq!(lines(b"\n\n{}\n"), [None]);
}

#[test]
fn a_bad_line_costs_itself_only() {
    let bad = Some(Code::InvalidJson);
    assert_eq!(lines(b"{}\n{}{}\n{}"), [None, bad, None]);
    assert_eq!(lines(b"{}\n{},\n{}"), [None, bad, None]);
    assert_eq!(lines(b"{}\n{\"a\":\n1}\n{}"), [None, bad, bad, None]);
    assert_eq!(lines(b"{}\nnonsense\n[]\n5\n\"x\"\n{}"), [None, bad, bad, bad, bad, None]);
    assert_eq!(lines(b"{\"a\n{}"), [bad, None]);
    assert_eq!(lines(b"{}\n{\"a\":\"\xff\"}\n{}"), [None, Some(Code::InvalidText), None]);
    assert_eq!(lines(b"{}\n{\"a\":1,\"a\":2}x\n{}"), [None, bad, None]);
}

#[test]
fn lines_of_which_none_is_an_object_are_no_events() {
    let bad = Some(Code::InvalidJson);
    assert_eq!(lines(b"nonsense\n{}\n"), [bad, None]);
    assert_eq!(lines(b"\xef\xbb\xbf{}"), [None]);
    let mut scan = Scan::new();
    for body in ["nonsense", "event=x&userId=1", "null\n5", "\"{}\"", "<html>\n</html>"] {
        assert!(
            scan.read(body.as_bytes(), Shape::Events, &ScanLimits::default()).is_err(),
            "{body}"
        );
    }
}

#[test]
fn a_bad_line_keeps_all_its_bytes() {
    let mut scan = Scan::new();
    let body = b"{}\n {\"a\":1}{\"b\":2} \r\n";
    let scanned = scan.read(body, Shape::Events, &ScanLimits::default()).unwrap();
    assert_eq!(scanned.event(1).unwrap().bytes(), br#"{"a":1}{"b":2}"#);
}

#[test]
fn one_object_over_many_lines_is_one_event() {
    assert_eq!(lines(b"{\n  \"a\": 1,\n  \"b\": [\n    2\n  ]\n}\n"), [None]);
}

#[test]
fn a_cut_body_is_never_taken_for_a_whole_one() {
    let event = r#"{"a":"x\u00e9\n","b":[1,-2.5e3,true,null,{"c":{}}],"é":{"d":"\ud83d\ude00"}}"#;
    let batch = format!(r#"{{"sentAt":"s","batch":[{event},{event}],"context":{{"k":[1]}}}}"#);
    let mut scan = Scan::new();
    for (body, shape) in [
        (event.to_owned(), Shape::Event),
        (batch, Shape::Batch),
        (format!("[{event},{event}]"), Shape::Events),
    ] {
        assert!(scan.read(body.as_bytes(), shape, &ScanLimits::default()).is_ok());
        for end in 0..body.len() {
            let cut = &body.as_bytes()[..end];
            assert!(scan.read(cut, shape, &ScanLimits::default()).is_err(), "cut at {end}");
            fuzz_body(cut);
        }
    }
}

/// Any JSON value, as text with white space and escapes of all sorts.
fn json_text() -> impl Strategy<Value = String> {
    let string = prop_oneof![
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        "[a-z]{0,12}".prop_map(|text| format!("\"{text}\"")),
        prop::collection::vec(any::<char>(), 0..6).prop_map(|chars| {
            let mut units = String::new();
            for unit in chars.iter().flat_map(|c| c.encode_utf16(&mut [0; 2]).to_vec()) {
                units.push_str(&format!("\\u{unit:04x}"));
            }
            format!("\"{units}\"")
        }),
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("finite", |f| f.is_finite())
            .prop_map(|number| format!("{number:e}")),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?",
        string,
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        let space = prop::sample::select(vec!["", " ", "\n", "\t ", "\r\n"]);
        let array = (prop::collection::vec(inner.clone(), 0..8), space.clone()).prop_map(
            |(items, space)| format!("[{space}{}{space}]", items.join(&format!("{space},"))),
        );
        prop_oneof![
            array,
            (members(inner), space).prop_map(|(members, space)| {
                let members: Vec<_> =
                    members.iter().map(|(k, v)| format!("{k}{space}:{space}{v}")).collect();
                format!("{{{space}{}{space}}}", members.join(&format!("{space},{space}")))
            })
        ]
    })
}

/// Members without a key twice.
fn members(value: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("[a-z\"\\\\é😀]{0,10}", value), 0..8).prop_map(|members| {
        let mut seen = HashSet::new();
        let fresh = members.into_iter().filter(|(key, _)| seen.insert(key.clone()));
        fresh.map(|(key, value)| (serde_json::to_string(&key).unwrap(), value)).collect()
    })
}

fn object_text(members: &[(String, String)]) -> String {
    let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// Whether another parser takes the text for one JSON object.
fn is_object_elsewhere(text: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn fields_come_out_with_their_exact_text(members in members(json_text()), inner in members(json_text())) {
        let properties = object_text(&inner);
        let mut members = members;
        members.retain(|(key, _)| key != "\"properties\"");
        members.push(("\"properties\"".to_owned(), properties));
        let body = object_text(&members);
        let mut scan = Scan::new();
        let scanned = scan.read(body.as_bytes(), Shape::Event, &ScanLimits::default()).unwrap();
        let event = scanned.event(0).unwrap();
        prop_assert_eq!(event.flaw(), None);
        let fields: Vec<_> = event.fields().collect();
        prop_assert_eq!(fields.len(), members.len());
        for (field, (key, value)) in fields.iter().zip(&members) {
            prop_assert_eq!(format!("\"{}\"", field.key), key.as_str());
            prop_assert_eq!(field.value, value.trim());
            let raw: &RawValue = serde_json::from_str(field.value).unwrap();
            prop_assert_eq!(raw.get(), field.value);
            prop_assert_eq!(field.field.key_escaped, key.contains('\\'));
            let is_string = field.field.kind == ValueKind::String;
            prop_assert_eq!(is_string, field.value.starts_with('"'));
            prop_assert_eq!(field.field.escaped, is_string && field.value.contains('\\'));
        }
        let last = fields.last().unwrap();
        let found: Vec<_> = event.inner(last).iter().filter_map(|field| last.within(field)).collect();
        prop_assert_eq!(found.len(), inner.len());
        for (field, (key, value)) in found.iter().zip(&inner) {
            prop_assert_eq!(format!("\"{}\"", field.key), key.as_str());
            prop_assert_eq!(field.value, value.trim());
        }
    }

    #[test]
    fn mutated_text_is_judged_as_another_parser_does(
        members in members(json_text()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            any::<u8>(),
            prop::sample::select(b"{}[]\",:\\0e-. tnu".to_vec()),
        ], 0..3u8), 0..4),
    ) {
        let mut body = object_text(&members).into_bytes();
        for (at, byte, how) in edits {
            let at = at.index(body.len());
            match how {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => { if body.len() > 1 { body.remove(at); } }
            }
        }
        let elsewhere = is_object_elsewhere(&body);
        match flaw(&body) {
            Ok(None) => prop_assert!(elsewhere, "{:?}", String::from_utf8_lossy(&body)),
            Ok(Some(Code::DuplicateKey | Code::NumberRange | Code::TooDeep)) => {}
            Ok(Some(_)) | Err(_) => {
                // That parser cannot skip a BOM, and neither does a body that has only that.
                prop_assert!(!elsewhere, "{:?}", String::from_utf8_lossy(&body));
            }
        }
        fuzz_body(&body);
    }

    #[test]
    fn duplicates_are_found_however_they_are_spelt(
        keys in prop::collection::vec(("[ab]{0,3}", any::<bool>()), 1..50),
    ) {
        let spelt = keys.iter().map(|(key, escaped)| {
            let text = if *escaped {
                key.bytes().map(|byte| format!("\\u{byte:04x}")).collect()
            } else {
                key.clone()
            };
            (format!("\"{text}\""), "0".to_owned())
        });
        let distinct: HashSet<_> = keys.iter().map(|(key, _)| key).collect();
        let expected = (distinct.len() < keys.len()).then_some(Code::DuplicateKey);
        let object = object_text(&spelt.collect::<Vec<_>>());
        prop_assert_eq!(flaw(&object), Ok(expected));
        prop_assert_eq!(flaw(format!("{{\"x\":[{object}]}}")), Ok(expected));
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_body(&body);
    }

    #[test]
    fn no_json_like_bytes_make_it_panic(
        body in "[{}\\[\\]\",:\\\\ua0-9e.\\-tfn \n]{0,200}",
    ) {
        fuzz_body(body.as_bytes());
    }
}
