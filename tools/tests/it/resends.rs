//! Clients that send again, over restarts and kills: each event is stored once, and whoever is
//! told where it lies is told the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::http::Client;
use crate::rig::{Node, replay, run, text};

/// Clients that send different events; as many send the same, at once.
const GROUPS: u64 = 3;
const ATTEMPTS: u64 = 3;
const REQUESTS: u64 = 80;
const EVENTS: u64 = 4;
/// After so many acks the node is killed.
const ACKS_PER_LIFE: usize = 120;

/// Partition and offset.
type Place = (u64, u64);

fn place(line: &Value) -> Place {
    let number = |name: &str| line[name].as_u64().unwrap_or_else(|| panic!("{name}: {line}"));
    (number("partition"), number("offset"))
}

/// Where the events of `raw` lie, by their ids.
fn places(data: &Path) -> BTreeMap<String, Vec<Place>> {
    let mut places: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for line in replay(data, "raw") {
        let id = line["messageId"].as_str().expect("each has an id").to_owned();
        places.entry(id).or_default().push(place(&line));
    }
    places
}

#[test]
fn an_event_sent_again_after_a_kill_is_told_its_first_place() {
    let folder = tempfile::tempdir().unwrap();
    let event = |sent_at: &str| {
        json!([{ "type": "track", "event": "Paid", "userId": "u", "messageId": "X",
            "sentAt": sent_at, "properties": { "n": 1 } }])
    };
    let send = |node: &Node, sent_at: &str| {
        let answer = node.post("/v1/events", &event(sent_at).to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["results"][0].clone()
    };
    let node = Node::start(folder.path());
    let first = send(&node, "2026-01-02T03:04:05Z");
    assert_eq!((&first["status"], &first["durability"]), (&json!("stored"), &json!("disk")));
    node.kill();
    let node = Node::start(folder.path());
    for attempt in 6..9 {
        let again = send(&node, &format!("2026-01-02T03:04:0{attempt}Z"));
        assert_eq!(again["status"], "duplicate");
        assert_eq!((&again["topic"], place(&again)), (&json!("raw"), place(&first)));
    }
    node.await_metrics(&[
        r#"tracklog_gateway_events_duplicate_total{source="default"} 3"#,
        "tracklog_log_ids 1\n",
    ]);
    assert_eq!(places(folder.path()), BTreeMap::from([("X".to_owned(), vec![place(&first)])]));
    let described = run(&["topic", "describe", "raw", "--data", text(folder.path())]);
    assert!(described.lines()[0].contains("each event stored once within 24 h"), "{described:?}");
}

#[test]
fn a_node_that_is_told_to_keeps_every_event() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start_with(folder.path(), |serve| serve.env("TRACKLOG_DEDUPE_WINDOW", "off"));
    for _ in 0..2 {
        let event = json!({ "event": "Paid", "userId": "u", "messageId": "X" });
        assert_eq!(node.post("/v1/track", &event.to_string()).status, 200);
    }
    assert_eq!(places(folder.path())["X"].len(), 2);
}

/// Where the node answers now, with its key, if it runs.
#[derive(Default)]
struct Address {
    now: Mutex<Option<(SocketAddr, String)>>,
    set: Condvar,
}

impl Address {
    fn set(&self, address: Option<(SocketAddr, String)>) {
        *self.now.lock().unwrap() = address;
        self.set.notify_all();
    }

    fn wait(&self) -> (SocketAddr, String) {
        let now = self.now.lock().unwrap();
        let now = self.set.wait_while(now, |now| now.is_none()).unwrap();
        now.clone().expect("it was waited for")
    }
}

/// One of those who send a group's requests.
struct Resender {
    address: Arc<Address>,
    group: u64,
    attempt: u64,
    told: Sender<Vec<(String, Place)>>,
}

impl Resender {
    fn run(self) {
        let mut client = None;
        for request in 0..REQUESTS {
            let ids: Vec<_> = (0..EVENTS)
                .map(|n| format!("{}-{}", self.group, request * (EVENTS - 1) + n))
                .collect();
            let verdicts = self.send(&mut client, &ids);
            let places = ids.into_iter().zip(verdicts.iter().map(place));
            if self.told.send(places.collect()).is_err() {
                return;
            }
        }
    }

    /// Sends until it is told that all is there.
    fn send(&self, client: &mut Option<(Client, String)>, ids: &[String]) -> Vec<Value> {
        let event = |id: &String| {
            json!({ "type": "track", "event": "Paid", "userId": id, "messageId": id,
                "sentAt": format!("2026-01-02T03:04:0{}Z", self.attempt) })
        };
        let body = Value::Array(ids.iter().map(event).collect()).to_string();
        loop {
            let Some((connection, key)) = client else {
                let (address, key) = self.address.wait();
                *client = Client::connect(address).ok().map(|client| (client, key));
                continue;
            };
            let target = format!("/v1/events?writeKey={key}");
            match connection.ask("POST", &target, &body) {
                Ok(answer) if answer.status == 200 => {
                    return answer.json()["results"].as_array().unwrap().clone();
                }
                Ok(answer) => assert!([429, 503].contains(&answer.status), "{}", answer.body),
                Err(_) => *client = None,
            }
        }
    }
}

#[test]
fn requests_sent_three_times_at_once_over_kills_store_each_event_once() {
    let folder = tempfile::tempdir().unwrap();
    let (told, acks) = mpsc::channel();
    let address = Arc::new(Address::default());
    let mut senders = Vec::new();
    for (group, attempt) in (0..GROUPS).flat_map(|group| (0..ATTEMPTS).map(move |it| (group, it))) {
        let (address, told) = (Arc::clone(&address), told.clone());
        let resender = Resender { address, group, attempt, told };
        senders.push(thread::spawn(|| resender.run()));
    }
    drop(told);
    let mut told: BTreeMap<String, BTreeSet<Place>> = BTreeMap::new();
    let mut kills = 0;
    loop {
        let node = Node::start(folder.path());
        address.set(Some((node.http, node.key.clone())));
        let mut count = 0;
        for places in acks.iter().take(ACKS_PER_LIFE) {
            places.into_iter().for_each(|(id, place)| {
                told.entry(id).or_default().insert(place);
            });
            count += 1;
        }
        if count < ACKS_PER_LIFE {
            break;
        }
        address.set(None);
        node.kill();
        kills += 1;
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    assert!(kills >= 5, "{kills} kills");
    let stored = places(folder.path());
    assert_eq!(stored.len() as u64, GROUPS * (REQUESTS * (EVENTS - 1) + 1));
    for (id, places) in stored {
        assert_eq!(places.len(), 1, "{id} lies in {places:?}");
        assert_eq!(told[&id], BTreeSet::from([places[0]]), "{id}");
    }
}
