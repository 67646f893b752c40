//! The house test: the tree is the architecture, and this keeps it so.
//!
//! Promises that the workspace as it stands
//! - has no arrow between rooms but those that ARCHITECTURE.md draws;
//! - has no room whose name says nothing;
//! - says `unsafe` only where bytes meet the machine, and forbids it everywhere else;
//! - opens each source file with what lives there;
//! - has every file and every test that its documents name.
//!
//! Each rule is a function over plain data, and each is also shown an offender, since a rule that
//! cannot fail keeps nothing.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

/// A crate of the workspace: its floor, and the rooms on which it stands. An arrow brings along
/// all that its target stands on.
struct Room {
    name: &'static str,
    floor: u8,
    stands_on: &'static [&'static str],
}

impl Room {
    const fn new(name: &'static str, floor: u8, stands_on: &'static [&'static str]) -> Self {
        Self { name, floor, stands_on }
    }
}

const HOUSE: &[Room] = &[
    Room::new("protocol", 0, &[]),
    Room::new("log", 1, &["protocol"]),
    Room::new("client", 1, &["protocol"]),
    Room::new("engine", 2, &["log"]),
    Room::new("registry", 2, &["log"]),
    Room::new("ingest-gateway", 3, &["log", "registry"]),
    Room::new("pipeline", 3, &["log", "registry"]),
    Room::new("sim", 3, &["engine"]),
    Room::new("server", 4, &["ingest-gateway", "pipeline", "registry", "engine"]),
    Room::new("tools", 5, &["server", "client"]),
    Room::new("benches", 6, &["tools", "sim"]),
];

/// Names that fit anything and therefore tell nothing.
const EMPTY_NAMES: &[&str] =
    &["common", "helper", "helpers", "manager", "managers", "misc", "types", "util", "utils"];

/// Where `unsafe` may be said: what touches the disk, what a generator wrote, and the one file
/// that reads bytes for which our own checksum vouches.
const UNSAFE_ROOMS: &[&str] =
    &["engine/src/disk/", "protocol/src/generated/", "protocol/src/trusted.rs"];

/// What tells people where things are, and the folders by which it is seen to name a path.
const DOCUMENTS: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "benches/peers/README.md",
    "fuzz/README.md",
    "sim/README.md",
];
const FOLDERS: &[&str] = &[
    "protocol",
    "log",
    "engine",
    "sim",
    "registry",
    "ingest-gateway",
    "pipeline",
    "server",
    "tools",
    "benches",
    "docs",
    "fuzz",
];

const GENERATED: &str = "protocol/src/generated/";
const CRATES_WITH_UNSAFE: &[&str] = &["engine/", "protocol/"];

// The workspace as it stands.

#[test]
fn every_arrow_between_rooms_is_a_drawn_one() {
    let edges = edges_of(&cargo_metadata());
    assert!(
        edges.contains(&Edge::new("engine", "log", Use::Build)),
        "the reader of cargo's metadata sees the arrows"
    );
    keeps_the_house(edges.iter().filter_map(undrawn_arrow));
}

#[test]
fn every_room_has_a_name_that_tells_what_lives_there() {
    keeps_the_house(sources().iter().flat_map(empty_names));
}

#[test]
fn unsafe_is_said_only_where_bytes_meet_the_machine() {
    keeps_the_house(sources().iter().filter_map(unsafe_outside_its_rooms));
}

#[test]
fn every_other_crate_forbids_unsafe() {
    keeps_the_house(sources().iter().filter_map(crate_that_allows_unsafe));
}

#[test]
fn every_source_file_opens_with_what_lives_there() {
    keeps_the_house(sources().iter().filter_map(file_without_a_head));
}

#[test]
fn every_crate_takes_the_shared_lints() {
    let manifests = cargo_metadata()["packages"]
        .as_array()
        .expect("cargo lists packages")
        .iter()
        .map(|package| Source::read(Path::new(text(&package["manifest_path"]))))
        .collect::<Vec<_>>();
    assert!(!manifests.is_empty(), "the workspace has members");
    keeps_the_house(manifests.iter().filter_map(manifest_without_shared_lints));
}

#[test]
fn every_file_and_test_that_a_document_names_is_there() {
    let names = function_names(&sources());
    let documents = DOCUMENTS.map(|name| Source::read(&root().join(name)));
    let is_there = |path: &str| root().join(path).exists();
    keeps_the_house(
        documents.iter().flat_map(|document| names_of_nothing(document, is_there, &names)),
    );
}

// Each rule can fail.

#[test]
fn an_arrow_that_is_not_drawn_is_told() {
    let undrawn = |from, to, kind| undrawn_arrow(&Edge::new(from, to, kind)).is_some();
    assert!(undrawn("engine", "registry", Use::Build), "siblings do not know each other");
    assert!(undrawn("ingest-gateway", "engine", Use::Build), "the gateway knows the seam alone");
    assert!(undrawn("protocol", "log", Use::Build), "nothing stands on what stands on it");
    assert!(undrawn("log", "engine", Use::Tests), "tests do not reach up");
    assert!(undrawn("registry", "engine", Use::Tests), "nor sideways");
    assert!(undrawn("engine", "storage", Use::Build), "an unknown room is not drawn");
    assert!(undrawn("storage", "log", Use::Build), "nor are its arrows");

    assert!(!undrawn("tools", "log", Use::Build), "an arrow brings along what its target has");
    assert!(!undrawn("ingest-gateway", "engine", Use::Tests), "tests are free downward");
}

#[test]
fn metadata_is_read_with_kinds_and_without_foreign_crates_or_itself() {
    let metadata = serde_json::json!({"packages": [{
        "name": "tracklog-log",
        "dependencies": [
            {"name": "bytes", "kind": null},
            {"name": "tracklog-protocol", "kind": null},
            {"name": "tracklog-engine", "kind": "dev"},
            {"name": "tracklog-sim", "kind": "build"},
            {"name": "tracklog-log", "kind": "dev"},
        ],
    }]});
    let expected = [
        Edge::new("log", "protocol", Use::Build),
        Edge::new("log", "engine", Use::Tests),
        Edge::new("log", "sim", Use::Build),
    ];
    assert_eq!(edges_of(&metadata), expected);
}

#[test]
fn an_empty_name_is_told_as_file_folder_and_module() {
    let told = |path, text| empty_names(&Source::new(path, text)).len();
    assert_eq!(told("engine/src/utils.rs", ""), 1);
    assert_eq!(told("tools/tests/common/mod.rs", ""), 1);
    assert_eq!(told("log/src/lib.rs", "pub mod helpers {}"), 1);
    assert_eq!(told("log/src/lib.rs", "mod append; // mod helpers; was here"), 0);
    assert_eq!(told("registry/src/datatypes.rs", "mod common_prefix;"), 0);
}

#[test]
fn unsafe_outside_its_rooms_is_told() {
    let told = |path, text| unsafe_outside_its_rooms(&Source::new(path, text)).is_some();
    assert!(told("log/src/lib.rs", "fn f() { unsafe { g() } }"));
    assert!(told("engine/src/catalog.rs", "unsafe impl Send for X {}"));
    assert!(told("engine/src/disks.rs", "unsafe fn f() {}"), "a like name is another room");
    assert!(!told("engine/src/disk/map.rs", "unsafe { g() }"));
    assert!(!told("protocol/src/trusted.rs", "unsafe { g() }"));
    for harmless in [
        "#![forbid(unsafe_code)]",
        "// unsafe\nfn f() {}",
        "/* a /* nested */ unsafe */ fn f() {}",
        r#"let s = "an \" unsafe \\";"#,
        r###"let s = r#"a " unsafe"#;"###,
        r#"let s = b"unsafe";"#,
        r"let c = ['\'', '\\']; let s: &'static str; // unsafe",
    ] {
        assert!(!told("log/src/lib.rs", harmless), "{harmless}");
    }
    for harmful in [
        r#"let c = '"'; unsafe { g() } let d = '"';"#,
        r#"let s = "\\"; unsafe { g() }"#,
        r###"let s = r#"\"#; unsafe { g() }"###,
        "fn f<'a>(x: &'a u8) { unsafe { g() } }",
    ] {
        assert!(told("log/src/lib.rs", harmful), "{harmful}");
    }
}

#[test]
fn a_crate_that_does_not_forbid_unsafe_is_told() {
    let told = |path, text| crate_that_allows_unsafe(&Source::new(path, text)).is_some();
    assert!(told("server/src/lib.rs", "//! A node.\n"));
    assert!(told("tools/src/main.rs", "// #![forbid(unsafe_code)]\n"));
    assert!(!told("server/src/lib.rs", "//! A node.\n#![forbid(unsafe_code)]\n"));
    assert!(!told("server/src/node.rs", "//! The wiring.\n"));
    assert!(!told("engine/src/lib.rs", "//! The log on a disk.\n"));
}

#[test]
fn a_file_without_a_head_is_told() {
    let told = |path, text| file_without_a_head(&Source::new(path, text)).is_some();
    assert!(told("log/src/append.rs", "use std::fmt;\n"));
    assert!(told("log/src/append.rs", "// Not a doc comment.\n"));
    assert!(told("log/src/append.rs", ""));
    assert!(!told("log/src/append.rs", "//! Appends.\n"));
    assert!(!told("protocol/src/generated/event.rs", "// @generated\n"));
}

#[test]
fn a_manifest_without_the_shared_lints_is_told() {
    let told = |text| manifest_without_shared_lints(&Source::new("Cargo.toml", text)).is_some();
    assert!(told("[package]\nname = \"x\"\n"));
    assert!(told("[lints.rust]\nmissing_docs = \"allow\"\n"));
    assert!(!told("[lints]\nworkspace = true\n"));
}

#[test]
fn a_document_that_names_what_is_not_there_is_told() {
    let names = BTreeSet::from(["torn_commit_is_cut_whole".to_owned()]);
    let is_there = |path: &str| path == "log/src/lib.rs";
    let told = |text| names_of_nothing(&Source::new("README.md", text), is_there, &names);
    assert_eq!(told("see `log/src/gone.rs` and `log/src/lib.rs`").len(), 1);
    assert_eq!(told("by `torn_commit_is_cut_in_half`, `torn_commit_is_cut_whole`").len(), 1);
    assert!(
        told("log/src/gone.rs, `/v1/batch`, `cargo x`, `commit_bytes_max`, `log/*/x`").is_empty()
    );
}

// The rules.

/// How one crate uses another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Build,
    Tests,
}

#[derive(Debug, PartialEq, Eq)]
struct Edge {
    from: String,
    to: String,
    kind: Use,
}

impl Edge {
    fn new(from: &str, to: &str, kind: Use) -> Self {
        Self { from: from.to_owned(), to: to.to_owned(), kind }
    }
}

fn undrawn_arrow(edge: &Edge) -> Option<String> {
    let Edge { from, to, kind } = edge;
    let drawn = match (room(from), room(to), kind) {
        (Some(_), Some(_), Use::Build) => foundations(from).contains(to.as_str()),
        (Some(above), Some(below), Use::Tests) => below.floor < above.floor,
        _ => false,
    };
    (!drawn).then(|| format!("{from} → {to} ({kind:?}) is no drawn arrow"))
}

fn room(name: &str) -> Option<&'static Room> {
    HOUSE.iter().find(|room| room.name == name)
}

/// All rooms on which `name` stands, near and far.
fn foundations(name: &str) -> BTreeSet<&'static str> {
    let near = room(name).map_or(&[][..], |room| room.stands_on);
    near.iter().flat_map(|below| foundations(below).into_iter().chain([*below])).collect()
}

fn empty_names(source: &Source) -> Vec<String> {
    let stem = source.path.trim_end_matches(".rs");
    let in_path = stem.split('/').filter(|part| EMPTY_NAMES.contains(part));
    let code = code_of(&source.text);
    let words = words(&code);
    let in_code = words
        .windows(2)
        .filter(|pair| pair[0] == "mod" && EMPTY_NAMES.contains(&pair[1]))
        .map(|pair| pair[1]);
    let offence = |name| format!("{}: `{name}` tells nothing", source.path);
    in_path.map(offence).chain(in_code.map(offence)).collect()
}

fn unsafe_outside_its_rooms(source: &Source) -> Option<String> {
    let may = UNSAFE_ROOMS.iter().any(|room| source.path.starts_with(room));
    (!may && words(&code_of(&source.text)).contains(&"unsafe"))
        .then(|| format!("{}: `unsafe` outside its rooms", source.path))
}

fn crate_that_allows_unsafe(source: &Source) -> Option<String> {
    let is_root = source.path.ends_with("src/lib.rs") || source.path.ends_with("src/main.rs");
    let exempt = CRATES_WITH_UNSAFE.iter().any(|room| source.path.starts_with(room));
    (is_root && !exempt && !code_of(&source.text).contains("#![forbid(unsafe_code)]"))
        .then(|| format!("{}: says no #![forbid(unsafe_code)]", source.path))
}

fn file_without_a_head(source: &Source) -> Option<String> {
    let in_src = source.path.starts_with("src/") || source.path.contains("/src/");
    let exempt = !in_src || source.path.starts_with(GENERATED);
    (!exempt && !source.text.starts_with("//! "))
        .then(|| format!("{}: does not open with `//!`", source.path))
}

fn manifest_without_shared_lints(source: &Source) -> Option<String> {
    (!source.text.contains("[lints]\nworkspace = true"))
        .then(|| format!("{}: does not take the workspace's lints", source.path))
}

/// The paths and tests between backticks that do not exist. A path begins with a room; a test's
/// name is a sentence. A metric's begins with the program's.
fn names_of_nothing(
    document: &Source,
    is_there: impl Fn(&str) -> bool,
    functions: &BTreeSet<String>,
) -> Vec<String> {
    let quoted = document.text.split('`').skip(1).step_by(2);
    let missing = quoted.filter(|name| {
        let is_path = name.split_once('/').is_some_and(|(first, _)| FOLDERS.contains(&first))
            && !name.contains([' ', '*', '{', '<', '\n']);
        let is_test = name.matches('_').count() >= 3
            && !name.starts_with("tracklog_")
            && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        (is_path && !is_there(name)) || (is_test && !functions.contains(*name))
    });
    missing.map(|name| format!("{}: there is no `{name}`", document.path)).collect()
}

fn function_names(sources: &[Source]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources {
        let code = code_of(&source.text);
        let words = words(&code);
        let functions = words.windows(2).filter(|pair| pair[0] == "fn");
        names.extend(functions.map(|pair| pair[1].to_owned()));
    }
    names
}

fn keeps_the_house(offences: impl Iterator<Item = String>) {
    let offences = offences.collect::<Vec<_>>();
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

// Reading the workspace.

fn root() -> PathBuf {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    benches.parent().expect("benches lies in the workspace").to_owned()
}

fn cargo_metadata() -> Value {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

fn edges_of(metadata: &Value) -> Vec<Edge> {
    let mut edges = Vec::new();
    for package in metadata["packages"].as_array().expect("cargo lists packages") {
        let from = text(&package["name"]);
        for dependency in package["dependencies"].as_array().expect("and their dependencies") {
            let kind = if dependency["kind"] == "dev" { Use::Tests } else { Use::Build };
            // A crate whose tests want a feature of its own names itself: no arrow leaves the room.
            if dependency["name"] == package["name"] {
                continue;
            }
            if let Some(to) = text(&dependency["name"]).strip_prefix("tracklog-") {
                edges.push(Edge::new(from.trim_start_matches("tracklog-"), to, kind));
            }
        }
    }
    edges
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo's names and paths are text")
}

/// A file, by its path within the workspace.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn read(file: &Path) -> Self {
        let path = file.strip_prefix(root()).unwrap_or(file).to_string_lossy().into_owned();
        let text = fs::read_to_string(file).expect("a source file is readable text");
        Self { path, text }
    }
}

/// Every Rust file of the workspace and of the small workspaces within it.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder is readable") {
            let entry = entry.expect("its entries too");
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_foreign = name.starts_with('.') || name == "target" || name == "node_modules";
            if entry.file_type().expect("its kind too").is_dir() && !is_foreign {
                folders.push(entry.path());
            } else if name.ends_with(".rs") {
                sources.push(Source::read(&entry.path()));
            }
        }
    }
    assert!(sources.iter().any(|source| source.path == "log/src/lib.rs"), "the walk sees the tree");
    sources
}

/// `text` without its comments and without what stands in its literals.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' {
            char_literal(rest).unwrap_or(1)
        } else if is_word(first) {
            let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let raw = matches!(&rest[..word], "r" | "br" | "cr").then(|| raw_string(&rest[word..]));
            if let Some(raw) = raw.flatten() {
                word + raw
            } else {
                code.push_str(&rest[..word]);
                rest = &rest[word..];
                continue;
            }
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[taken..];
    }
    code
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(code: &str) -> Vec<&str> {
    code.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect()
}

/// The length of the block comment, nested ones included, at the start of `text`.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the literal between `quote`s at the start of `text`.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character at the start of `text`, unless it is a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let mut chars = text.chars().skip(1);
    let is_literal = chars.next()? == '\\' || chars.next()? == '\'';
    is_literal.then(|| quoted(text, '\''))
}

/// The length of the raw string, less its prefix letters, at the start of `text`.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.len() - text.trim_start_matches('#').len();
    let body = text[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or(text.len(), |at| hashes + 1 + at + end.len()))
}
