//! Answers of the operators' routes.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use tracklog_ingest_gateway::Content;

pub(super) fn whole(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<Content> {
    let mut response = Response::new(Content::Whole(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Content> {
    let mut text = serde_json::to_string(body).expect("texts and numbers can be written");
    text.push('\n');
    whole(status, "application/json", text)
}

pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Content> {
    let body = serde_json::json!({ "success": false, "code": code, "message": message });
    let mut response = json(status, &body);
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
