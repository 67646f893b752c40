//! Packs that no checkpoint names: which there are, whether they are whole, and what is in them.
//!
//! A crash leaves such a pack when it comes after the pack was written and before both checkpoints
//! name it; with both checkpoints rotten every pack is one. Which of them serve is recovery's to say.
//!
//! Promises
//! - A pack counts as whole only when every frame of it was read and its checksum held: what was
//!   never synced may have its trailer on the disk and its frames not.
//! - Nothing is written.

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;
use tracklog_protocol::BatchView;

use crate::disk::{BufferPool, Disk, PackFile, PackId, twice};
use crate::journal::segment::ClusterId;
use crate::partition::places::{PartitionShare, Place};
use crate::settled::frames::decode;
use crate::settled::pack::{Batches, PackError, PackIndex, read_pages};

/// Memory that is kept from frame to frame.
const POOL_BYTES: usize = 1 << 20;

/// What there is of packs that nobody vouches for.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    /// Those with a good footer, widest stretch first, the last writing of a stretch before others.
    pub(crate) readable: Vec<Arc<PackIndex>>,
    /// Those that the disk does not give now.
    pub(crate) unread: Vec<PackId>,
}

impl Strays {
    /// Reads the indexes of these packs.
    pub(crate) fn read(
        disk: &dyn Disk,
        cluster: ClusterId,
        packs: impl Iterator<Item = PackId>,
    ) -> Result<Self, PackId> {
        let mut strays = Self::default();
        for id in packs {
            match twice(|| PackIndex::read(&*disk.open_pack(id)?, cluster, id)) {
                Ok(index) => strays.readable.push(Arc::new(index)),
                Err(PackError::Io(_)) => strays.unread.push(id),
                Err(PackError::Newer) => return Err(id),
                Err(PackError::Bad | PackError::Other) => {}
            }
        }
        strays.readable.sort_by_key(|index| {
            let PackId { first, last, generation } = index.head.id;
            (Reverse(last - first), Reverse(generation), first)
        });
        Ok(strays)
    }
}

/// Whether the two have segments in common.
pub(crate) const fn overlap(one: PackId, other: PackId) -> bool {
    one.first <= other.last && other.first <= one.last
}

/// Whether every frame of a pack can be read.
pub(crate) fn is_whole(disk: &dyn Disk, index: &PackIndex) -> bool {
    let Ok(file) = twice(|| disk.open_pack(index.head.id)) else { return false };
    let pool = BufferPool::new(POOL_BYTES);
    !index.is_missing()
        && index.frames.iter().all(|frame| {
            let length = u64::from(frame.stored_bytes);
            let read = || read_pages(&*file, frame.at, length, |bytes| pool.take(bytes));
            twice(read).is_ok_and(|(pages, from)| {
                let stored = &pages[from..from + frame.stored_bytes as usize];
                crc32fast::hash(stored) == frame.crc
            })
        })
}

/// Reads the batches of a pack, partition by partition.
pub(crate) struct PackReader<'a> {
    file: Arc<dyn PackFile>,
    index: &'a PackIndex,
    pool: BufferPool,
    /// The frame that was read last.
    frame: Option<(usize, Bytes)>,
}

impl<'a> PackReader<'a> {
    pub(crate) fn open(disk: &dyn Disk, index: &'a PackIndex) -> std::io::Result<Self> {
        let file = twice(|| disk.open_pack(index.head.id))?;
        Ok(Self { file, index, pool: BufferPool::new(POOL_BYTES), frame: None })
    }

    /// All batches of a share, in order; what is damaged is told in its place.
    pub(crate) fn batches(
        &mut self,
        share: &PartitionShare,
    ) -> impl Iterator<Item = Result<BatchView, String>> {
        let places = share.places.iter();
        places.flat_map(move |place| match self.place(place) {
            Ok(bytes) => Found::Batches(Batches::new(bytes)),
            Err(why) => Found::Damage(Some(why)),
        })
    }

    fn place(&mut self, place: &Place) -> Result<Bytes, String> {
        let at = self.index.frame_of(place).expect("its places lie in its frames");
        let frame = &self.index.frames[at];
        let bytes = match &self.frame {
            Some((known, bytes)) if *known == at => bytes.clone(),
            _ => {
                let read = || decode(&*self.file, frame, &self.pool);
                let bytes = twice(read).map_err(|error| error.to_string())?;
                self.frame = Some((at, bytes.clone()));
                bytes
            }
        };
        let from = usize::try_from(place.at() - frame.space_at).expect("a frame fits into memory");
        Ok(bytes.slice(from..from + place.batch_bytes as usize))
    }
}

/// What lies at a place.
enum Found {
    Batches(Batches),
    Damage(Option<String>),
}

impl Iterator for Found {
    type Item = Result<BatchView, String>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Batches(batches) => batches.next(),
            Self::Damage(why) => why.take().map(Err),
        }
    }
}
