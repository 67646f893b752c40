//! What a read that failed says of the bytes: that they are lost, or that the disk is away.
//!
//! A dead sector takes only what lies on it. A disk whose path is gone, a network's volume that is
//! not attached or a controller that starts anew gives nothing at all, and later everything again:
//! who then took bytes for lost would leave them out of a pack, and give up the only copy.
//!
//! Promises
//! - What could be read at the second attempt counts as read.
//! - Bytes are lost only where a checksum did not hold twice, or where the disk refused them while
//!   it gave another page of the same file.
//!
//! Called by who reads batches and frames.

use std::{fmt, io};

/// Why bytes are not there.
#[derive(Debug)]
pub(crate) enum Unread {
    /// They are lost.
    Lost(io::Error),
    /// They may be there later.
    Later(io::Error),
}

/// Why bytes are lost, with where and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Their checksum does not hold: they are gone.
    Rotten(String),
    /// The disk refuses them: a dead sector, or a file that somebody took away. Against all odds it
    /// may give them another time.
    Refused(String),
}

impl Loss {
    /// What the error says that a read gave `at` this place.
    pub(crate) fn of(at: &impl fmt::Display, error: &io::Error) -> Self {
        let what = format!("{at}: {error}");
        if is_refused(error) { Self::Refused(what) } else { Self::Rotten(what) }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Rotten(what) | Self::Refused(what)) = self;
        f.write_str(what)
    }
}

/// Reads, and where that fails once more. `other_page` reads another page of the same file.
pub(crate) fn read_surely<T>(
    read: impl Fn() -> io::Result<T>,
    other_page: impl FnOnce() -> io::Result<()>,
) -> Result<T, Unread> {
    let is_away = match read() {
        Ok(found) => return Ok(found),
        Err(error) => is_refused(&error) && other_page().is_err(),
    };
    // Behind the look at the other page: a disk that came back in between gives these bytes, too.
    read().map_err(|error| {
        let is_later = is_of_this_moment(&error) || is_away && is_refused(&error);
        if is_later { Unread::Later(error) } else { Unread::Lost(error) }
    })
}

/// Whether the disk gave nothing, good or bad.
fn is_refused(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Whether the error says something of this moment and nothing of the disk.
fn is_of_this_moment(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::OutOfMemory
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const REFUSED: io::ErrorKind = io::ErrorKind::Other;
    const ROTTEN: io::ErrorKind = io::ErrorKind::InvalidData;

    /// What comes of reads that fail like this, one after the other, with another page that can be
    /// read or not.
    fn read(fails: &[io::ErrorKind], other_page: bool) -> (Result<(), Unread>, usize) {
        let reads = Cell::new(0);
        let read = || {
            let now = reads.replace(reads.get() + 1);
            fails.get(now).map_or(Ok(()), |kind| Err((*kind).into()))
        };
        let other_page = || if other_page { Ok(()) } else { Err(REFUSED.into()) };
        (read_surely(read, other_page), reads.get())
    }

    #[test]
    fn what_fails_once_is_read() {
        for kind in [REFUSED, ROTTEN, io::ErrorKind::OutOfMemory] {
            assert!(matches!(read(&[kind], false), (Ok(()), 2)), "{kind}");
        }
        assert!(matches!(read(&[], false), (Ok(()), 1)));
    }

    #[test]
    fn what_is_refused_alone_is_lost_and_what_is_refused_with_all_else_is_not() {
        assert!(matches!(read(&[REFUSED; 2], true).0, Err(Unread::Lost(_))));
        assert!(matches!(read(&[REFUSED; 2], false).0, Err(Unread::Later(_))));
    }

    #[test]
    fn what_is_rotten_is_lost_whatever_else_can_be_read() {
        for other_page in [false, true] {
            assert!(matches!(read(&[ROTTEN; 2], other_page).0, Err(Unread::Lost(_))));
            assert!(matches!(read(&[REFUSED, ROTTEN], other_page).0, Err(Unread::Lost(_))));
        }
    }

    #[test]
    fn what_says_nothing_of_the_disk_is_not_lost() {
        for kind in [io::ErrorKind::OutOfMemory, io::ErrorKind::TimedOut] {
            assert!(matches!(read(&[kind; 2], true).0, Err(Unread::Later(_))));
        }
    }
}
