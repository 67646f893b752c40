//! Forgetting somebody in a real node's folder, while it is stopped and while it runs: a planted word is
//! in no file afterwards, whenever the verb or the node was killed, and all that is of others is as it
//! was.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::hook::Hook;
use crate::http::Client;
use crate::rig::{Node, Ran, eventually, replay, run, text, tracklog};

/// What must be nowhere.
const CANARY: &str = "c4n4ry-7b1e9f20d6a84c35";
/// The user who is forgotten; the word is in the id too.
const ALICE: &str = "alice-c4n4ry-7b1e9f20d6a84c35";

/// A folder with a node's data and settings: an archive that is never far behind, and a destination
/// that takes nothing.
struct Site {
    parent: tempfile::TempDir,
    hook: Hook,
}

impl Site {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let hook = Hook::new(|_| 400);
        let routes = parent.path().join("routes.toml");
        let rules = format!(
            "[destinations.crm]\ntype = \"webhook\"\nurl = {:?}\nsecret_file = \"crm.secret\"\n\n\
             [[rules]]\nname = \"all\"\nto = [\"crm\"]\n",
            hook.url()
        );
        std::fs::write(&routes, rules).unwrap();
        std::fs::write(parent.path().join("crm.secret"), "0123456789abcdef\n").unwrap();
        let settings =
            format!("[archive]\nflush_interval = \"100ms\"\n[route]\nfile = {:?}\n", text(&routes));
        std::fs::write(parent.path().join("tracklog.toml"), settings).unwrap();
        Self { parent, hook }
    }

    fn data(&self) -> PathBuf {
        self.parent.path().join("data")
    }

    fn start(&self) -> Node {
        let config = self.parent.path().join("tracklog.toml");
        Node::start_with(&self.data(), |command| command.arg("--config").arg(config))
    }

    fn archived(&self, topic: &str) -> u64 {
        let archive = self.data().join("archive");
        let ran = run(&["archive", "status", "--json", "--archive", text(&archive)]);
        let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found = lines.into_iter().find(|line| line["topic"] == topic);
        found.map_or(0, |line| line["rows"].as_u64().unwrap())
    }

    /// All that the product reads out of the folder.
    fn lines(&self) -> Vec<String> {
        let (data, archive) = (self.data(), self.data().join("archive"));
        let of_log = ["raw", "enriched", "rejected", "undelivered"]
            .map(|topic| run(&["replay", topic, "--json", "--data", text(&data)]));
        let of_archive = ["raw", "enriched"]
            .map(|topic| run(&["replay", topic, "--json", "--archive", text(&archive)]));
        let all = of_log.iter().chain(&of_archive);
        all.flat_map(|ran| ran.lines().into_iter().map(str::to_owned)).collect()
    }
}

fn event(number: usize) -> Value {
    let (user, device, word) = match number % 4 {
        0 => (Some(ALICE), "phone-of-alice", CANARY),
        1 => (Some("bob"), "phone-of-bob", "plain"),
        // Before she logs in.
        2 => (None, "phone-of-alice", CANARY),
        _ => (None, "nobodys", "plain"),
    };
    json!({"type": "track", "event": "Bought", "messageId": format!("m{number}"),
           "anonymousId": device, "userId": user,
           "properties": {"word": word, "number": number},
           "context": {"traits": {"word": word}}})
}

fn fill(node: &Node) {
    for from in (0..200).step_by(50) {
        let events: Vec<Value> = (from..from + 50).map(event).collect();
        let answer = node.post("/v1/batch", &json!({ "batch": events }).to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    for (user, word) in [(ALICE, CANARY), ("bob", "plain")] {
        let identify = json!({"type": "identify", "userId": user, "anonymousId": format!("i{user}"),
                              "traits": {"word": word, "email": format!("{word}@example.org")}});
        let answer = node.post("/v1/batch", &json!({ "batch": [identify] }).to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        // One that is refused: it has no name.
        let bad = json!({"type": "track", "userId": user, "properties": {"word": word}});
        node.post("/v1/batch", &json!({ "batch": [bad] }).to_string());
    }
}

/// Files below `folder` that have the word in their bytes.
fn files_with(folder: &Path, word: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_with(&path, word, found);
        } else if has(&std::fs::read(&path).unwrap(), word.as_bytes()) {
            found.push(path);
        }
    }
}

/// Whether a word is among the bytes. Slots are mostly zeros.
fn has(bytes: &[u8], word: &[u8]) -> bool {
    const PIECE_BYTES: usize = 4096;
    (0..bytes.len()).step_by(PIECE_BYTES).any(|at| {
        let end = bytes.len().min(at + PIECE_BYTES);
        let is_empty = bytes[at..end] == [0; PIECE_BYTES][..end - at];
        let piece = &bytes[at.saturating_sub(word.len())..end];
        !is_empty && piece.windows(word.len()).any(|window| window == word)
    })
}

fn found(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    files_with(folder, CANARY, &mut all);
    all
}

fn forget(data: &Path, more: &[&str]) -> Ran {
    run(&[&["forget", ALICE, "--data", text(data)], more].concat())
}

/// The verb at work, when it has said so many things, or all.
fn forgetting(data: &Path, nth: usize) -> Child {
    let mut process = tracklog(&["forget", ALICE, "--yes", "--data", text(data)])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(process.stderr.take().unwrap());
    assert!(told.lines().take(nth).all(|line| line.is_ok()));
    process
}

#[test]
fn a_planted_word_is_nowhere_and_all_else_is_there_whenever_it_was_killed() {
    let site = Site::new();
    let data = site.data();
    let node = site.start();
    fill(&node);
    eventually("all is enriched and archived", || site.archived("enriched") == 202);
    eventually("all is set aside", || replay(&data, "undelivered").len() >= 202);
    assert!(node.terminate().0.success());

    let before = site.lines();
    assert!(before.iter().filter(|line| line.contains(CANARY)).count() > 500);
    assert!(!found(&data).is_empty());
    assert!(forget(&data, &[]).refusal().contains("no way back"));
    let checkpoints =
        || ["checkpoint-a", "checkpoint-b"].map(|file| std::fs::read(data.join(file)).unwrap());
    let written = checkpoints();
    let counted = forget(&data, &["--dry-run", "--json"]);
    assert!(checkpoints() == written, "no run began");
    let counted: Value = serde_json::from_str(counted.lines()[0]).unwrap();
    assert_eq!(counted["records"]["raw"], 101, "{counted}");
    assert_eq!(counted["archived"]["raw"], 101, "{counted}");
    assert_eq!(counted["anonymousIds"].as_array().unwrap().len(), 2, "{counted}");
    assert_eq!(site.lines(), before, "a dry run changes nothing");

    // Killed at what it says first, second and so on: it is at that then.
    for nth in 1..12 {
        let mut process = forgetting(&data, nth);
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let receipt = forget(&data, &["--yes", "--json"]);
    let receipt: Value = serde_json::from_str(receipt.lines()[0]).unwrap();
    let unreached = receipt["unreached"].as_array().unwrap();
    for copies in
        ["backups", "older versions", "webhooks, files", "Redis or PostgreSQL", "exported"]
    {
        let is_told = unreached.iter().any(|it| it.as_str().unwrap().contains(copies));
        assert!(is_told, "{copies}: {receipt}");
    }
    let again = forget(&data, &["--yes"]);
    assert!(again.stdout.contains("nothing of them was found"), "{}", again.stdout);

    assert_eq!(found(&data), Vec::<PathBuf>::new());
    let after = site.lines();
    assert!(after.iter().all(|line| !line.contains(CANARY)));
    let of_others: Vec<String> = before.into_iter().filter(|line| !line.contains(CANARY)).collect();
    assert_eq!(after, of_others, "all lines of others, as they were");
    let archive = data.join("archive");
    let ran = run(&["archive", "verify", "--json", "--archive", text(&archive)]);
    let verdict: Value = serde_json::from_str(ran.lines()[0]).unwrap();
    assert_eq!(verdict["summary"]["clean"], true, "{verdict}");
    assert_eq!(run(&["verify", "--data", text(&data)]).status, 0);

    // The node goes on: the state is built again without her, and what comes is taken.
    let node = site.start();
    node.track("Left", "bob");
    eventually("it is archived", || site.archived("enriched") == 102);
    assert!(node.terminate().0.success());
    assert_eq!(found(&data), Vec::<PathBuf>::new());
    assert!(site.lines().iter().filter(|line| line.contains("\"Left\"")).count() >= 4);
}

/// Posts events of Bob, each acked, until it is told to end: how many.
fn post_on(mut client: Client, key: &str, is_over: &AtomicBool) -> usize {
    let target = format!("/v1/batch?writeKey={key}");
    let mut posted = 0;
    while !is_over.load(Ordering::Relaxed) {
        let event = json!({"type": "track", "event": "Went on", "messageId": format!("w{posted}"),
                           "anonymousId": "phone-of-bob", "userId": "bob"});
        let body = json!({ "batch": [event] }).to_string();
        let answer = client.ask("POST", &target, &body).expect("the node answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
        posted += 1;
    }
    posted
}

#[test]
fn a_node_that_runs_forgets_and_goes_on_taking_events() {
    let site = Site::new();
    let data = site.data();
    let node = site.start();
    fill(&node);
    eventually("all is enriched and archived", || site.archived("enriched") == 202);
    eventually("all is set aside", || replay(&data, "undelivered").len() >= 202);
    let counted = forget(&data, &["--dry-run", "--json"]);
    let counted: Value = serde_json::from_str(counted.lines()[0]).unwrap();
    assert_eq!(counted["records"]["enriched"], 101, "{counted}");
    assert_eq!(counted["archived"]["enriched"], 101, "{counted}");
    let elsewhere = forget(&data, &["--yes", "--archive", "/nowhere"]);
    assert!(elsewhere.refusal().contains("its own archive"));

    // Some that nobody has made anything of yet.
    for from in (1_000..3_000).step_by(50) {
        let events: Vec<Value> = (from..from + 50).map(|number| event(4 * number)).collect();
        let answer = node.post("/v1/batch", &json!({ "batch": events }).to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    // What was set aside is tried again meanwhile, and set aside anew.
    site.hook.answer(|_| {
        std::thread::park_timeout(Duration::from_millis(20));
        400
    });
    let retry = run(&["destination", "retry", "crm", "--data", text(&data)]);
    assert_eq!(retry.status, 0, "{}", retry.stderr);
    let is_over = AtomicBool::new(false);
    let (receipt, posted) = std::thread::scope(|scope| {
        let (client, key, is_over) = (node.client(), node.key.as_str(), &is_over);
        let posting = scope.spawn(move || post_on(client, key, is_over));
        let ran = forget(&data, &["--yes", "--json"]);
        is_over.store(true, Ordering::Relaxed);
        (ran, posting.join().unwrap())
    });
    let receipt: Value = serde_json::from_str(receipt.lines()[0]).unwrap();
    assert_eq!(receipt["records"]["raw"], 2_101, "{receipt}");
    assert!(posted > 0, "events were taken meanwhile");
    // While it runs: nothing of it is in a file that is open either.
    assert_eq!(found(&data), Vec::<PathBuf>::new());

    let again = run(&["destination", "retry", "crm", "--data", text(&data)]);
    assert_eq!(again.status, 0, "destinations go on: {}", again.stderr);
    // What waited is enriched and archived, once each; of her nothing is known.
    let event = json!({"type": "track", "event": "Came back", "anonymousId": "phone-of-alice"});
    node.post("/v1/batch", &json!({ "batch": [event] }).to_string());
    eventually("what waited is archived", || site.archived("enriched") == 102 + posted as u64);
    for topic in ["raw", "enriched"] {
        let of_topic = replay(&data, topic);
        let went_on = of_topic.iter().filter(|line| line["event"] == "Went on").count();
        assert_eq!((of_topic.len(), went_on), (102 + posted, posted), "{topic}");
    }
    let identify = json!({"type": "identify", "userId": "bob", "traits": {"plan": "gold"}});
    node.post("/v1/batch", &json!({ "batch": [identify] }).to_string());
    eventually("state goes on", || site.archived("enriched") == 103 + posted as u64);
    assert!(site.lines().iter().all(|line| !line.contains(CANARY)));
    let again = forget(&data, &["--yes"]);
    assert!(again.stdout.contains("nothing of them was found"), "{}", again.stdout);
    assert!(node.terminate().0.success());
    assert_eq!(run(&["verify", "--data", text(&data)]).status, 0);
    assert_eq!(found(&data), Vec::<PathBuf>::new());
}

#[test]
fn a_node_that_is_killed_while_it_forgets_goes_on_when_it_is_asked_again() {
    let site = Site::new();
    let data = site.data();
    let node = site.start();
    fill(&node);
    eventually("all is enriched and archived", || site.archived("enriched") == 202);
    drop(node);
    for nth in 1..12 {
        let node = site.start();
        let mut process = forgetting(&data, nth);
        node.kill();
        process.wait().unwrap();
    }
    // One that is told to stop meanwhile stops.
    let node = site.start();
    let mut process = forgetting(&data, 1);
    assert!(node.terminate().0.success());
    process.wait().unwrap();
    let node = site.start();
    // A client that goes away changes nothing.
    let mut process = forgetting(&data, 1);
    process.kill().unwrap();
    process.wait().unwrap();
    eventually("the node ends what it began", || {
        let ran = forget(&data, &["--yes"]);
        assert!(ran.status == 0 || ran.stderr.contains("is being forgotten"), "{}", ran.stderr);
        ran.status == 0
    });
    assert_eq!(found(&data), Vec::<PathBuf>::new());
    node.track("Left", "bob");
    eventually("it is archived", || site.archived("enriched") == 102);
    assert!(site.lines().iter().all(|line| !line.contains(CANARY)));
    assert!(node.terminate().0.success());
    assert_eq!(found(&data), Vec::<PathBuf>::new());
}

/// The log becomes one that was restored from a backup; the log that was there is beside it.
fn restore_over(site: &Site, place: &str) -> String {
    let (data, place) = (site.data(), site.parent.path().join(place));
    let made = run(&["backup", "--json", "--data", text(&data), "--to", text(&place)]);
    assert_eq!(made.status, 0, "{}", made.stderr);
    let restore = ["restore", "--json", "--from", text(&place), "--data", text(&data)];
    let report: Value = serde_json::from_str(run(&restore).lines()[0]).unwrap();
    let replaced = Path::new(report["replaced"].as_str().unwrap());
    replaced.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_log_that_a_restore_replaced_goes_too_in_a_stopped_folder_and_on_a_node() {
    let site = Site::new();
    let data = site.data();
    let node = site.start();
    fill(&node);
    assert!(node.terminate().0.success());
    let replaced = restore_over(&site, "place-1");
    std::fs::write(data.join("notes"), "an operator's").unwrap();
    let holds = |name: &str| found(&data).iter().any(|path| path.starts_with(data.join(name)));
    assert!(holds(&replaced));
    let refused = forget(&data, &[]);
    assert!(refused.refusal().contains(&replaced), "{}", refused.stderr);
    let counted = forget(&data, &["--dry-run"]);
    let line = format!("{replaced}: would be removed as a whole, a log that a restore replaced");
    assert!(counted.lines().contains(&&*line), "{}", counted.stdout);
    assert!(holds(&replaced));
    // One that was killed while it removed it, and is run again.
    std::fs::remove_file(data.join(&replaced).join("checkpoint-a")).unwrap();
    let receipt = forget(&data, &["--yes", "--json"]);
    let receipt: Value = serde_json::from_str(receipt.lines()[0]).unwrap();
    assert_eq!(receipt["replacedLogs"], json!([replaced]), "{receipt}");
    let foreign = "what is not the node's own in the data folder: notes";
    assert!(receipt["unreached"].as_array().unwrap().contains(&json!(foreign)), "{receipt}");
    assert_eq!(found(&data), Vec::<PathBuf>::new());
    assert!(!data.join(&replaced).exists());

    let node = site.start();
    fill(&node);
    assert!(node.terminate().0.success());
    let replaced = restore_over(&site, "place-2");
    assert!(holds(&replaced));
    let node = site.start();
    let counted = forget(&data, &["--dry-run", "--json"]);
    let counted: Value = serde_json::from_str(counted.lines()[0]).unwrap();
    assert_eq!(counted["replacedLogs"], json!([replaced]), "{counted}");
    let receipt = forget(&data, &["--yes"]);
    let line = format!("{replaced}: removed as a whole, a log that a restore replaced");
    assert!(receipt.lines().contains(&&*line), "{}", receipt.stdout);
    assert_eq!(found(&data), Vec::<PathBuf>::new());
    assert!(node.terminate().0.success());
    assert_eq!(found(&data), Vec::<PathBuf>::new());
}

#[test]
fn an_archive_in_the_folder_that_the_node_writes_to_no_more_is_gone_through_too() {
    let site = Site::new();
    let data = site.data();
    let node = site.start();
    fill(&node);
    eventually("all is archived", || site.archived("enriched") == 202);
    assert!(node.terminate().0.success());
    let holds = || found(&data).iter().any(|path| path.starts_with(data.join("archive")));
    assert!(holds());
    let other = site.parent.path().join("archive-2");
    let config = site.parent.path().join("tracklog.toml");
    let settings = std::fs::read_to_string(&config).unwrap();
    let elsewhere = format!("[archive]\nurl = {:?}", text(&other));
    std::fs::write(&config, settings.replace("[archive]", &elsewhere)).unwrap();
    let node = site.start();
    let receipt = forget(&data, &["--yes", "--json"]);
    let receipt: Value = serde_json::from_str(receipt.lines()[0]).unwrap();
    let own = data.join("archive");
    assert_eq!(receipt["archives"], json!([text(&other), text(&own)]), "{receipt}");
    assert_eq!(found(&data), Vec::<PathBuf>::new());
    assert_eq!(found(&other), Vec::<PathBuf>::new());
    assert_eq!(site.archived("enriched"), 101, "what is of others stays");
    assert!(node.terminate().0.success());
}
