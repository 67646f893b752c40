//! A node under load is killed at random moments, and nothing that it acked is lost.
//!
//! `tracklog torture` does it, as any user can: `TRACKLOG_KILL_SEED=7 cargo test -p tracklog-tools
//! kill` repeats the moments of a seed.

use std::io::{self, Write as _};

use crate::rig::{run, text};

const SEED: &str = "20260102";

#[test]
fn twenty_kills_lose_no_acked_event_with_threads() {
    kill_twenty_times("blocking");
}

#[test]
fn twenty_kills_lose_no_acked_event_with_io_uring() {
    kill_twenty_times("uring");
}

fn kill_twenty_times(backend: &str) {
    let seed = std::env::var("TRACKLOG_KILL_SEED").unwrap_or_else(|_| SEED.to_owned());
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("torture");
    let ran = run(&[
        "torture",
        "--json",
        "--data",
        text(&data),
        "--backend",
        backend,
        "--seed",
        &seed,
        "--kills",
        "25",
        "--for",
        "10m",
    ]);
    if ran.status == 2 && ran.stderr.contains("io_uring is refused") {
        return skip(&ran.stderr);
    }
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
    assert!(number("kills") >= 20 && number("kills_while_starting") >= 5, "{report}");
    assert!(number("recoveries") >= 19, "{report}");
    assert!(number("acked") > 500, "the load was a load: {report}");
    assert!(number("found") >= number("acked"), "{report}");
    for nothing in ["lost", "doubled", "misplaced", "gaps"] {
        assert_eq!(number(nothing), 0, "{report}");
    }
    assert!(!data.exists(), "when all is well nothing stays");
}

/// The folder stays for whoever wants to know, and a stranger's is never taken.
#[test]
fn a_folder_that_no_torture_made_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::write(parent.path().join("precious"), "x").unwrap();
    let ran = run(&["torture", "--data", text(parent.path()), "--for", "1s"]);
    assert!(ran.refusal().contains("is left alone"), "{}", ran.stderr);
    assert!(parent.path().join("precious").exists());
}

/// Aloud: what is captured would never be seen.
fn skip(why: &str) {
    writeln!(io::stderr(), "SKIPPED the kill test with io_uring: {}", why.trim())
        .expect("standard error is open");
}
