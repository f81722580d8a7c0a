//! `muster completion`: a script that teaches a shell the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{
    args::Cli,
    failure::{Exit, Failure},
    output::Output,
};

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub struct Options {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "muster", &mut script);
    Output::new(false).bytes(&script)?;
    Ok(Exit::Ok)
}
