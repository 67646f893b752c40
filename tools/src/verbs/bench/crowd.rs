//! The clients of a steady load, as a process of its own: what the process of the node has of memory
//! is then the node's, and not that of hundreds of clients.
//!
//! It is this very program again, with a verb that help does not show. It reads one line of JSON,
//! what to send and to whom; the write key in it is so in no list of processes. It sends, and says
//! on one line what came of it.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, io};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::append::latencies;
use super::gateway::batch;
use super::pace::{Pace, Turns};
use super::raw::micros;
use super::wire::{ANSWER_BYTES_MAX, post, read_status};
use crate::failure::Failure;
use crate::output::Output;

/// What to send, and to whom.
#[derive(Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) port: u16,
    pub(super) write_key: String,
    pub(super) requests_a_second: u64,
    pub(super) connections: u64,
    /// The number of the first request.
    pub(super) first: u64,
    pub(super) seconds: u64,
}

impl Asked {
    /// How many requests that is.
    pub(super) const fn requests(&self) -> u64 {
        self.seconds * self.requests_a_second
    }
}

/// What came of it.
#[derive(Serialize, Deserialize)]
pub(super) struct Told {
    /// How many acks took so many microseconds, to three digits.
    pub(super) latencies_micros: Vec<(u64, u64)>,
    /// How many requests had another answer, by its status.
    pub(super) refused: BTreeMap<u16, u64>,
    /// The numbers of those that were acked: each range's first, and the one behind its last.
    pub(super) acked: Vec<(u64, u64)>,
    pub(super) took: Duration,
}

/// Has a process of its own do it, and waits for its end.
pub(super) async fn send(asked: &Asked) -> Result<Told, Failure> {
    let program = env::current_exe().map_err(Failure::could_not_run)?;
    let mut command = Command::new(&program);
    command.args(["bench", "crowd"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::of(program.display(), error))?;
    let line = serde_json::to_string(asked).expect("numbers and a text") + "\n";
    let mut stdin = process.stdin.take().expect("it was piped");
    stdin.write_all(line.as_bytes()).await.map_err(Failure::could_not_run)?;
    let ended = process.wait_with_output().await.map_err(Failure::could_not_run)?;
    if !ended.status.success() {
        return Err(Failure::could_not_run(format!("the load failed: {}", ended.status)));
    }
    serde_json::from_slice(&ended.stdout).map_err(Failure::could_not_run)
}

/// What that process does.
pub(super) async fn serve() -> Result<(), Failure> {
    let mut line = String::new();
    // Nothing else is to be done before it is there.
    io::stdin().read_line(&mut line).map_err(Failure::could_not_run)?;
    let asked = serde_json::from_str(&line).map_err(Failure::could_not_run)?;
    let told = drive(asked).await?;
    let mut output = Output::new();
    output.json(&told)?;
    output.flush()
}

/// Sends each request when it is due.
async fn drive(asked: Asked) -> Result<Told, Failure> {
    let (requests, rate) = (asked.requests(), asked.requests_a_second);
    let Asked { port, write_key, connections, first, .. } = asked;
    let authorization = Arc::<str>::from(format!("Basic {}", STANDARD.encode(write_key + ":")));
    let began = Instant::now();
    let pace = Pace { began, rate };
    let mut clients = JoinSet::new();
    for (own, turns) in (0..requests).zip(pace.share(requests, connections)) {
        let client = Client { port, authorization: Arc::clone(&authorization), first, pace, turns };
        let step = usize::try_from(connections).expect("they are some hundreds");
        clients.spawn(async move { client.send((own..requests).step_by(step)).await });
    }
    let (mut all, mut acked, mut refused) = (latencies(), Vec::new(), BTreeMap::new());
    while let Some(ended) = clients.join_next().await {
        let answers = ended.map_err(Failure::could_not_run)?.map_err(Failure::could_not_run)?;
        answers.latencies_micros.into_iter().for_each(|took| all.saturating_record(took));
        acked.extend(answers.acked);
        for (status, requests) in answers.refused {
            *refused.entry(status).or_default() += requests;
        }
    }
    let took = began.elapsed();
    let recorded = all.iter_recorded();
    let latencies_micros =
        recorded.map(|it| (it.value_iterated_to(), it.count_since_last_iteration())).collect();
    Ok(Told { latencies_micros, refused, acked: ranges(acked), took })
}

fn ranges(mut numbers: Vec<u64>) -> Vec<(u64, u64)> {
    numbers.sort_unstable();
    let runs = numbers.chunk_by(|before, after| before + 1 == *after);
    runs.map(|run| (run[0], run[0] + run.len() as u64)).collect()
}

/// One connection, and its part of a load.
struct Client {
    port: u16,
    authorization: Arc<str>,
    first: u64,
    pace: Pace,
    turns: Turns,
}

/// What a connection was told.
struct Answers {
    /// Of those that were acked.
    latencies_micros: Vec<u64>,
    refused: BTreeMap<u16, u64>,
    acked: Vec<u64>,
}

impl Client {
    async fn send(self, numbers: impl Iterator<Item = u64>) -> io::Result<Answers> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        let mut told =
            Answers { latencies_micros: Vec::new(), refused: BTreeMap::new(), acked: Vec::new() };
        for number in numbers {
            let body = batch(usize::try_from(self.first + number).unwrap_or_default());
            let request = post("/v1/batch", &self.authorization, &body);
            self.turns.next().await;
            stream.write_all(&request).await?;
            match read_status(&mut stream, &mut buffer).await? {
                200 => {
                    told.latencies_micros.push(micros(self.pace.due(number).elapsed()));
                    told.acked.push(self.first + number);
                }
                status => *told.refused.entry(status).or_default() += 1,
            }
        }
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_become_the_ranges_that_they_lie_in() {
        assert_eq!(super::ranges(vec![7, 3, 1, 2, 8]), [(1, 4), (7, 9)]);
        assert!(super::ranges(Vec::new()).is_empty());
    }
}
