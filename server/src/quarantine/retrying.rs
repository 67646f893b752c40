//! Rejected events, tried again.
//!
//! 1. A page's worth of `rejected` is read; what is stored already, or does not match, is left out.
//! 2. What the gateway rejected is judged on a thread that may take its time; what a stage rejected
//!    is read where it lies, and given to the stage.
//! 3. What is good now, and the page with all outcomes, are one commit, on the condition that the
//!    page is as it was read. Where the log knows an id already (a client may have sent the event
//!    again meanwhile), its events are looked at one by one: the same event is not stored again.
//!
//! One at a time, so that retries cost the memory of one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};
use tracklog_ingest_gateway::intake::kept::Kept;
use tracklog_ingest_gateway::{JudgedRows, RowDesk};
use tracklog_log::dedupe::{self, Outcomes as Known, VerdictKind, has_same_content, has_same_id};
use tracklog_log::meta::MetaError;
use tracklog_log::{
    Append, AppendError, Condition, Epoch, FetchError, Item, Lane, Log, Stored, Topic,
};
use tracklog_pipeline::stage::{self, Counter, Outputs, SourceBatch, Stage};
use tracklog_protocol::event::{EventBuilder, EventFlags, EventView};
use tracklog_protocol::rejected::RejectedView;
use tracklog_protocol::{BatchView, Offset, PartitionId, Record};

use super::listing::{Chunk, READ_BYTES_MAX, Walk};
use super::outcomes::{NearPlace, Outcome, Page};
use super::{
    FINAL, Filter, Place, QuarantineError, Reason, RejectedEvent, Rejections, State, StoredAt,
    id_bytes, stored,
};
use crate::blocking;

/// A piece ends once it has so many events.
const TRIED_MAX: usize = 256;
/// Events of one commit: small ones beside it do not wait longer for it than for a usual one.
const COMMIT_BYTES: usize = 256 << 10;
/// The code of what a stage makes nothing of.
const NO_OUTPUT: &str = "no_output";
/// The code of what has no source any more.
const NO_SOURCE: &str = "no_source";

/// Finds a stage that runs on the node, by its name.
pub type StageOf = Box<dyn Fn(&str) -> Option<Arc<dyn Stage>> + Send + Sync>;

/// What became of a piece of `rejected`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// Events that match and were not stored before, as they are now.
    pub records: Vec<RejectedEvent>,
    /// Events that match and were stored by an earlier retry.
    pub already: u64,
    /// Records that could not be read.
    #[serde(default)]
    pub damaged: u64,
    /// Where the next piece begins; `None` at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Retries of a node.
pub struct Retries {
    of: Rejections,
    epoch: Epoch,
    desk: RowDesk,
    stage_of: StageOf,
    turn: Mutex<()>,
    is_held: AtomicBool,
    counters: RetryCounters,
}

/// Nothing is tried again until it is dropped.
pub(crate) struct Held<'r> {
    retries: &'r Retries,
    _turn: MutexGuard<'r, ()>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.retries.is_held.store(false, Ordering::Release);
    }
}

/// What retries have done since the node began.
#[derive(Debug, Default)]
pub(crate) struct RetryCounters {
    /// Events that were stored.
    pub(crate) stored: Counter,
    /// Events that were rejected again.
    pub(crate) failing: Counter,
}

/// What is to be done with an event.
enum Verdict {
    /// The gateway takes it.
    Taken(JudgedRows),
    /// A stage takes it.
    Made(Outputs),
    /// It is rejected again.
    Failing(Reason),
}

/// How like two events are.
enum Alike {
    /// They are the same.
    Same,
    /// They have the same id.
    Id,
    /// They are others.
    No,
}

impl Verdict {
    /// Records that come of it, and where they go.
    fn items(&self) -> Vec<Item<'_>> {
        match self {
            Self::Taken(judged) => judged.iter().map(|it| judged.item(&it)).collect(),
            Self::Made(outputs) => {
                let items = outputs.iter();
                items.map(|it| Item::Record { partition: it.to, record: it.record }).collect()
            }
            Self::Failing(_) => Vec::new(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Taken(judged) => judged.iter().map(|it| JudgedRows::bytes_of(&it)).sum(),
            Self::Made(outputs) => outputs.byte_count(),
            Self::Failing(_) => 0,
        }
    }
}

impl Retries {
    /// Opens them for the writer that holds `epoch`.
    ///
    /// # Errors
    /// [`MetaError`] when the topic of outcomes can't be made, read or written.
    pub async fn open(
        log: Arc<dyn Log>,
        epoch: Epoch,
        rejected: Topic,
        desk: RowDesk,
        stage_of: StageOf,
    ) -> Result<Self, MetaError> {
        let of = Rejections::open(log, epoch, rejected).await?;
        let (turn, is_held) = (Mutex::default(), AtomicBool::default());
        let counters = RetryCounters::default();
        Ok(Self { of, epoch, desk, stage_of, turn, is_held, counters })
    }

    /// Waits for who tries something now, and refuses whoever comes until what is returned is dropped.
    pub(crate) async fn hold(&self) -> Held<'_> {
        let turn = self.turn.lock().await;
        self.is_held.store(true, Ordering::Release);
        Held { retries: self, _turn: turn }
    }

    /// What is rejected.
    #[must_use]
    pub const fn rejections(&self) -> &Rejections {
        &self.of
    }

    pub(crate) const fn counters(&self) -> &RetryCounters {
        &self.counters
    }

    /// Tries the events from `after` on that match, as many as one piece holds.
    ///
    /// # Errors
    /// [`QuarantineError`]. What was tried before it is done, and known.
    pub async fn retry(
        &self,
        filter: &Filter,
        after: Option<Place>,
    ) -> Result<Retried, QuarantineError> {
        if self.is_held.load(Ordering::Acquire) {
            return Err(QuarantineError::Held);
        }
        let _turn = self.turn.lock().await;
        self.of.outcomes.refresh().await?;
        let mut walk = Walk::new(&self.of, filter, after);
        let mut retried = Retried { records: Vec::new(), already: 0, damaged: 0, next: None };
        while retried.records.len() < TRIED_MAX
            && walk.read_bytes < READ_BYTES_MAX
            && let Some(chunk) = walk.next().await?
        {
            self.chunk(Arc::new(chunk), filter, &mut retried).await?;
        }
        self.of.outcomes.rewrite(&*self.of.log, &self.of.rejected).await?;
        retried.damaged = walk.damaged;
        retried.next = walk.at().map(|at| at.to_string());
        Ok(retried)
    }

    async fn chunk(
        &self,
        chunk: Arc<Chunk>,
        filter: &Filter,
        retried: &mut Retried,
    ) -> Result<(), QuarantineError> {
        let mut page = self.of.outcomes.page(chunk.page())?;
        let (mut of_gateway, mut of_stages) = (Vec::new(), Vec::new());
        for (place, rejected) in chunk.records() {
            let told = self.of.told(place, &rejected, page.outcome(place.offset));
            match told.state {
                _ if !filter.takes(&told) => {}
                State::Retried => retried.already += 1,
                State::Final => retried.records.push(told),
                State::Waiting | State::Failing if told.stage.is_some() => of_stages.push(told),
                State::Waiting | State::Failing => of_gateway.push(told),
            }
        }
        let judged = self.judge(&chunk, &of_gateway).await;
        let mut rest = of_gateway.into_iter().zip(judged).collect::<Vec<_>>();
        while !rest.is_empty() {
            let behind = rest.split_off(commit_len(&rest));
            self.commit(&mut page, rest, retried).await?;
            rest = behind;
        }
        for told in of_stages {
            self.through_stage(&chunk, told, &mut page, retried).await?;
        }
        Ok(())
    }

    /// What the gateway makes of events of `chunk` now.
    async fn judge(&self, chunk: &Arc<Chunk>, events: &[RejectedEvent]) -> Vec<Verdict> {
        let (desk, chunk) = (self.desk.clone(), Arc::clone(chunk));
        let wanted: Vec<_> = events.iter().map(RejectedEvent::place).collect();
        blocking::run(move || {
            let mut wanted = wanted.into_iter().peekable();
            let records = chunk.records().filter(|(place, _)| wanted.next_if_eq(place).is_some());
            records.map(|(place, rejected)| judge(&desk, place, rejected)).collect()
        })
        .await
    }

    async fn through_stage(
        &self,
        chunk: &Chunk,
        told: RejectedEvent,
        page: &mut Page,
        retried: &mut Retried,
    ) -> Result<(), QuarantineError> {
        let place = told.place();
        let (_, rejected) = chunk
            .records()
            .find(|(at, _)| *at == place)
            .expect("what was told of is a record of the chunk");
        let name = rejected.stage().expect("a stage rejected it");
        let final_now = |message: String| {
            let still = Some(Reason { code: FINAL.to_owned(), pointer: None, message });
            RejectedEvent { state: State::Final, still, ..told.clone() }
        };
        let Some(stage) = (self.stage_of)(name) else {
            let why = format!("no stage {name} runs here that could take it");
            retried.records.push(final_now(why));
            return Ok(());
        };
        let Some(batch) = self.source(&rejected).await? else {
            let why = "the record that the stage rejected is gone".to_owned();
            retried.records.push(final_now(why));
            return Ok(());
        };
        let failing = |code: &str, message: String| {
            Verdict::Failing(Reason { code: code.to_owned(), pointer: None, message })
        };
        let verdict = match stage::once(&*stage, &batch).await {
            Err(error) => {
                let (stage, why) = (name.to_owned(), error.reason);
                return Err(QuarantineError::Stage { stage, why });
            }
            Ok(Err(poison)) => failing(rejected.code(), poison.reason),
            Ok(Ok(outputs)) if outputs.is_empty() => {
                failing(NO_OUTPUT, format!("the stage {name} makes nothing of it now"))
            }
            Ok(Ok(outputs)) => Verdict::Made(outputs),
        };
        self.commit(page, vec![(told, verdict)], retried).await
    }

    /// The record that a stage rejected, where it lies; `None` where it is gone.
    async fn source(
        &self,
        rejected: &RejectedView<'_>,
    ) -> Result<Option<SourceBatch>, QuarantineError> {
        let Some((topic, partition, offset)) = stored::source_of(rejected) else { return Ok(None) };
        let log = &*self.of.log;
        let topic = log.topic(topic).filter(|topic| partition < topic.spec.partitions);
        let Some(source) = topic.map(|topic| topic.partition(partition)) else { return Ok(None) };
        let extent = log.extent(source);
        if !extent.is_some_and(|extent| (extent.start..extent.end).contains(&offset)) {
            return Ok(None);
        }
        let (batches, _) = stored::read(log, source, offset, 1).await?;
        let batch = SourceBatch { source, from: offset, next: offset.plus(1), batches };
        let is_there = batch.records().next().is_some();
        Ok(is_there.then_some(batch))
    }

    /// Stores what is good of `events`, and what became of all.
    async fn commit(
        &self,
        page: &mut Page,
        events: Vec<(RejectedEvent, Verdict)>,
        retried: &mut Retried,
    ) -> Result<(), QuarantineError> {
        match self.together(page, &events).await {
            Ok(places) => {
                for ((told, verdict), at) in events.into_iter().zip(places) {
                    retried.records.push(self.settled(told, verdict, at));
                }
            }
            // Some may be there, sent again by a client, say.
            Err(QuarantineError::Append(AppendError::Seen(_))) => {
                for event in events {
                    let at = self.alone(page, &event).await?;
                    let (told, verdict) = event;
                    retried.records.push(self.settled(told, verdict, at));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Stores events in one commit; tells where each is.
    async fn together(
        &self,
        page: &mut Page,
        events: &[(RejectedEvent, Verdict)],
    ) -> Result<Vec<Option<dedupe::Verdict>>, QuarantineError> {
        let mut after = page.clone();
        let (mut items, mut firsts, mut is_changed) = (Vec::new(), Vec::new(), false);
        for (told, verdict) in events {
            let first = items.len();
            items.extend(verdict.items());
            let outcome = match (verdict, items.get(first)) {
                (Verdict::Failing(reason), _) => Outcome::Failing(reason.clone()),
                (_, Some(first)) => Outcome::Stored(self.behind_all_in(first.partition())),
                (_, None) => unreachable!("what is taken has a record"),
            };
            is_changed |= after.set(Offset(told.offset), outcome);
            firsts.push((items.len() > first).then_some(first));
        }
        if !is_changed {
            return Ok(vec![None; events.len()]);
        }
        let stored = self.store(page, &after, &items, &[]).await?;
        let at = |first: usize| {
            let (partition, offset) = (items[first].partition(), stored.offset(first));
            dedupe::Verdict { partition, offset, kind: VerdictKind::Stored }
        };
        Ok(firsts.into_iter().map(|first| first.map(at)).collect())
    }

    /// Stores one event unless it is there; tells where it is. Another event of the same id is none
    /// of its business: it is stored beside it, and marked, as one that a client sends would be.
    async fn alone(
        &self,
        page: &mut Page,
        event: &(RejectedEvent, Verdict),
    ) -> Result<Option<dedupe::Verdict>, QuarantineError> {
        let (told, verdict) = event;
        let Some(Item::Record { partition, record }) = verdict.items().first().copied() else {
            return Ok(self.together(page, std::slice::from_ref(event)).await?.remove(0));
        };
        let (mut differs, mut has_reused_id) = (Vec::new(), false);
        loop {
            let mut marked = EventBuilder::new();
            let mut items = verdict.items();
            if let (true, Some(event)) = (has_reused_id, EventView::of(record)) {
                let flags = event.flags() | EventFlags::ID_REUSED;
                items[0] = Item::Record { partition, record: marked.build_flagged(&event, flags) };
            }
            let mut after = page.clone();
            after.set(Offset(told.offset), Outcome::Stored(self.behind_all_in(partition)));
            let seen = match self.store(page, &after, &items, &differs).await {
                Ok(stored) => {
                    let kind =
                        if has_reused_id { VerdictKind::Reused } else { VerdictKind::Stored };
                    let offset = stored.offset(0);
                    return Ok(Some(dedupe::Verdict { partition, offset, kind }));
                }
                Err(QuarantineError::Append(AppendError::Seen(seen))) => seen,
                Err(error) => return Err(error),
            };
            let known = differs.len();
            for sight in dedupe::sights(&*self.of.log, &items, &seen).await? {
                for (partition, offset) in sight.places {
                    match self.look_at(partition, offset, record).await? {
                        Alike::Same => return self.found(page, told, partition, offset).await,
                        Alike::Id => has_reused_id = true,
                        Alike::No => {}
                    }
                    differs.push(Condition::Differs { item: 0, partition, offset });
                }
                let looked = |through| Condition::Looked { item: 0, through };
                differs.extend(sight.through.map(looked));
            }
            if differs.len() == known {
                return Err(QuarantineError::Moved);
            }
        }
    }

    /// Notes that an event is stored at a place already; tells the place.
    async fn found(
        &self,
        page: &mut Page,
        told: &RejectedEvent,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Option<dedupe::Verdict>, QuarantineError> {
        let topic = self.topic_name(partition);
        let near = NearPlace { topic, partition: partition.partition, from };
        let mut after = page.clone();
        after.set(Offset(told.offset), Outcome::Stored(near));
        self.store(page, &after, &[], &[]).await?;
        let kind = VerdictKind::Duplicate;
        Ok(Some(dedupe::Verdict { partition, offset: from, kind }))
    }

    /// How the event at a place is like `record`.
    async fn look_at(
        &self,
        partition: PartitionId,
        offset: Offset,
        record: Record<'_>,
    ) -> Result<Alike, QuarantineError> {
        let read = stored::read(&*self.of.log, partition, offset, 1).await;
        let batches = match read {
            Ok((batches, _)) => batches,
            Err(FetchError::OutOfRange { .. }) => return Ok(Alike::No),
            Err(error) => return Err(error.into()),
        };
        let mut records = batches.iter().flat_map(BatchView::records);
        let found = records.find(|(at, _)| *at == offset).map(|(_, record)| record);
        let events = (EventView::of(record), found.and_then(EventView::of));
        let (Some(one), Some(other)) = events else { return Ok(Alike::No) };
        Ok(match has_same_id(&one, &other) {
            true if has_same_content(&one, &other) => Alike::Same,
            true => Alike::Id,
            false => Alike::No,
        })
    }

    /// Stores `items` and what `after` says, if the page is still as it was. `page` is what it is
    /// then.
    async fn store(
        &self,
        page: &mut Page,
        after: &Page,
        items: &[Item<'_>],
        differs: &[Condition],
    ) -> Result<Stored, QuarantineError> {
        let partition = self.of.outcomes.partition();
        let mut buffer = Vec::new();
        let record = after.record(&mut buffer);
        let all = [items, &[Item::Record { partition, record }]].concat();
        let conditions = [&[page.condition(partition)], differs].concat();
        let bytes = |item: &Item<'_>| match item {
            Item::Record { record, .. } => record.bytes().len(),
            Item::Batch { batch, .. } => batch.view().bytes().len(),
        };
        let permit = self.of.log.reserve(Lane::REPLAY, all.iter().map(bytes).sum())?;
        let append = Append { conditions: &conditions, items: &all };
        let stored = self.of.log.append(permit, self.epoch, append).await;
        self.of.outcomes.refresh().await?;
        *page = self.of.outcomes.page(page.key())?;
        Ok(stored?)
    }

    /// The event as it is now, which is counted.
    fn settled(
        &self,
        told: RejectedEvent,
        verdict: Verdict,
        stored: Option<dedupe::Verdict>,
    ) -> RejectedEvent {
        if let Verdict::Failing(reason) = verdict {
            self.counters.failing.add(1);
            return RejectedEvent { state: State::Failing, still: Some(reason), ..told };
        }
        self.counters.stored.add(1);
        if let Verdict::Taken(judged) = &verdict {
            let verdicts = stored.into_iter().collect();
            judged.count(judged.iter(), &Known { verdicts, collisions: 0 });
        }
        let stored = stored.map(|it| self.stored_at(it.partition, it.offset));
        RejectedEvent { state: State::Retried, stored, still: None, ..told }
    }

    /// Where the next record of `partition` will lie, or behind.
    fn behind_all_in(&self, partition: PartitionId) -> NearPlace {
        let extent = self.of.log.extent(partition);
        let from = extent.map_or(Offset::ZERO, |extent| extent.end);
        NearPlace { topic: self.topic_name(partition), partition: partition.partition, from }
    }

    fn stored_at(&self, at: PartitionId, offset: Offset) -> StoredAt {
        let topic = self.topic_name(at);
        StoredAt { topic, partition: at.partition, offset: Some(offset.0) }
    }

    fn topic_name(&self, at: PartitionId) -> String {
        let topics = self.of.log.topics();
        let topic = topics.iter().find(|topic| topic.id == at.topic);
        topic.map_or_else(String::new, |topic| topic.name().to_owned())
    }
}

fn judge(desk: &RowDesk, place: Place, rejected: RejectedView<'_>) -> Verdict {
    let failing = |code: &str, pointer: Option<&str>, message: String| {
        let pointer = pointer.map(str::to_owned);
        Verdict::Failing(Reason { code: code.to_owned(), pointer, message })
    };
    let kept = match Kept::of(rejected) {
        Ok(kept) => kept,
        Err(error) => return failing(FINAL, None, error.to_string()),
    };
    let source = rejected.source().unwrap_or_default();
    let make_id = &mut |id: &mut [u8; 16]| *id = id_bytes(place);
    let judged = match desk.judge_kept(source, &kept, make_id) {
        Ok(judged) => judged,
        Err(error) => return failing(NO_SOURCE, None, error.to_string()),
    };
    let again = judged.iter().find_map(|judgement| judgement.rejected()).map(|rejected| {
        failing(rejected.code(), rejected.pointer(), rejected.message().to_owned())
    });
    again.unwrap_or(Verdict::Taken(judged))
}

/// How many of `events` one commit holds.
fn commit_len(events: &[(RejectedEvent, Verdict)]) -> usize {
    let mut bytes = 0;
    let fits = |(_, verdict): &&(RejectedEvent, Verdict)| {
        bytes += verdict.bytes();
        bytes <= COMMIT_BYTES
    };
    events.iter().take_while(fits).count().max(1)
}

impl fmt::Debug for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retries").field("counters", &self.counters).finish_non_exhaustive()
    }
}
