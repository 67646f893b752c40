//! How a verb ends when it does not end well: an exit status and one line.

use std::fmt::Display;
use std::process::ExitCode;

use crate::terminal::printable;

/// Why a verb did not end with status 0.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The verb ran, and the answer is no. What it found is told already.
    AnswerIsNo,
    /// It could not run, or not to its end: this line says why.
    CouldNotRun(String),
    /// Whoever read the output has gone: nothing to complain of.
    NobodyReads,
}

impl Failure {
    /// With the error's words, on one line.
    pub(crate) fn could_not_run(error: impl Display) -> Self {
        let text = error.to_string();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        Self::CouldNotRun(lines.collect::<Vec<_>>().join(" "))
    }

    /// The same, naming what was worked on, unless the error's words begin with it.
    pub(crate) fn of(what: impl Display, error: impl Display) -> Self {
        let (what, error) = (what.to_string(), error.to_string());
        if error.starts_with(&what) {
            return Self::could_not_run(error);
        }
        Self::could_not_run(format!("{what}: {error}"))
    }

    /// Its line.
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::CouldNotRun(line) => line,
            Self::AnswerIsNo => "the answer is no",
            Self::NobodyReads => "nobody reads",
        }
    }

    /// Says it, once, on standard error.
    pub(crate) fn tell(self) -> ExitCode {
        match self {
            Self::NobodyReads => ExitCode::SUCCESS,
            Self::AnswerIsNo => ExitCode::from(1),
            Self::CouldNotRun(line) => {
                eprintln!("tracklog: {}", printable(&line));
                ExitCode::from(2)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::of("x.json", "no JSON:\n  at line 3\n");
        assert_eq!(failure, Failure::CouldNotRun("x.json: no JSON: at line 3".to_owned()));
    }

    #[test]
    fn what_was_worked_on_is_named_once() {
        let failure = Failure::of("/etc", "/etc holds no log");
        assert_eq!(failure, Failure::CouldNotRun("/etc holds no log".to_owned()));
    }
}
