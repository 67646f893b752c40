//! Watching the windows: a place in them for each who does.

use std::sync::Arc;
use std::time::Duration;

use tracklog_log::Log;
use tracklog_protocol::TimeMicros;
use tracklog_protocol::line::format_time;

use super::figures::{LiveGap, LiveWindow};
use super::live::{Live, Reading};
use super::span::{Window, WindowId, WindowSpan};

/// How long after its end a window is told: commits that were on their way have arrived by then.
const GRACE: Duration = Duration::from_millis(200);
/// And the reader, which lets a few commits come together, has read them.
const READ_WITHIN: Duration = Duration::from_millis(150);
/// How often to ask whether the reader has reached the end.
const BEGIN_PAUSE: Duration = Duration::from_millis(50);
const GRACE_MICROS: i64 = 200_000;
const SECOND_MICROS: i64 = 1_000_000;

/// What somebody wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Windows of this span alone.
    pub span: Option<WindowSpan>,
    /// One name alone.
    pub name: Option<String>,
    /// So many windows of each span that are over already come first, as far as they are known.
    pub last: u32,
    /// Goes on after what had this id. Then `last` means nothing.
    pub after: Option<WindowId>,
}

/// What somebody who watches is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A window.
    Window {
        /// By which it can be gone on from.
        id: WindowId,
        /// The first moment after it.
        end: TimeMicros,
        /// Its figures.
        window: LiveWindow,
    },
    /// Windows that can't be told.
    Gap(LiveGap),
}

/// Somebody who watches. While there is one, the topic is read.
pub struct Viewer<L: ?Sized> {
    live: Arc<Live<L>>,
    view: View,
    /// The next window of each span that is wanted, from when there was one to begin with.
    next: Option<Vec<Window>>,
}

impl<L: Log + ?Sized> Viewer<L> {
    /// Watches, from now on.
    #[must_use]
    pub fn new(live: Arc<Live<L>>, view: View) -> Self {
        live.viewers.send_modify(|viewers| *viewers += 1);
        Self { live, view, next: None }
    }

    /// What is to be told next; `None`: nothing yet. A viewer that is slow misses nothing until its
    /// place is not kept any more.
    pub fn tell(&mut self) -> Option<Told> {
        let live = Arc::clone(&self.live);
        let reading = live.reading.lock();
        let reading = reading.as_ref()?;
        let until = self.told_until(reading)?;
        let next = self.next.as_mut()?;
        if let Some(gap) = close_gap(next, reading) {
            return Some(gap);
        }
        let over = next.iter_mut().filter(|window| window.end() <= until);
        let place = over.min_by_key(|window| (window.end(), std::cmp::Reverse(window.span)))?;
        let window = *place;
        *place = window.plus(1);
        let (id, end) = (WindowId(window), window.end());
        let window = reading.windows.read(window, self.view.name.as_deref(), true);
        Some(Told::Window { id, end, window })
    }

    /// The minute that is not over, as far as it was read.
    #[must_use]
    pub fn unfinished(&self) -> Option<LiveWindow> {
        let reading = self.live.reading.lock();
        let reading = reading.as_ref()?;
        let minute = self.next.as_ref()?.iter().find(|next| next.span == WindowSpan::Minute)?;
        let is_known = *minute >= reading.windows.first(WindowSpan::Minute);
        let has_begun = minute.begin() <= self.live.time.now();
        let name = self.view.name.as_deref();
        (is_known && has_begun).then(|| reading.windows.read(*minute, name, false))
    }

    /// Whether the reader has reached the end, so that there is something to tell.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.next.is_some()
    }

    /// How long until there should be something to tell again.
    #[must_use]
    pub fn pause(&self) -> Duration {
        if !self.has_begun() {
            return BEGIN_PAUSE;
        }
        let after = GRACE + READ_WITHIN;
        let into = self.live.time.now().0.rem_euclid(SECOND_MICROS);
        let into = Duration::from_micros(u64::try_from(into).expect("a remainder"));
        let second = Duration::from_secs(1);
        if into < after { after - into } else { second - into + after }
    }

    /// Windows that end until then are told. Nothing is, before the reader has reached the end once.
    fn told_until(&mut self, reading: &Reading) -> Option<TimeMicros> {
        let now = self.live.time.now();
        let through = reading.through(&*self.live.log, now);
        if self.next.is_none() {
            if !reading.is_at_end(through, now) {
                return None;
            }
            self.next = Some(self.begin(reading, through));
        }
        Some(TimeMicros(through.0.saturating_sub(GRACE_MICROS)))
    }

    fn begin(&self, reading: &Reading, through: TimeMicros) -> Vec<Window> {
        let until = TimeMicros(through.0.saturating_sub(GRACE_MICROS));
        let wanted = |span: &WindowSpan| self.view.span.is_none_or(|only| only == *span);
        let begin = |span: WindowSpan| match self.view.after {
            Some(told) => told.next(span).min(span.window_of(until)),
            None => {
                let last = span.window_of(until).plus(-i64::from(self.view.last));
                last.max(reading.windows.first(span))
            }
        };
        WindowSpan::ALL.into_iter().filter(wanted).map(begin).collect()
    }
}

/// Goes on at the first window that is known, where the next one is not.
fn close_gap(next: &mut [Window], reading: &Reading) -> Option<Told> {
    let missing = next.iter_mut().find(|next| **next < reading.windows.first(next.span))?;
    *missing = reading.windows.first(missing.span);
    Some(Told::Gap(LiveGap { window: missing.span, next: format_time(missing.begin()) }))
}

impl<L: ?Sized> Drop for Viewer<L> {
    fn drop(&mut self) {
        self.live.viewers.send_modify(|viewers| *viewers -= 1);
    }
}

impl<L: ?Sized> std::fmt::Debug for Viewer<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Viewer").field("view", &self.view).finish_non_exhaustive()
    }
}
