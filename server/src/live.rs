//! Live figures as they are told to operators, over HTTP and by the command.

pub use tracklog_pipeline::realtime::{Figures, LiveGap, LiveWindow, SumFigure, WindowSpan};

use std::sync::Arc;

use tracklog_log::Log;
use tracklog_pipeline::realtime::{Live, Told, View, Viewer};

/// A program that holds a node and watches its live figures.
pub struct Watch {
    viewer: Viewer<dyn Log>,
    last: Option<LiveWindow>,
}

impl Watch {
    /// Watches the seconds, from now on.
    pub(crate) fn seconds(live: Arc<Live<dyn Log>>) -> Self {
        let view = View { span: Some(WindowSpan::Second), ..View::default() };
        Self { viewer: Viewer::new(live, view), last: None }
    }

    /// The last second that is over and known.
    pub fn last_second(&mut self) -> Option<&LiveWindow> {
        while let Some(told) = self.viewer.tell() {
            if let Told::Window { window, .. } = told {
                self.last = Some(window);
            }
        }
        self.last.as_ref()
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("last", &self.last).finish_non_exhaustive()
    }
}
