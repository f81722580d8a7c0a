//! `wait_for_completion`: returns when sessions have ended or need somebody.
//!
//! Woken by the controller's stream of changes, never by asking again. Invariant: it ends. At the time-out,
//! when the caller withdraws or goes away, or when the controller is gone before the first answer.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{Session, SessionStatus, WatchSessionsResponse},
};
use muster_runtime::backoff::Backoff;
use rmcp::model::{CallToolResult, JsonObject, Tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tonic::Streaming;

use super::{Call, Hints, ToolName, define, progress::Reporter, session_given, structured};
use crate::{
    render::view::{Form, SessionView, elapsed, has_ended, status_name},
    server::Transport,
};

/// Most sessions of one wait.
const SESSIONS: usize = 200;
/// Sessions shown concisely; the rest is shown in brief, so that the result stays readable.
const SHOWN: usize = 20;
/// How long the controller may take to show the sessions for the first time.
const FIRST_LOOK: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Args {
    /// The session to wait for. Or sessionIds.
    session_id: Option<String>,
    /// The sessions to wait for, 1 to 200.
    session_ids: Option<Vec<String>>,
    /// all (default): until every one has ended; any: until the first has. One that needs attention ends
    /// both.
    mode: Option<Mode>,
    /// How long to wait at most. 0: only look. Default depends on the connection (minutes); most 3600.
    timeout_seconds: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    All,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Reason {
    Completed,
    NeedsAttention,
    Timeout,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Output {
    reason: Reason,
    timed_out: bool,
    ready: Vec<SessionView>,
    pending: Vec<SessionView>,
    waited_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    capped_to: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    next: String,
}

pub(super) fn definition() -> Tool {
    define::<Args, Output>(
        ToolName::WaitForCompletion,
        "Wait for sessions",
        "Waits until sessions have ended (completed, failed, stopped) or one needs attention, and shows \
         each as it then is. A time-out is a normal result: call again with the sessions that are still \
         pending.",
        Hints { read_only: true, destructive: false, idempotent: true, open_world: true },
        &[("anthropic/alwaysLoad", json!(true))],
    )
}

pub(super) const fn accept(arguments: JsonObject) -> JsonObject {
    arguments
}

pub(super) async fn call(call: &Call<'_>, args: Args) -> Result<CallToolResult, Error> {
    let names = names(&args)?;
    let default = match call.transport {
        Transport::Stdio => call.config.stdio_wait,
        Transport::Http => call.config.http_wait,
    };
    let asked = args.timeout_seconds.map_or(default, |seconds| Duration::from_secs(seconds.into()));
    let most = asked.min(call.config.max_wait);
    let mut wait = Wait {
        call,
        names,
        mode: args.mode.unwrap_or_default(),
        began: Instant::now(),
        sessions: BTreeMap::new(),
    };
    let timed_out = wait.run(most).await?;
    let mut output = wait.output(timed_out);
    if asked > most {
        output.capped_to = Some(most.as_secs());
        output.note = Some(format!("timeoutSeconds was capped to {}", most.as_secs()));
    }
    structured(&output)
}

fn names(args: &Args) -> Result<Vec<String>, Error> {
    let mut names = match (&args.session_id, &args.session_ids) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("sessionIds", "give `sessionId` or `sessionIds`, not both"));
        }
        (Some(session), None) => vec![session_given(session)?.to_owned()],
        (None, Some(sessions)) => sessions
            .iter()
            .map(|session| session_given(session).map(ToOwned::to_owned))
            .collect::<Result<_, _>>()?,
        (None, None) => Vec::new(),
    };
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(Error::invalid(
            "sessionIds",
            "there is no session to wait for: give `sessionId` or `sessionIds`",
        )
        .hint("spawn_session and list_sessions give sessionIds"));
    }
    if names.len() > SESSIONS {
        let message = format!("`sessionIds` holds {} sessions, most are {SESSIONS}", names.len());
        return Err(Error::invalid("sessionIds", message));
    }
    Ok(names)
}

struct Wait<'a> {
    call: &'a Call<'a>,
    names: Vec<String>,
    mode: Mode,
    began: Instant,
    /// By session id, as last seen.
    sessions: BTreeMap<String, Session>,
}

impl Wait<'_> {
    /// Whether it ended by the clock.
    async fn run(&mut self, most: Duration) -> Result<bool, Error> {
        let call = self.call;
        let deadline = self.began + most;
        let mut reporter = Reporter::new(call.progress.clone());
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            let error = match self.watch(deadline, &mut reporter, &mut backoff).await {
                Ok(by_clock) => return Ok(by_clock),
                Err(error) => error,
            };
            if error.code != ErrorCode::ControllerUnavailable {
                return Err(error);
            }
            // Before the first look a dead controller is an error soon; a wait that has begun outlives one.
            // A look itself is not subject to the time-out: 0 means look once.
            let seen = self.has_seen_all();
            let patience = if seen { deadline } else { self.began + call.config.patience };
            let retry_at = Instant::now() + backoff.next_delay();
            if retry_at >= patience {
                if !seen {
                    return Err(error);
                }
                self.pause(deadline, &mut reporter).await;
                return Ok(true);
            }
            tracing::debug!(error = %error, "watch broke, will subscribe again");
            if self.pause(retry_at, &mut reporter).await {
                return Ok(true);
            }
        }
    }

    /// One subscription, to the end of the wait or until it breaks.
    async fn watch(
        &mut self,
        deadline: Instant,
        reporter: &mut Reporter,
        backoff: &mut Backoff,
    ) -> Result<bool, Error> {
        let call = self.call;
        let mut stream: Streaming<WatchSessionsResponse> = tokio::select! {
            opened = call.controller.watch(&self.names) => opened?,
            () = abandoned(call) => return Ok(true),
        };
        // Also a look that is not subject to the time-out ends: a controller may accept a watch and say
        // nothing.
        let first_look = Instant::now() + FIRST_LOOK;
        loop {
            let seen = self.has_seen_all();
            let until = if seen { deadline } else { first_look };
            tokio::select! {
                biased;
                () = abandoned(call) => return Ok(true),
                message = stream.message() => {
                    let message = message
                        .map_err(|status| call.controller.explain(Error::from_status(&status)))?
                        .ok_or_else(|| call.controller.explain(closed()))?;
                    backoff.reset();
                    for session in message.sessions {
                        self.sessions.insert(session.session_id.clone(), session);
                    }
                    if self.satisfied() {
                        return Ok(false);
                    }
                }
                () = reporter.due() => reporter.report(&self.progress()),
                () = sleep_until(until) => {
                    return if seen { Ok(true) } else { Err(call.controller.silent()) };
                }
            }
        }
    }

    /// Until `at`, reporting. Whether the caller is gone.
    async fn pause(&self, at: Instant, reporter: &mut Reporter) -> bool {
        loop {
            tokio::select! {
                () = abandoned(self.call) => return true,
                () = reporter.due() => reporter.report(&self.progress()),
                () = sleep_until(at) => return false,
            }
        }
    }

    /// The first look may come in several messages: a part of it must not pass for the whole.
    fn has_seen_all(&self) -> bool {
        let known = |name: &String| {
            let name = name.to_ascii_lowercase();
            let is = |text: &str| text.to_ascii_lowercase().starts_with(&name);
            self.sessions.values().any(|session| is(&session.handle) || is(&session.session_id))
        };
        self.names.iter().all(known)
    }

    fn satisfied(&self) -> bool {
        if !self.has_seen_all() {
            return false;
        }
        let mut sessions = self.sessions.values();
        if self.sessions.values().any(needs_attention) {
            return true;
        }
        match self.mode {
            Mode::All => sessions.all(has_ended),
            Mode::Any => sessions.any(has_ended),
        }
    }

    /// Built from states and our own words: what a model wrote is not put before people as ours.
    fn progress(&self) -> String {
        let now = SystemTime::now();
        let done = self.sessions.values().filter(|session| is_ready(session)).count();
        let all = self.sessions.len().max(self.names.len());
        let mut text = format!("{done}/{all} done");
        for session in self.sessions.values().filter(|session| !is_ready(session)).take(5) {
            let status = status_name(session.status());
            text.push_str(&format!("; {}: {status} ({} s)", session.handle, elapsed(session, now)));
        }
        text
    }

    fn output(&self, timed_out: bool) -> Output {
        let (ready, pending): (Vec<&Session>, Vec<&Session>) =
            self.sessions.values().partition(|session| is_ready(session));
        let attention = ready.iter().any(|session| needs_attention(session));
        let reason = match (self.satisfied(), attention) {
            (true, true) => Reason::NeedsAttention,
            (true, false) => Reason::Completed,
            (false, _) => Reason::Timeout,
        };
        let next = match reason {
            Reason::NeedsAttention => {
                "answer each session in `ready` that needs attention (attention.answerWith), then wait \
                 again for all that have not ended"
                    .to_owned()
            }
            Reason::Completed if pending.is_empty() => {
                "get_session_output with format \"result\" gives an answer; see `next` of each \
                 session"
                    .to_owned()
            }
            Reason::Completed => format!("{} still run: wait again for those in `pending`", pending.len()),
            Reason::Timeout => format!(
                "{} still run: call wait_for_completion again with those in `pending`; do not spawn \
                 replacements",
                pending.len()
            ),
        };
        Output {
            reason,
            timed_out: timed_out && reason == Reason::Timeout,
            ready: views(&ready, Form::Concise),
            pending: views(&pending, Form::Brief),
            waited_seconds: self.began.elapsed().as_secs(),
            capped_to: None,
            note: None,
            next,
        }
    }
}

fn views(sessions: &[&Session], form: Form) -> Vec<SessionView> {
    // Those that need somebody first: they are what the caller acts on, so they are shown whole.
    let mut sessions = sessions.to_vec();
    sessions.sort_by_key(|session| !needs_attention(session));
    sessions
        .iter()
        .enumerate()
        .map(|(index, session)| SessionView::new(session, if index < SHOWN { form } else { Form::Brief }))
        .collect()
}

fn needs_attention(session: &Session) -> bool {
    session.status() == SessionStatus::NeedsAttention && !session.archived
}

fn is_ready(session: &Session) -> bool {
    has_ended(session) || needs_attention(session)
}

/// Returns when nobody waits for the result any more.
async fn abandoned(call: &Call<'_>) {
    tokio::select! {
        () = call.cancelled.cancelled() => {}
        () = call.hung_up.cancelled() => {}
    }
}

fn closed() -> Error {
    Error::new(ErrorCode::ControllerUnavailable, "the controller closed the watch")
}
