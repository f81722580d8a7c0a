//! `muster attention` and `muster attach`: what is asked, and what is typed back.

use std::{
    io::{Read as _, Write as _},
    process::{ChildStdout, Stdio},
    sync::{Arc, Mutex},
};

use muster_proto::v1::{
    Attention, AttentionReason, Decision, InputAsk, PermissionAsk, Question, SessionStatus, attention::Ask,
    send_input_request::Input,
};

use crate::{
    fake_controller::{Controller, HANDLE},
    process::{Role, User, eventually},
};

const OUTPUT: &str = "{\"type\":\"assistant\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"I look at the login page\"}]}}\n";

/// What a command has printed so far.
struct Screen(Arc<Mutex<String>>);

impl Screen {
    fn of(mut stdout: ChildStdout) -> Self {
        let seen = Arc::new(Mutex::new(String::new()));
        let screen = Self(Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                seen.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        screen
    }

    /// Waits for a text after `from`; gives where it ends.
    fn until(&self, from: usize, text: &str) -> usize {
        eventually(text, || {
            let seen = self.0.lock().expect("not poisoned");
            seen[from..].find(text).map(|at| from + at + text.len())
        })
    }
}

fn ask(controller: &Controller, id: &str, ask: Ask) {
    let mut state = controller.state();
    let mut attention = Attention { attention_id: id.into(), ask: Some(ask), ..Attention::default() };
    attention.set_reason(AttentionReason::Permission);
    state.session.attention = Some(attention);
    state.session.open_attentions = 1;
    state.session.end = None;
    state.session.set_status(SessionStatus::NeedsAttention);
    state.session.revision += 1;
}

fn permission() -> Ask {
    let summary = "rm -rf build".into();
    Ask::Permission(PermissionAsk { tool_name: "Bash".into(), summary, ..PermissionAsk::default() })
}

#[test]
fn what_waits_is_listed_as_columns_and_documents() {
    let (controller, user) = (Controller::start(), User::new());
    let address = controller.address.to_string();
    let run = |args: &[&str]| user.run(&[&["attention", "--controller", &address], args].concat());
    assert_eq!(run(&[]).stdout, "");
    assert_eq!(run(&["--json"]).json(), serde_json::json!([]));
    ask(&controller, "a7", permission());
    assert_eq!(run(&[]).stdout, format!("{HANDLE}\ta7\tpermission\t\tmay use Bash: rm -rf build\n"));
    let documents = run(&["--json"]).json();
    assert_eq!(
        (&documents[0]["sessionId"], &documents[0]["tool"]),
        (&HANDLE.into(), &"Bash".into()),
        "{documents}"
    );
}

#[test]
fn an_attached_session_is_seen_answered_messaged_interrupted_and_left_running() {
    let (controller, user) = (Controller::start(), User::new());
    controller.state().output = OUTPUT.into();
    controller.state().session.output_end_offset = OUTPUT.len() as u64;
    ask(&controller, "a7", permission());
    let address = controller.address.to_string();
    let mut command = user.command(&["attach", "fix-", "--controller", &address]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let screen = Screen::of(child.stdout.take().expect("stdout"));
    let mut role = Role::new(child, user.path("none"));
    let mut at = 0;
    let mut until = |text: &str| at = screen.until(at, text);
    until("I look at the login page");
    until("may it use Bash?");
    until("/allow or /deny");
    writeln!(stdin, "yes").expect("typed");
    until("a question is open");
    writeln!(stdin, "/deny use the other folder").expect("typed");
    until("(sent)");
    let question = Question { question: "Which colour?".into(), ..Question::default() };
    ask(&controller, "a9", Ask::Input(InputAsk { questions: vec![question], ..InputAsk::default() }));
    until("Which colour?");
    writeln!(stdin, "blue").expect("typed");
    until("(sent)");
    writeln!(stdin, "now add a test").expect("typed");
    until("(sent)");
    writeln!(stdin, "/interrupt").expect("typed");
    until("(sent)");
    assert!(role.runs());
    drop(stdin);
    assert_eq!(role.wait(), 0);
    let inputs = controller.state().inputs.clone();
    let [Input::Answer(no), Input::Answer(blue), Input::Message(message), Input::Interrupt(true)] =
        &inputs[..]
    else {
        panic!("{inputs:?}")
    };
    assert_eq!(
        (no.attention_id.as_str(), no.decision(), no.text.as_str()),
        ("a7", Decision::Deny, "use the other folder")
    );
    assert_eq!((blue.attention_id.as_str(), blue.answers["Which colour?"].as_str()), ("a9", "blue"));
    assert_eq!(message, "now add a test");
    assert_eq!(controller.state().session.status(), SessionStatus::Working, "left running");
}

#[test]
fn ctrl_c_detaches_and_a_read_only_desk_sends_nothing() {
    let (controller, user) = (Controller::start(), User::new());
    ask(&controller, "a7", permission());
    let address = controller.address.to_string();
    let mut command = user.command(&["attach", HANDLE, "--read-only", "--controller", &address]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("stdin");
    writeln!(stdin, "/allow").expect("typed");
    drop(stdin);
    let screen = Screen::of(child.stdout.take().expect("stdout"));
    let role = Role::new(child, user.path("none"));
    screen.until(0, "/allow or /deny");
    role.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(role.wait(), 0);
    assert!(controller.state().inputs.is_empty());
    assert!(controller.state().session.attention.is_some());
}
