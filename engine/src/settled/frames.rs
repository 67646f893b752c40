//! Reading packs: frames are decoded once for all who want them, and kept for a while.
//!
//! Promises
//! - What is kept stays within its bound, but for the frames being read; those used longest ago go
//!   first. Who holds slices of one that went keeps its memory.
//! - Readers that want the same frame at once wait for one of them to decode it; but no live reader for
//!   a thread that gives way to others, and may not come to it for long.
//! - A frame whose checksum does not hold is read once more before it is called damaged.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use foldhash::HashMap;
use parking_lot::Mutex;

use crate::disk::{
    BufferPool, Disk, Loss, PAGE_BYTES, PackFile, PackId, Unread, gives_way, read_surely,
};
use crate::settled::compressing::uncompress;
use crate::settled::pack::{Frame, read_pages};

/// Why there is no frame.
#[derive(Clone, Debug)]
pub(crate) enum NoFrame {
    /// It is lost.
    Damaged(Loss),
    /// Not now.
    Io(String),
    /// The pack's file is not there.
    Gone(String),
}

/// See the head of this file.
pub(crate) struct Frames {
    disk: Arc<dyn Disk>,
    pool: BufferPool,
    kept: Mutex<Kept>,
    bytes_max: u64,
    decoded: AtomicU64,
}

#[derive(Default)]
struct Kept {
    frames: HashMap<(PackId, u64), Arc<Slot>>,
    files: HashMap<PackId, Arc<dyn PackFile>>,
    bytes: u64,
    clock: u64,
    /// How often a pack was let go: what was opened before is not kept after.
    forgotten: u64,
}

/// A frame that is there, or that somebody decodes.
#[derive(Default)]
struct Slot {
    content: Mutex<Option<Bytes>>,
    /// Whether who decodes it gives way to others.
    is_late: AtomicBool,
    /// What of it counts.
    bytes: AtomicU64,
    used: AtomicU64,
}

/// So many packs are kept open.
const OPEN_PACKS_MAX: usize = 64;

impl Frames {
    pub(crate) fn new(disk: Arc<dyn Disk>, pool: BufferPool, bytes_max: u64) -> Self {
        Self { disk, pool, kept: Mutex::default(), bytes_max, decoded: AtomicU64::new(0) }
    }

    /// What is kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept.lock().bytes
    }

    /// How many frames were decoded.
    pub(crate) fn decoded(&self) -> u64 {
        self.decoded.load(Ordering::Relaxed)
    }

    /// The bytes of a frame, uncompressed.
    pub(crate) fn get(&self, pack: PackId, frame: &Frame) -> Result<Bytes, NoFrame> {
        let key = (pack, frame.at);
        let slot = {
            let mut kept = self.kept.lock();
            kept.clock += 1;
            let slot = Arc::clone(kept.frames.entry(key).or_default());
            slot.used.store(kept.clock, Ordering::Relaxed);
            slot
        };
        let mut content = match slot.content.try_lock() {
            Some(content) => content,
            None if slot.is_late.load(Ordering::Relaxed) && !gives_way() => {
                return self.read(pack, frame);
            }
            None => slot.content.lock(),
        };
        if let Some(bytes) = &*content {
            return Ok(bytes.clone());
        }
        slot.is_late.store(gives_way(), Ordering::Relaxed);
        let read = self.read(pack, frame);
        let mut kept = self.kept.lock();
        let is_listed = kept.frames.get(&key).is_some_and(|listed| Arc::ptr_eq(listed, &slot));
        match read {
            Ok(bytes) => {
                *content = Some(bytes.clone());
                drop(content);
                if is_listed {
                    slot.bytes.store(bytes.len() as u64, Ordering::Relaxed);
                    kept.bytes += bytes.len() as u64;
                    kept.shed(self.bytes_max, &key);
                }
                Ok(bytes)
            }
            Err(why) => {
                if is_listed {
                    kept.frames.remove(&key);
                }
                Err(why)
            }
        }
    }

    /// Lets go of a pack that is no longer listed.
    pub(crate) fn forget(&self, pack: PackId) {
        let mut kept = self.kept.lock();
        kept.forgotten += 1;
        kept.files.remove(&pack);
        let mut gone = 0;
        kept.frames.retain(|(of, _), slot| {
            let stays = *of != pack;
            if !stays {
                gone += slot.bytes();
            }
            stays
        });
        kept.bytes -= gone;
    }

    /// The open file of a pack.
    pub(crate) fn file(&self, pack: PackId) -> io::Result<Arc<dyn PackFile>> {
        let forgotten = {
            let kept = self.kept.lock();
            if let Some(file) = kept.files.get(&pack) {
                return Ok(Arc::clone(file));
            }
            kept.forgotten
        };
        let file = self.disk.open_pack(pack)?;
        self.kept.lock().keep(pack, &file, forgotten);
        Ok(file)
    }

    fn read(&self, pack: PackId, frame: &Frame) -> Result<Bytes, NoFrame> {
        let file = self.file(pack).map_err(|error| {
            let why = format!("{pack}: {error}");
            let is_gone = error.kind() == io::ErrorKind::NotFound;
            if is_gone { NoFrame::Gone(why) } else { NoFrame::Io(why) }
        })?;
        self.decoded.fetch_add(1, Ordering::Relaxed);
        let other_page = || file.read(0, &mut self.pool.take(PAGE_BYTES));
        read_surely(|| decode(&*file, frame, &self.pool), other_page).map_err(|unread| {
            let at = format!("{pack} at {}", frame.at);
            match unread {
                Unread::Lost(error) => NoFrame::Damaged(Loss::of(&at, &error)),
                Unread::Later(error) => NoFrame::Io(format!("{at}: {error}")),
            }
        })
    }
}

impl Slot {
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Kept {
    /// Keeps a pack open, unless one was let go since `forgotten` said how many: it may be this one,
    /// and nobody would close it.
    fn keep(&mut self, pack: PackId, file: &Arc<dyn PackFile>, forgotten: u64) {
        if self.forgotten != forgotten {
            return;
        }
        if self.files.len() >= OPEN_PACKS_MAX {
            // Which one goes matters little: to open it again costs a call.
            let some = self.files.keys().next().copied();
            some.map(|some| self.files.remove(&some));
        }
        self.files.insert(pack, Arc::clone(file));
    }

    /// Lets frames go, the one used longest ago first, but not the one that was just read.
    fn shed(&mut self, bytes_max: u64, but: &(PackId, u64)) {
        while self.bytes > bytes_max {
            let idle = self.frames.iter().filter(|(key, slot)| *key != but && slot.bytes() > 0);
            let oldest = idle.min_by_key(|(_, slot)| slot.used.load(Ordering::Relaxed));
            let Some((key, bytes)) = oldest.map(|(key, slot)| (*key, slot.bytes())) else { return };
            self.frames.remove(&key);
            self.bytes -= bytes;
        }
    }
}

/// Reads a frame and uncompresses it. Both are in memory of the pool.
pub(crate) fn decode(file: &dyn PackFile, frame: &Frame, pool: &BufferPool) -> io::Result<Bytes> {
    let stored_bytes = frame.stored_bytes as usize;
    let (pages, from) =
        read_pages(file, frame.at, u64::from(frame.stored_bytes), |bytes| pool.take(bytes))?;
    let stored = &pages[from..from + stored_bytes];
    if crc32fast::hash(stored) != frame.crc {
        return Err(rotten("its checksum does not hold"));
    }
    uncompress(stored, frame.space_bytes as usize, pool)
}

fn rotten(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileName;
    use crate::disk::simulated::SimDisk;

    #[test]
    fn a_live_reader_waits_for_no_thread_that_gives_way() {
        let disk = SimDisk::new(1);
        let pack = PackId { first: 1, last: 2, generation: 1 };
        disk.set_file(&FileName::Pack(pack), Some(vec![0; 4096]));
        let frames = Arc::new(Frames::new(Arc::new(disk), BufferPool::new(0), 0));
        let frame = Frame { at: 0, stored_bytes: 100, space_at: 0, space_bytes: 200, crc: 7 };
        let slot = Arc::clone(frames.kept.lock().frames.entry((pack, 0)).or_default());
        slot.is_late.store(true, Ordering::Relaxed);
        let decoding = slot.content.lock();
        let (done, is_done) = std::sync::mpsc::channel();
        let reader = Arc::clone(&frames);
        std::thread::spawn(move || done.send(reader.get(pack, &frame)));
        let read = is_done.recv_timeout(std::time::Duration::from_secs(30));
        assert!(matches!(read, Ok(Err(NoFrame::Damaged(_)))), "it read it by itself: {read:?}");
        drop(decoding);
    }

    #[test]
    fn a_pack_that_was_let_go_while_it_was_opened_is_not_kept_open() {
        let disk = SimDisk::new(1);
        let pack = PackId { first: 1, last: 2, generation: 1 };
        disk.set_file(&FileName::Pack(pack), Some(vec![0; 4096]));
        let frames = Frames::new(Arc::new(disk), BufferPool::new(0), 0);
        let forgotten = frames.kept.lock().forgotten;
        let file = frames.disk.open_pack(pack).expect("it is there");
        frames.forget(pack);
        frames.kept.lock().keep(pack, &file, forgotten);
        assert!(frames.kept.lock().files.is_empty());
        frames.file(pack).expect("it is there");
        assert_eq!(frames.kept.lock().files.len(), 1);
    }
}
