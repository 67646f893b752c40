//! Chunks on their way to the node: asked again while it is away or busy.
//!
//! A chunk may be sent any number of times: the node stores its rows once. So whatever happens to
//! an answer, the chunk goes again; where another client was faster, the node says how far the
//! file is.

use hyper::{Method, StatusCode};
use indicatif::ProgressBar;
use tracklog_server::backfill::{Progress, StretchStored};

use super::chunks::Chunk;
use super::input::Input;
use super::{Backfill, ZonelessArg};
use crate::failure::Failure;
use crate::node_client::{Answered, NodeClient, segment};
use crate::patience::Patience;

/// Sends the chunks of a file.
pub(super) struct Sender<'b> {
    of: &'b Backfill,
    name: &'b str,
    path: String,
    /// The parameters that all of its chunks have.
    parameters: String,
    /// Found anew after it was lost: a node that comes back may listen elsewhere.
    node: Option<NodeClient>,
}

/// Why the node did not do as asked.
enum Refused {
    /// It may do so later.
    Later(String),
    /// Another stored rows of the file.
    Moved,
    /// It never will.
    Never(Failure),
}

impl<'b> Sender<'b> {
    pub(super) fn new(of: &'b Backfill, input: &'b Input, reading: &str) -> Self {
        let path = format!("/v1/backfills/{}/{}", segment(&of.source), input.hash);
        let zoneless = if of.zoneless == ZonelessArg::Utc { "&zoneless=utc" } else { "" };
        let (reading, file) = (segment(reading), segment(&input.name));
        let parameters = format!("reading={reading}&file={file}{zoneless}");
        Self { of, name: &input.name, path, parameters, node: None }
    }

    /// How far the file is.
    pub(super) async fn progress(&mut self) -> Result<Progress, Failure> {
        // The first time a node that is not there is told at once.
        if self.node.is_none() {
            self.node = Some(self.find()?);
        }
        let path = self.path.clone();
        let mut patience = Patience::new(self.of.patience);
        loop {
            let asked = self.ask(Method::GET, &path, bytes::Bytes::new()).await;
            match asked {
                Ok(answer) => return parse(&answer),
                Err(Refused::Never(failure)) => return Err(failure),
                Err(Refused::Later(why)) => patience.wait(&why, self.name, None).await?,
                Err(Refused::Moved) => {
                    return Err(Failure::could_not_run("the node answered with a conflict"));
                }
            }
        }
    }

    /// Sends `chunk` until it is stored.
    pub(super) async fn send(
        &mut self,
        chunk: &Chunk,
        bar: &ProgressBar,
    ) -> Result<StretchStored, Failure> {
        let last = if chunk.is_last { "&last=true" } else { "" };
        let (from, to) = (chunk.from, chunk.to);
        let path = format!("{}?from={from}&to={to}{last}&{}", self.path, self.parameters);
        let mut patience = Patience::new(self.of.patience);
        loop {
            match self.ask(Method::POST, &path, chunk.body.clone()).await {
                Ok(answer) => return parse(&answer),
                Err(Refused::Never(failure)) => return Err(failure),
                Err(Refused::Later(why)) => patience.wait(&why, self.name, Some(bar)).await?,
                Err(Refused::Moved) => {
                    let next_row = self.progress().await?.next_row;
                    if next_row < from {
                        let what = "the node has lost rows that it had stored: run it again";
                        return Err(Failure::of(self.name, what));
                    }
                }
            }
        }
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: bytes::Bytes,
    ) -> Result<bytes::Bytes, Refused> {
        let node = match self.node.take() {
            Some(node) => node,
            None => self.find().map_err(|failure| Refused::Later(failure.words().to_owned()))?,
        };
        let Answered { status, code, message, body } = match node.answer(method, path, body).await {
            Ok(answered) => answered,
            Err(error) => return Err(Refused::Later(error.to_string())),
        };
        self.node = Some(node);
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(Refused::Later(message))
            }
            StatusCode::CONFLICT if code == "moved" => Err(Refused::Moved),
            _ => Err(Refused::Never(Failure::of(self.name, message))),
        }
    }

    fn find(&self) -> Result<NodeClient, Failure> {
        let none = || {
            let folder = self.of.place.folder();
            let what = "no node serves from it: `tracklog serve` does";
            Failure::of(folder.path().display(), what)
        };
        self.of.place.running()?.ok_or_else(none)
    }
}

fn parse<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|error| Failure::of("the node's answer", error))
}
