//! Batches at a steady rate that does not wait for acks, and what came of them.
//!
//! A request's time counts from when it was due: a node that falls behind cannot hide it. One that is
//! refused is not sent again. No two requests of a bench are the same, since each is told where the
//! numbers of the one before ended.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tracklog_server::node::Node;

use super::Figure;
use super::append::latencies;
use super::gateway::{BATCH_EVENTS, batch};
use super::pace::{Pace, Turns};
use super::raw::micros;
use super::wire::{ANSWER_BYTES_MAX, post, read_status};
use crate::failure::Failure;

/// Each waits for an answer before it sends again, though its next request may be due.
const CONNECTIONS: u64 = 32;
const OFFERED: &str = "what was offered";

/// What a load came to.
pub(super) struct Taken {
    /// Of the requests that were acked.
    pub(super) latencies: Histogram<u64>,
    pub(super) events_per_second: f64,
    /// How many requests had another answer, by its status.
    pub(super) refused: BTreeMap<u16, u64>,
    /// The numbers of those that were acked, in no order.
    pub(super) acked: Vec<u64>,
    /// The number of the next request.
    pub(super) next: u64,
    rate: u64,
}

impl Taken {
    pub(super) fn figure(&self, case: impl Into<String>) -> Figure {
        let figure = Figure::new(case, "events/s", self.events_per_second);
        figure.latencies(&self.latencies).beside(self.rate as f64, OFFERED)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.values().sum()
    }

    /// One of its latencies, beside that of another load.
    pub(super) fn quantile(
        &self,
        name: impl Into<String>,
        other: (&str, &Self),
        at: f64,
    ) -> Figure {
        let value = |taken: &Self| taken.latencies.value_at_quantile(at) as f64;
        Figure::new(name, "µs", value(self)).beside(value(other.1), other.0)
    }
}

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Events a second.
    pub(super) rate: u64,
    pub(super) connections: u64,
}

impl Load {
    /// Over the usual connections.
    pub(super) const fn of(rate: u64) -> Self {
        Self { rate, connections: CONNECTIONS }
    }
}

/// Sends requests from number `first` on, each when it is due.
pub(super) async fn drive(
    node: &Node,
    load: Load,
    first: u64,
    time: Duration,
) -> Result<Taken, Failure> {
    let Load { rate, connections } = load;
    let requests_a_second = rate / BATCH_EVENTS as u64;
    let key = STANDARD.encode(format!("{}:", node.default_key().text));
    let authorization = Arc::<str>::from(format!("Basic {key}"));
    let port = node.http().expect("it was asked for").port();
    let requests = time.as_secs() * requests_a_second;
    let began = Instant::now();
    let pace = Pace { began, rate: requests_a_second };
    let mut clients = JoinSet::new();
    for (own, turns) in (0..requests).zip(pace.share(requests, connections)) {
        let client = Client { port, authorization: Arc::clone(&authorization), first, pace, turns };
        let step = usize::try_from(connections).expect("they are some hundreds");
        clients.spawn(async move { client.send((own..requests).step_by(step)).await });
    }
    let (mut all, mut acked, mut refused) = (latencies(), Vec::new(), BTreeMap::new());
    while let Some(ended) = clients.join_next().await {
        let answers = ended.map_err(Failure::could_not_run)?.map_err(Failure::could_not_run)?;
        answers.latencies_micros.into_iter().for_each(|took| all.saturating_record(took));
        acked.extend(answers.acked);
        for (status, requests) in answers.refused {
            *refused.entry(status).or_default() += requests;
        }
    }
    let events = acked.len() * BATCH_EVENTS;
    let events_per_second = events as f64 / began.elapsed().as_secs_f64();
    let next = first + requests;
    Ok(Taken { latencies: all, events_per_second, refused, acked, next, rate })
}

/// One connection, and its part of a load.
struct Client {
    port: u16,
    authorization: Arc<str>,
    /// How many requests were sent before this load.
    first: u64,
    pace: Pace,
    turns: Turns,
}

/// What a connection was told.
struct Answers {
    /// Of those that were acked. A histogram for each of hundreds of connections would be much of
    /// the memory that is told.
    latencies_micros: Vec<u64>,
    refused: BTreeMap<u16, u64>,
    acked: Vec<u64>,
}

impl Client {
    async fn send(self, numbers: impl Iterator<Item = u64>) -> io::Result<Answers> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        let mut told =
            Answers { latencies_micros: Vec::new(), refused: BTreeMap::new(), acked: Vec::new() };
        for number in numbers {
            let body = batch(usize::try_from(self.first + number).unwrap_or_default());
            let request = post("/v1/batch", &self.authorization, &body);
            self.turns.next().await;
            stream.write_all(&request).await?;
            match read_status(&mut stream, &mut buffer).await? {
                200 => {
                    told.latencies_micros.push(micros(self.pace.due(number).elapsed()));
                    told.acked.push(self.first + number);
                }
                status => *told.refused.entry(status).or_default() += 1,
            }
        }
        Ok(told)
    }
}

/// What the process has of memory that is no file's; 0 where that cannot be told.
pub(super) fn own_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kibibytes.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) << 10
}
