//! What a stage could not work on, as a record for `rejected`.
//!
//! Its body is the record's JSON line: what people can read, and what a later retry begins from.

use tracklog_log::Topic;
use tracklog_protocol::event::EventView;
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::rejected::{RejectedBuilder, RejectedParts, RejectedView};
use tracklog_protocol::{Offset, PartitionId, Record, TimeMicros};

use super::Outputs;

/// The code of records that a stage rejected.
const CODE: &str = "stage_failed";

/// Builds the records that go to `rejected` for one stage.
#[derive(Debug)]
pub(super) struct Quarantine {
    stage: String,
    source: Topic,
    rejected: Topic,
    builder: RejectedBuilder,
    line: Vec<u8>,
}

impl Quarantine {
    pub(super) fn new(stage: &str, source: Topic, rejected: Topic) -> Self {
        let builder = RejectedBuilder::new();
        Self { stage: stage.to_owned(), source, rejected, builder, line: Vec::new() }
    }

    /// Pushes what is left of `record`, which lies at `offset` of `source` since `appended_at`.
    pub(super) fn reject(
        &mut self,
        source: PartitionId,
        offset: Offset,
        appended_at: TimeMicros,
        record: Record<'_>,
        reason: &str,
        outputs: &mut Outputs,
    ) {
        let topic = self.source.name();
        let at = LinePlace { topic, partition: source.partition, offset, appended_at };
        self.line.clear();
        write_line(&mut self.line, at, record);
        let known = parts_of(record);
        let parts = RejectedParts {
            code: CODE,
            message: reason,
            body: &self.line,
            stage: Some(&self.stage),
            ..known
        };
        let key = EventView::of(record).map_or(&self.line[..], |it| it.partition_key().as_bytes());
        outputs.push(self.rejected.partition_for(key), self.builder.build(&parts));
    }
}

/// What is known of the record itself.
fn parts_of(record: Record<'_>) -> RejectedParts<'_> {
    if let Some(event) = EventView::of(record) {
        return RejectedParts {
            source: event.source(),
            received_time: event.received_time(),
            message_id: Some(event.message_id()),
            kind: Some(event.kind().as_str()),
            name: event.name(),
            peer_address: event.peer_address(),
            client_address: event.client_address(),
            ..RejectedParts::default()
        };
    }
    match RejectedView::of(record) {
        Some(rejected) => RejectedParts {
            source: rejected.source(),
            received_time: rejected.received_time(),
            message_id: rejected.message_id(),
            kind: rejected.kind(),
            name: rejected.name(),
            ..RejectedParts::default()
        },
        None => RejectedParts::default(),
    }
}
