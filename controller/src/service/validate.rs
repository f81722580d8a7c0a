//! What callers and workers may send: every bound in one place, every bad field named.

use std::collections::HashMap;

use muster_proto::{
    error::Error,
    ids::{Incarnation, WorkerId},
    limits, metadata,
    v1::{
        ChangesFormat, CreateAccessRequest, CreateJoinTokenRequest, GetChangesRequest, Hello, Principal,
        Role, SessionSpec, send_input_request::Input,
    },
};

use super::{identity, peer};
use crate::{identity::Scopes, session::record::LOCAL};

/// claude's permission modes that a session may start in.
const PERMISSION_MODES: [&str; 4] = ["default", "acceptEdits", "plan", "dontAsk"];
/// A year: past it a deadline means nothing.
const TIMEOUT_MINUTES: u32 = 366 * 24 * 60;
/// Bytes of a name: model, project, parent session.
const NAME_BYTES: usize = 128;
/// Bytes of the reason of a stop.
const REASON_BYTES: usize = 1 << 10;
/// Sessions one worker may hold.
const SLOTS: u32 = 1000;

/// Paths one question about changes may name, and bytes of each.
const PATHS: usize = 256;
const PATH_BYTES: usize = 4096;
/// Bytes of text of one answer about changes.
pub(super) const CHANGES_BYTES: u32 = 1 << 20;

/// Collects what is wrong with a request, so that a caller can mend it all at once.
#[derive(Default)]
struct Problems(Vec<(&'static str, String)>);

impl Problems {
    fn check(&mut self, holds: bool, field: &'static str, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push((field, problem()));
        }
    }

    fn into_result(self) -> Result<(), Error> {
        let Some((field, _)) = self.0.first() else { return Ok(()) };
        let listed: Vec<_> = self.0.iter().map(|(field, problem)| format!("{field} {problem}")).collect();
        Err(Error::invalid(field, listed.join("; ")))
    }

    /// A text that is handed to claude as it is.
    fn text(&mut self, field: &'static str, text: &str) {
        self.check(!text.trim().is_empty(), field, || "is empty".to_owned());
        self.check(text.len() <= limits::PROMPT_BYTES, field, || {
            format!("has {} bytes, more than the {} allowed", text.len(), limits::PROMPT_BYTES)
        });
    }

    /// A short text that may end up in an argument of a program.
    fn word(&mut self, field: &'static str, word: &str, most: usize) {
        self.check(word.len() <= most, field, || {
            format!("has {} bytes, more than the {most} allowed", word.len())
        });
        self.check(!word.chars().any(char::is_control), field, || "holds a control character".to_owned());
        self.check(!word.starts_with('-'), field, || "begins with a dash".to_owned());
    }

    fn labels(&mut self, field: &'static str, labels: &HashMap<String, String>) {
        self.check(labels.len() <= limits::LABELS, field, || {
            format!("has {} labels, more than the {} allowed", labels.len(), limits::LABELS)
        });
        let long =
            labels.iter().flat_map(|(key, value)| [key, value]).find(|text| text.len() > limits::LABEL_BYTES);
        self.check(long.is_none(), field, || {
            format!("has a key or value longer than the {} bytes allowed", limits::LABEL_BYTES)
        });
        let plain = |text: &String| !text.chars().any(char::is_control);
        let sound = labels.iter().all(|(key, value)| !key.is_empty() && plain(key) && plain(value));
        self.check(sound, field, || "has an empty key or a control character".to_owned());
    }
}

/// What a caller may ask a session to be.
pub(super) fn spec(spec: &SessionSpec) -> Result<(), Error> {
    let mut problems = Problems::default();
    problems.text("prompt", &spec.prompt);
    problems.word("project", &spec.project, NAME_BYTES);
    problems.word("model", &spec.model, NAME_BYTES);
    problems.word("branchName", &spec.branch_name, limits::REF_BYTES);
    problems.word("ref", &spec.r#ref, limits::REF_BYTES);
    problems.word("parentSession", &spec.parent_session, NAME_BYTES);
    let title = spec.title.chars().count();
    problems.check(title <= limits::TITLE_CHARS, "title", || {
        format!("has {title} characters, more than the {} allowed", limits::TITLE_CHARS)
    });
    problems
        .check(!spec.title.chars().any(char::is_control), "title", || "holds a control character".to_owned());
    let mode = spec.permission_mode.as_str();
    problems.check(mode.is_empty() || PERMISSION_MODES.contains(&mode), "permissionMode", || {
        format!("is {mode:?}, not one of {}", PERMISSION_MODES.join(", "))
    });
    let tools = &spec.allowed_tools;
    problems.check(tools.len() <= limits::ALLOWED_TOOLS, "allowedTools", || {
        format!("has {} rules, more than the {} allowed", tools.len(), limits::ALLOWED_TOOLS)
    });
    let sound = |rule: &String| {
        !rule.trim().is_empty()
            && rule.len() <= limits::ALLOWED_TOOL_BYTES
            && !rule.starts_with('-')
            && !rule.chars().any(char::is_control)
    };
    problems.check(tools.iter().all(sound), "allowedTools", || {
        format!(
            "has a rule that is empty, begins with a dash, holds a control character or exceeds {} bytes",
            limits::ALLOWED_TOOL_BYTES
        )
    });
    problems.check(spec.timeout_minutes <= TIMEOUT_MINUTES, "timeoutMinutes", || {
        format!("is {}, more than the {TIMEOUT_MINUTES} allowed", spec.timeout_minutes)
    });
    problems.check(limits::PRIORITIES.contains(&spec.priority), "priority", || {
        format!("is {}, not -10 to 10", spec.priority)
    });
    let budget = spec.max_budget_usd;
    problems.check(budget.is_finite() && budget >= 0.0, "maxBudgetUsd", || "is no amount".to_owned());
    problems.labels("labels", &spec.labels);
    problems.labels("requiredLabels", &spec.required_labels);
    problems.into_result()
}

/// What a caller may ask about the changes of a session.
pub(super) fn changes(request: &GetChangesRequest) -> Result<(), Error> {
    let mut problems = Problems::default();
    let known = request.format() != ChangesFormat::Unspecified;
    problems.check(known, "format", || "is none of stat, patch and commits".to_owned());
    let paths = &request.paths;
    problems.check(paths.len() <= PATHS, "paths", || {
        format!("has {} paths, more than the {PATHS} allowed", paths.len())
    });
    let sound = |path: &String| !path.is_empty() && path.len() <= PATH_BYTES && !path.contains('\0');
    problems.check(paths.iter().all(sound), "paths", || {
        format!("has a path that is empty, holds a NUL character or exceeds {PATH_BYTES} bytes")
    });
    problems.check(request.limit_bytes <= CHANGES_BYTES, "limitBytes", || {
        format!("is {}, more than the {CHANGES_BYTES} allowed", request.limit_bytes)
    });
    problems.into_result()
}

/// The name of a remote: never a URL or a path, which git would take in its place.
pub(super) fn remote(name: &str) -> Result<(), Error> {
    let mut problems = Problems::default();
    problems.word("remote", name, limits::REF_BYTES);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let sound = name.bytes().all(plain) && !name.starts_with(['.', '/']) && !name.contains("..");
    problems.check(sound, "remote", || "is no name of a remote; a URL or a path is not taken".to_owned());
    problems.into_result()
}

/// Longest life of an access token, in seconds.
const ACCESS_SECONDS: u32 = 366 * 24 * 3600;
/// Projects one access token may name.
const ACCESS_PROJECTS: usize = 256;

/// Longest life of a join token, in seconds, and most machines that may use one.
const JOIN_SECONDS: u32 = 7 * 24 * 3600;
const JOIN_USES: u32 = 1000;

/// What a join token may be.
pub(super) fn join(request: &CreateJoinTokenRequest) -> Result<(), Error> {
    let mut problems = Problems::default();
    problems.check(request.ttl_seconds <= JOIN_SECONDS, "ttlSeconds", || {
        format!("is {}, more than the {JOIN_SECONDS} allowed", request.ttl_seconds)
    });
    problems.check(request.uses <= JOIN_USES, "uses", || {
        format!("is {}, more than the {JOIN_USES} allowed", request.uses)
    });
    problems.check(request.worker.is_empty() || request.uses <= 1, "uses", || {
        format!("is {}, and only one machine can be {}", request.uses, request.worker)
    });
    problems.labels("labels", &request.labels);
    problems.into_result()
}

/// What an access token may be.
pub(super) fn access(request: &CreateAccessRequest) -> Result<(), Error> {
    let mut problems = Problems::default();
    problems.check(peer::is_name(&request.name), "name", || peer::NO_NAME.to_owned());
    // Nobody may pass for the machine itself, who may do everything.
    problems.check(request.name != LOCAL, "name", || format!("is {LOCAL}, which nobody else can be"));
    let has_role = identity::ROLES.contains(&request.role());
    problems.check(has_role, "role", || "is none of viewer, operator, orchestrator and admin".to_owned());
    let projects = &request.projects;
    problems.check(projects.len() <= ACCESS_PROJECTS, "projects", || {
        format!("has {} names, more than the {ACCESS_PROJECTS} allowed", projects.len())
    });
    let sound = |name: &String| !name.is_empty() && name.len() <= NAME_BYTES;
    problems.check(projects.iter().all(sound), "projects", || {
        format!("has a name that is empty or longer than {NAME_BYTES} bytes")
    });
    // An admin reaches everything: a limit would be one in name only.
    let is_limited_admin = request.role() == Role::Admin && !projects.is_empty();
    problems.check(!is_limited_admin, "projects", || "cannot limit an admin".to_owned());
    problems.check(Scopes::parse(&request.scopes).is_some() && request.scopes.len() <= 3, "scopes", || {
        "has a name that is none of read, write and trust".to_owned()
    });
    let is_orchestrator = request.role() == Role::Orchestrator;
    problems.check(request.session.is_empty() || is_orchestrator, "session", || {
        "is given, and only an orchestrator can be for one session".to_owned()
    });
    problems.check(request.ttl_seconds <= ACCESS_SECONDS, "ttlSeconds", || {
        format!("is {}, more than the {ACCESS_SECONDS} allowed", request.ttl_seconds)
    });
    problems.into_result()
}

/// Somebody a gateway says it speaks for.
pub(super) fn principal(principal: &Principal) -> Result<(), Error> {
    let mut problems = Problems::default();
    let field = metadata::ON_BEHALF_OF;
    problems.check(peer::is_name(&principal.name), field, || format!("has a name that {}", peer::NO_NAME));
    problems.check(principal.name != LOCAL, field, || format!("is {LOCAL}, which nobody else can be"));
    problems.check(identity::ROLES.contains(&principal.role()), field, || {
        "has a role that is none of viewer, operator, orchestrator and admin".to_owned()
    });
    problems.check(principal.projects.len() <= ACCESS_PROJECTS, field, || {
        format!("has {} projects, more than the {ACCESS_PROJECTS} allowed", principal.projects.len())
    });
    problems.into_result()
}

/// A request id: empty, or short printable ASCII.
pub(super) fn request_id(id: &str) -> Result<(), Error> {
    let mut problems = Problems::default();
    problems.check(id.len() <= limits::REQUEST_ID_BYTES, "requestId", || {
        format!("has {} bytes, more than the {} allowed", id.len(), limits::REQUEST_ID_BYTES)
    });
    let printable = id.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    problems.check(printable, "requestId", || "holds a character that is not printable ASCII".to_owned());
    problems.into_result()
}

/// What may be said to a session, as far as it can be judged without the session.
pub(super) fn input(input: &Input) -> Result<(), Error> {
    let mut problems = Problems::default();
    match input {
        Input::Message(text) => problems.text("message", text),
        Input::Interrupt(wanted) => {
            problems.check(*wanted, "interrupt", || "is false; leave it out instead".to_owned());
        }
        Input::Answer(answer) => {
            let texts = answer.answers.iter().flat_map(|(question, reply)| [question, reply]);
            let size =
                answer.text.len() + answer.updated_input_json.len() + texts.map(String::len).sum::<usize>();
            problems.check(size <= limits::PROMPT_BYTES, "answer", || {
                format!("has {size} bytes, more than the {} allowed", limits::PROMPT_BYTES)
            });
            problems.word("attentionId", &answer.attention_id, NAME_BYTES);
        }
    }
    problems.into_result()
}

/// The reason of a stop.
pub(super) fn reason(reason: &str) -> Result<(), Error> {
    let mut problems = Problems::default();
    problems.check(reason.len() <= REASON_BYTES, "reason", || {
        format!("has {} bytes, more than the {REASON_BYTES} allowed", reason.len())
    });
    problems.into_result()
}

/// Who a worker says it is.
pub(super) fn hello(hello: &Hello) -> Result<(WorkerId, Incarnation), Error> {
    let worker = hello.worker.parse().map_err(|error| Error::invalid("worker", format!("{error}")))?;
    let incarnation =
        hello.incarnation.parse().map_err(|error| Error::invalid("incarnation", format!("{error}")))?;
    let mut problems = Problems::default();
    let slots = hello.capacity.unwrap_or_default().slots;
    problems
        .check((1..=SLOTS).contains(&slots), "capacity", || format!("has {slots} slots, not 1 to {SLOTS}"));
    problems.labels("labels", &hello.labels);
    let sound = |name: &str| {
        !name.is_empty()
            && name.len() <= NAME_BYTES
            && !name.starts_with('-')
            && !name.chars().any(char::is_control)
    };
    problems.check(hello.projects.iter().all(|project| sound(&project.name)), "projects", || {
        format!("has a name that is empty, odd or longer than {NAME_BYTES} bytes")
    });
    problems.into_result()?;
    Ok((worker, incarnation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(prompt: &str) -> SessionSpec {
        SessionSpec { prompt: prompt.to_owned(), ..SessionSpec::default() }
    }

    #[test]
    fn prompts_that_look_odd_are_fine_and_ones_that_cannot_work_are_named() {
        let longest = "x".repeat(limits::PROMPT_BYTES);
        for good in ["-rf /", "$(rm -rf /)", "\"quoted\" 'twice'\nand\tlines", "日本語", longest.as_str()]
        {
            assert_eq!(spec(&prompt(good)), Ok(()));
        }
        let longer = format!("{longest}x");
        for bad in ["", " \n\t ", longer.as_str()] {
            assert_eq!(spec(&prompt(bad)).expect_err("refused").field, "prompt");
        }
    }

    #[test]
    fn every_bad_field_is_named_with_its_limit() {
        let label = |n: usize| (format!("k{n}"), String::new());
        let bad = SessionSpec {
            prompt: String::new(),
            title: "x".repeat(limits::TITLE_CHARS + 1),
            permission_mode: "bypassPermissions".into(),
            branch_name: "--force".into(),
            r#ref: "a".repeat(limits::REF_BYTES + 1),
            labels: (0..=limits::LABELS).map(label).collect(),
            allowed_tools: vec![String::new()],
            max_budget_usd: f64::NAN,
            timeout_minutes: u32::MAX,
            model: "a\u{7}".into(),
            required_labels: HashMap::from([(String::new(), "x".to_owned())]),
            ..SessionSpec::default()
        };
        let error = spec(&bad).expect_err("refused");
        assert_eq!(error.field, "prompt");
        for named in [
            "prompt is empty",
            "title has 121",
            "the 120 allowed",
            "permissionMode",
            "acceptEdits",
            "branchName begins",
            "ref has 256",
            "labels has 33",
            "allowedTools",
            "maxBudgetUsd",
            "timeoutMinutes",
            "model",
            "requiredLabels",
        ] {
            assert!(error.message.contains(named), "{named}: {}", error.message);
        }
    }

    #[test]
    fn request_ids_and_inputs_have_limits_too() {
        assert!(request_id("").is_ok() && request_id("a b~").is_ok());
        assert_eq!(request_id("é").expect_err("refused").field, "requestId");
        assert_eq!(request_id(&"x".repeat(129)).expect_err("refused").field, "requestId");
        assert_eq!(input(&Input::Interrupt(false)).expect_err("refused").field, "interrupt");
        assert_eq!(input(&Input::Message(" \n".into())).expect_err("refused").field, "message");
        input(&Input::Message("a\0b".into())).expect("claude takes any character, and gets exactly these");
        assert!(reason(&"x".repeat(1025)).is_err());
    }
}
