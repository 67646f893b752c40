//! What each visitor sent last in each column of texts.
//!
//! It lies visitor by visitor: an event asks for all columns of one, and finds them side by side.

/// What was sent last is held as a `P`.
#[derive(Debug)]
pub(super) struct Latest<P> {
    /// A row for each visitor, in which each column has a place.
    rows: Vec<Vec<P>>,
}

/// A row grows by so many columns.
const COLUMNS_AT_ONCE: usize = 64;

impl<P> Default for Latest<P> {
    fn default() -> Self {
        Self { rows: Vec::new() }
    }
}

impl<P: Copy + Default> Latest<P> {
    pub(super) fn clear(&mut self) {
        self.rows.iter_mut().for_each(Vec::clear);
    }

    /// The default is no less nothing than `None`.
    #[inline]
    pub(super) fn get(&self, visitor: usize, column: usize) -> Option<P> {
        self.rows.get(visitor)?.get(column).copied()
    }

    #[inline]
    pub(super) fn set(&mut self, visitor: usize, column: usize, sent: P) {
        match self.rows.get_mut(visitor).and_then(|row| row.get_mut(column)) {
            Some(latest) => *latest = sent,
            None => self.set_first(visitor, column, sent),
        }
    }

    fn set_first(&mut self, visitor: usize, column: usize, sent: P) {
        if self.rows.len() <= visitor {
            self.rows.resize_with(visitor + 1, Vec::new);
        }
        if let Some(row) = self.rows.get_mut(visitor) {
            row.resize((column + 1).next_multiple_of(COLUMNS_AT_ONCE), P::default());
            row[column] = sent;
        }
    }
}
