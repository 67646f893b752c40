//! Schemas with payloads that they take and refuse, from `tests/schemas.ndjson`: one JSON object
//! a line with `about`, `schema` (text), `takes` and `refuses` (payload texts), or `refused`
//! (a part of the message that the registration ends with, and `at`, its pointer).

use serde::Deserialize;
use tracklog_registry::{Candidate, RegistryError, Verdict};

use crate::rig::{body, registry};

#[derive(Deserialize)]
struct Case {
    about: String,
    schema: String,
    #[serde(default)]
    takes: Vec<String>,
    #[serde(default)]
    refuses: Vec<Refused>,
    #[serde(default)]
    refused: Option<Refused>,
}

/// A payload text or message part, and the pointer expected with it.
#[derive(Deserialize)]
struct Refused {
    text: String,
    at: String,
}

#[tokio::test]
async fn schemas_judge_as_their_drafts_say() {
    let cases = include_str!("../schemas.ndjson").lines();
    let cases = cases.map(|line| serde_json::from_str::<Case>(line).expect(line));
    let registry = registry().await;
    let mut count = 0;
    for case in cases {
        judge(&registry, &case).await;
        count += 1;
    }
    assert!(count >= 30, "the file holds {count} cases");
}

async fn judge(registry: &tracklog_registry::Registry, case: &Case) {
    let about = &case.about;
    let outcome = registry.put(about, body(&case.schema)).await;
    if let Some(refused) = &case.refused {
        let Err(RegistryError::Schema(error)) = outcome else {
            panic!("{about}: not refused, but {outcome:?}");
        };
        assert_eq!(error.pointer, refused.at, "{about}: {error}");
        assert!(error.message.contains(&refused.text), "{about}: {error}");
        assert!(!error.to_string().contains('\n'), "{about}: one line");
        return;
    }
    let version = outcome.unwrap_or_else(|error| panic!("{about}: {error}")).version;
    assert!(!case.takes.is_empty() && !case.refuses.is_empty(), "{about} shows both");
    for payload in &case.takes {
        let verdict = registry.validate(about, None, payload);
        assert_eq!(verdict, Verdict::Valid { version }, "{about}: {payload}");
    }
    for Refused { text, at } in &case.refuses {
        let Verdict::Invalid { violation, .. } = registry.validate(about, None, text) else {
            panic!("{about}: {text} is taken");
        };
        assert_eq!(&violation.pointer, at, "{about}: {text}: {violation:?}");
        let dry = registry.check(Candidate::Body(body(&case.schema)), text.as_bytes()).await;
        assert_eq!(dry.unwrap(), Some(violation), "{about}: {text}: the dry run says the same");
    }
}

#[tokio::test]
async fn messages_say_what_is_asked_and_show_no_value() {
    let registry = registry().await;
    let schema = r#"{"properties": {
        "name": {"type": "string", "maxLength": 3},
        "kind": {"enum": ["a", "b"]},
        "n": {"oneOf": [{"type": "number"}, {"type": "integer"}]}
    }, "additionalProperties": false, "required": ["name"]}"#;
    registry.put("e", body(schema)).await.unwrap();
    for (payload, keyword, message) in [
        (r#"{"name": "secret"}"#.to_owned(), "maxLength", "is longer than 3 characters"),
        (r#"{"name": 5}"#.to_owned(), "type", "is not of type string"),
        (r#"{"name": "x", "kind": "secret"}"#.to_owned(), "enum", r#"is none of ["a","b"]"#),
        ("{}".to_owned(), "required", r#"lacks the required property "name""#),
        (r#"{"name": "x", "n": 5}"#.to_owned(), "oneOf", "matches 2 of the schemas in oneOf"),
        (r#"{"name": "x", "y": 1}"#.to_owned(), "additionalProperties", r#"not allowed: "y""#),
        (format!(r#"{{"name": "{}"}}"#, "s".repeat(30_000)), "maxLength", "is longer than 3"),
        (format!(r#"{{"name": "x", "{}": 1}}"#, "k".repeat(30_000)), "additionalProperties", "kkk"),
    ] {
        let Verdict::Invalid { violation, .. } = registry.validate("e", None, &payload) else {
            panic!("{payload} is taken");
        };
        assert_eq!(violation.keyword, keyword);
        assert!(violation.message.contains(message), "{violation:?}");
        assert!(violation.message.len() < 310 && violation.pointer.len() < 1_030);
        assert!(!violation.message.contains("secret"));
    }
}

#[tokio::test]
async fn the_dry_run_scans_its_payload() {
    let registry = registry().await;
    registry.put("qty", body(r#"{"properties": {"qty": {"minimum": 0}}}"#)).await.unwrap();
    let twice = br#"{"qty": -1, "qty": 1}"#;
    for payload in [&twice[..], b"[1e400]", b"\xff", "[".repeat(100_000).as_bytes(), b"{"] {
        let outcome = registry.check(Candidate::Registered("qty", None), payload).await;
        assert!(matches!(outcome, Err(RegistryError::Payload(_))), "{outcome:?}");
    }
    let outcome = registry.check(Candidate::Registered("qty", None), br#"{"qty": 1}"#).await;
    assert_eq!(outcome.unwrap(), None);
    let unknown = registry.check(Candidate::Registered("nope", None), b"{}").await;
    assert_eq!(unknown, Err(RegistryError::UnknownName));
    let unknown = registry.check(Candidate::Registered("qty", Some(2)), b"{}").await;
    assert_eq!(unknown, Err(RegistryError::UnknownVersion { version: 2 }));
}
