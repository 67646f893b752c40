//! Retries over the log in memory, which loses acks and refuses appends when it is told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tracklog_ingest_gateway::source::SourceRules;
use tracklog_ingest_gateway::{
    AdminToken, Backing, Gateway, GatewayConfig, NoDoor, Running, Source, Topics,
};
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::meta::MetaTopic;
use tracklog_log::{
    Append, Dedupe, Domain, Epoch, Item, Lane, Log, Meta, Pending, Retention, Topic, TopicName,
    TopicSpec, dedupe,
};
use tracklog_pipeline::stage::{Outputs, Poison, SourceBatch, Stage, StageError, Work};
use tracklog_protocol::event::{EventBuilder, EventFlags, EventParts, EventView};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::rejected::{RejectedBuilder, RejectedParts};
use tracklog_protocol::{BatchView, Record, TimeMicros};
use tracklog_registry::{Limits, Registry};

use super::*;

const STRICT: &str = r#"{"type":"object","properties":{"total":{"type":"number"}}}"#;
const MENDED: &str = r#"{"type":"object"}"#;

/// A stage that copies events from `raw` to `enriched`, unless it is broken.
struct Copying {
    log: Arc<MemoryLog>,
    is_broken: Arc<AtomicBool>,
}

impl Stage for Copying {
    fn name(&self) -> &str {
        "copy"
    }

    fn begin<'a>(
        &'a self,
        _: &'a SourceBatch,
    ) -> Pending<'a, Result<Box<dyn Work + 'a>, StageError>> {
        Box::pin(async move { Ok(Box::new(self) as Box<dyn Work>) })
    }
}

impl Work for &Copying {
    fn record(
        &mut self,
        _: Offset,
        record: Record<'_>,
        outputs: &mut Outputs,
    ) -> Result<(), Poison> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(Poison { reason: "it is broken".to_owned() });
        }
        let to = self.log.topic("enriched").unwrap();
        outputs.push(to.partition(1), record);
        Ok(())
    }
}

struct Rig {
    log: Arc<MemoryLog>,
    epoch: Epoch,
    registry: Arc<Registry>,
    running: Running,
    is_broken: Arc<AtomicBool>,
    retries: Retries,
}

impl Rig {
    async fn new() -> Self {
        let log = MemoryLog::new(MemoryOptions {
            clock: Arc::new(|| TimeMicros(7)),
            budget_bytes: 64 << 20,
        });
        let topic_of_events = TopicName::new("raw").unwrap();
        let log = log.deduplicating(&[Dedupe { topic: topic_of_events, window: dedupe::WINDOW }]);
        let log = Arc::new(log);
        let epoch = log.open(Domain::WHOLE).await.unwrap();
        let dynamic = Arc::clone(&log) as Arc<dyn Log>;
        let name = TopicName::new("_schemas").unwrap();
        let meta = MetaTopic::open(Arc::clone(&dynamic), epoch, name).await.unwrap();
        let registry = Registry::open(Arc::new(meta) as Arc<dyn Meta>, Limits::default()).await;
        let registry = Arc::new(registry.unwrap());
        let (raw, rejected) = (topic(&log, "raw", 4).await, topic(&log, "rejected", 2).await);
        topic(&log, "enriched", 4).await;
        let sources = vec![Source::new("k", SourceRules::named("shop"))];
        let config = GatewayConfig::new(sources, AdminToken::new("t").unwrap());
        let topics = Topics { raw, rejected };
        let backing = Backing { log: dynamic, epoch, topics, registry: Arc::clone(&registry) };
        let bound = Gateway::bind(&[]).unwrap();
        let running = Gateway::start(config, bound, backing, Arc::new(NoDoor)).await.unwrap();
        let is_broken = Arc::new(AtomicBool::new(false));
        let retries = retries(&log, epoch, &running, &is_broken).await;
        Self { log, epoch, registry, running, is_broken, retries }
    }

    /// As after a crash: what was in memory is gone.
    async fn reopen(&mut self) {
        self.retries = retries(&self.log, self.epoch, &self.running, &self.is_broken).await;
    }

    async fn schema(&self, text: &'static str) {
        self.registry.put("Paid", text.into()).await.unwrap();
    }

    /// Stores `record`, whatever the log was told to do with the next append.
    async fn append(&self, topic: &str, partition: u32, record: Record<'_>) -> Offset {
        let partition = self.log.topic(topic).unwrap().partition(partition);
        loop {
            let permit = self.log.reserve(Lane::FIRST_SOURCE, record.bytes().len()).unwrap();
            let items = [Item::Record { partition, record }];
            let append = Append { conditions: &[], items: &items };
            match self.log.append(permit, self.epoch, append).await {
                Ok(stored) => return stored.offset(0),
                Err(AppendError::Unknown { .. }) => {
                    return Offset(self.log.extent(partition).unwrap().end.0 - 1);
                }
                Err(_) => {}
            }
        }
    }

    async fn reject(&self, partition: u32, id: Option<&str>, total: &str) -> Place {
        let id_field = id.map_or_else(String::new, |id| format!("\"messageId\":\"{id}\","));
        let body = format!(
            r#"{{{id_field}"type":"track","event":"Paid","userId":"u","properties":{{"total":{total}}}}}"#
        );
        let mut builder = RejectedBuilder::new();
        let record = builder.build(&RejectedParts {
            code: "schema",
            message: "is no number",
            source: Some("shop"),
            received_time: TimeMicros(5),
            body: body.as_bytes(),
            message_id: id,
            name: Some("Paid"),
            read_as: Some("batch"),
            ..RejectedParts::default()
        });
        Place { partition, offset: self.append("rejected", partition, record).await }
    }

    /// Tries all of it; false where a piece failed, which is forgiven.
    async fn retry(&self, filter: &Filter) -> bool {
        let mut after = None;
        loop {
            match self.retries.retry(filter, after).await {
                Ok(Retried { next: Some(next), .. }) => after = Some(next.parse().unwrap()),
                Ok(Retried { next: None, .. }) => return true,
                Err(_) => return false,
            }
        }
    }

    async fn list(&self, limit: usize) -> Vec<RejectedEvent> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let filter = Filter::default();
            let listed = self.retries.rejections().list(&filter, after, Some(limit)).await.unwrap();
            assert!(listed.records.len() <= limit);
            all.extend(listed.records);
            match listed.next {
                Some(next) => after = Some(next.parse().unwrap()),
                None => return all,
            }
        }
    }

    /// Where each event of a topic lies, by its id. None is there twice.
    async fn stored(&self, name: &str) -> BTreeMap<String, StoredAt> {
        let topic = self.log.topic(name).unwrap();
        let mut places = BTreeMap::new();
        for at in topic.partitions() {
            let mut next = Offset::ZERO;
            while next < self.log.extent(at).unwrap().end {
                let (batches, after) = stored::read(&*self.log, at, next, 1 << 20).await.unwrap();
                for (offset, record) in batches.iter().flat_map(BatchView::records) {
                    let event = EventView::of(record).unwrap();
                    assert_eq!(event.received_time(), TimeMicros(5));
                    let (topic, partition) = (name.to_owned(), at.partition);
                    let place = StoredAt { topic, partition, offset: Some(offset.0) };
                    let before = places.insert(event.message_id().to_owned(), place);
                    assert_eq!(before, None, "{} is stored twice", event.message_id());
                }
                next = after;
            }
        }
        places
    }
}

async fn topic(log: &MemoryLog, name: &str, partitions: u32) -> Topic {
    let name = TopicName::new(name).unwrap();
    log.create_topic(TopicSpec { name, partitions, retention: Retention::Keep }).await.unwrap()
}

async fn retries(
    log: &Arc<MemoryLog>,
    epoch: Epoch,
    running: &Running,
    is_broken: &Arc<AtomicBool>,
) -> Retries {
    let (log_too, is_broken) = (Arc::clone(log), Arc::clone(is_broken));
    let stage_of: StageOf = Box::new(move |name| {
        let (log, is_broken) = (Arc::clone(&log_too), Arc::clone(&is_broken));
        (name == "copy").then(|| Arc::new(Copying { log, is_broken }) as Arc<dyn Stage>)
    });
    let rejected = log.topic("rejected").unwrap();
    let log = Arc::clone(log) as Arc<dyn Log>;
    Retries::open(log, epoch, rejected, running.row_desk(), stage_of).await.unwrap()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// What happens between the first retry and the last.
#[derive(Clone, Copy, Debug)]
enum Step {
    Retry,
    OfCode(&'static str),
    LoseAcks(u8),
    Refuse,
    Reopen,
    Schema(&'static str),
    Reject(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Retry),
        1 => Just(Step::OfCode("schema")),
        1 => Just(Step::OfCode("too_large")),
        2 => (1..4_u8).prop_map(Step::LoseAcks),
        1 => Just(Step::Refuse),
        2 => Just(Step::Reopen),
        1 => Just(Step::Schema(STRICT)),
        2 => Just(Step::Schema(MENDED)),
        1 => (1..20_u8).prop_map(Step::Reject),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Lost acks, refusals, crashes and changes of the schema in any order: in the end each event is
    /// stored once, under its own id, and the list says where.
    #[test]
    fn each_rejected_event_is_stored_once_whatever_happens(
        first in 1..700_usize,
        steps in vec(step(), 0..24),
        limit in 1..400_usize,
    ) {
        runtime().block_on(async {
            let mut rig = Rig::new().await;
            rig.schema(STRICT).await;
            let mut rejected = BTreeMap::new();
            for _ in 0..first {
                more(&rig, &mut rejected).await;
            }
            for step in steps {
                match step {
                    Step::Retry => drop(rig.retry(&Filter::default()).await),
                    Step::OfCode(code) => {
                        let code = Some(code.to_owned());
                        rig.retry(&Filter { code, ..Filter::default() }).await;
                    }
                    Step::LoseAcks(count) => (0..count).for_each(|_| rig.log.lose_next_ack("lost")),
                    Step::Refuse => rig.log.fail_next(AppendError::Full { why: "full".into() }),
                    Step::Reopen => rig.reopen().await,
                    Step::Schema(text) => drop(rig.registry.put("Paid", text.into()).await),
                    Step::Reject(count) => {
                        for _ in 0..count {
                            more(&rig, &mut rejected).await;
                        }
                    }
                }
            }
            while rig.registry.put("Paid", MENDED.into()).await.is_err() {}
            while !rig.retry(&Filter::default()).await {}
            let stored = rig.stored("raw").await;
            let ids: Vec<_> = rejected.values().cloned().collect();
            assert_eq!(stored.len(), ids.len());
            rig.reopen().await;
            let listed = rig.list(limit).await;
            assert_eq!(listed.len(), ids.len());
            for event in listed {
                let id = &rejected[&event.place()];
                assert_eq!((event.state, event.stored.as_ref()), (State::Retried, stored.get(id)));
            }
        });
    }
}

/// One more rejected event. Every fifth comes without an id.
async fn more(rig: &Rig, rejected: &mut BTreeMap<Place, String>) {
    let n = rejected.len();
    let id = format!("m{n}");
    let partition = u32::from(n.is_multiple_of(7));
    let has_id = !n.is_multiple_of(5);
    let place = rig.reject(partition, has_id.then_some(&id), "\"12\"").await;
    rejected.insert(place, if has_id { id } else { made_id(id_bytes(place)) });
}

#[test]
fn what_was_told_of_an_erased_event_goes_and_all_else_is_known_as_before() {
    const WORD: &str = "c4n4ry";
    const OF_NUMBERS: &str =
        r#"{"properties":{"total":{"type":"object","additionalProperties":{"type":"number"}}}}"#;
    runtime().block_on(async {
        let mut rig = Rig::new().await;
        let log = Arc::clone(&rig.log) as Arc<dyn Log>;
        forget_erased(&log, rig.epoch).await.unwrap();
        rig.schema(OF_NUMBERS).await;
        let mut rejected = BTreeMap::new();
        more(&rig, &mut rejected).await;
        let named = format!(r#"{{{WORD:?}:"none"}}"#);
        let doomed = rig.reject(1, Some("doomed"), &named).await;
        assert!(rig.retry(&Filter::default()).await);
        more(&rig, &mut rejected).await;
        assert!(rig.retry(&Filter::default()).await);
        let quoting = || async {
            let mut found = 0;
            let pages = log.topic(TOPIC).unwrap().partition(0);
            crate::reading::each_record(&*log, pages, Offset(0)..Offset(99), |_, record| {
                found += usize::from(String::from_utf8_lossy(record.bytes()).contains(WORD));
            })
            .await
            .unwrap();
            found
        };
        assert!(quoting().await > 0, "reasons name the member that they refuse");
        let partition = rig.log.topic("rejected").unwrap().partition(doomed.partition);
        rig.log.erase(vec![tracklog_log::Erase::one(partition, doomed.offset)]).await.unwrap();
        for _ in 0..2 {
            forget_erased(&log, rig.epoch).await.unwrap();
            assert_eq!(quoting().await, 0);
        }
        rig.reopen().await;
        let listed = rig.list(10).await;
        assert_eq!(listed.len(), rejected.len());
        assert!(listed.iter().all(|event| event.state == State::Failing), "{listed:?}");
        rig.schema(MENDED).await;
        assert!(rig.retry(&Filter::default()).await);
        forget_erased(&log, rig.epoch).await.unwrap();
        rig.reopen().await;
        assert!(rig.retry(&Filter::default()).await);
        assert_eq!(rig.stored("raw").await.len(), rejected.len());
    });
}

#[test]
fn what_a_stage_rejected_goes_through_that_stage_once() {
    runtime().block_on(async {
        let rig = Rig::new().await;
        let mut events = EventBuilder::new();
        let event = events.build(&EventParts {
            message_id: "e",
            received_time: TimeMicros(5),
            ..EventParts::default()
        });
        let offset = rig.append("raw", 2, event).await;
        let mut line = Vec::new();
        let at = LinePlace { topic: "raw", partition: 2, offset, appended_at: TimeMicros(7) };
        write_line(&mut line, at, event);
        let mut builder = RejectedBuilder::new();
        for (stage, body) in [("copy", &*line), ("gone", &line), ("copy", b"{\"topic\":1}")] {
            let record = builder.build(&RejectedParts {
                code: "stage_failed",
                stage: Some(stage),
                message_id: Some("e"),
                body,
                ..RejectedParts::default()
            });
            rig.append("rejected", 0, record).await;
        }
        rig.is_broken.store(true, Ordering::Relaxed);
        let tried = rig.retries.retry(&Filter::default(), None).await.unwrap();
        let mut states: Vec<_> = tried.records.iter().map(|event| event.state).collect();
        states.sort_by_key(|state| state.as_str());
        assert_eq!(states, [State::Failing, State::Final, State::Final]);
        rig.is_broken.store(false, Ordering::Relaxed);
        rig.log.lose_next_ack("lost");
        assert!(rig.retries.retry(&Filter::default(), None).await.is_err());
        let tried = rig.retries.retry(&Filter::default(), None).await.unwrap();
        assert_eq!((tried.already, tried.records.len()), (1, 2), "the rest cannot be tried");
        let listed = rig.list(10).await;
        assert_eq!(listed[0].stored.as_ref(), rig.stored("enriched").await.get("e"));
        assert_eq!(rig.stored("raw").await.len(), 1, "it is there already");
    });
}

#[test]
fn what_a_client_sent_again_meanwhile_is_not_stored_again() {
    runtime().block_on(async {
        let rig = Rig::new().await;
        rig.schema(MENDED).await;
        let mut events = EventBuilder::new();
        let reused =
            EventParts { message_id: "reused", source: Some("shop"), ..EventParts::default() };
        let first = rig.append("raw", 3, events.build(&reused)).await;
        for id in ["same", "same", "reused", "alone"] {
            rig.reject(0, Some(id), "\"12\"").await;
        }
        rig.retry(&Filter::default()).await;
        let listed = rig.list(10).await;
        let at = |index: usize| listed[index].stored.clone().unwrap();
        assert_eq!(at(0), at(1), "one event, rejected twice");
        let mut flags = BTreeMap::new();
        for partition in rig.log.topic("raw").unwrap().partitions() {
            let (batches, _) =
                stored::read(&*rig.log, partition, Offset::ZERO, 1 << 20).await.unwrap();
            for (offset, record) in batches.iter().flat_map(BatchView::records) {
                let is_reused =
                    EventView::of(record).unwrap().flags().contains(EventFlags::ID_REUSED);
                flags.insert((partition.partition, offset.0), is_reused);
            }
        }
        let place = |stored: StoredAt| (stored.partition, stored.offset.unwrap());
        let wanted = [((3, first.0), false), (place(at(0)), false), (place(at(2)), true)];
        let wanted = wanted.into_iter().chain([(place(at(3)), false)]);
        assert_eq!(flags, wanted.collect(), "another event of the same id is kept and marked");
    });
}

#[test]
fn one_is_shown_with_its_record_and_others_are_not_there() {
    runtime().block_on(async {
        let rig = Rig::new().await;
        let place = rig.reject(1, Some("m"), "\"12\"").await;
        let shown = rig.retries.rejections().show(place).await.unwrap();
        assert_eq!(shown.told.state, State::Waiting);
        let line: serde_json::Value = serde_json::from_str(shown.record.get()).unwrap();
        assert!(line["body"].as_str().unwrap().contains("\"messageId\":\"m\""));
        for place in ["1@1", "0@0", "2@0"] {
            let shown = rig.retries.rejections().show(place.parse().unwrap()).await;
            assert!(matches!(shown, Err(QuarantineError::NotFound(_))), "{place}");
        }
    });
}

#[test]
fn filters_and_ranges_leave_out_the_rest() {
    runtime().block_on(async {
        let rig = Rig::new().await;
        for n in 0..300 {
            rig.reject(0, Some(&format!("m{n}")), "\"12\"").await;
        }
        let count = async |filter: Filter| {
            rig.retries.rejections().list(&filter, None, None).await.unwrap().records.len()
        };
        let text = |text: &str| Some(text.to_owned());
        let bound = |offset| Some(Bound::Offset(Offset(offset)));
        assert_eq!(count(Filter { from: bound(250), ..Filter::default() }).await, 50);
        assert_eq!(count(Filter { from: bound(9), to: bound(11), ..Filter::default() }).await, 2);
        assert_eq!(count(Filter { event: text("Paid"), ..Filter::default() }).await, 300);
        assert_eq!(count(Filter { code: text("too_deep"), ..Filter::default() }).await, 0);
        assert_eq!(count(Filter { source: text("other"), ..Filter::default() }).await, 0);
        let after = Some("0@299".parse().unwrap());
        let rest = rig.retries.rejections().list(&Filter::default(), after, None).await.unwrap();
        assert_eq!((rest.records.len(), rest.next), (1, None));
    });
}

#[test]
fn places_are_read_with_and_without_their_topic() {
    let place = Place { partition: 2, offset: Offset(17) };
    for text in ["2@17", "2:17", "2 17", "rejected/2@17", "rejected/2:17"] {
        assert_eq!(text.parse(), Ok(place), "{text}");
    }
    assert_eq!(place.to_string().parse(), Ok(place));
    for text in ["", "2", "2@", "@2", "raw/2@17", "2@x", "2/17"] {
        assert!(text.parse::<Place>().is_err(), "{text}");
    }
}
