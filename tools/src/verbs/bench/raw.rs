//! Raw figures: what the plainest program does with the same bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Blocks that are written over and over: recycled ones, in the page cache.
const FILE_BYTES: u64 = 64 << 20;

/// Serial pwrite + fdatasync of `bytes`, a second.
pub(super) fn durable_writes(folder: &Path, bytes: usize, time: Duration) -> io::Result<f64> {
    let path = folder.join("raw");
    let file = filled(&path)?;
    let buffer = vec![0xA5; bytes];
    let places = FILE_BYTES / bytes as u64;
    let began = Instant::now();
    let mut writes = 0_u64;
    while began.elapsed() < time {
        file.write_all_at(&buffer, writes % places * bytes as u64)?;
        file.sync_data()?;
        writes += 1;
    }
    let rate = writes as f64 / began.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(rate)
}

/// A file whose blocks were all written and synced once.
fn filled(path: &Path) -> io::Result<File> {
    let mut file =
        OpenOptions::new().write(true).read(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..FILE_BYTES / zeros.len() as u64 {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    Ok(file)
}
