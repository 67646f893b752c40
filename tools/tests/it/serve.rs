//! Starting, serving and stopping.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::rig::{Node, ended, replay, run, serve, text};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_first_start_makes_a_key_topics_and_secrets_of_its_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let node = Node::start(&data);
    assert!(node.ready.contains(&format!("http://{}", node.http)), "{}", node.ready);
    assert!(node.key.starts_with("tl_") && node.key.len() == 35);
    assert_eq!(mode(&data), 0o700);
    for secret in ["default.key", "admin.token", "key.pem"] {
        assert_eq!(mode(&data.join(secret)), 0o600, "{secret}");
    }
    let ran = run(&["topic", "list", "--json", "--data", text(&data)]);
    let topics: Vec<Value> =
        ran.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let partitions = |name: &str| {
        let topic = topics.iter().find(|topic| topic["topic"] == name);
        topic.map(|topic| topic["partitions"].clone())
    };
    for (name, count) in [("raw", 16), ("rejected", 4), ("enriched", 16), ("undelivered", 4)] {
        assert_eq!(partitions(name), Some(count.into()), "{name}");
    }
    assert!(partitions("_schemas").is_some());
    let key = node.key.clone();
    let (status, errors) = node.terminate();
    assert!(status.success());
    let told = errors.iter().filter(|line| line.contains(&key)).count();
    assert_eq!(told, 1, "the new key is printed once: {errors:?}");
}

#[test]
fn a_restart_keeps_the_key_and_every_event_and_does_not_print_the_key_again() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    node.track("before", "1");
    let key = node.key.clone();
    assert!(node.terminate().0.success());
    assert!(!data.path().join("node.json").exists(), "a stopped node is nowhere");
    let node = Node::start(data.path());
    assert_eq!(node.key, key);
    node.track("after", "1");
    let names: Vec<_> =
        replay(data.path(), "raw").iter().map(|line| line["event"].to_string()).collect();
    assert_eq!(names, ["\"before\"", "\"after\""]);
    let (_, errors) = node.terminate();
    assert!(!errors.iter().any(|line| line.contains(&key)), "{errors:?}");
}

#[test]
fn a_killed_node_comes_back_with_what_it_acked() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    for user in 0..20 {
        node.track("acked", &user.to_string());
    }
    node.kill();
    assert!(data.path().join("node.json").exists(), "a killed node leaves its address behind");
    assert_eq!(replay(data.path(), "raw").len(), 20, "offline, with a stale node.json");
    let node = Node::start(data.path());
    assert_eq!(replay(data.path(), "raw").len(), 20);
    node.track("more", "1");
    assert_eq!(replay(data.path(), "raw").len(), 21);
}

#[test]
fn a_second_start_on_a_held_folder_is_refused_in_one_line_and_harms_nothing() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    let refused = Node::try_start(data.path(), |command| command).err().expect("it is held");
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("in use by another process"), "{}", refused.stderr);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    node.track("still here", "1");
    assert_eq!(replay(data.path(), "raw").len(), 1, "node.json is the first one's still");
}

#[test]
fn sigterm_finishes_requests_in_hand_and_every_ack_is_kept() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    let acked = Arc::new(AtomicU64::new(0));
    #[expect(clippy::needless_collect, reason = "all start before one is waited for")]
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (mut client, key) = (node.client(), node.key.clone());
            let acked = Arc::clone(&acked);
            std::thread::spawn(move || {
                let target = format!("/v1/track?writeKey={key}");
                for number in 0.. {
                    let body = format!(r#"{{"event":"e","userId":"{sender}-{number}"}}"#);
                    match client.ask("POST", &target, &body) {
                        Ok(answer) if answer.status == 200 => {
                            acked.fetch_add(1, Ordering::Relaxed);
                        }
                        // Refused while draining, or closed after the last answer.
                        _ => return,
                    }
                }
            })
        })
        .collect();
    while acked.load(Ordering::Relaxed) < 50 {
        std::thread::yield_now();
    }
    let (status, errors) = node.terminate();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    assert!(status.success(), "{errors:?}");
    let stored = replay(data.path(), "raw").len() as u64;
    assert!(stored >= acked.load(Ordering::Relaxed), "{stored} of {acked:?}");
}

#[test]
fn a_node_whose_ready_line_nobody_reads_serves_and_stops_cleanly() {
    let data = tempfile::tempdir().unwrap();
    let mut process = serve(data.path()).spawn().unwrap();
    drop(process.stdout.take());
    let address = data.path().join("node.json");
    while !address.exists() {
        assert_eq!(process.try_wait().unwrap(), None, "it runs");
        std::thread::yield_now();
    }
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.unwrap(), Signal::TERM).unwrap();
    let ran = ended(process);
    assert!(ran.status == 0 && ran.stderr.contains("stopping"), "{}", ran.stderr);
    assert!(!address.exists(), "a stopped node is nowhere");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let parent = tempfile::tempdir().unwrap();
    let [by_file, by_variable, by_flag] =
        ["file", "variable", "flag"].map(|it| parent.path().join(it));
    let config = parent.path().join("tracklog.toml");
    let file = format!(
        "data = {:?}\nhttp = \"127.0.0.1:0\"\nhttps = \"off\"\n\n[sources.web]\nwrite_key = \"web key\"\n",
        text(&by_file)
    );
    std::fs::write(&config, file).unwrap();
    let start = |variable: Option<&Path>, flag: Option<&Path>| {
        let mut command = crate::rig::tracklog(&["serve", "--config", text(&config)]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        variable.map(|path| command.env("TRACKLOG_DATA", path));
        flag.map(|path| command.arg("--data").arg(path));
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        let stdout = process.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        line
    };
    assert!(start(None, None).contains(&format!("data={}", text(&by_file))));
    assert!(start(Some(&by_variable), None).contains(&format!("data={}", text(&by_variable))));
    let line = start(Some(&by_variable), Some(&by_flag));
    assert!(line.contains(&format!("data={}", text(&by_flag))), "{line}");
    assert!(!line.contains("https://"), "https is off: {line}");
}

#[test]
fn sources_of_the_file_have_their_keys_and_rules() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("tracklog.toml");
    let file = "[sources.web]\nwrite_key = \"web\"\nip = \"drop\"\nuser_id = \"hmac\"\n\
                unknown_events = \"accept\"\nrequire = [\"anonymousId\"]\n";
    std::fs::write(&config, file).unwrap();
    let node = Node::start_with(data.path(), |command| command.arg("--config").arg(&config));
    let send = |body: &str| {
        let answer = node.client().ask("POST", "/v1/track?writeKey=web", body);
        answer.unwrap().status
    };
    assert_eq!(send(r#"{"event":"e","userId":"7"}"#), 400, "an anonymous id is required");
    assert_eq!(send(r#"{"event":"e","userId":"7","anonymousId":"a"}"#), 200);
    let line = &replay(data.path(), "raw")[0];
    assert_eq!(line["source"], "web");
    let user = line["userId"].as_str().unwrap();
    assert!(user.len() == 64 && user.bytes().all(|byte| byte.is_ascii_hexdigit()), "{user}");
    for user in ["7", user] {
        let found = run(&["find", "--user", user, "--json", "--data", text(data.path())]);
        assert_eq!(found.lines().len(), 1, "by what was sent, and by what is stored: {found:?}");
    }
    assert!(line.get("clientAddress").is_none() && line.get("peerAddress").is_none(), "{line}");
    assert_eq!(mode(&data.path().join("privacy.key")), 0o600);
}

#[test]
fn metrics_are_open_and_whole_and_operators_routes_are_not() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    node.track("counted", "1");
    let metrics = node.client().ask("GET", "/metrics", "").unwrap();
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.ends_with("# EOF\n") && metrics.body.matches("# EOF").count() == 1);
    for wanted in
        ["tracklog_log_commits_total", "tracklog_log_state{tracklog_log_state=\"open\"} 1"]
    {
        assert!(metrics.body.contains(wanted), "{wanted} in {}", metrics.body);
    }
    for target in
        ["/v1/topics", "/v1/topics/raw/events", "/v1/verify", "/v1/topics/_schemas/events"]
    {
        assert_eq!(node.client().ask("GET", target, "").unwrap().status, 401, "{target}");
    }
    assert_eq!(node.operator().ask("GET", "/v1/topics", "").unwrap().status, 200);
    for target in ["/livez", "/readyz", "/"] {
        assert_eq!(node.client().ask("GET", target, "").unwrap().status, 200, "{target}");
    }
}

#[test]
fn a_taken_port_is_one_line_and_the_folder_is_free_again() {
    let data = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = crate::rig::tracklog(&["serve", "--http", &address, "--https", "off", "--data"])
        .arg(data.path())
        .env("TRACKLOG_LOG", "error")
        .output();
    let ran = crate::rig::Ran::of(ran.unwrap());
    assert!(ran.stderr.contains(&format!("cannot listen on {address}")), "{}", ran.stderr);
    drop(taken);
    Node::start(data.path()).track("now it works", "1");
}

#[test]
fn doctor_says_which_backend_the_node_took_that_runs_there() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start_with(data.path(), |command| command.env("TRACKLOG_BACKEND", "blocking"));
    let told = || {
        let ran = run(&["doctor", "--json", "--data", text(data.path())]);
        let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let told = lines.filter(|line| line["what"].as_str().unwrap().starts_with("disk backend"));
        told.map(|line| [&line["what"], &line["found"]].map(|it| it.as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let [[running, took], [fresh, _]] = &told()[..] else { panic!("{:?}", told()) };
    assert_eq!((&**running, &**fresh), ("disk backend of the node that runs here", "disk backend"));
    assert!(took.starts_with("blocking ") && took.contains("process "), "{took}");
    assert!(node.terminate().0.success());
    assert_eq!(told().len(), 1, "nobody runs there");
}
