//! From a whole body to a list of records: sans-io, for every door.
//!
//! Two steps, so that the write key in a body can choose the source before its rules are needed:
//! 1. [`Intake::scan`] finds the events and checks their bytes. The answer is a [`Submission`],
//!    which knows the write keys in the body, or [`Unreadable`]: then nothing is stored at all.
//! 2. [`Submission::judge`] gives each event, in order, a record: an event for topic `raw`, or a
//!    rejected event, with code, pointer, message and the bytes, for topic `rejected`.
//!
//! Promises: one event, one record, whatever the others are; no clock, no randomness but what is
//! handed in; no recursion; the memory of an [`Intake`] is reused and bounded by the body.

pub mod kept;
pub mod rows;

use std::net::IpAddr;

use tracklog_protocol::event::{EventBuilder, EventKind, EventParts, EventView};
use tracklog_protocol::rejected::{RejectedBuilder, RejectedView};
use tracklog_protocol::{Record, Records, TimeMicros, partition_for};
use tracklog_registry::{Registry, Verdict};

use crate::envelope::{self, Mapping, Root};
use crate::rejection::{Code, Rejection};
use crate::scan::{Flaw, Scan, ScanLimits, Scanned, ScannedEvent, Shape, Unreadable, string_text};
use crate::source::SourceRules;

/// Bytes that the context and integrations of a batch may add to all its events together.
const MERGED_BYTES_MAX: usize = 16 << 20;

/// Memory that is kept between requests, at most.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Where a body came in: what shape it has, and what its events are when they do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `/v1/track` and its like: one event, of this kind unless it says another.
    Single(EventKind),
    /// `/v1/merge`: one event that is always quarantined as `unknown_kind`.
    Merge,
    /// `/v1/batch`: an object with the events in `batch`.
    Batch,
    /// `/v1/import`: the same, with times that are declared true.
    Import,
    /// `/v1/events`: an array of events, or one a line.
    Events,
}

impl Door {
    const fn shape(self) -> Shape {
        match self {
            Self::Single(_) | Self::Merge => Shape::Event,
            Self::Batch | Self::Import => Shape::Batch,
            Self::Events => Shape::Events,
        }
    }
}

/// What only the request knows.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// When it was received.
    pub received: TimeMicros,
    /// Who held the other end of the connection.
    pub peer: Option<IpAddr>,
    /// Who is behind the trusted proxies: see [`client_address`](crate::client_ip::client_address).
    pub client: Option<IpAddr>,
    /// The `User-Agent` header.
    pub user_agent: Option<&'a str>,
    /// The headers that the source keeps: name in lower case, value.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Holds payloads against schemas. The registry does; tests have their own.
pub trait Validate {
    /// What the schema of the event `name`, in this version or the newest, says of `payload`: the
    /// text of a JSON object that the scan passed.
    fn validate(&self, name: &str, version: Option<u32>, payload: &str) -> Verdict;
}

impl Validate for Registry {
    fn validate(&self, name: &str, version: Option<u32>, payload: &str) -> Verdict {
        Self::validate(self, name, version, payload)
    }
}

/// No event has a schema.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSchemas;

impl Validate for NoSchemas {
    fn validate(&self, _: &str, _: Option<u32>, _: &str) -> Verdict {
        Verdict::UnknownEvent
    }
}

/// The buffers of one worker, kept from request to request.
#[derive(Debug, Default)]
pub struct Intake {
    scan: Scan,
    desk: Desk,
}

/// What the second step writes with.
#[derive(Debug, Default)]
struct Desk {
    events: EventBuilder,
    rejected: RejectedBuilder,
    spare: Judged,
    envelope: envelope::Buffers,
}

impl Intake {
    /// Empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Finds the events of a whole, decoded body, and checks their bytes. `limits` are the largest
    /// that any source has.
    ///
    /// # Errors
    /// [`Unreadable`] when the body as a whole is refused.
    pub fn scan<'a>(
        &'a mut self,
        body: &'a [u8],
        door: Door,
        limits: &ScanLimits,
    ) -> Result<Submission<'a>, Unreadable> {
        let scanned = self.scan.read(body, door.shape(), limits)?;
        let root = Root::of(&scanned);
        Ok(Submission { scanned, root, desk: &mut self.desk, door })
    }

    /// Gives the one event that `bytes` should be its record. `said` has the last word on why it
    /// is rejected.
    fn judge_event(
        &mut self,
        bytes: &[u8],
        mapping: &Mapping<'_>,
        limits: &ScanLimits,
        make_id: &mut dyn FnMut(&mut [u8; 16]),
        said: impl FnOnce(Rejection) -> Rejection,
        judged: &mut Judged,
    ) {
        let Self { scan, desk } = self;
        let scanned = match scan.read(bytes, Shape::Event, limits) {
            Ok(scanned) => scanned,
            Err(Unreadable { flaw, column, .. }) => {
                let what = format!("{} (column {column})", flaw.what);
                let flaw = said(Rejection::new(flaw.code, what));
                return judged.reject(desk.rejected.build(&mapping.refused(bytes, &flaw)), bytes);
            }
        };
        let event = scanned.event(0).expect("a body that is read has its event");
        let (events, buffers) = (&mut desk.events, &mut desk.envelope);
        let accept = |parts: &EventParts<'_>| judged.accept(events.build(parts));
        if let Err(rejection) = mapping.map(&event, buffers, make_id, accept) {
            mapping.refuse(&event, &said(rejection), |parts, key| {
                judged.reject(desk.rejected.build(parts), key);
            });
        }
    }

    /// Takes the memory of an answered request back.
    pub fn recycle(&mut self, mut judged: Judged) {
        judged.clear();
        self.desk.spare = judged;
    }
}

/// A body whose events are found, before its source is known.
#[derive(Debug)]
pub struct Submission<'a> {
    scanned: Scanned<'a>,
    root: Root<'a>,
    desk: &'a mut Desk,
    door: Door,
}

impl<'a> Submission<'a> {
    /// How many events it has.
    #[must_use]
    pub const fn event_count(&self) -> usize {
        self.scanned.len()
    }

    /// The `writeKey` at the top of the body: of a batch, or of the one event of a single route.
    #[must_use]
    pub fn root_write_key(&self) -> Option<String> {
        match self.door.shape() {
            Shape::Batch => self.root.write_key.map(|token| string_text(token).into_owned()),
            Shape::Event => self.event_write_key(),
            Shape::Events => None,
        }
    }

    /// The `writeKey` of the first event that has one.
    #[must_use]
    pub fn event_write_key(&self) -> Option<String> {
        self.scanned.events().find_map(|event| write_key(&event))
    }

    /// Gives each event its record. `random` fills sixteen bytes for each message id that has to
    /// be made.
    ///
    /// # Errors
    /// [`Unreadable`] when there are more events than the source may send at once, or what the
    /// batch adds to each of them makes too much together.
    pub fn judge(
        self,
        source: &SourceRules,
        request: &RequestFacts<'_>,
        schemas: &dyn Validate,
        random: &mut dyn FnMut(&mut [u8; 16]),
    ) -> Result<Judged, Unreadable> {
        self.check_sizes(source)?;
        let Self { scanned, root, desk, door } = self;
        let mut judged = std::mem::take(&mut desk.spare);
        let mapping = Mapping::new(door.into(), source, request, root, schemas);
        for event in scanned.events() {
            let buffers = &mut desk.envelope;
            let builder = &mut desk.events;
            match mapping.map(&event, buffers, random, |parts| judged.accept(builder.build(parts)))
            {
                Ok(()) => {}
                Err(rejection) => {
                    mapping.refuse(&event, &rejection, |parts, key| {
                        judged.reject(desk.rejected.build(parts), key);
                    });
                }
            }
        }
        Ok(judged)
    }

    fn check_sizes(&self, source: &SourceRules) -> Result<(), Unreadable> {
        let count = self.scanned.len();
        let refuse =
            |code, what| Err(Unreadable { flaw: Flaw { code, at: 0, what }, line: 1, column: 1 });
        if count > source.limits.events_max as usize {
            return refuse(Code::TooMany, "too many events in one request");
        }
        if self.root.merged_bytes().saturating_mul(count) > MERGED_BYTES_MAX {
            return refuse(Code::TooLarge, "the batch's context is too large for its events");
        }
        Ok(())
    }
}

fn write_key(event: &ScannedEvent<'_>) -> Option<String> {
    let field = event.fields().find(|field| field.key == "writeKey")?;
    let key = field.value.starts_with('"').then(|| string_text(field.value).into_owned())?;
    (!key.is_empty()).then_some(key)
}

/// What became of a body: one record an event, in the order sent. Owned, to be kept until the
/// records are durable and the answer is written; then [`Intake::recycle`] takes it back.
#[derive(Debug, Default)]
pub struct Judged {
    records: Records,
    /// The partition keys of the rejected, one after the other, and where each ends. An event's
    /// lies in its record.
    keys: Vec<u8>,
    key_ends: Vec<usize>,
    rejected_count: usize,
}

impl Judged {
    /// How many records there are: as many as events.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether the body had no events.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many of them are rejected.
    #[must_use]
    pub const fn rejected_count(&self) -> usize {
        self.rejected_count
    }

    /// How many bytes the records have together.
    #[must_use]
    pub const fn byte_count(&self) -> usize {
        self.records.byte_count()
    }

    /// What became of the event with this index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Judgement<'_>> {
        let record = self.records.get(index)?;
        let end = *self.key_ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.key_ends.get(before));
        let rejected_key = self.keys.get(start.copied().unwrap_or_default()..end)?;
        Some(match EventView::of(record) {
            Some(event) => Judgement { record, key: event.partition_key().as_bytes() },
            None => Judgement { record, key: rejected_key },
        })
    }

    /// What became of each event, in the order sent.
    pub fn iter(&self) -> impl Iterator<Item = Judgement<'_>> + Clone {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    fn accept(&mut self, record: Record<'_>) {
        self.records.push(record);
        self.key_ends.push(self.keys.len());
    }

    fn reject(&mut self, record: Record<'_>, key: &[u8]) {
        self.keys.extend_from_slice(key);
        self.rejected_count += 1;
        self.accept(record);
    }

    fn clear(&mut self) {
        self.records.clear(KEPT_BYTES_MAX);
        self.keys.clear();
        self.keys.shrink_to(KEPT_BYTES_MAX);
        self.key_ends.clear();
        self.key_ends.shrink_to(KEPT_BYTES_MAX / 64);
        self.rejected_count = 0;
    }
}

/// What became of one event.
#[derive(Clone, Copy, Debug)]
pub struct Judgement<'a> {
    /// Its record: an event for `raw`, or a rejected event for `rejected`.
    pub record: Record<'a>,
    /// What decides on its partition: in its stored form the anonymous id, else the user id, else
    /// the message id; of a rejected event without any of the first two its bytes.
    pub key: &'a [u8],
}

impl<'a> Judgement<'a> {
    /// Its partition in a topic of that many.
    #[must_use]
    pub fn partition(&self, partitions: u32) -> u32 {
        partition_for(self.key, partitions)
    }

    /// Why it was rejected, where to, and its message id if that could be read; `None` for an
    /// accepted event.
    #[must_use]
    pub fn rejected(&self) -> Option<RejectedView<'a>> {
        RejectedView::of(self.record)
    }
}

/// Scans and judges any bytes at every door, with the rules of a source that has them all. For
/// fuzzing: whatever the bytes are, this returns.
pub fn fuzz_body(data: &[u8]) {
    let mut intake = Intake::new();
    let headers = [("dnt", "1")];
    let peer = Some(IpAddr::from([203, 0, 113, 9]));
    let request = RequestFacts {
        received: TimeMicros(1_732_500_000_000_000),
        peer,
        client: peer,
        user_agent: Some("Mozilla/5.0"),
        headers: &headers,
    };
    let plain = SourceRules::named("fuzz");
    let strict = SourceRules {
        user_id: crate::source::UserIdRule::Hmac(crate::source::HmacKey::new(b"fuzz")),
        ip: crate::source::IpRule::Truncate,
        keep_rejected_bytes: Some(true),
        ..plain.clone()
    };
    let single = EventKind::ALL.map(Door::Single);
    for door in single.into_iter().chain([Door::Merge, Door::Batch, Door::Import, Door::Events]) {
        for source in [&plain, &strict] {
            let Ok(submission) = intake.scan(data, door, &ScanLimits::default()) else { continue };
            let count = submission.event_count();
            let judged = submission.judge(source, &request, &NoSchemas, &mut |id| id.fill(7));
            if let Ok(judged) = judged {
                assert_eq!(judged.iter().count(), count, "one event, one record");
                intake.recycle(judged);
            }
        }
    }
}
