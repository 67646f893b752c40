//! Rows put together to what is sent at once, on a thread that reads ahead.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracklog_server::backfill::{ROWS_MAX, Row, RowContent, push_row};

use super::rows::{ROW_BYTES_MAX, RowBuffer, Rows};

/// A chunk's bytes, at most: what the node takes of one request is 1 MiB.
const CHUNK_BYTES: usize = 960 << 10;
/// A row's line and what else stands around it.
const ROW_HEAD_BYTES: usize = 256;
/// So many chunks wait to be sent.
const CHUNKS_AHEAD: usize = 2;

const _: () = assert!(ROW_BYTES_MAX + ROW_HEAD_BYTES < CHUNK_BYTES);

/// Rows that are sent at once.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    /// The first number that it covers.
    pub(super) from: u64,
    /// The first that it does not.
    pub(super) to: u64,
    /// Whether the file ends with it.
    pub(super) is_last: bool,
    /// The rows as they are sent.
    pub(super) body: Bytes,
}

/// Opens a file's rows. On the thread that reads them.
pub(super) type OpenRows = Box<dyn FnOnce(Arc<AtomicU64>) -> Result<Box<dyn Rows>, String> + Send>;

/// Reads the rows from `first` on, ahead of who takes them.
pub(super) fn read_ahead(
    open: OpenRows,
    bytes_read: Arc<AtomicU64>,
    first: u64,
) -> io::Result<mpsc::Receiver<Result<Chunk, String>>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let read = move || {
        let send = |chunk| sender.blocking_send(chunk).is_ok();
        let ended = open(bytes_read).and_then(|rows| chunks(rows, first, &send));
        if let Err(why) = ended {
            send(Err(why));
        }
    };
    thread::Builder::new().name("tracklog-rows".to_owned()).spawn(read)?;
    Ok(receiver)
}

/// Hands all chunks to `send`, until nobody takes them any more.
fn chunks(
    mut rows: Box<dyn Rows>,
    first: u64,
    send: &dyn Fn(Result<Chunk, String>) -> bool,
) -> Result<(), String> {
    let mut row = RowBuffer::default();
    let (mut body, mut count, mut from) = (Vec::new(), 0, first);
    while rows.next(&mut row).map_err(|error| error.to_string())? {
        if row.number < first {
            continue;
        }
        let row_bytes = row.bytes.len() + row.refused.as_ref().map_or(0, String::len);
        let is_full = body.len() + row_bytes + ROW_HEAD_BYTES > CHUNK_BYTES || count == ROWS_MAX;
        if is_full {
            let whole = Bytes::from(std::mem::take(&mut body));
            let chunk = Chunk { from, to: row.number, is_last: false, body: whole };
            if !send(Ok(chunk)) {
                return Ok(());
            }
            (from, count) = (row.number, 0);
        }
        let content = match &row.refused {
            None => RowContent::Event(&row.bytes),
            Some(reason) => RowContent::Refused { reason, bytes: &row.bytes },
        };
        push_row(&mut body, &Row { number: row.number, content });
        count += 1;
    }
    let to = rows.next_number().max(from);
    send(Ok(Chunk { from, to, is_last: true, body: body.into() }));
    Ok(())
}
