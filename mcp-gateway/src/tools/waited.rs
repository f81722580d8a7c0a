//! What a wait found, as its result shows it.

use std::sync::Arc;

use muster_proto::v1::Session;
use rmcp::model::CallToolResult;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    reported::Reported,
    structured,
    waiting::{has_question, is_ready},
};
use crate::{
    render::view::{Form, SessionView, has_ended},
    resources,
    watches::Look,
};
use muster_proto::error::Error;

/// Sessions shown concisely; the rest is shown in brief, so that the result stays readable.
const SHOWN: usize = 20;
/// Most links to results.
const LINKED: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    Completed,
    NeedsAttention,
    Timeout,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Output {
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

/// How a wait ended.
pub(super) struct Ended<'a> {
    pub(super) look: &'a Look,
    /// What it was waited for has come.
    pub(super) satisfied: bool,
    pub(super) since: &'a Reported,
    pub(super) waited_seconds: u64,
    pub(super) capped_to: Option<u64>,
    pub(super) notes: Vec<String>,
    pub(super) links: bool,
}

impl Ended<'_> {
    pub(super) fn result(self) -> Result<CallToolResult, Error> {
        let output = self.output();
        let mut result = structured(&output)?;
        if self.links {
            let ready = self.look.sessions.values().filter(|session| has_ended(session)).take(LINKED);
            result.content.extend(ready.map(|session| resources::link(session)));
        }
        Ok(result)
    }

    fn output(&self) -> Output {
        let mut reported = Reported::default();
        let (mut ready, mut pending, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for session in self.look.sessions.values() {
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
            |sessions: &[&Arc<Session>]| sessions.iter().filter(|session| has_question(session)).count();
        let reason = match (self.satisfied, asking(&ready)) {
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
            waited_seconds: self.waited_seconds,
            capped_to: self.capped_to,
            cursor: reported.cursor(),
            note: Some(self.notes.join("; ")).filter(|note| !note.is_empty()),
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
    sessions.sort_by_key(|session| !has_question(session));
    sessions
        .iter()
        .enumerate()
        .map(|(index, session)| {
            let form = if has_question(session) { Form::Concise } else { form };
            SessionView::new(session, if index < SHOWN { form } else { Form::Brief })
        })
        .collect()
}
