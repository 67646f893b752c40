//! The newest windows of all names: plain arithmetic, no clock.
//!
//! Names are given a place as they come, up to a bound; the others share one. A name that has no
//! event in any window that is kept gives its place up. While all places are taken, one that was
//! silent for two minutes does so too, and what it had goes to the others: a flood of made-up names
//! pushes real ones out for no longer than it lasts.

use std::collections::HashMap;

use tracklog_protocol::TimeMicros;
use tracklog_protocol::line::format_time;

use super::figures::{Figures, LiveWindow, SumFigure};
use super::live::LiveOptions;
use super::ring::{Cell, Ring, Sum, WINDOWS_KEPT};
use super::span::{Window, WindowSpan};
use super::sum::SumPath;

/// A longer name is not told apart.
pub(super) const NAME_BYTES_MAX: usize = 256;
/// An event that happened longer before it was stored is late.
const LATE_AFTER_MICROS: i64 = 60_000_000;
/// Minutes without an event after which a name gives its place up to another.
const SILENT_MINUTES_MAX: i64 = 2;

/// One event, as far as windows care.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) name: &'a str,
    /// When it was stored.
    pub(super) stored: TimeMicros,
    /// When it happened.
    pub(super) happened: TimeMicros,
    /// An entry for each path.
    pub(super) numbers: &'a [Option<f64>],
}

/// The windows.
#[derive(Debug)]
pub(super) struct Windows {
    options: LiveOptions,
    names: HashMap<Box<str>, Series, foldhash::fast::RandomState>,
    total: Series,
    other: Series,
    /// Windows that begin before are not known whole.
    since: TimeMicros,
    /// Kept from event to event: an entry for each path.
    numbers: Vec<Option<Sum>>,
}

/// The windows of a name, or of several together.
#[derive(Clone, Debug)]
struct Series {
    seconds: Ring,
    minutes: Ring,
}

impl Windows {
    /// Windows that begin at `since` or later.
    pub(super) fn new(options: LiveOptions, since: TimeMicros) -> Self {
        let series = || Series::beginning_at(since);
        let names = options.reserved.iter().map(|name| (name.as_str().into(), series())).collect();
        let numbers = Vec::with_capacity(options.sums.len());
        Self { options, names, total: series(), other: series(), since, numbers }
    }

    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    /// The first window of `span` that is known whole and kept.
    pub(super) fn first(&self, span: WindowSpan) -> Window {
        let kept = Window { span, index: self.total.ring(span).newest() }.plus(1 - WINDOWS_KEPT);
        kept.max(span.first_from(self.since))
    }

    /// Counts an event. One that was stored before all windows that are kept is none of theirs.
    pub(super) fn add(&mut self, seen: Seen<'_>) {
        let minute = WindowSpan::Minute.window_of(seen.stored).index;
        if minute > self.total.minutes.newest() {
            self.give_up_silent(minute);
        }
        let late = seen.stored.0.saturating_sub(seen.happened.0) > LATE_AFTER_MICROS;
        let cell = Cell { count: 1, late: u64::from(late) };
        self.numbers.clear();
        let number = |number: &Option<f64>| number.map(|sum| Sum { sum, count: 1 });
        self.numbers.extend(seen.numbers.iter().map(number));
        let numbers = &self.numbers;
        self.total.add(seen.stored, cell, numbers);
        let has_room =
            self.names.len() < self.options.names_max && seen.name.len() <= NAME_BYTES_MAX;
        let series = match self.names.get_mut(seen.name) {
            Some(series) => series,
            None if has_room => {
                let fresh = Series::beginning_at(seen.stored);
                self.names.entry(seen.name.into()).or_insert(fresh)
            }
            None => &mut self.other,
        };
        series.add(seen.stored, cell, numbers);
    }

    /// The window, of one name alone where one is asked for.
    pub(super) fn read(&self, window: Window, of: Option<&str>, complete: bool) -> LiveWindow {
        let figures = |series: &Series| series.figures(window, &self.options.sums);
        let has_events = |series: &Series| series.ring(window.span).cell(window.index).count > 0;
        let told = |name: &str, series: &Series| {
            let figures = has_events(series).then(|| figures(series))?;
            Some(Figures { name: Some(name.to_owned()), ..figures })
        };
        let mut names: Vec<_> = match of {
            None => self.names.iter().filter_map(|(name, series)| told(name, series)).collect(),
            Some(name) => self.names.get(name).and_then(|it| told(name, it)).into_iter().collect(),
        };
        names.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
        LiveWindow {
            window: window.span,
            begin: format_time(window.begin()),
            complete,
            total: figures(&self.total),
            names,
            other: has_events(&self.other).then(|| figures(&self.other)),
        }
    }

    /// What gives its place up when `minute` begins.
    fn give_up_silent(&mut self, minute: i64) {
        let is_full = self.names.len() >= self.options.names_max;
        let silent = if is_full { SILENT_MINUTES_MAX + 1 } else { WINDOWS_KEPT };
        let (other, reserved) = (&mut self.other, &self.options.reserved);
        self.names.retain(|name, series| {
            let stays = series.minutes.newest() > minute.saturating_sub(silent)
                || reserved.iter().any(|reserved| **reserved == **name);
            if !stays {
                other.take(series);
            }
            stays
        });
    }
}

impl Series {
    fn beginning_at(time: TimeMicros) -> Self {
        let ring = |span: WindowSpan| Ring::new(span.window_of(time).index);
        Self { seconds: ring(WindowSpan::Second), minutes: ring(WindowSpan::Minute) }
    }

    const fn ring(&self, span: WindowSpan) -> &Ring {
        match span {
            WindowSpan::Second => &self.seconds,
            WindowSpan::Minute => &self.minutes,
        }
    }

    fn add(&mut self, stored: TimeMicros, cell: Cell, numbers: &[Option<Sum>]) {
        self.seconds.add(WindowSpan::Second.window_of(stored).index, cell, numbers);
        self.minutes.add(WindowSpan::Minute.window_of(stored).index, cell, numbers);
    }

    /// Adds all that is in another.
    fn take(&mut self, other: &Self) {
        for (into, from) in
            [(&mut self.seconds, &other.seconds), (&mut self.minutes, &other.minutes)]
        {
            for (index, cell, sums) in from.filled() {
                let numbers = sums.iter().map(|sum| (sum.count > 0).then_some(*sum));
                into.add(index, cell, &numbers.collect::<Vec<_>>());
            }
        }
    }

    fn figures(&self, window: Window, paths: &[SumPath]) -> Figures {
        let ring = self.ring(window.span);
        let Cell { count, late } = ring.cell(window.index);
        let rate = count as f64 / window.span.seconds() as f64;
        let sums = paths.iter().zip(ring.sums(window.index)).filter(|(_, sum)| sum.count > 0);
        let told = |(path, sum): (&SumPath, &Sum)| {
            (path.as_str().to_owned(), SumFigure { sum: sum.sum, count: sum.count })
        };
        Figures { name: None, count, rate, late, sums: sums.map(told).collect() }
    }
}
