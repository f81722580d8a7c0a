//! The policy of a project as the worker carries it out: what it refuses, what a session is given, and that secrets are nowhere.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use muster_proto::v1::{
    EndReason, EnvironmentVariable, ProjectPolicy, SessionSpec, StartSession, environment_variable::Source,
};

use crate::support::{Controller, Machine, git, message, start_order, there, until};

async fn farm() -> (Controller, Machine, ProjectPolicy) {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.start().await;
    (controller, machine, ProjectPolicy { name: "p".to_owned(), ..ProjectPolicy::default() })
}

fn order(handle: &str, prompt: &str, policy: &ProjectPolicy) -> StartSession {
    StartSession { policy: Some(policy.clone()), ..start_order(handle, prompt) }
}

async fn end(controller: &Controller, start: &StartSession) -> (EndReason, String) {
    let end = controller.ended(start).await.end.expect("set");
    (end.reason(), end.message)
}

fn variable(name: &str, source: Source) -> EnvironmentVariable {
    EnvironmentVariable { name: name.to_owned(), source: Some(source) }
}

#[tokio::test]
async fn what_goes_beyond_the_policy_does_not_start_and_is_named() {
    let (controller, machine, policy) = farm().await;
    let policy = ProjectPolicy { max_turns: 3, permission_modes: vec!["plan".to_owned()], ..policy };
    let planned = SessionSpec { permission_mode: "plan".to_owned(), ..SessionSpec::default() };
    for (number, (spec, says)) in [
        (SessionSpec { max_turns: 4, ..planned.clone() }, "maxTurns 4, at most 3"),
        (SessionSpec::default(), "permission mode default"),
        (SessionSpec { trust_mode: true, ..planned.clone() }, "trust mode"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut start = order(&format!("beyond-{number}"), "say x", &policy);
        start.spec = Some(SessionSpec { project: "p".to_owned(), ..spec });
        controller.start_session(&start).await;
        let (reason, text) = end(&controller, &start).await;
        assert!(reason == EndReason::StartFailed && text.contains(says), "{text}");
        assert!(!machine.state.join(format!("worktrees/beyond-{number}")).exists());
    }
    for name in ["PATH", "LD_PRELOAD", "ANTHROPIC_BASE_URL"] {
        let environment = vec![variable(name, Source::Value("x".to_owned()))];
        let start = order(
            &format!("name-{}", name.to_lowercase().replace('_', "-")),
            "say x",
            &ProjectPolicy { environment, permission_modes: Vec::new(), ..policy.clone() },
        );
        controller.start_session(&start).await;
        let (reason, text) = end(&controller, &start).await;
        assert!(reason == EndReason::StartFailed && text.contains(name), "{text}");
    }
    let within = ProjectPolicy {
        disallowed_tools: vec!["Bash(rm:*)".to_owned()],
        allowed_tools: vec!["Read".to_owned()],
        default_permission_mode: "plan".to_owned(),
        ..policy
    };
    let start = order("within-abcdef", "say x", &within);
    controller.start_session(&start).await;
    assert_eq!(end(&controller, &start).await.0, EndReason::TurnCompleted);
    let argv = fs::read_to_string(machine.home.join("argv.log")).expect("there");
    for arg in
        ["--disallowedTools=Bash(rm:*)", "--allowedTools=Read", "--max-turns=3", "--permission-mode=plan"]
    {
        assert!(argv.contains(arg), "{arg}: {argv}");
    }
}

/// Everything that is logged by this program, at every level.
fn log() -> Arc<Mutex<Vec<u8>>> {
    static ONCE: Once = Once::new();
    static LOG: Mutex<Option<Arc<Mutex<Vec<u8>>>>> = Mutex::new(None);
    #[derive(Clone)]
    struct Into(Arc<Mutex<Vec<u8>>>);
    impl Write for Into {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panicked").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    ONCE.call_once(|| {
        let into = Into(Arc::default());
        *LOG.lock().expect("no test panicked") = Some(Arc::clone(&into.0));
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_writer(move || into.clone())
            .finish();
        let _ = tracing::subscriber::set_global_default(subscriber);
    });
    LOG.lock().expect("no test panicked").clone().expect("set")
}

fn holds(bytes: &[u8], canary: &str) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary.as_bytes())
}

fn search(dir: &Path, canary: &str, found: &mut Vec<String>, searched: &mut usize) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            search(&path, canary, found, searched);
        } else if kind.is_file() {
            *searched += 1;
            if holds(&fs::read(&path).unwrap_or_default(), canary) {
                found.push(path.display().to_string());
            }
        }
    }
}

#[tokio::test]
async fn secrets_reach_set_up_and_claude_and_are_nowhere_else() {
    const CANARY: &str = "c4n4ry-s3cret-0f-a-f1le";
    const KEY: &str = "c4n4ry-0f-the-0perator";
    let log = log();
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.config.claude.env.insert("ANTHROPIC_AUTH_TOKEN".to_owned(), KEY.to_owned());
    machine.start().await;
    let outside = tempfile::tempdir().expect("a folder");
    let file = outside.path().join("token");
    fs::write(&file, format!("{CANARY}\n")).expect("written");
    let policy = ProjectPolicy {
        name: "p".to_owned(),
        environment: vec![
            variable("TOKEN", Source::WorkerFile(file.to_string_lossy().into_owned())),
            variable("MANIFEST", Source::WorkerEnv("CARGO_MANIFEST_DIR".to_owned())),
            variable("PLAIN", Source::Value("three".to_owned())),
        ],
        setup_command: "test ${#TOKEN} = 23 && test -z \"$ANTHROPIC_AUTH_TOKEN\" && echo \"$TOKEN\" && echo \"$TOKEN\" >&2"
            .to_owned(),
        ..ProjectPolicy::default()
    };
    let start = order("secret-abcdef", "lengths TOKEN MANIFEST PLAIN ANTHROPIC_AUTH_TOKEN", &policy);
    controller.start_session(&start).await;
    let ended = controller.ended(&start).await;
    let manifest = env!("CARGO_MANIFEST_DIR").len();
    let expected =
        format!("TOKEN={} MANIFEST={manifest} PLAIN=5 ANTHROPIC_AUTH_TOKEN={}", CANARY.len(), KEY.len());
    assert_eq!(ended.result_text, expected, "{ended:?}");
    // A set-up that fails and says it all.
    let failing = ProjectPolicy { setup_command: "echo \"$TOKEN\" >&2; exit 3".to_owned(), ..policy.clone() };
    let fails = order("fails-abcdef", "say x", &failing);
    controller.start_session(&fails).await;
    let (reason, text) = end(&controller, &fails).await;
    assert_eq!(reason, EndReason::SetupFailed);
    assert!(text.contains("code 3") && text.contains("***") && !text.contains(CANARY), "{text}");
    let missing = ProjectPolicy {
        environment: vec![variable("TOKEN", Source::WorkerFile("/nowhere/token".to_owned()))],
        ..policy
    };
    let lacks = order("lacks-abcdef", "say x", &missing);
    controller.start_session(&lacks).await;
    let (reason, text) = end(&controller, &lacks).await;
    assert!(reason == EndReason::StartFailed && text.contains("variable TOKEN: /nowhere/token"), "{text}");
    let (mut found, mut searched) = (Vec::new(), 0);
    for canary in [CANARY, KEY] {
        search(&machine.state, canary, &mut found, &mut searched);
        search(&machine.home, canary, &mut found, &mut searched);
        let seen = controller.until("all", |seen| Some(format!("{:?} {:?}", seen.events, seen.output))).await;
        assert!(!seen.contains(canary), "told to the controller");
        let logged = log.lock().expect("no test panicked").clone();
        assert!(logged.len() > 1000 && !holds(&logged, canary), "logged");
    }
    assert!(searched > 20, "{searched}");
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn a_set_up_runs_once_in_a_new_worktree_before_claude() {
    let (controller, machine, policy) = farm().await;
    let policy = ProjectPolicy {
        setup_command: "echo one >> ran; env > environment; cat; echo it is set up".to_owned(),
        ..policy
    };
    let start = order("setup-abcdef", "say x", &policy);
    controller.start_session(&start).await;
    assert_eq!(end(&controller, &start).await.0, EndReason::TurnCompleted);
    let next =
        StartSession { attempt: 2, resume: true, inputs: vec![message(2, "say two")], ..start.clone() };
    controller.start_session(&next).await;
    assert_eq!(end(&controller, &next).await.0, EndReason::TurnCompleted);
    let place = machine.state.join("worktrees/setup-abcdef");
    assert_eq!(fs::read_to_string(place.join("ran")).expect("there"), "one\n");
    let environment = fs::read_to_string(place.join("environment")).expect("there");
    assert!(!environment.contains("CARGO") && environment.contains("MUSTER_SESSION="), "{environment}");
    let log = fs::read_to_string(machine.attempt_dir(&start).join("stderr.log")).expect("there");
    assert!(log.contains("it is set up"), "{log}");
}

/// Whether a process still runs.
fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// Starts a tool that daemonises and ignores what it can, notes it, and does not end.
const STUBBORN: &str =
    "trap '' TERM HUP; (setsid sleep 600 & echo $! > pid; mv pid tool); while :; do sleep 600; done";

#[tokio::test]
async fn a_set_up_that_takes_too_long_is_ended_with_all_it_started_and_tried_again_by_the_next_attempt() {
    let (controller, machine, policy) = farm().await;
    let policy = ProjectPolicy {
        setup_command: format!("test -e again || {{ {STUBBORN}; }}"),
        setup_timeout_seconds: 2,
        ..policy
    };
    let start = order("slow-abcdef", "say x", &policy);
    controller.start_session(&start).await;
    let (reason, text) = end(&controller, &start).await;
    assert!(reason == EndReason::SetupFailed && text.contains("longer than 2 s"), "{text}");
    let place = machine.state.join("worktrees/slow-abcdef");
    assert!(!alive(&fs::read_to_string(place.join("tool")).expect("there")));
    fs::write(place.join("again"), "").expect("written");
    let next = StartSession { attempt: 2, inputs: vec![message(1, "say x")], ..start };
    controller.start_session(&next).await;
    assert_eq!(end(&controller, &next).await.0, EndReason::TurnCompleted);
}

#[tokio::test]
async fn a_stop_ends_a_set_up_and_a_worker_that_comes_back_finds_it() {
    let (controller, mut machine, policy) = farm().await;
    let policy = ProjectPolicy { setup_command: STUBBORN.to_owned(), ..policy };
    let start = order("stopped-abcdef", "say x", &policy);
    controller.start_session(&start).await;
    let tool = machine.state.join("worktrees/stopped-abcdef/tool");
    there(&tool).await;
    let pid = fs::read_to_string(&tool).expect("there");
    machine.kill();
    assert!(alive(&pid), "it goes on without a worker");
    controller.seen.lock().expect("no test panicked").hellos.clear();
    machine.start().await;
    controller.until("it is back", |seen| (!seen.hellos.is_empty()).then_some(())).await;
    controller.stop(&start).await;
    assert_eq!(end(&controller, &start).await.0, EndReason::Stopped);
    until("it is gone", || !alive(&pid)).await;
    assert!(!machine.home.join("argv.log").exists(), "claude never ran");
}

#[tokio::test]
async fn files_that_git_does_not_have_are_copied_and_never_through_a_link() {
    let (controller, machine, policy) = farm().await;
    let repo = &machine.repo;
    let outside = machine.home.join("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("secret.env"), "no").expect("written");
    fs::write(repo.join(".gitignore"), ".env\n/local/\n").expect("written");
    fs::write(repo.join(".worktreeinclude"), "*.env\n!not.env\n").expect("written");
    git(repo, &["add", "."]);
    git(repo, &["commit", "-q", "-m", "ignores"]);
    fs::create_dir_all(repo.join("local/deep")).expect("made");
    for (name, text) in [
        (".env", "A=1"),
        ("local/deep/x.env", "B=2"),
        ("not.env", "C=3"),
        ("local/settings.json", "{}"),
        ("other.txt", "no"),
        ("a.txt", "changed and tracked"),
    ] {
        fs::write(repo.join(name), text).expect("written");
    }
    std::os::unix::fs::symlink(&outside, repo.join("linked")).expect("linked");
    std::os::unix::fs::symlink(outside.join("secret.env"), repo.join("link.env")).expect("linked");
    let policy = ProjectPolicy {
        copy_files: vec!["/local/settings.json".to_owned(), "a.txt".to_owned(), "--output=x".to_owned()],
        ..policy
    };
    let start = order("copies-abcdef", "say x", &policy);
    controller.start_session(&start).await;
    assert_eq!(end(&controller, &start).await.0, EndReason::TurnCompleted);
    let place = machine.state.join("worktrees/copies-abcdef");
    let read = |name: &str| fs::read_to_string(place.join(name)).ok();
    assert_eq!(read(".env").as_deref(), Some("A=1"));
    assert_eq!(read("local/deep/x.env").as_deref(), Some("B=2"));
    assert_eq!(read("local/settings.json").as_deref(), Some("{}"));
    assert_eq!(read("a.txt").as_deref(), Some("one\n"), "what git has is git's");
    for name in ["not.env", "other.txt", "linked", "link.env", "linked/secret.env"] {
        assert!(place.join(name).symlink_metadata().is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_workspace_is_kept_as_long_as_the_policy_says() {
    let (controller, mut machine, policy) = farm().await;
    let kept = order("kept-abcdef", "say x", &policy);
    let short = order("short-abcdef", "say x", &ProjectPolicy { keep_workspace_days: 1, ..policy });
    for start in [&kept, &short] {
        controller.start_session(start).await;
        assert_eq!(end(&controller, start).await.0, EndReason::TurnCompleted);
    }
    machine.leave().await;
    machine.config.timing.reap_every = Duration::from_millis(50);
    machine.start().await;
    // Whatever writes a record late makes it young again.
    until("the short one is released", || {
        for start in [&kept, &short] {
            let record = machine.state.join("sessions").join(&start.session_id).join("session.json");
            let past = std::time::SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
            fs::File::options().append(true).open(record).expect("there").set_modified(past).expect("set");
        }
        !machine.state.join("worktrees/short-abcdef").exists()
    })
    .await;
    assert!(machine.state.join("worktrees/kept-abcdef").exists());
}
