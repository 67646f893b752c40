//! The files that know where networks are, and what stands in for them while they change.
//!
//! Promises
//! - A look-up sees one set of files from its beginning to its end, read into memory: nothing that
//!   happens to a file on the disk reaches it.
//! - A file that is not whole never takes the place of one that was: it was the same before and
//!   after it was read, it opens, and it answers for addresses from everywhere.
//! - Rows that many addresses share are decoded once: a cache by row, bounded in bytes, that goes
//!   with the set it is of.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldhash::fast::RandomState;
use maxminddb::{MaxMindDbError, Reader};
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::row::{self, Part};
use crate::enrich::Geo;

/// So many files can be asked at once.
pub const FILES_MAX: usize = 4;
/// A file that is larger is refused.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// So many addresses of each family a file has to answer for when it is opened.
const PROBES: u32 = 256;
/// What an entry of the cache takes at least.
const ENTRY_BYTES: usize = 320;

/// Why a file is not used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] Arc<io::Error>),
    /// It is larger than [`FILE_BYTES_MAX`].
    #[error("it has {bytes} bytes, and {FILE_BYTES_MAX} are read")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// It changed while it was read: it is being written. It is read again.
    #[error("it changes while it is read")]
    Changing,
    /// It is no database, or no whole one.
    #[error("it is no whole database: {0}")]
    Damaged(#[source] Arc<MaxMindDbError>),
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// Of what is at `path` now; `None` where nothing can be seen.
    pub(super) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|it| Self::from(&it))
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(it: &fs::Metadata) -> Self {
        Self { inode: it.ino(), bytes: it.len(), changed: (it.mtime(), it.mtime_nsec()) }
    }
}

/// A file in memory.
pub(super) struct Database {
    reader: Reader<Vec<u8>>,
}

impl Database {
    /// Reads the file at `path`, which looked like `stamp` before.
    pub(super) fn read(path: &Path, stamp: Option<Stamp>) -> Result<Self, DatabaseError> {
        let unreadable = |error| DatabaseError::Unreadable(Arc::new(error));
        let file = File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(DatabaseError::TooLarge { bytes });
        }
        let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        file.take(FILE_BYTES_MAX).read_to_end(&mut content).map_err(unreadable)?;
        if Stamp::of(path) != stamp {
            return Err(DatabaseError::Changing);
        }
        Self::open(content).map_err(|error| DatabaseError::Damaged(Arc::new(error)))
    }

    fn open(content: Vec<u8>) -> Result<Self, MaxMindDbError> {
        let database = Self { reader: Reader::from_source(content)? };
        let step = u32::MAX / PROBES;
        for network in (0..PROBES).map(|at| at * step) {
            database.row(Ipv4Addr::from_bits(network).into())?;
            database.row(Ipv6Addr::from_bits(u128::from(network >> 3 | 1 << 29) << 96).into())?;
        }
        Ok(database)
    }

    fn at(&self, address: IpAddr) -> Result<Option<usize>, MaxMindDbError> {
        Ok(if self.knows_no(address) { None } else { self.reader.lookup(address)?.offset() })
    }

    fn row(&self, address: IpAddr) -> Result<Option<Part<'_>>, MaxMindDbError> {
        if self.knows_no(address) { Ok(None) } else { self.reader.lookup(address)?.decode() }
    }

    fn knows_no(&self, address: IpAddr) -> bool {
        address.is_ipv6() && self.reader.metadata().ip_version == 4
    }

    /// When it was made, in seconds since 1970.
    pub(super) fn built_at_seconds(&self) -> u64 {
        self.reader.metadata().build_epoch
    }

    /// What it is and when it was made, in letters that a version may have.
    pub(super) fn name(&self) -> String {
        let metadata = self.reader.metadata();
        let letter = |it: char| if it.is_ascii_alphanumeric() { it } else { '_' };
        let kind: String = metadata.database_type.chars().take(64).map(letter).collect();
        format!("{kind}-{}", metadata.build_epoch)
    }
}

/// The row of an address in each file; no file has that many bytes.
type Rows = [u32; FILES_MAX];
const NO_ROW: u32 = u32::MAX;

/// The files as they are at one time. Those that were never whole are not there.
pub(super) struct Databases {
    files: Vec<Option<Arc<Database>>>,
    version: Arc<str>,
    cache: Places,
}

type Places =
    Cache<Rows, Option<Arc<Geo>>, Bytes, RandomState, DefaultLifecycle<Rows, Option<Arc<Geo>>>>;

impl Databases {
    pub(super) fn new(files: Vec<Option<Arc<Database>>>, cache_bytes: usize) -> Self {
        assert!(files.len() <= FILES_MAX, "the options were checked");
        let mut version = super::OWN_RULES.to_string();
        for file in files.iter().flatten() {
            version.push('-');
            version.push_str(&file.name());
        }
        let cache = Cache::with(
            cache_bytes / ENTRY_BYTES,
            cache_bytes as u64,
            Bytes,
            RandomState::default(),
            DefaultLifecycle::default(),
        );
        Self { files, version: version.into(), cache }
    }

    pub(super) fn files(&self) -> &[Option<Arc<Database>>] {
        &self.files
    }

    pub(super) fn version(&self) -> Arc<str> {
        Arc::clone(&self.version)
    }

    /// Whether files were named, and none of them can be asked.
    pub(super) fn is_blind(&self) -> bool {
        !self.files.is_empty() && self.files.iter().all(Option::is_none)
    }

    /// Where `address` is.
    pub(super) fn place(&self, address: IpAddr) -> Result<Option<Arc<Geo>>, MaxMindDbError> {
        let mut rows = [NO_ROW; FILES_MAX];
        for (row, file) in rows.iter_mut().zip(&self.files) {
            let at = file.as_ref().map(|file| file.at(address)).transpose()?.flatten();
            *row = at.map_or(NO_ROW, |at| u32::try_from(at).expect("files are smaller than 4 GiB"));
        }
        if rows == [NO_ROW; FILES_MAX] {
            return Ok(None);
        }
        if let Some(place) = self.cache.get(&rows) {
            return Ok(place);
        }
        let place = self.decode(address)?;
        self.cache.insert(rows, place.clone());
        Ok(place)
    }

    /// What the decoded rows take that are kept.
    #[cfg(test)]
    pub(super) fn cached_bytes(&self) -> u64 {
        self.cache.weight()
    }

    fn decode(&self, address: IpAddr) -> Result<Option<Arc<Geo>>, MaxMindDbError> {
        let mut geo = Geo::default();
        for file in self.files.iter().flatten() {
            if let Some(row) = file.row(address)? {
                row::add(&row, &mut geo);
            }
        }
        Ok((geo != Geo::default()).then(|| Arc::new(geo)))
    }
}

/// What a place takes in the cache.
#[derive(Clone, Copy)]
struct Bytes;

impl Weighter<Rows, Option<Arc<Geo>>> for Bytes {
    fn weight(&self, _rows: &Rows, place: &Option<Arc<Geo>>) -> u64 {
        let texts = place.as_ref().map_or(0, |it| {
            let texts =
                [&it.country, &it.region, &it.city, &it.postal_code, &it.time_zone, &it.as_name];
            texts.into_iter().flatten().map(String::len).sum::<usize>()
        });
        (ENTRY_BYTES + texts) as u64
    }
}

/// A file that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInUse {
    /// Which file.
    pub path: PathBuf,
    /// When what was read of it was made, in seconds since 1970.
    pub built_at_seconds: u64,
}

/// What came of reading a file.
#[derive(Clone, Debug)]
pub struct FileRead {
    /// Which file.
    pub path: PathBuf,
    /// What it is and when it was made; else why it is not used. What was read of it before then
    /// stays in use.
    pub outcome: Result<String, DatabaseError>,
}
