//! `muster top` in a real terminal: tmux draws it, and its keys answer and attach.

use std::process::Command;

use muster_proto::v1::{
    Attention, Decision, PermissionAsk, SessionStatus, attention::Ask, send_input_request::Input,
};

use crate::{
    fake_controller::{Controller, HANDLE},
    process::{User, eventually},
};

/// A tmux server of its own, which goes with the test.
struct Tmux {
    socket: String,
}

impl Tmux {
    fn run(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-S", &self.socket, "-f", "/dev/null"])
            .args(args)
            .env("TERM", "xterm-256color")
            .env_remove("TMUX")
            .output()
            .expect("tmux runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen_until(&self, what: &str) -> String {
        eventually(what, || Some(self.run(&["capture-pane", "-p"])).filter(|screen| screen.contains(what)))
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn in_a_real_terminal_a_question_is_seen_answered_and_a_session_attached_to() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("NOT RUN: `muster top` in a real terminal, because there is no tmux. Install tmux.");
        return;
    }
    let (controller, user) = (Controller::start(), User::new());
    {
        let mut state = controller.state();
        let ask =
            PermissionAsk { tool_name: "Bash".into(), summary: "make".into(), ..PermissionAsk::default() };
        state.session.attention = Some(Attention {
            attention_id: "a7".into(),
            ask: Some(Ask::Permission(ask)),
            ..Attention::default()
        });
        state.session.set_status(SessionStatus::NeedsAttention);
    }
    let tmux = Tmux { socket: user.path("tmux").to_str().expect("UTF-8").to_owned() };
    let home = user.path("");
    let line = format!(
        "env -i PATH=/usr/bin:/bin HOME={} TERM=xterm-256color {} top --controller {}; echo left; sleep 600",
        home.display(),
        env!("CARGO_BIN_EXE_muster"),
        controller.address,
    );
    tmux.run(&["new-session", "-d", "-x", "110", "-y", "32", &line]);
    let screen = tmux.screen_until("may it use Bash?");
    assert!(screen.contains(HANDLE) && screen.contains("needs_attention"), "{screen}");
    tmux.run(&["send-keys", "a"]);
    tmux.screen_until("answered");
    assert!(matches!(
        &controller.state().inputs[..],
        [Input::Answer(answer)] if answer.decision() == Decision::Allow && answer.attention_id == "a7"
    ));
    tmux.screen_until("working");
    tmux.run(&["send-keys", "Enter"]);
    tmux.screen_until("type a message");
    tmux.run(&["send-keys", "-l", "and a test"]);
    tmux.run(&["send-keys", "Enter"]);
    tmux.screen_until("(sent)");
    tmux.run(&["send-keys", "C-c"]);
    tmux.screen_until("Enter attach");
    assert!(matches!(controller.state().inputs.last(), Some(Input::Message(text)) if text == "and a test"));
    tmux.run(&["send-keys", "q"]);
    let screen = tmux.screen_until("left");
    assert!(!screen.contains("Enter attach"), "the screen is given back: {screen}");
}
