//! Rejected events, judged again: the bytes that were kept, as they were read the first time.
//!
//! What counts is what holds now: the source's rules, its limits, the schemas. What does not change
//! is what the record says of the request: when it was received, from whom, with which headers, by
//! which door, and what its batch said for all its events.
//!
//! Addresses were cut by the source's rule before they were kept; a rule that is stricter now cuts
//! them again, one that is not brings nothing back.

use std::net::IpAddr;

use tracklog_protocol::rejected::RejectedView;

use super::{Door, Intake, Judged, RequestFacts, Validate};
use crate::envelope::{self, Manner, Mapping, Root};
use crate::rejection::{Code, Rejection};
use crate::source::SourceRules;

/// Why a rejected event cannot be judged again: not all that was sent is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotKept {
    /// Of its bytes the first were kept.
    #[error("only the first {kept} of its {full} bytes were kept")]
    Cut {
        /// How many.
        kept: u64,
        /// Of how many.
        full: u64,
    },
    /// The source keeps no bytes.
    #[error("its source keeps no bytes of rejected events")]
    Withheld,
    /// What its batch said for all events was too long.
    #[error("what its batch said for all events has {full} bytes and was not kept")]
    Batch {
        /// How long it was.
        full: u64,
    },
    /// It is a row of a file, which only whoever reads the file can make an event of.
    #[error("it is a row of a file that could not be read; backfill the file again")]
    Row,
}

/// A rejected event of the gateway's of which all is there.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    rejected: RejectedView<'a>,
    body: &'a [u8],
    manner: Manner,
}

impl<'a> Kept<'a> {
    /// What of `rejected` can be judged again.
    ///
    /// # Errors
    /// [`NotKept`].
    pub fn of(rejected: RejectedView<'a>) -> Result<Self, NotKept> {
        if rejected.code() == Code::InvalidRow.as_str() {
            return Err(NotKept::Row);
        }
        let full = rejected.full_length();
        let body = rejected.body().ok_or(NotKept::Withheld)?;
        if (body.len() as u64) < full {
            return Err(NotKept::Cut { kept: body.len() as u64, full });
        }
        if rejected.beside().is_none() && rejected.beside_length() > 0 {
            return Err(NotKept::Batch { full: rejected.beside_length() });
        }
        // Records of earlier versions do not say how they were read; most came in batches.
        let manner = rejected.read_as().and_then(Manner::named);
        Ok(Self { rejected, body, manner: manner.unwrap_or_else(|| Door::Batch.into()) })
    }
}

/// The message id that an event without one gets out of these bytes.
#[must_use]
pub fn made_id(bytes: [u8; 16]) -> String {
    envelope::made_id(&mut |id| *id = bytes)
}

impl Intake {
    /// Gives `kept` its record by what holds now. `make_id` fills sixteen bytes for its message
    /// id where it has none.
    pub fn judge_kept(
        &mut self,
        kept: &Kept<'_>,
        source: &SourceRules,
        schemas: &dyn Validate,
        make_id: &mut dyn FnMut(&mut [u8; 16]),
    ) -> Judged {
        let Kept { rejected, body, manner } = *kept;
        let address = |text: Option<&str>| text.and_then(|text| text.parse::<IpAddr>().ok());
        let headers: Vec<_> = rejected.headers().collect();
        let request = RequestFacts {
            received: rejected.received_time(),
            peer: address(rejected.peer_address()),
            client: address(rejected.client_address()),
            user_agent: rejected.user_agent(),
            headers: &headers,
        };
        let root = rejected.beside().map_or_else(Root::default, Root::of_text);
        let mapping = Mapping::new(manner, source, &request, root, schemas);
        let mut judged = std::mem::take(&mut self.desk.spare);
        let said = |rejection: Rejection| rejection;
        self.judge_event(body, &mapping, &source.limits, make_id, said, &mut judged);
        judged
    }
}
