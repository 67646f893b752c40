//! Segments and the slots they lie in, as bytes: the slot header page. FORMAT.md §2.
//!
//! Promises: a [`SlotHeader`] in hand means that its checksum held.

use crate::disk::{PAGE_BYTES, SlotId};
use crate::fields::{Fields, FieldsMut};
use crate::journal::commit::{Base, Run, Salt, SegmentNumber};

/// The version of the on-disk format that this program writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Where the first commit of a segment begins.
pub(crate) const FIRST_COMMIT_AT: u32 = PAGE_BYTES as u32;
/// Slots have a power of two of bytes between these.
pub(crate) const SLOT_BYTES_MIN: u64 =
    if cfg!(any(test, feature = "simulation")) { 2 << 20 } else { 16 << 20 };
/// See [`SLOT_BYTES_MIN`].
pub(crate) const SLOT_BYTES_MAX: u64 = 1 << 30;

const MAGIC: u64 = u64::from_le_bytes(*b"TLOGSLOT");
const CRC_AT: usize = PAGE_BYTES - 4;

/// The random number that all files of one log carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClusterId(pub(crate) u128);

/// The first page of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotHeader {
    pub(crate) cluster: ClusterId,
    pub(crate) slot: SlotId,
    pub(crate) slot_bytes: u64,
    pub(crate) segment: SegmentNumber,
    pub(crate) run: Run,
    pub(crate) salt: Salt,
    /// As this run's `opened` says.
    pub(crate) base: Option<Base>,
    /// As this run's `opened` says.
    pub(crate) skip: u64,
}

/// What the first page of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotPage {
    /// Zeros: the slot was made and never used.
    Blank,
    /// A header whose checksum held.
    Header(SlotHeader),
    /// A header of another version of the format.
    OtherVersion(u32),
    /// Anything else.
    Bad,
}

impl SlotHeader {
    /// The page as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE_BYTES);
        page.put_u64(MAGIC);
        page.put_u32(FORMAT_VERSION);
        page.put_u32(self.slot.0);
        page.put_u128(self.cluster.0);
        page.put_u64(self.slot_bytes);
        page.put_u64(self.segment.0);
        page.put_u64(self.run.0);
        page.put_u64(self.salt.0);
        Base::encode(self.base, &mut page);
        page.put_u64(self.skip);
        page.resize(CRC_AT, 0);
        let crc = crc32fast::hash(&page);
        page.put_u32(crc);
        page
    }
}

impl SlotPage {
    /// Reads the first page of slot `slot`.
    pub(crate) fn decode(page: &[u8], slot: SlotId) -> Self {
        if page.iter().all(|byte| *byte == 0) {
            return Self::Blank;
        }
        let Some((covered, crc)) = page.split_at_checked(CRC_AT) else { return Self::Bad };
        if crc32fast::hash(covered).to_le_bytes() != *crc {
            return Self::Bad;
        }
        match decode_checked(covered) {
            Ok(header) if header.slot == slot && is_slot_size(header.slot_bytes) => {
                Self::Header(header)
            }
            // A header that was written for another slot: a misdirected write.
            Ok(_) => Self::Bad,
            Err(Some(version)) => Self::OtherVersion(version),
            Err(None) => Self::Bad,
        }
    }
}

/// Whether a slot may have so many bytes.
pub(crate) fn is_slot_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (SLOT_BYTES_MIN..=SLOT_BYTES_MAX).contains(&bytes)
}

fn decode_checked(covered: &[u8]) -> Result<SlotHeader, Option<u32>> {
    let mut fields = Fields::new(covered);
    if fields.u64() != Some(MAGIC) {
        return Err(None);
    }
    let version = fields.u32().ok_or(None)?;
    if version != FORMAT_VERSION {
        return Err(Some(version));
    }
    let mut header = move || {
        Some(SlotHeader {
            slot: SlotId(fields.u32()?),
            cluster: ClusterId(fields.u128()?),
            slot_bytes: fields.u64()?,
            segment: SegmentNumber(fields.u64()?),
            run: Run(fields.u64()?),
            salt: Salt(fields.u64()?),
            base: Base::decode(&mut fields)?,
            skip: fields.u64()?,
        })
    };
    header().ok_or(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_a_size_that_no_slot_has_is_bad() {
        let header = |slot_bytes| SlotHeader {
            cluster: ClusterId(1),
            slot: SlotId(2),
            slot_bytes,
            segment: SegmentNumber(1),
            run: Run(1),
            salt: Salt(1),
            base: None,
            skip: 0,
        };
        let good = header(SLOT_BYTES_MIN);
        assert_eq!(SlotPage::decode(&good.encode(), SlotId(2)), SlotPage::Header(good));
        for bytes in [0, 4, SLOT_BYTES_MIN + 1, SLOT_BYTES_MIN / 2, SLOT_BYTES_MAX * 2] {
            let page = header(bytes).encode();
            assert_eq!(SlotPage::decode(&page, SlotId(2)), SlotPage::Bad, "{bytes}");
        }
    }
}
