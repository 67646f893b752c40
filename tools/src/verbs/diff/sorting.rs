//! Lines in the order of their keys, however many there are, in bounded memory.
//!
//! Lines gather in memory; when there are too many they are sorted and written into a file that has
//! no name. At the end all these files, and what is in memory, are read side by side. Lines of one
//! key stay in the order in which they came.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write as _};

/// What is held in memory.
const MEMORY_BYTES: usize = 64 << 20;
/// What a line takes beside its bytes.
const LINE_OVERHEAD_BYTES: usize = 64;

/// A line and its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Keyed {
    pub(super) key: Vec<u8>,
    pub(super) line: Vec<u8>,
}

/// Takes lines in any order.
pub(super) struct Sorter {
    gathered: Vec<Keyed>,
    gathered_bytes: usize,
    memory_bytes: usize,
    runs: Vec<File>,
}

impl Sorter {
    pub(super) const fn new() -> Self {
        Self::holding(MEMORY_BYTES)
    }

    const fn holding(memory_bytes: usize) -> Self {
        Self { gathered: Vec::new(), gathered_bytes: 0, memory_bytes, runs: Vec::new() }
    }

    pub(super) fn push(&mut self, keyed: Keyed) -> io::Result<()> {
        self.gathered_bytes += keyed.key.len() + keyed.line.len() + LINE_OVERHEAD_BYTES;
        self.gathered.push(keyed);
        if self.gathered_bytes > self.memory_bytes {
            self.spill()?;
        }
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        self.sort();
        let mut file = BufWriter::new(tempfile::tempfile()?);
        for Keyed { key, line } in self.gathered.drain(..) {
            for bytes in [key, line] {
                file.write_all(&(bytes.len() as u64).to_le_bytes())?;
                file.write_all(&bytes)?;
            }
        }
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        self.runs.push(file);
        self.gathered_bytes = 0;
        Ok(())
    }

    fn sort(&mut self) {
        self.gathered.sort_by(|a, b| a.key.cmp(&b.key));
    }

    /// All lines, in order.
    pub(super) fn finish(mut self) -> io::Result<Sorted> {
        self.sort();
        let files = self.runs.into_iter().map(|file| Run::File(BufReader::new(file)));
        let runs: Vec<_> = files.chain([Run::Memory(self.gathered.into_iter())]).collect();
        let mut sorted = Sorted { runs, heads: BinaryHeap::new(), failed: None };
        (0..sorted.runs.len()).try_for_each(|run| sorted.advance(run))?;
        Ok(sorted)
    }
}

enum Run {
    File(BufReader<File>),
    Memory(std::vec::IntoIter<Keyed>),
}

impl Run {
    fn next(&mut self) -> io::Result<Option<Keyed>> {
        match self {
            Self::Memory(rest) => Ok(rest.next()),
            Self::File(file) => {
                let Some(key) = read_bytes(file)? else { return Ok(None) };
                let line = read_bytes(file)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok(Some(Keyed { key, line }))
            }
        }
    }
}

fn read_bytes(file: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 8];
    match file.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = usize::try_from(u64::from_le_bytes(length)).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

/// The first line of a run. Of one key that of the older run comes first, whose index is lower.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    key: Vec<u8>,
    run: usize,
    line: Vec<u8>,
}

/// Lines in the order of their keys.
pub(super) struct Sorted {
    runs: Vec<Run>,
    heads: BinaryHeap<Reverse<Head>>,
    failed: Option<io::Error>,
}

impl Sorted {
    fn advance(&mut self, run: usize) -> io::Result<()> {
        if let Some(Keyed { key, line }) = self.runs[run].next()? {
            self.heads.push(Reverse(Head { key, run, line }));
        }
        Ok(())
    }
}

impl Iterator for Sorted {
    type Item = io::Result<Keyed>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.heads.clear();
            return Some(Err(error));
        }
        let Reverse(Head { key, run, line }) = self.heads.pop()?;
        self.failed = self.advance(run).err();
        Some(Ok(Keyed { key, line }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_the_order_of_their_keys_and_then_as_they_came() {
        let mut sorter = Sorter::holding(1 << 10);
        let keyed = |at: u32| Keyed {
            key: (at * 7 % 100).to_le_bytes()[..1].to_vec(),
            line: at.to_string().into_bytes(),
        };
        (0..500).try_for_each(|at| sorter.push(keyed(at))).unwrap();
        assert!(sorter.runs.len() > 10, "it wrote files");
        let sorted: Vec<_> = sorter.finish().unwrap().map(Result::unwrap).collect();
        let mut wanted: Vec<_> = (0..500).map(keyed).collect();
        wanted.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(sorted, wanted);
    }
}
