//! The operators' routes of backfills: rows of files in, how far each file has come out.

use bytes::Bytes;
use http::{Response, StatusCode};
use tracklog_ingest_gateway::Content;
use tracklog_log::AppendError;

use super::Shared;
use super::answer::{json, refusal};
use super::query::{Parameters, stretch};
use crate::backfill::{BackfillError, Backfills, FileHash};

impl Shared {
    pub(super) fn backfilled(&self, source: &str, hash: &str) -> Response<Content> {
        let (backfills, file) = match self.backfills(hash) {
            Ok(found) => found,
            Err(refused) => return *refused,
        };
        match backfills.progress(source, &file) {
            Ok(progress) => json(StatusCode::OK, &progress),
            Err(error) => backfill_refusal(&error),
        }
    }

    pub(super) async fn backfill(
        &self,
        source: &str,
        hash: &str,
        query: &str,
        body: Bytes,
    ) -> Response<Content> {
        let (backfills, file) = match self.backfills(hash) {
            Ok(found) => found,
            Err(refused) => return *refused,
        };
        let stretch = match Parameters::of(query).and_then(stretch) {
            Ok(stretch) => stretch,
            Err(what) => return refusal(StatusCode::BAD_REQUEST, "invalid_request", &what),
        };
        match backfills.store(source, &file, stretch, body).await {
            Ok(stored) => json(StatusCode::OK, &stored),
            Err(error) => backfill_refusal(&error),
        }
    }

    /// The backfills, and the hash of a file; else the refusal.
    fn backfills(&self, hash: &str) -> Result<(&Backfills, FileHash), Box<Response<Content>>> {
        let starting =
            || refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the node is starting");
        let backfills = self.backfills.get().ok_or_else(|| Box::new(starting()))?;
        let file = FileHash::parse(hash).ok_or_else(|| {
            let what = "a file is named by its SHA-256 in lower-case hex";
            Box::new(refusal(StatusCode::BAD_REQUEST, "invalid_request", what))
        })?;
        Ok((backfills, file))
    }
}

fn backfill_refusal(error: &BackfillError) -> Response<Content> {
    let (status, code) = match error {
        BackfillError::Source(_) => (StatusCode::NOT_FOUND, "not_found"),
        BackfillError::Misframed(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
        BackfillError::TooMany { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_many"),
        BackfillError::OtherReading { .. } => (StatusCode::CONFLICT, "other_options"),
        BackfillError::Gap { .. } | BackfillError::Moved => (StatusCode::CONFLICT, "moved"),
        BackfillError::Busy(_) | BackfillError::Append(AppendError::Full { .. }) => {
            (StatusCode::TOO_MANY_REQUESTS, "overloaded")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    refusal(status, code, &error.to_string())
}
