//! Stands for claude in the tests of this crate: the same protocol, the turns scripted by the words of each message.
//!
//! ```text
//! say TEXT        a result with TEXT          fail N      a result with is_error and api_error_status N
//! permission CMD  asks, says how it went      question    asks, says the answers
//! plan            asks, says the verdict      tool        runs `sleep 600` in a session of its own until interrupted
//! exit N          leaves without a result     silent      says nothing more
//! linger          result, idle, and does not leave at the end of stdin (SIGTERM is held back)
//! noise N         N bytes of lines before the result
//! write FILE      makes FILE, says its name
//! hide            starts a tool that has nothing of ours about it, waits for ever
//! lengths NAMES   says how long the values of these variables are
//! transcript      writes its conversation down, and a result of a tool
//! litter          leaves a socket and a file in its temporary folder, says the folder
//! ```

use std::{
    env, fs,
    io::{self, BufRead as _, BufWriter, Write as _},
    path::Path,
    process::{self, Command},
    thread,
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};
use uuid::Uuid;

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--version") {
        writeln!(io::stdout(), "9.9.9 (scripted)").expect("stdout takes it");
        return;
    }
    let home = env::var("HOME").expect("a HOME");
    let mut log = fs::OpenOptions::new().create(true).append(true).open(Path::new(&home).join("argv.log"));
    let line = format!("{}\n", json!(args));
    log.as_mut().expect("the log opens").write_all(line.as_bytes()).expect("the log takes it");
    let option = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='));
    let session = option("--session-id").or_else(|| option("--resume")).expect("a session id").to_owned();
    let mode = option("--permission-mode").unwrap_or("bypassPermissions");
    // As one that was killed before it wrote its conversation down.
    if option("--resume").is_some() && Path::new(&home).join("forgets").exists() {
        let text = format!("No conversation found with session ID: {session}");
        let agent = Agent { session, turns: 0, last_error: true };
        agent.emit(json!({"type": "result", "subtype": "error_during_execution", "is_error": true,
            "num_turns": 0, "errors": [text], "usage": {"input_tokens": 0, "output_tokens": 0}}));
        process::exit(1);
    }
    let mut agent = Agent { session, turns: 0, last_error: false };
    while let Some(line) = read() {
        match line["type"].as_str() {
            Some("control_request") => agent.acknowledge(&line),
            Some("user") => {
                agent.state("running");
                agent.emit(json!({"type": "system", "subtype": "init", "claude_code_version": "9.9.9",
                    "permissionMode": mode}));
                agent.emit(json!({"type": "user", "message": line["message"], "uuid": line["uuid"],
                    "isReplay": true}));
                agent.turn(line["message"]["content"].as_str().expect("text"));
                agent.state("idle");
            }
            _ => {}
        }
    }
    process::exit(i32::from(agent.last_error));
}

/// The next line of stdin; none at its end.
fn read() -> Option<Value> {
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line).expect("stdin is readable");
    (read > 0).then(|| serde_json::from_str(&line).expect("a line is JSON"))
}

fn sleep() {
    thread::sleep(Duration::from_secs(600));
}

struct Agent {
    session: String,
    turns: u32,
    last_error: bool,
}

impl Agent {
    fn emit(&self, mut event: Value) {
        event["session_id"] = json!(self.session);
        let mut out = io::stdout().lock();
        out.write_all(format!("{event}\n").as_bytes()).and_then(|()| out.flush()).expect("stdout takes it");
    }

    fn state(&self, name: &str) {
        self.emit(json!({"type": "system", "subtype": "session_state_changed", "state": name}));
    }

    fn acknowledge(&self, request: &Value) {
        let response = json!({"subtype": "success", "request_id": request["request_id"]});
        self.emit(json!({"type": "control_response", "response": response}));
    }

    fn say(&mut self, text: &str) {
        self.result("success", false, &Value::Null, &json!(text));
    }

    fn interrupted(&mut self) {
        self.result("error_during_execution", true, &Value::Null, &Value::Null);
    }

    fn result(&mut self, subtype: &str, error: bool, status: &Value, text: &Value) {
        self.turns += 1;
        self.last_error = error;
        self.emit(
            json!({"type": "result", "subtype": subtype, "is_error": error, "api_error_status": status,
            "result": text, "total_cost_usd": 0.25 * f64::from(self.turns),
            "modelUsage": {"m": {"inputTokens": 10 * self.turns, "outputTokens": 5 * self.turns}}}),
        );
    }

    fn uses(&self, id: &str, command: &str) {
        let content = json!([{"type": "tool_use", "id": id, "name": "Bash", "input": {"command": command}}]);
        self.emit(json!({"type": "assistant", "message": {"content": content}}));
    }

    /// Asks and waits; none when interrupted.
    fn ask(&self, request: &Value) -> Option<Value> {
        let id = Uuid::new_v4().to_string();
        self.state("requires_action");
        self.emit(json!({"type": "control_request", "request_id": id, "request": request}));
        loop {
            let Some(line) = read() else {
                return Some(json!({"behavior": "deny", "message": "stream closed"}));
            };
            if line["type"] == "control_response" && line["response"]["request_id"] == id {
                self.state("running");
                let response = line["response"]["response"].clone();
                self.emit(line);
                return Some(response);
            }
            if line["type"] == "control_request" {
                self.emit(json!({"type": "control_cancel_request", "request_id": id}));
                self.acknowledge(&line);
                return None;
            }
        }
    }

    /// Asks, and ends the turn with what `says` makes of the answer.
    fn ask_and_say(&mut self, request: &Value, says: impl FnOnce(&Value) -> String) {
        match self.ask(request) {
            Some(got) => self.say(&says(&got)),
            None => self.interrupted(),
        }
    }

    fn turn(&mut self, text: &str) {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "permission" => self.permission(rest),
            "question" => self.question(),
            "plan" => {
                let request =
                    json!({"subtype": "can_use_tool", "tool_name": "ExitPlanMode", "input": {"plan": "# P"}});
                self.ask_and_say(&request, |got| {
                    let message = got["message"].as_str().filter(|message| !message.is_empty());
                    message.or(got["behavior"].as_str()).expect("a verdict").to_owned()
                });
            }
            "tool" => self.tool(rest == "stubborn"),
            "fail" => {
                let status: u16 = rest.parse().expect("a status");
                self.result("success", true, &json!(status), &json!(format!("API Error: {status}")));
            }
            "exit" => {
                writeln!(io::stderr(), "going down").expect("stderr takes it");
                process::exit(rest.parse().expect("an exit code"));
            }
            "silent" => {
                sleep();
                self.say(rest);
            }
            "linger" => self.linger(),
            "noise" => {
                noise(rest.parse().expect("a number of bytes"));
                self.say("noisy");
            }
            "write" => {
                fs::write(rest, "written\n").expect("written");
                self.say(rest);
            }
            "lengths" => {
                let length = |name: &str| format!("{name}={}", env::var(name).map_or(0, |value| value.len()));
                self.say(&rest.split(' ').map(length).collect::<Vec<_>>().join(" "));
            }
            "hide" => hide(),
            "transcript" => {
                let home = env::var("HOME").expect("a HOME");
                let project = Path::new(&home).join(".claude/projects/-some-directory");
                let results = project.join(&self.session).join("tool-results");
                fs::create_dir_all(&results).expect("created");
                fs::write(results.join("t1.txt"), "much").expect("written");
                fs::write(project.join(format!("{}.jsonl", self.session)), "{}\n").expect("written");
                self.say(rest);
            }
            "litter" => {
                let folder = env::var("CLAUDE_CODE_TMPDIR").expect("a folder of its own");
                let sockets = Path::new(&folder).join("cc-socks");
                fs::create_dir(&sockets).expect("it is writable");
                let path = sockets.join(format!("{}.sock", process::id()));
                std::os::unix::net::UnixListener::bind(path).expect("its path is short enough");
                self.say(&folder);
            }
            _ => self.say(rest),
        }
    }

    fn permission(&mut self, command: &str) {
        self.uses("t1", command);
        let got = self.ask(&json!({"subtype": "can_use_tool", "tool_name": "Bash",
            "input": {"command": command}, "tool_use_id": "t1",
            "permission_suggestions": [{"type": "addRules", "destination": "localSettings"}]}));
        let content = json!([{"type": "tool_result", "tool_use_id": "t1"}]);
        self.emit(json!({"type": "user", "message": {"content": content}}));
        match got {
            Some(got) => self.say(&got.to_string()),
            None => self.interrupted(),
        }
    }

    fn question(&mut self) {
        let question = json!({"question": "Which DB?", "header": "DB",
            "options": [{"label": "P"}, {"label": "S"}], "multiSelect": false});
        let request = json!({"subtype": "can_use_tool", "tool_name": "AskUserQuestion",
            "input": {"questions": [question]}});
        self.ask_and_say(&request, |got| {
            let input = got.get("updatedInput").unwrap_or(got);
            input.get("answers").unwrap_or(got).to_string()
        });
    }

    /// `setsid` becomes the sleep itself, so the child's id is the tool's.
    fn tool(&mut self, stubborn: bool) {
        self.uses("t2", "sleep");
        let mut tool = Command::new("setsid").args(["sleep", "600"]).spawn().expect("the tool starts");
        fs::write("tool.pid", tool.id().to_string()).expect("written");
        fs::rename("tool.pid", "tool").expect("renamed");
        let Some(line) = read().filter(|line| line["type"] == "control_request") else { process::exit(0) };
        self.acknowledge(&line);
        if !stubborn {
            tool.kill().expect("killed");
            tool.wait().expect("it ends");
        }
        self.interrupted();
    }

    fn linger(&mut self) {
        // The only thread: what it holds back, the process does not get.
        SigSet::from(Signal::SIGTERM).thread_block().expect("held back");
        self.say("lingering");
        self.state("idle");
        loop {
            sleep();
        }
    }
}

/// A daemon in a session of its own, with an empty environment, that ignores what it can.
fn hide() {
    let daemon = "trap '' TERM HUP INT; echo $$ >hidden.tmp; mv hidden.tmp hidden; sleep 600; sleep 600";
    let starts = "exec setsid sh -c 'sh -c \"$1\" & ' sh \"$1\" <&- >&- 2>&-";
    let path = env::var("PATH").expect("a PATH");
    let mut tool = Command::new("/bin/sh");
    tool.args(["-c", starts, "sh", daemon]).env_clear().env("PATH", path);
    tool.status().expect("the tool starts");
    sleep();
}

fn noise(bytes: usize) {
    let line = format!("{{\"type\":\"noise\",\"x\":\"{}\"}}\n", "y".repeat(1000));
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    for _ in 0..bytes.div_ceil(line.len()) {
        out.write_all(line.as_bytes()).expect("stdout takes it");
    }
    out.flush().expect("stdout takes it");
}
