//! Our byte scan against a parser that is not ours: any bytes as one event. Both take it or both
//! refuse it, and what they read is the same.
//!
//! The other parser reads under the gateway's stricter rules; see `src/json.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracklog_fuzz::json::Tree;
use tracklog_ingest_gateway::scan::{Members, Scan, ScanLimits, ScannedEvent, Shape, ValueKind};

const DEPTH_MAX: usize = 64;

fuzz_target!(|body: &[u8]| {
    let limits = ScanLimits { event_bytes_max: u32::MAX, ..ScanLimits::default() };
    let mut scan = Scan::new();
    let scanned = scan.read(body, Shape::Event, &limits).ok();
    let ours = scanned.as_ref().and_then(|scanned| scanned.event(0));
    let ours = ours.filter(|event| event.flaw().is_none());

    let text = str::from_utf8(body).ok();
    let text = text.map(|text| text.strip_prefix('\u{feff}').unwrap_or(text));
    let theirs = text.and_then(|text| Tree::read(text, DEPTH_MAX));
    let theirs = theirs.filter(|tree| matches!(tree, Tree::Object(_)));

    match (ours, theirs) {
        (Some(event), Some(tree)) => same(&event, &tree),
        (None, None) => {}
        (Some(_), None) => panic!("accepted by us alone"),
        (None, Some(tree)) => panic!("refused by us alone: {tree:?}"),
    }
});

fn same(event: &ScannedEvent<'_>, tree: &Tree) {
    let Tree::Object(members) = tree else { unreachable!("an event is an object") };
    assert_eq!(event.depth() as usize, tree.depth(), "as deep");
    let mut fields = event.fields();
    for (key, value) in members {
        let field = fields.next().expect("as many fields");
        same_key(field.key, key);
        same_kind(field.field.kind, value);
        same_value(field.value, field.field.kind, value);
        let inner = event.inner(&field);
        if !inner.is_empty() {
            let Tree::Object(members) = value else { panic!("only an object has inner fields") };
            assert_eq!(inner.len(), members.len(), "as many inner fields");
            for (span, (key, value)) in inner.iter().zip(members) {
                let one = field.within(span).expect("an inner field lies in its value");
                same_key(one.key, key);
                same_value(one.value, span.kind, value);
            }
        }
    }
    assert!(fields.next().is_none(), "as many fields");
}

/// A key between its quotes, and what it says.
fn same_key(key: &str, says: &str) {
    let token = format!("\"{key}\"");
    assert_eq!(Tree::read(&token, 0), Some(Tree::Text(says.to_owned())), "the same key");
}

/// The text that we found for a value, and the value.
fn same_value(text: &str, kind: ValueKind, value: &Tree) {
    same_kind(kind, value);
    assert_eq!(Tree::read(text, DEPTH_MAX).as_ref(), Some(value), "the same value");
    if let Tree::Object(members) = value {
        let mut found = Members::of(text);
        for (key, value) in members {
            let member = found.next().expect("as many members");
            same_key(member.key, key);
            same_value(member.value, member.kind, value);
        }
        assert_eq!(found.next(), None, "as many members");
    }
}

fn same_kind(kind: ValueKind, value: &Tree) {
    let expected = match value {
        Tree::Null => ValueKind::Null,
        Tree::Bool(false) => ValueKind::False,
        Tree::Bool(true) => ValueKind::True,
        Tree::Number(_) => ValueKind::Number,
        Tree::Text(_) => ValueKind::String,
        Tree::Array(_) => ValueKind::Array,
        Tree::Object(_) => ValueKind::Object,
    };
    assert_eq!(kind, expected);
}
