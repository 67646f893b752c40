//! `/v1/live`: live figures as server-sent events.
//!
//! Parameters and events: `server/HTTP.md`, section *Live figures*. A client is a place in the windows: what it
//! does not take waits there, not in memory of its own.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tracklog_ingest_gateway::Content;
use tracklog_log::Log;
use tracklog_pipeline::realtime::{Live, Told, Viewer, WindowId};

use super::Shared;
use super::answer::refusal;
use super::query::{Parameters, viewing};
use super::stream::{Lines, LinesSender};

/// After so long a comment is sent, so that nobody between takes the connection for dead.
const HEARTBEAT_AFTER: Duration = Duration::from_secs(10);
/// How soon a client that lost its connection is to come back.
const PREAMBLE: &str = "retry: 1000\n\n";
const HEARTBEAT: &str = ": nothing new\n\n";

/// Who may watch.
pub(super) struct LiveDoor {
    live: Arc<Live<dyn Log>>,
    clients: Arc<Semaphore>,
    clients_max: usize,
}

impl LiveDoor {
    pub(super) fn new(live: Arc<Live<dyn Log>>, clients_max: usize) -> Self {
        Self { live, clients: Arc::new(Semaphore::new(clients_max)), clients_max }
    }
}

impl Shared {
    pub(super) fn watch<B>(&self, request: &Request<B>) -> Response<Content> {
        let Some(door) = self.live.get() else {
            let why = "this node has no live figures: its settings say [live] enabled = false";
            return refusal(StatusCode::NOT_FOUND, "not_found", why);
        };
        let asked = Parameters::of(request.uri().query().unwrap_or_default());
        let asked = asked.and_then(|it| viewing(it, last_event_id(request.headers())));
        let (view, once) = match asked {
            Ok(asked) => asked,
            Err(what) => return refusal(StatusCode::BAD_REQUEST, "invalid_request", &what),
        };
        let Ok(client) = Arc::clone(&door.clients).try_acquire_owned() else {
            let why = format!("{} watch already, and no more may", door.clients_max);
            return refusal(StatusCode::TOO_MANY_REQUESTS, "overloaded", &why);
        };
        let viewer = Viewer::new(Arc::clone(&door.live), view);
        let (lines, sender) = Lines::new((!once).then(|| self.streams.open()));
        let stopping = self.stopping.clone();
        tokio::spawn(async move {
            send_figures(viewer, &sender, stopping, once).await;
            drop(client);
        });
        let mut response = lines.into_response();
        let stream = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(CONTENT_TYPE, stream);
        response
    }
}

/// What is no id of ours is as if nothing was said.
fn last_event_id(headers: &HeaderMap) -> Option<WindowId> {
    headers.get("last-event-id")?.to_str().ok()?.parse().ok()
}

/// Sends figures until the client ends, the node stops, or all is told that was asked for.
async fn send_figures(
    mut viewer: Viewer<dyn Log>,
    sender: &LinesSender,
    mut stopping: watch::Receiver<bool>,
    once: bool,
) {
    if !sender.send(PREAMBLE.into()).await {
        return;
    }
    let mut silent = Duration::ZERO;
    loop {
        let Some(has_sent) = send_due(&mut viewer, sender).await else { return };
        if once && viewer.has_begun() {
            return;
        }
        if has_sent {
            silent = Duration::ZERO;
        } else if silent >= HEARTBEAT_AFTER {
            silent = Duration::ZERO;
            if !sender.send(HEARTBEAT.into()).await {
                return;
            }
        }
        let pause = viewer.pause();
        silent += pause;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = sender.closed() => return,
            // An error means that the node is gone altogether.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Sends all that there is to tell now, and says whether that was anything; `None` when the client
/// takes no more.
async fn send_due(viewer: &mut Viewer<dyn Log>, sender: &LinesSender) -> Option<bool> {
    let mut has_sent = false;
    while let Some(told) = viewer.tell() {
        sender.send(event(&told).into()).await.then_some(())?;
        has_sent = true;
    }
    if let Some(window) = viewer.unfinished() {
        sender.send(event_text("window", None, &window).into()).await.then_some(())?;
        has_sent = true;
    }
    Some(has_sent)
}

fn event(told: &Told) -> String {
    match told {
        Told::Window { id, window, .. } => event_text("window", Some(*id), window),
        Told::Gap(gap) => event_text("gap", None, gap),
    }
}

/// JSON is one line, whatever is in it.
fn event_text(name: &str, id: Option<WindowId>, data: &impl Serialize) -> String {
    let mut text = format!("event: {name}\n");
    if let Some(id) = id {
        writeln!(text, "id: {id}").expect("a string takes all text");
    }
    let data = serde_json::to_string(data).expect("texts and numbers can be written");
    text.push_str("data: ");
    text.push_str(&data);
    text.push_str("\n\n");
    text
}
