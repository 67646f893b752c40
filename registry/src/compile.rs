//! From a body to a compiled validator, under limits.
//!
//! In this order: size; the byte scan (`scan.rs`); the draft; references (`refs.rs`); then the
//! validator's own compiler, which holds the schema against its metaschema and builds the
//! patterns on the linear-time engine.
//!
//! Promises
//! - Nothing is fetched, whatever the schema says.
//! - One compilation at a time, on a thread of its own with a stack of its own. The caller waits
//!   for no longer than the time limit. A thread cannot be stopped, so a compilation that
//!   overruns keeps its place until it ends, and later ones are told `Busy`; the limits on size,
//!   values and references are what keeps that from lasting.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jsonschema::{Draft, PatternOptions, Validator};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::{RegistryError, SchemaError, clipped};
use crate::payload::{self, Sonic};
use crate::refs::{self, Bounds};
use crate::scan;
use crate::verdict::{Violation, words};

/// How much a schema, and all of them together, may cost.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a schema's text. 256 KiB.
    pub schema_bytes_max: usize,
    /// JSON values that a schema's text holds. 20,000.
    pub schema_values_max: usize,
    /// Time that a compilation may take. 2 s.
    pub compile_time_max: Duration,
    /// Schemas applied to one value of a payload, counted along all paths. 10,000.
    pub schemas_applied_max: u64,
    /// Schemas nested for one value of a payload. 20: some forty frames of the
    /// validator, at each of 64 levels of a payload, must fit a 2 MiB stack.
    pub schemas_nested_max: u32,
    /// Bytes of a compiled pattern, and of its cache of states. 1 MiB.
    pub pattern_bytes_max: usize,
    /// Versions that the registry holds, over all names. 10,000.
    pub versions_max: usize,
    /// Looks at a payload's nodes in one validation. 250,000.
    pub steps_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            schema_bytes_max: 256 * 1024,
            schema_values_max: 20_000,
            compile_time_max: Duration::from_secs(2),
            schemas_applied_max: 10_000,
            schemas_nested_max: 20,
            pattern_bytes_max: 1024 * 1024,
            versions_max: 10_000,
            steps_max: 250_000,
        }
    }
}

/// A schema ready to judge payloads.
pub(crate) struct Compiled {
    validator: Validator<Sonic>,
    steps_max: u32,
}

impl Compiled {
    /// Holds `payload` against the schema. See `payload.rs` for what is asked of the text.
    pub(crate) fn judge(&self, payload: &str) -> Result<(), Violation> {
        payload::judge(&self.validator, payload, self.steps_max)
    }
}

/// Compiles one schema at a time, off the caller's thread.
pub(crate) struct Compiler {
    limits: Arc<Limits>,
    place: Arc<Semaphore>,
}

/// Stack of the compiling thread. What the limits admit needs a fraction of it.
const STACK_BYTES: usize = 16 * 1024 * 1024;

impl Compiler {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self { limits, place: Arc::new(Semaphore::new(1)) }
    }

    /// Compiles `body`; waits for at most the time limit, twice: for its place and for the end.
    pub(crate) async fn compile(&self, body: Bytes) -> Result<Compiled, RegistryError> {
        let time_max = self.limits.compile_time_max;
        let place = Arc::clone(&self.place).acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout(time_max, place).await else {
            return Err(RegistryError::Busy);
        };
        answer(self.start(body, place), time_max).await
    }

    /// Starts the thread; it holds `place` until it ends. Closes the channel if it panics.
    fn start(
        &self,
        body: Bytes,
        place: OwnedSemaphorePermit,
    ) -> oneshot::Receiver<Result<Compiled, SchemaError>> {
        let (sender, receiver) = oneshot::channel();
        let limits = Arc::clone(&self.limits);
        let thread =
            std::thread::Builder::new().name("schema-compile".to_owned()).stack_size(STACK_BYTES);
        let started = thread.spawn(move || {
            let outcome = compile(&body, &limits);
            drop(place);
            if sender.send(outcome).is_err() {
                tracing::warn!("a schema was compiled too late for whoever asked");
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "the schema compiler's thread could not be started");
        }
        receiver
    }
}

/// Waits for a compilation's outcome, for as long as the limit allows.
async fn answer(
    outcome: oneshot::Receiver<Result<Compiled, SchemaError>>,
    time_max: Duration,
) -> Result<Compiled, RegistryError> {
    match tokio::time::timeout(time_max, outcome).await {
        Ok(Ok(outcome)) => Ok(outcome?),
        Ok(Err(_)) => Err(SchemaError::new("", "the schema compiler failed on it").into()),
        Err(_) => Err(RegistryError::compile_time_limit(time_max)),
    }
}

/// Compiles `body` on this thread.
pub(crate) fn compile(body: &[u8], limits: &Limits) -> Result<Compiled, SchemaError> {
    if body.len() > limits.schema_bytes_max {
        let (bytes, bytes_max) = (body.len(), limits.schema_bytes_max);
        let message = format!("it has {bytes} bytes; at most {bytes_max} are taken");
        return Err(SchemaError::new("", message));
    }
    let schema = scan::parse(body, limits.schema_values_max)?;
    let draft = match schema.get("$schema") {
        None => Draft::Draft202012,
        Some(dialect) => {
            let dialect = dialect.as_str().unwrap_or_default();
            draft_of(dialect).ok_or_else(|| refs::unknown_dialect("", dialect))?
        }
    };
    let bounds =
        Bounds { applied_max: limits.schemas_applied_max, nested_max: limits.schemas_nested_max };
    refs::check(&schema, draft, bounds)?;
    let patterns = PatternOptions::regex()
        .size_limit(limits.pattern_bytes_max)
        .dfa_size_limit(limits.pattern_bytes_max);
    let validator = jsonschema::options_for::<Sonic>()
        .with_draft(draft)
        .should_validate_formats(true)
        .with_pattern_options(patterns)
        .offline()
        .build(&schema)
        .map_err(|error| refusal(&error, &schema))?;
    Ok(Compiled { validator, steps_max: limits.steps_max })
}

/// The draft that a `$schema` names: with or without the empty fragment, over http or https.
pub(crate) fn draft_of(dialect: &str) -> Option<Draft> {
    let dialect = dialect.strip_suffix('#').unwrap_or(dialect);
    let path = dialect
        .strip_prefix("https://json-schema.org/")
        .or_else(|| dialect.strip_prefix("http://json-schema.org/"))?;
    match path {
        "draft-04/schema" => Some(Draft::Draft4),
        "draft-06/schema" => Some(Draft::Draft6),
        "draft-07/schema" => Some(Draft::Draft7),
        "draft/2019-09/schema" => Some(Draft::Draft201909),
        "draft/2020-12/schema" => Some(Draft::Draft202012),
        _ => None,
    }
}

/// The compiler's refusal as ours, naming a pattern that the engine does not take.
fn refusal(error: &jsonschema::ValidationError<'_>, schema: &serde_json::Value) -> SchemaError {
    let pointer = error.instance_path().to_string();
    let keyword = pointer.rsplit('/').next().unwrap_or_default();
    if matches!(keyword, "pattern" | "patternProperties")
        || pointer.contains("/patternProperties/")
        || matches!(error.kind(), jsonschema::error::ValidationErrorKind::Format { format } if format == "regex")
    {
        let pattern = schema.pointer(&pointer).and_then(|value| value.as_str());
        let pattern = pattern.map(|pattern| clipped(format!("{pattern:?} "), 200));
        let message = format!(
            "the pattern {}is not one that the linear-time engine takes: no look-around, no \
             back-reference, bounded size",
            pattern.unwrap_or_default()
        );
        return SchemaError::new(pointer, message);
    }
    // The metaschemas say of a type that it is one name or a list of names: an `anyOf`.
    if keyword == "type" {
        let message = "it is no type: those are string, number, integer, boolean, object, array and null, \
                       and lists of them";
        return SchemaError::new(pointer, message.to_owned());
    }
    SchemaError::new(pointer, format!("it {}", words(error.kind())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_compilation_past_its_time_is_given_up_and_one_that_fails_is_told() {
        let (sender, receiver) = oneshot::channel();
        let error = answer(receiver, SHORT).await.err().unwrap();
        assert!(error.to_string().contains("longer than 1 ms"), "{error}");
        drop(sender);

        let (sender, receiver) = oneshot::channel();
        drop(sender);
        let error = answer(receiver, SHORT).await.err().unwrap();
        assert!(error.to_string().contains("failed on it"), "{error}");
    }

    #[tokio::test]
    async fn one_schema_is_compiled_at_a_time() {
        let schema = Bytes::from_static(b"{\"type\": \"object\"}");
        let mut compiler = Compiler::new(Arc::default());
        compiler.compile(schema.clone()).await.ok().unwrap();
        let overrunning = Arc::clone(&compiler.place).acquire_owned().await.unwrap();
        compiler.limits = Arc::new(Limits { compile_time_max: SHORT, ..Limits::default() });
        let busy = compiler.compile(schema.clone()).await.err();
        assert_eq!(busy, Some(RegistryError::Busy));
        drop(overrunning);
        compiler.limits = Arc::default();
        compiler.compile(schema).await.ok().unwrap();
    }

    #[test]
    fn drafts_are_known_by_their_addresses() {
        for (dialect, draft) in [
            ("http://json-schema.org/draft-04/schema#", Some(Draft::Draft4)),
            ("https://json-schema.org/draft-07/schema", Some(Draft::Draft7)),
            ("https://json-schema.org/draft/2019-09/schema", Some(Draft::Draft201909)),
            ("https://json-schema.org/draft/2020-12/schema#", Some(Draft::Draft202012)),
            ("http://json-schema.org/draft-03/schema#", None),
            ("http://json-schema.org/schema#", None),
            ("https://example.com/draft-07/schema#", None),
            ("", None),
        ] {
            assert_eq!(draft_of(dialect), draft, "{dialect}");
        }
    }
}
