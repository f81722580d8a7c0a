//! The JSON of `--json`: a published shape (docs/cli.md), with the names the MCP tools use.
//!
//! Every key is always there (an attention has those of its reason); what is absent is null. Keys are only
//! ever added. Text from sessions is as it came: JSON escapes what a terminal would act on.

use std::collections::{BTreeMap, HashMap};

use muster_proto::v1::{
    Attention, ChangesFormat, ChangesSummary, End, ExplainSessionResponse, Project, Session, SessionSpec,
    Usage, Worker, Workspace, attention,
};
use serde_json::{Value, json};

use crate::{
    commands::diff::is_uncommitted,
    show::{self, Timestamp},
};

/// Sessions as an array.
pub fn sessions(sessions: &[Session]) -> Value {
    sessions.iter().map(session).collect()
}

/// One session, whole.
pub fn session(session: &Session) -> Value {
    let empty = SessionSpec::default();
    let spec = session.spec.as_ref().unwrap_or(&empty);
    let usage = session.usage.unwrap_or_default();
    json!({
        "sessionId": session.handle,
        "id": session.session_id,
        "title": spec.title,
        "status": show::status(session.status()),
        "attentionReason": session.attention.as_ref().map(|it| show::attention_reason(it.reason())),
        "attention": session.attention.as_ref().map(attention),
        "openAttentions": session.open_attentions,
        "stopping": session.stopping,
        "archived": session.archived,
        "blocked": text(&session.blocked),
        "interruptions": session.interruptions,
        "caller": text(&session.caller),
        "priority": spec.priority,
        "queuePosition": (session.queue_position > 0).then_some(session.queue_position),
        "queueReason": text(&session.queue_reason),
        "end": session.end.as_ref().map(end),
        "project": spec.project,
        "branch": session.workspace.as_ref().and_then(|workspace| text(&workspace.branch)),
        "worker": text(&session.worker),
        "workerLastHeardAt": moment(session.worker_last_heard_at.as_ref()),
        "workspace": session.workspace.as_ref().map(workspace),
        "turns": usage.turns,
        "tokens": tokens(&usage),
        "costUsd": usage.cost_usd,
        "createdAt": moment(session.created_at.as_ref()),
        "changedAt": moment(session.changed_at.as_ref()),
        "endedAt": moment(session.ended_at.as_ref()),
        "lastActivity": text(&session.last_activity),
        "lastActivityAt": moment(session.last_activity_at.as_ref()),
        "pendingInputs": session.pending_inputs,
        "prompt": spec.prompt,
        "ref": text(&spec.r#ref),
        "model": text(&spec.model),
        "permissionMode": text(&session.permission_mode_now).or_else(|| text(&spec.permission_mode)),
        "allowedTools": spec.allowed_tools,
        "trustMode": spec.trust_mode,
        "timeoutMinutes": (spec.timeout_minutes > 0).then_some(spec.timeout_minutes),
        "maxTurns": (spec.max_turns > 0).then_some(spec.max_turns),
        "maxBudgetUsd": (spec.max_budget_usd > 0.0).then_some(spec.max_budget_usd),
        "labels": labels(&spec.labels),
        "requiredLabels": labels(&spec.required_labels),
        "parentSession": text(&spec.parent_session),
        "claudeVersion": text(&session.claude_version),
        "attempt": session.attempt,
        "outputBytes": session.output_end_offset,
        "revision": session.revision,
        "result": text(&session.result_text),
    })
}

fn attention(attention: &Attention) -> Value {
    let mut value = json!({
        "attentionId": attention.attention_id,
        "reason": show::attention_reason(attention.reason()),
        "since": moment(attention.since.as_ref()),
    });
    let ask = match &attention.ask {
        Some(attention::Ask::Permission(ask)) => json!({
            "tool": ask.tool_name,
            "summary": ask.summary,
            "input": parsed(&ask.input_json),
            "decisionReason": text(&ask.decision_reason),
            "canAllowAlways": ask.can_allow_always,
        }),
        Some(attention::Ask::Input(ask)) => json!({
            "questions": ask.questions.iter().map(|question| json!({
                "question": question.question,
                "header": question.header,
                "multiSelect": question.multi_select,
                "options": question.options.iter().map(|option| json!({
                    "label": option.label,
                    "description": option.description,
                })).collect::<Value>(),
            })).collect::<Value>(),
            "mcpServer": text(&ask.mcp_server),
            "formSchema": parsed(&ask.schema_json),
        }),
        Some(attention::Ask::Plan(ask)) => json!({ "plan": ask.plan }),
        None => json!({}),
    };
    if let (Some(value), Value::Object(ask)) = (value.as_object_mut(), ask) {
        value.extend(ask);
    }
    value
}

fn end(end: &End) -> Value {
    json!({
        "reason": show::end_reason(end.reason()),
        "message": end.message,
        "exitCode": end.exit_code,
        "signal": end.signal,
        "apiErrorStatus": end.api_error_status,
    })
}

fn workspace(workspace: &Workspace) -> Value {
    json!({
        "path": workspace.path,
        "worktree": workspace.worktree,
        "branch": text(&workspace.branch),
        "baseCommit": text(&workspace.base_commit),
        "state": show::workspace_state(workspace.state()),
        "keptRef": text(&workspace.kept_ref),
        "keptCommit": text(&workspace.kept_commit),
    })
}

fn tokens(usage: &Usage) -> Value {
    json!({
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cacheRead": usage.cache_read_tokens,
        "cacheCreation": usage.cache_creation_tokens,
    })
}

/// Workers as an array.
pub fn workers(workers: &[Worker]) -> Value {
    workers.iter().map(worker).collect()
}

/// One worker.
pub fn worker(worker: &Worker) -> Value {
    let heartbeat = worker.heartbeat.unwrap_or_default();
    json!({
        "worker": worker.worker,
        "health": show::worker_health(worker.health()),
        "running": worker.running,
        "slots": worker.capacity.map_or(0, |capacity| capacity.slots),
        "labels": labels(&worker.labels),
        "projects": worker.projects.iter().map(project).collect::<Value>(),
        "version": worker.version,
        "claudeVersion": text(&worker.claude_version),
        "incarnation": worker.incarnation,
        "lastSeenAt": moment(worker.last_seen_at.as_ref()),
        "memoryAvailableBytes": worker.heartbeat.map(|_| heartbeat.memory_available_bytes),
        "diskAvailableBytes": worker.heartbeat.map(|_| heartbeat.disk_available_bytes),
        "loadPercent": worker.heartbeat.map(|_| heartbeat.load_percent),
        "servesDeclared": worker.serves_declared,
        "mirroredProjects": worker.mirrored_projects,
        "certificateExpiresAt": moment(worker.certificate_expires_at.as_ref()),
        "maintenance": worker.maintenance.as_ref().map(|maintenance| json!({
            "mode": show::maintenance_mode(maintenance.mode()),
            "reason": text(&maintenance.reason),
            "since": moment(maintenance.since.as_ref()),
            "deadline": moment(maintenance.deadline.as_ref()),
        })),
    })
}

fn project(project: &Project) -> Value {
    json!({
        "name": project.name,
        "path": project.path,
        "git": project.git,
        "allowTrustMode": project.allow_trust_mode,
        "trusted": project.trusted,
        "allowPush": project.allow_push,
    })
}

/// Why a session waits.
pub fn explanation(session: &str, explanation: &ExplainSessionResponse) -> Value {
    json!({
        "sessionId": session,
        "queuePosition": explanation.queue_position,
        "reason": explanation.reason,
        "heldBy": text(&explanation.held_by),
        "effectivePriority": explanation.effective_priority,
        "waitingSince": moment(explanation.waiting_since.as_ref()),
        "earliestStartAt": moment(explanation.earliest_start_at.as_ref()),
        "workers": explanation.verdicts.iter().map(|verdict| json!({
            "worker": verdict.worker,
            "reason": verdict.reason,
            "filter": text(&verdict.filter),
        })).collect::<Value>(),
    })
}

/// What a session changed.
pub fn changes(session: &str, format: ChangesFormat, text: &str, summary: &ChangesSummary) -> Value {
    json!({
        "sessionId": session,
        "format": show::changes_format(format),
        "text": text,
        "branch": summary.branch,
        "baseCommit": summary.base_commit,
        "headCommit": summary.head_commit,
        "uncommitted": is_uncommitted(summary),
        "workCommit": self::text(&summary.work_commit),
        "keptRef": self::text(&summary.kept_ref),
        "filesChanged": summary.files_changed,
        "linesAdded": summary.lines_added,
        "linesDeleted": summary.lines_deleted,
        "commits": summary.commits,
    })
}

fn text(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn moment(timestamp: Option<&Timestamp>) -> Option<String> {
    timestamp.map(ToString::to_string)
}

/// JSON inside a message; a string when it is none.
fn parsed(json: &str) -> Value {
    if json.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(json).unwrap_or_else(|_| Value::from(json))
}

/// Sorted, so that the same labels print the same.
fn labels(labels: &HashMap<String, String>) -> BTreeMap<&str, &str> {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}
