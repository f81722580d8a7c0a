//! What the gateway adds: calls over both transports beside a bare rmcp server, how soon a wait is told, and what a
//! wait costs.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use muster_harness::{
    eventually::DEADLINE,
    fleet::{Process, TestFleet, programs_folder},
    mcp_client::McpClient,
};
use muster_proto::v1::{
    SessionStatus, StopSessionRequest, WatchSessionsRequest, session_service_client::SessionServiceClient,
};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::{
    Effort,
    durability::{plain, spawn},
    figures::{Samples, Table, per_second},
    memory::{mib, pss_kib},
};

/// Calls under way at the same time in a throughput run.
const CALLERS: usize = 16;
/// Samples of a latency.
const SAMPLES: usize = 200;
/// Of a wait; none is to end by it.
const LONG: u64 = 240;

/// A server that does nothing, and a client of it. Dropping it kills the server.
struct Bare {
    client: McpClient,
    _child: Child,
}

/// Runs everything.
pub async fn measure(effort: Effort, muster: Option<PathBuf>, table: &mut Table) -> anyhow::Result<()> {
    let mut builder = TestFleet::builder();
    if let Some(muster) = muster {
        builder = builder.muster(muster);
    }
    let mut fleet = builder.start().await?;
    // What is spawned stays queued.
    fleet.kill_worker(0);
    let session = spawn(&fleet, 1, plain).await?.remove(0);
    let (stdio, http) = (fleet.gateway().await?, fleet.http_gateway().await?);
    let over_http = http.client().await?;
    let bare = [bare_stdio().await?, bare_http(fleet.folder()).await?];
    for ((name, client), bare) in [("stdio", &*stdio), ("HTTP", &over_http)].into_iter().zip(&bare) {
        let ask = json!({ "sessionId": session });
        let one = latency(client, "get_session_status", &ask).await?;
        let floor = latency(&bare.client, "nothing", &json!({})).await?;
        table.row(&format!("get_session_status, {name}"), &one, &format!("{floor} bare rmcp, empty tool"));
        let many = rate(client, "get_session_status", &ask, effort.calls).await?;
        let floor = rate(&bare.client, "nothing", &json!({}), effort.calls).await?;
        table.row(
            &format!("calls, {CALLERS} at once, {name}"),
            &many,
            &format!("{floor} bare rmcp, empty tool"),
        );
    }
    for (name, client) in [("stdio", &*stdio), ("HTTP", &over_http)] {
        let (told, watched) = woken(&fleet, client, effort.samples).await?;
        let beside = format!("{watched} WatchSessions itself");
        table.row(&format!("session stopped -> wait returns, {name}"), &told, &beside);
    }
    let controller = fleet.controller().map(Process::pid).context("no controller")?;
    let gateways =
        [("stdio", &*stdio, stdio.pid().context("no gateway")?), ("HTTP", &over_http, http.process().pid())];
    for (name, client, gateway) in gateways {
        many_waits(&fleet, client, [gateway, controller], effort.waits, name, table).await?;
    }
    Ok(())
}

async fn bare_stdio() -> anyhow::Result<Bare> {
    let mut child = bare_command()?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take().context("a pipe was asked for")?;
    let stdout = child.stdout.take().context("a pipe was asked for")?;
    Ok(Bare { client: McpClient::over_pipes(stdin, stdout).await?, _child: child })
}

async fn bare_http(folder: &Path) -> anyhow::Result<Bare> {
    let file = folder.join("bare-mcp-url");
    let child = bare_command()?.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Ok(url) = std::fs::read_to_string(&file) {
            return Ok(Bare { client: McpClient::over_http(&url).await?, _child: child });
        }
        ensure!(Instant::now() < deadline, "the bare server does not come up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn bare_command() -> anyhow::Result<tokio::process::Command> {
    let mut command = tokio::process::Command::new(programs_folder()?.join("bare-mcp"));
    command.kill_on_drop(true);
    Ok(command)
}

async fn latency(client: &McpClient, tool: &str, arguments: &Value) -> anyhow::Result<Samples> {
    let mut figures = Samples::default();
    for _ in 0..SAMPLES {
        let began = Instant::now();
        client.ok(tool, arguments.clone()).await?;
        figures.add(began.elapsed());
    }
    Ok(figures)
}

async fn rate(client: &McpClient, tool: &str, arguments: &Value, count: usize) -> anyhow::Result<String> {
    let began = Instant::now();
    let calls = (0..count).map(|_| client.ok(tool, arguments.clone()));
    stream::iter(calls).buffer_unordered(CALLERS).try_collect::<Vec<_>>().await?;
    Ok(per_second(count, began.elapsed()))
}

/// From the call that stops a session to the return of a wait for it; and to the news on the controller's own stream.
async fn woken(fleet: &TestFleet, client: &McpClient, samples: usize) -> anyhow::Result<(Samples, Samples)> {
    let mut sessions = SessionServiceClient::new(muster_runtime::grpc::connect(&fleet.controller_url())?);
    let (mut told, mut watched) = (Samples::default(), Samples::default());
    for _ in 0..samples {
        let session = spawn(fleet, 1, plain).await?.remove(0);
        let request = WatchSessionsRequest { sessions: vec![session.clone()] };
        let mut watch = sessions.watch_sessions(request).await?.into_inner();
        watch.message().await?.context("a watch begins with what is")?;
        let wait =
            client.call("wait_for_completion", json!({ "sessionIds": [session], "timeoutSeconds": LONG }));
        let mut stopper = sessions.clone();
        let stop = async {
            // Long enough for the wait to be in place.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let began = Instant::now();
            let stop = StopSessionRequest { session: session.clone(), reason: String::new() };
            let news = async {
                loop {
                    let news = watch.message().await?.context("the watch ended")?;
                    let ended = |s: &muster_proto::v1::Session| s.status() == SessionStatus::Stopped;
                    if news.sessions.iter().any(ended) {
                        return anyhow::Ok(began.elapsed());
                    }
                }
            };
            let (stopped, news) = tokio::join!(stopper.stop_session(stop), news);
            stopped?;
            anyhow::Ok((began, news?))
        };
        let wait = async { anyhow::Ok((wait.await?, Instant::now())) };
        let ((result, returned), (began, news)) = tokio::try_join!(wait, stop)?;
        ensure!(result.structured["ready"][0]["status"] == "stopped", "{}", result.text);
        told.add(returned.duration_since(began));
        watched.add(news);
    }
    Ok((told, watched))
}

/// Many calls that wait for one session at once: what each costs, and how long it takes until the last is told.
async fn many_waits(
    fleet: &TestFleet,
    client: &McpClient,
    pids: [u32; 2],
    count: usize,
    name: &str,
    table: &mut Table,
) -> anyhow::Result<()> {
    let session = spawn(fleet, 1, plain).await?.remove(0);
    let mut sessions = SessionServiceClient::new(muster_runtime::grpc::connect(&fleet.controller_url())?);
    let before = pids.map(pss_kib);
    let waits = (0..count).map(|_| {
        let wait = json!({ "sessionIds": [session], "timeoutSeconds": LONG });
        async { anyhow::Ok((client.ok("wait_for_completion", wait).await?, Instant::now())) }
    });
    let waits = futures::future::try_join_all(waits);
    let stop = async {
        // Progress comes every five seconds: by then each has been told at least once.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let during = pids.map(pss_kib);
        let began = Instant::now();
        sessions.stop_session(StopSessionRequest { session: session.clone(), reason: String::new() }).await?;
        anyhow::Ok((during, began))
    };
    let (waited, (during, began)) = tokio::try_join!(waits, stop)?;
    let mut last = began;
    for (result, returned) in &waited {
        ensure!(result["ready"][0]["status"] == "stopped", "{result}");
        ensure!(*returned > began, "a wait returned before there was anything to tell");
        last = last.max(*returned);
    }
    let grown = |index: usize| during[index].saturating_sub(before[index]);
    let each = grown(0) as f64 / count as f64;
    let figure = format!("{each:.1} KiB each, gateway {}, controller +{}", mib(during[0]), mib(grown(1)));
    table.row(
        &format!("memory (PSS), {count} waits at once, {name}"),
        &figure,
        &format!("{} without", mib(before[0])),
    );
    let took = last.duration_since(began).as_secs_f64() * 1e3;
    table.row(
        &format!("stopped -> the last of {count} waits returns, {name}"),
        &format!("{took:.0} ms"),
        &"",
    );
    Ok(())
}
