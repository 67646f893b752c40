//! What could not be accepted: the quarantine's records, with the reason and the bytes received.
//!
//! The same shape as [`event`](crate::event): [`RejectedBuilder`] makes a record of
//! [`RejectedParts`], [`RejectedView`] reads one in place, [`verify`] lets foreign bytes in. Of a
//! body at most [`BODY_BYTES_MAX`] are kept, with the length and hash of all of it. What else the
//! gateway read is kept beside it, so that the bytes can be judged again as they were.
//! Layout: `schema/rejected.fbs`.

use std::fmt;

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Vector, WIPOffset};
use xxhash_rust::xxh3::xxh3_64;

use crate::event::{first_line, limits};
use crate::generated::rejected as raw;
use crate::{PayloadKind, Record, TimeMicros, trusted};

/// So many of a body's first bytes are kept, at most.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// What a batch said for all its events is kept up to this length.
pub const BESIDE_BYTES_MAX: usize = 64 << 10;
/// Magic and root offset: what is shorter has no identifier to ask for.
const BYTES_MIN: usize = 8;

/// Everything that is known of a rejected event, borrowed.
#[derive(Clone, Copy, Debug, Default)]
pub struct RejectedParts<'a> {
    /// One of the codes that answers use.
    pub code: &'a str,
    /// What was wrong, in one line for people.
    pub message: &'a str,
    /// Where in the event, as a JSON pointer.
    pub pointer: Option<&'a str>,
    /// The name of the source.
    pub source: Option<&'a str>,
    /// When it was received.
    pub received_time: TimeMicros,
    /// All bytes of the event, as received.
    pub body: &'a [u8],
    /// Whether the bytes are left out, and only their length and hash are kept; of the request
    /// then nothing is kept but addresses.
    pub body_withheld: bool,
    /// The message id, where it could be read.
    pub message_id: Option<&'a str>,
    /// The kind, where it could be read: as sent.
    pub kind: Option<&'a str>,
    /// The event's name, where it could be read.
    pub name: Option<&'a str>,
    /// Who held the other end of the connection.
    pub peer_address: Option<&'a str>,
    /// Who is behind the trusted proxies.
    pub client_address: Option<&'a str>,
    /// The stage that refused it; `None` for the gateway.
    pub stage: Option<&'a str>,
    /// The headers that the source keeps: name in lower case, value.
    pub headers: &'a [(&'a str, &'a str)],
    /// The `User-Agent` header.
    pub user_agent: Option<&'a str>,
    /// How the bytes were read, in the gateway's words.
    pub read_as: Option<&'a str>,
    /// What the batch said for all its events, as a JSON object.
    pub beside: Option<&'a str>,
}

/// Headers that are written.
type Headers = WIPOffset<Vector<'static, ForwardsUOffset<raw::RequestHeader<'static>>>>;

/// Builds one rejected event after another in the same memory, which stays below a few times
/// [`BODY_BYTES_MAX`] as long as the texts are short.
pub struct RejectedBuilder {
    buffer: FlatBufferBuilder<'static>,
}

impl RejectedBuilder {
    /// A builder with room for a usual event.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: FlatBufferBuilder::with_capacity(4 << 10) }
    }

    /// Builds the record of `parts`. It lies in the builder until the next one is built.
    pub fn build(&mut self, parts: &RejectedParts<'_>) -> Record<'_> {
        self.buffer.reset();
        let body = if parts.body_withheld {
            None
        } else {
            Some(self.buffer.create_vector(kept(parts.body)))
        };
        let request = if parts.body_withheld { RejectedParts::default() } else { *parts };
        let headers = self.headers(request.headers);
        let beside = request.beside.filter(|text| text.len() <= BESIDE_BYTES_MAX);
        let mut text = |text: Option<&str>| text.map(|text| self.buffer.create_string(text));
        let args = raw::RejectedArgs {
            code: text(Some(parts.code)),
            message: text(Some(parts.message)),
            pointer: text(parts.pointer),
            source: text(parts.source),
            received_time: parts.received_time.0,
            body,
            full_length: parts.body.len() as u64,
            full_hash: xxh3_64(parts.body),
            message_id: text(parts.message_id),
            kind: text(parts.kind),
            name: text(parts.name),
            peer_address: text(parts.peer_address),
            client_address: text(parts.client_address),
            stage: text(parts.stage),
            headers,
            user_agent: text(request.user_agent),
            read_as: text(request.read_as),
            beside: text(beside),
            beside_length: request.beside.map_or(0, str::len) as u64,
        };
        let rejected = raw::Rejected::create(&mut self.buffer, &args);
        raw::finish_rejected_buffer(&mut self.buffer, rejected);
        Record::trusted(PayloadKind::Rejected, self.buffer.finished_data())
    }

    fn headers(&mut self, headers: &[(&str, &str)]) -> Option<Headers> {
        let mut header = |(name, value): &(&str, &str)| {
            let name = Some(self.buffer.create_string(name));
            let value = Some(self.buffer.create_string(value));
            raw::RequestHeader::create(&mut self.buffer, &raw::RequestHeaderArgs { name, value })
        };
        let headers: Vec<_> = headers.iter().map(&mut header).collect();
        (!headers.is_empty()).then(|| self.buffer.create_vector(&headers))
    }
}

impl Default for RejectedBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RejectedBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RejectedBuilder({} bytes built)", self.buffer.unfinished_data().len())
    }
}

/// The first bytes of `body`, not cut inside a character where it is UTF-8.
fn kept(body: &[u8]) -> &[u8] {
    let Some(cut) = body.get(..=BODY_BYTES_MAX) else {
        return body;
    };
    let is_inside_character = |at: usize| cut[at] & 0b1100_0000 == 0b1000_0000;
    let mut end = BODY_BYTES_MAX;
    while is_inside_character(end) && BODY_BYTES_MAX - end < 3 {
        end -= 1;
    }
    &cut[..end]
}

/// One rejected event, read in place.
#[derive(Clone, Copy)]
pub struct RejectedView<'a> {
    table: raw::Rejected<'a>,
}

/// Accessors of texts that may be absent.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> Option<&'a str> {
            self.table.$name()
        }
    )*};
}

impl<'a> RejectedView<'a> {
    /// The rejected event in `record`; `None` when it is of another kind.
    #[must_use]
    pub fn of(record: Record<'a>) -> Option<Self> {
        trusted::rejected(record).map(|table| Self { table })
    }

    /// One of the codes that answers use.
    #[must_use]
    pub fn code(&self) -> &'a str {
        self.table.code()
    }

    /// What was wrong, in one line for people.
    #[must_use]
    pub fn message(&self) -> &'a str {
        self.table.message()
    }

    /// When it was received.
    #[must_use]
    pub fn received_time(&self) -> TimeMicros {
        TimeMicros(self.table.received_time())
    }

    /// The first bytes received; `None` where they were withheld.
    #[must_use]
    pub fn body(&self) -> Option<&'a [u8]> {
        self.table.body().map(|body| body.bytes())
    }

    /// How many bytes the whole body had.
    #[must_use]
    pub fn full_length(&self) -> u64 {
        self.table.full_length()
    }

    /// The XXH3-64, seed 0, of the whole body.
    #[must_use]
    pub fn full_hash(&self) -> u64 {
        self.table.full_hash()
    }

    /// The headers that the source keeps: name in lower case, value.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.table.headers().into_iter().flatten().map(|header| (header.name(), header.value()))
    }

    /// How long that was which the batch said for all its events, whether it is kept or not.
    #[must_use]
    pub fn beside_length(&self) -> u64 {
        self.table.beside_length()
    }

    texts! {
        /// Where in the event, as a JSON pointer.
        pointer,
        /// The name of the source.
        source,
        /// The message id, where it could be read.
        message_id,
        /// The kind, where it could be read: as sent.
        kind,
        /// The event's name, where it could be read.
        name,
        /// Who held the other end of the connection.
        peer_address,
        /// Who is behind the trusted proxies.
        client_address,
        /// The stage that refused it; `None` for the gateway.
        stage,
        /// The `User-Agent` header.
        user_agent,
        /// How the bytes were read, in the gateway's words.
        read_as,
        /// What the batch said for all its events, as a JSON object; `None` where it said nothing,
        /// or too much.
        beside,
    }
}

impl fmt::Debug for RejectedView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectedView")
            .field("code", &self.code())
            .field("message", &self.message())
            .field("full_length", &self.full_length())
            .finish_non_exhaustive()
    }
}

/// Why bytes are no rejected event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectedError {
    /// They do not begin like one.
    #[error("no rejected event begins here")]
    NotARejected,
    /// The verifier refused them.
    #[error("the rejected event is malformed: {0}")]
    Malformed(String),
    /// More is kept of the body than may be, or than it had.
    #[error("the rejected event keeps {kept} bytes of a body of {full}")]
    Body {
        /// How many are kept.
        kept: usize,
        /// How many it had.
        full: u64,
    },
    /// What is kept of the batch is cut, or longer than may be.
    #[error("the rejected event keeps {kept} of {full} bytes of what its batch said")]
    Beside {
        /// How many are kept.
        kept: usize,
        /// How many there were.
        full: u64,
    },
}

/// Checks that `bytes` from outside are a rejected event; what passes can be read without further
/// checks.
pub fn verify(bytes: &[u8]) -> Result<Record<'_>, RejectedError> {
    if bytes.len() < BYTES_MIN || !raw::rejected_buffer_has_identifier(bytes) {
        return Err(RejectedError::NotARejected);
    }
    let rejected = raw::root_as_rejected_with_opts(&limits(bytes), bytes)
        .map_err(|error| RejectedError::Malformed(first_line(&error)))?;
    let kept = rejected.body().map_or(0, |body| body.len());
    let full = rejected.full_length();
    if kept > BODY_BYTES_MAX || kept as u64 > full {
        return Err(RejectedError::Body { kept, full });
    }
    let beside = rejected.beside().map_or(0, str::len);
    let beside_full = rejected.beside_length();
    if beside > BESIDE_BYTES_MAX || (beside > 0 && beside as u64 != beside_full) {
        return Err(RejectedError::Beside { kept: beside, full: beside_full });
    }
    Ok(Record::trusted(PayloadKind::Rejected, bytes))
}
