//! Schemas and payloads made to hurt: each ends soon, with one line.

use std::time::{Duration, Instant};

use serde_json::json;
use tracklog_registry::{Registry, Verdict};

use crate::rig::{body, registry};

/// What may pass until an answer, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

async fn refused(registry: &Registry, schema: impl Into<String>) -> String {
    let started = Instant::now();
    let error = registry.put("e", body(schema)).await.unwrap_err();
    assert!(started.elapsed() < SOON, "{error}");
    let line = error.to_string();
    assert!(!line.contains('\n') && line.len() < 1_700, "{line}");
    line
}

#[tokio::test]
async fn bodies_that_are_no_schema_are_refused_in_one_line() {
    let registry = registry().await;
    for body in ["", "{", "[]", "7", "null", "\"x\"", "{\"type\": \"strin\"}", "{} {}", "\u{0}"] {
        refused(&registry, body).await;
    }
    let line = refused(&registry, r#"{"type": "object", "type": "array"}"#).await;
    assert!(line.contains("twice"), "{line}");
    let line = refused(&registry, r#"{"maximum": 1e400}"#).await;
    assert!(line.contains("double"), "{line}");
    assert!(registry.list().is_empty());
}

#[tokio::test]
async fn deep_bodies_never_reach_a_recursive_parser() {
    let registry = registry().await;
    for open in ["[", "{\"not\":", "{\"a\":[", "\"\\\"\" ["] {
        refused(&registry, open.repeat(10_000)).await;
    }
    let nested = format!("{}true{}", r#"{"not":"#.repeat(65), "}".repeat(65));
    assert!(refused(&registry, nested).await.contains("nests deeper"));
}

#[tokio::test]
async fn large_bodies_are_refused_by_bytes_or_values() {
    let registry = registry().await;
    let line = refused(&registry, format!(r#"{{"anyOf": [{}true]}}"#, "{},".repeat(100_000))).await;
    assert!(line.contains("bytes"), "{line}");
    let line =
        refused(&registry, format!(r#"{{"anyOf": [{}true]}}"#, "true,".repeat(45_000))).await;
    assert!(line.contains("values"), "{line}");
    let line = refused(&registry, format!(r#"{{"anyOf": [{}true]}}"#, "{},".repeat(15_000))).await;
    assert!(line.contains("applied to one value"), "{line}");
}

#[tokio::test]
async fn the_largest_schemas_taken_compile_and_validate() {
    let registry = registry().await;
    let branches = vec![json!({"type": "integer"}); 5_000];
    let schema = json!({"anyOf": branches}).to_string();
    registry.put("wide", body(schema)).await.unwrap();
    let Verdict::Invalid { violation, .. } = registry.validate("wide", None, r#""x""#) else {
        panic!("taken");
    };
    assert_eq!(violation.keyword, "anyOf");

    let words: Vec<_> = (0..15_000).map(|i| format!("word{i}")).collect();
    registry.put("words", body(json!({"enum": words}).to_string())).await.unwrap();
    assert!(matches!(registry.validate("words", None, r#""word7""#), Verdict::Valid { .. }));
    assert!(matches!(registry.validate("words", None, r#""word""#), Verdict::Invalid { .. }));

    let mut defs = serde_json::Map::new();
    for link in 0..4_000 {
        let next = json!({"$ref": format!("#/$defs/d{}", link + 1)});
        defs.insert(format!("d{link}"), json!({"properties": {"x": next}}));
    }
    defs.insert("d4000".to_owned(), json!(true));
    let chain = json!({"$ref": "#/$defs/d0", "$defs": defs}).to_string();
    registry.put("chain", body(chain)).await.unwrap();
    let payload = format!("{}1{}", r#"{"x":"#.repeat(63), "}".repeat(63));
    assert!(matches!(registry.validate("chain", None, &payload), Verdict::Valid { .. }));
}

/// Two ways into the same child at every level: 2^64 paths through a payload of 64 levels.
#[tokio::test]
async fn branching_recursion_ends() {
    let registry = registry().await;
    let branch =
        |name: &str| json!({"properties": {"x": {"$ref": "#/$defs/node"}}, "required": [name]});
    for (name, keyword) in [("any", "anyOf"), ("one", "oneOf"), ("all", "allOf")] {
        let schema = json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {keyword: [branch("a"), branch("b"), branch("c")]}}
        });
        registry.put(name, body(schema.to_string())).await.unwrap();
        let payload = format!("{}1{}", r#"{"x":"#.repeat(63), "}".repeat(63));
        let started = Instant::now();
        let verdict = registry.validate(name, None, &payload);
        assert!(matches!(verdict, Verdict::Invalid { .. }), "{verdict:?}");
        assert!(started.elapsed() < SOON, "{name}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn branching_without_recursion_ends() {
    let registry = registry().await;
    let mut defs = serde_json::Map::new();
    for level in 0..60 {
        let next = json!({"properties": {"x": {"$ref": format!("#/$defs/d{}", level + 1)}}});
        defs.insert(
            format!("d{level}"),
            json!({"anyOf": [{"required": ["a"], "allOf": [next]}, next]}),
        );
    }
    defs.insert("d60".to_owned(), json!({"type": "string"}));
    let schema = json!({"$ref": "#/$defs/d0", "$defs": defs}).to_string();
    registry.put("e", body(schema)).await.unwrap();
    let payload = format!("{}1{}", r#"{"a":1,"x":"#.repeat(60), "}".repeat(60));
    let started = Instant::now();
    let verdict = registry.validate("e", None, &payload);
    assert!(matches!(verdict, Verdict::Invalid { .. }), "{verdict:?}");
    assert!(started.elapsed() < SOON);
}

#[tokio::test]
async fn unique_items_of_many_equal_looking_items_end() {
    let registry = registry().await;
    registry.put("e", body(r#"{"uniqueItems": true}"#)).await.unwrap();
    let numbers: Vec<_> =
        (0..1_500).map(|i| (9_223_372_036_854_775_000_u64 + i).to_string()).collect();
    let verdict = registry.validate("e", None, &format!("[{}]", numbers.join(",")));
    assert_eq!(verdict, Verdict::Valid { version: 1 });
    let items: Vec<_> = (0..1_500).map(|i| format!(r#"{{"sku":"a{i}","n":1}}"#)).collect();
    let verdict = registry.validate("e", None, &format!("[{}]", items.join(",")));
    assert_eq!(verdict, Verdict::Valid { version: 1 });
}

/// The deepest validation that the limits admit fits the stack of a server's worker, with room.
#[tokio::test]
async fn the_deepest_validation_fits_a_worker_stack() {
    let registry = registry().await;
    let mut links = 40;
    while registry.put("e", body(long_way_down(links))).await.is_err() {
        links -= 1;
    }
    assert!(links > 5, "only {links} links are taken");
    let payload = format!("{}1{}", r#"{"x":"#.repeat(63), "}".repeat(63));
    let worker = std::thread::Builder::new().stack_size(1536 * 1024);
    let verdict = worker.spawn(move || registry.validate("e", None, &payload)).unwrap();
    assert!(matches!(verdict.join().unwrap(), Verdict::Invalid { .. }));
}

/// At every level of a payload, `links` references in the last branch of an `anyOf` each.
fn long_way_down(links: usize) -> String {
    let mut defs = serde_json::Map::new();
    for link in 0..links {
        let next = json!({"$ref": format!("#/$defs/d{}", link + 1)});
        let other = json!({"minProperties": 99, "type": "object"});
        defs.insert(format!("d{link}"), json!({"anyOf": [false, other, next]}));
    }
    let down = json!({"properties": {"x": {"$ref": "#/$defs/d0"}}, "type": "object"});
    defs.insert(format!("d{links}"), down);
    json!({"$ref": "#/$defs/d0", "$defs": defs}).to_string()
}
