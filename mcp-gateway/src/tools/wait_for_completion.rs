//! `wait_for_completion`: returns when sessions have ended or need somebody.
//!
//! Woken by the controller's stream of changes, never by asking again. Invariant: it ends. At the time-out,
//! when the caller withdraws or goes away, or when the controller is gone before the first answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use muster_proto::{
    error::Error,
    v1::{ListSessionsRequest, Session, SessionStatus},
};
use rmcp::{
    model::{
        CallToolResponse, ClientResult, ElicitRequest, ElicitResult, InputRequest, InputRequests,
        InputRequiredResult, JsonObject, ServerRequest, Tool,
    },
    service::PeerRequestOptions,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::{
    Asking, Call, Hints, ToolName, ask_user, define, progress::Reporter, reported::Reported, session_given,
    structured,
};
use crate::{
    render::view::{Form, SessionView, elapsed, has_ended, one_line, status_name},
    resources,
    watches::{Look, Watch},
};

/// Most sessions of one wait.
const SESSIONS: usize = 200;
/// Sessions shown concisely; the rest is shown in brief, so that the result stays readable.
const SHOWN: usize = 20;
/// Most links to results.
const LINKED: usize = 10;
/// Most questions put before the user at once.
const ASKED: usize = 5;
/// How long the controller may take to show the sessions for the first time.
const FIRST_LOOK: Duration = Duration::from_secs(30);
/// Characters of what a session does in a progress message.
const ACTIVITY_CHARS: usize = 60;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Args {
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
    /// Ended and reported by an earlier wait.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reported_before: Vec<String>,
    waited_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    capped_to: Option<u64>,
    cursor: String,
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
         pending. In a loop with mode \"any\" give since = cursor, and each change is reported once.",
        Hints { read_only: true, destructive: false, idempotent: true, open_world: true },
        &[("anthropic/alwaysLoad", json!(true))],
    )
}

pub(super) const fn accept(arguments: JsonObject) -> JsonObject {
    arguments
}

pub(super) async fn call(call: &Call, args: Args) -> Result<CallToolResponse, Error> {
    let since = args.since.as_deref().map(Reported::parse).transpose()?.unwrap_or_default();
    let names = names(call, &args).await?;
    let limits = call.waits;
    let asked = args.timeout_seconds.map_or(limits.default, |seconds| Duration::from_secs(seconds.into()));
    let most = asked.min(limits.most);
    let mut notes = Vec::new();
    let ask_user = args.on_attention == Some(OnAttention::AskUser);
    if ask_user && call.asking.is_none() {
        notes.push("this client cannot ask its user: questions come back to you".to_owned());
    }
    let unanswered = given(call).await?;
    let mut wait = Wait {
        call,
        watch: call.watches.watch(&names),
        names: names.len(),
        mode: args.mode.unwrap_or_default(),
        began: Instant::now(),
        deadline: Instant::now() + most,
        since,
        reporter: Reporter::new(call.progress.clone()),
        unanswered,
    };
    let seen = loop {
        let seen = wait.run().await?;
        match &call.asking {
            Some(asking) if ask_user => match wait.ask(asking, &seen).await? {
                Asked::Answered => {}
                Asked::Returned(question) => return Ok(question.into()),
                Asked::Nothing => break seen,
            },
            _ => break seen,
        }
    };
    if !wait.unanswered.is_empty() {
        notes.push("the user gave no answer: it is yours to give, or to ask about".to_owned());
    }
    let mut output = wait.output(&seen);
    if asked > most {
        output.capped_to = Some(most.as_secs());
        notes.push(format!("timeoutSeconds was capped to {}", most.as_secs()));
    }
    if call.leaving.is_requested() {
        notes.push("the gateway is being restarted: call again for the same sessions".to_owned());
    }
    if seen.trouble.is_some() {
        notes.push("the controller is away: this is what was last seen".to_owned());
    }
    output.note = Some(notes.join("; ")).filter(|note| !note.is_empty());
    let mut result = structured(&output)?;
    if call.links {
        let ready = seen.sessions.values().filter(|session| has_ended(session)).take(LINKED);
        result.content.extend(ready.map(|session| resources::link(session)));
    }
    Ok(result.into())
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

struct Wait<'a> {
    call: &'a Call,
    watch: Watch,
    /// How many were asked for.
    names: usize,
    mode: Mode,
    began: Instant,
    deadline: Instant,
    since: Reported,
    reporter: Reporter,
    /// Questions the user was asked and did not answer.
    unanswered: BTreeSet<String>,
}

/// What became of asking the user.
enum Asked {
    Answered,
    /// The call ends with the questions.
    Returned(InputRequiredResult),
    /// There is nothing to ask, or nobody answered.
    Nothing,
}

impl Wait<'_> {
    /// To the end of the wait; gives what was seen last.
    async fn run(&mut self) -> Result<Look, Error> {
        let call = self.call;
        loop {
            let look = self.watch.look()?;
            // A look itself is not subject to the time-out: 0 means look once. But it ends: before it a dead
            // or silent controller is an error soon, while a wait that has begun outlives one.
            let until = match (look.complete, &look.trouble) {
                (true, _) if self.satisfied(&look) => return Ok(look),
                (true, _) => self.deadline,
                (false, Some(_)) => self.began + call.config.patience,
                (false, None) => self.began + FIRST_LOOK.max(call.config.patience),
            };
            tokio::select! {
                biased;
                () = abandoned(call) => return Ok(look),
                () = self.watch.changed() => {}
                () = self.reporter.due() => {
                    let progress = self.progress(&look);
                    self.reporter.report(&progress);
                }
                () = sleep_until(until) => {
                    return match look.trouble {
                        _ if look.complete => Ok(look),
                        Some(trouble) => Err(trouble),
                        None => Err(call.controller().silent()),
                    };
                }
            }
        }
    }

    /// Puts what sessions ask before the user.
    async fn ask(&mut self, asking: &Asking, look: &Look) -> Result<Asked, Error> {
        let forms = look
            .sessions
            .values()
            .filter(|session| needs_attention(session) && !self.since.has(session))
            .filter_map(|session| Some((ask_user::key(session)?, ask_user::form(session)?)))
            .filter(|(key, _)| !self.unanswered.contains(key));
        let forms: Vec<_> = forms.take(ASKED).collect();
        if forms.is_empty() {
            return Ok(Asked::Nothing);
        }
        let peer = match asking {
            Asking::Return => {
                let requests: InputRequests = forms
                    .into_iter()
                    .map(|(key, form)| (key, InputRequest::Elicitation(ElicitRequest::new(form))))
                    .collect();
                return Ok(Asked::Returned(InputRequiredResult::from_input_requests(requests)));
            }
            Asking::Request(peer) => peer.clone(),
        };
        let mut answered = false;
        for (key, form) in forms {
            let request = ServerRequest::ElicitRequest(ElicitRequest::new(form));
            let sent = peer.send_request_with_option(request, PeerRequestOptions::no_options());
            let reply = async { sent.await?.await_response().await };
            let result = match self.meanwhile(reply).await {
                Some(Ok(ClientResult::ElicitResult(result))) => Some(result),
                Some(Ok(_) | Err(_)) | None => None,
            };
            match result {
                Some(result) if ask_user::give(self.call, &key, &result).await? => answered = true,
                _ => drop(self.unanswered.insert(key)),
            }
        }
        Ok(if answered { Asked::Answered } else { Asked::Nothing })
    }

    /// Awaits something of the user, for as long as the wait may last, and keeps the client awake.
    async fn meanwhile<T>(&mut self, answer: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(answer);
        loop {
            tokio::select! {
                biased;
                () = abandoned(self.call) => return None,
                answer = &mut answer => return Some(answer),
                () = self.reporter.due() => self.reporter.report("waiting for your answer"),
                () = sleep_until(self.deadline) => return None,
            }
        }
    }

    fn satisfied(&self, look: &Look) -> bool {
        if !look.complete {
            return false;
        }
        let mut sessions = look.sessions.values();
        if look.sessions.values().any(|session| needs_attention(session) && !self.since.has(session)) {
            return true;
        }
        sessions.clone().all(|session| has_ended(session))
            || (self.mode == Mode::Any
                && sessions.any(|session| has_ended(session) && !self.since.has(session)))
    }

    /// What people see while they wait. What a session does is quoted, short and on one line: it is the
    /// session's to say.
    fn progress(&self, look: &Look) -> String {
        let now = SystemTime::now();
        let done = look.sessions.values().filter(|session| is_ready(session)).count();
        let mut text = format!("{done}/{} done", self.names.max(look.sessions.len()));
        for session in look.sessions.values().filter(|session| !is_ready(session)).take(5) {
            let doing = one_line(&session.last_activity, ACTIVITY_CHARS)
                .map(|activity| format!(" \u{201c}{activity}\u{201d}"))
                .unwrap_or_default();
            let status = status_name(session.status());
            text.push_str(&format!("; {}: {status}{doing} ({} s)", session.handle, elapsed(session, now)));
        }
        text
    }

    fn output(&self, look: &Look) -> Output {
        let mut reported = Reported::default();
        let (mut ready, mut pending, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for session in look.sessions.values() {
            match (is_ready(session), self.since.has(session)) {
                (true, false) => ready.push(session),
                (true, true) if has_ended(session) => before.push(session.handle.clone()),
                _ => pending.push(session),
            }
            if is_ready(session) {
                reported.add(session);
            }
        }
        let asking =
            |sessions: &[&Arc<Session>]| sessions.iter().filter(|session| needs_attention(session)).count();
        let reason = match (self.satisfied(look), asking(&ready)) {
            (false, _) => Reason::Timeout,
            (true, 0) => Reason::Completed,
            (true, _) => Reason::NeedsAttention,
        };
        let next = next(reason, pending.len(), asking(&pending));
        Output {
            reason,
            timed_out: reason == Reason::Timeout,
            ready: views(&ready, Form::Concise),
            pending: views(&pending, Form::Brief),
            reported_before: before,
            waited_seconds: self.began.elapsed().as_secs(),
            capped_to: None,
            cursor: reported.cursor(),
            note: None,
            next,
        }
    }
}

fn next(reason: Reason, pending: usize, unanswered: usize) -> String {
    match reason {
        Reason::NeedsAttention => "answer each session in `ready` that needs attention \
             (attention.answerWith), then wait again for all that have not ended"
            .to_owned(),
        Reason::Completed if pending == 0 => {
            "get_session_output with format \"result\" gives an answer; see `next` of each session".to_owned()
        }
        Reason::Completed => {
            format!("{pending} still run: wait again for those in `pending`, with since = cursor")
        }
        Reason::Timeout if unanswered > 0 => format!(
            "{unanswered} still need attention, as an earlier wait reported: answer them \
             (attention.answerWith) and call wait_for_completion again"
        ),
        Reason::Timeout => format!(
            "{pending} still run: call wait_for_completion again with those in `pending`; do not spawn \
             replacements"
        ),
    }
}

fn views(sessions: &[&Arc<Session>], form: Form) -> Vec<SessionView> {
    // Those that need somebody first: they are what the caller acts on, so they are shown whole.
    let mut sessions = sessions.to_vec();
    sessions.sort_by_key(|session| !needs_attention(session));
    sessions
        .iter()
        .enumerate()
        .map(|(index, session)| {
            let form = if needs_attention(session) { Form::Concise } else { form };
            SessionView::new(session, if index < SHOWN { form } else { Form::Brief })
        })
        .collect()
}

fn needs_attention(session: &Session) -> bool {
    session.status() == SessionStatus::NeedsAttention && !session.archived
}

fn is_ready(session: &Session) -> bool {
    has_ended(session) || needs_attention(session)
}

/// Returns when nobody waits for the result any more, or this gateway cannot wait longer.
async fn abandoned(call: &Call) {
    tokio::select! {
        () = call.cancelled.cancelled() => {}
        () = call.hung_up.cancelled() => {}
        () = call.leaving.requested() => {}
    }
}
