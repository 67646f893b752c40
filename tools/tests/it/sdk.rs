//! Real SDKs, unmodified, against a real node: what they say they sent is what a replay prints,
//! token by token.
//!
//! Needs Node.js 20 with the packages of `tests/sdk`, and for the browser SDKs `chromium`. Where
//! they are missing a test says so on standard error, past the harness's capture, and passes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde::Deserialize;
use serde_json::value::RawValue;

const NODE_VERSION_MIN: u32 = 20;
const SDK_EVENTS: usize = 10_000;

#[test]
fn segment_node_sdk_sends_ten_thousand_events_and_replay_prints_each_as_sent() {
    let Some(node_js) = NodeJs::found() else {
        return;
    };
    let node = TracklogNode::start();

    let sent = node_js.run("analytics-node.mjs", &[&node.url, &node.write_key, "10000"]);

    assert_eq!(sent.events.len(), SDK_EVENTS, "the SDK sent all it was given");
    let stored = node.replay();
    assert_same_events(&sent.events, &stored);
    for kind in ["track", "identify", "page", "screen", "group", "alias"] {
        let count = stored.values().filter(|line| line.kind == kind).count();
        assert!(count >= SDK_EVENTS / 6, "{count} of kind {kind}");
    }
}

#[test]
fn segment_browser_sdk_repeats_a_refused_batch_across_origins_and_replay_prints_it_as_sent() {
    browser_sdk_repeats_what_was_refused("segment", "x-retry-count");
}

#[test]
fn rudderstack_browser_sdk_repeats_a_refused_event_across_origins_and_replay_prints_it_as_sent() {
    browser_sdk_repeats_what_was_refused("rudderstack", "rsa-retry-attempt");
}

fn browser_sdk_repeats_what_was_refused(sdk: &str, retry_header: &str) {
    let Some(node_js) = NodeJs::with_browser() else {
        return;
    };
    let node = TracklogNode::start();

    let sent = node_js.run("browser.mjs", &[sdk, &node.url, &node.write_key]);

    let stored = node.replay();
    assert_same_events(&sent.events, &stored);
    assert!(!sent.refused.is_empty(), "the first request was refused");
    for id in &sent.refused {
        assert!(stored.contains_key(id), "{id} was refused once and came again");
    }
    assert!(
        sent.retry_headers.iter().any(|name| name == retry_header),
        "the retry carried {retry_header}, so its preflight was answered: {:?}",
        sent.retry_headers,
    );
}

/// What a script prints.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    events: Vec<SentEvent>,
    #[serde(default)]
    refused: Vec<String>,
    #[serde(default)]
    retry_headers: Vec<String>,
}

/// An event as it left the SDK; its open-ended parts are the JSON text that was sent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SentEvent {
    #[serde(rename = "type")]
    kind: String,
    message_id: String,
    event: Option<String>,
    user_id: Option<String>,
    anonymous_id: Option<String>,
    group_id: Option<String>,
    previous_id: Option<String>,
    properties: Option<String>,
    traits: Option<String>,
    context: Option<String>,
}

/// A line of a replay.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    message_id: String,
    event: Option<String>,
    user_id: Option<String>,
    anonymous_id: Option<String>,
    group_id: Option<String>,
    previous_id: Option<String>,
    properties: Option<Box<RawValue>>,
    traits: Option<Box<RawValue>>,
    context: Option<Box<RawValue>>,
}

fn assert_same_events(sent: &[SentEvent], stored: &HashMap<String, Line>) {
    assert_eq!(sent.len(), stored.len(), "each event is there, and none besides");
    for sent in sent {
        let line = stored.get(&sent.message_id).expect("what the node took comes out of a replay");
        assert_same_event(sent, line);
    }
}

fn assert_same_event(sent: &SentEvent, line: &Line) {
    let id = &sent.message_id;
    assert_eq!(sent.kind, line.kind, "{id}");
    assert_eq!(sent.event, line.event, "{id}");
    assert_eq!(sent.user_id, line.user_id, "{id}");
    assert_eq!(sent.anonymous_id, line.anonymous_id, "{id}");
    assert_eq!(sent.group_id, line.group_id, "{id}");
    assert_eq!(sent.previous_id, line.previous_id, "{id}");
    assert_eq!(sent.properties.as_deref(), text(line.properties.as_deref()), "{id}");
    assert_eq!(sent.context.as_deref(), text(line.context.as_deref()), "{id}");
    // RudderStack's browser SDK sends traits within the context alone, where replay finds them.
    if sent.traits.is_some() {
        assert_eq!(sent.traits.as_deref(), text(line.traits.as_deref()), "{id}");
    }
}

fn text(part: Option<&RawValue>) -> Option<&str> {
    part.map(RawValue::get)
}

/// The scripts of `tests/sdk`, ready to run.
struct NodeJs {
    folder: PathBuf,
}

impl NodeJs {
    fn found() -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk");
        let version = Command::new("node").arg("--version").output().ok();
        let major = version.and_then(|output| major_version(&output.stdout));
        if major.is_none_or(|major| major < NODE_VERSION_MIN) {
            return skip(&format!("Node.js {NODE_VERSION_MIN} or newer is not here"));
        }
        if !folder.join("node_modules").is_dir() {
            return skip("their packages are not here: npm ci --prefix tools/tests/sdk");
        }
        Some(Self { folder })
    }

    fn with_browser() -> Option<Self> {
        let node_js = Self::found()?;
        let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
        if !Path::new(&chromium).exists() {
            return skip(&format!("there is no {chromium}"));
        }
        Some(node_js)
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Sent {
        let output = Command::new("node")
            .arg(script)
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .expect("node starts");
        serde_json::from_slice(succeeded(&output)).expect("the script prints JSON")
    }
}

fn major_version(printed: &[u8]) -> Option<u32> {
    let printed = std::str::from_utf8(printed).ok()?;
    printed.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// Says aloud what is not tested here. `eprintln!` would be captured and never seen.
fn skip(why: &str) -> Option<NodeJs> {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test of real SDKs");
    writeln!(io::stderr(), "SKIPPED {test}: {why}").expect("standard error is open");
    None
}

fn succeeded(output: &Output) -> &[u8] {
    if !output.status.success() {
        let mut told = format!("{}\n", output.status);
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            writeln!(told, "{}", text.chars().take(4_000).collect::<String>())
                .expect("a string takes text");
        }
        panic!("{told}");
    }
    &output.stdout
}

/// A node of its own folder and ports, killed when the test is over.
struct TracklogNode {
    process: Child,
    data: tempfile::TempDir,
    url: String,
    write_key: String,
}

impl TracklogNode {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut process = Command::new(env!("CARGO_BIN_EXE_tracklog"))
            .args(["serve", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--data"])
            .arg(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tracklog starts");
        let stdout = process.stdout.take().expect("its output is piped");
        let mut lines = BufReader::new(stdout).lines().map(|line| line.expect("lines of text"));
        assert!(lines.any(|line| line.starts_with("ready")), "the node says that it serves");
        // The pipe must stay open and be read, or the node's next line would end it.
        std::thread::spawn(move || lines.for_each(drop));

        let facts = std::fs::read(data.path().join("node.json")).expect("a node states itself");
        let facts: serde_json::Value = serde_json::from_slice(&facts).expect("as JSON");
        let address = facts["http"].as_str().expect("with its address");
        let key = std::fs::read_to_string(data.path().join("default.key")).expect("and its key");
        Self { process, url: format!("http://{address}"), write_key: key.trim().to_owned(), data }
    }

    /// All of `raw`, by message id. Asks the node, since it holds the folder.
    fn replay(&self) -> HashMap<String, Line> {
        let output = Command::new(env!("CARGO_BIN_EXE_tracklog"))
            .args(["replay", "raw", "--json", "--data"])
            .arg(self.data.path())
            .stdin(Stdio::null())
            .output()
            .expect("tracklog starts");
        let mut lines = HashMap::new();
        for line in succeeded(&output).split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
        {
            let line: Line = serde_json::from_slice(line).expect("a line is JSON");
            let twice = lines.insert(line.message_id.clone(), line);
            assert!(twice.is_none(), "stored twice: {twice:?}");
        }
        lines
    }
}

impl Drop for TracklogNode {
    fn drop(&mut self) {
        self.process.kill().expect("the node was started here");
        self.process.wait().expect("and ends");
    }
}
