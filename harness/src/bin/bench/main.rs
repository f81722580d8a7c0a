//! `make bench`: what the farm costs, each figure beside a baseline taken in the same run.
//!
//! Everything is measured from outside, through MCP and the command line, on the programs that ship. The claude
//! is the scripted one: a few milliseconds, so that what is left is ours. Figures are median (min-max, n).

mod baseline;
mod durability;
mod farm;
mod figures;
mod memory;

use std::{io::Write as _, path::PathBuf};

use anyhow::{Context as _, bail};
use figures::Table;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Samples of a latency.
    pub samples: usize,
    /// Sessions of the throughput run.
    pub sessions: usize,
    /// Bytes of the output run.
    pub bytes: u64,
    /// Sessions that wait while memory is taken.
    pub waiting: usize,
    /// Sessions in the store, step by step, of the recovery run.
    pub stored: [usize; 2],
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut effort =
        Effort { samples: 21, sessions: 1_000, bytes: 200_000_000, waiting: 20, stored: [1_000, 10_000] };
    let mut muster: Option<PathBuf> = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--quick" => {
                effort =
                    Effort { samples: 5, sessions: 60, bytes: 20_000_000, waiting: 5, stored: [200, 1_000] }
            }
            "--muster" => muster = Some(arguments.next().context("--muster needs a path")?.into()),
            _ => bail!("unknown option {flag}; there are --muster and --quick"),
        }
    }
    let mut table = Table::default();
    farm::measure(effort, muster.clone(), &mut table).await?;
    durability::measure(effort, muster, &mut table).await?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{table}")?;
    stdout.flush()?;
    Ok(())
}
