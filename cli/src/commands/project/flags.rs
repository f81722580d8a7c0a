//! A project's policy as flags. What is not given is left as it is; a list that is given takes the place of the one there.

use clap::{Args, ValueEnum};
use muster_proto::v1::{EnvironmentVariable, OnLost, ProjectPolicy, environment_variable::Source};

use crate::{
    args::{KeyValue, YesNo},
    failure::Failure,
    span::Span,
};

const ENVIRONMENT: &str = "Environment of the set-up command and claude";
const LIMITS: &str = "Ceilings";

/// What a pair of a flag means.
type MakeSource = fn(String) -> Source;

/// See the module. An empty text or a single empty item takes back what was set.
#[derive(Debug, Default, Args)]
pub struct Flags {
    /// Where it is cloned from [default: only workers with a directory of this name serve it]
    #[arg(long = "git", alias = "git-url", value_name = "URL")]
    git_url: Option<String>,
    /// What branches start from when the session names nothing [default: HEAD of the remote]
    #[arg(long, value_name = "REF")]
    default_ref: Option<String>,
    /// Run by `sh -c` in a new worktree before claude starts
    #[arg(long, value_name = "COMMAND")]
    setup_command: Option<String>,
    /// How long that may take, at most 2h [default: 10m]
    #[arg(long, value_name = "TIME")]
    setup_timeout: Option<Span>,
    /// A variable, not secret; repeat for several. Any of the --env flags replaces all variables
    #[arg(long, value_name = "NAME=VALUE", help_heading = ENVIRONMENT)]
    env: Vec<KeyValue>,
    /// A variable with the value of one of the worker's own
    #[arg(long, value_name = "NAME=VARIABLE", help_heading = ENVIRONMENT)]
    env_worker: Vec<KeyValue>,
    /// A variable whose value is in a file on the worker
    #[arg(long, value_name = "NAME=PATH", help_heading = ENVIRONMENT)]
    env_file: Vec<KeyValue>,
    /// A variable whose value is a systemd credential of the worker's unit
    #[arg(long, value_name = "NAME=CREDENTIAL", help_heading = ENVIRONMENT)]
    env_credential: Vec<KeyValue>,
    /// Files not in git that a new worktree gets, as a pattern of .gitignore; repeat for several
    #[arg(long, value_name = "PATTERN")]
    copy_file: Vec<String>,
    /// A label the worker must carry; repeat for several
    #[arg(long, value_name = "KEY=VALUE")]
    required_label: Vec<KeyValue>,
    /// Permission mode of sessions that name none
    #[arg(long, value_name = "MODE")]
    default_permission_mode: Option<String>,
    /// A permission mode a session may ask for; repeat for several [default: all but trust mode]
    #[arg(long, value_name = "MODE")]
    permission_mode: Vec<String>,
    /// A rule every session gets besides its own; repeat for several
    #[arg(long, value_name = "RULE")]
    allowed_tool: Vec<String>,
    /// A rule that denies, whatever the session allows; repeat for several
    #[arg(long, value_name = "RULE")]
    disallowed_tool: Vec<String>,
    /// A caller whose sessions may use trust mode, `*`: all; repeat for several [default: none]
    #[arg(long, value_name = "CALLER")]
    trust_mode_caller: Vec<String>,
    /// Use the repository's own settings, hooks and MCP servers [default: no]
    #[arg(long)]
    trusted: Option<YesNo>,
    /// Let sessions' branches be pushed to its remotes [default: no]
    #[arg(long)]
    allow_push: Option<YesNo>,
    /// Longest a session may take; 0: no ceiling
    #[arg(long, value_name = "MINUTES", help_heading = LIMITS)]
    max_timeout_minutes: Option<u32>,
    /// Most steps of the model in a turn; 0: no ceiling
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    max_turns: Option<u32>,
    /// Most a turn may cost; 0: no ceiling
    #[arg(long, value_name = "DOLLARS", help_heading = LIMITS)]
    max_budget_usd: Option<f64>,
    /// Sessions of it that run at once; 0: no limit
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    max_running: Option<u32>,
    /// What becomes of a session whose worker is cut off [default: keep]
    #[arg(long)]
    on_lost: Option<Lost>,
    /// How long archived sessions are kept; 0: as the controller is set
    #[arg(long, value_name = "DAYS")]
    keep_archived_days: Option<u32>,
    /// How long the workspace of an ended session is kept that nobody archived; 0: as the worker is set
    #[arg(long, value_name = "DAYS")]
    keep_workspace_days: Option<u32>,
}

/// What becomes of a session whose worker is cut off for longer than its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lost {
    /// It waits for its worker
    Keep,
    /// It starts once more elsewhere when it can no longer run there
    Restart,
}

impl Flags {
    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        // One default policy against itself with the flags: nothing may differ, for empty lists neither.
        let probe = ProjectPolicy {
            git_url: "\u{0}".into(),
            default_ref: "\u{0}".into(),
            setup_command: "\u{0}".into(),
            setup_timeout_seconds: u32::MAX,
            environment: vec![EnvironmentVariable::default()],
            copy_files: vec!["\u{0}".into()],
            required_labels: [("\u{0}".into(), String::new())].into(),
            default_permission_mode: "\u{0}".into(),
            permission_modes: vec!["\u{0}".into()],
            allowed_tools: vec!["\u{0}".into()],
            disallowed_tools: vec!["\u{0}".into()],
            trust_mode_callers: vec!["\u{0}".into()],
            max_timeout_minutes: u32::MAX,
            max_turns: u32::MAX,
            max_budget_usd: -1.0,
            max_running: u32::MAX,
            keep_archived_days: u32::MAX,
            keep_workspace_days: u32::MAX,
            ..ProjectPolicy::default()
        };
        let mut changed = probe.clone();
        let switches = self.trusted.is_some() || self.allow_push.is_some() || self.on_lost.is_some();
        !switches && self.apply(&mut changed).is_ok() && changed == probe
    }

    /// Puts what was given over `policy`.
    pub fn apply(&self, policy: &mut ProjectPolicy) -> Result<(), Failure> {
        text(&self.git_url, &mut policy.git_url);
        text(&self.default_ref, &mut policy.default_ref);
        text(&self.setup_command, &mut policy.setup_command);
        number(self.setup_timeout.map(Span::seconds), &mut policy.setup_timeout_seconds);
        let environment = self.environment()?;
        if !environment.is_empty() {
            policy.environment = environment;
        }
        list(&self.copy_file, &mut policy.copy_files);
        if !self.required_label.is_empty() {
            let labels = self.required_label.iter().map(|label| (label.key.clone(), label.value.clone()));
            policy.required_labels = labels.collect();
        }
        text(&self.default_permission_mode, &mut policy.default_permission_mode);
        list(&self.permission_mode, &mut policy.permission_modes);
        list(&self.allowed_tool, &mut policy.allowed_tools);
        list(&self.disallowed_tool, &mut policy.disallowed_tools);
        list(&self.trust_mode_caller, &mut policy.trust_mode_callers);
        if let Some(said) = self.trusted {
            policy.trusted = said == YesNo::Yes;
        }
        if let Some(said) = self.allow_push {
            policy.allow_push = said == YesNo::Yes;
        }
        number(self.max_timeout_minutes, &mut policy.max_timeout_minutes);
        number(self.max_turns, &mut policy.max_turns);
        number(self.max_budget_usd, &mut policy.max_budget_usd);
        number(self.max_running, &mut policy.max_running);
        if let Some(lost) = self.on_lost {
            policy.set_on_lost(match lost {
                Lost::Keep => OnLost::Keep,
                Lost::Restart => OnLost::Restart,
            });
        }
        number(self.keep_archived_days, &mut policy.keep_archived_days);
        number(self.keep_workspace_days, &mut policy.keep_workspace_days);
        Ok(())
    }

    fn environment(&self) -> Result<Vec<EnvironmentVariable>, Failure> {
        let sources: [(&[KeyValue], MakeSource); 4] = [
            (&self.env, Source::Value),
            (&self.env_worker, Source::WorkerEnv),
            (&self.env_file, Source::WorkerFile),
            (&self.env_credential, Source::WorkerCredential),
        ];
        let mut variables: Vec<EnvironmentVariable> = Vec::new();
        for (pairs, source) in sources {
            for KeyValue { key, value } in pairs {
                if variables.iter().any(|known| known.name == *key) {
                    return Err(Failure::usage(format!("variable {key} is given twice")));
                }
                variables
                    .push(EnvironmentVariable { name: key.clone(), source: Some(source(value.clone())) });
            }
        }
        Ok(variables)
    }
}

fn text(given: &Option<String>, field: &mut String) {
    if let Some(given) = given {
        field.clone_from(given);
    }
}

fn number<T>(given: Option<T>, field: &mut T) {
    if let Some(given) = given {
        *field = given;
    }
}

fn list(given: &[String], field: &mut Vec<String>) {
    if !given.is_empty() {
        *field = given.iter().filter(|item| !item.is_empty()).cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(args: &[&str]) -> Flags {
        Line::try_parse_from([&["project"], args].concat()).expect("parses").flags
    }

    #[test]
    fn what_is_not_named_stays_and_an_empty_item_takes_a_list_back() {
        let mut policy = ProjectPolicy {
            git_url: "https://a.example/r.git".into(),
            allowed_tools: vec!["Read".into()],
            max_turns: 7,
            ..ProjectPolicy::default()
        };
        flags(&["--allowed-tool", "", "--max-running", "2", "--on-lost", "restart", "--trusted", "yes"])
            .apply(&mut policy)
            .expect("taken");
        assert_eq!((policy.git_url.as_str(), policy.max_turns), ("https://a.example/r.git", 7));
        assert!(policy.allowed_tools.is_empty() && policy.trusted);
        assert_eq!((policy.max_running, policy.on_lost()), (2, OnLost::Restart));
    }

    #[test]
    fn nothing_given_is_nothing() {
        assert!(flags(&[]).is_empty());
        for given in [
            &["--trusted", "no"][..],
            &["--max-turns", "0"],
            &["--copy-file", ""],
            &["--git", ""],
            &["--env", "A=b"],
            &["--on-lost", "keep"],
        ] {
            assert!(!flags(given).is_empty(), "{given:?}");
        }
    }

    #[test]
    fn a_variable_has_one_source() {
        let given = flags(&["--env", "A=b", "--env-credential", "T=npm", "--env-file", "F=/run/f"]);
        let variables = given.environment().expect("taken");
        assert_eq!(variables.len(), 3);
        assert_eq!(variables[2].source, Some(Source::WorkerCredential("npm".into())));
        assert!(flags(&["--env", "A=b", "--env-worker", "A=C"]).environment().is_err());
    }
}
