//! What the engine tells about itself: metrics, events and the spans of waits, all read off the difference between
//! what is installed and what is about to be. Changes nothing, and nothing waits for it.
//!
//! Called by the loop: [`committed`] once a batch is durable and before it is installed, [`sample`] at each tick.
//! Invariant: told once for each durable change; a change that a crash took back was never told.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use muster_proto::{
    ids::{Incarnation, WorkerId},
    v1::{Attention, AttentionReason, SessionStatus},
};
use muster_runtime::{metrics::enabled, telemetry};
use prost_types::Timestamp;

use super::{book::Book, run::Engine, stage::Stage};
use crate::{
    fleet::Load,
    metrics,
    session::{Phase, Session, view},
};

/// How often levels are looked at: a look goes over every session.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// Tells of a batch that has just become durable.
pub(super) fn committed(book: &Book, stage: &Stage) {
    for session in stage.touched() {
        let old = book.get(session.id);
        if old.is_none_or(|old| old.phase() != session.phase()) {
            moved(old, session);
        }
        if let Some(old) = old {
            progressed(old, session);
        }
        attentions(old, session);
    }
}

/// The store answered.
pub(super) fn stored(stage: &Stage, began: Instant, failed: bool) {
    metrics::COMMIT.took(began.elapsed(), [if failed { "store_unavailable" } else { "" }]);
    if !failed {
        let sessions = u32::try_from(stage.touched().count()).unwrap_or(u32::MAX);
        metrics::COMMIT_SIZE.record(f64::from(sessions), []);
    }
}

/// A worker says Hello: how it comes, before anything changes.
pub(super) fn arriving(engine: &Engine, attach: &super::Attach) -> Arriving {
    let how = if !engine.fleet.knows(&attach.worker) {
        "first"
    } else if engine.fleet.is_incarnation(&attach.worker, &attach.incarnation) {
        "again"
    } else {
        "restarted"
    };
    let (worker, incarnation) = (attach.worker.clone(), attach.incarnation.clone());
    Arriving { worker, incarnation, how, held: attach.hello.held.len() }
}

/// A worker that says Hello, before anybody knows whether it will be linked.
pub(super) struct Arriving {
    worker: WorkerId,
    incarnation: Incarnation,
    how: &'static str,
    held: usize,
}

impl Arriving {
    /// It was linked.
    pub(super) fn connected(self) {
        let Self { worker, incarnation, how, held } = self;
        metrics::CONNECTS.add(1, [how]);
        tracing::info!(name: "muster.worker.connected", {
            worker.id = %worker, worker.incarnation = %incarnation, how, held
        }, "a worker is linked");
    }
}

/// A link of a worker ended.
pub(super) fn disconnected(worker: &WorkerId) {
    metrics::DISCONNECTS.add(1, []);
    tracing::info!(name: "muster.worker.disconnected", { worker.id = %worker }, "the link of a worker ended");
}

/// A session came into another phase.
fn moved(old: Option<&Session>, session: &Session) {
    let (from, to) = (old.map(Session::phase), session.phase());
    let (since, now) = (old.and_then(|old| old.state.changed_at), session.state.changed_at);
    let took = between(since, now);
    let end = session.state.end.as_ref().filter(|_| to.has_ended());
    let reason = end.map_or("", |end| short(end.reason().as_str_name(), "END_REASON_"));
    telemetry::in_trace(&session.fixed.traceparent, || {
        tracing::info!(name: "muster.session.state_changed", {
            session.id = %session.id, session.handle = session.fixed.handle.as_str(),
            from = from.map_or("", name), to = name(to), attempt = session.state.attempt,
            worker.id = session.worker().as_ref().map_or("", |worker| worker.as_str()), reason = reason.to_ascii_lowercase(),
        }, "a session changed");
    });
    if from == Some(Phase::Queued) && to != Phase::Queued {
        let outcome = if to == Phase::Starting { "placed" } else { "stopped" };
        metrics::QUEUE_WAIT.took(took, [outcome]);
        span("muster.session.queue", session, since, now, [("muster.outcome", outcome.to_owned())]);
    }
    if from == Some(Phase::Starting) && matches!(to, Phase::Working | Phase::NeedsAttention) {
        metrics::START_DURATION.took(took, []);
        if session.state.attempt == 1 {
            metrics::FIRST_OUTPUT.took(between(session.fixed.created_at, now), []);
        }
    }
    if to.has_ended() {
        let outcome = name(to);
        let error = if to == Phase::Failed { reason.to_ascii_lowercase() } else { String::new() };
        metrics::OUTCOMES.add(1, [outcome, &error, metrics::PROJECTS.admit(&session.spec().project)]);
        metrics::DURATION.took(between(session.fixed.created_at, now), [outcome]);
    }
}

/// What grows over a session's life.
fn progressed(old: &Session, session: &Session) {
    if !old.state.seen && session.state.seen && session.phase().is_active() {
        let placed = if old.phase() == Phase::Starting { old.state.changed_at } else { None };
        if let Some(placed) = placed {
            metrics::PLACEMENT.took(between(Some(placed), Some(muster_proto::time::now())), []);
        }
    }
    let again = session.state.interruptions.saturating_sub(old.state.interruptions);
    if again > 0 {
        metrics::INTERRUPTIONS.add(again.into(), []);
    }
    let (before, now) = (old.usage(), session.usage());
    if before == now || !enabled() {
        return;
    }
    let model = metrics::MODELS.admit(&session.spec().model);
    let model = if model.is_empty() { "default" } else { model };
    metrics::TURNS.add(now.turns.saturating_sub(before.turns).into(), []);
    metrics::COST.add(
        (now.cost_usd - before.cost_usd).max(0.0),
        [model, metrics::PROJECTS.admit(&session.spec().project)],
    );
    let labels = ["anthropic", model];
    let read = now.cache_read_tokens.saturating_sub(before.cache_read_tokens);
    let written = now.cache_creation_tokens.saturating_sub(before.cache_creation_tokens);
    let fresh = now.input_tokens.saturating_sub(before.input_tokens);
    metrics::INPUT_TOKENS.add(fresh.saturating_add(read).saturating_add(written), labels);
    metrics::OUTPUT_TOKENS.add(now.output_tokens.saturating_sub(before.output_tokens), labels);
    metrics::CACHE_READ_TOKENS.add(read, labels);
    metrics::CACHE_WRITE_TOKENS.add(written, labels);
}

/// Questions that came and went.
fn attentions(old: Option<&Session>, session: &Session) {
    let before = old.map_or(&[][..], |old| old.state.open.as_slice());
    let now = session.state.open.as_slice();
    if before.is_empty() && now.is_empty() {
        return;
    }
    let is_in = |list: &[Attention], one: &Attention| list.iter().any(|a| a.attention_id == one.attention_id);
    for raised in now.iter().filter(|one| !is_in(before, one)) {
        telemetry::in_trace(&session.fixed.traceparent, || {
            tracing::info!(name: "muster.attention.raised", {
                session.id = %session.id, attention.id = raised.attention_id.as_str(), kind = kind(raised),
            }, "a session waits for an answer");
        });
    }
    for gone in before.iter().filter(|one| !is_in(now, one)) {
        let answered = session.state.answered.iter().any(|a| a.attention_id == gone.attention_id);
        let by = if answered {
            "answer"
        } else if matches!(session.phase(), Phase::Working | Phase::NeedsAttention) {
            "withdrawn"
        } else {
            "end"
        };
        let until = muster_proto::time::now();
        metrics::ATTENTION_WAIT.took(between(gone.since, Some(until)), [kind(gone), by]);
        let labels = [
            ("muster.attention.kind", kind(gone).to_owned()),
            ("muster.attention.resolved_by", by.to_owned()),
        ];
        span("muster.session.attention", session, gone.since, Some(until), labels);
        telemetry::in_trace(&session.fixed.traceparent, || {
            tracing::info!(name: "muster.attention.resolved", {
                session.id = %session.id, attention.id = gone.attention_id.as_str(), kind = kind(gone), by,
            }, "a question is closed");
        });
    }
}

/// Levels, at most every few seconds.
pub(super) fn sample(engine: &mut Engine) {
    let now = Instant::now();
    if !enabled() || now < engine.sample_at {
        return;
    }
    engine.sample_at = now + SAMPLE_EVERY;
    sessions(engine, now);
    workers(engine, now);
    metrics::MAILBOX.set([([], i64::try_from(engine.mailbox.len()).unwrap_or(i64::MAX))]);
}

fn sessions(engine: &Engine, now: Instant) {
    let clock = Some(muster_proto::time::now());
    let mut states: BTreeMap<String, i64> = (1..)
        .map_while(|number| SessionStatus::try_from(number).ok())
        .map(|status| (state(status), 0))
        .collect();
    let kinds = ["permission", "input", "plan_approval"];
    let mut open: BTreeMap<&str, (i64, Duration)> =
        kinds.into_iter().map(|kind| (kind, Default::default())).collect();
    let mut queued = Duration::ZERO;
    for session in engine.book.sessions().filter(|session| !session.state.archived) {
        let silent = session.phase().is_active()
            && session.worker().is_some_and(|worker| engine.fleet.is_silent(&worker, now));
        *states.entry(state(view::status(session, silent))).or_default() += 1;
        if session.phase() == Phase::Queued {
            queued = queued.max(between(session.state.changed_at, clock));
        }
        for attention in &session.state.open {
            let (count, oldest) = open.entry(kind(attention)).or_default();
            *count += 1;
            *oldest = (*oldest).max(between(attention.since, clock));
        }
    }
    metrics::SESSIONS.set(states.into_iter().map(|(state, count)| ([state], count)));
    metrics::QUEUE_AGE.set(queued.as_secs_f64(), []);
    for (kind, (_, oldest)) in &open {
        metrics::ATTENTION_AGE.set(oldest.as_secs_f64(), [kind]);
    }
    metrics::ATTENTION_COUNT.set(open.into_iter().map(|(kind, (count, _))| ([kind.to_owned()], count)));
}

fn workers(engine: &Engine, now: Instant) {
    let book = &engine.book;
    let load = |worker: &WorkerId| Load {
        active: u32::try_from(book.active_count(worker)).unwrap_or(u32::MAX),
        starting: book.starting_count(worker),
    };
    let candidates = engine.fleet.candidates(now, load, |_| None);
    let (mut used, mut slots) = (0_i64, 0_i64);
    let mut counted: BTreeMap<[String; 2], i64> = ["available", "busy", "offline"]
        .into_iter()
        .map(|state| ([state.to_owned(), String::new()], 0))
        .collect();
    for worker in &candidates {
        let kept = book.maintenance().get(worker.worker).map(|kept| kept.word());
        let state = match worker.connected {
            false => "offline",
            true if worker.active < worker.slots => "available",
            true => "busy",
        };
        *counted.entry([state.to_owned(), kept.unwrap_or_default().to_owned()]).or_default() += 1;
        if worker.connected {
            used += i64::from(worker.active);
            slots += if kept.is_none() { i64::from(worker.slots) } else { 0 };
        }
    }
    metrics::WORKERS.set(counted);
    metrics::SLOTS_USED.set([([], used)]);
    metrics::SLOTS.set([([], slots)]);
    let connected = || candidates.iter().filter(|worker| worker.connected);
    if let Some(least) = connected().filter_map(|worker| worker.disk).min() {
        metrics::DISK_FREE.set(float(least), []);
    }
    if let Some(least) = connected().filter_map(|worker| worker.memory).min() {
        metrics::MEMORY_FREE.set(float(least), []);
    }
}

/// Exact up to 2^53 bytes, which no machine has.
#[allow(clippy::cast_precision_loss)]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// A span of what has just ended, under the session's own.
fn span<const N: usize>(
    name: &'static str,
    session: &Session,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    attributes: [(&'static str, String); N],
) {
    let (Some(from), Some(to)) = (from.and_then(system_time), to.and_then(system_time)) else { return };
    let session_id = [("muster.session.id", session.id.to_string())];
    telemetry::record_span(
        name,
        &session.fixed.traceparent,
        (from, to),
        session_id.into_iter().chain(attributes),
    );
}

fn system_time(at: Timestamp) -> Option<SystemTime> {
    SystemTime::try_from(at).ok()
}

/// Zero when either is missing, or the clock was set back.
fn between(from: Option<Timestamp>, to: Option<Timestamp>) -> Duration {
    let (Some(from), Some(to)) = (from.and_then(system_time), to.and_then(system_time)) else {
        return Duration::ZERO;
    };
    to.duration_since(from).unwrap_or_default()
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "queued",
        Phase::Starting => "starting",
        Phase::Working => "working",
        Phase::NeedsAttention => "needs_attention",
        Phase::Stopping => "stopping",
        Phase::Completed => "completed",
        Phase::Failed => "failed",
        Phase::Stopped => "stopped",
    }
}

fn kind(attention: &Attention) -> &'static str {
    match attention.reason() {
        AttentionReason::Permission | AttentionReason::Unspecified => "permission",
        AttentionReason::Input => "input",
        AttentionReason::PlanApproval => "plan_approval",
    }
}

fn state(status: SessionStatus) -> String {
    short(status.as_str_name(), "SESSION_STATUS_").to_ascii_lowercase()
}

fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::EndReason;

    use super::*;

    #[test]
    fn labels_are_short_words() {
        assert_eq!(state(SessionStatus::NeedsAttention), "needs_attention");
        assert_eq!(short(EndReason::TimedOut.as_str_name(), "END_REASON_"), "TIMED_OUT");
    }

    #[test]
    fn a_clock_that_was_set_back_is_no_negative_time() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        assert_eq!(between(at(5), at(8)), Duration::from_secs(3));
        assert_eq!(between(at(8), at(5)), Duration::ZERO);
        assert_eq!(between(None, at(5)), Duration::ZERO);
    }
}
