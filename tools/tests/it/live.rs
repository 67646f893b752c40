//! Live figures of a real node: over HTTP, and by `tracklog watch`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::rig::{Node, ended, enriched, run, signal, text, tracklog};

/// No figure comes later, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Five orders and a page.
fn send(node: &Node) {
    let order = |n: u32| {
        json!({"type": "track", "event": "Order Completed", "userId": n.to_string(),
               "properties": {"total": 2.5, "note": "7"}})
    };
    let page = json!({"type": "page", "userId": "1", "timestamp": "2026-01-02T03:04:05Z"});
    let events: Vec<_> = (0..5).map(order).chain([page]).collect();
    assert_eq!(node.post("/v1/batch", &json!({ "batch": events }).to_string()).status, 200);
}

/// What all windows of this span tell together of a name, or of all.
fn told(windows: &[Value], span: &str, name: Option<&str>) -> (u64, u64, f64) {
    let of_span = windows.iter().filter(|window| window["window"] == span);
    let figures = of_span.filter_map(|window| match name {
        None => Some(&window["total"]),
        Some(name) => window["names"].as_array().unwrap().iter().find(|it| it["name"] == name),
    });
    figures.fold((0, 0, 0.0), |(count, late, sum), it| {
        let more = it["sums"]["properties.total"]["sum"].as_f64().unwrap_or(0.0);
        (count + it["count"].as_u64().unwrap(), late + it["late"].as_u64().unwrap(), sum + more)
    })
}

fn watch_once(data: &Path) -> Vec<Value> {
    let ran = run(&["watch", "--once", "--json", "--last", "60", "--data", text(data)]);
    ran.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn counts_and_sums_are_told_and_are_the_same_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    send(&node);
    enriched(data.path(), 6);
    let metrics = node.client().ask("GET", "/metrics", "").unwrap().body;
    assert!(metrics.contains("tracklog_live_events_total 0"), "nobody watched: {metrics}");
    let minutes = |windows: &[Value]| {
        assert_eq!(told(windows, "1m", None), (6, 1, 12.5), "{windows:?}");
        assert_eq!(told(windows, "1m", Some("Order Completed")), (5, 0, 12.5), "{windows:?}");
        assert_eq!(told(windows, "1m", Some("$page")), (1, 1, 0.0), "{windows:?}");
    };
    minutes(&watch_once(data.path()));
    assert!(node.terminate().0.success());
    let node = Node::start(data.path());
    minutes(&watch_once(data.path()));
    let metrics = node.client().ask("GET", "/metrics", "").unwrap().body;
    for line in
        ["tracklog_live_events_total 6", "tracklog_live_names 2", "tracklog_live_lag_records 0"]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(node.terminate().0.success());
}

/// A stream of server-sent events.
struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    fn open(node: &Node, data: &Path, query: &str, after: Option<&str>) -> Self {
        let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
        let after = after.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let mut stream = TcpStream::connect(node.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "GET /v1/live{query} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\n{after}\r\n",
            token.trim()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut events = Self { lines: BufReader::new(stream) };
        assert!(events.line().starts_with("HTTP/1.1 200"));
        let head: Vec<_> =
            std::iter::from_fn(|| Some(events.line())).take_while(|it| !it.is_empty()).collect();
        assert!(head.iter().any(|line| line == "content-type: text/event-stream"), "{head:?}");
        events
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "it goes on");
        line.trim_end().to_owned()
    }

    /// The next event: its id, its window. What frames it, chunks' lengths included, is no field.
    fn next(&mut self) -> (Option<i64>, Value) {
        let mut id = None;
        loop {
            let line = self.line();
            match line.split_once(": ") {
                Some(("event", name)) => assert_eq!(name, "window"),
                Some(("id", text)) => id = Some(text.parse().unwrap()),
                Some(("data", data)) => return (id, serde_json::from_str(data).unwrap()),
                _ => {}
            }
        }
    }
}

#[test]
fn events_have_ids_from_which_a_client_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    let mut events = Events::open(&node, data.path(), "?window=1s", None);
    let (first, window) = events.next();
    let first = first.unwrap();
    assert_eq!((&window["complete"], &window["window"]), (&json!(true), &json!("1s")));
    send(&node);
    let (mut count, mut last) = (0, first);
    while count < 6 {
        let (id, window) = events.next();
        assert_eq!(id, Some(last + 1), "no second is missing");
        last += 1;
        count += window["total"]["count"].as_u64().unwrap();
    }
    drop(events);
    let mut again = Events::open(&node, data.path(), "?window=1s", Some(&first.to_string()));
    let windows = (first + 1..=last).map(|wanted| {
        let (id, window) = again.next();
        assert_eq!(id, Some(wanted));
        window
    });
    assert_eq!(told(&windows.collect::<Vec<_>>(), "1s", None).0, 6);
    // A node that stops ends the stream, and does not wait for its client.
    assert!(node.terminate().0.success());
}

#[test]
fn only_operators_watch_and_no_more_than_the_node_takes() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let config = parent.path().join("tracklog.toml");
    std::fs::write(&config, "[live]\nclients_max = 1\n").unwrap();
    let node = Node::start_with(&data, |command| command.args(["--config", text(&config)]));
    assert_eq!(node.client().ask("GET", "/v1/live", "").unwrap().status, 401);
    let mut operator = node.operator();
    for (target, status) in [("/v1/live?window=5m", 400), ("/v1/live?nmae=x", 400)] {
        assert_eq!(operator.ask("GET", target, "").unwrap().status, status, "{target}");
    }
    let mut events = Events::open(&node, &data, "", None);
    events.next();
    let refused = operator.ask("GET", "/v1/live", "").unwrap();
    assert_eq!((refused.status, &refused.json()["code"]), (429, &json!("overloaded")));
    assert!(node.terminate().0.success());

    std::fs::write(&config, "[live]\nenabled = false\n").unwrap();
    let node = Node::start_with(&data, |command| command.args(["--config", text(&config)]));
    let ran = run(&["watch", "--data", text(&data)]);
    assert!(ran.refusal().contains("[live] enabled = false"), "{ran:?}");
    assert!(node.terminate().0.success());
    let ran = run(&["watch", "--data", text(&data)]);
    assert!(ran.refusal().contains("no node runs there"), "{ran:?}");
}

#[test]
fn settings_that_name_no_number_are_refused_with_their_line() {
    let parent = tempfile::tempdir().unwrap();
    let config = parent.path().join("tracklog.toml");
    std::fs::write(&config, "[live]\nsums = [\"total\"]\n").unwrap();
    let data = parent.path().join("data");
    let ran = run(&["serve", "--config", text(&config), "--data", text(&data)]);
    assert!(
        ran.refusal().contains("tracklog.toml:2: \"total\" is no place of a number"),
        "{ran:?}"
    );
}

#[test]
fn watch_prints_a_line_a_window_and_ends_at_once_when_told() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    send(&node);
    enriched(data.path(), 6);
    let arguments = ["watch", "--window", "1s", "--last", "60", "--name", "$page", "--data"];
    let mut watching = tracklog(&arguments);
    watching.arg(data.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watching = watching.spawn().unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.contains("$page")).unwrap();
    assert!(line.ends_with("1s  6 events, 1 late: $page 1"), "{line}");
    signal(&watching, Signal::INT);
    let ran = ended(watching);
    assert_eq!((ran.status, &*ran.stderr), (0, ""));
    assert!(node.terminate().0.success());
}

#[test]
fn watch_waits_for_a_node_that_ended_and_goes_on_behind_what_it_told() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    send(&node);
    let mut watching = tracklog(&["watch", "--json", "--window", "1s", "--last", "60", "--data"]);
    watching.arg(data.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watching = watching.spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut begins = Vec::new();
    // Until so many events were told in all.
    let mut told_until = |wanted: u64, told: &mut u64| {
        while *told < wanted {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            *told += line["total"]["count"].as_u64().unwrap_or_default();
            begins.extend(line["begin"].as_str().map(str::to_owned));
        }
    };
    let mut told = 0;
    told_until(6, &mut told);
    node.kill();
    let node = Node::start(data.path());
    send(&node);
    told_until(12, &mut told);
    assert!(node.terminate().0.success());
    let node = Node::start(data.path());
    send(&node);
    told_until(18, &mut told);
    assert_eq!(told, 18, "none twice");
    assert!(begins.is_sorted_by(|one, next| one < next), "each window once: {begins:?}");
    signal(&watching, Signal::INT);
    let ran = ended(watching);
    let expected = ["the node has ended; waiting for it", "the node is there again"];
    let notices: Vec<_> =
        ran.stderr.lines().map(|line| line.trim_start_matches("tracklog: ")).collect();
    assert_eq!((ran.status, notices), (0, [expected, expected].concat()));

    // What it is refused it does not wait for.
    let config = data.path().join("off.toml");
    std::fs::write(&config, "[live]\nenabled = false\n").unwrap();
    let watching = tracklog(&["watch", "--json", "--data"])
        .arg(data.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    node.await_metrics(&["tracklog_live_viewers 1"]);
    assert!(node.terminate().0.success());
    let node = Node::start_with(data.path(), |command| command.args(["--config", text(&config)]));
    let ran = ended(watching);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("[live] enabled = false"), "{}", ran.stderr);
    assert!(node.terminate().0.success());
}

/// A webhook: gives these answers in turn, the last of them for ever, and tells what it was sent.
fn webhook(answers: &'static [u16]) -> (u16, Receiver<(String, String)>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, calls) = mpsc::channel();
    std::thread::spawn(move || {
        let mut answers = answers.iter().chain(std::iter::repeat(answers.last().unwrap()));
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {
                let line = head.lines().last().unwrap_or_default();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let status = answers.next().unwrap();
            let answer =
                format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            if told.send((head, String::from_utf8(body).unwrap())).is_err() {
                return;
            }
        }
    });
    (port, calls)
}

fn header<'h>(head: &'h str, name: &str) -> &'h str {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap()
}

#[test]
fn a_threshold_calls_its_webhook_when_crossed_and_when_over_and_once_each() {
    const SECRET: &str = "0123456789abcdef";
    let parent = tempfile::tempdir().unwrap();
    let (data, config) = (parent.path().join("data"), parent.path().join("tracklog.toml"));
    let (port, calls) = webhook(&[503, 200]);
    let threshold = format!(
        "[[live.thresholds]]\nname = \"takings\"\nevent = \"Order Completed\"\nof = \"sum\"\n\
         property = \"properties.total\"\nwindow = \"1s\"\nabove = 2\n\
         url = \"http://127.0.0.1:{port}/hook\"\nsecret = \"{SECRET}\"\n"
    );
    std::fs::write(&config, threshold).unwrap();
    let node = Node::start_with(&data, |command| command.args(["--config", text(&config)]));
    send(&node);
    let next = || calls.recv_timeout(PATIENCE).unwrap();
    let (first_head, first) = next();
    let (head, body) = next();
    assert_eq!(header(&head, "webhook-id"), header(&first_head, "webhook-id"), "the same again");
    assert_eq!(body, first);
    assert!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
    let signed =
        format!("{}.{}.{body}", header(&head, "webhook-id"), header(&head, "webhook-timestamp"));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    assert_eq!(header(&head, "webhook-signature"), format!("v1,{signature}"));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&body["type"], &body["threshold"]),
        (&json!("threshold.crossed"), &json!("takings"))
    );
    let (_, over) = next();
    let over: Value = serde_json::from_str(&over).unwrap();
    assert_eq!((&over["type"], &over["value"]), (&json!("threshold.over"), &json!(0.0)));
    node.await_metrics(&[
        "tracklog_threshold_crossed{threshold=\"takings\"} 0",
        "tracklog_threshold_calls_total{threshold=\"takings\",result=\"told\"} 2",
        "tracklog_threshold_calls_total{threshold=\"takings\",result=\"failed\"} 1",
    ]);
    assert!(node.terminate().0.success());
    // Looked at again, by the same log, they stand as they stood.
    let node = Node::start_with(&data, |command| command.args(["--config", text(&config)]));
    node.await_metrics(&["tracklog_live_events_total 6"]);
    assert!(node.terminate().0.success());
    assert!(calls.try_recv().is_err(), "nothing is told twice");
}
