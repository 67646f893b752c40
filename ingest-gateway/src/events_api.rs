//! The answer of the native route, `POST /v1/events`: a verdict for each event, in the order sent.

use http::Response;
use tracklog_log::Durability;
use tracklog_log::dedupe::VerdictKind;

use crate::answer::{Content, json, push_number, push_text};
use crate::delivery::Delivered;
use crate::segment_api::push_rejected;

/// Bytes of a usual verdict.
const VERDICT_BYTES: usize = 96;

/// 200, with what became of each event.
pub(crate) fn answer(delivered: &Delivered) -> Response<Content> {
    let Delivered { acked, desk } = delivered;
    let mut out = Vec::with_capacity(32 + acked.judged.len() * VERDICT_BYTES);
    out.extend_from_slice(b"{\"results\":[");
    for (index, judgement) in acked.judged.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let (offset, verdict) = acked.place(index);
        let (topic, own_partition) = desk.writer.place(&judgement);
        let partition = verdict.map_or(own_partition, |verdict| verdict.partition.partition);
        match judgement.rejected() {
            None => {
                let is_duplicate = verdict.is_some_and(|it| it.kind == VerdictKind::Duplicate);
                out.extend_from_slice(b"{\"status\":");
                push_text(&mut out, if is_duplicate { "duplicate" } else { "stored" });
            }
            Some(rejected) => {
                out.extend_from_slice(b"{\"status\":\"rejected\",");
                push_rejected(&mut out, &rejected);
            }
        }
        out.extend_from_slice(b",\"topic\":");
        push_text(&mut out, topic);
        out.extend_from_slice(b",\"partition\":");
        push_number(&mut out, u64::from(partition));
        out.extend_from_slice(b",\"offset\":");
        push_number(&mut out, offset.0);
        if judgement.rejected().is_none() {
            out.extend_from_slice(b",\"durability\":");
            push_text(&mut out, Durability::Disk.as_str());
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    json(out)
}
