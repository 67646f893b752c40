//! Live figures as they are told to operators, over HTTP and by the command.

pub use tracklog_pipeline::realtime::{Figures, LiveGap, LiveWindow, SumFigure, WindowSpan};
