//! The controller's metrics: what there is to measure. When is [`crate::engine`]'s business.
//!
//! No label names a session. Projects and models are chosen by others and pass a bound first.

use muster_runtime::{
    metrics::{Amount, Counter, Definition, Distinct, Gauge, Histogram, Level},
    telemetry::semconv,
};

/// Names of labels that are our own.
const OUTCOME: &str = "muster.outcome";
const PROJECT: &str = "muster.project";
const ATTENTION: &str = "muster.attention.kind";
const STATE: &str = "muster.session.state";

/// A wait for something that others do.
const WAIT: &[f64] = &[0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// A wait for a person.
const PERSON: &[f64] =
    &[1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0];
const SESSION: &[f64] =
    &[1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0];
const START: &[f64] = &[0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 60.0];
const COMPUTATION: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
const NUMBER: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0];

/// Projects that have a label value of their own.
pub(crate) static PROJECTS: Distinct = Distinct::new(100);
/// Models that have.
pub(crate) static MODELS: Distinct = Distinct::new(32);

pub(crate) static QUEUE_WAIT: Histogram<1> = Histogram::new(
    "muster.session.queue.wait.duration",
    "s",
    &[OUTCOME],
    WAIT,
    "How long sessions waited in the queue until they were placed or stopped there",
);
pub(crate) static PLAN: Histogram<0> = Histogram::new(
    "muster.scheduler.plan.duration",
    "s",
    &[],
    COMPUTATION,
    "How long the scheduler took to look at the queue and the fleet",
);
pub(crate) static PLACEMENT: Histogram<0> = Histogram::new(
    "muster.session.placement.duration",
    "s",
    &[],
    COMPUTATION,
    "From the choice of a worker until that worker reported that it has the attempt",
);
pub(crate) static FIRST_OUTPUT: Histogram<0> = Histogram::new(
    "muster.session.first_output.duration",
    "s",
    &[],
    START,
    "From the acceptance of a session until claude first worked on it, the queue included",
);
pub(crate) static START_DURATION: Histogram<0> = Histogram::new(
    "muster.session.start.duration",
    "s",
    &[],
    START,
    "From the choice of a worker until claude worked: workspace, set-up and start of claude",
);
pub(crate) static ATTENTION_WAIT: Histogram<2> = Histogram::new(
    "muster.session.attention.wait.duration",
    "s",
    &[ATTENTION, "muster.attention.resolved_by"],
    PERSON,
    "How long questions of sessions were open until they were answered, withdrawn by claude or ended with it",
);
pub(crate) static ATTENTION_COUNT: Level<1> = Level::new(
    "muster.session.attention.count",
    "{request}",
    &[ATTENTION],
    "Questions that wait for an answer",
);
pub(crate) static ATTENTION_AGE: Gauge<1> = Gauge::new(
    "muster.session.attention.oldest.age",
    "s",
    &[ATTENTION],
    "How long the oldest open question waits; 0 when none does",
);
pub(crate) static SESSIONS: Level<1> =
    Level::new("muster.session.count", "{session}", &[STATE], "Sessions that are not archived, by status");
pub(crate) static QUEUE_AGE: Gauge<0> = Gauge::new(
    "muster.session.queue.oldest.age",
    "s",
    &[],
    "How long the session that waits longest in the queue waits; 0 when none does",
);
pub(crate) static OUTCOMES: Counter<3> = Counter::new(
    "muster.session.outcomes",
    "{session}",
    &[OUTCOME, semconv::ERROR_TYPE, PROJECT],
    "Ends of sessions; one that was continued ends again",
);
pub(crate) static DURATION: Histogram<1> = Histogram::new(
    "muster.session.duration",
    "s",
    &[OUTCOME],
    SESSION,
    "From the acceptance of a session to its end; one that was continued counts again, with all of its time",
);
pub(crate) static INTERRUPTIONS: Counter<0> = Counter::new(
    "muster.session.interruptions",
    "{interruption}",
    &[],
    "Attempts that were lost or hung and were queued again by themselves",
);
pub(crate) static COST: Amount<2> = Amount::new(
    "muster.session.cost",
    "USD",
    &[semconv::GEN_AI_REQUEST_MODEL, PROJECT],
    "What claude says sessions cost: an estimate at list price",
);
pub(crate) static TURNS: Counter<0> =
    Counter::new("muster.session.turns", "{turn}", &[], "Turns of claude that ended");
const TOKENS: &[&str; 2] = &[semconv::GEN_AI_PROVIDER_NAME, semconv::GEN_AI_REQUEST_MODEL];
pub(crate) static INPUT_TOKENS: Counter<2> = Counter::new(
    semconv::GEN_AI_INPUT_TOKENS,
    "{token}",
    TOKENS,
    "Tokens that went into models, those from and for their caches included",
);
pub(crate) static OUTPUT_TOKENS: Counter<2> =
    Counter::new(semconv::GEN_AI_OUTPUT_TOKENS, "{token}", TOKENS, "Tokens that models produced");
pub(crate) static CACHE_READ_TOKENS: Counter<2> = Counter::new(
    semconv::GEN_AI_CACHE_READ_TOKENS,
    "{token}",
    TOKENS,
    "Of the tokens that went in, those read from the cache",
);
pub(crate) static CACHE_WRITE_TOKENS: Counter<2> = Counter::new(
    semconv::GEN_AI_CACHE_WRITE_TOKENS,
    "{token}",
    TOKENS,
    "Of the tokens that went in, those written to the cache",
);
pub(crate) static WORKERS: Level<2> = Level::new(
    semconv::CICD_WORKER_COUNT,
    "{worker}",
    &[semconv::CICD_WORKER_STATE, "muster.worker.maintenance"],
    "Workers seen since the controller started: available, busy (no slot free) or offline; and whether they are cordoned or draining",
);
pub(crate) static SLOTS_USED: Level<0> =
    Level::new("muster.worker.slot.usage", "{slot}", &[], "Slots of connected workers that sessions take");
pub(crate) static SLOTS: Level<0> = Level::new(
    "muster.worker.slot.limit",
    "{slot}",
    &[],
    "Slots of connected workers that are neither cordoned nor draining",
);
pub(crate) static DISK_FREE: Gauge<0> = Gauge::new(
    "muster.worker.disk.free.least",
    "By",
    &[],
    "Free disk of the connected worker that has least; not shown before one has told",
);
pub(crate) static MEMORY_FREE: Gauge<0> = Gauge::new(
    "muster.worker.memory.free.least",
    "By",
    &[],
    "Free memory of the connected worker that has least; not shown before one has told",
);
pub(crate) static CONNECTS: Counter<1> = Counter::new(
    "muster.worker.connects",
    "{connect}",
    &["muster.worker.connect"],
    "Workers that connected: for the first time, again, or as a new process (restarted)",
);
pub(crate) static DISCONNECTS: Counter<0> =
    Counter::new("muster.worker.disconnects", "{disconnect}", &[], "Links of workers that ended");
pub(crate) static COMMIT: Histogram<1> = Histogram::new(
    "muster.store.commit.duration",
    "s",
    &[semconv::ERROR_TYPE],
    COMPUTATION,
    "How long the store took to make a batch of changes durable",
);
pub(crate) static COMMIT_SIZE: Histogram<0> = Histogram::new(
    "muster.store.commit.size",
    "{session}",
    &[],
    NUMBER,
    "Sessions that one commit of the store changed",
);
pub(crate) static MAILBOX: Level<0> = Level::new(
    "muster.engine.mailbox.length",
    "{message}",
    &[],
    "Messages that wait for the engine; full at 4096, then callers wait",
);
pub(crate) static OUTPUT: Counter<1> = Counter::new(
    "muster.session.output.io",
    "By",
    &["muster.output.direction"],
    "Output of sessions that came from workers and that went to readers",
);

/// All of them, for the reference page.
#[must_use]
pub fn definitions() -> Vec<Definition> {
    vec![
        QUEUE_WAIT.definition(),
        PLAN.definition(),
        PLACEMENT.definition(),
        FIRST_OUTPUT.definition(),
        START_DURATION.definition(),
        ATTENTION_WAIT.definition(),
        ATTENTION_COUNT.definition(),
        ATTENTION_AGE.definition(),
        SESSIONS.definition(),
        QUEUE_AGE.definition(),
        OUTCOMES.definition(),
        DURATION.definition(),
        INTERRUPTIONS.definition(),
        COST.definition(),
        TURNS.definition(),
        INPUT_TOKENS.definition(),
        OUTPUT_TOKENS.definition(),
        CACHE_READ_TOKENS.definition(),
        CACHE_WRITE_TOKENS.definition(),
        WORKERS.definition(),
        SLOTS_USED.definition(),
        SLOTS.definition(),
        DISK_FREE.definition(),
        MEMORY_FREE.definition(),
        CONNECTS.definition(),
        DISCONNECTS.definition(),
        COMMIT.definition(),
        COMMIT_SIZE.definition(),
        MAILBOX.definition(),
        OUTPUT.definition(),
    ]
}
