//! The load: clients that send until their connection breaks.
//!
//! A third of them send single events, a third batches as SDKs do, a third arrays that are
//! answered with places. None repeats a request: what was not acked may be there or not.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::ledger::{Ledger, Place};
use crate::http_client::{Connection, Endpoint};
use crate::random::Random;

const CLIENTS: u64 = 6;
const BATCH_EVENTS_MAX: u64 = 40;
const FILLER_BYTES_MAX: u64 = 1_500;

/// The clients of one round.
pub(super) struct Load(JoinSet<()>);

/// Starts them.
pub(super) fn start(
    address: SocketAddr,
    key: &str,
    ledger: &Arc<Ledger>,
    random: &mut Random,
) -> Load {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let client = Client {
            endpoint: Endpoint::plain(address.ip().to_string(), address.port()),
            key: key.to_owned(),
            route: [Route::Track, Route::Batch, Route::Events][(client % 3) as usize],
            random: Random(random.next()),
            ledger: Arc::clone(ledger),
        };
        clients.spawn(client.run());
    }
    Load(clients)
}

impl Load {
    /// Waits until all connections broke.
    pub(super) async fn ended(mut self) {
        while let Some(client) = self.0.join_next().await {
            client.expect("a client does not panic");
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    Track,
    Batch,
    Events,
}

struct Client {
    endpoint: Endpoint,
    key: String,
    route: Route,
    random: Random,
    ledger: Arc<Ledger>,
}

/// What `/v1/events` says of each event.
#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<Option<Place>>,
}

impl Client {
    async fn run(mut self) {
        // The node may be gone already; then there is nothing to send.
        let Ok(mut connection) = self.endpoint.connect().await else { return };
        while self.send(&mut connection).await.is_some() {}
    }

    /// Sends one request; `None` when the connection broke.
    async fn send(&mut self, connection: &mut Connection) -> Option<()> {
        let count = match self.route {
            Route::Track => 1,
            Route::Batch | Route::Events => 1 + self.random.below(BATCH_EVENTS_MAX),
        };
        let ids = self.ledger.new_ids(count);
        let events = ids.clone().map(|id| self.event(id)).collect();
        let request = self.request(events);
        let (status, body) = connection.exchange(request).await.ok()?;
        if status == StatusCode::OK {
            let answer: Answer = serde_json::from_slice(&body).unwrap_or_default();
            self.ledger.acked(ids, &answer.results, self.route == Route::Events);
        } else {
            self.ledger.refused(count);
        }
        Some(())
    }

    fn event(&mut self, id: u64) -> serde_json::Value {
        let filler = usize::try_from(self.random.below(FILLER_BYTES_MAX)).expect("it is small");
        json!({
            "type": "track", "event": "torture", "messageId": Ledger::message_id(id),
            "anonymousId": format!("a-{}", self.random.below(1_000)),
            "properties": { "filler": "x".repeat(filler) },
        })
    }

    fn request(&self, mut events: Vec<serde_json::Value>) -> Request<Full<Bytes>> {
        let (path, body) = match self.route {
            Route::Track => ("/v1/track", events.swap_remove(0)),
            Route::Batch => ("/v1/batch", json!({ "batch": events })),
            Route::Events => ("/v1/events", json!(events)),
        };
        let request = Request::builder().method(Method::POST);
        let request = request.uri(format!("{path}?writeKey={}", self.key));
        request.body(Full::from(body.to_string())).expect("a key is good in a target")
    }
}
