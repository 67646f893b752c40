//! How the bytes of a frame become those in the file, and back. FORMAT.md §9.
//!
//! A frame with events is turned into columns first; what they cannot give back, and frames without
//! events, are compressed as they are. Which it was stands at the beginning of the bytes.
//!
//! Promises
//! - What comes back is what went in, or an error: columns are compared when they are written, and
//!   their checksum when they are read.
//! - Memory is taken for what is there and for the frame that was asked for.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use tracklog_protocol::columns::{Areas, Decoder, Encoder, ROOM_BEHIND};

use crate::disk::BufferPool;
use crate::fields::{Fields, FieldsMut as _, length_u32};

/// Where columns begin; zstd's own magic number is another one.
const COLUMNS_MAGIC: u32 = u32::from_le_bytes(*b"TLCF");
const HEAD_BYTES: usize = 28;

/// Makes frames smaller, one after the other.
pub(crate) struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    columns: Encoder,
}

impl Compressor {
    pub(crate) fn new(level: i32) -> io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(level)?, columns: Encoder::new() })
    }

    /// The frame as it is to be stored. Where that is no shorter it is to be stored as it is.
    pub(crate) fn compress(&mut self, frame: &[u8]) -> io::Result<Vec<u8>> {
        let Some(areas) = self.columns.encode(frame) else {
            return self.zstd.compress(frame);
        };
        let Areas { numbers, texts, raw } = areas;
        let (packed_numbers, packed_texts) =
            (squeezed(&mut self.zstd, numbers)?, squeezed(&mut self.zstd, texts)?);
        let mut stored =
            Vec::with_capacity(HEAD_BYTES + packed_numbers.len() + packed_texts.len() + raw.len());
        stored.put_u32(COLUMNS_MAGIC);
        stored.put_u32(crc32fast::hash(frame));
        for (area, packed) in [(numbers, &packed_numbers), (texts, &packed_texts)] {
            stored.put_u32(length_u32(area.len()));
            stored.put_u32(length_u32(packed.len()));
        }
        stored.put_u32(length_u32(raw.len()));
        stored.extend_from_slice(&packed_numbers);
        stored.extend_from_slice(&packed_texts);
        stored.extend_from_slice(raw);
        Ok(stored)
    }
}

/// Compressed, or as it is where that is no shorter.
fn squeezed(zstd: &mut zstd::bulk::Compressor<'_>, area: &[u8]) -> io::Result<Vec<u8>> {
    let packed = zstd.compress(area)?;
    Ok(if packed.len() < area.len() { packed } else { area.to_vec() })
}

/// A frame of `frame_bytes` bytes, from those of the file, in memory of the pool.
pub(crate) fn uncompress(
    stored: &[u8],
    frame_bytes: usize,
    pool: &BufferPool,
) -> io::Result<Bytes> {
    let mut frame = pool.take(frame_bytes + ROOM_BEHIND);
    let kept = KEPT.take();
    let mut uncompressor = kept.map_or_else(Uncompressor::new, Ok)?;
    let done = uncompressor.uncompress(stored, &mut frame[..frame_bytes + ROOM_BEHIND]);
    if frame_bytes <= KEPT_FRAME_BYTES_MAX {
        KEPT.set(Some(uncompressor));
    }
    done.map(|()| frame.freeze().slice(..frame_bytes))
}

/// What a larger frame took of memory is not kept.
const KEPT_FRAME_BYTES_MAX: usize = 512 << 10;

thread_local! {
    /// What the thread uncompressed with before: to make it takes as long as some frames do.
    static KEPT: RefCell<Option<Uncompressor>> = const { RefCell::new(None) };
}

/// Uncompresses frames, one after the other.
struct Uncompressor {
    zstd: zstd::bulk::Decompressor<'static>,
    columns: Decoder,
    numbers: Vec<u8>,
    texts: Vec<u8>,
}

impl Uncompressor {
    fn new() -> io::Result<Self> {
        let zstd = zstd::bulk::Decompressor::new()?;
        Ok(Self { zstd, columns: Decoder::default(), numbers: Vec::new(), texts: Vec::new() })
    }

    /// Writes a frame, behind which there is the room that columns need.
    fn uncompress(&mut self, stored: &[u8], frame: &mut [u8]) -> io::Result<()> {
        let frame_bytes = frame.len() - ROOM_BEHIND;
        if stored.len() == frame_bytes {
            frame[..frame_bytes].copy_from_slice(stored);
            return Ok(());
        }
        if Fields::new(stored).u32() == Some(COLUMNS_MAGIC) {
            return self.uncompress_columns(stored, frame);
        }
        let frame = &mut frame[..frame_bytes];
        let written = self.zstd.decompress_to_buffer(stored, frame).map_err(unzipped)?;
        let is_whole = written == frame_bytes;
        if is_whole { Ok(()) } else { Err(rotten("it is shorter than it should be")) }
    }

    fn uncompress_columns(&mut self, stored: &[u8], frame: &mut [u8]) -> io::Result<()> {
        let frame_bytes = frame.len() - ROOM_BEHIND;
        let (head, rest) = stored.split_at_checked(HEAD_BYTES).ok_or_else(short)?;
        let mut fields = Fields::new(head);
        let _magic = fields.u32();
        let mut number = || fields.u32().ok_or_else(short);
        let crc = number()?;
        let mut size = || number().map(|size| size as usize);
        let (numbers_bytes, numbers_stored) = (size()?, size()?);
        let (texts_bytes, texts_stored) = (size()?, size()?);
        let raw_bytes = size()?;
        let (numbers, rest) = rest.split_at_checked(numbers_stored).ok_or_else(short)?;
        let (texts, raw) = rest.split_at_checked(texts_stored).ok_or_else(short)?;
        if raw.len() != raw_bytes {
            return Err(short());
        }
        let Self { zstd, .. } = self;
        let numbers = spread(zstd, numbers, numbers_bytes, frame_bytes, &mut self.numbers)?;
        let texts = spread(zstd, texts, texts_bytes, frame_bytes, &mut self.texts)?;
        let decoded = self.columns.decode(Areas { numbers, texts, raw }, frame);
        decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let is_same = crc32fast::hash(&frame[..frame_bytes]) == crc;
        if is_same { Ok(()) } else { Err(rotten("its columns do not fit")) }
    }
}

/// An area of `bytes` bytes. None is twice as large as the frame.
fn spread<'a>(
    zstd: &mut zstd::bulk::Decompressor<'_>,
    stored: &'a [u8],
    bytes: usize,
    frame_bytes: usize,
    memory: &'a mut Vec<u8>,
) -> io::Result<&'a [u8]> {
    if stored.len() == bytes {
        return Ok(stored);
    }
    if bytes / 2 > frame_bytes {
        return Err(rotten("its columns are too large"));
    }
    memory.clear();
    memory.reserve(bytes);
    zstd.decompress_to_buffer(stored, memory).map_err(unzipped)?;
    if memory.len() == bytes { Ok(memory) } else { Err(short()) }
}

/// What zstd does not take is rotten: the disk gave it.
fn unzipped(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn short() -> io::Error {
    rotten("its columns end too early")
}

fn rotten(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::PayloadKind;
    use tracklog_protocol::batch::BatchBuilder;
    use tracklog_protocol::event::{EventBuilder, EventParts};

    use super::*;

    fn frame_of_events() -> Vec<u8> {
        let mut events = EventBuilder::new();
        let mut batch = BatchBuilder::new(PayloadKind::Event);
        for number in 0..200 {
            let message_id = format!("2f1b0a55-7d0c-4c7d-9a52-{number:012x}");
            let parts = EventParts {
                message_id: &message_id,
                context: Some(r#"{"page":{"path":"/a"}}"#),
                ..EventParts::default()
            };
            batch.push(events.build(&parts));
        }
        let mut frame = batch.finish().view().bytes().to_vec();
        frame.resize(frame.len().next_multiple_of(8), 0);
        frame
    }

    fn uncompressed(stored: &[u8], frame_bytes: usize) -> io::Result<Bytes> {
        uncompress(stored, frame_bytes, &BufferPool::new(0))
    }

    #[test]
    fn events_are_stored_as_columns_and_come_back() {
        let frame = frame_of_events();
        let stored = Compressor::new(6).unwrap().compress(&frame).unwrap();
        assert_eq!(&stored[..4], b"TLCF");
        assert!(stored.len() * 8 < frame.len(), "{} of {}", stored.len(), frame.len());
        assert_eq!(uncompressed(&stored, frame.len()).unwrap(), frame);
    }

    #[test]
    fn what_holds_no_events_is_stored_as_before() {
        let frame = vec![7; 4096];
        let stored = Compressor::new(6).unwrap().compress(&frame).unwrap();
        assert_eq!(stored, zstd::bulk::compress(&frame, 6).unwrap());
        assert_eq!(uncompressed(&stored, frame.len()).unwrap(), frame);
    }

    #[test]
    fn rot_in_any_byte_of_columns_is_an_error_or_changes_nothing() {
        let frame = frame_of_events();
        let stored = Compressor::new(6).unwrap().compress(&frame).unwrap();
        for at in 0..stored.len() {
            let mut rotten = stored.clone();
            rotten[at] ^= 1 << (at % 8);
            if let Ok(read) = uncompressed(&rotten, frame.len()) {
                assert_eq!(read, frame, "byte {at}");
            }
            assert!(uncompressed(&stored[..at], frame.len()).is_err(), "{at} bytes");
        }
    }
}
