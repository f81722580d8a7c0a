//! `muster status`: everything about one session but its log.

use std::{fmt::Write as _, time::SystemTime};

use clap::Args;
use muster_proto::v1::{Attention, Session, SessionSpec, attention::Ask};

use crate::{
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    json,
    output::Output,
    show,
};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
    session: String,
    #[command(flatten)]
    remote: Remote,
}

/// Shows a session.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let session = client.session(&options.session).await?;
    if output.json {
        output.document(&json::session(&session))?;
    } else {
        output.bytes(page(&session, SystemTime::now()).as_bytes())?;
    }
    Ok(Exit::Ok)
}

/// `name: value` lines, then what is asked, then the result.
pub fn page(session: &Session, now: SystemTime) -> String {
    let mut page = Page::default();
    let empty = SessionSpec::default();
    let spec = session.spec.as_ref().unwrap_or(&empty);
    page.field("session", &session.handle);
    page.field("id", &session.session_id);
    page.field("title", &spec.title);
    page.field("status", &status(session));
    if let Some(end) = &session.end {
        let code = end.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
        let signal = end.signal.map(|signal| format!(", signal {signal}")).unwrap_or_default();
        let api = end.api_error_status.map(|status| format!(", API status {status}")).unwrap_or_default();
        page.field("end", &format!("{}{code}{signal}{api}", show::end_reason(end.reason())));
        page.field("because", &end.message);
    }
    if session.queue_position > 0 {
        page.field("queue", &format!("#{}: {}", session.queue_position, session.queue_reason));
    }
    page.field("project", &spec.project);
    page.field("worker", &session.worker);
    page.field("last heard", &when(session.worker_last_heard_at.as_ref(), now));
    if let Some(workspace) = &session.workspace {
        page.field("workspace", &workspace.path);
        page.field("branch", &workspace.branch);
        page.field("base", &workspace.base_commit);
        page.field("kept in", &workspace.kept_ref);
    }
    page.field("model", &spec.model);
    page.field("mode", &mode(session, spec));
    page.field("claude", &session.claude_version);
    usage(&mut page, session);
    page.field("created", &when(session.created_at.as_ref(), now));
    page.field("changed", &when(session.changed_at.as_ref(), now));
    page.field("ended", &when(session.ended_at.as_ref(), now));
    page.field("activity", &activity(session, now));
    page.field("labels", &labels(spec));
    page.field("parent", &spec.parent_session);
    page.field("prompt", &spec.prompt);
    if let Some(attention) = &session.attention {
        page.section(&asked(session, attention));
    }
    if !session.result_text.is_empty() {
        page.section(&format!("result:\n{}", indented(&session.result_text)));
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// A field without a value says nothing and is left out.
    fn field(&mut self, name: &str, value: &str) {
        let value = show::line(value);
        if !value.is_empty() {
            let _ = writeln!(self.text, "{:<11}{value}", format!("{name}:"));
        }
    }

    fn section(&mut self, text: &str) {
        let _ = write!(self.text, "\n{}\n", text.trim_end());
    }
}

fn status(session: &Session) -> String {
    let mut status = show::status_and_block(session);
    for (flag, word) in
        [(session.stopping && session.end.is_none(), "stopping"), (session.archived, "archived")]
    {
        if flag {
            status = format!("{status}, {word}");
        }
    }
    status
}

fn mode(session: &Session, spec: &SessionSpec) -> String {
    let now = &session.permission_mode_now;
    let mode = if now.is_empty() { &spec.permission_mode } else { now };
    if spec.trust_mode { "trust mode: permissions are not asked".to_owned() } else { mode.clone() }
}

fn usage(page: &mut Page, session: &Session) {
    let usage = session.usage.unwrap_or_default();
    if session.attempt > 0 {
        page.field("turns", &format!("{} (attempt {})", usage.turns, session.attempt));
    }
    if usage.input_tokens + usage.output_tokens > 0 {
        let tokens = format!(
            "{} in, {} out, {} read from cache, {} written to it",
            usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_creation_tokens
        );
        page.field("tokens", &tokens);
    }
    if session.interruptions > 0 {
        let times =
            if session.interruptions == 1 { "once" } else { &format!("{} times", session.interruptions) };
        page.field("resumed", &format!("{times}, after it was interrupted"));
    }
    page.field("cost", &show::cost(usage.cost_usd));
    if session.pending_inputs > 0 {
        page.field("pending", &format!("{} messages not given to claude yet", session.pending_inputs));
    }
}

fn when(timestamp: Option<&show::Timestamp>, now: SystemTime) -> String {
    match timestamp {
        Some(_) => format!("{} ({} ago)", show::second(timestamp), show::age(timestamp, now)),
        None => String::new(),
    }
}

fn activity(session: &Session, now: SystemTime) -> String {
    if session.last_activity.is_empty() {
        return String::new();
    }
    format!("{} ({} ago)", session.last_activity, show::age(session.last_activity_at.as_ref(), now))
}

fn labels(spec: &SessionSpec) -> String {
    let mut labels: Vec<String> = spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    labels.join(" ")
}

/// What is asked and the commands that answer it.
pub fn asked(session: &Session, attention: &Attention) -> String {
    let handle = &session.handle;
    let mut text = String::new();
    let more = session.open_attentions.saturating_sub(1);
    let others = if more > 0 { format!(", {more} more after it") } else { String::new() };
    let _ = writeln!(
        text,
        "asks ({}, {}{others}):",
        show::attention_reason(attention.reason()),
        attention.attention_id
    );
    match &attention.ask {
        Some(Ask::Permission(ask)) => {
            let _ = writeln!(text, "  may it use {}?", show::line(&ask.tool_name));
            text.push_str(&indented(&ask.summary));
            if !ask.decision_reason.is_empty() {
                let _ = writeln!(text, "  because: {}", show::line(&ask.decision_reason));
            }
            let always = if ask.can_allow_always { " | --allow-always" } else { "" };
            let _ =
                writeln!(text, "answer with: muster answer {handle} --allow{always} | --deny [--text WHY]");
        }
        Some(Ask::Input(ask)) => {
            for (number, question) in ask.questions.iter().enumerate() {
                let several = if question.multi_select { " (several may be chosen)" } else { "" };
                let _ = writeln!(text, "  {}. {}{several}", number + 1, show::line(&question.question));
                for option in &question.options {
                    let about = show::line(&option.description);
                    let about = if about.is_empty() { about } else { format!(": {about}") };
                    let _ = writeln!(text, "     - {}{about}", show::line(&option.label));
                }
            }
            let _ = writeln!(
                text,
                "answer with: muster answer {handle} --answer '1=LABEL OR WORDS' ... | --deny [--text WHY]"
            );
        }
        Some(Ask::Plan(ask)) => {
            text.push_str(&indented(&ask.plan));
            let _ = writeln!(
                text,
                "answer with: muster answer {handle} --allow | --deny --text 'WHAT TO CHANGE'"
            );
        }
        None => text.push_str("  something this version does not know\n"),
    }
    text
}

fn indented(text: &str) -> String {
    show::block(text).lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{InputAsk, Question, QuestionOption, SessionStatus};

    use super::*;

    #[test]
    fn what_blocks_and_what_interrupted_it_is_shown() {
        let mut session = Session { blocked: "disk_full".into(), interruptions: 2, ..Default::default() };
        session.set_status(SessionStatus::Working);
        let page = page(&session, SystemTime::now());
        assert!(page.contains("status:    working (disk_full)\n"), "{page}");
        assert!(page.contains("resumed:   2 times, after it was interrupted\n"), "{page}");
    }

    #[test]
    fn a_silent_worker_is_shown_with_when_it_was_last_heard() {
        let now = SystemTime::now();
        let heard = now - std::time::Duration::from_secs(600);
        let mut session = Session {
            worker: "build-07".into(),
            worker_last_heard_at: Some(muster_proto::time::from_system(heard)),
            ..Default::default()
        };
        session.set_status(SessionStatus::Unreachable);
        let page = page(&session, now);
        assert!(page.contains("last heard:") && page.contains("(10m ago)"), "{page}");
        assert!(show::headline(&session).starts_with("worker build-07 was last heard at "), "{page}");
    }

    #[test]
    fn a_question_is_shown_with_its_options_and_how_to_answer() {
        let option = |label: &str| QuestionOption { label: label.into(), description: String::new() };
        let question = Question {
            question: "Which\u{1b}[2J colour?".into(),
            options: vec![option("red"), option("blue")],
            ..Default::default()
        };
        let ask = InputAsk { questions: vec![question], ..Default::default() };
        let attention =
            Attention { attention_id: "a17".into(), ask: Some(Ask::Input(ask)), ..Default::default() };
        let mut session =
            Session { handle: "h-000000".into(), attention: Some(attention), ..Default::default() };
        session.set_status(SessionStatus::NeedsAttention);
        let page = page(&session, SystemTime::now());
        assert!(page.contains("1. Which colour?") && page.contains("- blue"), "{page}");
        assert!(page.contains("muster answer h-000000 --answer"), "{page}");
        assert!(!page.contains('\u{1b}'));
    }
}
