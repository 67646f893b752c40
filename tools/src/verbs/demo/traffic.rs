//! The demo's clients: each a connection over HTTPS that sends at its pace and counts the answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::{Request, StatusCode};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::shop::{Shop, Submission};
use crate::http_client::{Connection, Endpoint, HttpError};

const CLIENTS: u32 = 8;
/// How long a client waits after its connection broke.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// What came of it so far.
#[derive(Default)]
pub(super) struct Tally(Mutex<Counts>);

/// The numbers of a [`Tally`].
#[derive(Clone)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    /// By code.
    pub(super) rejected: BTreeMap<String, Rejected>,
    /// Requests without an answer, or with one that sends the client away.
    pub(super) failed: u64,
    /// Micros from the first byte sent to the whole answer.
    pub(super) latencies: Histogram<u64>,
}

/// What was rejected under one code.
#[derive(Clone, Default)]
pub(super) struct Rejected {
    pub(super) count: u64,
    /// Why the last one was, in the node's words.
    pub(super) why: String,
}

impl Counts {
    fn reject(&mut self, code: &str, verdict: &Verdict) {
        let rejected = self.rejected.entry(code.to_owned()).or_default();
        rejected.count += 1;
        rejected.why = verdict.why();
    }
}

impl Default for Counts {
    fn default() -> Self {
        let latencies = Histogram::new_with_bounds(1, 60_000_000, 3);
        Self {
            accepted: 0,
            rejected: BTreeMap::new(),
            failed: 0,
            latencies: latencies.expect("the bounds are good ones"),
        }
    }
}

impl Tally {
    pub(super) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("no holder of this lock panics")
    }

    fn answered(&self, submission: &Submission, status: StatusCode, body: &[u8], took: Duration) {
        let mut counts = self.lock();
        counts.latencies.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let answer: Answer = serde_json::from_slice(body).unwrap_or_default();
        match status {
            StatusCode::OK => {
                let mut rejected = 0;
                for verdict in answer.rejected.iter().chain(&answer.results) {
                    let Some(code) = &verdict.code else { continue };
                    counts.reject(code, verdict);
                    rejected += 1;
                }
                counts.accepted += submission.events.saturating_sub(rejected);
            }
            StatusCode::BAD_REQUEST => {
                let code = answer.whole.code.as_deref().unwrap_or("400");
                counts.reject(code, &answer.whole);
            }
            _ => counts.failed += 1,
        }
    }
}

/// An answer of any of the routes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    /// Of the request, where it is refused altogether.
    #[serde(flatten)]
    whole: Verdict,
    rejected: Vec<Verdict>,
    results: Vec<Verdict>,
}

/// Says why an event was rejected; without a code it was stored.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Verdict {
    code: Option<String>,
    pointer: Option<String>,
    message: Option<String>,
}

impl Verdict {
    fn why(&self) -> String {
        let parts = [self.pointer.as_deref(), self.message.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// Clients at work.
pub(super) struct Traffic(JoinSet<()>);

impl Traffic {
    pub(super) fn start(
        endpoint: Endpoint,
        write_key: &str,
        rate: u32,
        tally: &Arc<Tally>,
        stopping: &watch::Receiver<bool>,
    ) -> Self {
        let authorization = format!("Basic {}", STANDARD.encode(format!("{write_key}:")));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client {
                endpoint: endpoint.clone(),
                authorization: authorization.clone(),
                shop: Shop::new(crate::now().0.cast_unsigned() ^ (u64::from(number) << 56)),
                tally: Arc::clone(tally),
                event_takes: Duration::from_secs(1) * CLIENTS / rate,
            };
            clients.spawn(client.run(stopping.clone()));
        }
        Self(clients)
    }

    pub(super) async fn ended(mut self) {
        while let Some(client) = self.0.join_next().await {
            client.expect("a client does not panic");
        }
    }
}

struct Client {
    endpoint: Endpoint,
    authorization: String,
    shop: Shop,
    tally: Arc<Tally>,
    event_takes: Duration,
}

impl Client {
    /// Finishes the request in hand when it is time to stop.
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut next = Instant::now();
        let mut connection = None;
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                // An error means that the demo is gone altogether.
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let submission = self.shop.next(crate::now());
            let events = u32::try_from(submission.events).unwrap_or(u32::MAX);
            next += self.event_takes * events;
            if self.send(&mut connection, &submission).await.is_err() {
                self.tally.lock().failed += 1;
                connection = None;
                next = Instant::now() + RECONNECT_PAUSE;
            }
            // What could not be sent in time is not caught up with: that would be a burst.
            next = next.max(Instant::now());
        }
    }

    async fn send(
        &self,
        connection: &mut Option<Connection>,
        submission: &Submission,
    ) -> Result<(), HttpError> {
        let open = match connection {
            Some(open) => open,
            None => connection.insert(self.endpoint.connect().await?),
        };
        let request = Request::post(submission.path)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, submission.user_agent)
            .header("x-forwarded-for", &submission.address)
            .body(Full::new(Bytes::from(submission.body.clone())))
            .expect("paths and headers are good ones");
        let began = Instant::now();
        let (status, body) = open.exchange(request).await?;
        self.tally.answered(submission, status, &body, began.elapsed());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_all_routes_are_counted() {
        let tally = Tally::default();
        let submission = |events| Submission {
            path: "/v1/batch",
            body: String::new(),
            user_agent: "",
            address: String::new(),
            events,
        };
        let answered = |events, status, body: &str| {
            tally.answered(&submission(events), status, body.as_bytes(), Duration::from_millis(1));
        };
        answered(3, StatusCode::OK, r#"{"success":true}"#);
        answered(3, StatusCode::OK, r#"{"success":true,"rejected":[{"index":1,"code":"schema"}]}"#);
        let results = r#"{"results":[{"status":"stored"},{"status":"rejected","code":"schema"}]}"#;
        answered(2, StatusCode::OK, results);
        answered(1, StatusCode::BAD_REQUEST, r#"{"success":false,"code":"invalid_json"}"#);
        answered(1, StatusCode::SERVICE_UNAVAILABLE, "");
        let counts = tally.counts();
        assert_eq!((counts.accepted, counts.failed), (6, 1));
        assert_eq!(counts.rejected["schema"].count, 2);
        assert_eq!(counts.rejected["invalid_json"].count, 1);
        assert_eq!(counts.latencies.len(), 5);
    }
}
