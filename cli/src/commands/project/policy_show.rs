//! Declared projects as a table, a page and JSON. Pure.

use std::{collections::BTreeMap, fmt::Write as _, time::SystemTime};

use muster_proto::v1::{
    DeclaredProject, EnvironmentVariable, OnLost, ProjectPolicy, environment_variable::Source,
};
use serde_json::{Value, json};

use crate::{
    output::{Cell, Table},
    show,
};

/// `keep`, also where nothing was said.
fn on_lost(policy: &ProjectPolicy) -> &'static str {
    match policy.on_lost() {
        OnLost::Restart => "restart",
        OnLost::Keep | OnLost::Unspecified => "keep",
    }
}

fn labels(policy: &ProjectPolicy) -> BTreeMap<&str, &str> {
    policy.required_labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn pairs(policy: &ProjectPolicy) -> String {
    let labels: Vec<String> =
        labels(policy).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(" ")
}

/// Where the value of a variable comes from, and its name there. A plain value is no secret.
fn source(variable: &EnvironmentVariable) -> (&'static str, &str) {
    match &variable.source {
        Some(Source::Value(value)) => ("value", value),
        Some(Source::WorkerEnv(name)) => ("workerEnv", name),
        Some(Source::WorkerFile(path)) => ("workerFile", path),
        Some(Source::WorkerCredential(name)) => ("workerCredential", name),
        None => ("value", ""),
    }
}

/// A row a project.
pub fn table(projects: &[DeclaredProject], now: SystemTime) -> Table {
    let mut table = Table::new(&["PROJECT", "ON LOST", "RUNNING AT MOST", "LABELS", "CHANGED", "BY", "GIT"])
        .optional(&[5, 4]);
    for project in projects {
        let empty = ProjectPolicy::default();
        let policy = project.policy.as_ref().unwrap_or(&empty);
        let most = if policy.max_running == 0 { String::new() } else { policy.max_running.to_string() };
        table.row(vec![
            Cell::new(&policy.name),
            Cell::new(on_lost(policy)),
            Cell::new(&most),
            Cell::new(&pairs(policy)),
            Cell::new(&show::age(project.changed_at.as_ref(), now))
                .plain(&show::moment(project.changed_at.as_ref())),
            Cell::new(&project.changed_by),
            Cell::new(&policy.git_url),
        ]);
    }
    table
}

/// Everything that was said of a project, a line each.
pub fn page(project: &DeclaredProject) -> String {
    let empty = ProjectPolicy::default();
    let policy = project.policy.as_ref().unwrap_or(&empty);
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        let value = show::line(value);
        if !value.is_empty() {
            let _ = writeln!(text, "{:<24}{value}", format!("{name}:"));
        }
    };
    let count = |number: u32| if number == 0 { String::new() } else { number.to_string() };
    field("project", &policy.name);
    field("git-url", &policy.git_url);
    field("default-ref", &policy.default_ref);
    field("setup-command", &policy.setup_command);
    field("setup-timeout-seconds", &count(policy.setup_timeout_seconds));
    for variable in &policy.environment {
        let (from, value) = source(variable);
        field("environment", &format!("{} ({from}: {value})", variable.name));
    }
    field("copy-files", &policy.copy_files.join(" "));
    field("required-labels", &pairs(policy));
    field("default-permission-mode", &policy.default_permission_mode);
    field("permission-modes", &policy.permission_modes.join(" "));
    field("allowed-tools", &policy.allowed_tools.join(", "));
    field("disallowed-tools", &policy.disallowed_tools.join(", "));
    field("trust-mode-callers", &policy.trust_mode_callers.join(" "));
    field("trusted", if policy.trusted { "yes" } else { "no" });
    field("allow-push", if policy.allow_push { "yes" } else { "no" });
    field("max-timeout-minutes", &count(policy.max_timeout_minutes));
    field("max-turns", &count(policy.max_turns));
    field("max-budget-usd", &show::cost(policy.max_budget_usd));
    field("max-running", &count(policy.max_running));
    field("on-lost", on_lost(policy));
    field("keep-archived-days", &count(policy.keep_archived_days));
    field("keep-workspace-days", &count(policy.keep_workspace_days));
    field("declared", &show::second(project.declared_at.as_ref()));
    field("changed", &format!("{} by {}", show::second(project.changed_at.as_ref()), project.changed_by));
    field("revision", &project.revision.to_string());
    text
}

/// As docs/cli.md publishes it.
pub fn document(project: &DeclaredProject) -> Value {
    let empty = ProjectPolicy::default();
    let policy = project.policy.as_ref().unwrap_or(&empty);
    let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(str::to_owned);
    let count = |number: u32| Some(number).filter(|number| *number > 0);
    let environment: Value = policy
        .environment
        .iter()
        .map(|variable| {
            let (from, value) = source(variable);
            let mut document = json!({ "name": variable.name });
            document[from] = value.into();
            document
        })
        .collect();
    json!({
        "name": policy.name,
        "gitUrl": text(&policy.git_url),
        "defaultRef": text(&policy.default_ref),
        "setupCommand": text(&policy.setup_command),
        "setupTimeoutSeconds": count(policy.setup_timeout_seconds),
        "environment": environment,
        "copyFiles": policy.copy_files,
        "requiredLabels": labels(policy),
        "defaultPermissionMode": text(&policy.default_permission_mode),
        "permissionModes": policy.permission_modes,
        "allowedTools": policy.allowed_tools,
        "disallowedTools": policy.disallowed_tools,
        "trustModeCallers": policy.trust_mode_callers,
        "trusted": policy.trusted,
        "allowPush": policy.allow_push,
        "maxTimeoutMinutes": count(policy.max_timeout_minutes),
        "maxTurns": count(policy.max_turns),
        "maxBudgetUsd": (policy.max_budget_usd > 0.0).then_some(policy.max_budget_usd),
        "maxRunning": count(policy.max_running),
        "onLost": on_lost(policy),
        "keepArchivedDays": count(policy.keep_archived_days),
        "keepWorkspaceDays": count(policy.keep_workspace_days),
        "declaredAt": project.declared_at.as_ref().map(ToString::to_string),
        "changedAt": project.changed_at.as_ref().map(ToString::to_string),
        "changedBy": text(&project.changed_by),
        "revision": project.revision,
    })
}
