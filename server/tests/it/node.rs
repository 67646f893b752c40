//! Starting, stopping, and reading what is left.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    ask_with(node, what, "", body).await
}

/// The same with more lines in its head, each with its end.
async fn ask_with(node: &Node, what: &str, lines: &str, body: &str) -> String {
    let request = format!(
        "{what} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{lines}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(node.http().unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn lines(log: Arc<dyn tracklog_log::Log>) -> String {
    lines_of(log, "raw").await
}

async fn lines_of(log: Arc<dyn tracklog_log::Log>, topic: &str) -> String {
    let topic = log.topic(topic).unwrap();
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

/// Chrome says the same of both in its agent, and in the hints that it sends unasked.
#[tokio::test(flavor = "multi_thread")]
async fn what_browsers_say_when_they_are_asked_tells_windows_11_from_windows_10() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&settings(data.path())).await.unwrap();
    for (user, version) in [("eleven", "15.0.0"), ("ten", "10.0.0")] {
        let hints = format!(
            "user-agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like \
             Gecko) Chrome/130.0.0.0 Safari/537.36\r\nsec-ch-ua-platform: \"Windows\"\r\n\
             sec-ch-ua-platform-version: \"{version}\"\r\n"
        );
        let key = &node.default_key().text;
        let event = format!(r#"{{"event":"e","userId":"{user}","writeKey":"{key}"}}"#);
        let answer = ask_with(&node, "POST /v1/track", &hints, &event).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    until_lag(&node, "records", |records| records == 0.0).await;
    let enriched = lines_of(node.log(), "enriched").await;
    for (user, version) in [("eleven", "11"), ("ten", "10")] {
        let user = format!(r#""userId":"{user}""#);
        let line = enriched.lines().find(|line| line.contains(&user)).unwrap();
        assert!(line.contains(&format!(r#""osVersion":"{version}""#)), "{line}");
    }
    node.stop().await;
}

/// What metrics say of the group that enriches.
async fn lag_of_enrichment(node: &Node, of: &str) -> f64 {
    let metrics = ask(node, "GET /metrics", "").await;
    let begins = format!("tracklog_group_lag_{of}{{group=\"enrich\",topic=\"raw\"}} ");
    let lag = metrics.lines().find_map(|line| line.strip_prefix(&*begins));
    lag.map_or(-1.0, |lag| lag.parse().unwrap())
}

/// Asks until it is so; seconds are looked at in rounds.
async fn until_lag(node: &Node, of: &str, is_so: impl Fn(f64) -> bool) -> f64 {
    let looking = async {
        loop {
            let lag = lag_of_enrichment(node, of).await;
            if is_so(lag) {
                return lag;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looking).await.expect("a round comes")
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_enriches_metrics_tell_for_how_long_the_first_event_has_waited() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = settings(data.path());
    let node = Node::start(&settings).await.unwrap();
    assert_eq!(track(&node, "one").await, "HTTP/1.1 200 OK");
    until_lag(&node, "records", |records| records == 0.0).await;
    until_lag(&node, "seconds", |seconds| seconds == 0.0).await;
    node.stop().await;

    settings.enrich.enabled = false;
    let node = Node::start(&settings).await.unwrap();
    let began = Instant::now();
    assert_eq!(track(&node, "two").await, "HTTP/1.1 200 OK");
    let waits = until_lag(&node, "seconds", |seconds| seconds > 0.0).await;
    assert!(waits < began.elapsed().as_secs_f64() + 1.0, "{waits}");
    until_lag(&node, "seconds", |seconds| seconds > waits).await;
    assert_eq!(lag_of_enrichment(&node, "records").await, 1.0);
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
    tokio::time::sleep(Duration::from_millis(5)).await;
    lock.unlock().unwrap();
    start.await.unwrap().unwrap().stop().await;
}
