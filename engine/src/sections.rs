//! Tagged sections: how checkpoints and the footers of packs are divided, so that later kinds can
//! join. FORMAT.md §4.
//!
//! Promises: a section that is read had a checksum that held; bytes of any kind never make it panic.

use crate::fields::{Fields, FieldsMut};

/// The flag of a section that programs which do not know its kind pass over.
pub(crate) const MAY_SKIP: u16 = 1;

/// Kind, flags, length and checksum.
pub(crate) const SECTION_HEAD_BYTES: usize = 12;

/// Writes a section: u16 kind, u16 flags, u32 length, u32 CRC-32 of these three and the body, body.
pub(crate) fn section(file: &mut Vec<u8>, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
    section_with(file, kind, 0, write);
}

/// One that programs which do not know it pass over.
pub(crate) fn section_that_may_be_skipped(
    file: &mut Vec<u8>,
    kind: u16,
    write: impl FnOnce(&mut Vec<u8>),
) {
    section_with(file, kind, MAY_SKIP, write);
}

fn section_with(file: &mut Vec<u8>, kind: u16, flags: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    write(&mut body);
    let at = file.len();
    file.put_u16(kind);
    file.put_u16(flags);
    file.put_u32(crate::fields::length_u32(body.len()));
    let crc = section_crc(&file[at..], &body);
    file.put_u32(crc);
    file.put(&body);
}

/// The next section: its kind, its flags and its body, where its checksum holds.
pub(crate) fn next_section<'a>(fields: &mut Fields<'a>) -> Option<(u16, u16, &'a [u8])> {
    let head = fields.bytes(8)?;
    let crc = fields.u32()?;
    let mut parts = Fields::new(head);
    let (kind, flags, length) = (parts.u16()?, parts.u16()?, parts.u32()?);
    let body = fields.bytes(length as usize)?;
    (section_crc(head, body) == crc).then_some((kind, flags, body))
}

/// What the checksum of a section is to be.
pub(crate) fn section_crc(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}
