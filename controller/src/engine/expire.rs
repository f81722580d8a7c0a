//! Forgetting sessions that were archived long ago.
//!
//! Invariant: only a session that is archived, has ended and has no worktree left is ever forgotten, so
//! nobody loses what they did not put away. Its output goes first: on a full disk that makes the room to
//! forget the rest, and a crash between the two leaves a session that is forgotten at the next look.

use std::time::{Duration, Instant};

use muster_proto::{ids::SessionId, v1::WorkspaceState};
use prost_types::Timestamp;

use super::{run::Engine, stage::Stage};
use crate::session::Session;

/// Longest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Sessions forgotten at once: bounds one transaction. The others follow with the next tick.
const AT_ONCE: usize = 256;

impl Engine {
    /// Forgets what is due, at most every [`LOOK_EVERY`].
    pub(super) fn expire(&mut self, stage: &mut Stage) {
        let now = Instant::now();
        if self.expire_at > now {
            return;
        }
        let wall = muster_proto::time::now();
        let keeps = |session: &Session| {
            let policy = self.book.policy(&session.spec().project).or(session.fixed.policy.as_ref());
            let days = policy.map_or(0, |policy| policy.keep_archived_days);
            let own = (days > 0).then(|| Duration::from_secs(u64::from(days) * 24 * 3600));
            own.or(self.config.keep_ended)
        };
        let due = self.book.sessions().filter(|s| keeps(s).is_some_and(|keep| is_due(s, keep, wall)));
        let ids: Vec<SessionId> = due.map(|session| session.id).take(AT_ONCE).collect();
        if ids.len() < AT_ONCE {
            self.expire_at =
                now + LOOK_EVERY.min(self.config.keep_ended.unwrap_or(LOOK_EVERY).max(self.config.tick));
        }
        let mut forgotten = 0;
        for id in ids {
            match self.outputs.remove(id) {
                Ok(()) => {
                    stage.remove(id);
                    forgotten += 1;
                }
                Err(error) => tracing::warn!(session.id = %id, error = %error,
                    "the output of an archived session cannot be removed; it is kept for now"),
            }
        }
        if forgotten > 0 {
            tracing::info!(sessions = forgotten, "sessions archived long ago are forgotten");
        }
    }
}

fn is_due(session: &Session, keep: Duration, now: Timestamp) -> bool {
    let state = &session.state;
    let leaves_nothing = state
        .workspace
        .as_ref()
        .is_none_or(|workspace| !workspace.worktree || workspace.state() == WorkspaceState::Released);
    let since = state.archived_at.or(state.ended_at);
    let is_old = since.is_some_and(|since| {
        let age = muster_proto::time::to_system(&now).duration_since(muster_proto::time::to_system(&since));
        age.is_ok_and(|age| age >= keep)
    });
    state.archived && session.phase().has_ended() && leaves_nothing && is_old
}
