//! A schema, a byte 0, a payload. Either is refused in one line, or the verdict is that of the
//! same validator over another representation of JSON; a schema that was taken is registered, and
//! judges as the dry run did.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jsonschema::PatternOptions;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::meta::MetaTopic;
use tracklog_log::{Domain, Log as _, TopicName};
use tracklog_protocol::TimeMicros;
use tracklog_registry::{Candidate, Limits, Registry, RegistryError, Verdict, Violation};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("it needs nothing");
}

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (schema, payload) = (&input[..end], input.get(end + 1..).unwrap_or(b"{}"));
    RUNTIME.with(|runtime| runtime.block_on(judge(schema, payload)));
});

/// Small, so that every input ends soon; but for time, which libFuzzer minds: a machine that stands
/// still for a while is no finding.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.schema_bytes_max = 4096;
    limits.compile_time_max = Duration::from_secs(3600);
    limits.schemas_applied_max = 200;
    limits.pattern_bytes_max = 64 * 1024;
    limits.steps_max = 20_000;
    limits
}

async fn judge(schema: &[u8], payload: &[u8]) {
    let registry = registry().await;
    let body = Bytes::copy_from_slice(schema);
    let checked = registry.check(Candidate::Body(body.clone()), payload).await;
    let put = registry.put("name", body.clone()).await;
    let violation = match checked {
        Err(error) => {
            one_line(&error.to_string(), 2_000);
            let blames_payload = matches!(error, RegistryError::Payload(_));
            assert!(blames_payload || put == Err(error), "refused in a dry run, and then taken");
            return;
        }
        Ok(violation) => violation,
    };
    let registered = put.expect("what a dry run took is registered");
    assert!(registered.created && registered.version == 1);
    assert_eq!(registry.get("name", None), Ok((1, body)), "the text is kept");

    let payload = str::from_utf8(payload).expect("a payload that was read is text");
    let payload = payload.strip_prefix('\u{feff}').unwrap_or(payload);
    let expected = match &violation {
        None => Verdict::Valid { version: 1 },
        Some(violation) => {
            one_line(&violation.message, 310);
            one_line(&violation.pointer, 1_030);
            Verdict::Invalid { version: 1, violation: violation.clone() }
        }
    };
    assert_eq!(registry.validate("name", None, payload), expected, "the same by either way");
    agrees(schema, payload, violation.as_ref());
}

/// With the same validator over values of `serde_json`.
fn agrees(schema: &[u8], payload: &str, violation: Option<&Violation>) {
    let gave_up = violation.is_some_and(|violation| violation.message.contains("too many steps"));
    // A name by which that crate marks numbers among its own.
    let is_marked = payload.contains("serde_json") || contains(schema, b"serde_json");
    if gave_up || is_marked {
        return;
    }
    let schema = schema.strip_prefix(b"\xef\xbb\xbf").unwrap_or(schema);
    let schema: Value = serde_json::from_slice(schema).expect("it was read before");
    let mut payload: Value = serde_json::from_str(payload).expect("it was read before");
    round(&mut payload);
    let limits = limits();
    let patterns = PatternOptions::regex()
        .size_limit(limits.pattern_bytes_max)
        .dfa_size_limit(limits.pattern_bytes_max);
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .with_pattern_options(patterns)
        .offline()
        .build(&schema)
        .expect("it was compiled before");
    assert_eq!(violation.is_none(), validator.is_valid(&payload), "{violation:?}");
}

/// From here on all doubles are whole.
const WHOLE: f64 = 9_007_199_254_740_992.0;
/// Numbers of so many digits and fewer are the shortest names of their doubles.
const DIGITS: usize = 15;

/// A number that says more than a double holds becomes the double that it is to the registry, digit by
/// digit: `serde_json` keeps all that was sent, and whether that is a multiple of something is another
/// question.
fn round(value: &mut Value) {
    match value {
        Value::Number(number) if number.as_u64().is_none() && number.as_i64().is_none() => {
            let text = number.to_string();
            let double: f64 = text.parse().expect("it is a number");
            let mantissa = text.bytes().take_while(|it| !matches!(it, b'e' | b'E'));
            let digits = mantissa.filter(u8::is_ascii_digit).count();
            let rounded = match double.abs() {
                size if size >= WHOLE => format!("{double:.0}"),
                _ if digits > DIGITS => double.to_string(),
                _ => return,
            };
            *value = serde_json::from_str(&rounded).expect("so is this");
        }
        Value::Array(elements) => elements.iter_mut().for_each(round),
        Value::Object(members) => members.values_mut().for_each(round),
        _ => {}
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn one_line(text: &str, bytes_max: usize) {
    assert!(text.len() <= bytes_max, "{} bytes: {text}", text.len());
}

async fn registry() -> Registry {
    let clock = Arc::new(|| TimeMicros(1_767_322_800_000_000));
    let log = Arc::new(MemoryLog::new(MemoryOptions { clock, budget_bytes: 1 << 20 }));
    let epoch = log.open(Domain::WHOLE).await.expect("a log in memory opens");
    let name = TopicName::new("_schemas").expect("a topic's name");
    let meta = MetaTopic::open(log, epoch, name).await.expect("it is empty");
    Registry::open(Arc::new(meta), limits()).await.expect("it is empty")
}
