//! Starting, stopping, and reading what is left.

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tracklog_server::config::{Flags, Settings};
use tracklog_server::node::{Node, StartError};
use tracklog_server::offline::{self, OfflineError};
use tracklog_server::replay::{Query, Replay, Step};

fn settings(data: &Path) -> Settings {
    let flags = Flags {
        data: Some(data.to_owned()),
        http: Some("127.0.0.1:0".to_owned()),
        https: Some("off".to_owned()),
        ..Flags::default()
    };
    let mut settings = Settings::load(&flags, []).unwrap();
    settings.journal.slot_bytes = Some(16 << 20);
    settings
}

/// Tracks one event and gives the status line.
async fn track(node: &Node, name: &str) -> String {
    let body =
        format!(r#"{{"event":"{name}","userId":"1","writeKey":"{}"}}"#, node.default_key().text);
    let answer = ask(node, "POST /v1/track", &body).await;
    answer.lines().next().unwrap().to_owned()
}

/// The whole answer to a request.
async fn ask(node: &Node, what: &str, body: &str) -> String {
    let request = format!(
        "{what} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(node.http().unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn lines(log: Arc<dyn tracklog_log::Log>) -> String {
    let topic = log.topic("raw").unwrap();
    let mut replay = Replay::open(log, topic, Query::default()).await.unwrap();
    let mut lines = Vec::new();
    while replay.next(&mut lines).await.unwrap() == Step::More {}
    assert!(replay.take_notes().is_empty());
    String::from_utf8(lines).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_again_in_the_same_process_and_its_folder_reads_the_same_offline() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&settings(data.path())).await.unwrap();
    assert_eq!(track(&node, "one").await, "HTTP/1.1 200 OK");
    let running = lines(node.log()).await;
    assert!(offline::is_held(data.path()).unwrap());
    let held = offline::open(data.path(), &mut |_| {}).err().unwrap();
    assert!(matches!(held, OfflineError::Held));
    node.stop().await;
    assert!(!offline::is_held(data.path()).unwrap());
    let stopped = offline::open(data.path(), &mut |_| {}).unwrap();
    assert_eq!(lines(stopped).await, running);
    let node = Node::start(&settings(data.path())).await.unwrap();
    assert_eq!(track(&node, "two").await, "HTTP/1.1 200 OK");
    assert_eq!(lines(node.log()).await.lines().count(), 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acked_and_not_yet_enriched_is_in_the_lag_that_metrics_tell_at_once() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&settings(data.path())).await.unwrap();
    let log = node.log();
    let enriched = log.topic("enriched").unwrap();
    for acked in 1..=200_u64 {
        assert_eq!(track(&node, "one").await, "HTTP/1.1 200 OK");
        let metrics = ask(&node, "GET /metrics", "").await;
        let lag = r#"tracklog_group_lag_records{group="enrich",topic="raw"} "#;
        let lag = metrics.lines().find_map(|line| line.strip_prefix(lag));
        let lag: u64 = lag.expect("a group that reads").parse().unwrap();
        let done: u64 = enriched.partitions().map(|at| log.extent(at).unwrap().end.0).sum();
        assert!(lag + done >= acked, "{lag} to be read and {done} done of {acked}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_the_folder_free() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut wrong = settings(data.path());
    wrong.http = Some(taken.local_addr().unwrap());
    let failed = Node::start(&wrong).await.unwrap_err();
    assert!(matches!(failed, StartError::Listen { setting: "http", .. }), "{failed}");
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0, "nothing was made");
    let mut wrong = settings(data.path());
    wrong.certificate = Some(("no/cert.pem".into(), "no/key.pem".into()));
    wrong.https = wrong.http;
    let failed = Node::start(&wrong).await.unwrap_err();
    assert!(matches!(failed, StartError::Gateway(_)), "{failed}");
    assert!(!data.path().join("node.json").exists());
    let node = Node::start(&settings(data.path())).await.unwrap();
    assert!(data.path().join("node.json").exists());
    node.stop().await;
    assert!(!data.path().join("node.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_the_lock_does_not_keep_a_node_from_starting() {
    let data = tempfile::tempdir().unwrap();
    Node::start(&settings(data.path())).await.unwrap().stop().await;
    let lock = std::fs::File::open(data.path().join("lock")).unwrap();
    lock.lock_shared().unwrap();
    let settings = settings(data.path());
    let start = tokio::spawn(async move { Node::start(&settings).await });
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    lock.unlock().unwrap();
    start.await.unwrap().unwrap().stop().await;
}
