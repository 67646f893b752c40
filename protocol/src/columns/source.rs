//! Bytes one after the other: a reader that never goes beyond its end, and numbers that take as
//! many bytes as they need.

use super::ColumnsError;

/// What is left to read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Source<'a> {
    rest: &'a [u8],
}

impl<'a> Source<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub(super) const fn len(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], ColumnsError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ColumnsError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, ColumnsError> {
        let (byte, rest) = self.rest.split_first().ok_or(ColumnsError::Short)?;
        self.rest = rest;
        Ok(*byte)
    }

    /// Seven bits a byte, the lowest first; the highest bit says that another byte follows.
    pub(super) fn number(&mut self) -> Result<u64, ColumnsError> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(ColumnsError::Malformed)
    }

    /// A number that counts what lies in memory.
    pub(super) fn size(&mut self) -> Result<usize, ColumnsError> {
        usize::try_from(self.number()?).map_err(|_| ColumnsError::Malformed)
    }
}

/// The other way of [`Source::number`].
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// How many bytes [`put_number`] writes.
pub(super) const fn number_bytes(number: u64) -> usize {
    let bits = u64::BITS - number.leading_zeros();
    if bits == 0 { 1 } else { bits.div_ceil(7) as usize }
}

pub(super) fn put_size(out: &mut Vec<u8>, size: usize) {
    put_number(out, size as u64);
}

/// Differences of either sign as numbers that are small when they are near zero.
pub(super) const fn folded(difference: i64) -> u64 {
    ((difference << 1) ^ (difference >> 63)).cast_unsigned()
}

/// The other way of [`folded`].
pub(super) const fn unfolded(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}
