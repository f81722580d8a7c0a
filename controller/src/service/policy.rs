//! What a project may be declared as: every field held against its limit.

use std::collections::HashSet;

use muster_proto::{
    error::Error,
    limits,
    v1::{EnvironmentVariable, OnLost, ProjectPolicy, environment_variable::Source},
};

use super::peer;
use super::validate::{PERMISSION_MODES, Problems, TIMEOUT_MINUTES};

/// Characters of a project's name.
const NAME_CHARS: usize = 64;
/// Bytes of a URL, a set-up command, a variable's value, a path.
const URL_BYTES: usize = 2048;
const COMMAND_BYTES: usize = 16 << 10;
const VALUE_BYTES: usize = 4 << 10;
const PATH_BYTES: usize = 4096;
/// Bytes of a variable's name, of a pattern, of a credential's name.
const VARIABLE_BYTES: usize = 128;
const PATTERN_BYTES: usize = 512;
const CREDENTIAL_BYTES: usize = 255;
/// Longest set-up, in seconds.
const SETUP_SECONDS: u32 = 7200;
/// Variables, patterns, callers.
const VARIABLES: usize = 64;
const PATTERNS: usize = 64;
const CALLERS: usize = 256;
/// A century, in days.
const DAYS: u32 = 36_500;

/// Variables that muster or the isolation of claude rests on, and beginnings of such.
const RESERVED: [&str; 15] = [
    "PATH",
    "HOME",
    "SHELL",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "PWD",
    "IFS",
    "ENV",
    "BASH_ENV",
    "SHELLOPTS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "ANTHROPIC_BASE_URL",
    "CREDENTIALS_DIRECTORY",
];
const RESERVED_BEGINNINGS: [&str; 7] = ["LD_", "DYLD_", "GIT_", "CLAUDE_", "MUSTER_", "XDG_", "BASH_FUNC_"];

/// The name of a declared project.
pub(super) fn name(name: &str) -> Result<(), Error> {
    let mut problems = Problems::default();
    name_problem(&mut problems, name);
    problems.into_result()
}

fn name_problem(problems: &mut Problems, name: &str) {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let sound = (1..=NAME_CHARS).contains(&name.len())
        && name.bytes().all(plain)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric());
    problems.check(sound, "name", || {
        "is no name of 1 to 64 characters of [a-z0-9._-] that begins with a letter or digit".to_owned()
    });
}

/// What a project may be declared as.
pub(super) fn policy(policy: &ProjectPolicy) -> Result<(), Error> {
    let mut problems = Problems::default();
    name_problem(&mut problems, &policy.name);
    if let Err(problem) = git_url(&policy.git_url) {
        problems.check(false, "gitUrl", || problem);
    }
    problems.word("defaultRef", &policy.default_ref, limits::REF_BYTES);
    problems.check(!policy.default_ref.contains(char::is_whitespace), "defaultRef", || {
        "holds a space".to_owned()
    });
    let command = &policy.setup_command;
    problems.check(command.len() <= COMMAND_BYTES, "setupCommand", || {
        format!("has {} bytes, more than the {COMMAND_BYTES} allowed", command.len())
    });
    problems.check(!command.contains('\0'), "setupCommand", || "holds a NUL character".to_owned());
    at_most(&mut problems, "setupTimeoutSeconds", policy.setup_timeout_seconds, SETUP_SECONDS);
    environment(&mut problems, &policy.environment);
    let patterns = &policy.copy_files;
    count(&mut problems, "copyFiles", patterns.len(), PATTERNS);
    let sound = |pattern: &String| {
        !pattern.trim().is_empty()
            && pattern.len() <= PATTERN_BYTES
            && !pattern.chars().any(char::is_control)
            && !pattern.split('/').any(|part| part == "..")
    };
    problems.check(patterns.iter().all(sound), "copyFiles", || {
        format!("has a pattern that is empty, leads out of the project, holds a control character or exceeds {PATTERN_BYTES} bytes")
    });
    problems.labels("requiredLabels", &policy.required_labels);
    modes(&mut problems, policy);
    problems.rules("allowedTools", &policy.allowed_tools);
    problems.rules("disallowedTools", &policy.disallowed_tools);
    let callers = &policy.trust_mode_callers;
    count(&mut problems, "trustModeCallers", callers.len(), CALLERS);
    let is_caller = |name: &String| name == "*" || name.split('/').all(peer::is_name);
    problems.check(callers.iter().all(is_caller), "trustModeCallers", || {
        "has an entry that is neither * nor the name of a caller".to_owned()
    });
    at_most(&mut problems, "maxTimeoutMinutes", policy.max_timeout_minutes, TIMEOUT_MINUTES);
    let budget = policy.max_budget_usd;
    problems.check(budget.is_finite() && budget >= 0.0, "maxBudgetUsd", || "is no amount".to_owned());
    at_most(&mut problems, "keepArchivedDays", policy.keep_archived_days, DAYS);
    at_most(&mut problems, "keepWorkspaceDays", policy.keep_workspace_days, DAYS);
    problems.check(OnLost::try_from(policy.on_lost).is_ok(), "onLost", || {
        "is neither keep nor restart".to_owned()
    });
    problems.into_result()
}

fn at_most(problems: &mut Problems, field: &'static str, value: u32, most: u32) {
    problems.check(value <= most, field, || format!("is {value}, more than the {most} allowed"));
}

fn count(problems: &mut Problems, field: &'static str, number: usize, most: usize) {
    problems.check(number <= most, field, || format!("has {number} entries, more than the {most} allowed"));
}

fn modes(problems: &mut Problems, policy: &ProjectPolicy) {
    let known = |mode: &str| PERMISSION_MODES.contains(&mode);
    let ProjectPolicy { default_permission_mode: default, permission_modes: modes, .. } = policy;
    let listed = || format!("is none of {}", PERMISSION_MODES.join(", "));
    problems.check(default.is_empty() || known(default), "defaultPermissionMode", listed);
    problems.check(modes.iter().all(|mode| known(mode)), "permissionModes", || {
        format!("has a mode that is none of {}", PERMISSION_MODES.join(", "))
    });
    count(problems, "permissionModes", modes.len(), PERMISSION_MODES.len());
    // Claude takes an empty one for `default`.
    let default = if default.is_empty() { "default" } else { default };
    let fits = modes.is_empty() || modes.iter().any(|mode| mode == default);
    problems.check(fits, "defaultPermissionMode", || {
        format!("is {default}, which permissionModes does not have")
    });
}

fn environment(problems: &mut Problems, variables: &[EnvironmentVariable]) {
    count(problems, "environment", variables.len(), VARIABLES);
    let mut names = HashSet::new();
    for variable in variables {
        let shown: String = variable.name.chars().take(VARIABLE_BYTES).collect();
        if let Err(problem) = environment_variable(variable) {
            problems.check(false, "environment", || format!("{shown:?} {problem}"));
        }
        problems.check(names.insert(&variable.name), "environment", || format!("{shown:?} is there twice"));
    }
}

fn is_variable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=VARIABLE_BYTES).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// What is wrong with a variable. Never says its value.
fn environment_variable(variable: &EnvironmentVariable) -> Result<(), String> {
    let name = variable.name.as_str();
    if !is_variable(name) {
        return Err(format!("is no name of a variable of at most {VARIABLE_BYTES} characters"));
    }
    if RESERVED.contains(&name) || RESERVED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) {
        return Err("is one that muster or claude's isolation rests on".to_owned());
    }
    match &variable.source {
        None => Err("has no source".to_owned()),
        Some(Source::Value(value)) if value.len() > VALUE_BYTES => {
            Err(format!("has a value of {} bytes, more than the {VALUE_BYTES} allowed", value.len()))
        }
        Some(Source::Value(value)) if value.contains('\0') => {
            Err("has a value with a NUL character".to_owned())
        }
        Some(Source::WorkerEnv(from)) if !is_variable(from) => {
            Err("is read from what is no name of a variable".to_owned())
        }
        Some(Source::WorkerFile(path)) => {
            let sound = path.starts_with('/')
                && path.len() <= PATH_BYTES
                && !path.chars().any(char::is_control)
                && !path.split('/').any(|part| part == "..");
            if sound { Ok(()) } else { Err("is read from what is no absolute path".to_owned()) }
        }
        Some(Source::WorkerCredential(from)) => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            let sound = (1..=CREDENTIAL_BYTES).contains(&from.len())
                && from.bytes().all(plain)
                && !from.starts_with('.');
            if sound { Ok(()) } else { Err("is read from what is no name of a credential".to_owned()) }
        }
        Some(Source::Value(_) | Source::WorkerEnv(_)) => Ok(()),
    }
}

/// What is wrong with a URL that git is to clone from. Git would take options, helpers (`ext::`) and commands for
/// ssh in its place.
fn git_url(url: &str) -> Result<(), String> {
    if url.is_empty() {
        return Ok(());
    }
    if url.len() > URL_BYTES {
        return Err(format!("has {} bytes, more than the {URL_BYTES} allowed", url.len()));
    }
    if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("holds a space or a control character".to_owned());
    }
    if url.starts_with('-') || url.contains("::") {
        return Err("begins with a dash or names a helper of git".to_owned());
    }
    let host = |host: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-[]:".contains(&byte);
        !host.is_empty() && !host.starts_with('-') && host.bytes().all(plain)
    };
    let user = |user: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !user.is_empty() && !user.starts_with('-') && user.bytes().all(plain)
    };
    let login = |text: &str| match text.split_once('@') {
        Some((name, machine)) => user(name) && host(machine),
        None => host(text),
    };
    let sound = match url.split_once("://") {
        Some(("https", rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            if authority.contains('@') {
                return Err("holds a user or a secret, which does not belong in it".to_owned());
            }
            host(authority) && !path.is_empty()
        }
        Some(("ssh", rest)) => {
            rest.split_once('/').is_some_and(|(authority, path)| login(authority) && !path.is_empty())
        }
        Some(("file", path)) => path.len() > 1 && path.starts_with('/'),
        Some(_) => false,
        None => url.split_once(':').is_some_and(|(machine, path)| {
            login(machine) && !machine.contains([':', '[']) && !path.is_empty() && !path.starts_with('-')
        }),
    };
    if sound {
        Ok(())
    } else {
        Err("is none of https://host/path, ssh://host/path, file:///path and host:path".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> ProjectPolicy {
        ProjectPolicy { name: "api".into(), ..ProjectPolicy::default() }
    }

    #[test]
    fn urls_that_git_would_take_for_something_else_are_refused() {
        for good in [
            "",
            "https://git.example/team/api.git",
            "ssh://git@git.example:2222/team/api.git",
            "git@git.example:team/api.git",
            "git.example:api",
            "file:///srv/git/api.git",
        ] {
            let with = ProjectPolicy { git_url: good.into(), ..named() };
            assert_eq!(policy(&with), Ok(()), "{good}");
        }
        for bad in [
            "--upload-pack=touch /tmp/x",
            "ext::sh -c touch% /tmp/x",
            "ext::sh",
            "http://git.example/api",
            "git://git.example/api",
            "https://user:secret@git.example/api",
            "https://token@git.example/api",
            "ssh://-oProxyCommand=touch/x",
            "ssh://x@-oProxyCommand=touch/x",
            "-oProxyCommand=x:api",
            "git.example:-api",
            "file://relative",
            "/srv/git/api",
            "https://git.example/a b",
            "https://",
        ] {
            let with = ProjectPolicy { git_url: bad.into(), ..named() };
            assert_eq!(policy(&with).expect_err(bad).field, "gitUrl", "{bad}");
        }
    }

    #[test]
    fn every_bad_field_is_named_and_no_value_is_ever_quoted() {
        let variable = |name: &str, source| EnvironmentVariable { name: name.into(), source };
        let value = |text: &str| Some(Source::Value(text.into()));
        for (name, source) in [
            ("PATH", value("x")),
            ("GIT_SSH_COMMAND", value("x")),
            ("LD_PRELOAD", value("x")),
            ("ANTHROPIC_BASE_URL", value("x")),
            ("1A", value("x")),
            ("A=B", value("x")),
            ("A", None),
            ("A", value(&format!("canary{}", "x".repeat(VALUE_BYTES)))),
            ("A", value("canary\0")),
            ("A", Some(Source::WorkerFile("relative".into()))),
            ("A", Some(Source::WorkerFile("/a/../b".into()))),
            ("A", Some(Source::WorkerCredential("../x".into()))),
            ("A", Some(Source::WorkerEnv("$(x)".into()))),
        ] {
            let with = ProjectPolicy { environment: vec![variable(name, source)], ..named() };
            let error = policy(&with).expect_err(name);
            assert_eq!(error.field, "environment");
            assert!(!error.message.contains("canary"), "{}", error.message);
        }
        let twice = vec![variable("A", value("x")), variable("A", value("y"))];
        let bad = [
            (ProjectPolicy { name: "Api".into(), ..named() }, "name"),
            (ProjectPolicy { name: ".api".into(), ..named() }, "name"),
            (ProjectPolicy { default_ref: "-x".into(), ..named() }, "defaultRef"),
            (ProjectPolicy { setup_timeout_seconds: 7201, ..named() }, "setupTimeoutSeconds"),
            (ProjectPolicy { environment: twice, ..named() }, "environment"),
            (ProjectPolicy { copy_files: vec!["../x".into()], ..named() }, "copyFiles"),
            (
                ProjectPolicy { default_permission_mode: "bypassPermissions".into(), ..named() },
                "defaultPermissionMode",
            ),
            (ProjectPolicy { permission_modes: vec!["plan".into()], ..named() }, "defaultPermissionMode"),
            (ProjectPolicy { disallowed_tools: vec!["-x".into()], ..named() }, "disallowedTools"),
            (ProjectPolicy { trust_mode_callers: vec!["a b".into()], ..named() }, "trustModeCallers"),
            (ProjectPolicy { max_budget_usd: f64::NAN, ..named() }, "maxBudgetUsd"),
            (ProjectPolicy { on_lost: 9, ..named() }, "onLost"),
        ];
        for (with, field) in bad {
            assert_eq!(policy(&with).expect_err(field).field, field);
        }
        let callers = vec!["*".into(), "gw/ann".into()];
        policy(&ProjectPolicy { trust_mode_callers: callers, ..named() }).expect("both are callers");
    }
}
