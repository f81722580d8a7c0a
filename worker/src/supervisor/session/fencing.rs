//! Fencing: a later attempt was placed on another worker while this one was not heard of. What runs here is ended, what it
//! left is kept aside for people, and nothing of it is told but its end.
//!
//! Killed half way, it is still held, so the controller orders the same again after the next Hello.

use std::time::Instant;

use muster_runtime::task;

use super::{Record, Session};
use crate::local_state;

impl Session {
    pub(super) async fn fence(&mut self, attempt: u32, now: Instant) {
        let newest = self.entry.view().attempt;
        if attempt < newest {
            // A later attempt came back to this worker: the older one has gone its way.
            return self.refuse_stop(attempt).await;
        }
        tracing::warn!(session.id = %self.id, attempt, "a later attempt runs elsewhere; this one is ended and kept aside");
        self.entry.update(|view| view.fenced = true);
        self.entry.void();
        self.fencing = Some(attempt);
        if self.runs(attempt) {
            self.decide(|attempt| attempt.on_stop(now)).await;
        } else {
            self.refuse_stop(attempt).await;
            self.set_aside().await;
        }
    }

    /// Puts everything the fenced attempt left where nobody takes it for the session's.
    pub(super) async fn set_aside(&mut self) {
        let Some(attempt) = self.fencing.take() else { return };
        let (session, kept_as) = (self.id.to_string(), format!("fenced-{attempt}"));
        let set_aside = self.context.worktrees.set_aside(self.dir.path(), &session, &kept_as).await;
        match set_aside {
            Ok(Some(name)) => {
                tracing::info!(session.id = %self.id, attempt, kept = name, "the work of a fenced attempt is kept");
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(session.id = %self.id, attempt, error = %error, "the workspace of a fenced attempt stays as it is");
            }
        }
        let (state_dir, dir, id) = (self.context.config.state_dir.clone(), self.dir.clone(), self.id);
        let moved =
            task::spawn_blocking("set aside", move || local_state::set_aside(&state_dir, id, &dir, attempt));
        if let Ok(Err(error)) = moved.await {
            tracing::warn!(session.id = %self.id, attempt, error = %error, "output of a fenced attempt stays with its session");
        }
        self.record = Record::new("", 0);
        self.record.released = true;
        self.write_record().await;
        self.entry.update(|view| {
            (view.released, view.running) = (true, false);
            (view.base_offset, view.end_offset) = (0, 0);
        });
    }
}
