//! Files of past events: checked as live ones are, each row once.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{
    ArrayRef, BinaryArray, Decimal128Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use crate::rig::{Node, Ran, ended, replay, run, text, tracklog};

/// A node, and a folder for files beside its own.
struct Rig {
    parent: tempfile::TempDir,
    node: Node,
}

impl Rig {
    fn start() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let node = Node::start(&parent.path().join("data"));
        Self { parent, node }
    }

    fn data(&self) -> PathBuf {
        self.parent.path().join("data")
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.parent.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn backfill(&self, file: &Path, options: &[&str]) -> Ran {
        run(&[&["backfill", text(file), "--data", text(&self.data())], options].concat())
    }

    /// Status and summary.
    #[track_caller]
    fn summary(&self, file: &Path, options: &[&str]) -> (i32, Value) {
        let ran = self.backfill(file, &[options, &["--json"]].concat());
        let last = ran.stdout.lines().last().unwrap_or_else(|| panic!("{}", ran.stderr));
        (ran.status, serde_json::from_str(last).unwrap())
    }

    fn raw(&self) -> Vec<Value> {
        replay(&self.data(), "raw")
    }

    fn rejected(&self) -> Vec<Value> {
        replay(&self.data(), "rejected")
    }
}

/// Stored, duplicate, rejected, without a time.
fn counts(summary: &Value) -> [u64; 4] {
    ["stored", "duplicate", "rejected", "withoutTime"].map(|name| summary[name].as_u64().unwrap())
}

fn texts<'v>(lines: &'v [Value], pointer: &str) -> Vec<&'v str> {
    let mut texts: Vec<_> =
        lines.iter().map(|line| line.pointer(pointer).unwrap().as_str().unwrap()).collect();
    texts.sort_unstable();
    texts
}

fn event(id: &str, rest: &str) -> String {
    format!(
        r#"{{"type":"track","event":"Paid","userId":"u","messageId":"{id}","timestamp":"2025-03-01T00:00:00Z"{rest}}}"#
    )
}

#[test]
fn lines_may_end_in_any_way_and_blank_ones_are_no_rows() {
    let rig = Rig::start();
    let [a, b, c] = ["a", "b", "c"].map(|id| event(id, ""));
    let file = rig.file("mixed.ndjson", format!("{a}\r\n\r\n  \n{b}\n{c}"));
    assert_eq!(rig.summary(&file, &[]).0, 0);
    let raw = rig.raw();
    assert_eq!(texts(&raw, "/messageId"), ["a", "b", "c"]);
    assert!(raw.iter().all(|line| line["timestamp"] == "2025-03-01T00:00:00.000000Z"));
    assert!(raw.iter().all(|line| line["source"] == "default"));
    assert!(rig.rejected().is_empty());
}

#[test]
fn rows_that_another_file_had_are_told_as_duplicates() {
    let rig = Rig::start();
    let [a, b, c] = ["a", "b", "c"].map(|id| event(id, ""));
    let first = rig.file("first.ndjson", format!("{a}\n{b}\n"));
    assert_eq!(counts(&rig.summary(&first, &[]).1), [2, 0, 0, 0]);
    let second = rig.file("second.ndjson", format!("{a}\n{c}\n{b}\n{c}\n"));
    assert_eq!(counts(&rig.summary(&second, &[]).1), [1, 3, 0, 0]);
    let (status, again) = rig.summary(&second, &[]);
    assert_eq!((status, counts(&again)), (0, [0, 4, 0, 0]), "all are there now");
    assert_eq!(texts(&rig.raw(), "/messageId"), ["a", "b", "c"]);
    assert!(rig.rejected().is_empty(), "nothing is stored anywhere");
}

#[test]
fn several_files_are_told_one_by_one_and_a_bad_row_of_any_makes_the_answer_no() {
    let rig = Rig::start();
    let [a, b, d] = ["a", "b", "d"].map(|id| event(id, ""));
    let first = rig.file("first.ndjson", format!("{a}\n{b}\n"));
    let columns = "event,userId,messageId,timestamp\n";
    let second = rig.file("second.csv", format!("{columns}Paid,u,c,2025-03-01T00:00:00Z\n"));
    let third = rig.file("third.ndjson", format!("no event\n{d}\n"));
    let backfill = |files: &[&Path]| {
        let files: Vec<_> = files.iter().map(|file| text(file)).collect();
        let data = rig.data();
        let ran = run(&[&["backfill"], &files[..], &["--json", "--data", text(&data)]].concat());
        let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let summaries: Vec<_> = lines.filter(|line| line["stored"].is_u64()).collect();
        (ran.status, summaries.iter().map(counts).collect::<Vec<_>>())
    };
    let all = [&*first, &second, &third];
    assert_eq!(backfill(&all), (1, vec![[2, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0]]));
    assert_eq!(texts(&rig.raw(), "/messageId"), ["a", "b", "c", "d"]);
    assert_eq!(backfill(&all[..2]), (0, vec![[0, 2, 0, 0], [0, 1, 0, 0]]));
    assert_eq!(backfill(&all), (1, vec![[0, 2, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]]));
    assert_eq!((rig.raw().len(), rig.rejected().len()), (4, 1));
}

#[test]
fn damaged_lines_are_rejected_with_their_numbers_and_cost_no_others() {
    let rig = Rig::start();
    let (a, b) = (event("a", ""), event("b", ""));
    let nothing = "\0".repeat(4_096);
    let file = rig.file("nul.ndjson", format!("{a}\n{nothing}\n{b}\n{{\"type\":\"track\",\"ev"));
    let (status, summary) = rig.summary(&file, &[]);
    assert_eq!((status, counts(&summary)), (1, [2, 0, 2, 0]));
    assert_eq!(texts(&rig.raw(), "/messageId"), ["a", "b"]);
    let rejected = rig.rejected();
    let messages = texts(&rejected, "/message");
    assert!(
        messages[0].starts_with("row 2: ") && messages[1].starts_with("row 4: "),
        "{messages:?}"
    );
    assert!(rejected.iter().all(|line| line["code"] == "invalid_json"));
    assert_eq!(rejected.iter().filter(|line| line["bodyLength"] == 4_096).count(), 1);

    let again = rig.summary(&file, &[]);
    assert_eq!((again.0, counts(&again.1)), (1, [0, 2, 2, 0]), "the answer stays no");
    assert_eq!(rig.rejected().len(), 2);
}

#[test]
fn rows_that_are_there_already_are_not_stored_again() {
    let rig = Rig::start();
    let live = rig.node.post("/v1/track", &event("a", ""));
    assert_eq!(live.status, 200, "{}", live.body);
    let other = event("b", ",\"properties\":{\"n\":1}");
    let [a, b, c] = ["a", "b", "c"].map(|id| event(id, ""));
    let file = rig.file("again.ndjson", [&a, &b, &b, &other, &c, &b].map(|it| &**it).join("\n"));
    assert_eq!(rig.summary(&file, &[]).0, 0);
    let raw = rig.raw();
    assert_eq!(texts(&raw, "/messageId"), ["a", "b", "b", "c"]);
    let marked = raw.iter().filter(|line| line["flags"].to_string().contains("idReused"));
    assert!(marked.clone().count() == 1 && marked.clone().all(|line| line["properties"]["n"] == 1));
}

#[test]
fn types_may_change_from_line_to_line_where_no_schema_says_otherwise() {
    let rig = Rig::start();
    let values = ["1", "\"one\"", "[1]", "null", "12345678901234567890.10"];
    let line = |(at, value): (usize, &&str)| {
        event(&at.to_string(), &format!(",\"properties\":{{\"n\":{value}}}")) + "\n"
    };
    let file = rig.file("types.ndjson", values.iter().enumerate().map(line).collect::<String>());
    assert_eq!(rig.summary(&file, &[]).0, 0);
    let ran = run(&["replay", "raw", "--json", "--data", text(&rig.data())]);
    for value in values {
        let wanted = format!("\"properties\":{{\"n\":{value}}}");
        assert!(ran.stdout.contains(&wanted), "{wanted} in {}", ran.stdout);
    }
}

#[test]
fn columns_of_a_csv_are_text_under_the_time_that_they_say() {
    let rig = Rig::start();
    let file = rig.file(
        "sales.csv",
        "\u{feff}timestamp,userId,event,price,properties.note\r\n\
         2026-01-02T03:04:05Z,00123,Paid,007.50,\"a, \"\"b\"\"\"\r\n\
         2026-01-02T05:05:05+02:00,u2,Paid,TRUE,\"line 1\r\nline 2\"\r\n\
         ,u3,Paid,,",
    );
    let (status, summary) = rig.summary(&file, &[]);
    assert_eq!((status, counts(&summary)), (0, [3, 0, 0, 1]), "{summary}");
    let raw = rig.raw();
    let of = |user: &str| raw.iter().find(|line| line["userId"] == user).unwrap();
    assert_eq!(of("00123")["timestamp"], "2026-01-02T03:04:05.000000Z");
    assert_eq!(of("00123")["properties"], json!({"price": "007.50", "note": "a, \"b\""}));
    assert_eq!(of("u2")["timestamp"], "2026-01-02T03:05:05.000000Z");
    assert_eq!(of("u2")["properties"], json!({"price": "TRUE", "note": "line 1\r\nline 2"}));
    assert_eq!(of("u3")["properties"], json!({"price": "", "note": ""}));
    assert_eq!(of("u3")["timestamp"], of("u3")["receivedAt"]);
}

#[test]
fn times_that_can_be_read_in_two_ways_are_refused() {
    let rig = Rig::start();
    let head = "userId,event,timestamp\n";
    let file = rig.file(
        "times.csv",
        format!("{head}a,Paid,03/04/2025\nb,Paid,2025-04-03T10:00:00\nc,Paid,2025-04-03\nd,Paid,1743638400\n"),
    );
    let ran = rig.backfill(&file, &[]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stdout.contains("1 stored, 0 duplicate, 3 rejected"), "{}", ran.stdout);
    assert!(
        ran.stderr.contains(
            "row 3: a local time, and nothing says of which zone at /timestamp (invalid_time)"
        ),
        "{}",
        ran.stderr
    );
    let rejected = rig.rejected();
    assert_eq!(texts(&rejected, "/code"), ["invalid_time"; 3]);
    assert!(texts(&rejected, "/message")[0].starts_with("row 2: not a time"));
    assert!(texts(&rejected, "/body")[0].contains("03/04/2025"));

    let file = rig.file("utc.csv", format!("{head}b,Paid,2025-04-03T10:00:00\n"));
    assert_eq!(rig.summary(&file, &["--zoneless", "utc"]).0, 0);
    assert!(rig.raw().iter().any(|line| line["timestamp"] == "2025-04-03T10:00:00.000000Z"));
}

#[test]
fn a_source_s_schemas_and_rules_hold_for_rows() {
    let parent = tempfile::tempdir().unwrap();
    let config = parent.path().join("tracklog.toml");
    std::fs::write(
        &config,
        "[sources.shop]\nwrite_key = \"k\"\nuser_id = \"hmac\"\nkeep_rejected_bytes = true\n",
    )
    .unwrap();
    let data = parent.path().join("data");
    let node = Node::start_with(&data, |command| command.args(["--config", text(&config)]));
    let schema = r#"{"type":"object","properties":{"price":{"type":"number"}}}"#;
    let answer = node.operator().ask("PUT", "/v1/schemas/Paid", schema).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let rig = Rig { parent, node };
    let file = rig.file("shop.csv", "userId,event,price\nu1,Paid,1.50\nu2,Paid,many\n");
    let options = ["--source", "shop"];
    let (_, as_text) = rig.summary(&file, &options);
    assert_eq!(counts(&as_text), [0, 0, 2, 0]);
    assert_eq!(texts(&rig.rejected(), "/pointer"), ["/properties/price"; 2]);

    let typed = ["--source", "shop", "--types", "price=number"];
    // Nothing of it was stored: it may be read otherwise.
    let (status, summary) = rig.summary(&file, &typed);
    assert_eq!((status, counts(&summary)), (1, [1, 0, 1, 1]));
    let refusal = rig.backfill(&file, &options);
    let why = "rows of it are stored, read as `csv --delimiter ',' --types price=number` (1)";
    assert!(refusal.refusal().contains(why), "{refusal:?}");
    let (status, summary) = rig.summary(&file, &typed);
    assert_eq!((status, counts(&summary)), (1, [0, 1, 1, 1]), "and nothing twice");
    let raw = rig.raw();
    assert_eq!((raw.len(), &raw[0]["source"]), (1, &json!("shop")));
    assert_eq!(raw[0]["userId"].as_str().unwrap().len(), 64, "hashed, as the source wants");
    let rejected = rig.rejected();
    let row = rejected.iter().find(|line| line["code"] == "invalid_row").unwrap();
    assert_eq!(row["message"], "row 3: column price: \"many\" is no number");
    assert_eq!(row["body"], "u2,Paid,many");
}

#[test]
fn packed_files_and_standard_input_are_read_and_ids_are_made_of_file_and_row() {
    let rig = Rig::start();
    let rows = |user: &str| {
        let row = |at| format!("{{\"event\":\"Paid\",\"userId\":\"{user}{at}\"}}\n");
        (0..10).map(row).collect::<String>()
    };
    let packed = |mut packing: Child| {
        packing.stdin.take().unwrap().write_all(rows("gz").as_bytes()).unwrap();
        packing.wait_with_output().unwrap().stdout
    };
    let mut gzip = std::process::Command::new("gzip");
    let gzip = gzip.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let file = rig.file("rows.ndjson.gz", packed(gzip));
    assert_eq!(counts(&rig.summary(&file, &[]).1), [10, 0, 0, 10]);

    let piped = |options: &[&str]| {
        let mut command = tracklog(&["backfill", "-", "--json", "--data", text(&rig.data())]);
        let command = command.args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        process.stdin.take().unwrap().write_all(rows("pipe").as_bytes()).unwrap();
        ended(process)
    };
    assert!(rig.backfill(Path::new("-"), &[]).refusal().contains("give --format"));
    for stored in [10, 0] {
        let ran = piped(&["--format", "ndjson"]);
        let summary: Value = serde_json::from_str(ran.lines()[0]).unwrap();
        assert_eq!(counts(&summary)[0], stored);
    }
    let raw = rig.raw();
    let mut ids = texts(&raw, "/messageId");
    ids.dedup();
    assert_eq!((raw.len(), ids.len()), (20, 20), "each row has an id of its own");
    assert!(raw.iter().all(|line| line["flags"].to_string().contains("idMade")));
}

#[test]
fn what_is_no_file_of_rows_is_refused_before_anything_is_stored() {
    let rig = Rig::start();
    let refused = |name: &str, content: &[u8], options: &[&str]| {
        let file = rig.file(name, content);
        rig.backfill(&file, options).refusal().to_owned()
    };
    assert!(refused("a.ndjson", b" \n[{\"event\":\"a\"}]", &[]).contains("a JSON array"));
    assert!(refused("a.csv", b"", &[]).contains("it is empty"));
    assert!(refused("b.csv", b"a,a\n1,2\n", &[]).contains("two columns are called"));
    assert!(refused("c.csv", b"a\n1\n", &["--types", "b=number"]).contains("no column \"b\""));
    assert!(refused("u.csv", b"\xff\xfea\0", &[]).contains("UTF-16"));
    assert!(refused("a.txt", b"x", &[]).contains("--format"));
    assert!(refused("e.ndjson", b"{}", &["--source", "nobody"]).contains("there is no source"));
    let missing = rig.backfill(Path::new("/no/such/file.csv"), &[]);
    assert!(missing.refusal().contains("/no/such/file.csv"));
    assert!(rig.raw().is_empty() && rig.rejected().is_empty());

    let file = rig.file("a.csv", "userId,event\nu,e\n");
    let Rig { parent, node } = rig;
    assert!(node.terminate().0.success());
    let data = parent.path().join("data");
    let alone = run(&["backfill", text(&file), "--data", text(&data)]);
    assert!(alone.refusal().contains("no node serves from it"), "{alone:?}");
}

#[test]
fn a_parquet_file_is_read_with_the_types_that_it_has() {
    let rig = Rig::start();
    let path = rig.file("sales.parquet", "");
    let times = [Some(1_735_689_600_123_456), None, Some(1_735_689_601_000_000)];
    let times = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
    let users: [Option<&[u8]>; 3] = [Some(b"007"), Some(b"u2"), Some(b"\xff")];
    let prices = Decimal128Array::from(vec![1_250, 10, 7]);
    let columns: [(&str, ArrayRef); 4] = [
        ("at", Arc::new(times)),
        ("userId", Arc::new(BinaryArray::from(users.to_vec()))),
        ("event", Arc::new(StringArray::from(vec!["Paid"; 3]))),
        ("price", Arc::new(prices.with_precision_and_scale(9, 2).unwrap())),
    ];
    let columns = columns.map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();

    let map = ["--map", "at=timestamp"];
    let refused = rig.backfill(&path, &["--types", "price=number"]);
    assert!(refused.refusal().contains("--types is nothing for such a file"), "{refused:?}");
    let (status, summary) = rig.summary(&path, &map);
    assert_eq!((status, counts(&summary)), (1, [2, 0, 1, 1]), "{summary}");
    assert_eq!(counts(&rig.summary(&path, &map).1), [0, 2, 1, 1]);
    let raw = run(&["replay", "raw", "--json", "--data", text(&rig.data())]).stdout;
    for part in ["\"userId\":\"007\"", "\"price\":12.50", "2025-01-01T00:00:00.123456Z"] {
        assert!(raw.contains(part), "{part} in {raw}");
    }
    let rejected = rig.rejected();
    assert_eq!(texts(&rejected, "/message"), ["row 3: column userId: its bytes are no text"]);
}

const ROWS: u64 = 40_000;

/// How far the file is that is being brought in, by what the log itself says of it.
fn next_row(data: &Path) -> u64 {
    let lines = replay(data, "_backfills");
    let value = lines.last().and_then(|line| line["value"].as_str()).unwrap_or("{}");
    let value: Value = serde_json::from_str(value).unwrap();
    value["nextRow"].as_u64().unwrap_or(1)
}

fn wait_for_row(data: &Path, row: u64) {
    let began = std::time::Instant::now();
    while next_row(data) < row {
        assert!(began.elapsed() < Duration::from_secs(60), "no row comes to be stored");
    }
}

#[test]
fn kills_of_client_and_node_lose_no_row_and_double_none() {
    let mut rig = Rig::start();
    let data = rig.data();
    let filler = "x".repeat(300);
    let line = |at: u64| match at % 100 {
        // Some are rejected: they are stored once as well.
        99 => format!("{{\"event\":\"Paid\",\"properties\":{{\"n\":{at}}}}}\n"),
        _ => format!(
            "{{\"event\":\"Paid\",\"userId\":\"u{}\",\"properties\":{{\"n\":{at},\"f\":\"{filler}\"}}}}\n",
            at % 50
        ),
    };
    let file = rig.file("many.ndjson", (0..ROWS).map(line).collect::<String>());
    let client = || {
        let mut command = tracklog(&["backfill", text(&file), "--json", "--data", text(&data)]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };

    let mut first = client();
    wait_for_row(&data, 2);
    first.kill().unwrap();
    first.wait().unwrap();
    let reached = next_row(&data);
    assert!(reached < ROWS, "it was killed in the middle");

    // The next goes on by itself over two deaths of its node.
    let second = client();
    for part in [2, 3] {
        wait_for_row(&data, reached + (ROWS - reached) / 4 * (part - 1));
        rig.node.kill();
        rig.node = Node::start(&data);
    }
    let ran = ended(second);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let summary: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    let [stored, duplicate, rejected, _] = counts(&summary);
    assert_eq!((stored + duplicate, rejected), (ROWS - ROWS / 100, ROWS / 100), "{summary}");
    assert!(stored > 0 && duplicate > 0);

    let again = rig.summary(&file, &[]);
    assert_eq!((again.0, counts(&again.1)[0]), (1, 0), "a finished file stores nothing");
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for line in rig.raw() {
        *seen.entry(line["properties"]["n"].as_u64().unwrap()).or_default() += 1;
    }
    for line in rig.rejected() {
        let body: Value = serde_json::from_str(line["body"].as_str().unwrap()).unwrap();
        *seen.entry(body["properties"]["n"].as_u64().unwrap()).or_default() += 1;
    }
    assert_eq!(seen.len() as u64, ROWS);
    assert!(seen.values().all(|times| *times == 1), "each row once");
    assert!(rig.node.terminate().0.success());
    assert_eq!(run(&["verify", "--data", text(&data)]).status, 0);
}
