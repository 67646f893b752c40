//! Where the reading verbs read: a running node, or a data folder that is opened offline.
//!
//! A folder that a node holds is read by asking that node, whose address and token lie in the
//! folder. One that nobody holds is opened read-only: nothing in it is changed. Either way the
//! same lines come in the same order.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde::Deserialize;
use tracklog_log::Log;
use tracklog_server::admin::RECORDS_HEADER;
use tracklog_server::folder::{DataFolder, NodeFile};
use tracklog_server::offline::{self, OfflineError};
use tracklog_server::replay::{Note, Query, Replay, Step};
use tracklog_server::topics::{self, TopicDetails};

use crate::failure::Failure;
use crate::http_client::Endpoint;
use crate::node_client::{NodeClient, segment};
use crate::output::notice;
use crate::tls;

/// Which log is meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct Place {
    /// The data folder: of a running node, which is asked then, or of one that is stopped, where
    /// nobody needs to run for it [default: $TRACKLOG_DATA, else ./tracklog-data]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) data: Option<PathBuf>,
    /// A running node, by its address
    #[arg(long, value_name = "URL", conflicts_with = "data", global = true)]
    node: Option<String>,
    /// For --node: a file with its admin token [default: the token in $TRACKLOG_TOKEN]
    #[arg(long, value_name = "FILE", requires = "node", global = true)]
    token_file: Option<PathBuf>,
    /// For --node with https: certificates to trust, in PEM [default: the system's]
    #[arg(long, value_name = "FILE", requires = "node", global = true)]
    ca: Option<PathBuf>,
}

/// An opened place.
pub(crate) enum Source {
    /// A running node.
    Node(NodeClient),
    /// A folder that nobody holds.
    Folder(Arc<dyn Log>),
}

impl Place {
    /// The folder that is meant.
    pub(crate) fn folder(&self) -> DataFolder {
        let named = || std::env::var_os("TRACKLOG_DATA").map(PathBuf::from);
        let path = self.data.clone().or_else(named);
        DataFolder::at(path.unwrap_or_else(|| "./tracklog-data".into()))
    }

    /// Whether it is a running node, by its address.
    pub(crate) const fn is_node(&self) -> bool {
        self.node.is_some()
    }

    /// Opens it for reading.
    pub(crate) fn open(&self) -> Result<Source, Failure> {
        match self.running()? {
            Some(node) => Ok(Source::Node(node)),
            None => self.open_folder().map(Source::Folder),
        }
    }

    /// The node that runs there; `None` when nobody holds the folder.
    pub(crate) fn running(&self) -> Result<Option<NodeClient>, Failure> {
        if let Some(url) = &self.node {
            let endpoint = Endpoint::of_url(url, || match &self.ca {
                Some(file) => tls::trusting(file),
                None => tls::trusting_the_system(),
            })?;
            return Ok(Some(NodeClient::new(endpoint, self.token()?)));
        }
        let folder = self.folder();
        if !folder.path().is_dir() {
            return Err(no_folder(&folder));
        }
        match offline::is_held(folder.path()) {
            Ok(true) => holder(&folder).map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(Failure::of(folder.path().display(), error)),
        }
    }

    /// The node that runs there: what is asked only it can do.
    pub(crate) fn node(&self) -> Result<NodeClient, Failure> {
        let nobody = || Failure::of(self.folder().path().display(), "no node runs there");
        self.running()?.ok_or_else(nobody)
    }

    /// Opens the folder, which no node holds, for reading.
    pub(crate) fn open_folder(&self) -> Result<Arc<dyn Log>, Failure> {
        let folder = self.folder();
        match offline::open(folder.path(), &mut |line| notice(&line)) {
            Ok(log) => Ok(log),
            Err(OfflineError::Held) => {
                let what = "a node has just taken it: try again";
                Err(Failure::of(folder.path().display(), what))
            }
            Err(error) => Err(Failure::of(folder.path().display(), error)),
        }
    }

    fn token(&self) -> Result<String, Failure> {
        let Some(file) = &self.token_file else {
            let token = std::env::var("TRACKLOG_TOKEN").ok().filter(|token| !token.is_empty());
            return token.ok_or_else(|| {
                let what = "--node needs the node's admin token: give --token-file, or set \
                            TRACKLOG_TOKEN";
                Failure::could_not_run(what)
            });
        };
        let token = std::fs::read_to_string(file);
        let token = token.map_err(|error| Failure::of(file.display(), error))?;
        Ok(token.trim().to_owned())
    }
}

fn no_folder(folder: &DataFolder) -> Failure {
    let what = "there is no such data folder; `tracklog serve` makes one, --data names another";
    Failure::of(folder.path().display(), what)
}

/// The node that holds the folder, by what lies in it.
fn holder(folder: &DataFolder) -> Result<NodeClient, Failure> {
    let Some(node) = folder.node().map_err(Failure::could_not_run)? else {
        let what = "another process holds it, and no node serves from it (yet)";
        return Err(Failure::of(folder.path().display(), what));
    };
    let token = folder.read_admin_token().map_err(|error| match error.source.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::of(&error, "only the node's own user may ask it")
        }
        _ => Failure::could_not_run(error),
    })?;
    Ok(NodeClient::new(endpoint_of(&node, folder)?, token))
}

/// Plain where it can be: the token does not leave this machine.
fn endpoint_of(node: &NodeFile, folder: &DataFolder) -> Result<Endpoint, Failure> {
    match (node.http.map(reachable), node.https.map(reachable)) {
        (Some(address), _) => Ok(Endpoint::plain(address.ip().to_string(), address.port())),
        (None, Some(address)) => {
            let config = match folder.file("cert.pem") {
                own if own.exists() => tls::trusting(&own)?,
                _ => tls::trusting_the_system()?,
            };
            Ok(Endpoint::tls(address.ip().to_string(), address.port(), config))
        }
        (None, None) => Err(Failure::of(folder.path().display(), "its node listens nowhere")),
    }
}

/// A socket that listens everywhere is reached through loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What a reading gives.
pub(crate) enum Piece<'a> {
    /// How many records there are to pass.
    Records(u64),
    /// Whole lines of records, one or more, and how many.
    Lines(&'a [u8], u64),
    /// All there was until now: time to let people see it.
    Pause,
    /// Something that people must know.
    Notice(String),
    /// Records that cannot be read.
    Damage(String),
}

/// Takes what a reading gives.
pub(crate) type Sink<'a> = dyn FnMut(Piece<'_>) -> Result<(), Failure> + 'a;

impl Source {
    /// A topic with its partitions.
    pub(crate) async fn topic(&self, name: &str) -> Result<TopicDetails, Failure> {
        match self {
            Self::Node(node) => node.get(&format!("/v1/topics/{}", segment(name))).await,
            Self::Folder(log) => {
                let topic = log.topic(name).ok_or_else(|| no_topic(name))?;
                Ok(topics::describe(&**log, &topic))
            }
        }
    }

    /// Reads a topic to the end of what is asked for.
    pub(crate) async fn read(
        &self,
        topic: &str,
        query: Query,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        match self {
            Self::Node(node) => read_node(node, topic, &query, sink).await,
            Self::Folder(log) => read_folder(log, topic, query, sink).await,
        }
    }
}

fn no_topic(name: &str) -> Failure {
    Failure::could_not_run(format!("there is no topic {name}"))
}

async fn read_folder(
    log: &Arc<dyn Log>,
    topic: &str,
    query: Query,
    sink: &mut Sink<'_>,
) -> Result<(), Failure> {
    let topic = log.topic(topic).ok_or_else(|| no_topic(topic))?;
    let name = topic.name().to_owned();
    let replay = Replay::open(Arc::clone(log), topic, query).await;
    let mut replay = replay.map_err(Failure::could_not_run)?;
    sink(Piece::Records(replay.records()))?;
    let mut lines = Vec::new();
    loop {
        lines.clear();
        let step = replay.next(&mut lines).await.map_err(Failure::could_not_run)?;
        sink(Piece::Lines(&lines, lines_in(&lines)))?;
        for note in replay.take_notes() {
            let message = note.message(&name);
            sink(match note {
                Note::Damage { .. } => Piece::Damage(message),
                _ => Piece::Notice(message),
            })?;
        }
        if step == Step::Done {
            return Ok(());
        }
    }
}

async fn read_node(
    node: &NodeClient,
    topic: &str,
    query: &Query,
    sink: &mut Sink<'_>,
) -> Result<(), Failure> {
    let path = format!("/v1/topics/{}/events?{}", segment(topic), parameters(query));
    let response = node.ask(Method::GET, &path, Bytes::new()).await?;
    let records = response.headers().get(RECORDS_HEADER).and_then(|value| value.to_str().ok());
    if let Some(records) = records.and_then(|records| records.parse().ok()) {
        sink(Piece::Records(records))?;
    }
    let mut body = response.into_body();
    let mut lines = LineSplitter::default();
    while let Some(piece) = node.piece(&mut body).await? {
        lines.push(&piece, sink)?;
        sink(Piece::Pause)?;
    }
    lines.finish()
}

fn lines_in(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Puts lines together that come in pieces, and takes out those that are no records.
#[derive(Default)]
struct LineSplitter {
    /// The start of a line whose end has not come.
    begun: Vec<u8>,
}

/// A line between the records: it has one of these.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    notice: Option<Message>,
    damage: Option<Message>,
    error: Option<Message>,
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

impl LineSplitter {
    fn push(&mut self, piece: &[u8], sink: &mut Sink<'_>) -> Result<(), Failure> {
        let Some(last) = piece.iter().rposition(|byte| *byte == b'\n') else {
            self.begun.extend_from_slice(piece);
            return Ok(());
        };
        let (whole, rest) = piece.split_at(last + 1);
        self.begun.extend_from_slice(whole);
        let lines = std::mem::replace(&mut self.begun, rest.to_vec());
        let is_record = |line: &[u8]| line.starts_with(b"{\"topic\":");
        if lines.split_inclusive(|byte| *byte == b'\n').all(is_record) {
            return sink(Piece::Lines(&lines, lines_in(&lines)));
        }
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if is_record(line) {
                sink(Piece::Lines(line, 1))?;
            } else {
                told(line, sink)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        match self.begun.is_empty() {
            true => Ok(()),
            false => Err(Failure::could_not_run("the node's answer ends inside of a line")),
        }
    }
}

fn told(line: &[u8], sink: &mut Sink<'_>) -> Result<(), Failure> {
    let told: Told = serde_json::from_slice(line).unwrap_or_default();
    match told {
        Told { error: Some(error), .. } => Err(Failure::could_not_run(error.message)),
        Told { damage: Some(damage), .. } => sink(Piece::Damage(damage.message)),
        Told { notice: Some(notice), .. } => sink(Piece::Notice(notice.message)),
        _ => Err(Failure::could_not_run("the node sent a line that this program does not know")),
    }
}

/// The query as the node reads it. Spans have become times by this machine's clock.
fn parameters(query: &Query) -> String {
    let time = |time: tracklog_protocol::TimeMicros| tracklog_protocol::line::format_time(time);
    let filter = &query.filter;
    let all = [
        ("partition", query.partition.map(|partition| partition.to_string())),
        ("from", query.from.map(|bound| bound.to_text())),
        ("to", query.to.map(|bound| bound.to_text())),
        ("from_event_time", query.from_event_time.map(time)),
        ("to_event_time", query.to_event_time.map(time)),
        ("event", filter.event.clone()),
        ("source", filter.source.clone()),
        ("user", filter.user.clone()),
        ("last", query.last.map(|last| last.to_string())),
        ("limit", query.limit.map(|limit| limit.to_string())),
        ("follow", query.follow.then(|| "true".to_owned())),
    ];
    let given = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| format!("{name}={}", segment(&value))).collect::<Vec<_>>().join("&")
}

impl From<OfflineError> for Failure {
    fn from(error: OfflineError) -> Self {
        Self::could_not_run(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&str]) -> Result<Vec<String>, Failure> {
        let mut seen = Vec::new();
        let mut splitter = LineSplitter::default();
        for piece in pieces {
            splitter.push(piece.as_bytes(), &mut |piece| {
                seen.push(match piece {
                    Piece::Lines(lines, count) => {
                        format!("{count}:{}", String::from_utf8_lossy(lines).trim_end())
                    }
                    Piece::Notice(text) => format!("notice {text}"),
                    Piece::Damage(text) => format!("damage {text}"),
                    Piece::Records(_) | Piece::Pause => String::new(),
                });
                Ok(())
            })?;
        }
        splitter.finish()?;
        Ok(seen)
    }

    #[test]
    fn lines_are_put_together_and_told_apart() {
        let seen = split(&[
            "{\"topic\":1}\n{\"to",
            "pic\":2}",
            "\n{\"notice\":{\"message\":\"n\"}}\n{\"topic\":3}\n{\"damage\":{\"message\":\"d\"}}\n",
        ]);
        let wanted =
            ["1:{\"topic\":1}", "1:{\"topic\":2}", "notice n", "1:{\"topic\":3}", "damage d"];
        assert_eq!(seen.unwrap(), wanted);
    }

    #[test]
    fn an_error_line_and_a_cut_answer_are_failures() {
        let failed = split(&["{\"error\":{\"message\":\"the disk is gone\"}}\n"]).unwrap_err();
        assert_eq!(failed, Failure::CouldNotRun("the disk is gone".to_owned()));
        assert!(split(&["{\"topic\":1}\n{\"topic"]).is_err());
    }

    #[test]
    fn a_node_that_listens_everywhere_is_reached_through_loopback() {
        let reached = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(reached("[::]:80"), "[::1]:80");
        assert_eq!(reached("10.1.2.3:80"), "10.1.2.3:80");
    }
}
