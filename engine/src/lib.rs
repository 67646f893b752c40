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
    use std::sync::Arc;

    use tracklog_protocol::{Offset, PartitionId};

    use crate::disk::{BufferPool, Disk, PackFile, PackId};
    use crate::journal::commit::{
        CommitHeader, CommitKind, Opened, Sealed, control_body, directory,
    };
    use crate::partition::places::Reach;
    use crate::seen::event_ids::HASH_BITS;
    use crate::settled::frames::Frames;
    use crate::settled::ids::{IdReader, IdSearch};
    use crate::settled::pack::{Batches, PackHead, PackIndex};

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

    /// What a pack gives to those who read it.
    #[derive(Debug, Default)]
    pub struct PackShown {
        /// The records that its places lead to.
        pub records: Vec<(PartitionId, Offset, Vec<u8>)>,
        /// The events that its index of ids names, in its order; `None` where it cannot be read.
        pub ids: Option<Vec<(PartitionId, Offset)>>,
        /// Whether what its trailer and footer say of the log could be read too.
        pub has_witness: bool,
        /// Whether a verification finds nothing wrong.
        pub is_good: bool,
    }

    /// Reads all of a pack that readers, openings and verifications read; `None` when its index
    /// cannot be read.
    ///
    /// # Panics
    /// When it is one of those that must not be listed, or an index of ids says one thing to who reads
    /// all of it, and another to who looks into it.
    #[must_use]
    pub fn pack_shown(disk: &Arc<dyn Disk>, pack: PackId) -> Option<PackShown> {
        let file = disk.open_pack(pack).ok()?;
        let (index, cluster) = PackIndex::read_any(&*file).ok()?;
        let (head, index) = (index.head, Arc::new(index));
        index.topic_bytes(|_, _| {});
        Reach::of(&index.shares, |_| Some(Offset(3))).expired_percent();
        Some(PackShown {
            records: records_of_pack(disk, pack, &index),
            ids: ids_of_pack(&file, &index),
            has_witness: PackIndex::read_witness(&*file).is_ok_and(|witness| witness.is_some()),
            is_good: crate::verify::is_pack_good(&**disk, cluster, PackHead { id: pack, ..head }),
        })
    }

    fn records_of_pack(
        disk: &Arc<dyn Disk>,
        pack: PackId,
        index: &PackIndex,
    ) -> Vec<(PartitionId, Offset, Vec<u8>)> {
        let frames = Frames::new(Arc::clone(disk), BufferPool::new(1 << 20), 8 << 20);
        let mut records = Vec::new();
        for share in &index.shares {
            for place in &share.places {
                let frame = index.frame_of(place).expect("places lie in frames");
                let frame = &index.frames[frame];
                let Ok(bytes) = frames.get(pack, frame) else { continue };
                let at = |at: u64| usize::try_from(at - frame.space_at).expect("frames are small");
                let stretch = bytes.slice(at(place.at())..at(place.end()));
                for batch in Batches::new(stretch).flatten() {
                    let partition = batch.partition();
                    let of_batch = batch.records();
                    records.extend(of_batch.map(|(at, it)| (partition, at, it.bytes().to_vec())));
                }
            }
        }
        records
    }

    fn ids_of_pack(
        file: &Arc<dyn PackFile>,
        index: &Arc<PackIndex>,
    ) -> Option<Vec<(PartitionId, Offset)>> {
        let mut ids = Vec::new();
        let mut reader = IdReader::new(Arc::clone(index), Arc::clone(file));
        while let Some(id) = reader.next().ok()? {
            ids.push((index.shares[id.share].partition, id.offset));
        }
        let (mut found, pool) = (Vec::new(), BufferPool::new(1 << 20));
        let search = IdSearch::new(index, &**file, &pool);
        let looked = search
            .find(&(0..=(1 << HASH_BITS) - 1), |partition, offset| found.push((partition, offset)));
        looked.expect("who reads all of it found nothing wrong");
        assert_eq!(found, ids, "the index of ids");
        Some(ids)
    }

    /// A checkpoint's file, read and written again; `None` when it is none of this version.
    #[must_use]
    pub fn checkpoint_again(file: &[u8]) -> Option<Vec<u8>> {
        let checkpoint = crate::checkpoint::Checkpoint::decode(file).ok()?;
        Some(checkpoint.encode())
    }
}
