//! Compares what is on disk with what sessions there are, at start and regularly, and removes what nobody has.
//!
//! Never anything of a session that runs, and nothing that is not in the state folder or under a name only muster gives.
//! Listed first, asked what lives after: what lives is known before it makes anything.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use muster_proto::{ids::SessionId, v1::Workspace};
use muster_runtime::task::{self, Task};

use super::{Supervisor, session::Command};
use crate::{
    local_state::{self, SessionDir, is_older},
    shim::cgroup::Cgroup,
    workspace::{
        strays,
        worktree::{mirror_of, root_of},
    },
};

/// Fenced attempts whose leavings are kept.
const FENCED: usize = 32;
/// What was written for a moment is a leftover after this.
const MOMENT: Duration = Duration::from_secs(600);

/// Reaps now and then, until dropped.
pub(crate) fn spawn(supervisor: &Arc<Supervisor>) -> Task<()> {
    let every = supervisor.context.config.timing.reap_every.max(Duration::from_millis(1));
    let supervisor = Arc::downgrade(supervisor);
    task::spawn("reaper", async move {
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let Some(reaped) = pass(&supervisor).await else { return };
            if reaped > 0 {
                tracing::info!(reaped, "leftovers removed");
            }
        }
    })
}

/// One comparison; how many leftovers went. `None`: the worker leaves.
async fn pass(supervisor: &Weak<Supervisor>) -> Option<usize> {
    let strong = supervisor.upgrade()?;
    let files = task::spawn_blocking("reap files", move || {
        strong.reap_temporary() + strong.reap_fenced() + strong.reap_sessions().unwrap_or_default()
    });
    let files = files.await.unwrap_or_default(); // a panic was logged by the task itself
    let strong = supervisor.upgrade()?;
    let config = &strong.context.config;
    let projects = config.projects.iter().map(|project| project.path.as_path());
    let known = || strong.known_worktrees();
    let scratch = local_state::temporary(&config.state_dir).join("strays");
    let used = || strong.used_mirrors();
    let mirrors = strong.context.mirrors.reap(used).await;
    Some(files + mirrors + strays::reap(&strong.context.worktrees, projects, known, &scratch).await)
}

impl Supervisor {
    /// Removes the temporary folders of attempts that do not run.
    pub(super) fn reap_temporary(&self) -> usize {
        let state_dir = &self.context.config.state_dir;
        let folders = local_state::list_attempts_temporary(state_dir).unwrap_or_default();
        let running: HashSet<PathBuf> = self
            .board
            .entries()
            .iter()
            .map(|entry| (entry.session, entry.view()))
            .filter(|(_, view)| view.running)
            .filter_map(|(session, view)| local_state::attempt_temporary(state_dir, session, view.attempt))
            .collect();
        let mut reaped = 0;
        for folder in folders.into_iter().filter(|folder| !running.contains(folder)) {
            match local_state::remove_attempt_temporary(&folder) {
                Ok(()) => reaped += 1,
                Err(error) => {
                    tracing::warn!(path = %folder.display(), error = %error, "temporary files of a session stay");
                }
            }
        }
        reaped
    }

    /// Removes what fenced attempts left long ago, and the oldest of what is too many.
    fn reap_fenced(&self) -> usize {
        let folder = local_state::fenced(&self.context.config.state_dir);
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let age = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        found.sort_by_key(|path| std::cmp::Reverse(age(path)));
        let keep = self.context.config.timing.keep_fenced;
        let surplus =
            found.iter().enumerate().filter(|(index, path)| *index >= FENCED || is_older(path, keep));
        surplus.filter(|(_, path)| fs::remove_dir_all(path).is_ok()).count()
    }

    /// Roots of the worktrees that sessions on disk say are theirs.
    fn known_worktrees(&self) -> HashSet<PathBuf> {
        let state_dir = &self.context.config.state_dir;
        let sessions = local_state::list(state_dir).unwrap_or_default();
        sessions.iter().filter_map(|id| root_of(&local_state::session_path(state_dir, *id))).collect()
    }

    /// Mirrors that workspaces borrow from.
    fn used_mirrors(&self) -> Vec<PathBuf> {
        let state_dir = &self.context.config.state_dir;
        let sessions = local_state::list(state_dir).unwrap_or_default();
        let folders = sessions.iter().map(|id| local_state::session_path(state_dir, *id));
        folders
            .filter(|dir| root_of(dir).is_some_and(|root| root.exists()))
            .filter_map(|dir| mirror_of(&dir))
            .collect()
    }

    fn reap_sessions(&self) -> io::Result<usize> {
        let mut reaped = 0;
        for id in local_state::list(&self.context.config.state_dir)? {
            let dir = self.dir(id);
            match dir.read_record() {
                Ok(Some(_)) => reaped += self.reap_session(id, &dir),
                // Made, and the worker was killed before it wrote down whose it is.
                Ok(None) if is_older(dir.path(), MOMENT) => {
                    reaped += usize::from(self.forget(id, &dir, false));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(session.id = %id, error = %error, "record cannot be read; the session stays as it is");
                }
            }
        }
        Ok(reaped)
    }

    /// Tidies the folder of a session, lets its workspace go when its time has come, and forgets it when all is told.
    fn reap_session(&self, id: SessionId, dir: &SessionDir) -> usize {
        let timing = &self.context.config.timing;
        let attempts = dir.attempts().unwrap_or_default();
        let Some(entry) = self.board.get(id) else { return 0 };
        let view = entry.view();
        let mut reaped = 0;
        for attempt in attempts.into_iter().filter(|attempt| !view.running || *attempt != view.attempt) {
            let place = dir.attempt(attempt);
            if !place.shim_lives().unwrap_or(true) {
                if let Some(group) = Cgroup::noted(&place.cgroup()) {
                    place.forget_cgroup(&group);
                }
                reaped += place.leftovers().filter(|path| remove(path)).count();
            }
        }
        reaped += dir.leftovers().filter(|path| is_older(path, MOMENT) && remove(path)).count();
        if view.running {
            return reaped;
        }
        if view.released {
            let told = entry.outbox(|outbox| outbox.after(0).next().is_none());
            let brought = !dir.spool().exists();
            if told && brought && is_older(&dir.record(), timing.keep_ended) {
                reaped += usize::from(self.forget(id, dir, true));
            }
        } else if self.keep_workspace(dir).is_some_and(|keep| is_older(&dir.record(), keep)) {
            tracing::info!(session.id = %id, "session ended long ago, its workspace is released");
            self.command(&id.to_string(), None, Command::Release(Workspace::default()));
        }
        reaped
    }

    /// How long the workspace of an ended session stays: as its project's policy says, else as this worker is set.
    fn keep_workspace(&self, dir: &SessionDir) -> Option<Duration> {
        let policy = dir.newest_start().ok().flatten().and_then(|start| start.policy);
        match policy.map(|policy| policy.keep_workspace_days) {
            None | Some(0) => self.context.config.timing.keep_workspace,
            Some(days) => Some(Duration::from_secs(u64::from(days) * 24 * 60 * 60)),
        }
    }

    /// Removes the folder of a session; `held`: also from memory. Not while an order for it is being taken on.
    fn forget(&self, id: SessionId, dir: &SessionDir, held: bool) -> bool {
        let state_dir = &self.context.config.state_dir;
        let aside = local_state::temporary(state_dir).join(id.to_string());
        {
            let _nobody_else = self.taking_on();
            let known = self.board.get(id);
            if known.is_some_and(|entry| !held || entry.view().running || !entry.view().released) {
                return false;
            }
            let moved = fs::create_dir_all(aside.parent().unwrap_or(&aside))
                .and_then(|()| fs::rename(dir.path(), &aside));
            if let Err(error) = moved {
                tracing::warn!(session.id = %id, error = %error, "folder of a forgotten session stays");
                return false;
            }
            self.actors().remove(&id);
            self.board.remove(id);
        }
        tracing::info!(session.id = %id, "session forgotten");
        fs::remove_dir_all(aside).is_ok() // what resists is in a folder that is emptied at start
    }
}

fn remove(path: &Path) -> bool {
    tracing::info!(path = %path.display(), "leftover removed");
    fs::remove_file(path).is_ok()
}
