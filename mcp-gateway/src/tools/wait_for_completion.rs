//! `wait_for_completion`: returns when sessions have ended or need somebody.
//!
//! Here is what it takes and what it says of itself; the wait is in `waiting`, its result in `waited`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use muster_proto::{error::Error, v1::ListSessionsRequest};
use rmcp::model::{CallToolResponse, ElicitResult, JsonObject, Tool};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{
    Call, Hints, ToolName, ask_user, define,
    reported::Reported,
    session_given,
    waited::Output,
    waiting::{self, Asker, Plan, Until},
};
use crate::limits::WaitLimits;

/// Most sessions of one wait.
const SESSIONS: usize = 200;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Args {
    /// The session to wait for. Or sessionIds, or labels.
    session_id: Option<String>,
    /// The sessions to wait for, 1 to 200.
    session_ids: Option<Vec<String>>,
    /// Instead of ids: the sessions that carry all of these labels when the wait begins.
    labels: Option<BTreeMap<String, String>>,
    /// all (default): until every one has ended; any: until the first has. One that needs attention ends
    /// both.
    mode: Option<Mode>,
    /// How long to wait at most. 0: only look. Default and most depend on the client (minutes).
    timeout_seconds: Option<u32>,
    /// `cursor` of the wait before: what that reported does not end this wait again. For loops over the same
    /// sessions.
    since: Option<String>,
    /// return (default): a question ends the wait and you answer it. ask_user: the person at this client is
    /// asked, where it can show forms.
    on_attention: Option<OnAttention>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OnAttention {
    #[default]
    Return,
    AskUser,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    All,
    Any,
}

pub(super) fn definition() -> Tool {
    define::<Args, Output>(
        ToolName::WaitForCompletion,
        "Wait for sessions",
        "Waits until sessions have ended (completed, failed, stopped) or one needs attention, and shows \
         each as it then is. A time-out is a normal result: call again with the sessions that are still \
         pending. In a loop with mode \"any\" give since = cursor, and each change is reported once.",
        Hints { read_only: true, destructive: false, idempotent: true, open_world: true },
        &[("anthropic/alwaysLoad", json!(true))],
    )
}

pub(super) const fn accept(arguments: JsonObject) -> JsonObject {
    arguments
}

pub(super) async fn call(call: &Call, args: Args) -> Result<CallToolResponse, Error> {
    let plan = plan(call, &args, call.waits).await?;
    let watch = call.watches.watch(&plan.sessions);
    waiting::wait(call, &plan, &watch, &Asker::of(call)).await
}

/// What is to be waited for and how long, when this client's waits are bounded by `limits`. Hands on what the user
/// answered since the call was made first.
pub(crate) async fn plan(call: &Call, args: &Args, limits: WaitLimits) -> Result<Plan, Error> {
    let since = args.since.clone().unwrap_or_else(|| Reported::default().cursor());
    Reported::parse(&since)?;
    let sessions = names(call, args).await?;
    let asked = args.timeout_seconds.map_or(limits.default, |seconds| Duration::from_secs(seconds.into()));
    let lasts = asked.min(limits.most);
    let mut notes = Vec::new();
    let ask_user = args.on_attention == Some(OnAttention::AskUser);
    if ask_user && call.asking.is_none() {
        notes.push("this client cannot ask its user: questions come back to you".to_owned());
    }
    let unanswered = given(call).await?;
    let began = waiting::now();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut deadline = began.saturating_add(millis(lasts));
    if let Some(left) =
        call.caller.expires_at().map(|end| end.duration_since(SystemTime::now()).unwrap_or_default())
        && left < lasts
    {
        deadline = began.saturating_add(millis(left));
        notes.push("the wait ends with your token: get a new one, then call again".to_owned());
    }
    Ok(Plan {
        version: Plan::VERSION,
        sessions,
        until: if args.mode == Some(Mode::Any) { Until::Any } else { Until::All },
        since,
        began,
        deadline,
        capped_to: (asked > lasts).then_some(lasts.as_secs()),
        ask_user: ask_user && call.asking.is_some(),
        unanswered,
        notes,
        links: call.links,
    })
}

/// Hands on what the user answered since the call was made first. Gives the questions without an answer.
async fn given(call: &Call) -> Result<BTreeSet<String>, Error> {
    let mut unanswered = BTreeSet::new();
    for (key, answer) in &call.answers {
        let answered = match serde_json::from_value::<ElicitResult>(answer.clone()) {
            Ok(result) => ask_user::give(call, key, &result).await?,
            Err(_) => false,
        };
        if !answered {
            unanswered.insert(key.clone());
        }
    }
    Ok(unanswered)
}

/// The sessions to wait for, each once.
async fn names(call: &Call, args: &Args) -> Result<Vec<String>, Error> {
    let mut names = match (&args.session_id, &args.session_ids, &args.labels) {
        (Some(session), None, None) => vec![session_given(session)?.to_owned()],
        (None, Some(sessions), None) => sessions
            .iter()
            .map(|session| session_given(session).map(ToOwned::to_owned))
            .collect::<Result<_, _>>()?,
        (None, None, Some(labels)) => labelled(call, labels).await?,
        (None, None, None) => Vec::new(),
        _ => {
            return Err(Error::invalid(
                "sessionIds",
                "give one of `sessionId`, `sessionIds` and `labels`, not several",
            ));
        }
    };
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(Error::invalid(
            "sessionIds",
            "there is no session to wait for: give `sessionId`, `sessionIds` or `labels`",
        )
        .hint("spawn_session and list_sessions give sessionIds"));
    }
    if names.len() > SESSIONS {
        let message = format!("`sessionIds` holds {} sessions, most are {SESSIONS}", names.len());
        return Err(Error::invalid("sessionIds", message));
    }
    Ok(names)
}

async fn labelled(call: &Call, labels: &BTreeMap<String, String>) -> Result<Vec<String>, Error> {
    if labels.is_empty() {
        return Err(Error::invalid("labels", "`labels` is empty").hint("name at least one label"));
    }
    let request = ListSessionsRequest {
        labels: labels.clone().into_iter().collect(),
        limit: u32::try_from(SESSIONS).unwrap_or(u32::MAX),
        ..ListSessionsRequest::default()
    };
    let listed = call.controller().list(request).await?;
    if listed.sessions.is_empty() {
        return Err(Error::invalid("labels", "no session carries these labels")
            .hint("list_sessions with the same labels shows which there are; archived ones do not count"));
    }
    if !listed.next_cursor.is_empty() {
        let message = format!("{} sessions carry these labels, most are {SESSIONS}", listed.total);
        return Err(Error::invalid("labels", message).hint("add a label that tells fewer sessions apart"));
    }
    Ok(listed.sessions.into_iter().map(|session| session.handle).collect())
}
