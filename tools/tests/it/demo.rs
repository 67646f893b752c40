//! `tracklog demo`: it runs by itself, and every command that it prints works.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use crate::rig::{ended, run, text, tracklog};

#[test]
fn the_demo_ends_by_itself_with_accepted_and_rejected_events() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("demo folder");
    let ran = run(&["demo", "--for", "3s", "--data", text(&data)]);
    let lines = ran.lines();
    let last = lines.iter().rfind(|line| line.contains("accepted")).expect("it tells how it goes");
    let count = |word: &str| {
        let rest = last.split_once(word).expect("the word is there").1;
        let number = rest.split([' ', ',', '/']).next().unwrap();
        number.parse::<u64>().unwrap()
    };
    assert!(count("accepted ") > 100, "{last}");
    assert!(count("rejected ") > 0 && count("failed ") == 0, "{last}");
    let accepted = count("accepted ");
    assert_eq!(count("enriched "), accepted, "it waits for the last of them: {last}");
    assert_eq!(count("archived "), 2 * accepted, "of raw and of enriched: {last}");
    assert!(count("live ") > 0, "{last}");
    for topic in ["orders", "gold"] {
        let routed = run(&["replay", topic, "--json", "--data", text(&data)]).lines().len() as u64;
        assert!(routed > 0, "{topic}");
        assert_eq!(count(&format!("{topic} ")), routed, "{topic}: {last}");
    }
    let replayed = run(&["replay", "raw", "--json", "--data", text(&data)]).lines().len();
    assert_eq!(replayed as u64, count("accepted "), "what it counts is what is stored");
    let enriched = run(&["replay", "enriched", "--last", "1", "--json", "--data", text(&data)]);
    let enriched: serde_json::Value = serde_json::from_str(enriched.lines()[0]).unwrap();
    assert!(enriched["geo"]["city"].is_string(), "{enriched}");
    let again = run(&["demo", "--for", "1s", "--data", text(&data)]);
    assert_eq!(again.status, 0, "made anew: {}", again.stderr);
}

#[test]
fn every_command_that_the_demo_prints_works_while_it_runs() {
    let parent = tempfile::tempdir().unwrap();
    let mut demo = tracklog(&["demo", "--for", "60s", "--data", "the demo"])
        .current_dir(parent.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut commands = Vec::new();
    for line in lines.by_ref() {
        if line.contains("accepted ") && !line.contains("accepted 0 ") {
            break;
        }
        commands.extend(line.strip_prefix("  $ ").map(str::to_owned));
    }
    let reader = std::thread::spawn(move || lines.for_each(drop));
    if commands.len() < 6 {
        drop(demo.kill());
        panic!("it prints few commands: {commands:?} {:?}", ended(demo));
    }
    for command in &commands {
        if command.starts_with("curl") && Command::new("curl").arg("--version").output().is_err() {
            let told = writeln!(io::stderr(), "SKIPPED: there is no curl for {command}");
            told.expect("standard error is open");
            continue;
        }
        let mut shell = Command::new("sh");
        let output = shell.args(["-c", command]).current_dir(parent.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {} {told}", output.status);
        assert!(!output.stdout.is_empty(), "{command} prints something");
    }
    demo.kill().unwrap();
    demo.wait().unwrap();
    reader.join().unwrap();
}

#[test]
fn a_folder_that_no_demo_made_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::write(parent.path().join("precious"), "x").unwrap();
    let ran = run(&["demo", "--for", "1s", "--data", text(parent.path())]);
    assert!(ran.refusal().contains("left alone"), "{}", ran.stderr);
    assert!(parent.path().join("precious").exists());
}

#[test]
fn what_somebody_put_into_a_demo_s_folder_is_not_removed() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("demo");
    assert_eq!(run(&["demo", "--for", "1s", "--data", text(&data)]).status, 0);
    std::fs::write(data.join("notes.md"), "x").unwrap();
    let ran = run(&["demo", "--for", "1s", "--data", text(&data)]);
    assert!(ran.refusal().contains("it holds \"notes.md\""), "{}", ran.stderr);
    assert!(data.join("notes.md").exists() && data.join("journal").exists());
}

#[test]
fn a_demo_that_runs_is_not_disturbed_by_a_second_one() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("demo");
    let mut first = tracklog(&["demo", "--for", "60s", "--data", text(&data)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = first.stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("accepted ")));
    let second = run(&["demo", "--for", "1s", "--data", text(&data)]);
    assert!(second.refusal().contains("a `demo` runs in it"), "{}", second.stderr);
    first.kill().unwrap();
    drop(lines);
    first.wait().unwrap();
    let third = tracklog(&["demo", "--for", "1s", "--data", text(&data)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    assert_eq!(ended(third.unwrap()).status, 0, "a killed demo's folder is made anew");
}
