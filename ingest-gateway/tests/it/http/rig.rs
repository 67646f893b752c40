//! A gateway on loopback ports over a log in memory, and a look at what it stored.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tracklog_ingest_gateway::source::SourceRules;
use tracklog_ingest_gateway::{
    AdminToken, Backing, Door, Gateway, GatewayConfig, Listen, NoDoor, Running, Source, TlsFiles,
    Topics,
};
use tracklog_log::dedupe::{Dedupe, WINDOW};
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::meta::MetaTopic;
use tracklog_log::{
    Domain, Epoch, Fetch, FetchMode, Log as _, Retention, Topic, TopicName, TopicSpec,
};
use tracklog_protocol::batch::Entry;
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::{Offset, TimeMicros};
use tracklog_registry::{Limits, Registry};

use super::client::{Answer, Ask};

pub(crate) const KEY: &str = "tl_key-of-the-shop";
pub(crate) const TOKEN: &str = "token-of-the-admin";

/// What a test starts with.
pub(crate) struct Setup {
    pub(crate) config: GatewayConfig,
    pub(crate) budget_bytes: usize,
    pub(crate) further: Arc<dyn Door>,
    pub(crate) folder: tempfile::TempDir,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::new(KEY, SourceRules::named("shop"));
        let token = AdminToken::new(TOKEN).unwrap();
        let mut config = GatewayConfig::new(vec![source], token);
        config.tls = Some(TlsFiles {
            certificate: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
            self_signed: Some(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]),
        });
        // Tests look at the files when they want to.
        config.tls_checked_every = Duration::from_secs(3_600);
        Self { config, budget_bytes: 256 << 20, further: Arc::new(NoDoor), folder }
    }

    pub(crate) fn change(mut self, change: impl FnOnce(&mut GatewayConfig)) -> Self {
        change(&mut self.config);
        self
    }

    pub(crate) fn change_source(mut self, change: impl FnOnce(&mut Source)) -> Self {
        change(&mut self.config.sources[0]);
        self
    }

    pub(crate) async fn start(self) -> Rig {
        let clock = Arc::new(|| TimeMicros(1_795_597_200_000_000));
        let options = MemoryOptions { clock, budget_bytes: self.budget_bytes };
        let once = Dedupe { topic: TopicName::new("raw").unwrap(), window: WINDOW };
        let log = Arc::new(MemoryLog::new(options).deduplicating(&[once]));
        let epoch = log.open(Domain::WHOLE).await.unwrap();
        let topics = Topics {
            raw: topic(&log, "raw", 16).await,
            rejected: topic(&log, "rejected", 4).await,
        };
        let backing = Backing {
            log: Arc::clone(&log) as _,
            epoch,
            topics: topics.clone(),
            registry: Arc::new(registry(&log, epoch).await),
        };
        let address = "127.0.0.1:0".parse().unwrap();
        let listeners = [false, true].map(|tls| Listen { address, tls });
        let bound = Gateway::bind(&listeners).unwrap();
        let running = Gateway::start(self.config, bound, backing, self.further).await;
        Rig { log, topics, running: running.unwrap(), folder: self.folder }
    }
}

async fn topic(log: &MemoryLog, name: &str, partitions: u32) -> Topic {
    let name = TopicName::new(name).unwrap();
    let spec = TopicSpec { name, partitions, retention: Retention::Keep };
    log.create_topic(spec).await.unwrap()
}

async fn registry(log: &Arc<MemoryLog>, epoch: Epoch) -> Registry {
    let name = TopicName::new("_schemas").unwrap();
    let meta = MetaTopic::open(Arc::clone(log), epoch, name).await.unwrap();
    Registry::open(Arc::new(meta), Limits::default()).await.unwrap()
}

/// A running gateway.
pub(crate) struct Rig {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) topics: Topics,
    pub(crate) running: Running,
    pub(crate) folder: tempfile::TempDir,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Setup::new().start().await
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.running.addresses()[0]
    }

    pub(crate) fn https(&self) -> SocketAddr {
        self.running.addresses()[1]
    }

    pub(crate) async fn ask(&self, ask: Ask) -> Answer {
        ask.send(self.http()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.ask(Ask::post(path, body).key(KEY)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Ask::get(path)).await
    }

    /// The lines of all accepted events.
    pub(crate) async fn raw(&self) -> Vec<Value> {
        lines(&self.log, &self.topics.raw).await
    }

    /// The same, each as its own text.
    pub(crate) async fn raw_text(&self) -> Vec<String> {
        line_texts(&self.log, &self.topics.raw).await
    }

    /// The lines of all rejected events.
    pub(crate) async fn rejected(&self) -> Vec<Value> {
        lines(&self.log, &self.topics.rejected).await
    }

    /// How many events there are, accepted and rejected.
    pub(crate) async fn counts(&self) -> (usize, usize) {
        (self.raw().await.len(), self.rejected().await.len())
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        self.running.metrics().encode(&mut text).unwrap();
        text
    }

    /// Whether a good event is taken as before.
    pub(crate) async fn still_serves(&self) {
        let before = self.raw().await.len();
        self.post("/v1/track", track("still")).await.is_ok();
        assert_eq!(self.raw().await.len(), before + 1);
    }
}

async fn lines(log: &MemoryLog, topic: &Topic) -> Vec<Value> {
    let texts = line_texts(log, topic).await;
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

async fn line_texts(log: &MemoryLog, topic: &Topic) -> Vec<String> {
    let from = topic.partitions().map(|partition| (partition, Offset::ZERO)).collect();
    let fetch = Fetch { from, bytes_max: usize::MAX, wait: false, mode: FetchMode::Live };
    let fetched = log.fetch(fetch).await.unwrap();
    let mut lines = Vec::new();
    for found in fetched.partitions {
        for batch in &found.batches {
            for (offset, entry) in batch.entries() {
                let Entry::Record(record) = entry else { continue };
                let place = LinePlace {
                    topic: topic.name(),
                    partition: found.partition.partition,
                    offset,
                    appended_at: TimeMicros(0),
                };
                let mut line = Vec::new();
                write_line(&mut line, place, record);
                assert_eq!(line.pop(), Some(b'\n'), "a line has an end");
                lines.push(String::from_utf8(line).unwrap());
            }
        }
    }
    lines
}

/// A good event with this message id.
pub(crate) fn track(id: &str) -> String {
    track_with(id, "")
}

/// The same with more fields: `,"name":value…`.
pub(crate) fn track_with(id: &str, fields: &str) -> String {
    format!(r#"{{"type":"track","event":"Tried","userId":"u","messageId":"{id}"{fields}}}"#)
}

/// An event that lacks its name.
pub(crate) fn nameless(id: &str) -> String {
    format!(r#"{{"type":"track","userId":"u","messageId":"{id}"}}"#)
}

/// A batch of these events, with more fields beside them.
pub(crate) fn batch(events: &[String], fields: &str) -> String {
    format!(r#"{{"batch":[{}]{fields}}}"#, events.join(","))
}

pub(crate) fn ids(lines: &[Value]) -> Vec<&str> {
    let mut ids: Vec<_> = lines.iter().filter_map(|line| line["messageId"].as_str()).collect();
    ids.sort_unstable();
    ids
}
