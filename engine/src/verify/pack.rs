//! Verifying one pack by itself: its index, its frames, the batches in them and their records, and its
//! index of message ids.
//!
//! Promises: every byte that means something is read from the disk; what cannot be read costs its
//! frame and no more; memory is bounded by one frame and by the stretches of offsets without a hole.

use std::io;
use std::sync::Arc;

use tracklog_protocol::{Offset, PartitionId};

use super::report::{Counts, Problem};
use super::segment::is_good;
use crate::disk::{BufferPool, Disk, PackFile};
use crate::journal::segment::ClusterId;
use crate::settled::frames::decode;
use crate::settled::ids::IdReader;
use crate::settled::pack::{Batches, Frame, PackHead, PackIndex};

/// What a pack holds.
#[derive(Debug)]
pub(super) struct CheckedPack {
    pub(super) head: PackHead,
    /// `None` where it cannot be read.
    pub(super) index: Option<Arc<PackIndex>>,
    /// Stretches of offsets of which every record is there, in order of partition and offset.
    pub(super) runs: Vec<Stretch>,
    pub(super) readable: Counts,
    pub(super) damaged: Counts,
    pub(super) problems: Vec<Problem>,
}

/// Records of a partition, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) partition: PartitionId,
    pub(super) from: Offset,
    pub(super) to: Offset,
}

/// Reads a pack. `read` hears of every stretch of bytes that is done with.
pub(super) fn check(
    disk: &dyn Disk,
    cluster: ClusterId,
    head: PackHead,
    read: &mut dyn FnMut(u64),
) -> CheckedPack {
    let mut checked = CheckedPack {
        head,
        index: None,
        runs: Vec::new(),
        readable: Counts::default(),
        damaged: Counts::default(),
        problems: Vec::new(),
    };
    let file = disk.open_pack(head.id);
    let file = match file {
        Ok(file) => file,
        Err(error) => {
            checked.lose_all(&error.to_string());
            return checked;
        }
    };
    match PackIndex::read(&*file, cluster, head.id) {
        Ok(index) => {
            let index = Arc::new(index);
            checked.check_frames(&*file, &index, read);
            checked.check_ids(&file, &index);
            checked.index = Some(index);
        }
        Err(error) => checked.lose_all(&error.to_string()),
    }
    checked
}

impl CheckedPack {
    fn problem(&mut self, position: Option<u64>, what: String) {
        self.problems.push(Problem { file: self.head.id.to_string(), position, what });
    }

    fn lose_all(&mut self, why: &str) {
        let PackHead { batches, records, file_bytes, .. } = self.head;
        self.damaged = Counts { commits: 0, batches, records, bytes: file_bytes };
        self.problem(None, format!("it cannot be read: {why}"));
    }

    fn check_frames(&mut self, file: &dyn PackFile, index: &PackIndex, read: &mut dyn FnMut(u64)) {
        let pool = BufferPool::new(1 << 20);
        for frame in &index.frames {
            match decode(file, frame, &pool) {
                Ok(bytes) => self.check_batches(frame, bytes),
                Err(error) => self.lose_frame(frame, &error),
            }
            read(u64::from(frame.stored_bytes));
        }
        let counts = (self.readable.batches, self.readable.records);
        if self.problems.is_empty() && counts != (self.head.batches, self.head.records) {
            let (batches, records) = (self.head.batches, self.head.records);
            let what = format!("it says {records} records in {batches} batches, and holds others");
            self.problem(None, what);
        }
        self.check_shares(index);
    }

    /// Whether all of the index of ids can be read. Where it cannot, no event is lost.
    fn check_ids(&mut self, file: &Arc<dyn PackFile>, index: &Arc<PackIndex>) {
        let Some(ids) = &index.ids else { return };
        let count = IdReader::new(Arc::clone(index), Arc::clone(file)).count();
        let what = match count {
            Ok(count) if count == ids.len() => return,
            Ok(count) => format!("its index of message ids holds {count}, not {}", ids.len()),
            Err(error) => format!("its index of message ids cannot be read: {error}"),
        };
        self.problem(Some(ids.at()), what);
    }

    fn lose_frame(&mut self, frame: &Frame, error: &io::Error) {
        self.damaged.bytes += u64::from(frame.stored_bytes);
        self.problem(Some(frame.at), format!("a frame cannot be read: {error}"));
    }

    fn check_batches(&mut self, frame: &Frame, bytes: bytes::Bytes) {
        self.readable.bytes += u64::from(frame.stored_bytes);
        for batch in Batches::new(bytes) {
            let batch = match batch {
                Ok(batch) => batch,
                Err(why) => return self.problem(Some(frame.at), why),
            };
            if let Some((offset, _)) = batch.records().find(|(_, record)| !is_good(*record)) {
                let partition = batch.partition();
                let what = format!("the record at offset {offset} of {partition} is malformed");
                self.problem(Some(frame.at), what);
                self.damaged.records += 1;
            }
            self.readable.batches += 1;
            self.readable.records += u64::from(batch.count());
            self.note(frame, batch.partition(), batch.base_offset(), batch.end_offset());
        }
    }

    fn note(&mut self, frame: &Frame, partition: PartitionId, from: Offset, to: Offset) {
        let last = self.runs.last_mut();
        match last {
            Some(last) if last.partition == partition && last.to == from => last.to = to,
            Some(last) if (last.partition, last.to) > (partition, from) => {
                let what = format!("offset {from} of {partition} comes out of order");
                self.problem(Some(frame.at), what);
            }
            _ => self.runs.push(Stretch { partition, from, to }),
        }
    }

    /// Whether the index names the first and the last offset of each partition.
    fn check_shares(&mut self, index: &PackIndex) {
        if !self.problems.is_empty() {
            return;
        }
        let said = index.shares.iter().map(|share| {
            let first = share.places.first().map(|place| place.base_offset);
            (share.partition, first.unwrap_or(share.end), share.end)
        });
        let mut there: Vec<(PartitionId, Offset, Offset)> = Vec::new();
        for Stretch { partition, from, to } in &self.runs {
            match there.last_mut().filter(|(last, ..)| last == partition) {
                Some((.., end)) => *end = *to,
                None => there.push((*partition, *from, *to)),
            }
        }
        if !said.eq(there) {
            self.problem(None, "its index names other offsets than its batches have".to_owned());
        }
    }
}
