//! The slow steps before claude runs, as the session actor's tasks run them.

use std::{
    io,
    path::{Path, PathBuf},
};

use muster_proto::{
    ids::SessionId,
    v1::{EndReason, SessionSpec, StartSession, Workspace},
};
use muster_runtime::task;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Context;
use crate::{
    agent::claude::command,
    local_state::{self, Place, Record, SessionDir},
    room,
    shim::{
        client::{self, LinkError, ShimLink},
        files::{AttemptDir, LAUNCH_VERSION, Launch},
    },
    workspace::worktree::{Order, reopen},
};

/// Size of the PTY. Nothing that claude prints in its protocol depends on it.
const ROWS: u16 = 50;
/// See [`ROWS`].
const COLS: u16 = 200;

/// What a launch order is made of besides the controller's order.
pub(super) struct Facts<'a> {
    pub(super) session: SessionId,
    pub(super) place: Option<&'a Place>,
    pub(super) began: bool,
    pub(super) spool: PathBuf,
    pub(super) base_offset: u64,
    pub(super) output_start: u64,
    pub(super) traceparent: &'a str,
}

/// Why an attempt does not begin.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// A disk is full: it begins when there is room.
    Disk(String),
    /// It never will.
    Fatal(EndReason, String),
}

/// Writes the order down and makes the workspace. May be called again after any failure.
pub(super) async fn prepare(
    context: &Context,
    start: &StartSession,
    record: &Record,
    session_dir: &SessionDir,
) -> Result<Workspace, Obstacle> {
    let state_dir = &context.config.state_dir;
    let (dir, kept, order) = (session_dir.clone(), record.clone(), start.clone());
    let written = task::spawn_blocking("write start", move || {
        dir.create().and_then(|()| dir.write_record(&kept)).and_then(|()| dir.write_start(&order))
    });
    if let Err(error) = written.await.map_err(io::Error::other).and_then(|written| written) {
        let text = format!("worker {} cannot write: {error}", context.config.name);
        return Err(match room::is_full(&error) {
            true => Obstacle::Disk(text),
            false => Obstacle::Fatal(EndReason::StartFailed, text),
        });
    }
    let made = workspace(context, start, session_dir, record.place.as_ref()).await;
    made.map_err(|text| match room::speaks_of_full(&text, state_dir) {
        true => Obstacle::Disk(text),
        false => Obstacle::Fatal(EndReason::WorkspaceFailed, text),
    })
}

/// Makes the workspace, or opens the one an earlier attempt worked in.
async fn workspace(
    context: &Context,
    start: &StartSession,
    session_dir: &SessionDir,
    place: Option<&Place>,
) -> Result<Workspace, String> {
    let spec = start.spec.clone().unwrap_or_default();
    // A workspace of another worker is none here; a first start makes its own then.
    let told = start.workspace.clone().filter(|told| start.resume || Path::new(&told.path).is_dir());
    let known = place.map(Workspace::from).or(told);
    if let Some(known) = known.filter(|known| !known.path.is_empty()) {
        return reopen(&known).map_err(|error| error.to_string());
    }
    let project = context.project(&spec)?;
    let order = Order {
        session_dir: session_dir.path(),
        project: &project.path,
        handle: &start.handle,
        worktree: spec.worktree,
        branch: &spec.branch_name,
        from_ref: &spec.r#ref,
    };
    if !is_plain(&start.handle) {
        return Err(format!("handle {:?} cannot name a directory", start.handle));
    }
    context.worktrees.create(&order).await.map_err(|error| error.to_string())
}

/// A handle becomes a directory and part of a branch: nothing but `[a-z0-9-]`.
fn is_plain(handle: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !handle.is_empty() && handle.len() <= 100 && !handle.starts_with('-') && handle.bytes().all(plain)
}

/// The launch order of an attempt.
pub(super) fn order(context: &Context, start: &StartSession, facts: &Facts<'_>) -> Result<Launch, String> {
    let none = SessionSpec::default();
    let spec = start.spec.as_ref().unwrap_or(&none);
    let project = context.project(spec)?;
    if spec.trust_mode && !project.allow_trust_mode {
        return Err(format!("project {} does not allow trust mode on this worker", project.name));
    }
    let place = facts.place.ok_or("the workspace was not made")?;
    let temporary = local_state::attempt_temporary(&context.config.state_dir, facts.session, start.attempt);
    let traceparent = if facts.traceparent.is_empty() { &start.traceparent } else { facts.traceparent };
    let request = command::Request {
        session: facts.session.as_uuid(),
        spec,
        resume: facts.began,
        trusted: project.trusted,
        traceparent,
        temporary: temporary.as_deref(),
    };
    Ok(Launch {
        version: LAUNCH_VERSION,
        program: context.claude.program.clone(),
        args: command::args(&request),
        env: command::env(&context.config.claude, &request),
        cwd: PathBuf::from(Workspace::from(place).path),
        rows: ROWS,
        cols: COLS,
        spool: facts.spool.clone(),
        spool_base: facts.base_offset,
        output_start: facts.output_start,
        spool_limit: context.config.claude.output_limit_bytes,
        lease_until: None,
    })
}

/// Writes the order down and starts a shim with it. `temporary`: the attempt's own folder, made first.
pub(super) async fn launch(
    context: &Context,
    dir: &AttemptDir,
    launch: Result<Launch, String>,
    temporary: Option<PathBuf>,
    lease_bound: bool,
) -> Result<ShimLink, LinkError> {
    let mut launch = launch.map_err(LinkError::Start)?;
    if lease_bound {
        launch.lease_until = Some(context.lease.for_start().await.ok_or(LinkError::Lapsed)?);
    }
    let place = dir.clone();
    let written = task::spawn_blocking("write launch", move || {
        temporary.as_deref().map_or(Ok(()), local_state::make_attempt_temporary)?;
        place.write_launch(&launch)
    })
    .await;
    written
        .map_err(io::Error::other)
        .and_then(|written| written)
        .map_err(|error| LinkError::Start(format!("launch order cannot be written: {error}")))?;
    client::launch(&context.config.shim_program, dir).await
}

/// Kills a shim that does not do its work; only while its lock proves that the process id is its own.
pub(super) fn kill_shim(dir: &AttemptDir) {
    let pid = std::fs::read_to_string(dir.pid_file()).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let (Some(pid), Ok(true)) = (pid, dir.shim_lives()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
