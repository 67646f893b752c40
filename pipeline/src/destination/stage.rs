//! The stage of a destination and a lane: it hands over what rules send there.
//!
//! Its outputs are records of `undelivered` alone. A batch is handed over while it is begun, in
//! pieces that the destination takes, one after the other; so its offset is committed when all of
//! it was taken or set aside. Partitions run beside each other, up to [`CALLS_AT_ONCE`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tracklog_log::{Log, Pending, Topic};
use tracklog_protocol::event::{EventBuilder, EventView};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::{Offset, Record};

use super::patience::{Ask, Endpoint, EndpointState, between};
use super::undelivered::{self, SetAside};
use super::{DeliveryError, Destination, Limits, LineAt, Lines};
use crate::breaker::Admitted;
use crate::groups::GroupName;
use crate::route::stage::Held;
use crate::route::{DestinationName, Lane, Routes};
use crate::stage::{Counter, Outputs, Poison, SourceBatch, Stage, StageError, Time, Work};

/// A destination is called by so many partitions at once.
const CALLS_AT_ONCE: usize = 4;
/// What one partition has in hand, as events. Their lines are somewhat larger.
const BATCH_BYTES: usize = 256 << 10;
/// What is handed over at once has lines of so many bytes at most, but for one event alone: if all
/// of it is set aside it must fit into one commit, since what does not is handed over again.
const LINES_BYTES: usize = 768 << 10;
/// What a record of `undelivered` has beside its line.
const ASIDE_BYTES: usize = 1 << 10;

/// The group of a destination and a lane.
#[must_use]
pub fn group(destination: &DestinationName, lane: Lane) -> GroupName {
    let name = match lane {
        Lane::Normal => format!("to.{destination}"),
        Lane::High => format!("to.{destination}.high"),
    };
    GroupName::new(&name).expect("a destination's name is short and has a group's characters")
}

/// What a destination has done.
#[derive(Debug, Default)]
pub struct DestinationCounters {
    /// Events that it took.
    pub delivered: Counter,
    /// Events that were set aside.
    pub undelivered: Counter,
    /// Calls that failed, and were or are made again.
    pub retried: Counter,
}

/// Whether a destination is paused.
#[derive(Debug)]
pub struct Hold(watch::Sender<bool>);

impl Hold {
    /// One that is paused or not.
    #[must_use]
    pub fn new(is_paused: bool) -> Self {
        Self(watch::Sender::new(is_paused))
    }

    /// Pauses it, or lets it go on.
    pub fn set(&self, is_paused: bool) {
        self.0.send_replace(is_paused);
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is not.
    async fn is_over(&self) {
        let mut told = self.0.subscribe();
        told.wait_for(|is_paused| !is_paused).await.expect("the sender is at hand");
    }
}

/// The stage. Everything but the lane is shared with that of the other lane.
pub struct DeliverStage<L: ?Sized> {
    name: GroupName,
    lane: Lane,
    shared: Arc<Delivering<L>>,
}

/// What the stages of a destination share.
pub struct Delivering<L: ?Sized> {
    /// Its name.
    pub name: DestinationName,
    /// Itself.
    pub destination: Arc<dyn Destination>,
    /// Who sends events there.
    pub routes: Arc<Routes<L>>,
    /// Where what it does not take goes.
    pub undelivered: Topic,
    /// What is known of time.
    pub time: Arc<dyn Time>,
    /// How it fares.
    pub endpoint: Endpoint,
    /// Whether it is paused.
    pub hold: Arc<Hold>,
    /// What it has done.
    pub counters: DestinationCounters,
    calls: Semaphore,
}

impl<L: Log + ?Sized> Delivering<L> {
    /// A destination that is taken to be well; `hold` says whether it is paused.
    #[must_use]
    pub fn new(
        name: DestinationName,
        destination: Arc<dyn Destination>,
        routes: Arc<Routes<L>>,
        undelivered: Topic,
        time: Arc<dyn Time>,
        hold: Arc<Hold>,
    ) -> Self {
        Self {
            name,
            destination,
            routes,
            undelivered,
            time,
            endpoint: Endpoint::default(),
            hold,
            counters: DestinationCounters::default(),
            calls: Semaphore::new(CALLS_AT_ONCE),
        }
    }

    /// Hands `lines` over, or sets them aside: in pieces, in order.
    pub(super) async fn deliver(&self, lines: Lines<'_>, limits: Limits) -> Vec<Aside> {
        let mut asides = Vec::new();
        let mut rest = lines;
        while !rest.is_empty() {
            let (piece, behind) = rest.split(piece_len(rest, limits));
            self.deliver_piece(piece, limits, &mut asides).await;
            rest = behind;
        }
        asides
    }

    /// A piece that is refused is halved until what is refused is one event.
    async fn deliver_piece(&self, piece: Lines<'_>, limits: Limits, asides: &mut Vec<Aside>) {
        let mut pieces = VecDeque::from([piece]);
        while let Some(piece) = pieces.pop_front() {
            match self.call(piece, limits).await {
                Ok(()) => self.counters.delivered.add(piece.len() as u64),
                Err(Given::Up { why }) => {
                    let set_aside = |(offset, _)| Aside { offset, why: why.clone() };
                    asides.extend(piece.iter().map(set_aside));
                }
                Err(Given::Refused { why }) if piece.len() == 1 => {
                    asides.push(Aside { offset: piece.first(), why });
                }
                Err(Given::Refused { .. }) => {
                    let (one, other) = piece.split(piece.len() / 2);
                    pieces.push_front(other);
                    pieces.push_front(one);
                }
            }
        }
    }

    /// Calls until it takes the piece, refuses it, or was tried for long enough.
    async fn call(&self, piece: Lines<'_>, limits: Limits) -> Result<(), Given> {
        let caller = u64::from(piece.source.partition);
        let (mut began, mut attempt) = (self.time.now(), 0);
        loop {
            if self.hold.is_paused() {
                self.hold.is_over().await;
                began = self.time.now();
            }
            let permit = self.calls.acquire().await.expect("it is never closed");
            if self.hold.is_paused() {
                continue;
            }
            // Asked by who has a place to call from: what he is told holds when he calls.
            let pause = match self.endpoint.ask(caller, self.time.now()) {
                Ask::Wait(pause) => pause,
                Ask::Call(admitted) => {
                    attempt += 1;
                    let (told, admitted) = self.call_once(piece, admitted).await;
                    match told {
                        Ok(()) => return Ok(()),
                        Err(DeliveryError::Refused { why }) => return Err(Given::Refused { why }),
                        Err(DeliveryError::Later { why, after }) => {
                            let now = self.time.now();
                            let pause = self.failed(admitted, caller, attempt, &why, after);
                            if limits.give_up_after.is_some_and(|it| between(began, now) >= it) {
                                let why = format!("{why} (tried {attempt} times)");
                                return Err(Given::Up { why });
                            }
                            self.counters.retried.add(1);
                            pause
                        }
                    }
                }
            };
            drop(permit);
            self.time.pause(pause).await;
        }
    }

    /// One call, and what the endpoint is to know of it, also when this is dropped meanwhile. Who
    /// is told to call later has still to say so.
    async fn call_once(
        &self,
        piece: Lines<'_>,
        admitted: Admitted,
    ) -> (Result<(), DeliveryError>, Admitted) {
        let calling = Calling(Some((&self.endpoint, admitted)));
        let told = self.destination.deliver(piece).await;
        let (endpoint, admitted) = calling.end();
        // What refuses answers: it is well.
        if !matches!(told, Err(DeliveryError::Later { .. })) && endpoint.succeeded(admitted) {
            tracing::info!(destination = %self.name, "takes events again");
        }
        (told, admitted)
    }

    fn failed(
        &self,
        admitted: Admitted,
        caller: u64,
        attempt: u32,
        why: &str,
        after: Option<std::time::Duration>,
    ) -> std::time::Duration {
        if self.endpoint.state() == EndpointState::Well {
            tracing::warn!(destination = %self.name, why, "does not take events; tried again");
        }
        self.endpoint.failed(admitted, caller, attempt, why, after, self.time.now())
    }
}

/// Somebody is calling.
struct Calling<'e>(Option<(&'e Endpoint, Admitted)>);

impl<'e> Calling<'e> {
    fn end(mut self) -> (&'e Endpoint, Admitted) {
        self.0.take().expect("it ends once")
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        if let Some((endpoint, admitted)) = self.0 {
            endpoint.gave_up(admitted);
        }
    }
}

/// Why a piece was not handed over.
enum Given {
    /// It was tried for too long.
    Up { why: String },
    /// It is not wanted.
    Refused { why: String },
}

/// An event that was not handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Aside {
    pub(super) offset: Offset,
    pub(super) why: String,
}

/// How many of `lines` make a piece: one at least.
fn piece_len(lines: Lines<'_>, limits: Limits) -> usize {
    let mut bytes = 0;
    let fits = |line: &LineAt| {
        bytes += line.at.len();
        bytes <= limits.bytes_max
    };
    let fitting = lines.lines.iter().map(fits).take_while(|fits| *fits).count();
    fitting.clamp(1, limits.events_max.max(1))
}

impl Lines<'_> {
    fn split(self, at: usize) -> (Self, Self) {
        let (one, other) = self.lines.split_at(at);
        (Self { lines: one, ..self }, Self { lines: other, ..self })
    }
}

impl<L: Log + ?Sized> DeliverStage<L> {
    /// The stage that serves `lane`.
    #[must_use]
    pub fn new(shared: Arc<Delivering<L>>, lane: Lane) -> Self {
        Self { name: group(&shared.name, lane), lane, shared }
    }

    /// The lines of what goes there of `batch`, and how far those are all.
    async fn lines(&self, batch: &SourceBatch) -> (Vec<u8>, Vec<LineAt>, Offset) {
        let routes = &self.shared.routes;
        let history = routes.history().await;
        let (mut text, mut lines) = (Vec::new(), Vec::new());
        let (mut held, mut builder) = (Held::default(), EventBuilder::new());
        let topic = routes.source().name();
        for (offset, appended_at, record) in batch.timed_records() {
            if text.len() + lines.len() * ASIDE_BYTES >= LINES_BYTES {
                return (text, lines, offset);
            }
            let Some(event) = EventView::of(record) else { continue };
            let version = held.at(&history, batch, offset);
            let version = version.filter(|it| it.is_handed_to(&self.shared.name));
            let taken = version.and_then(|it| it.table.taken(&event, &self.shared.name));
            let Some(taken) = taken.filter(|taken| taken.lane() == self.lane) else { continue };
            let start = text.len();
            let at = LinePlace { topic, partition: batch.source.partition, offset, appended_at };
            write_line(&mut text, at, taken.projected(&event, record, &mut builder));
            lines.push(LineAt { offset, at: start..text.len() });
        }
        (text, lines, batch.next)
    }

    async fn begin_work<'a>(&'a self, batch: &'a SourceBatch) -> DeliverWork<'a, L> {
        let (text, at, until) = self.lines(batch).await;
        let lines = Lines { lane: self.lane, source: batch.source, text: &text, lines: &at };
        let asides = self.shared.deliver(lines, self.shared.destination.limits()).await;
        let (asides, buffer) = (asides.into(), Vec::new());
        DeliverWork { stage: self, batch, until, text, at, asides, buffer }
    }
}

impl<L: Log + ?Sized> Stage for DeliverStage<L> {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn batch_bytes_max(&self) -> usize {
        BATCH_BYTES
    }

    fn stored(&self, outputs: &Outputs) {
        let undelivered = self.shared.undelivered.id;
        let count = outputs.iter().filter(|it| it.to.topic == undelivered).count();
        self.shared.counters.undelivered.add(count as u64);
    }

    fn begin<'a>(
        &'a self,
        batch: &'a SourceBatch,
    ) -> Pending<'a, Result<Box<dyn Work + 'a>, StageError>> {
        Box::pin(async move {
            let work = self.begin_work(batch).await;
            Ok(Box::new(work) as Box<dyn Work + 'a>)
        })
    }
}

/// A batch that was handed over, but for some.
struct DeliverWork<'a, L: ?Sized> {
    stage: &'a DeliverStage<L>,
    batch: &'a SourceBatch,
    /// What lies behind is handed over later.
    until: Offset,
    text: Vec<u8>,
    at: Vec<LineAt>,
    /// In order.
    asides: VecDeque<Aside>,
    buffer: Vec<u8>,
}

impl<L: Log + ?Sized> Work for DeliverWork<'_, L> {
    fn until(&self) -> Offset {
        self.until
    }

    fn record(
        &mut self,
        offset: Offset,
        record: Record<'_>,
        outputs: &mut Outputs,
    ) -> Result<(), Poison> {
        let event = Poison::unless_event(record)?;
        let Some(aside) = self.asides.pop_front_if(|aside| aside.offset == offset) else {
            return Ok(());
        };
        let shared = &self.stage.shared;
        let line = self.at.binary_search_by_key(&offset, |line| line.offset);
        let line = line.expect("what was set aside had a line");
        let aside = SetAside {
            destination: &shared.name,
            lane: self.stage.lane,
            why: &aside.why,
            at: shared.time.now(),
            topic: shared.routes.source().name(),
            partition: self.batch.source,
            offset,
            line: &self.text[self.at[line].at.clone()],
        };
        let to = shared.undelivered.partition_for(event.partition_key().as_bytes());
        outputs.push(to, undelivered::write(&aside, &mut self.buffer));
        Ok(())
    }
}

impl<L: ?Sized> fmt::Debug for DeliverStage<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliverStage").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<L: ?Sized> fmt::Debug for Delivering<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivering").field("name", &self.name).finish_non_exhaustive()
    }
}
