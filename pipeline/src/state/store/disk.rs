//! The store on disk: an LSM tree, `fjall`.
//!
//! Flushes come as batches of some 100,000 small records with random keys, and most look-ups are
//! of keys that are not there. A tree that is rewritten in place pays a page for each record, and
//! a walk for each look-up; this one appends, and asks a filter.
//!
//! Layout: FORMAT.md, section *State*. A store of another layout, or of another changelog, is
//! deleted and built again. Nothing is synced: the changelog has it all.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fjall::config::PartitioningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use parking_lot::{Mutex, RwLock};
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use super::{Store, StoreError};
use crate::state::bytes::Reader;

/// The layout that this program writes.
const LAYOUT: u32 = 1;
/// Where layout, changelog and applied offset lie. Keys of state are not empty.
const HEAD: &[u8] = b"\0head";
/// What the tree gathers in memory before it writes a file.
const TREE_TABLE_BYTES: u64 = 16 << 20;
/// The tree's own journal, at most.
const JOURNAL_BYTES: u64 = 64 << 20;

/// What a store on disk is opened with.
#[derive(Clone, Copy, Debug)]
pub struct DiskStoreOptions {
    /// Memory for blocks of its files.
    pub cache_bytes: u64,
    /// The changelog that it is of.
    pub changelog: PartitionId,
    /// When that topic was made.
    pub created: TimeMicros,
    /// Where it ends: a store that is ahead of it is not of this changelog as it is now.
    pub changelog_end: Offset,
}

/// State in a folder of its own.
pub struct DiskStore {
    folder: PathBuf,
    options: DiskStoreOptions,
    /// `None` after it was cleared and could not be opened again.
    tree: RwLock<Option<Tree>>,
    applied: Mutex<Offset>,
}

/// An open tree. Dropped, it lets go of its folder.
struct Tree {
    state: Keyspace,
    database: Database,
}

/// Which store it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    changelog: PartitionId,
    created: TimeMicros,
}

impl DiskStore {
    /// Opens the store in `folder`; an empty one where there is none that can be used.
    ///
    /// # Errors
    /// [`StoreError`] when the folder cannot be used at all.
    pub fn open(folder: &Path, options: DiskStoreOptions) -> Result<Self, StoreError> {
        let (tree, applied) = match Tree::open(folder, options) {
            Ok(opened) => opened,
            Err(Refused::Unusable(why)) => {
                tracing::warn!(why, "the state's store is built again from its changelog");
                delete(folder).map_err(fjall::Error::Io)?;
                Tree::open(folder, options)?
            }
            Err(Refused::Failed(error)) => return Err(error),
        };
        let (tree, applied) = (RwLock::new(Some(tree)), Mutex::new(applied));
        Ok(Self { folder: folder.to_owned(), options, tree, applied })
    }
}

impl Tree {
    /// Opens what is in the folder, and tells how far it is.
    fn open(folder: &Path, options: DiskStoreOptions) -> Result<(Self, Offset), Refused> {
        let database = Database::builder(folder)
            .cache_size(options.cache_bytes)
            .worker_threads(1)
            .max_journaling_size(JOURNAL_BYTES)
            .open()?;
        // Filters and indexes in pieces: whole ones are read anew, 100 KiB at a time, as soon as
        // they do not fit into the cache together.
        let in_pieces = PartitioningPolicy::all(true);
        let tree_options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(TREE_TABLE_BYTES)
                .filter_block_partitioning_policy(in_pieces.clone())
                .index_block_partitioning_policy(in_pieces.clone())
        };
        let state = database.keyspace("state", tree_options)?;
        let applied = match state.get(HEAD)? {
            Some(bytes) => Head::of(options)
                .read(&bytes)
                .filter(|applied| *applied <= options.changelog_end)
                .ok_or_else(Refused::of_another)?,
            None if state.is_empty()? => Offset::ZERO,
            None => return Err(Refused::of_another()),
        };
        Ok((Self { state, database }, applied))
    }
}

fn delete(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        deleted => deleted,
    }
}

impl Head {
    const fn of(options: DiskStoreOptions) -> Self {
        Self { changelog: options.changelog, created: options.created }
    }

    fn bytes(self, applied: Offset) -> Vec<u8> {
        let mut bytes = LAYOUT.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.changelog.topic.0.to_le_bytes());
        bytes.extend_from_slice(&self.changelog.partition.to_le_bytes());
        bytes.extend_from_slice(&self.created.0.to_le_bytes());
        bytes.extend_from_slice(&applied.0.to_le_bytes());
        bytes
    }

    /// The applied offset in `bytes`, where the rest is as here.
    fn read(self, bytes: &[u8]) -> Option<Offset> {
        let (_, applied) = bytes.split_last_chunk::<8>()?;
        let applied = Offset(Reader(applied).u64()?);
        (bytes == self.bytes(applied)).then_some(applied)
    }
}

impl Store for DiskStore {
    fn applied(&self) -> Offset {
        *self.applied.lock()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let tree = self.tree.read();
        let tree = tree.as_ref().ok_or_else(not_open)?;
        Ok(tree.state.get(key)?.map(|value| value.to_vec()))
    }

    fn write(
        &self,
        entries: &mut dyn Iterator<Item = (&[u8], &[u8])>,
        applied: Offset,
    ) -> Result<(), StoreError> {
        let tree = self.tree.read();
        let tree = tree.as_ref().ok_or_else(not_open)?;
        let mut batch = tree.database.batch();
        for (key, value) in entries {
            batch.insert(&tree.state, key, value);
        }
        // Last: where a power cut leaves half of a batch, the offset is not in it.
        batch.insert(&tree.state, HEAD, Head::of(self.options).bytes(applied));
        batch.commit()?;
        *self.applied.lock() = applied;
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        let mut tree = self.tree.write();
        drop(tree.take());
        delete(&self.folder).map_err(fjall::Error::Io)?;
        let (opened, applied) = Tree::open(&self.folder, self.options)?;
        (*tree, *self.applied.lock()) = (Some(opened), applied);
        Ok(())
    }
}

fn not_open() -> StoreError {
    StoreError { why: "it was cleared and could not be opened again".to_owned() }
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").field("applied", &self.applied()).finish_non_exhaustive()
    }
}

/// Why a store was not opened as it is.
enum Refused {
    /// What is there is of no use, and nobody uses it.
    Unusable(String),
    /// It may be good: another process has it, or the disk failed.
    Failed(StoreError),
}

impl Refused {
    fn of_another() -> Self {
        Self::Unusable("it is of another layout or changelog".to_owned())
    }
}

impl From<fjall::Error> for Refused {
    fn from(error: fjall::Error) -> Self {
        let io = match &error {
            fjall::Error::Locked => return Self::Failed(error.into()),
            fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)) => io,
            _ => return Self::Unusable(error.to_string()),
        };
        match io.kind() {
            // Files that a crash left short, or not at all.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::NotFound => {
                Self::Unusable(error.to_string())
            }
            _ => Self::Failed(error.into()),
        }
    }
}

impl From<Refused> for StoreError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unusable(why) => Self { why },
            Refused::Failed(error) => error,
        }
    }
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        Self { why: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracklog_protocol::TopicId;

    fn options(topic: u32) -> DiskStoreOptions {
        let changelog = PartitionId::new(TopicId(topic), 0);
        DiskStoreOptions {
            cache_bytes: 1 << 20,
            changelog,
            created: TimeMicros(5),
            changelog_end: Offset(100),
        }
    }

    fn write(store: &DiskStore, applied: u64) {
        let mut entries = [(&b"\x01a"[..], &b"1"[..]), (b"\x01b", b"2")].into_iter();
        store.write(&mut entries, Offset(applied)).unwrap();
    }

    #[test]
    fn a_store_comes_back_with_its_applied_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&DiskStore::open(&path, options(3)).unwrap(), 77);
        let store = DiskStore::open(&path, options(3)).unwrap();
        assert_eq!(store.applied(), Offset(77));
        assert_eq!(store.get(b"\x01b").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(store.get(b"\x01c").unwrap(), None);
    }

    #[test]
    fn a_store_that_was_cleared_is_empty_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let store = DiskStore::open(&path, options(3)).unwrap();
        for applied in 70..75 {
            write(&store, applied);
            store.clear().unwrap();
            assert_eq!((store.applied(), store.get(b"\x01b").unwrap()), (Offset::ZERO, None));
        }
        write(&store, 77);
        drop(store);
        assert_eq!(DiskStore::open(&path, options(3)).unwrap().applied(), Offset(77));
    }

    #[test]
    fn a_store_that_another_has_open_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = DiskStore::open(folder.path(), options(3)).unwrap();
        write(&store, 77);
        assert!(DiskStore::open(folder.path(), options(3)).is_err());
        assert_eq!(store.get(b"\x01b").unwrap().as_deref(), Some(&b"2"[..]));
    }

    #[test]
    fn a_store_with_a_torn_file_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&DiskStore::open(&path, options(3)).unwrap(), 77);
        for entry in fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            if file.is_file() {
                fs::write(file, b"torn").unwrap();
            }
        }
        let store = DiskStore::open(&path, options(3)).unwrap();
        assert_eq!((store.applied(), store.get(b"\x01b").unwrap()), (Offset::ZERO, None));
    }

    #[test]
    fn a_store_of_another_changelog_or_of_foreign_bytes_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&DiskStore::open(&path, options(3)).unwrap(), 77);
        let store = DiskStore::open(&path, options(4)).unwrap();
        assert_eq!((store.applied(), store.get(b"\x01b").unwrap()), (Offset::ZERO, None));
        write(&store, 101);
        drop(store);
        let store = DiskStore::open(&path, options(4)).unwrap();
        assert_eq!(store.applied(), Offset::ZERO, "it was ahead of the changelog");
        drop(store);
        delete(&path).unwrap();
        fs::write(&path, b"a file where the folder was").unwrap();
        assert!(DiskStore::open(&path, options(3)).is_err(), "it is not ours to delete");
    }
}
