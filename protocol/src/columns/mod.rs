//! Batches of events, turned on their side: what the same place of all events says lies together.
//!
//! Promises
//! - What [`Encoder::encode`] gave is decoded to the very bytes that went in: it decodes what it
//!   wrote and compares. Where that would fail it gives nothing, and the caller keeps the bytes.
//! - Reading owes nothing to how events are built today: how they lie is written beside them.
//! - Whatever bytes come in, [`decode`] never panics, and takes memory for the bytes that are there
//!   and those that were asked for.
//!
//! It knows what is in events, as the records of no other kind: batches of another kind stay as they
//! are. It does not compress. What it leaves is in three areas, of which two are worth it: numbers,
//! texts, and what has nothing in common with anything (random ids, and bits without a slack).
//!
//! How it is done
//! 1. A batch is its header's fields and its records; checksums are computed again.
//! 2. An event is a template (`layout`) and what fills it: texts and numbers, a column for each
//!    field. The index of the properties follows from their text.
//! 3. A JSON text is a shape whose leaves are texts in columns of their own (`json`).
//! 4. A text is one that was there: in another column of the event, in the event that the visitor
//!    sent before, or earlier in the column; else a shape with holes (`cut`) for ids and numbers.
//! 5. Numbers are streams, and each says how it is written (`numbers`).
//!
//! Every byte of it is told in `engine/FORMAT.md`, §10. Called by the engine, for frames of packs.

mod cut;
mod decode;
mod encode;
mod heads;
mod json;
mod layout;
mod numbers;
mod source;
#[cfg(test)]
mod tests;
mod visitors;

pub use decode::{Decoder, ROOM_BEHIND, decode};
pub use encode::Encoder;

/// What batches are turned into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Areas<'a> {
    /// Heads of streams, and their numbers byte by byte.
    pub numbers: &'a [u8],
    /// Whatever is text: shapes, templates, and what was not taken apart.
    pub texts: &'a [u8],
    /// Bits and ids in which nothing is found that comes again.
    pub raw: &'a [u8],
}

/// Why areas are none. No more is said: it comes back from every step of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnsError {
    /// They end before what they speak of does.
    #[error("the columns end too early")]
    Short,
    /// They say something that cannot be.
    #[error("the columns are malformed")]
    Malformed,
    /// They hold more bytes than were asked for.
    #[error("the columns hold more than they should")]
    Long,
}

/// Of texts shorter than this none is looked for elsewhere in the event.
const COPIED_BYTES_MIN: usize = 4;
/// Texts of so many columns are named by the column.
const COLUMNS_NAMED: usize = 64;
/// So many shapes of a column have streams of their own.
const SHAPES_APART: usize = 64;

/// There are no more columns of texts.
const COLUMNS_MAX: usize = 1_024;
/// So many visitors are told apart.
const VISITORS_MAX: usize = 4_096;

/// What the numbers that tell a text of a column mean.
const TEXT_NEW: u64 = 0;
const TEXT_OF_VISITOR: u64 = 1;
const TEXT_OF_COLUMN: u64 = 2;
const TEXT_BEFORE: u64 = TEXT_OF_COLUMN + COLUMNS_NAMED as u64;

/// What the numbers that tell a record mean; the templates follow.
const RECORD_NEW_TEMPLATE: u64 = 0;
const RECORD_PLAIN: u64 = 1;
const RECORD_REMOVED: u64 = 2;
const RECORD_TEMPLATE: u64 = 3;
