//! What others wrote is shown, and does nothing to the terminal that shows it.

use crate::rig::{Node, Ran, enriched, run, text, tracklog};

/// Clears the screen, begins a line, clears again in one byte's form, and turns letters around.
const HOSTILE: &str = "a\x1b[2J\nb\u{9b}2J\u{202e}c";
const SHOWN: &str = r"a\u{1b}[2J\u{a}b\u{9b}2J\u{202e}c";

#[track_caller]
fn harmless(ran: &Ran) {
    let all = [&*ran.stdout, &*ran.stderr].concat();
    let bad = |letter: char| letter.is_control() && letter != '\n' || letter == '\u{202e}';
    assert!(!all.contains(bad), "{all:?}");
    assert!(!ran.stderr.contains("panicked"), "{all:?}");
}

#[test]
fn names_of_events_and_schemas_cannot_move_the_cursor() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let files = tempfile::tempdir().unwrap();
    let schema = files.path().join("schema.json");
    std::fs::write(&schema, r#"{"type":"object","required":["x"]}"#).unwrap();
    let node = Node::start(data.path());
    node.track(HOSTILE, HOSTILE);
    let ran = run(&["schema", "push", text(&schema), "--event", HOSTILE, "--data", dir]);
    assert_eq!(ran.lines(), [format!("{SHOWN} version 1: registered")]);
    harmless(&ran);
    let ran = run(&["schema", "list", "--data", dir]);
    assert!(ran.lines()[1].starts_with(SHOWN), "{ran:?}");
    harmless(&ran);
    let payload = files.path().join(HOSTILE);
    std::fs::write(&payload, "{}").unwrap();
    let ran = run(&["schema", "check", text(&schema), "--payload", text(&payload)]);
    assert!(ran.status == 1 && ran.stdout.contains(SHOWN), "{ran:?}");
    harmless(&ran);
    for verb in [&["replay", "raw"][..], &["tail", "raw", "--from", "0", "--limit", "1"]] {
        let ran = run(&[verb, &["--data", dir]].concat());
        assert!(ran.lines().len() == 1 && ran.stdout.contains(SHOWN), "{ran:?}");
        harmless(&ran);
    }
    enriched(data.path(), 1);
    for more in [&["--last", "60"][..], &["--window", "1m"]] {
        let ran = run(&[&["watch", "--once", "--data", dir], more].concat());
        assert!(ran.lines().iter().any(|line| line.starts_with(SHOWN)), "{ran:?}");
        harmless(&ran);
    }
    let ran = run(&["replay", "raw", "--json", "--data", dir]);
    let line: serde_json::Value = serde_json::from_str(ran.lines()[0]).unwrap();
    assert_eq!(line["event"], HOSTILE, "lines of JSON are data");
}

#[test]
fn errors_that_repeat_what_was_typed_cannot_move_the_cursor() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let node = Node::start(data.path());
    let check = || {
        for arguments in [
            &["replay", HOSTILE][..],
            &["topic", "describe", HOSTILE],
            &["topic", "create", HOSTILE],
            &["topic", "delete", HOSTILE],
            &["replay", "raw", "--from", HOSTILE],
            &["schema", "check", HOSTILE],
            &["inspect", HOSTILE],
            &[HOSTILE],
        ] {
            let data: &[&str] = if arguments.len() > 1 { &["--data", dir] } else { &[] };
            let at = if arguments[0] == "inspect" { &[] } else { data };
            let ran = run(&[arguments, at].concat());
            assert_eq!(ran.status, 2, "{arguments:?}: {ran:?}");
            assert!(ran.stderr.contains(r"\u{9b}2J\u{202e}c"), "{arguments:?}: {ran:?}");
            harmless(&ran);
        }
    };
    check();
    assert!(node.terminate().0.success());
    check();
    harmless(&run(&["replay", "raw", "--data", HOSTILE]));
    let ran = tracklog(&["serve", "--http", HOSTILE, "--data", dir]).output().unwrap();
    harmless(&Ran::of(ran));
}
