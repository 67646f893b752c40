//! Asking a running node what only its operators may know.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::http_client::{Endpoint, HttpError};

/// A node, and the token that opens it.
pub(crate) struct NodeClient {
    endpoint: Endpoint,
    token: String,
}

/// What an answer that is no success says.
#[derive(Deserialize)]
struct Refused {
    code: String,
    message: String,
}

/// An answer, whatever it is.
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    /// Of one that is no success: the stable reason, and the node's words.
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) body: Bytes,
}

/// Why a stream of events does not begin.
pub(crate) enum NoStream {
    /// Nobody answers, or has room: it may be so later.
    Now(Failure),
    /// The node does not give it.
    Refused(Failure),
}

impl From<NoStream> for Failure {
    fn from(why: NoStream) -> Self {
        match why {
            NoStream::Now(failure) | NoStream::Refused(failure) => failure,
        }
    }
}

/// An answer of which only the status tells something.
#[derive(Deserialize)]
struct Done {}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::could_not_run(error)
    }
}

impl NodeClient {
    pub(crate) const fn new(endpoint: Endpoint, token: String) -> Self {
        Self { endpoint, token }
    }

    /// Asks; an answer other than success is a failure with the node's own words.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let response = self.send(method, path, body).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.whole(response).await?;
        Err(Failure::could_not_run(self.refused(status, &body).message))
    }

    /// Asks, and tells whatever the answer is.
    pub(crate) async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answered, HttpError> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body =
            body.map_err(|source| HttpError::Http { endpoint: self.endpoint.to_string(), source })?;
        let body = body.to_bytes();
        if status.is_success() {
            let (code, message) = (String::new(), String::new());
            return Ok(Answered { status, code, message, body });
        }
        let Refused { code, message } = self.refused(status, &body);
        Ok(Answered { status, code, message, body })
    }

    /// A stream of server-sent events, behind the one with the id `after`.
    pub(crate) async fn stream(
        &self,
        path: &str,
        after: Option<&str>,
    ) -> Result<Response<Incoming>, NoStream> {
        let asked = self.send_after(Method::GET, path, Bytes::new(), after).await;
        let response = asked.map_err(|error| NoStream::Now(error.into()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.whole(response).await.map_err(NoStream::Now)?;
        let failure = Failure::could_not_run(self.refused(status, &body).message);
        Err(match status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            true => NoStream::Now(failure),
            false => NoStream::Refused(failure),
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, HttpError> {
        self.send_after(method, path, body, None).await
    }

    async fn send_after(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        after: Option<&str>,
    ) -> Result<Response<Incoming>, HttpError> {
        let mut connection = self.endpoint.connect().await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {}", self.token));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let request = request.body(Full::new(body));
        connection.send(request.map_err(|_| HttpError::Url(path.to_owned()))?).await
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Refused {
        serde_json::from_slice(body).unwrap_or_else(|_| Refused {
            code: String::new(),
            message: format!("{} answered {status}", self.endpoint),
        })
    }

    /// The JSON of an answer.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        let response = self.ask(method, path, body).await?;
        let body = self.whole(response).await?;
        serde_json::from_slice(&body).map_err(|error| Failure::of(&self.endpoint, error))
    }

    /// What is at `path`, as it is.
    pub(crate) async fn bytes(&self, path: &str) -> Result<Bytes, Failure> {
        let response = self.ask(Method::GET, path, Bytes::new()).await?;
        self.whole(response).await
    }

    /// The JSON that is at `path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// Deletes what is at `path`.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        let Done {} = self.json(Method::DELETE, path, Bytes::new()).await?;
        Ok(())
    }

    /// The next piece of an answer that comes piece by piece.
    pub(crate) async fn piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Failure::of(&self.endpoint, format!("the connection broke: {error}"))
            })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Takes an answer that comes as lines of JSON, each as it comes.
    pub(crate) async fn lines<T: DeserializeOwned>(
        &self,
        answer: Response<Incoming>,
        take: &mut dyn FnMut(T),
    ) -> Result<(), Failure> {
        let mut body = answer.into_body();
        let mut begun = Vec::new();
        while let Some(piece) = self.piece(&mut body).await? {
            begun.extend_from_slice(&piece);
            while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = begun.drain(..=end).collect();
                take(serde_json::from_slice(&line).map_err(Failure::could_not_run)?);
            }
        }
        Ok(())
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, Failure> {
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| Failure::of(&self.endpoint, error))?;
        Ok(body.to_bytes())
    }
}

/// A name as a part of a path.
pub(crate) fn segment(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}
