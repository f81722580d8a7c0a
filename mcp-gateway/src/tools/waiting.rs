//! The wait itself: from what was asked to what came of it.
//!
//! Woken by the controller's stream of changes, never by asking again. Invariant: it ends. At the time-out, when
//! the caller withdraws or goes away, or when the controller is gone before the first answer.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use muster_proto::{
    error::Error,
    v1::{Session, SessionStatus},
};
use rmcp::{
    RoleServer,
    model::{
        CallToolResponse, ClientResult, ElicitRequest, InputRequest, InputRequests, InputRequiredResult,
        ServerRequest,
    },
    service::{Peer, PeerRequestOptions},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{Asking, Call, ask_user, progress::Reporter, reported::Reported, waited::Ended};
use crate::{
    render::view::{elapsed, has_ended, one_line, status_name},
    watches::{Look, Watch},
};

/// Most questions put before the user at once.
const ASKED: usize = 5;
/// How long the controller may take to show the sessions for the first time.
const FIRST_LOOK: Duration = Duration::from_secs(30);
/// Characters of what a session does in a progress message.
const ACTIVITY_CHARS: usize = 60;
/// Sessions named in a progress message.
const NAMED: usize = 5;

/// When a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Until {
    /// All have ended.
    #[default]
    All,
    /// One has.
    Any,
}

/// A wait as it was asked for, in a form that outlives this process: version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    /// Of this format.
    pub(super) version: u32,
    /// Handles or ids, each once.
    pub(super) sessions: Vec<String>,
    pub(super) until: Until,
    /// A cursor; what it holds ends no wait.
    pub(super) since: String,
    /// Milliseconds since 1970.
    pub(super) began: u64,
    /// The same.
    pub(super) deadline: u64,
    /// Seconds; the caller asked for more.
    pub(super) capped_to: Option<u64>,
    /// Questions go to the person at the client.
    pub(super) ask_user: bool,
    /// Questions that person did not answer.
    pub(super) unanswered: BTreeSet<String>,
    pub(super) notes: Vec<String>,
    /// The client knows links.
    pub(super) links: bool,
}

impl Plan {
    /// The only one there was yet.
    pub(super) const VERSION: u32 = 1;

    /// As it is kept.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// One that was kept; `None`: of a version this gateway does not know.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let plan: Self = serde_json::from_slice(bytes).ok()?;
        (plan.version == Self::VERSION).then_some(plan)
    }

    pub(crate) fn sessions(&self) -> &[String] {
        &self.sessions
    }

    /// How much longer it lasts.
    pub(crate) fn left(&self) -> Duration {
        Duration::from_millis(self.deadline.saturating_sub(now()))
    }

    /// Who answered nothing before is not asked again.
    pub(crate) fn leave_unanswered(&mut self, questions: impl IntoIterator<Item = String>) {
        self.unanswered.extend(questions);
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Questions of a wait that is a task: shown to whoever asks for the task, answered by it.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    state: Mutex<(InputRequests, BTreeSet<String>)>,
    answered: Notify,
}

impl Questions {
    /// Those that are open.
    pub(crate) fn open(&self) -> InputRequests {
        self.lock().0.clone()
    }

    /// This one was answered: it is not shown again.
    pub(crate) fn answer(&self, key: &str) {
        self.lock().0.remove(key);
        self.answered.notify_one();
    }

    /// Nobody will answer this one.
    pub(crate) fn decline(&self, key: &str) {
        let mut state = self.lock();
        state.0.remove(key);
        state.1.insert(key.to_owned());
        drop(state);
        self.answered.notify_one();
    }

    /// Those nobody will answer.
    pub(crate) fn declined(&self) -> BTreeSet<String> {
        self.lock().1.clone()
    }

    fn ask(&self, requests: InputRequests) {
        self.lock().0 = requests;
    }

    fn lock(&self) -> MutexGuard<'_, (InputRequests, BTreeSet<String>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How questions reach the person at the client.
#[derive(Debug)]
pub(crate) enum Asker {
    /// Not at all.
    Nobody,
    /// The call ends with them.
    Return,
    /// In the middle of the call.
    Request(Peer<RoleServer>),
    /// Through the task the wait is.
    Task(Arc<Questions>),
}

impl Asker {
    /// As the client of this call can be asked.
    pub(crate) fn of(call: &Call) -> Self {
        match &call.asking {
            None => Self::Nobody,
            Some(Asking::Return) => Self::Return,
            Some(Asking::Request(peer)) => Self::Request(peer.clone()),
        }
    }
}

/// Waits as planned, to the end.
///
/// # Errors
/// When a session does not exist, or the controller does not show them.
pub(crate) async fn wait(
    call: &Call,
    plan: &Plan,
    watch: &Watch,
    asker: &Asker,
) -> Result<CallToolResponse, Error> {
    let _open = crate::metrics::OpenWait::begin();
    let started = Instant::now();
    let mut wait = Wait {
        call,
        watch,
        plan,
        started,
        deadline: started + plan.left(),
        since: Reported::parse(&plan.since)?,
        reporter: Reporter::new(call.progress.clone()),
        unanswered: plan.unanswered.clone(),
    };
    let seen = loop {
        let seen = wait.run().await?;
        if !plan.ask_user {
            break seen;
        }
        match wait.ask(asker, &seen).await? {
            Asked::Answered => {}
            Asked::Returned(question) => return Ok(question.into()),
            Asked::Nothing => break seen,
        }
    };
    Ok(wait.result(&seen)?.into())
}

/// What people see while they wait. What a session does is quoted, short and on one line: it is the session's to
/// say.
pub(crate) fn progress(asked_for: usize, look: &Look) -> String {
    let now = SystemTime::now();
    let done = look.sessions.values().filter(|session| is_ready(session)).count();
    let mut text = format!("{done}/{} done", asked_for.max(look.sessions.len()));
    for session in look.sessions.values().filter(|session| !is_ready(session)).take(NAMED) {
        let doing = one_line(&session.last_activity, ACTIVITY_CHARS)
            .map(|activity| format!(" \u{201c}{activity}\u{201d}"))
            .unwrap_or_default();
        let status = status_name(session.status());
        text.push_str(&format!("; {}: {status}{doing} ({} s)", session.handle, elapsed(session, now)));
    }
    text
}

struct Wait<'a> {
    call: &'a Call,
    watch: &'a Watch,
    plan: &'a Plan,
    started: Instant,
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
                (false, Some(_)) => self.started + call.config.patience,
                (false, None) => self.started + FIRST_LOOK.max(call.config.patience),
            };
            tokio::select! {
                biased;
                () = abandoned(call) => return Ok(look),
                () = self.watch.changed() => {}
                () = self.reporter.due() => {
                    let progress = progress(self.plan.sessions.len(), &look);
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
    async fn ask(&mut self, asker: &Asker, look: &Look) -> Result<Asked, Error> {
        let forms = look
            .sessions
            .values()
            .filter(|session| has_question(session) && !self.since.has(session))
            .filter_map(|session| Some((ask_user::key(session)?, ask_user::form(session)?)))
            .filter(|(key, _)| !self.unanswered.contains(key));
        let forms: Vec<_> = forms.take(ASKED).collect();
        if forms.is_empty() {
            return Ok(Asked::Nothing);
        }
        let requests = |forms: Vec<(String, _)>| -> InputRequests {
            let request = |form| InputRequest::Elicitation(ElicitRequest::new(form));
            forms.into_iter().map(|(key, form)| (key, request(form))).collect()
        };
        let peer = match asker {
            Asker::Nobody => return Ok(Asked::Nothing),
            Asker::Return => {
                let questions = InputRequiredResult::from_input_requests(requests(forms));
                return Ok(Asked::Returned(questions));
            }
            Asker::Task(questions) => return self.ask_as_task(questions, requests(forms)).await,
            Asker::Request(peer) => peer.clone(),
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

    /// Shows the questions with the task until each is answered, by whomever, or declined.
    async fn ask_as_task(&mut self, questions: &Questions, asked: InputRequests) -> Result<Asked, Error> {
        let keys: BTreeSet<String> = asked.keys().cloned().collect();
        questions.ask(asked);
        let answered = loop {
            let declined = questions.declined();
            let look = self.watch.look()?;
            let open: BTreeSet<String> =
                look.sessions.values().filter_map(|session| ask_user::key(session)).collect();
            if keys.iter().all(|key| declined.contains(key) || !open.contains(key)) {
                break keys.iter().any(|key| !declined.contains(key));
            }
            tokio::select! {
                () = questions.answered.notified() => {}
                () = self.watch.changed() => {}
                () = sleep_until(self.deadline) => break false,
            }
        };
        questions.ask(InputRequests::new());
        self.unanswered.extend(questions.declined());
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
        if look.sessions.values().any(|session| has_question(session) && !self.since.has(session)) {
            return true;
        }
        sessions.clone().all(|session| has_ended(session))
            || (self.plan.until == Until::Any
                && sessions.any(|session| has_ended(session) && !self.since.has(session)))
    }

    fn result(&self, look: &Look) -> Result<rmcp::model::CallToolResult, Error> {
        let mut notes = self.plan.notes.clone();
        if !self.unanswered.is_empty() {
            notes.push("the user gave no answer: it is yours to give, or to ask about".to_owned());
        }
        if let Some(most) = self.plan.capped_to {
            notes.push(format!("timeoutSeconds was capped to {most}"));
        }
        if self.call.leaving.is_requested() {
            notes.push("the gateway is being restarted: call again for the same sessions".to_owned());
        }
        if look.trouble.is_some() {
            notes.push("the controller is away: this is what was last seen".to_owned());
        }
        let ended = Ended {
            look,
            satisfied: self.satisfied(look),
            since: &self.since,
            waited_seconds: now().saturating_sub(self.plan.began) / 1000,
            capped_to: self.plan.capped_to,
            notes,
            links: self.plan.links,
        };
        ended.result()
    }
}

pub(super) fn has_question(session: &Session) -> bool {
    session.status() == SessionStatus::NeedsAttention && !session.archived
}

pub(super) fn is_ready(session: &Session) -> bool {
    has_ended(session) || has_question(session)
}

/// Returns when nobody waits for the result any more, or this gateway cannot wait longer.
async fn abandoned(call: &Call) {
    tokio::select! {
        () = call.cancelled.cancelled() => {}
        () = call.hung_up.cancelled() => {}
        () = call.leaving.requested() => {}
    }
}
