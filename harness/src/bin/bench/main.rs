//! `make bench`: what the farm costs, each figure beside a baseline taken in the same run.
//!
//! Everything is measured from outside, through MCP and the command line, on the programs that ship. The claude
//! is the scripted one: a few milliseconds, so that what is left is ours. Figures are median (min-max, n).

mod baseline;
mod durability;
mod farm;
mod figures;
mod gateway;
mod memory;
mod scale;
mod simulated;

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
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
    /// Simulated workers, and sessions queued behind them.
    pub scale: [usize; 2],
    /// How long an idle controller is watched.
    pub idle: Duration,
    /// Tool calls of a throughput run.
    pub calls: usize,
    /// Waits at once.
    pub waits: usize,
}

const FULL: Effort = Effort {
    samples: 21,
    sessions: 1_000,
    bytes: 200_000_000,
    waiting: 20,
    stored: [1_000, 10_000],
    scale: [1_000, 10_000],
    idle: Duration::from_secs(10),
    calls: 4_000,
    waits: 1_000,
};
const QUICK: Effort = Effort {
    samples: 5,
    sessions: 60,
    bytes: 20_000_000,
    waiting: 5,
    stored: [200, 1_000],
    scale: [50, 500],
    idle: Duration::from_secs(2),
    calls: 300,
    waits: 100,
};

/// What can be measured alone.
const PARTS: [&str; 4] = ["farm", "gateway", "durability", "scale"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut effort = FULL;
    let mut muster: Option<PathBuf> = None;
    let mut only: Option<String> = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--quick" => effort = QUICK,
            "--muster" => muster = Some(arguments.next().context("--muster needs a path")?.into()),
            "--only" => {
                let part = arguments.next().context("--only needs a part")?;
                ensure!(PARTS.contains(&&*part), "--only takes one of {}", PARTS.join(", "));
                only = Some(part);
            }
            _ => bail!("unknown option {flag}; there are --muster, --only and --quick"),
        }
    }
    let plays = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let mut table = Table::default();
    if plays("farm") {
        farm::measure(effort, muster.clone(), &mut table).await?;
    }
    if plays("gateway") {
        gateway::measure(effort, muster.clone(), &mut table).await?;
    }
    if plays("durability") {
        durability::measure(effort, muster.clone(), &mut table).await?;
    }
    if plays("scale") {
        scale::measure(effort, muster, &mut table).await?;
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{table}")?;
    stdout.flush()?;
    Ok(())
}
