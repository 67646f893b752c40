//! Batches at a steady rate that does not wait for acks, and what came of them.
//!
//! A request's time counts from when it was due: a node that falls behind cannot hide it. One that is
//! refused is not sent again. No two requests of a bench are the same, since each is told where the
//! numbers of the one before ended. Clients are another process ([`super::crowd`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use hdrhistogram::Histogram;
use tracklog_server::node::Node;

use super::Figure;
use super::append::latencies;
use super::crowd::{self, Asked, Told};
use super::gateway::BATCH_EVENTS;
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
    /// The numbers of those that were acked.
    pub(super) acked: Vec<Range<u64>>,
    /// The number of the next request.
    pub(super) next: u64,
    rate: u64,
}

impl Taken {
    fn of(told: Told, load: Load, next: u64) -> Self {
        let mut all = latencies();
        for (micros, requests) in told.latencies_micros {
            all.saturating_record_n(micros, requests);
        }
        let acked: Vec<_> = told.acked.into_iter().map(|(first, end)| first..end).collect();
        let requests: u64 = acked.iter().map(|range| range.end - range.start).sum();
        let events_per_second = (requests * BATCH_EVENTS as u64) as f64 / told.took.as_secs_f64();
        Self {
            latencies: all,
            events_per_second,
            refused: told.refused,
            acked,
            next,
            rate: load.rate,
        }
    }

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
    let asked = Asked {
        port: node.http().expect("it was asked for").port(),
        write_key: node.default_key().text.clone(),
        requests_a_second: load.rate / BATCH_EVENTS as u64,
        connections: load.connections,
        first,
        seconds: time.as_secs(),
    };
    let told = crowd::send(&asked).await?;
    Ok(Taken::of(told, load, first + asked.requests()))
}

/// What this process has in memory; 0 where that cannot be told.
#[derive(Clone, Copy, Default)]
pub(super) struct Memory {
    /// That is no file's.
    pub(super) own_bytes: u64,
    /// Pages of mapped files, which the system takes back when it wants them.
    pub(super) mapped_bytes: u64,
}

impl Memory {
    pub(super) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
            kibibytes.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) << 10
        };
        Self { own_bytes: bytes("RssAnon:"), mapped_bytes: bytes("RssFile:") }
    }
}
