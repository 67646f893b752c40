//! Any text as a pixel's query: an event comes out that the byte scan takes, in which every string
//! is one of the query's, and which is bounded however the names are made.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use tracklog_fuzz::gateway::{limits, request, source};
use tracklog_fuzz::json::Tree;
use tracklog_ingest_gateway::fuzzing::pixel_event;
use tracklog_ingest_gateway::intake::{Door, Intake, NoSchemas};
use tracklog_ingest_gateway::scan::ScanLimits;
use tracklog_protocol::event::EventKind;

/// Levels that dots in a name make, the event included.
const LEVELS_MAX: usize = 8;

fuzz_target!(|query: &str| {
    let text = pixel_event(query);
    let text = str::from_utf8(&text).expect("an event is UTF-8");
    let tree = Tree::read(text, LEVELS_MAX).expect("an event is JSON, bounded and without doubles");
    let said: Vec<(String, String)> = parameters(query);
    let values: HashSet<&str> = said.iter().map(|(_, value)| value.as_str()).collect();
    each_string_was_said(&tree, &values);

    let Tree::Object(members) = &tree else { panic!("an event is an object") };
    assert!(members.iter().any(|(name, _)| name == "channel"), "a channel is there always");
    let is_key = |(name, it): &(String, Tree)| name == "writeKey" && matches!(it, Tree::Text(_));
    assert!(!members.iter().any(is_key), "the key is left out");
    for (name, value) in &said {
        let first = said.iter().find(|(other, _)| head(other) == head(name));
        if !name.contains('.')
            && name != "writeKey"
            && first == Some(&(name.clone(), value.clone()))
        {
            let member = members.iter().find(|(known, _)| known == name);
            assert_eq!(member.map(|(_, it)| it), Some(&Tree::Text(value.clone())), "{name}");
        }
    }

    let limits = ScanLimits { event_bytes_max: u32::MAX, ..limits() };
    let mut intake = Intake::new();
    let submission = intake.scan(text.as_bytes(), Door::Single(EventKind::Track), &limits);
    let submission = submission.expect("the scan reads what we wrote");
    let judged = submission.judge(&source(0), &request(), &NoSchemas, &mut |id| id.fill(7));
    assert_eq!(judged.expect("one event is not too many").len(), 1);
});

fn each_string_was_said(tree: &Tree, values: &HashSet<&str>) {
    match tree {
        Tree::Text(text) => assert!(values.contains(text.as_str()) || text == "web", "{text:?}"),
        Tree::Object(members) => {
            members.iter().for_each(|(_, value)| each_string_was_said(value, values));
        }
        other => panic!("a query has strings only: {other:?}"),
    }
}

fn head(name: &str) -> &str {
    name.split_once('.').map_or(
        name,
        |(head, rest)| {
            if head.is_empty() || rest.is_empty() { name } else { head }
        },
    )
}

/// A query read once more, byte by byte.
fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let read = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decoded(name)?, decoded(value)?))
    };
    pairs.filter_map(read).collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let digit = |at: usize| char::from(*more.get(at)?).to_digit(16);
        rest = more;
        match (first, digit(0), digit(1)) {
            (b'+', ..) => bytes.push(b' '),
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).expect("two digits are a byte"));
                rest = &more[2..];
            }
            (byte, ..) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}
