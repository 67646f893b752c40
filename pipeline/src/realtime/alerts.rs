//! Thresholds at work: a webhook is called once when one is crossed, and once when that is over.
//!
//! Promises
//! - How a threshold stands, and what is still to be told, is stored before anybody is called: a
//!   node that dies and starts again neither forgets nor begins anew. What it had sent and not
//!   noted it sends again, under the same id.
//! - A webhook that does not answer delays no other, and no window.
//! - With thresholds the topic is always read.
//!
//! `threshold` decides, `outbox` keeps what is to be told; this file brings both together with the
//! windows, a store and a client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracklog_log::Log;
use tracklog_log::meta::{Expect, Meta};
use tracklog_protocol::TimeMicros;

use super::figures::LiveWindow;
use super::live::Live;
use super::outbox::{Notice, Outbox, Settled};
use super::ring::WINDOWS_KEPT;
use super::threshold::{Change, Limit, Look, Measure, Standing, Threshold};
use super::viewer::{Told, View, Viewer};
use crate::outbound::{Accepted, Outbound, Post, PostError, Signed, Target, WebhookKey};
use crate::stage::{Counter, Time};

/// How long a webhook may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A threshold, and who is told.
#[derive(Clone, Debug)]
pub struct Alert {
    /// What is looked at.
    pub threshold: Threshold,
    /// Who is called.
    pub target: Target,
    /// What calls are signed with.
    pub key: Option<WebhookKey>,
}

/// What was told of one threshold.
#[derive(Debug, Default)]
pub struct AlertCounters {
    /// Calls that were taken.
    pub told: Counter,
    /// Calls that failed, each try.
    pub failed: Counter,
    /// Notices that nobody will be told: refused, too old, or too many.
    pub given_up: Counter,
}

/// All thresholds of a node.
pub struct Alerts<L: ?Sized> {
    live: Arc<Live<L>>,
    meta: Arc<dyn Meta>,
    outbound: Arc<dyn Outbound>,
    time: Arc<dyn Time>,
    armed: Vec<Armed>,
    /// Windows that began before may lack events.
    started: TimeMicros,
}

struct Armed {
    alert: Alert,
    state: Mutex<State>,
    counters: AlertCounters,
}

struct State {
    standing: Standing,
    outbox: Outbox,
}

/// A state as it is stored, under the threshold's name.
#[derive(Serialize, Deserialize)]
struct Stored {
    standing: Standing,
    waiting: Vec<Notice>,
}

/// What a webhook is sent.
#[derive(Serialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    /// The same for people.
    text: String,
    threshold: &'a str,
    event: Option<&'a str>,
    of: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    property: Option<&'a str>,
    window: &'static str,
    /// The window that made it so.
    begin: &'a str,
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    above: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    below: Option<f64>,
}

impl<L: Log + ?Sized> Alerts<L> {
    /// As they stood when `meta` was written last. One that is new begins now: what was before is
    /// not told.
    #[must_use]
    pub fn new(
        live: Arc<Live<L>>,
        meta: Arc<dyn Meta>,
        outbound: Arc<dyn Outbound>,
        time: Arc<dyn Time>,
        alerts: Vec<Alert>,
    ) -> Self {
        let started = time.now();
        let fresh = Standing::beginning_at(started);
        let armed = alerts.into_iter().map(|alert| {
            let stored = stored(&*meta, &alert.threshold.name);
            let fresh = || State { standing: fresh, outbox: Outbox::default() };
            let state = Mutex::new(stored.unwrap_or_else(fresh));
            Armed { alert, state, counters: AlertCounters::default() }
        });
        let armed = armed.collect();
        Self { live, meta, outbound, time, armed, started }
    }

    /// Each threshold's name, whether it is crossed, how many notices wait, and what was told.
    pub fn each(&self) -> impl Iterator<Item = (&str, bool, usize, &AlertCounters)> {
        self.armed.iter().map(|armed| {
            let state = armed.state.lock();
            let (is_crossed, waiting) = (state.standing.is_crossed, state.outbox.waiting().len());
            (&*armed.alert.threshold.name, is_crossed, waiting, &armed.counters)
        })
    }

    /// Looks at each window that is over, until `stop` says so. Calls that are on their way then
    /// are made again by whoever comes next.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        self.settle_in().await;
        let last = u32::try_from(WINDOWS_KEPT).expect("it is some sixty");
        let view = View { last, ..View::default() };
        let mut viewer = Viewer::new(Arc::clone(&self.live), view);
        let mut calls = JoinSet::new();
        loop {
            while let Some(told) = viewer.tell() {
                if let Told::Window { end, window, .. } = told {
                    self.look(end, &window).await;
                }
            }
            let due = self.begin_calls(&mut calls);
            let pause = viewer.pause().min(due.unwrap_or(Duration::MAX));
            let call = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                call = calls.join_next(), if !calls.is_empty() => call,
                () = self.time.pause(pause) => None,
            };
            match call {
                None => {}
                Some(Ok((at, outcome))) => self.end_call(at, outcome).await,
                Some(Err(error)) => tracing::error!(%error, "a call ended without an outcome"),
            }
        }
    }

    async fn look(&self, end: TimeMicros, window: &LiveWindow) {
        for armed in &self.armed {
            let threshold = &armed.alert.threshold;
            let begin = end.0.saturating_sub(threshold.window.seconds() * 1_000_000);
            let is_whole = begin >= self.started.0;
            if threshold.window != window.window {
                continue;
            }
            let look = Look { value: threshold.value(window), end, is_whole };
            let change = armed.state.lock().standing.look(threshold, look);
            if let Some(change) = change {
                armed.change(change, look, window, self.time.now());
                self.store(armed).await;
            }
        }
    }

    /// Sends what is due, and says in how long something else is.
    fn begin_calls(
        &self,
        calls: &mut JoinSet<(usize, Result<Accepted, PostError>)>,
    ) -> Option<Duration> {
        let now = self.time.now();
        let mut soonest = None;
        for (at, armed) in self.armed.iter().enumerate() {
            let mut state = armed.state.lock();
            if let Some(notice) = state.outbox.begin(now) {
                let (outbound, post) = (Arc::clone(&self.outbound), armed.alert.post(&notice, now));
                calls.spawn(async move { (at, outbound.post(post).await) });
            }
            let due = state.outbox.due_in(now);
            soonest = [soonest, due].into_iter().flatten().min();
        }
        soonest
    }

    async fn end_call(&self, at: usize, outcome: Result<Accepted, PostError>) {
        let armed = &self.armed[at];
        let (counters, name) = (&armed.counters, &armed.alert.threshold.name);
        let failed = outcome.err();
        let settled = armed.state.lock().outbox.end(failed.as_ref(), self.time.now());
        if let Some(error) = failed {
            counters.failed.add(1);
            let will_try = settled == Settled::Later;
            tracing::warn!(threshold = name, %error, will_try, "its webhook was not told");
        }
        match settled {
            Settled::Later => return,
            Settled::Told => counters.told.add(1),
            Settled::GivenUp => counters.given_up.add(1),
        }
        self.store(armed).await;
    }

    /// A log that takes nothing for now has the last state that it took; the next change is stored
    /// with all before it.
    async fn store(&self, armed: &Armed) {
        let name = &armed.alert.threshold.name;
        let stored = {
            let State { standing, outbox } = &*armed.state.lock();
            Stored { standing: *standing, waiting: outbox.waiting().iter().cloned().collect() }
        };
        let stored = serde_json::to_vec(&stored).expect("texts and numbers can be written");
        if let Err(error) = self.meta.put(name.as_bytes(), Some(&stored), Expect::Any).await {
            tracing::warn!(threshold = name, %error, "how it stands is not stored");
        }
    }

    /// Stores since when thresholds are looked at that are new, and removes what is stored of those
    /// that are no more.
    async fn settle_in(&self) {
        let is_new =
            |armed: &&Armed| self.meta.get(armed.alert.threshold.name.as_bytes()).is_none();
        for armed in self.armed.iter().filter(is_new) {
            self.store(armed).await;
        }
        for (key, _) in self.meta.list(b"") {
            let is_ours = |armed: &Armed| armed.alert.threshold.name.as_bytes() == key;
            if !self.armed.iter().any(is_ours)
                && let Err(error) = self.meta.put(&key, None, Expect::Any).await
            {
                tracing::debug!(%error, "a threshold that is no more is forgotten later");
            }
        }
    }
}

impl Armed {
    fn change(&self, change: Change, look: Look, window: &LiveWindow, now: TimeMicros) {
        let threshold = &self.alert.threshold;
        let what = match change {
            Change::Crossed => "crossed",
            Change::Over => "over",
        };
        tracing::info!(threshold = threshold.name, value = look.value, "the threshold is {what}");
        let name = xxhash_rust::xxh3::xxh3_64(threshold.name.as_bytes());
        let id = format!("{name:016x}_{}_{what}", look.end.0.div_euclid(1_000_000));
        let begin = window.begin.clone();
        let notice = Notice { id, change, value: look.value, begin, created_micros: now.0 };
        let gone = self.state.lock().outbox.push(notice);
        self.counters.given_up.add(gone as u64);
    }
}

impl Alert {
    fn post(&self, notice: &Notice, now: TimeMicros) -> Post {
        let body = Bytes::from(self.threshold.message(notice));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let signed = Signed { id: &notice.id, sent: now };
        signed.put(self.key.as_ref(), &body, &mut headers);
        Post { target: self.target.clone(), headers, body, timeout: CALL_TIMEOUT }
    }
}

impl Threshold {
    fn message(&self, notice: &Notice) -> String {
        let (of, property) = match &self.of {
            Measure::Count => ("count", None),
            Measure::Rate => ("rate", None),
            Measure::Sum(path) => ("sum", Some(path.as_str())),
        };
        let (above, below) = match self.limit {
            Limit::Above { limit, .. } => (Some(limit), None),
            Limit::Below { limit, .. } => (None, Some(limit)),
        };
        let message = Message {
            kind: match notice.change {
                Change::Crossed => "threshold.crossed",
                Change::Over => "threshold.over",
            },
            id: &notice.id,
            text: self.text(notice),
            threshold: &self.name,
            event: self.event.as_deref(),
            of,
            property,
            window: self.window.as_str(),
            begin: &notice.begin,
            value: notice.value,
            above,
            below,
        };
        serde_json::to_string(&message).expect("texts and numbers can be written")
    }

    fn text(&self, notice: &Notice) -> String {
        let figure = match &self.of {
            Measure::Count => "count".to_owned(),
            Measure::Rate => "rate a second".to_owned(),
            Measure::Sum(path) => format!("sum of {path}"),
        };
        let event = self.event.as_deref().unwrap_or("all events");
        let (name, window, value) = (&self.name, self.window.as_str(), notice.value);
        let what = match (notice.change, self.limit) {
            (Change::Crossed, Limit::Above { limit, .. }) => format!("crossed: above {limit}"),
            (Change::Crossed, Limit::Below { limit, .. }) => format!("crossed: below {limit}"),
            (Change::Over, _) => "over".to_owned(),
        };
        format!("{name} is {what}. {event}, {figure} in {window}: {value}")
    }
}

/// What is stored of a threshold. What can't be read is as if nothing was.
fn stored(meta: &dyn Meta, name: &str) -> Option<State> {
    let kept = meta.get(name.as_bytes())?;
    match serde_json::from_slice::<Stored>(&kept.value) {
        Ok(Stored { standing, waiting }) => Some(State { standing, outbox: Outbox::new(waiting) }),
        Err(error) => {
            tracing::warn!(threshold = name, %error, "how it stood can't be read");
            None
        }
    }
}

impl<L: ?Sized> std::fmt::Debug for Alerts<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.armed.iter().map(|armed| &armed.alert.threshold.name);
        f.debug_list().entries(names).finish()
    }
}
