//! The worker's metrics: lives of claude, workspaces, output and the link. Told by the supervisor's sessions and the
//! uplink; `sample` looks at levels while anybody reads.

use std::time::{Duration, Instant, SystemTime};

use muster_proto::{
    ids::SessionId,
    v1::{AttemptEnded, EndReason, StartSession},
};
use muster_runtime::{
    metrics::{Counter, Definition, Distinct, Histogram, Level, enabled},
    task::{self, Task},
    telemetry::{self, semconv},
};

use crate::supervisor::board::Board;

const WORKSPACE: &[f64] = &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// How often levels are looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

static MODELS: Distinct = Distinct::new(32);

static INVOKE_AGENT: Histogram<3> = Histogram::new(
    semconv::GEN_AI_INVOKE_AGENT_DURATION,
    "s",
    &[semconv::GEN_AI_AGENT_NAME, semconv::GEN_AI_REQUEST_MODEL, semconv::ERROR_TYPE],
    semconv::GEN_AI_INVOKE_AGENT_BUCKETS,
    "From the acceptance of an attempt until nothing of it ran; a restart of the worker begins it anew",
);
static PREPARE: Histogram<1> = Histogram::new(
    "muster.workspace.prepare.duration",
    "s",
    &[semconv::ERROR_TYPE],
    WORKSPACE,
    "How long it took to make a workspace, or to find one that there is",
);
static OUTPUT: Counter<0> =
    Counter::new("muster.worker.output.io", "By", &[], "Output of claude that was read from spools");
static LAG: Level<0> = Level::new(
    "muster.worker.output.lag",
    "By",
    &[],
    "Output on this worker's disk that the controller has not acknowledged",
);
static HELD: Level<1> = Level::new(
    "muster.worker.session.count",
    "{session}",
    &["muster.worker.session.state"],
    "Sessions on this worker: running, or ended and kept",
);
static LINK_ENDS: Counter<1> = Counter::new(
    "muster.worker.link.ends",
    "{link}",
    &[semconv::ERROR_TYPE],
    "Links to the controller, or tries to get one, that ended",
);

/// All of them, for the reference page.
#[must_use]
pub fn definitions() -> Vec<Definition> {
    vec![
        INVOKE_AGENT.definition(),
        PREPARE.definition(),
        OUTPUT.definition(),
        LAG.definition(),
        HELD.definition(),
        LINK_ENDS.definition(),
    ]
}

/// Nothing of an attempt runs any more.
pub(crate) fn ended(session: SessionId, start: &StartSession, began: SystemTime, ended: &AttemptEnded) {
    let reason = ended.end.as_ref().map_or(EndReason::Unspecified, muster_proto::v1::End::reason);
    let name = reason.as_str_name();
    let name = name.strip_prefix("END_REASON_").unwrap_or(name).to_ascii_lowercase();
    let well = matches!(reason, EndReason::TurnCompleted | EndReason::Interrupted | EndReason::Stopped);
    let error = if well { "" } else { name.as_str() };
    let now = SystemTime::now();
    let model = start.spec.as_ref().map_or("", |spec| spec.model.as_str());
    let model = if model.is_empty() { "default" } else { MODELS.admit(model) };
    INVOKE_AGENT.took(now.duration_since(began).unwrap_or_default(), ["claude-code", model, error]);
    let usage = ended.attempt_usage.unwrap_or_default();
    let input = usage.input_tokens + usage.cache_read_tokens + usage.cache_creation_tokens;
    telemetry::record_span(
        "invoke_agent claude-code",
        &start.traceparent,
        (began, now),
        [
            (semconv::GEN_AI_OPERATION_NAME, "invoke_agent".to_owned()),
            (semconv::GEN_AI_PROVIDER_NAME, "anthropic".to_owned()),
            (semconv::GEN_AI_AGENT_NAME, "claude-code".to_owned()),
            (semconv::GEN_AI_REQUEST_MODEL, model.to_owned()),
            ("gen_ai.usage.input_tokens", input.to_string()),
            ("gen_ai.usage.output_tokens", usage.output_tokens.to_string()),
            ("muster.session.id", session.to_string()),
            ("muster.session.attempt", start.attempt.to_string()),
            ("muster.session.cost", usage.cost_usd.to_string()),
            ("muster.end.reason", name),
        ],
    );
}

/// A workspace was made, or was not.
pub(crate) fn prepared(began: Instant, failed: bool) {
    PREPARE.took(began.elapsed(), [if failed { "workspace_failed" } else { "" }]);
}

/// Output was read.
pub(crate) fn read(bytes: usize) {
    OUTPUT.add(bytes as u64, []);
}

/// A link ended, or none came about.
pub(crate) fn link_ended(code: tonic::Code) {
    LINK_ENDS.add(1, [&format!("{code:?}")]);
}

/// Looks at levels until dropped; None when nobody reads.
pub(crate) fn sample(board: Board) -> Option<Task<()>> {
    enabled().then(|| {
        task::spawn("sample metrics", async move {
            let mut every = tokio::time::interval(SAMPLE_EVERY);
            loop {
                every.tick().await;
                look(&board);
            }
        })
    })
}

fn look(board: &Board) {
    let (mut lag, mut running, mut kept) = (0_u64, 0_i64, 0_i64);
    for entry in board.entries() {
        let view = entry.view();
        if view.released {
            continue;
        }
        if view.running {
            running += 1;
        } else {
            kept += 1;
        }
        lag = lag.saturating_add(view.end_offset.saturating_sub(entry.output_acked().max(view.base_offset)));
    }
    LAG.set([([], i64::try_from(lag).unwrap_or(i64::MAX))]);
    HELD.set([(["running".to_owned()], running), (["ended".to_owned()], kept)]);
}
