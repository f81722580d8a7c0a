//! The measurements themselves, on a farm of one worker.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use muster_harness::{
    fleet::{Gateway, TestFleet},
    processes,
    scenario::{Act, Turn, scripted_prompt},
};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::{
    Effort, baseline,
    figures::{Samples, Table, megabytes_a_second, per_second},
    memory::{mib, pss_kib},
};

/// No measurement takes longer; one that does has hung.
const LIMIT: Duration = Duration::from_secs(300);

struct Farm {
    fleet: TestFleet,
    gateway: Gateway,
    effort: Effort,
}

/// Runs everything.
pub async fn measure(effort: Effort, muster: Option<PathBuf>, table: &mut Table) -> anyhow::Result<()> {
    let mut builder = TestFleet::builder().slots(64);
    if let Some(muster) = muster {
        builder = builder.muster(muster);
    }
    let fleet = builder.start().await?;
    let gateway = fleet.gateway().await?;
    let farm = Farm { fleet, gateway, effort };
    // First, while the processes are as small as they ever are.
    timeout(LIMIT, farm.memory(table)).await.context("memory")??;
    timeout(LIMIT, farm.latencies(table)).await.context("latencies")??;
    timeout(LIMIT, farm.rate(table)).await.context("sessions a second")??;
    timeout(LIMIT, farm.output(table)).await.context("output")??;
    let [worker, controller, gateway] = farm.own_memory().map(mib);
    let all = format!("worker {worker}, controller {controller}, gateway {gateway}");
    table.row("memory (PSS) after all this", &all, &"");
    let Farm { fleet, gateway, .. } = farm;
    drop(gateway);
    drop(fleet);
    Ok(())
}

impl Farm {
    async fn spawn(&self, turns: &[Turn], worktree: bool) -> anyhow::Result<String> {
        let arguments = json!({ "prompt": scripted_prompt("bench", turns), "worktree": worktree });
        let spawned = self.gateway.ok("spawn_session", arguments).await?;
        Ok(spawned["sessionId"].as_str().context("no session id")?.to_owned())
    }

    async fn wait(&self, sessions: &[String]) -> anyhow::Result<Value> {
        self.gateway.ok("wait_for_completion", json!({ "sessionIds": sessions, "timeoutSeconds": 240 })).await
    }

    async fn latencies(&self, table: &mut Table) -> anyhow::Result<()> {
        let (mut returned, mut in_worktree) = (Samples::default(), Samples::default());
        let (mut first_byte, mut bare_first_byte) = (Samples::default(), Samples::default());
        let (mut ended, mut asked) = (Samples::default(), Samples::default());
        for number in 0..self.effort.samples {
            let began = Instant::now();
            let session = self.spawn(&[Turn::text("x")], false).await?;
            returned.add(began.elapsed());
            self.wait(&[session]).await?;

            let began = Instant::now();
            let session = self.spawn(&[Turn::text("x")], true).await?;
            in_worktree.add(began.elapsed());
            self.first_byte(&session).await?;
            first_byte.add(began.elapsed());
            self.wait(&[session]).await?;

            let repo = self.fleet.repo().clone();
            let scratch = self.fleet.folder().to_owned();
            let bare = move || baseline::first_byte(&repo, &scratch, number);
            bare_first_byte.add(tokio::task::spawn_blocking(bare).await??);

            ended.add(self.told_after("exit").await?);
            asked.add(self.told_after("ask").await?);
        }
        table.row("spawn -> returned, no worktree", &returned, &"");
        table.row("spawn -> returned, worktree", &in_worktree, &"");
        let beside = format!("{bare_first_byte} git worktree add, exec in a PTY");
        table.row("spawn -> first byte, worktree", &first_byte, &beside);
        table.row("program ends -> wait returns", &ended, &"");
        table.row("program asks -> wait returns", &asked, &"");
        Ok(())
    }

    /// Asks for output as fast as answers come until there is some.
    async fn first_byte(&self, session: &str) -> anyhow::Result<()> {
        loop {
            let ask = json!({ "sessionId": session, "format": "raw", "cursor": "o0", "maxChars": 100 });
            let page = self.gateway.ok("get_session_output", ask).await?;
            if page["nextCursor"] != "o0" {
                return Ok(());
            }
        }
    }

    /// From the moment the program notes to the return of a wait that began before it.
    async fn told_after(&self, moment: &str) -> anyhow::Result<Duration> {
        // Long enough for the wait to be in place.
        let pause = Turn { delay_ms: 100, ..Turn::text("x") };
        let turns =
            if moment == "ask" { vec![Turn { delay_ms: 100, ..Turn::bash("true") }] } else { vec![pause] };
        let session = self.spawn(&turns, false).await?;
        let waited = self.wait(std::slice::from_ref(&session)).await?;
        let returned = SystemTime::now();
        let id = waited["ready"][0]["id"].as_str().context("no id")?.to_owned();
        if moment == "ask" {
            self.gateway.ok("send_input", json!({ "sessionId": session, "decision": "allow" })).await?;
            self.wait(std::slice::from_ref(&session)).await?;
        }
        let noted = noted(&self.fleet.witness_folder(), &id, moment)?;
        Ok(returned.duration_since(noted).unwrap_or_default())
    }

    /// One caller spawns as fast as it is answered, then waits for all.
    async fn rate(&self, table: &mut Table) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut sessions = Vec::new();
        for _ in 0..self.effort.sessions {
            sessions.push(self.spawn(&[Turn::text("x")], false).await?);
        }
        let accepted = began.elapsed();
        for some in sessions.chunks(200) {
            let waited = self.wait(some).await?;
            ensure!(waited["reason"] == "completed", "not all sessions completed: {}", waited["next"]);
        }
        let done = began.elapsed();
        let folder = self.fleet.repo().path().to_owned();
        let count = self.effort.sessions.min(200);
        let bare = move || baseline::programs_a_second(&folder, count);
        let bare = tokio::task::spawn_blocking(bare).await??;
        table.row("spawns accepted, one caller", &per_second(self.effort.sessions, accepted), &"");
        let beside = format!("{bare:.0}/s exec in a PTY, one after the other");
        table.row("short sessions done, one caller", &per_second(self.effort.sessions, done), &beside);
        Ok(())
    }

    /// From the program's PTY to a reader that follows.
    async fn output(&self, table: &mut Table) -> anyhow::Result<()> {
        let turns = [Turn::act(Act::Bytes { seed: 1, count: self.effort.bytes }), Turn::text("x")];
        let began = Instant::now();
        let session = self.spawn(&turns, false).await?;
        let mut follower = self
            .fleet
            .command_for(&["logs", "--follow", "--raw", &session])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdout = follower.stdout.take().context("a pipe was asked for")?;
        let (mut bytes, mut buffer) = (0_u64, vec![0; 1 << 16]);
        loop {
            match stdout.read(&mut buffer).await? {
                0 => break,
                count => bytes += count as u64,
            }
        }
        let took = began.elapsed();
        follower.wait().await?;
        ensure!(bytes > self.effort.bytes, "the reader got {bytes} bytes of {}", self.effort.bytes);
        let folder = self.fleet.repo().path().to_owned();
        let bare = move || {
            let read = baseline::read_loop(&folder, &turns, None)?;
            let file = folder.join("bare-output");
            let kept = baseline::read_loop(&folder, &turns, Some(&file))?;
            std::fs::remove_file(&file)?;
            anyhow::Ok((read, kept))
        };
        let (read, kept) = tokio::task::spawn_blocking(bare).await??;
        let beside = format!(
            "{} bare PTY read loop, {} into a file",
            megabytes_a_second(read.0, read.1),
            megabytes_a_second(kept.0, kept.1)
        );
        table.row("PTY -> following reader", &megabytes_a_second(bytes, took), &beside);
        Ok(())
    }

    /// PSS of worker, controller and gateway.
    fn own_memory(&self) -> [u64; 3] {
        let worker = self.fleet.worker(0).map_or(0, muster_harness::fleet::Process::pid);
        let controller = self.fleet.controller().map_or(0, muster_harness::fleet::Process::pid);
        [worker, controller, self.gateway.pid().unwrap_or(0)].map(pss_kib)
    }

    async fn memory(&self, table: &mut Table) -> anyhow::Result<()> {
        let empty = self.own_memory();
        let mut sessions = Vec::new();
        for _ in 0..self.effort.waiting {
            let session = self.spawn(&[Turn::bash("true")], false).await?;
            self.wait(std::slice::from_ref(&session)).await?;
            sessions.push(session);
        }
        let with_sessions = self.own_memory();
        let shims: Vec<u64> = processes::of_fleet(self.fleet.id(), self.fleet.folder())
            .iter()
            .filter(|process| process.command.split_whitespace().nth(1) == Some("shim"))
            .map(|process| pss_kib(process.pid.unsigned_abs()))
            .collect();
        for session in &sessions {
            self.gateway.ok("stop_session", json!({ "sessionId": session })).await?;
        }
        self.wait(&sessions).await?;
        let count = self.effort.waiting as u64;
        for (index, name) in ["worker", "controller", "gateway"].iter().enumerate() {
            let grown = with_sessions[index].saturating_sub(empty[index]);
            let figure = format!("{}, {} KiB a session", mib(empty[index]), grown / count);
            table.row(&format!("memory (PSS), {name}, empty"), &figure, &"");
        }
        let shim = shims.iter().sum::<u64>() / (shims.len() as u64).max(1);
        table.row("memory (PSS), shim, each", &format!("{shim} KiB of {}", shims.len()), &"");
        Ok(())
    }
}

/// When the program noted `moment`.
fn noted(folder: &Path, id: &str, moment: &str) -> anyhow::Result<SystemTime> {
    let file = folder.join(format!("{id}.jsonl"));
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let notes = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let micros = notes.filter(|note| note["moment"] == moment).find_map(|note| note["unixMicros"].as_u64());
    let micros = micros.with_context(|| format!("the program did not note {moment}"))?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_micros(micros))
}
