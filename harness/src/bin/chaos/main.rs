//! `make chaos`: the farm under load while its processes are killed, its connection broken and its disks filled.
//!
//! Judged from outside: by what the scripted claudes wrote down of themselves, never by what muster says of itself.
//! Ends with one table; 0 when nothing was that must never be and enough was done to it, else 1 with a
//! timeline. The seed fixes what sessions do and which faults come; not the exact moments, which are the
//! machine's.

mod disk;
mod faults;
mod leftovers;
mod load;
mod options;
mod oracle;
mod output;
mod plan;
mod real;
mod report;
mod run;
mod session;
mod worktrees;

use std::{fs, io::Write as _, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use disk::SmallDisk;
use faults::Budget;
use load::Effort;
use muster_harness::fleet::{Claude, FleetBuilder, TestFleet};
use options::Options;
use report::{Fault, Report, Violation};
use run::Run;

/// Of a small disk: room for what the sessions beside the filler need.
const DISK_MEBIBYTES: u32 = 96;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse(std::env::args().skip(1))?;
    let report = Arc::new(Report::default());
    let folder = tempfile::Builder::new().prefix("mc-").tempdir().context("making a folder")?;
    say(&format!("seed {}, in {}", options.seed, folder.path().display()))?;
    let mut broken = Vec::new();
    let result = play(&options, &report, folder.path()).await;
    if let Err(error) = result {
        broken.push(format!("{error:#}"));
    }
    let clean = report.is_clean() && broken.is_empty();
    if !clean {
        let folder = folder.keep();
        fs::write(folder.join("timeline.log"), report.whole_timeline())?;
        say(&report.timeline())?;
        say(&format!("logs and the whole timeline are in {}", folder.display()))?;
    }
    say(&report.table(options.seed))?;
    for problem in broken {
        say(&format!("the run broke off: {problem}"))?;
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn play(options: &Options, report: &Arc<Report>, folder: &Path) -> anyhow::Result<()> {
    if let Some(claude) = &options.claude {
        let builder = builder(options, &folder.join("real")).claude(claude.clone());
        real::run(report, builder, options.seed, options.kills).await?;
        let budget = [Fault::KillWorker, Fault::KillController].map(|fault| (fault, options.kills));
        enough(report, &budget);
        return Ok(());
    }
    if options.plays("load") {
        let kinds = [
            Fault::KillWorker,
            Fault::KillController,
            Fault::KillGateway,
            Fault::KillShim,
            Fault::Connection,
        ];
        let budget = kinds.map(|fault| (fault, options.kills)).to_vec();
        let session_bytes = (options.bytes / 50).clamp(50_000, 16_000_000);
        let effort = Effort { lanes: options.lanes, bytes: options.bytes, session_bytes };
        under_load(options, report, &folder.join("load"), budget, effort, false).await?;
    }
    if options.plays("disk") {
        let fills = options.kills.div_ceil(3);
        let budget = vec![(Fault::FillWorkerDisk, fills), (Fault::FillControllerDisk, fills)];
        let effort = Effort { lanes: 3, bytes: 0, session_bytes: 60_000 };
        under_load(options, report, &folder.join("disk"), budget, effort, true).await?;
    }
    if options.rounds > 0 {
        let builder = builder(options, &folder.join("trees"));
        worktrees::run(report, builder, options.seed, options.rounds).await?;
    }
    Ok(())
}

fn builder(options: &Options, folder: &Path) -> FleetBuilder {
    let builder = TestFleet::builder().folder(folder).claude_env("MUSTER_SAID", "1").claude(Claude::Scripted);
    match &options.muster {
        Some(muster) => builder.muster(muster),
        None => builder,
    }
}

/// One fleet under load and faults, then everything checked.
async fn under_load(
    options: &Options,
    report: &Arc<Report>,
    folder: &Path,
    budget: Budget,
    effort: Effort,
    small_disks: bool,
) -> anyhow::Result<()> {
    let mut disks = Vec::new();
    if small_disks {
        for name in ["w1", "controller"] {
            match SmallDisk::mount(&folder.join(name), DISK_MEBIBYTES)? {
                Some(disk) => disks.push(disk),
                None => {
                    report.skipped("full disks: a tmpfs can be mounted by root alone");
                    return Ok(());
                }
            }
        }
    }
    let slots = u32::try_from(effort.lanes + 2).unwrap_or(u32::MAX);
    let mut fleet = builder(options, folder).slots(slots).behind_proxy().start().await?;
    let run = Arc::new(Run::new(options.seed, &fleet, Arc::clone(report)).await?);
    let inject = async {
        let injected = faults::inject(&mut fleet, &run, &budget, effort.bytes).await;
        injected.inspect_err(|_| run.break_off())
    };
    let (injected, ()) = tokio::join!(inject, load::run(&run, effort));
    injected?;
    enough(report, &budget);
    let compared = report.counted("bytes compared");
    if compared < effort.bytes {
        let what = format_args!("{compared} of {}", effort.bytes);
        report.violation(Violation::TooFewBytes, what);
    }
    leftovers::check(&run, &fleet).await?;
    run.close_gateway().await;
    worktrees::end(report, fleet);
    Ok(())
}

/// A run that was gentle proves nothing.
fn enough(report: &Report, budget: &[(Fault, u64)]) {
    for (fault, wanted) in budget {
        let done = report.faults(*fault);
        if done < *wanted {
            report.violation(Violation::TooFewFaults, format_args!("{fault:?}: {done} of {wanted}"));
        }
    }
}

fn say(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}
