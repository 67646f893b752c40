//! The newest windows of one span, of one name: a ring that moves on by itself.

/// Windows that are kept: 60 that are over, and the one that is not.
pub(super) const WINDOWS_KEPT: i64 = 61;
const CELLS: usize = WINDOWS_KEPT as usize;

/// What is known of one window, its sums aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    /// Events.
    pub(super) count: u64,
    /// Those of them that happened long before they were stored.
    pub(super) late: u64,
}

/// The numbers that were found in one window at one path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) sum: f64,
    pub(super) count: u64,
}

impl Sum {
    /// A sum beyond all doubles stays at the last of them: it is told as a number.
    pub(super) fn add(&mut self, sum: f64, count: u64) {
        self.sum = (self.sum + sum).clamp(f64::MIN, f64::MAX);
        self.count += count;
    }
}

/// The newest [`WINDOWS_KEPT`] windows, by their index.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    newest: i64,
    cells: Box<[Cell; CELLS]>,
    /// A window's sums side by side; empty until there is the first number.
    sums: Vec<Sum>,
}

impl Ring {
    /// With the first window in it.
    pub(super) fn new(newest: i64) -> Self {
        Self { newest, cells: Box::new([Cell::default(); CELLS]), sums: Vec::new() }
    }

    pub(super) const fn newest(&self) -> i64 {
        self.newest
    }

    /// Whether `index` is kept, or will be as soon as something is added there.
    pub(super) const fn reaches(&self, index: i64) -> bool {
        index > self.newest.saturating_sub(WINDOWS_KEPT)
    }

    /// Adds to the window `index`, if it is not gone. `numbers` has an entry for each sum.
    pub(super) fn add(&mut self, index: i64, of: Cell, numbers: &[Option<Sum>]) {
        if !self.reaches(index) {
            return;
        }
        self.move_to(index);
        let at = place(index);
        self.cells[at].count += of.count;
        self.cells[at].late += of.late;
        if numbers.iter().all(Option::is_none) {
            return;
        }
        if self.sums.is_empty() {
            self.sums = vec![Sum::default(); CELLS * numbers.len()];
        }
        let sums = &mut self.sums[at * numbers.len()..][..numbers.len()];
        for (sum, number) in sums.iter_mut().zip(numbers) {
            if let Some(Sum { sum: more, count }) = number {
                sum.add(*more, *count);
            }
        }
    }

    /// The window `index`: nothing where nothing was added, or is kept no more.
    pub(super) fn cell(&self, index: i64) -> Cell {
        if self.holds(index) { self.cells[place(index)] } else { Cell::default() }
    }

    /// Its sums; none where it never had a number.
    pub(super) fn sums(&self, index: i64) -> &[Sum] {
        let each = self.sums.len() / CELLS;
        if self.holds(index) { &self.sums[place(index) * each..][..each] } else { &[] }
    }

    /// All windows with something in them: index, cell, sums.
    pub(super) fn filled(&self) -> impl Iterator<Item = (i64, Cell, &[Sum])> {
        let all = (self.newest.saturating_sub(WINDOWS_KEPT - 1)..=self.newest).rev();
        let all = all.map(|index| (index, self.cell(index), self.sums(index)));
        all.filter(|(_, cell, _)| *cell != Cell::default())
    }

    const fn holds(&self, index: i64) -> bool {
        index <= self.newest && self.reaches(index)
    }

    /// Makes room up to `index`: the windows that it takes the place of are emptied.
    fn move_to(&mut self, index: i64) {
        let each = self.sums.len() / CELLS;
        let from = index.saturating_sub(WINDOWS_KEPT).max(self.newest);
        for fresh in (from..index).map(|before| before + 1) {
            let at = place(fresh);
            self.cells[at] = Cell::default();
            self.sums[at * each..][..each].fill(Sum::default());
        }
        self.newest = self.newest.max(index);
    }
}

fn place(index: i64) -> usize {
    usize::try_from(index.rem_euclid(WINDOWS_KEPT)).expect("a remainder is not negative")
}
