//! Speaks claude's `-p` stream-json protocol from a script, without a model: for volume, for faults, and for
//! every test that need not pay a second of CPU for the real program.
//!
//! The script is a JSON list of turns after `[[script]]` in the prompt (see `muster_harness::scenario`), else
//! the environment's `SCRIPTED_CLAUDE`; without one it says "done". With `MUSTER_WITNESS=<dir>` it records
//! what it was given. What it accepts, refuses and prints, and in which order, follows the real program,
//! releases 2.1.197 and 2.1.330. It is slow to nothing: no async runtime, a few milliseconds to its first
//! line.

mod args;
mod ask;
mod inbox;
mod model;
mod output;
mod session;
mod signals;
mod tools;
mod transcript;
mod witness;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use args::{Args, Invocation};

/// What `--version` says; the number is that of the release the protocol was last compared with.
const VERSION: &str = "2.1.330";

fn main() -> ExitCode {
    match Args::parse(std::env::args().skip(1)) {
        Ok(Invocation::Version) => {
            let _ = writeln!(std::io::stdout(), "{VERSION} (Claude Code)");
            ExitCode::SUCCESS
        }
        Ok(Invocation::Run(args)) => match refuse(&args) {
            Some(problem) => fail(&problem),
            None => session::run(*args),
        },
        Err(problem) => fail(&problem),
    }
}

/// What the real program refuses before it reads anything.
fn refuse(args: &Args) -> Option<String> {
    if std::io::stdin().is_terminal() {
        let problem =
            "Error: Input must be provided either through stdin or as a prompt argument when using --print";
        return Some(problem.to_owned());
    }
    let as_root = nix::unistd::geteuid().is_root();
    let sandboxed = std::env::var("IS_SANDBOX").is_ok_and(|value| value == "1");
    (args.skip_permissions && as_root && !sandboxed).then(|| {
        "--dangerously-skip-permissions cannot be used with root/sudo privileges for security reasons"
            .to_owned()
    })
}

fn fail(problem: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{problem}");
    ExitCode::FAILURE
}
