//! A big farm: many workers, a long queue. How long a free slot stays free.

use std::{
    fs,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use muster_harness::fleet::{Process, TestFleet};
use muster_proto::v1::SessionSpec;

use crate::{
    Effort,
    durability::spawn,
    figures::{Samples, Table, per_second},
    memory::{cpu, mib, pss_kib},
    simulated::{PROJECT, Workers},
};

/// Samples of each latency.
const SAMPLES: usize = 200;
/// Sessions that wait behind one worker, for the baseline.
const SHORT_QUEUE: usize = 250;

/// Runs everything.
pub async fn measure(effort: Effort, muster: Option<PathBuf>, table: &mut Table) -> anyhow::Result<()> {
    let mut builder = TestFleet::builder();
    if let Some(muster) = muster {
        builder = builder.muster(muster);
    }
    let mut fleet = builder.start().await?;
    fleet.kill_worker(0);
    let [count, queued] = effort.scale;
    let mut workers = Workers::none();
    workers.join(&fleet.controller_url(), 1).await?;
    spawn_queued(&fleet, SHORT_QUEUE).await?;
    let alone = freed_to_placed(&mut workers, SAMPLES).await?;
    drain(&mut workers, SHORT_QUEUE - 1 - SAMPLES).await?;

    let began = Instant::now();
    workers.join(&fleet.controller_url(), count - 1).await?;
    let joined = began.elapsed();
    spawn_queued(&fleet, count + queued).await?;
    let mut running = Vec::new();
    for _ in 0..count {
        running.push(workers.placed().await?);
    }
    let pid = fleet.controller().map(Process::pid).context("no controller")?;
    let idle = idle_cpu(pid, effort.idle).await?;
    let memory = pss_kib(pid);
    let (first, rest) = running.split_first().context("no worker runs anything")?;
    workers.end(first).await?;
    let freed = freed_to_placed(&mut workers, SAMPLES.min(queued / 2)).await?;
    for placed in rest {
        workers.end(placed).await?;
    }
    // All were freed at once but the one the samples left.
    let left = queued - 1 - SAMPLES.min(queued / 2);
    let took = drain(&mut workers, left).await?;
    let queued_to_placed = queued_to_placed(&fleet, &mut workers, SAMPLES).await?;

    let farm = format!("{count} workers");
    let sync = one_sync(fleet.folder())?;
    table.row(&format!("{farm} connect"), &per_second(count, joined), &"");
    let beside = format!("{alone} one worker, {SHORT_QUEUE} queued; {sync} one fdatasync");
    table.row(&format!("slot free -> next placed, {farm}, {queued} queued"), &freed, &beside);
    table.row(
        &format!("placements, {farm}, {left} queued, all slots freed at once"),
        &per_second(left, took),
        &"",
    );
    table.row(
        &format!("spawn -> placed, {farm}, free slots"),
        &queued_to_placed,
        &format!("{sync} one fdatasync"),
    );
    table.row(&format!("memory (PSS), controller, {farm}, {queued} queued"), &mib(memory), &"");
    table.row(
        &format!("CPU of one core, idle controller, {farm}, {queued} queued"),
        &format!("{idle:.1} %"),
        &"",
    );
    drop(workers);
    Ok(())
}

async fn spawn_queued(fleet: &TestFleet, count: usize) -> anyhow::Result<()> {
    let ids = spawn(fleet, count, spec).await?;
    ensure!(ids.len() == count, "{} of {count} sessions were accepted", ids.len());
    Ok(())
}

fn spec(number: usize) -> SessionSpec {
    SessionSpec { prompt: format!("task {number}"), project: PROJECT.to_owned(), ..SessionSpec::default() }
}

/// Frees one slot after the other: from the worker's report to the next session there. The session that reached a worker
/// last is the one that ends.
async fn freed_to_placed(workers: &mut Workers, samples: usize) -> anyhow::Result<Samples> {
    let mut figures = Samples::default();
    let mut running = workers.placed().await?;
    for _ in 0..samples {
        let began = Instant::now();
        workers.end(&running).await?;
        let next = workers.placed().await?;
        ensure!(next.worker == running.worker, "the slot that was freed stays free");
        figures.add(next.at.duration_since(began));
        running = next;
    }
    workers.end(&running).await?;
    Ok(figures)
}

/// Ends each session as soon as it is placed, until `count` were. The time they took.
async fn drain(workers: &mut Workers, count: usize) -> anyhow::Result<Duration> {
    let began = Instant::now();
    for _ in 0..count {
        let placed = workers.placed().await?;
        workers.end(&placed).await?;
    }
    Ok(began.elapsed())
}

/// From the call to the worker, while every slot is free.
async fn queued_to_placed(
    fleet: &TestFleet,
    workers: &mut Workers,
    samples: usize,
) -> anyhow::Result<Samples> {
    let mut figures = Samples::default();
    for _ in 0..samples {
        let began = Instant::now();
        spawn_queued(fleet, 1).await?;
        let placed = workers.placed().await?;
        figures.add(placed.at.duration_since(began));
        workers.end(&placed).await?;
    }
    Ok(figures)
}

/// Share of one core a process takes while nothing is asked of it, in percent.
async fn idle_cpu(pid: u32, over: Duration) -> anyhow::Result<f64> {
    let (before, began) = (cpu(pid), Instant::now());
    tokio::time::sleep(over).await;
    let (after, took) = (cpu(pid), began.elapsed());
    let used = after.checked_sub(before).context("the controller is gone")?;
    Ok(100.0 * used.as_secs_f64() / took.as_secs_f64())
}

/// A record appended and made durable.
fn one_sync(folder: &Path) -> anyhow::Result<Samples> {
    let path = folder.join("one-sync");
    let mut file = File::create(&path)?;
    let mut figures = Samples::default();
    for _ in 0..SAMPLES {
        let began = Instant::now();
        file.write_all(&[7; 1024])?;
        file.sync_data()?;
        figures.add(began.elapsed());
    }
    fs::remove_file(&path)?;
    Ok(figures)
}
