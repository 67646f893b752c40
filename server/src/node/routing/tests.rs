//! The file of rules, as a node over a log in memory takes it.

use tempfile::TempDir;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::{Domain, Retention, TopicName, TopicSpec};

use super::*;

struct Bench {
    folder: TempDir,
    routing: Arc<Routing>,
}

impl Bench {
    async fn new(rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("routes.toml");
        fs::write(&file, rules).unwrap();
        let options = MemoryOptions { clock: Arc::new(clock::now), budget_bytes: 8 << 20 };
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new(options));
        let epoch = log.open(Domain::WHOLE).await.unwrap();
        let groups = Groups::open(Arc::clone(&log), epoch, Arc::new(clock::now)).await.unwrap();
        let topic = async |name| {
            let name = TopicName::new(name).unwrap();
            let spec = TopicSpec { name, partitions: 1, retention: Retention::Keep };
            log.create_topic(spec).await.unwrap()
        };
        let (source, rejected) = (topic("enriched").await, topic("rejected").await);
        let undelivered = topic("undelivered").await;
        let (log, threads) = (Arc::clone(&log), Handle::current());
        let parts =
            RoutingParts { log, epoch, groups, source, rejected, undelivered, file, threads };
        Self { folder, routing: Routing::start(parts).await.unwrap() }
    }

    /// Another file, and what is told of it.
    async fn rewrite(&self, rules: &str) -> Option<String> {
        fs::write(self.folder.path().join("routes.toml"), rules).unwrap();
        self.routing.look_at_file().await;
        self.routing.look_at_file().await;
        self.routing.status().await.refused
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        self.routing.encode(&mut text);
        text
    }
}

const TWO: &str = r#"
[destinations.orders]
type = "topic"
[destinations.export]
type = "file"
folder = "export"
[[rules]]
name = "all"
to = ["orders", "export"]
"#;

#[tokio::test]
async fn metrics_tell_of_lanes_and_destinations_while_these_change() {
    let bench = Bench::new(TWO).await;
    let names = || bench.routing.counters().into_iter().map(|it| it.0).collect::<Vec<_>>();
    assert_eq!(names(), ["route", "to.export"]);
    let delivered = "tracklog_destination_delivered_total{destination=\"export\"} 0";
    assert!(bench.metrics().contains(delivered), "{}", bench.metrics());
    // Whoever changes them holds this, for as long as a lane needs to end.
    let changing = bench.routing.running.lock().await;
    assert_eq!(names(), ["route", "to.export"]);
    assert!(bench.metrics().contains(delivered), "{}", bench.metrics());
    drop(changing);
    let one = TWO.replace("[destinations.export]\ntype = \"file\"\nfolder = \"export\"\n", "");
    assert_eq!(bench.rewrite(&one.replace(", \"export\"", "")).await, None);
    assert_eq!(names(), ["route"]);
    assert!(!bench.metrics().contains("destination=\"export\""), "{}", bench.metrics());
    bench.routing.stop().await;
}

#[tokio::test]
async fn two_destinations_of_one_folder_are_refused_however_it_is_named() {
    let bench = Bench::new(TWO).await;
    let whole = bench.folder.path().join("./x/../export/");
    let other = format!("[destinations.other]\ntype = \"file\"\nfolder = {whole:?}\n{TWO}");
    let refused = bench.rewrite(&other).await.unwrap();
    assert!(refused.starts_with("two destinations have the folder "), "{refused}");
    assert_eq!(bench.routing.status().await.version, Some(1), "the rules before go on");
    let beside = other.replace("x/../export", "x/export");
    assert_eq!(bench.rewrite(&beside).await, None);
    bench.routing.stop().await;
}
