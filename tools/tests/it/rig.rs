//! Nodes as processes, and the command line as a caller sees it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::http::{Answer, Client};

/// A start, a drain or a command takes less, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// `tracklog` with these arguments, in an environment of its own: small slots, no colours.
pub(crate) fn tracklog(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracklog"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TRACKLOG_") {
            command.env_remove(name);
        }
    }
    command.env("TRACKLOG_SLOT_BYTES", "16777216").env("NO_COLOR", "1");
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs `tracklog` to its end.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    Ran::of(tracklog(arguments).output().expect("tracklog starts"))
}

/// Asks again until it is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < 2 * PATIENCE, "{what}");
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            status: output.status.code().expect("no signal ended it"),
            stdout: String::from_utf8(output.stdout).expect("it prints text"),
            stderr: String::from_utf8(output.stderr).expect("it prints text"),
        }
    }

    /// Its lines on standard output, after a good end.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<&str> {
        assert_eq!(self.status, 0, "{}", self.stderr);
        self.stdout.lines().collect()
    }

    /// Its only line on standard error, after it could not run.
    #[track_caller]
    pub(crate) fn refusal(&self) -> &str {
        assert_eq!((self.status, &*self.stdout), (2, ""), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "one line: {}", self.stderr);
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("backtrace"));
        self.stderr.trim_end().strip_prefix("tracklog: ").expect("it says who speaks")
    }
}

/// A node that serves; killed when it is dropped.
pub(crate) struct Node {
    process: Child,
    data: PathBuf,
    /// The line that started with `ready`.
    pub(crate) ready: String,
    pub(crate) http: SocketAddr,
    pub(crate) key: String,
    errors: Receiver<String>,
}

impl Node {
    /// Starts one on free ports.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, |command| command)
    }

    pub(crate) fn start_with(data: &Path, set: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        Self::try_start(data, set).unwrap_or_else(|ran| panic!("it does not serve: {ran:?}"))
    }

    /// Starts one, or tells how it ended instead.
    pub(crate) fn try_start(
        data: &Path,
        set: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Self, Ran> {
        let mut command = serve(data);
        let mut process = set(&mut command).spawn().expect("tracklog starts");
        let stdout = process.stdout.take().expect("its output is piped");
        let stderr = process.stderr.take().expect("its errors are piped");
        let (lines, errors) = (reader_of(stdout), reader_of(stderr));
        let Ok(ready) = lines.recv_timeout(PATIENCE) else {
            let status = process.wait().expect("it ends").code().unwrap_or(-1);
            let stderr = errors.iter().map(|line| line + "\n").collect();
            return Err(Ran { status, stdout: String::new(), stderr });
        };
        assert!(ready.starts_with("ready "), "the first line says that it serves: {ready}");
        let facts = std::fs::read_to_string(data.join("node.json")).expect("a node states itself");
        let facts: serde_json::Value = serde_json::from_str(&facts).expect("as JSON");
        assert_eq!(facts["pid"], process.id());
        let http = facts["http"].as_str().expect("with its address").parse().expect("a good one");
        let key = std::fs::read_to_string(data.join("default.key")).expect("its key is there");
        let key = key.trim().to_owned();
        Ok(Self { process, data: data.to_owned(), ready, http, key, errors })
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.http).expect("the node takes connections")
    }

    /// A client that may ask what operators ask.
    pub(crate) fn operator(&self) -> Client {
        let token = std::fs::read_to_string(self.data.join("admin.token")).expect("there is one");
        self.client().with_token(token.trim())
    }

    /// Sends a body with the node's own key.
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        let target = format!("{path}?writeKey={}", self.key);
        self.client().ask("POST", &target, body).expect("the node answers")
    }

    /// Tracks one event, which must be accepted.
    pub(crate) fn track(&self, name: &str, user: &str) {
        let event = serde_json::json!({ "event": name, "userId": user });
        let answer = self.post("/v1/track", &event.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Asks for metrics until these lines are in them.
    #[track_caller]
    pub(crate) fn await_metrics(&self, lines: &[&str]) {
        let (began, mut client) = (Instant::now(), self.client());
        loop {
            let metrics = client.ask("GET", "/metrics", "").expect("the node answers").body;
            let missing = lines.iter().find(|line| !metrics.contains(**line));
            let Some(missing) = missing else { return };
            assert!(began.elapsed() < PATIENCE, "{missing}: {metrics}");
        }
    }

    /// Tells it to stop, and waits until it did.
    pub(crate) fn terminate(mut self) -> (ExitStatus, Vec<String>) {
        signal(&self.process, Signal::TERM);
        let status = self.process.wait().expect("it ends");
        (status, self.errors.iter().collect())
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("it was started here");
        self.process.wait().expect("and ends");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already, and that is fine.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// `tracklog serve` on free ports, with both outputs piped.
pub(crate) fn serve(data: &Path) -> Command {
    let mut command =
        tracklog(&["serve", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--data"]);
    command.arg(data).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Its lines, as they come; a pipe that nobody reads would stop its writer.
fn reader_of(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Waits for a process to end, and gives what it printed.
pub(crate) fn ended(mut process: Child) -> Ran {
    let mut stdout = String::new();
    let mut stderr = String::new();
    if let Some(mut pipe) = process.stdout.take() {
        pipe.read_to_string(&mut stdout).expect("it prints text");
    }
    if let Some(mut pipe) = process.stderr.take() {
        pipe.read_to_string(&mut stderr).expect("it prints text");
    }
    let status = process.wait().expect("it ends").code().expect("no signal ended it");
    Ran { status, stdout, stderr }
}

/// The path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Waits until `enriched` has so many events, and gives them.
pub(crate) fn enriched(data: &Path, count: usize) -> Vec<serde_json::Value> {
    let count = count.to_string();
    let arguments = ["tail", "enriched", "--from", "0", "--limit", &count, "--json", "--data"];
    let ran = run(&[&arguments[..], &[text(data)]].concat());
    let parse = |line: &&str| serde_json::from_str(line).expect("a line is JSON");
    ran.lines().iter().map(parse).collect()
}

/// Sends a signal to a process that was started here.
pub(crate) fn signal(process: &Child, signal: Signal) {
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process has a number"), signal).expect("it runs");
}

/// All lines of a topic, parsed, read through `--data`.
pub(crate) fn replay(data: &Path, topic: &str) -> Vec<serde_json::Value> {
    let ran = run(&["replay", topic, "--json", "--data", text(data)]);
    let parse = |line: &&str| serde_json::from_str(line).expect("a line is JSON");
    ran.lines().iter().map(parse).collect()
}
