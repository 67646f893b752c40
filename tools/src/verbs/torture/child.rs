//! The node that is killed: this very program, as a process of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStdout, Command};
use tokio::time::timeout;
use tracklog_server::folder::DataFolder;

use crate::failure::Failure;

/// No recovery of such a log takes longer, however slow the disk.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Small, so that segments fill up and roll.
const SLOT_BYTES: u64 = 16 << 20;

/// A node, killed when it is dropped.
pub(super) struct Child {
    process: tokio::process::Child,
    output: BufReader<ChildStdout>,
    node: DataFolder,
    log: std::path::PathBuf,
}

impl Child {
    /// Starts one that stores in `node`; what it says goes to the end of `log`.
    pub(super) fn spawn(node: &Path, log: &Path, backend: &str) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::could_not_run)?;
        let errors = File::options().create(true).append(true).open(log);
        let errors = errors.map_err(|error| Failure::of(log.display(), error))?;
        let mut command = Command::new(&program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TRACKLOG_") {
                command.env_remove(name);
            }
        }
        command
            .args(["serve", "--http", "127.0.0.1:0", "--https", "off", "--data"])
            .arg(node)
            .env("TRACKLOG_BACKEND", backend)
            .env("TRACKLOG_SLOT_BYTES", SLOT_BYTES.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true);
        let mut process = command.spawn().map_err(|error| Failure::of(program.display(), error))?;
        let output = process.stdout.take().expect("its output was piped");
        let (node, log) = (DataFolder::at(node), log.to_owned());
        Ok(Self { process, output: BufReader::new(output), node, log })
    }

    /// Waits until it serves; the error says why it does not.
    pub(super) async fn ready(&mut self) -> Result<SocketAddr, String> {
        let mut line = String::new();
        match timeout(READY_WITHIN, self.output.read_line(&mut line)).await {
            Err(_) => return Err(format!("it is not ready after {READY_WITHIN:?}")),
            Ok(Ok(_)) if line.starts_with("ready") => {}
            Ok(_) => return Err(self.last_words()),
        }
        let facts = self.node.node().map_err(|error| error.to_string())?;
        let address = facts.and_then(|facts| facts.http);
        address.ok_or_else(|| "it serves, and does not say where".to_owned())
    }

    /// The last line that it said.
    fn last_words(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        let last = last.unwrap_or("it ended without a word");
        last.strip_prefix("tracklog: ").unwrap_or(last).to_owned()
    }

    /// Ends it as a crash does, and waits until it is gone.
    pub(super) async fn kill(mut self) -> Result<(), Failure> {
        self.process.kill().await.map_err(Failure::could_not_run)
    }
}

/// The write key that the node made.
pub(super) fn write_key(node: &Path) -> Result<String, Failure> {
    DataFolder::at(node).default_key().map(|key| key.text).map_err(Failure::could_not_run)
}
