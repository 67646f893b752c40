//! What cannot be done is one clear line, status 2, and nothing lost.

use crate::rig::{Node, Ran, run, text, tracklog};

#[test]
fn unknown_topics_partitions_and_offsets_are_one_line_each() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let node = Node::start(data.path());
    node.track("e", "1");
    let says = |arguments: &[&str]| {
        let ran = run(&[arguments, &["--data", dir]].concat());
        ran.refusal().to_owned()
    };
    let check = || {
        assert_eq!(says(&["replay", "nothing"]), "there is no topic nothing");
        assert!(says(&["replay", "raw", "--partition", "16"]).contains("no partition 16"));
        assert!(says(&["replay", "raw", "--from", "2"]).contains("beyond the end of raw"));
        assert!(says(&["replay", "raw", "--from", "soon"]).starts_with("--from: \"soon\" is not"));
        assert!(says(&["replay", "raw", "--from-event-time", "7"]).contains("is not a time"));
    };
    check();
    assert_eq!(says(&["tail", "nothing"]), "there is no topic nothing");
    assert!(node.terminate().0.success());
    check();
    assert!(says(&["tail", "raw"]).contains("no node runs there"));
}

#[test]
fn a_folder_that_is_none_or_holds_no_log_is_one_line_and_is_left_as_it_is() {
    let parent = tempfile::tempdir().unwrap();
    let missing = parent.path().join("missing");
    let ran = run(&["replay", "raw", "--data", text(&missing)]);
    assert!(ran.refusal().contains("no such data folder"), "{}", ran.stderr);
    assert!(!missing.exists());
    let empty = parent.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for verb in [&["replay", "raw"][..], &["topic", "list"], &["topic", "create", "x"]] {
        let ran = run(&[verb, &["--data", text(&empty)]].concat());
        assert!(ran.refusal().contains("holds no log"), "{}", ran.stderr);
        assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "nothing is made");
    }
    let file = parent.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let ran = quietly(&["serve", "--data", text(&file)]);
    assert!(ran.refusal().starts_with(text(&file)), "{}", ran.stderr);
}

#[test]
fn no_log_is_made_in_a_folder_of_something_else() {
    let home = tempfile::tempdir().unwrap();
    for name in [".profile", "notes.txt"] {
        std::fs::write(home.path().join(name), "x").unwrap();
    }
    std::fs::create_dir(home.path().join("journal")).unwrap();
    for verb in ["serve", "topic create x"] {
        let verb: Vec<_> = verb.split(' ').collect();
        let ran = quietly(&[&verb[..], &["--data", text(home.path())]].concat());
        assert!(ran.refusal().starts_with(text(home.path())), "{}", ran.stderr);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 3, "nothing is made");
    }
    let ran = quietly(&["serve", "--data", text(home.path())]);
    assert!(ran.refusal().contains(r#"it holds ".profile" and no log"#), "{}", ran.stderr);
    assert!(ran.refusal().contains("name a new or an empty folder"), "{}", ran.stderr);
}

#[test]
fn a_port_in_use_is_one_line_that_names_the_setting_and_nothing_is_made() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    for (setting, variable) in [("http", "TRACKLOG_HTTP"), ("https", "TRACKLOG_HTTPS")] {
        let flag = format!("--{setting}");
        let ran = quietly(&["serve", "--data", text(&data), &flag, &address]);
        let start = format!("cannot listen on {address}: address in use; {flag}, {variable} or ");
        assert!(ran.refusal().starts_with(&start), "{}", ran.stderr);
        assert!(!data.exists(), "not even the folder");
    }
}

#[test]
fn what_a_start_left_behind_and_a_fresh_mount_are_no_hindrance() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    Node::start(data).kill();
    std::fs::write(data.join("notes.txt"), "beside a log it is nobody's business").unwrap();
    Node::start(data).kill();
    std::fs::remove_file(data.join("notes.txt")).unwrap();
    std::fs::create_dir(data.join("lost+found")).unwrap();
    // As if the first start had ended before the log was made, and the secrets by another's hand.
    for name in ["checkpoint-a", "checkpoint-b"] {
        std::fs::remove_file(data.join(name)).unwrap();
    }
    std::fs::remove_dir_all(data.join("journal")).unwrap();
    let key = std::fs::read_to_string(data.join("default.key")).unwrap();
    for name in ["default.key.new", "node.json.new", "cert.pem.new", ".probe-1"] {
        std::fs::write(data.join(name), "x").unwrap();
    }
    assert_eq!(Node::start(data).key, key.trim());
}

#[test]
fn a_file_of_no_log_is_said_to_be_none_with_status_1() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("notes.txt", &b"milk"[..]), ("empty", b""), ("image", &[0; 8_192])] {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let ran = run(&["inspect", text(&file)]);
        let what = format!("{} is no slot, pack, checkpoint, index or cut of a log", text(&file));
        assert_eq!((ran.status, &*ran.stdout), (1, ""));
        assert_eq!(ran.stderr, format!("tracklog: {what}\n"));
    }
    let ran = run(&["inspect", text(&folder.path().join("missing"))]);
    assert!(ran.refusal().contains("missing"), "{}", ran.stderr);
}

/// Without the log's own lines.
fn quietly(arguments: &[&str]) -> Ran {
    let mut command = tracklog(arguments);
    command.env("TRACKLOG_HTTP", "127.0.0.1:0").env("TRACKLOG_HTTPS", "off");
    Ran::of(command.env("TRACKLOG_LOG", "error").output().expect("tracklog starts"))
}

#[test]
fn a_folder_where_nothing_can_be_written_is_one_line() {
    let ran = quietly(&["serve", "--data", "/proc/tracklog-data"]);
    assert!(ran.refusal().starts_with("/proc/tracklog-data"), "{}", ran.stderr);
}

#[test]
fn settings_that_nobody_reads_are_refused_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tracklog.toml");
    std::fs::write(&config, "http = \"off\"\n\nhtpps = \"127.0.0.1:1\"\n").unwrap();
    let ran = quietly(&["serve", "--config", text(&config)]);
    assert!(ran.refusal().starts_with(&format!("{}:3: unknown field `htpps`", text(&config))));
    let ran = quietly(&["serve", "--config", "no/such/file.toml"]);
    assert!(ran.refusal().starts_with("no/such/file.toml: "), "{}", ran.stderr);
    let ran = quietly(&["serve", "--http", "127.0.0.1:1", "--https", "127.0.0.1:1"]);
    assert!(ran.refusal().contains("http and https are the same address"), "{}", ran.stderr);
    let ran = quietly(&["serve", "--http", "somewhere"]);
    assert!(ran.refusal().starts_with("--http: "), "{}", ran.stderr);
}

#[test]
fn a_certificate_that_is_none_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cert.pem");
    std::fs::write(&path, "no certificate").unwrap();
    let mut command = tracklog(&["serve", "--http", "off", "--https", "127.0.0.1:0", "--data"]);
    command.arg(folder.path().join("data")).env("TRACKLOG_LOG", "error");
    command.env("TRACKLOG_CERTIFICATE", &path).env("TRACKLOG_PRIVATE_KEY", &path);
    let ran = Ran::of(command.output().unwrap());
    assert!(ran.refusal().contains("cert.pem"), "{}", ran.stderr);
}

#[test]
fn wrong_usage_is_status_2_and_help_is_status_0() {
    assert_eq!(run(&["replay"]).status, 2);
    assert_eq!(run(&["replay", "raw", "--colour"]).status, 2);
    assert_eq!(run(&["--version"]).status, 0);
    for verb in [
        "serve",
        "demo",
        "tail",
        "replay",
        "verify",
        "inspect",
        "topic",
        "topic create",
        "topic list",
        "topic describe",
        "topic delete",
        "schema",
        "schema push",
        "schema list",
        "schema check",
        "doctor",
        "torture",
        "bench",
        "bench append",
        "bench replay",
        "bench gateway",
        "completions",
    ] {
        let words: Vec<_> = verb.split(' ').chain(["--help"]).collect();
        let ran = run(&words);
        let lines = ran.lines();
        assert!(lines.iter().any(|line| line.starts_with("Examples:")), "{verb} --help teaches");
    }
}

#[test]
fn completions_are_there_for_three_shells() {
    for (shell, wanted) in
        [("bash", "_tracklog()"), ("zsh", "#compdef tracklog"), ("fish", "complete -c tracklog")]
    {
        assert!(run(&["completions", shell]).lines().join("\n").contains(wanted), "{shell}");
    }
}

#[test]
fn an_address_where_nobody_is_is_one_line() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut command = tracklog(&["replay", "raw", "--node", &url]);
    let ran = Ran::of(command.env("TRACKLOG_TOKEN", "t").output().unwrap());
    assert!(ran.refusal().starts_with(&format!("cannot reach {url}")), "{}", ran.stderr);
    let mut command = tracklog(&["replay", "raw", "--node", "somewhere"]);
    let ran = Ran::of(command.env("TRACKLOG_TOKEN", "t").output().unwrap());
    assert!(ran.refusal().contains("is no URL"), "{}", ran.stderr);
}
