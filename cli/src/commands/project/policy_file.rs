//! A project's policy as TOML: the keys are the fields of `ProjectPolicy` in kebab-case.
//!
//! Invariant: a file is taken whole, or refused with the key at fault and the nearest known one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::Path,
};

use muster_proto::v1::{EnvironmentVariable, OnLost, ProjectPolicy, environment_variable::Source};
use serde::Deserialize;

use crate::{config, failure::Failure};

/// Longest file taken.
const FILE_BYTES: u64 = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    name: String,
    git_url: String,
    default_ref: String,
    setup_command: String,
    setup_timeout_seconds: u32,
    environment: BTreeMap<String, Variable>,
    copy_files: Vec<String>,
    required_labels: BTreeMap<String, String>,
    default_permission_mode: String,
    permission_modes: Vec<String>,
    allowed_tools: Vec<String>,
    disallowed_tools: Vec<String>,
    trust_mode_callers: Vec<String>,
    trusted: bool,
    allow_push: bool,
    max_timeout_minutes: u32,
    max_turns: u32,
    max_budget_usd: f64,
    max_running: u32,
    on_lost: Lost,
    keep_archived_days: u32,
    keep_workspace_days: u32,
}

/// The keys of a file, in the order of the contract.
const KEYS: [&str; 22] = [
    "name",
    "git-url",
    "default-ref",
    "setup-command",
    "setup-timeout-seconds",
    "environment",
    "copy-files",
    "required-labels",
    "default-permission-mode",
    "permission-modes",
    "allowed-tools",
    "disallowed-tools",
    "trust-mode-callers",
    "trusted",
    "allow-push",
    "max-timeout-minutes",
    "max-turns",
    "max-budget-usd",
    "max-running",
    "on-lost",
    "keep-archived-days",
    "keep-workspace-days",
];

/// `NAME = "value"`, or `NAME = { worker-env = "OTHER" }` and the like.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Variable {
    Value(String),
    From(From),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum From {
    Value(String),
    WorkerEnv(String),
    WorkerFile(String),
    WorkerCredential(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Lost {
    #[default]
    Keep,
    Restart,
}

/// The policy in a file; `-`: in stdin.
pub fn read(path: &Path) -> Result<ProjectPolicy, Failure> {
    let cannot = |error: &std::io::Error| {
        Failure::usage(format!("project file {} cannot be read", path.display())).caused_by(error)
    };
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().take(FILE_BYTES).read_to_string(&mut text).map_err(|error| cannot(&error))?;
    } else {
        let file = std::fs::File::open(path).map_err(|error| cannot(&error))?;
        file.take(FILE_BYTES).read_to_string(&mut text).map_err(|error| cannot(&error))?;
    }
    parse(&text).map_err(|mut failure| {
        failure.what = format!("project file {}: {}", path.display(), failure.what);
        failure
    })
}

fn parse(text: &str) -> Result<ProjectPolicy, Failure> {
    let known: BTreeSet<String> = KEYS.iter().map(ToString::to_string).collect();
    config::check_keys(text, &known)?;
    let file: File = toml::from_str(text).map_err(|error| {
        let hint = if error.to_string().contains("environment") || error.to_string().contains("untagged") {
            "a variable is NAME = \"value\", or NAME = { worker-env | worker-file | worker-credential = \"...\" }"
        } else {
            ""
        };
        Failure::usage(error.to_string().trim_end().to_owned()).hint(hint)
    })?;
    Ok(file.policy())
}

impl File {
    fn policy(self) -> ProjectPolicy {
        let environment = self.environment.into_iter().map(|(name, variable)| {
            let source = match variable {
                Variable::Value(value) | Variable::From(From::Value(value)) => Source::Value(value),
                Variable::From(From::WorkerEnv(name)) => Source::WorkerEnv(name),
                Variable::From(From::WorkerFile(path)) => Source::WorkerFile(path),
                Variable::From(From::WorkerCredential(name)) => Source::WorkerCredential(name),
            };
            EnvironmentVariable { name, source: Some(source) }
        });
        let on_lost = match self.on_lost {
            Lost::Keep => OnLost::Keep,
            Lost::Restart => OnLost::Restart,
        };
        // Every field by name: one that is added to the contract and not here does not compile.
        ProjectPolicy {
            name: self.name,
            git_url: self.git_url,
            default_ref: self.default_ref,
            setup_command: self.setup_command,
            setup_timeout_seconds: self.setup_timeout_seconds,
            environment: environment.collect(),
            copy_files: self.copy_files,
            required_labels: self.required_labels.into_iter().collect(),
            default_permission_mode: self.default_permission_mode,
            permission_modes: self.permission_modes,
            allowed_tools: self.allowed_tools,
            disallowed_tools: self.disallowed_tools,
            trust_mode_callers: self.trust_mode_callers,
            trusted: self.trusted,
            allow_push: self.allow_push,
            max_timeout_minutes: self.max_timeout_minutes,
            max_turns: self.max_turns,
            max_budget_usd: self.max_budget_usd,
            max_running: self.max_running,
            on_lost: on_lost.into(),
            keep_archived_days: self.keep_archived_days,
            keep_workspace_days: self.keep_workspace_days,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
name = "web"
git-url = "https://git.example/web.git"
default-ref = "main"
setup-command = "npm ci"
setup-timeout-seconds = 300
copy-files = [".env"]
default-permission-mode = "plan"
permission-modes = ["plan", "default"]
allowed-tools = ["Read"]
disallowed-tools = ["WebFetch"]
trust-mode-callers = ["ci"]
trusted = true
allow-push = true
max-timeout-minutes = 60
max-turns = 100
max-budget-usd = 2.5
max-running = 4
on-lost = "restart"
keep-archived-days = 7
keep-workspace-days = 2

[required-labels]
gpu = "yes"

[environment]
NODE_ENV = "test"
NPM_TOKEN = { worker-credential = "npm" }
"#;

    #[test]
    fn every_key_is_taken_and_none_is_forgotten() {
        let policy = parse(WHOLE).expect("taken");
        assert_eq!((policy.name.as_str(), policy.max_budget_usd), ("web", 2.5));
        assert_eq!(policy.environment[1].source, Some(Source::WorkerCredential("npm".into())));
        assert_eq!(policy.on_lost(), OnLost::Restart);
        for key in KEYS {
            assert!(WHOLE.contains(key), "{key} is not tried");
            let documented = include_str!("../../../../docs/cli.md");
            assert!(documented.contains(&format!("`{key}`")), "{key} is not documented");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_with_what_was_meant() {
        for (text, names) in [
            ("git_url = \"x\"", "git-url"),
            ("max-turn = 1", "max-turns"),
            ("on-lost = \"forget\"", "restart"),
            ("max-turns = \"many\"", "max-turns"),
            ("[environment]\nA = { worker-enf = \"B\" }", "worker-env"),
            ("name = ", "line 1"),
        ] {
            let failure = parse(text).expect_err(text);
            let all = format!("{} {}", failure.what, failure.hint);
            assert!(all.contains(names), "{text}: {all}");
        }
    }
}
