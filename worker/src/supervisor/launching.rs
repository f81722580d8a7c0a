//! The slow steps before claude runs, as the session actor's tasks run them.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use muster_proto::{
    ids::SessionId,
    v1::{EndReason, ProjectPolicy, SessionSpec, StartSession, Workspace},
};
use muster_runtime::task;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use tokio::sync::watch;

use super::{
    Context,
    environment::{self, Secrets},
    setup::{self, Setup},
    terms::{self, Source},
};
use crate::{
    agent::claude::command,
    local_state::{self, Record, SessionDir},
    room,
    shim::{
        client::{self, LinkError, ShimLink},
        files::{AttemptDir, LAUNCH_VERSION, Launch},
    },
    workspace::worktree::{self, Mirrored, reopen},
};

/// Size of the PTY. Nothing that claude prints in its protocol depends on it.
const ROWS: u16 = 50;
/// See [`ROWS`].
const COLS: u16 = 200;

/// What a launch order is made of besides the controller's order.
pub(super) struct Facts<'a> {
    pub(super) session: SessionId,
    pub(super) place: Option<&'a local_state::Place>,
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
    check(context, start).map_err(|text| Obstacle::Fatal(EndReason::StartFailed, text))?;
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
    place: Option<&local_state::Place>,
) -> Result<Workspace, String> {
    let spec = start.spec.clone().unwrap_or_default();
    // A workspace of another worker is none here; a first start makes its own then.
    let told = start.workspace.clone().filter(|told| start.resume || Path::new(&told.path).is_dir());
    let known = place.map(Workspace::from).or(told);
    if let Some(known) = known.filter(|known| !known.path.is_empty()) {
        return reopen(&known).map_err(|error| error.to_string());
    }
    let terms = terms::of(&context.config, start)?;
    let nowhere = Path::new("");
    let order = worktree::Order {
        session_dir: session_dir.path(),
        project: if let Source::Directory(path) = terms.source { path } else { nowhere },
        handle: &start.handle,
        worktree: spec.worktree,
        branch: &spec.branch_name,
        from_ref: terms.start_ref(&spec),
        mirrored: match terms.source {
            Source::Directory(_) => None,
            Source::Mirror { project, url } => Some(Mirrored { mirrors: &context.mirrors, project, url }),
        },
        copy: terms.policy.map_or(&[], |policy| &policy.copy_files),
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

/// How an attempt is launched.
pub(super) struct Order {
    launch: Launch,
    /// Of the launch order's `secret_env`.
    secrets: Secrets,
    /// What the set-up command gets, and what of it the policy gave.
    setup_env: BTreeMap<String, String>,
    given: Secrets,
    policy: Option<ProjectPolicy>,
    new_worktree: bool,
}

/// An attempt that was not launched.
#[derive(Debug)]
pub(super) enum NotLaunched {
    /// The project's set-up command, and why.
    Setup(String),
    /// The shim or claude.
    Link(LinkError),
}

impl From<LinkError> for NotLaunched {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// Whether making the workspace may talk to a remote.
pub(super) fn fetches(context: &Context, start: &StartSession) -> bool {
    terms::of(&context.config, start).is_ok_and(|terms| matches!(terms.source, Source::Mirror { .. }))
}

/// Whether an order may be carried out here at all.
///
/// # Errors
/// What goes beyond the policy or beyond what this worker allows, for people.
pub(super) fn check(context: &Context, start: &StartSession) -> Result<(), String> {
    let terms = terms::of(&context.config, start)?;
    terms.spec(start.spec.as_ref().unwrap_or(&SessionSpec::default())).map(drop)?;
    let variables = terms.policy.map_or(&[][..], |policy| &policy.environment);
    environment::read(variables).map(drop)
}

/// The launch order of an attempt.
pub(super) fn order(context: &Context, start: &StartSession, facts: &Facts<'_>) -> Result<Order, String> {
    let terms = terms::of(&context.config, start)?;
    let spec = terms.spec(start.spec.as_ref().unwrap_or(&SessionSpec::default()))?;
    let variables = terms.policy.map_or(&[][..], |policy| &policy.environment);
    let given = environment::read(variables)?;
    let place = facts.place.ok_or("the workspace was not made")?;
    let temporary = local_state::attempt_temporary(&context.config.state_dir, facts.session, start.attempt);
    let traceparent = if facts.traceparent.is_empty() { &start.traceparent } else { facts.traceparent };
    let request = command::Request {
        session: facts.session.as_uuid(),
        spec: &spec,
        resume: facts.began,
        trusted: terms.trusted(),
        disallowed: terms.disallowed_tools(),
        traceparent,
        temporary: temporary.as_deref(),
    };
    let claude = &context.config.claude;
    let mut env = command::env(claude, &request);
    let mut secrets = given.clone();
    // What the operator gives claude is often a key.
    for name in claude.pass_env.iter().chain(claude.env.keys()) {
        if let Some(value) = env.remove(name) {
            secrets.0.insert(name.clone(), value);
        }
    }
    let workspace = Workspace::from(place);
    Ok(Order {
        setup_env: command::setup_env(facts.session.as_uuid()),
        policy: terms.policy.cloned(),
        new_worktree: workspace.worktree,
        launch: Launch {
            version: LAUNCH_VERSION,
            program: context.claude.program.clone(),
            args: command::args(&request),
            env,
            secret_env: secrets.0.keys().cloned().collect(),
            cwd: PathBuf::from(workspace.path),
            rows: ROWS,
            cols: COLS,
            spool: facts.spool.clone(),
            spool_base: facts.base_offset,
            output_start: facts.output_start,
            spool_limit: claude.output_limit_bytes,
            lease_until: None,
        },
        secrets,
        given,
    })
}

/// Who is launched, and where.
pub(super) struct Place {
    pub(super) session: String,
    pub(super) session_dir: PathBuf,
    pub(super) dir: AttemptDir,
    /// The attempt's own temporary folder, made first.
    pub(super) temporary: Option<PathBuf>,
    pub(super) lease_bound: bool,
    /// True ends the set-up.
    pub(super) stop: watch::Receiver<bool>,
}

/// Runs the project's set-up where that is due, writes the order down and starts a shim with it.
pub(super) async fn launch(
    context: &Context,
    order: Result<Order, String>,
    mut place: Place,
) -> Result<ShimLink, NotLaunched> {
    let mut order = order.map_err(LinkError::Start)?;
    if place.lease_bound {
        order.launch.lease_until = Some(context.lease.for_start().await.ok_or(LinkError::Lapsed)?);
    }
    let dir = place.dir.clone();
    if let Some(policy) = order.policy.as_ref().filter(|policy| setup::is_due(&place.session_dir, policy))
        && order.new_worktree
    {
        let setup = Setup {
            shim_program: &context.config.shim_program,
            session: &place.session,
            session_dir: &place.session_dir,
            attempt: &dir,
            policy,
            cwd: &order.launch.cwd,
            env: std::mem::take(&mut order.setup_env),
            secrets: &order.given,
            lease_until: order.launch.lease_until,
        };
        setup.run(&mut place.stop).await?;
        if place.lease_bound {
            order.launch.lease_until = Some(context.lease.for_start().await.ok_or(LinkError::Lapsed)?);
        }
    }
    let (launch, temporary) = (order.launch, place.temporary);
    let written = task::spawn_blocking("write launch", move || {
        temporary.as_deref().map_or(Ok(()), local_state::make_attempt_temporary)?;
        place.dir.write_launch(&launch)
    })
    .await;
    written
        .map_err(io::Error::other)
        .and_then(|written| written)
        .map_err(|error| LinkError::Start(format!("launch order cannot be written: {error}")))?;
    Ok(client::launch_with(&context.config.shim_program, &dir, &order.secrets.0).await?)
}

/// Kills a shim that does not do its work; only while its lock proves that the process id is its own.
pub(super) fn kill_shim(dir: &AttemptDir) {
    let pid = std::fs::read_to_string(dir.pid_file()).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let (Some(pid), Ok(true)) = (pid, dir.shim_lives()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
