//! What a caller asks of an append, and what it gets back.
//!
//! No allocation per append is forced by these types: items are borrowed, and a [`Ticket`] shares
//! one [`Outcome`] with all other appends of the same commit.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tracklog_protocol::batch::Produced;
use tracklog_protocol::{Offset, PartitionId, ProducerEpoch, Record, Sequence, VerifiedBatch};

use crate::{Epoch, Seen, Settled};

/// One request to append: all of it lies in one commit, or none.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// Checked against the log as it will be when this append's turn comes, commits in flight
    /// included. All must hold.
    pub conditions: &'a [Condition],
    /// What to store, in order.
    pub items: &'a [Item<'a>],
}

/// One thing to append.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// One record; the log gathers it into a batch with its neighbours.
    Record {
        /// Where it goes.
        partition: PartitionId,
        /// What goes there.
        record: Record<'a>,
    },
    /// A whole batch, kept as it is.
    Batch {
        /// Where it goes.
        partition: PartitionId,
        /// What goes there.
        batch: &'a VerifiedBatch,
    },
}

impl Item<'_> {
    /// Where the item goes.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        match self {
            Self::Record { partition, .. } | Self::Batch { partition, .. } => *partition,
        }
    }

    /// What a batch says of its idempotent producer.
    #[must_use]
    pub const fn produced(&self) -> Option<Produced> {
        match self {
            Self::Record { .. } => None,
            Self::Batch { batch, .. } => batch.view().header().produced(),
        }
    }
}

/// What must be true for an append to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// The partition's next offset is `next`.
    NextOffset {
        /// The partition that is looked at.
        partition: PartitionId,
        /// The offset that its next record must get.
        next: Offset,
    },
    /// In a partition of a compacted topic, the last record with this key is the one at `last`;
    /// `None`: the key was never written, or its last record deleted it.
    LastOfKey {
        /// The partition that is looked at.
        partition: PartitionId,
        /// The key.
        key: Vec<u8>,
        /// Where its last record is.
        last: Option<Offset>,
    },
    /// The event of a single-record item is another one than the event at this place, or is to be
    /// stored although it has the same id. It holds: who appends has looked. See
    /// [`dedupe`](crate::dedupe).
    Differs {
        /// Its index in [`Append::items`].
        item: usize,
        /// Where the other lies.
        partition: PartitionId,
        /// See `partition`.
        offset: Offset,
    },
    /// Who appends has looked where settled events lie that may have the id of a single-record item,
    /// and says of each that it differs. It holds, and counts for what was settled up to then. See
    /// [`dedupe`](crate::dedupe).
    Looked {
        /// Its index in [`Append::items`].
        item: usize,
        /// What [`Log::settled_places`](crate::Log::settled_places) said.
        through: Settled,
    },
}

/// Why an append was not, or perhaps not, stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A condition does not hold. Nothing was stored.
    #[error("condition {index} of the append does not hold")]
    ConditionFailed {
        /// Its index in [`Append::conditions`].
        index: usize,
    },
    /// A batch does not begin where its producer's last one ended. Nothing was stored. Where
    /// `expected` lies above its beginning, it was stored before, up to there; else batches before
    /// it are missing: send them first. See [`producers`](crate::producers).
    #[error("item {item} of the append is out of sequence: its producer's next is {expected}")]
    OutOfSequence {
        /// Its index in [`Append::items`].
        item: usize,
        /// Where the producer's next batch in this partition must begin.
        expected: Sequence,
    },
    /// A later writer of the same producer took over. Nothing was stored; stop.
    #[error("item {item} of the append is stale: its producer is in epoch {current}")]
    StaleProducer {
        /// Its index in [`Append::items`].
        item: usize,
        /// The epoch that holds now.
        current: ProducerEpoch,
    },
    /// Events of the append may be there already. Nothing was stored; look, and append the others:
    /// [`dedupe::resolve`](crate::dedupe::resolve) does.
    #[error("{} events of the append may be there already", .0.items.len())]
    Seen(Arc<Seen>),
    /// Another writer took over the domain. Nothing was stored; stop.
    #[error("fenced: another writer holds epoch {}", current.0)]
    Fenced {
        /// The epoch that holds now.
        current: Epoch,
    },
    /// There is no such partition. Nothing was stored.
    #[error("there is no {partition}")]
    UnknownPartition {
        /// The one that was asked for.
        partition: PartitionId,
    },
    /// The append is larger than a commit can be. Nothing was stored; cut it up.
    #[error("the append has {bytes} bytes, more than a commit's {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest there can be.
        bytes_max: usize,
    },
    /// The disk, or the space that the log may use, is full. Nothing was stored; appends resume
    /// by themselves when there is room.
    #[error("the log is full: {why}")]
    Full {
        /// Which limit, in words.
        why: Arc<str>,
    },
    /// The log takes nothing more until it is opened again. Nothing was stored.
    #[error("the log is closed: {why}")]
    Closed {
        /// What closed it.
        why: Arc<str>,
    },
    /// The disk did not confirm the commit: the append may or may not be there after the next
    /// opening. Send it again with the same ids.
    #[error("the outcome is unknown: {why}")]
    Unknown {
        /// What failed.
        why: Arc<str>,
    },
}

/// The shared outcome of one commit's appends. Implementations of [`crate::Log`] make it.
pub trait Outcome: Send + Sync {
    /// Whether append number `append` of this commit is decided; else wakes `context` when it is.
    fn poll(&self, append: u32, context: &mut Context<'_>) -> Poll<Result<(), AppendError>>;

    /// The offset of item `item` of that append (a batch's first). Asked only after
    /// [`poll`](Self::poll) said `Ok`.
    fn offset(&self, append: u32, item: u32) -> Offset;

    /// Whether that append was stored before, by an earlier one. Asked as
    /// [`offset`](Self::offset) is.
    fn is_duplicate(&self, append: u32) -> bool;
}

/// A claim on the outcome of one append. A future; dropping it cancels nothing.
#[derive(Debug)]
#[must_use = "an append is acked only when its ticket resolves"]
pub struct Ticket(State);

enum State {
    Decided(AppendError),
    Waiting { outcome: Arc<dyn Outcome>, append: u32 },
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Decided(error) => f.debug_tuple("Decided").field(error).finish(),
            Self::Waiting { append, .. } => f.debug_tuple("Waiting").field(append).finish(),
        }
    }
}

impl Ticket {
    /// A ticket for append number `append` of a commit.
    pub fn new(outcome: Arc<dyn Outcome>, append: u32) -> Self {
        Self(State::Waiting { outcome, append })
    }

    /// A ticket of an append that was refused at once.
    pub const fn refused(error: AppendError) -> Self {
        Self(State::Decided(error))
    }
}

impl Future for Ticket {
    type Output = Result<Stored, AppendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.0 {
            State::Decided(error) => Poll::Ready(Err(error.clone())),
            State::Waiting { outcome, append } => outcome
                .poll(*append, context)
                .map_ok(|()| Stored { outcome: Arc::clone(outcome), append: *append }),
        }
    }
}

/// The ack of an append: all its items are synced to disk, by it or by an earlier one.
pub struct Stored {
    outcome: Arc<dyn Outcome>,
    append: u32,
}

impl Stored {
    /// The offset of item `item`; of a batch, the offset of its first record.
    ///
    /// # Panics
    /// When the append had no such item.
    #[must_use]
    pub fn offset(&self, item: usize) -> Offset {
        let item = u32::try_from(item).expect("an append has far fewer than 2^32 items");
        self.outcome.offset(self.append, item)
    }

    /// Whether an earlier append of the same batches has stored them; offsets are theirs then.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.outcome.is_duplicate(self.append)
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored").field("append", &self.append).finish_non_exhaustive()
    }
}
