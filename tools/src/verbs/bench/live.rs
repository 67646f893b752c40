//! How soon after its ack an event is in `enriched`, at a rate that does not wait for acks.
//!
//! Clients send single events over HTTP, each when it is due; a reader in the node's own process
//! waits at the end of `enriched`. Of each event the moment of its ack and the moment at which the
//! reader has it are noted: by number, since message ids carry it. Then the same with a destination
//! that nobody answers at: acks take as long.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tracklog_log::{Fetch, FetchMode, Log};
use tracklog_protocol::event::EventView;
use tracklog_server::node::Node;

use super::append::latencies;
use super::gateway::{Stages, event, start};
use super::pace::{Pace, Turns};
use super::raw::micros;
use super::wire::{ANSWER_BYTES_MAX, post, read_answer};
use super::{Figure, Run};
use crate::failure::Failure;

const RATE: u64 = 5_000;
const CONNECTIONS: u64 = 64;
const FETCH_BYTES: usize = 1 << 20;
/// How long the last events may take to come out.
const PATIENCE: Duration = Duration::from_secs(10);

/// When what happened to each event, in nanoseconds since the begin; 0: not yet.
struct Moments {
    began: Instant,
    sent: Vec<AtomicU64>,
    acked: Vec<AtomicU64>,
    seen: Vec<AtomicU64>,
}

impl Moments {
    fn of(events: u64) -> Self {
        let none = || (0..events).map(|_| AtomicU64::new(0)).collect();
        Self { began: Instant::now(), sent: none(), acked: none(), seen: none() }
    }

    fn note(&self, what: &[AtomicU64], number: u64) {
        let nanos = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if let Some(moment) = usize::try_from(number).ok().and_then(|at| what.get(at)) {
            moment.store(nanos, Ordering::Relaxed);
        }
    }

    /// From one to the other, of the events from `first` on; those with both.
    fn between(
        &self,
        from: &[AtomicU64],
        to: &[AtomicU64],
        first: usize,
    ) -> hdrhistogram::Histogram<u64> {
        let mut all = latencies();
        for (from, to) in from.iter().zip(to).skip(first) {
            let (from, to) = (from.load(Ordering::Relaxed), to.load(Ordering::Relaxed));
            if from > 0 && to > 0 {
                // Who reads may be faster than who is told.
                all.saturating_record(micros(Duration::from_nanos(to.saturating_sub(from))));
            }
        }
        all
    }
}

/// Every event goes to a port that nobody listens on.
const DEAD: &str = r#"[destinations.dead]
type = "webhook"
url = "http://127.0.0.1:1/"
[[rules]]
name = "all"
to = ["dead"]
"#;

pub(super) async fn measure(run: &Run) -> Result<Vec<Figure>, Failure> {
    let [visible, answered] = measure_with(run, "").await?;
    let [_, beside_dead] = measure_with(run, DEAD).await?;
    Ok(vec![
        visible.figure("in `enriched` after the ack, 5,000 events/s"),
        answered.figure("acked, the same events, HTTP"),
        beside_dead.figure("acked, a destination is dead"),
    ])
}

/// How long what was measured took, and how many a second there were.
struct Taken {
    latencies: hdrhistogram::Histogram<u64>,
    rate: f64,
}

impl Taken {
    fn figure(&self, case: &str) -> Figure {
        let figure = Figure::new(case, "events/s", self.rate).latencies(&self.latencies);
        figure.beside(RATE as f64, "what was offered")
    }
}

/// From ack to `enriched`, and from request to ack, on a node with these rules.
async fn measure_with(run: &Run, rules: &str) -> Result<[Taken; 2], Failure> {
    let scratch = run.scratch()?;
    let data = scratch.path().join("node");
    let written =
        std::fs::create_dir(&data).and_then(|()| std::fs::write(data.join("routes.toml"), rules));
    written.map_err(|error| Failure::of(data.display(), error))?;
    let node = start(scratch.path(), run, Stages::On).await?;
    let measured = measure_on(&node, run).await;
    node.stop().await;
    measured
}

async fn measure_on(node: &Node, run: &Run) -> Result<[Taken; 2], Failure> {
    let warm = RATE * run.seconds / 5;
    let events = warm + RATE * run.seconds;
    let moments = Arc::new(Moments::of(events));
    let reader = tokio::spawn(read(node.log(), Arc::clone(&moments), events));
    let key = Arc::<str>::from(STANDARD.encode(format!("{}:", node.default_key().text)));
    let port = node.http().expect("it was asked for").port();
    let mut clients = JoinSet::new();
    let pace = Pace { began: moments.began, rate: RATE };
    for (first, turns) in (0..).zip(pace.share(events, CONNECTIONS)) {
        let (moments, key) = (Arc::clone(&moments), Arc::clone(&key));
        clients.spawn(async move { send(port, &key, first, &turns, &moments).await });
    }
    while let Some(ended) = clients.join_next().await {
        ended.map_err(Failure::could_not_run)?.map_err(Failure::could_not_run)?;
    }
    let late = || Failure::could_not_run("not all events came out of `enriched`");
    let read = tokio::time::timeout(PATIENCE, reader).await.map_err(|_| late())?;
    read.map_err(Failure::could_not_run)??;
    let first = usize::try_from(warm).expect("it is a few thousand");
    let Moments { sent, acked, seen, .. } = &*moments;
    let visible = moments.between(acked, seen, first);
    let answered = moments.between(sent, acked, first);
    let span = acked.iter().skip(first).map(|moment| moment.load(Ordering::Relaxed));
    let (from, to) = (span.clone().min().unwrap_or(0), span.max().unwrap_or(0));
    let rate = visible.len() as f64 / Duration::from_nanos(to - from).as_secs_f64();
    Ok([visible, answered].map(|latencies| Taken { latencies, rate }))
}

/// Sends each event of a connection's when it is due, or at once where that is past.
async fn send(
    port: u16,
    key: &str,
    first: u64,
    turns: &Turns,
    moments: &Moments,
) -> io::Result<()> {
    let authorization = format!("Basic {key}");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    let numbers = (0..moments.acked.len() as u64).skip(usize::try_from(first).unwrap_or(0));
    for number in numbers.step_by(CONNECTIONS as usize) {
        let body = event(usize::try_from(number).unwrap_or(0));
        let request = post("/v1/track", &authorization, &body);
        turns.next().await;
        moments.note(&moments.sent, number);
        stream.write_all(&request).await?;
        read_answer(&mut stream, &mut buffer).await?;
        moments.note(&moments.acked, number);
    }
    Ok(())
}

/// Notes each event that comes out of `enriched`, until all have.
async fn read(log: Arc<dyn Log>, moments: Arc<Moments>, events: u64) -> Result<(), Failure> {
    let topic = log.topic("enriched").expect("a node makes it");
    let mut places: Vec<_> = topic.partitions().map(|at| (at, Default::default())).collect();
    let mut seen = 0;
    while seen < events {
        let (from, mode) = (places.clone(), FetchMode::Live);
        let fetch = Fetch { from, bytes_max: FETCH_BYTES, wait: true, mode };
        let fetched = log.fetch(fetch).await.map_err(Failure::could_not_run)?;
        for (place, found) in places.iter_mut().zip(fetched.partitions) {
            let records = found.batches.iter().flat_map(|batch| batch.records());
            let new = records.filter(|(offset, _)| *offset >= place.1);
            for event in new.filter_map(|(_, record)| EventView::of(record)) {
                if let Some(number) = number_of(event.message_id()) {
                    moments.note(&moments.seen, number);
                }
                seen += 1;
            }
            place.1 = found.next;
        }
    }
    Ok(())
}

/// Which event of a bench has this id.
pub(super) fn number_of(message_id: &str) -> Option<u64> {
    message_id.rsplit('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_event_is_known_by_the_number_in_its_id() {
        let event: serde_json::Value = serde_json::from_str(&super::event(4_711)).unwrap();
        assert_eq!(super::number_of(event["messageId"].as_str().unwrap()), Some(4_711));
    }
}
