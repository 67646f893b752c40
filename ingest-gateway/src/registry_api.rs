//! The registry over HTTP. Every route here needs the admin token, checked before.
//!
//! Routes, bodies and answers: `HTTP.md`, section *Schemas*.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderName};
use http::{HeaderValue, Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tracklog_log::AppendError;
use tracklog_log::meta::MetaError;
use tracklog_registry::{Candidate, Registered, Registry, RegistryError, SchemaError, Violation};

use crate::answer::{Content, Refusal, answer, json, push_number, push_text};
use crate::rejection::{Code, Rejection};
use crate::scan::{Scan, ScanLimits, Shape};

/// In which version of its schema an answer's body is.
const SCHEMA_VERSION: HeaderName = HeaderName::from_static("schema-version");

/// What a path below `/v1/schemas` names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    All,
    Check { of: Option<(String, Option<u32>)> },
    Schema { name: String, version: Option<u32> },
    Versions { name: String },
}

impl Target {
    /// `rest` is what follows `/v1/schemas`, without slashes around it.
    fn of(method: &Method, rest: &str) -> Result<Self, Refusal> {
        match rest {
            "" => return Ok(Self::All),
            "check" if *method == Method::POST => return Ok(Self::Check { of: None }),
            _ => {}
        }
        let (rest, checks) = match rest.strip_suffix("/check") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        if let (Some(name), false) = (rest.strip_suffix("/versions"), checks) {
            return Ok(Self::Versions { name: decoded(name)? });
        }
        let (name, version) = match rest.rsplit_once("/versions/") {
            Some((name, version)) => (name, Some(number(version)?)),
            None => (rest, None),
        };
        let name = decoded(name)?;
        Ok(if checks {
            Self::Check { of: Some((name, version)) }
        } else {
            Self::Schema { name, version }
        })
    }

    /// The methods that it takes.
    const fn methods(&self) -> &'static str {
        match self {
            Self::All | Self::Versions { .. } => "GET",
            Self::Check { .. } => "POST",
            Self::Schema { version: None, .. } => "GET, PUT, DELETE",
            Self::Schema { version: Some(_), .. } => "GET, PUT",
        }
    }
}

fn decoded(name: &str) -> Result<String, Refusal> {
    let name = percent_decode_str(name).decode_utf8().map(Cow::into_owned);
    name.map_err(|_| bad(Code::InvalidText, "the name is not UTF-8"))
}

fn number(text: &str) -> Result<u32, Refusal> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| bad(Code::InvalidId, "a version is a number from 1 to 4294967295"))
}

fn bad(code: Code, message: &'static str) -> Refusal {
    Refusal::bad(Rejection::new(code, message))
}

/// Answers a request to the path `rest` below `/v1/schemas`.
pub(crate) async fn handle(
    registry: &Registry,
    method: &Method,
    rest: &str,
    body: Bytes,
) -> Result<Response<Content>, Refusal> {
    let target = Target::of(method, rest)?;
    let mut response = match (method, &target) {
        (&Method::GET | &Method::HEAD, Target::All) => json(list(registry)),
        (&Method::GET | &Method::HEAD, Target::Versions { name }) => {
            json(versions(registry, name)?)
        }
        (&Method::GET | &Method::HEAD, Target::Schema { name, version }) => {
            schema(registry, name, *version)?
        }
        (&Method::PUT, Target::Schema { name, version }) => {
            put(registry, name, *version, body).await?
        }
        (&Method::DELETE, Target::Schema { name, version: None }) => {
            registry.delete(name).await.map_err(refusal)?;
            json("{\"success\":true}")
        }
        (&Method::POST, Target::Check { of }) => check(registry, of.as_ref(), &body).await?,
        _ => return Err(Refusal::method(target.methods())),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn list(registry: &Registry) -> Vec<u8> {
    let mut out = b"{\"schemas\":[".to_vec();
    for (at, summary) in registry.list().iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        push_summary(&mut out, summary.name.as_str(), &summary.versions);
    }
    out.extend_from_slice(b"]}");
    out
}

fn versions(registry: &Registry, name: &str) -> Result<Vec<u8>, Refusal> {
    let versions = registry.versions(name).map_err(refusal)?;
    let mut out = Vec::new();
    push_summary(&mut out, name, &versions);
    Ok(out)
}

fn push_summary(out: &mut Vec<u8>, name: &str, versions: &[u32]) {
    out.extend_from_slice(b"{\"name\":");
    push_text(out, name);
    out.extend_from_slice(b",\"versions\":[");
    for (at, version) in versions.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        push_number(out, u64::from(*version));
    }
    out.extend_from_slice(b"]}");
}

fn schema(
    registry: &Registry,
    name: &str,
    version: Option<u32>,
) -> Result<Response<Content>, Refusal> {
    let (version, text) = registry.get(name, version).map_err(refusal)?;
    let mut response = answer("application/schema+json", text);
    response.headers_mut().insert(SCHEMA_VERSION, HeaderValue::from(version));
    Ok(response)
}

async fn put(
    registry: &Registry,
    name: &str,
    version: Option<u32>,
    body: Bytes,
) -> Result<Response<Content>, Refusal> {
    let registered = match version {
        None => registry.put(name, body).await,
        Some(version) => registry.put_version(name, version, body).await,
    };
    let Registered { version, created, .. } = registered.map_err(refusal)?;
    let mut out = b"{\"name\":".to_vec();
    push_text(&mut out, name);
    out.extend_from_slice(b",\"version\":");
    push_number(&mut out, u64::from(version));
    out.extend_from_slice(if created { b",\"created\":true}" } else { b",\"created\":false}" });
    Ok(json(out))
}

async fn check(
    registry: &Registry,
    of: Option<&(String, Option<u32>)>,
    body: &Bytes,
) -> Result<Response<Content>, Refusal> {
    let violation = match of {
        Some((name, version)) => registry.check(Candidate::Registered(name, *version), body).await,
        None => {
            let (schema, payload) = schema_and_payload(body)?;
            registry.check(Candidate::Body(schema), &payload).await
        }
    };
    Ok(json(verdict(violation.map_err(refusal)?.as_ref())))
}

/// The two parts of a dry run's body, cut out by the scan: no recursive parser sees it before.
fn schema_and_payload(body: &Bytes) -> Result<(Bytes, Bytes), Refusal> {
    let limits = ScanLimits { event_bytes_max: u32::MAX, ..ScanLimits::default() };
    let mut scan = Scan::new();
    let scanned = scan
        .read(body, Shape::Event, &limits)
        .map_err(|error| Refusal::bad(Rejection::new(error.flaw.code, error.to_string())))?;
    let event = scanned.event(0).expect("a body of this shape is one event");
    if let Some(flaw) = event.flaw() {
        return Err(Refusal::bad(Rejection::new(flaw.code, flaw.what)));
    }
    let part = |name: &'static str| {
        let field = event.fields().find(|field| field.key == name);
        field.map(|field| body.slice_ref(field.value.as_bytes())).ok_or_else(|| {
            let message = "a dry run takes an object with `schema` and `payload`";
            Refusal::bad(Rejection::at(Code::MissingField, format!("/{name}"), message))
        })
    };
    Ok((part("schema")?, part("payload")?))
}

fn verdict(violation: Option<&Violation>) -> Vec<u8> {
    let Some(violation) = violation else { return b"{\"valid\":true}".to_vec() };
    let mut out = b"{\"valid\":false,\"pointer\":".to_vec();
    push_text(&mut out, &violation.pointer);
    out.extend_from_slice(b",\"message\":");
    push_text(&mut out, &violation.message);
    out.push(b'}');
    out
}

fn refusal(error: RegistryError) -> Refusal {
    let bad = |code| Refusal::bad(Rejection::new(code, error.to_string()));
    match &error {
        RegistryError::Name(_) => bad(Code::InvalidId),
        RegistryError::Schema(at) => refused_at(Code::Schema, at),
        RegistryError::Payload(at) => refused_at(Code::InvalidJson, at),
        RegistryError::UnknownName | RegistryError::UnknownVersion { .. } => {
            Refusal::new(StatusCode::NOT_FOUND, Code::NotFound, error.to_string())
        }
        RegistryError::VersionTaken { .. } | RegistryError::VersionsUsedUp => {
            Refusal::new(StatusCode::CONFLICT, Code::Schema, error.to_string())
        }
        RegistryError::Full { .. } => bad(Code::TooMany),
        RegistryError::Busy | RegistryError::Store(MetaError::Append(AppendError::Full { .. })) => {
            Refusal::overloaded(error.to_string(), std::time::Duration::from_secs(1))
        }
        RegistryError::Store(MetaError::Busy(busy)) => {
            Refusal::overloaded(error.to_string(), busy.retry_after)
        }
        _ => Refusal::unavailable(error.to_string()),
    }
}

fn refused_at(code: Code, error: &SchemaError) -> Refusal {
    Refusal::bad(Rejection::at(code, error.pointer.clone(), error.message.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_schemas_versions_and_dry_runs() {
        let name = || "Order/Done €".to_owned();
        let of = |rest: &str| Target::of(&Method::POST, rest).unwrap();
        assert_eq!(of(""), Target::All);
        assert_eq!(of("check"), Target::Check { of: None });
        let path = "Order%2FDone%20%E2%82%AC";
        assert_eq!(of(path), Target::Schema { name: name(), version: None });
        assert_eq!(of("Order/Done%20€"), Target::Schema { name: name(), version: None });
        assert_eq!(of(&format!("{path}/versions")), Target::Versions { name: name() });
        let version = Target::Schema { name: name(), version: Some(3) };
        assert_eq!(of(&format!("{path}/versions/3")), version);
        let check = Target::Check { of: Some((name(), Some(3))) };
        assert_eq!(of(&format!("{path}/versions/3/check")), check);
        assert_eq!(of(&format!("{path}/check")), Target::Check { of: Some((name(), None)) });
        for rest in ["a/versions/x", "a/versions/0", "a/versions/4294967296", "%ff"] {
            assert!(Target::of(&Method::GET, rest).is_err(), "{rest}");
        }
    }

    #[test]
    fn an_event_may_be_called_as_the_last_part_of_a_path() {
        let schema = |name: &str| Target::Schema { name: name.to_owned(), version: None };
        assert_eq!(Target::of(&Method::PUT, "check").unwrap(), schema("check"));
        assert_eq!(Target::of(&Method::GET, "versions").unwrap(), schema("versions"));
        assert_eq!(Target::of(&Method::PUT, "a%2Fcheck").unwrap(), schema("a/check"));
        let of = Some(("check".to_owned(), None));
        assert_eq!(Target::of(&Method::POST, "check/check").unwrap(), Target::Check { of });
    }
}
