//! The answers of the tracking APIs that Segment's and RudderStack's SDKs speak.
//!
//! A batch is answered 200 whatever its events are: on any other status SDKs drop or repeat all of
//! it. A bad event alone is a 400 that no SDK repeats. Either way it is in `rejected` by then.

use http::{Response, StatusCode};
use tracklog_protocol::event::EventKind;
use tracklog_protocol::rejected::RejectedView;

use crate::answer::{Content, json, push_number, push_text, push_words};
use crate::delivery::Delivered;
use crate::intake::{Door, Judged};
use crate::route::Call;

/// What these APIs answer when there is nothing to tell.
pub(crate) const SUCCESS: &str = "{\"success\":true}";

/// The door behind a single-event path.
pub(crate) const fn door_of(call: Call) -> Door {
    match call {
        Call::Track => Door::Single(EventKind::Track),
        Call::Identify => Door::Single(EventKind::Identify),
        Call::Page => Door::Single(EventKind::Page),
        Call::Screen => Door::Single(EventKind::Screen),
        Call::Group => Door::Single(EventKind::Group),
        Call::Alias => Door::Single(EventKind::Alias),
        Call::Merge => Door::Merge,
    }
}

/// The answer to a batch: 200, with the bad events told.
pub(crate) fn batch_answer(delivered: &Delivered) -> Response<Content> {
    let judged = &delivered.acked.judged;
    if judged.rejected_count() == 0 { json(SUCCESS) } else { json(with_rejected(judged)) }
}

/// The answer to an event alone.
pub(crate) fn single_answer(delivered: &Delivered, door: Door) -> Response<Content> {
    let judged = &delivered.acked.judged;
    match judged.iter().find_map(|judgement| judgement.rejected()) {
        None => json(SUCCESS),
        // Its SDK sends it by its own right: only we have no such kind.
        Some(_) if door == Door::Merge => json(with_rejected(judged)),
        Some(rejected) => {
            let mut out = b"{\"success\":false,".to_vec();
            push_rejected(&mut out, &rejected);
            out.push(b'}');
            let mut response = json(out);
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}

fn with_rejected(judged: &Judged) -> Vec<u8> {
    let mut out = b"{\"success\":true,\"rejected\":[".to_vec();
    let mut follows = false;
    for (index, judgement) in judged.iter().enumerate() {
        let Some(rejected) = judgement.rejected() else { continue };
        if follows {
            out.push(b',');
        }
        follows = true;
        out.extend_from_slice(b"{\"index\":");
        push_number(&mut out, index as u64);
        if let Some(id) = rejected.message_id() {
            out.extend_from_slice(b",\"messageId\":");
            push_text(&mut out, id);
        }
        out.push(b',');
        push_rejected(&mut out, &rejected);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out
}

/// `"code":…,"message":…` and `,"pointer":…` where there is one.
pub(crate) fn push_rejected(out: &mut Vec<u8>, rejected: &RejectedView<'_>) {
    push_words(out, rejected.code(), rejected.message(), rejected.pointer());
}
