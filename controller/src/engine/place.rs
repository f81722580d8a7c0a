//! Between the scheduler, which only thinks, and the workers.

use std::{collections::BTreeMap, time::Instant};

use muster_proto::{
    ids::WorkerId,
    limits,
    v1::{Input, ProjectPolicy, StartSession, connect_response::Body, input},
};
use muster_runtime::telemetry;
use prost_types::Timestamp;

use super::{book::Book, declare, input::apply_input, resume, run::Engine, stage::Stage};
use crate::{
    projects,
    scheduler::{self, Candidate, Request},
    session::{Phase, Session},
};

impl Engine {
    /// Places what can be placed, as part of the batch: the attempt is durable before the worker hears of it.
    pub(super) fn place(&mut self, stage: &mut Stage) {
        if !std::mem::take(&mut self.plan_due) && stage.touched().next().is_none() {
            return;
        }
        let is_queued = |session: &&Session| session.phase() == Phase::Queued;
        if self.book.queue().is_empty() && !stage.touched().any(|session| is_queued(&session)) {
            return;
        }
        let mut changes = stage.load_changes(&self.book);
        let load = |worker: &WorkerId| changes.load(&self.book, worker);
        let kept = |worker: &WorkerId| Some(stage.maintenance_of(&self.book, worker)?.sentence());
        let mut fleet = self.fleet.candidates(self.now(), load, kept);
        if !fleet.iter().any(Candidate::has_room) {
            // A full farm with a long queue is the common case under load: it must cost nothing.
            return;
        }
        let waiting = self.book.queue().values().filter(|id| !stage.is_touched(**id));
        let mut queue: BTreeMap<u64, &Session> = waiting
            .filter_map(|id| self.book.get(*id))
            .map(|session| (session.state.queue_ticket, session))
            .collect();
        queue.extend(stage.touched().filter(is_queued).map(|session| (session.state.queue_ticket, session)));
        let queue: Vec<_> = queue.values().map(|session| request(session, &self.book)).collect();
        let now = muster_proto::time::now();
        let began = Instant::now();
        let placements =
            scheduler::plan(&queue, &mut fleet, &mut changes.usage, &self.config.policy, millis(now));
        crate::metrics::PLAN.took(began.elapsed(), []);
        drop(queue);
        for (id, worker) in placements {
            let Some(mut session) = stage.copy(&self.book, id) else { continue };
            self.fleet.boot(&worker).clone_into(&mut session.state.boot);
            let span = tracing::info_span!("session.place", session.id = %id, worker.id = %worker);
            telemetry::set_parent_from_traceparent(&span, &session.fixed.traceparent);
            let _entered = span.enter();
            match session.place(&worker, now) {
                Ok(()) => {
                    session.state.lease_bound =
                        !self.config.lease.is_zero() && projects::restarts(session.fixed.policy.as_ref());
                    for command in start(&self.book, &session) {
                        stage.send(&worker, command);
                    }
                    stage.put(session);
                }
                Err(illegal) => {
                    tracing::error!(error = %illegal, "the plan names a session that is not queued");
                }
            }
        }
    }
}

/// A queued session as the scheduler sees it.
pub(super) fn request<'a>(session: &'a Session, book: &'a Book) -> Request<'a> {
    let spec = session.spec();
    let (accepted, now) = (session.fixed.policy.as_ref(), book.policy(&spec.project));
    let trusts = |policy: &ProjectPolicy| projects::allows_trust(policy, session.caller());
    let queued_at = session.state.changed_at.or(session.fixed.created_at);
    Request {
        session: session.id,
        ticket: session.state.queue_ticket,
        since: queued_at.map_or(0, millis),
        priority: spec.priority,
        caller: session.caller(),
        quarantined: resume::is_quarantined(session),
        project: &spec.project,
        trust: spec.trust_mode && accepted.is_none_or(trusts) && now.is_none_or(trusts),
        declared: accepted.is_some(),
        cloneable: accepted.is_some_and(|policy| !policy.git_url.is_empty()),
        lease_bound: projects::restarts(accepted),
        fenced: &session.state.fenced,
        project_max: now.map(|policy| policy.max_running).filter(|most| *most > 0),
        labels: &spec.required_labels,
        // Its workspace and its spool are there.
        pinned: session.worker(),
    }
}

/// Since the Unix epoch.
pub(super) fn millis(at: Timestamp) -> i64 {
    at.seconds.saturating_mul(1000).saturating_add(i64::from(at.nanos / 1_000_000))
}

/// The commands that start the attempt of `session`: inputs that do not fit in one message follow it.
pub(super) fn start(book: &Book, session: &Session) -> Vec<Body> {
    let mut room = limits::PROMPT_BYTES;
    let mut pending = session.inputs.values().peekable();
    let mut inputs = Vec::new();
    while let Some(input) = pending.next_if(|input| inputs.is_empty() || size(input) <= room) {
        room = room.saturating_sub(size(input));
        inputs.push(Input::clone(input));
    }
    let own = telemetry::traceparent();
    let traceparent = if own.is_empty() { session.fixed.traceparent.clone() } else { own };
    let state = &session.state;
    let first = Body::Start(StartSession {
        session_id: session.id.to_string(),
        attempt: state.attempt,
        handle: session.fixed.handle.clone(),
        spec: Some(declare::spec_of(book, session)),
        resume: state.conversation,
        workspace: state.workspace.clone(),
        inputs,
        output_base_offset: state.output_base,
        traceparent,
        deadline: state.deadline,
        policy: declare::policy_of(book, session),
        lease_bound: state.lease_bound,
    });
    let rest = pending.map(|input| apply_input(session, input));
    std::iter::once(first).chain(rest).collect()
}

fn size(input: &Input) -> usize {
    match &input.body {
        Some(input::Body::Message(text)) => text.len(),
        _ => 0,
    }
}
