//! What it costs to lose nothing: durable spawns, recovery, the memory of what has ended. A controller alone: its
//! worker has left, so sessions stay queued until they are stopped.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use muster_harness::fleet::{Process, TestFleet};
use muster_proto::v1::{
    ListSessionsRequest, SessionSpec, SpawnSessionRequest, StopSessionRequest,
    session_service_client::SessionServiceClient,
};
use tonic::transport::Channel;

use crate::{
    Effort,
    figures::{Table, per_second},
    memory::{mib, pss_kib},
};

/// Calls under way at the same time, which is what a group commit can gather.
const CALLERS: usize = 64;
/// Bytes of one record of the baseline: about what a session takes in the store.
const RECORD: usize = 1024;

type Sessions = SessionServiceClient<Channel>;

/// Runs everything.
pub async fn measure(effort: Effort, muster: Option<PathBuf>, table: &mut Table) -> anyhow::Result<()> {
    let mut builder = TestFleet::builder();
    if let Some(muster) = muster {
        builder = builder.muster(muster);
    }
    let mut fleet = builder.start().await?;
    // The project it named stays known.
    fleet.kill_worker(0);
    let empty = controller_memory(&fleet);
    let mut stored = 0;
    for total in effort.stored {
        let count = total - stored;
        let began = Instant::now();
        let ids = spawn(&fleet, count, plain).await?;
        let took = began.elapsed();
        ensure!(ids.len() == count, "{} of {count} sessions were accepted", ids.len());
        let bare = bare_syncs(fleet.folder(), count.min(2_000))?;
        let name = format!("durable spawns, {CALLERS} callers, {stored} to {total} stored");
        table.row(&name, &per_second(count, took), &bare);
        stored = total;

        let (took, bytes) = recover(&mut fleet, total).await?;
        let (read, read_took) = read_all(&fleet.folder().join("controller"))?;
        let beside = format!("{} to read its {:.1} MB", milliseconds(read_took), megabytes(read.max(bytes)));
        table.row(&format!("killed -> serves {total} sessions again"), &milliseconds(took), &beside);
    }
    stop_all(&fleet, stored).await?;
    recover(&mut fleet, stored).await?;
    let grown = controller_memory(&fleet).saturating_sub(empty) * 10_000 / u64::try_from(stored)?;
    table.row("memory (PSS), controller, per 10,000 ended", &mib(grown), &"");
    Ok(())
}

fn client(fleet: &TestFleet) -> anyhow::Result<Sessions> {
    Ok(SessionServiceClient::new(muster_runtime::grpc::connect(&fleet.controller_url())?))
}

/// A session that asks for nothing.
pub fn plain(number: usize) -> SessionSpec {
    SessionSpec { prompt: format!("task {number}"), ..SessionSpec::default() }
}

/// Spawns so many sessions from [`CALLERS`] callers. Their ids.
pub async fn spawn(
    fleet: &TestFleet,
    count: usize,
    spec: impl Fn(usize) -> SessionSpec,
) -> anyhow::Result<Vec<String>> {
    let sessions = client(fleet)?;
    let calls = (0..count).map(|number| {
        let mut sessions = sessions.clone();
        let spec = spec(number);
        async move {
            let request = SpawnSessionRequest { spec: Some(spec), request_id: String::new() };
            let session = sessions.spawn_session(request).await?.into_inner().session;
            anyhow::Ok(session.context("no session in the answer")?.session_id)
        }
    });
    stream::iter(calls).buffer_unordered(CALLERS).try_collect().await
}

async fn stop_all(fleet: &TestFleet, count: usize) -> anyhow::Result<()> {
    let sessions = client(fleet)?;
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let request = ListSessionsRequest { limit: 500, cursor, ..ListSessionsRequest::default() };
        let page = sessions.clone().list_sessions(request).await?.into_inner();
        ids.extend(page.sessions.into_iter().map(|session| session.session_id));
        cursor = page.next_cursor;
        if cursor.is_empty() {
            break;
        }
    }
    ensure!(ids.len() == count, "{} of {count} sessions are listed", ids.len());
    let calls = ids.into_iter().map(|session| {
        let mut sessions = sessions.clone();
        async move {
            sessions.stop_session(StopSessionRequest { session, reason: String::new() }).await?;
            anyhow::Ok(())
        }
    });
    stream::iter(calls).buffer_unordered(CALLERS).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// From the start of a new process on the folder of a killed one to an answer that counts every session. Also the
/// size of the folder in bytes.
async fn recover(fleet: &mut TestFleet, count: usize) -> anyhow::Result<(Duration, u64)> {
    fleet.kill_controller();
    let (bytes, _) = read_all(&fleet.folder().join("controller"))?;
    let began = Instant::now();
    fleet.start_controller().await?;
    let request = ListSessionsRequest { limit: 1, ..ListSessionsRequest::default() };
    let listed = client(fleet)?.list_sessions(request).await?.into_inner();
    let took = began.elapsed();
    ensure!(listed.total as usize == count, "{} of {count} sessions are there again", listed.total);
    Ok((took, bytes))
}

/// Appended records with an `fdatasync` after each, and after each [`CALLERS`].
fn bare_syncs(folder: &Path, count: usize) -> anyhow::Result<String> {
    let path = folder.join("bare-syncs");
    let mut rates = Vec::new();
    for batch in [1, CALLERS] {
        let mut file = File::create(&path)?;
        let began = Instant::now();
        for number in 1..=count {
            file.write_all(&[7; RECORD])?;
            if number % batch == 0 {
                file.sync_data()?;
            }
        }
        file.sync_data()?;
        rates.push(per_second(count, began.elapsed()));
    }
    fs::remove_file(&path)?;
    Ok(format!("{} fdatasync each, {} in batches of {CALLERS}", rates[0], rates[1]))
}

/// Reads every file below `folder`: bytes and time.
fn read_all(folder: &Path) -> anyhow::Result<(u64, Duration)> {
    let began = Instant::now();
    let (mut bytes, mut folders, mut buffer) = (0, vec![folder.to_owned()], vec![0; 1 << 16]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if let Ok(mut file) = File::open(entry.path()) {
                while let Ok(count @ 1..) = file.read(&mut buffer) {
                    bytes += count as u64;
                }
            }
        }
    }
    Ok((bytes, began.elapsed()))
}

fn controller_memory(fleet: &TestFleet) -> u64 {
    fleet.controller().map(Process::pid).map_or(0, pss_kib)
}

fn milliseconds(took: Duration) -> String {
    format!("{:.0} ms", took.as_secs_f64() * 1e3)
}

#[allow(clippy::cast_precision_loss, reason = "gigabytes stay far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
