//! An embeddable, durable, partitioned commit log.
//!
//! One interleaved journal takes every write, one write to the disk covers every partition, and
//! the journal is the store: nothing is written twice. An ack means that the records are on the
//! disk of this node. The engine knows batches of records, topics and partitions; it knows no
//! network and no JSON. If you want the seam that it implements, see `tracklog-log`; the bytes on
//! disk are described in `FORMAT.md` beside this crate's manifest.
//!
//! Embedded use in thirty lines: `examples/embedded.rs`. Read first: [`Engine`], and
//! [`tracklog_log::Log`], which it implements.

mod catalog;
mod checkpoint;
pub mod disk;
mod engine;
mod error;
mod fields;
mod index_file;
mod inspect;
mod intake_client;
mod journal;
mod keeper;
#[cfg(test)]
mod models;
mod offline;
mod open;
mod options;
mod partition;
mod published;
mod read;
mod relay;
mod sections;
mod seen;
mod settled;
mod snapshot;
#[cfg(any(test, feature = "simulation"))]
mod stepped;
mod sync;
mod verify;

pub use engine::{Engine, State, Status};
pub use error::OpenError;
pub use inspect::{Inspection, inspect};
pub use journal::commit::{CommitNumber, Run};
pub use journal::recovery::Note;
pub use offline::OfflineLog;
pub use open::OpeningReport;
pub use options::{BackendChoice, Options, WhenFull};
pub use relay::Relay;
pub use snapshot::{
    LogEnd, OpenPackCopy, PackCopy, Point, SegmentCopy, Snapshot, SnapshotError, Snapshots,
    Standing, TopicExtents, standing,
};
#[cfg(any(test, feature = "simulation"))]
pub use stepped::Stepper;
pub use verify::{
    Counts, PartitionReport, Problem, Progress, RecordDamage, VerifyReport, verify, verify_on,
};

/// For the fuzz targets alone: what they reach and nobody else does.
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod fuzzing {
    use crate::journal::commit::{
        CommitHeader, CommitKind, Opened, Sealed, control_body, directory,
    };

    /// The fixed header at the start of a commit, read and written again; `None` when it is none
    /// of this version.
    #[must_use]
    pub fn header_again(commit: &[u8]) -> Option<Vec<u8>> {
        Some(CommitHeader::decode(commit).ok()?.encode().to_vec())
    }

    /// What lies between a commit's header and its batches, read and written again; `None` when
    /// it cannot be read as what the header says.
    #[must_use]
    pub fn body_again(commit: &[u8]) -> Option<Vec<u8>> {
        let header = CommitHeader::decode(commit).ok()?;
        let body = control_body(&header, commit)?;
        match header.kind {
            CommitKind::Data => {
                let mut fields = Vec::new();
                directory(&header, commit)?.iter().for_each(|entry| entry.encode(&mut fields));
                Some(fields)
            }
            CommitKind::Opened => Some(Opened::decode(body)?.encode()),
            CommitKind::Sealed => Some(Sealed::decode(body)?.encode()),
            CommitKind::Mark | CommitKind::Other { .. } => None,
        }
    }

    /// A checkpoint's file, read and written again; `None` when it is none of this version.
    #[must_use]
    pub fn checkpoint_again(file: &[u8]) -> Option<Vec<u8>> {
        let checkpoint = crate::checkpoint::Checkpoint::decode(file).ok()?;
        Some(checkpoint.encode())
    }
}
