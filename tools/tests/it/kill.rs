//! The kill rig: a node under load is killed at random moments, and nothing that it acked is lost.
//!
//! Each round starts the node on the same folder, loads it with single and batch requests from
//! several clients, and ends it with SIGKILL. Some rounds kill it while it starts, too. At the end
//! every acked event must be there once, offsets dense, and `verify` clean. A seed replays the
//! moments: `TRACKLOG_KILL_SEED=7 cargo test -p tracklog-tools kill`.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::http::Client;
use crate::rig::{Node, replay, run, serve, text};

const ROUNDS: u64 = 20;
const CLIENTS: u64 = 6;
const SEED: u64 = 20_260_102;

#[test]
fn twenty_kills_lose_no_acked_event_with_threads() {
    kill_twenty_times("blocking");
}

#[test]
fn twenty_kills_lose_no_acked_event_with_io_uring() {
    kill_twenty_times("uring");
}

fn kill_twenty_times(backend: &str) {
    let seed = std::env::var("TRACKLOG_KILL_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut random = Random(seed.unwrap_or(SEED));
    let data = tempfile::tempdir().unwrap();
    let acked = Arc::new(Acked::default());
    for round in 0..ROUNDS {
        if round % 4 == 3 {
            kill_while_starting(data.path(), backend, random.below(60));
        }
        let node = match Node::try_start(data.path(), |it| it.env("TRACKLOG_BACKEND", backend)) {
            Ok(node) => node,
            Err(ran) if round == 0 && ran.stderr.contains("io_uring is refused") => {
                return skip(&ran.stderr);
            }
            Err(ran) => panic!("round {round} does not start: {ran:?}"),
        };
        #[expect(clippy::needless_collect, reason = "all start before one is waited for")]
        let clients: Vec<_> = (0..CLIENTS).map(|client| load(&node, client, &acked)).collect();
        wait(Duration::from_millis(20 + random.below(400)));
        node.kill();
        clients.into_iter().for_each(|client| client.join().expect("a client does not panic"));
    }
    check(data.path(), &acked);
}

/// What was acked: message ids, and where the answer said a place.
#[derive(Default)]
struct Acked {
    made: AtomicU64,
    events: Mutex<HashMap<String, Option<(u64, u64)>>>,
}

impl Acked {
    fn message_id(&self) -> String {
        format!("m-{}", self.made.fetch_add(1, Ordering::Relaxed))
    }

    fn add(&self, ids: Vec<String>, places: impl Iterator<Item = Option<(u64, u64)>>) {
        self.events.lock().unwrap().extend(ids.into_iter().zip(places));
    }
}

/// A client that sends until its connection breaks: a third of them single events, a third
/// batches as SDKs send them, a third arrays that are answered with places.
fn load(node: &Node, client: u64, acked: &Arc<Acked>) -> std::thread::JoinHandle<()> {
    let (address, key, acked) = (node.http, node.key.clone(), Arc::clone(acked));
    std::thread::spawn(move || {
        // The node may be gone already; then there is nothing to send.
        let Ok(mut connection) = Client::connect(address) else { return };
        for turn in 0.. {
            if send(&mut connection, &key, client, turn, &acked).is_err() {
                return;
            }
        }
    })
}

fn send(
    connection: &mut Client,
    key: &str,
    client: u64,
    turn: u64,
    acked: &Acked,
) -> io::Result<()> {
    let count = if client.is_multiple_of(3) { 1 } else { 1 + turn % 20 };
    let ids: Vec<_> = (0..count).map(|_| acked.message_id()).collect();
    let events = ids.iter().enumerate().map(|(n, id)| {
        serde_json::json!({
            "type": "track", "event": "load", "messageId": id,
            "anonymousId": format!("{client}-{turn}-{n}"),
            "properties": { "filler": "x".repeat(usize::try_from(turn % 600).unwrap()) },
        })
    });
    let events: Vec<_> = events.collect();
    let (path, body) = match client % 3 {
        0 => ("/v1/track", events[0].clone()),
        1 => ("/v1/batch", serde_json::json!({ "batch": events })),
        _ => ("/v1/events", serde_json::json!(events)),
    };
    let target = format!("{path}?writeKey={key}");
    let answer = connection.ask("POST", &target, &body.to_string())?;
    if answer.status != 200 {
        return Ok(());
    }
    let answer = answer.json();
    let place = |n: usize| {
        let result = answer["results"].get(n)?;
        Some((result["partition"].as_u64()?, result["offset"].as_u64()?))
    };
    let places: Vec<_> = (0..ids.len()).map(place).collect();
    assert!(client % 3 != 2 || places.iter().all(Option::is_some), "all are stored: {answer}");
    acked.add(ids, places.into_iter());
    Ok(())
}

fn kill_while_starting(data: &Path, backend: &str, millis: u64) {
    let mut process = serve(data).env("TRACKLOG_BACKEND", backend).spawn().unwrap();
    wait(Duration::from_millis(millis));
    process.kill().unwrap();
    process.wait().unwrap();
}

/// Lets this much time pass: a kill comes at a moment, not after an event.
fn wait(time: Duration) {
    let (_sender, nothing) = mpsc::channel::<()>();
    assert_eq!(nothing.recv_timeout(time), Err(RecvTimeoutError::Timeout));
}

/// Offline, so that nothing a running node knows can help.
fn check(data: &Path, acked: &Acked) {
    let mut found: HashMap<String, (u64, u64)> = HashMap::new();
    let mut next = HashMap::<u64, u64>::new();
    for line in replay(data, "raw") {
        let (partition, offset) =
            (line["partition"].as_u64().unwrap(), line["offset"].as_u64().unwrap());
        let expected = next.entry(partition).or_default();
        assert_eq!(offset, *expected, "offsets of partition {partition} are dense");
        *expected += 1;
        let id = line["messageId"].as_str().unwrap().to_owned();
        let twice = found.insert(id, (partition, offset));
        assert!(twice.is_none(), "stored twice: {line}");
    }
    let acked = acked.events.lock().unwrap();
    assert!(acked.len() > 500, "the load was a load: {}", acked.len());
    for (id, place) in &*acked {
        let is = found.get(id).unwrap_or_else(|| panic!("acked and lost: {id}"));
        assert!(place.is_none_or(|place| place == *is), "{id} is at {is:?}, not {place:?}");
    }
    let verified = run(&["verify", "--data", text(data)]);
    assert_eq!(verified.status, 0, "{}{}", verified.stdout, verified.stderr);
}

/// Aloud: what is captured would never be seen.
fn skip(why: &str) {
    writeln!(io::stderr(), "SKIPPED the kill test with io_uring: {}", why.trim())
        .expect("standard error is open");
}

/// A small generator of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
