//! `make demo`: a farm on this machine and three real Claude Code sessions side by side, driven over MCP.
//!
//! Everything it makes lies in `.demo/`, which it empties first; it leaves no process. Its exit code is 0
//! only if every step did what it says. The offline model costs nothing and needs no network; `--model real`
//! asks the real one with the login of the user (or `ANTHROPIC_API_KEY`) and takes what it does as it comes.

mod narrator;
mod story;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use muster_harness::{
    fleet::{Claude, Gateway, TestFleet},
    scratch_repo::ScratchRepo,
};
use narrator::Narrator;
use serde_json::{Value, json};
use story::Story;

/// A demo that takes longer has failed.
const OFFLINE_LIMIT: Duration = Duration::from_secs(100);
const REAL_LIMIT: Duration = Duration::from_secs(600);
/// Answers before a session is given up: a real model may ask more than once.
const MOST_ANSWERS: usize = 30;

struct Options {
    offline: bool,
    claude: PathBuf,
    muster: Option<PathBuf>,
    folder: PathBuf,
}

/// A session as the demo follows it.
struct Follow {
    story: Story,
    session: String,
    asked: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut narrator = Narrator::new();
    let outcome = tokio::select! {
        outcome = run(&mut narrator) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Err(error) = outcome {
        narrator.say(&format!("the demo failed: {error:#}"));
        return ExitCode::FAILURE;
    }
    match narrator.problems() {
        [] => {
            narrator.say("every step did what it says; nothing is left running");
            ExitCode::SUCCESS
        }
        problems => {
            narrator.say(&format!("the demo failed: {}", problems.join("; ")));
            ExitCode::FAILURE
        }
    }
}

async fn run(narrator: &mut Narrator) -> anyhow::Result<()> {
    let options = options()?;
    if options.folder.exists() {
        fs::remove_dir_all(&options.folder)
            .with_context(|| format!("emptying {}", options.folder.display()))?;
    }
    let fleet = start(&options, narrator).await?;
    let limit = if options.offline { OFFLINE_LIMIT } else { REAL_LIMIT };
    let played = tokio::time::timeout(limit, play(&fleet, options.offline, narrator)).await;
    let repo = fleet.repo().clone();
    let logs = fleet.folder().join("logs");
    let left = fleet.end();
    narrator.expect(left.is_ok(), &format!("no process should be left: {left:?}"));
    let sessions = played
        .map_err(|_| anyhow::anyhow!("not done within {limit:?}"))
        .and_then(|played| played)
        .with_context(|| format!("logs are in {}", logs.display()))?;
    show(&sessions, &repo, options.offline, narrator)
}

fn options() -> anyhow::Result<Options> {
    let mut options =
        Options { offline: true, claude: PathBuf::new(), muster: None, folder: PathBuf::from(".demo/farm") };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match (flag.as_str(), value.as_str()) {
            ("--model", "offline") => options.offline = true,
            ("--model", "real") => options.offline = false,
            ("--model", _) => bail!("--model takes offline or real"),
            ("--claude", path) => options.claude = PathBuf::from(path),
            ("--muster", path) => options.muster = Some(PathBuf::from(path)),
            ("--folder", path) => options.folder = PathBuf::from(path),
            _ => bail!("unknown option {flag}; there are --model, --claude, --muster and --folder"),
        }
    }
    if options.claude.as_os_str().is_empty() {
        options.claude = Claude::Latest.program()?;
    }
    options.claude = options.claude.canonicalize().with_context(|| options.claude.display().to_string())?;
    Ok(options)
}

async fn start(options: &Options, narrator: &Narrator) -> anyhow::Result<TestFleet> {
    let mut builder =
        TestFleet::builder().folder(&options.folder).claude(Claude::At(options.claude.clone())).slots(4);
    if let Some(muster) = &options.muster {
        builder = builder.muster(muster);
    }
    if !options.offline {
        let home = std::env::var_os("HOME").context("HOME is not set: the real model needs a login")?;
        builder = builder.real_model(home);
    }
    let fleet = builder.start().await?;
    let workers = fleet.worker_list().await?;
    let claude =
        workers.first().and_then(|worker| worker["claudeVersion"].as_str()).unwrap_or("?").to_owned();
    let model = if options.offline { "the offline Messages API" } else { "the real model" };
    narrator.say(&format!("controller at {}, one worker, claude {claude}, {model}", fleet.controller_url()));
    Ok(fleet)
}

async fn play(fleet: &TestFleet, offline: bool, narrator: &mut Narrator) -> anyhow::Result<Vec<Value>> {
    let gateway = fleet.gateway().await?;
    let tools = gateway.tools().await?;
    narrator.say(&format!("MCP client connected over stdio: {} tools", tools.len()));
    narrator.expect(tools.len() == 11, "the gateway should have eleven tools");

    let mut follows = Vec::new();
    for story in story::stories() {
        let spawned = gateway.ok("spawn_session", story.spawn(offline)).await?;
        let session = text(&spawned, "sessionId");
        narrator.say(&format!("spawn_session      {session}: {}", text(&spawned, "status")));
        follows.push(Follow { story, session, asked: Vec::new() });
    }
    answer_until_ended(&gateway, &mut follows, narrator).await?;
    for follow in &follows {
        let asked = follow.asked.iter().any(|reason| reason == follow.story.asks);
        narrator.expect(asked, &format!("{} should have asked for {}", follow.session, follow.story.asks));
        let output = json!({ "sessionId": follow.session, "format": "result" });
        let output = gateway.ok("get_session_output", output).await?;
        let said = text(&output, "text");
        narrator.say(&format!("get_session_output {}: {}", follow.session, one_line(&said)));
        narrator.expect(!said.is_empty(), &format!("{} should have a result", follow.session));
    }
    send_follow_up(&gateway, &follows[0], offline, narrator).await?;
    archive(&gateway, &follows, narrator).await
}

/// Waits for whichever session needs somebody, answers, and goes on until all have ended.
async fn answer_until_ended(
    gateway: &Gateway,
    follows: &mut [Follow],
    narrator: &mut Narrator,
) -> anyhow::Result<()> {
    let mut open: Vec<String> = follows.iter().map(|follow| follow.session.clone()).collect();
    for _ in 0..MOST_ANSWERS {
        if open.is_empty() {
            return Ok(());
        }
        let waited = gateway
            .ok("wait_for_completion", json!({ "sessionIds": open, "mode": "any", "timeoutSeconds": 600 }))
            .await?;
        for session in waited["ready"].as_array().into_iter().flatten() {
            let name = text(session, "sessionId");
            let attention = &session["attention"];
            if !attention.is_object() {
                narrator.say(&format!("ended              {name}: {}", text(session, "status")));
                narrator.expect(
                    session["status"] == "completed",
                    &format!("{name} should be completed: {session}"),
                );
                open.retain(|open| *open != name);
                continue;
            }
            narrator.say(&format!("needs attention    {name}: {}", shown(attention)));
            narrator.expect(!shown(attention).ends_with(": "), &format!("{name} should say what it asks"));
            if let Some(follow) = follows.iter_mut().find(|follow| follow.session == name) {
                follow.asked.push(text(attention, "reason"));
            }
            let (mut answer, said) = story::answer(attention);
            answer["sessionId"] = Value::from(name.as_str());
            answer["attentionId"] = attention["attentionId"].clone();
            gateway.ok("send_input", answer).await?;
            narrator.say(&format!("send_input         {name}: {said}"));
        }
    }
    bail!("{open:?} still asked after {MOST_ANSWERS} rounds")
}

async fn send_follow_up(
    gateway: &Gateway,
    follow: &Follow,
    offline: bool,
    narrator: &mut Narrator,
) -> anyhow::Result<()> {
    let session = follow.session.as_str();
    gateway.ok("send_input", json!({ "sessionId": session, "text": story::follow_up(offline) })).await?;
    narrator.say(&format!("send_input         {session}: the next message, claude is resumed"));
    let waited =
        gateway.ok("wait_for_completion", json!({ "sessionId": session, "timeoutSeconds": 600 })).await?;
    let status = text(&waited["ready"][0], "status");
    narrator.expect(status == "completed", &format!("{session} should be completed again, and is {status}"));
    let output = json!({ "sessionId": session, "format": "result" });
    let said = text(&gateway.ok("get_session_output", output).await?, "text");
    narrator.say(&format!("get_session_output {session}: {}", one_line(&said)));
    narrator.expect(said.contains("today"), &format!("{session} should say where the note is"));
    Ok(())
}

/// Archives all. Gives each session as it then is.
async fn archive(
    gateway: &Gateway,
    follows: &[Follow],
    narrator: &mut Narrator,
) -> anyhow::Result<Vec<Value>> {
    let mut sessions = Vec::new();
    for follow in follows {
        let archived = gateway.ok("archive_session", json!({ "sessionId": follow.session })).await?;
        let kept = archived["workspace"]["keptRef"].as_str();
        let kept = kept.map_or(String::new(), |kept| format!(", uncommitted work kept in {kept}"));
        narrator.say(&format!("archive_session    {}: worktree removed{kept}", follow.session));
        sessions.push(gateway.ok("get_session_status", json!({ "sessionId": follow.session })).await?);
    }
    let path = |session: &Value| session["workspace"]["path"].as_str().map(|path| Path::new(path).exists());
    narrator.expect(
        sessions.iter().all(|session| path(session) == Some(false)),
        "the worktrees of archived sessions should be gone",
    );
    Ok(sessions)
}

fn show(
    sessions: &[Value],
    repo: &ScratchRepo,
    offline: bool,
    narrator: &mut Narrator,
) -> anyhow::Result<()> {
    let heading =
        ["SESSION", "STATUS", "TURNS", "COST", "BRANCH", "FILES CHANGED"].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    let mut diffs = Vec::new();
    for session in sessions {
        let branch =
            session["branch"].as_str().or(session["workspace"]["branch"].as_str()).unwrap_or_default();
        let work = session["workspace"]["keptRef"].as_str().unwrap_or(branch);
        let files = repo.git(&["diff", "--name-only", &format!("main...{work}")])?;
        narrator
            .expect(!files.is_empty(), &format!("{} should have changed a file", text(session, "sessionId")));
        rows.push(vec![
            text(session, "sessionId"),
            text(session, "status"),
            session["turns"].to_string(),
            format!("${:.4}", session["costUsd"].as_f64().unwrap_or(0.0)),
            branch.to_owned(),
            files.replace('\n', " "),
        ]);
        diffs.push((work.to_owned(), repo.diff_of(work)?));
    }
    narrator.plain("");
    narrator.table(&rows);
    for (work, diff) in &diffs {
        narrator.plain(&format!("\n$ git diff main...{work}\n{diff}"));
    }
    narrator.plain("");
    let quick = !offline || narrator.elapsed() < Duration::from_secs(60);
    narrator.expect(quick, "the demo should take less than a minute");
    Ok(())
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// What a session asks, in one line.
fn shown(attention: &Value) -> String {
    let reason = text(attention, "reason");
    let asked = match reason.as_str() {
        "input" => text(&attention["questions"][0], "question"),
        "plan_approval" => text(attention, "plan"),
        _ => format!("{} {}", text(attention, "tool"), text(attention, "summary")),
    };
    format!("{reason}: {}", one_line(&asked))
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(90) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
