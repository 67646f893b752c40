//! Webhooks: events as JSON arrays, by POST, signed.
//!
//! The body is an array of the events' JSON lines, in the order of the source. Each event says topic,
//! partition and offset: whoever keeps those knows what he has seen, however often it comes.
//! `webhook-id` names the stretch of the source that the body holds, the same at each try; after a
//! crash the stretches may be cut otherwise. With a secret, the headers
//! of the Standard Webhooks specification sign it.
//!
//! Answers of 200 to 299 take all of it. 400, 413, 415 and 422 refuse it; it is sent again in
//! halves, until what is refused is one event. All else is tried again.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use tracklog_log::Pending;

use super::{DeliveryError, Destination, Limits, Lines};
use crate::outbound::{Outbound, Post, PostError, Signed, WebhookKey};
use crate::route::{DestinationName, Lane, WebhookSpec};
use crate::stage::Time;

/// A webhook.
pub struct Webhook {
    name: DestinationName,
    spec: WebhookSpec,
    key: Option<WebhookKey>,
    outbound: Arc<dyn Outbound>,
    time: Arc<dyn Time>,
}

impl Webhook {
    /// A webhook called `name`; with `key` its bodies are signed.
    #[must_use]
    pub const fn new(
        name: DestinationName,
        spec: WebhookSpec,
        key: Option<WebhookKey>,
        outbound: Arc<dyn Outbound>,
        time: Arc<dyn Time>,
    ) -> Self {
        Self { name, spec, key, outbound, time }
    }

    fn post(&self, lines: Lines<'_>) -> Post {
        let body = body(lines);
        let id = self.id(lines);
        let mut headers = self.spec.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let signed = Signed { id: &id, sent: self.time.now() };
        signed.put(self.key.as_ref(), &body, &mut headers);
        Post { target: self.spec.target.clone(), headers, body, timeout: self.spec.timeout }
    }

    /// The same for the same events, at each try.
    fn id(&self, lines: Lines<'_>) -> String {
        let name = xxhash_rust::xxh3::xxh3_64(self.name.as_str().as_bytes());
        let lane = match lines.lane {
            Lane::High => "h",
            Lane::Normal => "n",
        };
        let (source, first, last) = (lines.source, lines.first(), lines.last());
        format!("{name:016x}_{}_{}{lane}_{first}_{last}", source.topic, source.partition)
    }
}

impl Destination for Webhook {
    fn limits(&self) -> Limits {
        Limits {
            events_max: self.spec.batch_events,
            bytes_max: self.spec.batch_bytes,
            give_up_after: Some(self.spec.give_up_after),
        }
    }

    fn deliver<'a>(&'a self, lines: Lines<'a>) -> Pending<'a, Result<(), DeliveryError>> {
        Box::pin(async move {
            let told = self.outbound.post(self.post(lines)).await;
            told.map(drop).map_err(|error| judged(&error))
        })
    }
}

fn judged(error: &PostError) -> DeliveryError {
    let why = error.to_string();
    match error {
        PostError::Status { status: 400 | 413 | 415 | 422, .. } => DeliveryError::Refused { why },
        _ => DeliveryError::Later { why, after: error.retry_after() },
    }
}

fn body(lines: Lines<'_>) -> Bytes {
    let bytes = lines.iter().map(|(_, line)| line.len()).sum::<usize>() + 2;
    let mut body = Vec::with_capacity(bytes);
    for (_, line) in lines.iter() {
        body.push(if body.is_empty() { b'[' } else { b',' });
        body.extend_from_slice(line.trim_ascii_end());
    }
    body.push(b']');
    body.into()
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("name", &self.name).finish_non_exhaustive()
    }
}
