//! Real SDKs, unmodified, against a real node: what they say they sent is what a replay prints,
//! token by token.
//!
//! Needs Node.js 20 with the packages of `tests/sdk`, which are installed if they are not there,
//! and for the browser SDKs `chromium`. Where they cannot be had a test says so on standard error,
//! past the harness's capture, and passes.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::rig::{Node, Ran, run, text};

const NODE_VERSION_MIN: u32 = 20;
const SDK_EVENTS: usize = 10_000;
/// Under the 64 KiB of one beacon, so that nothing leaves before the page does.
const BEACON_EVENTS: usize = 20;
const KINDS: [&str; 6] = ["track", "identify", "page", "screen", "group", "alias"];
/// RudderStack's browser SDK has no call for screens.
const RUDDERSTACK_BROWSER_KINDS: [&str; 5] = ["track", "identify", "page", "group", "alias"];

#[test]
fn segment_node_sdk_sends_ten_thousand_events_and_replay_prints_each_as_sent() {
    let Some(node_js) = NodeJs::found() else {
        return;
    };

    let (sent, stored) = sent_and_stored(&node_js, &["analytics-node.mjs"], SDK_EVENTS);

    assert_same_events(&sent.events, &stored);
    assert_kinds(&stored, &KINDS, SDK_EVENTS);
}

#[test]
fn segment_browser_sdk_sends_batches_repeats_a_refused_one_and_replay_prints_each_event_as_sent() {
    let Some(node_js) = NodeJs::with_browser() else {
        return;
    };

    let (sent, stored) = sent_and_stored(&node_js, &["browser.mjs", "segment"], SDK_EVENTS);

    assert_same_events(&sent.events, &stored);
    assert_kinds(&stored, &KINDS, SDK_EVENTS);
    assert_came_again(&sent, &stored, "x-retry-count");
    assert_eq!(sent.paths(), ["/v1/b"], "batches only, as the node's settings ask");
    assert!(sent.requests["/v1/b"] * 5 < SDK_EVENTS, "{:?}", sent.requests);
}

#[test]
fn rudderstack_browser_sdk_repeats_a_refused_event_and_replay_prints_each_as_sent() {
    let Some(node_js) = NodeJs::with_browser() else {
        return;
    };

    let (sent, stored) = sent_and_stored(&node_js, &["browser.mjs", "rudderstack"], SDK_EVENTS);

    assert_same_events(&sent.events, &stored);
    assert_kinds(&stored, &RUDDERSTACK_BROWSER_KINDS, SDK_EVENTS);
    assert_came_again(&sent, &stored, "rsa-retry-attempt");
}

#[test]
fn rudderstack_beacons_of_a_page_that_is_left_arrive_and_replay_prints_them_as_sent() {
    let Some(node_js) = NodeJs::with_browser() else {
        return;
    };

    let script = ["browser.mjs", "rudderstack-beacon"];
    let (sent, stored) = sent_and_stored(&node_js, &script, BEACON_EVENTS);

    assert_same_events(&sent.events, &stored);
    assert_kinds(&stored, &RUDDERSTACK_BROWSER_KINDS, BEACON_EVENTS);
    assert_eq!(sent.paths(), ["/beacon/v1/batch"]);
}

/// Lets a script send so many events to a node of its own; what it sent, and what is in `raw`.
fn sent_and_stored(
    node_js: &NodeJs,
    script: &[&str],
    count: usize,
) -> (Sent, HashMap<String, Line>) {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    let url = format!("http://{}", node.http);
    let count_text = count.to_string();
    let sent = node_js.run(&[script, &[&*url, &*node.key, &*count_text]].concat());
    assert_eq!(sent.events.len(), count, "the SDK sent all it was given");
    assert!(sent.elsewhere.is_empty(), "only the node is told: {:?}", sent.elsewhere);
    (sent, replay(data.path()))
}

/// All of `raw`, by message id. Asks the node, since it holds the folder.
fn replay(data: &Path) -> HashMap<String, Line> {
    let ran = run(&["replay", "raw", "--json", "--data", text(data)]);
    let mut lines = HashMap::new();
    for line in ran.lines() {
        let line: Line = serde_json::from_str(line).expect("a line is JSON");
        let twice = lines.insert(line.message_id.clone(), line);
        assert!(twice.is_none(), "stored twice: {twice:?}");
    }
    lines
}

/// What a script prints.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    events: Vec<SentEvent>,
    /// How many requests with events went to which path.
    requests: HashMap<String, usize>,
    /// Message ids of the request that was answered with 503.
    #[serde(default)]
    refused: Vec<String>,
    #[serde(default)]
    retry_headers: Vec<String>,
    /// Requests to hosts that are neither the page's nor the node's.
    #[serde(default)]
    elsewhere: Vec<String>,
}

impl Sent {
    fn paths(&self) -> Vec<&str> {
        self.requests.keys().map(String::as_str).collect()
    }
}

/// An event as it left the SDK; its open-ended parts are the JSON text that was sent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SentEvent {
    #[serde(rename = "type")]
    kind: String,
    message_id: String,
    event: Option<String>,
    category: Option<String>,
    user_id: Option<String>,
    anonymous_id: Option<String>,
    group_id: Option<String>,
    previous_id: Option<String>,
    properties: Option<String>,
    traits: Option<String>,
    context: Option<String>,
    integrations: Option<String>,
}

/// A line of a replay.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    message_id: String,
    event: Option<String>,
    category: Option<String>,
    user_id: Option<String>,
    anonymous_id: Option<String>,
    group_id: Option<String>,
    previous_id: Option<String>,
    properties: Option<Box<RawValue>>,
    traits: Option<Box<RawValue>>,
    context: Option<Box<RawValue>>,
    integrations: Option<Box<RawValue>>,
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
    assert_eq!(sent.category, line.category, "{id}");
    assert_eq!(sent.user_id, line.user_id, "{id}");
    assert_eq!(sent.anonymous_id, line.anonymous_id, "{id}");
    assert_eq!(sent.group_id, line.group_id, "{id}");
    assert_eq!(sent.previous_id, line.previous_id, "{id}");
    assert_eq!(sent.properties.as_deref(), json(line.properties.as_deref()), "{id}");
    assert_eq!(sent.context.as_deref(), json(line.context.as_deref()), "{id}");
    assert_eq!(sent.integrations.as_deref(), json(line.integrations.as_deref()), "{id}");
    // RudderStack's browser SDK sends traits within the context alone, where replay finds them.
    if sent.traits.is_some() {
        assert_eq!(sent.traits.as_deref(), json(line.traits.as_deref()), "{id}");
    }
}

fn json(part: Option<&RawValue>) -> Option<&str> {
    part.map(RawValue::get)
}

/// The scripts call the kinds in turn.
fn assert_kinds(stored: &HashMap<String, Line>, kinds: &[&str], count: usize) {
    for kind in kinds {
        let of_kind = stored.values().filter(|line| line.kind == *kind).count();
        assert!(of_kind >= count / kinds.len(), "{of_kind} of kind {kind}");
    }
}

/// The header shows that the answer to the retry's preflight allowed what the first try had not.
fn assert_came_again(sent: &Sent, stored: &HashMap<String, Line>, retry_header: &str) {
    assert!(!sent.refused.is_empty(), "the first request was refused");
    for id in &sent.refused {
        assert!(stored.contains_key(id), "{id} was refused once and came again");
    }
    assert!(
        sent.retry_headers.iter().any(|name| name == retry_header),
        "the retry carried {retry_header}: {:?}",
        sent.retry_headers,
    );
}

/// The scripts of `tests/sdk`, ready to run.
struct NodeJs {
    folder: PathBuf,
}

impl NodeJs {
    fn found() -> Option<Self> {
        static PACKAGES: OnceLock<Result<(), String>> = OnceLock::new();

        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk");
        let version = Command::new("node").arg("--version").output().ok();
        let major = version.and_then(|output| major_version(&output.stdout));
        if major.is_none_or(|major| major < NODE_VERSION_MIN) {
            return skip(&format!("Node.js {NODE_VERSION_MIN} or newer is not here"));
        }
        if let Err(why) = PACKAGES.get_or_init(|| packages(&folder)) {
            return skip(&format!("their packages are not here: {why}"));
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

    /// Runs a script with its arguments. The scripts have deadlines of their own.
    fn run(&self, script: &[&str]) -> Sent {
        let mut command = Command::new("node");
        let output = command.args(script).current_dir(&self.folder).stdin(Stdio::null()).output();
        let ran = Ran::of(output.expect("node starts"));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        serde_json::from_str(&ran.stdout).expect("the script prints JSON")
    }
}

fn major_version(printed: &[u8]) -> Option<u32> {
    let printed = std::str::from_utf8(printed).ok()?;
    printed.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// Sees to it that the very versions of `package.json` are there. They run nothing when they are
/// installed.
fn packages(folder: &Path) -> Result<(), String> {
    let npm = |arguments: &[&str]| {
        let mut command = Command::new("npm");
        let output = command.args(arguments).current_dir(folder).stdin(Stdio::null()).output();
        let ran = Ran::of(output.map_err(|error| format!("npm: {error}"))?);
        let why = ran.stderr.lines().next().unwrap_or_default().to_owned();
        if ran.status == 0 { Ok(()) } else { Err(format!("npm {}: {why}", arguments[0])) }
    };
    npm(&["ls"]).or_else(|_| {
        npm(&["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"])
    })
}

/// Says aloud what is not tested here. `eprintln!` would be captured and never seen.
fn skip(why: &str) -> Option<NodeJs> {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test of real SDKs");
    writeln!(io::stderr(), "SKIPPED {test}: {why}").expect("standard error is open");
    None
}
