//! Files as they are read: named by the hash of their bytes, and unpacked on the way.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::failure::Failure;

const READ_BYTES: usize = 256 << 10;

/// A file that is to be backfilled.
pub(super) struct Input {
    /// What it is called.
    pub(super) name: String,
    /// SHA-256 of its bytes as they lie there, in hex.
    pub(super) hash: String,
    /// How many there are.
    pub(super) bytes: u64,
    path: PathBuf,
    changed: Option<SystemTime>,
    /// What came through a pipe is written down first: its hash must be known before its rows.
    _spool: Option<NamedTempFile>,
}

impl Input {
    /// Hashes the file; `-` is standard input.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Self::spooled().map_err(|error| Failure::of("standard input", error));
        }
        let name = path.display().to_string();
        let hash = |path: &Path| -> io::Result<Self> {
            let mut file = File::open(path)?;
            if file.metadata()?.is_dir() {
                return Err(io::Error::other("it is a folder"));
            }
            let (hash, bytes) = hash_of(&mut file, &mut io::sink())?;
            let changed = file.metadata()?.modified().ok();
            let path = path.to_owned();
            Ok(Self { name: name.clone(), hash, bytes, path, changed, _spool: None })
        };
        hash(path).map_err(|error| Failure::of(&name, error))
    }

    fn spooled() -> io::Result<Self> {
        let mut spool = NamedTempFile::new()?;
        let (hash, bytes) = hash_of(&mut io::stdin().lock(), &mut spool)?;
        let path = spool.path().to_owned();
        let (name, changed) = ("standard input".to_owned(), None);
        Ok(Self { name, hash, bytes, path, changed, _spool: Some(spool) })
    }

    /// Its bytes as they lie there.
    pub(super) fn file(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Its content, unpacked, without a byte order mark. `bytes_read` tells how far it is.
    pub(super) fn read(&self, bytes_read: Arc<AtomicU64>) -> io::Result<Box<dyn BufRead + Send>> {
        let mut file = File::open(&self.path)?;
        let mut magic = [0; 4];
        let found = fill(&mut file, &mut magic)?;
        file.rewind()?;
        let counted = Counted { file, bytes_read };
        let unpacked: Box<dyn Read + Send> = match &magic[..found] {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(BufReader::new(counted))),
            [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(counted)?),
            _ => Box::new(counted),
        };
        let mut text = BufReader::with_capacity(READ_BYTES, unpacked);
        let begin = text.fill_buf()?;
        if begin.starts_with(&[0xff, 0xfe]) || begin.starts_with(&[0xfe, 0xff]) {
            return Err(io::Error::other("it is UTF-16: give it as UTF-8"));
        }
        if begin.starts_with(b"\xef\xbb\xbf") {
            text.consume(3);
        }
        Ok(Box::new(text))
    }

    /// Whether it is what it was when it was hashed.
    pub(super) fn is_unchanged(&self) -> bool {
        let Ok(facts) = std::fs::metadata(&self.path) else { return false };
        facts.len() == self.bytes
            && (self.changed.is_none() || facts.modified().ok() == self.changed)
    }
}

/// Copies all of `from`, and tells hash and length.
fn hash_of(from: &mut impl Read, to: &mut impl io::Write) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        bytes += read as u64;
    }
    to.flush()?;
    let hex = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((hex, bytes))
}

/// Reads until `buffer` is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Counts what is read.
struct Counted {
    file: File,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
