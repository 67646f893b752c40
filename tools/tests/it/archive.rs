//! The archive of a real node: what was acked is in it once, whatever is killed; it is read back as
//! the log was, by us and by DuckDB, and a new folder is made of it.
//!
//! DuckDB is Python's package `duckdb`: of `$TRACKLOG_PYTHON`, else of `python3`, else installed
//! into a folder of its own. Where it cannot be had the test says so, past the harness's capture.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::rig::{Node, replay, run, text};

const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with a node's data and its settings: an archive that is never far behind.
struct Site {
    parent: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let site = Self { parent };
        site.configure("");
        site
    }

    fn configure(&self, more: &str) {
        let settings =
            format!("[archive]\nflush_interval = \"100ms\"\nflush_bytes = \"64 KiB\"\n{more}");
        std::fs::write(self.path("tracklog.toml"), settings).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.parent.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn archive(&self) -> PathBuf {
        self.path("data/archive")
    }

    fn start(&self) -> Node {
        let config = self.path("tracklog.toml");
        Node::start_with(&self.data(), |command| command.arg("--config").arg(config))
    }

    /// What the archive has of a topic; 0 while there is no archive.
    fn rows(&self, topic: &str) -> u64 {
        let ran = run(&["archive", "status", "--json", "--archive", text(&self.archive())]);
        let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found = lines.into_iter().find(|line| line["topic"] == topic);
        found.map_or(0, |line| line["rows"].as_u64().unwrap())
    }

    /// Waits until the archive has so many events of both topics.
    fn await_rows(&self, rows: u64) {
        let begin = Instant::now();
        while self.rows("raw") < rows || self.rows("enriched") < rows {
            assert!(begin.elapsed() < 4 * PATIENCE, "{} of {rows} are archived", self.rows("raw"));
        }
    }
}

fn event(number: usize) -> Value {
    let name = ["Bought", "Seen / All", "Left"][number % 3];
    json!({"type": "track", "event": name, "messageId": format!("m{number}"),
           "anonymousId": format!("v{}", number % 11),
           "timestamp": format!("2026-01-0{}T03:04:05.678Z", 1 + number % 3),
           "properties": {"number": number, "price": format!("{}.50", number % 7)},
           "context": {"page": {"url": "https://shop.example/?utm_source=x"}}})
}

/// Sends events of three names.
pub(crate) fn send(node: &Node, numbers: std::ops::Range<usize>) {
    let events: Vec<_> = numbers.map(event).collect();
    let answer = node.post("/v1/batch", &json!({ "batch": events }).to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// The lines of a topic, by the log in a folder or by an archive.
fn lines(topic: &str, place: &[&str]) -> Vec<String> {
    let ran = run(&[&["replay", topic, "--json"], place].concat());
    ran.lines().into_iter().map(str::to_owned).collect()
}

/// Without what a restore cannot give back.
fn without_append_time(lines: &[String]) -> BTreeSet<String> {
    let strip = |line: &String| {
        let (before, after) = line.split_once(",\"appendedAt\":\"").unwrap();
        format!("{before}{}", after.split_once('"').unwrap().1)
    };
    lines.iter().map(strip).collect()
}

#[test]
fn kills_neither_lose_nor_double_what_is_archived_and_a_new_folder_is_made_of_it() {
    const ROUNDS: usize = 7;
    const EVENTS: usize = 60;
    let site = Site::new();
    let mut sent = 0;
    for round in 0..ROUNDS {
        let node = site.start();
        for _ in 0..=(round * 5) % 9 {
            send(&node, sent..sent + EVENTS);
            sent += EVENTS;
        }
        node.kill();
    }
    let node = site.start();
    let schema = r#"{"properties":{"number":{"type":"integer"},"price":{"type":"string"}}}"#;
    let answer = node.operator().ask("PUT", "/v1/schemas/Bought", schema).unwrap();
    assert!(answer.status < 300, "{}", answer.body);
    send(&node, sent..sent + EVENTS);
    sent += EVENTS;
    site.await_rows(sent as u64);
    let metrics = node.client().ask("GET", "/metrics", "").unwrap().body;
    assert!(metrics.contains("tracklog_archive_up 1"), "{metrics}");
    assert!(metrics.contains("tracklog_archive_errors_total 0"), "{metrics}");
    assert!(node.terminate().0.success());

    let (data, archive) = (site.data(), site.archive());
    for topic in ["raw", "enriched"] {
        let of_log = lines(topic, &["--data", text(&data)]);
        assert_eq!(of_log.len(), sent, "each once");
        assert_eq!(lines(topic, &["--archive", text(&archive)]), of_log, "{topic}");
    }
    let ran = run(&["archive", "verify", "--json", "--archive", text(&archive)]);
    let verdict: Value = serde_json::from_str(ran.lines()[0]).unwrap();
    assert_eq!(verdict["summary"]["clean"], true, "{verdict}");
    assert_eq!(verdict["summary"]["rows"], 2 * sent, "{verdict}");

    filters_hold(&data, &archive);
    exports_hold(&site, sent);
    duckdb_agrees(&archive, &replay(&data, "raw"));
    restore_holds(&site, sent);
}

fn filters_hold(data: &Path, archive: &Path) {
    for filter in [
        &["--event", "Seen / All"][..],
        &["--partition", "3", "--from", "2"],
        &["--from-event-time", "2026-01-02", "--to-event-time", "2026-01-03"],
        &["--last", "7"],
        &["--to", "now", "--limit", "5"],
    ] {
        let of_log = lines("raw", &[filter, &["--data", text(data)]].concat());
        let of_archive = lines("raw", &[filter, &["--archive", text(archive)]].concat());
        assert!(!of_log.is_empty(), "{filter:?}");
        assert_eq!(of_archive, of_log, "{filter:?}");
    }
}

fn exports_hold(site: &Site, sent: usize) {
    let archive = site.archive();
    let export = |output: &str, arguments: &[&str]| {
        let output = site.path(output);
        let own = ["export", "--archive", text(&archive), "--output", text(&output)];
        let ran = run(&[&own, arguments].concat());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let parts = std::fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().path());
        parts.filter(|path| !path.ends_with("export.json")).collect::<Vec<_>>()
    };
    let read = |parts: &[PathBuf]| {
        let text: String = parts.iter().map(|it| std::fs::read_to_string(it).unwrap()).collect();
        text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let wanted = ["--name", "Bought", "--from", "2026-01-01", "--to", "2026-01-02"];
    let ndjson = [&wanted[..], &["--format", "ndjson"]].concat();
    let parts = export("ndjson", &ndjson);
    let filter = [
        "--event",
        "Bought",
        "--from-event-time",
        "2026-01-01",
        "--to-event-time",
        "2026-01-02",
        "--archive",
        text(&archive),
    ];
    let of_replay: BTreeSet<_> = lines("raw", &filter).into_iter().collect();
    assert!(!of_replay.is_empty());
    assert_eq!(read(&parts), of_replay);
    // An export that was interrupted goes on: what is there stays, what lacks comes.
    std::fs::remove_file(&parts[0]).unwrap();
    std::fs::write(&parts[1], "{}\n").unwrap();
    assert_eq!(export("ndjson", &ndjson).len(), parts.len());
    assert_eq!(std::fs::read_to_string(&parts[1]).unwrap(), "{}\n");
    let other =
        run(&["export", "--archive", text(&archive), "--output", text(&site.path("ndjson"))]);
    assert!(other.refusal().contains("it holds another export"), "{other:?}");

    let csv = read(&export("csv", &["--format", "csv"]));
    assert!(csv.iter().any(|line| line.starts_with("partition,offset,appendedAt")));
    assert_eq!(csv.len(), sent + 1, "the heads are alike");
    let by_source = |source: &str, output: &str| {
        read(&export(output, &["--format", "ndjson", "--source", source])).len()
    };
    assert_eq!((by_source("default", "default"), by_source("other", "other")), (sent, 0));
    let parts = export("parquet", &wanted);
    assert_eq!(rows_of(&parts), of_replay.iter().map(|line| place_of(line)).collect());
}

/// Partition and offset of a line, and its message id.
fn place_of(line: &str) -> (i32, i64, String) {
    let line: Value = serde_json::from_str(line).unwrap();
    let partition = i32::try_from(line["partition"].as_i64().unwrap()).unwrap();
    (partition, line["offset"].as_i64().unwrap(), line["messageId"].as_str().unwrap().to_owned())
}

/// The same of each row of Parquet files.
fn rows_of(files: &[PathBuf]) -> BTreeSet<(i32, i64, String)> {
    let mut rows = BTreeSet::new();
    for file in files {
        let file = std::fs::File::open(file).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        for batch in reader.map(Result::unwrap) {
            let column = |name: &str| batch.column_by_name(name).unwrap();
            let partitions = column("partition").as_primitive::<Int32Type>();
            let offsets = column("offset").as_primitive::<Int64Type>();
            let ids = column("message_id").as_string::<i32>();
            rows.extend(
                (0..batch.num_rows()).map(|row| {
                    (partitions.value(row), offsets.value(row), ids.value(row).to_owned())
                }),
            );
        }
    }
    rows
}

fn restore_holds(site: &Site, sent: usize) {
    let archive = site.path("kept-archive");
    let before = lines("raw", &["--data", text(&site.data())]);
    std::fs::rename(site.archive(), &archive).unwrap();
    std::fs::remove_dir_all(site.data()).unwrap();
    let into = site.data();
    let restore = ["archive", "restore", "--archive", text(&archive), "--into", text(&into)];
    let ran = run(&restore);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let after = lines("raw", &["--data", text(&into)]);
    assert_eq!(after.len(), sent);
    assert_eq!(without_append_time(&after), without_append_time(&before));
    let again = run(&restore);
    assert!(again.refusal().contains("it holds a log already"), "{again:?}");
    // The node takes up from there: it enriches all, and archives it.
    let node = site.start();
    send(&node, sent..sent + 1);
    site.await_rows(sent as u64 + 1);
    assert!(node.terminate().0.success());
    assert_eq!(run(&["archive", "verify", "--data", text(&into)]).status, 0);
}

#[test]
fn a_stage_runs_again_over_an_archive_though_the_log_is_gone() {
    const EVENTS: usize = 1_200;
    let site = Site::new();
    // What is known of visitors is no part of an archive.
    let known =
        ["identity", "profile", "session"].map(|it| format!("[enrich.{it}]\nenabled = false"));
    site.configure(&known.join("\n"));
    let node = site.start();
    for first in (0..EVENTS).step_by(300) {
        send(&node, first..first + 300);
    }
    site.await_rows(EVENTS as u64);
    assert!(node.terminate().0.success());
    let archive = site.path("kept-archive");
    std::fs::rename(site.archive(), &archive).unwrap();
    std::fs::remove_dir_all(site.data()).unwrap();
    let before = lines("enriched", &["--archive", text(&archive)]);
    assert_eq!(before.len(), EVENTS);

    let mut node = site.start();
    let data = site.data();
    let again = ["reprocess", "--archive", text(&archive), "--from", "0", "--stage", "enrich"];
    let place = ["--json", "--data", text(&data)];
    let begin =
        |into: &str, more: &[&str]| run(&[&again[..], &["--into", into], more, &place].concat());
    let refused = begin("again", &["--state", "then"]);
    assert!(refused.refusal().contains("goes with the state as of now"), "{refused:?}");
    let elsewhere = ["--archive", text(site.parent.path())];
    let refused =
        run(&[&["reprocess"], &elsewhere[..], &again[3..], &["--into", "again"], &place].concat());
    assert!(refused.refusal().contains("holds no archive"), "{refused:?}");
    assert_eq!(begin("again", &["--detach"]).status, 0);
    // It goes on after a kill, also when the archive was away meanwhile.
    node.kill();
    let away = site.path("away");
    std::fs::rename(&archive, &away).unwrap();
    node = site.start();
    std::fs::rename(&away, &archive).unwrap();
    let status = || {
        let ran = run(&[&["reprocess", "status", "again"], &place[..]].concat());
        serde_json::from_str::<Value>(ran.lines()[0]).unwrap()
    };
    let began = Instant::now();
    while status()["status"] == "running" {
        assert!(began.elapsed() < PATIENCE, "{}", status());
    }
    assert_eq!((&status()["status"], &status()["done"]), (&json!("done"), &json!(EVENTS)));
    let after = lines("again", &["--data", text(&data)]);
    assert_eq!(made_of(&after), made_of(&before));
    assert_eq!(after.len(), EVENTS, "each once");
    assert_eq!(lines("raw", &["--data", text(&data)]), Vec::<String>::new());

    let part = begin("part", &["--to", "3"]);
    assert_eq!(part.status, 0, "{}", part.stderr);
    assert!(replay(&data, "part").iter().all(|event| event["rawOffset"].as_u64() < Some(3)));
    assert!(node.terminate().0.success());
}

/// Enriched events without where and when they were stored, and which state they saw.
fn made_of(lines: &[String]) -> BTreeSet<String> {
    let strip = |line: &String| {
        let mut event: Value = serde_json::from_str(line).unwrap();
        let fields = event.as_object_mut().unwrap();
        for stored in ["topic", "partition", "offset", "appendedAt", "stateOffset"] {
            assert!(fields.remove(stored).is_some(), "{stored}: {line}");
        }
        event.to_string()
    };
    lines.iter().map(strip).collect()
}

#[test]
fn damage_is_named_and_the_rest_is_read() {
    let site = Site::new();
    let node = site.start();
    send(&node, 0..30);
    site.await_rows(30);
    assert!(node.terminate().0.success());
    let archive = site.archive();
    let victim = parquet_files(&archive.join("topic=raw")).remove(0);
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&victim, bytes).unwrap();
    let ran = run(&["archive", "verify", "--archive", text(&archive)]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let name = victim.file_name().unwrap().to_str().unwrap();
    assert!(ran.stdout.contains(name) && ran.stdout.contains("digest"), "{}", ran.stdout);
    let ran = run(&["replay", "raw", "--json", "--archive", text(&archive)]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("are damaged"), "{}", ran.stderr);
    assert!(ran.stdout.lines().count() < 30);

    let manifest = archive.join("_manifest/00000000000000000000.json");
    let changed = std::fs::read_to_string(&manifest).unwrap().replace("\"rows\":", "\"rows\": ");
    std::fs::write(&manifest, changed).unwrap();
    let ran = run(&["archive", "verify", "--archive", text(&archive)]);
    assert!(ran.refusal().contains("does not follow the one before"), "{ran:?}");
}

#[test]
fn a_place_that_is_none_is_told_in_one_line() {
    let site = Site::new();
    for (url, expected) in
        [("ftp://somewhere", "ftp is no store"), ("s3://bucket/events", "--features full")]
    {
        if url.starts_with("s3") && cfg!(feature = "full") {
            continue;
        }
        site.configure(&format!("url = \"{url}\"\n"));
        let config = site.path("tracklog.toml");
        let refused = Node::try_start(&site.data(), |command| command.arg("--config").arg(&config));
        let Err(ran) = refused else { panic!("{url} is taken") };
        assert!(ran.refusal().contains(expected), "{ran:?}");
        let ran = run(&["archive", "status", "--archive", url]);
        assert!(ran.refusal().contains(expected), "{ran:?}");
    }
    let nowhere = run(&["archive", "verify", "--archive", text(&site.path("nowhere"))]);
    assert!(nowhere.refusal().contains("there is no such folder"), "{nowhere:?}");
    let empty = run(&["replay", "raw", "--archive", text(site.parent.path())]);
    assert!(empty.refusal().contains("holds no archive"), "{empty:?}");
}

#[test]
fn a_store_that_fails_delays_nobody_and_is_tried_again() {
    let site = Site::new();
    // A file where the archive's folder of manifests should be: each step fails at its end.
    std::fs::create_dir_all(site.archive()).unwrap();
    std::fs::write(site.archive().join("_manifest"), "").unwrap();
    let node = site.start();
    send(&node, 0..20);
    let tail = ["tail", "enriched", "--from", "0", "--limit", "20", "--json", "--data"];
    assert_eq!(run(&[&tail[..], &[text(&site.data())]].concat()).lines().len(), 20);
    let begin = Instant::now();
    loop {
        let metrics = node.client().ask("GET", "/metrics", "").unwrap().body;
        if !metrics.contains("tracklog_archive_errors_total 0\n") {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{metrics}");
    }
    std::fs::remove_file(site.archive().join("_manifest")).unwrap();
    site.await_rows(20);
    assert!(node.terminate().0.success());
    assert_eq!(run(&["archive", "verify", "--data", text(&site.data())]).status, 0);
}

fn parquet_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(parquet_files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// Counts, sums and typed columns as another program reads them.
pub(crate) fn duckdb_agrees(archive: &Path, raw: &[Value]) {
    let Some(python) = python_with_duckdb() else {
        let why = "SKIPPED reading the archive with DuckDB: Python's package `duckdb` is not there";
        return writeln!(io::stderr(), "{why}").expect("standard error is open");
    };
    let script = r#"
import duckdb, json, sys
files = sys.argv[1] + "/topic=raw/*/*/*.parquet"
rows = duckdb.sql(f"""
    SELECT name, count(*), count(DISTINCT (partition, "offset")),
           sum(CAST(json_extract(properties, '$.number') AS BIGINT)), min(timestamp), max(timestamp),
           sum(p_number), count(device)
    FROM read_parquet('{files}', hive_partitioning = true, union_by_name = true)
    WHERE topic = 'raw' AND date >= '2020-01-01'
    GROUP BY name ORDER BY name""").fetchall()
for name, *rest in rows:
    rest = [str(value) if hasattr(value, "year") else value for value in rest]
    print(json.dumps([name] + [int(v) if isinstance(v, int) else v for v in rest]))
"#;
    let output = Command::new(python).args(["-c", script]).arg(archive).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let read: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read.len(), 3, "{read:?}");
    for of_name in &read {
        let mut numbers = Vec::new();
        for event in raw.iter().filter(|event| event["event"] == of_name[0]) {
            numbers.push(event["properties"]["number"].as_u64().unwrap());
        }
        assert_eq!(of_name[1], numbers.len(), "{of_name}");
        assert_eq!(of_name[2], numbers.len(), "{of_name}");
        assert_eq!(of_name[3], numbers.iter().sum::<u64>(), "{of_name}");
        assert!(of_name[4].as_str().unwrap().contains("2026-01-0"), "{of_name}");
        let has_schema = of_name[0] == "Bought";
        assert_eq!(of_name[6].is_null(), !has_schema, "typed since it has a schema: {of_name}");
        assert_eq!(of_name[7], 0, "raw events know no device");
    }
}

/// A Python that has DuckDB.
fn python_with_duckdb() -> Option<PathBuf> {
    let named = std::env::var_os("TRACKLOG_PYTHON").map(PathBuf::from);
    let own = std::env::temp_dir().join("tracklog-duckdb");
    let has_it = |python: &PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", "import duckdb"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let known = [named, Some("python3".into()), Some(own.join("bin/python"))];
    if let Some(found) = known.into_iter().flatten().find(has_it) {
        return Some(found);
    }
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let made = quiet(Command::new("python3").args(["-m", "venv"]).arg(&own));
    let pip = own.join("bin/pip");
    let installed = made && quiet(Command::new(pip).args(["install", "--quiet", "duckdb"]));
    installed.then(|| own.join("bin/python")).filter(has_it)
}
