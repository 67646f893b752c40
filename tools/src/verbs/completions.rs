//! `tracklog completions`: what a shell needs to complete the command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::output::Output;

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "\
Examples:
  tracklog completions bash > ~/.local/share/bash-completion/completions/tracklog
  tracklog completions zsh  > ~/.zfunc/_tracklog
  tracklog completions fish > ~/.config/fish/completions/tracklog.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run<C: CommandFactory>(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut C::command(), "tracklog", &mut script);
        let mut output = Output::new();
        output.write(&script)?;
        output.flush()
    }
}
