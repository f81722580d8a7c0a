//! Where the work of a session is, for those who ask its worker about it.

use muster_proto::{
    error::{Error, ErrorCode},
    ids::{SessionId, WorkerId},
    v1::{Workspace, WorkspaceQuery, connect_response::Body},
};

use super::{declare, run::Engine};
use crate::{
    fleet::{
        link::{Closed, LinkId},
        queries::unreachable,
    },
    session::Session,
};

/// What the work is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be looked at or fetched.
    Read,
    /// To be pushed, which the project must allow.
    Push,
}

/// The work of a session and the way to its worker.
#[derive(Debug)]
pub struct Workplace {
    /// Whose.
    pub session: SessionId,
    /// As last reported.
    pub workspace: Workspace,
    /// Name of the project.
    pub project: String,
    /// Who holds it.
    pub worker: WorkerId,
    /// Its link.
    pub link: LinkId,
    /// Tells when that link ends.
    pub closed: Closed,
}

impl Engine {
    pub(super) fn workplace(&self, session: &Session, purpose: Purpose) -> Result<Workplace, Error> {
        let handle = &session.fixed.handle;
        let kept = |reason: &str| {
            Error::new(ErrorCode::NoChangesKept, format!("{handle} has no work in git: {reason}"))
        };
        let Some((worker, workspace)) = session.worker().zip(session.state.workspace.clone()) else {
            return Err(kept("its workspace was never made"));
        };
        if workspace.branch.is_empty() {
            return Err(kept("it works outside a repository"));
        }
        let project = session.spec().project.clone();
        if purpose == Purpose::Push && !self.allows_push(session, &worker) {
            let message = format!("the project {project} does not let branches be pushed from {worker}");
            return Err(Error::new(ErrorCode::PushNotAllowed, message)
                .hint("Fetch the branch as a bundle, or let the operator set allow_push for the project."));
        }
        let link = self.fleet.current_link(&worker);
        let link = link.ok_or_else(|| unreachable(&worker, "holds the work and is not connected"))?;
        let (link, closed) = (link.id, link.watch());
        Ok(Workplace { session: session.id, workspace, project, worker, link, closed })
    }

    /// Everybody who has a say in it must allow it: the worker of a directory of its own, the operators of a
    /// project they declared.
    fn allows_push(&self, session: &Session, worker: &WorkerId) -> bool {
        let project = &session.spec().project;
        let announced = self.book.projects().get(project).and_then(|workers| workers.get(worker.as_str()));
        let own = announced.map(|project| project.allow_push);
        let policy = declare::policy_of(&self.book, session);
        let declared = policy.as_ref().or_else(|| self.book.policy(project)).map(|policy| policy.allow_push);
        match (own, declared) {
            (None, None) => false,
            (own, declared) => own.unwrap_or(true) && declared.unwrap_or(true),
        }
    }

    pub(super) fn query(
        &mut self,
        worker: &WorkerId,
        link: LinkId,
        query: WorkspaceQuery,
    ) -> Result<(), Error> {
        if self.fleet.current_link(worker).is_none_or(|own| own.id != link) {
            return Err(unreachable(worker, "went away before it was asked"));
        }
        self.fleet.send(worker, Body::Query(query));
        Ok(())
    }
}
