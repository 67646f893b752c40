//! Single events at a rate that does not wait for acks, as a crowd of clients sends them.
//!
//! A thread of its own appends what has become due each tenth of a millisecond; a task hears the
//! acks, which come in the order of the appends. An event's time counts from when it was due: a log
//! that falls behind cannot hide it. What is counted are the events due in the window and acked
//! until its end.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tracklog_log::{Append, Epoch, Item, Lane, Log, Ticket, Topic};
use tracklog_protocol::Record;

use super::Figure;
use super::append::{RECORD_BYTES, latencies, topic};
use super::raw::micros;
use crate::failure::Failure;

pub(super) const NAME: &str = "events, open loop, 700,000/s";
const RATE: u64 = 700_000;
/// When event `number` is due, since the first one.
const fn due_after(number: u64) -> Duration {
    Duration::from_nanos(number * 1_000_000 / (RATE / 1_000))
}
const TICK: Duration = Duration::from_micros(100);
/// Appends that were not acked yet, in bursts; no more are offered meanwhile.
const BURSTS_MAX: usize = 10_000;
const LANES: u64 = 8;

/// What was appended in one go: when each was due, and its ticket.
type Burst = Vec<(Instant, Ticket)>;

pub(super) async fn measure(log: Arc<dyn Log>, time: Duration) -> Result<Figure, Failure> {
    let (epoch, topic) = topic(&*log, 16).await?;
    let (bursts, mut acks) = mpsc::channel::<Burst>(BURSTS_MAX);
    let began = Instant::now();
    let from = began + time / 5;
    let until = from + time;
    let offering = thread::spawn(move || offer(&*log, epoch, &topic, began, until, &bursts));
    let mut taken = latencies();
    while let Some(burst) = acks.recv().await {
        for (due, ticket) in burst {
            ticket.await.map_err(Failure::could_not_run)?;
            let now = Instant::now();
            if due >= from && now <= until {
                taken.saturating_record(micros(now - due));
            }
        }
    }
    offering.join().expect("the offering thread does not panic")?;
    Ok(figure(&taken, time))
}

/// The events that were acked a second, and how late.
fn figure(taken: &Histogram<u64>, time: Duration) -> Figure {
    let rate = taken.len() as f64 / time.as_secs_f64();
    Figure::new(NAME, "events/s", rate).latencies(taken).beside(RATE as f64, "what was offered")
}

fn offer(
    log: &dyn Log,
    epoch: Epoch,
    topic: &Topic,
    began: Instant,
    until: Instant,
    bursts: &mpsc::Sender<Burst>,
) -> Result<(), Failure> {
    let event = [7; RECORD_BYTES];
    let mut offered = 0;
    loop {
        let now = Instant::now().min(until);
        let micros = u64::try_from((now - began).as_micros()).unwrap_or(u64::MAX);
        let due = micros.saturating_mul(RATE / 1_000) / 1_000;
        let mut burst = Vec::with_capacity(usize::try_from(due - offered).unwrap_or_default());
        while offered < due {
            let lane =
                Lane(Lane::FIRST_SOURCE.0 + u8::try_from(offered % LANES).unwrap_or_default());
            let Ok(permit) = log.reserve(lane, RECORD_BYTES + 128) else { break };
            let partition = topic.partition(u32::try_from(offered % 16).unwrap_or_default());
            let items = [Item::Record { partition, record: Record::opaque(&event) }];
            let append = Append { conditions: &[], items: &items };
            let was_due = began + due_after(offered);
            burst.push((was_due, log.append(permit, epoch, append)));
            offered += 1;
        }
        if bursts.blocking_send(burst).is_err() || now >= until {
            return Ok(());
        }
        thread::park_timeout(TICK);
    }
}
