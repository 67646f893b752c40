//! The load's records: each says who wrote it and which of his it is, and its bytes follow from
//! that, so that whoever finds one knows whether it is good.

use crate::chance::Chance;

const HEAD_BYTES: usize = 24;
const FILLER_BYTES_MAX: u64 = 3_000;

/// Whose record, and which of his.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number {
    pub(super) producer: u32,
    pub(super) number: u64,
}

/// The record of that number. It says too whether it is the last of its append.
pub(super) fn record(number: Number, ends_append: bool) -> Vec<u8> {
    let mut chance = Chance::new(number.number ^ u64::from(number.producer).rotate_left(40));
    let filler = usize::try_from(chance.below(FILLER_BYTES_MAX)).expect("it is small");
    let mut bytes = Vec::with_capacity(HEAD_BYTES + filler + 8);
    bytes.extend(u64::from(number.producer).to_le_bytes());
    bytes.extend(number.number.to_le_bytes());
    bytes.extend(u64::from(ends_append).to_le_bytes());
    while bytes.len() < HEAD_BYTES + filler {
        bytes.extend(chance.number().to_le_bytes());
    }
    bytes
}

/// Whose it is and whether it ends its append; none if it is not just as it was written.
pub(super) fn read(bytes: &[u8]) -> Option<(Number, bool)> {
    let word = |index: usize| {
        let word = bytes.get(8 * index..8 * index + 8)?;
        Some(u64::from_le_bytes(word.try_into().expect("eight bytes")))
    };
    let number = Number { producer: u32::try_from(word(0)?).ok()?, number: word(1)? };
    let ends_append = word(2)? == 1;
    (record(number, ends_append) == bytes).then_some((number, ends_append))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_changed_anywhere_is_none() {
        let number = Number { producer: 3, number: 70 };
        let mut bytes = record(number, true);
        assert_eq!(read(&bytes), Some((number, true)));
        for at in 0..bytes.len() {
            bytes[at] ^= 4;
            assert_eq!(read(&bytes), None, "byte {at}");
            bytes[at] ^= 4;
        }
    }
}
