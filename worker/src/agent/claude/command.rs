//! claude's command line and environment for one attempt.
//!
//! A value that a caller chose is always the second half of one `--flag=value` argument, so that it can never become a
//! flag. The environment is made, not inherited: an allow-list of what a program needs, and what the worker's
//! configuration names.

use std::{collections::BTreeMap, env, path::Path};

use muster_proto::v1::SessionSpec;
use uuid::Uuid;

use crate::config::ClaudeConfig;

/// Variables every claude gets when the worker has them.
const PASSED: [&str; 8] = ["HOME", "PATH", "LANG", "USER", "LOGNAME", "SHELL", "TMPDIR", "SSL_CERT_FILE"];
/// Marks every process of a session, so that what a lost shim leaves behind can be found.
pub const SESSION_VARIABLE: &str = "MUSTER_SESSION";

/// What decides a command line.
#[derive(Debug)]
pub struct Request<'a> {
    /// Of the session; claude's own session id too.
    pub session: &'a Uuid,
    /// What the caller asked for.
    pub spec: &'a SessionSpec,
    /// The conversation exists already.
    pub resume: bool,
    /// The repository's own settings, hooks and MCP servers may be used.
    pub trusted: bool,
    /// Rules that deny, whatever the session allows.
    pub disallowed: &'a [String],
    /// W3C trace context for claude's own spans; empty: none.
    pub traceparent: &'a str,
    /// An existing folder for what claude and its tools leave behind while they run; `None`: the machine's own.
    pub temporary: Option<&'a Path>,
}

/// The arguments after the program's name.
#[must_use]
pub fn args(request: &Request<'_>) -> Vec<String> {
    let spec = request.spec;
    let mut args: Vec<String> = [
        "-p",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--verbose",
        "--permission-prompt-tool=stdio",
        "--replay-user-messages",
        // The auto-mode classifier would let a plan touch files unasked.
        r#"--settings={"useAutoModeDuringPlan":false}"#,
    ]
    .map(ToOwned::to_owned)
    .to_vec();
    let id = request.session.as_hyphenated();
    args.push(if request.resume { format!("--resume={id}") } else { format!("--session-id={id}") });
    if spec.trust_mode {
        // The first would overrule plan mode; the second lets an approved plan go on without prompts.
        let plans = spec.permission_mode == "plan";
        let flag =
            if plans { "--allow-dangerously-skip-permissions" } else { "--dangerously-skip-permissions" };
        args.push(flag.to_owned());
    }
    // Named even when it is the default: some versions begin in another.
    match spec.permission_mode.as_str() {
        mode if spec.trust_mode && mode != "plan" => {}
        "" => args.push("--permission-mode=default".to_owned()),
        mode => args.push(format!("--permission-mode={mode}")),
    }
    if !spec.model.is_empty() {
        args.push(format!("--model={}", spec.model));
    }
    if spec.max_turns > 0 {
        args.push(format!("--max-turns={}", spec.max_turns));
    }
    if spec.max_budget_usd > 0.0 {
        args.push(format!("--max-budget-usd={}", spec.max_budget_usd));
    }
    args.extend(spec.allowed_tools.iter().map(|rule| format!("--allowedTools={rule}")));
    args.extend(request.disallowed.iter().map(|rule| format!("--disallowedTools={rule}")));
    if !request.trusted {
        args.push("--setting-sources=user".to_owned());
        args.push("--strict-mcp-config".to_owned());
    }
    args
}

/// What any claude gets, also for `--version`.
#[must_use]
pub fn base_env(config: &ClaudeConfig) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            PASSED.contains(&name.as_str())
                || name.starts_with("XDG_")
                || name.starts_with("LC_")
                || config.pass_env.contains(name)
        })
        .collect();
    variables.insert("TERM".to_owned(), "dumb".to_owned());
    variables.insert("DISABLE_AUTOUPDATER".to_owned(), "1".to_owned());
    variables.extend(config.env.clone());
    variables
}

/// What a project's set-up command gets besides what the policy gives it: what any program needs to be found and to find a
/// home, nothing of claude's, and the mark of the session.
#[must_use]
pub fn setup_env(session: &Uuid) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> = ["HOME", "PATH", "LANG", "USER", "LOGNAME"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), env::var(name).ok()?)))
        .collect();
    variables.insert("TERM".to_owned(), "dumb".to_owned());
    variables.insert(SESSION_VARIABLE.to_owned(), session.to_string());
    variables
}

/// The whole environment of an attempt.
#[must_use]
pub fn env(config: &ClaudeConfig, request: &Request<'_>) -> BTreeMap<String, String> {
    let mut variables = base_env(config);
    variables.insert("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS".to_owned(), "1".to_owned());
    variables.insert(SESSION_VARIABLE.to_owned(), request.session.to_string());
    if request.spec.trust_mode && nix::unistd::Uid::effective().is_root() {
        // claude refuses to skip permissions as root unless it is told that this is a sandbox.
        variables.insert("IS_SANDBOX".to_owned(), "1".to_owned());
    }
    if let Some(temporary) = request.temporary.and_then(Path::to_str) {
        // Where claude keeps files of its tools, and its sockets unless there is an XDG_RUNTIME_DIR.
        for name in ["CLAUDE_CODE_TMPDIR", "XDG_RUNTIME_DIR"] {
            if !config.env.contains_key(name) {
                variables.insert(name.to_owned(), temporary.to_owned());
            }
        }
    }
    if !request.traceparent.is_empty() {
        variables.insert("TRACEPARENT".to_owned(), request.traceparent.to_owned());
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(session: &'a Uuid, spec: &'a SessionSpec) -> Request<'a> {
        Request {
            session,
            spec,
            resume: false,
            trusted: false,
            disallowed: &[],
            traceparent: "",
            temporary: None,
        }
    }

    #[test]
    fn no_value_of_a_caller_becomes_a_flag() {
        let session = Uuid::from_u128(1);
        let spec = SessionSpec {
            prompt: "--dangerously-skip-permissions".to_owned(),
            model: "--help".to_owned(),
            permission_mode: "--version".to_owned(),
            allowed_tools: vec!["--mcp-config".to_owned(), "Bash(git log:*)".to_owned()],
            max_turns: 3,
            max_budget_usd: 0.5,
            ..SessionSpec::default()
        };
        let args = args(&request(&session, &spec));
        assert!(!args.iter().any(|arg| arg.contains("skip-permissions")), "a prompt is never an argument");
        for expected in [
            "--model=--help",
            "--permission-mode=--version",
            "--allowedTools=--mcp-config",
            "--allowedTools=Bash(git log:*)",
            "--max-turns=3",
            "--max-budget-usd=0.5",
            "--session-id=00000000-0000-0000-0000-000000000001",
            "--strict-mcp-config",
        ] {
            assert!(args.iter().any(|arg| arg == expected), "{expected}");
        }
    }

    #[test]
    fn trust_mode_resume_and_trusted_projects_change_the_line() {
        let session = Uuid::from_u128(1);
        let spec = SessionSpec { trust_mode: true, ..SessionSpec::default() };
        let trusting = Request { resume: true, trusted: true, ..request(&session, &spec) };
        let args = args(&trusting);
        assert!(args.iter().any(|arg| arg == "--dangerously-skip-permissions"));
        assert!(args.iter().any(|arg| arg.starts_with("--resume=")));
        assert!(!args.iter().any(|arg| arg.contains("strict-mcp") || arg.contains("setting-sources")));
        let plans = SessionSpec { permission_mode: "plan".to_owned(), ..spec.clone() };
        let args = super::args(&Request { spec: &plans, ..request(&session, &spec) });
        assert!(args.iter().any(|arg| arg == "--allow-dangerously-skip-permissions"));
        assert!(args.iter().any(|arg| arg == "--permission-mode=plan"));
        let root = nix::unistd::Uid::effective().is_root();
        assert_eq!(env(&ClaudeConfig::default(), &trusting).contains_key("IS_SANDBOX"), root);
    }

    #[test]
    fn the_environment_is_made_and_not_inherited() {
        let session = Uuid::from_u128(1);
        let spec = SessionSpec::default();
        let mut config = ClaudeConfig::default();
        config.env.insert("ANTHROPIC_BASE_URL".to_owned(), "http://127.0.0.1:1".to_owned());
        config.env.insert("XDG_RUNTIME_DIR".to_owned(), "/run/chosen".to_owned());
        let traced = Request {
            traceparent: "00-1-2-01",
            temporary: Some(Path::new("/own")),
            ..request(&session, &spec)
        };
        let variables = env(&config, &traced);
        assert!(
            !variables.keys().any(|name| name.starts_with("CARGO")),
            "the test runner's own are not passed"
        );
        assert_eq!(variables["TRACEPARENT"], "00-1-2-01");
        assert_eq!(variables["ANTHROPIC_BASE_URL"], "http://127.0.0.1:1");
        assert_eq!(variables["CLAUDE_CODE_TMPDIR"], "/own");
        assert_eq!(variables["XDG_RUNTIME_DIR"], "/run/chosen", "the operator's word is the last");
        assert_eq!(variables[SESSION_VARIABLE], session.to_string());
        assert!(!variables.contains_key("IS_SANDBOX"));
    }
}
